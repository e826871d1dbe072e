// Command goka is the Goka contender of the benchmark: a processor with the bench fold whose state is its group table, at least once. The table's
// topic is the output. It runs until SIGTERM.
//
// It is a module of its own, so that Regent's does not depend on Goka.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"hash"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"github.com/IBM/sarama"
	"github.com/lovoo/goka"
	"github.com/lovoo/goka/codec"
	"github.com/lovoo/goka/storage"

	"github.com/regent-infra/regent/bench/workload"
	"github.com/regent-infra/regent/internal/event"
)

// partitions of every topic of the benchmark.
const partitions = 4

func main() {
	broker := flag.String("broker", "", "address of a broker")
	group := flag.String("group", "", "consumer group; the output is the topic GROUP-table")
	input := flag.String("input", "", "input topic")
	output := flag.String("output", "", "must be GROUP-table, which Goka does not let anybody choose")
	dir := flag.String("dir", "", "directory of the state")
	flag.Parse()
	if err := run(*broker, *group, *input, *output, *dir); err != nil {
		fmt.Fprintln(os.Stderr, "goka contender:", err)
		os.Exit(1)
	}
}

func run(broker, group, input, output, dir string) error {
	if table := string(goka.GroupTable(goka.Group(group))); table != output {
		return fmt.Errorf("the output is %q, expected %q", output, table)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	config := goka.DefaultConfig()
	config.Consumer.Offsets.Initial = sarama.OffsetOldest
	goka.ReplaceGlobalConfig(config)
	topics := goka.NewTopicManagerConfig()
	topics.Table.Replication = 1
	avro, err := workload.Codec()
	if err != nil {
		return err
	}
	folders := sync.Pool{New: func() any { return workload.NewFolder(avro) }} // partitions are folded at the same time
	fold := func(c goka.Context, message any) {
		before, _ := c.Value().([]byte) // nil for a new key
		folder := folders.Get().(*workload.Folder)
		defer folders.Put(folder)
		state, err := folder.Fold(before, message.([]byte))
		if err != nil {
			c.Fail(err)
		}
		c.SetValue(state)
	}
	p, err := goka.NewProcessor([]string{broker},
		goka.DefineGroup(goka.Group(group), goka.Input(goka.Stream(input), new(codec.Bytes), fold), goka.Persist(new(codec.Bytes))),
		goka.WithHasher(func() hash.Hash32 { return &placement{} }),
		goka.WithStorageBuilder(storage.DefaultBuilder(dir)),
		goka.WithTopicManagerBuilder(goka.TopicManagerBuilderWithTopicManagerConfig(topics)),
	)
	if err != nil {
		return err
	}
	if err := p.Run(ctx); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// placement puts a key where the inputs have it: its hash is the number of the partition.
type placement struct{ key []byte }

func (p *placement) Write(b []byte) (int, error) {
	p.key = append(p.key, b...)
	return len(b), nil
}

func (p *placement) Sum(b []byte) []byte { return append(b, p.key...) }
func (p *placement) Reset()              { p.key = p.key[:0] }
func (p *placement) Size() int           { return 4 }
func (p *placement) BlockSize() int      { return 1 }

func (p *placement) Sum32() uint32 {
	return uint32(event.Partition(event.ClusterID(p.key), partitions))
}
