package fold

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/regent-infra/regent/schemas"
)

// plainSilence follows the rules of [Silence] word by word: it looks at every node at every record.
type plainSilence struct {
	now   time.Time
	nodes map[string]*plainNode
}

type plainNode struct {
	pulse   Pulse
	silence time.Duration
	suspect bool
}

func (p *plainSilence) record(at time.Time, beaten string, pulse Pulse) []string {
	first := p.now.IsZero()
	back := !first && at.Before(p.now.Add(-clockStep))
	delta := max(at.Sub(p.now), 0)
	if first || back {
		delta = 0
	}
	if first || back || at.After(p.now) {
		p.now = at
	}
	var suspects []string
	for name, n := range p.nodes {
		if n.suspect {
			continue
		}
		t := timingOf(n.pulse)
		if n.silence += delta; back || delta > gapIntervals*t.interval {
			n.silence = 0
		}
		if name != beaten && n.silence > t.suspectAfter {
			n.suspect = true
			suspects = append(suspects, name)
		}
	}
	if beaten != "" {
		p.nodes[beaten] = &plainNode{pulse: pulse}
	}
	slices.Sort(suspects)
	return suspects
}

// TestSilenceFollowsItsRules compares the queues with the plain rules on random partitions.
func TestSilenceFollowsItsRules(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		s, plain := NewSilence(), &plainSilence{nodes: map[string]*plainNode{}}
		now := time.Unix(1_000_000, 0)
		for i := range rapid.IntRange(0, 3).Draw(t, "expected") {
			name := fmt.Sprintf("n%d", i)
			p := Pulse{Liveness: schemas.LivenessAlive, IntervalMs: 250, SuspectAfterMs: 1000}
			s.Expect(name, p)
			plain.nodes[name] = &plainNode{pulse: p}
		}
		for range rapid.IntRange(1, 200).Draw(t, "records") {
			now = now.Add(rapid.SampledFrom([]time.Duration{
				0, time.Millisecond, 100 * time.Millisecond, 250 * time.Millisecond, 500 * time.Millisecond, 501 * time.Millisecond,
				time.Second, 3 * time.Second, time.Minute, -time.Second, -time.Hour,
			}).Draw(t, "step"))
			name := rapid.SampledFrom([]string{"", "n0", "n1", "n2", "n3", "n4"}).Draw(t, "who")
			p := Pulse{Liveness: schemas.LivenessAlive, IntervalMs: 250, SuspectAfterMs: 1000}
			if rapid.IntRange(0, 3).Draw(t, "profile") == 0 {
				p.IntervalMs = rapid.SampledFrom([]int32{-1, 0, 100, 1000, 1 << 30}).Draw(t, "interval")
				p.SuspectAfterMs = rapid.SampledFrom([]int32{-1, 0, 1, 3000}).Draw(t, "suspect after")
			}
			var got []string
			if name == "" {
				got = s.Pass(now)
			} else {
				got = s.Beat(now, name, p.IntervalMs, p.SuspectAfterMs)
			}
			slices.Sort(got)
			if want := plain.record(now, name, p); !slices.Equal(got, want) {
				t.Fatalf("newly suspected: got %v, want %v", got, want)
			}
			for name, n := range plain.nodes {
				p, known := s.Pulse(name)
				if !known || (p.Liveness == schemas.LivenessSuspect) != n.suspect || p.IntervalMs != n.pulse.IntervalMs {
					t.Fatalf("%s: got %+v (known %v), want suspect %v", name, p, known, n.suspect)
				}
			}
		}
		var want []string
		for name, n := range plain.nodes {
			if n.suspect {
				want = append(want, name)
			}
		}
		got := s.Suspects(100)
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Fatalf("suspects: got %v, want %v", got, want)
		}
	})
}

func TestSuspectsGetAround(t *testing.T) {
	t.Parallel()
	s := NewSilence()
	now := time.Unix(0, 0)
	for i := range 5 {
		s.Beat(now, fmt.Sprintf("n%d", i), 1000, 2000)
	}
	for range 3 {
		now = now.Add(time.Second)
		s.Pass(now)
	}
	var seen []string
	for range 3 {
		seen = append(seen, s.Suspects(2)...)
	}
	if want := []string{"n0", "n1", "n2", "n3", "n4", "n0"}; !slices.Equal(seen, want) {
		t.Errorf("got %v, want %v", seen, want)
	}
	if got := s.Suspects(0); len(got) != 0 {
		t.Errorf("limit 0 gave %v", got)
	}
}

func TestSilenceForgetsTheLongestSilentBeyondItsBound(t *testing.T) {
	t.Parallel()
	s := NewSilence()
	now := time.Unix(0, 0)
	for i := range maxSilent + 10 {
		s.Beat(now, fmt.Sprintf("n%d", i), 1000, 2000)
	}
	for range 3 {
		now = now.Add(time.Second)
		s.Pass(now)
	}
	if _, known := s.Pulse("n9"); known {
		t.Error("n9 is remembered beyond the bound")
	}
	if p, known := s.Pulse("n10"); !known || p.Liveness != schemas.LivenessSuspect {
		t.Errorf("n10: %+v, known %v", p, known)
	}
	if n := len(s.Suspects(maxSilent * 2)); n != maxSilent {
		t.Errorf("%d are remembered, want %d", n, maxSilent)
	}
}

func TestUnusedTimingsAreDropped(t *testing.T) {
	t.Parallel()
	s := NewSilence()
	for i := range 1000 {
		s.Beat(time.Unix(int64(i), 0), "n", int32(i+1), 0)
	}
	if len(s.classes) > 9 {
		t.Errorf("%d classes for one node", len(s.classes))
	}
}

// BenchmarkBeat shows that a heartbeat costs the same however many nodes there are.
func BenchmarkBeat(b *testing.B) {
	for _, n := range []int{10, 10_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			names := make([]string, n)
			for i := range names {
				names[i] = fmt.Sprintf("postgres/c%d/node/pg-1", i)
			}
			s := NewSilence()
			now := time.Unix(0, 0)
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				now = now.Add(time.Second / time.Duration(n))
				s.Beat(now, names[i%n], 1000, 3000)
			}
		})
	}
}
