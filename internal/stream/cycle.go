package stream

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/regent-infra/regent/internal/record"
)

// cycle takes steps until ctx ends (it commits what is folded and returns nil) or something fails.
func (r *Runtime) cycle(ctx context.Context) error {
	for ctx.Err() == nil {
		if err := r.step(ctx); err != nil {
			return err
		}
	}
	return r.finish(context.WithoutCancel(ctx))
}

// step polls, follows the assignment, folds, commits and flushes, each where it is due.
func (r *Runtime) step(ctx context.Context) error {
	if r.full() {
		if err := r.drain(ctx); err != nil {
			return err
		}
	}
	r.rewound = false
	batch, err := r.session.Poll(ctx, r.opts.PollRecords, r.patience())
	if err != nil {
		return fmt.Errorf("poll: %w", err)
	}
	if err := r.settleEnding(ctx); err != nil {
		return err
	}
	if err := r.reassign(ctx, batch); err != nil {
		return err
	}
	if err := r.settleRecoveries(ctx); err != nil {
		return err
	}
	if r.rewound {
		return nil // what this poll brought follows records that have to be read again first
	}
	if len(batch.Fetched) > 0 && !r.open() && r.ending == nil {
		r.opts.reach(PointPolled)
	}
	if err := r.foldBatch(batch); err != nil {
		return err
	}
	r.maybeSeal(ctx)
	if err := r.maybeFlush(); err != nil {
		return err
	}
	if err := r.serve(); err != nil {
		return err
	}
	if err := r.maybeProbe(ctx, len(batch.Fetched) > 0); err != nil {
		return err
	}
	r.tick()
	return nil
}

// finish commits what is folded before a regular stop.
func (r *Runtime) finish(ctx context.Context) error { return r.commit(ctx) }

// patience is how long Poll may wait: until the next thing that is due.
func (r *Runtime) patience() time.Duration {
	now := r.opts.Clock.Now()
	wait := r.flush.due(r.opts.FlushInterval).Sub(now)
	if r.open() && r.ending == nil { // the end of the one before wakes the poll
		wait = min(wait, r.txn.began.Add(r.opts.PositionInterval).Sub(now))
	}
	if tick := r.def.Tick; tick != nil {
		for _, t := range r.tasks {
			wait = min(wait, t.lastTick.Add(tick.Every).Sub(now))
		}
	}
	if r.unsettled() {
		wait = min(wait, probeInterval)
	}
	return max(wait, 0)
}

// foldBatch folds every record into its task, in the order of append times between the task's partitions. Tasks share nothing, so
// they are folded at the same time where there is enough to do.
func (r *Runtime) foldBatch(b *Batch) error {
	now := r.opts.Clock.Now()
	if shares := r.deal(b); len(shares) > 0 {
		if !r.open() {
			r.txn.began = now
		}
		err := r.foldShares(shares)
		for _, s := range shares {
			r.txn.records += s.records
			r.txn.bytes += s.bytes
			r.counters.in.Add(float64(s.records))
			r.counters.out.Add(float64(s.outs))
		}
		if err != nil {
			return err
		}
	}
	for i := range b.Fetched {
		r.progress(&b.Fetched[i], now)
	}
	return r.flushAhead()
}

// manyRecords is from when on it pays to start goroutines for a batch.
const manyRecords = 256

func (r *Runtime) foldShares(shares []*share) error {
	total := 0
	for _, s := range shares {
		for i := range s.parts {
			total += len(s.parts[i].recs)
		}
	}
	if len(shares) == 1 || r.opts.Workers == 1 || total < manyRecords {
		for _, s := range shares {
			if err := r.foldShare(s); err != nil {
				return err
			}
		}
		return nil
	}
	var g errgroup.Group
	g.SetLimit(r.opts.Workers)
	for _, s := range shares {
		g.Go(func() error { return r.foldShare(s) })
	}
	return g.Wait()
}

// produceRecords is how many outputs of a task are handed over at once.
const produceRecords = 256

