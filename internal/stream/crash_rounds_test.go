package stream_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/regent-infra/regent/internal/stream"
)

// The rounds: real processes on a broker in a process of its own, under load. In each round something bad happens, chosen at random; then
// everything is dead, and the auditor looks. Topics, group and stores live on from round to round.

// arena is where rounds take place.
type arena struct {
	t   *testing.T
	b   *outside
	aud *auditor
	rng *rand.Rand
	dir string
}

func (a *arena) store(name string) string { return filepath.Join(a.dir, name) }

// order is what a process of the round is told, but for the evil.
func (a *arena) order(name string) order {
	return order{Brokers: a.b.addrs, Instance: name, Dir: a.store(name), Signal: syscall.SIGKILL}
}

// within returns a random duration.
func (a *arena) within(low, high time.Duration) time.Duration {
	return low + time.Duration(a.rng.Int64N(int64(high-low)))
}

// live lets a process live for a while, or until it dies by itself.
func (a *arena) live(p *process, low, high time.Duration) { p.over(a.within(low, high)) }

// evil is what may happen in a round. weight is how often it does.
type evil struct {
	name   string
	weight int
	do     func(a *arena)
}

var everyPoint = []stream.Point{
	stream.PointPolled, stream.PointFolding, stream.PointProduced, stream.PointCommitted, stream.PointFlushing, stream.PointFlushed, stream.PointRedo,
}

var evils = []evil{
	{"killed at a point of the cycle", 30, func(a *arena) {
		o := a.order("a")
		o.Point, o.Count = everyPoint[a.rng.IntN(len(everyPoint))], 1+a.rng.Int64N(40)
		if o.Point == stream.PointRedo {
			o.Count = 1
		}
		p := spawn(a.t, o)
		a.live(p, 700*time.Millisecond, 2*time.Second) // a redo may have nothing to do
		p.kill()
	}},
	{"killed at a random moment", 25, func(a *arena) {
		p := spawn(a.t, a.order("a"))
		a.live(p, 50*time.Millisecond, 1200*time.Millisecond)
		p.kill()
	}},
	{"killed with the end of a transaction on its way", 8, func(a *arena) {
		p := spawn(a.t, a.order("a"))
		left, does := atomic.Int64{}, passes
		left.Store(1 + a.rng.Int64N(20))
		if a.rng.IntN(2) == 0 {
			does = lost
		}
		a.b.proxy.ends(func() fate {
			if left.Add(-1) == 0 {
				_ = p.cmd.Process.Kill()
				return does
			}
			return passes
		})
		a.live(p, 2*time.Second, 3*time.Second)
		p.kill()
	}},
	{"the answer to the end of a transaction is lost", 8, func(a *arena) {
		a.cutAround(unanswered)
	}},
	{"the end of a transaction is lost", 8, func(a *arena) {
		a.cutAround(lost)
	}},
	{"every third commit is aborted", 4, func(a *arena) {
		o := a.order("a")
		o.AbortEvery = 3
		p := spawn(a.t, o)
		a.live(p, 800*time.Millisecond, 1500*time.Millisecond)
		p.kill()
	}},
	{"asleep until its transaction times out", 3, func(a *arena) {
		o := a.order("a")
		o.Point, o.Count, o.Signal = stream.PointProduced, 1+a.rng.Int64N(10), syscall.SIGSTOP
		p := spawn(a.t, o)
		if p.reaches(o.Point) {
			p.over(a.within(1500*time.Millisecond, 3*time.Second))
			_ = p.cmd.Process.Signal(syscall.SIGCONT)
			a.live(p, 500*time.Millisecond, time.Second)
		}
		p.kill()
	}},
	{"a zombie wakes after another has taken over", 4, func(a *arena) {
		o := a.order("a")
		o.Point, o.Count, o.Signal = everyPoint[a.rng.IntN(4)], 1+a.rng.Int64N(20), syscall.SIGSTOP
		sleeper := spawn(a.t, o)
		if sleeper.reaches(o.Point) {
			heir := spawn(a.t, a.order("b"))
			heir.hears("runs all tasks")
			_ = sleeper.cmd.Process.Signal(syscall.SIGCONT)
			a.live(heir, 200*time.Millisecond, time.Second)
			heir.kill()
		}
		sleeper.kill()
	}},
	{"two processes take each other for themselves", 3, func(a *arena) {
		first := spawn(a.t, a.order("a"))
		a.live(first, 300*time.Millisecond, 800*time.Millisecond)
		o := a.order("a")
		o.Dir = a.store("b")
		second := spawn(a.t, o)
		a.live(second, 500*time.Millisecond, 1500*time.Millisecond)
		first.kill()
		second.kill()
	}},
	{"others join and leave under load", 4, func(a *arena) {
		stays := spawn(a.t, a.order("a"))
		for range 1 + a.rng.IntN(2) {
			p := spawn(a.t, a.order("b"))
			a.live(p, 300*time.Millisecond, 1200*time.Millisecond)
			if a.rng.IntN(2) == 0 {
				_ = p.cmd.Process.Signal(syscall.SIGTERM)
				p.over(patience)
			}
			p.kill()
		}
		stays.kill()
	}},
	{"the clock jumps by hours", 3, func(a *arena) {
		o := a.order("a")
		o.ClockSteps = true
		p := spawn(a.t, o)
		a.live(p, 500*time.Millisecond, 1500*time.Millisecond)
		p.kill()
	}},
	{"the broker is killed", 2, func(a *arena) {
		p := spawn(a.t, a.order("a"))
		a.live(p, 300*time.Millisecond, 1200*time.Millisecond)
		a.b.kill()
		if a.rng.IntN(2) == 0 {
			p.kill()
		}
		a.b.restart(a.t)
		a.live(p, 300*time.Millisecond, time.Second)
		p.kill()
	}},
	{"the store is torn", 4, func(a *arena) {
		p := spawn(a.t, a.order("a"))
		a.live(p, 500*time.Millisecond, 1200*time.Millisecond)
		p.kill()
		a.tear()
	}},
	{"none, and everything is caught up with", 3, func(a *arena) { a.calm("a") }},
}

