package stream_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/regent-infra/regent/internal/record"
	"github.com/regent-infra/regent/internal/stream"
)

// auditor is the independent reader of the rounds. It looks while no process runs, and reads on from where it was. Each look holds what is
// there against the invariants of the runtime:
//
//  1. The store is what a fold of the inputs gave at its position, and so is S, up to K.
//  2. P ≤ K, in the changelog and in each input.
//  3. Each input record below K is in the outputs once and in order, so the committed ranges are contiguous and disjoint.
//  4. No committed output follows from a record at K or above: every transaction has carried the offsets of its tasks.
//  5. What a store held when its process began, it holds now: no crash deletes state, and the redo is K.out - P.out at most.
//  6. S, compacted in some way that Kafka may choose, gives the same state.
//  7. A store as it was left at any death, copied, is a valid start: it is opened, and every position in it has its state.
type auditor struct {
	b     *broker
	rng   *rand.Rand
	tasks []audited
	// floor is P.out of each store and task when the process began that has left the store as it is.
	floor map[string]int64
	facts int
}

// audited is what the auditor knows of one task.
type audited struct {
	next       map[string]int64 // offset of each topic up to which it was read
	fold       map[string][]byte
	side, dead []string // of folded inputs, not seen in the outputs yet
	s          map[string][]byte
	sEnd       int64 // after the last record of S
	base       map[string][]byte
	baseOut    int64
	tail       []record.Record // of S, from baseOut on
}

func newAuditor(b *broker, rng *rand.Rand) *auditor {
	a := &auditor{b: b, rng: rng, floor: map[string]int64{}, tasks: make([]audited, b.partitions)}
	for p := range a.tasks {
		a.tasks[p] = audited{next: map[string]int64{}, fold: map[string][]byte{}, s: map[string][]byte{}, base: map[string][]byte{}}
	}
	return a
}

// look checks everything. dirs are the stores that are expected to be whole.
func (a *auditor) look(t testing.TB, dirs ...string) error {
	t.Helper()
	ends, err := a.settled()
	if err != nil {
		return err
	}
	ks, err := a.committed()
	if err != nil {
		return err
	}
	for p := range a.b.partitions {
		k := ks[p]
		meta := stream.Metadata{}
		if k.Metadata != "" {
			if meta, err = stream.DecodeMetadata(k.Metadata); err != nil {
				return err
			}
		}
		if err := a.task(p, k.Offset, meta.Out, ends); err != nil {
			return fmt.Errorf("partition %d, K %d, K.out %d: %w", p, k.Offset, meta.Out, err)
		}
	}
	for _, dir := range dirs {
		if err := a.store(t, dir, ks); err != nil {
			return fmt.Errorf("store %s: %w", filepath.Base(dir), err)
		}
	}
	a.trim(dirs)
	return nil
}

// settled waits until no transaction is open in any output, and returns the ends.
func (a *auditor) settled() (map[string]map[int32]int64, error) {
	out := map[string]map[int32]int64{}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	look := time.NewTicker(5 * time.Millisecond)
	defer look.Stop()
	for ; ; <-look.C {
		stable, err1 := a.b.adm.ListCommittedOffsets(ctx, stateTopic, sideTopic, deadTopic)
		high, err2 := a.b.adm.ListEndOffsets(ctx, stateTopic, sideTopic, deadTopic)
		open := errors.Join(err1, err2, stable.Error(), high.Error())
		if open == nil {
			high.Each(func(o kadm.ListedOffset) {
				if at, _ := stable.Lookup(o.Topic, o.Partition); at.Offset < o.Offset {
					open = fmt.Errorf("a transaction is open in %s/%d at %d below %d", o.Topic, o.Partition, at.Offset, o.Offset)
				}
				if out[o.Topic] == nil {
					out[o.Topic] = map[int32]int64{}
				}
				out[o.Topic][o.Partition] = o.Offset
			})
		}
		if open == nil {
			return out, nil
		}
		if ctx.Err() != nil {
			return nil, fmt.Errorf("wait until all transactions are decided: %w", open)
		}
	}
}

