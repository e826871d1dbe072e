package postgres

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/regent-infra/regent/adapters/postgres/servertest"
	"github.com/regent-infra/regent/internal/avrocodec"
	"github.com/regent-infra/regent/internal/embedded"
	"github.com/regent-infra/regent/internal/event"
	"github.com/regent-infra/regent/internal/kafka"
	"github.com/regent-infra/regent/internal/record"
	"github.com/regent-infra/regent/internal/topics"
	"github.com/regent-infra/regent/schemas"
)

// envAgent makes the test binary an agent: its value is the configuration without the registry.
const (
	envAgent    = "REGENT_TEST_AGENT"
	envRegistry = "REGENT_TEST_REGISTRY"
)

// agentProcess is the main function of an agent that is a process of its own.
func agentProcess() int {
	var config Config
	if err := json.Unmarshal([]byte(os.Getenv(envAgent)), &config); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	config.Registry = avrocodec.ClientConfig{URLs: []string{os.Getenv(envRegistry)}}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	if err := Run(ctx, config, slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelInfo}))); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// broker is the embedded broker and registry with all topics.
type broker struct {
	stack    *embedded.Stack
	config   kafka.Config
	codec    event.Codec
	producer *kafka.Producer
	registry *avrocodec.Client
}

func startBroker(t testing.TB) *broker {
	t.Helper()
	ctx := servertest.Context(t)
	stack, err := embedded.Open(ctx, embedded.Config{Dir: t.TempDir(), Compatible: func(writer, reader string) error { return avrocodec.Compatible(reader, writer) }})
	if err != nil {
		t.Fatal(err)
	}
	b := &broker{stack: stack, config: kafka.Config{Brokers: stack.Brokers()}}
	t.Cleanup(func() {
		b.producer.Close()
		b.registry.Close()
		if err := stack.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	if b.registry, err = avrocodec.NewClient(avrocodec.ClientConfig{URLs: []string{stack.RegistryURL()}}); err != nil {
		t.Fatal(err)
	}
	codec, err := avrocodec.New(b.registry, topics.Default(), avrocodec.Config{})
	if err != nil {
		t.Fatal(err)
	}
	b.codec = codec
	admin, err := kafka.NewAdmin(b.config)
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close()
	for _, topic := range topics.Default().All() {
		if err := admin.CreateTopic(ctx, kafka.TopicSpec{Name: topic.Name, Partitions: topic.Partitions, ReplicationFactor: 1}); err != nil {
			t.Fatal(err)
		}
		if _, err := b.registry.Register(ctx, topics.Subject(topic.Name), codec.Schema(topic.Name)); err != nil {
			t.Fatal(err)
		}
	}
	if b.producer, err = kafka.NewProducer(b.config, kafka.ProducerConfig{}); err != nil {
		t.Fatal(err)
	}
	return b
}

// follow copies observations from the broker into a memory log, in which the helpers of this package look.
func (b *broker) follow(t testing.TB, log *memoryLog) {
	t.Helper()
	partition := event.Partition(testCluster, topics.Default().Partitions(event.KindPostgres))
	reader, err := kafka.NewReader(b.config, map[record.TopicPartition]kafka.Start{
		{Topic: topics.Observations(event.KindPostgres), Partition: partition}: kafka.FromEarliest(),
		{Topic: topics.Heartbeats(event.KindPostgres), Partition: partition}:   kafka.FromEarliest(),
	}, kafka.ReaderConfig{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		defer reader.Close()
		for ctx.Err() == nil {
			records, err := reader.Poll(ctx)
			if err != nil && ctx.Err() == nil && !errors.Is(err, kafka.ErrUnreachable) {
				t.Errorf("read what agents say: %v", err)
				return
			}
			for _, rec := range records {
				e, err := b.codec.Decode(rec.Topic, rec.Value)
				if err != nil {
					t.Errorf("decode what agents say: %v", err)
					return
				}
				value, err := testCodec().Encode(rec.Topic, e)
				if err != nil {
					t.Errorf("encode it again: %v", err)
					return
				}
				rec.Value = value
				log.append(rec)
			}
		}
	})
	t.Cleanup(func() {
		cancel()
		wg.Wait()
	})
}

// process is an agent as a process of its own.
type process struct {
	*node
	broker *broker
	cmd    *exec.Cmd
	ended  chan struct{}
}

func startProcess(t testing.TB, b *broker, log *memoryLog, name string) *process {
	t.Helper()
	config := testConfig(t, name)
	config.Kafka = kafka.Config{Brokers: b.config.Brokers}
	p := &process{node: &node{t: t, name: name, config: config, log: log, logs: &lockedBuffer{}}, broker: b}
	p.spawn()
	t.Cleanup(func() {
		p.kill()
		if t.Failed() {
			t.Logf("what %s logged:\n%s", name, p.logs)
		}
	})
	return p
}

func (p *process) spawn() {
	p.t.Helper()
	text, err := json.Marshal(p.config) //nolint:staticcheck // the registry's part, which has functions in it, is empty
	if err != nil {
		p.t.Fatal(err)
	}
	p.cmd = exec.Command(os.Args[0])
	p.cmd.Env = append(os.Environ(), envAgent+"="+string(text), envRegistry+"="+p.broker.stack.RegistryURL())
	p.cmd.Stderr = p.logs
	// It must not outlive the test, not even one that is killed. The kernel's signal comes when the thread that forked ends.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	p.ended = make(chan struct{})
	p.done = make(chan error, 1)
	cmd, ended, done := p.cmd, p.ended, p.done
	started := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		err := cmd.Start()
		if started <- err; err == nil {
			done <- cmd.Wait()
			close(ended)
		}
	}()
	if err := <-started; err != nil {
		p.t.Fatal(err)
	}
}

func (p *process) signal(sig syscall.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		p.t.Fatal(err)
	}
}

