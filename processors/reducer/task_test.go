package reducer

import (
	"bytes"
	"errors"
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
var codec = scribbling{avrocodec.Standalone(topics.Default())}

// scribbling is a codec whose decoders write over the bytes of an event as soon as it is over, so that whatever was kept of it shows.
type scribbling struct{ event.Codec }

func (c scribbling) NewDecoder() event.Decoder { return &scribbler{inner: c.Codec.NewDecoder()} }

type scribbler struct {
	inner event.Decoder
	last  []byte
}

func (s *scribbler) Decode(topic string, value []byte) (*event.Event, error) {
	for i := range s.last {
		s.last[i] = '!'
	}
	s.last = bytes.Clone(value)
	return s.inner.Decode(topic, s.last)
}

var (
	observationsTopic = topics.Observations(event.KindPostgres)
	heartbeatsTopic   = topics.Heartbeats(event.KindPostgres)
	stateTopic        = topics.State(event.KindPostgres)
)

// fakeTask is the runtime as one machine sees it: tables in memory, record after record. A record that is poison leaves nothing
// behind, as in the real one.
type fakeTask struct {
	def        stream.Definition
	machine    stream.Machine
	tables     map[string]map[string][]byte
	streamTime time.Time
	outs       []record.Record
	failing    error
}

func newFakeTask(def stream.Definition) *fakeTask {
	t := &fakeTask{def: def, tables: map[string]map[string][]byte{}}
	for _, table := range def.Tables {
		t.tables[table.Name] = map[string][]byte{}
	}
	t.restart()
	return t
}

// restart is a take-over: the tables stay, everything else is new.
func (t *fakeTask) restart() { t.machine = t.def.NewMachine(0) }

func (t *fakeTask) ID() int32             { return 0 }
func (t *fakeTask) StreamTime() time.Time { return t.streamTime }
func (t *fakeTask) CaughtUp() bool        { return true }
func (t *fakeTask) Generation() int64     { return 1 }

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
		for _, table := range t.def.Tables {
			if table.Source == t.def.Changelog {
				t.upsert(table.Name, out.Key, out.Value)
			}
		}
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

// process gives one record to the machine and returns what it emitted.
func (t *fakeTask) process(rec *record.Record) ([]record.Record, error) {
	if rec.Timestamp.After(t.streamTime) {
		t.streamTime = rec.Timestamp
	}
	for _, in := range t.def.Inputs {
		if in.Topic == rec.Topic && in.Table != "" {
			t.upsert(in.Table, rec.Key, rec.Value)
		}
	}
	before := t.snapshot()
	t.outs = nil
	if err := t.machine.Process(t, rec); err != nil {
		t.tables = before
		return nil, err
	}
	return t.outs, nil
}

func (t *fakeTask) snapshot() map[string]map[string][]byte {
	tables := map[string]map[string][]byte{}
	for name, entries := range t.tables {
		tables[name] = maps.Clone(entries)
	}
	return tables
}

func testConfig() Config { return Config{Instance: "test-instance", Codec: codec} }

func newPostgresTask(tb testing.TB, config Config) *fakeTask {
	tb.Helper()
	def, err := Postgres(config)
	if err != nil {
		tb.Fatal(err)
	}
	if err := def.Validate(); err != nil {
		tb.Fatal(err)
	}
	return newFakeTask(def)
}

// epoch is the beginning of time in tests.
var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func mustEncode(tb testing.TB, topic string, header schemas.EnvelopeHeader, payload any) []byte {
	tb.Helper()
	value, err := codec.Encode(topic, event.New(header, payload))
	if err != nil {
		tb.Fatal(err)
	}
	return value
}

// observation makes the record of an observation.
func observation(tb testing.TB, id event.ResourceID, sequence int64, at time.Time, offset int64, o *schemas.PostgresNodeObserved) *record.Record {
	header := schemas.EnvelopeHeader{
		ID: event.DeriveID(at, string(id), sequence), Source: "agent/" + id.Cluster().Name() + "/" + id.Node(),
		Cluster: string(id.Cluster()), Resource: string(id), OccurredAt: at, Sequence: sequence, BootID: "boot-1", CorrelationID: "workflow-7",
	}
	return &record.Record{
		Topic: observationsTopic, Offset: offset, Timestamp: at, Key: []byte(id), Value: mustEncode(tb, observationsTopic, header, o),
	}
}

func tombstone(id event.ResourceID, at time.Time, offset int64) *record.Record {
	return &record.Record{Topic: observationsTopic, Offset: offset, Timestamp: at, Key: []byte(id)}
}

func heartbeat(tb testing.TB, id event.ResourceID, at time.Time, offset int64, interval, suspectAfter time.Duration) *record.Record {
	header := schemas.EnvelopeHeader{
		ID: event.DeriveID(at, string(id), "beat"), Source: "agent/" + id.Cluster().Name() + "/" + id.Node(),
		Cluster: string(id.Cluster()), Resource: string(id), OccurredAt: at, Sequence: offset + 1, BootID: "boot-1",
	}
	beat := &schemas.NodeHeartbeat{
		Node: id.Node(), IntervalMs: int32(interval.Milliseconds()), SuspectAfterMs: int32(suspectAfter.Milliseconds()),
		Postmaster: schemas.PostmasterStatusRunning, Role: schemas.NodeRoleUnknown,
	}
	return &record.Record{
		Topic: heartbeatsTopic, Offset: offset, Timestamp: at, Key: []byte(id), Value: mustEncode(tb, heartbeatsTopic, header, beat),
	}
}

func ticked(tb testing.TB, at time.Time, offset int64) *record.Record {
	value := mustEncode(tb, heartbeatsTopic, schemas.EnvelopeHeader{ID: event.DeriveID(at, "tick")}, &schemas.StreamTicked{Instance: "test"})
	return &record.Record{Topic: heartbeatsTopic, Offset: offset, Timestamp: at, Key: []byte("tick/0"), Value: value}
}

// payloads decodes a table into payloads by key.
func payloads(tb testing.TB, topic string, entries map[string][]byte) map[string]any {
	tb.Helper()
	decoded := map[string]any{}
	for key, value := range entries {
		e, err := codec.Decode(topic, value)
		if err != nil {
			tb.Fatalf("decode %s: %v", key, err)
		}
		decoded[key] = e.Payload
	}
	return decoded
}

// poisonReason returns the reason if err is poison.
func poisonReason(err error) string {
	var p *stream.Poison
	if errors.As(err, &p) {
		return p.Reason
	}
	return ""
}
