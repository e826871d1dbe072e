package e2etest

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/regent-infra/regent/internal/childprocess"
	"github.com/regent-infra/regent/internal/kafka"
	"github.com/regent-infra/regent/internal/kafkaserver"
)

// role is a process of a control plane with a probe or the API.
type role struct {
	*childprocess.Process
	url string
	dir string
}

func (b *bed) launchRole(name, config string) *role {
	b.t.Helper()
	r := &role{dir: b.path(strings.ReplaceAll(name, ",", "-"))}
	r.Process = b.launch(strings.ReplaceAll(name, ",", "-"), "server", "--config", config, "--roles", name, "--data-dir", r.dir, "--http-listen", "127.0.0.1:0",
		"--log-format", "json", "--log-level", "debug")
	message := "the probe is up"
	if strings.Contains(name, "api") {
		message = "the HTTP API is up"
	}
	r.url = b.logged(r.Process, message, "url")
	return r
}

// The whole path on a real Kafka that asks for a password: registry, topics, roles and agents as processes of their own; a cluster is made, its primary is
// killed, then reducer and orchestrator are. No acknowledged row is lost, no state differs, no secret is seen.
func TestTheWholePathOnApacheKafka(t *testing.T) {
	t.Parallel()
	begin := time.Now()
	b := newBed(t)
	stage := func(format string, args ...any) {
		t.Helper()
		t.Logf("%6.2fs  %s", time.Since(begin).Seconds(), fmt.Sprintf(format, args...))
	}
	saslPassword, saslFile := b.secret("sasl.password")
	registryPassword, registryFile := b.secret("registry.password")
	broker, err := kafkaserver.StartWith(b.patient(), t.TempDir(), kafkaserver.Options{User: "regent", Password: saslPassword})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(broker.Kill)
	stage("Kafka is up")

	common := map[string]any{
		"brokers":       []string{broker.Broker()},
		"kafka":         map[string]any{"sasl": map[string]any{"mechanism": "SCRAM-SHA-256", "user": "regent", "password_file": saslFile}},
		"registry_auth": map[string]any{"user": "regent", "password_file": registryFile},
	}
	early := b.yaml("early.yaml", common)
	registryPort := freePorts(t, 1)[0]
	registryAddress := fmt.Sprintf("127.0.0.1:%d", registryPort)
	launchRegistry := func() *childprocess.Process {
		p := b.launch("registry", "server", "--config", early, "--roles", "registry", "--registry-listen", registryAddress, "--log-format", "json", "--log-level", "debug")
		b.logged(p, "the schema registry is up", "registry")
		return p
	}
	registry := launchRegistry()
	common["registry"] = "http://" + registryAddress
	config := b.yaml("regent.yaml", common)
	stage("the registry is up")

	b.applyTopics(config)
	stage("topics and schemas are applied")

	reducer, orchestrator, front := b.launchRole("reducer", config), b.launchRole("orchestrator", config), b.launchRole("fleet,api", config)
	n := b.launchNodes(3, common)
	for _, r := range []*role{reducer, orchestrator, front} {
		b.ready(r.Process, r.url)
	}
	stage("all roles are ready")
	ask := func(args ...string) []string { return append(args, "--config", config, "--server", front.url) }
	b.run(done, ask(append([]string{"init", clusterID, "--reason", "test"}, n.members()...)...)...)
	primary := n.whole(front.url, "")
	stage("the cluster is made, its primary is %s", primary.name)

	w := b.startWriter(n)
	b.await("a first commit", func() error { _, err := w.writable(begin, 0); return err })
	at := time.Now()
	n.killPostgres(primary)
	var took time.Duration
	b.await("a commit elsewhere", func() (err error) { took, err = w.writable(at, primary.port); return err })
	stage("writable again %s after the postmaster was killed", took.Round(time.Millisecond))
	if limit := 20 * time.Second; took > limit {
		t.Errorf("writable again after %s, want less than %s", took, limit)
	}
	now := n.whole(front.url, primary.name)
	stage("whole again, the primary is %s", now.name)
	out, _ := b.run(done, ask("explain", b.lastWorkflow(front, "FAILOVER"))...)
	for _, want := range []string{primary.name + " is crashed", "PromotePostgres to " + now.name, "observations.postgres/", "acknowledgements needed", "SUCCEEDED"} {
		if !strings.Contains(out, want) {
			t.Errorf("explain does not say %q:\n%s", want, out)
		}
	}
	b.run(done, ask("status")...)

	// Reducer and orchestrator die together; while they are away the servers go on. Then they are what they were.
	b.kill(reducer.Process, orchestrator.Process)
	at = time.Now()
	b.await("a commit without a control plane", func() error { _, err := w.writable(at, 0); return err })
	reducer, orchestrator = b.launchRole("reducer", config), b.launchRole("orchestrator", config)
	for _, r := range []*role{reducer, orchestrator, front} {
		b.ready(r.Process, r.url)
	}
	stage("reducer and orchestrator were killed and are ready again")
	for _, r := range []*role{reducer, orchestrator, front} {
		b.verify(config, r)
	}
	stage("running state and topics agree")
	// They do not only look alive: a planned switchover goes through.
	b.run(done, ask("switchover", clusterID, "--reason", "test")...)
	n.whole(front.url, now.name)
	missing, acknowledged := b.lost(w)
	if len(missing) > 0 || acknowledged < 100 {
		t.Errorf("of %d acknowledged rows %d are lost: %v", acknowledged, len(missing), missing)
	}
	b.run(done, ask("status")...)
	stage("of %d acknowledged rows none is lost", acknowledged)

	registry = b.replaceRegistry(config, early, registry, launchRegistry)
	stage("the registry was killed, came back, was replaced, and ended")

	shown, _ := b.run(done, "config", "show", "--config", b.yaml("inline.yaml", inline(common, registryPassword)), "-o", "wide")
	if !strings.Contains(shown, "registry_auth.password") {
		t.Errorf("config show: %s", shown)
	}
	b.quiet(n, []string{reducer.url, orchestrator.url, front.url, b.probeOf(n.all[0]), b.probeOf(n.all[1]), b.probeOf(n.all[2])})
	b.quietTopics(kafka.Config{Brokers: []string{broker.Broker()}, SASL: kafka.SASL{Mechanism: kafka.SASLScramSHA256, User: "regent", PasswordFile: saslFile}})
	b.stop(n.agents()...)
	b.stop(front.Process, orchestrator.Process, reducer.Process)
	b.stop(registry)
	for _, r := range []*role{reducer, orchestrator, front} {
		b.quietStore(r.dir)
	}
	stage("nothing has leaked, everything has ended in order")
}

