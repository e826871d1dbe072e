package stream

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"

	"github.com/regent-infra/regent/internal/record"
	"github.com/regent-infra/regent/statestore"
)

// recoveries are the tasks that are being brought up to date, each on a goroutine of its own, beside the cycle.
type recoveries struct {
	wg   sync.WaitGroup
	mu   sync.Mutex
	live map[int32]*recovery
	done []*recovery
}

// recovery is one of them.
type recovery struct {
	id     int32
	cancel context.CancelFunc
	// finished is closed when task or err is set.
	finished chan struct{}
	task     *task
	// stamp says that the group's position has to be written before the task runs.
	stamp bool
	err   error
}

// reassign follows a change of the assignment: revoked tasks go, assigned ones recover.
func (r *Runtime) reassign(ctx context.Context, b *Batch) error {
	if len(b.Revoked) > 0 {
		if err := r.revoke(ctx, b.Revoked); err != nil {
			return err
		}
	}
	for _, id := range b.Assigned {
		r.startRecovery(ctx, id)
	}
	if len(b.Assigned)+len(b.Revoked) > 0 {
		r.opts.Metrics.rebalances.WithLabelValues(r.def.Name).Inc()
		r.log.Info("assignment changed", slog.Any("assigned", b.Assigned), slog.Any("revoked", b.Revoked))
	}
	return r.standbys.step(ctx, b)
}

// revoke gives tasks up. What they have committed is flushed, so that little is to be redone if they come back.
func (r *Runtime) revoke(ctx context.Context, ids []int32) error {
	for _, id := range ids {
		r.recoveries.abandon(id)
	}
	if err := r.drain(ctx); err != nil {
		return err
	}
	touched := slices.ContainsFunc(ids, func(id int32) bool { t := r.tasks[id]; return t != nil && t.touched })
	if touched {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), r.opts.EndTimeout)
		defer cancel()
		if err := r.session.Abort(ctx); err != nil {
			return fmt.Errorf("abort the transaction of a revoked task: %w", err)
		}
		r.opts.Metrics.observeTransaction(r.def.Name, TransactionAborted, 0)
		r.dropOpen()
	}
	if err := r.flushAll(); err != nil {
		return err
	}
	r.removeTasks(ids)
	return nil
}

func (r *Runtime) startRecovery(ctx context.Context, id int32) {
	ctx, cancel := context.WithCancel(ctx)
	rec := &recovery{id: id, cancel: cancel, finished: make(chan struct{})}
	r.status.recovering(&r.mu, id)
	r.recoveries.start(rec)
	session, topics := r.session, r.topics
	go func() {
		defer r.recoveries.wg.Done()
		defer cancel()
		select {
		case r.slots <- struct{}{}:
			mine := r.standbys.lock(id)
			mine.Lock() // until the copy, if one was kept here, is at rest
			w := &worker{r: r, session: session, topics: topics, id: id}
			rec.task, rec.stamp, rec.err = w.recover(ctx)
			mine.Unlock()
			<-r.slots
		case <-ctx.Done():
			rec.err = context.Cause(ctx)
		}
		r.recoveries.finish(rec)
		session.Wake()
	}()
}

func (q *recoveries) start(rec *recovery) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.live == nil {
		q.live = map[int32]*recovery{}
	}
	q.live[rec.id] = rec
	q.wg.Add(1)
}

func (q *recoveries) finish(rec *recovery) {
	q.mu.Lock()
	defer q.mu.Unlock()
	close(rec.finished)
	if q.live[rec.id] == rec {
		q.done = append(q.done, rec)
	}
}

// abandon ends the recovery of a task, if there is one, and forgets its result.
func (q *recoveries) abandon(id int32) {
	q.mu.Lock()
	rec := q.live[id]
	delete(q.live, id)
	q.done = slices.DeleteFunc(q.done, func(d *recovery) bool { return d == rec })
	q.mu.Unlock()
	if rec != nil {
		rec.cancel()
		<-rec.finished
	}
}

// stop ends all recoveries.
func (q *recoveries) stop() {
	q.mu.Lock()
	for id, rec := range q.live {
		rec.cancel()
		delete(q.live, id)
	}
	q.done = nil
	q.mu.Unlock()
	q.wg.Wait()
}

// has reports whether a task recovers.
func (q *recoveries) has(id int32) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.live[id] != nil
}

// take returns the recoveries that have finished.
func (q *recoveries) take() []*recovery {
	q.mu.Lock()
	defer q.mu.Unlock()
	out := q.done
	q.done = nil
	for _, rec := range out {
		delete(q.live, rec.id)
	}
	slices.SortFunc(out, func(a, b *recovery) int { return cmp.Compare(a.id, b.id) })
	return out
}

// settleRecoveries lets the tasks run whose recovery has finished.
func (r *Runtime) settleRecoveries(ctx context.Context) error {
	for _, rec := range r.recoveries.take() {
		if rec.err != nil {
			return rec.err
		}
		t := rec.task
		if rec.stamp {
			if err := r.stamp(ctx, t); err != nil {
				return err
			}
		}
		t.machine = r.def.NewMachine(t.id)
		r.generations[t.id]++
		t.generation = r.generations[t.id]
		t.lastTick = r.opts.Clock.Now()
		from := map[topicPartition]int64{}
		for tp, in := range t.inputs {
			from[tp] = in.next
		}
		t.updateCaughtUp()
		r.mu.Lock()
		r.tasks[t.id] = t
		r.status.running(t)
		r.mu.Unlock()
		r.flush.moved = true
		r.session.Resume(from)
		r.log.Info("task runs", slog.Int("task", int(t.id)), slog.Int64("generation", t.generation), slog.Int64("out", t.out))
	}
	return nil
}

