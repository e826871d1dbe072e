package e2etest

import (
	"fmt"
	"net"
	"os"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/regent-infra/regent/internal/kafka/kafkatest"
)

// nowhere is an address on which nothing listens.
func (b *bed) nowhere() string { return kafkatest.Nobody(b.t) }

// taken returns an address on which something listens.
func (b *bed) taken() string {
	b.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { _ = l.Close() }) // nothing is left to be lost
	return l.Addr().String()
}

// executable writes a shell script.
func (b *bed) script(name, text string) string {
	b.t.Helper()
	path := b.write(name, "#!/bin/sh\n"+text+"\n")
	if err := os.Chmod(path, 0o755); err != nil { //nolint:gosec // it is to be run
		b.t.Fatal(err)
	}
	return path
}

// subdir makes a directory that anybody may read.
func (b *bed) subdir(name string) string {
	b.t.Helper()
	if err := os.Mkdir(b.path(name), 0o755); err != nil { //nolint:gosec // an unprivileged PostgreSQL must pass
		b.t.Fatal(err)
	}
	return b.path(name)
}

// Faults of files that a person writes. Each process ends at once, with exit code 2 and one message that names every fault with its line.
func TestFaultyFilesAreRefused(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	config := b.write("config.yaml", "data: {dri: x}\nprocess: {roles: 7, flush_interval: often}\nembedded: {sync: perhaps}\n")
	configWants := []string{
		"line 1: unknown key data.dri; did you mean data.dir?", "line 2: process.roles: found the number 7, expected a list",
		`line 2: process.flush_interval: found text "often", expected a duration`, `line 3: embedded.sync: found text "perhaps", expected true or false`,
	}
	topics := b.write("topics.yaml", "version: 1\nreplication_factor: many\ncolour: red\n")
	initialize := b.write("init.yaml", `type: InitializeCluster
cluster: postgres/orders
payload:
  members: [{node: pg-1, host: 127.0.0.1, port: none, colour: red}]
  policy: {synchronous_mode: SOMETIMES}
  polizy: {}
`)
	command := b.write("command.yaml", "type: SwitchoverCluster\ncluster: 7\npayload: {candidat: pg-2, meta: {dry_run: perhaps}}\n")
	for name, c := range map[string]struct {
		args []string
		want []string
	}{
		"configuration of up":       {[]string{"up", "--config", config}, configWants},
		"configuration of a role":   {[]string{"server", "--config", config}, configWants},
		"configuration of an agent": {[]string{"agent", "--config", config}, configWants},
		"topics.yaml":               {[]string{"up", "--topics-file", topics, "--data-dir", b.path("d")}, []string{`line 2: found text "many", expected a whole number`, `line 3: unknown field "colour"`}},
		"a command file":            {[]string{"command", "-f", command}, []string{"cluster: found 7, expected text", "unknown field payload.candidat", `payload.meta.dry_run: found text "perhaps", expected true or false`}},
		"an init file": {[]string{"command", "-f", initialize}, []string{
			`line 4: payload.members[0].port: found text "none", expected a whole number`, "unknown field payload.members[0].colour",
			`line 5: payload.policy.synchronous_mode: "SOMETIMES", expected one of ASYNC, QUORUM`, "unknown field payload.polizy",
		}},
		"arguments of init": {[]string{"init", clusterID, "--member", "pg-1=host:port"}, []string{"--member pg-1=host:port: expected NAME=HOST:PORT"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, stderr := b.run(usage, c.args...)
			for _, want := range c.want {
				if !strings.Contains(stderr, want) {
					t.Errorf("missing %q in: %s", want, stderr)
				}
			}
		})
	}
}

// agentArgs are the arguments of an agent that would work if broker and registry were there.
func (b *bed) agentArgs(name string, more ...string) []string {
	b.t.Helper()
	dir := b.subdir(name)
	password := b.write(name+".password", "a password\n")
	port := freePorts(b.t, 1)[0]
	return append([]string{
		"agent", "--brokers", b.nowhere(), "--registry", "http://" + b.nowhere(), "--cluster", clusterID, "--node", name, "--http-listen", "127.0.0.1:0",
		"--port", fmt.Sprint(port), "--password-file", password, "--data-dir", dir + "/data", "--log-format", "json",
	}, more...)
}

