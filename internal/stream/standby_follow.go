package stream

import (
	"context"
	"slices"
	"time"

	"github.com/regent-infra/regent/internal/record"
	"github.com/regent-infra/regent/statestore"
)

// replica is the copy of one task that another member runs.
type replica struct {
	id     int32
	ctx    context.Context //nolint:containedctx // ends when the copy is not wanted here any more
	cancel context.CancelFunc

	// The lock of standbys guards these.
	warmUp, busy, warm bool
	out, lag           int64
	err                error
	rests              time.Time // after a failure, until then

	// p is P as it stands in the store; nil until it was looked at. It belongs to whoever has the task's lock.
	p *Position
}

// follower brings one copy forward.
type follower struct {
	r       *Runtime
	session Session
	topics  map[string]TopicInfo
	c       *replica
	now     time.Time
}

// advance applies what was committed since the last time.
func (w *follower) advance(ctx context.Context, committed map[topicPartition]Committed) error {
	k, err := readCommits(committed)
	if err != nil {
		return err // perhaps a later program's: it is the task's owner that has to read it
	}
	if k.meta == nil {
		return nil // nothing was ever committed
	}
	if w.c.p == nil {
		if err := w.begin(ctx, k); err != nil || w.c.p == nil {
			return err
		}
	}
	if k.meta.Changelog != w.c.p.Changelog {
		w.c.p = nil // the next round looks at it from the beginning, and says what is wrong
		return nil
	}
	goal := w.goal(k)
	lag := w.r.def.reach(&goal) - w.r.def.reach(w.c.p)
	w.publish(lag, false)
	more := w.limit(&goal)
	w.c.p.FoldVersion = max(w.c.p.FoldVersion, goal.FoldVersion)
	if err := w.followChangelog(ctx, goal); err != nil {
		return err
	}
	for _, in := range goal.Inputs {
		if err := w.followInput(ctx, in); err != nil {
			return err
		}
	}
	if lag > 0 || w.now.Sub(w.c.p.StampedAt) >= w.r.opts.RestampInterval {
		if err := w.write(&statestore.Batch{}, goal); err != nil {
			return err
		}
		w.r.opts.reach(PointStandby)
	}
	w.publish(lag, true)
	if more {
		w.r.standbys.hurry()
	}
	return nil
}

// copyStep is how many offsets of each redo source a step applies at most, so that copies that lack much do not keep those waiting that lack
// little.
const copyStep = 200_000

// limit takes back what would be too much for one step, and reports whether there was any.
func (w *follower) limit(goal *Position) bool {
	before, step := w.r.def.reach(goal), w.r.opts.copyStep
	if w.r.def.changelogTable() != "" {
		goal.Out = min(goal.Out, w.c.p.Out+step)
	}
	for i := range goal.Inputs {
		if in := &goal.Inputs[i]; w.r.def.tableOf(in.Topic) != "" {
			had, _ := w.c.p.input(in.TopicPartition)
			in.Next = min(in.Next, had.Next+step)
		}
	}
	if w.r.def.reach(goal) == before {
		return false
	}
	goal.StampedAt = w.c.p.StampedAt // it is not up to date
	return true
}

// goal is P as it is to be after this step: K.
func (w *follower) goal(k commits) Position {
	p := Position{
		FoldVersion: max(k.meta.FoldVersion, w.c.p.FoldVersion), Out: max(k.meta.Out, w.c.p.Out), Changelog: w.c.p.Changelog,
		StreamTime: k.meta.StreamTime, StampedAt: w.now, Tables: w.r.def.tableNames(),
	}
	for _, tp := range w.r.def.partitionsOf(w.c.id, w.topics) {
		in := InputPosition{TopicPartition: tp, TopicID: w.topics[tp.Topic].ID, Next: k.offsets[tp]}
		if had, ok := w.c.p.input(tp); ok {
			in.Next = max(in.Next, had.Next) // what was committed as the task moved may be known here before it is certain there
		}
		p.Inputs = append(p.Inputs, in)
	}
	sortInputs(p.Inputs)
	return p
}

// begin finds out what the copy begins with, by the same comparison as a recovery. It leaves the position nil if the time has not come: what
// this process has committed itself, just before the task moved, may not be certain yet.
func (w *follower) begin(ctx context.Context, k commits) error {
	r := w.r
	p, err := readPosition(r.opts.Store, r.def.Name, w.c.id)
	if err != nil {
		return &taskError{err}
	}
	if p != nil && p.Out > k.meta.Out {
		return nil
	}
	ev, err := w.evidence(ctx, k, p)
	if err != nil {
		return err
	}
	pl, err := decide(ev)
	if err != nil {
		return err
	}
	if p == nil {
		p = &Position{StampedAt: w.now}
	}
	var b statestore.Batch
	for _, t := range r.def.Tables {
		if ev.kept(t.Name) && !pl.rebuild[t.Name] {
			continue
		}
		// From the start. Nobody reads a copy, so it is made in place: empty at first, and so its position is 0.
		prefix := statestore.PartitionPrefix(storeName(r.def.Name, t.Name), w.c.id)
		b.DeleteRange(prefix, statestore.PrefixEnd(prefix))
		if t.Source == r.def.Changelog {
			p.Out = 0
		}
		for i := range p.Inputs {
			if r.def.tableOf(p.Inputs[i].Topic) == t.Name {
				p.Inputs[i].Next = 0
			}
		}
		p.StampedAt = w.now
	}
	p.Changelog, p.FoldVersion, p.Tables = ev.changelog.ID, max(p.FoldVersion, k.meta.FoldVersion), r.def.tableNames()
	if r.def.changelogTable() == "" {
		p.Out = k.meta.Out
	}
	for tp, in := range ev.inputs {
		if _, ok := p.input(tp); !ok {
			p.Inputs = append(p.Inputs, InputPosition{TopicPartition: tp, TopicID: in.info.ID})
		}
	}
	sortInputs(p.Inputs)
	b.Put(statestore.PositionKey(r.def.Name, w.c.id), p.Encode())
	if err := r.opts.Store.Apply(&b); err != nil {
		return &taskError{err}
	}
	w.c.p = p
	return nil
}

