package stream_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/regent-infra/regent/internal/kafka"
	"github.com/regent-infra/regent/internal/record"
	"github.com/regent-infra/regent/internal/stream"
	"github.com/regent-infra/regent/statestore/memstore"
)

// settled waits until instances have committed all input.

func (b *broker) settled(t testing.TB, partitions int32, ins ...*instance) {
	t.Helper()
	ends, err := b.adm.ListEndOffsets(t.Context(), factsTopic)
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "all input is committed", func() bool {
		for p := range partitions {
			end, _ := ends.Lookup(factsTopic, p)
			if !slices.ContainsFunc(ins, func(in *instance) bool { return in.position(factsTopic, p) >= end.Offset }) {
				return end.Offset == 0
			}
		}
		return true
	})
}

func TestTasksMoveBetweenInstances(t *testing.T) {
	const partitions = 4
	b := startBroker(t, partitions)
	seq := uint64(0)
	send := func(n int) {
		for range n {
			seq++
			b.send(t, factRecord(int32(seq%partitions), fmt.Sprintf("k%d", seq%30), seq, "x"))
		}
	}
	state := func(ins ...*instance) func(int32) map[string][]byte {
		return func(p int32) map[string][]byte {
			for _, in := range ins {
				if slices.Contains(in.Partitions(), p) {
					return running(t, in.Runtime)(p)
				}
			}
			t.Fatalf("partition %d runs nowhere", p)
			return nil
		}
	}
	first := b.start(t, "first", memstore.New())
	send(100)
	b.settled(t, partitions, first)
	second := b.start(t, "second", memstore.New())
	eventually(t, "both have two tasks", func() bool { return len(first.Partitions()) == 2 && len(second.Partitions()) == 2 })
	for p := range int32(partitions) {
		if slices.Contains(first.Partitions(), p) == slices.Contains(second.Partitions(), p) {
			t.Fatalf("partition %d is with both or with none", p)
		}
	}
	send(100)
	b.settled(t, partitions, first, second)
	if err := b.audit(t, state(first, second)); err != nil {
		t.Fatal(err)
	}
	// A reader is told that a partition is elsewhere.
	gone := slices.IndexFunc([]int32{0, 1, 2, 3}, func(p int32) bool { return !slices.Contains(first.Partitions(), p) })
	if _, err := first.Get(tallyTable, int32(gone), []byte("k1")); !errors.Is(err, stream.ErrNotHere) {
		t.Fatalf("get from another's partition: %v", err)
	}
	if err := first.stop(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the second has all tasks", func() bool { return len(second.Partitions()) == partitions })
	send(50)
	b.settled(t, partitions, second)
	if err := b.audit(t, state(second)); err != nil {
		t.Fatal(err)
	}
}

func TestReadViewAndStatus(t *testing.T) {
	b := startBroker(t, 2)
	reg := prometheus.NewRegistry()
	in := b.start(t, "a", memstore.New(), func(_ *kafka.SessionConfig, o *stream.Options, _ *stream.Definition) {
		o.Metrics = stream.NewMetrics(reg)
	})
	b.send(t, factRecord(0, "x/1", 1, "one"), factRecord(1, "x/2", 2, "two"), factRecord(0, "y", 3, "three"), factRecord(0, "bad", 4, "poison"))
	b.settled(t, 2, in)
	e, ok, err := in.Find(tallyTable, []byte("x/2"))
	if err != nil || !ok || e.Partition != 1 || decodeTally(e.Value).text != "two" {
		t.Fatalf("find: %+v, %v, %v", e, ok, err)
	}
	if _, ok, err := in.Find(tallyTable, []byte("nobody")); ok || err != nil {
		t.Fatalf("find nobody: %v, %v", ok, err)
	}
	var keys []string
	for e, err := range in.Range(tallyTable, []byte("x/")) {
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, fmt.Sprintf("%d:%s", e.Partition, e.Key))
	}
	if !slices.Equal(keys, []string{"0:x/1", "1:x/2"}) {
		t.Fatalf("range: %v", keys)
	}
	for _, err := range in.Range(tallyTable, nil) { // and it may be left early
		if err != nil {
			t.Fatal(err)
		}
		break
	}
	for _, err := range in.Range("nonsense", nil) {
		if !errors.Is(err, stream.ErrNoTable) {
			t.Fatalf("range over a table that is not there: %v", err)
		}
	}
	if _, _, err := in.Find("nonsense", nil); !errors.Is(err, stream.ErrNoTable) {
		t.Fatalf("find in a table that is not there: %v", err)
	}
	s := in.Status()
	if !s.Ready() || s.State != stream.StateRunning || len(s.Tasks) != 2 || s.Tasks[0].Out == 0 || s.Tasks[0].Lag != 0 || s.Tasks[0].StreamTime.IsZero() {
		t.Fatalf("status: %+v", s)
	}
	if got := metric(t, reg, "regent_stream_dead_letters_total"); got != 1 {
		t.Fatalf("%v dead letters were counted, expected 1", got)
	}
	if got := metric(t, reg, "regent_stream_records_in_total"); got < 4 {
		t.Fatalf("%v records were counted, expected at least 4", got)
	}
	if err := in.stop(); err != nil {
		t.Fatal(err)
	}
	if s := in.Status(); s.State != stream.StateStopped || s.Ready() || len(s.Tasks) != 0 {
		t.Fatalf("status after the stop: %+v", s)
	}
}

// metric sums up what a metric has over all labels.

