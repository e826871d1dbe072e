package replay

import (
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

// margin is more than the longest transaction of the histories.
const margin = 2 * time.Second

func replayer(t interface {
	Helper()
	Fatal(...any)
}, l *memLog, margin time.Duration,
) (*Replayer, Target) {
	t.Helper()
	r, err := New(l, Options{Clock: l.clock, ClockMargin: margin})
	if err != nil {
		t.Fatal(err)
	}
	return r, Target{TopicPartition: topic, Topic: l.topic(), Bounds: Bounds{Start: l.start, Stable: l.stable(), High: l.next}}
}

func (p *Part) values() map[string]string {
	out := map[string]string{}
	for k, e := range p.Entries {
		out[k] = string(e.Value)
	}
	return out
}

// TestAnyMomentIsAnsweredRightOrRefused makes histories of two producers whose transactions overlap in the log, cleans them as a broker does,
// breaking off now and then, takes checkpoints, and asks for moments, offsets and single keys. Whatever is answered must be what was
// served, and what can be had must be answered.
func TestAnyMomentIsAnsweredRightOrRefused(t *testing.T) {
	t.Parallel()
	answered, refused := map[Proof]int{}, 0
	rapid.Check(t, func(t *rapid.T) {
		lag := rapid.SampledFrom([]time.Duration{0, 4 * time.Second, time.Hour}).Draw(t, "lag")
		l := newMemLog(lag)
		var bases []Base
		epochs, doomed, started := map[int64]int16{}, map[int64]bool{}, map[int64]time.Time{}
		keys := []string{"a", "b", "c", "d"}
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			l.clock.now = l.clock.now.Add(time.Duration(rapid.IntRange(0, 800).Draw(t, "pause")) * time.Millisecond)
			for late := int64(1); late <= 2; late++ { // the broker ends what takes longer than its time-out
				if _, ok := l.open[late]; ok && l.clock.now.Sub(started[late]) > time.Second {
					l.end(late, epochs[late], AbortMarker)
					epochs[late]++
				}
			}
			producer := rapid.Int64Range(1, 2).Draw(t, "producer")
			switch step := rapid.IntRange(0, 11).Draw(t, "step"); {
			case step <= 4:
				// A writer finishes one transaction's records before it begins with the next; a zombie, whose transactions will be aborted, writes when
				// it likes.
				first, began := l.open[producer]
				other, both := l.open[3-producer]
				if !began {
					doomed[producer] = rapid.IntRange(0, 4).Draw(t, "doomed") == 0
					started[producer] = l.clock.now
				} else if both && other > first && !doomed[producer] && !doomed[3-producer] {
					continue
				}
				pairs := []pair{}
				for range rapid.IntRange(1, 3).Draw(t, "records") {
					value := rapid.SampledFrom([]string{"", "1", "2", "3", "4", "5", "6"}).Draw(t, "value")
					pairs = append(pairs, pair{rapid.SampledFrom(keys).Draw(t, "key"), value})
				}
				l.write(producer, epochs[producer], pairs...)
			case step <= 8:
				if _, ok := l.open[producer]; ok {
					m := CommitMarker
					if doomed[producer] {
						m = AbortMarker
					}
					// What began first is committed first.
					if other, ok := l.open[3-producer]; ok && other < l.open[producer] && m == CommitMarker && !doomed[3-producer] {
						continue
					}
					l.end(producer, epochs[producer], m)
					epochs[producer]++
				}
			case step <= 10:
				if len(l.batches) > 0 {
					breakOff := rapid.SampledFrom([]int{1000, 1000, rapid.IntRange(0, 20).Draw(t, "break off")}).Draw(t, "until")
					l.clean(rapid.IntRange(0, 60).Draw(t, "clean up to"), breakOff, rapid.Bool().Draw(t, "drop tombstones"))
				}
			default:
				out := l.committed()
				if rapid.IntRange(0, 3).Draw(t, "recovering") == 0 {
					out = rapid.Int64Range(0, out).Draw(t, "position")
				}
				bases = append(bases, l.baseAt("base", out))
			}
		}
		l.clock.now = l.clock.now.Add(time.Second)
		for _, zombie := range []int64{1, 2} { // the broker ends them after some seconds
			if _, ok := l.open[zombie]; ok && doomed[zombie] {
				l.end(zombie, epochs[zombie], AbortMarker)
			}
		}
		first := time.Date(2026, 1, 31, 11, 59, 59, 0, time.UTC)
		r, target := replayer(t, l, margin)
		for range 50 {
			at := first.Add(time.Duration(rapid.Int64Range(0, l.clock.now.Sub(first).Milliseconds()).Draw(t, "moment")) * time.Millisecond)
			want := l.servedAt(at)
			q := Query{Moment: Moment{Time: at}, LogFirst: rapid.Bool().Draw(t, "log first")}
			if rapid.Bool().Draw(t, "by offset") {
				cut := rapid.Int64Range(0, l.stable()).Draw(t, "offset")
				q.Moment = Moment{Offset: cut}
				want = served{cut: cut, state: l.stateAt(cut)}
			}
			if rapid.Bool().Draw(t, "one key") {
				q.Key = rapid.SampledFrom(keys).Draw(t, "which")
				maps.DeleteFunc(want.state, func(k, _ string) bool { return k != q.Key })
			}
			use := bases
			if rapid.Bool().Draw(t, "without checkpoints") {
				use = nil
			}
			l.between = nil
			if rapid.IntRange(0, 3).Draw(t, "clean meanwhile") == 0 {
				at, limit := rapid.IntRange(0, 30).Draw(t, "at batch"), rapid.IntRange(0, 60).Draw(t, "meanwhile up to")
				l.between = func(i int) {
					if i == at && len(l.batches) > 0 {
						l.between = nil
						l.clean(limit, 1000, true)
					}
				}
			}
			part, err := r.At(t.Context(), target, q, use)
			var refusal *Refusal
			switch {
			case errors.As(err, &refusal):
				refused++
				if !strings.Contains(err.Error(), "is not in the topic any more") {
					t.Fatal(err)
				}
				// A transaction that was open at the moment, and had been for long, holds the cut back.
				held := slices.ContainsFunc(l.raw, func(b Batch) bool { return b.Last >= want.cut && !b.Time.After(refusal.Earliest) })
				if !refusal.Earliest.IsZero() && q.Moment.Time.After(refusal.Earliest) && !held {
					t.Fatalf("refused %s, although %s is said to be the earliest moment", q.Moment, refusal.Earliest)
				}
			case err != nil:
				t.Fatal(err)
			case !maps.Equal(part.values(), want.state) || part.Cut != want.cut && part.Proof == Complete:
				t.Fatalf("%s: %v up to %d (%s, base %+v), served was %v up to %d%s", q.Moment, part.values(), part.Cut, part.Proof, part.Base, want.state, want.cut, l)
			default:
				if part.Base != nil {
					answered["checkpoint"]++
				} else {
					answered[part.Proof]++
				}
			}
		}
	})
	for _, p := range []Proof{Complete, Window, Newest, Key, "checkpoint"} {
		if answered[p] == 0 {
			t.Errorf("nothing was answered as %s: %v, %d refused", p, answered, refused)
		}
	}
	if refused == 0 {
		t.Error("nothing was refused")
	}
	t.Logf("answered %v, refused %d", answered, refused)
}

