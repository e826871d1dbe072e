package stream

import (
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/regent-infra/regent/statestore"
)

// flusher writes committed state to the store, beside the cycle. It has two generations: the tables' dirty entries are what was
// committed since, the flushing ones are on the way. Both full stop the cycle.
type flusher struct {
	// dirty are the bytes of the active generation, about.
	dirty int
	// moved says that a position has changed since the last flush.
	moved bool
	// last is when the last flush began, stamped when positions were last written although nothing had changed.
	last, stamped time.Time
	// running is closed when the flush that is on its way is done; nil if none is.
	running chan struct{}
	err     error
}

func (f *flusher) due(interval time.Duration) time.Time { return f.last.Add(interval) }

// maybeFlush settles a flush that has finished and starts one that is due.
func (r *Runtime) maybeFlush() error {
	f := &r.flush
	if f.running != nil {
		select {
		case <-f.running:
		default:
			if f.dirty < r.opts.FlushBytes {
				return nil
			}
			<-f.running // both generations are full
		}
		if err := r.settleFlush(); err != nil {
			return err
		}
	}
	now := r.opts.Clock.Now()
	if f.dirty < r.opts.FlushBytes && now.Before(f.due(r.opts.FlushInterval)) {
		return nil
	}
	f.last = now
	r.measureLag()
	if f.moved || now.Sub(f.stamped) >= r.opts.RestampInterval {
		r.startFlush(now)
	}
	return nil
}

// measureLag tells the metrics how many input records are waiting.
func (r *Runtime) measureLag() {
	lag := map[string]int64{}
	for _, t := range r.tasks {
		for tp, in := range t.inputs {
			lag[tp.Topic] += max(in.high-in.next, 0)
		}
	}
	for topic, n := range lag {
		r.opts.Metrics.lag.WithLabelValues(r.def.Name, topic).Set(float64(n))
	}
}

// startFlush takes the dirty set as of now, which is between two transactions, and its positions.
func (r *Runtime) startFlush(now time.Time) {
	b := &statestore.Batch{}
	var parts [][]write
	r.cache.mu.Lock()
	for _, t := range r.sortedTasks() {
		for _, name := range r.def.tableNames() {
			if taken := t.tables[name].takeDirty(); len(taken) > 0 {
				parts = append(parts, taken)
			}
		}
		p := t.position(now)
		b.Put(statestore.PositionKey(r.def.Name, t.id), p.Encode())
	}
	r.cache.mu.Unlock()
	f := &r.flush
	f.dirty, f.moved, f.stamped, f.running = 0, false, now, make(chan struct{})
	go func() {
		defer close(f.running)
		for _, taken := range parts {
			appendWrites(b, taken)
		}
		r.opts.reach(PointFlushing)
		began := r.opts.Clock.Now()
		f.err = r.opts.Store.Apply(b)
		r.opts.reach(PointFlushed)
		r.opts.Metrics.flushes.WithLabelValues(r.def.Name).Observe(r.opts.Clock.Now().Sub(began).Seconds())
		r.opts.Metrics.flushedBytes.WithLabelValues(r.def.Name).Add(float64(b.Bytes()))
	}()
}

// appendWrites adds writes of one table to a batch.
func appendWrites(b *statestore.Batch, writes []write) {
	size := 0
	for _, w := range writes {
		size += len(w.entry.owner.prefix) + len(w.entry.key())
	}
	keys := make([]byte, 0, size) // one allocation for all
	b.Grow(len(writes))
	for _, w := range writes {
		from := len(keys)
		keys = append(append(keys, w.entry.owner.prefix...), w.entry.key()...)
		if key := slices.Clip(keys[from:]); w.value == nil {
			b.Delete(key)
		} else {
			b.Put(key, w.value)
		}
	}
}

// settleFlush takes the outcome of the flush that has finished.
func (r *Runtime) settleFlush() error {
	f := &r.flush
	f.running = nil
	if f.err != nil {
		return &taskError{fmt.Errorf("flush committed state to the store: %w", f.err)}
	}
	r.cache.mu.Lock()
	defer r.cache.mu.Unlock()
	for _, t := range r.tasks {
		for _, tb := range t.tables {
			tb.settle()
		}
	}
	return nil
}

// flushAll writes everything that is committed and waits for it.
func (r *Runtime) flushAll() error {
	f := &r.flush
	for {
		if f.running != nil {
			<-f.running
			if err := r.settleFlush(); err != nil {
				return err
			}
		}
		if !f.moved || len(r.tasks) == 0 {
			return nil
		}
		r.log.Debug("flushing all committed state", slog.Int("bytes", f.dirty))
		r.startFlush(r.opts.Clock.Now())
	}
}
