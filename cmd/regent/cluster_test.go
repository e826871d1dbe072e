package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/regent-infra/regent/adapters/postgres/servertest"
	"github.com/regent-infra/regent/internal/canary"
	"github.com/regent-infra/regent/internal/httpapi"
	"github.com/regent-infra/regent/internal/kafka"
	"github.com/regent-infra/regent/internal/kafkaserver"
	"github.com/regent-infra/regent/schemas"
)

// nodes are agents as processes of their own, each with a real PostgreSQL.
type nodes struct {
	t       *testing.T
	dir     string
	agents  map[string]*process
	members []string
}

// launchNodes starts n agents towards brokers and a registry.
func launchNodes(t *testing.T, n int, brokers, registry, password string) *nodes {
	t.Helper()
	set, err := servertest.Binaries(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ns := &nodes{t: t, dir: openDir(t), agents: map[string]*process{}}
	passwordFile := filepath.Join(ns.dir, "password")
	if err := os.WriteFile(passwordFile, []byte(password+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for i := range n {
		name := fmt.Sprintf("pg-%d", i+1)
		own := filepath.Join(ns.dir, name)
		if err := os.Mkdir(own, 0o755); err != nil { //nolint:gosec // an unprivileged PostgreSQL must pass
			t.Fatal(err)
		}
		port := freePort(t)
		ns.members = append(ns.members, "--member", fmt.Sprintf("%s=127.0.0.1:%d", name, port))
		ns.agents[name] = launch(t, "agent", "--brokers", brokers, "--registry", registry, "--cluster", "postgres/orders", "--node", name, "--profile", "fast",
			"--data-dir", filepath.Join(own, "data"), "--host", "127.0.0.1", "--port", fmt.Sprint(port), "--bin-dir", set.Dir, "--password-file", passwordFile,
			"--http-listen", "127.0.0.1:0", "--log-format", "json")
	}
	return ns
}

// stop ends all agents in order, which stop their servers.
func (ns *nodes) stop() {
	for name, p := range ns.agents {
		if code := p.end(); code != exitDone {
			ns.t.Errorf("the agent of %s ended with %d:\n%s", name, code, p.log.String())
		}
	}
}

// clusterOf reads the cluster.
func clusterOf(t *testing.T, server string) cluster {
	t.Helper()
	var all struct {
		Clusters []cluster `json:"clusters"`
	}
	if err := json.Unmarshal([]byte(cli(t, server, exitDone, "list", "-o", "json").stdout), &all); err != nil || len(all.Clusters) != 1 {
		t.Fatalf("%d clusters, %v", len(all.Clusters), err)
	}
	return all.Clusters[0]
}

// whole waits until the cluster has a primary other than not, is healthy, and nothing is under way. It returns the primary.
func whole(t *testing.T, p *process, server, not string) string {
	t.Helper()
	var c cluster
	await(t, "a healthy cluster", p, func() bool {
		c = clusterOf(t, server)
		return c.State != nil && c.State.Health == schemas.HealthHealthy && c.Workflow == nil && c.State.Primary != not && c.Record != nil && c.Record.Primary == c.State.Primary
	})
	return c.State.Primary
}

// The whole path as a user has it: one regent up, three agents, real PostgreSQL servers.
func TestAClusterLivesUnderRegentUp(t *testing.T) {
	t.Parallel()
	cage := canary.New()
	password := cage.Secret("password")
	dir := filepath.Join(t.TempDir(), "plane")
	p, server := up(t, dir)
	ns := launchNodes(t, 3, p.logged("embedded broker and registry are up", "brokers"), p.logged("embedded broker and registry are up", "registry"), password)

	r := cli(t, server, exitDone, append([]string{"init", "postgres/orders", "--dry-run"}, ns.members...)...)
	if !strings.Contains(r.stdout, "nothing was changed (dry run)") {
		t.Errorf("got %s", r.stdout)
	}
	cli(t, server, exitDone, append([]string{"init", "postgres/orders", "--reason", "test"}, ns.members...)...)
	primary := whole(t, p, server, "")
	cli(t, server, exitRefused, append([]string{"init", "postgres/orders"}, ns.members...)...)
	cli(t, server, exitRefused, "restart", "postgres/orders", "pg-9")
	cli(t, server, exitDone, "check", "postgres/orders")

	cli(t, server, exitDone, "switchover", "postgres/orders", "--reason", "test")
	primary = whole(t, p, server, primary)
	r = cli(t, server, exitDone, "explain", "postgres/orders")
	for _, want := range []string{"PromotePostgres to " + primary, "observations.postgres/", "acknowledgements needed", "why nothing else happens now"} {
		if !strings.Contains(r.stdout, want) {
			t.Errorf("explain does not say %q:\n%s", want, r.stdout)
		}
	}

	// The control plane dies; then, while it is away, the primary's postgres.
	p.kill()
	broker, registry := p.logged("embedded broker and registry are up", "brokers"), p.logged("embedded broker and registry are up", "registry")
	killPostmaster(t, filepath.Join(ns.dir, primary, "data"))
	p = launch(t, "up", "--data-dir", dir, "--http-listen", "127.0.0.1:0", "--broker-listen", broker,
		"--registry-listen", strings.TrimPrefix(registry, "http://"), "--log-format", "json")
	server = ready(t, p)
	whole(t, p, server, primary)
	cli(t, server, exitDone, "rebuild", "--verify")
	if r := cli(t, server, exitDone, "status"); !strings.Contains(r.stdout, "nothing is wrong, nothing needs a person") {
		t.Errorf("got %s", r.stdout)
	}

	cli(t, server, exitDone, "shutdown", "postgres/orders")
	if r := cli(t, server, exitDone, "status"); !strings.Contains(r.stdout, "regent start postgres/orders") {
		t.Errorf("got %s", r.stdout)
	}
	cli(t, server, exitDone, "start", "postgres/orders")
	whole(t, p, server, "")

	noCanary(t, cage, server, dir, p, ns)
	ns.stop()
	if code := p.end(); code != exitDone {
		t.Errorf("exit %d:\n%s", code, p.log.String())
	}
}

func killPostmaster(t *testing.T, dataDir string) {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(dataDir, "postmaster.pid"))
	if err != nil {
		t.Fatal(err)
	}
	var pid int
	if _, err := fmt.Sscan(string(raw), &pid); err != nil || pid < 2 {
		t.Fatalf("%q: %v", raw, err)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
}

// noCanary looks for the password in the topics, the data directory, and everything that was said.
func noCanary(t *testing.T, cage *canary.Cage, server, dir string, p *process, ns *nodes) {
	t.Helper()
	var info httpapi.Info
	if err := (&api{base: server, http: httpClient(t)}).get(t.Context(), "/v1/info", nil, &info); err != nil {
		t.Fatal(err)
	}
	admin, err := kafka.NewAdmin(kafka.Config{Brokers: info.Brokers})
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close()
	findings, records, err := cage.ScanTopics(t.Context(), admin)
	if err != nil || records == 0 {
		t.Fatalf("%d records, %v", records, err)
	}
	inFiles, err := cage.ScanDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	findings = append(append(findings, inFiles...), cage.Scan("the control plane's log", []byte(p.log.String()))...)
	for name, agent := range ns.agents {
		findings = append(findings, cage.Scan("the log of "+name, []byte(agent.log.String()))...)
	}
	for _, f := range findings {
		t.Error(f)
	}
}

// Started as root, the agent runs its server as another user; a user that may not pass is told what to do.
func TestAnAgentStartedAsRootDropsToAnotherUser(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Log("this user is not root: what an agent does as root cannot be seen")
		return
	}
	dir := t.TempDir() // of mode 0700 above, so that postgres may not pass
	password := filepath.Join(dir, "password")
	if err := os.WriteFile(password, []byte("x\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	base := []string{
		"agent", "--brokers", "127.0.0.1:1", "--registry", "http://127.0.0.1:1", "--cluster", "postgres/orders", "--node", "pg-1", "--http-listen", "127.0.0.1:0",
		"--port", fmt.Sprint(freePort(t)), "--password-file", password, "--log-level", "error", "--data-dir", filepath.Join(dir, "data"),
	}
	for _, c := range []struct {
		more []string
		want string
	}{
		{nil, "may not pass through"},
		{[]string{"--user", "root"}, "root"},
		{[]string{"--user", "nobody-at-all"}, "nobody-at-all"},
	} {
		p := launch(t, append(base, c.more...)...)
		if code := p.exit(); code == exitDone || !strings.Contains(p.log.String(), c.want) {
			t.Errorf("%v: exit %d: %s", c.more, code, p.log.String())
		}
	}
}

// The roles as processes of their own, against a real Kafka. The schema registry is that of a regent up.
func TestRolesRunAsProcessesOfTheirOwnOnApacheKafka(t *testing.T) {
	t.Parallel()
	broker, err := kafkaserver.Start(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(broker.Kill)
	other, _ := up(t, filepath.Join(t.TempDir(), "registry"))
	registry := other.logged("embedded broker and registry are up", "registry")
	where := []string{"--brokers", broker.Broker(), "--registry", registry}

	role := func(name string) *process {
		return launch(t, append([]string{
			"server", "--roles", name, "--data-dir", filepath.Join(t.TempDir(), name), "--http-listen", "127.0.0.1:0", "--log-format", "json",
		}, where...)...)
	}
	// Started before there are topics, a role waits for them.
	reducer := role("reducer")
	await(t, "the reducer to miss its topics", reducer, func() bool { return strings.Contains(reducer.log.String(), "does not exist; apply topics.yaml first") })
	if r := regent(t, "", append([]string{"topics", "apply"}, where...)...); r.code != exitDone {
		t.Fatalf("exit %d: %s", r.code, r.stderr)
	}
	orchestrator, fleet, front := role("orchestrator"), role("fleet"), role("api")
	server := ready(t, front)
	ns := launchNodes(t, 3, broker.Broker(), registry, "a password")
	cli(t, server, exitDone, append([]string{"init", "postgres/orders"}, ns.members...)...)
	primary := whole(t, front, server, "")
	cli(t, server, exitDone, "switchover", "postgres/orders")
	primary = whole(t, front, server, primary)

	// An orchestrator that is killed is followed by another; a failover meanwhile happens all the same.
	orchestrator.kill()
	orchestrator = role("orchestrator")
	killPostmaster(t, filepath.Join(ns.dir, primary, "data"))
	whole(t, front, server, primary)
	ns.stop()
	for _, p := range []*process{front, fleet, orchestrator, reducer} {
		if code := p.end(); code != exitDone {
			t.Errorf("exit %d:\n%s", code, p.log.String())
		}
	}
}
