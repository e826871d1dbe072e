package main

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/regent-infra/regent/internal/config"
	"github.com/regent-infra/regent/internal/event"
	"github.com/regent-infra/regent/internal/kafka"
	"github.com/regent-infra/regent/internal/kafkaserver"
	"github.com/regent-infra/regent/internal/lifecycle"
	"github.com/regent-infra/regent/internal/record"
	"github.com/regent-infra/regent/internal/stream"
	"github.com/regent-infra/regent/internal/topics"
	"github.com/regent-infra/regent/schemas"
	"github.com/regent-infra/regent/statestore"
	"github.com/regent-infra/regent/statestore/pebblestore"
)

// killEnv names the point at which a process kills itself.
const killEnv = "REGENT_TEST_KILL"

// killAt is main, but the process dies by SIGKILL when it reaches a point.
func killAt(point string) {
	ctx, stop := lifecycle.Signals(context.Background(), func(os.Signal) { os.Exit(exitFailed) })
	defer stop()
	os.Exit(run(ctx, os.Args[1:], environment{
		Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, Environ: os.Environ(),
		Reached: func(reached string) {
			if reached == point {
				_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
				select {}
			}
		},
	}))
}

// witness plays agents: it writes observations.
type witness struct {
	t        *testing.T
	link     *link
	producer *kafka.Producer
	sequence int64
}

