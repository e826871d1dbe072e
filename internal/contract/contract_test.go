package contract

import (
	"strings"
	"testing"
	"time"

	"github.com/regent-infra/regent/internal/topics"
)

const good = `name: orchestrator.postgres
type: ORCHESTRATOR
version: 1.0.0
description: Drives failover.
capabilities: [failover, switchover]
consumes:
  - topic: infra.commands.postgres.v1
    records: [SwitchoverCluster, FailoverCluster]
    ignores: [InitializeCluster, CheckHealth, RestartNode, ReinitializeNode, StartCluster, ShutdownCluster]
  - topic: infra.heartbeats.postgres.v1
    records: [NodeHeartbeat, StreamTicked]
produces:
  - topic: infra.outcomes.postgres.v1
    records: [CommandAccepted]
commands:
  - record: SwitchoverCluster
    idempotency: BY_EVENT_ID
    timeout: 5m
    description: Hands over.
  - record: FailoverCluster
    idempotency: BY_TERM
    timeout: 1m
    description: Takes over.
errors:
  retry: {attempts: 3, initial_delay: 100ms, max_delay: 5s}
  circuit_breaker: {failures: 5, open_for: 10s}
  timeouts: {step: 30s}
  poison: DEAD_LETTER
dependencies:
  - {name: kafka, required: true, description: The log.}
health:
  - {name: lag, failing: DEGRADED, description: Reads in time.}
`

var handlers = []string{"SwitchoverCluster", "FailoverCluster"}

func TestAGoodContract(t *testing.T) {
	t.Parallel()
	c, err := Parse("contract.yaml", []byte(good))
	if err != nil {
		t.Fatal(err)
	}
	if c.Commands[0].Timeout != 5*time.Minute || c.Errors.CircuitBreaker.Failures != 5 || !c.Dependencies[0].Required {
		t.Errorf("read as %+v", c)
	}
	if err := Check(c, topics.Default(), handlers); err != nil {
		t.Error(err)
	}
}

func TestParseNamesEveryFault(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		old, replacement string
		want             []string
	}{
		"unknown field":  {"version: 1.0.0", "version: 1.0.0\ncolour: red", []string{`line 4: unknown field "colour"`}},
		"wrong type":     {"attempts: 3", "attempts: many", []string{`line 25: found text "many", expected a whole number (int)`}},
		"wrong duration": {"timeout: 5m", "timeout: soon", []string{`line 18: found text "soon", expected a duration such as 5s`, "line 18: timeout of SwitchoverCluster is 0s"}},
		"repeated field": {"version: 1.0.0", "version: 1.0.0\nname: x", []string{`mapping key "name" already defined at line 1`}},
		"head": {good[:strings.Index(good, "consumes")], "name: X\ntype: KING\nversion: one\ncapabilities: [A b, A b]\n", []string{
			`line 1: name is "X", expected role or role.kind`, `line 2: type is "KING", expected one of EFFECT, REDUCER, ORCHESTRATOR, PROJECTOR`,
			`line 3: version is "one"`, "description is missing", `line 4: capability "A b" is not made of a-z`, "line 4: capability A b is listed twice",
		}},
		"reducers accept no commands": {"type: ORCHESTRATOR", "type: REDUCER", []string{"line 16: a part of type REDUCER accepts no commands, it only follows facts"}},
		"topics": {"  - topic: infra.heartbeats.postgres.v1\n    records: [NodeHeartbeat, StreamTicked]", "  - topic: infra.commands.postgres.v1\n    records: [A, A]\n  - records: []", []string{
			"line 10: topic infra.commands.postgres.v1 is consumed twice", "lists record A twice", "line 12: topic is missing", "has no records",
		}},
		"commands": {"  - record: FailoverCluster\n    idempotency: BY_TERM\n    timeout: 1m\n    description: Takes over.", "  - record: SwitchoverCluster\n    idempotency: LUCK\n    timeout: -1s\n  - record: StopPostgres\n    idempotency: NATURAL\n    timeout: 1s\n    description: x\n  - idempotency: NATURAL", []string{
			`idempotency of SwitchoverCluster is "LUCK", expected one of BY_EVENT_ID, BY_TERM, NATURAL`, "timeout of SwitchoverCluster is -1s, expected a positive duration",
			"description of SwitchoverCluster is missing", "command SwitchoverCluster is listed twice", "command StopPostgres is in the records of no consumed topic", "record is missing",
		}},
		"errors": {good[strings.Index(good, "errors"):strings.Index(good, "dependencies")], "errors:\n  retry: {attempts: -1, initial_delay: 5s, max_delay: 1s}\n  circuit_breaker: {failures: 0}\n  timeouts: {Step: 1s, x: 0s}\n  poison: SHRUG\n", []string{
			"retry attempts are -1", "retry delays are 5s to 1s", "opens after 0 failures for 0s", `timeout "Step" is 1s`, `timeout "x" is 0s`, `poison is "SHRUG", expected one of DEAD_LETTER, STOP`,
		}},
		"surroundings": {good[strings.Index(good, "dependencies"):], "dependencies: [{name: K}]\nhealth: [{name: lag, failing: SAD}]\n", []string{
			`dependency "K" lacks a name`, `condition "lag" lacks`, `failing of lag is "SAD", expected one of DEGRADED, DOWN`,
		}},
		"nothing": {good, "name: reducer.postgres\ntype: REDUCER\n", []string{
			"version is \"\"", "capabilities are missing", "consumes is missing", "produces is missing, expected at least one topic of a part of type REDUCER", "timeouts are missing", "health is missing",
		}},
		"empty":  {good, "", []string{"read contract.yaml: 1 fault:\n  the file is empty"}},
		"a list": {good, "- a", []string{"line 1: found a list, expected a mapping"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			text := strings.Replace(good, c.old, c.replacement, 1)
			if text == good {
				t.Fatal("the case changes nothing")
			}
			parsed, err := Parse("contract.yaml", []byte(text))
			if err == nil || parsed != nil {
				t.Fatal("accepted")
			}
			for _, want := range c.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("missing %q in\n%v", want, err)
				}
			}
		})
	}
}

