// Package envelope composes the Avro schema of a topic: the header that all events share, and a union of just that topic's
// payloads. It is plain JSON work on the files of schemas/ and needs no Avro library.
//
// The schema of a topic is the record io.regent.v1.Envelope with the fields of EnvelopeHeader and one more, payload, which is
// always last and always a union. So a reader can stop after the header, and a record can be added to the union without breaking
// older data. It stands on its own (every named type is spelled out where it is first used), keeps the docs, and its bytes
// follow from the .avsc files and the list of payloads alone, so that a registry recognises it.
package envelope

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/regent-infra/regent/internal/invariant"
	"github.com/regent-infra/regent/schemas"
)

const (
	// Name is the full name of the record.
	Name = schemas.Namespace + ".Envelope"
	// PayloadField is the name of its last field.
	PayloadField = "payload"
	// Header is the record whose fields come first.
	Header = "EnvelopeHeader"
)

// definition is one .avsc file. A key that it does not know is a bug in this package, not to be dropped in silence.
type definition struct {
	Type      string          `json:"type"`
	Name      string          `json:"name"`
	Namespace string          `json:"namespace"`
	Doc       string          `json:"doc"`
	Aliases   []string        `json:"aliases"`
	Symbols   []string        `json:"symbols"`
	Default   json.RawMessage `json:"default"`
	Fields    []field         `json:"fields"`
}

type field struct {
	Name    string          `json:"name"`
	Type    json.RawMessage `json:"type"`
	Doc     string          `json:"doc"`
	Aliases []string        `json:"aliases"`
	Default json.RawMessage `json:"default"`
}

var definitions = sync.OnceValue(func() map[string]*definition {
	entries, err := schemas.Files.ReadDir(".")
	invariant.Assert(err == nil, "the embedded schemas can be listed: %v", err)
	all := make(map[string]*definition, len(entries))
	for _, entry := range entries {
		raw, err := schemas.Files.ReadFile(entry.Name())
		invariant.Assert(err == nil, "%s can be read: %v", entry.Name(), err)
		var d definition
		decoder := json.NewDecoder(bytes.NewReader(raw))
		decoder.DisallowUnknownFields()
		err = decoder.Decode(&d)
		invariant.Assert(err == nil, "%s is a named schema: %v", entry.Name(), err)
		invariant.Assert(d.Namespace == schemas.Namespace, "%s is in namespace %s", entry.Name(), schemas.Namespace)
		all[d.Name] = &d
	}
	return all
})

