package stream

import (
	"context"
	"fmt"
	"log/slog"
	"time"
)

// tick makes time pass for the tasks whose tick topic has been silent. The record goes out beside the transactions and comes
// back as input: so what follows from it is committed, and fenced, like anything else.
func (r *Runtime) tick() {
	tk := r.def.Tick
	if tk == nil {
		return
	}
	now := r.opts.Clock.Now()
	for _, t := range r.sortedTasks() {
		if now.Sub(t.lastTick) < tk.Every {
			continue
		}
		t.lastTick = now
		rec, err := tk.Make(t.id)
		if err != nil {
			r.log.Error("making a tick failed", slog.Int("task", int(t.id)), slog.Any("error", err))
			continue
		}
		rec.Topic = tk.Topic
		if rec.Partition = t.id; r.def.SingleTask {
			rec.Partition = 0
		}
		id := t.id
		r.session.Send(rec, func(err error) {
			if err != nil {
				r.log.Warn("sending a tick failed; the next one follows", slog.Int("task", int(id)), slog.Any("error", err))
				return
			}
			r.opts.Metrics.ticks.WithLabelValues(r.def.Name).Inc()
		})
	}
}

// probeInterval is how often an idle partition is looked at whose end was not reached by records.
const probeInterval = 20 * time.Millisecond

// unsettled reports whether a running task has not caught up.
func (r *Runtime) unsettled() bool {
	for _, t := range r.tasks {
		if !t.caughtUp {
			return true
		}
	}
	return false
}

// lookInterval is how often partitions are looked at that have not been read to their end, whatever else is coming in.
const lookInterval = 10 * probeInterval

// maybeProbe probes once nothing was fetched for a while, and every now and then those partitions of which nothing has come although others go on. A poll
// alone that is empty says little: it may have been woken, and a probe reads what the next one brings.
func (r *Runtime) maybeProbe(ctx context.Context, fetched bool) error {
	if !r.unsettled() {
		return nil
	}
	now := r.opts.Clock.Now()
	switch {
	case fetched:
		r.fetched = now
	case now.Sub(r.fetched) >= probeInterval && r.session.Buffered() == 0:
		r.fetched = now
		return r.probe(ctx, func(*input) bool { return true })
	}
	if now.Sub(r.looked) < lookInterval {
		return nil
	}
	r.looked = now
	return r.probe(ctx, func(in *input) bool {
		still := in.next == in.looked
		in.looked = in.next
		return still
	})
}

// probe finds the end of partitions that end in what no poll shows, such as offsets that compaction took away: of those that are chosen.
func (r *Runtime) probe(ctx context.Context, chosen func(*input) bool) error {
	for _, t := range r.sortedTasks() {
		if t.caughtUp {
			continue
		}
		for tp, in := range t.inputs {
			if in.next >= in.target || !chosen(in) {
				continue
			}
			end, err := r.session.Probe(ctx, tp, in.next)
			if err != nil {
				return fmt.Errorf("look for the end of %s/%d: %w", tp.Topic, tp.Partition, err)
			}
			if end > in.next {
				r.progress(&Fetched{TopicPartition: tp, Next: end, High: max(in.high, end)}, r.opts.Clock.Now())
			}
		}
	}
	return nil
}
