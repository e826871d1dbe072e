package kafka_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"go.uber.org/goleak"

	"github.com/regent-infra/regent/internal/kafka"
	"github.com/regent-infra/regent/internal/kafka/kafkatest"
	"github.com/regent-infra/regent/internal/record"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func deadline(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func write(t *testing.T, config kafka.Config, records ...record.Record) {
	t.Helper()
	producer, err := kafka.NewProducer(config, kafka.ProducerConfig{})
	if err != nil {
		t.Fatal(err)
	}
	defer producer.Close()
	if err := producer.Produce(deadline(t), records...); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, config kafka.Config, n int, starts map[record.TopicPartition]kafka.Start, options kafka.ReaderConfig) ([]record.Record, *kafka.Reader) {
	t.Helper()
	reader, err := kafka.NewReader(config, starts, options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(reader.Close)
	var got []record.Record
	for len(got) < n {
		records, err := reader.Poll(deadline(t))
		if err != nil {
			t.Fatalf("after %d of %d records: %v", len(got), n, err)
		}
		got = append(got, records...)
	}
	return got, reader
}

func numbered(topic string, partition int32, from, to int) []record.Record {
	var records []record.Record
	for i := from; i < to; i++ {
		records = append(records, record.Record{
			Topic: topic, Partition: partition, Key: fmt.Appendf(nil, "k%d", i), Value: fmt.Appendf(nil, "v%d", i),
			Headers: []record.Header{{Key: "h", Value: []byte("x")}},
		})
	}
	return records
}

func TestWhatIsWrittenIsRead(t *testing.T) {
	t.Parallel()
	_, config := kafkatest.Start(t, kfake.SeedTopics(3, "a"))
	write(t, config, numbered("a", 2, 0, 50)...)
	write(t, config, record.Record{Topic: "a", Partition: 0, Key: []byte("gone")})

	two := record.TopicPartition{Topic: "a", Partition: 2}
	got, reader := read(t, config, 50, map[record.TopicPartition]kafka.Start{two: kafka.FromEarliest()}, kafka.ReaderConfig{})
	for i, rec := range got {
		if rec.Offset != int64(i) || rec.Partition != 2 || string(rec.Value) != fmt.Sprintf("v%d", i) || string(rec.Header("h")) != "x" || rec.Timestamp.Location() != time.UTC {
			t.Fatalf("record %d is %+v", i, rec)
		}
	}
	if at := reader.Positions()[two]; at != 50 {
		t.Errorf("position %d, want 50", at)
	}
	if marks := reader.Watermarks()[two]; marks.High != 50 || marks.Stable != 50 {
		t.Errorf("watermarks %+v, want 50", marks)
	}
	got, _ = read(t, config, 1, map[record.TopicPartition]kafka.Start{{Topic: "a"}: kafka.FromEarliest()}, kafka.ReaderConfig{})
	if !got[0].Tombstone() {
		t.Errorf("the tombstone came back as %+v", got[0])
	}
}

func TestStarts(t *testing.T) {
	t.Parallel()
	_, config := kafkatest.Start(t, kfake.SeedTopics(1, "a"))
	write(t, config, numbered("a", 0, 0, 5)...)
	zero := record.TopicPartition{Topic: "a"}
	all, _ := read(t, config, 5, map[record.TopicPartition]kafka.Start{zero: kafka.FromEarliest()}, kafka.ReaderConfig{})
	// The brokers' clock has milliseconds: let the next records be of a later one.
	later := all[4].Timestamp.Add(time.Millisecond)
	for time.Now().Before(later.Add(time.Millisecond)) { // the clock that stamps records moves on
	}
	write(t, config, numbered("a", 0, 5, 8)...)

	for name, c := range map[string]struct {
		start kafka.Start
		first string
	}{
		"earliest":              {kafka.FromEarliest(), "v0"},
		"offset":                {kafka.FromOffset(3), "v3"},
		"offset out of range":   {kafka.FromOffset(100), "v0"},
		"time":                  {kafka.FromTime(later), "v5"},
		"time before the first": {kafka.FromTime(later.Add(-time.Hour)), "v0"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, _ := read(t, config, 1, map[record.TopicPartition]kafka.Start{zero: c.start}, kafka.ReaderConfig{})
			if string(got[0].Value) != c.first {
				t.Errorf("began with %s, want %s", got[0].Value, c.first)
			}
		})
	}
}

func TestLatestBeginsWithWhatComesAfter(t *testing.T) {
	t.Parallel()
	_, config := kafkatest.Start(t, kfake.SeedTopics(1, "a"))
	write(t, config, numbered("a", 0, 0, 5)...)
	reader, err := kafka.NewReader(config, map[record.TopicPartition]kafka.Start{{Topic: "a"}: kafka.FromLatest()}, kafka.ReaderConfig{})
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	producer, err := kafka.NewProducer(config, kafka.ProducerConfig{})
	if err != nil {
		t.Fatal(err)
	}
	defer producer.Close()
	ctx := deadline(t)
	got := make(chan []record.Record, 1)
	go func() {
		records, _ := reader.Poll(ctx)
		got <- records
	}()
	for i := 5; ; i++ { // the reader finds the end at some moment: whatever comes after it is read
		if err := producer.Produce(ctx, numbered("a", 0, i, i+1)...); err != nil {
			t.Fatal(err)
		}
		select {
		case records := <-got:
			if len(records) == 0 || records[0].Offset < 5 {
				t.Errorf("got %+v, want what came later", records)
			}
			return
		default:
		}
	}
}

func TestReadersSeeCommittedRecordsAndPassMarkers(t *testing.T) {
	t.Parallel()
	_, config := kafkatest.Start(t, kfake.SeedTopics(1, "a"))
	transact := func(commit kgo.TransactionEndTry, value string) {
		client, err := kgo.NewClient(kgo.SeedBrokers(config.Brokers...), kgo.TransactionalID(value), kgo.RecordPartitioner(kgo.ManualPartitioner()))
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		if err := client.BeginTransaction(); err != nil {
			t.Fatal(err)
		}
		if err := client.ProduceSync(deadline(t), &kgo.Record{Topic: "a", Value: []byte(value)}).FirstErr(); err != nil {
			t.Fatal(err)
		}
		if err := client.EndTransaction(deadline(t), commit); err != nil {
			t.Fatal(err)
		}
	}
	transact(kgo.TryAbort, "aborted")     // offset 0, marker 1
	transact(kgo.TryCommit, "committed")  // offset 2, marker 3
	transact(kgo.TryAbort, "aborted too") // offset 4, marker 5

	zero := record.TopicPartition{Topic: "a"}
	got, reader := read(t, config, 1, map[record.TopicPartition]kafka.Start{zero: kafka.FromEarliest()}, kafka.ReaderConfig{})
	for reader.Positions()[zero] < 6 {
		records, err := reader.Poll(deadline(t))
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, records...)
	}
	if len(got) != 1 || string(got[0].Value) != "committed" {
		t.Errorf("got %+v, want the committed record alone", got)
	}
	got, _ = read(t, config, 3, map[record.TopicPartition]kafka.Start{zero: kafka.FromEarliest()}, kafka.ReaderConfig{Uncommitted: true})
	if string(got[0].Value) != "aborted" {
		t.Errorf("reading uncommitted gave %+v", got)
	}
}

