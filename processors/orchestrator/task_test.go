package orchestrator

import (
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/regent-infra/regent/internal/avrocodec"
	"github.com/regent-infra/regent/internal/event"
	"github.com/regent-infra/regent/internal/record"
	"github.com/regent-infra/regent/internal/stream"
	"github.com/regent-infra/regent/internal/topics"
	"github.com/regent-infra/regent/schemas"
)

// codec is shared by the tests: making one parses every schema.
var codec = avrocodec.Standalone(topics.Default())

var (
	stateTopic      = topics.State(event.KindPostgres)
	commandsTopic   = topics.Commands(event.KindPostgres)
	heartbeatsTopic = topics.Heartbeats(event.KindPostgres)
	workflowsTopic  = topics.Workflows(event.KindPostgres)
)

const cluster = event.ClusterID("postgres/orders")

var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// fakeTask is the runtime as one machine sees it: tables in memory, record after record.
type fakeTask struct {
	tb         testing.TB
	def        stream.Definition
	machine    stream.Machine
	tables     map[string]map[string][]byte
	streamTime time.Time
	caughtUp   bool
	generation int64
	outs       []record.Record
	offsets    map[string]int64
	partition  int32
	failing    error
}

func newTask(tb testing.TB, config Config) *fakeTask {
	tb.Helper()
	def, err := Postgres(config)
	if err != nil {
		tb.Fatal(err)
	}
	if err := def.Validate(); err != nil {
		tb.Fatal(err)
	}
	t := &fakeTask{tb: tb, def: def, tables: map[string]map[string][]byte{}, caughtUp: true, generation: 1, offsets: map[string]int64{}, streamTime: epoch}
	for _, table := range def.Tables {
		t.tables[table.Name] = map[string][]byte{}
	}
	t.machine = def.NewMachine(0)
	return t
}

func testConfig() Config { return Config{Instance: "test-instance", Version: "1.2.3", Codec: codec} }

func (t *fakeTask) ID() int32             { return t.partition }
func (t *fakeTask) StreamTime() time.Time { return t.streamTime }
func (t *fakeTask) CaughtUp() bool        { return t.caughtUp }
func (t *fakeTask) Generation() int64     { return t.generation }

func (t *fakeTask) Get(table string, key []byte) ([]byte, error) {
	return t.tables[table][string(key)], t.failing
}

func (t *fakeTask) Range(table string, prefix []byte) iter.Seq2[[]byte, []byte] {
	entries := maps.Clone(t.tables[table])
	return func(yield func([]byte, []byte) bool) {
		for _, key := range slices.Sorted(maps.Keys(entries)) {
			if strings.HasPrefix(key, string(prefix)) && !yield([]byte(key), entries[key]) {
				return
			}
		}
	}
}

func (t *fakeTask) Emit(out record.Record) {
	if out.Topic == t.def.Changelog {
		t.upsert(WorkflowsTable, out.Key, out.Value)
	} else if !slices.Contains(t.def.Outputs, out.Topic) {
		t.tb.Fatalf("an output to %s is not declared", out.Topic)
	}
	t.outs = append(t.outs, out)
}

func (t *fakeTask) upsert(table string, key, value []byte) {
	if value == nil {
		delete(t.tables[table], string(key))
	} else {
		t.tables[table][string(key)] = value
	}
}

// takeOver is a new assignment: the tables stay, everything else is new.
func (t *fakeTask) takeOver() {
	t.generation++
	t.machine = t.def.NewMachine(t.partition)
}

// try processes a record without keeping what came of it: an aborted transaction. The machine keeps what it remembers.
func (t *fakeTask) try(rec *record.Record) ([]record.Record, error) {
	before := map[string]map[string][]byte{}
	for name, entries := range t.tables {
		before[name] = maps.Clone(entries)
	}
	at := t.streamTime
	outs, err := t.process(rec)
	t.tables, t.streamTime = before, at
	return outs, err
}

func (t *fakeTask) process(rec *record.Record) ([]record.Record, error) {
	if rec.Timestamp.After(t.streamTime) {
		t.streamTime = rec.Timestamp
	}
	for _, in := range t.def.Inputs {
		if in.Topic == rec.Topic && in.Table != "" {
			t.upsert(in.Table, rec.Key, rec.Value)
		}
	}
	t.outs = nil
	err := t.machine.Process(t, rec)
	return t.outs, err
}

