package embedded

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

func createTopic(t *testing.T, cl *kgo.Client, topic string, partitions int32, configs ...string) {
	t.Helper()
	m := make(map[string]*string)
	for i := 0; i < len(configs); i += 2 {
		m[configs[i]] = &configs[i+1]
	}
	if _, err := kadm.NewClient(cl).CreateTopic(t.Context(), partitions, 1, m, topic); err != nil {
		t.Fatalf("create topic %s: %v", topic, err)
	}
}

func produce(t *testing.T, cl *kgo.Client, recs ...*kgo.Record) {
	t.Helper()
	if err := cl.ProduceSync(t.Context(), recs...).FirstErr(); err != nil {
		t.Fatalf("produce: %v", err)
	}
}

func TestLogAppendTimeIsTheBrokers(t *testing.T) {
	for codec, opt := range map[string]kgo.CompressionCodec{"plain": kgo.NoCompression(), "lz4": kgo.Lz4Compression(), "zstd": kgo.ZstdCompression()} {
		t.Run(codec, func(t *testing.T) {
			dir := t.TempDir()
			s := open(t, testConfig(dir))
			cl := client(t, s, kgo.ProducerBatchCompression(opt), kgo.ProducerLinger(20*time.Millisecond))
			createTopic(t, cl, "appended", 1, "message.timestamp.type", "LogAppendTime")
			createTopic(t, cl, "created", 1)
			old := time.Now().Add(-72 * time.Hour).Truncate(time.Millisecond)
			before := time.Now().Truncate(time.Millisecond)
			for _, topic := range []string{"appended", "created"} {
				var recs []*kgo.Record
				for i := range 10 {
					recs = append(recs, &kgo.Record{Topic: topic, Timestamp: old.Add(time.Duration(i) * time.Second), Value: []byte("v")})
				}
				produce(t, cl, recs...)
			}
			after := time.Now()
			check := func(s *Stack) {
				got := readAll(t, s, "appended", 10)
				if last := got[9].Timestamp; last.Before(before) || last.After(after) {
					t.Errorf("newest record has time %v, %v to %v expected", last, before, after)
				}
				for i, r := range got {
					if r.Timestamp.After(after) {
						t.Errorf("record %d is from the future: %v", i, r.Timestamp)
					}
				}
				for i, r := range readAll(t, s, "created", 10) {
					if want := old.Add(time.Duration(i) * time.Second); !r.Timestamp.Equal(want) {
						t.Errorf("record %d of the other topic has time %v, %v expected", i, r.Timestamp, want)
					}
				}
			}
			check(s)
			cl.Close()
			closeStack(t, s)
			check(open(t, testConfig(dir)))
		})
	}
}

// A client that sets the flag itself must not be able to make kfake cut off its log at the next start.
func TestForeignTimestampFlagDoesNotDamageTheLog(t *testing.T) {
	dir := t.TempDir()
	s := open(t, testConfig(dir))
	cl := client(t, s, kgo.DefaultProduceTopic("flagged"), kgo.DisableIdempotentWrite())
	createTopic(t, cl, "flagged", 1)
	produce(t, cl, &kgo.Record{Value: []byte("0")})
	rec := kmsg.Record{Value: []byte("1")}
	rec.Length = int32(len(rec.AppendTo(nil)) - 1)
	batch := kmsg.RecordBatch{
		Magic: 2, Attributes: 0x08, FirstTimestamp: 1, MaxTimestamp: 1, ProducerID: -1, ProducerEpoch: -1, FirstSequence: -1,
		NumRecords: 1, Records: rec.AppendTo(nil), PartitionLeaderEpoch: -1,
	}
	raw := batch.AppendTo(nil)
	binary.BigEndian.PutUint32(raw[8:], uint32(len(raw)-12))
	binary.BigEndian.PutUint32(raw[17:], checksum(raw[21:]))
	req := kmsg.NewPtrProduceRequest()
	req.Acks = -1
	req.TimeoutMillis = 5000
	topics, err := kadm.NewClient(cl).ListTopics(t.Context(), "flagged")
	if err != nil {
		t.Fatal(err)
	}
	rt := kmsg.NewProduceRequestTopic()
	rt.Topic, rt.TopicID = "flagged", topics["flagged"].ID
	rp := kmsg.NewProduceRequestTopicPartition()
	rp.Records = raw
	rt.Partitions = append(rt.Partitions, rp)
	req.Topics = append(req.Topics, rt)
	resp, err := req.RequestWith(t.Context(), cl)
	if err != nil {
		t.Fatal(err)
	}
	if err := kerr.ErrorForCode(resp.Topics[0].Partitions[0].ErrorCode); err != nil {
		t.Fatal(err)
	}
	produce(t, cl, &kgo.Record{Value: []byte("2")})
	cl.Close()
	closeStack(t, s)
	if got := readAll(t, open(t, testConfig(dir)), "flagged", 3); len(got) != 3 || string(got[1].Value) != "1" {
		t.Errorf("%d records after a restart, 3 expected", len(got))
	}
}

