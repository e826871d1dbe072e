package stream_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"maps"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/regent-infra/regent/internal/record"
	"github.com/regent-infra/regent/internal/stream"
	"github.com/regent-infra/regent/statestore"
	"github.com/regent-infra/regent/statestore/memstore"
)

// manualClock stands still until it is moved. Timers fire at once: what waits for one looks again.
type manualClock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *manualClock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *manualClock) move(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

func (c *manualClock) NewTimer(time.Duration) *time.Timer { return time.NewTimer(0) }

func (c *manualClock) NewTicker(time.Duration) *time.Ticker { return time.NewTicker(time.Millisecond) }

// forgetful is a store that remembers what it was after each batch since the last flush, as a machine that loses power does.
type forgetful struct {
	*memstore.Store
	mu      sync.Mutex
	history []*memstore.Store
}

func (s *forgetful) Apply(b *statestore.Batch) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.history = append(s.history, s.Store.Clone())
	if len(s.history) > 8 { // older ones have reached the disk
		s.history = s.history[1:]
	}
	return s.Store.Apply(b)
}

// world is one schedule's: the cluster, and the instances with their stores.
type world struct {
	t         *rapid.T
	c         *cluster
	clock     *manualClock
	sabotage  stream.Sabotage
	instances []*mortal
	seq       uint64
	keys      int
	facts     map[int32][]record.Record // all there ever were: compaction takes none of these
}

// mortal is an instance that crashes and comes back.
type mortal struct {
	w     *world
	name  string
	store *forgetful
	rt    *stream.Runtime // nil while it is down
	late  bool            // a transaction that is sealed does not end before something waits for it
	// doom is the operation at which it fails, countdown how many of them it has left.
	mu        sync.Mutex // two tasks may recover at the same time
	doom      string
	after     bool
	countdown int
}

var errDoom = errors.New("doom")

func (m *mortal) fault(op string, done bool) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if op != m.doom || done != m.after {
		return nil
	}
	if m.countdown--; m.countdown >= 0 {
		return nil
	}
	m.doom = ""
	return fmt.Errorf("%s: %w", op, errDoom)
}

func (m *mortal) start() {
	o := stream.Options{
		Log: &memLog{cluster: m.w.c, instance: m.name, fault: m.fault}, Store: m.store, Clock: m.w.clock,
		PollRecords: 7, CommitRecords: 20, Workers: 1, CacheBytes: 2000, FlushBytes: 1500, Logger: slog.New(slog.DiscardHandler),
	}
	rt, err := stream.New(definition(), stream.WithCopyStep(stream.WithLateEnds(stream.WithSabotage(o, m.w.sabotage)), 17))
	if err != nil {
		m.w.t.Fatalf("make a runtime: %v", err)
	}
	if err := rt.Begin(context.Background()); err != nil {
		return // a link that is down
	}
	m.rt = rt
}

// crash forgets the process. Its session goes on for the cluster until somebody notices.
func (m *mortal) crash() {
	if m.rt == nil {
		return
	}
	m.rt.Rest()
	m.rt = nil
	m.w.c.mu.Lock()
	if s := m.w.c.members[m.name]; s != nil {
		s.lose()
	}
	m.w.c.mu.Unlock()
}

func (m *mortal) step() {
	if m.rt == nil {
		return
	}
	err := m.rt.Step(context.Background(), m.late)
	if err == nil {
		return
	}
	var refusal *stream.Refusal
	if errors.As(err, &refusal) {
		m.w.t.Fatalf("%s: %v", m.name, err)
	}
	// The next attempt is a fresh session of the same process, as Run would make one.
	if err := m.rt.End(context.Background()); err != nil {
		m.w.t.Fatalf("%s: end of the session: %v", m.name, err)
	}
	if err := m.rt.Begin(context.Background()); err != nil {
		m.w.t.Fatalf("%s: begin again: %v", m.name, err)
	}
}

// follow brings the instance's copies of tasks forward that the other one runs.
func (m *mortal) follow() {
	if m.rt == nil {
		return
	}
	if err := m.rt.Follow(context.Background()); err != nil {
		m.w.t.Fatalf("%s: follow: %v", m.name, err)
	}
	for _, st := range m.rt.Status().Standbys {
		if st.Error != "" && !strings.Contains(st.Error, errDoom.Error()) {
			m.w.t.Fatalf("%s: follow task %d: %s", m.name, st.Task, st.Error)
		}
	}
}