func metric(t testing.TB, reg *prometheus.Registry, name string) float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	sum := 0.0
	for _, f := range families {
		if f.GetName() == name {
			for _, m := range f.GetMetric() {
				sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	return sum
}

// waits: it has been committed, or has not arrived, and the runtime cannot know.

// failed runs an instance that is expected to end by itself, and returns its error.

// setOffset overwrites the group's position, as an administrator's tool does.

// machine makes a function a machine.

func TestTopicsThatDoNotFitAreWaitedFor(t *testing.T) {
	b := startBroker(t, 1)
	b.topic(t, "test.more", 2, false)
	in := b.start(t, "a", memstore.New(), func(_ *kafka.SessionConfig, _ *stream.Options, d *stream.Definition) {
		d.Inputs = append(d.Inputs, stream.Input{Topic: "test.more"})
		d.Outputs = append(d.Outputs, "test.missing")
	})
	eventually(t, "the status names the topic", func() bool {
		return strings.Contains(in.Status().Error, `topic "test.missing" does not exist`)
	})
	b.topic(t, "test.missing", 1, false)
	eventually(t, "the status names the counts", func() bool {
		return strings.Contains(in.Status().Error, `input "test.more" has 2 partitions and "test.facts" has 1`)
	})
}

// TestTicksReachIdleTasks lets time pass without input: the machine sees it as records, and what follows is committed.

func TestTicksReachIdleTasks(t *testing.T) {
	b := startBroker(t, 2)
	var generation atomic.Int64
	in := b.start(t, "a", memstore.New(), func(_ *kafka.SessionConfig, _ *stream.Options, d *stream.Definition) {
		d.Tick = &stream.Tick{Topic: factsTopic, Every: 20 * time.Millisecond, Make: func(task int32) (record.Record, error) {
			if task == 1 {
				return record.Record{}, errors.New("this task has no clock")
			}
			return record.Record{Key: []byte("tick"), Value: fact(1, "tick")}, nil
		}}
		d.NewMachine = func(int32) stream.Machine {
			return machine(func(task stream.Task, rec *record.Record) error {
				generation.Store(task.Generation())
				if task.CaughtUp() && !task.StreamTime().Before(rec.Timestamp) {
					task.Emit(record.Record{Topic: sideTopic, Partition: stream.OwnPartition, Key: rec.Key})
				}
				return nil
			})
		}
	})
	eventually(t, "ticks have come through", func() bool { return in.position(factsTopic, 0) >= 3 })
	if side := b.read(t, sideTopic); len(side[0]) < 3 || len(side[1]) != 0 {
		t.Fatalf("the side output has %d and %d records", len(side[0]), len(side[1]))
	}
	if generation.Load() != 1 {
		t.Fatalf("generation is %d", generation.Load())
	}
}

// TestSingleTaskRollsUp folds all partitions of two compacted inputs into one partition, through tables that the inputs

// themselves are the redo source of.

func TestSingleTaskRollsUp(t *testing.T) {
	b := startBroker(t, 1)
	b.topic(t, "test.left", 3, true)
	b.topic(t, "test.right", 2, true)
	b.topic(t, "test.rollup", 1, true)
	rollup := func(_ *kafka.SessionConfig, _ *stream.Options, d *stream.Definition) {
		d.Name, d.SingleTask, d.Changelog = "test.rollup", true, "test.rollup"
		d.Inputs = []stream.Input{{Topic: "test.left", Table: "left"}, {Topic: "test.right", Table: "right"}}
		d.Tables = []stream.Table{
			{Name: "left", Source: "test.left"}, {Name: "right", Source: "test.right"}, {Name: "sum", Source: "test.rollup"},
		}
		d.NewMachine = func(int32) stream.Machine {
			return machine(func(task stream.Task, _ *record.Record) error {
				var all []string
				for _, table := range []string{"left", "right"} {
					for k, v := range task.Range(table, nil) {
						all = append(all, fmt.Sprintf("%s=%s", k, v))
					}
				}
				task.Emit(record.Record{Topic: "test.rollup", Partition: stream.OwnPartition, Key: []byte("all"), Value: []byte(strings.Join(all, " "))})
				return nil
			})
		}
	}
	put := func(topic string, p int32, k, v string) {
		r := &kgo.Record{Topic: topic, Partition: p, Key: []byte(k), Value: []byte(v)}
		if v == "" {
			r.Value = nil
		}
		b.send(t, r)
	}
	expect := func(in *instance, want string) {
		t.Helper()
		eventually(t, "the roll-up is "+want, func() bool {
			e, _, err := in.Find("sum", []byte("all"))
			return err == nil && string(e.Value) == want
		})
	}
	store := memstore.New()
	in := b.start(t, "a", store, rollup)
	put("test.left", 0, "a", "1")
	put("test.left", 2, "b", "2")
	put("test.right", 1, "c", "3")
	put("test.left", 0, "a", "4")
	expect(in, "a=4 b=2 c=3")
	put("test.left", 2, "b", "")
	expect(in, "a=4 c=3")
	standby := b.start(t, "standby", memstore.New(), rollup)
	if err := in.stop(); err != nil {
		t.Fatal(err)
	}
	put("test.right", 0, "d", "5")
	expect(standby, "a=4 c=3 d=5") // it has made all three tables from their sources
	if got := standby.Partitions(); !slices.Equal(got, []int32{0}) {
		t.Fatalf("partitions: %v", got)
	}
}
