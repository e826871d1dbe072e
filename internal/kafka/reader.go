package kafka

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/regent-infra/regent/internal/record"
)

// Start says from where a partition is read.
type Start struct{ offset kgo.Offset }

// FromEarliest starts with the oldest record that is there.
func FromEarliest() Start { return Start{kgo.NewOffset().AtStart()} }

// FromLatest starts with what is written after the reader has begun.
func FromLatest() Start { return Start{kgo.NewOffset().AtEnd()} }

// FromOffset starts with the record at an offset, or, if that is outside of what is there, with the oldest.
func FromOffset(offset int64) Start { return Start{kgo.NewOffset().At(offset)} }

// FromTime starts with the first record that the broker took at or after a moment, or at the end if there is none yet.
func FromTime(at time.Time) Start { return Start{kgo.NewOffset().AfterMilli(at.UnixMilli())} }

// stallCheck is how long a reader waits for records before it asks whether the brokers are still there.
const stallCheck = 5 * time.Second

// ReaderConfig adjusts a [Reader]. The zero value is ready to use.
type ReaderConfig struct {
	// Uncommitted also returns records of transactions that are open or aborted.
	Uncommitted bool
	// MaxWait is how long a broker holds a fetch that finds nothing. Default: 500 ms. It delays nothing that is written meanwhile.
	MaxWait time.Duration
}

// Watermarks are what a broker last said about a partition together with records of it.
type Watermarks struct {
	// Start is the oldest offset that is there.
	Start int64
	// Stable is the last stable offset: everything below is committed or aborted.
	Stable int64
	// High is the high watermark.
	High int64
}

// Reader reads named partitions, without a group. [Reader.Poll] is for one goroutine; the other methods are safe for
// concurrent use. To read a partition to its end and no further, use [Admin.Scan].
type Reader struct {
	config Config
	client *kgo.Client

	mu         sync.Mutex
	positions  map[record.TopicPartition]int64
	watermarks map[record.TopicPartition]Watermarks
}

// NewReader returns a reader of the given partitions. It does not connect yet.
func NewReader(config Config, starts map[record.TopicPartition]Start, options ReaderConfig) (*Reader, error) {
	isolation := kgo.ReadCommitted()
	if options.Uncommitted {
		isolation = kgo.ReadUncommitted()
	}
	if options.MaxWait <= 0 {
		options.MaxWait = 500 * time.Millisecond
	}
	client, err := config.client(
		kgo.ConsumePartitions(toOffsets(starts)),
		kgo.FetchIsolationLevel(isolation),
		kgo.FetchMaxWait(options.MaxWait),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		// Markers are not handed out, but they move the position: else a partition that ends in one never looks read to the end.
		kgo.KeepControlRecords(),
		// A topic that is deleted must show, not end in silence.
		kgo.KeepRetryableFetchErrors(),
	)
	if err != nil {
		return nil, err
	}
	return &Reader{
		config: config.withDefaults(), client: client,
		positions: map[record.TopicPartition]int64{}, watermarks: map[record.TopicPartition]Watermarks{},
	}, nil
}

func toOffsets(starts map[record.TopicPartition]Start) map[string]map[int32]kgo.Offset {
	offsets := map[string]map[int32]kgo.Offset{}
	for tp, start := range starts {
		if offsets[tp.Topic] == nil {
			offsets[tp.Topic] = map[int32]kgo.Offset{}
		}
		offsets[tp.Topic][tp.Partition] = start.offset
	}
	return offsets
}

// Ping checks that a broker answers within the request timeout.
func (r *Reader) Ping(ctx context.Context) error { return r.config.ping(ctx, r.client) }

// Poll waits for records and returns them, in offset order within each partition. It also returns, without records, when positions have moved
// past markers. The error is ctx's when it ends; wraps [ErrUnreachable] when brokers have stopped answering, and [ErrUnknownTopic] when a
// partition does not exist: in both cases Poll may be called again.
func (r *Reader) Poll(ctx context.Context) ([]record.Record, error) {
	for {
		waiting, cancel := context.WithTimeout(ctx, stallCheck)
		fetches := r.client.PollFetches(waiting)
		cancel()
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		records, progressed, err := r.take(fetches)
		if len(records) > 0 || progressed {
			return records, nil
		}
		if err != nil {
			return nil, err
		}
		if err := r.Ping(ctx); err != nil {
			return nil, err
		}
	}
}

// take notes how far fetches went and returns their records; progressed says whether any position moved.
func (r *Reader) take(fetches kgo.Fetches) (records []record.Record, progressed bool, first error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	records = make([]record.Record, 0, fetches.NumRecords())
	fetches.EachPartition(func(p kgo.FetchTopicPartition) {
		tp := record.TopicPartition{Topic: p.Topic, Partition: p.Partition}
		if err := p.Err; err != nil && !passing(err) && first == nil {
			first = r.config.explain(fmt.Sprintf("read %s/%d", tp.Topic, tp.Partition), err)
		}
		if len(p.Records) == 0 {
			return
		}
		progressed = true
		r.watermarks[tp] = Watermarks{Start: p.LogStartOffset, Stable: p.LastStableOffset, High: p.HighWatermark}
		for _, rec := range p.Records {
			r.positions[tp] = rec.Offset + 1
			if !rec.Attrs.IsControl() {
				records = append(records, fromClient(rec))
			}
		}
	})
	return records, progressed, first
}

// passing says whether the client recovers from a fetch error by itself.
func passing(err error) bool {
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		return true
	}
	var answer *kerr.Error
	if !errors.As(err, &answer) || !answer.Retriable {
		return false
	}
	return answer != kerr.UnknownTopicOrPartition && answer != kerr.UnknownTopicID
}

// Positions returns, for each partition that anything was read from, the offset after the last record or marker.
func (r *Reader) Positions() map[record.TopicPartition]int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return maps.Clone(r.positions)
}

// Watermarks returns what the brokers last said of each partition that anything was read from.
func (r *Reader) Watermarks() map[record.TopicPartition]Watermarks {
	r.mu.Lock()
	defer r.mu.Unlock()
	return maps.Clone(r.watermarks)
}

// Close stops the reader.
func (r *Reader) Close() { r.client.Close() }
