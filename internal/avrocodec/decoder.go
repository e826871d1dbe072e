package avrocodec

import (
	"github.com/regent-infra/regent/internal/event"
	"github.com/regent-infra/regent/schemas"
)

// decoder implements [event.Decoder]: an event costs no allocation where it was written under this binary's schemas.
type decoder struct {
	codec   *Codec
	event   event.Event
	records []any // by number; nil until one was needed
}

// NewDecoder implements [event.Codec].
func (c *Codec) NewDecoder() event.Decoder { return &decoder{codec: c} }

// Decode implements [event.Decoder].
func (d *decoder) Decode(topic string, value []byte) (*event.Event, error) {
	return d.codec.decode(topic, value, true, d)
}

// share gives the reader bytes whose texts the event may have in common with them, or its own copies of them.
func (d *decoder) share(r *schemas.Reader, body []byte) {
	if d == nil {
		r.Reset(body)
		return
	}
	r.Share(body)
}

// read reads a record of a number.
func (d *decoder) read(r *schemas.Reader, name string, number int) *event.Event {
	if d == nil {
		e, payload := schemas.ReadEvent[event.Event](r, number)
		e.Payload = payload
		return e
	}
	if number >= len(d.records) {
		d.records = append(d.records, make([]any, number+1-len(d.records))...)
	}
	if d.records[number] == nil {
		d.records[number] = schemas.NewRecord(name)
	}
	d.event.Payload = d.records[number]
	schemas.ReadInto(r, d.event.Payload)
	return &d.event
}