func (p *process) kill() {
	_ = p.cmd.Process.Kill() // it may have ended
	<-p.ended
}

// order writes an order to the broker.
func (p *process) order(payload any) string {
	p.t.Helper()
	e := event.New(schemas.EnvelopeHeader{
		ID: event.NewID(), Source: "orchestrator.postgres/0", Cluster: string(testCluster), Resource: string(testCluster.Node(p.name)),
		OccurredAt: time.Now().UTC(), CorrelationID: "test",
	}, payload)
	topic := topics.Orders(event.KindPostgres)
	value, err := p.broker.codec.Encode(topic, e)
	if err != nil {
		p.t.Fatal(err)
	}
	partition := event.Partition(testCluster, topics.Default().Partitions(event.KindPostgres))
	if err := p.broker.producer.Produce(servertest.Context(p.t), record.Record{Topic: topic, Partition: partition, Key: []byte(testCluster), Value: value}); err != nil {
		p.t.Fatal(err)
	}
	return e.ID
}

func (p *process) do(payload any) *schemas.PostgresNodeObserved {
	p.t.Helper()
	result, value := p.result(p.order(payload))
	if result.Status != schemas.OrderStatusDone {
		p.t.Fatalf("%s on %s: %s: %s", result.OrderType, p.name, result.Status, result.Message)
	}
	return value
}

// postmaster returns the pid of the node's postmaster, or 0.
func (p *process) postmaster() int {
	content, err := os.ReadFile(filepath.Join(p.config.DataDir, "postmaster.pid"))
	if err != nil {
		return 0
	}
	var pid int
	_, _ = fmt.Sscan(string(content), &pid)
	return pid
}

func alive(pid int) bool { return pid > 0 && syscall.Kill(pid, 0) == nil }

