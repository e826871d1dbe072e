package stream

import (
	"context"
	"fmt"

	"golang.org/x/sync/errgroup"

	"github.com/regent-infra/regent/internal/record"
	"github.com/regent-infra/regent/statestore"
)

// Refold folds the inputs of every task again, from their start to the group's position, with fresh machines into an empty store:
// the cross-check of a rebuild. It says nothing to anybody: outputs are dropped, what goes to the changelog becomes state.
//
// What it makes of the changelog's table says the same as what [Rebuild] makes if the state follows from what the inputs still hold,
// which is so for processors whose inputs are full values behind sequence guards, and if no fold version has changed since; the
// envelopes differ, so compare with [CompareFolds].
func Refold(ctx context.Context, def Definition, opts RebuildOptions) (*RebuildReport, error) {
	b, err := newRebuild(ctx, def, opts)
	if err != nil {
		return nil, fmt.Errorf("fold the inputs of processor %q again: %w", def.Name, err)
	}
	defer b.close(ctx)
	err = b.each(ctx, b.refoldTask)
	var report *RebuildReport
	if err == nil {
		report, err = b.report()
	}
	if err != nil {
		return nil, fmt.Errorf("fold the inputs of processor %q again: %w", def.Name, err)
	}
	return report, nil
}

// FoldedInput is one input partition as [Refold] has read it.
type FoldedInput struct {
	record.TopicPartition
	// Start is the log's first offset, End the one below which the inputs were folded.
	Start, End int64
	// Records is how many there were. Fewer than End - Start: the others were markers, aborted, or compacted away.
	Records int64
	// Compacted says that the topic keeps the latest value per key for ever; else records expire.
	Compacted bool
	// Table is the table that is redone from the input, and so is all that counts of it; empty if there is none.
	Table string
}

func (b *rebuild) refoldTask(ctx context.Context, id int32) error {
	ev, pl, err := b.evidence(ctx, id)
	if err != nil {
		return err
	}
	c := newCache(DefaultCacheBytes / 4)
	t := &task{id: id, def: &b.def, generation: 1, tables: map[string]*table{}, inputs: map[topicPartition]*input{}}
	for _, decl := range b.def.Tables {
		t.tables[decl.Name] = newTable(b.def.Name, decl.Name, id, b.opts.Store, c)
	}
	ends := map[topicPartition]int64{}
	inputs := map[topicPartition]*FoldedInput{}
	for tp, in := range ev.inputs {
		ends[tp] = pl.offsets[tp]
		inputs[tp] = &FoldedInput{TopicPartition: tp, Start: in.marks.Start, End: pl.offsets[tp], Compacted: in.info.Compacted, Table: in.table}
		t.inputs[tp] = &input{topicPartition: tp, table: t.tables[in.table], target: pl.offsets[tp]}
	}
	b.mu.Lock()
	for _, end := range ends {
		b.progress.Total += end
	}
	for _, decl := range b.def.Tables {
		b.parts = append(b.parts, RebuiltPart{DigestEntry: DigestEntry{Table: decl.Name, Partition: id}, Lost: pl.lost})
	}
	b.mu.Unlock()
	defer func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		for _, in := range inputs {
			b.folded = append(b.folded, *in)
		}
	}()
	t.machine = b.def.NewMachine(id)
	return b.merge(ctx, ends, func(rec *record.Record) error {
		inputs[rec.Position()].Records++
		v := t.fold(t.inputs[rec.Position()], rec)
		if v.err != nil {
			return v.err
		}
		t.outs = t.outs[:0]
		return t.spill(b.opts.Store, b.opts.ChunkBytes)
	}, func() error { return t.spill(b.opts.Store, 0) })
}

// spill writes what was folded to the store when it has grown to a size.
func (t *task) spill(s statestore.Store, size int) error {
	for _, tb := range t.tables {
		if n := len(tb.layers[tb.current]); n == 0 || n*entryOverhead < size {
			continue
		}
		tb.cache.mu.Lock()
		tb.seal()
		tb.commit()
		taken := tb.takeDirty()
		tb.cache.mu.Unlock()
		var batch statestore.Batch
		appendWrites(&batch, taken)
		if err := s.Apply(&batch); err != nil {
			return err
		}
		tb.cache.mu.Lock()
		tb.settle()
		tb.cache.mu.Unlock()
	}
	return nil
}

// merge reads some partitions, each below its end, in the order of append times, keeping each partition's order.
func (b *rebuild) merge(ctx context.Context, ends map[topicPartition]int64, fn func(*record.Record) error, done func() error) error {
	g, ctx := errgroup.WithContext(ctx)
	var heads []*stretch
	for tp, end := range ends {
		s := &stretch{chunks: make(chan []record.Record)}
		heads = append(heads, s)
		g.Go(func() error {
			defer close(s.chunks)
			from := int64(0)
			return b.session.Scan(ctx, tp, 0, end, func(recs []record.Record, next int64) error {
				b.advance(next-from, int64(len(recs)), false)
				from = next
				select {
				case s.chunks <- recs:
					return nil
				case <-ctx.Done():
					return context.Cause(ctx)
				}
			})
		})
	}
	g.Go(func() error {
		for {
			var first *stretch
			for _, s := range heads {
				if s.fill() && (first == nil || s.recs[0].Timestamp.Before(first.recs[0].Timestamp)) {
					first = s
				}
			}
			if first == nil {
				if ctx.Err() != nil {
					return context.Cause(ctx)
				}
				return done()
			}
			rec := &first.recs[0]
			first.recs = first.recs[1:]
			if err := fn(rec); err != nil {
				return err
			}
		}
	})
	return g.Wait()
}

// stretch is one partition's records on their way into a merge.
type stretch struct {
	chunks chan []record.Record
	recs   []record.Record
}

// fill waits for the next record, and says whether there is one.
func (s *stretch) fill() bool {
	for len(s.recs) == 0 {
		recs, ok := <-s.chunks
		if !ok {
			return false
		}
		s.recs = recs
	}
	return true
}
