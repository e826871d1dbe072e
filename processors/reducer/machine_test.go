package reducer

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/regent-infra/regent/internal/event"
	"github.com/regent-infra/regent/internal/record"
	"github.com/regent-infra/regent/internal/stream"
	"github.com/regent-infra/regent/internal/topics"
	"github.com/regent-infra/regent/schemas"
)

const (
	node1 = event.ResourceID("postgres/orders/node/pg-1")
	node2 = event.ResourceID("postgres/orders/node/pg-2")
)

func runningPrimary(node string) *schemas.PostgresNodeObserved {
	return &schemas.PostgresNodeObserved{
		Node: node, Postmaster: schemas.PostmasterStatusRunning, Role: schemas.NodeRolePrimary, AcceptingConnections: true, Term: 1,
		SystemIdentifier: "7001", Timeline: 1, WrittenLsn: 9000, Breaker: schemas.BreakerStatus{State: schemas.BreakerStateClosed, ChangedAt: epoch},
	}
}

// TestPoison: what cannot be read, or does not belong where it stands, is poison with a reason and a message that helps.
func TestPoison(t *testing.T) {
	t.Parallel()
	config := testConfig()
	config.Partitions = 4
	home := event.Partition("postgres/orders", 4)
	good := func() *record.Record {
		rec := observation(t, node1, 5, epoch, 1, runningPrimary("pg-1"))
		rec.Partition = home
		return rec
	}
	header := schemas.EnvelopeHeader{Cluster: "postgres/orders", Resource: string(node1), OccurredAt: epoch, Sequence: 1}
	encode := func(topic string, change func(*schemas.EnvelopeHeader), payload any) []byte {
		h := header
		change(&h)
		return mustEncode(t, topic, h, payload)
	}
	for name, c := range map[string]struct {
		rec           func() *record.Record
		reason, hints string
	}{
		"truncated": {func() *record.Record {
			rec := good()
			rec.Value = rec.Value[:len(rec.Value)-1]
			return rec
		}, "undecodable", ""},
		"foreign": {func() *record.Record {
			rec := good()
			rec.Value = []byte(`{"node":"pg-1"}`)
			return rec
		}, "undecodable", "0x7b"},
		"another partition": {func() *record.Record {
			rec := good()
			rec.Partition = (home + 1) % 4
			return rec
		}, "misaddressed", "murmur2"},
		"another key": {func() *record.Record {
			rec := good()
			rec.Key = []byte(node2)
			return rec
		}, "misaddressed", "the record's key is"},
		"no resource": {func() *record.Record {
			rec := good()
			rec.Value = encode(observationsTopic, func(h *schemas.EnvelopeHeader) { h.Resource = "pg-1" }, runningPrimary("pg-1"))
			rec.Key = []byte("pg-1")
			return rec
		}, "misaddressed", "parse resource id"},
		"a cluster": {func() *record.Record {
			rec := good()
			rec.Value = encode(observationsTopic, func(h *schemas.EnvelopeHeader) { h.Resource = h.Cluster }, runningPrimary("pg-1"))
			rec.Key = []byte("postgres/orders")
			return rec
		}, "misaddressed", "expected a node"},
		"another kind": {func() *record.Record {
			rec := good()
			rec.Value = encode(observationsTopic, func(h *schemas.EnvelopeHeader) { h.Resource = "kafka/orders/node/pg-1" }, runningPrimary("pg-1"))
			rec.Key = []byte("kafka/orders/node/pg-1")
			return rec
		}, "misaddressed", "expected a node"},
		"another cluster": {func() *record.Record {
			rec := good()
			rec.Value = encode(observationsTopic, func(h *schemas.EnvelopeHeader) { h.Cluster = "postgres/other" }, runningPrimary("pg-1"))
			return rec
		}, "misaddressed", "the event says cluster"},
		"another node": {func() *record.Record {
			rec := good()
			rec.Value = encode(observationsTopic, func(*schemas.EnvelopeHeader) {}, runningPrimary("pg-2"))
			return rec
		}, "malformed", "the observation says node"},
		"a tombstone of nothing": {func() *record.Record {
			rec := good()
			rec.Key, rec.Value = []byte("x"), nil
			return rec
		}, "misaddressed", "parse resource id"},
		"a heartbeat that deletes": {func() *record.Record {
			return &record.Record{Topic: heartbeatsTopic, Key: []byte(node1)}
		}, "malformed", "cannot be deleted"},
		"a heartbeat in a foreign partition": {func() *record.Record {
			rec := heartbeat(t, node1, epoch, 1, time.Second, 3*time.Second)
			rec.Partition = (home + 1) % 4
			return rec
		}, "misaddressed", "murmur2"},
		"an unreadable heartbeat": {func() *record.Record {
			return &record.Record{Topic: heartbeatsTopic, Key: []byte(node1), Value: []byte{0, 0}}
		}, "undecodable", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			task := newPostgresTask(t, config)
			outs, err := task.process(c.rec())
			if poisonReason(err) != c.reason || !strings.Contains(err.Error(), c.hints) || len(outs) > 0 {
				t.Errorf("got %v and %d outputs, want poison %s that says %q", err, len(outs), c.reason, c.hints)
			}
			if _, err := task.process(good()); err != nil || len(task.tables[StateTable]) != 2 {
				t.Errorf("afterwards a good record gave %v, %d states", err, len(task.tables[StateTable]))
			}
		})
	}
}

