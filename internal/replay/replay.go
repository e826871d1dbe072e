package replay

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/regent-infra/regent/internal/clock"
	"github.com/regent-infra/regent/internal/record"
)

// DefaultClockMargin is the default of [Options].
const DefaultClockMargin = time.Minute

// baseMargin is how much younger than a moment a checkpoint may seem by its own machine's clock, for the log to be asked whether it is.
const baseMargin = 10 * time.Minute

// Options say how logs are read.
type Options struct {
	// Rate bounds how many records are read per second, over all partitions; 0: no bound.
	Rate float64
	// ClockMargin is how far the brokers' clocks may be ahead of this machine's, and how long a transaction may take: a moment that is closer than
	// that to the end of the window is not taken for being inside of it. Default 1 min; negative: none.
	ClockMargin time.Duration
	// Progress, where set, is called with every batch that was read: the offsets and records since the last call. Safe for concurrent use it must be.
	Progress func(offsets, records int64)
	// Clock tells the time. Default: the machine's.
	Clock clock.Clock
}

// Moment is a time, or an offset where Time is zero.
type Moment struct {
	// Time is by the brokers' clock.
	Time time.Time
	// Offset is the cut itself.
	Offset int64
}

// String implements fmt.Stringer.
func (m Moment) String() string {
	if m.Time.IsZero() {
		return fmt.Sprintf("offset %d", m.Offset)
	}
	return m.Time.UTC().Format("2006-01-02T15:04:05.000Z")
}

// Query says what is wanted of a partition.
type Query struct {
	Moment Moment
	// Keep, where set, says which keys are wanted.
	Keep func(key []byte) bool
	// Key, where set, is the only key that is wanted: for one key, more moments can be had.
	Key string
	// LogFirst looks for a checkpoint only if the log alone does not do: it takes longer, and each entry has its position.
	LogFirst bool
}

func (q *Query) keeps(key []byte) bool {
	if q.Key != "" {
		return string(key) == q.Key
	}
	return q.Keep == nil || q.Keep(key)
}

// Base is the state of a partition in a checkpoint.
type Base struct {
	// Name is for people.
	Name string
	// At is when the checkpoint was made, by its machine's clock.
	At time.Time
	// Out is the offset that the state goes up to.
	Out int64
	// Topic is the id of the topic that it belongs to.
	Topic [16]byte
	// Entries yields the entries of the partition.
	Entries func(yield func(key, value []byte) error) error
}

// Entry is the value of a key.
type Entry struct {
	Value []byte
	// Offset and Time say where the record stands and when the broker took it. Offset is -1 for what comes from a checkpoint.
	Offset int64
	Time   time.Time
}

// Part is one partition as it was.
type Part struct {
	record.TopicPartition
	Moment Moment
	// Cut is the offset below which everything committed is in the state.
	Cut int64
	// Last is when the last batch below it was appended; zero if there is none, or it was not read.
	Last time.Time
	// From is the offset from which the log was read, and Base the checkpoint that stands for what is before; nil if none does.
	From int64
	Base *Base
	// Proof says why the answer is exact.
	Proof Proof
	// Records is how many committed records were read.
	Records int64
	// Entries are the latest values by key.
	Entries map[string]Entry
}

// Replayer makes states of moments. It is safe for concurrent use.
type Replayer struct {
	log  Log
	opts Options

	mu    sync.Mutex
	began time.Time
	done  int64
}

// New returns a replayer.
func New(log Log, o Options) (*Replayer, error) {
	if o.Rate < 0 {
		return nil, fmt.Errorf("replay: the rate is %g records/s: expected 0 or more", o.Rate)
	}
	if o.ClockMargin == 0 {
		o.ClockMargin = DefaultClockMargin
	}
	o.ClockMargin = max(o.ClockMargin, 0)
	if o.Clock == nil {
		o.Clock = clock.System{}
	}
	return &Replayer{log: log, opts: o}, nil
}

// Target is a partition with what has to be known of it before it is read.
type Target struct {
	record.TopicPartition
	Topic  Topic
	Bounds Bounds
}

