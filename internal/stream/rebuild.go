package stream

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"runtime"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/regent-infra/regent/internal/clock"
	"github.com/regent-infra/regent/internal/record"
	"github.com/regent-infra/regent/statestore"
)

// DefaultChunkBytes is the default of [RebuildOptions].
const DefaultChunkBytes = 64 << 20

// RebuildOptions say how state is made again from the topics. Log and Store are required.
type RebuildOptions struct {
	// Log is the port to the brokers. Nothing is joined and nothing written.
	Log Log
	// Store takes the state: an empty one that nobody reads yet, see pebblestore.Stage.
	Store statestore.Store
	// Group is the consumer group whose position the state is brought to. Default: "regent." and the definition's name.
	Group string
	// ChunkBytes is how much is sorted in memory at a time, for each partition at work. Default 64 MiB.
	ChunkBytes int
	// Workers is how many partitions are worked on at the same time. Default: the number of processors.
	Workers int
	// Progress, where set, is called now and then, and at the end; never twice at the same time.
	Progress func(RebuildProgress)
	// Clock tells the time for rates. Default: the machine's.
	Clock clock.Clock
	// Logger takes the log. Default: none.
	Logger *slog.Logger
}

func (o RebuildOptions) withDefaults(definition string) RebuildOptions {
	o.Group = or(o.Group, "regent."+definition)
	o.ChunkBytes = or(o.ChunkBytes, DefaultChunkBytes)
	o.Workers = or(o.Workers, runtime.GOMAXPROCS(0))
	if o.Clock == nil {
		o.Clock = clock.System{}
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return o
}

// RebuildProgress tells how far a rebuild is.
type RebuildProgress struct {
	// Done and Total count offsets of all topics that are read; those that compaction took away count as done at once.
	Done, Total int64
	// Records counts what was read.
	Records int64
	// Elapsed is since the beginning.
	Elapsed time.Duration
}

// Rate returns records per second.
func (p RebuildProgress) Rate() float64 {
	if p.Elapsed <= 0 {
		return 0
	}
	return float64(p.Records) / p.Elapsed.Seconds()
}

// RebuildReport is what a rebuild has made.
type RebuildReport struct {
	RebuildProgress
	// Parts are the partitions of the tables, ordered by table and partition.
	Parts []RebuiltPart
	// Inputs are what [Refold] has folded, ordered by topic and partition; empty after [Rebuild].
	Inputs []FoldedInput
}

// RebuiltPart is one partition of a table as it was made.
type RebuiltPart struct {
	// DigestEntry is for comparison with [Runtime.Digests].
	DigestEntry
	// Sources are the partitions of topics that it was made from, ordered. Empty after [Refold], which names inputs.
	Sources []Source
	// Lost says that the group has no position although the changelog has records: the part holds all of the changelog, and the next
	// start finds the position of the inputs from the origins noted there.
	Lost bool
}

// Source is a stretch of one partition of a topic.
type Source struct {
	record.TopicPartition
	// From and End bound the stretch: offsets from From on, below End.
	From, End int64
}

// Digests returns the digests of the parts.
func (r *RebuildReport) Digests() []DigestEntry {
	out := make([]DigestEntry, 0, len(r.Parts))
	for i := range r.Parts {
		out = append(out, r.Parts[i].DigestEntry)
	}
	return out
}

// Rebuild materialises the tables of every task from their redo sources, up to the group's position: no transactions, no machine,
// sorted runs that are loaded as tables. A runtime that is started on the store then goes on where the group stands. Instances of the
// processor may be at work meanwhile, on stores of their own.
//
// A task whose position the store holds already (the store began as a checkpoint) is brought on from there, if it is a valid start: else
// the error is a [*Refusal].
func Rebuild(ctx context.Context, def Definition, opts RebuildOptions) (*RebuildReport, error) {
	b, err := newRebuild(ctx, def, opts)
	if err != nil {
		return nil, fmt.Errorf("rebuild processor %q: %w", def.Name, err)
	}
	defer b.close(ctx)
	err = b.each(ctx, b.rebuildTask)
	var report *RebuildReport
	if err == nil {
		report, err = b.report()
	}
	if err != nil {
		return nil, fmt.Errorf("rebuild processor %q: %w", def.Name, err)
	}
	return report, nil
}

// rebuild is one run over all tasks.
type rebuild struct {
	def     Definition
	opts    RebuildOptions
	session Session
	topics  map[string]TopicInfo
	began   time.Time

	mu       sync.Mutex
	progress RebuildProgress
	last     time.Time
	parts    []RebuiltPart
	folded   []FoldedInput
}

func newRebuild(ctx context.Context, def Definition, opts RebuildOptions) (*rebuild, error) {
	err := def.Validate()
	if opts.Log == nil {
		err = errors.Join(err, errors.New("rebuild options: Log is nil"))
	}
	if opts.Store == nil {
		err = errors.Join(err, errors.New("rebuild options: Store is nil"))
	}
	if opts.ChunkBytes < 0 || opts.Workers < 0 {
		err = errors.Join(err, fmt.Errorf("rebuild options: ChunkBytes is %d and Workers %d: expected 0 or more", opts.ChunkBytes, opts.Workers))
	}
	if err != nil {
		return nil, err
	}
	b := &rebuild{def: def, opts: opts.withDefaults(def.Name)}
	b.began = b.opts.Clock.Now()
	if b.session, err = b.opts.Log.Connect(ctx, SessionSpec{Group: b.opts.Group, Inputs: def.inputTopics(), Single: def.SingleTask}); err != nil {
		return nil, err
	}
	if b.topics, err = b.session.Topics(ctx, def.topics()); err == nil {
		err = b.def.ValidateTopics(b.topics)
	}
	if err == nil {
		err = statestore.Bind(b.opts.Store, b.session.ClusterID())
	}
	if err != nil {
		b.close(ctx)
		return nil, err
	}
	return b, nil
}

func (b *rebuild) close(ctx context.Context) {
	if err := b.session.Close(context.WithoutCancel(ctx)); err != nil {
		b.opts.Logger.Warn("closing the session failed", slog.Any("error", err))
	}
}

func (b *rebuild) tasks() int32 {
	if b.def.SingleTask {
		return 1
	}
	return b.topics[b.def.Inputs[0].Topic].Partitions
}

// each runs one function for every task, some at a time.
func (b *rebuild) each(ctx context.Context, do func(ctx context.Context, task int32) error) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(b.opts.Workers)
	for task := range b.tasks() {
		g.Go(func() error {
			if err := do(ctx, task); err != nil {
				return fmt.Errorf("task %d: %w", task, err)
			}
			return nil
		})
	}
	return g.Wait()
}