// lastWorkflow returns the id of the last workflow of a kind.
func (b *bed) lastWorkflow(front *role, kind string) string {
	b.t.Helper()
	var answer struct {
		Workflows []struct {
			ID string `json:"id"`
		} `json:"workflows"`
	}
	if _, body, err := b.get(front.url, "/v1/workflows?limit=1&kind="+kind, &answer); err != nil || len(answer.Workflows) != 1 {
		b.t.Fatalf("the last %s: %s, %v", kind, body, err)
	}
	return answer.Workflows[0].ID
}

// inline puts a password into the configuration itself.
func inline(common map[string]any, password string) map[string]any {
	with := maps.Clone(common)
	with["registry_auth"] = map[string]any{"user": "regent", "password": password}
	return with
}

// probeOf returns the address at which an agent answers.
func (b *bed) probeOf(m *node) string {
	b.t.Helper()
	return b.logged(m.agent, "starting", "probe")
}

// applyTopics plans, applies, and applies again.
func (b *bed) applyTopics(config string) {
	b.t.Helper()
	topics := func(code int, verb string, more ...string) string {
		b.t.Helper()
		out, _ := b.run(code, append([]string{"topics", verb, "--config", config}, more...)...)
		return out
	}
	plan := topics(done, "plan", "--replication-factor", "1")
	for _, want := range []string{"infra.observations.postgres.v1", "infra.state.fleet.v1", "infra.deadletter.v1", "1 replica"} {
		if !strings.Contains(plan, want) {
			b.t.Errorf("the plan does not say %q:\n%s", want, plan)
		}
	}
	topics(failed, "diff")
	_, stderr := b.run(failed, "topics", "apply", "--config", config, "--replication-factor", "3")
	if !strings.Contains(stderr, "--replication-factor") {
		b.t.Errorf("three replicas on one broker: %s", stderr)
	}
	topics(done, "apply", "--replication-factor", "1")
	again := topics(done, "apply", "--replication-factor", "1")
	if strings.Contains(again, "done:") {
		b.t.Errorf("applied twice, there was something to do:\n%s", again)
	}
	topics(done, "diff")
}

