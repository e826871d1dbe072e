package avrocodec

import (
	"bytes"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/twmb/avro"
	"pgregory.net/rapid"

	"github.com/regent-infra/regent/internal/envelope"
	"github.com/regent-infra/regent/internal/event"
	"github.com/regent-infra/regent/internal/topics"
	"github.com/regent-infra/regent/schemas"
)

// writerSchema is an envelope's schema as JSON, to be changed.
type writerSchema map[string]any

func (w writerSchema) fields() []any { return w["fields"].([]any) }

func (w writerSchema) payload() map[string]any {
	for _, f := range w.fields() {
		if field := f.(map[string]any); field["name"] == envelope.PayloadField {
			return field
		}
	}
	panic("no payload")
}

func (w writerSchema) branch(i int) map[string]any {
	return w.payload()["type"].([]any)[i].(map[string]any)
}

func dropField(record map[string]any, name string) {
	record["fields"] = slices.DeleteFunc(record["fields"].([]any), func(f any) bool { return f.(map[string]any)["name"] == name })
}

func fieldNamed(record map[string]any, name string) map[string]any {
	for _, f := range record["fields"].([]any) {
		if field := f.(map[string]any); field["name"] == name {
			return field
		}
	}
	panic("no field " + name)
}

func addField(record map[string]any, name string) {
	record["fields"] = append([]any{map[string]any{"name": name, "type": "string"}}, record["fields"].([]any)...)
}

// changedSchema is the heartbeats' schema, changed.
func changedSchema(t *testing.T, change func(writerSchema)) string {
	t.Helper()
	text, err := envelope.Schema([]string{"NodeHeartbeat", "StreamTicked"})
	if err != nil {
		t.Fatal(err)
	}
	var w writerSchema
	if err := json.Unmarshal([]byte(text), &w); err != nil {
		t.Fatal(err)
	}
	change(w)
	raw, err := json.Marshal(w)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

// writtenWith returns a heartbeat as a writer with another schema would write it.
func writtenWith(t *testing.T, text string, e *event.Event, more map[string]any) []byte {
	t.Helper()
	codec := Standalone(topics.Default())
	ours, err := codec.Encode(heartbeats, e)
	if err != nil {
		t.Fatal(err)
	}
	var generic any
	if _, err := codec.topics[heartbeats].reader.Decode(ours[prefixBytes:], &generic, avro.TaggedUnions()); err != nil {
		t.Fatal(err)
	}
	all := generic.(map[string]any)
	for key, value := range more {
		if key == "payload_extra" {
			for _, payload := range all["payload"].(map[string]any) {
				payload.(map[string]any)["extra"] = value
			}
			continue
		}
		all[key] = value
	}
	writer, err := avro.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	if root := writer.Root(); root.Fields[len(root.Fields)-1].Type.Type == "record" { // no union, no tag
		for _, payload := range all["payload"].(map[string]any) {
			all["payload"] = payload
		}
	}
	body, err := writer.Encode(all)
	if err != nil {
		t.Fatal(err)
	}
	return frame(1, body...)
}

func readerOf(t *testing.T, text string) *Codec {
	t.Helper()
	codec, err := New(oneSchema(text), topics.Default(), Config{})
	if err != nil {
		t.Fatal(err)
	}
	return codec
}

func TestOtherWritersAreRead(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change    func(writerSchema)
		more      map[string]any
		transcode bool
	}{
		"docs differ":         {change: func(w writerSchema) { w["doc"] = "Other words." }},
		"a header field more": {change: func(w writerSchema) { addField(w, "zone") }, more: map[string]any{"zone": "z1"}},
		"a payload field more": {
			change: func(w writerSchema) { addField(w.branch(0), "extra") },
			more:   map[string]any{"payload_extra": "x"},
		},
		"header in another order": {change: func(w writerSchema) {
			fields := w.fields()
			slices.Reverse(fields[:len(fields)-1])
		}},
		"branches in another order": {change: func(w writerSchema) { slices.Reverse(w.payload()["type"].([]any)) }},
		"a narrower number":         {change: func(w writerSchema) { fieldNamed(w, "sequence")["type"] = "int" }, more: map[string]any{"sequence": int32(7)}},
		"a record that we do not know": {change: func(w writerSchema) {
			union := w.payload()["type"].([]any)
			stranger := map[string]any{"type": "record", "name": "Stranger", "namespace": schemas.Namespace, "fields": []any{}}
			w.payload()["type"] = append([]any{stranger}, union...)
		}},
		"payload first": {change: func(w writerSchema) {
			fields := w.fields()
			slices.Reverse(fields)
		}, transcode: true},
		"payload not in a union": {change: func(w writerSchema) { w.payload()["type"] = w.branch(0) }, transcode: true},
		"null in the union":      {change: func(w writerSchema) { w.payload()["type"] = append(w.payload()["type"].([]any), "null") }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			text := changedSchema(t, c.change)
			codec := readerOf(t, text)
			if got := codec.topics[heartbeats].makePlan(text).transcode != nil; got != c.transcode {
				t.Errorf("transcoded: %v, want %v", got, c.transcode)
			}
			e := beat()
			e.Sequence = 7
			value := writtenWith(t, text, e, c.more)
			got, err := codec.Decode(heartbeats, value)
			if err != nil {
				t.Fatal(err)
			}
			if !equal(got, e) {
				t.Errorf("got  %s\nwant %s", normal(got), normal(e))
			}
			if header, err := codec.DecodeHeader(heartbeats, value); err != nil || *header != got.EnvelopeHeader {
				t.Errorf("the header alone is %+v, %v", header, err)
			}
			for n := prefixBytes; n < len(value); n++ {
				var permanent *event.DecodeError
				if _, err := codec.Decode(heartbeats, value[:n:n]); !errors.As(err, &permanent) {
					t.Fatalf("cut to %d of %d bytes: %v", n, len(value), err)
				}
			}
			_, err = codec.Decode(heartbeats, append(bytes.Clone(value), 0))
			wantDecodeError(t, err, ReasonUndecodable, "1 bytes follow the ")
		})
	}
}

