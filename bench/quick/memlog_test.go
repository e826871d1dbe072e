//go:build !race

package quick

import (
	"context"
	"sync"
	"time"

	"github.com/regent-infra/regent/bench/workload"
	"github.com/regent-infra/regent/internal/record"
	"github.com/regent-infra/regent/internal/stream"
)

const (
	input      = "input"
	output     = "output"
	partitions = 4
)

// memoryLog gives prepared inputs to a runtime and takes its outputs.
type memoryLog struct {
	batches []stream.Batch
	// mark is called when the batch of a number is about to be handed out; the last call has the number of batches, when all of them
	// are committed.
	mark func(batch int)

	mu       sync.Mutex
	next     int
	resumed  int
	ends     [partitions]int64
	produced int
	done     chan struct{}
}

// newMemoryLog prepares n inputs in batches of the size that the runtime asks for.
func newMemoryLog(spec workload.Spec, size int, mark func(int)) (*memoryLog, error) {
	s, err := workload.NewStream(spec)
	if err != nil {
		return nil, err
	}
	m := &memoryLog{mark: mark, done: make(chan struct{})}
	var next [partitions]int64
	at := time.UnixMicro(1_767_225_600_000_000).UTC()
	for left := spec.Records; left > 0; left -= size {
		var b stream.Batch
		var of [partitions][]record.Record
		for range min(size, left) {
			o, value, err := s.Next(nil, at)
			if err != nil {
				return nil, err
			}
			of[o.Partition] = append(of[o.Partition], record.Record{
				Topic: input, Partition: o.Partition, Offset: next[o.Partition], Timestamp: at, Key: []byte(o.Key), Value: value,
			})
			next[o.Partition]++
		}
		for p, recs := range of {
			b.Fetched = append(b.Fetched, stream.Fetched{TopicPartition: recs[0].Position(), Records: recs, Next: next[p], High: next[p]})
		}
		m.batches = append(m.batches, b)
	}
	return m, nil
}

func (m *memoryLog) Connect(context.Context, stream.SessionSpec) (stream.Session, error) {
	return m, nil
}

func (m *memoryLog) ClusterID() string { return "memory" }

func (m *memoryLog) Topics(context.Context, []string) (map[string]stream.TopicInfo, error) {
	return map[string]stream.TopicInfo{
		input:  {ID: [16]byte{1}, Partitions: partitions},
		output: {ID: [16]byte{2}, Partitions: partitions, Compacted: true, DeleteRetention: 24 * time.Hour},
	}, nil
}

func (m *memoryLog) Join(context.Context) error { return nil }

// Poll assigns first, then hands out one batch at a time, once every task reads.
func (m *memoryLog) Poll(ctx context.Context, _ int, wait time.Duration) (*stream.Batch, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case m.next == 0 && m.resumed == 0:
		m.resumed = -1
		return &stream.Batch{Assigned: []int32{0, 1, 2, 3}}, nil
	case m.resumed < partitions || m.next == len(m.batches):
		m.mu.Unlock()
		ctx, cancel := context.WithTimeout(ctx, min(wait, time.Millisecond))
		<-ctx.Done()
		cancel()
		m.mu.Lock()
		return &stream.Batch{}, nil
	}
	m.mark(m.next)
	b := m.batches[m.next]
	m.next++
	return &b, nil
}

func (m *memoryLog) Buffered() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.batches) - m.next
}

func (m *memoryLog) Wake() {}

func (m *memoryLog) Resume(positions map[record.TopicPartition]int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.resumed = max(m.resumed, 0) + len(positions)
}

func (m *memoryLog) Produce(recs []record.Record, done func(topic string, offset int64, err error)) {
	for i := range recs {
		m.mu.Lock()
		offset := m.ends[recs[i].Partition]
		m.ends[recs[i].Partition]++
		m.produced++
		m.mu.Unlock()
		done(recs[i].Topic, offset, nil)
	}
}

func (m *memoryLog) Flush(context.Context) error { return nil }

func (m *memoryLog) Commit(context.Context, []int32, []stream.OffsetCommit) (stream.Outcome, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.next == len(m.batches) && m.done != nil {
		m.mark(m.next)
		close(m.done)
		m.done = nil
	}
	return stream.TransactionCommitted, nil
}

func (m *memoryLog) Abort(context.Context) error { return nil }

func (m *memoryLog) Send(_ record.Record, done func(error)) { done(nil) }

func (m *memoryLog) Settled(ctx context.Context, parts []record.TopicPartition) (map[record.TopicPartition]stream.Committed, error) {
	return m.Committed(ctx, parts)
}

func (m *memoryLog) Rejoin() {}

func (m *memoryLog) Committed(context.Context, []record.TopicPartition) (map[record.TopicPartition]stream.Committed, error) {
	return nil, nil
}

func (m *memoryLog) Watermarks(_ context.Context, tps []record.TopicPartition) (map[record.TopicPartition]stream.Watermarks, error) {
	out := map[record.TopicPartition]stream.Watermarks{}
	for _, tp := range tps {
		out[tp] = stream.Watermarks{}
	}
	return out, nil
}

func (m *memoryLog) Scan(context.Context, record.TopicPartition, int64, int64, func([]record.Record, int64) error) error {
	return nil
}

func (m *memoryLog) Probe(_ context.Context, _ record.TopicPartition, from int64) (int64, error) {
	return from, nil
}

func (m *memoryLog) Trouble() error { return nil }

func (m *memoryLog) Close(context.Context) error { return nil }
