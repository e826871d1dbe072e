package avrocodec

import (
	"bytes"
	"encoding/json"
	"testing"

	hamba "github.com/hamba/avro/v2"
	"pgregory.net/rapid"

	"github.com/regent-infra/regent/internal/envelope"
	"github.com/regent-infra/regent/internal/event"
	"github.com/regent-infra/regent/internal/topics"
	"github.com/regent-infra/regent/schemas"
)

// hamba/avro is a second, independent implementation, from whose generator the Go types come. What one writes the other must read, and the bytes
// must be the same, because there is one way to write a value in Avro (apart from how collections are cut into blocks, which hamba does
// with a size prefix; so its bytes are compared by what they say).

func TestConformanceWithAnotherImplementation(t *testing.T) {
	t.Parallel()
	codec := Standalone(topics.Default())
	for name, topic := range payloadRecords() {
		payload := hambaSchema(t, name)
		header := hambaSchema(t, envelope.Header)
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			rapid.Check(t, func(t *rapid.T) {
				want := newEvent(drawn{t}, name)
				ours := codec.topics[topic].branches[name].schema
				bytesOurs, err := ours.Encode(want.Payload)
				if err != nil {
					t.Fatal(err)
				}

				// Ours, read by hamba.
				theirs := schemas.NewRecord(name)
				reader := hamba.NewReader(bytes.NewReader(bytesOurs), len(bytesOurs)+1)
				reader.ReadVal(payload, theirs)
				if reader.Error != nil {
					t.Fatalf("hamba cannot read our bytes: %v", reader.Error)
				}
				same(t, "read by hamba", &event.Event{Payload: theirs}, &event.Event{Payload: want.Payload})

				// Theirs, read by us.
				bytesTheirs, err := hamba.Marshal(payload, want.Payload)
				if err != nil {
					t.Fatal(err)
				}
				back := schemas.NewRecord(name)
				rest, err := ours.Decode(bytesTheirs, back)
				if err != nil || len(rest) > 0 {
					t.Fatalf("we cannot read hamba's bytes: %v, %d left", err, len(rest))
				}
				same(t, "written by hamba", &event.Event{Payload: back}, &event.Event{Payload: want.Payload})

				// The header has no collections, so its bytes must be the same.
				headOurs, err := codec.topics[topic].header.Encode(&want.EnvelopeHeader)
				if err != nil {
					t.Fatal(err)
				}
				headTheirs, err := hamba.Marshal(header, want.EnvelopeHeader)
				if err != nil || !bytes.Equal(headOurs, headTheirs) {
					t.Fatalf("the header's bytes differ, err %v", err)
				}
			})
		})
	}
}

func same(t *rapid.T, what string, got, want *event.Event) {
	t.Helper()
	if !equal(got, want) {
		t.Fatalf("%s it says\n%s\nwant\n%s", what, normal(got), normal(want))
	}
}

func hambaSchema(t *testing.T, name string) hamba.Schema {
	t.Helper()
	text, err := envelope.Record(name)
	if err != nil {
		t.Fatal(err)
	}
	schema, err := hamba.ParseBytesWithCache([]byte(text), "", &hamba.SchemaCache{})
	if err != nil {
		t.Fatalf("hamba does not accept the schema of %s: %v", name, err)
	}
	return schema
}

// A whole value, as any other program in any other language reads it: by the envelope's schema, into a generic form.
func TestAForeignClientReadsTheWholeValue(t *testing.T) {
	t.Parallel()
	codec := Standalone(topics.Default())
	for name, topic := range payloadRecords() {
		schema, err := hamba.ParseBytesWithCache([]byte(codec.Schema(topic)), "", &hamba.SchemaCache{})
		if err != nil {
			t.Fatalf("%s: hamba does not accept the envelope: %v", topic, err)
		}
		e := newEvent(&fixed{full: true}, name)
		value, err := codec.Encode(topic, e)
		if err != nil {
			t.Fatal(err)
		}
		var generic map[string]any
		if err := hamba.Unmarshal(schema, value[prefixBytes:], &generic); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		payload, ok := generic["payload"].(map[string]any)
		if !ok {
			t.Fatalf("%s: the payload is %v", name, generic["payload"])
		}
		if _, tagged := payload[schemas.Namespace+"."+name]; !tagged || generic["type"] != name || generic["id"] != e.ID {
			raw, _ := json.Marshal(generic)
			t.Errorf("%s reads as %s", name, raw)
		}
	}
}
