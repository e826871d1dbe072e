package killtest

import (
	"context"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/regent-infra/regent/internal/avrocodec"
	"github.com/regent-infra/regent/internal/event"
	"github.com/regent-infra/regent/internal/kafka"
	"github.com/regent-infra/regent/internal/record"
	"github.com/regent-infra/regent/internal/topics"
	"github.com/regent-infra/regent/schemas"
)

const (
	// What is observed of clusters that nobody has initialised, and agents that obey.
	plainClusters, obeyingClusters, nodesPerCluster = 28, 12, 3
	// observationsPerSecond is the load besides heartbeats, agents and commands.
	observationsPerSecond = 1_300
	commandsPerSecond     = 12
	// While a process comes back, the client sends so much and then waits, and so much more once it is ready: else a slow machine would drown
	// in what piles up, and the longer it takes, the more. In a long campaign it is less, for the topics keep a day of every value, and a
	// process that comes back reads them.
	whileComing, whileReady = 3_000, 8_000
	wholeCampaign           = 600_000
	// maxBuffered is how much may wait for a broker that is down.
	maxBuffered = 2_000
	// markMalformed is the header of a record that is malformed on purpose.
	markMalformed = "killtest_malformed"
)

var (
	observationsTopic = topics.Observations(event.KindPostgres)
	heartbeatsTopic   = topics.Heartbeats(event.KindPostgres)
	commandsTopic     = topics.Commands(event.KindPostgres)
	ordersTopic       = topics.Orders(event.KindPostgres)
	outcomesTopic     = topics.Outcomes(event.KindPostgres)
	stateTopic        = topics.State(event.KindPostgres)
	workflowsTopic    = topics.Workflows(event.KindPostgres)
)

// ledger is what the broker has acknowledged: a fingerprint for each position; 0 where nothing was acknowledged.
type ledger struct {
	mu       sync.Mutex
	prints   map[record.TopicPartition][]uint64
	acked    int
	refused  int
	lastFail error
}

func fingerprint(r *record.Record) uint64 {
	h := fnv.New64a()
	fmt.Fprintf(h, "%d %d %t ", len(r.Key), len(r.Value), r.Value == nil)
	h.Write(r.Key)
	h.Write(r.Value)
	return h.Sum64() | 1
}

func (l *ledger) done(r record.Record, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		l.refused++
		l.lastFail = err
		return
	}
	l.acked++
	prints := l.prints[r.Position()]
	for int64(len(prints)) <= r.Offset {
		prints = append(prints, make([]uint64, 1024)...)
	}
	prints[r.Offset] = fingerprint(&r)
	l.prints[r.Position()] = prints
}

// at returns the fingerprint of a position, 0 if nothing was acknowledged there.
func (l *ledger) at(tp record.TopicPartition, offset int64) uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	if prints := l.prints[tp]; offset < int64(len(prints)) {
		return prints[offset]
	}
	return 0
}

// count returns how many positions below end were acknowledged, and how many at or above it.
func (l *ledger) count(tp record.TopicPartition, end int64) (below, above int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for offset, print := range l.prints[tp] {
		switch {
		case print == 0:
		case int64(offset) < end:
			below++
		default:
			above++
		}
	}
	return below, above
}

// load is the client. Everything in it but the ledger belongs to the goroutine of run.
type load struct {
	t          *testing.T
	rnd        *rand.Rand
	codec      *avrocodec.Codec
	producer   *kafka.Producer
	partitions int32
	ledger     *ledger

	plain    []*node
	estates  []*estate
	sent     []sentCommand
	budget   float64
	orders   float64 // budget of commands
	last     time.Time
	incoming chan *event.Event
	pauses   chan pause
	// quota is how many records may still be sent; anybody sets it.
	quota atomic.Int64
}

// pause asks run to hold still: it closes held, and goes on when resume is closed.
type pause struct{ held, resume chan struct{} }

func newLoad(t *testing.T, rnd *rand.Rand, codec *avrocodec.Codec, producer *kafka.Producer, partitions int32) *load {
	l := &load{
		t: t, rnd: rnd, codec: codec, producer: producer, partitions: partitions,
		ledger:   &ledger{prints: map[record.TopicPartition][]uint64{}},
		incoming: make(chan *event.Event, 1024), pauses: make(chan pause),
	}
	for i := range plainClusters {
		for n := range nodesPerCluster {
			l.plain = append(l.plain, newNode(event.NewClusterID(event.KindPostgres, fmt.Sprintf("plain-%d", i)), n))
		}
	}
	for i := range obeyingClusters {
		l.estates = append(l.estates, newEstate(event.NewClusterID(event.KindPostgres, fmt.Sprintf("estate-%d", i))))
	}
	return l
}

// run makes load until ctx ends.
func (l *load) run(ctx context.Context) {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	l.last = time.Now()
	for {
		select {
		case <-ctx.Done():
			return
		case p := <-l.pauses:
			close(p.held)
			<-p.resume
			l.last = time.Now()
		case e := <-l.incoming:
			l.deliver(e)
		case now := <-tick.C:
			l.step(now)
		}
	}
}

// hold makes run hold still and returns what lets it go on.
func (l *load) hold() (resume func()) {
	p := pause{make(chan struct{}), make(chan struct{})}
	l.pauses <- p
	<-p.held
	return func() { close(p.resume) }
}

