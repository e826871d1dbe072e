// Package record holds the plain Kafka record that every driver and port speaks: bytes, where they stood and when the
// broker took them. It knows no client library and no codec.
package record

import "time"

// TopicPartition names one partition of one topic.
type TopicPartition struct {
	Topic     string
	Partition int32
}

// Header is one Kafka record header.
type Header struct {
	Key   string
	Value []byte
}

// Record is one record read from, or to be written to, a topic. Its bytes are immutable once it is handed over: readers
// may keep them, nobody changes them.
type Record struct {
	Topic     string
	Partition int32
	// Offset is the position in the partition; it is meaningless on a record that is yet to be written.
	Offset int64
	// Timestamp is the broker's append time (LogAppendTime), in UTC. It is ignored on a record that is yet to be written.
	Timestamp time.Time
	Key       []byte
	// Value is nil for a tombstone.
	Value   []byte
	Headers []Header
}

// Tombstone reports whether the record deletes its key.
func (r *Record) Tombstone() bool { return r.Value == nil }

// Position returns the partition that the record stands in.
func (r *Record) Position() TopicPartition {
	return TopicPartition{Topic: r.Topic, Partition: r.Partition}
}

// Header returns the value of the last header with the given key, or nil.
func (r *Record) Header(key string) []byte {
	for i := len(r.Headers) - 1; i >= 0; i-- {
		if r.Headers[i].Key == key {
			return r.Headers[i].Value
		}
	}
	return nil
}