// brokenCodec fails as told; payloads pass for what they are otherwise.
type brokenCodec struct {
	event.Codec
	encode func(topic string, e *event.Event) error
	decode func(topic string) error
	swap   any
}

func (c *brokenCodec) Encode(topic string, e *event.Event) ([]byte, error) {
	if c.encode != nil {
		if err := c.encode(topic, e); err != nil {
			return nil, err
		}
	}
	return c.Codec.Encode(topic, e)
}

func (c *brokenCodec) NewDecoder() event.Decoder { return c }

func (c *brokenCodec) Decode(topic string, value []byte) (*event.Event, error) {
	if c.decode != nil {
		if err := c.decode(topic); err != nil {
			return nil, err
		}
	}
	e, err := c.Codec.Decode(topic, value)
	if err == nil && c.swap != nil {
		e.Payload = c.swap
	}
	return e, err
}

var errAway = errors.New("the registry does not answer")

// TestTransientFailuresAreNoPoison: while a service is away nothing is given up.
func TestTransientFailuresAreNoPoison(t *testing.T) {
	t.Parallel()
	broken := &brokenCodec{Codec: codec}
	config := testConfig()
	config.Codec = broken
	task := newPostgresTask(t, config)
	rec := observation(t, node1, 5, epoch, 1, runningPrimary("pg-1"))
	beat := heartbeat(t, node1, epoch, 1, time.Second, 3*time.Second)

	check := func(what string, rec *record.Record) {
		t.Helper()
		if _, err := task.process(rec); err == nil || poisonReason(err) != "" {
			t.Errorf("%s: got %v, want a plain error", what, err)
		}
	}
	broken.decode = func(string) error { return errAway }
	check("an input cannot be decoded", rec)
	check("a heartbeat cannot be decoded", beat)
	broken.decode = nil
	broken.encode = func(string, *event.Event) error { return errAway }
	check("the state cannot be encoded", rec)
	broken.encode = nil
	if _, err := task.process(rec); err != nil {
		t.Fatal(err)
	}
	task.failing = errAway
	check("the table cannot be read", observation(t, node1, 6, epoch, 2, runningPrimary("pg-1")))
	check("the table cannot be read for a tombstone", tombstone(node1, epoch, 3))
	check("the table cannot be read for a heartbeat", beat)
	task.failing = nil
	if outs, err := task.process(observation(t, node1, 6, epoch, 2, runningPrimary("pg-1"))); err != nil || len(outs) == 0 {
		t.Errorf("afterwards: %d outputs, %v", len(outs), err)
	}
	if _, err := task.process(&record.Record{Topic: "infra.elsewhere.v1"}); err == nil || poisonReason(err) != "" {
		t.Errorf("a topic that is no input: %v", err)
	}
}

