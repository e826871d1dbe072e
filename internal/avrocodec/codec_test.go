package avrocodec

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/regent-infra/regent/internal/envelope"
	"github.com/regent-infra/regent/internal/event"
	"github.com/regent-infra/regent/internal/record"
	"github.com/regent-infra/regent/internal/topics"
	"github.com/regent-infra/regent/schemas"
)

var heartbeats = topics.Heartbeats(event.KindPostgres)

func beat() *event.Event {
	return newEvent(&fixed{full: true}, "NodeHeartbeat")
}

func TestEveryPayloadSurvivesTheWay(t *testing.T) {
	t.Parallel()
	codec := Standalone(topics.Default())
	for name, topic := range payloadRecords() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			rapid.Check(t, func(t *rapid.T) {
				want := newEvent(drawn{t}, name)
				value, err := codec.Encode(topic, want)
				if err != nil {
					t.Fatal(err)
				}
				got, err := codec.Decode(topic, value)
				if err != nil {
					t.Fatal(err)
				}
				if !equal(got, want) {
					t.Fatalf("got  %s\nwant %s", normal(got), normal(want))
				}
				again, err := codec.Encode(topic, got)
				if err != nil || !bytes.Equal(again, value) {
					t.Fatalf("encoded again it is other bytes, err %v", err)
				}
				header, err := codec.DecodeHeader(topic, value)
				if err != nil || *header != got.EnvelopeHeader {
					t.Fatalf("header alone: %+v, %v", header, err)
				}
			})
		})
	}
}

func TestTimesAreUTC(t *testing.T) {
	t.Parallel()
	codec := Standalone(topics.Default())
	e := beat()
	e.OccurredAt = time.Date(2026, 1, 2, 3, 4, 5, 678_901_000, time.FixedZone("somewhere", 3600))
	value, err := codec.Encode(heartbeats, e)
	if err != nil {
		t.Fatal(err)
	}
	got, err := codec.Decode(heartbeats, value)
	if err != nil {
		t.Fatal(err)
	}
	if got.OccurredAt.Location() != time.UTC || !got.OccurredAt.Equal(e.OccurredAt) {
		t.Errorf("got %v, want the moment %v in UTC", got.OccurredAt, e.OccurredAt)
	}
}

func TestEncodeRefuses(t *testing.T) {
	t.Parallel()
	codec := Standalone(topics.Default())
	for name, c := range map[string]struct {
		topic  string
		change func(*event.Event)
		want   string
	}{
		"unknown topic":     {"other", func(*event.Event) {}, `topic "other" is not declared in topics.yaml`},
		"no payload":        {heartbeats, func(e *event.Event) { e.Payload = nil }, "the payload is a <nil>, expected a pointer to a generated record"},
		"a plain struct":    {heartbeats, func(e *event.Event) { e.Payload = schemas.NodeHeartbeat{} }, "the payload is a schemas.NodeHeartbeat, expected a pointer"},
		"nil pointer":       {heartbeats, func(e *event.Event) { e.Payload = (*schemas.NodeHeartbeat)(nil) }, "the payload is a nil pointer"},
		"foreign payload":   {heartbeats, func(e *event.Event) { e.Payload = &schemas.FencePostgres{} }, "the topic does not carry this record"},
		"another type":      {heartbeats, func(e *event.Event) { e.Type = "StreamTicked" }, `the header's type is "StreamTicked", expected the payload's record name`},
		"symbol of no enum": {heartbeats, func(e *event.Event) { e.Payload.(*schemas.NodeHeartbeat).Role = "KING" }, "encode NodeHeartbeat for topic infra.heartbeats.postgres.v1"},
		"too large":         {heartbeats, func(e *event.Event) { e.BootID = strings.Repeat("x", DefaultMaxBytes) }, "expected at most 1048576"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := beat()
			c.change(e)
			prefix := []byte("before")
			got, err := codec.AppendEncode(prefix, c.topic, e)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q in it", err, c.want)
			}
			if string(got) != "before" {
				t.Errorf("the buffer came back as %q", got)
			}
		})
	}
}

