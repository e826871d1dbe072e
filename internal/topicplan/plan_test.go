package topicplan_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/regent-infra/regent/internal/avrocodec"
	"github.com/regent-infra/regent/internal/envelope"
	"github.com/regent-infra/regent/internal/event"
	"github.com/regent-infra/regent/internal/kafka"
	"github.com/regent-infra/regent/internal/kafka/kafkatest"
	"github.com/regent-infra/regent/internal/topicplan"
	"github.com/regent-infra/regent/internal/topics"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	observations = topics.Observations(event.KindPostgres)
	orders       = topics.Orders(event.KindPostgres)
	declared     = topics.Default().WithReplicationFactor(1)
)

type world struct {
	admin    *kafka.Admin
	registry *avrocodec.MemoryRegistry
}

func newWorld(t *testing.T) world {
	t.Helper()
	_, config := kafkatest.Start(t)
	admin, err := kafka.NewAdmin(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(admin.Close)
	return world{admin: admin, registry: avrocodec.NewMemoryRegistry()}
}

func (w world) plan(t *testing.T, set *topics.Set) topicplan.Plan {
	t.Helper()
	plan, err := topicplan.Make(deadline(t), w.admin, w.registry, set)
	if err != nil {
		t.Fatal(err)
	}
	return plan
}

func (w world) apply(t *testing.T, set *topics.Set, allow ...string) error {
	t.Helper()
	return topicplan.Apply(deadline(t), w.admin, w.registry, w.plan(t, set), allow, nil)
}

func deadline(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func TestApplyMakesThePlanEmpty(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	plan := w.plan(t, declared)
	text := plan.String()
	for _, want := range []string{
		observations + "\n  + create topic: 4 partitions, 1 replicas, cleanup.policy=compact delete.retention.ms=86400000 message.timestamp.type=LogAppendTime",
		"  ~ set compatibility: subject " + observations + "-value (the registry's default) → BACKWARD_TRANSITIVE",
		"  + register schema: subject " + observations + "-value, version 1, payloads PostgresNodeObserved",
		"30 steps, 0 of them dangerous.",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("the plan lacks %q", want)
		}
	}
	var done []topicplan.Step
	if err := topicplan.Apply(deadline(t), w.admin, w.registry, plan, nil, func(s topicplan.Step) { done = append(done, s) }); err != nil {
		t.Fatal(err)
	}
	if len(done) != len(plan.Steps) {
		t.Errorf("%d of %d steps were reported", len(done), len(plan.Steps))
	}
	again := w.plan(t, declared)
	if !again.Empty() || again.String() != "10 topics and their schemas are as declared.\n" {
		t.Errorf("applied, the plan is\n%s", again)
	}
	codec, err := avrocodec.New(w.registry, declared, avrocodec.Config{})
	if err != nil {
		t.Fatal(err)
	}
	if err := codec.Prepare(deadline(t), declared.Names()...); err != nil {
		t.Errorf("a schema is missing: %v", err)
	}
}

func TestSettingsThatDriftedComeBack(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	if err := w.apply(t, declared); err != nil {
		t.Fatal(err)
	}
	if err := w.admin.AlterConfig(deadline(t), orders, map[string]string{"retention.ms": "1000", "max.message.bytes": "2000000"}); err != nil {
		t.Fatal(err)
	}
	plan := w.plan(t, declared)
	if len(plan.Steps) != 1 || !strings.Contains(plan.String(), "~ alter config: retention.ms 1000 → 7776000000") {
		t.Fatalf("the plan is\n%s", plan)
	}
	if err := w.apply(t, declared); err != nil {
		t.Fatal(err)
	}
	if plan := w.plan(t, declared); !plan.Empty() {
		t.Errorf("applied, the plan is\n%s", plan)
	}
	configs, err := w.admin.Configs(deadline(t), orders)
	if err != nil || configs[orders]["max.message.bytes"] != "2000000" {
		t.Errorf("a setting that is not declared became %q, err %v", configs[orders]["max.message.bytes"], err)
	}
}

func TestDangerousStepsNeedTheTopicsName(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change func(t *testing.T, w world) *topics.Set
		topic  string
		want   string
	}{
		"grow": {func(*testing.T, world) *topics.Set {
			return declared.WithPartitions(event.KindPostgres, 6)
		}, orders, "partitions 4 → 6: clusters move to other partitions"},
		"shrink": {func(*testing.T, world) *topics.Set {
			return declared.WithPartitions(event.KindPostgres, 2)
		}, orders, "partitions 4 → 2"},
		"compact to delete": {func(t *testing.T, w world) *topics.Set {
			w.alter(t, orders, "cleanup.policy", "compact")
			return declared
		}, orders, "cleanup.policy compact → delete: the latest value of a key is deleted once it is old enough"},
		"delete to compact": {func(t *testing.T, w world) *topics.Set {
			w.alter(t, observations, "cleanup.policy", "delete")
			return declared
		}, observations, "cleanup.policy delete → compact: all but the latest value of each key is deleted"},
		"retention lowered": {func(t *testing.T, w world) *topics.Set {
			w.alter(t, orders, "retention.ms", "-1")
			return declared
		}, orders, "retention.ms -1 → 7776000000: records are deleted earlier than before"},
		"time stamps": {func(t *testing.T, w world) *topics.Set {
			w.alter(t, orders, "message.timestamp.type", "CreateTime")
			return declared
		}, orders, "message.timestamp.type CreateTime → LogAppendTime: stream time changes its clock"},
		"compatibility": {func(t *testing.T, w world) *topics.Set {
			if err := w.registry.SetMode(t.Context(), topics.Subject(orders), "FULL_TRANSITIVE"); err != nil {
				t.Fatal(err)
			}
			return declared
		}, orders, "FULL_TRANSITIVE → BACKWARD_TRANSITIVE: readers may meet records that they cannot read"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			if err := w.apply(t, declared); err != nil {
				t.Fatal(err)
			}
			set := c.change(t, w)
			before := w.plan(t, set)
			err := w.apply(t, set, "infra.other.v1")
			var refused *topicplan.RefusedError
			if !errors.As(err, &refused) || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "(to do it, use --allow "+c.topic+")") {
				t.Fatalf("got %v, want %q in it", err, c.want)
			}
			if after := w.plan(t, set); after.String() != before.String() {
				t.Errorf("something was changed all the same:\n%s", after)
			}
			if err := w.apply(t, set, set.Names()...); err != nil {
				t.Fatal(err)
			}
			if after := w.plan(t, set); !after.Empty() {
				t.Errorf("allowed by name, the plan is\n%s", after)
			}
		})
	}
}