func newWorld(t *rapid.T, s stream.Sabotage) *world {
	w := &world{
		t: t, c: newCluster(2), clock: &manualClock{now: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)}, sabotage: s,
		keys: rapid.IntRange(1, 12).Draw(t, "keys"), facts: map[int32][]record.Record{0: nil, 1: nil},
	}
	for _, name := range []string{"a", "b"} {
		w.instances = append(w.instances, &mortal{w: w, name: name, store: &forgetful{Store: memstore.New()}})
	}
	return w
}

func (w *world) pick() *mortal { return rapid.SampledFrom(w.instances).Draw(w.t, "instance") }

func (w *world) actions() map[string]func(*rapid.T) {
	return map[string]func(*rapid.T){
		"append": w.appendFacts,
		"step":   func(*rapid.T) { w.pick().step() },
		"steps":  func(t *rapid.T) { w.steps(rapid.IntRange(1, 6).Draw(t, "rounds")) },
		"follow": func(*rapid.T) {
			for _, m := range w.instances {
				m.follow()
			}
		},
		"start": func(t *rapid.T) {
			if m := w.pick(); m.rt == nil {
				m.doom = ""
				m.start()
			}
		},
		"late": func(*rapid.T) {
			m := w.pick()
			m.late = !m.late
		},
		"crash": func(*rapid.T) { w.pick().crash() },
		"fall back": func(t *rapid.T) { // the machine loses power: the store falls back to an earlier batch
			m := w.pick()
			m.crash()
			if n := len(m.store.history); n > 0 {
				m.store.Store = m.store.history[rapid.IntRange(0, n-1).Draw(t, "batch")].Clone()
				m.store.history = nil
			}
		},
		"lose store": func(t *rapid.T) {
			if rapid.IntRange(0, 5).Draw(t, "rare") == 0 {
				m := w.pick()
				m.crash()
				m.store = &forgetful{Store: memstore.New()}
			}
		},
		"doom": func(t *rapid.T) {
			m := w.pick()
			m.doom = rapid.SampledFrom([]string{"poll", "produce", "flush", "commit", "commit", "refuse", "refuse", "committed", "scan"}).Draw(t, "operation")
			m.after = m.doom == "commit" && rapid.Bool().Draw(t, "after")
			m.countdown = rapid.IntRange(0, 2).Draw(t, "countdown")
			w.appendFacts(t)
			w.steps(rapid.IntRange(0, 4).Draw(t, "rounds"))
		},
		"rebalance": func(t *rapid.T) {
			w.appendFacts(t)
			w.steps(rapid.IntRange(0, 1).Draw(t, "rounds"))
			w.c.balance(func(_ int32, members []string) string { return rapid.SampledFrom(members).Draw(t, "member") })
		},
		"compact": func(t *rapid.T) {
			// Tombstones go only when every position that could miss them is too old to be redone from.
			old := rapid.IntRange(0, 3).Draw(t, "much later") == 0
			if old {
				w.clock.move(2 * time.Hour)
			}
			w.c.compact(stateTopic, int64(rapid.IntRange(0, 300).Draw(t, "below")), old)
		},
		"time": func(t *rapid.T) {
			w.clock.move(time.Duration(rapid.IntRange(1, 4000).Draw(t, "ms")) * time.Millisecond)
		},
		"": func(*rapid.T) { w.check() },
	}
}

func (w *world) steps(rounds int) {
	for range rounds {
		for _, m := range w.instances {
			m.step()
		}
	}
}

func (w *world) appendFacts(t *rapid.T) {
	for range rapid.IntRange(1, 15).Draw(t, "facts") {
		w.appendFact(rapid.IntRange(0, 9).Draw(t, "kind"))
	}
}

