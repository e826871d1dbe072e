package stream_test

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/goleak"

	"github.com/regent-infra/regent/internal/kafka"
	"github.com/regent-infra/regent/internal/record"
	"github.com/regent-infra/regent/internal/stream"
	"github.com/regent-infra/regent/statestore"
)

func TestMain(m *testing.M) {
	if child() {
		return
	}
	goleak.VerifyTestMain(m)
}

// patience bounds every wait in the tests.
const patience = 20 * time.Second

// broker is a Kafka broker in this process that listens on TCP.
type broker struct {
	*kfake.Cluster
	addrs []string
	cl    *kgo.Client
	adm   *kadm.Client
	// partitions is how many each topic has.
	partitions int32
}

func startBroker(t testing.TB, partitions int32, opts ...kfake.Opt) *broker {
	t.Helper()
	c, err := kfake.NewCluster(append([]kfake.Opt{
		kfake.NumBrokers(1), kfake.GroupMinSessionTimeout(100 * time.Millisecond),
	}, opts...)...)
	if err != nil {
		t.Fatalf("start a broker: %v", err)
	}
	t.Cleanup(c.Close)
	cl, err := kgo.NewClient(kgo.SeedBrokers(c.ListenAddrs()...), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerLinger(0))
	if err != nil {
		t.Fatalf("make a client: %v", err)
	}
	t.Cleanup(cl.Close)
	b := &broker{Cluster: c, addrs: c.ListenAddrs(), cl: cl, adm: kadm.NewClient(cl), partitions: partitions}
	b.topic(t, factsTopic, partitions, false)
	b.topic(t, stateTopic, partitions, true)
	b.topic(t, sideTopic, partitions, false)
	b.topic(t, deadTopic, partitions, false)
	return b
}

func (b *broker) topic(t testing.TB, name string, partitions int32, compact bool) {
	t.Helper()
	policy := "delete"
	if compact {
		policy = "compact"
	}
	_, err := b.adm.CreateTopic(t.Context(), partitions, 1, map[string]*string{"cleanup.policy": &policy}, name)
	if err != nil {
		t.Fatalf("create topic %s: %v", name, err)
	}
}

// send writes facts, waits for them, and returns the offset of the last.
func (b *broker) send(t testing.TB, recs ...*kgo.Record) int64 {
	t.Helper()
	res := b.cl.ProduceSync(t.Context(), recs...)
	if err := res.FirstErr(); err != nil {
		t.Fatalf("send %d facts: %v", len(recs), err)
	}
	return res[len(res)-1].Record.Offset
}

func factRecord(partition int32, key string, seq uint64, text string) *kgo.Record {
	return &kgo.Record{Topic: factsTopic, Partition: partition, Key: []byte(key), Value: fact(seq, text)}
}

// markersTime is how long the markers of a committed transaction may take: Kafka answers EndTxn before they are written (KIP-890). A
// transaction that a killed instance left open takes longer, and is none of the reader's business.
const markersTime = 5 * time.Second

// stableEnds returns the last stable offsets, once they have reached the high watermarks.
func (b *broker) stableEnds(t testing.TB, topic string) kadm.ListedOffsets {
	t.Helper()
	for deadline := time.Now().Add(markersTime); ; {
		highs, err := b.adm.ListEndOffsets(t.Context(), topic)
		if err != nil {
			t.Fatalf("list the high watermarks of %s: %v", topic, err)
		}
		ends, err := b.adm.ListCommittedOffsets(t.Context(), topic)
		if err != nil {
			t.Fatalf("list the ends of %s: %v", topic, err)
		}
		stable := true
		highs.Each(func(high kadm.ListedOffset) {
			end, ok := ends.Lookup(topic, high.Partition)
			stable = stable && ok && end.Offset >= high.Offset
		})
		if stable || time.Now().After(deadline) {
			return ends
		}
	}
}

