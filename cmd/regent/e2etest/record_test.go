package e2etest

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/regent-infra/regent/internal/avrocodec"
	"github.com/regent-infra/regent/internal/event"
	"github.com/regent-infra/regent/internal/kafka/kafkatest"
	"github.com/regent-infra/regent/internal/topics"
	"github.com/regent-infra/regent/schemas"
)

// log is direct access to the topics of a regent up, as any other program has it.
type log struct {
	bed      *bed
	producer *kgo.Client
	registry *avrocodec.Client
	codec    *avrocodec.Codec
	set      *topics.Set
}

func (b *bed) openLog(broker, registry string) *log {
	b.t.Helper()
	l := &log{bed: b, set: topics.Default()}
	var err error
	l.producer, err = kgo.NewClient(kgo.SeedBrokers(broker), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerBatchMaxBytes(16<<20),
		kgo.ProducerBatchCompression(kgo.ZstdCompression()),
		// An idempotent write never gives up on a broker that may have taken it.
		kgo.DisableIdempotentWrite(), kgo.RecordDeliveryTimeout(3*time.Second))
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(l.producer.Close)
	if l.registry, err = avrocodec.NewClient(avrocodec.ClientConfig{URLs: []string{registry}}); err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(l.registry.Close)
	if l.codec, err = avrocodec.New(l.registry, l.set, avrocodec.Config{}); err != nil {
		b.t.Fatal(err)
	}
	return l
}

// send writes a value and returns its offset.
func (l *log) send(topic string, partition int32, key string, value []byte) int64 {
	l.bed.t.Helper()
	sent, err := l.producer.ProduceSync(l.bed.patient(), &kgo.Record{Topic: topic, Partition: partition, Key: []byte(key), Value: value}).First()
	if err != nil {
		l.bed.t.Fatal(err)
	}
	return sent.Offset
}

func (l *log) encode(topic string, header schemas.EnvelopeHeader, payload any) []byte {
	l.bed.t.Helper()
	value, err := l.codec.Encode(topic, event.New(header, payload))
	if err != nil {
		l.bed.t.Fatal(err)
	}
	return value
}

// header is that of an event of a cluster.
func header(cluster event.ClusterID, resource string) schemas.EnvelopeHeader {
	id := event.NewID()
	return schemas.EnvelopeHeader{
		ID: id, Source: "e2etest", Cluster: string(cluster), Resource: resource, CorrelationID: id, OccurredAt: time.Now().UTC().Truncate(time.Microsecond),
		Sequence: time.Now().UnixMicro(), BootID: id,
	}
}

// shown is an event as regent events -o json shows it.
type shown struct {
	Header  schemas.EnvelopeHeader `json:"header"`
	Payload json.RawMessage        `json:"payload"`
}

// events reads what is on a topic through the command line.
func (b *bed) events(server, topic string) []shown {
	b.t.Helper()
	out, _ := b.run(done, "events", "--server", server, "--topic", topic, "--from", "earliest", "--follow=false", "-o", "json")
	var all []shown
	for line := range strings.Lines(out) {
		var e shown
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			b.t.Fatalf("%v: %s", err, line)
		}
		all = append(all, e)
	}
	return all
}