// Targets looks up partitions of topics: all of them, or those that pick says.
func (r *Replayer) Targets(ctx context.Context, names []string, pick func(record.TopicPartition) bool) ([]Target, error) {
	found, err := r.log.Topics(ctx, names...)
	if err != nil {
		return nil, err
	}
	var partitions []record.TopicPartition
	for _, name := range names {
		t, ok := found[name]
		if !ok {
			return nil, fmt.Errorf("replay topic %s: it does not exist (regent topics apply creates it; is this the right cluster?)", name)
		}
		if !t.Compacted {
			return nil, fmt.Errorf("replay topic %s: it is not compacted, so it holds no state: its records expire", name)
		}
		for p := range t.Partitions {
			if tp := (record.TopicPartition{Topic: name, Partition: p}); pick == nil || pick(tp) {
				partitions = append(partitions, tp)
			}
		}
	}
	bounds, err := r.log.Bounds(ctx, partitions)
	if err != nil {
		return nil, err
	}
	out := make([]Target, 0, len(partitions))
	for _, tp := range partitions {
		out = append(out, Target{TopicPartition: tp, Topic: found[tp.Topic], Bounds: bounds[tp]})
	}
	return out, nil
}

// Stretch is what a replay of a partition would read.
type Stretch struct {
	Target
	// From and To bound the offsets; To is where the cut is expected, for a time as the broker's index knows it.
	From, To int64
	// Base is the checkpoint that it would begin with; nil if none.
	Base *Base
}

// Plan says what [Replayer.At] would read first, without reading it.
func (r *Replayer) Plan(ctx context.Context, targets []Target, moment func(Target) Moment, bases func(Target) []Base) ([]Stretch, error) {
	ends := map[time.Time]map[record.TopicPartition]int64{}
	var partitions []record.TopicPartition
	for _, t := range targets {
		partitions = append(partitions, t.TopicPartition)
	}
	var out []Stretch
	for _, t := range targets {
		m := moment(t)
		if err := t.check(m, r.opts.Clock.Now()); err != nil {
			return nil, err
		}
		s := Stretch{Target: t, From: t.Bounds.Start, To: m.Offset}
		if !m.Time.IsZero() {
			if ends[m.Time] == nil {
				found, err := r.log.OffsetsAfter(ctx, m.Time, partitions)
				if err != nil {
					return nil, err
				}
				ends[m.Time] = found
			}
			s.To = ends[m.Time][t.TopicPartition]
		}
		s.To = max(s.To, s.From)
		for _, b := range t.usable(m, bases(t)) {
			if b.Out <= s.To {
				s.Base, s.From = &b, max(b.Out, t.Bounds.Start)
				break
			}
		}
		out = append(out, s)
	}
	return out, nil
}

// check refuses what cannot be asked of a partition.
func (t *Target) check(m Moment, now time.Time) error {
	switch {
	case m.Time.IsZero() && m.Offset < 0:
		return fmt.Errorf("replay %s/%d up to offset %d: expected 0 or more", t.TopicPartition.Topic, t.Partition, m.Offset)
	case m.Time.IsZero() && m.Offset > t.Bounds.Stable:
		return &RangeError{TopicPartition: t.TopicPartition, Moment: m, Stable: t.Bounds.Stable}
	case m.Time.IsZero():
		return nil
	case m.Time.After(now):
		return &RangeError{TopicPartition: t.TopicPartition, Moment: m, Now: now}
	case !t.Topic.BrokerTime:
		return fmt.Errorf("replay %s/%d up to %s: its records have the times of their producers (message.timestamp.type is not LogAppendTime), so nothing says "+
			"what was there at a time; name an offset, and set the topic as topics.yaml says", t.TopicPartition.Topic, t.Partition, m)
	default:
		return nil
	}
}

// usable returns the bases that may serve, the latest first.
func (t *Target) usable(m Moment, bases []Base) []Base {
	out := slices.DeleteFunc(slices.Clone(bases), func(b Base) bool {
		return b.Topic != t.Topic.ID || m.Time.IsZero() && b.Out > m.Offset || !m.Time.IsZero() && b.At.After(m.Time.Add(baseMargin))
	})
	slices.SortFunc(out, func(a, b Base) int { return cmp.Compare(b.Out, a.Out) })
	return out
}