// eachPart runs one function for every part, some at a time.
func (b *rebuild) eachPart(ctx context.Context, parts []RebuiltPart, do func(ctx context.Context, i int) error) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(b.opts.Workers)
	for i := range parts {
		g.Go(func() error { return do(ctx, i) })
	}
	return g.Wait()
}

// evidence is what a start on the store finds. Other instances may be at work, so that what K says may be beyond the bounds that were
// taken before it was read: they are taken again.
func (b *rebuild) evidence(ctx context.Context, task int32) (evidence, plan, error) {
	w := gatherer{def: &b.def, session: b.session, topics: b.topics, clock: b.opts.Clock, id: task}
	ev, err := w.gather(ctx)
	if err != nil {
		return ev, plan{}, err
	}
	s := topicPartition{Topic: b.def.Changelog, Partition: task}
	all := slices.Collect(maps.Keys(ev.inputs))
	if ev.hasChangelog() {
		all = append(all, s)
	}
	marks, err := b.session.Watermarks(ctx, all)
	if err != nil {
		return ev, plan{}, err
	}
	ev.s = marks[s]
	for tp, in := range ev.inputs {
		in.marks = marks[tp]
		ev.inputs[tp] = in
	}
	if ev.p, err = readPosition(b.opts.Store, b.def.Name, task); err != nil {
		return ev, plan{}, err
	}
	pl, err := decide(ev)
	return ev, pl, err
}