func frame(id uint32, body ...byte) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{0}, id), body...)
}

func wantDecodeError(t *testing.T, err error, reason, text string) {
	t.Helper()
	var permanent *event.DecodeError
	if !errors.As(err, &permanent) {
		t.Fatalf("got %v, want a DecodeError", err)
	}
	if permanent.Reason != reason || !strings.Contains(err.Error(), text) {
		t.Errorf("got %v, want %s with %q in it", err, reason, text)
	}
}

func TestDecodeRefuses(t *testing.T) {
	t.Parallel()
	codec := Standalone(topics.Default())
	good, err := codec.Encode(heartbeats, beat())
	if err != nil {
		t.Fatal(err)
	}
	id := binary.BigEndian.Uint32(good[1:5])
	lying := beat()
	header, err := codec.topics[heartbeats].header.Encode(&lying.EnvelopeHeader)
	if err != nil {
		t.Fatal(err)
	}
	tick, err := codec.topics[heartbeats].branches["StreamTicked"].schema.Encode(&schemas.StreamTicked{})
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		value        []byte
		reason, text string
	}{
		"nothing":            {nil, ReasonUndecodable, "the value has 0 bytes"},
		"only the frame":     {frame(id), ReasonUndecodable, "the header:"},
		"bad magic":          {append([]byte{1}, good[1:]...), ReasonUndecodable, "begins with byte 0x01"},
		"JSON":               {[]byte(`{"a": 1}`), ReasonUndecodable, "begins with byte 0x7b"},
		"id 0":               {frame(0, good[5:]...), ReasonUndecodable, "schema id 0"},
		"id beyond 31 bits":  {frame(1<<31, good[5:]...), ReasonUndecodable, "schema id 2147483648"},
		"unknown id":         {frame(4711, good[5:]...), ReasonForeignSchema, "the schema registry has no self-contained Avro schema of this id: 4711"},
		"trailing byte":      {append(bytes.Clone(good), 0), ReasonUndecodable, "1 bytes follow the payload NodeHeartbeat"},
		"oversized":          {make([]byte, DefaultMaxBytes+1), ReasonOversized, "1048577 bytes, expected at most 1048576"},
		"branch too high":    {frame(id, append(bytes.Clone(header), 4)...), ReasonUndecodable, "expected 0 to 1"},
		"branch negative":    {frame(id, append(bytes.Clone(header), 1)...), ReasonUndecodable, "expected 0 to 1"},
		"no branch":          {frame(id, header...), ReasonUndecodable, "branch is missing"},
		"type and payload":   {frame(id, append(append(bytes.Clone(header), 2), tick...)...), ReasonUndecodable, `the header says type "NodeHeartbeat", but the payload is a StreamTicked`},
		"huge string length": {frame(id, 0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01), ReasonUndecodable, "the header:"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := codec.Decode(heartbeats, c.value)
			wantDecodeError(t, err, c.reason, c.text)
		})
	}
	if _, err := codec.Decode("other", good); err == nil || !strings.Contains(err.Error(), `topic "other" is not declared`) {
		t.Errorf("unknown topic: %v", err)
	}
}

func TestEveryTruncationIsRefused(t *testing.T) {
	t.Parallel()
	codec := Standalone(topics.Default())
	for name, topic := range payloadRecords() {
		value, err := codec.Encode(topic, newEvent(&fixed{full: true}, name))
		if err != nil {
			t.Fatal(err)
		}
		for n := range value {
			_, err := codec.Decode(topic, value[:n:n])
			var permanent *event.DecodeError
			if !errors.As(err, &permanent) {
				t.Fatalf("%s cut to %d of %d bytes: %v", name, n, len(value), err)
			}
		}
	}
}

// silent is a registry that does not answer.
type silent struct{ Registry }

func (silent) SchemaByID(context.Context, int32) (string, error) {
	return "", errors.New("connection refused")
}

