package stream_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/regent-infra/regent/internal/stream"
)

// TestSeeded breaks the runtime in one way at a time. The auditor, which finds nothing in the rounds, must find something each time: else it
// proves nothing there. "refused" counts as found where the runtime itself sees what the bug has done and says so.
func TestSeeded(t *testing.T) {
	killed := func(o order) func(*seeded) error { return func(s *seeded) error { return s.killed(o) } }
	for _, c := range []struct {
		name string
		run  func(s *seeded) error
	}{
		{"fence-ignored", func(s *seeded) error { return s.zombie(order{Point: stream.PointPolled, Unfenced: true}) }},
		{"redo-skipped", killed(order{Sabotage: stream.SabotageSkipRedo, Point: stream.PointCommitted, Count: 60})},
		{"position-ignored", killed(order{Sabotage: stream.SabotageIgnorePosition, Point: stream.PointCommitted, Count: 60})},
		{"flushed-before-commit", killed(order{Sabotage: stream.SabotageFlushAhead, Point: stream.PointProduced, Count: 60})},
		{"aborted-state-kept", killed(order{Sabotage: stream.SabotageKeepAborted, AbortEvery: 3, Point: stream.PointCommitted, Count: 30})},
		{string(bugNoRewind), killed(order{Bug: bugNoRewind, AbortEvery: 3, Point: stream.PointCommitted, Count: 30})},
		{string(bugOffsetsFirst), killed(order{Bug: bugOffsetsFirst, Count: 20})},
		{string(bugOffsetsAfter), killed(order{Bug: bugOffsetsAfter, Count: 20})},
		{string(bugNoOffsets), killed(order{Bug: bugNoOffsets, Point: stream.PointCommitted, Count: 20})},
		{string(bugShortOut), killed(order{Bug: bugShortOut, Point: stream.PointCommitted, Count: 20})},
		{string(bugLongOut), killed(order{Bug: bugLongOut, Point: stream.PointCommitted, Count: 20})},
		{string(bugNoTombstones), killed(order{Bug: bugNoTombstones, Point: stream.PointCommitted, Count: 60})},
		{string(bugResumeFromP), killed(order{Bug: bugResumeFromP, Point: stream.PointCommitted, Count: 60})},
		{string(bugDeaf), func(s *seeded) error { return s.away(order{Bug: bugDeaf}) }},
		{string(bugTopicIDs), func(s *seeded) error { return s.recreated(order{Bug: bugTopicIDs}) }},
		{string(bugUnstable), func(s *seeded) error { return s.undecided(order{Bug: bugUnstable}) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			err := c.run(newSeeded(t))
			if err == nil {
				t.Fatal("the runtime is broken, and nothing was found")
			}
			t.Log("found:", err)
		})
	}
}

