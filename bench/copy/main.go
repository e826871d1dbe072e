// Command copy is the bare limit of the benchmark: it consumes and produces the same bytes in transactions with the offsets, without
// decoding and without state. It runs until SIGTERM.
//
// It is a module of its own, because in Regent's only internal/kafka imports the client.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// Bounds of a transaction. A lull ends it at once.
const (
	maxRecords = 20_000
	maxAge     = 100 * time.Millisecond
)

func main() {
	broker := flag.String("broker", "", "address of a broker")
	group := flag.String("group", "", "consumer group")
	input := flag.String("input", "", "input topic")
	output := flag.String("output", "", "output topic")
	codec := flag.String("compression", "none", "compression of the output: none, lz4")
	flag.String("dir", "", "ignored: there is no state")
	flag.Parse()
	if err := run(*broker, *group, *input, *output, *codec); err != nil {
		fmt.Fprintln(os.Stderr, "copy contender:", err)
		os.Exit(1)
	}
}

func run(broker, group, input, output, codec string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	compression := kgo.NoCompression()
	switch codec {
	case "none":
	case "lz4":
		compression = kgo.Lz4Compression()
	default:
		return fmt.Errorf("compression %q is unknown, expected none or lz4", codec)
	}
	session, err := kgo.NewGroupTransactSession(
		kgo.SeedBrokers(broker),
		kgo.ConsumerGroup(group), kgo.ConsumeTopics(input),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.FetchMaxWait(250*time.Millisecond), kgo.MetadataMinAge(100*time.Millisecond), // else a start may stall for five seconds
		kgo.RequireStableFetchOffsets(),
		kgo.SessionTimeout(6*time.Second), kgo.HeartbeatInterval(500*time.Millisecond),
		kgo.TransactionalID(group), kgo.TransactionTimeout(10*time.Second),
		kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.ProducerLinger(0), kgo.ProducerBatchCompression(compression),
		kgo.MaxBufferedRecords(100_000),
		kgo.ConcurrentTransactionsBackoff(2*time.Millisecond),
	)
	if err != nil {
		return err
	}
	defer session.Close()
	for ctx.Err() == nil {
		if err := transact(ctx, session, output); err != nil && ctx.Err() == nil {
			return err
		}
	}
	return nil
}

// transact copies what is there, up to the bounds, and commits it.
func transact(ctx context.Context, session *kgo.GroupTransactSession, output string) error {
	fetches := session.PollRecords(ctx, maxRecords)
	if err := fetches.Err(); err != nil {
		return err
	}
	if err := session.Begin(); err != nil {
		return err
	}
	failed := make(chan error, 1)
	began, n := time.Now(), 0
	for {
		n += fetches.NumRecords()
		fetches.EachRecord(func(r *kgo.Record) {
			session.Produce(ctx, &kgo.Record{Topic: output, Partition: r.Partition, Key: r.Key, Value: r.Value}, func(_ *kgo.Record, err error) {
				if err != nil {
					select {
					case failed <- err:
					default:
					}
				}
			})
		})
		if n >= maxRecords || time.Since(began) >= maxAge || session.Client().BufferedFetchRecords() == 0 {
			break
		}
		fetches = session.PollRecords(ctx, maxRecords-n)
		if err := fetches.Err(); err != nil {
			return err
		}
	}
	committed, err := session.End(context.WithoutCancel(ctx), kgo.TryCommit)
	if err != nil {
		return err
	}
	if !committed {
		select {
		case err := <-failed:
			return fmt.Errorf("a transaction was aborted: %w", err)
		default:
			return errors.New("a transaction was aborted: the group has moved on")
		}
	}
	return nil
}
