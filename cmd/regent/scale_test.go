package main

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/regent-infra/regent/internal/httpapi"
	"github.com/regent-infra/regent/internal/kafkaserver"
)

// tasksOf returns, by processor, which tasks a server runs, and of which it keeps warm copies.
func tasksOf(t *testing.T, server string) (runs, copies map[string][]int32) {
	t.Helper()
	a := &api{base: server, http: httpClient(t)}
	var r httpapi.Readiness
	if err := a.get(t.Context(), "/health/ready", nil, &r); err != nil {
		return nil, nil // it is not ready
	}
	runs, copies = map[string][]int32{}, map[string][]int32{}
	for _, p := range r.Processors {
		for _, task := range p.Tasks {
			runs[p.Processor] = append(runs[p.Processor], task.Task)
		}
		for _, st := range p.Standbys {
			if st.Warm && st.Error == "" {
				copies[p.Processor] = append(copies[p.Processor], st.Task)
			}
		}
	}
	return runs, copies
}

// resourcesOf returns everything that a server serves, as JSON.
func resourcesOf(t *testing.T, server string) []string {
	t.Helper()
	var all struct {
		Resources []json.RawMessage `json:"resources"`
	}
	if err := json.Unmarshal([]byte(cli(t, server, exitDone, "get", "-o", "json").stdout), &all); err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, r := range all.Resources {
		out = append(out, string(r))
	}
	return out
}

// Two servers with all roles share the tasks of each processor and stand by for each other. Whichever is asked, get, status and watch answer for all
// of them; when one is killed, the other does its work and still answers for everything.
func TestTwoServersAreOneOnApacheKafka(t *testing.T) {
	t.Parallel()
	broker, err := kafkaserver.Start(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(broker.Kill)
	other, _ := up(t, filepath.Join(t.TempDir(), "registry"))
	where := []string{"--brokers", broker.Broker(), "--registry", other.logged("embedded broker and registry are up", "registry")}
	if r := regentNow(t, append([]string{"topics", "apply"}, where...)...); r.code != exitDone {
		t.Fatalf("exit %d: %s", r.code, r.stderr)
	}
	dirs := map[string]string{"a": filepath.Join(t.TempDir(), "a"), "b": filepath.Join(t.TempDir(), "b")}
	start := func(name string) (*process, string) {
		p := launch(t, append([]string{"server", "--data-dir", dirs[name], "--http-listen", "127.0.0.1:0", "--log-format", "json"}, where...)...)
		return p, ready(t, p)
	}
	a, serverA := start("a")
	w := newWitness(t, serverA, "REGENT_BROKERS="+where[1], "REGENT_REGISTRY="+where[3])
	w.populate()
	served(t, a, serverA, "postgres/c4/node/pg-2", 7)
	b, serverB := start("b")

	// Each reducer runs two of the four tasks and has warm copies of the others; the fleet's one task has its copy too.
	shared := func() bool {
		runsA, copiesA := tasksOf(t, serverA)
		runsB, copiesB := tasksOf(t, serverB)
		const name = "reducer.postgres"
		all := slices.Sorted(slices.Values(slices.Concat(runsA[name], runsB[name])))
		return slices.Equal(all, []int32{0, 1, 2, 3}) && len(runsA[name]) == 2 &&
			slices.Equal(copiesA[name], runsB[name]) && slices.Equal(copiesB[name], runsA[name]) &&
			len(runsA["reducer.fleet"])+len(runsB["reducer.fleet"]) == 1 && len(copiesA["reducer.fleet"])+len(copiesB["reducer.fleet"]) == 1
	}
	await(t, "two servers to share the tasks", b, shared)

	// Any server answers for every resource, whoever runs its task.
	await(t, "both servers to serve the same", b, func() bool {
		fromA, fromB := resourcesOf(t, serverA), resourcesOf(t, serverB)
		return len(fromA) > 20 && slices.Equal(fromA, fromB)
	})
	for _, server := range []string{serverA, serverB} {
		for i := range 12 {
			if i != 3 {
				cli(t, server, exitDone, "get", fmt.Sprintf("postgres/c%d/node/pg-1", i))
			}
		}
		if r := cli(t, server, exitDone, "status"); !strings.Contains(r.stdout, "10 healthy, 1 degraded") || !strings.Contains(r.stdout, "12 healthy") {
			t.Errorf("status says\n%s", r.stdout)
		}
	}
	watchers := map[string]*process{
		serverA: launchWith(t, []string{"REGENT_SERVER=" + serverA}, "watch", "postgres/", "-o", "json"),
		serverB: launchWith(t, []string{"REGENT_SERVER=" + serverB}, "watch", "postgres/", "-o", "json"),
	}
	lsn := int64(100)
	for server, watcher := range watchers {
		await(t, "a watch of "+server+" to see a change of every task", watcher, func() bool {
			lsn++
			for i := range 12 {
				w.observe(fmt.Sprintf("postgres/c%d", i), "pg-1", lsn)
			}
			for i := range 12 {
				if !strings.Contains(watcher.log.String(), fmt.Sprintf(`"postgres/c%d/node/pg-1"`, i)) {
					return false
				}
			}
			return true
		})
		watcher.kill()
	}

	// One dies; the other does its work, and serves all of it.
	a.kill()
	w.observe("postgres/c4", "pg-2", 1000)
	for i := range 12 {
		w.observe(fmt.Sprintf("postgres/c%d", i), "pg-1", 2000)
	}
	served(t, b, serverB, "postgres/c4/node/pg-2", 1000)
	for i := range 12 {
		served(t, b, serverB, fmt.Sprintf("postgres/c%d/node/pg-1", i), 2000)
	}
	cli(t, serverB, exitDone, "rebuild", "--verify")

	// It comes back, and has its share again.
	a, serverA = start("a")
	await(t, "two servers to share the tasks again", a, shared)
	await(t, "both servers to serve the same again", a, func() bool { return slices.Equal(resourcesOf(t, serverA), resourcesOf(t, serverB)) })
	for _, p := range []*process{a, b} {
		if code := p.end(); code != exitDone {
			t.Errorf("exit %d:\n%s", code, p.log.String())
		}
	}
}
