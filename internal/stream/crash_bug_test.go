package stream_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/regent-infra/regent/internal/clock"
	"github.com/regent-infra/regent/internal/record"
	"github.com/regent-infra/regent/internal/stream"
	"github.com/regent-infra/regent/statestore"
)

// bug is a way in which a runtime can be wrong. Each is seeded by standing between a right runtime and its brokers, and must be found by the
// auditor; see TestSeeded.
type bug string

const (
	// offsets are committed in a transaction of their own, before that of the outputs.
	bugOffsetsFirst bug = "offsets-before-outputs"
	// outputs are committed in a transaction of their own, before that of the offsets.
	bugOffsetsAfter bug = "offsets-after-outputs"
	// every other transaction carries no offsets, as one would that a timer began.
	bugNoOffsets bug = "transactions-without-offsets"
	// the metadata says less than was written to the changelog.
	bugShortOut bug = "out-too-low"
	// the metadata says more than was written to the changelog.
	bugLongOut bug = "out-too-high"
	// a redo passes over tombstones.
	bugNoTombstones bug = "redo-without-tombstones"
	// a task that was revoked and came back goes on with what it knew.
	bugDeaf bug = "stale-after-revoke"
	// inputs go on from P instead of K.
	bugResumeFromP bug = "inputs-from-p"
	// after an abort, what was read is not read again.
	bugNoRewind bug = "no-rewind-after-abort"
	// ids of topics are not looked at.
	bugTopicIDs bug = "topic-id-ignored"
	// an assigned task does not wait until what is open is decided.
	bugUnstable bug = "does-not-wait-for-stable"
)

// brokenLog is a log whose sessions have a bug, or abort now and then.
type brokenLog struct {
	stream.Log
	order *order
	store statestore.Store
}

func (l brokenLog) Connect(ctx context.Context, spec stream.SessionSpec) (stream.Session, error) {
	s, err := l.Log.Connect(ctx, spec)
	if err != nil {
		return nil, err
	}
	b := &brokenSession{Session: s, order: l.order, store: l.store, group: spec.Group, has: map[int32]bool{}}
	if b.cl, err = kgo.NewClient(kgo.SeedBrokers(l.order.Brokers...)); err != nil {
		return nil, err
	}
	return b, nil
}

type brokenSession struct {
	stream.Session
	order   *order
	store   statestore.Store
	group   string
	cl      *kgo.Client
	once    sync.Once
	commits int64
	aborted bool
	has     map[int32]bool // tasks that the runtime runs, as it knows
}

// die ends the process in the middle of a commit, when the order says so.
func (s *brokenSession) die() {
	if s.commits == s.order.Count {
		fmt.Println("dies between two transactions")
		if err := syscall.Kill(os.Getpid(), syscall.SIGKILL); err != nil {
			panic(err)
		}
		select {}
	}
}

// alone commits offsets in a transaction of their own.
func (s *brokenSession) alone(ctx context.Context, offsets []stream.OffsetCommit) error {
	u := &unfencedSession{Session: s.Session, id: "alone/" + s.order.Instance, group: s.group}
	var err error
	if u.cl, err = kgo.NewClient(kgo.SeedBrokers(s.order.Brokers...), kgo.TransactionalID(u.id), kgo.TransactionTimeout(time.Second)); err != nil {
		return err
	}
	defer u.cl.Close()
	if err := u.cl.BeginTransaction(); err != nil {
		return err
	}
	u.began = true
	if _, err := u.Commit(ctx, nil, offsets); err != nil {
		return err
	}
	// The client has ended nothing: it knows of no record in the transaction.
	end := kmsg.NewPtrEndTxnRequest()
	end.TransactionalID, end.Commit = u.id, true
	if end.ProducerID, end.ProducerEpoch, err = u.cl.ProducerID(ctx); err != nil {
		return err
	}
	resp, err := end.RequestWith(ctx, u.cl)
	if err != nil {
		return err
	}
	return kerr.ErrorForCode(resp.ErrorCode)
}

func (s *brokenSession) Commit(ctx context.Context, tasks []int32, offsets []stream.OffsetCommit) (stream.Outcome, error) {
	s.commits++
	if n := int64(s.order.AbortEvery); n > 0 && s.commits%n == 0 {
		s.aborted = true
		if err := s.Abort(ctx); err != nil {
			return stream.TransactionUnknown, err
		}
		return stream.TransactionAborted, fmt.Errorf("the test says so: %w", stream.ErrRevoked) // the session goes on
	}
	switch s.order.Bug {
	case bugOffsetsFirst:
		if err := s.alone(ctx, offsets); err != nil {
			return stream.TransactionUnknown, err
		}
		s.die()
	case bugOffsetsAfter:
		if outcome, err := s.Session.Commit(ctx, tasks, nil); outcome != stream.TransactionCommitted {
			return outcome, err
		}
		s.die()
		if err := s.alone(ctx, offsets); err != nil {
			return stream.TransactionUnknown, err
		}
		return stream.TransactionCommitted, nil
	case bugNoOffsets:
		if s.commits%2 == 0 {
			offsets = nil
		}
	case bugShortOut, bugLongOut:
		by := map[bug]int64{bugShortOut: -1, bugLongOut: 1}[s.order.Bug]
		for i := range offsets {
			m, err := stream.DecodeMetadata(offsets[i].Metadata)
			if err != nil {
				return stream.TransactionUnknown, err
			}
			m.Out = max(0, m.Out+by)
			offsets[i].Metadata = m.Encode()
		}
	default:
	}
	return s.Session.Commit(ctx, tasks, offsets)
}

