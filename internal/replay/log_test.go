package replay

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/regent-infra/regent/internal/clock"
	"github.com/regent-infra/regent/internal/record"
)

var topic = record.TopicPartition{Topic: "s", Partition: 0}

// manual is a clock that is set by hand.
type manual struct {
	clock.System
	now time.Time
}

func (m *manual) Now() time.Time { return m.now }

// memLog is one partition of a log, with transactions, a cleaner, and a memory of what was served.
type memLog struct {
	clock   *manual
	batches []Batch
	next    int64
	start   int64
	lag     time.Duration
	// open are the first offsets of open transactions.
	open map[int64]int64
	// seen are batches that the cleaner has passed once: tombstones in there may go.
	seen map[int64]bool
	// raw is everything as it was written.
	raw []Batch
	// between runs before each batch is handed out.
	between func(i int)
}

// served is a state with the cut below which it is everything.
type served struct {
	cut   int64
	state map[string]string
}

func newMemLog(lag time.Duration) *memLog {
	return &memLog{
		clock: &manual{now: time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC)}, lag: lag, open: map[int64]int64{}, seen: map[int64]bool{},
	}
}

// pair is a key with its value; an empty one is a tombstone.
type pair struct{ key, value string }

// write appends a batch. Producer 0 writes without transactions.
func (l *memLog) write(producer int64, epoch int16, pairs ...pair) {
	b := Batch{First: l.next, Last: l.next + int64(len(pairs)) - 1, Count: len(pairs), Time: l.clock.now, Producer: producer, Epoch: epoch, Transactional: producer > 0}
	for i, p := range pairs {
		r := record.Record{Topic: topic.Topic, Offset: l.next + int64(i), Timestamp: l.clock.now, Key: []byte(p.key), Value: []byte(p.value)}
		if p.value == "" {
			r.Value = nil
		}
		b.Records = append(b.Records, r)
	}
	if _, ok := l.open[producer]; !ok && producer > 0 {
		l.open[producer] = l.next
	}
	l.append(b)
}

// end writes a marker.
func (l *memLog) end(producer int64, epoch int16, m Marker) {
	delete(l.open, producer)
	l.append(Batch{First: l.next, Last: l.next, Count: 1, Time: l.clock.now, Producer: producer, Epoch: epoch, Transactional: true, Marker: m})
}

func (l *memLog) append(b Batch) {
	l.batches, l.raw, l.next = append(l.batches, b), append(l.raw, b), b.Last+1
}

func (l *memLog) stable() int64 {
	stable := l.next
	for _, first := range l.open {
		stable = min(stable, first)
	}
	return stable
}

// stateAt is what is committed below an offset, from what was written.
func (l *memLog) stateAt(cut int64) map[string]string {
	state := map[string]string{}
	aborted := l.aborted()
	for i, b := range l.raw {
		first, open := l.open[b.Producer]
		for _, r := range b.Records {
			if aborted[i] || open && b.First >= first || r.Offset >= cut {
				continue
			}
			if r.Value == nil {
				delete(state, string(r.Key))
			} else {
				state[string(r.Key)] = string(r.Value)
			}
		}
	}
	return state
}

// aborted says which batches of raw were.
func (l *memLog) aborted() map[int]bool {
	out, open := map[int]bool{}, map[int64][]int{}
	for i, b := range l.raw {
		switch {
		case b.Marker == AbortMarker:
			for _, j := range open[b.Producer] {
				out[j] = true
			}
			fallthrough
		case b.Marker == CommitMarker:
			delete(open, b.Producer)
		case b.Transactional:
			open[b.Producer] = append(open[b.Producer], i)
		}
	}
	return out
}

// servedAt is what was committed at a moment: the transactions whose markers had come, up to the first one that came later.
func (l *memLog) servedAt(t time.Time) served {
	cut := int64(0)
	aborted := l.aborted()
	pending := map[int64][]int{}
	later := map[int]bool{} // batches that were committed later, or are still open
	for i, b := range l.raw {
		if b.Marker != NoMarker {
			for _, j := range pending[b.Producer] {
				later[j] = b.Marker == CommitMarker && b.Time.After(t)
			}
			delete(pending, b.Producer)
		} else if b.Transactional {
			pending[b.Producer] = append(pending[b.Producer], i)
			later[i] = true
		}
	}
	for i, b := range l.raw {
		if b.Time.After(t) || later[i] && !aborted[i] {
			break
		}
		cut = b.Last + 1
	}
	return served{cut: cut, state: l.stateAt(cut)}
}