// stamp writes the group's position of a task whose recovery found S ahead of it. A transaction that is open ends first.
func (r *Runtime) stamp(ctx context.Context, t *task) error {
	if err := r.commit(ctx); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), r.opts.EndTimeout)
	defer cancel()
	x := t.extent()
	outcome, err := r.session.Commit(ctx, []int32{t.id}, x.offsets())
	if outcome != TransactionCommitted {
		return fmt.Errorf("write the recovered position of task %d: %s: %w", t.id, outcome, err)
	}
	return nil
}

// worker brings one task up to date. It uses what is safe beside the cycle: the store, and the session's readers.
type worker struct {
	r       *Runtime
	session Session
	topics  map[string]TopicInfo
	id      int32

	// origins are the highest input offsets that records of S were found to follow from; kept where the group's position is
	// lost.
	origins map[topicPartition]int64
}

// recover does all that has to happen between assignment and first record.
func (w *worker) recover(ctx context.Context) (*task, bool, error) {
	began := w.r.opts.Clock.Now()
	g := gatherer{def: &w.r.def, session: w.session, topics: w.topics, clock: w.r.opts.Clock, id: w.id}
	ev, err := g.gather(ctx)
	if err != nil {
		return nil, false, fmt.Errorf("recover task %d: %w", w.id, err)
	}
	if ev.p, err = readPosition(w.r.opts.Store, w.r.def.Name, w.id); err != nil {
		return nil, false, &taskError{fmt.Errorf("recover task %d: %w", w.id, err)}
	}
	pl, err := decide(ev)
	if err != nil {
		return nil, false, err
	}
	if w.r.opts.sabotage.ignorePosition && ev.p != nil {
		pl.out, pl.redoFrom = ev.p.Out, ev.s.High
		for tp := range pl.offsets {
			if in, ok := ev.p.input(tp); ok {
				pl.offsets[tp], pl.tableFrom[tp] = in.Next, in.Next
			}
		}
	}
	for _, text := range pl.warnings {
		w.r.log.Warn("recovery", slog.Int("task", int(w.id)), slog.String("finding", text))
	}
	end, err := w.redo(ctx, ev, &pl)
	if err != nil {
		return nil, false, fmt.Errorf("recover task %d: %w", w.id, err)
	}
	if pl.lost && end > 0 {
		w.r.log.Warn("the group has no position although the changelog has records (offsets expire on idle groups): the state was rebuilt "+
			"from the changelog, the inputs go on from the origins noted there", slog.Int("task", int(w.id)), slog.Int64("end", end))
	}
	t, err := w.build(ev, pl, end)
	if err != nil {
		return nil, false, &taskError{err}
	}
	w.r.opts.Metrics.recovery.WithLabelValues(w.r.def.Name).Observe(w.r.opts.Clock.Now().Sub(began).Seconds())
	return t, pl.lost || end > pl.out, nil
}

func (w *worker) changelogPartition() topicPartition {
	return topicPartition{Topic: w.r.def.Changelog, Partition: w.id}
}

// readPosition returns P; nil if there is none.
func readPosition(s statestore.Store, processor string, task int32) (*Position, error) {
	b, ok, err := s.Get(statestore.PositionKey(processor, task))
	if err != nil || !ok {
		return nil, err
	}
	return DecodePosition(b)
}

// build makes the task as it will run. The position that it starts from is written down.
func (w *worker) build(ev evidence, pl plan, end int64) (*task, error) {
	r := w.r
	t := &task{
		id: w.id, def: &r.def, tables: map[string]*table{}, inputs: map[topicPartition]*input{},
		changelog: ev.changelog.ID, out: end, streamTime: pl.streamTime, folded: pl.streamTime,
	}
	for _, decl := range r.def.Tables {
		tb := newTable(r.def.Name, decl.Name, w.id, r.opts.Store, r.cache)
		if err := tb.findComplete(); err != nil {
			return nil, err
		}
		t.tables[decl.Name] = tb
	}
	for tp, in := range ev.inputs {
		offset := max(pl.offsets[tp], w.origins[tp])
		t.inputs[tp] = &input{
			topicPartition: tp, topicID: in.info.ID, table: t.tables[in.table], near: t.tables[r.def.nearOf(tp.Topic)],
			committed: offset, next: offset, high: max(in.marks.High, offset), target: in.marks.High,
		}
	}
	if end == pl.out && !pl.lost { // else P would be ahead of K until the stamp is written
		if err := w.writePosition(t.position(ev.now)); err != nil {
			return nil, err
		}
	}
	return t, nil
}

func (w *worker) writePosition(p Position) error {
	var b statestore.Batch
	b.Put(statestore.PositionKey(w.r.def.Name, w.id), p.Encode())
	if err := w.r.opts.Store.Apply(&b); err != nil {
		return fmt.Errorf("write the position of task %d: %w", w.id, err)
	}
	return nil
}

// noteOrigin keeps the highest origin of each input.
func (w *worker) noteOrigin(rec *record.Record) {
	if tp, offset, ok := ParseOrigin(rec.Header(HeaderOrigin)); ok {
		w.origins[tp] = max(w.origins[tp], offset+1)
	}
}
