package postgres

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/regent-infra/regent/adapters/postgres/servertest"
	"github.com/regent-infra/regent/internal/avrocodec"
	"github.com/regent-infra/regent/internal/event"
	"github.com/regent-infra/regent/internal/record"
	"github.com/regent-infra/regent/internal/topics"
	"github.com/regent-infra/regent/schemas"
)

func TestMain(m *testing.M) {
	if os.Getenv(envAgent) != "" {
		os.Exit(agentProcess())
	}
	servertest.Main(m)
}

const (
	testCluster      = event.ClusterID("postgres/orders")
	canarySuperuser  = "canary-superuser-77aa"
	canaryReplicator = "canary-replicator-88bb"
)

var testCodec = sync.OnceValue(func() event.Codec { return avrocodec.Standalone(topics.Default()) })

// memoryLog is the log of one cluster in memory: every agent of a test has its own stream into it.
type memoryLog struct {
	mu      sync.Mutex
	records []record.Record
	offset  int64
	changed chan struct{} // closed and replaced with each record
	away    bool          // writes fail
}

func newLog() *memoryLog { return &memoryLog{changed: make(chan struct{})} }

func (l *memoryLog) append(rec record.Record) record.Record {
	l.mu.Lock()
	defer l.mu.Unlock()
	rec.Timestamp = time.Now().UTC()
	rec.Offset = l.offset
	l.offset++
	l.records = append(l.records, rec)
	close(l.changed)
	l.changed = make(chan struct{})
	return rec
}

func (l *memoryLog) setAway(away bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.away = away
}

// snapshot returns the records from an index on, and what is closed when there are more.
func (l *memoryLog) snapshot(from int) ([]record.Record, <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.records[min(from, len(l.records)):], l.changed
}

func (l *memoryLog) Open(context.Context) (int32, OrderReader, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return event.Partition(testCluster, 4), &memoryReader{log: l, next: len(l.records)}, nil
}

var errAway = errors.New("the log is away")

func (l *memoryLog) ProduceAsync(rec record.Record, done func(record.Record, error)) {
	l.mu.Lock()
	away := l.away
	l.mu.Unlock()
	if away {
		done(rec, errAway)
		return
	}
	done(l.append(rec), nil)
}

func (l *memoryLog) Flush(context.Context) error { return nil }

type memoryReader struct {
	log  *memoryLog
	next int
}

