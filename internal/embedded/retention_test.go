package embedded

import (
	"context"
	"fmt"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/regent-infra/regent/internal/clock"
)

// shiftedClock is the machine's clock, moved forward.
type shiftedClock struct {
	clock.System
	by atomic.Int64
}

func (c *shiftedClock) Now() time.Time { return c.System.Now().Add(time.Duration(c.by.Load())) }

// waitFor polls a condition until it holds.
func waitFor(t *testing.T, what string, holds func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for !holds() {
		if err := clock.Wait(ctx, clock.System{}, 20*time.Millisecond); err != nil {
			t.Fatalf("%s: not in time", what)
		}
	}
}

func offsets(t *testing.T, adm *kadm.Client, topic string) (first, next int64) {
	t.Helper()
	starts, err := adm.ListStartOffsets(t.Context(), topic)
	if err != nil || starts.Error() != nil {
		t.Fatal(err, starts.Error())
	}
	ends, err := adm.ListEndOffsets(t.Context(), topic)
	if err != nil || ends.Error() != nil {
		t.Fatal(err, ends.Error())
	}
	s, _ := starts.Lookup(topic, 0)
	e, _ := ends.Lookup(topic, 0)
	return s.Offset, e.Offset
}

// Expired records go, those of compacted topics stay, and the offsets go on where they were, also after a restart.
func TestRetentionDeletesWhatHasExpiredAndNothingElse(t *testing.T) {
	dir := t.TempDir()
	c := &shiftedClock{}
	cfg := testConfig(dir)
	cfg.Clock = c
	cfg.RetentionInterval = time.Second
	s := open(t, cfg)
	cl := client(t, s)
	adm := kadm.NewClient(cl)
	createTopic(t, cl, "short", 1, "retention.ms", "60000")
	createTopic(t, cl, "small", 1, "retention.bytes", "2000", "retention.ms", "-1")
	createTopic(t, cl, "kept", 1, "cleanup.policy", "compact")
	for i := range 100 {
		for _, topic := range []string{"short", "small", "kept"} {
			produce(t, cl, &kgo.Record{Topic: topic, Key: fmt.Appendf(nil, "%d", i), Value: make([]byte, 100)})
		}
	}
	waitFor(t, "retention by size", func() bool { first, _ := offsets(t, adm, "small"); return first > 50 && first < 95 })
	if first, next := offsets(t, adm, "short"); first != 0 || next != 100 {
		t.Errorf("short has offsets %d to %d before its time", first, next)
	}
	c.by.Store(int64(30 * 24 * time.Hour)) // longer than the default retention, too
	waitFor(t, "retention by time", func() bool { first, _ := offsets(t, adm, "short"); return first == 99 })
	if first, next := offsets(t, adm, "kept"); first != 0 || next != 100 {
		t.Errorf("the compacted topic has offsets %d to %d", first, next)
	}
	if _, err := adm.DeleteRecords(t.Context(), offsetsOf("small", 1, -1)); err != nil {
		t.Fatal(err)
	}
	cl.Close()
	closeStack(t, s)

	s = open(t, testConfig(dir))
	cl = client(t, s)
	for _, topic := range []string{"short", "small"} {
		r := &kgo.Record{Topic: topic, Value: []byte("next")}
		produce(t, cl, r)
		if r.Offset != 100 {
			t.Errorf("%s: next offset after a restart is %d, 100 expected", topic, r.Offset)
		}
	}
}

// A compacted topic shrinks at start, but not within min.compaction.lag.ms.
func TestCompactsAtStart(t *testing.T) {
	dir := t.TempDir()
	s := open(t, testConfig(dir))
	cl := client(t, s)
	createTopic(t, cl, "now", 1, "cleanup.policy", "compact")
	createTopic(t, cl, "later", 1, "cleanup.policy", "compact", "min.compaction.lag.ms", "86400000")
	for i := range 100 {
		for _, topic := range []string{"now", "later"} {
			produce(t, cl, &kgo.Record{Topic: topic, Key: fmt.Appendf(nil, "k%d", i%5), Value: fmt.Appendf(nil, "%d", i)})
		}
	}
	cl.Close()
	closeStack(t, s)
	s = open(t, testConfig(dir))
	if got := readAll(t, s, "later", 100); len(got) != 100 {
		t.Errorf("%d records inside the window, 100 expected", len(got))
	}
	got := readAll(t, s, "now", 5)
	values := make(map[string]string)
	for _, r := range got {
		values[string(r.Key)] = string(r.Value)
	}
	if len(got) > 6 || values["k4"] != "99" || values["k0"] != "95" {
		t.Errorf("%d records with values %v after compaction", len(got), values)
	}
}

// An idempotent producer that repeats a batch after a crash of the broker does not write it twice.
func TestRepeatedBatchAfterACrashIsRecognised(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	address := freeAddress(t)
	c := startChild(t, dir, childListen+"="+address)
	cl, err := kgo.NewClient(kgo.SeedBrokers(address), kgo.DefaultProduceTopic("once"), kgo.ProducerLinger(0), kgo.MaxProduceRequestsInflightPerBroker(1))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	createTopic(t, cl, "once", 1)
	produced := make(chan int, 1)
	stop := make(chan struct{})
	go func() {
		n := 0
		for ; ; n++ {
			select {
			case <-stop:
				produced <- n
				return
			default:
			}
			if err := cl.ProduceSync(t.Context(), &kgo.Record{Value: fmt.Appendf(nil, "%d", n)}).FirstErr(); err != nil {
				t.Errorf("record %d: %v", n, err)
				produced <- n
				return
			}
		}
	}()
	for range 8 {
		if err := clock.Wait(t.Context(), clock.System{}, 100*time.Millisecond); err != nil {
			t.Fatal(err)
		}
		c.kill()
		c = startChild(t, dir, childListen+"="+address)
		if c.said.Failure != "" {
			t.Fatal(c.said.Failure)
		}
	}
	close(stop)
	n := <-produced
	cl.Close()
	c.kill()
	s := open(t, testConfig(dir))
	for i, r := range readAll(t, s, "once", n) {
		if string(r.Value) != fmt.Sprint(i) {
			t.Fatalf("record %d has value %s: lost or written twice", i, r.Value)
		}
	}
	t.Logf("%d records over 8 crashes", n)
}
