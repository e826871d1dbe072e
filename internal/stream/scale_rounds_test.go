package stream_test

import (
	"fmt"
	"math/rand/v2"
	"syscall"
	"testing"
	"time"

	"github.com/regent-infra/regent/internal/stream"
)

// Rounds of two processes that share 8 tasks on Apache Kafka and stand by for each other. In each round one of them dies, or sleeps over its
// session, and the other takes over; then everything is dead, and the auditor looks at the topics and at both stores, copies included.

// pair is two processes.
type pair struct {
	*arena
	names [2]string
	procs [2]*process
}

func (p *pair) order(i int) order {
	o := p.arena.order(p.names[i])
	o.Standbys = 1
	return o
}

func (p *pair) spawn(i int, o order) { p.procs[i] = spawn(p.t, o) }

var pairEvils = []evil2{
	{"killed at a random moment", 40, func(p *pair, victim int) {
		p.both(p.order(victim), victim)
		p.live(p.procs[victim], 100*time.Millisecond, 2*time.Second)
		p.procs[victim].kill()
		p.survives(1 - victim)
	}},
	{"killed at a point of the cycle", 25, func(p *pair, victim int) {
		o := p.order(victim)
		o.Point, o.Count = everyPoint[p.rng.IntN(len(everyPoint)-1)], 1+p.rng.Int64N(30)
		p.both(o, victim)
		p.live(p.procs[victim], 2*time.Second, 3*time.Second)
		p.procs[victim].kill()
		p.survives(1 - victim)
	}},
	{"killed while it brings a copy forward", 15, func(p *pair, victim int) {
		o := p.order(victim)
		o.Point, o.Count = stream.PointStandby, 1+p.rng.Int64N(60)
		p.both(o, victim)
		p.live(p.procs[victim], 2*time.Second, 3*time.Second)
		p.procs[victim].kill()
		p.survives(1 - victim)
	}},
	{"killed while it takes over", 10, func(p *pair, victim int) {
		o := p.order(victim)
		o.Point, o.Count = stream.PointRedo, 1+p.rng.Int64N(3)
		p.both(o, victim)
		p.live(p.procs[1-victim], 500*time.Millisecond, time.Second)
		p.procs[1-victim].kill()
		p.live(p.procs[victim], 2*time.Second, 3*time.Second)
	}},
	{"one stops in order, comes back, then the other dies", 10, func(p *pair, victim int) {
		p.both(p.order(victim), victim)
		p.live(p.procs[victim], 500*time.Millisecond, time.Second)
		p.procs[1-victim].signal(syscall.SIGTERM)
		p.procs[1-victim].over(patience)
		p.spawn(1-victim, p.order(1-victim))
		p.live(p.procs[victim], 300*time.Millisecond, 1500*time.Millisecond)
		p.procs[victim].kill()
		p.survives(1 - victim)
	}},
	{"one sleeps while the other takes over, and wakes", 10, func(p *pair, victim int) {
		p.both(p.order(victim), victim)
		p.live(p.procs[victim], 500*time.Millisecond, 1500*time.Millisecond)
		p.procs[victim].signal(syscall.SIGSTOP)
		p.survives(1 - victim)
		p.procs[victim].signal(syscall.SIGCONT)
		p.live(p.procs[1-victim], 300*time.Millisecond, 1500*time.Millisecond)
	}},
}

// evil2 is what may happen to one of two.
type evil2 struct {
	name   string
	weight int
	do     func(p *pair, victim int)
}

// both starts both processes, the victim with an order of its own.
func (p *pair) both(o order, victim int) {
	p.spawn(victim, o)
	p.spawn(1-victim, p.order(1-victim))
}

// survives waits until a process runs all tasks, and lets it work for a moment.
func (p *pair) survives(i int) {
	p.t.Helper()
	p.procs[i].says(fmt.Sprint("runs ", scalePartitions, " tasks"))
	p.live(p.procs[i], 50*time.Millisecond, 500*time.Millisecond)
}

func drawPair(rng *rand.Rand) evil2 {
	total := 0
	for _, e := range pairEvils {
		total += e.weight
	}
	n := rng.IntN(total)
	for _, e := range pairEvils {
		if n -= e.weight; n < 0 {
			return e
		}
	}
	panic("unreachable")
}

// TestTwoProcessesOnApacheKafka runs the rounds: a few by default, REGENT_SCALE_ROUNDS of them else (make soak-scale).
func TestTwoProcessesOnApacheKafka(t *testing.T) {
	rounds := sizeOf(t, "REGENT_SCALE_ROUNDS", 4)
	seed := seedOf(t, 0)
	t.Logf("seed %d", seed)
	b := startWide(t)
	rng := rand.New(rand.NewPCG(seed, 2))
	p := &pair{
		arena: &arena{t: t, b: &outside{broker: b, name: "ApacheKafka"}, rng: rng, aud: newAuditor(b, rng), dir: t.TempDir()},
		names: [2]string{"a", "b"},
	}
	tally := &tallies{broker: "ApacheKafka, two processes", began: time.Now(), evils: map[string]int{}}
	stop := b.trickle(t, 1000)
	for n := range rounds {
		e, victim := drawPair(rng), rng.IntN(2)
		if n < len(pairEvils) && rounds >= len(pairEvils) {
			e = pairEvils[n] // each at least once
		}
		began := time.Now()
		e.do(p, victim)
		for _, proc := range p.procs {
			proc.kill()
		}
		if err := p.aud.look(t, p.store("a"), p.store("b")); err != nil {
			t.Fatalf("seed %d, round %d (%s): %v", seed, n, e.name, err)
		}
		tally.count(e.name, time.Since(began))
	}
	stop()
	p.spawn(0, p.order(0))
	p.spawn(1, p.order(1))
	b.allCommitted(t, time.Minute)
	for _, proc := range p.procs {
		proc.signal(syscall.SIGTERM)
		if s := proc.ended(); s != 0 {
			t.Fatalf("a process died of %s", s)
		}
	}
	if err := p.aud.look(t, p.store("a"), p.store("b")); err != nil {
		t.Fatalf("seed %d, at the end: %v", seed, err)
	}
	tally.done(seed, p.aud.facts)
	tally.report(t)
}
