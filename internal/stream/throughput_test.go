package stream_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/regent-infra/regent/internal/kafka"
	"github.com/regent-infra/regent/internal/stream"
	"github.com/regent-infra/regent/statestore/pebblestore"
)

// BenchmarkCatchUp measures how fast a backlog of facts about 100,000 keys is folded, each of which is said on in two outputs of
// which one is state; broker, client and Pebble share the machine.
func BenchmarkCatchUp(b *testing.B) {
	const facts, keys = 300_000, 100_000
	for b.Loop() {
		b.StopTimer()
		br := startBroker(b, 1)
		var batch []*kgo.Record
		pad := string(make([]byte, 200))
		for i := range facts {
			batch = append(batch, factRecord(0, fmt.Sprintf("key-%07d", i%keys), uint64(i+1), pad))
			if len(batch) == 10_000 {
				br.send(b, batch...)
				batch = batch[:0]
			}
		}
		store, err := pebblestore.Open(pebblestore.Options{Dir: b.TempDir()})
		if err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
		began := time.Now()
		in := br.start(b, "a", store, func(_ *kafka.SessionConfig, o *stream.Options, _ *stream.Definition) { o.PositionInterval = 0 })
		br.settled(b, 1, in)
		b.ReportMetric(facts/time.Since(began).Seconds(), "records/s")
		b.StopTimer()
		if err := in.stop(); err != nil {
			b.Fatal(err)
		}
		if err := store.Close(); err != nil {
			b.Fatal(err)
		}
		br.Close()
		b.StartTimer()
	}
}
