// Package wire reads and writes events of Regent as docs/formats-wire.md describes them: Confluent's framing, schemas from a registry, Avro. It
// knows nothing of Regent's records: it learns them from the registry.
package wire

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/twmb/avro"
	"github.com/twmb/franz-go/pkg/sr"
)

// ErrUnreadable is wrapped when a value can never be read. Any other error of [Codec.Decode] is the registry's, and trying again can help.
var ErrUnreadable = errors.New("unreadable record")

// Codec turns events into values and back. It is not safe for concurrent use.
type Codec struct {
	registry *sr.Client
	readers  map[int]*avro.Schema
}

// Connect returns a codec on a registry. Credentials and TLS are further options of sr.NewClient.
func Connect(url string) (*Codec, error) {
	registry, err := sr.NewClient(sr.URLs(url))
	if err != nil {
		return nil, fmt.Errorf("connect to the schema registry: %w", err)
	}
	return &Codec{registry: registry, readers: map[int]*avro.Schema{}}, nil
}

// Decode returns the event in a value, and the schema that it was written with. A timestamp becomes a time.Time, a record a map.
func (c *Codec) Decode(ctx context.Context, value []byte) (map[string]any, *avro.Schema, error) {
	id, body, err := new(sr.ConfluentHeader).DecodeID(value)
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrUnreadable, err)
	}
	schema, err := c.schema(ctx, id)
	if err != nil {
		return nil, nil, err
	}
	var event map[string]any
	rest, err := schema.Decode(body, &event)
	if err == nil && len(rest) > 0 {
		err = fmt.Errorf("%d bytes are left over", len(rest))
	}
	if err != nil {
		return nil, nil, fmt.Errorf("%w: schema %d: %w", ErrUnreadable, id, err)
	}
	return event, schema, nil
}

func (c *Codec) schema(ctx context.Context, id int) (*avro.Schema, error) {
	if schema, ok := c.readers[id]; ok {
		return schema, nil
	}
	found, err := c.registry.SchemaByID(ctx, id)
	if err != nil {
		var answer *sr.ResponseError
		if errors.As(err, &answer) && answer.StatusCode == http.StatusNotFound {
			return nil, fmt.Errorf("%w: the registry has no schema %d", ErrUnreadable, id)
		}
		return nil, fmt.Errorf("fetch schema %d: %w", id, err)
	}
	schema, err := avro.Parse(found.Schema)
	if err != nil {
		return nil, fmt.Errorf("%w: schema %d: %w", ErrUnreadable, id, err)
	}
	c.readers[id] = schema
	return schema, nil
}

// Encode returns the value of an event, written with the newest schema of the topic. It registers nothing: schemas come from topics.yaml. A field
// that the schema does not have is an error.
func (c *Codec) Encode(ctx context.Context, topic string, event map[string]any) ([]byte, error) {
	const newest = -1
	found, err := c.registry.SchemaByVersion(ctx, topic+"-value", newest)
	if err != nil {
		return nil, fmt.Errorf("fetch the schema of %s: %w", topic, err)
	}
	schema, err := avro.Parse(found.Schema.Schema)
	if err != nil {
		return nil, fmt.Errorf("read the schema of %s: %w", topic, err)
	}
	value, err := new(sr.ConfluentHeader).AppendEncode(nil, found.ID, nil)
	if err != nil {
		return nil, err
	}
	if value, err = schema.AppendEncode(value, event); err != nil {
		return nil, fmt.Errorf("write an event of %s: %w", topic, err)
	}
	// The library leaves out what the schema does not have: a misspelled field would become its default.
	var written map[string]any
	if _, err := schema.Decode(value[headerSize:], &written, avro.TaggedUnions()); err != nil {
		return nil, fmt.Errorf("read what was written for %s: %w", topic, err)
	}
	if field := missing(event, written); field != "" {
		return nil, fmt.Errorf("write an event of %s: the schema has no field %s", topic, field)
	}
	return value, nil
}

// headerSize is that of Confluent's framing: a zero byte and the schema's id.
const headerSize = 5

// missing returns the path of a field that was given and not written; "" for none.
func missing(given, written any) string {
	switch given := given.(type) {
	case map[string]any:
		to, _ := written.(map[string]any)
		for name, value := range given {
			into, ok := to[name]
			if to != nil && !ok {
				return name
			}
			if field := missing(value, into); field != "" {
				return name + "." + field
			}
		}
	case []any:
		to, _ := written.([]any)
		for i, value := range given {
			if i < len(to) {
				if field := missing(value, to[i]); field != "" {
					return fmt.Sprintf("%d.%s", i, field)
				}
			}
		}
	}
	return ""
}
