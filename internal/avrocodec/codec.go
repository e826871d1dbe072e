// Package avrocodec turns events into the bytes of a topic and back. It is the only package that imports an Avro library.
//
// On the wire a value is Confluent's framing (a zero byte, then the schema's registry id as four bytes, big endian), then the Avro binary
// of the topic's envelope: the header's fields, the branch of the payload union as a zigzag varint, the payload. docs/formats-wire.md
// shows it byte by byte. Package envelope composes the schema of a topic.
//
//	codec, err := avrocodec.New(registry, topics.Default(), avrocodec.Config{})
//	value, err := codec.Encode(topic, event.New(header, &schemas.NodeHeartbeat{…}))
//	e, err := codec.Decode(topic, value)
//
// Decoding caches one plan per topic and registry id. A writer whose envelope has our shape (payload last, a union) is read in two
// steps: its header, then its branch as the record of the same name, straight into the generated type. Each of them that is written as
// this binary writes it is read by the generated code of package schemas, which is several times faster; what another version wrote is resolved to
// ours by an Avro library. A writer of another shape that Avro can still resolve is transcoded through the generic form first. All else is
// foreign. Encoding is always by generated code: this binary writes its own schemas and no others.
//
// An event that was decoded shares no memory with its bytes, unless a decoder of [Codec.NewDecoder] has read it. Its texts share a few allocations among themselves; see [schemas.Reader] for what
// keeping one of them keeps.
//
// Invariants:
//
//  1. Bytes from a topic never cause a panic, nor more memory than a small multiple of their size: the size is capped before
//     anything is read, the generated code and the Avro library bound every count by the bytes that are left, and a panic inside them becomes
//     a DecodeError.
//  2. Every byte of a value is accounted for: what follows the payload makes it undecodable.
//  3. A [*event.DecodeError] is permanent. A registry that does not answer is never one, so nothing is sent to the dead-letter topic because
//     a service was away.
//  4. What Encode accepts, Decode accepts: same size cap, same union, same enum symbols.
//  5. Encoding is canonical: an event has one encoding under one schema id.
//  6. The generated code and the library agree: on every value that they write, on all bytes that they accept, and on what those say.
package avrocodec

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/avro"

	"github.com/regent-infra/regent/internal/envelope"
	"github.com/regent-infra/regent/internal/event"
	"github.com/regent-infra/regent/internal/topics"
	"github.com/regent-infra/regent/schemas"
)

// DefaultMaxBytes is the size cap of a value unless configured otherwise: Kafka's own default for a record batch.
const DefaultMaxBytes = 1 << 20

// defaultTimeout bounds a call to the registry.
const defaultTimeout = 5 * time.Second

// prefixBytes is the length of Confluent's framing: magic byte and schema id.
const prefixBytes = 5

// Reasons of a [*event.DecodeError].
const (
	// ReasonUndecodable: the framing or the Avro binary is broken.
	ReasonUndecodable = "undecodable"
	// ReasonOversized: the value is larger than the cap.
	ReasonOversized = "oversized"
	// ReasonForeignSchema: written with a schema that is none of the topic's.
	ReasonForeignSchema = "foreign_schema"
)

// Errors of a [Registry].
var (
	// ErrUnknownSchema says that the registry answered, and that it has no usable schema of that id.
	ErrUnknownSchema = errors.New("the schema registry has no self-contained Avro schema of this id")
	// ErrUnreachable says that no registry answered in time. A retry can help.
	ErrUnreachable = errors.New("the schema registry does not answer")
	// ErrNotRegistered says that a schema is not registered under its subject.
	ErrNotRegistered = errors.New("the schema is not registered")
)

// Registry is what the codec needs of a schema registry. Implementations are safe for concurrent use.
type Registry interface {
	// SchemaByID returns the text of the schema with the id. The error wraps [ErrUnknownSchema] if there is none; any other
	// error is transient.
	SchemaByID(ctx context.Context, id int32) (string, error)
	// LookupID returns the id under which the schema is registered for the subject. The error wraps [ErrNotRegistered] if it is not;
	// any other error is transient.
	LookupID(ctx context.Context, subject, schema string) (int32, error)
}