// At returns a partition as it was. The bases are checkpoints that may stand for its beginning; the latest that can be used is. The error is a
// [*Refusal] if the answer cannot be had, or a [*RangeError] if the moment is not in the log yet.
func (r *Replayer) At(ctx context.Context, t Target, q Query, bases []Base) (*Part, error) {
	if err := t.check(q.Moment, r.opts.Clock.Now()); err != nil {
		return nil, err
	}
	usable := t.usable(q.Moment, bases)
	if !q.LogFirst {
		if part, err := r.fromBases(ctx, &t, &q, usable); part != nil || err != nil {
			return part, err
		}
	}
	part, w, err := r.fromLog(ctx, &t, &q)
	if err != nil || part.Proof != "" {
		return part, err
	}
	if q.LogFirst {
		if part, err := r.fromBases(ctx, &t, &q, usable); part != nil || err != nil {
			return part, err
		}
	}
	return nil, r.refusal(&t, &q, w, len(bases))
}

// fromBases begins with the latest base that serves; nil if none does.
func (r *Replayer) fromBases(ctx context.Context, t *Target, q *Query, bases []Base) (*Part, error) {
	for i := range bases {
		part, w, err := r.read(ctx, t, q, &bases[i])
		if err != nil {
			return nil, err
		}
		if w.follows() && !w.gapBelow() {
			part.Proof = Complete
			return part, nil
		}
	}
	return nil, nil //nolint:nilnil // nothing is found, and nothing went wrong
}

// attempts is how often a log is read that is cleaned meanwhile.
const attempts = 3

// fromLog reads the log alone. Without a proof the part cannot be trusted.
func (r *Replayer) fromLog(ctx context.Context, t *Target, q *Query) (part *Part, w *walk, err error) {
	for range attempts {
		if part, w, err = r.read(ctx, t, q, nil); err != nil {
			return nil, nil, err
		}
		if !w.doubt {
			break
		}
	}
	if part.Proof = w.proof(t, r.latest()); part.Proof == Window || part.Proof == "" {
		if err := r.readOn(ctx, t, w); err != nil {
			return nil, nil, err
		}
		part.Proof = w.proof(t, r.latest())
	}
	if part.Proof != "" || q.Key == "" || !w.seen {
		return part, w, nil
	}
	same, err := r.unchanged(ctx, t, q, w)
	if err != nil {
		return nil, nil, err
	}
	if same {
		part.Proof = Key
	}
	return part, w, nil
}

// refusal says what can be had instead.
func (r *Replayer) refusal(t *Target, q *Query, w *walk, checkpoints int) error {
	e := &Refusal{
		TopicPartition: t.TopicPartition, Moment: q.Moment, Gap: w.gap, Lag: t.Topic.CompactionLag, Checkpoints: checkpoints,
	}
	if now := r.latest(); w.windowHolds(t, now) {
		e.Earliest = now.Add(-t.Topic.CompactionLag).Truncate(time.Second).Add(2 * time.Second) // with some time to ask in
	}
	return e
}

// latest is the latest time that it can be by the brokers' clocks.
func (r *Replayer) latest() time.Time { return r.opts.Clock.Now().Add(r.opts.ClockMargin) }

