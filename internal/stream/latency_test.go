package stream_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/regent-infra/regent/internal/stream"
	"github.com/regent-infra/regent/statestore/memstore"
)

// BenchmarkIdleLatency measures, on an idle system, the time from before the input's append to the output's arrival at a reader
// of committed records: the whole path of one event through one runtime.
func BenchmarkIdleLatency(b *testing.B) {
	br := startBroker(b, 1)
	in := br.start(b, "a", memstore.New())
	eventually(b, "the task runs", func() bool { return len(in.Partitions()) == 1 })
	cl, err := kgo.NewClient(kgo.SeedBrokers(br.addrs...), kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{sideTopic: {0: kgo.NewOffset().AtStart()}}))
	if err != nil {
		b.Fatal(err)
	}
	defer cl.Close()
	var took []time.Duration
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	seq := uint64(0)
	for b.Loop() {
		seq++
		began := time.Now()
		sent := br.send(b, factRecord(0, fmt.Sprintf("k%d", seq%100), seq, "x"))
		for arrived := false; !arrived; {
			fs := cl.PollFetches(ctx)
			if err := fs.Err(); err != nil {
				b.Fatal(err)
			}
			fs.EachRecord(func(r *kgo.Record) {
				if rec := fromKgo(r); rec.Header(stream.HeaderOrigin) != nil && string(rec.Header(stream.HeaderOrigin)) == fmt.Sprintf("%s/0/%d", factsTopic, sent) {
					arrived = true
				}
			})
		}
		took = append(took, time.Since(began))
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "p50-ms")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1000, "p99-ms")
	b.ReportMetric(float64(took[len(took)-1].Microseconds())/1000, "max-ms")
}