func TestWhatCannotBeAsked(t *testing.T) {
	t.Parallel()
	l := newMemLog(time.Hour)
	l.write(1, 0, pair{"a", "1"})
	l.end(1, 0, CommitMarker)
	l.write(1, 1, pair{"a", "2"})
	r, target := replayer(t, l, 0)
	for what, c := range map[string]struct {
		moment Moment
		change func(*Target)
		says   string
	}{
		"the future":         {Moment{Time: l.clock.now.Add(time.Second)}, nil, "that is in the future, it is 2026-01-31T12:00:00.000Z"},
		"beyond the end":     {Moment{Offset: 3}, nil, "what is committed ends at offset 2"},
		"a negative offset":  {Moment{Offset: -1}, nil, "expected 0 or more"},
		"times of producers": {Moment{Time: l.clock.now}, func(t *Target) { t.Topic.BrokerTime = false }, "name an offset"},
	} {
		other := target
		if c.change != nil {
			c.change(&other)
		}
		if _, err := r.At(t.Context(), other, Query{Moment: c.moment}, nil); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, expected %q", what, err, c.says)
		}
	}
	if _, err := New(l, Options{Rate: -1}); err == nil {
		t.Error("took a negative rate")
	}
}

// expectRefusal asks for a moment, and expects the error to say something.
func expectRefusal(t *testing.T, l *memLog, at time.Time, bases []Base, says ...string) {
	t.Helper()
	r, target := replayer(t, l, -1)
	_, err := r.At(t.Context(), target, Query{Moment: Moment{Time: at}}, bases)
	var refusal *Refusal
	if !errors.As(err, &refusal) {
		t.Fatalf("%v, expected a refusal", err)
	}
	for _, s := range says {
		if !strings.Contains(err.Error(), s) {
			t.Errorf("%v\nexpected %q", err, s)
		}
	}
}

// compacted is a log of ten values of one key, a second apart, of which the first five can be cleaned.
func compacted(lag time.Duration) *memLog {
	l := newMemLog(lag)
	for i := range 10 {
		l.write(1, int16(i), pair{"a", string(rune('0' + i))}, pair{"other", "x"})
		l.end(1, int16(i), CommitMarker)
		l.clock.now = l.clock.now.Add(time.Second)
	}
	return l
}

