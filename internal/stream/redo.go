package stream

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/regent-infra/regent/internal/record"
	"github.com/regent-infra/regent/statestore"
)

// redo brings the tables to the state that the topics describe, and returns the end of what was applied of S: K.out, or more
// if S has committed records beyond it.
//
// It never reads the inputs that were folded, which are compacted: tables of S from S, tables of inputs from these inputs, both
// by plain upserts. What is applied goes to the store at once, with the position that it brings: a recovery that is cut off
// goes on there.
func (w *worker) redo(ctx context.Context, ev evidence, pl *plan) (int64, error) {
	progress := Position{
		FoldVersion: w.r.def.FoldVersion, Changelog: ev.changelog.ID, StreamTime: pl.streamTime,
		StampedAt: ev.now, Tables: []string{w.r.def.changelogTable()},
	}
	if ev.p != nil {
		progress.StampedAt = ev.p.StampedAt // it does not get younger by being read
		progress.Inputs = ev.p.Inputs
		progress.Tables = append(progress.Tables, ev.p.Tables...)
		slices.Sort(progress.Tables)
		progress.Tables = slices.Compact(progress.Tables)
	}
	end, err := w.redoChangelog(ctx, ev, pl, progress)
	if err != nil {
		return 0, err
	}
	for _, decl := range w.r.def.Tables {
		if decl.Source == w.r.def.Changelog {
			continue
		}
		if err := w.redoInputs(ctx, ev, pl, decl.Name); err != nil {
			return 0, err
		}
	}
	return end, nil
}

// target is where a redo writes to: the table itself, or its shadow, which is swapped in at the end.
type target struct {
	store   statestore.Store
	table   string
	task    int32
	prefix  []byte
	rebuild bool
}

// target clears what must not shine through: the shadow of an earlier rebuild, and, where no position vouches for the table,
// whatever a redo that was cut off has left in it. Without that, a key would come back whose tombstone has expired meanwhile.
func (w *worker) target(ev evidence, pl *plan, name string) (target, error) {
	rebuild := pl.rebuild[name]
	stored := storeName(w.r.def.Name, name)
	g := target{store: w.r.opts.Store, table: stored, task: w.id, rebuild: rebuild, prefix: statestore.PartitionPrefix(stored, w.id)}
	if rebuild {
		g.prefix = statestore.ShadowPrefix(stored, w.id)
	}
	shadow := statestore.ShadowPrefix(stored, w.id)
	var b statestore.Batch
	b.DeleteRange(shadow, statestore.PrefixEnd(shadow))
	if !rebuild && !ev.kept(name) {
		b.DeleteRange(g.prefix, statestore.PrefixEnd(g.prefix))
	}
	return g, g.apply(&b)
}

func (g target) apply(b *statestore.Batch) error {
	if err := g.store.Apply(b); err != nil {
		return &taskError{fmt.Errorf("redo table %q: %w", g.table, err)}
	}
	return nil
}

// upsert adds a record to a batch.
func (g target) upsert(b *statestore.Batch, rec *record.Record) {
	key := append(append(make([]byte, 0, len(g.prefix)+len(rec.Key)), g.prefix...), rec.Key...)
	if rec.Tombstone() {
		b.Delete(key)
	} else {
		b.Put(key, rec.Value)
	}
}

// swap puts the shadow in the table's place, atomically.
func (g target) swap(ctx context.Context) error {
	if !g.rebuild {
		return nil
	}
	it, err := g.store.Scan(g.prefix, statestore.PrefixEnd(g.prefix))
	if err != nil {
		return err
	}
	defer func() { _ = it.Close() }() // reading is over, Err below has what matters
	place := statestore.PartitionPrefix(g.table, g.task)
	err = g.store.Replace(ctx, place, statestore.PrefixEnd(place), func(yield func(k, v []byte) bool) {
		for it.Next() {
			if !yield(append(place[:len(place):len(place)], it.Key()[len(g.prefix):]...), it.Value()) {
				return
			}
		}
	})
	if err == nil {
		err = it.Err()
	}
	if err != nil {
		return &taskError{fmt.Errorf("swap in the rebuilt table %q: %w", g.table, err)}
	}
	var b statestore.Batch
	b.DeleteRange(g.prefix, statestore.PrefixEnd(g.prefix))
	return g.apply(&b)
}

