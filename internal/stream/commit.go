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

	"github.com/regent-infra/regent/internal/clock"
)

// transaction is what lies between two commits. It is open while records are folded into it, then it is ending, beside the cycle, which
// goes on with the next one: that one's outputs are held back until the outcome is known, because a producer has one transaction at a
// time, and because what was folded on top of a transaction that aborts must never be seen.
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

// ending is a transaction that takes no more records.
type ending struct {
	txn     *transaction
	extents []extent
	run     func() // ends it; nil once it was started
	cancel  context.CancelFunc

	// done is closed when the rest is set.
	done    chan struct{}
	outcome Outcome
	err     error
	took    time.Duration
}

// start ends the transaction beside the cycle.
func (e *ending) start() {
	if e.run != nil {
		go e.run()
		e.run = nil
	}
}

// open reports whether anything was folded since the last transaction was sealed.
func (r *Runtime) open() bool { return r.txn.records > 0 }

// full reports whether the open transaction takes no more.
func (r *Runtime) full() bool {
	return r.txn.records >= r.opts.CommitRecords || r.txn.bytes >= r.opts.CommitBytes
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
	case r.full():
		return true
	case !wrote:
		return age >= r.opts.PositionInterval
	default:
		return r.session.Buffered() == 0 || age >= r.pace.age()
	}
}

// maybeSeal lets the open transaction end if it is due and the one before has ended.
func (r *Runtime) maybeSeal(ctx context.Context) {
	if r.ending == nil && r.due(r.opts.Clock.Now()) {
		r.seal(ctx)
	}
}

// seal closes the open transaction and lets it end beside the cycle. The one before has ended.
func (r *Runtime) seal(ctx context.Context) {
	e := &ending{txn: r.txn, done: make(chan struct{})}
	// The end is not to be torn by a stop: a cancelled request leaves the outcome open.
	ctx, e.cancel = context.WithTimeout(context.WithoutCancel(ctx), r.opts.EndTimeout)
	r.cache.mu.Lock()
	for _, t := range r.sortedTasks() {
		if t.touched {
			e.extents = append(e.extents, t.seal())
			for _, tb := range t.tables {
				tb.seal()
			}
		}
	}
	r.cache.mu.Unlock()
	r.resetTransaction()
	r.ending = e
	session := r.session
	e.run = func() {
		defer session.Wake()
		defer close(e.done)
		defer e.cancel()
		began := r.opts.Clock.Now()
		e.outcome, e.err = r.endTransaction(ctx, session, e)
		e.took = r.opts.Clock.Now().Sub(began)
	}
	if !r.opts.lateEnds {
		e.start()
	}
}

// endTransaction waits for the outputs, then commits the offsets of every task that has progressed. It runs beside the cycle.
func (r *Runtime) endTransaction(ctx context.Context, session Session, e *ending) (Outcome, error) {
	if err := session.Flush(ctx); err != nil {
		return TransactionUnknown, fmt.Errorf("wait for the outputs: %w", err)
	}
	e.txn.mu.Lock()
	failed := e.txn.failed
	for i := range e.extents {
		x := &e.extents[i]
		x.out = max(x.out, e.txn.emitted[x.task.id])
	}
	e.txn.mu.Unlock()
	if failed != nil {
		if err := session.Abort(ctx); err != nil {
			return TransactionUnknown, errors.Join(failed, err)
		}
		return TransactionAborted, fmt.Errorf("produce: %w", failed)
	}
	r.opts.reach(PointProduced)
	var ids []int32
	var offsets []OffsetCommit
	for i := range e.extents {
		ids = append(ids, e.extents[i].task.id)
		offsets = append(offsets, e.extents[i].offsets()...)
	}
	return session.Commit(ctx, ids, offsets)
}

// settleEnding takes the outcome of the ending transaction, if it is there.
func (r *Runtime) settleEnding(ctx context.Context) error {
	e := r.ending
	if e == nil {
		return nil
	}
	select {
	case <-e.done:
		return r.conclude(ctx, e)
	default:
		return nil
	}
}

// drain waits for the outcome of the ending transaction and takes it.
func (r *Runtime) drain(ctx context.Context) error {
	e := r.ending
	if e == nil {
		return nil
	}
	e.start()
	<-e.done
	return r.conclude(ctx, e)
}

// commit ends everything that was folded, and waits for it.
func (r *Runtime) commit(ctx context.Context) error {
	if err := r.drain(ctx); err != nil {
		return err
	}
	if !r.open() {
		return nil
	}
	r.seal(ctx)
	return r.drain(ctx)
}

// conclude does what the outcome of a transaction demands.
func (r *Runtime) conclude(ctx context.Context, e *ending) error {
	r.ending = nil
	r.opts.Metrics.observeTransaction(r.def.Name, e.outcome, e.took)
	switch e.outcome {
	case TransactionCommitted:
		r.pace.observe(e.took)
		r.aborts = 0
		r.keep(e)
		r.opts.reach(PointCommitted)
		for _, t := range r.sortedTasks() {
			r.produce(t)
		}
		return nil
	case TransactionAborted:
		r.log.Info("transaction aborted; its records are folded again, and those after it", slog.Any("reason", e.err),
			slog.Int("records", e.txn.records), slog.Int("after", r.txn.records))
		r.dropOpen()
		if errors.Is(e.err, ErrRevoked) {
			return r.yield(ctx)
		}
		return e.err
	default:
		return fmt.Errorf("end the transaction: its outcome is unknown: %w", e.err)
	}
}

// giveUp ends what is ending before the session is closed. Its outcome counts if it is there in time, and is found out by the next session
// otherwise.
func (r *Runtime) giveUp(patience time.Duration) {
	e := r.ending
	if e == nil {
		return
	}
	r.ending = nil
	e.start()
	timer := r.opts.Clock.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-e.done:
	case <-timer.C:
		e.cancel()
		<-e.done
	}
	if e.outcome == TransactionCommitted {
		r.keep(e)
	}
}

// yield waits a moment after an abort: the group has moved on, and until the news arrives every attempt would end the same way.
func (r *Runtime) yield(ctx context.Context) error {
	r.aborts++
	return clock.Wait(ctx, r.opts.Clock, min(time.Millisecond<<min(r.aborts, 10), 100*time.Millisecond))
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

// keep makes the state of a transaction committed state.
func (r *Runtime) keep(e *ending) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.opts.Clock.Now()
	r.cache.mu.Lock()
	defer r.cache.mu.Unlock()
	for i := range e.extents {
		x := &e.extents[i]
		for _, tb := range x.task.tables {
			r.flush.dirty += tb.commit()
		}
		x.commit()
		r.flush.moved = true
		r.status.committed(x.task, now)
	}
}

// dropOpen forgets everything that is not committed and sets all partitions back to their committed positions; also those of tasks that had
// no part in it, because what the current poll has brought of them is not going to be folded.
func (r *Runtime) dropOpen() {
	again := map[topicPartition]int64{}
	for _, t := range r.tasks {
		if !r.opts.sabotage.keepAborted {
			for _, tb := range t.tables {
				tb.drop()
			}
		}
		t.aborted()
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