// What is missing or wrong around a process, each told by the process itself.
func TestBadSurroundingsAreNamed(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	_, broker := kafkatest.Start(t)
	brokers := broker.Brokers[0]
	taken := b.taken()
	_, takenPort, _ := net.SplitHostPort(taken)
	empty, old := b.subdir("empty-bin"), b.subdir("old-bin")
	b.script("old-bin/postgres", "echo 'postgres (PostgreSQL) 12.22'")
	b.script("old-bin/initdb", "echo 'initdb (PostgreSQL) 12.22'")
	anyPort := []string{"--http-listen", "127.0.0.1:0"}
	role := func(name string, more ...string) []string {
		return append([]string{"server", "--roles", "reducer", "--data-dir", b.path(name)}, append(anyPort, more...)...)
	}
	cases := map[string]struct {
		args []string
		code int
		want []string
	}{
		"a role without a broker": {
			role("r1", "--brokers", b.nowhere(), "--registry", "http://"+b.nowhere()), unreachable, []string{"no broker answers", "is it up, and is the address right?"},
		},
		"a role without a registry": {
			role("r2", "--brokers", brokers, "--registry", "http://"+b.nowhere()), unreachable, []string{"reach the schema registry at http://", "no answer", "is it up, and is the address right?"},
		},
		"a command without a registry": {
			[]string{"topics", "plan", "--brokers", brokers, "--registry", "http://" + b.nowhere()}, unreachable, []string{"reach the schema registry at http://", "no answer"},
		},
		"a registry without a broker": {
			[]string{"server", "--roles", "registry", "--brokers", b.nowhere(), "--registry-listen", "127.0.0.1:0"}, unreachable, []string{"no broker answers"},
		},
		"the registry among other roles": {
			[]string{"server", "--roles", "registry,api", "--brokers", brokers, "--registry-listen", "127.0.0.1:0"}, usage, []string{"the role registry runs in a process of its own"},
		},
		"the registry's port": {
			[]string{"server", "--roles", "registry", "--brokers", brokers, "--registry-listen", taken}, failed, []string{"for the schema registry: port taken", "choose another port"},
		},
		"the API's port":    {[]string{"up", "--data-dir", b.path("up1"), "--http-listen", taken}, failed, []string{"for the HTTP API: port taken", "choose another port"}},
		"the broker's port": {append([]string{"up", "--data-dir", b.path("up2"), "--broker-listen", taken, "--registry-listen", "127.0.0.1:0"}, anyPort...), failed, []string{"for the broker: port taken", "choose another port"}},
		"the probe's port":  {b.agentArgs("pg-probe", "--http-listen", taken), failed, []string{"port taken", "choose another port"}},
		"the server's port": {b.agentArgs("pg-port", "--port", takenPort), failed, []string{"port " + takenPort + " is taken by another process", "give this node another port"}},
		"no programs":       {b.agentArgs("pg-empty", "--bin-dir", empty), failed, []string{"no PostgreSQL programs found", empty}},
		"programs too old":  {b.agentArgs("pg-old", "--bin-dir", old), failed, []string{"12.22", "13 to 18"}},
		"no password":       {b.agentArgs("pg-nopass", "--password-file", b.path("none")), failed, []string{"there is no file " + b.path("none")}},
		"a foreign kind":    {b.agentArgs("pg-kind", "--cluster", "kafka/main"), usage, []string{"expected one such as postgres/orders"}},
		"a disk that is full": {
			append([]string{"up", "--data-dir", b.path("up3"), "--broker-listen", "127.0.0.1:0", "--registry-listen", "127.0.0.1:0", "--config", b.write("minfree.yaml", "embedded: {min_free: 1024GiB}\n")}, anyPort...),
			failed,
			[]string{"disk is full", "MiB free, at least 1048576 MiB expected; free some space, or lower the limit"},
		},
	}
	if os.Geteuid() == 0 {
		cases["root without a user"] = struct {
			args []string
			code int
			want []string
		}{b.agentArgs("pg-nouser", "--user", "nobody-at-all"), failed, []string{`this process is root and the user "nobody-at-all" does not exist`}}
		cases["root as the user"] = struct {
			args []string
			code int
			want []string
		}{b.agentArgs("pg-root", "--user", "root"), failed, []string{`the configured user "root" is root`}}
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			_, stderr := b.run(c.code, c.args...)
			for _, want := range c.want {
				if !strings.Contains(stderr, want) {
					t.Errorf("missing %q in: %s", want, stderr)
				}
			}
		})
	}
}