func (w world) alter(t *testing.T, topic, key, value string) {
	t.Helper()
	if err := w.admin.AlterConfig(deadline(t), topic, map[string]string{key: value}); err != nil {
		t.Fatal(err)
	}
}

func TestOtherTopicsAreLeftAlone(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	if err := w.admin.CreateTopic(deadline(t), kafka.TopicSpec{Name: "theirs", Partitions: 7, ReplicationFactor: 1}); err != nil {
		t.Fatal(err)
	}
	if err := w.apply(t, declared); err != nil {
		t.Fatal(err)
	}
	if got, err := w.admin.Topics(deadline(t), "theirs"); err != nil || got["theirs"].Partitions != 7 {
		t.Errorf("theirs is %+v, %v", got, err)
	}
}

func TestAnotherReplicationFactorIsNoticed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	if err := w.apply(t, declared); err != nil {
		t.Fatal(err)
	}
	plan := w.plan(t, topics.Default())
	if !strings.Contains(plan.String(), "note: "+orders+" has 1 replicas, declared are 3: reassign") {
		t.Errorf("the plan is\n%s", plan)
	}
}

func TestTooFewBrokersNamesTheFlag(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	err := w.apply(t, topics.Default())
	if err == nil || !strings.Contains(err.Error(), "create topic") || !strings.Contains(err.Error(), "--replication-factor") {
		t.Errorf("got %v, want the hint", err)
	}
}