// newWitness connects to where a server says that brokers and registry are, or to those given.
func newWitness(t *testing.T, server string, more ...string) *witness {
	t.Helper()
	a := &app{env: environment{Environ: append([]string{"REGENT_SERVER=" + server}, more...)}}
	c, err := config.Load(config.Options{Environ: a.env.Environ})
	if err != nil {
		t.Fatal(err)
	}
	l, err := a.dial(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.close)
	p, err := kafka.NewProducer(l.kafka, kafka.ProducerConfig{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	if err := l.codec.Prepare(t.Context(), topics.Observations(event.KindPostgres), topics.Heartbeats(event.KindPostgres)); err != nil {
		t.Fatal(err)
	}
	return &witness{t: t, link: l, producer: p, sequence: time.Now().UnixMicro()}
}

func (w *witness) record(cluster, node string) record.Record {
	topic := topics.Observations(event.KindPostgres)
	id := event.ClusterID(cluster)
	n, err := w.link.partitions(w.t.Context(), topic)
	if err != nil {
		w.t.Fatal(err)
	}
	return record.Record{Topic: topic, Partition: event.Partition(id, n), Key: []byte(id.Node(node))}
}

// observe writes that a node runs as a primary, with its LSN.
func (w *witness) observe(cluster, node string, lsn int64) {
	w.t.Helper()
	r := w.record(cluster, node)
	w.sequence++
	w.sendEvent(r, event.New(schemas.EnvelopeHeader{
		ID: event.NewID(), Source: "witness", Cluster: cluster, Resource: string(r.Key), OccurredAt: time.Now().UTC().Truncate(time.Millisecond),
		Sequence: w.sequence, BootID: "boot",
	}, &schemas.PostgresNodeObserved{
		Node: node, Host: "10.0.0.1", Port: 5432, AgentVersion: "test", ServerVersion: 150018, SystemIdentifier: "7000000000000000001",
		Postmaster: schemas.PostmasterStatusRunning, Role: schemas.NodeRolePrimary, AcceptingConnections: true, Timeline: 1,
		TimelineHistory: []schemas.TimelineSwitch{}, WrittenLsn: lsn, FlushedLsn: lsn, Senders: []schemas.WalSender{}, Slots: []schemas.ReplicationSlot{},
		RecentOrders: []schemas.OrderResult{}, Breaker: schemas.BreakerStatus{State: schemas.BreakerStateClosed, ChangedAt: time.Unix(0, 0).UTC()},
	}))
}

func (w *witness) sendEvent(r record.Record, e *event.Event) {
	w.t.Helper()
	var err error
	if r.Value, err = w.link.codec.Encode(r.Topic, e); err != nil {
		w.t.Fatal(err)
	}
	w.send(r)
}

// forget writes that a node is gone.
func (w *witness) forget(cluster, node string) {
	w.t.Helper()
	w.send(w.record(cluster, node))
}

func (w *witness) send(r record.Record) {
	w.t.Helper()
	if err := w.producer.Produce(w.t.Context(), r); err != nil {
		w.t.Fatal(err)
	}
}

// beat writes that the agent of a node lives, and need not be heard again for an hour.
func (w *witness) beat(cluster, node string) {
	w.t.Helper()
	r := w.record(cluster, node)
	r.Topic = topics.Heartbeats(event.KindPostgres)
	w.sequence++
	w.sendEvent(r, event.New(schemas.EnvelopeHeader{
		ID: event.NewID(), Source: "witness", Cluster: cluster, Resource: string(r.Key), OccurredAt: time.Now().UTC().Truncate(time.Millisecond),
		Sequence: w.sequence, BootID: "boot",
	}, &schemas.NodeHeartbeat{Node: node, IntervalMs: 3_600_000, SuspectAfterMs: 7_200_000, Postmaster: schemas.PostmasterStatusRunning, Role: schemas.NodeRolePrimary}))
}

// populate writes a few clusters with some history.
func (w *witness) populate() {
	w.t.Helper()
	for i := range 12 {
		w.beat(fmt.Sprintf("postgres/c%d", i), "pg-1")
	}
	w.beat("postgres/c4", "pg-2")
	for round := range 5 {
		for i := range 12 {
			w.observe(fmt.Sprintf("postgres/c%d", i), "pg-1", int64(round+1)<<20)
		}
	}
	w.forget("postgres/c3", "pg-1")
	w.observe("postgres/c4", "pg-2", 7)
}

// served waits until a server says that a node has written up to an LSN.
func served(t *testing.T, p *process, server, node string, lsn int64) {
	t.Helper()
	await(t, node, p, func() bool {
		r := regentEnv(t, []string{"REGENT_SERVER=" + server}, "", "get", node, "-o", "json")
		return r.code == exitDone && strings.Contains(r.stdout, fmt.Sprintf(`"written_lsn": %d`, lsn))
	})
}

// stored are the digests of what is in a store that nobody has open, by table and partition.
func stored(t *testing.T, dir string) map[string]string {
	t.Helper()
	s, err := pebblestore.Open(pebblestore.Options{Dir: filepath.Join(dir, storeDir)})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}()
	it, err := s.Scan(nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = it.Close() }() // it was read to its end
	out := map[string]string{}
	digesters := map[string]*stream.Digester{}
	for it.Next() {
		table, partition, key, err := statestore.ParseKey(it.Key())
		if err != nil {
			continue // a position, or the store's own record
		}
		name := fmt.Sprintf("%s/%d", table, partition)
		if digesters[name] == nil {
			digesters[name] = stream.NewDigester()
		}
		digesters[name].Add(key, it.Value())
	}
	for name, d := range digesters {
		out[name] = d.Sum().Sum
	}
	return out
}

// rebuilt runs a rebuild and returns what it says.
func rebuilt(t *testing.T, args ...string) rebuildResult {
	t.Helper()
	r := regentNow(t, append([]string{"rebuild", "-o", "json"}, args...)...)
	if r.code != exitDone {
		t.Fatalf("rebuild: exit %d: %s", r.code, r.stderr)
	}
	var out rebuildResult
	if err := json.Unmarshal([]byte(r.stdout), &out); err != nil {
		t.Fatalf("%v in %s", err, r.stdout)
	}
	return out
}

func (r *rebuildResult) digests() map[string]string {
	out := map[string]string{}
	for _, p := range r.Partitions {
		if p.Keys == 0 {
			continue
		}
		out[fmt.Sprintf("%s/%s/%d", p.Processor, p.Table, p.Partition)] = p.Digest
	}
	return out
}

// checkRebuilt compares what a rebuild says with what was stored before, and with what is stored now.
func checkRebuilt(t *testing.T, dir string, before map[string]string, r *rebuildResult, wantKeys int) {
	t.Helper()
	if !r.Equal || r.Keys < int64(wantKeys) || r.Records == 0 && r.Partitions[0].Sources[0].From == 0 {
		t.Errorf("the rebuild says %+v", r)
	}
	if got := r.digests(); !maps.Equal(got, before) {
		t.Errorf("rebuilt\n%v\nstored before\n%v", got, before)
	}
	if got := stored(t, dir); !maps.Equal(got, before) {
		t.Errorf("stored now\n%v\nbefore\n%v", got, before)
	}
}

// What a stopped regent up holds is made anew from the broker in its own directory, equals what was there, and carries on. While it runs, a
// rebuild is refused.
func TestRebuildOfUp(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "plane")
	p, server := up(t, dir)
	newWitness(t, server).populate()
	served(t, p, server, "postgres/c4/node/pg-2", 7)
	r := regentNow(t, "rebuild", "--data-dir", dir)
	if r.code != exitRefused || !strings.Contains(r.stderr, "data directory is in use by process") || !strings.Contains(r.stderr, "a stopped server") {
		t.Errorf("beside the running server: exit %d: %s", r.code, r.stderr)
	}
	if code := p.end(); code != exitDone {
		t.Fatalf("exit %d:\n%s", code, p.log.String())
	}
	before := stored(t, dir)
	result := rebuilt(t, "--data-dir", dir)
	checkRebuilt(t, dir, before, &result, 24)
	for _, c := range result.CrossCheck.Processors {
		if comparable := c.Processor != "orchestrator.postgres"; c.Comparable != comparable || comparable && c.Equal == 0 || c.Differing != 0 || !comparable && len(c.Notes) == 0 {
			t.Errorf("cross-check: %+v", c)
		}
	}
	// A store that is lost altogether comes back, too; and what a person reads is one table and some lines.
	if err := os.RemoveAll(filepath.Join(dir, storeDir)); err != nil {
		t.Fatal(err)
	}
	r = regentNow(t, "rebuild", "--data-dir", dir, "--cross-check=false")
	if r.code != exitDone || !strings.Contains(r.stdout, "swapped in; every key is as the topics say") || strings.Contains(r.stdout, "cross-check") {
		t.Fatalf("exit %d: %s%s", r.code, r.stdout, r.stderr)
	}
	if got := stored(t, dir); !maps.Equal(got, before) {
		t.Errorf("stored now\n%v\nbefore\n%v", got, before)
	}
	p, server = up(t, dir)
	newWitness(t, server).observe("postgres/c4", "pg-2", 8)
	served(t, p, server, "postgres/c4/node/pg-2", 8)
	cli(t, server, exitDone, "rebuild", "--verify")
	if code := p.end(); code != exitDone {
		t.Errorf("exit %d:\n%s", code, p.log.String())
	}
}

