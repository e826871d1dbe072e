package main

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/regent-infra/regent/internal/httpapi/httpapitest"
)

// Bad input, each with the exit code and the words that a person gets. No message is a stack trace, and none is more than one.
func TestBadInput(t *testing.T) {
	t.Parallel()
	server := serveFleet(t, httpapitest.Fleet())
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	config := file("bad.yaml", "log: {levil: debug}\nlisten: {http: 7}\nbrokers: 5\n")
	command := file("command.yaml", "type: SwitchoverCluster\ncluster: postgres/orders\npayload:\n  candidat: pg-2\n  meta: {dry_run: perhaps, expires_at: soon}\nextra: 1\n")
	for name, c := range map[string]struct {
		args  []string
		stdin string
		code  int
		want  []string
	}{
		"unknown command":        {[]string{"statsu"}, "", exitUsage, []string{`unknown command "statsu" for "regent"`, "did you mean status?"}},
		"unknown subcommand":     {[]string{"topics", "pln"}, "", exitUsage, []string{`unknown command "pln" for "regent topics"`}},
		"unknown flag":           {[]string{"status", "--wach"}, "", exitUsage, []string{"unknown flag: --wach", "regent status --help"}},
		"too many arguments":     {[]string{"status", "now"}, "", exitUsage, []string{"regent status: "}},
		"unknown output":         {[]string{"status", "-o", "xml", "--server", server}, "", exitUsage, []string{"-o xml: unknown output format, expected one of table, wide, json, yaml"}},
		"faults of a file":       {[]string{"config", "check", "--config", config}, "", exitUsage, []string{"3 faults", "line 1: unknown key log.levil; did you mean log.level?", "line 2: listen.http: ", "line 3: brokers: found the number 5, expected a list"}},
		"faults of a flag":       {[]string{"up", "--http-listen", "nowhere"}, "", exitUsage, []string{`flag --http-listen: listen.http: "nowhere", expected host:port`}},
		"a file that is missing": {[]string{"status", "--config", filepath.Join(dir, "none")}, "", exitUsage, []string{"name a YAML file that this user may read"}},
		"no server":              {[]string{"status", "--server", "http://127.0.0.1:1"}, "", exitUnreachable, []string{"ask the server at http://127.0.0.1:1: no answer", "regent up"}},
		"no server for events":   {[]string{"events", "--server", "http://127.0.0.1:1"}, "", exitUnreachable, []string{"find the brokers and the registry"}},
		"no broker": {
			[]string{"events", "--brokers", "127.0.0.1:1", "--registry", "http://127.0.0.1:1"}, "", exitUnreachable, []string{"Kafka at 127.0.0.1:1", "is it up, and is the address right?"},
		},
		"no such resource":      {[]string{"get", "postgres/none", "--server", server}, "", exitFailed, []string{"postgres/none: there is no such resource"}},
		"no such cluster":       {[]string{"list", "postgres/none", "--server", server}, "", exitFailed, []string{"there is no such cluster"}},
		"a malformed id":        {[]string{"get", "Orders", "--server", server}, "", exitUsage, []string{"expected kind/cluster or kind/cluster/node/name"}},
		"a malformed cluster":   {[]string{"switchover", "orders"}, "", exitUsage, []string{"expected kind/name such as postgres/orders"}},
		"no cluster":            {[]string{"switchover"}, "", exitUsage, []string{"regent switchover: accepts 1 arg(s), received 0"}},
		"a bad mode":            {[]string{"shutdown", "postgres/orders", "--mode", "gently"}, "", exitUsage, []string{"--mode gently: expected smart, fast or immediate"}},
		"a bad member":          {[]string{"init", "postgres/orders", "--member", "pg-1"}, "", exitUsage, []string{"--member pg-1: expected NAME=HOST:PORT"}},
		"no members":            {[]string{"init", "postgres/orders"}, "", exitUsage, []string{"expected at least one --member"}},
		"a bad policy":          {[]string{"init", "postgres/orders", "--member", "a=b:1", "--failover", "maybe"}, "", exitUsage, []string{"--failover maybe: expected automatic or manual"}},
		"a bad time-out":        {[]string{"switchover", "postgres/orders", "--timeout", "-1s"}, "", exitUsage, []string{"--timeout -1s: expected more than 0"}},
		"a bad start":           {[]string{"events", "--type", "Nothing"}, "", exitUsage, []string{"--type Nothing: there is no such event"}},
		"a bad id":              {[]string{"explain", "it"}, "", exitUsage, []string{"expected the id of a workflow or command, or a cluster"}},
		"no command":            {[]string{"command"}, "", exitUsage, []string{"expected TYPE and CLUSTER, or -f FILE"}},
		"an unknown command":    {[]string{"command", "Reboot", "postgres/orders"}, "", exitUsage, []string{`"Reboot" is no command, expected one of CheckHealth`}},
		"a bad payload":         {[]string{"command", "CheckHealth", "postgres/orders", "--payload", `{timeout_ms: soon}`}, "", exitUsage, []string{`payload.timeout_ms: found text "soon", expected a whole number`}},
		"a payload too large":   {[]string{"command", "CheckHealth", "postgres/orders", "--payload", `{timeout_ms: 99999999999}`}, "", exitUsage, []string{"expected a whole number"}},
		"a bad command id":      {[]string{"command", "CheckHealth", "postgres/orders", "--id", "7"}, "", exitUsage, []string{"--id 7: expected a UUID"}},
		"a malformed command":   {[]string{"command", "-f", command}, "", exitUsage, []string{"line 4: unknown field payload.candidat", `line 5: payload.meta.dry_run: found text "perhaps", expected true or false`, "expected a moment", "line 6: unknown field"}},
		"a command of nothing":  {[]string{"command", "-f", "-"}, "", exitUsage, []string{"read standard input", "the file is empty"}},
		"a command of garbage":  {[]string{"command", "-f", "-"}, "{[", exitUsage, []string{"read standard input"}},
		"a file and more":       {[]string{"command", "CheckHealth", "postgres/a", "-f", "x"}, "", exitUsage, []string{"a file holds the whole command"}},
		"roles without brokers": {[]string{"server"}, "", exitUsage, []string{"--brokers is empty", "--registry is empty"}},
		"an unknown role":       {[]string{"server", "--roles", "reducer,king"}, "", exitUsage, []string{`"king", expected one of reducer, orchestrator, fleet, api, registry`}},
		"an agent of nothing":   {[]string{"agent"}, "", exitUsage, []string{"agent.cluster is not set (--cluster)", "agent.node is not set (--node)", "postgres.password_file is not set"}},
		"an unknown table":      {[]string{"workflows", "show", "dance"}, "", exitUsage, []string{"there is no such decision table, expected one of", "failover"}},
		"an unknown shell":      {[]string{"completion", "tcsh"}, "", exitUsage, []string{`invalid argument "tcsh"`}},
		"rebuild of what":       {[]string{"rebuild", "--data-dir", filepath.Join(dir, "none")}, "", exitUsage, []string{"holds no broker", "--data-dir", "--brokers and --registry"}},
		"rebuild of no state":   {[]string{"rebuild", "--data-dir", filepath.Join(dir, "none"), "--roles", "api", "--brokers", "a:1", "--registry", "http://a"}, "", exitUsage, []string{"none of them keeps state, expected some of reducer"}},
		"verify and make":       {[]string{"rebuild", "--verify", "--cross-check=false"}, "", exitUsage, []string{"expected one of them"}},
		"an unknown context":    {[]string{"status", "--context", "prod"}, "", exitUsage, []string{`unknown context "prod"`}},
		"a bad interval":        {[]string{"status", "--watch", "--interval", "1ms", "--server", server}, "", exitUsage, []string{"--interval 1ms: expected at least 100ms"}},
		"a topics file":         {[]string{"up", "--topics-file", file("topics.yaml", "version: 1\nknid: {}\n"), "--data-dir", filepath.Join(dir, "d")}, "", exitUsage, []string{`unknown field "knid"`}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := regent(t, c.stdin, c.args...)
			if r.code != c.code {
				t.Errorf("exit %d, want %d: %s", r.code, c.code, r.stderr)
			}
			for _, want := range c.want {
				if !strings.Contains(r.stderr, want) {
					t.Errorf("missing %q in: %s", want, r.stderr)
				}
			}
			if strings.Contains(r.stderr, "goroutine ") || strings.Count(r.stderr, "regent: ") > 1+strings.Count(strings.Join(c.args, " "), "regent: ") {
				t.Errorf("not one clear message: %s", r.stderr)
			}
		})
	}
}

