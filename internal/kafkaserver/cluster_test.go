package kafkaserver

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// inSync waits until every partition of the topic has n replicas in sync.
func inSync(adm *kadm.Client, topic string, n int) func(context.Context) error {
	return func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, time.Minute)
		defer cancel()
		look := time.NewTicker(50 * time.Millisecond)
		defer look.Stop()
		for ; ; <-look.C {
			topics, err := adm.ListTopics(ctx, topic)
			if err == nil && len(topics[topic].Partitions) > 0 {
				lag := false
				for _, p := range topics[topic].Partitions {
					lag = lag || len(p.ISR) < n
				}
				if !lag {
					return nil
				}
			}
			if ctx.Err() != nil {
				return fmt.Errorf("wait for the replicas of %s: %w", topic, errors.Join(ctx.Err(), err))
			}
		}
	}
}

func TestClusterOfApacheKafkaLosesNoAcknowledgedRecord(t *testing.T) {
	cluster, err := StartCluster(t.Context(), t.TempDir(), 3)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Kill)
	client, err := kgo.NewClient(kgo.SeedBrokers(cluster.Brokers()...), kgo.DefaultProduceTopic("accounts"), kgo.MetadataMinAge(50*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	adm := kadm.NewClient(client)
	if _, err := adm.CreateTopic(t.Context(), 1, 3, nil, "accounts"); err != nil {
		t.Fatal(err)
	}
	settled := inSync(adm, "accounts", 3)
	leader := func() int32 {
		topics, err := adm.ListTopics(t.Context(), "accounts")
		if err != nil {
			t.Fatal(err)
		}
		return topics["accounts"].Partitions[0].Leader
	}
	sent := 0
	send := func() {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		for range 50 {
			if err := client.ProduceSync(ctx, &kgo.Record{Value: fmt.Append(nil, sent)}).FirstErr(); err != nil {
				t.Fatal(err)
			}
			sent++
		}
	}
	if err := settled(t.Context()); err != nil {
		t.Fatal(err)
	}
	send()

	victim := cluster.Node(leader())
	victim.Kill()
	send()
	if err := victim.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := settled(t.Context()); err != nil {
		t.Fatal(err)
	}

	victim = cluster.Node(leader())
	if err := victim.Pause(); err != nil {
		t.Fatal(err)
	}
	send()
	if err := victim.Resume(); err != nil {
		t.Fatal(err)
	}
	if err := settled(t.Context()); err != nil {
		t.Fatal(err)
	}

	if err := cluster.Roll(t.Context(), settled); err != nil {
		t.Fatal(err)
	}
	send()

	reader, err := kgo.NewClient(kgo.SeedBrokers(cluster.Brokers()...), kgo.ConsumeTopics("accounts"))
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for n := 0; n < sent; {
		fetches := reader.PollFetches(ctx)
		if err := ctx.Err(); err != nil {
			t.Fatalf("%d of %d records were read: %v", n, sent, err)
		}
		for _, r := range fetches.Records() {
			if string(r.Value) != fmt.Sprint(n) {
				t.Fatalf("record %d is %q", n, r.Value)
			}
			n++
		}
	}
}