// cutAround cuts the connections around some end of a transaction, for as long as the runtime has patience or longer.
func (a *arena) cutAround(does fate) {
	p := spawn(a.t, a.order("a"))
	var left atomic.Int64
	left.Store(1 + a.rng.Int64N(15))
	cut := make(chan struct{})
	a.b.proxy.ends(func() fate {
		if left.Add(-1) == 0 {
			close(cut)
			return does
		}
		return passes
	})
	timer := time.NewTimer(2 * time.Second)
	defer timer.Stop()
	select {
	case <-cut:
		a.b.proxy.cut(true)
		p.over(a.within(0, 1500*time.Millisecond))
		a.b.proxy.cut(false)
		a.live(p, 300*time.Millisecond, 1500*time.Millisecond)
	case <-timer.C:
	}
	p.kill()
}

// tear damages a file of the store, as a disk does: cut off, or with some bytes changed. The next process either finds nothing wrong, and then
// nothing may be wrong, or refuses the store by name; then it is removed, and made again from the log.
func (a *arena) tear() {
	var files []string
	entries, _ := os.ReadDir(a.store("a"))
	for _, e := range entries {
		if i, err := e.Info(); err == nil && i.Mode().IsRegular() && i.Size() > 0 && e.Name() != "LOCK" {
			files = append(files, filepath.Join(a.store("a"), e.Name()))
		}
	}
	if len(files) == 0 {
		return
	}
	path := files[a.rng.IntN(len(files))]
	raw, err := os.ReadFile(path)
	if err != nil {
		a.t.Fatal(err)
	}
	if a.rng.IntN(2) == 0 {
		raw = raw[:a.rng.IntN(len(raw))]
	} else {
		for range 8 {
			raw[a.rng.IntN(len(raw))] ^= byte(1 + a.rng.IntN(255))
		}
	}
	if err := os.WriteFile(path, raw, 0o600); err != nil {
		a.t.Fatal(err)
	}
	a.aud.forget(a.store("a"))
	p := spawn(a.t, a.order("a"))
	if p.over(1500 * time.Millisecond) {
		if p.err == nil {
			a.t.Fatalf("a process with the torn file %s ended, and said nothing of it", filepath.Base(path))
		}
		if err := os.RemoveAll(a.store("a")); err != nil {
			a.t.Fatal(err)
		}
	}
	p.kill()
}

// calm lets a process catch up and end in order; then nothing may be left to do.
func (a *arena) calm(name string) {
	p := spawn(a.t, a.order(name))
	p.says("runs all tasks")
	ends, err := a.b.adm.ListEndOffsets(a.t.Context(), factsTopic)
	if err != nil {
		a.t.Fatal(err)
	}
	eventually(a.t, "the group has committed all input", func() bool {
		for id := range a.b.partitions {
			end, _ := ends.Lookup(factsTopic, id)
			if a.b.committed(a.t, id).Offset < end.Offset {
				return false
			}
		}
		return true
	})
	p.signal(syscall.SIGTERM)
	if s := p.ended(); s != 0 {
		a.t.Fatalf("the process died of %s", s)
	}
}

// reaches waits until the process has sent itself its signal.
func (p *process) reaches(point stream.Point) bool { return p.hears("reached " + string(point)) }

