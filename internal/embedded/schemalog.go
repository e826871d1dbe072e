package embedded

import (
	"context"
	"errors"
	"fmt"
	"net"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// schemasTopic is where the registry keeps its content, under the name and in the format of Confluent's registry.
const schemasTopic = "_schemas"

// schemaLog is the registry's log: one compacted partition in the broker beside it.
type schemaLog struct{ client *kgo.Client }

// openSchemaLog connects to the broker at the address that it listens on, whatever address it tells its clients.
func openSchemaLog(ctx context.Context, cfg Config, broker net.Addr) (*schemaLog, error) {
	var dialer net.Dialer
	client, err := kgo.NewClient(
		kgo.SeedBrokers(broker.String()),
		kgo.Dialer(func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, broker.Network(), broker.String())
		}),
		kgo.ClientID("regent-schema-registry"),
		kgo.RequiredAcks(kgo.AllISRAcks()),
		kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.ProducerLinger(0),
		kgo.KeepControlRecords(), // the end of the topic is recognised by its last offset
		kgo.ProducerBatchMaxBytes(int32(cfg.MaxSchemaBytes)*2),
	)
	if err != nil {
		return nil, fmt.Errorf("connect schema registry to the broker: %w", err)
	}
	l := &schemaLog{client: client}
	maxBytes := fmt.Sprint(cfg.MaxSchemaBytes * 3)
	_, err = kadm.NewClient(client).CreateTopic(ctx, 1, 1, map[string]*string{
		"cleanup.policy":    kmsg.StringPtr("compact"),
		"max.message.bytes": &maxBytes,
	}, schemasTopic)
	if err != nil && !errors.Is(err, kerr.TopicAlreadyExists) {
		l.close()
		return nil, fmt.Errorf("create topic %s for the schema registry: %w", schemasTopic, err)
	}
	return l, nil
}

// Append implements registry.Log.
func (l *schemaLog) Append(ctx context.Context, key, value []byte) error {
	rec := &kgo.Record{Topic: schemasTopic, Key: key, Value: value}
	if err := l.client.ProduceSync(ctx, rec).FirstErr(); err != nil {
		return fmt.Errorf("write to topic %s: %w", schemasTopic, err)
	}
	return nil
}

// replay hands every record of the topic, in order, to load.
func (l *schemaLog) replay(ctx context.Context, load func(key, value []byte) error) error {
	ends, err := kadm.NewClient(l.client).ListEndOffsets(ctx, schemasTopic)
	if err == nil {
		err = ends.Error()
	}
	if err != nil {
		return fmt.Errorf("ask for the end of topic %s: %w", schemasTopic, err)
	}
	end, _ := ends.Lookup(schemasTopic, 0)
	l.client.AddConsumePartitions(map[string]map[int32]kgo.Offset{schemasTopic: {0: kgo.NewOffset().AtStart()}})
	defer l.client.RemoveConsumePartitions(map[string][]int32{schemasTopic: {0}})
	for next := int64(0); next < end.Offset; {
		fetches := l.client.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			return fmt.Errorf("read topic %s: %w", schemasTopic, err)
		}
		var failed error
		fetches.EachRecord(func(r *kgo.Record) {
			next = r.Offset + 1
			if failed == nil && !r.Attrs.IsControl() {
				if err := load(r.Key, r.Value); err != nil {
					failed = fmt.Errorf("read topic %s at offset %d: %w", schemasTopic, r.Offset, err)
				}
			}
		})
		if failed != nil {
			return failed
		}
	}
	return nil
}

func (l *schemaLog) close() { l.client.Close() }
