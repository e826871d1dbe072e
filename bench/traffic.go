package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/regent-infra/regent/bench/workload"
	"github.com/regent-infra/regent/internal/avrocodec"
	"github.com/regent-infra/regent/internal/kafka"
	"github.com/regent-infra/regent/internal/record"
)

// traffic writes inputs at a steady rate and watches the outputs of a contender.
//
// The generator is an open loop: the moment at which each input is to be sent is fixed beforehand, and is written into it. It does not wait for
// answers, and where it is late itself, that counts as latency too: nothing is omitted because the system was slow.
type traffic struct {
	b        *bench
	job      *job
	dataset  *dataset
	stream   *workload.Stream
	codec    *avrocodec.Codec
	producer *kafka.Producer
	digests  digests

	stop    context.CancelFunc
	watcher sync.WaitGroup

	mu      sync.Mutex
	failed  error
	sent    int64
	seen    int64
	arrived []arrival
	news    chan struct{} // something has arrived; holds one
}

// arrival is one output that was read.
type arrival struct {
	due      time.Time // when its input was to be sent
	appended time.Time // by the broker's clock, milliseconds
	at       time.Time
}

// newTraffic goes on with the stream of a dataset, which must be as far as the dataset says.
func (b *bench) newTraffic(ctx context.Context, j *job, d *dataset, stream *workload.Stream, digests digests) (*traffic, error) {
	codec, err := workload.Codec()
	if err != nil {
		return nil, err
	}
	producer, err := kafka.NewProducer(b.cluster.config, kafka.ProducerConfig{MaxBufferedRecords: 1_000_000})
	if err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(ctx)
	t := &traffic{
		b: b, job: j, dataset: d, stream: stream, codec: codec, producer: producer, digests: digests, stop: stop, news: make(chan struct{}, 1),
	}
	t.watcher.Go(func() { t.fail(t.watch(ctx)) })
	return t, nil
}

func (t *traffic) close() {
	t.stop()
	t.watcher.Wait()
	t.producer.Close()
}

func (t *traffic) fail(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.failed == nil && err != nil {
		t.failed = err
	}
}

// watch reads the outputs as any reader of committed records does.
func (t *traffic) watch(ctx context.Context) error {
	starts := map[record.TopicPartition]kafka.Start{}
	for p := range t.b.options.partitions {
		starts[record.TopicPartition{Topic: t.job.output, Partition: p}] = kafka.FromEarliest()
	}
	reader, err := kafka.NewReader(t.b.cluster.config, starts, kafka.ReaderConfig{})
	if err != nil {
		return err
	}
	defer reader.Close()
	for {
		records, err := reader.Poll(ctx)
		now := time.Now()
		if ctx.Err() != nil {
			return nil
		}
		if errors.Is(err, kafka.ErrUnknownTopic) {
			continue // the contender makes it
		}
		if err != nil {
			return fmt.Errorf("watch the outputs: %w", err)
		}
		if err := t.take(records, now); err != nil {
			return err
		}
	}
}

func (t *traffic) take(records []record.Record, now time.Time) error {
	arrived := make([]arrival, 0, len(records))
	for i := range records {
		h, err := t.codec.DecodeHeader(workload.State, records[i].Value)
		if err != nil {
			return fmt.Errorf("watch the outputs: %w", err)
		}
		arrived = append(arrived, arrival{due: h.OccurredAt, appended: records[i].Timestamp, at: now})
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.arrived = append(t.arrived, arrived...)
	t.seen += int64(len(arrived))
	select {
	case t.news <- struct{}{}:
	default:
	}
	return nil
}

// send writes one input that is due at a moment.
func (t *traffic) send(due time.Time) error {
	o, value, err := t.stream.Next(nil, due)
	if err != nil {
		return err
	}
	t.dataset.ref.Observe(&o)
	rec := record.Record{Topic: t.job.input, Partition: o.Partition, Key: []byte(o.Key), Value: value}
	t.digests.add(&rec)
	t.mu.Lock()
	t.sent++
	err = t.failed
	t.mu.Unlock()
	t.producer.ProduceAsync(rec, func(_ record.Record, err error) { t.fail(err) })
	return err
}

// flow sends at a rate until done says so, which is asked before each input.
func (t *traffic) flow(ctx context.Context, rate int, done func(elapsed time.Duration) bool) error {
	began := time.Now()
	for i := 0; ; i++ {
		offset := time.Duration(i) * time.Second / time.Duration(rate)
		if done(offset) {
			return nil
		}
		due := began.Add(offset)
		if wait := time.Until(due); wait > 0 {
			select {
			case <-time.After(wait):
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		if err := t.send(due); err != nil {
			return err
		}
	}
}

// drain waits until every input has its output.
func (t *traffic) drain(ctx context.Context, p *process, patience time.Duration) error {
	deadline := time.After(patience)
	for {
		t.mu.Lock()
		sent, seen, err := t.sent, t.seen, t.failed
		t.mu.Unlock()
		if err != nil {
			return err
		}
		if seen >= sent {
			return nil
		}
		select {
		case <-t.news:
		case <-p.done:
			return p.died()
		case <-deadline:
			return fmt.Errorf("%d inputs were sent, and after %s there are %d outputs: %s", sent, patience, seen, p.logTail())
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// arrivals returns what has arrived so far.
func (t *traffic) arrivals() []arrival {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.arrived
}
