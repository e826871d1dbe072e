package registryserver

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/regent-infra/regent/internal/clock"
	"github.com/regent-infra/regent/internal/event"
	"github.com/regent-infra/regent/internal/kafka"
	"github.com/regent-infra/regent/internal/record"
)

// Topic is where the registry keeps its content, under the name and in the format of Confluent's registry.
const Topic = "_schemas"

// writerName is the transactional id of the one writer.
const writerName = "regent-schema-registry"

// writerHeader names the instance that has written a record.
const writerHeader = "regent-writer"

// watchPause is between two attempts to read on while brokers are away.
const watchPause = 500 * time.Millisecond

// maxReplicas is how many replicas the topic gets where nothing else is said and there are brokers enough.
const maxReplicas = 3

var partition = record.TopicPartition{Topic: Topic}

// topicLog is the registry's log: the one partition of a compacted topic.
type topicLog struct {
	config   kafka.Config
	clock    clock.Clock
	instance string
	writer   *kafka.Exclusive
	// failed is told why a write did not succeed: the registry then does not know what the topic says.
	failed func(error)
}

// openLog makes the topic where it is missing and becomes its writer.
func openLog(ctx context.Context, cfg Config, failed func(error)) (*topicLog, error) {
	admin, err := kafka.NewAdmin(cfg.Kafka)
	if err != nil {
		return nil, err
	}
	defer admin.Close()
	if err := makeTopic(ctx, admin, cfg.ReplicationFactor, cfg.MaxSchemaBytes); err != nil {
		return nil, fmt.Errorf("make topic %s for the schema registry: %w", Topic, err)
	}
	l := &topicLog{config: cfg.Kafka, clock: cfg.Clock, instance: event.NewID(), failed: failed}
	if l.writer, err = kafka.TakeOver(ctx, cfg.Kafka, writerName); err != nil {
		return nil, fmt.Errorf("open topic %s for the schema registry: %w", Topic, err)
	}
	return l, nil
}

func makeTopic(ctx context.Context, admin *kafka.Admin, replicas int16, maxBytes int64) error {
	found, err := admin.Topics(ctx)
	if err != nil {
		return err
	}
	if t, ok := found[Topic]; ok {
		if t.Partitions != 1 {
			return fmt.Errorf("it exists with %d partitions, expected 1: it was made by something else", t.Partitions)
		}
		return nil
	}
	if replicas == 0 {
		cluster, err := admin.Cluster(ctx)
		if err != nil {
			return err
		}
		replicas = int16(min(len(cluster.Brokers), maxReplicas)) //nolint:gosec // at most 3
	}
	err = admin.CreateTopic(ctx, kafka.TopicSpec{
		Name: Topic, Partitions: 1, ReplicationFactor: replicas,
		Config: map[string]string{
			"cleanup.policy":      "compact",
			"max.message.bytes":   fmt.Sprint(3 * maxBytes), // a schema is written as a JSON string, with its quotes escaped
			"min.insync.replicas": fmt.Sprint(max(1, replicas-1)),
		},
	})
	if errors.Is(err, kafka.ErrTopicExists) {
		return nil // another instance was faster
	}
	return err
}

// Append implements registry.Log.
func (l *topicLog) Append(ctx context.Context, key, value []byte) error {
	err := l.writer.Write(ctx, record.Record{Topic: Topic, Key: key, Value: value, Headers: []record.Header{{Key: writerHeader, Value: []byte(l.instance)}}})
	if err != nil {
		err = fmt.Errorf("write to topic %s: %w", Topic, err)
		l.failed(err)
	}
	return err
}

// replay hands every record of the topic, in order, to load, and returns where it ends.
func (l *topicLog) replay(ctx context.Context, load func(key, value []byte) error) (int64, error) {
	admin, err := kafka.NewAdmin(l.config)
	if err != nil {
		return 0, err
	}
	defer admin.Close()
	starts, err := admin.StartOffsets(ctx, Topic)
	if err != nil {
		return 0, err
	}
	ends, err := admin.EndOffsets(ctx, Topic)
	if err != nil {
		return 0, err
	}
	err = admin.Scan(ctx, partition, starts[partition], ends[partition], func(records []record.Record, _ int64) error {
		for _, r := range records {
			if err := load(r.Key, r.Value); err != nil {
				return fmt.Errorf("read topic %s at offset %d: %w", Topic, r.Offset, err)
			}
		}
		return nil
	})
	return ends[partition], err
}

// watch reads the topic on, and fails at the first record that this instance has not written. Brokers that are away are no failure.
func (l *topicLog) watch(ctx context.Context, from int64) {
	reader, err := kafka.NewReader(l.config, map[record.TopicPartition]kafka.Start{partition: kafka.FromOffset(from)}, kafka.ReaderConfig{})
	if err != nil {
		l.failed(err)
		return
	}
	defer reader.Close()
	for ctx.Err() == nil {
		records, err := reader.Poll(ctx)
		if err != nil && errors.Is(err, kafka.ErrUnknownTopic) {
			l.failed(fmt.Errorf("read topic %s: %w", Topic, err))
			return
		}
		if err != nil && clock.Wait(ctx, l.clock, watchPause) != nil {
			return
		}
		for _, r := range records {
			if !l.own(r) {
				l.failed(fmt.Errorf("%w of topic %s: the record at offset %d is not of this instance", kafka.ErrTakenOver, Topic, r.Offset))
				return
			}
		}
	}
}

func (l *topicLog) own(r record.Record) bool {
	for _, h := range r.Headers {
		if h.Key == writerHeader {
			return string(h.Value) == l.instance
		}
	}
	return false
}

func (l *topicLog) close() { l.writer.Close() }
