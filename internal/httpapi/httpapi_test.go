package httpapi_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/regent-infra/regent/internal/clock"
	"github.com/regent-infra/regent/internal/event"
	"github.com/regent-infra/regent/internal/httpapi"
	"github.com/regent-infra/regent/internal/httpapi/httpapitest"
	"github.com/regent-infra/regent/internal/stream"
	"github.com/regent-infra/regent/internal/telemetry"
	"github.com/regent-infra/regent/internal/topics"
	"github.com/regent-infra/regent/schemas"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// serve runs a server over a view and returns its address.
func serve(t *testing.T, view httpapi.View, processors httpapi.Processors) string {
	t.Helper()
	ln, err := httpapi.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := httpapi.New(ln, httpapi.Config{
		Info: httpapi.Info{Version: "v1", Brokers: []string{"127.0.0.1:9092"}, Roles: []string{"api"}}, View: view, Processors: processors,
		Set: topics.Default(), Metrics: telemetry.NewRegistry(telemetry.Build{Version: "v1"}), Logger: slog.New(slog.DiscardHandler), Clock: clock.System{},
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx, func() {}) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		http.DefaultClient.CloseIdleConnections()
	})
	return s.URL()
}

func get(t *testing.T, url string) (int, string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	return do(t, request)
}

func do(t *testing.T, request *http.Request) (int, string) {
	t.Helper()
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }() // nothing is left to be lost
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(body)
}

func decode[T any](t *testing.T, url string) T {
	t.Helper()
	status, body := get(t, url)
	var v T
	if err := json.Unmarshal([]byte(body), &v); err != nil || status != http.StatusOK {
		t.Fatalf("%s: %d, %v: %s", url, status, err, body)
	}
	return v
}

func TestStatusSaysWhatWhySinceWhenAndWhoActs(t *testing.T) {
	t.Parallel()
	url := serve(t, httpapitest.Fleet(), httpapitest.Running())
	s := decode[httpapi.Status](t, url+"/v1/status")
	if s.Health != schemas.HealthDown || s.Clusters[schemas.HealthHealthy] != 1 || s.Clusters[schemas.HealthDown] != 1 || s.Nodes[schemas.HealthHealthy] != 3 {
		t.Errorf("got %+v", s)
	}
	if len(s.Problems) != 1 {
		t.Fatalf("got %+v", s.Problems)
	}
	p := s.Problems[0]
	if p.Resource != "postgres/billing" || p.Diagnosis != schemas.AnalysisCodeDeadPrimary || p.Writable || p.Needs != "" || p.WorkflowID != httpapitest.FailoverID {
		t.Errorf("got %+v", p)
	}
	if want := "failover, step fence: 1 of 2 acknowledgements of term 5 have arrived"; p.Doing != want {
		t.Errorf("doing %q, want %q", p.Doing, want)
	}
	want := []string{"the agent of primary pg-1 (term 4) reports its postgres crashed, killed by SIGKILL", "pg-2: its WAL receiver does not stream"}
	if strings.Join(p.Why, "|") != strings.Join(want, "|") {
		t.Errorf("why %q, want %q", p.Why, want)
	}
	if !p.Since.Equal(httpapitest.Now.Add(-20 * time.Second)) {
		t.Errorf("since %s", p.Since)
	}
}

// What a person has to do follows from the cluster, and is nothing while a workflow runs.
func TestWhatNeedsAPerson(t *testing.T) {
	t.Parallel()
	down := &schemas.PostgresClusterState{Health: schemas.HealthDown, Analysis: schemas.AnalysisCodeDeadPrimary}
	failed := &schemas.Workflow{
		ID: "w", Kind: schemas.WorkflowKindFailover, Status: schemas.WorkflowStatusTimedOut, FinishedAt: &httpapitest.Now,
		History: []schemas.WorkflowEvent{{Message: "no standby answered"}},
	}
	manual := &schemas.HeldDecision{Kind: schemas.WorkflowKindFailover, Code: "manual", Message: "the policy is manual"}
	for name, c := range map[string]struct {
		record   *schemas.ClusterRecord
		workflow *schemas.Workflow
		needs    string
		doing    string
	}{
		"never initialised": {nil, nil, "initialise it: regent init postgres/a", ""},
		"half initialised":  {&schemas.ClusterRecord{}, failed, "its initialisation did not succeed (no standby answered)", ""},
		"shut down":         {&schemas.ClusterRecord{Initialized: true, ShutDown: true}, nil, "regent start postgres/a", ""},
		"manual":            {&schemas.ClusterRecord{Initialized: true, Held: manual}, nil, "regent failover postgres/a", "failover is held back (manual): the policy is manual"},
		"failed":            {&schemas.ClusterRecord{Initialized: true}, failed, "the last failover failed (no standby answered); see: regent explain w", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			v := &httpapitest.View{}
			v.Add(topics.State(event.KindPostgres), "postgres/a", 1, time.Second, down)
			if c.record != nil {
				v.Add(topics.Workflows(event.KindPostgres), "postgres/a", 2, time.Second, c.record)
			}
			if c.workflow != nil {
				v.Add(topics.Workflows(event.KindPostgres), "postgres/a/workflow/w", 3, time.Second, c.workflow)
			}
			s := decode[httpapi.Status](t, serve(t, v, httpapitest.Running())+"/v1/status")
			if len(s.Problems) != 1 || !strings.Contains(s.Problems[0].Needs, c.needs) || s.Problems[0].Doing != c.doing {
				t.Errorf("got %+v", s.Problems)
			}
		})
	}
}

