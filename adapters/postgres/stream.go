package postgres

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/regent-infra/regent/internal/avrocodec"
	"github.com/regent-infra/regent/internal/clock"
	"github.com/regent-infra/regent/internal/event"
	"github.com/regent-infra/regent/internal/kafka"
	"github.com/regent-infra/regent/internal/record"
	"github.com/regent-infra/regent/internal/topics"
)

// Stream is the agent's way to the log. Implementations are safe for concurrent use.
type Stream interface {
	// Open finds out which partition of n the cluster's events belong to, and positions a reader at the end of that partition of the
	// orders topic: what is ordered after Open has returned is read. An error may be transient; the agent tries again.
	Open(ctx context.Context) (partition int32, orders OrderReader, err error)
	// ProduceAsync writes a record and says once how that went.
	ProduceAsync(rec record.Record, done func(record.Record, error))
	// Flush waits until everything that was given to it is decided.
	Flush(ctx context.Context) error
}

// OrderReader reads one partition of the orders topic.
type OrderReader interface {
	// Poll waits for committed records. An error other than ctx's may be transient; Poll may be called again.
	Poll(ctx context.Context) ([]record.Record, error)
	// Close stops it.
	Close()
}

// kafkaStream is the log on real brokers.
type kafkaStream struct {
	config   kafka.Config
	cluster  event.ClusterID
	producer *kafka.Producer
}

// deliveryTimeout is how long an observation is tried before the latest one takes its place.
const deliveryTimeout = 10 * time.Second

func newKafkaStream(config kafka.Config, cluster event.ClusterID) (*kafkaStream, error) {
	producer, err := kafka.NewProducer(config, kafka.ProducerConfig{DeliveryTimeout: deliveryTimeout, MaxBufferedRecords: 1000})
	if err != nil {
		return nil, err
	}
	return &kafkaStream{config: config, cluster: cluster, producer: producer}, nil
}

// Open implements [Stream].
func (s *kafkaStream) Open(ctx context.Context) (int32, OrderReader, error) {
	admin, err := kafka.NewAdmin(s.config)
	if err != nil {
		return 0, nil, err
	}
	defer admin.Close()
	topic := topics.Orders(event.KindPostgres)
	ends, err := admin.EndOffsets(ctx, topic)
	if err != nil {
		return 0, nil, err
	}
	if len(ends) == 0 {
		return 0, nil, fmt.Errorf("open %s: %w (run `regent topics plan`)", topic, kafka.ErrUnknownTopic)
	}
	partition := event.Partition(s.cluster, int32(len(ends))) //nolint:gosec // topics have few partitions
	at := record.TopicPartition{Topic: topic, Partition: partition}
	reader, err := kafka.NewReader(s.config, map[record.TopicPartition]kafka.Start{at: kafka.FromOffset(ends[at])}, kafka.ReaderConfig{})
	if err != nil {
		return 0, nil, err
	}
	return partition, reader, nil
}

// ProduceAsync implements [Stream].
func (s *kafkaStream) ProduceAsync(rec record.Record, done func(record.Record, error)) {
	s.producer.ProduceAsync(rec, done)
}

// Flush implements [Stream].
func (s *kafkaStream) Flush(ctx context.Context) error { return s.producer.Flush(ctx) }

func (s *kafkaStream) close() { s.producer.Close() }

// streamClock estimates the broker's time: the greatest append time heard of, and what has passed here since.
type streamClock struct {
	clock clock.Clock
	mu    sync.Mutex
	base  time.Time // the broker's
	heard time.Time // ours, monotonic
}

// hear takes an append time into account.
func (c *streamClock) hear(at time.Time) {
	if at.IsZero() {
		return
	}
	now := c.clock.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	if at.After(c.base.Add(now.Sub(c.heard))) || c.base.IsZero() {
		c.base, c.heard = at, now
	}
}

// now returns the estimate; the zero time while nothing was heard.
func (c *streamClock) now() time.Time {
	now := c.clock.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.base.IsZero() {
		return time.Time{}
	}
	return c.base.Add(now.Sub(c.heard))
}

// orders reads the orders topic for ever and hands what is for this cluster's partition to take. ready is called once the
// reader stands at the end: from then on no order is missed.
type orders struct {
	stream     Stream
	codec      event.Codec
	clock      clock.Clock
	streamTime *streamClock
	logger     *slog.Logger
	ready      func(partition int32)
	take       func(ctx context.Context, e *event.Event)
}

// Delays of reconnecting.
const (
	retryMin = 100 * time.Millisecond
	retryMax = 5 * time.Second
)

func (o *orders) run(ctx context.Context) {
	wait := retryMin
	for ctx.Err() == nil {
		partition, reader, err := o.stream.Open(ctx)
		if err != nil {
			o.pause(ctx, &wait, "open", err)
			continue
		}
		wait = retryMin
		o.ready(partition)
		o.read(ctx, reader)
		reader.Close()
	}
}

// read ends only with ctx: the reader recovers by itself, and reopening would skip what was ordered meanwhile.
func (o *orders) read(ctx context.Context, reader OrderReader) {
	wait := retryMin
	for ctx.Err() == nil {
		records, err := reader.Poll(ctx)
		if err != nil {
			o.pause(ctx, &wait, "read", err)
			continue
		}
		wait = retryMin
		for i := range records {
			o.one(ctx, &records[i])
		}
	}
}

func (o *orders) pause(ctx context.Context, wait *time.Duration, operation string, err error) {
	if ctx.Err() != nil {
		return
	}
	o.logger.WarnContext(ctx, "orders cannot be read now; the server goes on serving", "operation", operation, "error", err, "retry_in", wait.String())
	_ = clock.Wait(ctx, o.clock, *wait) // ctx is looked at by the caller
	*wait = min(2**wait, retryMax)
}

func (o *orders) one(ctx context.Context, rec *record.Record) {
	o.streamTime.hear(rec.Timestamp)
	if rec.Tombstone() {
		return
	}
	wait := retryMin
	for ctx.Err() == nil {
		e, err := o.codec.Decode(rec.Topic, rec.Value)
		var broken *event.DecodeError
		switch {
		case err == nil:
			o.take(ctx, e)
			return
		case errors.As(err, &broken):
			o.bury(ctx, rec, broken)
			return
		default:
			o.pause(ctx, &wait, "decode", err)
		}
	}
}

// bury sends what can never be read to the dead-letter topic.
func (o *orders) bury(ctx context.Context, rec *record.Record, cause *event.DecodeError) {
	o.logger.ErrorContext(ctx, "an order is unreadable", "topic", rec.Topic, "partition", rec.Partition, "offset", rec.Offset, "error", cause)
	dead, err := avrocodec.DeadLetters(o.codec, "agent.postgres")(rec, cause.Reason, cause.Err)
	if err != nil {
		o.logger.ErrorContext(ctx, "a dead letter cannot be written", "error", err)
		return
	}
	o.stream.ProduceAsync(dead, func(_ record.Record, err error) {
		if err != nil {
			o.logger.ErrorContext(ctx, "a dead letter was not written", "error", err)
		}
	})
}