func (b *rebuild) rebuildTask(ctx context.Context, task int32) error {
	ev, pl, err := b.evidence(ctx, task)
	if err == nil {
		err = ev.refuseStart(&pl)
	}
	if err != nil {
		return err
	}
	parts := b.partsOf(ev, pl)
	b.expect(parts)
	for i := range parts {
		work := b.materialise
		if ev.p != nil {
			work = b.catchUp
		}
		if err := work(ctx, &parts[i]); err != nil {
			return err
		}
	}
	if pl.lost {
		b.opts.Logger.Warn("the group has no position: the next start finds it from the origins in the changelog", slog.Int("task", int(task)))
		return nil
	}
	return b.position(ev, pl)
}

// refuseStart refuses a position from which the state cannot be brought up to date.
func (e *evidence) refuseStart(pl *plan) error {
	for _, name := range slices.Sorted(maps.Keys(pl.rebuild)) {
		if e.p != nil && pl.rebuild[name] && !pl.lost {
			return e.refuse([]string{choiceScratch}, "its position is of %s, which is longer ago than the topics keep tombstones (%s): table %q may "+
				"hold what was deleted meanwhile", e.p.StampedAt.Format(time.RFC3339), e.changelog.DeleteRetention, name)
		}
	}
	if e.p != nil && pl.lost {
		return e.refuse([]string{choiceScratch}, "the group has no position although the changelog has records, so nothing says up to where it is to be brought")
	}
	return nil
}

// partsOf lists what a task's tables are made from. Everything below K.out is decided: it was committed with it, or before.
func (b *rebuild) partsOf(ev evidence, pl plan) []RebuiltPart {
	var parts []RebuiltPart
	for _, decl := range b.def.Tables {
		part := RebuiltPart{DigestEntry: DigestEntry{Table: decl.Name, Partition: ev.task}, Lost: pl.lost}
		if decl.Source == b.def.Changelog {
			s := Source{TopicPartition: topicPartition{Topic: decl.Source, Partition: ev.task}, From: pl.redoFrom, End: pl.out}
			if pl.lost {
				s.From, s.End = 0, ev.s.High
			}
			part.Sources = append(part.Sources, s)
		}
		for tp, in := range ev.inputs {
			if in.table == decl.Name {
				part.Sources = append(part.Sources, Source{TopicPartition: tp, From: pl.tableFrom[tp], End: pl.offsets[tp]})
			}
		}
		slices.SortFunc(part.Sources, func(a, b Source) int {
			return cmp.Or(cmp.Compare(a.Topic, b.Topic), cmp.Compare(a.Partition, b.Partition))
		})
		parts = append(parts, part)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.parts = append(b.parts, parts...)
	return parts
}

// position writes P, so that a runtime goes on from K.
func (b *rebuild) position(ev evidence, pl plan) error {
	p := Position{
		FoldVersion: b.def.FoldVersion, Out: pl.out, Changelog: ev.changelog.ID, StreamTime: pl.streamTime, StampedAt: ev.now,
		Tables: b.def.tableNames(),
	}
	for tp, in := range ev.inputs {
		p.Inputs = append(p.Inputs, InputPosition{TopicPartition: tp, TopicID: in.info.ID, Next: pl.offsets[tp]})
	}
	sortInputs(p.Inputs)
	var batch statestore.Batch
	batch.Put(statestore.PositionKey(b.def.Name, ev.task), p.Encode())
	return b.opts.Store.Apply(&batch)
}

// expect adds to what there is to do.
func (b *rebuild) expect(parts []RebuiltPart) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for i := range parts {
		for _, s := range parts[i].Sources {
			b.progress.Total += max(s.End-s.From, 0)
		}
	}
}

// advance counts what was done.
func (b *rebuild) advance(offsets, records int64, final bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.progress.Done += offsets
	b.progress.Records += records
	now := b.opts.Clock.Now()
	b.progress.Elapsed = now.Sub(b.began)
	if b.opts.Progress != nil && (final || now.Sub(b.last) >= 100*time.Millisecond) {
		b.last = now
		b.opts.Progress(b.progress)
	}
}

