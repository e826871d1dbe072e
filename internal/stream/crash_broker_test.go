package stream_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/regent-infra/regent/internal/avrocodec"
	"github.com/regent-infra/regent/internal/embedded"
	"github.com/regent-infra/regent/internal/kafkaserver"
)

// outside is a broker in a process of its own, behind a proxy.
type outside struct {
	*broker
	name  string
	proxy *proxy
	// kill ends the broker with SIGKILL, restart brings it back.
	kill    func()
	restart func(t testing.TB)
}

// brokerOrder makes the test binary an embedded broker.
type brokerOrder struct{ Dir, Listen, Advertise string }

func (o brokerOrder) run() error {
	stack, err := embedded.Open(context.Background(), embedded.Config{
		Dir: o.Dir, BrokerListen: o.Listen, BrokerAdvertise: o.Advertise, CompactionBudget: -1,
		Compatible: func(writer, reader string) error { return avrocodec.Compatible(reader, writer) },
	})
	if err != nil {
		return err
	}
	fmt.Println("listens")
	_, _ = io.Copy(io.Discard, os.Stdin) // ends with the parent
	return stack.Close(context.Background())
}

func startEmbedded(t testing.TB) *outside {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	out := &outside{name: "embedded", proxy: startProxy(t)}
	o := brokerOrder{Dir: filepath.Join(t.TempDir(), "broker"), Listen: address, Advertise: out.proxy.address()}
	var p *process
	up := func(t testing.TB) {
		p = spawnBroker(t, o)
		p.says("listens")
	}
	up(t)
	out.proxy.to(address)
	out.kill = func() { p.kill() }
	out.restart = up
	out.open(t, 1)
	return out
}

func startApache(t testing.TB) *outside {
	t.Helper()
	out := &outside{name: "ApacheKafka", proxy: startProxy(t)}
	srv, err := kafkaserver.StartWith(context.Background(), t.TempDir(), kafkaserver.Options{Advertise: []string{out.proxy.address()}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(srv.Kill)
	out.proxy.to(srv.Broker())
	out.kill = srv.Kill
	out.restart = func(t testing.TB) {
		if err := srv.Restart(context.Background()); err != nil {
			t.Fatal(err)
		}
	}
	out.open(t, 1)
	return out
}

// open makes the tests' own client, and the topics.
func (o *outside) open(t testing.TB, replicas int16) {
	t.Helper()
	o.broker = openBroker(t, []string{o.proxy.address()}, crashPartitions, replicas)
}

func openBroker(t testing.TB, addrs []string, partitions int32, replicas int16) *broker {
	t.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(addrs...), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerLinger(0),
		kgo.MetadataMinAge(50*time.Millisecond), kgo.RetryBackoffFn(func(int) time.Duration { return 50 * time.Millisecond }),
		kgo.AlwaysRetryEOF()) // a broker that is killed may have accepted a connection
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	b := &broker{addrs: addrs, cl: cl, adm: kadm.NewClient(cl), partitions: partitions}
	for _, name := range []string{factsTopic, sideTopic, deadTopic, stateTopic} {
		b.crashTopic(t, name, replicas)
	}
	return b
}

func (b *broker) crashTopic(t testing.TB, name string, replicas int16) {
	t.Helper()
	policy := "delete"
	if name == stateTopic {
		policy = "compact"
	}
	if _, err := b.adm.CreateTopic(context.Background(), b.partitions, replicas, map[string]*string{"cleanup.policy": &policy}, name); err != nil {
		t.Fatalf("create topic %s: %v", name, err)
	}
}

// remove deletes a topic and waits until it is gone.
func (b *broker) remove(t testing.TB, name string) {
	t.Helper()
	if _, err := b.adm.DeleteTopic(t.Context(), name); err != nil {
		t.Fatalf("delete topic %s: %v", name, err)
	}
	eventually(t, name+" is gone", func() bool {
		l, err := b.adm.ListTopics(t.Context())
		return err == nil && !l.Has(name)
	})
}

// trickle writes facts at about the rate until stop is called. A fact that ends a key, and poison, are among them.
func (b *broker) trickle(t testing.TB, perSecond int) (stop func() (sent int)) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan int)
	var failed error
	go func() {
		seq := uint64(0)
		defer func() { done <- int(seq) }()
		const burst = 10
		pace := time.NewTicker(time.Second * burst / time.Duration(perSecond))
		defer pace.Stop()
		for ctx.Err() == nil {
			var recs []*kgo.Record
			for range burst {
				seq++
				text := fmt.Sprint("text ", seq)
				switch {
				case seq%97 == 0:
					text = "poison"
				case seq%53 == 0:
					text = "gone"
				}
				recs = append(recs, factRecord(int32(seq%uint64(b.partitions)), fmt.Sprintf("key-%d", seq%60), seq, text))
			}
			if err := b.cl.ProduceSync(ctx, recs...).FirstErr(); err != nil && !errors.Is(err, context.Canceled) && failed == nil {
				failed = err
			}
			select {
			case <-pace.C:
			case <-ctx.Done():
			}
		}
	}()
	stopped := false
	stop = func() int {
		if stopped {
			return 0
		}
		stopped = true
		cancel()
		n := <-done
		if failed != nil {
			t.Errorf("write facts: %v", failed)
		}
		return n
	}
	t.Cleanup(func() { stop() })
	return stop
}