// Killed at any point, a rebuild leaves a state that a server starts on: the old one before the swap, the new one after it.
func TestRebuildKilledLeavesAUsableState(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "plane")
	p, server := up(t, dir)
	newWitness(t, server).populate()
	served(t, p, server, "postgres/c4/node/pg-2", 7)
	if code := p.end(); code != exitDone {
		t.Fatalf("exit %d:\n%s", code, p.log.String())
	}
	before := stored(t, dir)
	active := func() string {
		raw, err := os.ReadFile(filepath.Join(dir, storeDir, "ACTIVE"))
		if err != nil {
			t.Fatal(err)
		}
		return string(raw)
	}
	for _, point := range []string{pointStaged, pointRebuilt, pointCompared, pointSwapped} {
		was := active()
		killed := launchWith(t, []string{killEnv + "=" + point}, "rebuild", "--data-dir", dir)
		if code := killed.exit(); code != -1 {
			t.Fatalf("%s: exit %d, expected to die:\n%s", point, code, killed.log.String())
		}
		if swapped := active() != was; swapped != (point == pointSwapped) {
			t.Errorf("%s: the active generation was %q, is %q", point, was, active())
		}
		if got := stored(t, dir); !maps.Equal(got, before) {
			t.Errorf("%s: stored now\n%v\nbefore\n%v", point, got, before)
		}
	}
	p, server = up(t, dir)
	served(t, p, server, "postgres/c4/node/pg-2", 7)
	cli(t, server, exitDone, "rebuild", "--verify")
	if code := p.end(); code != exitDone {
		t.Errorf("exit %d:\n%s", code, p.log.String())
	}
}

