package postgres

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/regent-infra/regent/adapters/postgres/observe"
	"github.com/regent-infra/regent/adapters/postgres/wal"
	"github.com/regent-infra/regent/internal/clock"
	"github.com/regent-infra/regent/schemas"
)

// view is all that was seen of the server, as of the last looks. It is immutable; a look makes a new one.
type view struct {
	pulse  *observe.Pulse // nil: the server was not asked since it last started, or does not answer
	failed bool           // the last look failed
	usage  *observe.Usage
	volume *observe.Volume
	disk   *schemas.DiskUsage
}

// looker asks the server in the background. What it sees belongs to an epoch, which rises whenever the server is about to be changed
// or has been: a look that began before that is thrown away, so that nothing of the past is reported beside a new fact.
type looker struct {
	observer *observe.Observer
	dataDir  string
	walDir   string
	config   Config
	clock    clock.Clock
	tell     func() // something was seen

	up    atomic.Bool // whether there is a server to ask
	epoch atomic.Int64
	kicks chan struct{}

	mu        sync.Mutex
	view      view
	histories map[int64][]schemas.TimelineSwitch
}

func newLooker(observer *observe.Observer, config Config, dataDir, walDir string, c clock.Clock, tell func()) *looker {
	return &looker{
		observer: observer, dataDir: dataDir, walDir: walDir, config: config, clock: c, tell: tell,
		kicks: make(chan struct{}, 1), histories: map[int64][]schemas.TimelineSwitch{},
	}
}

// current returns what was seen last.
func (l *looker) current() view {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.view
}

// forget drops what was seen of the server: it is gone, or another one now.
func (l *looker) forget() {
	l.epoch.Add(1)
	l.observer.Reset()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.view = view{disk: l.view.disk}
}

// serve says whether there is a server to ask.
func (l *looker) serve(up bool) {
	if l.up.Swap(up) != up && !up {
		l.forget()
	}
	if up {
		l.kick()
	}
}

// kick asks for a pulse at once.
func (l *looker) kick() {
	select {
	case l.kicks <- struct{}{}:
	default:
	}
}

// set changes the view unless the epoch has passed.
func (l *looker) set(epoch int64, change func(*view)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.epoch.Load() == epoch {
		change(&l.view)
	}
}

// run looks until ctx ends.
func (l *looker) run(ctx context.Context) {
	var wg sync.WaitGroup
	wg.Go(func() { l.every(ctx, l.config.PulseInterval, l.kicks, l.pulse) })
	wg.Go(func() { l.every(ctx, l.config.ObserveInterval, nil, l.usage) })
	wg.Go(func() { l.every(ctx, l.config.VolumeInterval, nil, l.volume) })
	wg.Wait()
}

func (l *looker) every(ctx context.Context, interval time.Duration, kicks <-chan struct{}, look func(context.Context)) {
	ticker := l.clock.NewTicker(interval)
	defer ticker.Stop()
	for {
		look(ctx)
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		case <-kicks:
		}
	}
}

// pulse looks at what may change at any moment.
func (l *looker) pulse(ctx context.Context) {
	if !l.up.Load() {
		return
	}
	epoch := l.epoch.Load()
	p, err := l.observer.Pulse(ctx)
	if ctx.Err() != nil {
		return
	}
	if err == nil {
		l.learn(p.Timeline)
	}
	l.set(epoch, func(v *view) {
		v.failed = err != nil
		if err == nil {
			v.pulse = &p
		} else if l.observer.Breaker().State != schemas.BreakerStateClosed {
			v.pulse = nil // it cannot be asked: the past is no answer
		}
	})
	l.tell()
}

// fresh takes a pulse for whoever has just changed the server. It is handed to the loop together with what was changed, see
// [looker.put]; looks that began before are thrown away.
func (l *looker) fresh(ctx context.Context) view {
	l.epoch.Add(1)
	p, err := l.observer.Pulse(ctx)
	v := l.current()
	if v.failed = err != nil; v.failed {
		v.pulse = nil
		return v
	}
	l.learn(p.Timeline)
	v.pulse = &p
	return v
}

// put makes a view the current one.
func (l *looker) put(v view) {
	l.epoch.Add(1)
	l.mu.Lock()
	defer l.mu.Unlock()
	v.disk, v.usage, v.volume = l.view.disk, l.view.usage, l.view.volume
	l.view = v
}

func (l *looker) usage(ctx context.Context) {
	if !l.up.Load() {
		return
	}
	epoch := l.epoch.Load()
	u, err := l.observer.Usage(ctx)
	if err == nil {
		l.set(epoch, func(v *view) { v.usage = &u })
	} else if !errors.Is(err, observe.ErrOpen) && ctx.Err() == nil {
		l.set(epoch, func(v *view) { v.usage = nil })
	}
}

func (l *looker) volume(ctx context.Context) {
	if disk, err := observe.Disk(l.dataDir); err == nil {
		l.mu.Lock()
		l.view.disk = &disk
		l.mu.Unlock()
	}
	pulse := l.current().pulse
	if !l.up.Load() || pulse == nil {
		return
	}
	epoch := l.epoch.Load()
	if v, err := l.observer.Volume(ctx, pulse.ServerVersion); err == nil {
		l.set(epoch, func(seen *view) { seen.volume = &v })
	}
}

// all looks at everything once.
func (l *looker) all(ctx context.Context) {
	l.epoch.Add(1)
	l.pulse(ctx)
	l.usage(ctx)
	l.volume(ctx)
}

// learn reads the history of a timeline that is not known yet. Files of pg_wal may lie on a stalled disk: only goroutines that
// may wait call it.
func (l *looker) learn(timeline int64) {
	if timeline < 1 || timeline > int64(^uint32(0)) {
		return
	}
	l.mu.Lock()
	_, known := l.histories[timeline]
	l.mu.Unlock()
	if known {
		return
	}
	h, err := wal.ReadHistory(l.walDir, wal.Timeline(timeline))
	if err != nil {
		return // not there yet: the next look tries again
	}
	l.keep(h)
}

// keep remembers a history.
func (l *looker) keep(h wal.History) {
	switches := make([]schemas.TimelineSwitch, len(h.Ancestors))
	for i, a := range h.Ancestors {
		switches[i] = schemas.TimelineSwitch{Timeline: int64(a.Timeline), SwitchLsn: int64(a.End), Reason: a.Reason} //nolint:gosec // no log reaches 2^63 bytes
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.histories[int64(h.Timeline)] = switches
}

// history returns the ancestry of a timeline as far as it is known.
func (l *looker) history(timeline int64) []schemas.TimelineSwitch {
	l.mu.Lock()
	defer l.mu.Unlock()
	if h := l.histories[timeline]; h != nil {
		return h
	}
	return []schemas.TimelineSwitch{}
}

// forgetHistories is for a data directory that was replaced.
func (l *looker) forgetHistories() {
	l.mu.Lock()
	defer l.mu.Unlock()
	clear(l.histories)
}