func TestProduceAsyncTellsWhereTheRecordStands(t *testing.T) {
	t.Parallel()
	_, config := kafkatest.Start(t, kfake.SeedTopics(1, "a"))
	producer, err := kafka.NewProducer(config, kafka.ProducerConfig{Compression: kafka.CompressionLZ4})
	if err != nil {
		t.Fatal(err)
	}
	defer producer.Close()
	offsets := make(chan int64, 10)
	for _, rec := range numbered("a", 0, 0, 10) {
		producer.ProduceAsync(rec, func(rec record.Record, err error) {
			if err != nil {
				t.Error(err)
			}
			offsets <- rec.Offset
		})
	}
	if err := producer.Flush(deadline(t)); err != nil {
		t.Fatal(err)
	}
	for want := range int64(10) {
		if got := <-offsets; got != want {
			t.Errorf("offset %d, want %d", got, want)
		}
	}
}

func TestTheBufferIsBounded(t *testing.T) {
	t.Parallel()
	config := kafka.Config{Brokers: []string{kafkatest.Nobody(t)}}
	producer, err := kafka.NewProducer(config, kafka.ProducerConfig{MaxBufferedRecords: 3})
	if err != nil {
		t.Fatal(err)
	}
	defer producer.Close()
	refused := make(chan error, 4)
	for _, rec := range numbered("a", 0, 0, 4) {
		producer.ProduceAsync(rec, func(_ record.Record, err error) { refused <- err })
	}
	if err := <-refused; err == nil || !strings.Contains(err.Error(), "the brokers are slower than what is written, or away") {
		t.Errorf("got %v", err)
	}
}

