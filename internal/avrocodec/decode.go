package avrocodec

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/twmb/avro"

	"github.com/regent-infra/regent/internal/envelope"
	"github.com/regent-infra/regent/internal/event"
	"github.com/regent-infra/regent/schemas"
)

// plan says how to read what one writer schema wrote to one topic. It is immutable.
type plan struct {
	// foreign, where set, says why nothing of this writer can be read.
	foreign error
	// transcode, where set, reads a writer of another shape into the generic form of the reader's whole envelope.
	transcode *avro.Schema
	// header resolves the writer's header to ours; nil where they are the same.
	header   *avro.Schema
	branches []readBranch
}

// readBranch is one branch of a writer's payload union.
type readBranch struct {
	name   string
	number int // of the record
	// schema resolves the writer's record to ours; nil where they are the same.
	schema *avro.Schema
	// foreign, where set, says why this branch cannot be read.
	foreign error
}

// Decode implements [event.Codec].
func (c *Codec) Decode(topic string, value []byte) (e *event.Event, err error) {
	return c.decode(topic, value, true, nil)
}

// DecodeHeader reads only the header, for routing: the payload's bytes are neither read nor checked.
func (c *Codec) DecodeHeader(topic string, value []byte) (*schemas.EnvelopeHeader, error) {
	e, err := c.decode(topic, value, false, nil)
	if err != nil {
		return nil, err
	}
	return &e.EnvelopeHeader, nil
}

// decode reads a value into memory of its own, or into that of a decoder.
func (c *Codec) decode(topic string, value []byte, payload bool, into *decoder) (e *event.Event, err error) {
	defer func() {
		if r := recover(); r != nil {
			e, err = nil, undecodable("the Avro decoder gave up: %v", r)
		}
	}()
	t := c.topics[topic]
	if t == nil {
		return nil, unknownTopic(topic)
	}
	if len(value) > c.config.MaxBytes {
		return nil, &event.DecodeError{
			Reason: ReasonOversized,
			Err:    fmt.Errorf("the value has %d bytes, expected at most %d", len(value), c.config.MaxBytes),
		}
	}
	id, body, err := splitFrame(value)
	if err != nil {
		return nil, err
	}
	p, err := c.planFor(t, id)
	if err != nil {
		return nil, err
	}
	if p.foreign != nil {
		return nil, foreign("schema id %d: %w", id, p.foreign)
	}
	if p.transcode != nil {
		if body, err = t.toReader(p.transcode, body); err != nil {
			return nil, err
		}
		p = t.own
	}
	return p.read(body, payload, into)
}

// splitFrame takes Confluent's framing off a value.
func splitFrame(value []byte) (id int32, body []byte, err error) {
	switch {
	case len(value) < prefixBytes:
		return 0, nil, undecodable("the value has %d bytes, expected a zero byte and a schema id of four bytes first", len(value))
	case value[0] != 0:
		return 0, nil, undecodable("the value begins with byte 0x%02x, expected 0x00 of the schema registry's wire format", value[0])
	}
	raw := binary.BigEndian.Uint32(value[1:prefixBytes])
	if raw == 0 || raw > 1<<31-1 {
		return 0, nil, undecodable("the value has schema id %d, expected 1 to 2147483647", raw)
	}
	return int32(raw), value[prefixBytes:], nil
}

// read decodes a body of our shape.
func (p *plan) read(body []byte, payload bool, into *decoder) (*event.Event, error) {
	var r schemas.Reader
	var header schemas.EnvelopeHeader
	if p.header == nil {
		into.share(&r, body)
		if r.Header(&header); r.Err() != nil {
			return nil, undecodable("the header: %w", r.Err())
		}
	} else {
		resolved, rest, err := p.resolveHeader(body)
		if err != nil {
			return nil, undecodable("the header: %w", err)
		}
		header = *resolved
		into.share(&r, rest)
	}
	index, n := binary.Varint(r.Rest())
	if n <= 0 || index < 0 || index >= int64(len(p.branches)) {
		return nil, undecodable("the payload's branch is missing or out of range, expected 0 to %d", len(p.branches)-1)
	}
	b := &p.branches[index]
	if b.foreign != nil {
		return nil, foreign("payload %s: %w", b.name, b.foreign)
	}
	if header.Type != b.name {
		return nil, undecodable("the header says type %q, but the payload is a %s", header.Type, b.name)
	}
	if !payload {
		return &event.Event{EnvelopeHeader: header}, nil
	}
	r.Skip(n)
	e, rest, err := b.read(&r, into)
	if err != nil {
		return nil, undecodable("payload %s: %w", b.name, err)
	}
	if rest > 0 {
		return nil, undecodable("%d bytes follow the payload %s, expected none", rest, b.name)
	}
	e.EnvelopeHeader = header
	return e, nil
}

// resolveHeader reads a header of another schema than ours and returns what follows it.
func (p *plan) resolveHeader(body []byte) (*schemas.EnvelopeHeader, []byte, error) {
	header := &schemas.EnvelopeHeader{}
	rest, err := p.header.Decode(body, header)
	return header, rest, err
}

// read decodes the payload into an event without a header and returns how many bytes follow it.
func (b *readBranch) read(r *schemas.Reader, into *decoder) (e *event.Event, rest int, err error) {
	if b.schema != nil {
		e = &event.Event{Payload: schemas.NewRecord(b.name)}
		left, err := b.schema.Decode(r.Rest(), e.Payload)
		return e, len(left), err
	}
	e = into.read(r, b.name, b.number)
	return e, len(r.Rest()), r.Err()
}

