package stream

import (
	"context"
	"testing"
	"time"

	"github.com/regent-infra/regent/internal/clock"
)

// endless is a session with a partition that has a record left which no poll shows.
type endless struct {
	Session
	probes int
}

func (s *endless) Buffered() int { return 0 }

func (s *endless) Probe(_ context.Context, _ topicPartition, from int64) (int64, error) {
	s.probes++
	return from, nil
}

// stopped is a clock that a test moves.
type stopped struct {
	clock.Clock
	now time.Time
}

func (c *stopped) Now() time.Time { return c.now }

// A poll that was woken is empty and says nothing; to probe then would read what the next poll brings.
func TestProbesFollowOnSilenceAlone(t *testing.T) {
	c, s := &stopped{now: time.Unix(1000, 0)}, &endless{}
	tp := topicPartition{Topic: "in"}
	in := &input{topicPartition: tp, next: 1, target: 9}
	r := &Runtime{session: s, tasks: map[int32]*task{0: {inputs: map[topicPartition]*input{tp: in}}}}
	r.opts.Clock = c
	for _, step := range []struct {
		about   string
		after   time.Duration
		fetched bool
		moved   bool
		probes  int
	}{
		{about: "nothing was ever fetched", after: probeInterval, probes: 1},
		{about: "right after a probe", after: probeInterval / 2, probes: 1},
		{about: "still nothing", after: probeInterval, probes: 2},
		{about: "records", after: probeInterval, fetched: true, probes: 2},
		{about: "woken", after: probeInterval / 2, probes: 2},
		{about: "records again", after: probeInterval, fetched: true, probes: 2},
		{about: "silence", after: probeInterval, probes: 3},
		{about: "others go on, this one has not moved", after: lookInterval, fetched: true, probes: 4},
		{about: "looked at just now", after: probeInterval, fetched: true, probes: 4},
		{about: "it has moved", after: lookInterval, fetched: true, moved: true, probes: 4},
		{about: "it has not moved again", after: lookInterval, fetched: true, probes: 5},
	} {
		c.now = c.now.Add(step.after)
		if step.moved {
			in.next++
		}
		if err := r.maybeProbe(t.Context(), step.fetched); err != nil {
			t.Fatal(err)
		}
		if s.probes != step.probes {
			t.Fatalf("%s: %d probes so far, expected %d", step.about, s.probes, step.probes)
		}
	}
}