func TestReads(t *testing.T) {
	t.Parallel()
	url := serve(t, httpapitest.Fleet(), httpapitest.Running())
	for path, want := range map[string]string{
		"/v1/info":                                `"version":"v1"`,
		"/v1/clusters":                            `"id":"postgres/billing"`,
		"/v1/clusters/postgres/orders":            `"system_identifier":"7711238701942915096"`,
		"/v1/resources?prefix=postgres/orders/":   `"total":3`,
		"/v1/resources?type=PostgresClusterState": `"total":2`,
		"/v1/resources?limit=1":                   `"total":8`,
		"/v1/resources/postgres/orders":           `"position":{"topic":"infra.state.postgres.v1","partition":3,"offset":20}`,
		"/v1/resources/postgres/orders/node/pg-2": `"type":"PostgresNodeState"`,
		"/v1/resources/fleet":                     `"type":"FleetState"`,
		"/v1/workflows":                           `"total":2`,
		"/v1/workflows?kind=failover":             `"total":1`,
		"/v1/workflows?cluster=postgres/orders":   `"status":"SUCCEEDED"`,
		"/v1/workflows?status=failed":             `{"total":0,"workflows":[]}`,
		"/v1/workflows/" + httpapitest.FailoverID: `"cluster":"postgres/billing"`,
		"/v1/digests":                             `"sum":"ab12"`,
		"/health/live":                            `"status":"live"`,
		"/health/ready":                           `"status":"ready"`,
		"/metrics":                                `regent_build_info{`,
		"/":                                       `"/v1/watch"`,
	} {
		status, body := get(t, url+path)
		if status != http.StatusOK || !strings.Contains(body, want) {
			t.Errorf("%s: %d, want %s in %s", path, status, want, body)
		}
	}
}

func TestErrorsAreJSONThatSaysWhatWasExpected(t *testing.T) {
	t.Parallel()
	url := serve(t, httpapitest.Fleet(), &httpapitest.Processors{Failure: errors.New("store closed")})
	for path, want := range map[string][2]string{
		"/v2":                              {"404", "/v2: there is no such path"},
		"/v1/resources/Orders":             {"400", "expected kind/cluster or kind/cluster/node/name"},
		"/v1/resources/mysql/orders":       {"404", "there is no kind mysql"},
		"/v1/resources/postgres/none":      {"404", "postgres/none: there is no such resource"},
		"/v1/resources?limit=lots":         {"400", `limit \"lots\", expected a number from 1 to 10000`},
		"/v1/resources?type=Unknown":       {"400", `type \"Unknown\" is no record`},
		"/v1/clusters/postgres/none":       {"404", "postgres/none: there is no such cluster"},
		"/v1/clusters/postgres/Bad":        {"400", "parse cluster id"},
		"/v1/workflows/nope":               {"404", "workflow nope: there is none of that id"},
		"/v1/workflows?limit=0":            {"400", "expected a number from 1"},
		"/v1/watch?events=all":             {"400", "expected state, workflow"},
		"/v1/digests":                      {"500", "compute the digests: store closed"},
		"/v1/" + strings.Repeat("x", 5000): {"414", "expected at most 4096"},
	} {
		status, body := get(t, url+path)
		if http.StatusText(status) == "" || !strings.HasPrefix(body, `{"error":{"code":"`) || !strings.Contains(body, want[1]) || want[0] != strings.TrimSpace(string([]byte{byte('0' + status/100), byte('0' + status/10%10), byte('0' + status%10)})) {
			t.Errorf("%.60s: %d %s, want %s with %s", path, status, body, want[0], want[1])
		}
	}

	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url+"/v1/clusters", strings.NewReader("{}"))
	if err != nil {
		t.Fatal(err)
	}
	if status, body := do(t, request); status != http.StatusMethodNotAllowed || !strings.Contains(body, "this API only reads") {
		t.Errorf("POST: %d %s", status, body)
	}
}

func TestReadinessNamesWhatIsMissing(t *testing.T) {
	t.Parallel()
	p := httpapitest.Running()
	p.All[0].Ready, p.All[0].State, p.All[0].Error = false, stream.StateRetrying, "no broker answers"
	p.All[1].Ready, p.All[1].Tasks[0].Running = false, false
	v := httpapitest.Fleet()
	v.Trouble = errors.New("no broker answers")
	url := serve(t, v, p)
	status, body := get(t, url+"/health/ready")
	if status != http.StatusServiceUnavailable {
		t.Errorf("got %d", status)
	}
	for _, want := range []string{
		"the view of the topics does not advance: no broker answers", "orchestrator.postgres is retrying: no broker answers", "reducer.postgres is recovering 1 task",
	} {
		if !strings.Contains(body, want) {
			t.Errorf("missing %q in %s", want, body)
		}
	}
	// What is known is served all the same.
	if status, _ := get(t, url+"/v1/status"); status != http.StatusOK {
		t.Errorf("status answers %d", status)
	}
}

