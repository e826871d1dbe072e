package kafka_test

import (
	"testing"
	"time"

	"github.com/regent-infra/regent/internal/kafka"
	"github.com/regent-infra/regent/internal/kafkaserver"
	"github.com/regent-infra/regent/internal/stream"
)

// TestRestartAfterACrashOnApacheKafkaDoesNotWaitForOthers: a Kafka as it is shipped lets the first member of an empty group wait three seconds for
// others. A process that comes back after a crash finds its own dead member in the group, and must not empty it first.
func TestRestartAfterACrashOnApacheKafkaDoesNotWaitForOthers(t *testing.T) {
	srv, err := kafkaserver.StartWith(t.Context(), t.TempDir(), kafkaserver.Options{
		Settings: map[string]string{"group.initial.rebalance.delay.ms": "3000"},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer srv.Kill()
	config := kafka.Config{Brokers: []string{srv.Broker()}}
	admin, err := kafka.NewAdmin(config)
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close()
	if err := admin.CreateTopic(t.Context(), kafka.TopicSpec{Name: sessionTopic, Partitions: 2, ReplicationFactor: 1}); err != nil {
		t.Fatal(err)
	}
	dead := connect(t, sessionLog(t, config, "a"))
	join(t, dead)
	both := func(b *stream.Batch) bool { return len(b.Assigned) == 2 }
	until(t, dead, "both tasks", both)
	// It is never told to leave: its client goes on sending heartbeats, which is even harder than a death.
	next := connect(t, sessionLog(t, config, "a"))
	defer closeSession(t, next)
	began := time.Now()
	join(t, next)
	until(t, next, "both tasks", both)
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("joining took %s, expected less than the 3 s that an empty group waits", took)
	}
	if err := dead.Close(t.Context()); err != nil {
		t.Logf("close of the dead one: %v", err)
	}
}
