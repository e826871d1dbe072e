package kafka

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/regent-infra/regent/internal/record"
	"github.com/regent-infra/regent/internal/replay"
)

// Archive reads logs as they stand, batch by batch: it implements [replay.Log].
type Archive struct {
	config Config
	client *kgo.Client
	admin  *kadm.Client
}

var _ replay.Log = (*Archive)(nil)

// NewArchive returns an archive. It does not connect yet.
func NewArchive(config Config) (*Archive, error) {
	client, err := config.client(kgo.MetadataMinAge(adminMetadataAge))
	if err != nil {
		return nil, err
	}
	return &Archive{config: config.withDefaults(), client: client, admin: kadm.NewClient(client)}, nil
}

// Close drops all connections.
func (a *Archive) Close() { a.client.Close() }

// Topics implements [replay.Log].
func (a *Archive) Topics(ctx context.Context, names ...string) (map[string]replay.Topic, error) {
	ctx, cancel := context.WithTimeout(ctx, a.config.RequestTimeout)
	defer cancel()
	found, err := describeTopics(ctx, a.config, a.admin, names)
	if err != nil {
		return nil, err
	}
	out := map[string]replay.Topic{}
	var known []string
	for name, t := range found {
		out[name] = replay.Topic{ID: t.ID, Partitions: t.Partitions, Compacted: t.Compacted}
		known = append(known, name)
	}
	configs, err := a.admin.DescribeTopicConfigs(ctx, known...)
	if err != nil {
		return nil, a.config.explain("read the settings of topics", err)
	}
	for _, c := range configs {
		if c.Err != nil {
			return nil, a.config.explain("read the settings of topic "+c.Name, c.Err)
		}
		t := out[c.Name]
		for _, kv := range c.Configs {
			switch {
			case kv.Value == nil:
			case kv.Key == "message.timestamp.type":
				t.BrokerTime = *kv.Value == "LogAppendTime"
			case kv.Key == "min.compaction.lag.ms":
				if ms, err := strconv.ParseInt(*kv.Value, 10, 64); err == nil {
					t.CompactionLag = lagOf(ms)
				}
			}
		}
		out[c.Name] = t
	}
	return out, nil
}

// lagOf turns milliseconds into a duration; Kafka allows more of them than that holds.
func lagOf(ms int64) time.Duration {
	const longest = int64(1<<63-1) / int64(time.Millisecond)
	return time.Duration(min(ms, longest)) * time.Millisecond
}

// Bounds implements [replay.Log].
func (a *Archive) Bounds(ctx context.Context, partitions []record.TopicPartition) (map[record.TopicPartition]replay.Bounds, error) {
	ctx, cancel := context.WithTimeout(ctx, a.config.RequestTimeout)
	defer cancel()
	marks, err := watermarks(ctx, a.config, a.client, partitions)
	if err != nil {
		return nil, err
	}
	out := map[record.TopicPartition]replay.Bounds{}
	for tp, w := range marks {
		out[tp] = replay.Bounds(w)
	}
	return out, nil
}

// OffsetsAfter implements [replay.Log].
func (a *Archive) OffsetsAfter(ctx context.Context, at time.Time, partitions []record.TopicPartition) (map[record.TopicPartition]int64, error) {
	ctx, cancel := context.WithTimeout(ctx, a.config.RequestTimeout)
	defer cancel()
	found, err := listOffsets(ctx, a.client, partitions, at.UnixMilli()+1, 0)
	if err != nil {
		return nil, a.config.explain("find offsets by time", err)
	}
	ends, err := listOffsets(ctx, a.client, partitions, askLatest, 0)
	if err != nil {
		return nil, a.config.explain("list offsets", err)
	}
	for tp, offset := range found {
		if offset < 0 {
			found[tp] = ends[tp]
		}
	}
	return found, nil
}

// Batches implements [replay.Log]. It fetches one chunk ahead of what fn works on.
func (a *Archive) Batches(
	ctx context.Context, tp record.TopicPartition, from, to int64, records bool, fn func(*replay.Batch) error,
) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type piece struct {
		batches []replay.Batch
		err     error
	}
	pieces := make(chan piece, 1)
	go func() {
		defer close(pieces)
		s := scanner{config: a.config, client: a.client, admin: a.admin, tp: tp, leader: -1}
		for at := from; at < to; {
			batches, next, err := s.batches(ctx, at, records)
			if err == nil && next == at {
				return // nothing is left below the end
			}
			at = next
			select {
			case pieces <- piece{batches, err}:
			case <-ctx.Done():
				return
			}
			if err != nil {
				return
			}
		}
	}()
	for p := range pieces {
		if p.err != nil {
			return p.err
		}
		for i := range p.batches {
			if p.batches[i].First >= to {
				return nil
			}
			if err := fn(&p.batches[i]); err != nil {
				return err
			}
		}
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return nil
}

