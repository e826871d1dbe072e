package e2etest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/regent-infra/regent/internal/childprocess"
	"github.com/regent-infra/regent/internal/event"
	"github.com/regent-infra/regent/internal/kafka/kafkatest"
	"github.com/regent-infra/regent/internal/topics"
	"github.com/regent-infra/regent/schemas"
)

// volume is a small file system that can become full: a tmpfs in a mount namespace of its own, which goes with the process that holds it. A user who
// is not root gets a user namespace with it.
type volume struct {
	bed *bed
	// dir is where processes of the namespace see it, inside where the test does.
	dir, inside string
	enter       []string
}

func (b *bed) volume(name string, megabytes int) *volume {
	b.t.Helper()
	v := &volume{bed: b, dir: b.subdir(name)}
	script := fmt.Sprintf("mount -t tmpfs -o size=%dm,mode=755 volume '%s' && echo mounted && exec sleep 100000", megabytes, v.dir)
	args := []string{"--mount", "--propagation", "private", "sh", "-c", script}
	v.enter = []string{"--mount"}
	if os.Geteuid() != 0 {
		args = append([]string{"--user", "--map-root-user"}, args...)
		v.enter = append([]string{"--user", "--preserve-credentials"}, v.enter...)
	}
	holder := b.start(name, "unshare", args...)
	b.await("the volume", func() error {
		if !strings.Contains(read(b.t, holder.Log), "mounted") {
			return errors.New("it is not mounted")
		}
		return nil
	}, holder)
	v.inside = fmt.Sprintf("/proc/%d/root%s", holder.PID(), v.dir)
	v.enter = append([]string{"--target", fmt.Sprint(holder.PID())}, v.enter...)
	return v
}

// launch starts a regent process that sees the volume.
func (v *volume) launch(name string, args ...string) *childprocess.Process {
	v.bed.t.Helper()
	return v.bed.start(name, "nsenter", append(append(append([]string{}, v.enter...), program), args...)...)
}

// fill takes all space that is left.
func (v *volume) fill() {
	v.bed.t.Helper()
	f, err := os.OpenFile(v.inside+"/filler", os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		v.bed.t.Fatal(err)
	}
	defer f.Close()
	for block := 1 << 20; block >= 1<<12; {
		if _, err := f.Write(make([]byte, block)); errors.Is(err, syscall.ENOSPC) {
			block /= 2
		} else if err != nil {
			v.bed.t.Fatal(err)
		}
	}
}

// free gives the space back.
func (v *volume) free() {
	v.bed.t.Helper()
	if err := os.Remove(v.inside + "/filler"); err != nil {
		v.bed.t.Fatal(err)
	}
}

// flood sends observations, one after the other, until the process has ended, and returns how many were acknowledged since it was called.
func (l *log) flood(p *childprocess.Process) (acknowledged int) {
	l.bed.t.Helper()
	ctx, cancel := context.WithCancel(l.bed.patient())
	defer cancel()
	go func() {
		select {
		case <-p.Done():
			cancel()
		case <-ctx.Done():
		}
	}()
	for i := 0; ctx.Err() == nil; i++ {
		if l.observe(ctx, i) == nil {
			acknowledged++
		}
	}
	if p.Running() {
		l.bed.t.Fatalf("%s runs on though its disk is full", p.Name)
	}
	return acknowledged
}

// observe sends the i-th observation, of one of a hundred nodes.
func (l *log) observe(ctx context.Context, i int) error {
	const cluster event.ClusterID = "postgres/flood"
	node := cluster.Node(fmt.Sprintf("pg-%d", i%100))
	topic := topics.Observations(event.KindPostgres)
	value := l.encode(topic, header(cluster, string(node)), &schemas.PostgresNodeObserved{
		Node: node.Node(), Host: strings.Repeat("h", 2000), Port: 5432, Postmaster: schemas.PostmasterStatusStopped, Role: schemas.NodeRoleUnknown,
		PromisedTerm: int64(i), Senders: []schemas.WalSender{}, Slots: []schemas.ReplicationSlot{}, TimelineHistory: []schemas.TimelineSwitch{},
		RecentOrders: []schemas.OrderResult{}, Breaker: schemas.BreakerStatus{State: schemas.BreakerStateClosed},
	})
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	return l.producer.ProduceSync(ctx, &kgo.Record{
		Topic: topic, Partition: event.Partition(cluster, l.set.Partitions(event.KindPostgres)), Key: []byte(node), Value: value,
	}).FirstErr()
}

// count returns how many observations are on the topic.
func (l *log) count(server string) int {
	l.bed.t.Helper()
	return len(l.bed.events(server, "observations"))
}

