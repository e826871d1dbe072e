package embedded

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sr"
)

func TestComesBackWithItsContent(t *testing.T) {
	dir := t.TempDir()
	s := open(t, testConfig(dir))
	id := s.ClusterID()
	cl := client(t, s, kgo.DefaultProduceTopic("things"))
	if _, err := kadm.NewClient(cl).CreateTopic(t.Context(), 3, 1, nil, "things"); err != nil {
		t.Fatal(err)
	}
	for i := range 100 {
		r := &kgo.Record{Key: fmt.Appendf(nil, "k%d", i), Value: fmt.Appendf(nil, "v%d", i)}
		if err := cl.ProduceSync(t.Context(), r).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	registry, err := sr.NewClient(sr.URLs(s.RegistryURL()))
	if err != nil {
		t.Fatal(err)
	}
	made, err := registry.CreateSchema(t.Context(), "things-value", sr.Schema{Schema: `{"type":"string"}`})
	if err != nil {
		t.Fatal(err)
	}
	cl.Close()
	closeStack(t, s)

	s = open(t, testConfig(dir))
	if s.ClusterID() != id {
		t.Errorf("cluster id is %q after a restart, %q before", s.ClusterID(), id)
	}
	if got := readAll(t, s, "things", 100); len(got) != 100 {
		t.Errorf("%d records after a restart, 100 expected", len(got))
	}
	registry, err = sr.NewClient(sr.URLs(s.RegistryURL()))
	if err != nil {
		t.Fatal(err)
	}
	again, err := registry.CreateSchema(t.Context(), "things-value", sr.Schema{Schema: `{"type":"string"}`})
	if err != nil || again.ID != made.ID || again.Version != made.Version {
		t.Errorf("schema is id %d version %d after a restart (%v), id %d version %d before", again.ID, again.Version, err, made.ID, made.Version)
	}
}

// Ids and versions that were given out are the same after a crash.
func TestSchemasSurviveSIGKILL(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	ids := make(map[string]int)
	for round := range 4 {
		c := startChild(t, dir)
		registry, err := sr.NewClient(sr.URLs(c.said.Registry))
		if err != nil {
			t.Fatal(err)
		}
		for i := range 5 * (round + 1) {
			text := fmt.Sprintf(`{"type":"fixed","name":"F","size":%d}`, i+1)
			id, err := registry.RegisterSchema(t.Context(), fmt.Sprintf("subject-%d", i), sr.Schema{Schema: text}, -1, -1)
			if err != nil {
				t.Fatal(err)
			}
			if before, known := ids[text]; known && before != id {
				t.Errorf("round %d: %s has id %d, %d before the crash", round, text, id, before)
			}
			ids[text] = id
		}
		c.kill()
	}
}

// The gate goes on when its handlers have been registered anew, which bounds what kfake keeps for them.
func TestGateGoesOnAfterManyRequests(t *testing.T) {
	s := open(t, testConfig(t.TempDir()))
	cl := client(t, s, kgo.ProducerLinger(0))
	createTopic(t, cl, "appended", 1, "message.timestamp.type", "LogAppendTime")
	old := time.Now().Add(-time.Hour)
	for i := range 2*rotateAfter + 10 {
		produce(t, cl, &kgo.Record{Topic: "appended", Timestamp: old, Value: fmt.Append(nil, i)})
	}
	for _, r := range readAll(t, s, "appended", 2*rotateAfter+10) {
		if time.Since(r.Timestamp) > 10*time.Minute {
			t.Fatalf("record %d has the producer's time %v", r.Offset, r.Timestamp)
		}
	}
}

// readAll reads at least n records of a topic.
func readAll(t *testing.T, s *Stack, topic string, n int) []*kgo.Record {
	t.Helper()
	cl := client(t, s, kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchIsolationLevel(kgo.ReadCommitted()))
	defer cl.Close()
	var all []*kgo.Record
	for len(all) < n {
		fetches := cl.PollFetches(t.Context())
		if err := fetches.Err(); err != nil {
			t.Fatalf("read %s: %v after %d records", topic, err, len(all))
		}
		all = append(all, fetches.Records()...)
	}
	return all
}
