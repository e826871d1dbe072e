package kafka

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/regent-infra/regent/internal/record"
)

// Compression of what a producer sends.
const (
	CompressionNone   = "none"
	CompressionLZ4    = "lz4"
	CompressionZstd   = "zstd"
	CompressionSnappy = "snappy"
)

// Defaults of [ProducerConfig].
const (
	defaultDeliveryTimeout = 30 * time.Second
	defaultBufferedRecords = 10_000
	defaultBufferedBytes   = 64 << 20
)

// ProducerConfig adjusts a [Producer]. The zero value is ready to use.
type ProducerConfig struct {
	// Compression is none (the default: single events gain nothing from it), lz4, zstd or snappy.
	Compression string
	// DeliveryTimeout is how long a record is tried before it fails. Default: 30 s.
	DeliveryTimeout time.Duration
	// MaxBufferedRecords and MaxBufferedBytes bound what waits to be sent; beyond it Produce waits and ProduceAsync fails. Defaults: 10,000
	// records, 64 MiB.
	MaxBufferedRecords int
	MaxBufferedBytes   int
}

// Producer writes records outside of transactions: idempotent, acknowledged by all in-sync replicas, sent at once, to the partition that
// each record names. It is safe for concurrent use.
type Producer struct {
	config Config
	client *kgo.Client
}

// NewProducer returns a producer. It does not connect yet.
func NewProducer(config Config, options ProducerConfig) (*Producer, error) {
	if options.DeliveryTimeout <= 0 {
		options.DeliveryTimeout = defaultDeliveryTimeout
	}
	if options.MaxBufferedRecords <= 0 {
		options.MaxBufferedRecords = defaultBufferedRecords
	}
	if options.MaxBufferedBytes <= 0 {
		options.MaxBufferedBytes = defaultBufferedBytes
	}
	codec, err := compression(options.Compression)
	if err != nil {
		return nil, fmt.Errorf("configure the producer: %w", err)
	}
	client, err := config.client(
		kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.RequiredAcks(kgo.AllISRAcks()),
		kgo.ProducerLinger(0),
		kgo.ProducerBatchCompression(codec),
		kgo.RecordDeliveryTimeout(options.DeliveryTimeout),
		kgo.MaxBufferedRecords(options.MaxBufferedRecords),
		kgo.MaxBufferedBytes(options.MaxBufferedBytes),
	)
	if err != nil {
		return nil, err
	}
	return &Producer{config: config.withDefaults(), client: client}, nil
}

func compression(name string) (kgo.CompressionCodec, error) {
	switch name {
	case "", CompressionNone:
		return kgo.NoCompression(), nil
	case CompressionLZ4:
		return kgo.Lz4Compression(), nil
	case CompressionZstd:
		return kgo.ZstdCompression(), nil
	case CompressionSnappy:
		return kgo.SnappyCompression(), nil
	default:
		return kgo.NoCompression(), fmt.Errorf("compression %q is unknown, expected %s, %s, %s or %s", name, CompressionNone, CompressionLZ4, CompressionZstd, CompressionSnappy)
	}
}

// Ping checks that a broker answers within the request timeout.
func (p *Producer) Ping(ctx context.Context) error { return p.config.ping(ctx, p.client) }

// Produce writes records and returns when all of them are acknowledged, or the first error when all are decided. When ctx ends
// before that, the error wraps [ErrOutcomeUnknown]: records that were already sent may still be written. Records of one partition keep their order.
func (p *Producer) Produce(ctx context.Context, records ...record.Record) error {
	results := make(chan error, len(records))
	for i := range records {
		p.client.Produce(ctx, toClient(&records[i]), func(_ *kgo.Record, err error) { results <- err })
	}
	var first error
	for range records {
		select {
		case err := <-results:
			if first == nil {
				first = err
			}
		case <-ctx.Done():
			return p.config.explain(producing(records), fmt.Errorf("%w: %w", ErrOutcomeUnknown, context.Cause(ctx)))
		}
	}
	return p.config.explain(producing(records), first)
}