// verify compares the running state of a role with the topics.
func (b *bed) verify(config string, r *role) {
	b.t.Helper()
	out, _ := b.run(done, "rebuild", "--verify", "--config", config, "--server", r.url, "-o", "json")
	var result struct {
		Equal bool  `json:"equal"`
		Keys  int64 `json:"keys"`
	}
	if err := json.Unmarshal([]byte(out), &result); err != nil || !result.Equal || result.Keys == 0 {
		b.t.Errorf("%s: %v\n%s", r.Name, err, out)
	}
}

// replaceRegistry kills the registry and starts it again; then it starts another one, which the first must give way to. It returns the one that is left.
func (b *bed) replaceRegistry(config, early string, registry *childprocess.Process, launch func() *childprocess.Process) *childprocess.Process {
	b.t.Helper()
	b.kill(registry)
	registry = launch()
	b.run(done, "topics", "diff", "--config", config)
	other := b.launch("registry-other", "server", "--config", early, "--roles", "registry", "--registry-listen", "127.0.0.1:0", "--log-format", "json")
	url := b.logged(other, "the schema registry is up", "registry")
	password := strings.TrimSpace(read(b.t, b.path("registry.password")))
	put := func() (int, error) {
		request, err := http.NewRequestWithContext(b.t.Context(), http.MethodPut, url+"/config/of-the-test", strings.NewReader(`{"compatibility":"FULL"}`))
		if err != nil {
			return 0, err
		}
		request.SetBasicAuth("regent", password)
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			return 0, err
		}
		return response.StatusCode, response.Body.Close()
	}
	if status, err := put(); err != nil || status != http.StatusOK {
		b.t.Errorf("the other registry answers %d, %v", status, err)
	}
	b.exit(registry, failed, "one registry may run per Kafka cluster")
	return other
}

// The same hunt for secrets where broker and registry are part of the process.
func TestNoSecretLeaksFromTheEmbeddedStack(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	registryPassword, registryFile := b.secret("registry.password")
	ports := freePorts(t, 2)
	broker, registry := fmt.Sprintf("127.0.0.1:%d", ports[0]), fmt.Sprintf("127.0.0.1:%d", ports[1])
	common := map[string]any{
		"brokers": []string{broker}, "registry": "http://" + registry,
		"registry_auth": map[string]any{"user": "regent", "password_file": registryFile},
	}
	config, dir := b.yaml("inline.yaml", inline(common, registryPassword)), b.path("up")
	up := b.launch("up", "up", "--config", config, "--data-dir", dir, "--broker-listen", broker, "--registry-listen", registry, "--http-listen", "127.0.0.1:0",
		"--log-format", "json", "--log-level", "debug", "--log-file", b.path("up.file.log"))
	server := b.logged(up, "the HTTP API is up", "url")
	b.ready(up, server)
	n := b.launchNodes(2, common)
	ask := func(args ...string) []string { return append(args, "--config", config, "--server", server) }
	b.run(done, ask(append([]string{"init", clusterID, "--reason", "test"}, n.members()...)...)...)
	primary := n.whole(server, "")
	b.run(done, ask("switchover", clusterID, "--reason", "test")...)
	n.whole(server, primary.name)
	for _, args := range [][]string{
		{"status", "-o", "yaml"},
		{"list", "-o", "wide"},
		{"get", "-o", "json"},
		{"workflows", "list"},
		{"explain", clusterID},
		{"events", "--from", "earliest", "--follow=false", "-o", "json"},
		{"doctor"},
		{"config", "show", "-o", "json"},
		{"config", "show", "-o", "wide"},
	} {
		if args[0] != "config" {
			args = ask(args...)
		} else {
			args = append(args, "--config", config)
		}
		b.run(done, args...)
	}
	// A URL with a password is a fault, and the message must not show it.
	b.run(usage, "status", "--registry", "http://regent:"+registryPassword+"@"+registry)
	b.quiet(n, []string{server, b.probeOf(n.all[0]), b.probeOf(n.all[1])})
	b.quietTopics(kafka.Config{Brokers: []string{broker}})
	b.stop(n.agents()...)
	b.stop(up)
	b.quietStore(dir)
}
