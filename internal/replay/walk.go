package replay

import (
	"errors"
	"time"

	"github.com/regent-infra/regent/internal/record"
)

// errEnough ends a reading.
var errEnough = errors.New("enough was read")

// walk goes through the batches of a partition in order, hands out what is committed below the cut, and remembers what tells whether something is
// missing. The caller feeds it with take until that returns [errEnough] or the log ends, and then asks finish.
type walk struct {
	moment Moment
	// offset is the cut where the moment is an offset; -1 otherwise.
	offset int64
	// base is the offset from which it began, and beneath that a checkpoint stands for; 0 without one.
	base int64
	// apply takes a committed record below the cut.
	apply func(*record.Record) error

	// end is the offset after the last batch that was taken in, last the highest time among them.
	end  int64
	last time.Time
	open map[int64]*transaction
	// queue are batches that are not below the last stable offset yet.
	queue []*queued

	// later says that what is read is later than the moment; held are the transactions that were open at it.
	later bool
	held  []*transaction
	// cut is the offset below which everything counts, once stopped.
	cut     int64
	stopped bool
	// after is the time of the batch at the cut; zero if the log ends there.
	after time.Time
	// gap is the first offset that is missing, -1 if none is; lastGap is the time of the first batch behind the last one.
	gap     int64
	lastGap time.Time
	// ahead is the offset after the last batch that was read, blind says that some were missing behind the cut where a marker may have stood.
	ahead int64
	blind bool
	// foreign is the time of the last commit marker of a transaction that began below the base; confirmed says that there can be no more of
	// them: two that began above it are committed. A writer takes turns with two transactional ids, and none of them begins before its last marker is written.
	foreign   time.Time
	commits   int
	confirmed bool
	// settled is how many of commits there were at the moment.
	settled int
	// below is the producer of the batch that ends at the base, where that is known; boundary says that its transaction ends there, since its
	// commit marker is the next that it wrote.
	below    int64
	boundary bool
	// straddled says that a transaction that was open at the moment was committed later, and that none of its records are left.
	straddled bool
	// doubt says that something is missing where a marker may have stood that tells what was open at the moment. It can only be so if the log was
	// cleaned while it was read: a marker stays as long as there are records that it decides about.
	doubt bool
	// seen is the caller's: a record that is wanted was handed out.
	seen bool
	// records counts what was handed out, fingerprint tells two readings apart.
	records     int64
	fingerprint uint64
}

// nobody is no producer's id.
const nobody = -2

type transaction struct {
	producer int64
	first    int64
	at       time.Time
	epoch    int16
	outcome  Marker
	// torn says that something was missing while it was open.
	torn bool
}

// queued is a batch with what became of it.
type queued struct {
	Batch
	aborted bool
}

func newWalk(m Moment, offset, base int64, apply func(*record.Record) error) *walk {
	return &walk{moment: m, offset: offset, base: base, apply: apply, end: base, open: map[int64]*transaction{}, gap: -1, cut: -1, below: nobody}
}

// take takes the next batch in. It returns [errEnough] when what follows cannot matter.
func (w *walk) take(b *Batch) error {
	if b.Last < w.base {
		if b.Last == w.base-1 && b.Marker == NoMarker && b.Transactional {
			w.below = b.Producer
		}
		return nil
	}
	at := b.Time
	if at.Before(w.last) {
		at = w.last // a broker's clock went back: the order of the log counts
	}
	if w.offset < 0 && !w.later && at.After(w.moment.Time) {
		w.later, w.after = true, at
		if b.First > w.end { // what is missing here may have been earlier than the moment
			w.missing(w.end, at)
			w.end = b.First
		}
		for _, t := range w.open {
			w.held = append(w.held, t)
		}
	}
	if !w.later {
		w.note(b, at)
		w.last, w.end = at, max(b.Last+1, w.end)
	} else if b.First > w.ahead && !w.confirmed {
		w.blind = true
	}
	if b.First > w.ahead {
		for _, t := range w.open {
			t.torn = true
		}
	}
	w.ahead = b.Last + 1
	w.transact(b, at)
	if w.later {
		if w.decided() {
			return errors.Join(w.stop(), errEnough)
		}
		return nil
	}
	if err := w.drain(w.stable()); err != nil {
		return err
	}
	if w.offset >= 0 && w.stable() >= w.offset && !w.after.IsZero() {
		w.cut, w.stopped = w.offset, true
		return errEnough
	}
	return nil
}

// decided reports whether nothing later can change the cut: what became of the transactions that were open at the moment, and, from a
// checkpoint on, when those before it were committed.
func (w *walk) decided() bool {
	for _, t := range w.held {
		if t.outcome == NoMarker {
			return false
		}
	}
	return w.base == 0 || w.confirmed
}

// stop makes the cut: at the first transaction that was open at the moment and was committed later, or may still be.
func (w *walk) stop() error {
	w.cut, w.stopped = w.end, true
	for _, t := range w.held {
		if t.outcome != AbortMarker && t.first < w.cut {
			w.cut, w.after = t.first, t.at
		}
		w.doubt = w.doubt || t.torn
	}
	return w.drain(w.cut)
}