// read returns all committed records of a topic, as they stand now, by partition.
func (b *broker) read(t testing.TB, topic string) map[int32][]record.Record {
	t.Helper()
	ends := b.stableEnds(t, topic)
	out := map[int32][]record.Record{}
	starts := map[int32]kgo.Offset{}
	left := 0
	ends.Each(func(o kadm.ListedOffset) {
		out[o.Partition] = nil
		if o.Offset > 0 {
			starts[o.Partition] = kgo.NewOffset().AtStart()
			left++
		}
	})
	if left == 0 {
		return out
	}
	cl, err := kgo.NewClient(kgo.SeedBrokers(b.addrs...), kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.KeepControlRecords(),
		kgo.FetchMaxWait(50*time.Millisecond), kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: starts}))
	if err != nil {
		t.Fatalf("make a reader: %v", err)
	}
	defer cl.Close()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for left > 0 {
		fs := cl.PollFetches(ctx)
		if err := fs.Err(); err != nil {
			t.Fatalf("read %s: %v", topic, err)
		}
		fs.EachRecord(func(r *kgo.Record) {
			end, _ := ends.Lookup(topic, r.Partition)
			if r.Offset >= end.Offset {
				return
			}
			if r.Offset == end.Offset-1 {
				left--
			}
			if !r.Attrs.IsControl() {
				out[r.Partition] = append(out[r.Partition], fromKgo(r))
			}
		})
	}
	return out
}

// instance is one running runtime.
type instance struct {
	*stream.Runtime
	stop func() error
}

type instanceOption func(*kafka.SessionConfig, *stream.Options, *stream.Definition)

// start runs the test processor until the test ends or stop is called.
func (b *broker) start(t testing.TB, id string, store statestore.Store, options ...instanceOption) *instance {
	t.Helper()
	sc := kafka.SessionConfig{InstanceID: id, SessionTimeout: 2 * time.Second, HeartbeatInterval: 50 * time.Millisecond, TransactionTimeout: 2 * time.Second}
	o := stream.Options{Store: store, PositionInterval: 20 * time.Millisecond}
	def := definition()
	o.Logger = slog.New(slog.NewTextHandler(t.Output(), nil)).With("instance", id)
	sc.Logger = o.Logger
	for _, opt := range options {
		opt(&sc, &o, &def)
	}
	log, err := kafka.NewLog(kafka.Config{Brokers: b.addrs}, sc)
	if err != nil {
		t.Fatalf("make a log: %v", err)
	}
	o.Log = log
	r, err := stream.New(def, o)
	if err != nil {
		t.Fatalf("make a runtime: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	stopped := false
	in := &instance{Runtime: r}
	in.stop = func() error {
		if stopped {
			return nil
		}
		stopped = true
		cancel()
		select {
		case err := <-done:
			return err
		case <-time.After(patience):
			t.Fatalf("instance %s does not stop; it is %+v", id, r.Status())
			return nil
		}
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("instance %s: %+v", id, in.Status())
		}
		if err := in.stop(); err != nil {
			t.Errorf("instance %s ended with: %v", id, err)
		}
	})
	return in
}

// eventually waits until a condition holds.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(patience)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("gave up waiting until %s", what)
		}
	}
}

// position returns the committed position of one input partition.
func (i *instance) position(topic string, partition int32) int64 {
	for _, task := range i.Status().Tasks {
		for _, in := range task.Inputs {
			if in.Topic == topic && in.Partition == partition {
				return in.Position
			}
		}
	}
	return -1
}

func fromKgo(r *kgo.Record) record.Record {
	out := record.Record{Topic: r.Topic, Partition: r.Partition, Offset: r.Offset, Timestamp: r.Timestamp, Key: r.Key, Value: r.Value}
	for _, h := range r.Headers {
		out.Headers = append(out.Headers, record.Header{Key: h.Key, Value: h.Value})
	}
	return out
}

func origin(r *record.Record) (record.TopicPartition, int64) {
	tp, offset, ok := stream.ParseOrigin(r.Header(stream.HeaderOrigin))
	if !ok {
		return tp, -1
	}
	return tp, offset
}