// TestAgentsOnABrokerSurviveKills runs two agents as processes against the embedded broker and registry, and measures by hand what
// an orchestrator would see: crash, fence, promotion; then it kills agents.
func TestAgentsOnABrokerSurviveKills(t *testing.T) {
	t.Parallel()
	b, log := startBroker(t), newLog()
	b.follow(t, log)
	one, two := startProcess(t, b, log, "pg-1"), startProcess(t, b, log, "pg-2")
	for _, p := range []*process{one, two} {
		p.await("the first value", 0, func(o *schemas.PostgresNodeObserved) bool { return o.Postmaster == schemas.PostmasterStatusAbsent })
	}
	one.do(&schemas.BootstrapPrimary{Meta: one.meta(1), Slots: slots("pg-2")})
	one.mustSQL("CREATE TABLE t (x int)")
	two.do(&schemas.CloneStandby{Meta: two.meta(1), Upstream: one.member(), UpstreamTerm: 1, Slot: slotOf("pg-2")})
	one.do(&schemas.ConfigureSynchronous{Meta: one.meta(1), SynchronousStandbyNames: `ANY 1 ("pg-2-t1")`, Slots: slots("pg-2")})

	from := log.length()
	killed := time.Now()
	if err := syscall.Kill(one.postmaster(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	one.await("the crash", from, func(o *schemas.PostgresNodeObserved) bool {
		return o.Postmaster == schemas.PostmasterStatusCrashed && o.RenouncedTerm == 1
	})
	crash := time.Since(killed)
	ordered := time.Now()
	two.order(&schemas.FencePostgres{Meta: two.meta(2), FormerPrimary: "pg-1"})
	ack, _ := two.await("the fence", from, func(o *schemas.PostgresNodeObserved) bool { return acked(o, 2) })
	fence := time.Since(ordered)
	ordered = time.Now()
	two.order(&schemas.PromotePostgres{
		Meta: two.meta(2), MinLsn: ack.WalEnd.Lsn, Timeline: 2, Slots: slots("pg-1"), Evidence: []schemas.PromotionEvidence{{Node: "pg-2", Term: 2, WalEnd: *ack.WalEnd}},
	})
	two.await("the promotion", from, func(o *schemas.PostgresNodeObserved) bool {
		return o.Role == schemas.NodeRolePrimary && o.Term == 2 && o.AcceptingConnections && o.LastOrder.Status == schemas.OrderStatusDone
	})
	promote := time.Since(ordered)
	two.mustSQL("INSERT INTO t VALUES (1)")
	t.Logf("through the broker: crash visible after %s, fence acknowledged after %s, promoted after %s, writable after %s",
		crash.Round(time.Millisecond), fence.Round(time.Millisecond), promote.Round(time.Millisecond), time.Since(killed).Round(time.Millisecond))
	one.do(&schemas.FollowPrimary{Meta: one.meta(2), Upstream: two.member(), UpstreamTerm: 2, UpstreamTimeline: 2, Slot: slotOf("pg-1"), AllowRewind: true, AllowCopy: true})

	// kill -9 of an agent takes its server down; a standby comes back by itself, a primary stays down and says so.
	pid := two.postmaster()
	two.kill()
	servertest.Await(t, "the server dies with its agent", func() bool { return !alive(pid) })
	from = log.length()
	two.spawn()
	down, _ := two.await("the return", from, func(o *schemas.PostgresNodeObserved) bool { return o.Postmaster == schemas.PostmasterStatusStopped })
	if down.RenouncedTerm != 2 || down.Term != 2 || down.PromisedTerm != 2 || down.WalEnd == nil || down.WalEnd.Term != 2 || down.LastExit == nil || down.LastExit.Expected {
		t.Fatalf("after the return: %s exit %+v", describe(down), down.LastExit)
	}
	if alive(two.postmaster()) {
		t.Fatal("a former primary started by itself")
	}
	two.do(&schemas.StartPostgres{Meta: two.meta(2), AsPrimary: true})

	pid = one.postmaster()
	one.kill()
	servertest.Await(t, "the server dies with its agent", func() bool { return !alive(pid) })
	from = log.length()
	one.spawn()
	one.await("the standby streams again by itself", from, func(o *schemas.PostgresNodeObserved) bool {
		return o.Receiver != nil && o.Receiver.Status == "streaming" && o.Upstream == "pg-2" && o.PromisedTerm == 2
	})

	// SIGTERM stops the server in order, renounces and reports.
	from = log.length()
	two.signal(syscall.SIGTERM)
	<-two.ended
	last, _ := two.await("the farewell", from, func(o *schemas.PostgresNodeObserved) bool {
		return o.Postmaster == schemas.PostmasterStatusStopped && o.WalEnd != nil
	})
	if last.RenouncedTerm != 2 || last.LastExit == nil || !last.LastExit.Expected {
		t.Fatalf("the last value: %s exit %+v", describe(last), last.LastExit)
	}
	checkSequences(t, log)
}

// checkSequences holds what all agents have said against the envelope's promises.
func checkSequences(t testing.TB, log *memoryLog) {
	t.Helper()
	last := map[string]int64{}
	boots := map[string]map[string]bool{}
	records, _ := log.snapshot(0)
	for _, rec := range records {
		if rec.Topic != topics.Observations(event.KindPostgres) {
			continue
		}
		e, err := testCodec().Decode(rec.Topic, rec.Value)
		if err != nil {
			t.Fatal(err)
		}
		if e.Sequence <= last[e.Resource] {
			t.Fatalf("the sequence of %s fell from %d to %d", e.Resource, last[e.Resource], e.Sequence)
		}
		last[e.Resource] = e.Sequence
		if boots[e.Resource] == nil {
			boots[e.Resource] = map[string]bool{}
		}
		boots[e.Resource][e.BootID] = true
		if e.Source != "agent/orders/"+e.Payload.(*schemas.PostgresNodeObserved).Node || e.Cluster != string(testCluster) || string(rec.Key) != e.Resource {
			t.Fatalf("envelope %+v", e.EnvelopeHeader)
		}
	}
	for resource, runs := range boots {
		if len(runs) != 2 {
			t.Errorf("%s has %d boot ids, expected one per run", resource, len(runs))
		}
	}
}

func TestOrphansOfAKilledAgentAreEndedAtBoot(t *testing.T) {
	t.Parallel()
	log := newLog()
	n := startNode(t, log, "pg-1")
	n.bootstrap(1)
	n.stop()
	// A server that nobody is the parent of any more, as after the kill of an agent whose last breath failed.
	binaries, err := servertest.Binaries(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	orphan := exec.Command("setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", "setsid", "--fork", filepath.Join(binaries.Dir, "postgres"), "-D", n.config.DataDir)
	if err := orphan.Run(); err != nil { // without pipes, which the orphan would hold open
		t.Fatalf("start an orphan: %v", err)
	}
	p := &process{node: n}
	servertest.Await(t, "the orphan runs", func() bool { return alive(p.postmaster()) })
	pid := p.postmaster()
	n.start()
	servertest.Await(t, "the orphan is gone", func() bool { return !alive(pid) })
	if !strings.Contains(n.logs.String(), "processes that an earlier agent has left") && !strings.Contains(n.logs.String(), "processes that an earlier agent had left") {
		t.Errorf("nothing was logged of it:\n%s", n.logs)
	}
	n.await("the former primary stays down", 0, func(o *schemas.PostgresNodeObserved) bool {
		return o.Postmaster == schemas.PostmasterStatusStopped && o.RenouncedTerm == 1
	})
}