// must processes a record and decodes what came of it.
func (t *fakeTask) must(rec *record.Record) []*event.Event {
	t.tb.Helper()
	outs, err := t.process(rec)
	if err != nil {
		t.tb.Fatal(err)
	}
	return t.events(outs)
}

func (t *fakeTask) events(outs []record.Record) []*event.Event {
	t.tb.Helper()
	var events []*event.Event
	for _, out := range outs {
		if out.Value == nil {
			events = append(events, &event.Event{EnvelopeHeader: schemas.EnvelopeHeader{Type: "tombstone", Resource: string(out.Key)}})
			continue
		}
		e, err := codec.Decode(out.Topic, out.Value)
		if err != nil {
			t.tb.Fatal(err)
		}
		events = append(events, e)
	}
	return events
}

func (t *fakeTask) record(topic, key string, value []byte) *record.Record {
	t.offsets[topic]++
	return &record.Record{Topic: topic, Partition: t.partition, Offset: t.offsets[topic], Timestamp: t.streamTime, Key: []byte(key), Value: value}
}

func (t *fakeTask) command(id string, payload any) *record.Record {
	t.tb.Helper()
	return t.commandTo(cluster, id, payload)
}

func (t *fakeTask) commandTo(cluster event.ClusterID, id string, payload any) *record.Record {
	t.tb.Helper()
	value, err := codec.Encode(commandsTopic, event.New(schemas.EnvelopeHeader{
		ID: id, Source: "cli/tester", Cluster: string(cluster), Resource: string(cluster), OccurredAt: t.streamTime,
	}, payload))
	if err != nil {
		t.tb.Fatal(err)
	}
	return t.record(commandsTopic, string(cluster), value)
}

func (t *fakeTask) beat(after time.Duration) *record.Record {
	t.streamTime = t.streamTime.Add(after)
	// Not even decodable: heartbeats only let time pass.
	return t.record(heartbeatsTopic, string(cluster.Node("pg-1")), []byte("beat"))
}

// node is the state of one node as the reducer would say it.
func (t *fakeTask) node(o schemas.PostgresNodeObserved, sequence int64) *record.Record {
	t.tb.Helper()
	o.Host, o.Port = o.Node, 5432
	o.Breaker = schemas.BreakerStatus{State: schemas.BreakerStateClosed, ChangedAt: epoch}
	if o.Role == "" {
		o.Role = schemas.NodeRoleUnknown
	}
	n := &schemas.PostgresNodeState{
		Node: o.Node, Liveness: schemas.LivenessAlive, Health: schemas.HealthHealthy, Observed: o, ObservedAt: t.streamTime,
		ObservedSequence: sequence, ObservedTopic: topics.Observations(event.KindPostgres), ObservedOffset: sequence, ObservedBootID: "boot-1",
	}
	return t.state(string(cluster.Node(o.Node)), n)
}

func (t *fakeTask) state(key string, payload any) *record.Record {
	t.tb.Helper()
	value, err := codec.Encode(stateTopic, event.New(schemas.EnvelopeHeader{
		ID: event.DeriveID(t.streamTime, key, t.offsets[stateTopic]), Cluster: string(cluster), Resource: key, OccurredAt: t.streamTime,
	}, payload))
	if err != nil {
		t.tb.Fatal(err)
	}
	return t.record(stateTopic, key, value)
}

func id(n int) string { return fmt.Sprintf("0198c000-0000-7000-8000-%012d", n) }

func requested() schemas.CommandMeta { return schemas.CommandMeta{RequestedBy: "tester"} }

func initialize() *schemas.InitializeCluster {
	return &schemas.InitializeCluster{
		Meta: requested(),
		Members: []schemas.ClusterMember{
			{Node: "pg-1", Host: "10.0.0.1", Port: 5432, FailoverPriority: 100},
			{Node: "pg-2", Host: "10.0.0.2", Port: 5432, FailoverPriority: 100},
		},
		Policy: schemas.ClusterPolicy{
			Version: 1, SynchronousMode: schemas.SynchronousModeQuorum, SynchronousCount: 1,
			FailoverMode: schemas.FailoverModeAutomatic, CrashAction: schemas.CrashActionFailover,
		},
	}
}

func types(events []*event.Event) []string {
	var names []string
	for _, e := range events {
		names = append(names, e.Type)
	}
	return names
}

func find[T any](events []*event.Event) *T {
	for _, e := range events {
		if p, ok := e.Payload.(*T); ok {
			return p
		}
	}
	return nil
}

func asJSON(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return string(b)
}

func isPoison(err error) bool {
	var p *stream.Poison
	return errors.As(err, &p)
}