// Config adjusts a [Codec]. The zero value is ready to use.
type Config struct {
	// MaxBytes caps the size of a value, framing included, on both ways. 0 means [DefaultMaxBytes].
	MaxBytes int
	// Timeout bounds each call to the registry. 0 means 5 s.
	Timeout time.Duration
}

// Codec implements [event.Codec]. It is safe for concurrent use.
type Codec struct {
	registry Registry
	config   Config
	topics   map[string]*topicCodec
}

var _ event.Codec = (*Codec)(nil)

// topicCodec holds what is known of one topic.
type topicCodec struct {
	name    string
	subject string
	text    string
	reader  *avro.Schema
	header  *avro.Schema
	// headerShape is the shape of header.
	headerShape string
	branches    map[string]branch
	records     []*branch // the same by the record's number; nil for those that the topic does not carry
	own         *plan

	id    atomic.Int64 // 0 until looked up
	mu    sync.Mutex   // held while a plan is made
	plans atomic.Pointer[map[int32]*plan]
}

// branch is one record of the payload union.
type branch struct {
	name   string
	index  int64
	prefix []byte // the index as it is written
	number int    // of the record
	schema *avro.Schema
	shape  string
}

// New returns a codec for the topics of a set. It asks the registry for nothing yet; see [Codec.Prepare].
func New(registry Registry, set *topics.Set, config Config) (*Codec, error) {
	if config.MaxBytes == 0 {
		config.MaxBytes = DefaultMaxBytes
	}
	if config.Timeout == 0 {
		config.Timeout = defaultTimeout
	}
	c := &Codec{registry: registry, config: config, topics: map[string]*topicCodec{}}
	for _, topic := range set.All() {
		t, err := newTopicCodec(topic)
		if err != nil {
			return nil, fmt.Errorf("prepare the codec of topic %s: %w", topic.Name, err)
		}
		c.topics[topic.Name] = t
	}
	return c, nil
}

func newTopicCodec(topic topics.Topic) (*topicCodec, error) {
	text, err := envelope.Schema(topic.Payloads)
	if err != nil {
		return nil, err
	}
	t := &topicCodec{name: topic.Name, subject: topics.Subject(topic.Name), text: text, branches: map[string]branch{}}
	if t.reader, err = avro.Parse(text); err != nil {
		return nil, err
	}
	if t.header, err = recordSchema(envelope.Header); err != nil {
		return nil, err
	}
	for i, name := range topic.Payloads {
		schema, err := recordSchema(name)
		if err != nil {
			return nil, err
		}
		b := branch{
			name: name, index: int64(i), prefix: binary.AppendVarint(nil, int64(i)), number: schemas.RecordNumber(schemas.NewRecord(name)),
			schema: schema, shape: shape(schema),
		}
		t.branches[name] = b
		t.records = append(t.records, make([]*branch, max(0, b.number+1-len(t.records)))...)
		t.records[b.number] = &b
	}
	t.headerShape = shape(t.header)
	t.own = t.ownPlan()
	t.plans.Store(&map[int32]*plan{})
	return t, nil
}

func recordSchema(name string) (*avro.Schema, error) {
	text, err := envelope.Record(name)
	if err != nil {
		return nil, err
	}
	return avro.Parse(text)
}

// Schema returns the schema text that the codec writes a topic with, or "" for a topic that it does not know.
func (c *Codec) Schema(topic string) string {
	if t := c.topics[topic]; t != nil {
		return t.text
	}
	return ""
}

// Prepare looks up the schema ids of the given topics, so that a missing registration shows at boot and not at the first event.
func (c *Codec) Prepare(ctx context.Context, names ...string) error {
	var faults []error
	for _, name := range names {
		t := c.topics[name]
		if t == nil {
			faults = append(faults, unknownTopic(name))
			continue
		}
		if _, err := c.writerID(ctx, t); err != nil {
			faults = append(faults, err)
		}
	}
	return errors.Join(faults...)
}

