package demo

import (
	"context"
	"testing"
	"time"

	"github.com/regent-infra/regent/internal/clock"
)

func TestTimeToWritableCountsOnlyCommitsThatBeganAfterTheFault(t *testing.T) {
	t.Parallel()
	w := newWriter("", clock.System{})
	fault := time.Unix(100, 0)
	// Began before the fault and arrived after it: the old primary may still have taken it.
	w.acknowledge(ack{id: 1, began: fault.Add(-time.Millisecond), arrived: fault.Add(time.Millisecond), server: 5433})
	// A backend of the killed postmaster that has not noticed yet.
	w.acknowledge(ack{id: 2, began: fault.Add(time.Millisecond), arrived: fault.Add(2 * time.Millisecond), server: 5432})

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if d, err := w.waitWritable(ctx, fault, 5432); err == nil {
		t.Errorf("a commit from before the fault counted as writable after %s", d)
	}

	w.acknowledge(ack{id: 3, server: 5433, began: fault.Add(700 * time.Millisecond), arrived: fault.Add(800 * time.Millisecond)})
	d, err := w.waitWritable(t.Context(), fault, 5432)
	if err != nil || d != 800*time.Millisecond {
		t.Errorf("time to writable = %s, %v; want 800ms", d, err)
	}
}

func TestLongestGapIgnoresWhatWasBefore(t *testing.T) {
	t.Parallel()
	w := newWriter("", clock.System{})
	base := time.Unix(100, 0)
	for _, ms := range []int{0, 900, 1000, 1400, 1410} {
		at := base.Add(time.Duration(ms) * time.Millisecond)
		w.acknowledge(ack{began: at, arrived: at})
	}
	if got := w.longestGap(base.Add(950 * time.Millisecond)); got != 400*time.Millisecond {
		t.Errorf("longest gap = %s, want 400ms", got)
	}
}
