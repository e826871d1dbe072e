package brokerdisk

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"
)

// Retention asks up to where a partition may be deleted.
type Retention struct {
	// Dir is kfake's data directory.
	Dir       string
	Topic     string
	Partition int32
	// LogStart is the first offset that is still there.
	LogStart int64
	// Limit is the offset before which deletion must end: the last stable offset, and at least one record from the end,
	// because kfake finds the next offset of a partition from its last batch.
	Limit int64
	// Before is the time, in milliseconds since 1970, before which records have expired; 0: no limit by time.
	Before int64
	// ExcessBytes is by how much the partition is larger than it may be; 0: no limit by size.
	ExcessBytes int64
}

// RetentionPoint returns the offset of the first record to keep. It removes from the beginning and stops at the first
// batch that has not expired, as Kafka does with segments. It may run while the broker does.
func RetentionPoint(r Retention) (int64, error) {
	dir := partitionDir(r.Dir, r.Topic, r.Partition)
	bases, err := listSegments(dir)
	if err != nil {
		return r.LogStart, err
	}
	point := r.LogStart
	first := max(slices.IndexFunc(bases, func(b int64) bool { return b > r.LogStart })-1, 0)
	if n := len(bases); n > 0 && bases[n-1] <= r.LogStart {
		first = n - 1
	}
	for _, base := range bases[min(first, len(bases)):] {
		more, err := r.segment(segmentPath(dir, base), &point)
		if errors.Is(err, fs.ErrNotExist) {
			continue // deleted in the meantime
		}
		if err != nil || !more {
			return point, err
		}
	}
	return point, nil
}

// segment moves point forward over the expired batches of one segment file.
func (r *Retention) segment(path string, point *int64) (more bool, err error) {
	f, err := os.Open(path)
	if err != nil {
		return false, fmt.Errorf("look for expired records: %w", err)
	}
	defer f.Close()
	in := bufio.NewReaderSize(f, 64<<10)
	for {
		head, err := in.Peek(headerSize)
		if len(head) < headerSize {
			if err == nil || errors.Is(err, io.EOF) {
				return true, nil // the end, or a batch that is being written
			}
			return false, fmt.Errorf("look for expired records: %w", err)
		}
		b := rawBatch(head)
		size := int64(b.length()) + lengthOverhead
		next, expired := b.nextOffset(), r.ExcessBytes > 0 || r.Before > 0 && b.maxTime() < r.Before
		if next > r.LogStart {
			if !expired || next > r.Limit {
				return false, nil
			}
			*point = next
			r.ExcessBytes -= size
		}
		if _, err := in.Discard(int(size)); err != nil {
			return true, nil // being written
		}
	}
}

// Expiry is what a topic's settings say about retention.
type Expiry struct {
	Topic      string
	Partitions int
	// Millis is the age at which records expire, Bytes the size of a partition; negative: never.
	Millis, Bytes int64
}

// Defaults of Apache Kafka for topics.
const (
	defaultRetentionMillis       = 7 * 24 * 3600 * 1000
	defaultDeleteRetentionMillis = 24 * 3600 * 1000
	defaultDirtyRatio            = 0.5
)

// Expiries returns the topics from which records are deleted when they expire: those whose cleanup.policy says so.
func Expiries(dir string) ([]Expiry, error) {
	topics, err := readTopics(dir)
	if err != nil {
		return nil, err
	}
	var out []Expiry
	for _, t := range topics {
		if policy, set := t.Configs["cleanup.policy"]; set && !strings.Contains(policy, "delete") {
			continue
		}
		out = append(out, Expiry{
			Topic: t.Name, Partitions: t.Partitions,
			Millis: t.config("retention.ms", defaultRetentionMillis), Bytes: t.config("retention.bytes", -1),
		})
	}
	return out, nil
}

// ratio returns a setting as a fraction.
func (t *Topic) ratio(name string, def float64) float64 {
	if f, err := strconv.ParseFloat(t.Configs[name], 64); err == nil {
		return f
	}
	return def
}
