package replay_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/regent-infra/regent/internal/avrocodec"
	"github.com/regent-infra/regent/internal/checkpoint"
	"github.com/regent-infra/regent/internal/clock"
	"github.com/regent-infra/regent/internal/embedded"
	"github.com/regent-infra/regent/internal/kafka"
	"github.com/regent-infra/regent/internal/kafkaserver"
	"github.com/regent-infra/regent/internal/record"
	"github.com/regent-infra/regent/internal/replay"
	"github.com/regent-infra/regent/internal/stream"
	"github.com/regent-infra/regent/statestore/pebblestore"
)

const (
	factsTopic = "facts"
	stateTopic = "state"
	deadTopic  = "dead"
	processor  = "served"
	tableName  = "table"
	partitions = 2
	patience   = 30 * time.Second
)

// momentsEnv says how many moments have to be answered of each history, besides those that are refused; make replay-moments sets 1,000.
const momentsEnv = "REGENT_REPLAY_MOMENTS"

// history is how a history is made.
type history struct {
	steps, moments int
	// lag is min.compaction.lag.ms of the state.
	lag time.Duration
	// every is after how many steps a checkpoint is made, and the topic compacted.
	every int
}

func histories(t *testing.T, lag time.Duration) []history {
	moments := 25
	if text := os.Getenv(momentsEnv); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 {
			t.Fatalf("%s is %q: expected a number from 1 on", momentsEnv, text)
		}
		moments = n
	}
	steps := max(60, moments/3)
	return []history{{steps, moments, 0, steps / 3}, {steps, moments, lag, steps / 3}}
}