// hears waits for a line for a while; it need not come.
func (p *process) hears(line string) bool {
	deadline := time.After(5 * time.Second)
	for {
		select {
		case got, ok := <-p.said:
			if got == line || !ok {
				return ok
			}
		case <-deadline:
			return false
		}
	}
}

// draw chooses an evil.
func draw(rng *rand.Rand) evil {
	total := 0
	for _, e := range evils {
		total += e.weight
	}
	n := rng.IntN(total)
	for _, e := range evils {
		if n -= e.weight; n < 0 {
			return e
		}
	}
	panic("unreachable")
}

// roundsOf is how many rounds are to be run: few by default, and as many as REGENT_CRASH_ROUNDS says on the embedded broker, a fifth of
// that on Apache Kafka.
func roundsOf(t *testing.T, broker string) int {
	t.Helper()
	few := map[string]int{"embedded": 20, "ApacheKafka": 8}[broker]
	text := os.Getenv("REGENT_CRASH_ROUNDS")
	if text == "" {
		return few
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("REGENT_CRASH_ROUNDS is %q, expected a number of rounds", text)
	}
	if broker == "ApacheKafka" {
		n = max(1, n/5)
	}
	return n
}

// TestCrashRounds runs the rounds on both brokers. A failure names its seed; REGENT_CRASH_SEED runs it again (the moments differ, the choices
// do not).
func TestCrashRounds(t *testing.T) {
	for name, start := range map[string]func(testing.TB) *outside{"embedded": startEmbedded, "ApacheKafka": startApache} {
		t.Run(name, func(t *testing.T) {
			rounds, lanes := roundsOf(t, name), 1
			if rounds >= 100 {
				lanes = 2 // they wait much more than they work
			}
			tally := &tallies{broker: name, began: time.Now(), evils: map[string]int{}}
			t.Run("rounds", func(t *testing.T) {
				for lane := range lanes {
					t.Run(fmt.Sprint(lane), func(t *testing.T) {
						t.Parallel()
						runRounds(t, start(t), seedOf(t, lane), rounds/lanes, tally)
					})
				}
			})
			if !t.Failed() {
				tally.report(t)
			}
		})
	}
}

func seedOf(t *testing.T, lane int) uint64 {
	t.Helper()
	if text := os.Getenv("REGENT_CRASH_SEED"); text != "" {
		n, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			t.Fatalf("REGENT_CRASH_SEED is %q, expected a number", text)
		}
		return n + uint64(lane)
	}
	return uint64(time.Now().UnixNano())
}

func runRounds(t *testing.T, b *outside, seed uint64, rounds int, tally *tallies) {
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 1))
	a := &arena{t: t, b: b, rng: rng, aud: newAuditor(b.broker, rng), dir: t.TempDir()}
	stop := b.trickle(t, 500)
	for n := range rounds {
		e := draw(rng)
		began := time.Now()
		e.do(a)
		b.proxy.ends(nil)
		if err := a.aud.look(t, a.store("a"), a.store("b")); err != nil {
			t.Fatalf("seed %d, round %d (%s): %v", seed, n, e.name, err)
		}
		tally.count(e.name, time.Since(began))
	}
	stop()
	a.calm("a")
	if err := a.aud.look(t, a.store("a"), a.store("b")); err != nil {
		t.Fatalf("seed %d, at the end: %v", seed, err)
	}
	tally.done(seed, a.aud.facts)
}

// tallies is what a report says.
type tallies struct {
	mu     sync.Mutex
	broker string
	began  time.Time
	evils  map[string]int
	seeds  []uint64
	facts  int
}

func (c *tallies) count(evil string, _ time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.evils[evil]++
}

func (c *tallies) done(seed uint64, facts int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.seeds = append(c.seeds, seed)
	c.facts += facts
}

// report appends to the file that REGENT_CRASH_REPORT names, and to the log.
func (c *tallies) report(t *testing.T) {
	total := 0
	for _, n := range c.evils {
		total += n
	}
	var text strings.Builder
	fmt.Fprintf(&text, "### %s\n\n%d rounds in %s over %d input records; seeds %v; no violation.\n\n| what happened | rounds |\n|---|---|\n",
		c.broker, total, time.Since(c.began).Round(time.Second), c.facts, c.seeds)
	for _, name := range slices.Sorted(maps.Keys(c.evils)) {
		fmt.Fprintf(&text, "| %s | %d |\n", name, c.evils[name])
	}
	t.Log("\n" + text.String())
	path := os.Getenv("REGENT_CRASH_REPORT")
	if path == "" {
		return
	}
	f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644) //nolint:gosec // a report
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := fmt.Fprintln(f, text.String()); err != nil {
		t.Fatal(err)
	}
}