// toReader turns the bytes of a writer with another shape into bytes of the reader's schema.
func (t *topicCodec) toReader(resolved *avro.Schema, body []byte) ([]byte, error) {
	var generic any
	rest, err := resolved.Decode(body, &generic, avro.TaggedUnions())
	if err != nil {
		return nil, undecodable("the envelope: %w", err)
	}
	if len(rest) > 0 {
		return nil, undecodable("%d bytes follow the envelope, expected none", len(rest))
	}
	out, err := t.reader.AppendEncode(nil, generic)
	if err != nil {
		return nil, undecodable("the envelope does not fit the topic's schema: %w", err)
	}
	return out, nil
}

// planFor returns the plan of a writer, from the cache or made now. Only errors that may go away are returned; those that stay
// are in the plan.
func (c *Codec) planFor(t *topicCodec, id int32) (*plan, error) {
	if p := (*t.plans.Load())[id]; p != nil {
		return p, nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if p := (*t.plans.Load())[id]; p != nil {
		return p, nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), c.config.Timeout)
	defer cancel()
	text, err := c.registry.SchemaByID(ctx, id)
	if errors.Is(err, ErrUnknownSchema) {
		// Not cached: ids of garbage would fill the memory, and a registry may still catch up.
		return nil, foreign("schema id %d: %w", id, err)
	}
	if err != nil {
		return nil, fmt.Errorf("fetch schema id %d, which a record of topic %s was written with: %w", id, t.name, err)
	}
	p := t.makePlan(text)
	plans := maps.Clone(*t.plans.Load())
	plans[id] = p
	t.plans.Store(&plans)
	return p, nil
}

// ownPlan reads what this binary's own schema wrote.
func (t *topicCodec) ownPlan() *plan {
	p := &plan{branches: make([]readBranch, len(t.branches))}
	for name, b := range t.branches {
		p.branches[b.index] = readBranch{name: name, number: b.number}
	}
	return p
}

func (t *topicCodec) makePlan(text string) *plan {
	if text == t.text {
		return t.own
	}
	writer, err := avro.Parse(text)
	if err != nil {
		return &plan{foreign: fmt.Errorf("it is no Avro schema: %w", err)}
	}
	root := writer.Root()
	payload := slices.IndexFunc(root.Fields, func(f avro.SchemaField) bool { return f.Name == envelope.PayloadField })
	if root.Type != "record" || fullName(root) != envelope.Name || payload < 0 {
		return &plan{foreign: fmt.Errorf("it is %s %s, expected the record %s with a field %s", root.Type, fullName(root), envelope.Name, envelope.PayloadField)}
	}
	if payload != len(root.Fields)-1 || root.Fields[payload].Type.Type != "union" {
		return t.transcodingPlan(writer)
	}

	union := root.Fields[payload].Type.Branches
	head := *root
	head.Name, head.Namespace, head.Fields = envelope.Header, schemas.Namespace, root.Fields[:payload]
	headWriter, err := head.Schema()
	if err != nil {
		return &plan{foreign: fmt.Errorf("its header does not stand alone: %w", err)}
	}
	p := &plan{branches: make([]readBranch, len(union))}
	if shape(headWriter) != t.headerShape {
		if p.header, err = avro.Resolve(headWriter, t.header); err != nil {
			return &plan{foreign: fmt.Errorf("its header does not resolve: %w", err)}
		}
	}
	for i := range union {
		p.branches[i] = t.resolveBranch(&union[i])
	}
	return p
}

func (t *topicCodec) transcodingPlan(writer *avro.Schema) *plan {
	resolved, err := avro.Resolve(writer, t.reader)
	if err != nil {
		return &plan{foreign: fmt.Errorf("it does not resolve: %w", err)}
	}
	return &plan{transcode: resolved}
}

func (t *topicCodec) resolveBranch(node *avro.SchemaNode) readBranch {
	full := fullName(node)
	name, ours := strings.CutPrefix(full, schemas.Namespace+".")
	b, known := t.branches[name]
	if !ours || !known {
		return readBranch{name: full, foreign: fmt.Errorf("topic %s does not carry this record, as far as this version knows", t.name)}
	}
	writer, err := node.Schema()
	if err != nil {
		return readBranch{name: name, foreign: fmt.Errorf("its schema does not stand alone: %w", err)}
	}
	if shape(writer) == b.shape {
		return readBranch{name: name, number: b.number}
	}
	resolved, err := avro.Resolve(writer, b.schema)
	if err != nil {
		return readBranch{name: name, foreign: fmt.Errorf("its schema does not resolve: %w", err)}
	}
	return readBranch{name: name, schema: resolved}
}

func fullName(node *avro.SchemaNode) string {
	if node.Name == "" {
		return node.Type
	}
	if node.Namespace == "" || strings.Contains(node.Name, ".") {
		return node.Name
	}
	return node.Namespace + "." + node.Name
}

func undecodable(format string, args ...any) error {
	return &event.DecodeError{Reason: ReasonUndecodable, Err: fmt.Errorf(format, args...)}
}

func foreign(format string, args ...any) error {
	return &event.DecodeError{Reason: ReasonForeignSchema, Err: fmt.Errorf(format, args...)}
}