// Names returns the names of all records in schemas/, sorted.
func Names() []string {
	var names []string
	for name, d := range definitions() {
		if d.Type == "record" {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// Schema returns the schema of a topic with the given payloads, in the order of the union's branches.
func Schema(payloads []string) (string, error) {
	if len(payloads) == 0 {
		return "", fmt.Errorf("compose an envelope: there are no payloads, expected at least one record name")
	}
	c := composer{seen: map[string]bool{}}
	header := definitions()[Header]
	c.open("record", "Envelope", "One event of a topic: what every event says, and its payload.", nil)
	c.buf.WriteString(`,"fields":[`)
	for _, f := range header.Fields {
		c.field(f)
		c.buf.WriteByte(',')
	}
	fmt.Fprintf(&c.buf, `{"name":%q,"type":[`, PayloadField)
	for i, name := range payloads {
		d := definitions()[name]
		if d == nil || d.Type != "record" {
			return "", fmt.Errorf("compose an envelope: payload %q is no record in schemas/", name)
		}
		if slices.Contains(payloads[:i], name) {
			return "", fmt.Errorf("compose an envelope: payload %s is listed twice", name)
		}
		if i > 0 {
			c.buf.WriteByte(',')
		}
		c.named(name)
	}
	c.buf.WriteString(`],"doc":"What happened, is wanted or came of it."}]}`)
	return c.buf.String(), nil
}

// Record returns the self-contained schema of one record.
func Record(name string) (string, error) {
	if definitions()[name] == nil {
		return "", fmt.Errorf("compose the schema of %q: there is no such file in schemas/", name)
	}
	c := composer{seen: map[string]bool{}}
	c.named(name)
	return c.buf.String(), nil
}

type composer struct {
	buf  bytes.Buffer
	seen map[string]bool
}

func (c *composer) open(kind, name, doc string, aliases []string) {
	fmt.Fprintf(&c.buf, `{"type":%q,"name":%q,"namespace":%q,"doc":%s`, kind, name, schemas.Namespace, quote(doc))
	c.aliases(aliases)
}

func (c *composer) aliases(aliases []string) {
	if len(aliases) > 0 {
		fmt.Fprintf(&c.buf, `,"aliases":%s`, mustJSON(aliases))
	}
}

// named writes the definition where the name is first used and its full name from then on.
func (c *composer) named(name string) {
	if c.seen[name] {
		fmt.Fprintf(&c.buf, "%q", schemas.Namespace+"."+name)
		return
	}
	c.seen[name] = true
	d := definitions()[name]
	c.open(d.Type, d.Name, d.Doc, d.Aliases)
	if d.Type == "enum" {
		fmt.Fprintf(&c.buf, `,"symbols":%s`, mustJSON(d.Symbols))
		if d.Default != nil {
			fmt.Fprintf(&c.buf, `,"default":%s`, d.Default)
		}
		c.buf.WriteByte('}')
		return
	}
	c.buf.WriteString(`,"fields":[`)
	for i, f := range d.Fields {
		if i > 0 {
			c.buf.WriteByte(',')
		}
		c.field(f)
	}
	c.buf.WriteString(`]}`)
}

func (c *composer) field(f field) {
	fmt.Fprintf(&c.buf, `{"name":%q,"type":`, f.Name)
	c.typ(f.Type)
	fmt.Fprintf(&c.buf, `,"doc":%s`, quote(f.Doc))
	c.aliases(f.Aliases)
	if f.Default != nil {
		var compact bytes.Buffer
		invariant.Assert(json.Compact(&compact, f.Default) == nil, "the default of %s is JSON", f.Name)
		fmt.Fprintf(&c.buf, `,"default":%s`, compact.Bytes())
	}
	c.buf.WriteByte('}')
}

// typ writes what stands where a type stands: a name, a union, or an object such as an array or a logical type.
func (c *composer) typ(raw json.RawMessage) {
	raw = bytes.TrimSpace(raw)
	switch raw[0] {
	case '"':
		var name string
		invariant.Assert(json.Unmarshal(raw, &name) == nil, "%s is a type name", raw)
		name = strings.TrimPrefix(name, schemas.Namespace+".")
		if definitions()[name] != nil {
			c.named(name)
			return
		}
		fmt.Fprintf(&c.buf, "%q", name)
	case '[':
		var branches []json.RawMessage
		invariant.Assert(json.Unmarshal(raw, &branches) == nil, "%s is a union", raw)
		c.buf.WriteByte('[')
		for i, branch := range branches {
			if i > 0 {
				c.buf.WriteByte(',')
			}
			c.typ(branch)
		}
		c.buf.WriteByte(']')
	default:
		var object struct {
			Type        string          `json:"type"`
			LogicalType string          `json:"logicalType"`
			Items       json.RawMessage `json:"items"`
			Values      json.RawMessage `json:"values"`
		}
		decoder := json.NewDecoder(bytes.NewReader(raw))
		decoder.DisallowUnknownFields()
		err := decoder.Decode(&object)
		invariant.Assert(err == nil, "%s is an array, a map or a logical type: %v", raw, err)
		fmt.Fprintf(&c.buf, `{"type":%q`, object.Type)
		switch {
		case object.Items != nil:
			c.buf.WriteString(`,"items":`)
			c.typ(object.Items)
		case object.Values != nil:
			c.buf.WriteString(`,"values":`)
			c.typ(object.Values)
		case object.LogicalType != "":
			fmt.Fprintf(&c.buf, `,"logicalType":%q`, object.LogicalType)
		}
		c.buf.WriteByte('}')
	}
}

// quote writes a JSON string without escaping <, > and &, so that docs stay readable.
func quote(s string) []byte {
	var b bytes.Buffer
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	err := encoder.Encode(s)
	invariant.Assert(err == nil, "a string can be written as JSON: %v", err)
	return bytes.TrimSpace(b.Bytes())
}

func mustJSON(v any) []byte {
	raw, err := json.Marshal(v)
	invariant.Assert(err == nil, "%v can be written as JSON: %v", v, err)
	return raw
}