func (s *brokenSession) Resume(positions map[record.TopicPartition]int64) {
	if s.order.Bug == bugNoRewind && s.aborted {
		s.aborted = false
		return
	}
	s.Session.Resume(positions)
}

func (s *brokenSession) Scan(
	ctx context.Context, tp record.TopicPartition, from, to int64, fn func(recs []record.Record, next int64) error,
) error {
	if s.order.Bug != bugNoTombstones {
		return s.Session.Scan(ctx, tp, from, to, fn)
	}
	return s.Session.Scan(ctx, tp, from, to, func(recs []record.Record, next int64) error {
		var left []record.Record
		for _, r := range recs {
			if !r.Tombstone() {
				left = append(left, r)
			}
		}
		return fn(left, next)
	})
}

// Poll hides from a deaf runtime that a task was revoked, and that it was assigned again.
func (s *brokenSession) Poll(ctx context.Context, maxRecords int, wait time.Duration) (*stream.Batch, error) {
	b, err := s.Session.Poll(ctx, maxRecords, wait)
	if err != nil || s.order.Bug != bugDeaf {
		return b, err
	}
	b.Revoked = nil
	var fresh []int32
	for _, id := range b.Assigned {
		if !s.has[id] {
			s.has[id] = true
			fresh = append(fresh, id)
			continue
		}
		tp := record.TopicPartition{Topic: factsTopic, Partition: id}
		k, err := s.Session.Committed(ctx, []record.TopicPartition{tp})
		if err != nil {
			return nil, err
		}
		s.Session.Resume(map[record.TopicPartition]int64{tp: k[tp].Offset})
	}
	b.Assigned = fresh
	return b, nil
}

func (s *brokenSession) Committed(ctx context.Context, partitions []record.TopicPartition) (map[record.TopicPartition]stream.Committed, error) {
	if s.order.Bug == bugUnstable {
		out := map[record.TopicPartition]stream.Committed{}
		offsets, err := kadm.NewClient(s.cl).FetchOffsets(ctx, s.group)
		for _, tp := range partitions {
			if o, ok := offsets.Lookup(tp.Topic, tp.Partition); ok {
				out[tp] = stream.Committed{Offset: o.At, Metadata: o.Metadata}
			}
		}
		return out, err
	}
	out, err := s.Session.Committed(ctx, partitions)
	if err != nil || s.order.Bug != bugResumeFromP {
		return out, err
	}
	for tp, c := range out {
		b, ok, err := s.store.Get(statestore.PositionKey("test.tally", tp.Partition))
		if err != nil || !ok {
			continue
		}
		p, err := stream.DecodePosition(b)
		if err != nil {
			return nil, err
		}
		for _, in := range p.Inputs {
			if in.TopicPartition == tp {
				c.Offset = in.Next
				out[tp] = c
			}
		}
	}
	return out, nil
}

func (s *brokenSession) Watermarks(ctx context.Context, partitions []record.TopicPartition) (map[record.TopicPartition]stream.Watermarks, error) {
	out, err := s.Session.Watermarks(ctx, partitions)
	if s.order.Bug == bugUnstable {
		for tp, w := range out {
			w.High = w.Stable // what is open is not there
			out[tp] = w
		}
	}
	return out, err
}

func (s *brokenSession) Topics(ctx context.Context, names []string) (map[string]stream.TopicInfo, error) {
	out, err := s.Session.Topics(ctx, names)
	if s.order.Bug == bugTopicIDs {
		for name, info := range out {
			info.ID = [16]byte{1}
			out[name] = info
		}
	}
	return out, err
}

func (s *brokenSession) Close(ctx context.Context) error {
	s.once.Do(s.cl.Close)
	return s.Session.Close(ctx)
}

// steppingClock jumps now and then, an hour either way.
type steppingClock struct {
	clock.System
	mu   sync.Mutex
	by   time.Duration
	next time.Time
}

func newSteppingClock() *steppingClock { return &steppingClock{next: time.Now()} }

func (c *steppingClock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	if now := time.Now(); now.After(c.next) {
		c.next = now.Add(time.Duration(rand.IntN(50)) * time.Millisecond)
		c.by = time.Duration(rand.IntN(3)-1) * time.Hour
	}
	return c.System.Now().Add(c.by)
}
