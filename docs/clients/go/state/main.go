// Command state follows a state topic as a member of a consumer group and prints each change as a line of JSON. Started again with the same
// group, it goes on behind the last change that it has printed; after a crash it may print a few again (at least once).
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/regent-infra/regent/docs/clients/go/wire"
)

func main() {
	brokers := flag.String("brokers", "127.0.0.1:9092", "broker to start from")
	registry := flag.String("registry", "http://127.0.0.1:8081", "schema registry")
	topic := flag.String("topic", "infra.state.postgres.v1", "state topic")
	group := flag.String("group", "", "consumer group; required")
	flag.Parse()
	if *group == "" {
		log.Fatal("-group is required")
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := follow(ctx, *brokers, *registry, *topic, *group); err != nil {
		log.Fatal(err)
	}
}

func follow(ctx context.Context, brokers, registry, topic, group string) error {
	codec, err := wire.Connect(registry)
	if err != nil {
		return err
	}
	client, err := kgo.NewClient(
		kgo.SeedBrokers(brokers), // credentials and TLS: kgo.SASL and kgo.DialTLSConfig
		kgo.ConsumerGroup(group),
		kgo.ConsumeTopics(topic),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), // a new group begins with the whole state
		kgo.FetchIsolationLevel(kgo.ReadCommitted()),      // the reducer writes in transactions, and some are aborted
		kgo.AutoCommitMarks(),                             // commits only what take has marked, now and then and at a rebalance
		kgo.BlockRebalanceOnPoll(),
	)
	if err != nil {
		return fmt.Errorf("connect to %s: %w", brokers, err)
	}
	// Leave commits what was marked and tells the group at once; both need time although ctx has ended.
	defer func() {
		client.AllowRebalance() // the last poll has held it back
		ending, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := errors.Join(client.CommitMarkedOffsets(ending), client.LeaveGroupContext(ending)); err != nil {
			log.Printf("leave the group: %v", err)
		}
		client.Close()
	}()
	for {
		fetches := client.PollFetches(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err := fetches.Err(); err != nil { // what can be tried again, the client has tried
			return fmt.Errorf("read %s: %w", topic, err)
		}
		for _, r := range fetches.Records() {
			if err := take(ctx, codec, r); err != nil {
				return err
			}
			client.MarkCommitRecords(r)
		}
		client.AllowRebalance()
	}
}

// change is a line of the output.
type change struct {
	Topic     string          `json:"topic"`
	Partition int32           `json:"partition"`
	Offset    int64           `json:"offset"`
	Key       string          `json:"key"`
	Deleted   bool            `json:"deleted,omitempty"`
	Event     json.RawMessage `json:"event,omitempty"`
}

// take is where your program does its work. It must bear to see a record twice.
func take(ctx context.Context, codec *wire.Codec, r *kgo.Record) error {
	line := change{Topic: r.Topic, Partition: r.Partition, Offset: r.Offset, Key: string(r.Key), Deleted: r.Value == nil}
	if !line.Deleted {
		event, schema, err := codec.Decode(ctx, r.Value)
		if errors.Is(err, wire.ErrUnreadable) {
			log.Printf("skip %s/%d@%d: %v", r.Topic, r.Partition, r.Offset, err) // it will not become better by reading it again
			return nil
		}
		if err != nil {
			return fmt.Errorf("read %s/%d@%d: %w", r.Topic, r.Partition, r.Offset, err)
		}
		if line.Event, err = schema.EncodeJSON(event); err != nil {
			return err
		}
	}
	return json.NewEncoder(os.Stdout).Encode(line)
}
