package avrocodec

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	hamba "github.com/hamba/avro/v2"
	"pgregory.net/rapid"

	"github.com/regent-infra/regent/internal/envelope"
	"github.com/regent-infra/regent/internal/event"
	"github.com/regent-infra/regent/internal/topics"
	"github.com/regent-infra/regent/schemas"
)

// The generated code and the Avro library, held against each other (invariant 6): the library reads our own schema with a plan that names
// it, and writes with the schemas that the codec was made from.

// both is a topic with a second plan, which reads what this binary's own schema wrote as the generated code does, but by the library.
type both struct {
	*topicCodec
	library *plan
	decoder *decoder
}

func bothOf(codec *Codec, topic string) both {
	t := codec.topics[topic]
	p := &plan{header: t.header, branches: make([]readBranch, len(t.branches))}
	for name, b := range t.branches {
		p.branches[b.index] = readBranch{name: name, schema: b.schema}
	}
	return both{topicCodec: t, library: p, decoder: &decoder{codec: codec}}
}

// libraryBody writes an event by the library.
func libraryBody(t both, e *event.Event) ([]byte, error) {
	body, err := t.header.AppendEncode(nil, &e.EnvelopeHeader)
	if err != nil {
		return nil, err
	}
	b := t.branches[e.Type]
	return b.schema.AppendEncode(binary.AppendVarint(body, b.index), e.Payload)
}

// agree decodes a body both ways: both refuse it, or both accept it and read the same, to the difference between no slice and an empty one.
func agree(t both, body []byte) error {
	for _, payload := range []bool{true, false} {
		given := bytes.Clone(body)
		ours, oursErr := t.own.read(given, payload, nil)
		theirs, theirsErr := t.library.read(body, payload, nil)
		shared, sharedErr := t.own.read(body, payload, t.decoder)
		if fmt.Sprint(sharedErr) != fmt.Sprint(oursErr) || oursErr == nil && exactly(shared) != exactly(ours) {
			return fmt.Errorf("% x: a decoder reads something else than the codec: %s instead of %s", body, fmt.Sprint(sharedErr), fmt.Sprint(oursErr))
		}
		if (oursErr == nil) != (theirsErr == nil) {
			return fmt.Errorf("% x: the generated code says %s, the library %s", body, fmt.Sprint(oursErr), fmt.Sprint(theirsErr))
		}
		for i := range given { // what was decoded must not change with its bytes
			given[i] ^= 0xff
		}
		if oursErr == nil && !reflect.DeepEqual(ours, theirs) && exactly(ours) != exactly(theirs) { // a NaN is not equal to itself
			return fmt.Errorf("% x: the generated code reads\n%s\nthe library\n%s", body, exactly(ours), exactly(theirs))
		}
	}
	return nil
}

func exactly(e *event.Event) string {
	var b strings.Builder
	describeExactly(&b, reflect.ValueOf(*e))
	return b.String()
}

func describeExactly(b *strings.Builder, v reflect.Value) {
	switch v.Kind() {
	case reflect.Pointer, reflect.Interface:
		if v.IsNil() {
			b.WriteString("nil ")
			return
		}
		fmt.Fprintf(b, "&%s ", v.Elem().Type())
		describeExactly(b, v.Elem())
	case reflect.Slice:
		fmt.Fprintf(b, "%s(nil: %v)[%d ", v.Type(), v.IsNil(), v.Len())
		for i := range v.Len() {
			describeExactly(b, v.Index(i))
		}
		b.WriteString("] ")
	case reflect.Struct:
		if at, ok := v.Interface().(time.Time); ok {
			fmt.Fprintf(b, "%#v ", at)
			return
		}
		fmt.Fprintf(b, "%s{", v.Type())
		for i := range v.NumField() {
			describeExactly(b, v.Field(i))
		}
		b.WriteString("} ")
	case reflect.Float64:
		fmt.Fprintf(b, "%x ", math.Float64bits(v.Float()))
	default:
		fmt.Fprintf(b, "%#v ", v.Interface())
	}
}