func TestCheckNamesEveryFault(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		old, replacement string
		handlers         []string
		want             []string
	}{
		"topic":             {"infra.outcomes.postgres.v1", "infra.outcomes.mysql.v1", handlers, []string{"line 13: topic infra.outcomes.mysql.v1 is not declared in topics.yaml"}},
		"record":            {"[CommandAccepted]", "[CommandAccepted, CommandLost]", handlers, []string{"line 13: record CommandLost does not exist in schemas/"}},
		"record elsewhere":  {"[CommandAccepted]", "[FleetState]", handlers, []string{"line 13: topic infra.outcomes.postgres.v1 does not carry record FleetState"}},
		"forgotten payload": {"[NodeHeartbeat, StreamTicked]", "[NodeHeartbeat]", handlers, []string{"line 10: topic infra.heartbeats.postgres.v1 also carries StreamTicked, which is neither in records nor in ignores"}},
		"not a command":     {"ignores: [InitializeCluster, ", "ignores: [", handlers, []string{"also carries InitializeCluster"}},
		"consumed, no command": {"[SwitchoverCluster, FailoverCluster]\n    ignores: [InitializeCluster,", "[SwitchoverCluster, FailoverCluster, InitializeCluster]\n    ignores: [", handlers, []string{
			"line 7: record InitializeCluster of infra.commands.postgres.v1 is consumed but is not in commands",
		}},
		"no handler": {"Drives failover.", "Drives.", handlers[:1], []string{"line 20: command FailoverCluster has no handler in code"}},
		"handler too many": {"Drives failover.", "Drives.", append([]string{"RestartNode", "CheckHealth"}, handlers...), []string{
			"line 16: the code has a handler for CheckHealth, which is no command of the contract", "the code has a handler for RestartNode",
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			parsed, err := Parse("contract.yaml", []byte(strings.Replace(good, c.old, c.replacement, 1)))
			if err != nil {
				t.Fatal(err)
			}
			err = Check(parsed, topics.Default(), c.handlers)
			for _, want := range c.want {
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("missing %q in\n%v", want, err)
				}
			}
		})
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(good))
	f.Add([]byte("commands: [{}]\nconsumes: [{records: [a, a]}]\n"))
	f.Add([]byte("errors: {timeouts: {? [a] : 1s}}\n"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		c, err := Parse("contract.yaml", raw)
		if (c == nil) == (err == nil) {
			t.Fatalf("contract %v, err %v", c, err)
		}
		if c != nil {
			_ = Check(c, topics.Default(), nil)
		}
	})
}
