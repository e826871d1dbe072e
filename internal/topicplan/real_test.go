package topicplan_test

import (
	"context"
	"testing"
	"time"

	"github.com/regent-infra/regent/internal/avrocodec"
	"github.com/regent-infra/regent/internal/event"
	"github.com/regent-infra/regent/internal/kafka"
	"github.com/regent-infra/regent/internal/kafkaserver"
	"github.com/regent-infra/regent/internal/topicplan"
	"github.com/regent-infra/regent/internal/topics"
)

// A real broker checks settings, answers from metadata that lags behind, deletes in the background and knows defaults that the one in memory does not.
func TestOnApacheKafka(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	server, err := kafkaserver.Start(ctx, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer server.Kill()
	admin, err := kafka.NewAdmin(kafka.Config{Brokers: []string{server.Broker()}, RequestTimeout: 30 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close()
	registry := avrocodec.NewMemoryRegistry()

	apply := func(what string, set *topics.Set, allow ...string) {
		t.Helper()
		plan, err := topicplan.Make(ctx, admin, registry, set)
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		if plan.Empty() {
			t.Errorf("%s: nothing is to do", what)
		}
		if err := topicplan.Apply(ctx, admin, registry, plan, allow, nil); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		if plan, err = topicplan.Make(ctx, admin, registry, set); err != nil || !plan.Empty() {
			t.Errorf("%s: applied, the plan is, err %v\n%s", what, err, plan)
		}
	}
	apply("create", declared)
	if err := admin.AlterConfig(ctx, orders, map[string]string{"retention.ms": "1000"}); err != nil {
		t.Fatal(err)
	}
	apply("a setting that drifted", declared)
	apply("grow", declared.WithPartitions(event.KindPostgres, 5), declared.Names()...)
	apply("shrink", declared.WithPartitions(event.KindPostgres, 2), declared.Names()...)
}