func TestGeneratedCodeAndLibraryWriteTheSame(t *testing.T) {
	t.Parallel()
	codec := Standalone(topics.Default())
	for name, topic := range payloadRecords() {
		tc := bothOf(codec, topic)
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			rapid.Check(t, func(t *rapid.T) {
				e := newEvent(drawn{t}, name)
				value, err := codec.Encode(topic, e)
				if err != nil {
					t.Fatal(err)
				}
				want, err := libraryBody(tc, e)
				if err != nil {
					t.Fatal(err)
				}
				if !bytes.Equal(value[prefixBytes:], want) {
					t.Fatalf("the generated code writes\n% x\nthe library\n% x", value[prefixBytes:], want)
				}
				if size := schemas.HeaderSize(&e.EnvelopeHeader) + len(tc.records[schemas.RecordNumber(e.Payload)].prefix) + schemas.AvroSize(e.Payload); size != len(want) {
					t.Fatalf("the size is said to be %d, it is %d", size, len(want))
				}
				if err := agree(tc, want); err != nil {
					t.Fatal(err)
				}
				// hamba cuts arrays into blocks that say their size in bytes, too.
				theirs, err := hamba.Marshal(hambaRecords[name], e.Payload)
				if err != nil {
					t.Fatal(err)
				}
				b := tc.branches[name]
				head, err := tc.header.AppendEncode(nil, &e.EnvelopeHeader)
				if err != nil {
					t.Fatal(err)
				}
				if err := agree(tc, slices.Concat(head, b.prefix, theirs)); err != nil {
					t.Fatal(err)
				}
			})
		})
	}
}

// hambaRecords are the schemas of all payloads for hamba.
var hambaRecords = func() map[string]hamba.Schema {
	all := map[string]hamba.Schema{}
	for name := range payloadRecords() {
		text, err := envelope.Record(name)
		if err != nil {
			panic(err)
		}
		if all[name], err = hamba.ParseBytesWithCache([]byte(text), "", &hamba.SchemaCache{}); err != nil {
			panic(err)
		}
	}
	return all
}()

// Values that no schema allows: both refuse them, wherever they stand.
func TestGeneratedCodeAndLibraryRefuseTheSame(t *testing.T) {
	t.Parallel()
	codec := Standalone(topics.Default())
	broken := 0
	for name, topic := range payloadRecords() {
		tc := bothOf(codec, topic)
		for at := 0; ; at++ {
			e := newEvent(&fixed{full: true}, name)
			field := breakOne(reflect.ValueOf(&e.EnvelopeHeader).Elem(), "", &[]int{at}[0])
			if field == "" {
				n := at - countBreakable(reflect.ValueOf(&e.EnvelopeHeader).Elem())
				field = breakOne(reflect.ValueOf(e.Payload).Elem(), "", &n)
			}
			if field == "" {
				break
			}
			broken++
			_, err := codec.Encode(topic, e)
			_, want := libraryBody(tc, e)
			if err == nil || want == nil {
				t.Errorf("%s with an impossible %s: the generated code says %v, the library %v", name, field, err, want)
				continue
			}
			if !strings.Contains(err.Error(), "field "+field+": ") {
				t.Errorf("%s: got %q, want the field %s in it", name, err, field)
			}
		}
	}
	if broken < 150 {
		t.Errorf("%d values were broken, want more than a hundred", broken)
	}
}

// breakOne sets the nth symbol or time below v to one that cannot be written and returns the path to it.
func breakOne(v reflect.Value, path string, n *int) string {
	below := func(name string, v reflect.Value) string { return breakOne(v, name, n) }
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			return below(path, v.Elem())
		}
	case reflect.Slice:
		for i := range v.Len() {
			if found := below(fmt.Sprintf("%s[%d]", path, i), v.Index(i)); found != "" {
				return found
			}
		}
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[time.Time]() {
			if *n--; *n == -1 {
				v.Set(reflect.ValueOf(time.Unix(math.MaxInt64/1_000_000+1, 0)))
				return path
			}
			return ""
		}
		for i := range v.NumField() {
			name := v.Type().Field(i).Tag.Get("avro")
			if path != "" {
				name = path + "." + name
			}
			if found := below(name, v.Field(i)); found != "" {
				return found
			}
		}
	case reflect.String:
		if v.Type() != reflect.TypeFor[string]() {
			if *n--; *n == -1 {
				v.SetString("KING")
				return path
			}
		}
	default:
	}
	return ""
}

func countBreakable(v reflect.Value) int {
	n := math.MaxInt
	breakOne(v, "", &n)
	return math.MaxInt - n
}

