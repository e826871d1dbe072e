package kafka

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/regent-infra/regent/internal/record"
)

// ErrTakenOver says that another process has become the writer of that name. A retry cannot help.
var ErrTakenOver = errors.New("another process has taken over as the writer")

// exclusiveTimeout is after what time the broker aborts a record that an exclusive writer has left half written.
const exclusiveTimeout = 10 * time.Second

// Exclusive is the one writer of its name: the broker refuses everything of an earlier one from the moment at which a later one is made
// (KIP-98, fencing of zombies by transactional id). Each record is a transaction of its own. It is for one goroutine.
type Exclusive struct {
	config Config
	name   string
	client *kgo.Client
}

// TakeOver becomes the writer of that name. When it returns, everything that an earlier writer has written is decided and nothing can follow. A coordinator that
// is still loading, as that of a broker that has just started, is waited for as long as ctx allows.
func TakeOver(ctx context.Context, config Config, name string) (*Exclusive, error) {
	client, err := config.client(
		kgo.TransactionalID(name),
		kgo.TransactionTimeout(exclusiveTimeout),
		kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.RequiredAcks(kgo.AllISRAcks()),
		kgo.ProducerLinger(0),
		kgo.ProducerBatchCompression(kgo.NoCompression()),
		kgo.RecordDeliveryTimeout(exclusiveTimeout),
	)
	if err != nil {
		return nil, err
	}
	e := &Exclusive{config: config.withDefaults(), name: name, client: client}
	for {
		err := e.begin(ctx)
		if errors.Is(err, kerr.CoordinatorLoadInProgress) && ctx.Err() == nil {
			continue // the client has waited between its own attempts
		}
		if err != nil {
			client.Close()
			return nil, e.config.explain("become the writer "+name, err)
		}
		return e, nil
	}
}

// begin makes every earlier writer of the name a zombie. The client gives up by itself after one request time-out and says why, which the end of ctx would not.
func (e *Exclusive) begin(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*e.config.RequestTimeout)
	defer cancel()
	_, _, err := e.client.ProducerID(ctx)
	return err
}

// Write writes a record and returns when it is committed. An error wraps [ErrTakenOver] when this is no longer the writer; after any error the
// outcome is not known for sure, and the writer must not be used any more.
func (e *Exclusive) Write(ctx context.Context, rec record.Record) error {
	err := e.write(ctx, rec)
	if errors.Is(err, kerr.ProducerFenced) || errors.Is(err, kerr.InvalidProducerEpoch) || errors.Is(err, kerr.InvalidProducerIDMapping) {
		err = fmt.Errorf("%w %s: %w", ErrTakenOver, e.name, err)
	}
	return e.config.explain(producing([]record.Record{rec}), err)
}

func (e *Exclusive) write(ctx context.Context, rec record.Record) error {
	if err := e.client.BeginTransaction(); err != nil {
		return err
	}
	if err := e.client.ProduceSync(ctx, toClient(&rec)).FirstErr(); err != nil {
		return err
	}
	return e.client.EndTransaction(ctx, kgo.TryCommit)
}

// Close stops the writer. A record that is half written is aborted by the broker.
func (e *Exclusive) Close() { e.client.Close() }
