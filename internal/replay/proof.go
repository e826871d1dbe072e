package replay

import (
	"fmt"
	"strings"
	"time"

	"github.com/regent-infra/regent/internal/record"
)

// Proof says why an answer is exact; the package comment has the reasons.
type Proof string

// The proofs.
const (
	// Complete: nothing is missing below the cut, or between the checkpoint and the cut.
	Complete Proof = "complete"
	// Window: the cut is younger than what compaction may touch.
	Window Proof = "window"
	// Newest: nothing is committed above the cut.
	Newest Proof = "newest"
	// Key: of this key, the last record below the cut is there.
	Key Proof = "key"
)

// proof returns why what was read from the log alone is exact; empty if it may not be. now is by the brokers' clock, at the latest.
func (w *walk) proof(t *Target, now time.Time) Proof {
	switch {
	case w.doubt:
		return ""
	case !w.gapBelow():
		return Complete
	case w.offset < 0 && !w.later, w.offset >= 0 && w.offset >= t.Bounds.Stable:
		return Newest
	case !w.after.IsZero() && !w.straddled && w.windowHolds(t, now) && w.after.After(now.Add(-t.Topic.CompactionLag)):
		return Window
	default:
		return ""
	}
}

// windowHolds reports whether nothing inside of the window is missing. A gap whose next batch is younger than the window proves that the topic
// once kept less.
func (w *walk) windowHolds(t *Target, now time.Time) bool {
	return t.Topic.CompactionLag > 0 && !w.lastGap.After(now.Add(-t.Topic.CompactionLag))
}

// Refusal says that a state cannot be had any more.
type Refusal struct {
	record.TopicPartition
	Moment Moment
	// Gap is the first offset below the cut whose record is gone.
	Gap int64
	// Earliest is the earliest moment from which on every state can be had from the topic; zero if that is the newest one alone.
	Earliest time.Time
	// Lag is the topic's min.compaction.lag.ms.
	Lag time.Duration
	// Checkpoints says how many there were to begin with.
	Checkpoints int
}

// Error implements error.
func (e *Refusal) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "replay %s/%d up to %s: that state is not in the topic any more: compaction has removed records from offset %d on that were replaced since. ",
		e.Topic, e.Partition, e.Moment, e.Gap)
	if e.Earliest.IsZero() {
		b.WriteString("Only the newest state can be had")
		if e.Lag > 0 {
			fmt.Fprintf(&b, ": the topic lacks records that are younger than its min.compaction.lag.ms (%s), so that was set lower before", e.Lag)
		} else {
			b.WriteString(": the topic has no min.compaction.lag.ms, so the cleaner may take whatever was replaced")
		}
	} else {
		fmt.Fprintf(&b, "The earliest moment that can be had is %s: the topic keeps everything for %s (min.compaction.lag.ms)", Moment{Time: e.Earliest}, e.Lag)
	}
	if e.Checkpoints == 0 {
		b.WriteString("; a checkpoint from before the moment may reach further back (regent checkpoint --help)")
	} else {
		fmt.Fprintf(&b, "; none of the checkpoints at hand (%d) was made before the moment and after what is missing; the state in one itself can be had (regent replay --from NAME)", e.Checkpoints)
	}
	return b.String()
}

// RangeError says that a moment is not in the log yet.
type RangeError struct {
	record.TopicPartition
	Moment Moment
	// Stable is the last stable offset, Now the time.
	Stable int64
	Now    time.Time
}

// Error implements error.
func (e *RangeError) Error() string {
	if e.Moment.Time.IsZero() {
		return fmt.Sprintf("replay %s/%d up to %s: what is committed ends at offset %d, expected that or less", e.Topic, e.Partition, e.Moment, e.Stable)
	}
	return fmt.Sprintf("replay %s/%d up to %s: that is in the future, it is %s", e.Topic, e.Partition, e.Moment, Moment{Time: e.Now})
}
