package reducer

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/regent-infra/regent/internal/event"
	"github.com/regent-infra/regent/internal/record"
	"github.com/regent-infra/regent/processors/fold"
	"github.com/regent-infra/regent/schemas"
)

// History is a random past of two clusters in one partition: what stands in each of the two input partitions.
type history struct {
	observations, heartbeats []*record.Record
	// sequence is the last one per node.
	sequence map[event.ResourceID]int64
}

var universe = []event.ResourceID{
	"postgres/a/node/n1", "postgres/a/node/n2", "postgres/a/node/n3", "postgres/b/node/n1", "postgres/b/node/n2",
}

// drawObservation makes a plausible observation: roles, terms and links that contradict each other as they do in trouble.
func drawObservation(t *rapid.T, id event.ResourceID, at time.Time) *schemas.PostgresNodeObserved {
	o := &schemas.PostgresNodeObserved{
		Node: id.Node(), Host: id.Node(), Port: 5432,
		Postmaster: rapid.SampledFrom([]schemas.PostmasterStatus{
			schemas.PostmasterStatusRunning, schemas.PostmasterStatusRunning, schemas.PostmasterStatusRunning, schemas.PostmasterStatusStopped,
			schemas.PostmasterStatusCrashed, schemas.PostmasterStatusAbsent, schemas.PostmasterStatusStarting,
		}).Draw(t, "postmaster"),
		Role:                 rapid.SampledFrom([]schemas.NodeRole{schemas.NodeRolePrimary, schemas.NodeRoleStandby, schemas.NodeRoleStandby, schemas.NodeRoleUnknown}).Draw(t, "role"),
		AcceptingConnections: rapid.IntRange(0, 4).Draw(t, "accepting") > 0,
		SystemIdentifier:     rapid.SampledFrom([]string{"7001", "7001", "7001", "4711", ""}).Draw(t, "system"),
		Timeline:             rapid.Int64Range(0, 2).Draw(t, "timeline"),
		WrittenLsn:           rapid.Int64Range(0, 20).Draw(t, "written") * 5000,
		ReplayedLsn:          rapid.Int64Range(0, 20).Draw(t, "replayed") * 5000,
		Term:                 rapid.Int64Range(0, 3).Draw(t, "term"),
		Upstream:             rapid.SampledFrom([]string{"", "n1", "n2"}).Draw(t, "upstream"),
		Breaker:              schemas.BreakerStatus{State: schemas.BreakerStateClosed, ChangedAt: epoch},
	}
	if rapid.Bool().Draw(t, "receiver") {
		o.Receiver = &schemas.WalReceiver{Status: "streaming", Timeline: o.Timeline, LastMessageReceivedAt: &at}
	}
	if rapid.Bool().Draw(t, "sender") {
		o.Senders = []schemas.WalSender{{ApplicationName: "n2-t1", State: "streaming", SyncState: "quorum", ReplayLsn: o.WrittenLsn}}
	}
	if o.RenouncedTerm = 0; rapid.IntRange(0, 5).Draw(t, "renounced") == 0 {
		o.RenouncedTerm = o.Term
	}
	return o
}

// drawHistory makes a history. tombstones says whether nodes are forgotten, too.
func drawHistory(t *rapid.T, tb testing.TB, tombstones bool) *history {
	h := &history{sequence: map[event.ResourceID]int64{}}
	at := epoch
	for i := range rapid.IntRange(1, 25).Draw(t, "observations") {
		at = at.Add(time.Duration(rapid.IntRange(0, 500).Draw(t, "step")) * time.Millisecond)
		id := rapid.SampledFrom(universe).Draw(t, "node")
		if tombstones && rapid.IntRange(0, 6).Draw(t, "tombstone") == 0 {
			h.observations = append(h.observations, tombstone(id, at, int64(i)))
			continue
		}
		h.sequence[id] += rapid.Int64Range(1, 3).Draw(t, "sequence")
		h.observations = append(h.observations, observation(tb, id, h.sequence[id], at, int64(i), drawObservation(t, id, at)))
	}
	at = epoch
	for i := range rapid.IntRange(0, 40).Draw(t, "heartbeats") {
		at = at.Add(rapid.SampledFrom([]time.Duration{0, 50, 200, 250, 400, 5000}).Draw(t, "step") * time.Millisecond)
		if rapid.IntRange(0, 5).Draw(t, "tick") == 0 {
			h.heartbeats = append(h.heartbeats, ticked(tb, at, int64(i)))
			continue
		}
		id := rapid.SampledFrom(universe).Draw(t, "beating")
		h.heartbeats = append(h.heartbeats, heartbeat(tb, id, at, int64(i), 250*time.Millisecond, time.Second))
	}
	return h
}