// read walks through a partition, from a base or from the start of the log.
func (r *Replayer) read(ctx context.Context, t *Target, q *Query, base *Base) (*Part, *walk, error) {
	part := &Part{TopicPartition: t.TopicPartition, Moment: q.Moment, Base: base, Entries: map[string]Entry{}}
	offset, from := int64(-1), int64(0)
	if q.Moment.Time.IsZero() {
		offset = q.Moment.Offset
	}
	if base != nil {
		from = base.Out
		err := base.Entries(func(key, value []byte) error {
			if q.keeps(key) {
				part.Entries[string(key)] = Entry{Value: slices.Clone(value), Offset: -1}
			}
			return nil
		})
		if err != nil {
			return nil, nil, fmt.Errorf("read the checkpoint %s: %w", base.Name, err)
		}
	}
	w := newWalk(q.Moment, offset, from, nil)
	w.apply = func(rec *record.Record) error {
		if !q.keeps(rec.Key) {
			return nil
		}
		w.seen = true
		if rec.Tombstone() {
			delete(part.Entries, string(rec.Key))
		} else {
			part.Entries[string(rec.Key)] = Entry{Value: slices.Clone(rec.Value), Offset: rec.Offset, Time: rec.Timestamp}
		}
		return nil
	}
	if err := r.feed(ctx, t, w, true); err != nil {
		return nil, nil, fmt.Errorf("replay %s/%d: %w", t.TopicPartition.Topic, t.Partition, err)
	}
	part.From, part.Cut, part.Last, part.Records = max(from, t.Bounds.Start), w.cut, w.last, w.records
	return part, w, nil
}

// feed gives the walk all batches that it wants.
func (r *Replayer) feed(ctx context.Context, t *Target, w *walk, records bool) error {
	at := w.base
	err := r.log.Batches(ctx, t.TopicPartition, max(w.base-1, 0), t.Bounds.High, records, func(b *Batch) error {
		r.progress(max(b.Last+1-at, 0), int64(b.Count))
		at = max(at, b.Last+1)
		if err := r.pace(ctx, int64(b.Count)); err != nil {
			return err
		}
		return w.take(b)
	})
	if err != nil && !errors.Is(err, errEnough) {
		return err
	}
	return w.finish(t.Bounds)
}

// readOn looks for what lies above the cut: a gap that is younger than the window tells that the window does not hold, and a marker without records
// that there was a transaction open at the moment of which nothing is left.
func (r *Replayer) readOn(ctx context.Context, t *Target, w *walk) error {
	if t.Topic.CompactionLag <= 0 {
		return nil
	}
	end, last := w.end, w.last
	open := map[int64]bool{}
	for _, tx := range w.held {
		open[tx.producer] = true
	}
	err := r.log.Batches(ctx, t.TopicPartition, end, t.Bounds.High, false, func(b *Batch) error {
		r.progress(b.Last+1-end, 0)
		if b.Time.After(last) {
			last = b.Time
		}
		if b.First > end || b.Count < int(b.Last-b.First)+1 {
			w.lastGap = last
		}
		switch {
		case b.Marker == NoMarker:
			open[b.Producer] = true
		case !open[b.Producer] && b.Marker == CommitMarker:
			w.straddled = true
		default:
			delete(open, b.Producer)
		}
		end = b.Last + 1
		return nil
	})
	if err != nil {
		return fmt.Errorf("replay %s/%d: read on: %w", t.TopicPartition.Topic, t.Partition, err)
	}
	return nil
}

func (r *Replayer) progress(offsets, records int64) {
	if r.opts.Progress != nil {
		r.opts.Progress(offsets, records)
	}
}

// pace waits until so many more records may be read.
func (r *Replayer) pace(ctx context.Context, records int64) error {
	if r.opts.Rate == 0 {
		return nil
	}
	r.mu.Lock()
	now := r.opts.Clock.Now()
	if r.began.IsZero() {
		r.began = now
	}
	r.done += records
	due := r.began.Add(time.Duration(float64(r.done) / r.opts.Rate * float64(time.Second)))
	r.mu.Unlock()
	if wait := due.Sub(now); wait > 0 {
		return clock.Wait(ctx, r.opts.Clock, wait)
	}
	return nil
}

// unchanged reads the heads of the batches again and says whether the log is as it was.
func (r *Replayer) unchanged(ctx context.Context, t *Target, q *Query, first *walk) (bool, error) {
	again := newWalk(q.Moment, first.offset, 0, func(*record.Record) error { return nil })
	if err := r.feed(ctx, t, again, false); err != nil {
		return false, fmt.Errorf("replay %s/%d: read again: %w", t.TopicPartition.Topic, t.Partition, err)
	}
	return again.fingerprint == first.fingerprint && again.cut == first.cut, nil
}
