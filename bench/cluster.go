package main

import (
	"context"
	"fmt"
	"hash"
	"hash/fnv"
	"path/filepath"
	"strings"
	"time"

	"github.com/regent-infra/regent/bench/measure"
	"github.com/regent-infra/regent/bench/workload"
	"github.com/regent-infra/regent/internal/kafka"
	"github.com/regent-infra/regent/internal/kafkaserver"
	"github.com/regent-infra/regent/internal/record"
)

// brokerJVM are Kafka's own flags (kafka-server-start.sh, kafka-run-class.sh).
var brokerJVM = []string{
	"-Xms1g", "-Xmx1g", "-server", "-XX:+UseG1GC", "-XX:MaxGCPauseMillis=20", "-XX:InitiatingHeapOccupancyPercent=35",
	"-XX:+ExplicitGCInvokesConcurrent",
}

// brokerSettings are Kafka's own defaults for what kafkaserver sets lower.
var brokerSettings = map[string]string{"num.network.threads": "3", "num.io.threads": "8", "log.cleaner.dedupe.buffer.size": "134217728"}

// cluster is the one broker with what was loaded into it.
type cluster struct {
	dir    string
	server *kafkaserver.Server
	config kafka.Config
	admin  *kafka.Admin
	// partitions of every topic.
	partitions int32
}

func startCluster(ctx context.Context, dir string, partitions int32) (*cluster, error) {
	server, err := kafkaserver.StartWith(ctx, dir, kafkaserver.Options{JVM: brokerJVM, Settings: brokerSettings})
	if err != nil {
		return nil, err
	}
	c := &cluster{dir: dir, partitions: partitions, server: server, config: kafka.Config{Brokers: []string{server.Broker()}, RequestTimeout: time.Minute}}
	if c.admin, err = kafka.NewAdmin(c.config); err != nil {
		server.Kill()
		return nil, err
	}
	if err := c.awaitCoordinator(ctx); err != nil {
		c.stop()
		return nil, err
	}
	return c, nil
}

// awaitCoordinator waits until groups can be asked for their offsets: the first question makes the broker create the topic of them.
func (c *cluster) awaitCoordinator(ctx context.Context) error {
	const patience, interval = 30 * time.Second, 100 * time.Millisecond
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		_, err := c.admin.GroupOffsets(ctx, "bench-nobody")
		if err == nil {
			return nil
		}
		select {
		case <-time.After(interval):
		case <-ctx.Done():
			return fmt.Errorf("wait for the group coordinator: %w", err)
		}
	}
}

func (c *cluster) stop() {
	c.admin.Close()
	c.server.Kill()
}

func (c *cluster) cpu() (time.Duration, error) { return measure.CPU(c.server.PID()) }

// createInput makes a topic that inputs are written to, createOutput one that states are written to.
func (c *cluster) createInput(ctx context.Context, name string) error {
	return c.create(ctx, name, map[string]string{"cleanup.policy": "delete", "retention.ms": "-1"})
}

func (c *cluster) createOutput(ctx context.Context, name string) error {
	return c.create(ctx, name, map[string]string{"cleanup.policy": "compact", "min.compaction.lag.ms": "86400000"})
}

func (c *cluster) create(ctx context.Context, name string, config map[string]string) error {
	config["message.timestamp.type"] = "LogAppendTime"
	return c.admin.CreateTopic(ctx, kafka.TopicSpec{Name: name, Partitions: c.partitions, ReplicationFactor: 1, Config: config})
}

// diskOf returns the bytes that the topics with a prefix take on the broker.
func (c *cluster) diskOf(prefix string) (int64, error) {
	dirs, err := filepath.Glob(filepath.Join(c.dir, "data", prefix+"*"))
	if err != nil {
		return 0, err
	}
	total := int64(0)
	for _, dir := range dirs {
		if strings.HasSuffix(dir, "-delete") {
			continue
		}
		n, err := measure.Disk(dir)
		if err != nil {
			return 0, err
		}
		total += n
	}
	return total, nil
}

// forget deletes the topics with a prefix, so that the disk does not fill up over the rounds.
func (c *cluster) forget(ctx context.Context, prefix string) error {
	topics, err := c.admin.Topics(ctx)
	if err != nil {
		return err
	}
	for name := range topics {
		if !strings.HasPrefix(name, prefix) {
			continue
		}
		if err := c.admin.DeleteTopic(ctx, name); err != nil {
			return err
		}
	}
	return nil
}

