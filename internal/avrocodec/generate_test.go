package avrocodec

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/twmb/avro"
	"pgregory.net/rapid"

	"github.com/regent-infra/regent/internal/envelope"
	"github.com/regent-infra/regent/internal/event"
	"github.com/regent-infra/regent/internal/topics"
	"github.com/regent-infra/regent/schemas"
)

// source draws the leaves of a generated value: rapid's in property tests, fixed ones for the golden fixtures.
type source interface {
	length(limit int) int
	present() bool
	number(bits int) int64
	text(field string) string
	symbol(symbols []string) string
}

// fill sets v, an addressable value of a generated type, to a value that its schema allows.
func fill(s source, node *avro.SchemaNode, named map[string]*avro.SchemaNode, field string, v reflect.Value) {
	if definition := named[node.Type]; definition != nil {
		node = definition
	}
	switch node.Type {
	case "record":
		for i := range node.Fields {
			fill(s, &node.Fields[i].Type, named, node.Fields[i].Name, fieldByTag(v, node.Fields[i].Name))
		}
	case "union":
		if s.present() {
			v.Set(reflect.New(v.Type().Elem()))
			fill(s, &node.Branches[1], named, field, v.Elem())
		}
	case "array":
		n := s.length(3)
		v.Set(reflect.MakeSlice(v.Type(), n, n))
		for i := range n {
			fill(s, node.Items, named, field, v.Index(i))
		}
	case "enum":
		v.SetString(s.symbol(node.Symbols))
	case "string":
		v.SetString(s.text(field))
	case "bytes":
		v.SetBytes([]byte(s.text(field)))
	case "boolean":
		v.SetBool(s.present())
	case "double":
		v.SetFloat(float64(s.number(32)) / 4)
	case "int":
		v.SetInt(s.number(32))
	case "long":
		if node.LogicalType == "timestamp-micros" {
			v.Set(reflect.ValueOf(time.UnixMicro(s.number(51)).UTC()))
			return
		}
		v.SetInt(s.number(64))
	default:
		panic(fmt.Sprintf("no generator for %s at %s", node.Type, field))
	}
}

func fieldByTag(v reflect.Value, name string) reflect.Value {
	for i := range v.NumField() {
		if v.Type().Field(i).Tag.Get("avro") == name {
			return v.Field(i)
		}
	}
	panic(fmt.Sprintf("%s has no field tagged %s", v.Type(), name))
}

// collect finds the definitions of all named types below a node.
func collect(node *avro.SchemaNode, named map[string]*avro.SchemaNode) {
	if node == nil {
		return
	}
	if node.Name != "" {
		named[fullName(node)] = node
	}
	for i := range node.Fields {
		collect(&node.Fields[i].Type, named)
	}
	for i := range node.Branches {
		collect(&node.Branches[i], named)
	}
	collect(node.Items, named)
	collect(node.Values, named)
}

// newRecord makes a value of the named record.
func newRecord(s source, name string) any {
	text, err := envelope.Record(name)
	if err != nil {
		panic(err)
	}
	root := avro.MustParse(text).Root()
	named := map[string]*avro.SchemaNode{}
	collect(root, named)
	record := schemas.NewRecord(name)
	fill(s, root, named, name, reflect.ValueOf(record).Elem())
	return record
}

// newEvent makes an event with a payload of the named record.
func newEvent(s source, name string) *event.Event {
	header := *newRecord(s, envelope.Header).(*schemas.EnvelopeHeader)
	return event.New(header, newRecord(s, name))
}

// drawn is the source of the property tests.
type drawn struct{ t *rapid.T }

func (d drawn) length(limit int) int { return rapid.IntRange(0, limit).Draw(d.t, "length") }
func (d drawn) present() bool        { return rapid.Bool().Draw(d.t, "present") }
func (d drawn) number(bits int) int64 {
	limit := int64(1)<<(bits-1) - 1
	return rapid.Int64Range(-limit-1, limit).Draw(d.t, "number")
}
func (d drawn) text(string) string { return rapid.String().Draw(d.t, "text") }
func (d drawn) symbol(symbols []string) string {
	return rapid.SampledFrom(symbols).Draw(d.t, "symbol")
}

// fixed is the source of the golden fixtures: the same value for ever, and one that says something.
type fixed struct {
	n    int
	full bool // everything optional is there
}

func (f *fixed) length(int) int {
	if f.full {
		return 2
	}
	return 0
}
func (f *fixed) present() bool { return f.full }
func (f *fixed) number(bits int) int64 {
	f.n++
	if !f.full {
		return 0
	}
	if bits > 32 {
		return 1_700_000_000_000_000 + int64(f.n)
	}
	return int64(f.n)
}

func (f *fixed) text(field string) string {
	f.n++
	if !f.full {
		return ""
	}
	return fmt.Sprintf("%s %d", strings.ReplaceAll(field, "_", " "), f.n)
}

func (f *fixed) symbol(symbols []string) string {
	if !f.full {
		return symbols[0]
	}
	return symbols[len(symbols)-1]
}

// payloadRecords returns every topic with each of its payloads.
func payloadRecords() map[string]string {
	records := map[string]string{}
	for topic, payloads := range topics.Default().Payloads() {
		for _, payload := range payloads {
			records[payload] = topic
		}
	}
	return records
}

// equal compares events, with an empty slice equal to none: Avro does not tell them apart.
func equal(a, b *event.Event) bool {
	return reflect.DeepEqual(normal(a), normal(b))
}

func normal(e *event.Event) string {
	var b strings.Builder
	describe(&b, reflect.ValueOf(*e))
	return b.String()
}

func describe(b *strings.Builder, v reflect.Value) {
	switch v.Kind() {
	case reflect.Pointer, reflect.Interface:
		if v.IsNil() {
			b.WriteString("nil ")
			return
		}
		describe(b, v.Elem())
	case reflect.Slice:
		fmt.Fprintf(b, "[%d ", v.Len())
		for i := range v.Len() {
			describe(b, v.Index(i))
		}
		b.WriteString("] ")
	case reflect.Struct:
		if at, ok := v.Interface().(time.Time); ok {
			fmt.Fprintf(b, "%d ", at.UnixMicro())
			return
		}
		fmt.Fprintf(b, "%s{", v.Type())
		for i := range v.NumField() {
			describe(b, v.Field(i))
		}
		b.WriteString("} ")
	default:
		fmt.Fprintf(b, "%#v ", v.Interface())
	}
}

func TestTheGeneratorReachesEveryKindOfField(t *testing.T) {
	t.Parallel()
	for name := range payloadRecords() {
		empty, full := newEvent(&fixed{}, name), newEvent(&fixed{full: true}, name)
		if normal(empty) == normal(full) {
			t.Errorf("%s: the empty and the full value are the same", name)
		}
	}
}
