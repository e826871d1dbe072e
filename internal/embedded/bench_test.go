package embedded

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// BenchmarkTransaction measures a transaction over four partitions with four offsets, from begin to acknowledged end.
func BenchmarkTransaction(b *testing.B) {
	for _, sync := range []bool{false, true} {
		b.Run(fmt.Sprintf("sync=%t", sync), func(b *testing.B) {
			cfg := testConfig(b.TempDir())
			cfg.Sync = sync
			s, err := Open(b.Context(), cfg)
			if err != nil {
				b.Fatal(err)
			}
			defer func() { _ = s.Close(context.Background()) }()
			cl, err := kgo.NewClient(kgo.SeedBrokers(s.Brokers()...))
			if err != nil {
				b.Fatal(err)
			}
			if _, err := kadm.NewClient(cl).CreateTopics(b.Context(), loadPartitions, 1, nil, loadTopic, inputTopic); err != nil {
				b.Fatal(err)
			}
			cl.Close()
			l, err := newLoader(s.Brokers())
			if err != nil {
				b.Fatal(err)
			}
			defer l.cl.Close()
			n := 0
			for b.Loop() {
				n++
				if err := l.run(b.Context(), n, kgo.TryCommit); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkBoot measures the start on two million records (REGENT_EMBEDDED_RECORDS: another number) after an orderly end,
// and after a crash.
func BenchmarkBoot(b *testing.B) {
	records := 2_000_000
	if n, err := strconv.Atoi(os.Getenv("REGENT_EMBEDDED_RECORDS")); err == nil {
		records = n
	}
	dir := filepath.Join(b.TempDir(), "data")
	cfg := testConfig(dir)
	s, err := Open(b.Context(), cfg)
	if err != nil {
		b.Fatal(err)
	}
	cl, err := kgo.NewClient(kgo.SeedBrokers(s.Brokers()...), kgo.DefaultProduceTopic("many"), kgo.MaxBufferedRecords(100_000))
	if err != nil {
		b.Fatal(err)
	}
	for topic, policy := range map[string]string{"many": "compact"} {
		if _, err := kadm.NewClient(cl).CreateTopic(b.Context(), 8, 1, map[string]*string{"cleanup.policy": &policy}, topic); err != nil {
			b.Fatal(err)
		}
	}
	value := make([]byte, 200)
	begin := time.Now()
	for i := range records {
		cl.Produce(b.Context(), &kgo.Record{Key: fmt.Appendf(nil, "key-%d", i%100_000), Value: value}, nil)
	}
	if err := cl.Flush(b.Context()); err != nil {
		b.Fatal(err)
	}
	b.Logf("produced %.0f records/s", float64(records)/time.Since(begin).Seconds())
	cl.Close()
	boot := func(b *testing.B, budget time.Duration, crash bool) {
		cfg := cfg
		cfg.CompactionBudget = budget
		for b.Loop() {
			if crash {
				_ = os.Remove(filepath.Join(dir, cleanName))
			}
			s, err := Open(b.Context(), cfg)
			if err != nil {
				b.Fatal(err)
			}
			b.StopTimer()
			if err := s.Close(context.Background()); err != nil {
				b.Fatal(err)
			}
			b.StartTimer()
		}
	}
	if err := s.Close(context.Background()); err != nil {
		b.Fatal(err)
	}
	b.Run("orderly", func(b *testing.B) { boot(b, -1, false) })
	b.Run("crash", func(b *testing.B) { boot(b, -1, true) })
	b.Run("compacting, once, then nothing to do", func(b *testing.B) { boot(b, time.Minute, false) })
}