// TestUnreadableOwnStateStops: what the reducer wrote and cannot read is no fault of the input.
func TestUnreadableOwnStateStops(t *testing.T) {
	t.Parallel()
	guarded := string(guardKey(node1))
	for name, c := range map[string]struct {
		key string
		rec *record.Record
	}{
		"a node's":               {string(node1), observation(t, node1, 5, epoch, 1, runningPrimary("pg-1"))},
		"a cluster's":            {"postgres/orders", observation(t, node1, 5, epoch, 1, runningPrimary("pg-1"))},
		"a guard's":              {guarded, observation(t, node1, 5, epoch, 1, runningPrimary("pg-1"))},
		"a node's, at take-over": {string(node1), ticked(t, epoch, 1)},
		"a guard, at take-over":  {guarded, ticked(t, epoch, 1)},
	} {
		for what, value := range map[string][]byte{
			"garbage": []byte("garbage"),
			"foreign": mustEncode(t, stateTopic, schemas.EnvelopeHeader{OccurredAt: epoch}, &schemas.PostgresClusterState{Health: schemas.HealthDown, Analysis: schemas.AnalysisCodeShutDown}),
		} {
			if what == "foreign" && name == "a cluster's" {
				continue
			}
			task := newPostgresTask(t, testConfig())
			task.tables[StateTable][c.key] = value
			if _, err := task.process(c.rec); err == nil || poisonReason(err) != "" {
				t.Errorf("%s state is %s: got %v, want a plain error", name, what, err)
			}
		}
	}
}

// TestUnwritableStateIsPoison: an observation that fits its record, but whose state does not, must not stop the partition.
func TestUnwritableStateIsPoison(t *testing.T) {
	t.Parallel()
	broken := &brokenCodec{Codec: codec}
	config := testConfig()
	config.Codec = broken
	task := newPostgresTask(t, config)
	broken.encode = func(_ string, e *event.Event) error {
		if s, ok := e.Payload.(*schemas.PostgresNodeState); ok && s.Observed.Host == "huge" {
			return errors.New("it takes 1048577 bytes, expected at most 1048576")
		}
		return nil
	}
	o := runningPrimary("pg-1")
	o.Host = "huge"
	if _, err := task.process(observation(t, node1, 5, epoch, 1, o)); poisonReason(err) != "unencodable" {
		t.Errorf("got %v, want poison", err)
	}
	if outs, err := task.process(observation(t, node1, 6, epoch, 2, runningPrimary("pg-1"))); err != nil || len(outs) != 2 {
		t.Errorf("afterwards: %d outputs, %v", len(outs), err)
	}
}