// Records that cannot be read go to the dead-letter topic with their origin, reason and bytes, and what comes behind them in the same partition is processed.
func TestUnreadableRecordsGoToTheDeadLetterTopic(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	up := b.launch("up", "up", "--data-dir", b.path("up"), "--broker-listen", "127.0.0.1:0", "--registry-listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0", "--log-format", "json")
	server := b.logged(up, "the HTTP API is up", "url")
	b.ready(up, server)
	l := b.openLog(b.logged(up, "embedded broker and registry are up", "brokers"), b.logged(up, "embedded broker and registry are up", "registry"))
	foreign, err := l.registry.Register(t.Context(), "of-somebody-else", `{"type":"record","name":"Weather","fields":[{"name":"rain","type":"boolean"}]}`)
	if err != nil {
		t.Fatal(err)
	}
	const cluster event.ClusterID = "postgres/orders"
	node := cluster.Node("pg-1")
	partition := event.Partition(cluster, l.set.Partitions(event.KindPostgres))
	observations, commands := topics.Observations(event.KindPostgres), topics.Commands(event.KindPostgres)
	command := l.encode(commands, header(cluster, string(cluster)), &schemas.CheckHealth{Meta: schemas.CommandMeta{RequestedBy: "e2etest"}, TimeoutMs: 1000})
	beat := l.encode(topics.Heartbeats(event.KindPostgres), header(cluster, string(node)), &schemas.NodeHeartbeat{Node: "pg-1", Postmaster: schemas.PostmasterStatusStopped, Role: schemas.NodeRoleUnknown})

	type letter struct {
		Topic     string `json:"topic"`
		Partition int32  `json:"partition"`
		Offset    int64  `json:"offset"`
		Reader    string `json:"reader"`
		Reason    string `json:"reason"`
		Error     string `json:"error"`
		Value     string `json:"value"`
		Size      int64  `json:"value_size"`
		Truncated bool   `json:"truncated"`
	}
	type origin struct {
		topic  string
		offset int64
		reader string
	}
	wants := map[origin]letter{}
	values := map[origin][]byte{}
	spoil := func(topic, reader, reason, text string, value []byte) {
		t.Helper()
		at := origin{topic, l.send(topic, partition, string(cluster), value), reader}
		wants[at], values[at] = letter{Reason: reason, Error: text, Truncated: len(value) > 256<<10}, value
	}
	for _, c := range []struct{ topic, reader string }{{observations, "reducer.postgres"}, {commands, "orchestrator.postgres"}} {
		spoil(c.topic, c.reader, "undecodable", "begins with byte 0x7b", []byte(`{"json": true}`))
		spoil(c.topic, c.reader, "undecodable", "the value has 3 bytes", []byte{0, 0, 0})
		spoil(c.topic, c.reader, "foreign_schema", "the schema registry has no self-contained Avro schema of this id: 4711", append([]byte{0, 0, 0, 0x12, 0x67}, command[5:]...))
		spoil(c.topic, c.reader, "foreign_schema", fmt.Sprintf("schema id %d", foreign), []byte{0, 0, 0, byte(foreign >> 8), byte(foreign), 1})
		spoil(c.topic, c.reader, "foreign_schema", "topic "+c.topic+" does not carry this record", beat)
		spoil(c.topic, c.reader, "oversized", "2097152 bytes, expected at most 1048576", make([]byte, 2<<20))
	}
	spoil(commands, "orchestrator.postgres", "undecodable", "payload CheckHealth", command[:len(command)-1])
	spoil(commands, "orchestrator.postgres", "undecodable", "1 bytes follow the payload CheckHealth", append(bytes.Clone(command), 0))

	var letters []letter
	b.await("all dead letters", func() error {
		letters = nil
		for _, e := range b.events(server, "deadletter") {
			var one letter
			if err := json.Unmarshal(e.Payload, &one); err != nil {
				return err
			}
			letters = append(letters, one)
		}
		if len(letters) < len(wants) {
			return fmt.Errorf("%d of %d", len(letters), len(wants))
		}
		return nil
	}, up)
	for _, got := range letters {
		at := origin{got.Topic, got.Offset, got.Reader}
		want, known := wants[at]
		raw, err := base64.StdEncoding.DecodeString(got.Value)
		if !known || err != nil || got.Partition != partition || got.Reason != want.Reason || !strings.Contains(got.Error, want.Error) || got.Truncated != want.Truncated {
			t.Errorf("%v: got %+v, want %+v, %v", at, got, want, err)
		}
		if !bytes.HasPrefix(values[at], raw) || int64(len(values[at])) != got.Size || !got.Truncated && len(raw) != len(values[at]) {
			t.Errorf("%v: the letter has %d of %d bytes", at, len(raw), len(values[at]))
		}
		delete(wants, at)
	}
	if len(wants) > 0 {
		t.Errorf("no dead letters of %v", wants)
	}

	// Behind all of that, the same partitions do their work.
	l.send(observations, partition, string(node), l.encode(observations, header(cluster, string(node)), &schemas.PostgresNodeObserved{
		Node: "pg-1", Host: "127.0.0.1", Port: 5432, Postmaster: schemas.PostmasterStatusStopped, Role: schemas.NodeRoleUnknown,
		Senders: []schemas.WalSender{}, Slots: []schemas.ReplicationSlot{}, TimelineHistory: []schemas.TimelineSwitch{}, RecentOrders: []schemas.OrderResult{},
		Breaker: schemas.BreakerStatus{State: schemas.BreakerStateClosed},
	}))
	b.await("the state of "+string(node), func() error {
		status, body, err := b.get(server, "/v1/resources/"+string(node), nil)
		if err == nil && status != http.StatusOK {
			err = fmt.Errorf("%d: %s", status, body)
		}
		return err
	}, up)
	b.run(refused, "check", string(cluster), "--server", server)
	b.run(done, "rebuild", "--verify", "--server", server)
	b.stop(up)
}