func wantUnreachable(t *testing.T, err error, address string) {
	t.Helper()
	if !errors.Is(err, kafka.ErrUnreachable) || !strings.Contains(err.Error(), address) || !strings.Contains(err.Error(), "is it up, and is the address right?") {
		t.Errorf("got %v, want the address %s and the hint", err, address)
	}
}

func TestUnreachableBrokersAreNamedInTime(t *testing.T) {
	t.Parallel()
	address := kafkatest.Nobody(t)
	config := kafka.Config{Brokers: []string{address}, RequestTimeout: time.Second}
	began := time.Now()

	admin, err := kafka.NewAdmin(config)
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close()
	wantUnreachable(t, admin.Ping(t.Context()), address)
	_, err = admin.Topics(t.Context())
	wantUnreachable(t, err, address)

	producer, err := kafka.NewProducer(config, kafka.ProducerConfig{DeliveryTimeout: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	defer producer.Close()
	wantUnreachable(t, producer.Produce(t.Context(), numbered("a", 0, 0, 1)...), address)

	reader, err := kafka.NewReader(config, map[record.TopicPartition]kafka.Start{{Topic: "a"}: kafka.FromEarliest()}, kafka.ReaderConfig{})
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	_, err = reader.Poll(t.Context())
	wantUnreachable(t, err, address)
	if took := time.Since(began); took > 20*time.Second {
		t.Errorf("it took %s to say so", took)
	}
}

func TestProduceEndsWithItsContext(t *testing.T) {
	t.Parallel()
	cluster, config := kafkatest.Start(t, kfake.SeedTopics(1, "a"))
	cluster.ControlKey(0, func(kmsg.Request) (kmsg.Response, error, bool) {
		cluster.KeepControl()
		<-t.Context().Done()
		return nil, nil, false
	})
	producer, err := kafka.NewProducer(config, kafka.ProducerConfig{})
	if err != nil {
		t.Fatal(err)
	}
	defer producer.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if err := producer.Produce(ctx, numbered("a", 0, 0, 1)...); !errors.Is(err, kafka.ErrOutcomeUnknown) || !strings.Contains(err.Error(), "write a record to a/0") {
		t.Errorf("got %v, want that the outcome is not known", err)
	}
}

func TestUnknownTopics(t *testing.T) {
	t.Parallel()
	_, config := kafkatest.Start(t)
	producer, err := kafka.NewProducer(config, kafka.ProducerConfig{})
	if err != nil {
		t.Fatal(err)
	}
	defer producer.Close()
	if err := producer.Produce(deadline(t), numbered("nowhere", 0, 0, 1)...); !errors.Is(err, kafka.ErrUnknownTopic) || !strings.Contains(err.Error(), "regent topics plan") {
		t.Errorf("write: %v", err)
	}
	reader, err := kafka.NewReader(config, map[record.TopicPartition]kafka.Start{{Topic: "nowhere"}: kafka.FromEarliest()}, kafka.ReaderConfig{})
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	if _, err := reader.Poll(deadline(t)); !errors.Is(err, kafka.ErrUnknownTopic) {
		t.Errorf("read: %v", err)
	}
}

func TestValidateNamesEveryFault(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	junk := filepath.Join(dir, "junk")
	empty := filepath.Join(dir, "empty")
	for path, content := range map[string]string{junk: "junk", empty: " \n"} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for name, c := range map[string]struct {
		config kafka.Config
		want   []string
	}{
		"nothing": {kafka.Config{}, []string{"there is no broker address, expected at least one host:port"}},
		"addresses": {kafka.Config{Brokers: []string{"a", "b:0", ":9092", "c:x"}, DialTimeout: -1, RequestTimeout: -1}, []string{
			`broker address "a" is not host:port`, `"b:0"`, `":9092"`, `"c:x"`, "the dial timeout is -1ns", "the request timeout is -1ns",
		}},
		"files": {kafka.Config{Brokers: []string{"a:1"}, TLS: kafka.TLS{Enabled: true, CAFile: junk, CertFile: junk}, SASL: kafka.SASL{Mechanism: kafka.SASLPlain, PasswordFile: empty}}, []string{
			"holds no certificate in PEM form", "a certificate file or a key file alone", "SASL has no user", "empty is empty",
		}},
		"missing files": {kafka.Config{Brokers: []string{"a:1"}, TLS: kafka.TLS{Enabled: true, CertFile: "/nowhere/c", KeyFile: "/nowhere/k"}, SASL: kafka.SASL{Mechanism: kafka.SASLScramSHA256, User: "u", PasswordFile: "/nowhere/p"}}, []string{
			"read the TLS client certificate /nowhere/c", "read the SASL password file: open /nowhere/p",
		}},
		"not enabled": {kafka.Config{Brokers: []string{"a:1"}, TLS: kafka.TLS{CAFile: junk}, SASL: kafka.SASL{User: "u"}}, []string{
			"TLS has settings but is not enabled", "a user or a password file but no mechanism",
		}},
		"clear text": {kafka.Config{Brokers: []string{"a:1"}, SASL: kafka.SASL{Mechanism: kafka.SASLPlain, User: "u", PasswordFile: junk}}, []string{
			"SASL PLAIN would send the password in clear text",
		}},
		"mechanism": {kafka.Config{Brokers: []string{"a:1"}, SASL: kafka.SASL{Mechanism: "MAGIC", User: "u", PasswordFile: junk}}, []string{
			`SASL mechanism "MAGIC" is unknown, expected PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512`,
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			err := c.config.Validate()
			for _, want := range c.want {
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("missing %q in %v", want, err)
				}
			}
			if _, err := kafka.NewAdmin(c.config); err == nil {
				t.Error("a client was made of it")
			}
		})
	}
}

func TestSASLReadsThePasswordFromItsFile(t *testing.T) {
	t.Parallel()
	const canary = "canary-7f3a"
	_, config := kafkatest.Start(t, kfake.EnableSASL(), kfake.Superuser("SCRAM-SHA-256", "regent", canary))
	file := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(file, []byte(canary+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	config.SASL = kafka.SASL{Mechanism: kafka.SASLScramSHA256, User: "regent", PasswordFile: file}
	admin, err := kafka.NewAdmin(config)
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close()
	if err := admin.Ping(deadline(t)); err != nil {
		t.Fatal(err)
	}

	if err := os.WriteFile(file, []byte("wrong-"+canary), 0o600); err != nil {
		t.Fatal(err)
	}
	stranger, err := kafka.NewAdmin(config)
	if err != nil {
		t.Fatal(err)
	}
	defer stranger.Close()
	err = stranger.Ping(deadline(t))
	// The broker in memory hangs up; a real one also says SASL_AUTHENTICATION_FAILED.
	if err == nil || !strings.Contains(err.Error(), "are the credentials right?") {
		t.Errorf("got %v", err)
	}
	if err != nil && strings.Contains(err.Error(), canary) {
		t.Errorf("the password is in the error: %v", err)
	}
}
