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
	// Digests are those of the tables, for comparison with [Runtime.Digests] and [Refold].
	Digests []DigestEntry
}

// Rebuild materialises the tables of every task from their redo sources, up to the group's position: no transactions, no machine,
// sorted runs that are loaded as tables. A runtime that is started on the store then goes on where the group stands.
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

// evidence is what an empty store finds: the plan is to redo everything.
func (b *rebuild) evidence(ctx context.Context, task int32) (evidence, plan, error) {
	w := gatherer{def: &b.def, session: b.session, topics: b.topics, clock: b.opts.Clock, id: task}
	ev, err := w.gather(ctx)
	if err != nil {
		return ev, plan{}, err
	}
	pl, err := decide(ev)
	return ev, pl, err
}

func (b *rebuild) rebuildTask(ctx context.Context, task int32) error {
	ev, pl, err := b.evidence(ctx, task)
	if err != nil {
		return err
	}
	b.expect(ev, pl)
	if name := b.def.changelogTable(); name != "" {
		tp := topicPartition{Topic: b.def.Changelog, Partition: task}
		if err := b.materialise(ctx, name, task, map[topicPartition]int64{tp: ev.s.High}); err != nil {
			return err
		}
	}
	for _, decl := range b.def.Tables {
		ends := map[topicPartition]int64{}
		for tp, in := range ev.inputs {
			if in.table == decl.Name {
				ends[tp] = pl.offsets[tp]
			}
		}
		if err := b.materialise(ctx, decl.Name, task, ends); err != nil {
			return err
		}
	}
	if pl.lost {
		b.opts.Logger.Warn("the group has no position: the next start finds it from the origins in the changelog", slog.Int("task", int(task)))
		return nil
	}
	return b.position(ev, pl)
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
func (b *rebuild) expect(ev evidence, pl plan) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.def.changelogTable() != "" {
		b.progress.Total += ev.s.High
	}
	for tp, in := range ev.inputs {
		if in.table != "" {
			b.progress.Total += pl.offsets[tp]
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

// materialise loads the latest value of every key of some partitions, each below its end, into one partition of a table. What
// fits into a chunk is one sorted run; later runs hide earlier ones.
func (b *rebuild) materialise(ctx context.Context, table string, task int32, ends map[topicPartition]int64) error {
	prefix := statestore.PartitionPrefix(storeName(b.def.Name, table), task)
	run := sortedRun{prefix: prefix, latest: map[string][]byte{}}
	for tp, end := range ends {
		from := int64(0)
		err := b.session.Scan(ctx, tp, 0, end, func(recs []record.Record, next int64) error {
			for i := range recs {
				run.add(&recs[i])
				if run.bytes >= b.opts.ChunkBytes {
					if err := run.load(ctx, b.opts.Store); err != nil {
						return err
					}
				}
			}
			b.advance(next-from, int64(len(recs)), false)
			from = next
			return nil
		})
		if err != nil {
			return fmt.Errorf("materialise %s/%d: %w", tp.Topic, tp.Partition, err)
		}
	}
	return run.load(ctx, b.opts.Store)
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
	digests, err := storeDigests(b.opts.Store, &b.def, b.tasks())
	if err != nil {
		return nil, err
	}
	b.advance(0, 0, true)
	return &RebuildReport{RebuildProgress: b.progress, Digests: digests}, nil
}

// storeDigests reads all partitions of all tables of a store.
func storeDigests(s statestore.Store, def *Definition, tasks int32) ([]DigestEntry, error) {
	var out []DigestEntry
	for _, name := range def.tableNames() {
		for task := range tasks {
			prefix := statestore.PartitionPrefix(storeName(def.Name, name), task)
			it, err := s.Scan(prefix, statestore.PrefixEnd(prefix))
			if err != nil {
				return nil, err
			}
			d := NewDigester()
			err = scan(it, len(prefix), nil, func(k, v []byte) bool {
				d.Add(k, v)
				return true
			})
			if err != nil {
				return nil, err
			}
			out = append(out, DigestEntry{Table: name, Partition: task, Digest: d.Sum()})
		}
	}
	slices.SortFunc(out, func(a, b DigestEntry) int {
		return cmp.Or(cmp.Compare(a.Table, b.Table), cmp.Compare(a.Partition, b.Partition))
	})
	return out, nil
}