func TestRefusesWhatKafkaWouldRefuse(t *testing.T) {
	s := open(t, testConfig(t.TempDir()))
	cl := client(t, s)
	adm := kadm.NewClient(cl)
	createTopic(t, cl, "fine", 1)
	for _, c := range []struct {
		name       string
		partitions int32
		configs    map[string]*string
		want       error
		message    string
	}{
		{"../../etc", 1, nil, kerr.InvalidTopicException, `topic name "../../etc": 1 to 249 letters`},
		{strings.Repeat("x", 250), 1, nil, kerr.InvalidTopicException, "1 to 249 letters"},
		{"many", 1001, nil, kerr.InvalidPartitions, "topic many asks for 1001 partitions: the embedded broker allows up to 1000"},
		{"odd", 1, map[string]*string{"retention.msec": kmsg.StringPtr("1")}, kerr.InvalidConfig, `topic config "retention.msec" is unknown`},
		{"odd", 1, map[string]*string{"cleanup.policy": kmsg.StringPtr("shrink")}, kerr.InvalidConfig, `topic config cleanup.policy: "shrink" is none of compact, delete, or both`},
		{"odd", 1, map[string]*string{"retention.ms": kmsg.StringPtr("soon")}, kerr.InvalidConfig, `topic config retention.ms: "soon" is not a whole number of at least -1`},
	} {
		resp, err := adm.CreateTopic(t.Context(), c.partitions, 1, c.configs, c.name)
		if !errors.Is(err, c.want) || !strings.Contains(resp.ErrMessage, c.message) {
			t.Errorf("create %q: %v %q, want %v %q", c.name, err, resp.ErrMessage, c.want, c.message)
		}
	}
	altered, err := adm.AlterBrokerConfigs(t.Context(), []kadm.AlterConfig{{Op: kadm.SetConfig, Name: "log.cleaner.backoff.ms", Value: kmsg.StringPtr("1")}})
	if err != nil {
		t.Fatal(err)
	}
	if err := altered[0].Err; !errors.Is(err, kerr.PolicyViolation) || !strings.Contains(altered[0].ErrMessage, "log.cleaner.backoff.ms is managed") {
		t.Errorf("alter a managed setting: %v %q", err, altered[0].ErrMessage)
	}
	topic, err := adm.AlterTopicConfigs(t.Context(), []kadm.AlterConfig{{Op: kadm.SetConfig, Name: "min.compaction.lag.ms", Value: kmsg.StringPtr("5")}}, "fine")
	if err != nil || topic[0].Err != nil {
		t.Errorf("alter min.compaction.lag.ms: %v %v", err, topic[0].Err)
	}
	topic, err = adm.AlterTopicConfigs(t.Context(), []kadm.AlterConfig{{Op: kadm.SetConfig, Name: "min.compaction.lag", Value: kmsg.StringPtr("5")}}, "fine")
	if err != nil || !errors.Is(topic[0].Err, kerr.InvalidConfig) {
		t.Errorf("alter an unknown setting: %v %v", err, topic[0].Err)
	}
}