// TestSuspicionSurvivesADroppedRecord: a suspicion whose record was dropped after the fact (as poison, or by a panic) is told again
// within a second, although the soft state took it for told.
func TestSuspicionSurvivesADroppedRecord(t *testing.T) {
	t.Parallel()
	broken := &brokenCodec{Codec: codec}
	config := testConfig()
	config.Codec = broken
	task := newPostgresTask(t, config)
	at := epoch
	step := func(rec func() *record.Record) error {
		_, err := task.process(rec())
		return err
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(step(func() *record.Record { return observation(t, node1, 1, at, 1, runningPrimary("pg-1")) }))
	must(step(func() *record.Record { return heartbeat(t, node1, at, 1, 250*time.Millisecond, time.Second) }))
	broken.encode = func(_ string, e *event.Event) error {
		if s, ok := e.Payload.(*schemas.PostgresNodeState); ok && s.Liveness == schemas.LivenessSuspect {
			return errors.New("not now")
		}
		return nil
	}
	dropped := 0
	for range 6 {
		at = at.Add(250 * time.Millisecond)
		if poisonReason(step(func() *record.Record { return ticked(t, at, 2) })) != "" {
			dropped++
		}
	}
	if dropped == 0 {
		t.Fatal("no record was dropped: the test does not test")
	}
	broken.encode = nil
	for range 4 {
		at = at.Add(250 * time.Millisecond)
		must(step(func() *record.Record { return ticked(t, at, 3) }))
	}
	if s := payloads(t, stateTopic, task.tables[StateTable])[string(node1)].(*schemas.PostgresNodeState); s.Liveness != schemas.LivenessSuspect {
		t.Errorf("a second later it is still %s", s.Liveness)
	}
}

// TestViewsFollowTheTable: a view is dropped when the table has moved without it, as after an abort.
func TestViewsFollowTheTable(t *testing.T) {
	t.Parallel()
	task := newPostgresTask(t, testConfig())
	process := func(rec *record.Record) {
		t.Helper()
		if _, err := task.process(rec); err != nil {
			t.Fatal(err)
		}
	}
	process(observation(t, node1, 1, epoch, 1, runningPrimary("pg-1")))
	committed := task.snapshot()
	process(observation(t, node1, 2, epoch, 2, runningPrimary("pg-1")))
	process(observation(t, node2, 1, epoch, 3, runningPrimary("pg-2")))
	task.tables = committed // aborted: both are folded again
	process(heartbeat(t, node2, epoch, 1, time.Second, 3*time.Second))
	if _, there := task.tables[StateTable][string(node2)]; there {
		t.Fatal("a heartbeat brought an aborted node back")
	}
	process(observation(t, node1, 2, epoch, 2, runningPrimary("pg-1")))
	process(observation(t, node2, 1, epoch, 3, runningPrimary("pg-2")))
	states := payloads(t, stateTopic, task.tables[StateTable])
	if s := states[string(node1)].(*schemas.PostgresNodeState); s.ObservedSequence != 2 || s.ObservedOffset != 2 {
		t.Errorf("pg-1: %+v", s)
	}
	if s := states[string(node2)].(*schemas.PostgresNodeState); s.Liveness != schemas.LivenessAlive {
		t.Errorf("pg-2 is %s although it was heard", s.Liveness)
	}
	if c := states["postgres/orders"].(*schemas.PostgresClusterState); len(c.Members) != 2 {
		t.Errorf("cluster: %+v", c)
	}
}

// TestViewsAreBounded: more clusters than the cache holds are folded all the same.
func TestViewsAreBounded(t *testing.T) {
	t.Parallel()
	cache := newViewCache(codec, stateTopic)
	for i := range maxViewNodes/3 + 10 {
		cache.keep(event.ClusterID(fmt.Sprint("postgres/c", i)), &view{slots: make([]slot, 3)})
	}
	if cache.nodes > maxViewNodes || len(cache.views) > maxViewNodes/3 {
		t.Errorf("%d nodes of %d clusters are kept, at most %d may be", cache.nodes, len(cache.views), maxViewNodes)
	}
}

// TestEnvelopesOfStates checks what the outputs say besides their payload.
func TestEnvelopesOfStates(t *testing.T) {
	t.Parallel()
	config := testConfig()
	task := newPostgresTask(t, config)
	rec := observation(t, node1, 5, epoch.Add(time.Second), 7, runningPrimary("pg-1"))
	rec.Headers = []record.Header{{Key: "traceparent", Value: []byte("00-1-2-01")}, {Key: "other"}}
	outs, err := task.process(rec)
	if err != nil || len(outs) != 2 {
		t.Fatalf("%d outputs, %v", len(outs), err)
	}
	cause, _ := codec.Decode(observationsTopic, rec.Value)
	ids := map[string]bool{}
	for i, out := range outs {
		e, err := codec.Decode(stateTopic, out.Value)
		if err != nil {
			t.Fatal(err)
		}
		if !event.ValidID(e.ID) || ids[e.ID] || e.Source != "reducer.postgres/0" || e.Cluster != "postgres/orders" || e.Resource != string(out.Key) ||
			!e.OccurredAt.Equal(epoch.Add(time.Second)) || e.CausationID != cause.ID || e.CorrelationID != "workflow-7" || e.BootID != config.Instance || e.Sequence <= 0 {
			t.Errorf("output %d: %+v", i, e.EnvelopeHeader)
		}
		ids[e.ID] = true
		if string(out.Headers[0].Value) != "00-1-2-01" || len(out.Headers) != 1 || out.Partition != stream.OwnPartition {
			t.Errorf("output %d: headers %v, partition %d", i, out.Headers, out.Partition)
		}
	}
	// The same record folded again by another machine, as after an abort: the same bytes.
	again := newPostgresTask(t, config)
	repeated, err := again.process(rec)
	if err != nil || len(repeated) != 2 || !bytes.Equal(repeated[0].Value, outs[0].Value) || !bytes.Equal(repeated[1].Value, outs[1].Value) {
		t.Errorf("folded again it gave %d outputs, or others; %v", len(repeated), err)
	}
	// Sequences rise, over a deletion too.
	first, _ := codec.Decode(stateTopic, outs[0].Value)
	if _, err := task.process(tombstone(node1, epoch.Add(2*time.Second), 8)); err != nil {
		t.Fatal(err)
	}
	outs, err = task.process(observation(t, node1, 6, epoch.Add(3*time.Second), 9, runningPrimary("pg-1")))
	if err != nil {
		t.Fatal(err)
	}
	if e, _ := codec.Decode(stateTopic, outs[0].Value); e.Sequence <= first.Sequence {
		t.Errorf("sequence %d after %d", e.Sequence, first.Sequence)
	}
}

func TestDeadLetter(t *testing.T) {
	t.Parallel()
	def, err := Postgres(testConfig())
	if err != nil {
		t.Fatal(err)
	}
	big := bytes.Repeat([]byte("x"), 1<<20)
	for name, rec := range map[string]*record.Record{
		"small":     {Topic: observationsTopic, Partition: 3, Offset: 9, Timestamp: epoch, Key: []byte("k"), Value: []byte("v")},
		"big":       {Topic: observationsTopic, Partition: 3, Offset: 9, Timestamp: epoch, Key: []byte("k"), Value: big},
		"tombstone": {Topic: observationsTopic, Partition: 3, Offset: 9, Timestamp: epoch},
	} {
		out, err := def.DeadLetter(rec, "undecodable", errors.New(strings.Repeat("long ", 100_000)))
		if err != nil {
			t.Fatal(err)
		}
		e, err := codec.Decode(topics.DeadLetter, out.Value)
		if err != nil {
			t.Fatal(err)
		}
		l := e.Payload.(*schemas.DeadLetter)
		if string(out.Key) != observationsTopic+"/3/9" || out.Topic != topics.DeadLetter || out.Partition != 0 ||
			l.Topic != rec.Topic || l.Partition != 3 || l.Offset != 9 || !l.Timestamp.Equal(epoch) || l.Reader != PostgresName || l.Reason != "undecodable" ||
			l.ValueSize != int64(len(rec.Value)) || l.Truncated != (name == "big") || (l.Value == nil) != (rec.Value == nil) || (l.Key == nil) != (rec.Key == nil) {
			t.Errorf("%s: %+v under %s", name, l, out.Key)
		}
		if l.Value != nil && !bytes.HasPrefix(rec.Value, *l.Value) {
			t.Errorf("%s: other bytes", name)
		}
	}
	config := testConfig()
	config.Codec = &brokenCodec{Codec: codec, encode: func(string, *event.Event) error { return errAway }}
	def, _ = Postgres(config)
	if _, err := def.DeadLetter(&record.Record{}, "x", errAway); !errors.Is(err, errAway) {
		t.Errorf("got %v", err)
	}
	if _, err := def.Tick.Make(0); !errors.Is(err, errAway) {
		t.Errorf("got %v", err)
	}
}

func TestTick(t *testing.T) {
	t.Parallel()
	def, err := Postgres(testConfig())
	if err != nil {
		t.Fatal(err)
	}
	rec, err := def.Tick.Make(3)
	if err != nil {
		t.Fatal(err)
	}
	e, err := codec.Decode(heartbeatsTopic, rec.Value)
	if err != nil {
		t.Fatal(err)
	}
	if p, ok := e.Payload.(*schemas.StreamTicked); !ok || p.Task != 3 || p.Instance != "test-instance" || rec.Partition != 3 || rec.Topic != heartbeatsTopic {
		t.Errorf("%+v in %+v", e, rec)
	}
}

func TestConfigReportsAllFaults(t *testing.T) {
	t.Parallel()
	for _, make := range []func(Config) (stream.Definition, error){Postgres, Fleet} {
		_, err := make(Config{Partitions: -1, HistoryWindow: -1, TickEvery: -1})
		for _, want := range []string{"Instance is empty", "Codec is nil", "Partitions is -1", "HistoryWindow is -1ns", "TickEvery is -1ns"} {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%v does not say %q", err, want)
			}
		}
	}
}