// An agent that reaches neither broker nor registry says so, goes on trying, and works when they are there.
func TestAnAgentWaitsForItsBroker(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	ports := freePorts(t, 2)
	broker, registry := fmt.Sprintf("127.0.0.1:%d", ports[0]), fmt.Sprintf("127.0.0.1:%d", ports[1])
	n := b.launchNodes(1, map[string]any{"brokers": []string{broker}, "registry": "http://" + registry})
	b.await("the agent's complaint", func() error {
		for _, want := range []string{"orders cannot be read now; the server goes on serving", "no broker answers"} {
			if log := read(t, n.all[0].agent.Log); !strings.Contains(log, want) {
				return fmt.Errorf("it does not say %q", want)
			}
		}
		return nil
	}, n.agents()...)
	up := b.launch("up", "up", "--data-dir", b.path("up"), "--broker-listen", broker, "--registry-listen", registry, "--http-listen", "127.0.0.1:0", "--log-format", "json")
	server := b.logged(up, "the HTTP API is up", "url")
	b.ready(up, server)
	b.run(done, append([]string{"init", clusterID, "--server", server, "--synchronous-mode", "async"}, n.members()...)...)
	n.whole(server, "")
	b.unprivileged(n.all[0])
	b.stop(n.agents()...)
	b.stop(up)
}

// unprivileged checks that a server does not run as root.
func (b *bed) unprivileged(m *node) {
	b.t.Helper()
	line, _, _ := strings.Cut(read(b.t, m.dataDir+"/postmaster.pid"), "\n")
	status := read(b.t, "/proc/"+line+"/status")
	_, uids, ok := strings.Cut(status, "\nUid:\t")
	if !ok || strings.HasPrefix(uids, "0\t") {
		b.t.Errorf("the server of %s runs as root:\n%s", m.name, status)
	}
}

// A directory belongs to one process, one node, one Kafka cluster. (regent up: see TestUpRefusesADirectoryThatIsNotItsOwn.)
func TestForeignDirectoriesAreRefused(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	up := b.launch("up", "up", "--data-dir", b.path("up"), "--broker-listen", "127.0.0.1:0", "--registry-listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0", "--log-format", "json")
	broker, registry := b.logged(up, "embedded broker and registry are up", "brokers"), b.logged(up, "embedded broker and registry are up", "registry")
	server := b.logged(up, "the HTTP API is up", "url")
	n := b.launchNodes(1, map[string]any{"brokers": []string{broker}, "registry": registry})
	b.run(done, append([]string{"init", clusterID, "--server", server, "--synchronous-mode", "async"}, n.members()...)...)
	m := n.all[0]
	second := []string{"agent", "--config", b.path(m.name + ".yaml"), "--port", fmt.Sprint(freePorts(t, 1)[0])}
	b.refuse(second, "data directory is in use", "another process holds")
	b.stop(m.agent)
	b.refuse(append(second, "--node", "pg-9"), "foreign agent state", "is that of node pg-1 of postgres/orders, expected node pg-9")
	if err := os.WriteFile(m.dataDir+"/PG_VERSION", []byte("12\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	b.refuse(second, "unsupported PostgreSQL version 12: expected 13 to 18")

	// The state store of a role: of another process, of another version, of another cluster.
	role := []string{"server", "--roles", "fleet", "--data-dir", b.path("fleet"), "--brokers", broker, "--registry", registry, "--http-listen", "127.0.0.1:0", "--log-format", "json"}
	fleet := b.launch("fleet", role...)
	b.ready(fleet, b.logged(fleet, "the probe is up", "url"))
	b.refuse(role, "in use", "--data-dir names another")
	b.stop(fleet)
	active := b.path("fleet", "state", "ACTIVE")
	content := read(t, active)
	if err := os.WriteFile(active, []byte(strings.Replace(content, "regent-store 1", "regent-store 99", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	b.refuse(role, "another format version")
	if err := os.WriteFile(active, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	_, other := kafkatest.Start(t, kfake.ClusterID("another-cluster"))
	b.run(done, "topics", "apply", "--brokers", other.Brokers[0], "--registry", registry)
	b.refuse(append(role, "--brokers", other.Brokers[0]), "another-cluster", "state store")
	b.stop(up)
}

// refuse expects that a process ends by itself and says why.
func (b *bed) refuse(args []string, want ...string) {
	b.t.Helper()
	_, stderr := b.run(failed, args...)
	for _, text := range want {
		if !strings.Contains(stderr, text) {
			b.t.Errorf("missing %q in: %s", text, stderr)
		}
	}
}
