package avrocodec

import (
	"bytes"
	"errors"
	"runtime"
	"slices"
	"testing"

	"github.com/regent-infra/regent/internal/event"
	"github.com/regent-infra/regent/internal/topics"
	"github.com/regent-infra/regent/schemas"
)

// FuzzDecode feeds bytes to the decoder of every topic. Nothing may panic; what is refused is refused for good; what is accepted is encoded again
// and means the same; and memory stays in proportion to the input.
func FuzzDecode(f *testing.F) {
	codec := Standalone(topics.Default())
	names := topics.Default().Names()
	for record, topic := range payloadRecords() {
		for _, source := range []source{&fixed{}, &fixed{full: true}} {
			value, err := codec.Encode(topic, newEvent(source, record))
			if err != nil {
				f.Fatal(err)
			}
			f.Add(slices.Index(names, topic), value)
		}
	}
	f.Add(0, []byte{0, 0, 0, 0, 1})
	f.Fuzz(func(t *testing.T, at int, value []byte) {
		topic := names[uint(at)%uint(len(names))]
		e, err := codec.Decode(topic, value)
		if err != nil {
			var permanent *event.DecodeError
			if !errors.As(err, &permanent) {
				t.Fatalf("refused, but not for good: %v", err)
			}
			return
		}
		again, err := codec.Encode(topic, e)
		if err != nil {
			t.Fatalf("accepted, but cannot be encoded: %v", err)
		}
		back, err := codec.Decode(topic, again)
		if err != nil || !equal(back, e) {
			t.Fatalf("encoded again it says something else: %v", err)
		}
	})
}

// FuzzWriterSchema lets another program register any schema and write any bytes with it.
func FuzzWriterSchema(f *testing.F) {
	ours := Standalone(topics.Default())
	value, err := ours.Encode(heartbeats, beat())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(ours.Schema(heartbeats), value[prefixBytes:])
	f.Add(`{"type":"record","name":"Envelope","namespace":"io.regent.v1","fields":[{"name":"payload","type":["null"]}]}`, []byte{0})
	f.Add(`{"type":"record","name":"Envelope","namespace":"io.regent.v1","fields":[{"name":"payload","type":{"type":"array","items":"null"}}]}`, []byte{0xfe, 0xff, 0xff, 0x0f, 0})
	f.Add(`{"type":"record","name":"Envelope","namespace":"io.regent.v1","fields":[{"name":"next","type":["null","Envelope"]},{"name":"payload","type":"null"}]}`, bytes.Repeat([]byte{2}, 5000))
	f.Fuzz(func(t *testing.T, schema string, body []byte) {
		// A codec that has met no writer yet.
		fresh := &topicCodec{
			name: heartbeats, text: "none", reader: ours.topics[heartbeats].reader, header: ours.topics[heartbeats].header,
			branches: ours.topics[heartbeats].branches,
		}
		fresh.plans.Store(&map[int32]*plan{})
		codec := &Codec{registry: oneSchema(schema), config: ours.config, topics: map[string]*topicCodec{heartbeats: fresh}}
		_, err := codec.Decode(heartbeats, frame(1, body...))
		var permanent *event.DecodeError
		if err != nil && !errors.As(err, &permanent) {
			t.Fatalf("refused, but not for good: %v", err)
		}
		_ = CheckMode("FULL", schema, []string{ours.Schema(heartbeats)})
	})
}

// Bytes that claim enormous collections must not be believed.
func TestHostileLengthsAllocateLittle(t *testing.T) { // not parallel: it measures the allocations of the whole process
	codec := Standalone(topics.Default())
	observations := topics.Observations(event.KindPostgres)
	value, err := codec.Encode(observations, newEvent(&fixed{}, "PostgresNodeObserved"))
	if err != nil {
		t.Fatal(err)
	}
	huge := []byte{0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01} // zigzag of 2^63 - 1
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for at := prefixBytes; at <= len(value); at++ {
		hostile := slices.Concat(value[:at], huge, value[at:])
		_, _ = codec.Decode(observations, hostile)
	}
	runtime.ReadMemStats(&after)
	if grown := after.TotalAlloc - before.TotalAlloc; grown > 16<<20 {
		t.Errorf("%d hostile values of %d bytes took %d bytes of memory", len(value), len(value), grown)
	}
}

// The largest blow-up that the size cap lets through: a value that consists of as many smallest items as fit.
func TestMemoryIsInProportionToTheInput(t *testing.T) { // not parallel: it measures the allocations of the whole process
	codec := Standalone(topics.Default())
	observations := topics.Observations(event.KindPostgres)
	e := newEvent(&fixed{}, "PostgresNodeObserved")
	observed := e.Payload.(*schemas.PostgresNodeObserved)
	observed.TimelineHistory = make([]schemas.TimelineSwitch, 200_000)
	value, err := codec.Encode(observations, e)
	if err != nil {
		t.Fatal(err)
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if _, err := codec.Decode(observations, value); err != nil {
		t.Fatal(err)
	}
	runtime.ReadMemStats(&after)
	if grown := after.TotalAlloc - before.TotalAlloc; grown > 64*uint64(len(value)) {
		t.Errorf("a value of %d bytes took %d bytes of memory", len(value), grown)
	}
}

// allocated returns how many bytes fn allocates, with whatever else the process does.
func allocated(fn func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	fn()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}