func TestIncompatibleSchemasAreRefusedByName(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	if err := w.apply(t, declared); err != nil {
		t.Fatal(err)
	}
	// Somebody has registered a version whose orders cannot be read by the declared one.
	schema, err := envelope.Schema([]string{"FencePostgres", "NodeHeartbeat"})
	if err != nil {
		t.Fatal(err)
	}
	other := avrocodec.NewMemoryRegistry()
	if _, err := other.Register(t.Context(), topics.Subject(orders), schema); err != nil {
		t.Fatal(err)
	}
	_, err = topicplan.Make(deadline(t), w.admin, other, declared)
	for _, want := range []string{
		"the schema of subject " + orders + "-value is not compatible with what is registered under mode BACKWARD_TRANSITIVE",
		"add fields with defaults, never rename, retype or remove",
		"incompatible at payload",
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q in it", err, want)
		}
	}
}

// yes is a registry that finds everything compatible, as some do.
type yes struct{ *avrocodec.MemoryRegistry }

func (yes) CheckCompatible(context.Context, string, string) error { return nil }

func TestARegistryThatSaysYesToEverythingIsNotBelieved(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	schema, err := envelope.Schema([]string{"FencePostgres", "NodeHeartbeat"})
	if err != nil {
		t.Fatal(err)
	}
	registry := yes{avrocodec.NewMemoryRegistry()}
	if _, err := registry.Register(t.Context(), topics.Subject(orders), schema); err != nil {
		t.Fatal(err)
	}
	_, err = topicplan.Make(deadline(t), w.admin, registry, declared)
	if err == nil || !strings.Contains(err.Error(), "the schema of subject "+orders+"-value is not compatible") {
		t.Errorf("got %v", err)
	}
}

func TestUnreachableServersAreNamed(t *testing.T) {
	t.Parallel()
	address := kafkatest.Nobody(t)
	away, err := kafka.NewAdmin(kafka.Config{Brokers: []string{address}, RequestTimeout: 2 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	defer away.Close()
	w := newWorld(t)
	_, err = topicplan.Make(deadline(t), away, w.registry, declared)
	if !errors.Is(err, kafka.ErrUnreachable) || !strings.Contains(err.Error(), "plan topics: Kafka at "+address) {
		t.Errorf("broker: %v", err)
	}
	registry, err := avrocodec.NewClient(avrocodec.ClientConfig{URLs: []string{"http://" + address}, Timeout: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	defer registry.Close()
	_, err = topicplan.Make(deadline(t), w.admin, registry, declared)
	if !errors.Is(err, avrocodec.ErrUnreachable) || !strings.Contains(err.Error(), "plan schemas: schema registry at http://"+address) || !strings.Contains(err.Error(), "is it up, and is the address right?") {
		t.Errorf("registry: %v", err)
	}
}

func TestAnInterruptedApplyIsFinishedByTheNext(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	plan := w.plan(t, declared)
	ctx, cancel := context.WithCancel(deadline(t))
	steps := 0
	err := topicplan.Apply(ctx, w.admin, w.registry, plan, nil, func(topicplan.Step) {
		if steps++; steps == 7 {
			cancel()
		}
	})
	if err == nil || !strings.Contains(err.Error(), "apply topics: ") {
		t.Fatalf("got %v, want that it was cut short", err)
	}
	if err := w.apply(t, declared); err != nil {
		t.Fatal(err)
	}
	if plan := w.plan(t, declared); !plan.Empty() {
		t.Errorf("the plan is\n%s", plan)
	}
}
