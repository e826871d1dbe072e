// Command command has Regent do something, and waits for what becomes of it. It ends with 0 when the command is done, 1 when it failed, 3 when it was
// rejected, 4 when there was no outcome in time.
//
//	command -cluster postgres/orders -type CheckHealth -payload '{"timeout_ms": 2000}' -reason 'nightly check'
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
	"strings"
	"syscall"
	"time"

	"github.com/google/uuid"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/regent-infra/regent/docs/clients/go/wire"
)

const (
	done = iota
	failed
	_
	rejected
	timedOut
)

// command is what is asked for.
type command struct {
	id, cluster, kind string
	payload           map[string]any
	dryRun            bool
}

func main() {
	brokers := flag.String("brokers", "127.0.0.1:9092", "broker to start from")
	registry := flag.String("registry", "http://127.0.0.1:8081", "schema registry")
	cluster := flag.String("cluster", "", "cluster id, such as postgres/orders")
	kind := flag.String("type", "", "record name of the command, such as CheckHealth")
	payload := flag.String("payload", "{}", "fields of the command besides meta, JSON")
	id := flag.String("id", "", "id of the command, a UUID; to repeat a command whose delivery is in doubt, give its id again")
	by := flag.String("requested-by", "program/example", "who asks")
	reason := flag.String("reason", "", "why, for the audit trail")
	dryRun := flag.Bool("dry-run", false, "only validate and say what would be done")
	expires := flag.Int("expires-in", 300, "seconds; the command is rejected if it is not taken up within this time")
	timeout := flag.Int("timeout", 300, "seconds to wait for the outcome")
	flag.Parse()

	c := command{id: *id, cluster: *cluster, kind: *kind, dryRun: *dryRun}
	if c.id == "" {
		c.id = uuid.Must(uuid.NewV7()).String()
	}
	if err := json.Unmarshal([]byte(*payload), &c.payload); err != nil || c.payload == nil || c.kind == "" || !strings.Contains(c.cluster, "/") {
		log.Fatalf("-cluster and -type are required, and -payload is a JSON object: %v", err)
	}
	c.payload["meta"] = map[string]any{"requested_by": *by, "reason": *reason, "expires_at": time.Now().UTC().Add(time.Duration(*expires) * time.Second), "dry_run": *dryRun}

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, time.Duration(*timeout)*time.Second)
	defer cancel()
	code, err := run(ctx, *brokers, *registry, c)
	if code == failed && errors.Is(err, context.DeadlineExceeded) {
		code = timedOut
	}
	if err != nil {
		log.Printf("%s %s: %v", c.kind, c.id, err)
	}
	os.Exit(code)
}

func run(ctx context.Context, brokers, registry string, c command) (int, error) {
	codec, err := wire.Connect(registry)
	if err != nil {
		return failed, err
	}
	kind, _, _ := strings.Cut(c.cluster, "/")
	outcomes, err := listen(ctx, brokers, "infra.outcomes."+kind+".v1") // before the command is sent: no outcome is missed
	if err != nil {
		return failed, err
	}
	defer outcomes.Close()
	if err := send(ctx, brokers, codec, "infra.commands."+kind+".v1", c); err != nil {
		return failed, err
	}
	return await(ctx, outcomes, codec, c)
}

// listen returns a consumer that stands at the end of a topic. It belongs to no group: each waiting program sees all outcomes.
func listen(ctx context.Context, brokers, topic string) (*kgo.Client, error) {
	client, err := kgo.NewClient(kgo.SeedBrokers(brokers), kgo.FetchIsolationLevel(kgo.ReadCommitted()))
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", brokers, err)
	}
	ends, err := kadm.NewClient(client).ListCommittedOffsets(ctx, topic)
	if err = errors.Join(err, ends.Error()); err != nil {
		client.Close()
		return nil, fmt.Errorf("find the end of %s: %w", topic, err)
	}
	client.AddConsumePartitions(ends.KOffsets())
	return client, nil
}

// send writes the command and returns when all replicas in sync have it. The producer is idempotent, as the client is by default: what it has
// to repeat is not written twice.
func send(ctx context.Context, brokers string, codec *wire.Codec, topic string, c command) error {
	now := time.Now().UTC()
	value, err := codec.Encode(ctx, topic, map[string]any{
		"id": c.id, "type": c.kind, "source": "program/example", "cluster": c.cluster, "resource": c.cluster, "occurred_at": now,
		"correlation_id": c.id, "causation_id": "", "sequence": now.UnixMicro(), "boot_id": c.id,
		"payload": map[string]any{"io.regent.v1." + c.kind: c.payload},
	})
	if err != nil {
		return err
	}
	producer, err := kgo.NewClient(kgo.SeedBrokers(brokers), kgo.RequiredAcks(kgo.AllISRAcks()))
	if err != nil {
		return fmt.Errorf("connect to %s: %w", brokers, err)
	}
	defer producer.Close()
	// The key decides the partition, by the same hash in Kafka's own clients and in this one (murmur2).
	sent, err := producer.ProduceSync(ctx, &kgo.Record{Topic: topic, Key: []byte(c.cluster), Value: value}).First()
	if err != nil {
		return fmt.Errorf("send it: %w; it may still be carried out; to be sure, send it again with -id %s: it is carried out once", err, c.id)
	}
	return tell(map[string]any{"sent": c.id, "topic": topic, "partition": sent.Partition, "offset": sent.Offset})
}

// await reads outcomes until the command has ended.
func await(ctx context.Context, outcomes *kgo.Client, codec *wire.Codec, c command) (int, error) {
	for {
		fetches := outcomes.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			return failed, fmt.Errorf("wait for its outcome: %w; it may still be carried out", err)
		}
		for _, r := range fetches.Records() {
			event, _, err := codec.Decode(ctx, r.Value)
			if errors.Is(err, wire.ErrUnreadable) {
				log.Printf("skip %s/%d@%d: %v", r.Topic, r.Partition, r.Offset, err)
				continue
			}
			if err != nil {
				return failed, err
			}
			outcome, _ := event["payload"].(map[string]any)
			if outcome["command_id"] != c.id {
				continue
			}
			if err := tell(map[string]any{"outcome": event["type"], "payload": outcome}); err != nil {
				return failed, err
			}
			switch event["type"] {
			case "CommandAccepted":
				if c.dryRun {
					return done, nil // there is nothing to wait for
				}
			case "CommandCompleted":
				return done, nil
			case "CommandRejected":
				return rejected, fmt.Errorf("rejected (%v): %v", outcome["reason"], outcome["message"])
			case "CommandFailed":
				return failed, fmt.Errorf("failed: %v", outcome["message"])
			}
		}
	}
}

// tell prints a line of JSON.
func tell(line map[string]any) error { return json.NewEncoder(os.Stdout).Encode(line) }
