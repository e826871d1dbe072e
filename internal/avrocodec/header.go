package avrocodec

import (
	"time"

	"github.com/regent-infra/regent/internal/event"
	"github.com/regent-infra/regent/internal/record"
	"github.com/regent-infra/regent/schemas"
)

// Names of record headers.
const (
	// HeaderTraceparent carries the W3C trace context.
	HeaderTraceparent = "traceparent"
	// HeaderContentType carries what the value is.
	HeaderContentType = "content-type"
)

// ContentType is what the value of an event is.
const ContentType = "application/avro"

const cloudEventsVersion = "1.0"

// Headers returns the record headers of an event: the CloudEvents attributes as the Kafka protocol binding 1.0.2 has them in binary mode
// (section 3.2: ce_ and the attribute's name, UTF-8), so that a program can route without knowing Avro, and the trace context. An empty or invalid traceparent
// is replaced by the one that follows from the event.
func Headers(e *event.Event, traceparent event.Traceparent) []record.Header {
	if _, err := event.ParseTraceparent(string(traceparent)); err != nil {
		traceparent = event.Trace(e.CorrelationID, e.ID)
	}
	// The values share one buffer: events are published by the hundred thousand.
	const timeBytes = len(time.RFC3339Nano)
	buf := make([]byte, 0, len(cloudEventsVersion)+len(e.ID)+len(e.Source)+len(schemas.Namespace)+1+len(e.Type)+len(e.Resource)+timeBytes+
		len(ContentType)+len(traceparent))
	header := func(key string, parts ...string) record.Header {
		from := len(buf)
		for _, part := range parts {
			buf = append(buf, part...)
		}
		return record.Header{Key: key, Value: buf[from:len(buf):len(buf)]}
	}
	return []record.Header{
		header("ce_specversion", cloudEventsVersion),
		header("ce_id", e.ID),
		header("ce_source", e.Source),
		header("ce_type", schemas.Namespace, ".", e.Type),
		header("ce_subject", e.Resource),
		header("ce_time", e.OccurredAt.UTC().Format(time.RFC3339Nano)),
		header(HeaderContentType, ContentType),
		header(HeaderTraceparent, string(traceparent)),
	}
}

// TraceOf returns the trace context that a record carries, or "" if it carries none that is valid.
func TraceOf(r *record.Record) event.Traceparent {
	traceparent, err := event.ParseTraceparent(string(r.Header(HeaderTraceparent)))
	if err != nil {
		return ""
	}
	return traceparent
}