func (silent) LookupID(context.Context, string, string) (int32, error) {
	return 0, errors.New("connection refused")
}

func TestARegistryThatIsAwayIsTransient(t *testing.T) {
	t.Parallel()
	codec, err := New(silent{}, topics.Default(), Config{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = codec.Decode(heartbeats, frame(1, 2, 3))
	var permanent *event.DecodeError
	if err == nil || errors.As(err, &permanent) || !strings.Contains(err.Error(), "fetch schema id 1, which a record of topic "+heartbeats) {
		t.Errorf("got %v, want a transient error", err)
	}
	if _, err = codec.Encode(heartbeats, beat()); err == nil || !strings.Contains(err.Error(), "look up the schema of topic "+heartbeats) {
		t.Errorf("got %v", err)
	}
}

func TestAnUnregisteredTopicNamesTheCure(t *testing.T) {
	t.Parallel()
	codec, err := New(NewMemoryRegistry(), topics.Default(), Config{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = codec.Encode(heartbeats, beat())
	if err == nil || !errors.Is(err, ErrNotRegistered) || !strings.Contains(err.Error(), "run `regent topics apply`") {
		t.Errorf("got %v, want the hint", err)
	}
	err = codec.Prepare(t.Context(), heartbeats, topics.DeadLetter, "other")
	for _, want := range []string{heartbeats, topics.DeadLetter, `"other"`} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Prepare: %v, want %q in it", err, want)
		}
	}
}

func TestWriterIDsAreAskedForOnce(t *testing.T) {
	t.Parallel()
	counting := &counter{Registry: registryOf(t, topics.Default())}
	codec, err := New(counting, topics.Default(), Config{})
	if err != nil {
		t.Fatal(err)
	}
	for range 5 {
		value, err := codec.Encode(heartbeats, beat())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := codec.Decode(heartbeats, value); err != nil {
			t.Fatal(err)
		}
	}
	if counting.n != 2 {
		t.Errorf("the registry was asked %d times, want once per way", counting.n)
	}
}

type counter struct {
	Registry
	n int
}

func (c *counter) SchemaByID(ctx context.Context, id int32) (string, error) {
	c.n++
	return c.Registry.SchemaByID(ctx, id)
}

func (c *counter) LookupID(ctx context.Context, subject, schema string) (int32, error) {
	c.n++
	return c.Registry.LookupID(ctx, subject, schema)
}

func registryOf(t *testing.T, set *topics.Set) *MemoryRegistry {
	t.Helper()
	registry := NewMemoryRegistry()
	for _, topic := range set.All() {
		text, err := envelope.Schema(topic.Payloads)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := registry.Register(t.Context(), topics.Subject(topic.Name), text); err != nil {
			t.Fatal(err)
		}
	}
	return registry
}

// BenchmarkHeaders makes what goes with an event that follows from a record: its headers, with the child of the record's trace.
func BenchmarkHeaders(b *testing.B) {
	e := beat()
	cause := &record.Record{Headers: Headers(e, "")}
	b.ReportAllocs()
	for b.Loop() {
		if len(Headers(e, TraceOf(cause).Child(e.CorrelationID, e.ID))) != 8 {
			b.Fatal("a header is missing")
		}
	}
}

func BenchmarkCodec(b *testing.B) {
	codec := Standalone(topics.Default())
	records := payloadRecords()
	for _, name := range []string{"NodeHeartbeat", "PostgresNodeObserved"} {
		e := newEvent(&fixed{full: true}, name)
		value, err := codec.Encode(records[name], e)
		if err != nil {
			b.Fatal(err)
		}
		b.Run(fmt.Sprintf("Encode/%s", name), func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(int64(len(value)))
			var buf []byte
			for b.Loop() {
				if buf, err = codec.AppendEncode(buf[:0], records[name], e); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(fmt.Sprintf("Decode/%s", name), func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(int64(len(value)))
			for b.Loop() {
				if _, err := codec.Decode(records[name], value); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