// TestNotSeeded runs the same with nothing broken: what is found above is found because of the bug.
func TestNotSeeded(t *testing.T) {
	for name, run := range map[string]func(s *seeded) error{
		"fence":     func(s *seeded) error { return s.zombie(order{Point: stream.PointPolled}) },
		"killed":    func(s *seeded) error { return s.killed(order{Point: stream.PointCommitted, Count: 60}) },
		"aborted":   func(s *seeded) error { return s.killed(order{AbortEvery: 3, Point: stream.PointCommitted, Count: 30}) },
		"away":      func(s *seeded) error { return s.away(order{}) },
		"undecided": func(s *seeded) error { return s.undecided(order{}) },
		"recreated": func(s *seeded) error {
			err := s.recreated(order{})
			if refused := (refusedError{}); errors.As(err, &refused) {
				return nil
			}
			return fmt.Errorf("the changelog was made again, and the runtime did not refuse: %w", err)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if err := run(newSeeded(t)); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// refusedError says that a process ended by itself, with an error.
type refusedError struct{ err error }

func (e refusedError) Error() string { return fmt.Sprint("refused: ", e.err) }

// seeded is a broker with load and an auditor.
type seeded struct {
	*arena
	stop func() int
}

func newSeeded(t *testing.T) *seeded {
	t.Helper()
	b := startEmbedded(t)
	rng := rand.New(rand.NewPCG(1, 1))
	s := &seeded{arena: &arena{t: t, b: b, rng: rng, aud: newAuditor(b.broker, rng), dir: t.TempDir()}}
	s.stop = b.trickle(t, 1000)
	return s
}

// as gives an order its names.
func (s *seeded) as(o order, name string) order {
	o.Brokers, o.Instance, o.Dir = s.b.addrs, name, filepath.Join(s.dir, name)
	if o.Signal == 0 {
		o.Signal = syscall.SIGKILL
	}
	return o
}

// finish stops the load, lets one more process of the order catch up, and looks.
func (s *seeded) finish(o order, stores ...string) error {
	s.stop()
	o.Point, o.Count = "", 0
	p := spawn(s.t, o)
	if err := s.caughtUp(p); err != nil {
		return err
	}
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	if !p.over(patience) {
		return errors.New("the last process does not end")
	}
	return s.aud.look(s.t, stores...)
}

// caughtUp waits until all input is committed; a process that ends before has refused.
func (s *seeded) caughtUp(p *process) error {
	ends, err := s.b.adm.ListEndOffsets(s.t.Context(), factsTopic)
	if err != nil {
		return err
	}
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		behind := false
		for id := range int32(crashPartitions) {
			end, _ := ends.Lookup(factsTopic, id)
			behind = behind || s.b.committed(s.t, id).Offset < end.Offset
		}
		if !behind {
			return nil
		}
		if p.over(5 * time.Millisecond) {
			return refusedError{p.err}
		}
	}
	return errors.New("the input is not caught up with")
}

// killed lets processes die where the order says, and looks after each.
func (s *seeded) killed(o order) error {
	o = s.as(o, "a")
	for range 3 {
		p := spawn(s.t, o)
		if !p.over(patience) {
			p.kill()
			return errors.New("the process does not get to where it is to die")
		}
		if p.cmd.ProcessState.ExitCode() > 0 {
			return refusedError{p.err}
		}
		if err := s.aud.look(s.t, o.Dir); err != nil {
			return err
		}
	}
	return s.finish(o, o.Dir)
}

// zombie lets a process sleep over its session while another takes over, then wakes it.
func (s *seeded) zombie(o order) error {
	o.Count, o.Signal = 8, syscall.SIGSTOP
	sleeper := spawn(s.t, s.as(o, "sleeper"))
	if !sleeper.reaches(o.Point) {
		return errors.New("the sleeper does not get to where it is to sleep")
	}
	heir := spawn(s.t, s.as(order{}, "heir"))
	heir.says("runs all tasks")
	if err := s.advances(); err != nil {
		return err
	}
	sleeper.signal(syscall.SIGCONT)
	s.stop()
	if err := s.caughtUp(heir); err != nil {
		return err
	}
	for _, p := range []*process{sleeper, heir} {
		_ = p.cmd.Process.Signal(syscall.SIGTERM)
		p.over(patience)
		p.kill()
	}
	return s.aud.look(s.t)
}

// advances waits until every partition's K has moved.
func (s *seeded) advances() error {
	var before [crashPartitions]int64
	for p := range before {
		before[p] = s.b.committed(s.t, int32(p)).Offset
	}
	look := time.NewTicker(5 * time.Millisecond)
	defer look.Stop()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); <-look.C {
		moved := 0
		for p := range before {
			if s.b.committed(s.t, int32(p)).Offset > before[p] {
				moved++
			}
		}
		if moved == len(before) {
			return nil
		}
	}
	return errors.New("K does not move")
}

// away takes tasks from a process for a while: another joins, works, and leaves.
func (s *seeded) away(o order) error {
	o = s.as(o, "a")
	stays := spawn(s.t, o)
	stays.says("runs all tasks")
	if err := s.advances(); err != nil {
		return err
	}
	for range 2 {
		guest := spawn(s.t, s.as(order{}, "guest"))
		guest.over(1500 * time.Millisecond)
		_ = guest.cmd.Process.Signal(syscall.SIGTERM)
		guest.over(patience)
		guest.kill()
		stays.over(500 * time.Millisecond)
	}
	stays.kill()
	return s.finish(s.as(order{}, "a"))
}

// recreated makes the changelog again, with as many records as it had.
func (s *seeded) recreated(o order) error {
	o = s.as(o, "a")
	p := spawn(s.t, o)
	p.says("runs all tasks")
	if err := s.advances(); err != nil {
		return err
	}
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	p.over(patience)
	s.b.remove(s.t, stateTopic)
	s.b.crashTopic(s.t, stateTopic, 1)
	for id := range int32(crashPartitions) {
		m, err := stream.DecodeMetadata(s.b.committed(s.t, id).Metadata)
		if err != nil {
			return err
		}
		var recs []*kgo.Record
		for i := range m.Out {
			recs = append(recs, &kgo.Record{Topic: stateTopic, Partition: id, Key: fmt.Append(nil, "other-", i), Value: []byte("other")})
		}
		if err := s.b.cl.ProduceSync(s.t.Context(), recs...).FirstErr(); err != nil {
			return err
		}
	}
	return s.finish(o)
}

// undecided lets a process fall asleep with the end of a transaction on its way. While it is, another takes over; then the end arrives.
func (s *seeded) undecided(o order) error {
	o.TransactionMillis, o.SpareDead = 15_000, true // else the heir would end the sleeper's transaction, and nothing be undecided
	sleeper := spawn(s.t, s.as(o, "sleeper"))
	sleeper.says("runs all tasks")
	arrived, release := make(chan struct{}), make(chan struct{})
	var ends atomic.Int64
	s.b.proxy.ends(func() fate {
		if ends.Add(1) == 5 {
			_ = sleeper.cmd.Process.Signal(syscall.SIGSTOP)
			close(arrived)
			<-release
		}
		return passes
	})
	<-arrived
	heir := spawn(s.t, s.as(o, "heir"))
	heir.over(3 * time.Second) // with the bug it works by now, else it waits
	close(release)
	s.stop()
	err := s.caughtUp(heir)
	sleeper.kill()
	heir.kill()
	if err != nil {
		return err
	}
	return s.aud.look(s.t)
}