// evidence is what a recovery would look at, but for K, which is as far as it is certain. A copy may be kept by a program that is older than the
// fold version of the state: it copies, and does not fold.
func (w *follower) evidence(ctx context.Context, k commits, p *Position) (evidence, error) {
	def := w.r.def
	def.FoldVersion = max(def.FoldVersion, k.meta.FoldVersion)
	if p != nil {
		def.FoldVersion = max(def.FoldVersion, p.FoldVersion)
	}
	ev := evidence{
		def: &def, task: w.c.id, now: w.now, p: p, k: k, changelog: w.topics[def.Changelog], inputs: map[topicPartition]inputEvidence{},
	}
	parts := def.partitionsOf(w.c.id, w.topics)
	all := slices.Clone(parts)
	s := topicPartition{Topic: def.Changelog, Partition: w.c.id}
	if ev.hasChangelog() {
		all = append(all, s)
	}
	marks, err := w.session.Watermarks(ctx, all)
	if err != nil {
		return ev, err
	}
	ev.s = marks[s]
	for _, tp := range parts {
		ev.inputs[tp] = inputEvidence{info: w.topics[tp.Topic], marks: marks[tp], table: def.tableOf(tp.Topic)}
	}
	return ev, nil
}

func (w *follower) followChangelog(ctx context.Context, goal Position) error {
	name := w.r.def.changelogTable()
	if name == "" || w.c.p.Out >= goal.Out {
		return nil
	}
	s := topicPartition{Topic: w.r.def.Changelog, Partition: w.c.id}
	return w.apply(ctx, name, s, w.c.p.Out, goal.Out, func(p *Position, next int64) { p.Out = next })
}

func (w *follower) followInput(ctx context.Context, in InputPosition) error {
	name := w.r.def.tableOf(in.Topic)
	had, _ := w.c.p.input(in.TopicPartition)
	if name == "" || had.Next >= in.Next {
		return nil
	}
	return w.apply(ctx, name, in.TopicPartition, had.Next, in.Next, func(p *Position, next int64) {
		for i := range p.Inputs {
			if p.Inputs[i].TopicPartition == in.TopicPartition {
				p.Inputs[i].Next = next
			}
		}
	})
}

// apply upserts a stretch of a redo source into its table, each batch with the position that it brings.
func (w *follower) apply(ctx context.Context, table string, tp topicPartition, from, to int64, move func(p *Position, next int64)) error {
	stored := storeName(w.r.def.Name, table)
	g := target{store: w.r.opts.Store, table: stored, task: w.c.id, prefix: statestore.PartitionPrefix(stored, w.c.id)}
	return w.session.Scan(ctx, tp, from, to, func(recs []record.Record, next int64) error {
		var b statestore.Batch
		for i := range latest(recs) {
			if !w.r.opts.sabotage.boast {
				g.upsert(&b, &recs[i])
			}
		}
		p := *w.c.p
		p.Inputs = slices.Clone(p.Inputs)
		move(&p, next)
		if err := w.write(&b, p); err != nil {
			return err
		}
		w.r.opts.Metrics.copied.WithLabelValues(w.r.def.Name).Add(float64(len(recs)))
		w.r.opts.reach(PointStandby)
		return ctx.Err() // not wanted any more: what was read ahead is left
	})
}

// latest yields the places of those records that no later one of the same key replaces.
func latest(recs []record.Record) func(yield func(int) bool) {
	return func(yield func(int) bool) {
		last := make(map[string]int, len(recs))
		for i := range recs {
			last[string(recs[i].Key)] = i
		}
		for i := range recs {
			if last[string(recs[i].Key)] == i && !yield(i) {
				return
			}
		}
	}
}

// write applies a batch with its position.
func (w *follower) write(b *statestore.Batch, p Position) error {
	b.Put(statestore.PositionKey(w.r.def.Name, w.c.id), p.Encode())
	if err := w.r.opts.Store.Apply(b); err != nil {
		return &taskError{err}
	}
	w.c.p = &p
	return nil
}

// publish tells others how far the copy is. It is warm if it was so little behind when the step began that the same again is soon redone.
func (w *follower) publish(lag int64, caughtUp bool) {
	s, c := w.r.standbys, w.c
	s.mu.Lock()
	defer s.mu.Unlock()
	c.lag, c.out = lag, c.p.Out
	if caughtUp {
		c.warm = lag <= AcceptableLag
	}
	s.stored[c.id] = Held{Task: c.id, Position: w.r.def.reach(c.p), FoldVersion: c.p.FoldVersion}
	if s.copies[c.id] == c { // else it was given up meanwhile, and its gauge is gone
		w.r.opts.Metrics.standbyLag.WithLabelValues(w.r.def.Name, taskLabel(c.id)).Set(float64(lag))
	}
}
