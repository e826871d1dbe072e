package kafka

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/regent-infra/regent/internal/record"
	"github.com/regent-infra/regent/internal/stream"
)

// Poll implements [stream.Session].
func (s *session) Poll(ctx context.Context, maxRecords int, wait time.Duration) (*stream.Batch, error) {
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	b, patient, err := s.takeChanges(cancel)
	if err != nil {
		return nil, err
	}
	defer func() {
		s.mu.Lock()
		s.cancel = nil
		s.mu.Unlock()
	}()
	s.forget(b.Revoked)
	if !patient {
		cancel()
	}
	if err := s.fetch(ctx, maxRecords, b); err != nil {
		return nil, err
	}
	return b, nil
}

// forget stops reading the partitions of tasks that are gone.
func (s *session) forget(tasks []int32) {
	if len(tasks) == 0 {
		return
	}
	gone := map[string][]int32{}
	for tp := range s.reading {
		for _, id := range tasks {
			if s.spec.Single || tp.Partition == id {
				gone[tp.Topic] = append(gone[tp.Topic], tp.Partition)
				delete(s.reading, tp)
				break
			}
		}
	}
	s.reader.RemoveConsumePartitions(gone)
}

func (s *session) fetch(ctx context.Context, maxRecords int, b *stream.Batch) error {
	fetches := s.reader.PollRecords(ctx, maxRecords)
	if fetches.IsClientClosed() {
		return fmt.Errorf("poll: %w", kgo.ErrClientClosed)
	}
	var failed error
	fetches.EachError(func(topic string, partition int32, err error) {
		if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
			return
		}
		failed = errors.Join(failed, fmt.Errorf("read %s/%d: %w", topic, partition, err))
	})
	if failed != nil {
		return classify(s.log.config.explain("poll", failed))
	}
	fetches.EachPartition(func(p kgo.FetchTopicPartition) {
		tp := record.TopicPartition{Topic: p.Topic, Partition: p.Partition}
		if !s.reading[tp] || len(p.Records) == 0 {
			return
		}
		b.Fetched = append(b.Fetched, stream.Fetched{
			TopicPartition: tp, Records: fromFetched(p.Records),
			Next: p.Records[len(p.Records)-1].Offset + 1, High: p.HighWatermark,
		})
	})
	return nil
}

// Buffered implements [stream.Session].
func (s *session) Buffered() int { return int(s.reader.BufferedFetchRecords()) }

// Resume implements [stream.Session].
func (s *session) Resume(positions map[record.TopicPartition]int64) {
	s.mu.Lock()
	owned := func(tp record.TopicPartition) bool { return s.owned[tp.Topic][tp.Partition] }
	begin := map[string]map[int32]kgo.Offset{}
	again := map[string][]int32{}
	for tp, offset := range positions {
		if !owned(tp) {
			continue
		}
		if s.reading[tp] {
			again[tp.Topic] = append(again[tp.Topic], tp.Partition)
		}
		if begin[tp.Topic] == nil {
			begin[tp.Topic] = map[int32]kgo.Offset{}
		}
		begin[tp.Topic][tp.Partition] = kgo.NewOffset().At(offset)
		s.reading[tp] = true
	}
	s.mu.Unlock()
	// Taken away and given again, whatever was buffered or on the way is gone.
	if len(again) > 0 {
		s.reader.RemoveConsumePartitions(again)
	}
	if len(begin) > 0 {
		s.reader.AddConsumePartitions(begin)
	}
}