// TestWhatWasServedOnApacheKafka and its twin make histories with a runtime, note what it served after each commit, compact the topic for
// real, again and again, and ask for moments of the past.
func TestWhatWasServedOnApacheKafka(t *testing.T) {
	t.Parallel()
	server, err := kafkaserver.StartWith(t.Context(), t.TempDir(), kafkaserver.Options{Settings: map[string]string{
		"log.cleaner.backoff.ms": "100", "file.delete.delay.ms": "1000",
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Kill)
	all := histories(t, 3*time.Second)
	if os.Getenv(momentsEnv) == "" {
		all = all[:1] // the other one takes as long again
	}
	for i, h := range all {
		t.Run(fmt.Sprintf("lag %s", h.lag), func(t *testing.T) {
			s := newServing(t, []string{server.Broker()}, i, h)
			s.compact = s.awaitCleaner
			s.live(h)
			s.ask(h)
		})
	}
}

func TestWhatWasServedOnTheEmbeddedBroker(t *testing.T) {
	t.Parallel()
	for i, h := range histories(t, 700*time.Millisecond) {
		t.Run(fmt.Sprintf("lag %s", h.lag), func(t *testing.T) {
			t.Parallel()
			config := embedded.Config{
				Dir: t.TempDir(), Compatible: func(writer, reader string) error { return avrocodec.Compatible(reader, writer) }, SegmentBytes: 8 << 10,
			}
			open := func() *embedded.Stack {
				stack, err := embedded.Open(context.Background(), config)
				if err != nil {
					t.Fatal(err)
				}
				return stack
			}
			stack := open()
			t.Cleanup(func() { _ = stack.Close(context.Background()) })
			config.BrokerListen = stack.Brokers()[0]
			s := newServing(t, stack.Brokers(), i, h)
			s.compact = func() { // it does so when it starts
				s.stop()
				if err := stack.Close(context.Background()); err != nil {
					t.Fatal(err)
				}
				stack = open()
				s.start()
			}
			s.live(h)
			s.ask(h)
		})
	}
}

// snapshot is what was served from some time between begin and end on.
type snapshot struct {
	begin, end time.Time
	stable     int64
	state      map[string]string
	// between are the states after each fact: a transaction may end anywhere among them.
	between []map[string]string
}

// serving is a runtime, with a memory of what it served.
type serving struct {
	t       *testing.T
	brokers []string
	suffix  string
	archive *kafka.Archive
	store   *pebblestore.Store
	library checkpoint.Library
	random  *rand.Rand
	compact func()

	runtime   *stream.Runtime
	cancel    context.CancelFunc
	done      chan error
	producer  *kafka.Producer
	snapshots [partitions][]snapshot
	bases     []checkpoint.Named
}

func (s *serving) topic(name string) string { return name + s.suffix }

func newServing(t *testing.T, brokers []string, number int, h history) *serving {
	t.Helper()
	dir := t.TempDir()
	s := &serving{
		t: t, brokers: brokers, suffix: fmt.Sprintf("-%d", number), library: checkpoint.NewLibrary(filepath.Join(dir, "checkpoints")),
		random: rand.New(rand.NewPCG(uint64(number), 7)),
	}
	admin, err := kafka.NewAdmin(kafka.Config{Brokers: brokers})
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close()
	for name, config := range map[string]map[string]string{
		factsTopic: {}, deadTopic: {},
		stateTopic: {
			"cleanup.policy": "compact", "message.timestamp.type": "LogAppendTime", "min.compaction.lag.ms": strconv.FormatInt(h.lag.Milliseconds(), 10),
			"min.cleanable.dirty.ratio": "0.01", "segment.ms": "100", "delete.retention.ms": "200",
		},
	} {
		if err := admin.CreateTopic(t.Context(), kafka.TopicSpec{Name: s.topic(name), Partitions: partitions, ReplicationFactor: 1, Config: config}); err != nil {
			t.Fatal(err)
		}
	}
	if s.archive, err = kafka.NewArchive(kafka.Config{Brokers: brokers}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.archive.Close)
	if s.producer, err = kafka.NewProducer(kafka.Config{Brokers: brokers}, kafka.ProducerConfig{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.producer.Close)
	if s.store, err = pebblestore.Open(pebblestore.Options{Dir: filepath.Join(dir, "store")}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.store.Close() })
	s.start()
	t.Cleanup(s.stop)
	return s
}

func (s *serving) definition() stream.Definition {
	return stream.Definition{
		Name: processor + s.suffix, Inputs: []stream.Input{{Topic: s.topic(factsTopic)}}, Changelog: s.topic(stateTopic), Outputs: []string{s.topic(deadTopic)},
		Tables:     []stream.Table{{Name: tableName, Source: s.topic(stateTopic)}},
		NewMachine: func(int32) stream.Machine { return echoTo{s.topic(stateTopic)} },
		DeadLetter: func(r *record.Record, _ string, cause error) (record.Record, error) {
			return record.Record{}, fmt.Errorf("%v cannot be read: %w", r, cause)
		},
	}
}

// echoTo is a machine whose state is what it reads.
type echoTo struct{ topic string }

func (e echoTo) Process(task stream.Task, rec *record.Record) error {
	out := record.Record{Topic: e.topic, Partition: stream.OwnPartition, Key: rec.Key, Value: append([]byte{}, rec.Value...)}
	if string(rec.Value) == "gone" {
		out.Value = nil
	}
	task.Emit(out)
	return nil
}

func (s *serving) start() {
	s.t.Helper()
	log, err := kafka.NewLog(kafka.Config{Brokers: s.brokers}, kafka.SessionConfig{InstanceID: "one"})
	if err != nil {
		s.t.Fatal(err)
	}
	if s.runtime, err = stream.New(s.definition(), stream.Options{Log: log, Store: s.store, FlushInterval: 200 * time.Millisecond}); err != nil {
		s.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	s.cancel, s.done = cancel, make(chan error, 1)
	runtime, done := s.runtime, s.done
	go func() { done <- runtime.Run(ctx) }()
	s.await("the runtime has its tasks", func() bool { return len(s.runtime.Partitions()) == partitions })
}

func (s *serving) stop() {
	s.t.Helper()
	s.cancel()
	select {
	case err := <-s.done:
		if err != nil {
			s.t.Errorf("the runtime ended with: %v", err)
		}
		s.done <- nil
	case <-time.After(patience):
		s.t.Fatal("the runtime does not stop")
	}
}

func (s *serving) await(what string, ok func() bool) {
	s.t.Helper()
	for deadline := time.Now().Add(patience); !ok(); {
		if time.Now().After(deadline) {
			s.t.Fatalf("%s: not within %s; %+v", what, patience, s.runtime.Status())
		}
		_ = clock.Wait(s.t.Context(), clock.System{}, 200*time.Microsecond)
	}
}

// served is what the runtime serves of a partition.
func (s *serving) served(partition int32) map[string]string {
	out := map[string]string{}
	for e, err := range s.runtime.RangePartition(tableName, partition, nil) {
		if err != nil {
			s.t.Fatal(err)
		}
		out[string(e.Key)] = string(e.Value)
	}
	return out
}

func (s *serving) tp(partition int32) record.TopicPartition {
	return record.TopicPartition{Topic: s.topic(stateTopic), Partition: partition}
}

func (s *serving) bounds(partition int32) replay.Bounds {
	s.t.Helper()
	b, err := s.archive.Bounds(s.t.Context(), []record.TopicPartition{s.tp(partition)})
	if err != nil {
		s.t.Fatal(err)
	}
	return b[s.tp(partition)]
}

// step writes some facts, waits until they are served and the broker has written the marker, and notes it.
func (s *serving) step(n int) {
	s.t.Helper()
	partition := s.random.Int32N(partitions)
	want := map[string]string{}
	if all := s.snapshots[partition]; len(all) > 0 {
		want = maps.Clone(all[len(all)-1].state)
	}
	var facts []record.Record
	var between []map[string]string
	for i := range 1 + s.random.IntN(4) {
		// Some keys change all the time, some seldom.
		key := fmt.Sprintf("key-%02d", min(s.random.IntN(30), s.random.IntN(30)))
		value := fmt.Sprintf("%d.%d", n, i)
		if want[key] = value; s.random.IntN(6) == 0 {
			value = "gone"
			delete(want, key)
		}
		between = append(between, maps.Clone(want))
		facts = append(facts, record.Record{Topic: s.topic(factsTopic), Partition: partition, Key: []byte(key), Value: []byte(value)})
	}
	shot := snapshot{begin: time.Now(), state: want, between: between}
	for _, f := range facts {
		if err := s.producer.Produce(s.t.Context(), f); err != nil {
			s.t.Fatal(err)
		}
	}
	s.await("the facts are served", func() bool { return maps.Equal(s.served(partition), want) })
	s.await("the marker is written", func() bool {
		b := s.bounds(partition)
		shot.stable = b.Stable
		return b.Stable == b.High
	})
	shot.end = time.Now()
	s.snapshots[partition] = append(s.snapshots[partition], shot)
	_ = clock.Wait(s.t.Context(), clock.System{}, time.Duration(s.random.IntN(6))*time.Millisecond)
}

func (s *serving) live(h history) {
	s.t.Helper()
	for n := range h.steps {
		s.step(n)
		if (n+1)%h.every != 0 {
			continue
		}
		if err := s.runtime.Flush(s.t.Context()); err != nil {
			s.t.Fatal(err)
		}
		c, err := s.library.Create(s.t.Context(), s.store, fmt.Sprintf("step-%d", n), checkpoint.Options{Clock: clock.System{}})
		if err != nil {
			s.t.Fatal(err)
		}
		s.bases = append(s.bases, c)
		if n < h.steps*5/6 { // the last part stays as it is
			s.compact()
		}
	}
}

// awaitCleaner ends the segments and waits until the broker's cleaner has taken something away.
func (s *serving) awaitCleaner() {
	s.t.Helper()
	before := s.missing()
	s.await("the cleaner has run", func() bool {
		s.step(int(time.Now().UnixMilli())) // a segment is ended by what comes after segment.ms
		return s.missing() > before
	})
}

// missing counts the offsets that hold nothing any more.
func (s *serving) missing() int64 {
	s.t.Helper()
	n := int64(0)
	for p := range int32(partitions) {
		at := int64(0)
		err := s.archive.Batches(s.t.Context(), s.tp(p), 0, s.bounds(p).High, false, func(b *replay.Batch) error {
			n += b.First - at + b.Last - b.First + 1 - int64(b.Count)
			at = b.Last + 1
			return nil
		})
		if err != nil {
			s.t.Fatal(err)
		}
	}
	return n
}

// possible are the states that may have been served at a moment: where a commit was under way, that before it and that after it.
func (s *serving) possible(partition int32, at time.Time) []map[string]string {
	out := []map[string]string{{}}
	for _, shot := range s.snapshots[partition] {
		switch {
		case !shot.end.After(at):
			out = []map[string]string{shot.state}
		case !shot.begin.Truncate(time.Millisecond).After(at):
			out = append(out, shot.between...)
		}
	}
	return out
}

func values(p *replay.Part) map[string]string {
	out := map[string]string{}
	for k, e := range p.Entries {
		out[k] = string(e.Value)
	}
	return out
}

// ask asks for random moments, as times and as offsets, of everything and of one key, with and without checkpoints.
func (s *serving) ask(h history) {
	s.t.Helper()
	r, err := replay.New(s.archive, replay.Options{ClockMargin: -1})
	if err != nil {
		s.t.Fatal(err)
	}
	began, asked := s.snapshots[0][0].begin.Add(-10*time.Millisecond), time.Now()
	answered, total, refused, ambiguous := map[string]int{}, 0, 0, 0
	for i := 0; total < h.moments && i < 30*h.moments; i++ {
		partition := s.random.Int32N(partitions)
		targets, err := r.Targets(s.t.Context(), []string{s.topic(stateTopic)}, func(tp record.TopicPartition) bool { return tp.Partition == partition })
		if err != nil {
			s.t.Fatal(err)
		}
		at := began.Add(time.Duration(s.random.Int64N(int64(time.Since(began))))).Truncate(time.Millisecond)
		if i%5 == 0 && h.lag > 0 {
			at = time.Now().Add(-time.Duration(s.random.Int64N(int64(h.lag)))).Truncate(time.Millisecond)
		}
		q := replay.Query{Moment: replay.Moment{Time: at}}
		want := s.possible(partition, at)
		if i%4 == 3 {
			shot := s.snapshots[partition][s.random.IntN(len(s.snapshots[partition]))]
			q.Moment, want = replay.Moment{Offset: shot.stable}, []map[string]string{shot.state}
		}
		if i%3 == 2 {
			q.Key = fmt.Sprintf("key-%02d", min(s.random.IntN(30), s.random.IntN(30)))
		}
		var bases []replay.Base
		for _, c := range s.bases {
			if b, ok := c.Base(c.Name, processor+s.suffix, tableName, partition); ok && i%2 == 0 {
				bases = append(bases, b)
			}
		}
		part, err := r.At(s.t.Context(), targets[0], q, bases)
		var refusal *replay.Refusal
		if errors.As(err, &refusal) {
			if !refusal.Earliest.IsZero() && q.Moment.Time.After(refusal.Earliest) {
				s.t.Errorf("%s was refused, although the earliest moment is %s", q.Moment, refusal.Earliest)
			}
			refused++
			continue
		}
		if err != nil {
			s.t.Fatal(err)
		}
		if len(want) > 1 {
			ambiguous++
		}
		if !served(values(part), want, q.Key) {
			s.t.Errorf("partition %d, %s, key %q (%s, base %v): replayed %v, served was one of %v", partition, q.Moment, q.Key, part.Proof, part.Base != nil, values(part), want)
		}
		how := string(part.Proof)
		if part.Base != nil {
			how = "checkpoint"
		}
		answered[how]++
		total++
	}
	s.t.Logf("a history of %s, asked for %s until %d moments were answered: answered %v, refused %d, while a commit was under way %d; %d offsets were compacted away, %d checkpoints",
		asked.Sub(began).Round(time.Millisecond), time.Since(asked).Round(time.Millisecond), total, answered, refused, ambiguous, s.missing(), len(s.bases))
	if total < h.moments || s.missing() == 0 || answered["checkpoint"] == 0 || answered[string(replay.Newest)]+answered[string(replay.Key)]+answered[string(replay.Window)] == 0 || refused == 0 {
		s.t.Errorf("the history does not test what it should: answered %v, refused %d, compacted away %d", answered, refused, s.missing())
	}
}

// served reports whether a state is among others, as far as one key goes if there is one.
func served(state map[string]string, among []map[string]string, key string) bool {
	for _, other := range among {
		if key == "" && maps.Equal(state, other) {
			return true
		}
		a, okA := state[key]
		b, okB := other[key]
		if key != "" && a == b && okA == okB && len(state) <= 1 {
			return true
		}
	}
	return false
}