// dataset is a stream of inputs that was loaded once and is read by all contenders.
type dataset struct {
	spec   workload.Spec
	topic  string
	ref    *workload.Reference
	copied []uint64 // digests of the inputs, for the contender that copies
	bytes  int64
}

func newDataset(spec workload.Spec, topic string) (*dataset, error) {
	ref, err := workload.NewReference(spec)
	return &dataset{spec: spec, topic: topic, ref: ref}, err
}

// loadBatch is how many records are written at once.
const loadBatch = 10_000

// load writes a stream of inputs, unless the broker's directory has it from an earlier run.
func (c *cluster) load(ctx context.Context, spec workload.Spec) (*dataset, error) {
	d, err := newDataset(spec, fmt.Sprintf("bench-input-%d-%d-%d-%d", spec.Seed, spec.Records, spec.Keys, spec.Partitions))
	if err != nil {
		return nil, err
	}
	there, err := c.loaded(ctx, d)
	if err != nil {
		return nil, err
	}
	_, err = c.fill(ctx, d, !there)
	return d, err
}

// loaded reports whether the topic is there as a whole; it makes it empty if not.
func (c *cluster) loaded(ctx context.Context, d *dataset) (bool, error) {
	topics, err := c.admin.Topics(ctx)
	if err != nil {
		return false, err
	}
	if _, ok := topics[d.topic]; ok {
		total, err := c.end(ctx, d.topic)
		if err != nil || total == int64(d.spec.Records) {
			return err == nil, err
		}
		if err := c.admin.DeleteTopic(ctx, d.topic); err != nil {
			return false, err
		}
	}
	return false, c.createInput(ctx, d.topic)
}

// end returns the sum of the high watermarks of a topic.
func (c *cluster) end(ctx context.Context, topic string) (int64, error) {
	ends, err := c.admin.EndOffsets(ctx, topic)
	if err != nil {
		return 0, err
	}
	total := int64(0)
	for _, offset := range ends {
		total += offset
	}
	return total, nil
}

// epoch is when the first input of a dataset is said to have happened.
var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// fill makes the whole stream, takes its digests, and writes it where that is asked for. It returns the stream, to go on with.
func (c *cluster) fill(ctx context.Context, d *dataset, write bool) (stream *workload.Stream, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("load %d records into %s: %w", d.spec.Records, d.topic, err)
		}
	}()
	if stream, err = workload.NewStream(d.spec); err != nil {
		return nil, err
	}
	producer, err := kafka.NewProducer(c.config, kafka.ProducerConfig{MaxBufferedRecords: 2 * loadBatch, DeliveryTimeout: 2 * time.Minute})
	if err != nil {
		return nil, err
	}
	defer producer.Close()
	digests := newDigests(d.spec.Partitions)
	batch := make([]record.Record, 0, loadBatch)
	for i := range d.spec.Records {
		o, value, err := stream.Next(nil, epoch.Add(time.Duration(i)*time.Microsecond))
		if err != nil {
			return nil, err
		}
		rec := record.Record{Topic: d.topic, Partition: o.Partition, Key: []byte(o.Key), Value: value}
		digests.add(&rec)
		d.bytes += int64(len(value))
		if !write {
			continue
		}
		if batch = append(batch, rec); len(batch) == loadBatch || i == d.spec.Records-1 {
			if err := producer.Produce(ctx, batch...); err != nil {
				return nil, err
			}
			batch = batch[:0]
		}
	}
	d.copied = digests.sums()
	return stream, nil
}

// digests are over keys and values of each partition, in order.
type digests []hash.Hash64

func newDigests(partitions int32) digests {
	d := make(digests, partitions)
	for p := range d {
		d[p] = fnv.New64a()
	}
	return d
}

func (d digests) add(r *record.Record) {
	_, _ = d[r.Partition].Write(r.Key)   // a hash never fails
	_, _ = d[r.Partition].Write(r.Value) // likewise
}

func (d digests) sums() (out []uint64) {
	for _, h := range d {
		out = append(out, h.Sum64())
	}
	return out
}