// The disk of an embedded broker becomes full: the process ends and says why; started with too little space it refuses; with space it has everything that was
// acknowledged, and its state is what the topics say.
func TestAFullDiskStopsTheEmbeddedBrokerWithoutLoss(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	v := b.volume("volume", 400) // the logs of a state store alone take 64 MiB each, see above
	ports := freePorts(t, 2)
	broker, registry := fmt.Sprintf("127.0.0.1:%d", ports[0]), fmt.Sprintf("127.0.0.1:%d", ports[1])
	config := b.yaml("up.yaml", map[string]any{"process": map[string]any{"flush_interval": "200ms"}})
	args := []string{
		"up", "--config", config, "--data-dir", v.dir + "/data", "--broker-listen", broker, "--registry-listen", registry, "--http-listen", "127.0.0.1:0", "--log-format", "json",
	}
	up := v.launch("up", args...)
	server := b.logged(up, "the HTTP API is up", "url")
	b.ready(up, server)
	l := b.openLog(broker, "http://"+registry)
	id := event.NewID()
	b.run(refused, "command", "CheckHealth", "postgres/nowhere", "--id", id, "--payload", "{timeout_ms: 1000}", "--server", server)
	for i := range 50 {
		if err := l.observe(b.patient(), i); err != nil {
			t.Fatal(err)
		}
	}
	v.fill()
	acknowledged := 50 + l.flood(up)
	b.exit(up, failed, "no space left on device", v.dir+"/data")
	examine := v.launch("doctor-full", "doctor", "--config", config, "--data-dir", v.dir+"/data", "--brokers", broker, "--registry", "http://"+registry)
	b.exit(examine, failed, "0 MiB free for "+v.dir+"/data, expected at least 205 MiB", "free some space, or name a directory on a larger volume")
	again := v.launch("up-full", args...)
	b.exit(again, failed, "disk is full", "MiB free, at least 64 MiB expected; free some space, or lower the limit")

	v.free()
	up = v.launch("up-again", args...)
	server = b.logged(up, "the HTTP API is up", "url")
	b.ready(up, server)
	if n := l.count(server); n < acknowledged {
		t.Errorf("%d observations are there, %d were acknowledged", n, acknowledged)
	}
	if out, _ := b.run(done, "explain", id, "--server", server); !strings.Contains(out, "UNKNOWN_CLUSTER") {
		t.Errorf("the command of before is explained as %s", out)
	}
	b.run(done, "rebuild", "--verify", "--server", server)
	examine = v.launch("doctor-free", "doctor", "--config", config, "--server", server)
	b.exit(examine, done, "MiB free for "+v.dir+"/data, a small installation wants 1024 MiB to work with")
	b.stop(up)
}

// The disk of a state store becomes full: the same, with the state redone from the topics.
func TestAFullDiskStopsARoleWithoutLoss(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	v := b.volume("volume", 400) // the log of a store is as long as its memory table, 64 MiB, and there are two for a while
	_, broker := kafkatest.Start(t)
	brokers := broker.Brokers[0]
	registry := b.launch("registry", "server", "--roles", "registry", "--brokers", brokers, "--registry-listen", "127.0.0.1:0", "--log-format", "json")
	url := b.logged(registry, "the schema registry is up", "registry")
	config := b.yaml("role.yaml", map[string]any{"brokers": []string{brokers}, "registry": url, "process": map[string]any{"flush_interval": "100ms"}})
	b.run(done, "topics", "apply", "--config", config)
	args := []string{"server", "--config", config, "--roles", "reducer", "--data-dir", v.dir + "/data", "--http-listen", "127.0.0.1:0", "--log-format", "json"}
	role := v.launch("reducer", args...)
	server := b.logged(role, "the probe is up", "url")
	b.ready(role, server)
	l := b.openLog(brokers, url)
	for i := range 50 {
		if err := l.observe(b.patient(), i); err != nil {
			t.Fatal(err)
		}
	}
	b.run(done, "rebuild", "--verify", "--config", config, "--server", server)
	v.fill()
	l.flood(role)
	b.exit(role, failed, "no space left on device", "state store has failed", "the data directory is "+v.dir+"/data: free some space")
	again := v.launch("reducer-full", args...)
	b.exit(again, failed, "no space left on device", "state store")

	v.free()
	role = v.launch("reducer-again", args...)
	server = b.logged(role, "the probe is up", "url")
	b.ready(role, server)
	b.run(done, "rebuild", "--verify", "--config", config, "--server", server)
	b.stop(role)
	b.stop(registry)
}