func (r *memoryReader) Poll(ctx context.Context) ([]record.Record, error) {
	for {
		records, changed := r.log.snapshot(r.next)
		r.next += len(records)
		var orders []record.Record
		for _, rec := range records {
			if rec.Topic == topics.Orders(event.KindPostgres) {
				orders = append(orders, rec)
			}
		}
		if len(orders) > 0 {
			return orders, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

func (r *memoryReader) Close() {}

// node is one agent of a test, with what it has said.
type node struct {
	t      testing.TB
	name   string
	config Config
	log    *memoryLog
	logs   *lockedBuffer

	cancel context.CancelFunc
	done   chan error
	agent  *Agent
}

// lockedBuffer keeps what several goroutines log.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func testConfig(t testing.TB, name string) Config {
	t.Helper()
	dir := servertest.Dir(t)
	secrets := t.TempDir()
	for file, password := range map[string]string{"superuser": canarySuperuser, "replication": canaryReplicator} {
		if err := os.WriteFile(filepath.Join(secrets, file), []byte(password+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return Config{
		Cluster: testCluster, Node: name, Host: "127.0.0.1", Port: servertest.Port(t), DataDir: filepath.Join(dir, "data"),
		SuperuserPasswordFile: filepath.Join(secrets, "superuser"), ReplicationPasswordFile: filepath.Join(secrets, "replication"),
		Profile: FastProfile, PulseInterval: 50 * time.Millisecond, ObserveInterval: 200 * time.Millisecond, VolumeInterval: time.Second,
		FollowTimeout: 30 * time.Second, MarkerTimeout: 5 * time.Second,
		Settings: map[string]string{"shared_buffers": "16MB", "max_connections": "40", "max_wal_size": "128MB", "min_wal_size": "32MB"},
	}
}

// startNode runs an agent; it is stopped with the test.
func startNode(t testing.TB, log *memoryLog, name string) *node {
	t.Helper()
	n := &node{t: t, name: name, config: testConfig(t, name), log: log, logs: &lockedBuffer{}}
	n.start()
	t.Cleanup(func() { n.stop() })
	return n
}

func (n *node) logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(n.logs, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

func (n *node) start() {
	n.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	agent, err := New(ctx, n.config, Dependencies{Stream: n.log, Codec: testCodec(), Logger: n.logger()})
	if err != nil {
		cancel()
		n.t.Fatalf("start %s: %v", n.name, err)
	}
	n.agent, n.cancel, n.done = agent, cancel, make(chan error, 1)
	from := n.log.length()
	go func() { n.done <- agent.Run(ctx) }()
	// From its first value on no order is missed.
	n.await("the first value", from, func(*schemas.PostgresNodeObserved) bool { return true })
}

// stop ends the agent in an orderly way.
func (n *node) stop() {
	n.t.Helper()
	if n.cancel == nil {
		return
	}
	n.cancel()
	n.cancel = nil
	select {
	case err := <-n.done:
		if err != nil {
			n.t.Errorf("%s ended: %v", n.name, err)
		}
	case <-time.After(servertest.Timeout):
		n.t.Fatalf("%s did not end", n.name)
	}
	if n.t.Failed() {
		n.t.Logf("what %s logged:\n%s", n.name, n.logs.String())
	}
}

func (n *node) member() schemas.ClusterMember {
	return schemas.ClusterMember{Node: n.name, Host: n.config.Host, Port: int32(n.config.Port), FailoverPriority: 1}
}

func (n *node) meta(term int64) schemas.OrderMeta {
	return schemas.OrderMeta{Node: n.name, Term: term, WorkflowID: "test", Step: "test", ExpiresAt: time.Now().Add(time.Minute)}
}

// order writes an order to the log and returns its id.
func (n *node) order(payload any) string { return n.orderAs(event.NewID(), payload) }

func (n *node) orderAs(id string, payload any) string {
	n.t.Helper()
	e := event.New(schemas.EnvelopeHeader{
		ID: id, Source: "orchestrator.postgres/0", Cluster: string(testCluster), Resource: string(testCluster.Node(n.name)),
		OccurredAt: time.Now().UTC(), CorrelationID: "test",
	}, payload)
	topic := topics.Orders(event.KindPostgres)
	value, err := testCodec().Encode(topic, e)
	if err != nil {
		n.t.Fatal(err)
	}
	n.log.append(record.Record{Topic: topic, Partition: event.Partition(testCluster, 4), Key: []byte(testCluster), Value: value})
	return id
}

// values returns what the node has said, oldest first, from an index of the log on.
func (l *memoryLog) values(t testing.TB, name string, from int) []*schemas.PostgresNodeObserved {
	t.Helper()
	var values []*schemas.PostgresNodeObserved
	records, _ := l.snapshot(from)
	for _, rec := range records {
		if rec.Topic != topics.Observations(event.KindPostgres) || string(rec.Key) != string(testCluster.Node(name)) {
			continue
		}
		e, err := testCodec().Decode(rec.Topic, rec.Value)
		if err != nil {
			t.Fatal(err)
		}
		values = append(values, e.Payload.(*schemas.PostgresNodeObserved))
	}
	return values
}

func (l *memoryLog) length() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.records)
}

// await waits until the node says something that fulfils the condition, and returns that value and how long it took.
func (n *node) await(what string, from int, holds func(*schemas.PostgresNodeObserved) bool) (*schemas.PostgresNodeObserved, time.Duration) {
	n.t.Helper()
	began := time.Now()
	deadline := time.NewTimer(servertest.Timeout)
	defer deadline.Stop()
	next := from
	var last *schemas.PostgresNodeObserved
	for {
		records, changed := n.log.snapshot(next)
		for _, value := range n.log.values(n.t, n.name, next) {
			last = value
			if holds(value) {
				return value, time.Since(began)
			}
		}
		next += len(records)
		select {
		case <-changed:
		case err := <-n.done:
			n.done <- err
			n.t.Fatalf("%s: %s ended meanwhile: %v\n%s", what, n.name, err, n.logs)
		case <-deadline.C:
			n.t.Fatalf("%s: %s did not say so; last: %s\n%s", what, n.name, describe(last), n.logs)
		}
	}
}

func describe(o *schemas.PostgresNodeObserved) string {
	if o == nil {
		return "nothing"
	}
	return fmt.Sprintf("postmaster %s role %s accepting %v term %d promised %d renounced %d timeline %d wal_end %+v upstream %q receiver %+v last_order %+v",
		o.Postmaster, o.Role, o.AcceptingConnections, o.Term, o.PromisedTerm, o.RenouncedTerm, o.Timeline, o.WalEnd, o.Upstream, o.Receiver, o.LastOrder)
}

// result waits for the end of an order.
func (n *node) result(id string) (*schemas.OrderResult, *schemas.PostgresNodeObserved) {
	n.t.Helper()
	var result schemas.OrderResult
	value, _ := n.await("the end of order "+id, 0, func(o *schemas.PostgresNodeObserved) bool {
		for _, r := range o.RecentOrders {
			if r.OrderID == id && r.FinishedAt != nil {
				result = r
				return true
			}
		}
		return false
	})
	return &result, value
}

// do gives an order and expects it to be done.
func (n *node) do(payload any) *schemas.PostgresNodeObserved {
	n.t.Helper()
	result, value := n.result(n.order(payload))
	if result.Status != schemas.OrderStatusDone {
		n.t.Fatalf("%s on %s: %s: %s\n%s", result.OrderType, n.name, result.Status, result.Message, n.logs)
	}
	return value
}

// refuse gives an order and expects it to be refused or to fail; it returns why.
func (n *node) refuse(payload any, want schemas.OrderStatus) string {
	n.t.Helper()
	result, _ := n.result(n.order(payload))
	if result.Status != want {
		n.t.Fatalf("%s on %s is %s, want %s (%s)", result.OrderType, n.name, result.Status, want, result.Message)
	}
	return result.Message
}

// sql runs a statement as a client does.
func (n *node) sql(statement string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), servertest.Timeout)
	defer cancel()
	conn, err := pgconn.Connect(ctx, fmt.Sprintf("host=%s port=%d user=postgres password=%s dbname=postgres sslmode=disable", n.config.Host, n.config.Port, canarySuperuser))
	if err != nil {
		return "", err
	}
	defer func() { _ = conn.Close(ctx) }()
	return servertest.Query(ctx, conn, statement)
}

func (n *node) mustSQL(statement string) string {
	n.t.Helper()
	value, err := n.sql(statement)
	if err != nil {
		n.t.Fatalf("%s on %s: %v", statement, n.name, err)
	}
	return value
}

// bootstrap makes the node the first primary.
func (n *node) bootstrap(term int64, slots ...schemas.SlotOwner) *schemas.PostgresNodeObserved {
	n.t.Helper()
	return n.do(&schemas.BootstrapPrimary{Meta: n.meta(term), Slots: slots})
}

// cloneFrom makes it a standby.
func (n *node) cloneFrom(primary *node, term int64) *schemas.PostgresNodeObserved {
	n.t.Helper()
	return n.do(&schemas.CloneStandby{Meta: n.meta(term), Upstream: primary.member(), UpstreamTerm: term, Slot: slotOf(n.name)})
}