func producing(records []record.Record) string {
	if len(records) == 1 {
		return fmt.Sprintf("write a record to %s/%d", records[0].Topic, records[0].Partition)
	}
	return fmt.Sprintf("write %d records", len(records))
}

// ProduceAsync writes a record without waiting. done is called once, on another goroutine, with the record and where it now stands, or with
// why it was not written; it must not block. When the buffer is full, done gets an error at once.
func (p *Producer) ProduceAsync(rec record.Record, done func(record.Record, error)) {
	p.client.TryProduce(context.Background(), toClient(&rec), func(sent *kgo.Record, err error) {
		if errors.Is(err, kgo.ErrMaxBuffered) {
			err = fmt.Errorf("%w (the brokers are slower than what is written, or away)", err)
		}
		if err == nil {
			rec.Offset, rec.Timestamp = sent.Offset, sent.Timestamp.UTC()
		}
		if done != nil {
			done(rec, p.config.explain(producing([]record.Record{rec}), err))
		}
	})
}

// Buffered returns how many records wait to be sent or acknowledged.
func (p *Producer) Buffered() int64 { return p.client.BufferedProduceRecords() }

// Flush waits until everything that was given to the producer is decided.
func (p *Producer) Flush(ctx context.Context) error {
	return p.config.explain("wait for written records to be acknowledged", p.client.Flush(ctx))
}

// Close stops the producer. What is still buffered fails; call Flush before to wait for it.
func (p *Producer) Close() { p.client.Close() }

func toClient(r *record.Record) *kgo.Record { return &toClients([]record.Record{*r})[0] }

// toClients converts records in two allocations; they are valid as long as one of them is in use.
func toClients(recs []record.Record) []kgo.Record {
	n := 0
	for i := range recs {
		n += len(recs[i].Headers)
	}
	headers := make([]kgo.RecordHeader, 0, n)
	out := make([]kgo.Record, len(recs))
	for i := range recs {
		r := &recs[i]
		from := len(headers)
		for _, h := range r.Headers {
			headers = append(headers, kgo.RecordHeader{Key: h.Key, Value: h.Value})
		}
		out[i] = kgo.Record{Topic: r.Topic, Partition: r.Partition, Key: r.Key, Value: r.Value, Headers: slices.Clip(headers[from:])}
	}
	return out
}

func fromClient(r *kgo.Record) record.Record {
	return record.Record{
		Topic: r.Topic, Partition: r.Partition, Offset: r.Offset, Timestamp: r.Timestamp.UTC(), Key: r.Key, Value: r.Value,
		Headers: appendHeaders(nil, r),
	}
}

func appendHeaders(to []record.Header, r *kgo.Record) []record.Header {
	for _, h := range r.Headers {
		to = append(to, record.Header{Key: h.Key, Value: h.Value})
	}
	return to
}

// fromFetched converts what was fetched of one partition, without the markers. The records are valid as long as one of them is in use.
func fromFetched(list []*kgo.Record) []record.Record {
	headers := 0
	for _, r := range list {
		headers += len(r.Headers)
	}
	room := make([]record.Header, 0, headers)
	out := make([]record.Record, 0, len(list))
	for _, r := range list {
		if r.Attrs.IsControl() {
			continue
		}
		from := len(room)
		room = appendHeaders(room, r)
		out = append(out, record.Record{
			Topic: r.Topic, Partition: r.Partition, Offset: r.Offset, Timestamp: r.Timestamp.UTC(), Key: r.Key, Value: r.Value,
			Headers: room[from:len(room):len(room)],
		})
	}
	return out
}

// ping asks any broker for anything within the request timeout.
func (c Config) ping(ctx context.Context, client *kgo.Client) error {
	ctx, cancel := context.WithTimeout(ctx, c.RequestTimeout)
	defer cancel()
	return c.explain("reach it", client.Ping(ctx))
}