// committed returns K, when it is stable.
func (a *auditor) committed() ([]stream.Committed, error) {
	out := make([]stream.Committed, a.b.partitions)
	ctx, cancel := context.WithTimeout(kadm.RequireStable(context.Background()), patience)
	defer cancel()
	look := time.NewTicker(5 * time.Millisecond)
	defer look.Stop()
	for ; ; <-look.C {
		offsets, err := a.b.adm.FetchOffsets(ctx, "regent.test.tally")
		if err == nil {
			err = offsets.Error()
		}
		if errors.Is(err, kerr.GroupIDNotFound) {
			return out, nil // the embedded broker knows no group that nothing was committed for
		}
		if err != nil && ctx.Err() == nil {
			continue
		}
		if err != nil {
			return out, fmt.Errorf("read K: %w", err)
		}
		for p := range out {
			if o, ok := offsets.Lookup(factsTopic, int32(p)); ok {
				out[p] = stream.Committed{Offset: o.At, Metadata: o.Metadata}
			}
		}
		return out, nil
	}
}

// task checks one partition of the topics against its K.
func (a *auditor) task(p int32, k, kOut int64, ends map[string]map[int32]int64) error {
	w := &a.tasks[p]
	if k < w.next[factsTopic] {
		return fmt.Errorf("K has gone back from %d", w.next[factsTopic])
	}
	facts, err := a.read(factsTopic, p, k)
	if err != nil {
		return err
	}
	a.facts += len(facts)
	for _, r := range facts {
		w.foldOne(r)
	}
	for topic, want := range map[string]*[]string{sideTopic: &w.side, deadTopic: &w.dead} {
		recs, err := a.read(topic, p, ends[topic][p])
		if err != nil {
			return err
		}
		for _, r := range recs {
			_, offset := origin(&r)
			line := fmt.Sprintf("%d %x", offset, r.Value)
			switch {
			case len(*want) == 0:
				return fmt.Errorf("%s has a record at %d that follows from input %d, which is not committed or was answered before", topic, r.Offset, offset)
			case (*want)[0] != line:
				return fmt.Errorf("%s has at %d %q, expected %q", topic, r.Offset, line, (*want)[0])
			}
			*want = (*want)[1:]
		}
		if len(*want) > 0 {
			return fmt.Errorf("%s lacks %d records, the first one %q", topic, len(*want), (*want)[0])
		}
	}
	changelog, err := a.read(stateTopic, p, ends[stateTopic][p])
	if err != nil {
		return err
	}
	for _, r := range changelog {
		upsert(w.s, r)
		w.sEnd = r.Offset + 1
		w.tail = append(w.tail, r)
	}
	if w.sEnd != kOut {
		return fmt.Errorf("S ends at %d", w.sEnd)
	}
	if err := sameState(w.fold, w.s); err != nil {
		return fmt.Errorf("materialise(S) against fold(inputs): %w", err)
	}
	compacted := maps.Clone(w.base)
	for _, r := range a.compact(w.tail) {
		upsert(compacted, r)
	}
	if err := sameState(w.s, compacted); err != nil {
		return fmt.Errorf("materialise(compact(S)) against materialise(S): %w", err)
	}
	return nil
}

func (w *audited) foldOne(r record.Record) {
	key := string(r.Key)
	next, accepted, gone, err := decodeTally(w.fold[key]).step(r.Value)
	switch {
	case err != nil:
		w.dead = append(w.dead, fmt.Sprintf("%d %x", r.Offset, r.Value))
		return
	case !accepted:
		return
	}
	if w.fold[key] = next.encode(); gone {
		delete(w.fold, key)
	}
	w.side = append(w.side, fmt.Sprintf("%d %x", r.Offset, next.encode()))
}

func upsert(state map[string][]byte, r record.Record) {
	if r.Value == nil {
		delete(state, string(r.Key))
	} else {
		state[string(r.Key)] = r.Value
	}
}

// compact drops some of the records that a later one of the same key replaces.
func (a *auditor) compact(log []record.Record) []record.Record {
	last := map[string]int{}
	for i, r := range log {
		last[string(r.Key)] = i
	}
	var out []record.Record
	for i, r := range log {
		if last[string(r.Key)] == i || a.rng.IntN(2) == 0 {
			out = append(out, r)
		}
	}
	return out
}

