package stream_test

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/regent-infra/regent/internal/record"
	"github.com/regent-infra/regent/internal/stream"
)

// unfencedLog is a log with the fence taken out: its sessions put offsets into transactions without the group's generation, and
// do not ask whether the tasks are still theirs. Tests prove with it that they would see what a zombie does.
type unfencedLog struct {
	stream.Log
	order order
}

func (l unfencedLog) Connect(ctx context.Context, spec stream.SessionSpec) (stream.Session, error) {
	s, err := l.Log.Connect(ctx, spec)
	if err != nil {
		return nil, err
	}
	id := "unfenced/" + l.order.Instance
	cl, err := kgo.NewClient(kgo.SeedBrokers(l.order.Brokers...), kgo.TransactionalID(id), kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.ProducerLinger(0), kgo.TransactionTimeout(time.Second))
	if err != nil {
		return nil, err
	}
	return &unfencedSession{Session: s, cl: cl, id: id, group: spec.Group}, nil
}

type unfencedSession struct {
	stream.Session
	cl        *kgo.Client
	id, group string
	once      sync.Once
	mu        sync.Mutex // tasks are folded at the same time
	began     bool
}

func (s *unfencedSession) Produce(recs []record.Record, done func(string, int64, error)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, rec := range recs {
		if !s.began {
			if err := s.cl.BeginTransaction(); err != nil {
				done(rec.Topic, 0, err)
				continue
			}
			s.began = true
		}
		out := &kgo.Record{Topic: rec.Topic, Partition: rec.Partition, Key: rec.Key, Value: rec.Value}
		for _, h := range rec.Headers {
			out.Headers = append(out.Headers, kgo.RecordHeader{Key: h.Key, Value: h.Value})
		}
		s.cl.Produce(context.Background(), out, func(r *kgo.Record, err error) { done(r.Topic, r.Offset, err) })
	}
}

func (s *unfencedSession) Flush(ctx context.Context) error { return s.cl.Flush(ctx) }

func (s *unfencedSession) Commit(ctx context.Context, tasks []int32, offsets []stream.OffsetCommit) (stream.Outcome, error) {
	if !s.began {
		return s.Session.Commit(ctx, tasks, offsets)
	}
	s.began = false
	pid, epoch, err := s.cl.ProducerID(ctx)
	if err != nil {
		return stream.TransactionUnknown, err
	}
	add := kmsg.NewPtrAddOffsetsToTxnRequest()
	add.TransactionalID, add.Group, add.ProducerID, add.ProducerEpoch = s.id, s.group, pid, epoch
	added, err := add.RequestWith(ctx, s.cl)
	if err == nil {
		err = kerr.ErrorForCode(added.ErrorCode)
	}
	if err != nil {
		return stream.TransactionUnknown, err
	}
	topics, err := s.Topics(ctx, []string{factsTopic})
	if err != nil {
		return stream.TransactionUnknown, err
	}
	req := kmsg.NewPtrTxnOffsetCommitRequest()
	req.TransactionalID, req.Group, req.ProducerID, req.ProducerEpoch, req.Generation = s.id, s.group, pid, epoch, -1
	for _, o := range offsets {
		rp := kmsg.NewTxnOffsetCommitRequestTopicPartition()
		rp.Partition, rp.Offset, rp.Metadata = o.Partition, o.Offset, kmsg.StringPtr(o.Metadata)
		rt := kmsg.NewTxnOffsetCommitRequestTopic()
		rt.Topic, rt.TopicID, rt.Partitions = o.Topic, topics[o.Topic].ID, append(rt.Partitions, rp)
		req.Topics = append(req.Topics, rt)
	}
	resp, err := req.RequestWith(ctx, s.cl)
	if err != nil {
		return stream.TransactionUnknown, err
	}
	for _, t := range resp.Topics {
		for _, p := range t.Partitions {
			if err := kerr.ErrorForCode(p.ErrorCode); err != nil {
				return stream.TransactionUnknown, err
			}
		}
	}
	if err := s.cl.EndTransaction(ctx, kgo.TryCommit); err != nil {
		return stream.TransactionUnknown, err
	}
	return stream.TransactionCommitted, nil
}

func (s *unfencedSession) Abort(ctx context.Context) error {
	if !s.began {
		return nil
	}
	s.began = false
	return errors.Join(s.cl.AbortBufferedRecords(ctx), s.cl.EndTransaction(ctx, kgo.TryAbort))
}

func (s *unfencedSession) Close(ctx context.Context) error {
	s.once.Do(s.cl.Close)
	return s.Session.Close(ctx)
}