// appendFact adds a fact whose number rises per key, or repeats an old one, or is poison.
func (w *world) appendFact(kind int) {
	w.seq++
	seq, text := w.seq, fmt.Sprint("v", w.seq)
	switch kind {
	case 0:
		text = "poison"
	case 1:
		text = "gone"
	case 2:
		text = "panic"
	case 3:
		seq = max(w.seq/2, 1)
	}
	key := int(w.seq*7) % w.keys
	rec := record.Record{Topic: factsTopic, Partition: int32(key % 2), Key: fmt.Appendf(nil, "key-%d", key), Value: fact(seq, text)}
	w.c.mu.Lock()
	defer w.c.mu.Unlock()
	rec.Offset = w.c.append(rec, nil, false)
	w.facts[rec.Partition] = append(w.facts[rec.Partition], rec)
}

// check holds the invariants against the world as it is.
func (w *world) check() {
	states, sides, deads := w.c.committedRecords(stateTopic), w.c.committedRecords(sideTopic), w.c.committedRecords(deadTopic)
	if w.c.bare > 0 {
		w.t.Fatalf("invariant 4: %d transactions had outputs of a task but not its offsets", w.c.bare)
	}
	for p, all := range w.facts {
		tp := record.TopicPartition{Topic: factsTopic, Partition: p}
		w.contiguous(tp)
		k := w.c.offsets[tp]
		below := slices.DeleteFunc(slices.Clone(all), func(r record.Record) bool { return r.Offset >= k.Offset })
		want := foldInputs(below)
		if err := sameState(want.state, materialise(states[p])); err != nil {
			w.t.Fatalf("invariant 1, partition %d: materialise(S) against fold(inputs): %v", p, err)
		}
		if err := errors.Join(sameLines("side output", want.side, sides[p]), sameLines("dead letters", want.dead, deads[p])); err != nil {
			w.t.Fatalf("invariant 3, partition %d: %v", p, err)
		}
		for _, m := range w.instances {
			w.checkInstance(m, p, k, want.state)
		}
	}
}

// scanTable returns what a store holds of one partition of the table.
func scanTable(s statestore.Store, p int32) (map[string][]byte, error) {
	prefix := statestore.PartitionPrefix("test.tally/"+tallyTable, p)
	it, err := s.Scan(prefix, statestore.PrefixEnd(prefix))
	if err != nil {
		return nil, err
	}
	out := map[string][]byte{}
	for it.Next() {
		out[string(it.Key()[len(prefix):])] = append([]byte{}, it.Value()...)
	}
	return out, errors.Join(it.Err(), it.Close())
}

func (w *world) contiguous(tp record.TopicPartition) {
	at := int64(0)
	for _, r := range w.c.ranges[tp] {
		if r[0] != at || r[1] < r[0] {
			w.t.Fatalf("invariant 3: committed range %v of %v does not follow %d", r, tp, at)
		}
		at = r[1]
	}
}

func (w *world) checkInstance(m *mortal, p int32, k stream.Committed, want map[string][]byte) {
	b, ok, err := m.store.Get(statestore.PositionKey("test.tally", p))
	if err != nil {
		w.t.Fatal(err)
	}
	if ok {
		pos, err := stream.DecodePosition(b)
		if err != nil {
			w.t.Fatal(err)
		}
		var out int64
		if k.Metadata != "" {
			meta, err := stream.DecodeMetadata(k.Metadata)
			if err != nil {
				w.t.Fatal(err)
			}
			out = meta.Out
		}
		if pos.Out > out {
			w.t.Fatalf("invariant 2: %s, partition %d: P.out %d is above K.out %d", m.name, p, pos.Out, out)
		}
		if pos.Out == out { // running here, run here once, or a copy
			got, err := scanTable(m.store, p)
			if err != nil {
				w.t.Fatal(err)
			}
			if err := sameState(want, got); err != nil {
				w.t.Fatalf("invariant 1: %s, partition %d: the store at K.out %d against fold(inputs): %v", m.name, p, out, err)
			}
		}
	}
	if m.rt == nil || w.c.owner[p] != m.name || !slices.Contains(m.rt.Partitions(), p) || len(w.c.members[m.name].revoked) > 0 {
		return
	}
	got := map[string][]byte{}
	for e, err := range m.rt.RangePartition(tallyTable, p, nil) {
		if err != nil {
			w.t.Fatal(err)
		}
		got[string(e.Key)] = e.Value
		one, err := m.rt.Get(tallyTable, p, e.Key)
		if err != nil || string(one) != string(e.Value) {
			w.t.Fatalf("%s, partition %d: Get of %q is %x, %v; Range has %x", m.name, p, e.Key, one, err, e.Value)
		}
	}
	if err := sameState(want, got); err != nil {
		w.t.Fatalf("invariant 1: %s, partition %d: running state against fold(inputs): %v", m.name, p, err)
	}
}