// Commands that cannot be carried out are answered with a rejection that says why, and once each.
func TestBadCommandsAreRejected(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	up := b.launch("up", "up", "--data-dir", b.path("up"), "--broker-listen", "127.0.0.1:0", "--registry-listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0", "--log-format", "json")
	server := b.logged(up, "the HTTP API is up", "url")
	b.ready(up, server)
	l := b.openLog(b.logged(up, "embedded broker and registry are up", "brokers"), b.logged(up, "embedded broker and registry are up", "registry"))
	say := func(want string, args ...string) {
		t.Helper()
		out, stderr := b.run(refused, append(args, "--server", server)...)
		if !strings.Contains(out+stderr, want) {
			t.Errorf("%v: missing %q in %s%s", args, want, out, stderr)
		}
	}
	for _, verb := range []string{"switchover", "failover", "shutdown", "start", "check"} {
		say("UNKNOWN_CLUSTER", verb, "postgres/nowhere")
	}
	say("UNKNOWN_CLUSTER", "restart", "postgres/nowhere", "pg-1")
	say("EXPIRED", "command", "-f", b.write("expired.yaml", "type: StartCluster\ncluster: postgres/nowhere\npayload: {meta: {expires_at: 2001-01-01T00:00:00Z}}\n"))
	id := event.NewID()
	say("UNKNOWN_CLUSTER", "command", "CheckHealth", "postgres/nowhere", "--id", id, "--payload", "{timeout_ms: 1000}")
	say("DUPLICATE", "command", "CheckHealth", "postgres/nowhere", "--id", id, "--payload", "{timeout_ms: 1000}")
	say("MALFORMED", "init", "postgres/twice", "--member", "pg-1=127.0.0.1:5432", "--member", "pg-1=127.0.0.1:5433")

	// What only another program can get wrong.
	const cluster event.ClusterID = "postgres/nowhere"
	commands, partitions := topics.Commands(event.KindPostgres), l.set.Partitions(event.KindPostgres)
	payload := &schemas.CheckHealth{Meta: schemas.CommandMeta{RequestedBy: "e2etest"}, TimeoutMs: 1000}
	right := event.Partition(cluster, partitions)
	noID := header(cluster, string(cluster))
	noID.ID = "17"
	l.send(commands, right, string(cluster), l.encode(commands, noID, payload))
	l.send(commands, (right+1)%partitions, string(cluster), l.encode(commands, header(cluster, string(cluster)), payload))
	l.send(commands, right, string(cluster), []byte("not Avro"))
	for _, want := range []string{"expected a UUID", fmt.Sprintf("belongs to partition %d of %d", right, partitions), "cannot be read as a command"} {
		b.await("a rejection with "+want, func() error {
			var said []string
			for _, e := range b.events(server, "outcomes") {
				if e.Header.Type == "CommandRejected" && strings.Contains(string(e.Payload), want) && strings.Contains(string(e.Payload), "MALFORMED") {
					return nil
				}
				said = append(said, string(e.Payload))
			}
			return fmt.Errorf("there is none among %s", said)
		}, up)
	}
	b.stop(up)
}

// A registry that holds something else under our subjects is told by name, before anything is changed.
func TestIncompatibleSchemasAreRefused(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	_, broker := kafkatest.Start(t)
	brokers := broker.Brokers[0]
	p := b.launch("registry", "server", "--roles", "registry", "--brokers", brokers, "--registry-listen", "127.0.0.1:0", "--log-format", "json")
	registry := b.logged(p, "the schema registry is up", "registry")
	where := []string{"--brokers", brokers, "--registry", registry}
	_, stderr := b.run(failed, append([]string{"server", "--roles", "reducer", "--data-dir", b.path("early")}, where...)...)
	if !strings.Contains(stderr, "run: regent topics apply") {
		t.Errorf("without schemas a role says %s", stderr)
	}
	client := b.openLog(brokers, registry).registry
	subject := topics.State(event.KindPostgres) + "-value"
	if _, err := client.Register(t.Context(), subject, `{"type":"record","name":"Envelope","namespace":"io.regent.v1","fields":[{"name":"other","type":"long"}]}`); err != nil {
		t.Fatal(err)
	}
	_, stderr = b.run(failed, append([]string{"topics", "apply"}, where...)...)
	for _, want := range []string{subject, "is not compatible with what is registered"} {
		if !strings.Contains(stderr, want) {
			t.Errorf("missing %q in %s", want, stderr)
		}
	}
	_, stderr = b.run(failed, append([]string{"server", "--roles", "reducer", "--data-dir", b.path("late")}, where...)...)
	if !strings.Contains(stderr, "is not registered") {
		t.Errorf("a role says %s", stderr)
	}
	b.stop(p)
}