// store checks what a dead process has left: a copy of it is opened, so that what is checked is what the next process finds.
func (a *auditor) store(t testing.TB, dir string, ks []stream.Committed) error {
	t.Helper()
	if _, err := os.Stat(dir); os.IsNotExist(err) {
		return nil // it died before it made one
	}
	copied := filepath.Join(t.TempDir(), "copy")
	if err := os.CopyFS(copied, os.DirFS(dir)); err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(copied) }()
	state, positions := stored(t, copied, a.b.partitions)
	for p := range a.b.partitions {
		w, pos, floor := &a.tasks[p], positions[p], fmt.Sprint(dir, "/", p)
		if pos == nil {
			if len(state[p]) > 0 {
				return fmt.Errorf("partition %d: %d keys without a position", p, len(state[p]))
			}
			if a.floor[floor] > 0 {
				return fmt.Errorf("partition %d: no position, P.out was %d", p, a.floor[floor])
			}
			continue
		}
		if pos.Out > w.sEnd {
			return fmt.Errorf("partition %d: P.out %d is above K.out %d", p, pos.Out, w.sEnd)
		}
		for _, in := range pos.Inputs {
			if in.Next > ks[p].Offset {
				return fmt.Errorf("partition %d: P has input %s at %d, K at %d", p, in.Topic, in.Next, ks[p].Offset)
			}
		}
		if pos.Out < a.floor[floor] {
			return fmt.Errorf("partition %d: P.out is %d, it was %d when the process began", p, pos.Out, a.floor[floor])
		}
		a.floor[floor] = pos.Out
		if pos.Out < w.baseOut {
			continue // an old checkpoint: what S was then is forgotten
		}
		want := maps.Clone(w.base)
		for _, r := range w.tail {
			if r.Offset < pos.Out {
				upsert(want, r)
			}
		}
		if err := sameState(want, state[p]); err != nil {
			return fmt.Errorf("partition %d: the store against S up to P.out %d: %w", p, pos.Out, err)
		}
	}
	return nil
}

// forget drops what is known about a store that was damaged or removed.
func (a *auditor) forget(dir string) {
	for p := range a.tasks {
		delete(a.floor, fmt.Sprint(dir, "/", p))
	}
}

// trim forgets what of S no store is below of.
func (a *auditor) trim(dirs []string) {
	for p := range a.tasks {
		w := &a.tasks[p]
		low := w.sEnd
		for _, dir := range dirs {
			low = min(low, a.floor[fmt.Sprint(dir, "/", p)])
		}
		for len(w.tail) > 0 && w.tail[0].Offset < low {
			upsert(w.base, w.tail[0])
			w.baseOut = w.tail[0].Offset + 1
			w.tail = w.tail[1:]
		}
		w.tail = append([]record.Record(nil), w.tail...)
	}
}

// read returns the committed records of a partition from where the auditor was up to an offset.
func (a *auditor) read(topic string, p int32, to int64) ([]record.Record, error) {
	w := &a.tasks[p]
	from := w.next[topic]
	w.next[topic] = to
	if from >= to {
		return nil, nil
	}
	cl, err := kgo.NewClient(kgo.SeedBrokers(a.b.addrs...), kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.KeepControlRecords(),
		kgo.FetchMaxWait(50*time.Millisecond), kgo.MetadataMinAge(50*time.Millisecond),
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: {p: kgo.NewOffset().At(from)}}))
	if err != nil {
		return nil, err
	}
	defer cl.Close()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var out []record.Record
	for {
		fetches := cl.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			return nil, fmt.Errorf("read %s/%d from %d to %d: %w", topic, p, from, to, err)
		}
		for _, r := range fetches.Records() {
			if r.Offset < to && !r.Attrs.IsControl() {
				rec := fromKgo(r)
				rec.Key, rec.Value = bytes.Clone(rec.Key), bytes.Clone(rec.Value)
				out = append(out, rec)
			}
			if r.Offset >= to-1 {
				return out, nil
			}
		}
	}
}
