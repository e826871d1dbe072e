package replay

import (
	"context"
	"time"

	"github.com/regent-infra/regent/internal/record"
)

// Log is the port to the brokers. internal/kafka implements it. All methods are safe for concurrent use.
type Log interface {
	// Topics describes the named topics; one that does not exist is absent.
	Topics(ctx context.Context, names ...string) (map[string]Topic, error)
	// Bounds returns the bounds of the partitions.
	Bounds(ctx context.Context, partitions []record.TopicPartition) (map[record.TopicPartition]Bounds, error)
	// OffsetsAfter returns, for each partition, the offset of the first record that was appended after a moment, or the end of the partition if
	// there is none.
	OffsetsAfter(ctx context.Context, at time.Time, partitions []record.TopicPartition) (map[record.TopicPartition]int64, error)
	// Batches reads a partition from an offset on up to another, and calls fn with each batch that ends at or after the first and begins before the
	// second, as it stands in the log: committed or not, markers too. Records are left out where they are not wanted. An offset below the
	// start of the log counts as the start. An error of fn ends it and is returned.
	Batches(ctx context.Context, tp record.TopicPartition, from, to int64, records bool, fn func(*Batch) error) error
}

// Topic describes a topic.
type Topic struct {
	// ID changes when the topic is deleted and made again.
	ID [16]byte
	// Partitions is how many there are.
	Partitions int32
	// Compacted says that its cleanup policy is compact, alone or with delete.
	Compacted bool
	// BrokerTime says that its records have the broker's time: message.timestamp.type is LogAppendTime.
	BrokerTime bool
	// CompactionLag is min.compaction.lag.ms: how long every record is kept at least.
	CompactionLag time.Duration
}

// Bounds are the bounds of a partition.
type Bounds struct {
	// Start is the lowest offset that is still there, Stable the last stable offset, High the one that the next record will get.
	Start, Stable, High int64
}

// Marker says what a batch ends.
type Marker int8

// The markers.
const (
	NoMarker Marker = iota
	CommitMarker
	AbortMarker
)

// Batch is one batch of a log.
type Batch struct {
	// First and Last are the offsets that it spans, both included, also where some of its records are gone.
	First, Last int64
	// Count is how many records it holds.
	Count int
	// Time is when the broker appended it.
	Time time.Time
	// Producer and Epoch tell whose it is.
	Producer int64
	Epoch    int16
	// Transactional says that a marker decides about it.
	Transactional bool
	// Marker is set for a batch that ends a transaction, and holds no records of anybody.
	Marker Marker
	// Records are its records, where they were wanted.
	Records []record.Record
}