// note looks for gaps. A batch of data that holds fewer records than it spans has lost some.
func (w *walk) note(b *Batch, at time.Time) {
	if b.First > w.end {
		w.missing(w.end, at)
	}
	if whole := int(b.Last-b.First) + 1; b.Count < whole {
		w.missing(max(b.First, w.base), at)
	}
	if w.offset >= 0 && w.after.IsZero() && b.Last >= w.offset {
		w.after = at
	}
	w.fingerprint = mix(mix(mix(w.fingerprint, uint64(b.First)), uint64(b.Last)), uint64(b.Count)) //nolint:gosec // bits
}

func mix(h, v uint64) uint64 {
	h ^= v + 0x9e3779b97f4a7c15 + h<<6 + h>>2
	return h * 0xff51afd7ed558ccd
}

func (w *walk) missing(offset int64, at time.Time) {
	if w.gap < 0 {
		w.gap = offset
	}
	w.lastGap = at
}

// transact follows the transactions, and queues data that is not later than the moment.
func (w *walk) transact(b *Batch, at time.Time) {
	if b.Producer == w.below {
		w.boundary, w.below = b.Marker == CommitMarker, nobody
	}
	t := w.open[b.Producer]
	if b.Marker != NoMarker {
		if t == nil && b.Marker == CommitMarker && w.base > 0 && !w.confirmed {
			w.foreign = at
		}
		if t != nil {
			w.doubt = w.doubt || w.offset >= 0 && t.torn && t.first < w.offset && b.First >= w.offset
			w.decide(b.Producer, b.Marker)
			if b.Marker == CommitMarker && t.first >= w.base {
				if w.commits++; !w.later {
					w.settled++
				}
			}
			w.confirmed = w.commits >= 2
		}
		return
	}
	if b.Count == 0 {
		return // emptied by the cleaner; what it ended is gone, too
	}
	if t != nil && b.Transactional && t.epoch != b.Epoch {
		w.decide(b.Producer, CommitMarker) // its marker is gone: aborted data goes before its marker does
		t = nil
	}
	if b.Transactional && t == nil {
		w.open[b.Producer] = &transaction{producer: b.Producer, first: max(b.First, w.base), at: at, epoch: b.Epoch}
	}
	if !w.later {
		w.queue = append(w.queue, &queued{Batch: *b})
	}
}

// decide ends a producer's transaction.
func (w *walk) decide(producer int64, m Marker) {
	t := w.open[producer]
	delete(w.open, producer)
	t.outcome = m
	for _, q := range w.queue {
		if q.Producer == producer && q.Transactional && q.Last >= t.first {
			q.aborted = q.aborted || m == AbortMarker
		}
	}
}

// stable is the last stable offset as of what was taken in.
func (w *walk) stable() int64 {
	stable := w.end
	for _, t := range w.open {
		stable = min(stable, t.first)
	}
	return stable
}

// drain hands out what is below an offset, where all is decided, in order.
func (w *walk) drain(below int64) error {
	for len(w.queue) > 0 && max(w.queue[0].First, w.base) < below {
		q := w.queue[0]
		w.queue = w.queue[1:]
		if q.aborted {
			continue
		}
		for i := range q.Records {
			if w.offset >= 0 && q.Records[i].Offset >= w.offset || q.Records[i].Offset < w.base {
				continue
			}
			w.records++
			if err := w.apply(&q.Records[i]); err != nil {
				return err
			}
		}
	}
	return nil
}

// finish makes the cut where the log ends, with the bounds as they were before the reading.
func (w *walk) finish(b Bounds) error {
	if w.stopped {
		return nil
	}
	if w.end < b.High && !w.later { // what stood last is gone
		w.missing(w.end, w.last)
		w.end = b.High
	}
	for producer, t := range w.open {
		if t.first < b.Stable { // the brokers know how it ended; its marker went while the records were read
			w.decide(producer, CommitMarker)
			w.doubt = true
		}
	}
	if w.offset >= 0 {
		w.cut, w.stopped = w.offset, true
		return w.drain(w.stable())
	}
	if !w.later {
		for _, t := range w.open {
			w.held = append(w.held, t)
		}
	}
	return w.stop()
}

// gapBelow reports whether something below the cut is missing, or what tells where the cut is.
func (w *walk) gapBelow() bool { return w.doubt || w.gap >= 0 && w.gap < w.cut }

// follows reports whether the base is what was committed at the cut, or before it. A position that was written while a task was recovering, or by a
// standby, can be in the middle of a transaction, so it takes a proof that there was none open at the base: two that began above it were committed at
// the moment, or the one below it ends there and was committed then.
func (w *walk) follows() bool {
	switch {
	case w.cut < w.base:
		return false
	case w.base == 0, w.offset >= 0, w.settled >= 2:
		return true
	default:
		return w.boundary && !w.blind && !w.foreign.After(w.moment.Time)
	}
}