func TestARefusalSaysWhatCanBeHad(t *testing.T) {
	t.Parallel()
	began := newMemLog(0).clock.now
	l := compacted(5 * time.Second)
	young := l.base("young")
	l.clean(100, 1000, false)
	expectRefusal(t, l, began.Add(2*time.Second), nil, "replay s/0 up to 2026-01-31T12:00:02.000Z", "from offset 0 on",
		"The earliest moment that can be had is 2026-01-31T12:00:07.000Z", "for 5s (min.compaction.lag.ms)", "a checkpoint from before the moment may reach further back")
	expectRefusal(t, l, began.Add(2*time.Second), []Base{young}, "none of the checkpoints at hand (1)")
	l = compacted(0)
	l.clean(10, 1000, false)
	expectRefusal(t, l, began.Add(2*time.Second), nil, "Only the newest state can be had", "has no min.compaction.lag.ms")
	l.lag = 8 * time.Second
	expectRefusal(t, l, began.Add(2*time.Second), nil, "Only the newest state can be had", "so that was set lower before")
	// A checkpoint helps as long as what came after it is there.
	l = compacted(0)
	l.batches, l.raw, l.next = nil, nil, 0
	l.write(1, 0, pair{"a", "1"})
	l.end(1, 0, CommitMarker)
	old := l.base("old")
	at := l.clock.now
	for i := range 4 {
		l.clock.now = l.clock.now.Add(time.Second)
		l.write(1, int16(i), pair{"a", "2"})
		l.end(1, int16(i), CommitMarker)
	}
	r, target := replayer(t, l, 0)
	for _, c := range []struct {
		after time.Duration
		value string
	}{{0, "1"}, {2500 * time.Millisecond, "2"}} {
		part, err := r.At(t.Context(), target, Query{Moment: Moment{Time: at.Add(c.after)}}, []Base{old})
		if err != nil || part.Base == nil || part.Base.Name != "old" || string(part.Entries["a"].Value) != c.value || (part.Entries["a"].Offset == -1) != (c.after == 0) {
			t.Fatalf("%+v, %v", part, err)
		}
		l.clean(3, 1000, false) // what is behind the checkpoint stays
	}
	l.clean(100, 1000, false)
	expectRefusal(t, l, at.Add(time.Second/2), []Base{old}, "none of the checkpoints at hand (1)")
	elsewhere := old
	elsewhere.Topic = [16]byte{1}
	expectRefusal(t, l, at, []Base{elsewhere}, "none of the checkpoints at hand (1)")
}

func TestAPlanSaysWhatWouldBeRead(t *testing.T) {
	t.Parallel()
	l := compacted(time.Hour)
	base := l.base("base")
	at := l.clock.now
	l.clock.now = l.clock.now.Add(time.Second)
	l.write(1, 10, pair{"a", "11"})
	l.end(1, 10, CommitMarker)
	r, _ := replayer(t, l, 0)
	targets, err := r.Targets(t.Context(), []string{topic.Topic}, nil)
	if err != nil || len(targets) != 1 {
		t.Fatalf("%v, %v", targets, err)
	}
	plan := func(m Moment, bases ...Base) Stretch {
		t.Helper()
		s, err := r.Plan(t.Context(), targets, func(Target) Moment { return m }, func(Target) []Base { return bases })
		if err != nil || len(s) != 1 {
			t.Fatalf("%v, %v", s, err)
		}
		return s[0]
	}
	if s := plan(Moment{Time: at}); s.From != 0 || s.To != 30 || s.Base != nil {
		t.Errorf("%+v", s)
	}
	if s := plan(Moment{Time: at}, base); s.From != 29 || s.To != 30 || s.Base == nil {
		t.Errorf("%+v", s)
	}
	if s := plan(Moment{Offset: 7}, base); s.From != 0 || s.To != 7 || s.Base != nil {
		t.Errorf("%+v", s)
	}
	if _, err := r.Plan(t.Context(), targets, func(Target) Moment { return Moment{Offset: 99} }, func(Target) []Base { return nil }); err == nil {
		t.Error("planned beyond the end")
	}
	if _, err := r.Targets(t.Context(), []string{"none"}, nil); err == nil || !strings.Contains(err.Error(), "it does not exist") {
		t.Error(err)
	}
}

func TestTheRateIsKept(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := compacted(time.Hour)
		var records int64
		r, err := New(l, Options{Rate: 10, Progress: func(_, n int64) { records += n }})
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		_, target := replayer(t, l, 0)
		if _, err := r.At(t.Context(), target, Query{Moment: Moment{Offset: 30}}, nil); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took != 3*time.Second || records != 30 {
			t.Errorf("%d records in %s", records, took)
		}
	})
}
