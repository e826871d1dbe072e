package stream

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/regent-infra/regent/internal/clock"
	"github.com/regent-infra/regent/internal/record"
)

// transaction is what is open between two commits.
type transaction struct {
	began   time.Time // when its first record was folded
	records int
	bytes   int

	mu      sync.Mutex // acknowledgements come from the client's goroutines
	failed  error
	emitted map[int32]int64 // task → highest changelog offset + 1
}

// acknowledge takes the broker's answer for one record.
func (x *transaction) acknowledge(task int32, changelog bool, offset int64, err error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	switch {
	case err != nil && x.failed == nil:
		x.failed = err
	case err == nil && changelog:
		if x.emitted == nil {
			x.emitted = map[int32]int64{}
		}
		x.emitted[task] = max(x.emitted[task], offset+1)
	}
}

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
	r.rewound = false
	batch, err := r.session.Poll(ctx, r.opts.PollRecords, r.patience())
	if err != nil {
		return fmt.Errorf("poll: %w", err)
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
	if len(batch.Fetched) > 0 && !r.open() {
		r.opts.reach(PointPolled)
	}
	if err := r.foldBatch(batch); err != nil {
		return err
	}
	if err := r.maybeCommit(ctx); err != nil {
		return err
	}
	if err := r.maybeFlush(); err != nil {
		return err
	}
	if err := r.serve(); err != nil {
		return err
	}
	if len(batch.Fetched) == 0 {
		if err := r.probe(ctx); err != nil {
			return err
		}
	}
	r.tick()
	return nil
}

// finish commits what is folded before a regular stop.
func (r *Runtime) finish(ctx context.Context) error {
	if !r.open() {
		return nil
	}
	return r.commit(ctx)
}

// patience is how long Poll may wait: until the next thing that is due.
func (r *Runtime) patience() time.Duration {
	now := r.opts.Clock.Now()
	wait := r.flush.due(r.opts.FlushInterval).Sub(now)
	if r.open() {
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

// open reports whether anything was folded since the last commit.
func (r *Runtime) open() bool { return r.txn.records > 0 }

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
		if len(s.task.outs) >= produceRecords {
			r.produce(s)
		}
		return nil
	})
	if err != nil {
		return err
	}
	r.produce(s)
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
		rec := &first.recs[0]
		first.recs = first.recs[1:]
		first.advance()
		if err := fn(first.in, rec); err != nil {
			return err
		}
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
	out.Headers = append(slices.Clip(out.Headers), record.Header{Key: HeaderOrigin, Value: appendOrigin(nil, rec)})
	return out, nil
}

// produce hands the outputs of a task over.
func (r *Runtime) produce(s *share) {
	t := s.task
	if len(t.outs) == 0 {
		return
	}
	for i := range t.outs {
		s.bytes += len(t.outs[i].Key) + len(t.outs[i].Value)
	}
	s.outs += len(t.outs)
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

// due reports whether the open transaction must end now.
func (r *Runtime) due(now time.Time) bool {
	if !r.open() {
		return false
	}
	age := now.Sub(r.txn.began)
	wrote := false
	for _, t := range r.tasks {
		wrote = wrote || t.wrote
	}
	switch {
	case r.txn.records >= r.opts.CommitRecords, r.txn.bytes >= r.opts.CommitBytes:
		return true
	case !wrote:
		return age >= r.opts.PositionInterval
	default:
		return r.session.Buffered() == 0 || age >= r.pace.age()
	}
}

func (r *Runtime) maybeCommit(ctx context.Context) error {
	if !r.due(r.opts.Clock.Now()) {
		return nil
	}
	return r.commit(ctx)
}

// commit ends the open transaction and does what its outcome demands.
func (r *Runtime) commit(ctx context.Context) error {
	// The end is not to be torn by a stop: a cancelled request leaves the outcome open.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), r.opts.EndTimeout)
	defer cancel()
	began := r.opts.Clock.Now()
	outcome, err := r.endTransaction(ctx)
	took := r.opts.Clock.Now().Sub(began)
	r.opts.Metrics.observeTransaction(r.def.Name, outcome, took)
	switch outcome {
	case TransactionCommitted:
		r.pace.observe(took)
		r.aborts = 0
		r.keep()
		r.opts.reach(PointCommitted)
		return nil
	case TransactionAborted:
		r.log.Info("transaction aborted; its records are folded again", slog.Any("reason", err), slog.Int("records", r.txn.records))
		r.dropOpen()
		if errors.Is(err, ErrRevoked) {
			return r.yield(ctx)
		}
		return err
	default:
		return fmt.Errorf("end the transaction: its outcome is unknown: %w", err)
	}
}

// yield waits a moment after an abort: the group has moved on, and until the news arrives every attempt would end the same way.
func (r *Runtime) yield(ctx context.Context) error {
	r.aborts++
	return clock.Wait(ctx, r.opts.Clock, min(time.Millisecond<<min(r.aborts, 10), 100*time.Millisecond))
}

// endTransaction waits for the outputs, then commits the offsets of every task that has progressed.
func (r *Runtime) endTransaction(ctx context.Context) (Outcome, error) {
	if err := r.session.Flush(ctx); err != nil {
		return TransactionUnknown, fmt.Errorf("wait for the outputs: %w", err)
	}
	r.txn.mu.Lock()
	failed := r.txn.failed
	for id, out := range r.txn.emitted {
		if t := r.tasks[id]; t != nil {
			t.emitted = out
		}
	}
	r.txn.mu.Unlock()
	if failed != nil {
		if err := r.session.Abort(ctx); err != nil {
			return TransactionUnknown, errors.Join(failed, err)
		}
		return TransactionAborted, fmt.Errorf("produce: %w", failed)
	}
	r.opts.reach(PointProduced)
	var ids []int32
	var offsets []OffsetCommit
	for _, t := range r.sortedTasks() {
		if t.touched {
			ids = append(ids, t.id)
			offsets = append(offsets, t.offsets()...)
		}
	}
	return r.session.Commit(ctx, ids, offsets)
}

// sortedTasks returns the running tasks in the order of their numbers.
func (r *Runtime) sortedTasks() []*task {
	out := make([]*task, 0, len(r.tasks))
	for _, t := range r.tasks {
		out = append(out, t)
	}
	slices.SortFunc(out, func(a, b *task) int { return cmp.Compare(a.id, b.id) })
	return out
}

// keep makes the open transaction's state committed state.
func (r *Runtime) keep() {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.opts.Clock.Now()
	r.cache.mu.Lock()
	defer r.cache.mu.Unlock()
	for _, t := range r.tasks {
		if !t.touched {
			continue
		}
		for _, tb := range t.tables {
			r.flush.dirty += tb.commit()
		}
		t.committed()
		r.flush.moved = true
		r.status.committed(t, now)
	}
	r.resetTransaction()
}

// dropOpen forgets the open transaction and sets all partitions back to their committed positions; also those of tasks that had no
// part in it, because what the current poll has brought of them is not going to be folded.
func (r *Runtime) dropOpen() {
	again := map[topicPartition]int64{}
	for _, t := range r.tasks {
		if t.touched {
			for _, tb := range t.tables {
				if !r.opts.sabotage.keepAborted {
					tb.drop()
				}
			}
			t.aborted()
		}
		for tp, in := range t.inputs {
			again[tp] = in.committed
		}
	}
	r.resetTransaction()
	r.rewound = true
	if len(again) > 0 {
		r.session.Resume(again)
	}
}

// resetTransaction begins a new one; a late acknowledgement of the old one finds nobody.
func (r *Runtime) resetTransaction() { r.txn = &transaction{} }