func TestForeignWritersAreRefused(t *testing.T) {
	t.Parallel()
	good := func() []byte {
		value, err := Standalone(topics.Default()).Encode(heartbeats, beat())
		if err != nil {
			t.Fatal(err)
		}
		return append(frame(1), value[prefixBytes:]...)
	}
	changed := func(change func(writerSchema)) string { return changedSchema(t, change) }
	for name, c := range map[string]struct{ text, want string }{
		"no schema":         {"not JSON", "schema id 1: it is no Avro schema"},
		"a primitive":       {`"string"`, "it is string string, expected the record io.regent.v1.Envelope with a field payload"},
		"another record":    {changed(func(w writerSchema) { w["name"] = "Letter" }), "it is record io.regent.v1.Letter, expected the record io.regent.v1.Envelope"},
		"another namespace": {changed(func(w writerSchema) { w["namespace"] = "com.example" }), "it is record com.example.Envelope"},
		"no payload":        {changed(func(w writerSchema) { dropField(w, "payload") }), "with a field payload"},
		"a header field less": {
			changed(func(w writerSchema) { dropField(w, "boot_id") }), "its header does not resolve",
		},
		"a header field of another type": {
			changed(func(w writerSchema) { fieldNamed(w, "id")["type"] = "long" }), "its header does not resolve",
		},
		"a payload field less": {
			changed(func(w writerSchema) { dropField(w.branch(0), "term") }), "payload NodeHeartbeat: its schema does not resolve",
		},
		"another payload": {changed(func(w writerSchema) { w.branch(0)["name"] = "Stranger" }), "payload io.regent.v1.Stranger: topic " + heartbeats + " does not carry this record"},
		"payload first and foreign": {changed(func(w writerSchema) {
			slices.Reverse(w.fields())
			w.branch(0)["name"] = "Stranger"
		}), "it does not resolve"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := readerOf(t, c.text).Decode(heartbeats, good())
			wantDecodeError(t, err, ReasonForeignSchema, c.want)
		})
	}
}

// One payload that cannot be read must not make the others unreadable.
func TestABrokenBranchLeavesTheOthersAlone(t *testing.T) {
	t.Parallel()
	text := changedSchema(t, func(w writerSchema) { dropField(w.branch(1), "instance") })
	e := beat()
	got, err := readerOf(t, text).Decode(heartbeats, writtenWith(t, text, e, nil))
	if err != nil || !equal(got, e) {
		t.Errorf("got %v, %v", got, err)
	}
}

