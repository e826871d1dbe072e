package reducer

import (
	"errors"
	"fmt"
	"strconv"

	"github.com/regent-infra/regent/internal/event"
	"github.com/regent-infra/regent/internal/record"
	"github.com/regent-infra/regent/internal/stream"
	"github.com/regent-infra/regent/schemas"
)

// Reasons of poison beyond the codec's own.
const (
	reasonMisaddressed = "misaddressed"
	reasonMalformed    = "malformed"
	reasonUnencodable  = "unencodable"
)

func poison(reason, format string, args ...any) error {
	return &stream.Poison{Reason: reason, Err: fmt.Errorf(format, args...)}
}

// undecodable turns the codec's verdict into the machine's. What is no DecodeError is transient and stays an error.
func undecodable(err error) error {
	var d *event.DecodeError
	if errors.As(err, &d) {
		return &stream.Poison{Reason: d.Reason, Err: d.Err}
	}
	return fmt.Errorf("decode an input: %w", err)
}

// output writes what follows from one record to the changelog.
type output struct {
	config *Config
	task   stream.Task
	topic  string
	rec    *record.Record
	name   string
	// source and origin say who emits, and from where it follows; they are made when first needed. ordinal counts.
	source, origin string
	ordinal        int
	// cause is the header of the record's event; zero for a tombstone.
	cause schemas.EnvelopeHeader
}

// newOutput prepares the outputs that follow from rec. name is the processor's.
func newOutput(config *Config, name string, task stream.Task, topic string, rec *record.Record, cause schemas.EnvelopeHeader) *output {
	return &output{config: config, name: name, task: task, topic: topic, rec: rec, cause: cause}
}

// begin makes what all outputs of the record share.
func (o *output) begin() {
	if o.source == "" {
		o.source = o.name + "/" + strconv.Itoa(int(o.task.ID()))
		o.origin = o.name + "/" + o.rec.Topic + "/" + strconv.Itoa(int(o.rec.Partition)) + "/" + strconv.FormatInt(o.rec.Offset, 10) + "/"
	}
}

// put emits payload under key and returns the bytes and the envelope's sequence. last is the sequence of the last event about the
// resource; 0 if there was none.
func (o *output) put(key []byte, cluster, resource string, payload any, last int64) ([]byte, int64, error) {
	o.begin()
	at := o.task.StreamTime()
	e := event.New(schemas.EnvelopeHeader{
		// One part: the origin names the processor too, for others derive ids from the same records.
		ID:            event.DeriveID(at, o.origin+strconv.Itoa(o.ordinal)),
		Source:        o.source,
		Cluster:       cluster,
		Resource:      resource,
		OccurredAt:    at,
		CorrelationID: o.cause.CorrelationID,
		CausationID:   o.cause.ID,
		// Rises over a deletion too, which takes the last sequence away.
		Sequence: max(last+1, at.UnixMicro()),
		BootID:   o.config.Instance,
	}, payload)
	o.ordinal++
	value, err := o.config.Codec.Encode(o.topic, e)
	if err != nil {
		return nil, 0, o.unencodable(e, err)
	}
	o.task.Emit(record.Record{Topic: o.topic, Partition: stream.OwnPartition, Key: key, Value: value, Headers: o.config.Headers(e, o.rec)})
	return value, e.Sequence, nil
}

// drop emits a tombstone.
func (o *output) drop(key []byte) {
	o.task.Emit(record.Record{Topic: o.topic, Partition: stream.OwnPartition, Key: key})
}

// unencodable tells a state that cannot be written, which is the record's fault, from a codec that cannot write at all, such as
// one whose registry is away: it tries the same header with a payload that is valid for sure.
func (o *output) unencodable(e *event.Event, err error) error {
	err = fmt.Errorf("encode %s of %s: %w", e.Type, e.Resource, err)
	if _, failed := o.config.Codec.Encode(o.topic, event.New(e.EnvelopeHeader, &schemas.ResourceForgotten{ForgottenAt: e.OccurredAt})); failed != nil {
		return err
	}
	return &stream.Poison{Reason: reasonUnencodable, Err: err}
}

// canonical returns what of a value follows from the inputs however they interleave: all but the envelope, which says when and after which
// record it was emitted (docs/adr/0005).
func canonical(config *Config, topic string) func(value []byte) ([]byte, error) {
	return func(value []byte) ([]byte, error) {
		e, err := config.Codec.Decode(topic, value)
		if err != nil {
			return nil, fmt.Errorf("read a state to compare it: %w", err)
		}
		return config.Codec.Encode(topic, event.New(schemas.EnvelopeHeader{}, e.Payload))
	}
}