func (l *load) step(now time.Time) {
	elapsed := min(now.Sub(l.last), 200*time.Millisecond).Seconds()
	l.last = now
	if l.producer.Buffered() > maxBuffered || l.quota.Load() <= 0 {
		return // the broker is down: agents and clients would wait, too
	}
	for l.budget += elapsed * observationsPerSecond; l.budget >= 1; l.budget-- {
		l.plain[l.rnd.IntN(len(l.plain))].live(l, now)
		if l.chance(0.004) {
			l.malform(now)
		}
	}
	for l.orders += elapsed * commandsPerSecond; l.orders >= 1; l.orders-- {
		l.command(now)
	}
	for _, n := range l.plain {
		if !n.forgotten && !now.Before(n.nextBeat) {
			n.nextBeat = now.Add(time.Duration(200+l.rnd.IntN(100)) * time.Millisecond)
			if l.chance(0.002) {
				n.nextBeat = now.Add(3 * time.Second) // it becomes suspect, and comes back
			}
			l.beat(n.id, n.sequence, n.boot, 250, 1000)
		}
	}
	for _, e := range l.estates {
		e.step(l, now)
	}
}

func (l *load) chance(p float64) bool { return l.rnd.Float64() < p }

// send writes a record without waiting.
func (l *load) send(r record.Record) {
	l.quota.Add(-1)
	l.producer.ProduceAsync(r, l.ledger.done)
}

// encode makes the record of an event, in the partition where it belongs.
func (l *load) encode(topic, key string, h schemas.EnvelopeHeader, payload any) record.Record {
	if h.ID == "" {
		h.ID = event.NewID()
	}
	e := event.New(h, payload)
	value, err := l.codec.Encode(topic, e)
	if err != nil {
		l.t.Errorf("encode %s: %v", e.Type, err)
	}
	return record.Record{
		Topic: topic, Partition: event.Partition(event.ClusterID(h.Cluster), l.partitions), Key: []byte(key), Value: value,
		Headers: avrocodec.Headers(e, ""),
	}
}

func headerOf(id event.ResourceID, sequence int64, boot string) schemas.EnvelopeHeader {
	return schemas.EnvelopeHeader{
		Source: "agent/" + id.Cluster().Name() + "/" + id.Node(), Cluster: string(id.Cluster()), Resource: string(id),
		OccurredAt: time.Now().UTC().Truncate(time.Microsecond), Sequence: sequence, BootID: boot,
	}
}

func (l *load) observation(id event.ResourceID, sequence int64, boot string, o *schemas.PostgresNodeObserved) record.Record {
	return l.encode(observationsTopic, string(id), headerOf(id, sequence, boot), o)
}

func (l *load) heartbeat(id event.ResourceID, sequence int64, boot string, interval, suspectAfter int32) record.Record {
	return l.encode(heartbeatsTopic, string(id), headerOf(id, sequence, boot), &schemas.NodeHeartbeat{
		Node: id.Node(), IntervalMs: interval, SuspectAfterMs: suspectAfter, Postmaster: schemas.PostmasterStatusRunning, Role: schemas.NodeRoleUnknown,
	})
}

func (l *load) beat(id event.ResourceID, sequence int64, boot string, interval, suspectAfter int32) {
	l.send(l.heartbeat(id, sequence, boot, interval, suspectAfter))
}

// malform writes a record that nobody can process.
func (l *load) malform(now time.Time) {
	n := l.plain[l.rnd.IntN(len(l.plain))]
	r := l.observation(n.id, n.sequence+1, n.boot, n.observe(l, now))
	cluster := string(n.id.Cluster())
	switch l.rnd.IntN(13) {
	case 0:
		r.Value = r.Value[:len(r.Value)/2]
	case 1:
		r.Value = append([]byte{0, 0x7f, 0xff, 0xff, 0xff}, r.Value[5:]...) // a schema that nobody has registered
	case 2:
		r.Value = []byte("this is no event")
	case 3:
		r.Key = []byte(cluster + "/node/pg-9")
	case 4:
		r.Partition = (r.Partition + 1) % l.partitions
	case 5:
		r = l.observation(n.id, 0, n.boot, n.observe(l, now))
	case 6:
		r.Value = append(r.Value, 0)
	case 7:
		r = l.heartbeat(n.id, n.sequence, n.boot, 250, 1000)
		r.Value = r.Value[:len(r.Value)-1]
	case 8:
		r = l.heartbeat(n.id, n.sequence, n.boot, 250, 1000)
		r.Value = nil
	case 9:
		other := n.observe(l, now)
		other.Node = "pg-9"
		r = l.observation(n.id, n.sequence+1, n.boot, other)
	default:
		r = l.malformedCommand(cluster)
	}
	r.Headers = append(r.Headers, record.Header{Key: markMalformed, Value: []byte("1")})
	l.send(r)
}

// quiesce writes the last facts before an audit, while run holds still, and returns the nodes that will be suspected.
func (l *load) quiesce(ctx context.Context) (silent []event.ResourceID, err error) {
	var facts, beats []record.Record
	now := time.Now()
	for i, n := range l.plain {
		if n.forgotten {
			continue
		}
		n.sequence++
		facts = append(facts, l.observation(n.id, n.sequence, n.boot, n.observe(l, now)))
		if i%7 == 3 {
			silent = append(silent, n.id)
			beats = append(beats, l.heartbeat(n.id, n.sequence, n.boot, 1_000, 2_000))
			continue
		}
		beats = append(beats, l.heartbeat(n.id, n.sequence, n.boot, 60_000, 3_600_000))
	}
	for _, e := range l.estates {
		for _, a := range e.agents {
			a.boot(now)
			facts = append(facts, a.observation(l, now))
			beats = append(beats, l.heartbeat(a.id, a.sequence, a.bootID(), 60_000, 3_600_000))
		}
	}
	if err := l.producer.Flush(ctx); err != nil {
		return nil, err
	}
	for _, batch := range [][]record.Record{facts, beats} {
		if err := l.producer.Produce(ctx, batch...); err != nil {
			return nil, err
		}
	}
	return silent, nil
}
