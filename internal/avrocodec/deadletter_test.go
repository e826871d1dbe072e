package avrocodec

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/regent-infra/regent/internal/event"
	"github.com/regent-infra/regent/internal/record"
	"github.com/regent-infra/regent/internal/topics"
	"github.com/regent-infra/regent/schemas"
)

func TestDeadLettersTellOriginReasonAndBytes(t *testing.T) {
	t.Parallel()
	codec := Standalone(topics.Default())
	build := DeadLetters(codec, "reducer.postgres")
	at := time.UnixMilli(1_700_000_000_123).UTC()
	for name, c := range map[string]struct {
		rec              record.Record
		cause            error
		value            []byte
		truncated, noKey bool
	}{
		"ordinary":      {record.Record{Topic: "a", Partition: 3, Offset: 42, Timestamp: at, Key: []byte("k"), Value: []byte("bytes")}, errors.New("broken"), []byte("bytes"), false, false},
		"huge":          {record.Record{Topic: "a", Partition: 3, Offset: 42, Timestamp: at, Key: bytes.Repeat([]byte("k"), 1<<20), Value: bytes.Repeat([]byte("v"), 4<<20)}, errors.New(strings.Repeat("\xff", 1<<20)), bytes.Repeat([]byte("v"), deadLetterValueBytes), true, false},
		"without a key": {record.Record{Topic: "a", Partition: 3, Offset: 42, Timestamp: at, Value: []byte{}}, nil, []byte{}, false, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			out, err := build(&c.rec, ReasonUndecodable, c.cause)
			if err != nil {
				t.Fatal(err)
			}
			if out.Topic != topics.DeadLetter || out.Partition != 0 || string(out.Key) != "a/3/42" {
				t.Errorf("the record is for %s/%d under %q", out.Topic, out.Partition, out.Key)
			}
			e, err := codec.Decode(topics.DeadLetter, out.Value)
			if err != nil {
				t.Fatal(err)
			}
			letter := e.Payload.(*schemas.DeadLetter)
			if letter.Topic != "a" || letter.Partition != 3 || letter.Offset != 42 || !letter.Timestamp.Equal(at) || letter.Reader != "reducer.postgres" || letter.Reason != ReasonUndecodable {
				t.Errorf("the letter says %+v", letter)
			}
			if !bytes.Equal(*letter.Value, c.value) || letter.Truncated != c.truncated || letter.ValueSize != int64(len(c.rec.Value)) || (letter.Key == nil) != c.noKey {
				t.Errorf("%d bytes of %d, truncated %v", len(*letter.Value), letter.ValueSize, letter.Truncated)
			}
			again, err := build(&c.rec, ReasonUndecodable, c.cause)
			if err != nil || !bytes.Equal(again.Value, out.Value) {
				t.Error("the same record gave another letter")
			}
			if e.Source != "reducer.postgres" || !event.ValidID(e.ID) {
				t.Errorf("the header is %+v", e.EnvelopeHeader)
			}
		})
	}
}

func TestADeadLetterOfATombstoneHasNoValue(t *testing.T) {
	t.Parallel()
	codec := Standalone(topics.Default())
	out, err := DeadLetters(codec, "r")(&record.Record{Topic: "a"}, "panic", errors.New("x"))
	if err != nil {
		t.Fatal(err)
	}
	e, err := codec.Decode(topics.DeadLetter, out.Value)
	if err != nil || e.Payload.(*schemas.DeadLetter).Value != nil {
		t.Errorf("%+v, %v", e, err)
	}
}

func TestHeadersAreCloudEventsWithATrace(t *testing.T) {
	t.Parallel()
	e := beat()
	e.OccurredAt = time.Date(2026, 1, 2, 3, 4, 5, 6000, time.UTC)
	e.Resource = "postgres/orders/node/pg-1"
	const parent event.Traceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	rec := record.Record{Headers: Headers(e, parent)}
	for key, want := range map[string]string{
		"ce_specversion": "1.0", "ce_id": e.ID, "ce_source": e.Source, "ce_type": "io.regent.v1.NodeHeartbeat",
		"ce_subject": "postgres/orders/node/pg-1", "ce_time": "2026-01-02T03:04:05.000006Z", "content-type": "application/avro",
		"traceparent": string(parent),
	} {
		if got := string(rec.Header(key)); got != want {
			t.Errorf("%s is %q, want %q", key, got, want)
		}
	}
	if TraceOf(&rec) != parent {
		t.Errorf("trace is %q", TraceOf(&rec))
	}
	own := record.Record{Headers: Headers(e, "junk")}
	if TraceOf(&own) != event.Trace(e.CorrelationID, e.ID) {
		t.Errorf("an invalid trace became %q", TraceOf(&own))
	}
	if got := TraceOf(&record.Record{}); got != "" {
		t.Errorf("no header gave %q", got)
	}
}
