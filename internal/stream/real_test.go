package stream_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/regent-infra/regent/internal/kafka"
	"github.com/regent-infra/regent/internal/kafkaserver"
	"github.com/regent-infra/regent/internal/stream"
	"github.com/regent-infra/regent/statestore/memstore"
)

// TestOnApacheKafka runs the runtime against the real thing: transactions with the broker's own epochs, a second instance that takes
// a task, a take-over, and the independent reader at the end of each.
func TestOnApacheKafka(t *testing.T) {
	srv, err := kafkaserver.Start(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(srv.Kill)
	cl, err := kgo.NewClient(kgo.SeedBrokers(srv.Broker()), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerLinger(0))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	b := &broker{addrs: []string{srv.Broker()}, cl: cl, adm: kadm.NewClient(cl)}
	for _, name := range []string{factsTopic, sideTopic, deadTopic, stateTopic} {
		b.topic(t, name, 2, name == stateTopic)
	}
	patient := func(sc *kafka.SessionConfig, _ *stream.Options, _ *stream.Definition) {
		sc.SessionTimeout, sc.TransactionTimeout = 6*time.Second, 5*time.Second
	}
	seq := uint64(0)
	send := func(n int) {
		var recs []*kgo.Record
		for range n {
			seq++
			text := "x"
			if seq%31 == 0 {
				text = "gone"
			}
			recs = append(recs, factRecord(int32(seq%2), fmt.Sprintf("k%d", seq%40), seq, text))
		}
		b.send(t, recs...)
	}
	store := memstore.New()
	first := b.start(t, "first", store, patient)
	for range 20 {
		send(10)
		b.settled(t, 2, first)
	}
	if err := b.audit(t, running(t, first.Runtime)); err != nil {
		t.Fatal(err)
	}
	second := b.start(t, "second", memstore.New(), patient)
	eventually(t, "each has a task", func() bool { return len(first.Partitions()) == 1 && len(second.Partitions()) == 1 })
	send(200)
	b.settled(t, 2, first, second)
	if err := first.stop(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the second has both", func() bool { return len(second.Partitions()) == 2 })
	send(200)
	b.settled(t, 2, second)
	if err := b.audit(t, running(t, second.Runtime)); err != nil {
		t.Fatal(err)
	}
	if err := second.stop(); err != nil {
		t.Fatal(err)
	}
	first = b.start(t, "first", store, patient) // on what it had, which is old by now
	send(2000)
	b.settled(t, 2, first)
	if err := b.audit(t, running(t, first.Runtime)); err != nil {
		t.Fatal(err)
	}
}