// batches reads some batches from an offset on; next is where to go on, and the same offset at the end of the log.
func (s *scanner) batches(ctx context.Context, from int64, records bool) (out []replay.Batch, next int64, err error) {
	err = s.retry(ctx, from, func(from int64) error {
		for attempt := 0; ; attempt++ {
			got, err := s.ask(ctx, from, scanWait, 0)
			if err != nil {
				return err
			}
			out, next, err = s.split(got.RecordBatches, from, records)
			if err != nil || len(out) > 0 || from >= got.HighWatermark {
				return err
			}
			if attempt == emptyAttempts {
				return fmt.Errorf("%w: the broker has nothing at offset %d although the log goes on to %d", errBatch, from, got.HighWatermark)
			}
		}
	})
	return out, next, err
}

// Where things stand in a batch of version 2.
const (
	batchOverhead = 12 // offset and length, before what the length counts
	batchMagic    = 16
	batchHeader   = 61
)

// emptyAttempts is how often a fetch that should find something is sent again.
const emptyAttempts = 10

var errBatch = errors.New("batch cannot be read")

// split takes the content of a fetch apart. The last batch may be cut off: it comes again with the next fetch.
func (s *scanner) split(raw []byte, from int64, records bool) ([]replay.Batch, int64, error) {
	var out []replay.Batch
	next := from
	for len(raw) >= batchHeader {
		size := int64(binary.BigEndian.Uint32(raw[8:])) + batchOverhead
		if size > int64(len(raw)) {
			break
		}
		one := raw[:size]
		raw = raw[size:]
		if one[batchMagic] != 2 {
			return nil, from, fmt.Errorf("%w: it has version %d, expected 2", errBatch, one[batchMagic])
		}
		var head kmsg.RecordBatch
		if err := head.ReadFrom(one); err != nil {
			return nil, from, fmt.Errorf("%w: %w", errBatch, err)
		}
		b := replay.Batch{
			First: head.FirstOffset, Last: head.FirstOffset + int64(head.LastOffsetDelta), Count: int(head.NumRecords), Time: time.UnixMilli(head.MaxTimestamp).UTC(),
			Producer: head.ProducerID, Epoch: head.ProducerEpoch, Transactional: head.Attributes&0x10 != 0,
		}
		if b.Last < from {
			continue
		}
		control := head.Attributes&0x20 != 0
		if control || records {
			if err := s.open(one, control, from, &b); err != nil {
				return nil, from, err
			}
		}
		out = append(out, b)
		next = b.Last + 1
	}
	return out, next, nil
}

// open reads the records of a batch, or what kind of marker it is.
func (s *scanner) open(raw []byte, control bool, from int64, b *replay.Batch) error {
	got := kmsg.NewFetchResponseTopicPartition()
	got.Partition, got.RecordBatches, got.HighWatermark = s.tp.Partition, raw, b.Last+1
	fp, _ := kgo.ProcessFetchPartition(kgo.ProcessFetchPartitionOpts{
		KeepControlRecords: control, Offset: from, IsolationLevel: kgo.ReadUncommitted(), Topic: s.tp.Topic, Partition: s.tp.Partition,
	}, &got, kgo.DefaultDecompressor(), nil)
	if fp.Err != nil {
		return fp.Err
	}
	if !control {
		b.Records = make([]record.Record, 0, len(fp.Records))
		for _, r := range fp.Records {
			b.Records = append(b.Records, fromClient(r))
		}
		return nil
	}
	for _, r := range fp.Records {
		var key kmsg.ControlRecordKey
		if err := key.ReadFrom(r.Key); err != nil {
			return fmt.Errorf("%w: marker at offset %d: %w", errBatch, r.Offset, err)
		}
		switch key.Type {
		case kmsg.ControlRecordKeyTypeCommit:
			b.Marker = replay.CommitMarker
		case kmsg.ControlRecordKeyTypeAbort:
			b.Marker = replay.AbortMarker
		default: // of the brokers among themselves: it ends nothing, and nothing ends it
			b.Transactional = false
		}
	}
	b.Count = int(b.Last - b.First + 1)
	return nil
}
