// Package gcpace lets the heap grow further between two garbage collections while they follow fast on one another.
//
// Go collects when the heap has doubled (GOGC=100, see the package documentation of runtime). A control plane that catches up allocates hundreds of
// megabytes a second over a heap of a few dozen in use, and so marks the same live entries several times a second. As long as that is so, a
// collection may wait until [Headroom] was allocated, or four times what is in use, whichever is less; in quiet times Go's own rule
// holds and the process stays small. A large heap is never given more than Go's rule gives it.
//
// Whoever sets the environment variable GOGC has decided, and nothing is done.
package gcpace

import (
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"sync"
	"time"
)

// Headroom is up to how many bytes are allocated between two collections when they come fast. 256 MiB.
const Headroom = 256 << 20

const (
	// usual is Go's own rule, per cent.
	usual = 100
	// most bounds what a small heap is given, per cent.
	most = 400
	// fast is the time between two collections under Go's own rule below which they come fast.
	fast = time.Second
	// step is the least change that is worth stopping the world for, per cent.
	step = 10
)

// percent returns by how much the heap may grow until the next collection, per cent of what is in use. allocated is what was allocated
// in the time since the last one.
func percent(live, allocated uint64, since time.Duration) int {
	if live == 0 || allocated == 0 {
		return usual
	}
	// With Go's own rule the next collection begins when as much was allocated as is in use.
	if untilNext := since.Seconds() * float64(live) / float64(allocated); untilNext >= fast.Seconds() {
		return usual
	}
	return int(min(max(Headroom*100/live, usual), most))
}

// pacer is called after each collection.
type pacer struct {
	samples   []metrics.Sample
	allocated uint64
	at        time.Time
	now       func() time.Time
	percent   int

	mu      sync.Mutex // so that nothing is set after the end
	stopped bool
}

// Start begins to pace the collections of this process, and returns what ends that.
func Start(now func() time.Time) (stop func()) {
	if os.Getenv("GOGC") != "" {
		return func() {}
	}
	p := &pacer{
		samples: []metrics.Sample{{Name: "/gc/heap/live:bytes"}, {Name: "/gc/heap/allocs:bytes"}},
		now:     now, at: now(), percent: debug.SetGCPercent(usual),
	}
	p.watch()
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.stopped = true
		debug.SetGCPercent(usual)
	}
}

// sentinel is what a collection finds.
type sentinel struct{ _ *byte }

// watch has paced called once the next collection is over.
func (p *pacer) watch() {
	runtime.AddCleanup(&sentinel{new(byte)}, (*pacer).paced, p)
}

// paced looks at the collection that is over and sets when the next one begins.
func (p *pacer) paced() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stopped {
		return
	}
	metrics.Read(p.samples)
	live, allocated, now := p.samples[0].Value.Uint64(), p.samples[1].Value.Uint64(), p.now()
	next := percent(live, allocated-p.allocated, now.Sub(p.at))
	p.allocated, p.at = allocated, now
	if next < p.percent-step || next > p.percent+step {
		debug.SetGCPercent(next)
		p.percent = next
	}
	p.watch()
}
