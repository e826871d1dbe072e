package stream_test

import (
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/regent-infra/regent/internal/kafka"
	"github.com/regent-infra/regent/internal/record"
	"github.com/regent-infra/regent/internal/stream"
	"github.com/regent-infra/regent/statestore"
	"github.com/regent-infra/regent/statestore/memstore"
	"github.com/regent-infra/regent/statestore/pebblestore"
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

// cutListener is a broker's listener whose connections can be cut: all answers are lost, and nobody can connect.
type cutListener struct {
	net.Listener
	mu    sync.Mutex
	cut   bool
	conns []net.Conn
}

func (l *cutListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.cut {
		_ = c.Close()
		return c, nil
	}
	l.conns = append(l.conns, c)
	return c, nil
}

func (l *cutListener) set(cut bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.cut = cut; cut {
		for _, c := range l.conns {
			_ = c.Close()
		}
		l.conns = nil
	}
}

func startCutBroker(t *testing.T) (*broker, *cutListener) {
	t.Helper()
	var cl *cutListener
	b := startBroker(t, 1, kfake.ListenFn(func(network, address string) (net.Listener, error) {
		l, err := net.Listen(network, address)
		cl = &cutListener{Listener: l}
		return cl, err
	}))
	return b, cl
}

// TestUnknownOutcome loses the link exactly when the broker has the end of a transaction in its hands, for longer than the runtime
// waits: it has been committed, or has not arrived, and the runtime cannot know.
func TestUnknownOutcome(t *testing.T) {
	for name, arrives := range map[string]bool{"committed": true, "lost": false} {
		t.Run(name, func(t *testing.T) {
			b, l := startCutBroker(t)
			in := b.start(t, "a", memstore.New(), func(_ *kafka.SessionConfig, o *stream.Options, _ *stream.Definition) {
				o.EndTimeout, o.RetryMax = 300*time.Millisecond, 200*time.Millisecond
			})
			b.send(t, factRecord(0, "k", 1, "before"))
			b.settled(t, 1, in)
			cut := make(chan struct{})
			var once sync.Once
			b.ControlKey(int16(kmsg.EndTxn), func(kmsg.Request) (resp kmsg.Response, err error, handled bool) {
				once.Do(func() {
					l.set(true)
					close(cut)
					if !arrives {
						err, handled = errors.New("the link is gone"), true
					}
				})
				return nil, err, handled
			})
			b.send(t, factRecord(0, "k", 2, "critical"))
			<-cut
			eventually(t, "the runtime knows that it does not know", func() bool {
				s := in.Status()
				return s.State != stream.StateRunning && s.Error != ""
			})
			l.set(false)
			b.send(t, factRecord(0, "k", 3, "after"))
			b.settled(t, 1, in)
			if err := b.audit(t, running(t, in.Runtime)); err != nil {
				t.Fatal(err)
			}
		})
	}
}

func TestBrokersGoAndComeBack(t *testing.T) {
	b, l := startCutBroker(t)
	in := b.start(t, "a", memstore.New(), func(_ *kafka.SessionConfig, o *stream.Options, _ *stream.Definition) {
		o.EndTimeout, o.RetryMax = 300*time.Millisecond, 200*time.Millisecond
	})
	b.send(t, factRecord(0, "k", 1, "before"))
	b.settled(t, 1, in)
	l.set(true)
	eventually(t, "the status says that the brokers are gone", func() bool { return in.Status().Error != "" })
	if s := in.Status(); s.Ready() {
		t.Fatalf("ready without a broker: %+v", s)
	}
	l.set(false)
	b.send(t, factRecord(0, "k", 2, "after"))
	b.settled(t, 1, in)
	eventually(t, "the status is clean", func() bool { s := in.Status(); return s.Ready() })
	if err := b.audit(t, running(t, in.Runtime)); err != nil {
		t.Fatal(err)
	}
}

// failed runs an instance that is expected to end by itself, and returns its error.
func (b *broker) failed(t *testing.T, store statestore.Store, options ...instanceOption) error {
	t.Helper()
	in := b.start(t, "a", store, options...)
	eventually(t, "the instance fails", func() bool { return in.Status().State == stream.StateFailed })
	return in.stop()
}

func TestRefusals(t *testing.T) {
	// A store and a group with some history.
	prepare := func(t *testing.T) (*broker, *memstore.Store) {
		b := startBroker(t, 1)
		store := memstore.New()
		in := b.start(t, "a", store)
		for i := range 20 {
			b.send(t, factRecord(0, fmt.Sprintf("k%d", i%5), uint64(i+1), "x"))
		}
		b.settled(t, 1, in)
		if err := in.stop(); err != nil {
			t.Fatal(err)
		}
		return b, store
	}
	t.Run("older binary", func(t *testing.T) {
		b, store := prepare(t)
		err := b.failed(t, store, func(_ *kafka.SessionConfig, _ *stream.Options, d *stream.Definition) { d.FoldVersion = 0 })
		if err == nil || !strings.Contains(err.Error(), "this program folds version 0") || !strings.Contains(err.Error(), "choices:") {
			t.Fatal(err)
		}
	})
	t.Run("changelog made anew", func(t *testing.T) {
		b, store := prepare(t)
		if _, err := b.adm.DeleteTopics(t.Context(), stateTopic); err != nil {
			t.Fatal(err)
		}
		b.topic(t, stateTopic, 1, true)
		if err := b.failed(t, store); err == nil || !strings.Contains(err.Error(), "belongs to a changelog") {
			t.Fatal(err)
		}
	})
	t.Run("store of another history", func(t *testing.T) {
		b, store := prepare(t)
		var batch statestore.Batch
		raw, _, err := store.Get(statestore.PositionKey("test.tally", 0))
		if err != nil {
			t.Fatal(err)
		}
		p, err := stream.DecodePosition(raw)
		if err != nil {
			t.Fatal(err)
		}
		p.Out++
		batch.Put(statestore.PositionKey("test.tally", 0), p.Encode())
		if err := store.Apply(&batch); err != nil {
			t.Fatal(err)
		}
		if err := b.failed(t, store); err == nil || !strings.Contains(err.Error(), "the store contains the changelog up to offset") {
			t.Fatal(err)
		}
	})
	t.Run("another cluster", func(t *testing.T) {
		_, store := prepare(t)
		other := startBroker(t, 1, kfake.ClusterID("other"))
		err := other.failed(t, store)
		if !errors.Is(err, statestore.ErrCluster) || !strings.Contains(err.Error(), `the brokers belong to cluster "other"`) {
			t.Fatal(err)
		}
	})
	t.Run("damaged position", func(t *testing.T) {
		b, store := prepare(t)
		var batch statestore.Batch
		batch.Put(statestore.PositionKey("test.tally", 0), []byte("gibberish"))
		if err := store.Apply(&batch); err != nil {
			t.Fatal(err)
		}
		if err := b.failed(t, store); err == nil || !strings.Contains(err.Error(), "decode a position record") {
			t.Fatal(err)
		}
	})
	t.Run("foreign metadata", func(t *testing.T) {
		b, store := prepare(t)
		b.setOffset(t, 3, "somebody else's")
		if err := b.failed(t, store); err == nil || !strings.Contains(err.Error(), "decode commit metadata") {
			t.Fatal(err)
		}
	})
}

// setOffset overwrites the group's position, as an administrator's tool does.
func (b *broker) setOffset(t *testing.T, offset int64, metadata string) {
	t.Helper()
	req := kmsg.NewPtrOffsetCommitRequest()
	req.Group = "regent.test.tally"
	rt := kmsg.NewOffsetCommitRequestTopic()
	rt.Topic = factsTopic
	topics, err := b.adm.ListTopics(t.Context(), factsTopic)
	if err != nil {
		t.Fatal(err)
	}
	rt.TopicID = topics[factsTopic].ID
	rp := kmsg.NewOffsetCommitRequestTopicPartition()
	rp.Offset, rp.Metadata = offset, &metadata
	rt.Partitions = append(rt.Partitions, rp)
	req.Topics = append(req.Topics, rt)
	resp, err := req.RequestWith(t.Context(), b.cl)
	if err != nil || resp.Topics[0].Partitions[0].ErrorCode != 0 {
		t.Fatalf("set the group's offset: %v, %+v", err, resp)
	}
}

// TestLostGroupPosition lets the group's offsets expire: nothing starts afresh.
func TestLostGroupPosition(t *testing.T) {
	for name, keepStore := range map[string]bool{"store kept": true, "store lost": false} {
		t.Run(name, func(t *testing.T) {
			b := startBroker(t, 1)
			store := memstore.New()
			in := b.start(t, "a", store)
			for i := range 60 {
				b.send(t, factRecord(0, fmt.Sprintf("k%d", i%7), uint64(i+1), "x"))
			}
			b.settled(t, 1, in)
			if err := in.stop(); err != nil {
				t.Fatal(err)
			}
			if _, err := b.adm.DeleteGroups(t.Context(), "regent.test.tally"); err != nil {
				t.Fatal(err)
			}
			if !keepStore {
				store = memstore.New()
			}
			in = b.start(t, "a", store)
			for i := range 10 {
				b.send(t, factRecord(0, fmt.Sprintf("k%d", i%7), uint64(i+61), "y"))
			}
			b.settled(t, 1, in)
			if err := b.audit(t, running(t, in.Runtime)); err != nil {
				t.Fatal(err)
			}
		})
	}
}

func TestErrorsThatEndIt(t *testing.T) {
	broken := errors.New("broken")
	t.Run("machine", func(t *testing.T) {
		b := startBroker(t, 1)
		b.send(t, factRecord(0, "k", 1, "x"))
		err := b.failed(t, memstore.New(), func(_ *kafka.SessionConfig, _ *stream.Options, d *stream.Definition) {
			d.NewMachine = func(int32) stream.Machine { return machine(func(stream.Task, *record.Record) error { return broken }) }
		})
		if !errors.Is(err, broken) || !strings.Contains(err.Error(), "process record test.facts/0@0") {
			t.Fatal(err)
		}
		if n := len(b.read(t, sideTopic)[0]); n != 0 || b.committed(t, 0).Offset != 0 {
			t.Fatalf("%d records and offset %d were committed", n, b.committed(t, 0).Offset)
		}
	})
	for name, c := range map[string]struct {
		do   func(task stream.Task, rec *record.Record)
		want string
	}{
		"undeclared output":   {func(task stream.Task, _ *record.Record) { task.Emit(record.Record{Topic: "nowhere"}) }, `emit to "nowhere"`},
		"another's changelog": {func(task stream.Task, _ *record.Record) { task.Emit(record.Record{Topic: stateTopic, Partition: 7}) }, "expected the task's own, 0"},
		"changelog, no key": {func(task stream.Task, _ *record.Record) {
			task.Emit(record.Record{Topic: stateTopic, Partition: stream.OwnPartition})
		}, "has no key"},
		"undeclared table": {func(task stream.Task, _ *record.Record) { _, _ = task.Get("nothing", nil) }, `table "nothing"`},
		"undeclared range": {func(task stream.Task, _ *record.Record) { task.Range("nothing", nil) }, `table "nothing"`},
	} {
		t.Run(name, func(t *testing.T) {
			b := startBroker(t, 1)
			b.send(t, factRecord(0, "k", 1, "x"))
			err := b.failed(t, memstore.New(), func(_ *kafka.SessionConfig, _ *stream.Options, d *stream.Definition) {
				d.NewMachine = func(int32) stream.Machine {
					return machine(func(task stream.Task, rec *record.Record) error { c.do(task, rec); return nil })
				}
			})
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("got %v, expected %q", err, c.want)
			}
		})
	}
	t.Run("store", func(t *testing.T) {
		b := startBroker(t, 1)
		store := memstore.New()
		in := b.start(t, "a", store, func(_ *kafka.SessionConfig, o *stream.Options, _ *stream.Definition) {
			o.FlushInterval = time.Millisecond
		})
		b.send(t, factRecord(0, "k", 1, "x"))
		b.settled(t, 1, in)
		store.Fail(broken)
		for i := range 100 {
			b.send(t, factRecord(0, "k", uint64(i+2), "x"))
			if in.Status().State == stream.StateFailed {
				break
			}
		}
		eventually(t, "the runtime fails", func() bool { return in.Status().State == stream.StateFailed })
		if err := in.stop(); !errors.Is(err, statestore.ErrFailed) || !errors.Is(err, broken) {
			t.Fatal(err)
		}
		// Nothing is lost: with a healthy store it goes on.
		store.Fail(nil)
		in = b.start(t, "a", store)
		b.settled(t, 1, in)
		if err := b.audit(t, running(t, in.Runtime)); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("dead letter cannot be built", func(t *testing.T) {
		b := startBroker(t, 1)
		b.send(t, factRecord(0, "k", 1, "poison"))
		for name, dead := range map[string]func(*record.Record, string, error) (record.Record, error){
			broken.Error(): func(*record.Record, string, error) (record.Record, error) { return record.Record{}, broken },
			"is the changelog": func(*record.Record, string, error) (record.Record, error) {
				return record.Record{Topic: stateTopic}, nil
			},
		} {
			err := b.failed(t, memstore.New(), func(_ *kafka.SessionConfig, _ *stream.Options, d *stream.Definition) { d.DeadLetter = dead })
			if err == nil || !strings.Contains(err.Error(), name) {
				t.Fatalf("got %v, expected %q", err, name)
			}
		}
	})
}

// machine makes a function a machine.
type machine func(task stream.Task, rec *record.Record) error

func (m machine) Process(task stream.Task, rec *record.Record) error { return m(task, rec) }

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

func TestCheckpointIsAStart(t *testing.T) {
	b := startBroker(t, 1)
	dir := t.TempDir()
	store, err := pebblestore.Open(pebblestore.Options{Dir: filepath.Join(dir, "a")})
	if err != nil {
		t.Fatal(err)
	}
	in := b.start(t, "a", store, func(_ *kafka.SessionConfig, o *stream.Options, _ *stream.Definition) { o.FlushInterval = time.Hour })
	for i := range 50 {
		b.send(t, factRecord(0, fmt.Sprintf("k%d", i%9), uint64(i+1), "x"))
	}
	b.settled(t, 1, in)
	if err := in.Checkpoint(t.Context(), filepath.Join(dir, "b")); err != nil {
		t.Fatal(err)
	}
	b.send(t, factRecord(0, "k1", 51, "after"))
	b.settled(t, 1, in)
	if err := in.stop(); err != nil {
		t.Fatal(err)
	}
	if err := in.Flush(t.Context()); err != nil {
		t.Fatalf("flush after the stop: %v", err)
	}
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
	copied, err := pebblestore.Open(pebblestore.Options{Dir: filepath.Join(dir, "b")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := copied.Close(); err != nil {
			t.Error(err)
		}
	})
	raw, ok, err := copied.Get(statestore.PositionKey("test.tally", 0))
	if err != nil || !ok {
		t.Fatalf("the checkpoint has no position: %v", err)
	}
	if p, err := stream.DecodePosition(raw); err != nil || p.Out == 0 {
		t.Fatalf("the checkpoint's position is %+v, %v", p, err)
	}
	in = b.start(t, "b", copied)
	b.send(t, factRecord(0, "k2", 52, "later"))
	b.settled(t, 1, in)
	if err := b.audit(t, running(t, in.Runtime)); err != nil {
		t.Fatal(err)
	}
	if err := in.stop(); err != nil {
		t.Fatal(err)
	}
}

// TestRebuildEqualsAll makes the state again in both ways and compares all three, then runs on what was rebuilt.
func TestRebuildEqualsAll(t *testing.T) {
	const partitions = 3
	b := startBroker(t, partitions)
	dir := filepath.Join(t.TempDir(), "state")
	store, err := pebblestore.Open(pebblestore.Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	in := b.start(t, "a", store)
	var recs []*kgo.Record
	for i := range 3000 {
		text := fmt.Sprint("v", i)
		if i%41 == 0 {
			text = "gone"
		}
		if i%97 == 0 {
			text = "poison"
		}
		recs = append(recs, factRecord(int32(i%partitions), fmt.Sprintf("k%d", i%300), uint64(i+1), text))
	}
	b.send(t, recs...)
	b.settled(t, partitions, in)
	runningDigests, err := in.Digests()
	if err != nil {
		t.Fatal(err)
	}
	if err := in.stop(); err != nil {
		t.Fatal(err)
	}
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
	log, err := kafka.NewLog(kafka.Config{Brokers: b.addrs}, kafka.SessionConfig{InstanceID: "rebuild"})
	if err != nil {
		t.Fatal(err)
	}
	staged, err := pebblestore.Stage(pebblestore.Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	var calls int
	opts := stream.RebuildOptions{Log: log, Store: staged, ChunkBytes: 5000, Progress: func(p stream.RebuildProgress) {
		calls++
		if p.Done > p.Total || p.Rate() < 0 {
			t.Errorf("progress %+v", p)
		}
	}}
	rebuilt, err := stream.Rebuild(t.Context(), definition(), opts)
	if err != nil {
		t.Fatal(err)
	}
	if rebuilt.Done != rebuilt.Total || rebuilt.Records == 0 || calls == 0 {
		t.Fatalf("report %+v after %d calls", rebuilt.RebuildProgress, calls)
	}
	opts.Store, opts.Progress = memstore.New(), nil
	refolded, err := stream.Refold(t.Context(), definition(), opts)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(runningDigests, rebuilt.Digests) || !slices.Equal(runningDigests, refolded.Digests) {
		t.Fatalf("digests differ:\nrunning  %v\nrebuilt  %v\nrefolded %v", runningDigests, rebuilt.Digests, refolded.Digests)
	}
	if runningDigests[0].Entries == 0 {
		t.Fatal("nothing was compared")
	}
	if err := staged.Promote(); err != nil {
		t.Fatal(err)
	}
	if err := staged.Close(); err != nil {
		t.Fatal(err)
	}
	if store, err = pebblestore.Open(pebblestore.Options{Dir: dir}); err != nil {
		t.Fatal(err)
	}
	in = b.start(t, "a", store)
	b.send(t, factRecord(0, "k0", 5000, "after"))
	b.settled(t, partitions, in)
	if err := b.audit(t, running(t, in.Runtime)); err != nil {
		t.Fatal(err)
	}
	if err := in.stop(); err != nil {
		t.Fatal(err)
	}
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestRebuildRefusesBadOptions(t *testing.T) {
	_, err := stream.Rebuild(t.Context(), stream.Definition{}, stream.RebuildOptions{ChunkBytes: -1})
	for _, want := range []string{"Log is nil", "Store is nil", "ChunkBytes", "Name is empty"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v does not say %q", err, want)
		}
	}
	if _, err := stream.Refold(t.Context(), stream.Definition{}, stream.RebuildOptions{}); err == nil {
		t.Error("folded nothing at all")
	}
}

func TestNewReportsAllFaultsTogether(t *testing.T) {
	def := definition()
	def.Name, def.NewMachine, def.DeadLetter, def.FoldVersion = "", nil, nil, -1
	def.Inputs = []stream.Input{{Topic: "a"}, {Topic: "a", Table: "nowhere"}, {}}
	def.Outputs = []string{"", stateTopic, "x", "x"}
	def.Tables = []stream.Table{{Name: "t", Source: ""}, {Name: "t", Source: stateTopic}, {Name: "u", Source: stateTopic}, {Name: "", Source: "z"}}
	def.Tick = &stream.Tick{Topic: "q"}
	_, err := stream.New(def, stream.Options{CommitRecords: -1, RetryMin: 2 * time.Second, RetryMax: time.Second, FlushInterval: -1, CommitMinAge: time.Minute})
	for _, want := range []string{
		"Name is empty", "FoldVersion is -1", "NewMachine is nil", "DeadLetter is nil", `input "a" is named twice`, "an input has no topic",
		`output ""`, `output "test.state"`, `output "x" is named twice`, `table "t" has no redo source`, `table "t" is named twice`,
		"share the redo source", `table ""`, `names the table "nowhere"`, "Tick.Topic", "Tick.Every", "Tick.Make",
		"Log is nil", "Store is nil", "CommitRecords is -1", "RetryMin 2s is above", "FlushInterval is -1", "CommitMinAge 1m0s is above",
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("the error does not say %q: %v", want, err)
		}
	}
	def = definition()
	def.Inputs = append(def.Inputs, stream.Input{Topic: stateTopic})
	if _, err := stream.New(def, stream.Options{}); err == nil || !strings.Contains(err.Error(), "cannot read its own redo log") {
		t.Errorf("a changelog as input: %v", err)
	}
	def = definition()
	def.Inputs = nil
	if _, err := stream.New(def, stream.Options{}); err == nil || !strings.Contains(err.Error(), "Inputs is empty") {
		t.Errorf("no inputs: %v", err)
	}
}

func TestTopicsAreChecked(t *testing.T) {
	def := definition()
	def.Inputs[0].Table = "copy"
	def.Tables = append(def.Tables, stream.Table{Name: "copy", Source: factsTopic})
	info := map[string]stream.TopicInfo{
		factsTopic: {Partitions: 2}, stateTopic: {Partitions: 3, Compacted: true}, sideTopic: {Partitions: 1}, deadTopic: {Partitions: 1},
	}
	if err := def.ValidateTopics(info); err == nil || !strings.Contains(err.Error(), `"test.facts" is not compacted`) {
		t.Errorf("a table on a topic that expires: %v", err)
	}
	info[factsTopic] = stream.TopicInfo{Partitions: 2, Compacted: true}
	if err := def.ValidateTopics(info); err == nil || !strings.Contains(err.Error(), `changelog "test.state" has 3 partitions`) {
		t.Errorf("a changelog of another size: %v", err)
	}
	def.SingleTask = true
	if err := def.ValidateTopics(info); err == nil || !strings.Contains(err.Error(), "of a single task has 3 partitions") {
		t.Errorf("a single task's changelog: %v", err)
	}
}

func TestWordsForPeople(t *testing.T) {
	for o, want := range map[stream.Outcome]string{
		stream.TransactionCommitted: "committed", stream.TransactionAborted: "aborted", stream.TransactionUnknown: "unknown", 0: "invalid",
	} {
		if o.String() != want {
			t.Errorf("outcome %d is %q", o, o)
		}
	}
	cause := errors.New("cause")
	for _, err := range []error{&stream.FatalError{Err: cause}, &stream.Poison{Reason: "r", Err: cause}} {
		if !errors.Is(err, cause) || !strings.Contains(err.Error(), "cause") {
			t.Errorf("%v does not name its cause", err)
		}
	}
	if !stream.Fatal(&stream.FatalError{Err: cause}) || stream.Fatal(cause) {
		t.Error("what is fatal is not")
	}
	if (stream.RebuildProgress{}).Rate() != 0 || (stream.RebuildProgress{Records: 10, Elapsed: time.Second}).Rate() != 10 {
		t.Error("rates are wrong")
	}
}