// settle is an end in which every node beats once, some go on, and enough time passes for every silence to be noticed. (What a heartbeat
// said before the first observation of its node is soft, and is lost in a take-over. So everybody beats once more.)
func (h *history) settle(t *rapid.T, tb testing.TB) []*record.Record {
	at := epoch.Add(time.Hour)
	var tail []*record.Record
	offset := int64(1000)
	beat := func(id event.ResourceID) {
		tail = append(tail, heartbeat(tb, id, at, offset, 250*time.Millisecond, time.Second))
		offset++
	}
	living := map[event.ResourceID]bool{}
	for _, id := range universe {
		living[id] = rapid.Bool().Draw(t, "lives on")
		beat(id)
	}
	for range 30 {
		at = at.Add(400 * time.Millisecond)
		tail = append(tail, ticked(tb, at, offset))
		offset++
		for _, id := range universe {
			if living[id] {
				beat(id)
			}
		}
	}
	return tail
}

// merge interleaves two partitions, each in its own order.
func merge(t *rapid.T, a, b []*record.Record) []*record.Record {
	var merged []*record.Record
	for len(a) > 0 || len(b) > 0 {
		if len(b) == 0 || len(a) > 0 && rapid.Bool().Draw(t, "observation next") {
			merged, a = append(merged, a[0]), a[1:]
		} else {
			merged, b = append(merged, b[0]), b[1:]
		}
	}
	return merged
}

func foldRecords(t *rapid.T, task *fakeTask, records []*record.Record) {
	for _, rec := range records {
		if _, err := task.process(rec); err != nil {
			t.Fatal(err)
		}
	}
}

// visible returns the state payloads by key, guards left out: how long one is kept depends on when time is looked at.
func visible(tb testing.TB, task *fakeTask) map[string]any {
	all := payloads(tb, stateTopic, task.tables[StateTable])
	for key := range all {
		if strings.Contains(key, guardInfix) {
			delete(all, key)
		}
	}
	return all
}

func compareStates(t *rapid.T, what string, got, want map[string]any) {
	for key := range want {
		if !reflect.DeepEqual(got[key], want[key]) {
			t.Fatalf("%s: %s\ngot  %+v\nwant %+v", what, key, got[key], want[key])
		}
	}
	if len(got) != len(want) {
		t.Fatalf("%s: %d states, want %d", what, len(got), len(want))
	}
}

// TestInterleavingLeavesNoTrace: however the two partitions are interleaved, the same states come out.
func TestInterleavingLeavesNoTrace(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		h := drawHistory(rt, t, true)
		one, other := newPostgresTask(t, testConfig()), newPostgresTask(t, testConfig())
		end := h.settle(rt, t)
		foldRecords(rt, one, append(merge(rt, h.observations, h.heartbeats), end...))
		foldRecords(rt, other, append(merge(rt, h.observations, h.heartbeats), end...))
		compareStates(rt, "interleaving", visible(t, other), visible(t, one))
	})
}

// TestTakeOversLeaveNoTrace: new machines on the same table say the same in the end.
func TestTakeOversLeaveNoTrace(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		h := drawHistory(rt, t, true)
		records := append(merge(rt, h.observations, h.heartbeats), h.settle(rt, t)...)
		one, other := newPostgresTask(t, testConfig()), newPostgresTask(t, testConfig())
		foldRecords(rt, one, records)
		for _, rec := range records {
			if rapid.IntRange(0, 4).Draw(rt, "take over") == 0 && rec.Offset < 1050 {
				other.restart()
			}
			foldRecords(rt, other, []*record.Record{rec})
		}
		compareStates(rt, "take-over", visible(t, other), visible(t, one))
	})
}

// TestRepeatedAndStaleFactsChangeNothing: repetitions of earlier observations, at any later place and also after a tombstone, leave no trace.
func TestRepeatedAndStaleFactsChangeNothing(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		h := drawHistory(rt, t, true)
		one, other := newPostgresTask(t, testConfig()), newPostgresTask(t, testConfig())
		foldRecords(rt, one, h.observations)
		for i, rec := range h.observations {
			foldRecords(rt, other, []*record.Record{rec})
			for range rapid.IntRange(0, 2).Draw(rt, "repetitions") {
				again := *h.observations[rapid.IntRange(0, i).Draw(rt, "which")]
				if again.Tombstone() {
					continue // a repeated tombstone is a new wish to delete
				}
				again.Offset, again.Timestamp = 10_000+int64(i), rec.Timestamp
				if outs, err := other.process(&again); err != nil || len(outs) > 0 {
					rt.Fatalf("a repetition of %s gave %d outputs, error %v", again.Key, len(outs), err)
				}
			}
		}
		compareStates(rt, "repetition", visible(t, other), visible(t, one))
	})
}

// TestCompactionLeavesNoTrace: fold(compact(L)) == fold(L), for random compactions, which may or may not remove each superseded record.
func TestCompactionLeavesNoTrace(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		h := drawHistory(rt, t, true)
		latest := map[string]int64{}
		for _, rec := range h.observations {
			latest[string(rec.Key)] = rec.Offset
		}
		var compacted []*record.Record
		for _, rec := range h.observations {
			if rec.Offset == latest[string(rec.Key)] || rapid.Bool().Draw(rt, "not yet cleaned") {
				compacted = append(compacted, rec)
			}
		}
		one, other := newPostgresTask(t, testConfig()), newPostgresTask(t, testConfig())
		end := h.settle(rt, t)
		foldRecords(rt, one, append(merge(rt, h.observations, h.heartbeats), end...))
		foldRecords(rt, other, append(merge(rt, compacted, h.heartbeats), end...))
		compareStates(rt, "compaction", visible(t, other), visible(t, one))
	})
}

