package main

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"

	"github.com/regent-infra/regent/internal/httpapi/httpapitest"
)

// What people and programs read, letter by letter.
func TestOutputs(t *testing.T) {
	t.Parallel()
	server := serveFleet(t, httpapitest.Fleet())
	empty := serveFleet(t, &httpapitest.View{})
	for name, args := range map[string][]string{
		"status":              {"status"},
		"status.json":         {"status", "-o", "json"},
		"list":                {"list"},
		"list.wide":           {"list", "postgres/orders", "-o", "wide"},
		"topology":            {"topology", "postgres/orders"},
		"get":                 {"get"},
		"get.wide":            {"get", "postgres/orders/", "-o", "wide"},
		"get.type":            {"get", "--type", "PostgresClusterState"},
		"workflows":           {"workflows", "list"},
		"help":                {"--help"},
		"help.status":         {"status", "--help"},
		"help.switchover":     {"help", "switchover"},
		"help.exit-codes":     {"help", "exit-codes"},
		"config.show":         {"config", "show", "log"},
		"config.show.wide":    {"config", "show", "agent", "-o", "wide"},
		"config.show.changed": {"config", "show", "--changed", "--log-level", "debug"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if !strings.HasPrefix(name, "help") && !strings.HasPrefix(name, "config") {
				args = append(args, "--server", server)
			}
			r := regent(t, "", args...)
			if r.code != exitDone || r.stderr != "" {
				t.Fatalf("exit %d: %s", r.code, r.stderr)
			}
			golden(t, name, r.stdout)
		})
	}
	for name, args := range map[string][]string{"status.empty": {"status"}, "list.empty": {"list"}} {
		r := regent(t, "", append(args, "--server", empty)...)
		if r.code != exitDone {
			t.Fatalf("exit %d: %s", r.code, r.stderr)
		}
		golden(t, name, r.stdout)
	}
}

// Whole values grow with the schemas, so they are not pinned letter by letter.
func TestOneResource(t *testing.T) {
	t.Parallel()
	server := serveFleet(t, httpapitest.Fleet())
	for _, c := range []struct {
		args []string
		want []string
	}{
		{[]string{"get", "postgres/orders/node/pg-2"}, []string{
			"postgres/orders/node/pg-2  PostgresNodeState\ninfra.state.postgres.v1/3 offset 22, 1s ago\n\nnode: pg-2\nliveness: ALIVE\n",
		}},
		{[]string{"get", "postgres/orders", "-o", "json"}, []string{`"id": "postgres/orders",`, `"offset": 20`, `"writable": true`}},
		{[]string{"list", "postgres/billing", "-o", "yaml"}, []string{"clusters:\n    - id: postgres/billing\n", "analysis: DEAD_PRIMARY\n", "step: fence\n"}},
	} {
		r := regent(t, "", append(c.args, "--server", server)...)
		for _, want := range c.want {
			if r.code != exitDone || !strings.Contains(r.stdout, want) {
				t.Errorf("%v: exit %d, missing %q in %s", c.args, r.code, want, r.stdout)
			}
		}
	}
}

// The tables themselves are pinned where they are made; here it counts that each can be asked for by its name.
func TestEveryDecisionTableCanBeShown(t *testing.T) {
	t.Parallel()
	all := regent(t, "", "workflows", "show").stdout
	for _, name := range tableNames() {
		r := regent(t, "", "workflows", "show", name)
		if r.code != exitDone || len(r.stdout) < 100 || !strings.Contains(all, r.stdout) {
			t.Errorf("%s: exit %d: %s", name, r.code, r.stdout)
		}
	}
}

// JSON and YAML have the same fields.
func TestYAMLAndJSONSayTheSame(t *testing.T) {
	t.Parallel()
	server := serveFleet(t, httpapitest.Fleet())
	for _, args := range [][]string{{"status"}, {"list"}, {"get"}, {"get", "postgres/orders"}, {"workflows", "list"}, {"version"}, {"config", "show"}} {
		if args[0] != "version" && args[0] != "config" {
			args = append(args, "--server", server)
		}
		var j, y any
		if err := json.Unmarshal([]byte(regent(t, "", append(args, "-o", "json")...).stdout), &j); err != nil {
			t.Fatalf("%v: %v", args, err)
		}
		if err := yaml.Unmarshal([]byte(regent(t, "", append(args, "-o", "yaml")...).stdout), &y); err != nil {
			t.Fatalf("%v: %v", args, err)
		}
		a, _ := json.Marshal(j)
		b, _ := json.Marshal(stringTimes(y))
		if string(a) != string(b) {
			t.Errorf("%v:\n%s\n%s", args, a, b)
		}
	}
}

// stringTimes undoes that YAML reads a date as a time.
func stringTimes(v any) any {
	switch v := v.(type) {
	case time.Time:
		return v.Format(time.RFC3339Nano)
	case map[string]any:
		for key := range v {
			v[key] = stringTimes(v[key])
		}
	case []any:
		for i := range v {
			v[i] = stringTimes(v[i])
		}
	}
	return v
}

// Every command that does something says how it is used, and every flag what it is for.
func TestEveryCommandHasExamplesAndEveryFlagAUsage(t *testing.T) {
	t.Parallel()
	root := (&app{}).root()
	var visit func(*cobra.Command)
	visit = func(c *cobra.Command) {
		if c.Short == "" {
			t.Errorf("%s has no short help", c.CommandPath())
		}
		if c.Example == "" && c.Runnable() {
			t.Errorf("%s has no example", c.CommandPath())
		}
		for line := range strings.Lines(c.Example) {
			if line = strings.TrimSpace(line); line != "" && !strings.Contains(line, "regent") && !strings.HasPrefix(line, "--") {
				t.Errorf("%s: the example %q does not call regent", c.CommandPath(), line)
			}
		}
		if c.Parent() == root && c.GroupID == "" && c.Name() != "exit-codes" && c.Name() != "help" {
			t.Errorf("%s is in no group", c.CommandPath())
		}
		for _, sub := range c.Commands() {
			visit(sub)
		}
	}
	visit(root)
}

func TestTablesCountWhatATerminalShows(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	o := &output{out: &b, style: style{color: true}}
	tb := &table{header: []string{"A", "B"}, right: []int{1}}
	tb.add(o.style.health("DOWN"), "1")
	tb.add("übrig", "22")
	tb.printBoxed(o, "a title that is longer than the table")
	for i, line := range strings.Split(strings.TrimRight(b.String(), "\n"), "\n") {
		if i > 0 && width(line) != 14 {
			t.Errorf("line %d is %d wide: %q", i, width(line), line)
		}
	}
	if !strings.Contains(b.String(), "\x1b[") {
		t.Error("no colour was used")
	}
}

func TestDurationsAndSizes(t *testing.T) {
	t.Parallel()
	for d, want := range map[time.Duration]string{
		-time.Second: "0ms", 250 * time.Millisecond: "250ms", 59 * time.Second: "59s", 61 * time.Second: "1m01s", 25 * time.Hour: "25h00m", 49 * time.Hour: "2d01h",
	} {
		if got := short(d); got != want {
			t.Errorf("%s: got %s, want %s", d, got, want)
		}
	}
	for n, want := range map[int64]string{0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 5 << 20: "5.0 MiB", 3 << 40: "3.0 TiB"} {
		if got := sizeText(n); got != want {
			t.Errorf("%d: got %s, want %s", n, got, want)
		}
	}
	if got := lsn(0x1_0400_0028); got != "1/4000028" {
		t.Errorf("got %s", got)
	}
}
