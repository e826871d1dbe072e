package kafka_test

import (
	"errors"
	"testing"

	"github.com/regent-infra/regent/internal/kafka"
	"github.com/regent-infra/regent/internal/kafka/kafkatest"
	"github.com/regent-infra/regent/internal/record"
)

func TestOnlyTheLastExclusiveWriterWrites(t *testing.T) {
	t.Parallel()
	_, config := kafkatest.Start(t)
	admin, err := kafka.NewAdmin(config)
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close()
	if err := admin.CreateTopic(t.Context(), kafka.TopicSpec{Name: "log", Partitions: 1, ReplicationFactor: 1}); err != nil {
		t.Fatal(err)
	}
	takeOver := func() *kafka.Exclusive {
		t.Helper()
		e, err := kafka.TakeOver(t.Context(), config, "the-writer")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(e.Close)
		return e
	}
	rec := func(value string) record.Record { return record.Record{Topic: "log", Value: []byte(value)} }
	first := takeOver()
	if err := first.Write(t.Context(), rec("of the first")); err != nil {
		t.Fatal(err)
	}
	second := takeOver()
	if err := first.Write(t.Context(), rec("of a zombie")); !errors.Is(err, kafka.ErrTakenOver) {
		t.Errorf("the first one got %v, want %v", err, kafka.ErrTakenOver)
	}
	if err := second.Write(t.Context(), rec("of the second")); err != nil {
		t.Fatal(err)
	}
	tp := record.TopicPartition{Topic: "log"}
	ends, err := admin.StableOffsets(t.Context(), "log")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	err = admin.Scan(t.Context(), tp, 0, ends[tp], func(records []record.Record, _ int64) error {
		for _, r := range records {
			got = append(got, string(r.Value))
		}
		return nil
	})
	if err != nil || len(got) != 2 || got[0] != "of the first" || got[1] != "of the second" {
		t.Errorf("the log holds %q, %v", got, err)
	}
}
