package kafka_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

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

// The coordinator of a broker that has just started may take longer than any single request.
func TestAnExclusiveWriterWaitsForItsCoordinator(t *testing.T) {
	t.Parallel()
	cluster, config := kafkatest.Start(t)
	config.RequestTimeout = 300 * time.Millisecond
	var loaded, refused atomic.Int64
	loaded.Store(time.Now().Add(time.Second).UnixNano())
	cluster.ControlKey(int16(kmsg.InitProducerID), func(request kmsg.Request) (kmsg.Response, error, bool) {
		cluster.KeepControl()
		if time.Now().UnixNano() > loaded.Load() {
			return nil, nil, false
		}
		refused.Add(1)
		response := request.ResponseKind().(*kmsg.InitProducerIDResponse)
		response.ErrorCode = kerr.CoordinatorLoadInProgress.Code
		return response, nil, true
	})
	e, err := kafka.TakeOver(t.Context(), config, "the-writer")
	if err != nil {
		t.Fatal(err)
	}
	e.Close()
	if n := refused.Load(); n < 2 {
		t.Errorf("the coordinator was asked %d times while it was loading", n)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 400*time.Millisecond)
	defer cancel()
	loaded.Store(time.Now().Add(time.Hour).UnixNano())
	if _, err := kafka.TakeOver(ctx, config, "the-writer"); !errors.Is(err, kerr.CoordinatorLoadInProgress) && !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a coordinator that never loads: %v", err)
	}
}