// Encode implements [event.Codec].
func (c *Codec) Encode(topic string, e *event.Event) ([]byte, error) {
	return c.AppendEncode(nil, topic, e)
}

// AppendEncode appends the wire bytes of e to dst and returns the longer slice. On an error it returns dst as it was.
func (c *Codec) AppendEncode(dst []byte, topic string, e *event.Event) (out []byte, err error) {
	defer func() {
		if r := recover(); r != nil {
			out, err = dst, fmt.Errorf("encode %s for topic %s: the Avro encoder gave up: %v", e.Type, topic, r)
		}
	}()
	t := c.topics[topic]
	if t == nil {
		return dst, unknownTopic(topic)
	}
	b, err := t.branchOf(e)
	if err != nil {
		return dst, err
	}
	id := t.id.Load()
	if id == 0 {
		found, err := c.writerID(context.Background(), t)
		if err != nil {
			return dst, err
		}
		id = int64(found)
	}

	size := prefixBytes + schemas.HeaderSize(&e.EnvelopeHeader) + len(b.prefix) + schemas.AvroSize(e.Payload)
	if size > c.config.MaxBytes {
		return dst, fmt.Errorf("encode %s for topic %s: it takes %d bytes, expected at most %d", e.Type, topic, size, c.config.MaxBytes)
	}
	out = append(slices.Grow(dst, size), 0)
	out = binary.BigEndian.AppendUint32(out, uint32(id)) //nolint:gosec // registry ids are positive 32-bit numbers
	if out, err = schemas.AppendHeader(out, &e.EnvelopeHeader); err != nil {
		return dst, fmt.Errorf("encode the header of %s for topic %s: %w", e.Type, topic, err)
	}
	out = append(out, b.prefix...)
	if out, err = schemas.AppendAvro(out, e.Payload); err != nil {
		return dst, fmt.Errorf("encode %s for topic %s: %w", e.Type, topic, err)
	}
	return out, nil
}

// branchOf returns the branch of an event's payload, or what is wrong with the payload.
func (t *topicCodec) branchOf(e *event.Event) (*branch, error) {
	number := schemas.RecordNumber(e.Payload)
	switch {
	case number < 0:
		return nil, fmt.Errorf("encode an event for topic %s: the payload is a %T, expected a pointer to a generated record", t.name, e.Payload)
	case number >= len(t.records) || t.records[number] == nil:
		return nil, fmt.Errorf("encode %s for topic %s: the topic does not carry this record; see its payloads in topics.yaml", schemas.RecordName(e.Payload), t.name)
	case reflect.ValueOf(e.Payload).IsNil():
		return nil, fmt.Errorf("encode %s for topic %s: the payload is a nil pointer", schemas.RecordName(e.Payload), t.name)
	}
	b := t.records[number]
	if e.Type != b.name {
		return nil, fmt.Errorf("encode %s for topic %s: the header's type is %q, expected the payload's record name", b.name, t.name, e.Type)
	}
	return b, nil
}

// writerID returns the id that the topic's schema is registered under, asking the registry once.
func (c *Codec) writerID(ctx context.Context, t *topicCodec) (int32, error) {
	if id := t.id.Load(); id != 0 {
		return int32(id), nil //nolint:gosec // stored from an int32 below
	}
	ctx, cancel := context.WithTimeout(ctx, c.config.Timeout)
	defer cancel()
	id, err := c.registry.LookupID(ctx, t.subject, t.text)
	switch {
	case errors.Is(err, ErrNotRegistered):
		return 0, fmt.Errorf("look up the schema of topic %s: subject %s does not have it (run `regent topics apply`): %w", t.name, t.subject, err)
	case err != nil:
		return 0, fmt.Errorf("look up the schema of topic %s: %w", t.name, err)
	case id <= 0:
		return 0, fmt.Errorf("look up the schema of topic %s: the registry answered id %d, expected a positive one", t.name, id)
	}
	t.id.Store(int64(id))
	return id, nil
}

func unknownTopic(topic string) error {
	return fmt.Errorf("topic %q is not declared in topics.yaml, so its records have no schema", topic)
}
