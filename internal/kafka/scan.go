package kafka

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/regent-infra/regent/internal/record"
	"github.com/regent-infra/regent/internal/stream"
)

// scanner reads committed records of one partition by raw fetches. A consumer of the library would hide what matters here: how far it has read
// where there is nothing to hand out (markers, aborted records, what compaction took away).
type scanner struct {
	config Config
	client *kgo.Client
	admin  *kadm.Client
	tp     record.TopicPartition

	leader int32
	id     [16]byte
	bytes  int32 // of one fetch at most, but for its first batch; 0 means scanBytes
}

const (
	scanBytes = 8 << 20                // of one fetch
	scanWait  = 100 * time.Millisecond // that a broker holds a fetch that finds nothing
	scanPause = 50 * time.Millisecond  // after an answer that a newer view of the cluster may heal
)

// Scan implements [stream.Session].
func (s *session) Scan(ctx context.Context, tp record.TopicPartition, from, to int64, fn func(recs []record.Record, next int64) error) error {
	sc := scanner{config: s.log.config, client: s.member, admin: s.admin, tp: tp, leader: -1}
	return sc.scan(ctx, from, to, fn)
}

// Probe implements [stream.Session].
func (s *session) Probe(ctx context.Context, tp record.TopicPartition, from int64) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, s.log.config.RequestTimeout)
	defer cancel()
	sc := scanner{config: s.log.config, client: s.member, admin: s.admin, tp: tp, leader: -1, bytes: 1} // a batch, if there is one
	c, err := sc.fetch(ctx, from, 0)
	if err != nil {
		return 0, err
	}
	switch {
	case len(c.recs) > 0:
		return from, nil
	case c.next == from && c.stable == c.high:
		return c.high, nil
	default: // behind what was aborted, or batches that compaction has left empty
		return c.next, nil
	}
}

// chunk is what one fetch has found.
type chunk struct {
	recs         []record.Record
	next         int64
	stable, high int64
	err          error
}