func TestPortTaken(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = taken.Close() }() // nothing is left to be lost
	for _, flag := range []string{"--http-listen", "--broker-listen", "--registry-listen"} {
		args := []string{"up", "--data-dir", filepath.Join(t.TempDir(), "data"), "--log-level", "error"}
		for _, other := range []string{"--http-listen", "--broker-listen", "--registry-listen"} {
			address := "127.0.0.1:0"
			if other == flag {
				address = taken.Addr().String()
			}
			args = append(args, other, address)
		}
		r := regent(t, "", args...)
		if r.code != exitFailed || !strings.Contains(r.stderr, "port taken") || !strings.Contains(r.stderr, "choose another port") {
			t.Errorf("%s: exit %d: %s", flag, r.code, r.stderr)
		}
	}
}

func TestContextsAndPrecedenceReachTheCommand(t *testing.T) {
	t.Parallel()
	server := serveFleet(t, httpapitest.Fleet())
	file := filepath.Join(t.TempDir(), "c.yaml")
	if err := os.WriteFile(file, []byte("contexts:\n  lab: {server: \""+server+"\"}\n  gone: {server: \"http://127.0.0.1:1\"}\ncontext: gone\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if r := regent(t, "", "list", "--config", file); r.code != exitUnreachable {
		t.Errorf("the context of the file: exit %d", r.code)
	}
	if r := regent(t, "", "list", "--config", file, "--context", "lab"); r.code != exitDone {
		t.Errorf("the context of the flag: exit %d: %s", r.code, r.stderr)
	}
	if r := regentEnv(t, []string{"REGENT_CONFIG=" + file, "REGENT_CONTEXT=lab"}, "", "list"); r.code != exitDone {
		t.Errorf("the context of the environment: exit %d: %s", r.code, r.stderr)
	}
	if r := regentEnv(t, []string{"REGENT_CONFIG=" + file, "REGENT_SERVER=" + server}, "", "list"); r.code != exitDone {
		t.Errorf("the server of the environment: exit %d: %s", r.code, r.stderr)
	}
}

func TestCompletion(t *testing.T) {
	t.Parallel()
	for _, shell := range []string{"bash", "zsh", "fish", "powershell"} {
		if r := regent(t, "", "completion", shell); r.code != exitDone || !strings.Contains(r.stdout, "regent") {
			t.Errorf("%s: exit %d", shell, r.code)
		}
	}
	server := serveFleet(t, httpapitest.Fleet())
	for _, c := range []struct{ args, want string }{
		{"switchover ", "postgres/billing"}, {"get ", "postgres/orders/node/pg-1"}, {"command ", "SwitchoverCluster"}, {"workflows show ", "failover"},
	} {
		words := append(append([]string{"__complete"}, strings.Fields(c.args)...), "")
		if r := regentEnv(t, []string{"REGENT_SERVER=" + server}, "", words...); !strings.Contains(r.stdout, c.want) {
			t.Errorf("%q offers %q, want %s", c.args, r.stdout, c.want)
		}
	}
}