func TestTimesAtTheEndsOfTheRange(t *testing.T) {
	t.Parallel()
	codec := Standalone(topics.Default())
	tc := bothOf(codec, heartbeats)
	for _, at := range []time.Time{
		{},
		time.Unix(0, 0), time.Unix(-1, 999_999_999), time.UnixMicro(math.MaxInt64), time.UnixMicro(math.MinInt64),
		time.UnixMicro(math.MaxInt64).Add(999), time.UnixMicro(math.MaxInt64).Add(1000), time.UnixMicro(math.MinInt64).Add(-1), time.UnixMicro(math.MinInt64).Add(1),
		time.Unix(math.MaxInt64/1_000_000, 0), time.Unix(math.MaxInt64/1_000_000+1, 0), time.Unix(math.MinInt64/1_000_000, 0),
		time.Unix(math.MinInt64/1_000_000-1, 0), time.Unix(math.MinInt64/1_000_000-1, 999_999_999), time.Unix(math.MinInt64/1_000_000-2, 999_999_999),
		time.Unix(math.MaxInt64, 0), time.Unix(math.MinInt64, 0),
	} {
		e := beat()
		e.OccurredAt = at
		value, err := codec.Encode(heartbeats, e)
		want, wantErr := libraryBody(tc, e)
		if (err == nil) != (wantErr == nil) || err == nil && !bytes.Equal(value[prefixBytes:], want) {
			t.Errorf("%v: the generated code says % x, %v; the library % x, %v", at, value, err, want, wantErr)
		}
	}
}

func TestBytesThatAreNone(t *testing.T) {
	t.Parallel()
	codec := Standalone(topics.Default())
	tc := bothOf(codec, topics.DeadLetter)
	var none []byte
	for _, key := range []*[]byte{nil, &none, {}, {1}} {
		e := newEvent(&fixed{}, "DeadLetter")
		e.Payload.(*schemas.DeadLetter).Key = key
		value, err := codec.Encode(topics.DeadLetter, e)
		if err != nil {
			t.Fatal(err)
		}
		want, err := libraryBody(tc, e)
		if err != nil || !bytes.Equal(value[prefixBytes:], want) {
			t.Errorf("% x, want % x, %v", value[prefixBytes:], want, err)
		}
		if err := agree(tc, want); err != nil {
			t.Error(err)
		}
	}
}

// terse is a source whose values are full, but take few bytes: what is between them is what matters.
type terse struct{ *fixed }

func (t terse) number(bits int) int64    { return t.fixed.number(bits) % 100 }
func (t terse) text(field string) string { return t.fixed.text(field)[:1] }

// Every byte of every event, changed in the ways that hurt: other values, cuts, and numbers that are too large, too long or of several bytes where
// one would do.
func TestGeneratedCodeAndLibraryAgreeOnChangedBytes(t *testing.T) {
	t.Parallel()
	codec := Standalone(topics.Default())
	inserts := [][]byte{
		{0x80, 0x00},
		{0x82, 0x80, 0x00},
		{0x01},
		{0x03, 0x02},
		{0xff, 0xff, 0xff, 0xff, 0x0f},
		{0xff, 0xff, 0xff, 0xff, 0x1f},
		{0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01},
		{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01},
		{0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x00},
		{0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x02},
		{0xc0, 0x84, 0x3d},
		{'\xff', '\xfe'},
	}
	for name, topic := range payloadRecords() {
		tc := bothOf(codec, topic)
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			check := func(parts ...[]byte) {
				if err := agree(tc, slices.Concat(parts...)); err != nil {
					t.Error(err)
				}
			}
			for _, source := range []source{&fixed{}, terse{&fixed{full: true}}} {
				e := newEvent(source, name)
				body, err := libraryBody(tc, e)
				if err != nil {
					t.Fatal(err)
				}
				// The header is the same for all records: it is changed with one of them.
				from := 0
				if name != "StreamTicked" {
					from = schemas.HeaderSize(&e.EnvelopeHeader)
				}
				for at := from; at < len(body); at++ {
					check(body[:at])
					for _, b := range []byte{0, 1, 2, 3, 4, 0x7f, 0x80, 0xff, body[at] ^ 1, body[at] + 2, body[at] - 2} {
						check(body[:at], []byte{b}, body[at+1:])
					}
					for _, insert := range inserts {
						check(body[:at], insert, body[at:])
						check(body[:at], insert, body[at+1:])
					}
				}
			}
		})
	}
}