func TestStrangersOnThePortDoNotHurt(t *testing.T) {
	s := open(t, testConfig(t.TempDir()))
	frame := func(size uint32, key, version int16, rest ...byte) []byte {
		b := binary.BigEndian.AppendUint32(nil, size)
		b = binary.BigEndian.AppendUint16(b, uint16(key))
		b = binary.BigEndian.AppendUint16(b, uint16(version))
		return append(b, rest...)
	}
	for name, bytes := range map[string][]byte{
		"http":             []byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n"),
		"tls":              {0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00, 0x01, 0xfc, 0x03},
		"unknown key":      frame(20, 999, 0, make([]byte, 16)...),
		"negative key":     frame(20, -1, 0, make([]byte, 16)...),
		"version too new":  frame(20, 3, 99, make([]byte, 16)...),
		"negative version": frame(20, 3, -1, make([]byte, 16)...),
		"too short":        frame(2, 3, 0),
		"huge":             frame(1<<31, 0, 9, make([]byte, 64)...),
		"produce of ones":  frame(68, 0, 9, []byte(strings.Repeat("\xff", 64))...),
		"body of ones":     frame(68, 28, 3, []byte(strings.Repeat("\xff", 64))...),
	} {
		t.Run(name, func(t *testing.T) {
			conn, err := net.Dial("tcp", s.Brokers()[0])
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = conn.Close() }()
			if _, err := conn.Write(bytes); err != nil {
				t.Fatal(err)
			}
			if err := conn.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
				t.Fatal(err)
			}
			if _, err := conn.Read(make([]byte, 1)); err == nil || errors.Is(err, net.ErrClosed) {
				t.Errorf("the connection was answered: %v", err)
			} else if timeout := net.Error(nil); errors.As(err, &timeout) && timeout.Timeout() {
				t.Error("the connection was left open")
			}
		})
	}
	if err := client(t, s).Ping(t.Context()); err != nil {
		t.Errorf("the broker does not answer any more: %v", err)
	}
}

func TestTopicsComeAndGo(t *testing.T) {
	dir := t.TempDir()
	s := open(t, testConfig(dir))
	cl := client(t, s, kgo.RecordPartitioner(kgo.ManualPartitioner()))
	adm := kadm.NewClient(cl)
	const partitions = 100
	for round := range 3 {
		createTopic(t, cl, "again", partitions)
		var recs []*kgo.Record
		for p := range int32(partitions) {
			recs = append(recs, &kgo.Record{Topic: "again", Partition: p, Value: fmt.Appendf(nil, "%d", round)})
		}
		if round > 0 {
			cl.PurgeTopicsFromClient("again")
		}
		produce(t, cl, recs...)
		if round < 2 {
			if _, err := adm.DeleteTopic(t.Context(), "again"); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := adm.CommitAllOffsets(t.Context(), "readers", offsetsOf("again", partitions, 1)); err != nil {
		t.Fatal(err)
	}
	cl.Close()
	closeStack(t, s)
	s = open(t, testConfig(dir))
	got := readAll(t, s, "again", partitions)
	for _, r := range got {
		if string(r.Value) != "2" || r.Offset != 0 {
			t.Errorf("partition %d offset %d has value %q", r.Partition, r.Offset, r.Value)
		}
	}
	fetched, err := kadm.NewClient(client(t, s)).FetchOffsets(t.Context(), "readers")
	if err != nil || len(fetched["again"]) != partitions {
		t.Errorf("%d offsets after a restart (%v), %d expected", len(fetched["again"]), err, partitions)
	}
}

func offsetsOf(topic string, partitions int32, at int64) kadm.Offsets {
	o := make(kadm.Offsets)
	for p := range partitions {
		o.Add(kadm.Offset{Topic: topic, Partition: p, At: at, LeaderEpoch: -1})
	}
	return o
}

func TestGroupsShareTheWork(t *testing.T) {
	s := open(t, testConfig(t.TempDir()))
	cl := client(t, s)
	createTopic(t, cl, "work", 8)
	for i := range 80 {
		produce(t, cl, &kgo.Record{Topic: "work", Key: fmt.Appendf(nil, "%d", i), Value: []byte("v")})
	}
	seen := make(chan *kgo.Record, 200)
	for range 2 {
		member := client(t, s, kgo.ConsumerGroup("workers"), kgo.ConsumeTopics("work"), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
		go func() {
			for {
				f := member.PollFetches(t.Context())
				if f.IsClientClosed() || t.Context().Err() != nil {
					return
				}
				f.EachRecord(func(r *kgo.Record) { seen <- r })
			}
		}()
	}
	keys := make(map[string]bool)
	deadline := time.After(20 * time.Second)
	for len(keys) < 80 {
		select {
		case r := <-seen:
			keys[string(r.Key)] = true
		case <-deadline:
			t.Fatalf("%d records consumed, 80 expected", len(keys))
		}
	}
}

func checksum(b []byte) uint32 { return crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)) }
