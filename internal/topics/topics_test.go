package topics

import (
	"strings"
	"testing"

	"github.com/regent-infra/regent/internal/event"
	"github.com/regent-infra/regent/schemas"
)

func TestNamesAndDeclarationAgree(t *testing.T) {
	t.Parallel()
	const kind = event.KindPostgres
	named := []string{
		Observations(kind), Heartbeats(kind), Commands(kind), Orders(kind), State(kind), Workflows(kind), Outcomes(kind), Leases(kind),
		FleetState, DeadLetter,
	}
	set := Default()
	for _, name := range named {
		if _, ok := set.Topic(name); !ok {
			t.Errorf("%s is named in code but not declared in topics.yaml", name)
		}
	}
	if got := len(set.All()); got != len(named) {
		t.Errorf("topics.yaml declares %d topics, code names %d: %v", got, len(named), set.Names())
	}
}

func TestTopicsOfAKindShareOnePartitionCount(t *testing.T) {
	t.Parallel()
	set := Default()
	for _, topic := range set.All() {
		if topic.Kind != "" && topic.Partitions != set.Partitions(topic.Kind) {
			t.Errorf("%s has %d partitions, its kind %d", topic.Name, topic.Partitions, set.Partitions(topic.Kind))
		}
		if topic.Config["message.timestamp.type"] != "LogAppendTime" {
			t.Errorf("%s does not take the broker's time", topic.Name)
		}
	}
}

func TestEveryCommandAndOrderHasATopic(t *testing.T) {
	t.Parallel()
	set := Default()
	homes := map[string][]string{}
	for topic, payloads := range set.Payloads() {
		for _, p := range payloads {
			homes[p] = append(homes[p], topic)
		}
	}
	for record, in := range homes {
		if len(in) != 1 {
			t.Errorf("%s is a payload of %v, expected one topic", record, in)
		}
	}
	for _, record := range []any{&schemas.SwitchoverCluster{}, &schemas.PromotePostgres{}, &schemas.Workflow{}, &schemas.DeadLetter{}} {
		if name := schemas.RecordName(record); homes[name] == nil {
			t.Errorf("%s is a payload of no topic", name)
		}
	}
}

func TestWithReplicationFactorLowersTheInSyncReplicas(t *testing.T) {
	t.Parallel()
	for factor, isr := range map[int16]string{1: "1", 2: "1", 3: "2", 5: "2"} {
		topic, _ := Default().WithReplicationFactor(factor).Topic(DeadLetter)
		if topic.ReplicationFactor != factor || topic.Config["min.insync.replicas"] != isr {
			t.Errorf("with %d replicas: %d replicas, %s in sync, want %s", factor, topic.ReplicationFactor, topic.Config["min.insync.replicas"], isr)
		}
	}
	if topic, _ := Default().Topic(DeadLetter); topic.ReplicationFactor != 3 || topic.Config["min.insync.replicas"] != "2" {
		t.Errorf("the declaration itself changed: %+v", topic)
	}
}

func TestWithPartitions(t *testing.T) {
	t.Parallel()
	set := Default().WithPartitions(event.KindPostgres, 12)
	topic, _ := set.Topic(Orders(event.KindPostgres))
	fleet, _ := set.Topic(FleetState)
	if topic.Partitions != 12 || set.Partitions(event.KindPostgres) != 12 || fleet.Partitions != 1 {
		t.Errorf("orders has %d, the kind %d, the fleet %d", topic.Partitions, set.Partitions(event.KindPostgres), fleet.Partitions)
	}
	if Default().Partitions(event.KindPostgres) == 12 {
		t.Error("the declaration itself changed")
	}
}

func TestParseNamesEveryFault(t *testing.T) {
	t.Parallel()
	const text = `version: 2
replication_factor: 1
config:
  min.insync.replicas: "2"
  retention.hours: "3"
kinds:
  postgres: {partitions: 0}
topics:
  - name: infra.orders.kafka.v1
    kind: postgres
    description: x
    owner: nobody
    key: resource
    payloads: [PostgresNodeObserved, Nonsense, PostgresNodeObserved]
    compatibility: SOME
    partitions: 3
    cleanup: compact
    colour: red
    config:
      retention.ms: "-7"
      cleanup.policy: delete
      message.timestamp.type: Never
  - name: Infra
    description: x
    owner: agent
    key: resource
    payloads: []
    compatibility: NONE
    cleanup: sometimes
  - name: Infra
    kind: consul
    partitions: many
`
	_, err := Parse("topics.yaml", []byte(text))
	if err == nil {
		t.Fatal("accepted")
	}
	for _, want := range []string{
		"line 1: version is 2, expected 1",
		"line 5: retention.hours is no topic setting of Kafka that Regent knows",
		"line 7: kind postgres has 0 partitions, expected 1 to 10000",
		"line 9: topic infra.orders.kafka.v1 is of kind postgres, expected .postgres. in its name",
		"line 9: topic infra.orders.kafka.v1: min.insync.replicas is 2, but there are only 1 replicas",
		`line 12: topic infra.orders.kafka.v1: owner is "nobody", expected one of agent, operator, orchestrator, reducer, everyone`,
		`line 14: topic infra.orders.kafka.v1: payload "Nonsense" is no record in schemas/`,
		"line 14: topic infra.orders.kafka.v1: payload PostgresNodeObserved is listed twice",
		`line 15: topic infra.orders.kafka.v1: compatibility is "SOME", expected one of NONE, BACKWARD`,
		"line 16: topic infra.orders.kafka.v1 takes its partitions from its kind, so it must not have its own",
		`line 18: unknown field "colour"`,
		`line 20: retention.ms is "-7", expected a whole number of at least -1`,
		"line 20: topic infra.orders.kafka.v1 is compacted, so retention.ms does nothing",
		"line 21: cleanup.policy is set by the field cleanup, not in config",
		`line 22: message.timestamp.type is "Never", expected one of LogAppendTime, CreateTime`,
		`line 23: topic name "Infra" is not infra.<role>.<kind>.v<n> or infra.<role>.v<n>`,
		"line 23: topic Infra has 0 partitions, expected 1 to 10000",
		"line 23: topic Infra has no payloads",
		`line 29: topic Infra: cleanup is "sometimes", expected one of compact, delete`,
		"line 30: topic Infra is declared twice, first on line 23",
		"line 30: topic Infra has no description",
		`line 31: topic Infra is of kind "consul", which kinds does not declare`,
		`line 32: found text "many", expected a whole number (int32)`,
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("missing: %s", want)
		}
	}
	if t.Failed() {
		t.Log(err)
	}
}

func TestParseRefusesWhatIsNoDeclaration(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"":              "read topics.yaml: 1 fault:\n  the file is empty",
		"version: 1\n":  "there are no topics, expected at least one",
		"- a\n":         "line 1: found a list, expected a mapping",
		"version: [1]}": "did not find expected key",
	} {
		if _, err := Parse("topics.yaml", []byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Parse(%q) = %v, want %q in it", text, err, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("version: 1\ntopics:\n  - name: infra.a.v1\n"))
	f.Add([]byte("kinds: {postgres: {partitions: -1}}\ntopics: [{kind: postgres, payloads: [X, X]}]\n"))
	f.Add([]byte("topics: [{config: {retention.ms: x}}, {}]\n"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		set, err := Parse("topics.yaml", raw)
		if (set == nil) == (err == nil) {
			t.Fatalf("set %v, err %v", set, err)
		}
	})
}