// What another topic's writer wrote is foreign here, whatever the record.
func TestEveryPayloadIsForeignOnOtherTopics(t *testing.T) {
	t.Parallel()
	codec := Standalone(topics.Default())
	records := payloadRecords()
	for name, home := range records {
		value, err := codec.Encode(home, newEvent(&fixed{full: true}, name))
		if err != nil {
			t.Fatal(err)
		}
		for topic := range topics.Default().Payloads() {
			if topic == home {
				continue
			}
			_, err := codec.Decode(topic, value)
			var permanent *event.DecodeError
			if !errors.As(err, &permanent) || permanent.Reason != ReasonForeignSchema {
				t.Errorf("%s from %s on %s: %v", name, home, topic, err)
			}
		}
	}
}

// Old writers: whatever a generation without the optional fields wrote is read, with nothing in them.
func TestOptionalFieldsMayBeMissing(t *testing.T) {
	t.Parallel()
	observations := topics.Observations(event.KindPostgres)
	full, err := envelope.Schema([]string{"PostgresNodeObserved"})
	if err != nil {
		t.Fatal(err)
	}
	var w writerSchema
	if err := json.Unmarshal([]byte(full), &w); err != nil {
		t.Fatal(err)
	}
	record := w.branch(0)
	record["fields"] = slices.DeleteFunc(record["fields"].([]any), func(f any) bool { return f.(map[string]any)["name"] == "queries" })
	raw, err := json.Marshal(w)
	if err != nil {
		t.Fatal(err)
	}
	writer := avro.MustParse(string(raw))
	codec := readerOf(t, string(raw))
	ours := Standalone(topics.Default())
	rapid.Check(t, func(t *rapid.T) {
		e := newEvent(drawn{t}, "PostgresNodeObserved")
		value, err := ours.Encode(observations, e)
		if err != nil {
			t.Fatal(err)
		}
		var generic any
		if _, err := ours.topics[observations].reader.Decode(value[prefixBytes:], &generic, avro.TaggedUnions()); err != nil {
			t.Fatal(err)
		}
		body, err := writer.Encode(generic)
		if err != nil {
			t.Fatal(err)
		}
		got, err := codec.Decode(observations, frame(1, body...))
		if err != nil {
			t.Fatal(err)
		}
		e.Payload.(*schemas.PostgresNodeObserved).Queries = nil
		if !equal(got, e) {
			t.Fatalf("got  %s\nwant %s", normal(got), normal(e))
		}
	})
}

func TestCheckMode(t *testing.T) {
	t.Parallel()
	const (
		one   = `{"type":"record","name":"R","fields":[{"name":"a","type":"int"}]}`
		two   = `{"type":"record","name":"R","fields":[{"name":"a","type":"int"},{"name":"b","type":"int","default":0}]}`
		three = `{"type":"record","name":"R","fields":[{"name":"a","type":"int"},{"name":"c","type":"int"}]}`
		text  = `{"type":"record","name":"R","fields":[{"name":"a","type":"string"}]}`
	)
	for name, c := range map[string]struct {
		mode, candidate string
		versions        []string
		want            string
	}{
		"first version":                    {"FULL_TRANSITIVE", one, nil, ""},
		"field with default":               {"FULL_TRANSITIVE", two, []string{one}, ""},
		"field without default, backward":  {"BACKWARD", three, []string{one}, "the new schema cannot read what an older one wrote (mode BACKWARD)"},
		"field without default, forward":   {"FORWARD", three, []string{one}, ""},
		"field removed, forward":           {"FORWARD", one, []string{three}, "an older schema cannot read what the new one writes (mode FORWARD)"},
		"not transitive looks at the last": {"BACKWARD", one, []string{text, one}, ""},
		"transitive looks at all":          {"BACKWARD_TRANSITIVE", one, []string{text, one}, "the new schema cannot read"},
		"none":                             {"NONE", text, []string{one}, ""},
		"not a schema":                     {"NONE", "{", nil, "parse the schema"},
		"unknown mode":                     {"SIDEWAYS", one, []string{one}, `unknown mode "SIDEWAYS"`},
	} {
		err := CheckMode(c.mode, c.candidate, c.versions)
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
	if err := Compatible("{", one); err == nil || !strings.Contains(err.Error(), "parse the reader's schema") {
		t.Error(err)
	}
	if err := Compatible(one, "{"); err == nil || !strings.Contains(err.Error(), "parse the writer's schema") {
		t.Error(err)
	}
}
