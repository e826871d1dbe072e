package reducer

import (
	"context"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/regent-infra/regent/internal/event"
	"github.com/regent-infra/regent/internal/kafka"
	"github.com/regent-infra/regent/internal/kafka/kafkatest"
	"github.com/regent-infra/regent/internal/record"
	"github.com/regent-infra/regent/internal/stream"
	"github.com/regent-infra/regent/internal/topics"
	"github.com/regent-infra/regent/schemas"
	"github.com/regent-infra/regent/statestore/memstore"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// plant is a broker with the two reducers in the real runtime.
type plant struct {
	t        *testing.T
	config   kafka.Config
	set      *topics.Set
	producer *kafka.Producer
	sequence map[event.ResourceID]int64
}

func newPlant(t *testing.T) *plant {
	t.Helper()
	_, config := kafkatest.Start(t)
	set := topics.Default().WithReplicationFactor(1)
	admin, err := kafka.NewAdmin(config)
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close()
	for _, topic := range set.All() {
		spec := kafka.TopicSpec{Name: topic.Name, Partitions: topic.Partitions, ReplicationFactor: 1, Config: map[string]string{"cleanup.policy": string(topic.Cleanup)}}
		if err := admin.CreateTopic(t.Context(), spec); err != nil {
			t.Fatal(err)
		}
	}
	producer, err := kafka.NewProducer(config, kafka.ProducerConfig{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(producer.Close)
	return &plant{t: t, config: config, set: set, producer: producer, sequence: map[event.ResourceID]int64{}}
}

// start runs both reducers on a fresh store, and returns what stops them.
func (p *plant) start(instance string) (stop func()) {
	p.t.Helper()
	log, err := kafka.NewLog(p.config, kafka.SessionConfig{InstanceID: instance})
	if err != nil {
		p.t.Fatal(err)
	}
	config := testConfig()
	config.Instance, config.Partitions = instance, p.set.Partitions(event.KindPostgres)
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	for _, make := range []func(Config) (stream.Definition, error){Postgres, Fleet} {
		def, err := make(config)
		if err != nil {
			p.t.Fatal(err)
		}
		runtime, err := stream.New(def, stream.Options{Log: log, Store: memstore.New()})
		if err != nil {
			p.t.Fatal(err)
		}
		running.Go(func() {
			if err := runtime.Run(ctx); err != nil {
				p.t.Error(err)
			}
		})
	}
	stop = sync.OnceFunc(func() {
		cancel()
		running.Wait()
	})
	p.t.Cleanup(stop)
	return stop
}

func (p *plant) send(rec *record.Record) {
	p.t.Helper()
	rec.Partition = event.Partition(event.ResourceID(rec.Key).Cluster(), p.set.Partitions(event.KindPostgres))
	if err := p.producer.Produce(p.t.Context(), *rec); err != nil {
		p.t.Fatal(err)
	}
}

func (p *plant) observe(id event.ResourceID, o *schemas.PostgresNodeObserved) {
	p.t.Helper()
	p.sequence[id]++
	p.send(observation(p.t, id, p.sequence[id], epoch, 0, o))
}

// read returns all committed records of a topic.
func (p *plant) read(topic string) []record.Record {
	p.t.Helper()
	admin, err := kafka.NewAdmin(p.config)
	if err != nil {
		p.t.Fatal(err)
	}
	defer admin.Close()
	ends, err := admin.StableOffsets(p.t.Context(), topic)
	if err != nil {
		p.t.Fatal(err)
	}
	starts := map[record.TopicPartition]kafka.Start{}
	for tp := range ends {
		starts[tp] = kafka.FromEarliest()
	}
	reader, err := kafka.NewReader(p.config, starts, kafka.ReaderConfig{MaxWait: 50 * time.Millisecond})
	if err != nil {
		p.t.Fatal(err)
	}
	defer reader.Close()
	var all []record.Record
	unread := func() bool {
		positions := reader.Positions()
		for tp, end := range ends {
			if positions[tp] < end {
				return true
			}
		}
		return false
	}
	for unread() {
		records, err := reader.Poll(p.t.Context())
		if err != nil {
			p.t.Fatal(err)
		}
		all = append(all, records...)
	}
	return all
}

// materialised returns the latest payload per key of a topic.
func (p *plant) materialised(topic string) map[string]any {
	latest := map[string][]byte{}
	for _, rec := range p.read(topic) {
		if latest[string(rec.Key)] = rec.Value; rec.Value == nil {
			delete(latest, string(rec.Key))
		}
	}
	return payloads(p.t, topic, latest)
}

// await waits until the materialised topic is as wanted.
func (p *plant) await(topic, what string, wanted func(map[string]any) bool) map[string]any {
	p.t.Helper()
	deadline := time.NewTimer(60 * time.Second)
	defer deadline.Stop()
	for {
		states := p.materialised(topic)
		if wanted(states) {
			return states
		}
		select {
		case <-deadline.C:
			p.t.Fatalf("%s: not within 60 s; the last states were %+v", what, states)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// folded is what a fold of all input records from the beginning gives.
func (p *plant) folded() map[string]any {
	states := map[string]any{}
	tasks := map[int32]*fakeTask{}
	for _, rec := range slices.Concat(p.read(observationsTopic), p.read(heartbeatsTopic)) {
		task := tasks[rec.Partition]
		if task == nil {
			task = newPostgresTask(p.t, testConfig())
			tasks[rec.Partition] = task
		}
		if _, err := task.process(&rec); err != nil && poisonReason(err) == "" {
			p.t.Fatal(err)
		}
	}
	for _, task := range tasks {
		maps.Copy(states, payloads(p.t, stateTopic, task.tables[StateTable]))
	}
	return states
}

// TestInTheRuntime runs both reducers over a real log: facts come out as states and roll-ups, silence is noticed by ticks alone, a fresh
// store is redone, unreadable records become dead letters, and a fold of the inputs equals what was emitted.
func TestInTheRuntime(t *testing.T) {
	t.Parallel()
	p := newPlant(t)
	stop := p.start("instance-1")
	const clusters = 6
	cluster := func(i int) event.ClusterID { return event.NewClusterID(event.KindPostgres, fmt.Sprint("c", i)) }
	for i := range clusters {
		for _, n := range []string{"pg-1", "pg-2", "pg-3"} {
			id := cluster(i).Node(n)
			for round := range int64(20) {
				p.observe(id, realistic(id, round, epoch))
			}
			p.send(heartbeat(t, id, epoch, 0, time.Minute, time.Hour))
		}
	}
	isHealthy := func(states map[string]any, i int) bool {
		c, ok := states[string(cluster(i))].(*schemas.PostgresClusterState)
		return ok && c.Health == schemas.HealthHealthy && len(c.Members) == 3 && !slices.ContainsFunc(c.Members, func(m schemas.PostgresMemberState) bool {
			return m.Liveness != schemas.LivenessAlive
		})
	}
	allHealthy := func(states map[string]any) bool {
		for i := range clusters {
			if !isHealthy(states, i) {
				return false
			}
		}
		return true
	}
	p.await(stateTopic, "all clusters are healthy", allHealthy)
	fleetIs := func(health schemas.Health) func(map[string]any) bool {
		return func(states map[string]any) bool {
			s, ok := states[FleetKey].(*schemas.FleetState)
			return ok && s.Health == health && reflect.DeepEqual(s.Clusters[1], schemas.HealthCount{Health: schemas.HealthHealthy, Count: clusters}) == (health == schemas.HealthHealthy)
		}
	}
	p.await(topics.FleetState, "the fleet is healthy", fleetIs(schemas.HealthHealthy))

	// Another owner, with nothing but the log. What happens meanwhile waits for it.
	stop()
	lost := cluster(0).Node("pg-1")
	p.send(heartbeat(t, lost, epoch, 0, time.Second, 2*time.Second)) // its last one
	for _, n := range []string{"pg-2", "pg-3"} {
		o := realistic(cluster(0).Node(n), 30, epoch)
		o.Receiver = nil
		p.observe(cluster(0).Node(n), o)
	}
	garbage := observation(t, lost, 99, epoch, 0, runningPrimary("pg-1"))
	garbage.Value = garbage.Value[:len(garbage.Value)/2]
	p.send(garbage)
	p.start("instance-2")
	p.await(stateTopic, "the silent primary is dead", func(states map[string]any) bool {
		c, ok := states[string(cluster(0))].(*schemas.PostgresClusterState)
		return ok && c.Analysis == schemas.AnalysisCodeDeadPrimary && !c.Writable
	})
	p.await(topics.FleetState, "the fleet is down", fleetIs(schemas.HealthDown))
	p.await(topics.DeadLetter, "one dead letter", func(letters map[string]any) bool { return len(letters) == 1 })

	got, want := p.materialised(stateTopic), p.folded()
	for key := range want {
		if !reflect.DeepEqual(got[key], want[key]) {
			t.Errorf("%s:\nemitted %+v\nfolded  %+v", key, got[key], want[key])
		}
	}
	if len(got) != len(want) || len(got) != 4*clusters {
		t.Errorf("%d states were emitted, %d folded, want %d", len(got), len(want), 4*clusters)
	}
}