func (r *Runtime) foldShare(s *share) error {
	err := s.each(func(in *input, rec *record.Record) error {
		if err := r.foldRecord(s, in, rec); err != nil {
			return err
		}
		if len(s.task.outs) >= produceRecords && r.ending == nil {
			r.produce(s.task)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if r.ending == nil {
		r.produce(s.task)
	}
	return nil
}

// share is what one task gets of a batch.
type share struct {
	task  *task
	parts []part
	// records, outs and bytes count what came of it: records that were folded, outputs and their size.
	records, outs, bytes int
}

// part is what one input partition brings.
type part struct {
	in   *input
	recs []record.Record
	high time.Time // the highest time seen in it
	near int       // how many of the records ahead were approached
}

// deal sorts a batch by task.
func (r *Runtime) deal(b *Batch) []*share {
	shares := make([]*share, 0, len(b.Fetched))
	for i := range b.Fetched {
		f := &b.Fetched[i]
		t := r.taskOf(f.TopicPartition)
		if t == nil || len(f.Records) == 0 {
			continue // revoked while it was on the way, or nothing but markers
		}
		at := slices.IndexFunc(shares, func(s *share) bool { return s.task == t })
		if at < 0 {
			at = len(shares)
			shares = append(shares, &share{task: t})
		}
		shares[at].parts = append(shares[at].parts, part{in: t.inputs[f.TopicPartition], recs: f.Records})
	}
	return shares
}

// each calls fn with the records in the order in which they are folded. Those of one partition stay in offset order; between
// partitions the earlier append time goes first, so that stream time does not run ahead of a partition that is merely read later.
// What counts is the highest time seen so far in a partition, since times need not rise within it.
func (s *share) each(fn func(in *input, rec *record.Record) error) error {
	if len(s.parts) == 1 {
		p := &s.parts[0]
		for i := range p.recs {
			p.approach(i)
			if err := fn(p.in, &p.recs[i]); err != nil {
				return err
			}
		}
		return nil
	}
	for i := range s.parts {
		s.parts[i].advance()
	}
	for {
		var first *part
		for i := range s.parts {
			if p := &s.parts[i]; len(p.recs) > 0 && (first == nil || p.high.Before(first.high)) {
				first = p
			}
		}
		if first == nil {
			return nil
		}
		first.approach(0)
		rec := &first.recs[0]
		first.recs = first.recs[1:]
		first.advance()
		if err := fn(first.in, rec); err != nil {
			return err
		}
	}
}

// approach brings near what the records from i on are going to need, unless that was done when an earlier one was at hand.
func (p *part) approach(i int) {
	if p.in.near == nil {
		return
	}
	if p.near--; p.near < 0 {
		p.in.near.approach(p.recs[i:])
		p.near = strides - 1
	}
}

// advance takes the time of the next record into account.
func (p *part) advance() {
	if len(p.recs) > 0 && p.recs[0].Timestamp.After(p.high) {
		p.high = p.recs[0].Timestamp
	}
}

// taskOf returns the running task that reads the partition, or nil.
func (r *Runtime) taskOf(tp topicPartition) *task {
	id := tp.Partition
	if r.def.SingleTask {
		id = 0
	}
	t := r.tasks[id]
	if t == nil || t.inputs[tp] == nil {
		return nil
	}
	return t
}

func (r *Runtime) foldRecord(s *share, in *input, rec *record.Record) error {
	if rec.Offset < in.next {
		return nil // sent before a seek took hold
	}
	t := s.task
	before := len(t.outs)
	v := t.fold(in, rec)
	if v.err != nil {
		return &taskError{v.err}
	}
	if v.poison != nil {
		out, err := r.deadLetter(t, rec, v)
		if err != nil {
			return &taskError{err}
		}
		t.outs = append(t.outs, out)
		t.wrote = true
	}
	s.records++
	for i := range t.outs[before:] {
		s.bytes += len(t.outs[before+i].Key) + len(t.outs[before+i].Value)
	}
	s.outs += len(t.outs) - before
	return nil
}

// deadLetter builds the record that goes out instead of what the machine had to say.
func (r *Runtime) deadLetter(t *task, rec *record.Record, v verdict) (record.Record, error) {
	attrs := []any{
		slog.String("reason", v.poison.Reason), slog.String("topic", rec.Topic), slog.Int("partition", int(rec.Partition)),
		slog.Int64("offset", rec.Offset), slog.Any("error", v.poison.Err),
	}
	if v.stack != nil {
		r.opts.Metrics.panics.WithLabelValues(r.def.Name).Inc()
		r.log.Error("the machine panicked on a record", append(attrs, slog.String("stack", string(v.stack)))...)
	} else {
		r.log.Warn("a record cannot be processed", attrs...)
	}
	r.opts.Metrics.deadLetters.WithLabelValues(r.def.Name, v.poison.Reason).Inc()
	out, err := r.def.DeadLetter(rec, v.poison.Reason, v.poison.Err)
	if err != nil {
		return record.Record{}, fmt.Errorf("build the dead letter for record %s/%d@%d: %w", rec.Topic, rec.Partition, rec.Offset, err)
	}
	if out.Topic == r.def.Changelog {
		return record.Record{}, fmt.Errorf("build the dead letter for record %s/%d@%d: its topic %q is the changelog",
			rec.Topic, rec.Partition, rec.Offset, out.Topic)
	}
	if out.Partition == OwnPartition {
		out.Partition = t.id
	}
	out.Headers = t.stamps.stamp(out.Headers, rec)
	return out, nil
}

// produce hands the outputs of a task over. Nothing may be ending: a producer has one transaction at a time.
func (r *Runtime) produce(t *task) {
	if len(t.outs) == 0 {
		return
	}
	x, id := r.txn, t.id
	r.session.Produce(t.outs, func(topic string, offset int64, err error) {
		x.acknowledge(id, topic == r.def.Changelog, offset, err)
	})
	clear(t.outs)
	t.outs = t.outs[:0]
	r.opts.reach(PointFolding)
}

// progress takes over what a poll said about a partition: markers count as read, and the high watermark moves.
func (r *Runtime) progress(f *Fetched, now time.Time) {
	t := r.taskOf(f.TopicPartition)
	if t == nil {
		return
	}
	in := t.inputs[f.TopicPartition]
	if f.Next > in.next {
		in.next = f.Next
		t.touched = true
		if r.txn.records == 0 {
			r.txn.began = now
		}
		r.txn.records++ // a marker alone is progress too, and commits lazily
	}
	in.high = max(f.High, in.next)
	if r.def.Tick != nil && f.Topic == r.def.Tick.Topic {
		t.lastTick = now
	}
	t.updateCaughtUp()
}