// The store of some roles on a real Kafka is made anew while the other roles go on.
func TestRebuildOfRolesOnRealKafka(t *testing.T) {
	t.Parallel()
	broker, err := kafkaserver.Start(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(broker.Kill)
	other, _ := up(t, filepath.Join(t.TempDir(), "registry"))
	where := []string{"--brokers", broker.Broker(), "--registry", other.logged("embedded broker and registry are up", "registry")}
	if r := regentNow(t, append([]string{"topics", "apply"}, where...)...); r.code != exitDone {
		t.Fatalf("exit %d: %s", r.code, r.stderr)
	}
	dir := filepath.Join(t.TempDir(), "folds")
	folds := launch(t, append([]string{"server", "--roles", "reducer,fleet", "--data-dir", dir, "--log-format", "json"}, where...)...)
	front := launch(t, append([]string{
		"server", "--roles", "orchestrator,api", "--data-dir", filepath.Join(t.TempDir(), "front"), "--http-listen", "127.0.0.1:0", "--log-format", "json",
	}, where...)...)
	server := ready(t, front)
	newWitness(t, server, "REGENT_BROKERS="+where[1], "REGENT_REGISTRY="+where[3]).populate()
	served(t, front, server, "postgres/c4/node/pg-2", 7)
	args := append([]string{"--data-dir", dir, "--roles", "reducer,fleet"}, where...)
	if r := regentNow(t, append([]string{"rebuild"}, args...)...); r.code != exitRefused || !strings.Contains(r.stderr, "another process has it open") {
		t.Errorf("beside the running server: exit %d: %s", r.code, r.stderr)
	}
	past := observed(t, server)
	if code := folds.end(); code != exitDone {
		t.Fatalf("exit %d:\n%s", code, folds.log.String())
	}
	before := stored(t, dir)
	if r := regentNow(t, "checkpoint", "create", "end", "--data-dir", dir); r.code != exitDone {
		t.Fatalf("exit %d: %s", r.code, r.stderr)
	}
	fromCheckpoint := rebuilt(t, append([]string{"--from", "end"}, args...)...)
	checkRebuilt(t, dir, before, &fromCheckpoint, 24)
	result := rebuilt(t, args...)
	checkRebuilt(t, dir, before, &result, 24)
	for _, c := range result.CrossCheck.Processors {
		if !c.Comparable || c.Equal == 0 || c.Differing != 0 {
			t.Errorf("cross-check: %+v", c)
		}
	}
	folds = launch(t, append([]string{"server", "--roles", "reducer,fleet", "--data-dir", dir, "--log-format", "json"}, where...)...)
	newWitness(t, server, "REGENT_BROKERS="+where[1], "REGENT_REGISTRY="+where[3]).observe("postgres/c4", "pg-2", 8)
	served(t, front, server, "postgres/c4/node/pg-2", 8)
	// The past is read from the topics, with a server or without one.
	expectServed(t, past, append([]string{"--from", fromStart}, where...)...)
	expectServed(t, past, append([]string{"--data-dir", filepath.Join(t.TempDir(), "none")}, where...)...)
	for _, p := range []*process{front, folds} {
		if code := p.end(); code != exitDone {
			t.Errorf("exit %d:\n%s", code, p.log.String())
		}
	}
}