func TestWatchStreamsASnapshotAndThenChanges(t *testing.T) {
	t.Parallel()
	v := httpapitest.Fleet()
	url := serve(t, v, httpapitest.Running())
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url+"/v1/watch?snapshot=true&events=state&prefix=postgres/orders", nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }() // nothing is left to be lost
	lines := bufio.NewScanner(response.Body)
	next := func() (name, data string) {
		for lines.Scan() {
			if text, ok := strings.CutPrefix(lines.Text(), "event: "); ok {
				name = text
			}
			if text, ok := strings.CutPrefix(lines.Text(), "data: "); ok {
				return name, text
			}
		}
		t.Fatalf("the stream ended: %v", lines.Err())
		return "", ""
	}
	for _, want := range []string{"postgres/orders", "postgres/orders/node/pg-1", "postgres/orders/node/pg-2", "postgres/orders/node/pg-3"} {
		if name, data := next(); name != "state" || !strings.Contains(data, `"id":"`+want+`"`) {
			t.Errorf("got %s %s, want %s", name, data, want)
		}
	}
	if name, _ := next(); name != "synced" {
		t.Errorf("got %s, want synced", name)
	}
	other, mine := v.Entries[len(v.Entries)-3], v.Entries[0]
	mine.Event = nil
	v.Changes <- other
	v.Changes <- mine
	if name, data := next(); name != "state" || !strings.Contains(data, `"id":"postgres/orders"`) || !strings.Contains(data, `"value":null`) {
		t.Errorf("got %s %s, want the deletion of postgres/orders alone", name, data)
	}
}

func TestAPortThatIsTakenIsSaidSo(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = taken.Close() }() // nothing is left to be lost
	if _, err := httpapi.Listen(taken.Addr().String()); err == nil || !strings.Contains(err.Error(), "port taken") || !strings.Contains(err.Error(), "choose another port") {
		t.Errorf("got %v", err)
	}
	if _, err := httpapi.Listen("203.0.113.1:1"); err == nil || !strings.Contains(err.Error(), "expected an address of this machine") {
		t.Errorf("got %v", err)
	}
}

func TestAProbeAnswersHealthAndMetricsOnly(t *testing.T) {
	t.Parallel()
	ln, err := httpapi.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := httpapi.NewProbe(ln, httpapi.Config{
		Info: httpapi.Info{Roles: []string{"agent"}}, Metrics: telemetry.NewRegistry(telemetry.Build{}), Logger: slog.New(slog.DiscardHandler), Clock: clock.System{},
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx, func() {}) }()
	for path, want := range map[string]int{"/health/live": 200, "/health/ready": 200, "/metrics": 200, "/v1/info": 200, "/v1/status": 404} {
		if status, body := get(t, s.URL()+path); status != want {
			t.Errorf("%s: %d %s", path, status, body)
		}
	}
	if _, body := get(t, s.URL()+"/v1/resources/postgres/orders"); !strings.Contains(body, "this process (agent) serves no state; ask one with the role api") {
		t.Errorf("a probe that is taken for the API answers %s", body)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	http.DefaultClient.CloseIdleConnections()
}

func TestAProbeOfAProcessorAnswersDigestsAndReadiness(t *testing.T) {
	t.Parallel()
	ln, err := httpapi.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := httpapi.NewProbe(ln, httpapi.Config{
		Info: httpapi.Info{Roles: []string{"reducer"}}, Processors: httpapitest.Running(), Metrics: telemetry.NewRegistry(telemetry.Build{}),
		Logger: slog.New(slog.DiscardHandler), Clock: clock.System{},
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx, func() {}) }()
	for path, want := range map[string]string{"/v1/digests": `"digests":[`, "/health/ready": `"processors":[{`} {
		if status, body := get(t, s.URL()+path); status != 200 || !strings.Contains(body, want) {
			t.Errorf("%s: %d %s, want %s", path, status, body, want)
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	http.DefaultClient.CloseIdleConnections()
}

func TestHandlerHasLimits(t *testing.T) {
	t.Parallel()
	recorder := httptest.NewRecorder()
	ln, err := httpapi.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ln.Close() }() // nothing is left to be lost
	s := httpapi.New(ln, httpapi.Config{View: httpapitest.Fleet(), Processors: httpapitest.Running(), Set: topics.Default(), Logger: slog.New(slog.DiscardHandler), Clock: clock.System{}})
	s.Handler().ServeHTTP(recorder, httptest.NewRequest(http.MethodGet, "/v1/status", nil))
	if recorder.Header().Get("X-Content-Type-Options") != "nosniff" || recorder.Header().Get("Cache-Control") != "no-store" {
		t.Errorf("headers %v", recorder.Header())
	}
}