// Random bytes changed at random, from a fixed seed.
func TestGeneratedCodeAndLibraryAgreeOnNoise(t *testing.T) {
	t.Parallel()
	codec := Standalone(topics.Default())
	for name, topic := range payloadRecords() {
		tc := bothOf(codec, topic)
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			rng := rand.New(rand.NewPCG(1, uint64(len(name)))) //nolint:gosec // the same in every run
			body, err := libraryBody(tc, newEvent(&fixed{full: true}, name))
			if err != nil {
				t.Fatal(err)
			}
			for range 500 {
				changed := bytes.Clone(body)
				for range 1 + rng.IntN(4) {
					switch at := rng.IntN(len(changed)); rng.IntN(4) {
					case 0:
						changed[at] = byte(rng.Uint32())
					case 1:
						changed = slices.Insert(changed, at, byte(rng.Uint32()))
					case 2:
						changed = slices.Delete(changed, at, min(at+1+rng.IntN(8), len(changed)-1))
					default:
						changed = slices.Concat(changed[:at], changed[rng.IntN(len(changed)):])
					}
					if len(changed) == 0 {
						changed = []byte{0}
					}
				}
				if err := agree(tc, changed); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

// FuzzAgreement feeds bytes to both readers.
func FuzzAgreement(f *testing.F) {
	codec := Standalone(topics.Default())
	names := topics.Default().Names()
	for record, topic := range payloadRecords() {
		for _, source := range []source{&fixed{}, &fixed{full: true}} {
			body, err := libraryBody(bothOf(codec, topic), newEvent(source, record))
			if err != nil {
				f.Fatal(err)
			}
			f.Add(slices.Index(names, topic), body)
		}
	}
	f.Fuzz(func(t *testing.T, at int, body []byte) {
		if err := agree(bothOf(codec, names[uint(at)%uint(len(names))]), body); err != nil {
			t.Fatal(err)
		}
	})
}

// A fault says where it is.
func TestAFaultNamesItsField(t *testing.T) {
	t.Parallel()
	codec := Standalone(topics.Default())
	observations := topics.Observations(event.KindPostgres)
	e := newEvent(&fixed{}, "PostgresNodeObserved")
	observed := e.Payload.(*schemas.PostgresNodeObserved)
	observed.TimelineHistory = []schemas.TimelineSwitch{{}, {Reason: "the second reason"}}
	value, err := codec.Encode(observations, e)
	if err != nil {
		t.Fatal(err)
	}
	at := bytes.Index(value, []byte("the second reason"))
	for _, c := range []struct {
		value []byte
		want  string
	}{
		{value[:at+3], "payload PostgresNodeObserved: field timeline_history[1].reason: it claims a length of 17, 3 bytes are left"},
		{value[:at-3], "field timeline_history: it claims a block of 2 items of at least 3 bytes each, 3 bytes are left"},
		{value[:prefixBytes], "the header: field id: the bytes end in the number or before it"},
		{slices.Concat(value[:at-1], []byte{0x01}, value[at:]), "field timeline_history[1].reason: it claims a length of -1"},
	} {
		_, err := codec.Decode(observations, c.value)
		wantDecodeError(t, err, ReasonUndecodable, c.want)
	}
}

// An array may come in as many blocks as it has items. It must not be copied for each of them.
func TestSmallBlocksTakeLittleMemory(t *testing.T) { // not parallel: it measures the allocations of the whole process
	codec := Standalone(topics.Default())
	observations := topics.Observations(event.KindPostgres)
	tc := bothOf(codec, observations)
	const mark = 0x123456
	e := newEvent(&fixed{}, "PostgresNodeObserved")
	observed := e.Payload.(*schemas.PostgresNodeObserved)
	observed.TimelineHistory = []schemas.TimelineSwitch{{Timeline: mark}}
	body, err := libraryBody(tc, e)
	if err != nil {
		t.Fatal(err)
	}
	item := append(binary.AppendVarint([]byte{2}, mark), 0, 0) // a block of one
	at := bytes.Index(body, item)
	if at < 0 {
		t.Fatal("the item is not found")
	}
	const n = 100_000
	body = slices.Concat(body[:at], bytes.Repeat(item, n), body[at+len(item):])
	grown := allocated(func() {
		got, err := tc.own.read(body, true, nil)
		if err != nil {
			t.Fatal(err)
		}
		if items := got.Payload.(*schemas.PostgresNodeObserved).TimelineHistory; len(items) != n || items[n-1].Timeline != mark {
			t.Fatalf("%d items", len(items))
		}
	})
	if grown > 64*uint64(len(body)) {
		t.Errorf("a value of %d bytes took %d bytes of memory", len(body), grown)
	}
}

// What the writer's schema must say for the generated code to read it.
func TestOnlyOurOwnShapeIsReadByGeneratedCode(t *testing.T) {
	t.Parallel()
	reformat := func(text string) string {
		var b bytes.Buffer
		if err := json.Indent(&b, []byte(text), "", "  "); err != nil {
			t.Error(err)
		}
		return b.String()
	}
	for name, c := range map[string]struct {
		change         func(writerSchema)
		text           func(string) string
		header, branch bool // read by generated code
	}{
		"the same":               {header: true, branch: true},
		"other white space":      {text: reformat, header: true, branch: true},
		"docs differ":            {change: func(w writerSchema) { w["doc"] = "Other."; w.branch(0)["doc"] = "Words." }, header: true, branch: true},
		"an alias":               {change: func(w writerSchema) { w.branch(0)["aliases"] = []any{"Old"} }, header: true, branch: true},
		"an enum with a default": {change: func(w writerSchema) { roleOf(w)["default"] = "UNKNOWN" }, header: true, branch: true},
		"a branch more": {change: func(w writerSchema) {
			stranger := map[string]any{"type": "record", "name": "Stranger", "namespace": schemas.Namespace, "fields": []any{}}
			w.payload()["type"] = append(w.payload()["type"].([]any), stranger)
		}, header: true, branch: true},
		"a header field more":      {change: func(w writerSchema) { addField(w, "zone") }, branch: true},
		"a payload field more":     {change: func(w writerSchema) { addField(w.branch(0), "extra") }, header: true},
		"no logical type":          {change: func(w writerSchema) { fieldNamed(w, "occurred_at")["type"] = "long" }, branch: true},
		"milliseconds":             {change: func(w writerSchema) { logical(w, "timestamp-millis") }, branch: true},
		"a symbol less":            {change: func(w writerSchema) { roleOf(w)["symbols"] = roleOf(w)["symbols"].([]any)[1:] }, header: true},
		"symbols in another order": {change: func(w writerSchema) { slices.Reverse(roleOf(w)["symbols"].([]any)) }, header: true},
		"an attribute of a tool":   {change: func(w writerSchema) { fieldNamed(w.branch(0), "node")["tool"] = "x" }, header: true},
		"fields in another order":  {change: func(w writerSchema) { slices.Reverse(w.branch(0)["fields"].([]any)) }, header: true},
		"a narrower number":        {change: func(w writerSchema) { fieldNamed(w, "sequence")["type"] = "int" }, branch: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			text := changedSchema(t, func(w writerSchema) {
				if c.change != nil {
					c.change(w)
				}
			})
			if c.text != nil {
				text = c.text(text)
			}
			codec := readerOf(t, text)
			p := codec.topics[heartbeats].makePlan(text)
			if p.foreign != nil || p.transcode != nil || p.branches[0].foreign != nil {
				t.Fatalf("the plan is %+v", p)
			}
			if header, branch := p.header == nil, p.branches[0].schema == nil; header != c.header || branch != c.branch {
				t.Errorf("read by generated code: header %v, branch %v; want %v, %v", header, branch, c.header, c.branch)
			}
		})
	}
}

func roleOf(w writerSchema) map[string]any {
	return fieldNamed(w.branch(0), "role")["type"].(map[string]any)
}

func logical(w writerSchema, name string) {
	fieldNamed(w, "occurred_at")["type"].(map[string]any)["logicalType"] = name
}

// The generated code belongs to the .avsc files that are embedded: what the library parses from them has as many records.
func TestEveryRecordHasANumber(t *testing.T) {
	t.Parallel()
	seen := map[int]string{}
	for _, name := range envelope.Names() {
		n := schemas.RecordNumber(schemas.NewRecord(name))
		if other, twice := seen[n]; n < 0 || twice {
			t.Errorf("%s has the number %d, as %q", name, n, other)
		}
		seen[n] = name
		var r schemas.Reader
		if _, v := schemas.ReadEvent[event.Event](&r, n); schemas.RecordName(v) != name {
			t.Errorf("number %d makes a %T, want %s", n, v, name)
		}
	}
	if n := schemas.RecordNumber(beat()); n != -1 {
		t.Errorf("an event has the number %d", n)
	}
}