// materialise loads the latest value of every key of a part's sources into one partition of a table. What fits into a chunk is one
// sorted run; later runs hide earlier ones.
func (b *rebuild) materialise(ctx context.Context, part *RebuiltPart) error {
	prefix := statestore.PartitionPrefix(storeName(b.def.Name, part.Table), part.Partition)
	run := sortedRun{prefix: prefix, latest: map[string][]byte{}}
	err := b.scan(ctx, part, func(recs []record.Record) error {
		for i := range recs {
			run.add(&recs[i])
			if run.bytes >= b.opts.ChunkBytes {
				if err := run.load(ctx, b.opts.Store); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	return run.load(ctx, b.opts.Store)
}

// catchUp applies a part's sources to what the store holds of it already.
func (b *rebuild) catchUp(ctx context.Context, part *RebuiltPart) error {
	g := target{store: b.opts.Store, table: storeName(b.def.Name, part.Table), task: part.Partition}
	g.prefix = statestore.PartitionPrefix(g.table, g.task)
	return b.scan(ctx, part, func(recs []record.Record) error {
		var batch statestore.Batch
		for i := range recs {
			g.upsert(&batch, &recs[i])
		}
		return g.apply(&batch)
	})
}

// scan reads the sources of a part and counts.
func (b *rebuild) scan(ctx context.Context, part *RebuiltPart, fn func(recs []record.Record) error) error {
	for _, s := range part.Sources {
		from := s.From
		err := b.session.Scan(ctx, s.TopicPartition, s.From, s.End, func(recs []record.Record, next int64) error {
			if err := fn(recs); err != nil {
				return err
			}
			b.advance(next-from, int64(len(recs)), false)
			from = next
			return nil
		})
		if err != nil {
			return fmt.Errorf("materialise %s/%d: %w", s.Topic, s.Partition, err)
		}
	}
	return nil
}

// sortedRun holds the latest values of some keys.
type sortedRun struct {
	prefix []byte
	latest map[string][]byte
	bytes  int
}

func (r *sortedRun) add(rec *record.Record) {
	before, ok := r.latest[string(rec.Key)]
	if !ok {
		r.bytes += len(rec.Key) + entryOverhead
	}
	r.bytes += len(rec.Value) - len(before)
	// A copy: the record's own bytes are a slice of a whole fetch.
	r.latest[string(rec.Key)] = slices.Clone(rec.Value)
}

func (r *sortedRun) load(ctx context.Context, s statestore.Store) error {
	if len(r.latest) == 0 {
		return nil
	}
	keys := slices.Sorted(maps.Keys(r.latest))
	err := s.Load(ctx, func(yield func(k, v []byte) bool) {
		var key []byte
		for _, k := range keys {
			key = append(append(key[:0], r.prefix...), k...)
			if !yield(key, r.latest[k]) {
				return
			}
		}
	})
	clear(r.latest)
	r.bytes = 0
	return err
}

// report flushes and reads everything back.
func (b *rebuild) report() (*RebuildReport, error) {
	if err := b.opts.Store.Flush(); err != nil {
		return nil, err
	}
	b.advance(0, 0, true)
	slices.SortFunc(b.parts, func(x, y RebuiltPart) int {
		return cmp.Or(cmp.Compare(x.Table, y.Table), cmp.Compare(x.Partition, y.Partition))
	})
	slices.SortFunc(b.folded, func(x, y FoldedInput) int {
		return cmp.Or(cmp.Compare(x.Topic, y.Topic), cmp.Compare(x.Partition, y.Partition))
	})
	for i := range b.parts {
		p := &b.parts[i]
		d := NewDigester()
		err := scanPart(b.opts.Store, b.def.Name, p.Table, p.Partition, func(k, v []byte) bool {
			d.Add(k, v)
			return true
		})
		if err != nil {
			return nil, err
		}
		p.Digest = d.Sum()
	}
	return &RebuildReport{RebuildProgress: b.progress, Parts: b.parts, Inputs: b.folded}, nil
}

// scanPart yields the entries of one partition of a table in a store, in key order.
func scanPart(s statestore.Store, processor, table string, partition int32, fn func(k, v []byte) bool) error {
	prefix := statestore.PartitionPrefix(storeName(processor, table), partition)
	it, err := s.Scan(prefix, statestore.PrefixEnd(prefix))
	if err != nil {
		return err
	}
	return scan(it, len(prefix), nil, fn)
}