// redoChangelog applies S from the plan's offset to its end.
func (w *worker) redoChangelog(ctx context.Context, ev evidence, pl *plan, progress Position) (int64, error) {
	if !ev.hasChangelog() {
		return 0, nil
	}
	name := w.r.def.changelogTable()
	if name == "" && !pl.lost {
		return pl.out, nil
	}
	g, err := w.target(ev, pl, name)
	if err != nil {
		return 0, err
	}
	if pl.lost {
		w.origins = map[topicPartition]int64{}
	}
	end := pl.out
	lap := w.lap(pl.out - pl.redoFrom)
	apply := func(recs []record.Record, next int64) error {
		var b statestore.Batch
		for i := range recs {
			rec := &recs[i]
			end = max(end, rec.Offset+1)
			if pl.lost {
				w.noteOrigin(rec)
				if rec.Timestamp.After(pl.streamTime) {
					pl.streamTime = rec.Timestamp
				}
			}
			if name != "" && !w.r.opts.sabotage.skipRedo {
				g.upsert(&b, rec)
			}
		}
		if !g.rebuild && name != "" {
			progress.Out = min(next, pl.out) // never above K.out, and in every batch: no data without a position
			b.Put(statestore.PositionKey(w.r.def.Name, w.id), progress.Encode())
		}
		lap(len(recs), next-pl.redoFrom)
		if err := g.apply(&b); err != nil {
			return err
		}
		w.r.opts.reach(PointRedo)
		return nil
	}
	if err := w.session.Scan(ctx, w.changelogPartition(), pl.redoFrom, ev.s.High, apply); err != nil {
		return 0, fmt.Errorf("redo the changelog %q: %w", w.r.def.Changelog, err)
	}
	if end > pl.out {
		w.r.log.Warn("the changelog has records beyond the group's position; the state follows the changelog",
			slog.Int("task", int(w.id)), slog.Int64("position", pl.out), slog.Int64("end", end))
	}
	return end, g.swap(ctx)
}

// redoInputs applies the inputs of one table up to where the group stands.
func (w *worker) redoInputs(ctx context.Context, ev evidence, pl *plan, name string) error {
	g, err := w.target(ev, pl, name)
	if err != nil {
		return err
	}
	for tp, in := range ev.inputs {
		to := max(pl.offsets[tp], w.origins[tp])
		if in.table != name || pl.tableFrom[tp] >= to {
			continue
		}
		lap := w.lap(to - pl.tableFrom[tp])
		err := w.session.Scan(ctx, tp, pl.tableFrom[tp], to, func(recs []record.Record, next int64) error {
			var b statestore.Batch
			for i := range recs {
				g.upsert(&b, &recs[i])
			}
			lap(len(recs), next-pl.tableFrom[tp])
			return g.apply(&b)
		})
		if err != nil {
			return fmt.Errorf("redo table %q from input %s/%d: %w", name, tp.Topic, tp.Partition, err)
		}
	}
	return g.swap(ctx)
}

// lap counts what is redone, for status and metrics.
func (w *worker) lap(total int64) func(records int, offsets int64) {
	last := time.Time{}
	return func(records int, offsets int64) {
		w.r.opts.Metrics.redone.WithLabelValues(w.r.def.Name).Add(float64(records))
		if now := w.r.opts.Clock.Now(); now.Sub(last) > 100*time.Millisecond {
			last = now
			w.r.mu.Lock()
			w.r.status.progress(w.id, offsets, total)
			w.r.mu.Unlock()
		}
	}
}