// clean compacts as Kafka does, with batches where Kafka has segments: up to a limit that min.compaction.lag.ms allows, from the start on; it may
// break off before the end.
func (l *memLog) clean(limit, breakOff int, dropTombstones bool) {
	to := 0
	for to < min(limit, len(l.batches)-1) && l.batches[to].Last < l.stable() && !l.batches[to].Time.After(l.clock.now.Add(-l.lag)) {
		to++
	}
	aborted := map[int64]bool{}
	for i, b := range l.raw {
		if l.aborted()[i] {
			aborted[b.First] = true
		}
	}
	latest := map[string]int64{}
	for _, b := range l.batches[:to] {
		for _, r := range b.Records {
			if !aborted[b.First] {
				latest[string(r.Key)] = r.Offset
			}
		}
	}
	var kept []Batch
	left := map[int64]bool{} // producers of whose open transaction something is left
	for i, b := range l.batches {
		if i >= to || i >= breakOff {
			kept = append(kept, b)
			continue
		}
		if b.Marker != NoMarker {
			if left[b.Producer] || !l.seen[b.First] {
				kept = append(kept, b)
			}
			delete(left, b.Producer)
			l.seen[b.First] = true
			continue
		}
		b.Records = slices.DeleteFunc(slices.Clone(b.Records), func(r record.Record) bool {
			return aborted[b.First] || latest[string(r.Key)] > r.Offset || r.Value == nil && dropTombstones && l.seen[b.First]
		})
		b.Count = len(b.Records)
		l.seen[b.First] = true
		if b.Count > 0 {
			kept = append(kept, b)
			left[b.Producer] = true
		}
	}
	l.batches = kept
	if breakOff >= to {
		l.start = l.batches[0].First
	}
}

// base is a checkpoint of what is committed now.
func (l *memLog) base(name string) Base { return l.baseAt(name, l.committed()) }

// committed is the offset after the last record of the last committed transaction.
func (l *memLog) committed() int64 {
	cut := int64(0)
	last := map[int64]int64{}
	for _, b := range l.raw {
		switch b.Marker {
		case CommitMarker:
			cut = max(cut, last[b.Producer]+1)
		case NoMarker:
			last[b.Producer] = b.Last
		default:
		}
	}
	return cut
}

// baseAt is a checkpoint of a task that is on the way to what is committed.
func (l *memLog) baseAt(name string, cut int64) Base {
	state := l.stateAt(cut)
	return Base{Name: name, At: l.clock.now, Out: cut, Entries: func(yield func(k, v []byte) error) error {
		for _, k := range slices.Sorted(maps.Keys(state)) {
			if err := yield([]byte(k), []byte(state[k])); err != nil {
				return err
			}
		}
		return nil
	}}
}

// Topics implements [Log].
func (l *memLog) Topics(context.Context, ...string) (map[string]Topic, error) {
	return map[string]Topic{topic.Topic: l.topic()}, nil
}

func (l *memLog) topic() Topic {
	return Topic{Partitions: 1, Compacted: true, BrokerTime: true, CompactionLag: l.lag}
}

// Bounds implements [Log].
func (l *memLog) Bounds(context.Context, []record.TopicPartition) (map[record.TopicPartition]Bounds, error) {
	return map[record.TopicPartition]Bounds{topic: {Start: l.start, Stable: l.stable(), High: l.next}}, nil
}

// OffsetsAfter implements [Log].
func (l *memLog) OffsetsAfter(_ context.Context, at time.Time, _ []record.TopicPartition) (map[record.TopicPartition]int64, error) {
	for _, b := range l.batches {
		if b.Time.After(at) {
			return map[record.TopicPartition]int64{topic: b.First}, nil
		}
	}
	return map[record.TopicPartition]int64{topic: l.next}, nil
}

// Batches implements [Log]. The log may change while it is read.
func (l *memLog) Batches(_ context.Context, _ record.TopicPartition, from, to int64, records bool, fn func(*Batch) error) error {
	for i := 0; from < to; i++ {
		if l.between != nil {
			l.between(i)
		}
		at := slices.IndexFunc(l.batches, func(b Batch) bool { return b.Last >= from })
		if at < 0 || l.batches[at].First >= to {
			return nil
		}
		b := l.batches[at]
		from = b.Last + 1
		if !records {
			b.Records = nil
		}
		if err := fn(&b); err != nil {
			return err
		}
	}
	return nil
}

// String shows what was written and what is left of it.
func (l *memLog) String() string {
	var out strings.Builder
	for _, batches := range [][]Batch{l.raw, l.batches} {
		for _, b := range batches {
			fmt.Fprintf(&out, "\n%d-%d at %s of %d/%d", b.First, b.Last, b.Time.Format("05.000"), b.Producer, b.Epoch)
			switch b.Marker {
			case CommitMarker:
				out.WriteString(" commit")
			case AbortMarker:
				out.WriteString(" abort")
			default:
				for _, r := range b.Records {
					fmt.Fprintf(&out, " %d:%s=%s", r.Offset, r.Key, r.Value)
				}
			}
		}
		out.WriteString("\n")
	}
	return out.String()
}
