// Command regent is Regent's contender in the benchmark: the production runtime over the production session and store, with the
// bench fold as its machine. It runs until SIGTERM. With -rebuild it materialises the state from the output topic and ends.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"runtime/pprof"
	"syscall"
	"time"

	"github.com/regent-infra/regent/bench/totals"
	"github.com/regent-infra/regent/internal/clock"
	"github.com/regent-infra/regent/internal/gcpace"
	"github.com/regent-infra/regent/internal/kafka"
	"github.com/regent-infra/regent/internal/stream"
	"github.com/regent-infra/regent/statestore/pebblestore"
)

type flags struct {
	broker, group, input, output, dir, compression, profiles string
	cacheMB, storeCacheMB, gcPercent                         int
	rebuild                                                  bool
}

func main() {
	var f flags
	flag.StringVar(&f.broker, "broker", "", "address of a broker")
	flag.StringVar(&f.group, "group", "", "consumer group")
	flag.StringVar(&f.input, "input", "", "input topic")
	flag.StringVar(&f.output, "output", "", "output topic, which is the changelog too")
	flag.StringVar(&f.dir, "dir", "", "directory of the state store")
	flag.StringVar(&f.compression, "compression", "none", "compression of the output")
	flag.IntVar(&f.cacheMB, "cache", 0, "the runtime's cache, MiB; 0 means its default")
	flag.IntVar(&f.storeCacheMB, "store-cache", 0, "the store's cache of blocks, MiB; 0 means its default")
	flag.IntVar(&f.gcPercent, "gc", 0, "how much the heap may grow between two collections, per cent of what is in use; 0 means as in production")
	flag.StringVar(&f.profiles, "profiles", "", "directory for profiles of processor time and memory; empty means none")
	flag.BoolVar(&f.rebuild, "rebuild", false, "materialise the state from the output topic, print a report as JSON, and end")
	flag.Parse()
	if err := run(f); err != nil {
		fmt.Fprintln(os.Stderr, "regent contender:", err)
		os.Exit(1)
	}
}

func run(f flags) (err error) {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if f.gcPercent > 0 {
		debug.SetGCPercent(f.gcPercent)
	} else {
		gcpace.Start(clock.System{}.Now)
	}
	logger := slog.New(slog.NewTextHandler(os.Stderr, nil))
	profiled, err := profile(f.profiles)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, profiled()) }()
	store, err := pebblestore.Open(pebblestore.Options{Dir: f.dir, CacheBytes: int64(f.storeCacheMB) << 20, Logger: logger})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	log, err := kafka.NewLog(kafka.Config{Brokers: []string{f.broker}},
		kafka.SessionConfig{InstanceID: "bench", Compression: f.compression, Logger: logger})
	if err != nil {
		return err
	}
	definition, err := totals.Definition(f.input, f.output)
	if err != nil {
		return err
	}
	if f.rebuild {
		return rebuild(ctx, definition, stream.RebuildOptions{Log: log, Store: store, Group: f.group, Logger: logger})
	}
	r, err := stream.New(definition, stream.Options{Log: log, Store: store, Group: f.group, Logger: logger, CacheBytes: f.cacheMB << 20})
	if err != nil {
		return err
	}
	return r.Run(ctx)
}

func rebuild(ctx context.Context, d stream.Definition, o stream.RebuildOptions) error {
	report, err := stream.Rebuild(ctx, d, o)
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(map[string]any{"records": report.Records, "seconds": report.Elapsed.Seconds()})
}

// profile starts the profiles and returns what ends them.
func profile(dir string) (func() error, error) {
	if dir == "" {
		return func() error { return nil }, nil
	}
	cpu, err := os.Create(filepath.Join(dir, "cpu.pprof"))
	if err != nil {
		return nil, err
	}
	if err := pprof.StartCPUProfile(cpu); err != nil {
		return nil, err
	}
	began := time.Now()
	return func() error {
		pprof.StopCPUProfile()
		err := cpu.Close()
		for _, name := range []string{"heap", "allocs"} {
			f, failed := os.Create(filepath.Join(dir, name+".pprof"))
			if failed != nil {
				return errors.Join(err, failed)
			}
			err = errors.Join(err, pprof.Lookup(name).WriteTo(f, 0), f.Close())
		}
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		fmt.Fprintf(os.Stderr, "profiled %s: %d collections, %s paused\n", time.Since(began), m.NumGC, time.Duration(m.PauseTotalNs)) //nolint:gosec // far below
		return err
	}, nil
}
