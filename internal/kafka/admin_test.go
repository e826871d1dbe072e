package kafka_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/regent-infra/regent/internal/kafka"
	"github.com/regent-infra/regent/internal/kafka/kafkatest"
	"github.com/regent-infra/regent/internal/record"
)

func newAdmin(t *testing.T) (*kafka.Admin, kafka.Config) {
	t.Helper()
	_, config := kafkatest.Start(t)
	admin, err := kafka.NewAdmin(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(admin.Close)
	return admin, config
}

func TestAdminMakesAndChangesTopics(t *testing.T) {
	t.Parallel()
	admin, _ := newAdmin(t)
	ctx := deadline(t)
	spec := kafka.TopicSpec{Name: "a", Partitions: 2, ReplicationFactor: 1, Config: map[string]string{"cleanup.policy": "compact", "min.compaction.lag.ms": "1000"}}
	if err := admin.CreateTopic(ctx, spec); err != nil {
		t.Fatal(err)
	}
	if err := admin.CreateTopic(ctx, spec); !errors.Is(err, kafka.ErrTopicExists) || !strings.Contains(err.Error(), "create topic a: the topic exists") {
		t.Errorf("created twice: %v", err)
	}
	topics, err := admin.Topics(ctx, "a", "b")
	if err != nil {
		t.Fatal(err)
	}
	first := topics["a"]
	if _, there := topics["b"]; there || first.Partitions != 2 || first.ReplicationFactor != 1 || first.ID == [16]byte{} || first.Leaderless != 0 {
		t.Errorf("topics are %+v", topics)
	}
	if err := admin.AlterConfig(ctx, "a", map[string]string{"retention.ms": "5000"}); err != nil {
		t.Fatal(err)
	}
	if err := admin.SetPartitions(ctx, "a", 5); err != nil {
		t.Fatal(err)
	}
	if err := admin.SetPartitions(ctx, "a", 3); err == nil {
		t.Error("the broker shrank a topic")
	}
	configs, err := admin.Configs(ctx, "a")
	if err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]string{"cleanup.policy": "compact", "retention.ms": "5000"} {
		if got := configs["a"][key]; got != want {
			t.Errorf("%s is %q, want %q", key, got, want)
		}
	}
	if err := admin.DeleteTopic(ctx, "a"); err != nil {
		t.Fatal(err)
	}
	if err := admin.CreateTopic(ctx, spec); err != nil {
		t.Fatal(err)
	}
	if topics, err = admin.Topics(ctx, "a"); err != nil || topics["a"].ID == first.ID {
		t.Errorf("made again it has id %x as before, err %v", topics["a"].ID, err)
	}
}

func TestAdminKnowsOffsets(t *testing.T) {
	t.Parallel()
	admin, config := newAdmin(t)
	ctx := deadline(t)
	if err := admin.CreateTopic(ctx, kafka.TopicSpec{Name: "a", Partitions: 2, ReplicationFactor: 1}); err != nil {
		t.Fatal(err)
	}
	write(t, config, numbered("a", 1, 0, 10)...)
	one := record.TopicPartition{Topic: "a", Partition: 1}
	if err := admin.DeleteRecords(ctx, map[record.TopicPartition]int64{one: 4}); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		list func() (map[record.TopicPartition]int64, error)
		want int64
	}{
		"start":  {func() (map[record.TopicPartition]int64, error) { return admin.StartOffsets(ctx, "a") }, 4},
		"end":    {func() (map[record.TopicPartition]int64, error) { return admin.EndOffsets(ctx, "a") }, 10},
		"stable": {func() (map[record.TopicPartition]int64, error) { return admin.StableOffsets(ctx, "a") }, 10},
		"time":   {func() (map[record.TopicPartition]int64, error) { return admin.OffsetsAt(ctx, time.Unix(0, 0), "a") }, 4},
		"future": {func() (map[record.TopicPartition]int64, error) {
			return admin.OffsetsAt(ctx, time.Now().Add(time.Hour), "a")
		}, 10},
	} {
		got, err := c.list()
		if err != nil || got[one] != c.want || len(got) != 2 {
			t.Errorf("%s offsets are %v, err %v, want %d", name, got, err, c.want)
		}
	}
	if none, err := admin.EndOffsets(ctx); err != nil || len(none) != 0 {
		t.Errorf("no topics have offsets %v, err %v", none, err)
	}
}

func TestScanReadsToTheEnd(t *testing.T) {
	t.Parallel()
	admin, config := newAdmin(t)
	ctx := deadline(t)
	if err := admin.CreateTopic(ctx, kafka.TopicSpec{Name: "a", Partitions: 1, ReplicationFactor: 1}); err != nil {
		t.Fatal(err)
	}
	write(t, config, numbered("a", 0, 0, 3)...)
	client, err := kgo.NewClient(kgo.SeedBrokers(config.Brokers...), kgo.TransactionalID("x"), kgo.DefaultProduceTopic("a"))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if err := client.BeginTransaction(); err != nil {
		t.Fatal(err)
	}
	if err := client.ProduceSync(ctx, &kgo.Record{Value: []byte("aborted")}).FirstErr(); err != nil {
		t.Fatal(err)
	}
	if err := client.EndTransaction(ctx, kgo.TryAbort); err != nil {
		t.Fatal(err)
	}
	tp := record.TopicPartition{Topic: "a"}
	ends, err := admin.EndOffsets(ctx, "a")
	if err != nil || ends[tp] != 5 {
		t.Fatalf("ends %v, err %v", ends, err)
	}
	var values []string
	reached := int64(0)
	err = admin.Scan(ctx, tp, 0, ends[tp], func(records []record.Record, next int64) error {
		for _, rec := range records {
			values = append(values, string(rec.Value))
		}
		reached = next
		return nil
	})
	if err != nil || reached != 5 || len(values) != 3 || values[2] != "v2" {
		t.Errorf("read %v up to %d, err %v", values, reached, err)
	}
}

func TestAdminDescribesTheClusterAndGroups(t *testing.T) {
	t.Parallel()
	admin, _ := newAdmin(t)
	ctx := deadline(t)
	cluster, err := admin.Cluster(ctx)
	if err != nil || cluster.ID == "" || len(cluster.Brokers) != 1 || cluster.Brokers[0].Port == 0 {
		t.Errorf("cluster %+v, err %v", cluster, err)
	}
	settings, err := admin.BrokerConfigs(ctx)
	if err != nil || len(settings) != 1 {
		t.Errorf("broker settings %v, err %v", settings, err)
	}
	groups, err := admin.Groups(ctx)
	if err != nil || len(groups) != 0 {
		t.Errorf("groups %v, err %v", groups, err)
	}
	offsets, err := admin.GroupOffsets(ctx, "nobody")
	if err != nil || len(offsets) != 0 {
		t.Errorf("offsets %v, err %v", offsets, err)
	}
}
