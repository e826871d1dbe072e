package kafka_test

import (
	"errors"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/regent-infra/regent/internal/kafka"
	"github.com/regent-infra/regent/internal/record"
	"github.com/regent-infra/regent/internal/stream"
)

// leaveOpen writes a record in a transaction of an instance that is no member of the group, and leaves it open.
func leaveOpen(t *testing.T, config kafka.Config, instance string) *kgo.Client {
	t.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(config.Brokers...), kgo.TransactionalID(sessionGroup+"/"+instance), kgo.TransactionTimeout(time.Minute),
		kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	if err := cl.BeginTransaction(); err != nil {
		t.Fatal(err)
	}
	if err := cl.ProduceSync(t.Context(), &kgo.Record{Topic: sessionTopic, Value: []byte("open")}).FirstErr(); err != nil {
		t.Fatal(err)
	}
	return cl
}

// undecided tells how many offsets of the topic's first partition are held up by open transactions.
func undecided(t *testing.T, s stream.Session) int64 {
	t.Helper()
	tp := record.TopicPartition{Topic: sessionTopic}
	marks, err := s.Watermarks(t.Context(), []record.TopicPartition{tp})
	if err != nil {
		t.Fatal(err)
	}
	return marks[tp].High - marks[tp].Stable
}

// TestWhoeverTakesOverEndsWhatTheDeadHaveLeftOpen, under each transactional id of theirs, and leaves the living alone.
func TestWhoeverTakesOverEndsWhatTheDeadHaveLeftOpen(t *testing.T) {
	_, config := sessionBroker(t)
	l, err := kafka.NewLog(config, kafka.SessionConfig{InstanceID: "living", SessionTimeout: 2 * time.Second, TransactionTimeout: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	living := connect(t, l)
	defer closeSession(t, living)
	join(t, living)
	until(t, living, "both tasks", func(b *stream.Batch) bool { return len(b.Assigned) == 2 })
	first, second := leaveOpen(t, config, "dead"), leaveOpen(t, config, "dead/2")
	namesake := leaveOpen(t, config, "living-not") // its name begins like that of a living one

	heir := connect(t, sessionLog(t, config, "heir"))
	defer closeSession(t, heir)
	join(t, heir)
	until(t, living, "one task to go", func(b *stream.Batch) bool { return len(b.Revoked) == 1 })
	acknowledged := make(chan error, 1)
	living.Produce([]record.Record{{Topic: sessionTopic, Partition: 1, Value: []byte("mine")}}, func(_ string, _ int64, err error) { acknowledged <- err })
	if err := errors.Join(living.Flush(t.Context()), <-acknowledged); err != nil {
		t.Fatal(err)
	}
	until(t, heir, "one task", func(b *stream.Batch) bool { return len(b.Assigned) == 1 })
	until(t, heir, "the end of what the dead have left open", func(*stream.Batch) bool { return undecided(t, heir) == 0 })
	for name, cl := range map[string]*kgo.Client{"dead": first, "dead/2": second, "living-not": namesake} {
		if err := cl.EndTransaction(t.Context(), kgo.TryCommit); err == nil {
			t.Errorf("%s has committed after the heir had taken over", name)
		}
	}
	offset := stream.OffsetCommit{TopicPartition: record.TopicPartition{Topic: sessionTopic}, Offset: 1}
	if outcome, err := living.Commit(t.Context(), []int32{0}, []stream.OffsetCommit{offset}); outcome != stream.TransactionCommitted {
		t.Errorf("the living one's transaction is %s, %v", outcome, err)
	}
}

func TestTheDeadCanBeSpared(t *testing.T) {
	_, config := sessionBroker(t)
	open := leaveOpen(t, config, "dead")
	l, err := kafka.NewLog(config, kafka.SessionConfig{InstanceID: "heir", SessionTimeout: 2 * time.Second, SpareDead: true})
	if err != nil {
		t.Fatal(err)
	}
	heir := connect(t, l)
	defer closeSession(t, heir)
	join(t, heir)
	until(t, heir, "both tasks", func(b *stream.Batch) bool { return len(b.Assigned) == 2 })
	if undecided(t, heir) == 0 {
		t.Error("the transaction is not open any more")
	}
	if err := open.EndTransaction(t.Context(), kgo.TryCommit); err != nil {
		t.Error(err)
	}
}