// oracle folds everything anew, naively, from the last accepted facts.
type oracle struct {
	accepted map[event.ResourceID]fold.NodeObserved
	guards   map[event.ResourceID]int64
	silence  *fold.Silence
	expected map[event.ResourceID]bool
}

// TestEmissionFollowsVisibleChange: after every record the table holds what a fold of all facts gives, every output differs from what it replaces,
// and nothing else is emitted.
func TestEmissionFollowsVisibleChange(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		h := drawHistory(rt, t, true)
		task := newPostgresTask(t, testConfig())
		o := &oracle{accepted: map[event.ResourceID]fold.NodeObserved{}, guards: map[event.ResourceID]int64{}, silence: fold.NewSilence()}
		for _, rec := range append(merge(rt, h.observations, h.heartbeats), h.settle(rt, t)...) {
			before := payloads(t, stateTopic, task.tables[StateTable])
			outs, err := task.process(rec)
			if err != nil {
				rt.Fatal(err)
			}
			written := map[string]bool{}
			for _, out := range outs {
				key := string(out.Key)
				if written[key] && !strings.Contains(key, "/node/") && strings.Count(key, "/") > 1 {
					rt.Fatalf("%s was emitted twice for one record", key)
				}
				written[key] = true
			}
			after := payloads(t, stateTopic, task.tables[StateTable])
			for key := range written {
				if reflect.DeepEqual(before[key], after[key]) {
					rt.Fatalf("%s was emitted, but is %+v as before", key, after[key])
				}
			}
			for key := range after {
				if !written[key] && !reflect.DeepEqual(before[key], after[key]) {
					rt.Fatalf("%s changed without being emitted", key)
				}
			}
			compareStates(rt, fmt.Sprintf("after %s@%d", rec.Topic, rec.Offset), visible(t, task), o.fold(rt, rec))
		}
	})
}

// fold takes one record and returns the states that all facts so far give.
func (o *oracle) fold(t *rapid.T, rec *record.Record) map[string]any {
	id := event.ResourceID(rec.Key)
	if rec.Tombstone() {
		if f, known := o.accepted[id]; known {
			o.guards[id] = f.Header.Sequence
		}
		delete(o.accepted, id)
		return o.states()
	}
	e, err := codec.Decode(rec.Topic, rec.Value)
	if err != nil {
		t.Fatal(err)
	}
	switch p := e.Payload.(type) {
	case *schemas.PostgresNodeObserved:
		if last := o.accepted[id]; e.Sequence > max(last.Header.Sequence, o.guards[id]) {
			o.accepted[id] = fold.NodeObserved{Header: e.EnvelopeHeader, Observed: p, At: fold.Position{Topic: rec.Topic, Offset: rec.Offset}}
		}
		if _, known := o.silence.Pulse(string(id)); !known && o.expected != nil {
			o.silence.Expect(string(id), fold.Pulse{Liveness: schemas.LivenessUnknown})
		}
	case *schemas.NodeHeartbeat:
		o.expect()
		o.silence.Beat(rec.Timestamp, string(id), p.IntervalMs, p.SuspectAfterMs)
	case *schemas.StreamTicked:
		o.expect()
		o.silence.Pass(rec.Timestamp)
	}
	return o.states()
}

// expect, at the first heartbeat, expects whoever is known to beat.
func (o *oracle) expect() {
	if o.expected != nil {
		return
	}
	o.expected = map[event.ResourceID]bool{}
	for id := range o.accepted {
		o.silence.Expect(string(id), fold.Pulse{Liveness: schemas.LivenessUnknown})
	}
}

func (o *oracle) states() map[string]any {
	states := map[string]any{}
	for _, cluster := range []event.ClusterID{"postgres/a", "postgres/b"} {
		c := fold.LoadPostgres(cluster, nil, nil)
		for id, f := range o.accepted { // in any order
			if id.Cluster() != cluster {
				continue
			}
			if pulse, known := o.silence.Pulse(string(id)); known {
				f.Pulse = pulse
			}
			c, _ = fold.ApplyPostgres(c, f)
		}
		for _, n := range c.Nodes {
			f := o.accepted[cluster.Node(n.Name)]
			states[string(cluster.Node(n.Name))] = fold.PostgresNodeChange{Node: n.Name, Pulse: n.Pulse, Derived: n.Derived, Observation: &f}.State(nil)
		}
		if c.State != nil {
			states[string(cluster)] = c.State
		}
	}
	return normalised(states)
}

// normalised is what the codec makes of states: it does not tell an empty list from an absent one.
func normalised(states map[string]any) map[string]any {
	for key, payload := range states {
		value, err := codec.Encode(stateTopic, event.New(schemas.EnvelopeHeader{}, payload))
		if err != nil {
			panic(err)
		}
		e, err := codec.Decode(stateTopic, value)
		if err != nil {
			panic(err)
		}
		states[key] = e.Payload
	}
	return states
}