// scan fetches one chunk ahead of what fn works on.
func (s *scanner) scan(ctx context.Context, from, to int64, fn func(recs []record.Record, next int64) error) error {
	if from >= to {
		return nil
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	chunks := make(chan chunk, 1)
	go func() {
		defer close(chunks)
		for at := from; at < to; {
			c, err := s.fetch(ctx, at, scanWait)
			c.err = err
			if err == nil && c.next == at && c.stable >= to {
				c.next = to // nothing is left below: the rest was taken away
			}
			at = c.next
			select {
			case chunks <- c:
			case <-ctx.Done():
				return
			}
			if err != nil {
				return
			}
		}
	}()
	for c := range chunks {
		if c.err != nil {
			return c.err
		}
		for len(c.recs) > 0 && c.recs[len(c.recs)-1].Offset >= to {
			c.recs = c.recs[:len(c.recs)-1]
		}
		next := min(c.next, to)
		if len(c.recs) == 0 && next == from {
			continue // something is open there
		}
		from = next
		if err := fn(c.recs, next); err != nil {
			return err
		}
	}
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	return nil
}

// fetch reads one chunk from an offset on, and looks for the leader again as long as that may help.
func (s *scanner) fetch(ctx context.Context, from int64, wait time.Duration) (chunk, error) {
	var c chunk
	err := s.retry(ctx, from, func(from int64) (err error) {
		c, err = s.try(ctx, from, wait)
		return err
	})
	return c, err
}

// retry reads from an offset on, from the log's start if that is later, and looks for the leader again as long as that may help.
func (s *scanner) retry(ctx context.Context, from int64, try func(from int64) error) error {
	operation := fmt.Sprintf("read %s/%d from offset %d", s.tp.Topic, s.tp.Partition, from)
	for {
		err := try(from)
		var answer *kerr.Error
		switch {
		case err == nil:
			return nil
		case errors.Is(err, kerr.OffsetOutOfRange):
			start, failed := s.start(ctx)
			if failed != nil {
				return s.config.explain(operation, failed)
			}
			if start <= from {
				return s.config.explain(operation, err)
			}
			from = start // below the log's start counts as the start
			continue
		case errors.As(err, &answer) && answer.Retriable:
			s.leader = -1
		default:
			return classify(s.config.explain(operation, err))
		}
		if err := pause(ctx, scanPause); err != nil {
			return s.config.explain(operation, err)
		}
	}
}

func (s *scanner) start(ctx context.Context) (int64, error) {
	offsets, err := listOffsets(ctx, s.client, []record.TopicPartition{s.tp}, askEarliest, 0)
	return offsets[s.tp], err
}

func (s *scanner) locate(ctx context.Context) error {
	if s.leader >= 0 {
		return nil
	}
	details, err := s.admin.ListTopics(ctx, s.tp.Topic)
	if err != nil {
		return err
	}
	d := details[s.tp.Topic]
	if d.Err != nil {
		return d.Err
	}
	p, ok := d.Partitions[s.tp.Partition]
	if !ok {
		return kerr.UnknownTopicOrPartition
	}
	if p.Err != nil {
		return p.Err
	}
	s.leader, s.id = p.Leader, d.ID
	return nil
}

func (s *scanner) try(ctx context.Context, from int64, wait time.Duration) (chunk, error) {
	got, err := s.ask(ctx, from, wait, 1)
	if err != nil {
		return chunk{}, err
	}
	fp, next := kgo.ProcessFetchPartition(kgo.ProcessFetchPartitionOpts{
		Offset: from, IsolationLevel: kgo.ReadCommitted(), Topic: s.tp.Topic, Partition: s.tp.Partition,
	}, got, kgo.DefaultDecompressor(), nil)
	if fp.Err != nil {
		return chunk{}, fp.Err
	}
	c := chunk{next: max(next, from), stable: got.LastStableOffset, high: got.HighWatermark}
	c.recs = make([]record.Record, 0, len(fp.Records))
	for _, r := range fp.Records {
		c.recs = append(c.recs, fromClient(r))
	}
	return c, nil
}

// ask sends one fetch for the partition and returns the answer as it came. Isolation 1 is read_committed.
func (s *scanner) ask(ctx context.Context, from int64, wait time.Duration, isolation int8) (*kmsg.FetchResponseTopicPartition, error) {
	if err := s.locate(ctx); err != nil {
		return nil, err
	}
	req := kmsg.NewPtrFetchRequest()
	most := cmp.Or(s.bytes, scanBytes)
	req.ReplicaID, req.IsolationLevel = -1, isolation
	// One partition is asked for, so its own limit is the one that counts; at that of the whole request a bare kfake forgets aborted transactions.
	req.MaxWaitMillis, req.MinBytes, req.MaxBytes = int32(wait.Milliseconds()), 1, math.MaxInt32 //nolint:gosec // far below the limit
	req.SessionEpoch = -1
	rt := kmsg.NewFetchRequestTopic()
	rt.Topic, rt.TopicID = s.tp.Topic, s.id
	rp := kmsg.NewFetchRequestTopicPartition()
	rp.Partition, rp.FetchOffset, rp.PartitionMaxBytes = s.tp.Partition, from, most
	rp.CurrentLeaderEpoch, rp.LastFetchedEpoch, rp.LogStartOffset = -1, -1, -1
	rt.Partitions = append(rt.Partitions, rp)
	req.Topics = append(req.Topics, rt)
	raw, err := s.client.Broker(int(s.leader)).RetriableRequest(ctx, req)
	if err != nil {
		return nil, err
	}
	resp, ok := raw.(*kmsg.FetchResponse)
	if !ok || len(resp.Topics) != 1 || len(resp.Topics[0].Partitions) != 1 {
		if ok {
			if err := kerr.ErrorForCode(resp.ErrorCode); err != nil {
				return nil, err
			}
		}
		return nil, fmt.Errorf("expected an answer for one partition, got %T", raw)
	}
	got := &resp.Topics[0].Partitions[0]
	return got, kerr.ErrorForCode(got.ErrorCode)
}

var _ stream.Session = (*session)(nil)