// settle lets everybody finish: all input must be committed in the end, whatever has happened.
func (w *world) settle() {
	for _, m := range w.instances {
		m.doom, m.late = "", false
		if m.rt == nil {
			m.start()
		}
	}
	done := func() bool {
		for p, all := range w.facts {
			if len(all) > 0 && w.c.offsets[record.TopicPartition{Topic: factsTopic, Partition: p}].Offset < all[len(all)-1].Offset+1 {
				return false
			}
		}
		return true
	}
	for range 2000 {
		if done() {
			break
		}
		w.steps(1)
		w.clock.move(100 * time.Millisecond)
	}
	if !done() {
		w.t.Fatalf("input stays uncommitted: %v", maps.Collect(maps.All(w.c.offsets)))
	}
	w.check()
}

func runSchedules(t rapid.TB, s stream.Sabotage) func(*rapid.T) {
	return func(t *rapid.T) {
		w := newWorld(t, s)
		w.instances[0].start()
		defer func() {
			for _, m := range w.instances {
				if m.rt != nil {
					m.rt.Rest()
				}
			}
		}()
		t.Repeat(w.actions())
		w.settle()
	}
}

// TestSchedules runs the real cycle against the cluster in memory, under random schedules of crashes, aborts, unknown outcomes,
// rebalances, stores that fall back, and compaction.
func TestSchedules(t *testing.T) {
	if flag.Lookup("rapid.checks").Value.String() == "100" { // the library's default; a schedule takes about 4 ms
		tune(t, map[string]string{"rapid.checks": "500"})
	}
	rapid.Check(t, runSchedules(t, stream.SabotageNone))
}

// tune sets flags of the property library until the test ends.
func tune(t *testing.T, values map[string]string) {
	t.Helper()
	for name, value := range values {
		before := flag.Lookup(name).Value.String()
		if err := flag.Set(name, value); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := flag.Set(name, before); err != nil {
				t.Error(err)
			}
		})
	}
}

// verdict takes the place of a test where a property is expected to fail.
type verdict struct {
	testing.TB
	failed bool
	text   string
}

func (v *verdict) Helper()      {}
func (v *verdict) Name() string { return "seeded" }
func (v *verdict) Logf(string, ...any) {
}
func (v *verdict) Log(...any)   {}
func (v *verdict) Failed() bool { return v.failed }
func (v *verdict) Fail()        { v.failed = true }
func (v *verdict) FailNow()     { v.failed = true; runtime.Goexit() }
func (v *verdict) Errorf(format string, args ...any) {
	v.failed, v.text = true, fmt.Sprintf(format, args...)
}
func (v *verdict) Error(args ...any) { v.failed, v.text = true, fmt.Sprint(args...) }
func (v *verdict) Fatalf(format string, args ...any) {
	v.Errorf(format, args...)
	runtime.Goexit()
}

func (v *verdict) Fatal(args ...any) {
	v.Error(args...)
	runtime.Goexit()
}

// TestSchedulesSeeded takes one protection out at a time: the property must fail, each time.
func TestSchedulesSeeded(t *testing.T) {
	tune(t, map[string]string{"rapid.nofailfile": "true", "rapid.shrinktime": "1ms", "rapid.checks": "1000"})
	for _, s := range []stream.Sabotage{
		stream.SabotageIgnorePosition, stream.SabotageSkipRedo, stream.SabotageKeepAborted, stream.SabotageFlushAhead, stream.SabotageBoast,
	} {
		t.Run(string(s), func(t *testing.T) {
			v := &verdict{TB: t}
			done := make(chan struct{})
			go func() {
				defer close(done)
				rapid.Check(v, runSchedules(v, s))
			}()
			<-done
			if !v.failed {
				t.Fatal("the protection is out and no schedule has found it")
			}
			t.Log("found:", strings.SplitN(v.text, "\n", 2)[0])
		})
	}
}
