package event

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"regexp"
)

// Traceparent is the value of the W3C Trace Context header of that name (https://www.w3.org/TR/trace-context/, section 3.2): version,
// trace id, parent id and flags, in lower-case hexadecimal.
//
// Processors must not draw random numbers, so the trace of an event follows from the event: all events of one correlation
// share a trace id, and each event is its own span. So a trace survives a restart in the middle of a story, and a replay gives the same one.
type Traceparent string

const (
	traceVersion = "00"
	traceSampled = "01"
)

var traceparentPattern = regexp.MustCompile(`^([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?$`)

// Trace returns the trace context of the event with the given ids.
func Trace(correlationID, eventID string) Traceparent {
	trace, span := sha256.Sum256([]byte(correlationID)), sha256.Sum256([]byte(eventID))
	// An id of zeros alone is invalid. The hash of nothing that anybody finds is, but it costs nothing to rule it out.
	trace[0] |= 0x01
	span[0] |= 0x01
	return Traceparent(traceVersion + "-" + hex.EncodeToString(trace[:16]) + "-" + hex.EncodeToString(span[:8]) + "-" + traceSampled)
}

// ParseTraceparent checks a header's value, as the standard asks: version ff is invalid, version 00 has four parts, later versions may
// have more, and no id consists of zeros alone.
func ParseTraceparent(value string) (Traceparent, error) {
	const zeros = "00000000000000000000000000000000"
	m := traceparentPattern.FindStringSubmatch(value)
	switch {
	case m == nil:
		return "", fmt.Errorf("parse traceparent %.80q: expected version-traceid-parentid-flags in lower-case hexadecimal", value)
	case m[1] == "ff":
		return "", fmt.Errorf("parse traceparent %.80q: version ff is invalid", value)
	case m[1] == traceVersion && m[5] != "":
		return "", fmt.Errorf("parse traceparent %.80q: version 00 has four parts", value)
	case m[2] == zeros, m[3] == zeros[:16]:
		return "", fmt.Errorf("parse traceparent %.80q: an id of zeros is invalid", value)
	}
	return Traceparent(value), nil
}

// TraceID returns the 32 digits of the trace id, or "" of an invalid value.
func (t Traceparent) TraceID() string { return t.part(2) }

// SpanID returns the 16 digits of the parent id, or "" of an invalid value.
func (t Traceparent) SpanID() string { return t.part(3) }

// Sampled reports whether the caller may have recorded the trace.
func (t Traceparent) Sampled() bool {
	flags, err := hex.DecodeString(t.part(4))
	return err == nil && len(flags) == 1 && flags[0]&1 == 1
}

func (t Traceparent) part(i int) string {
	m := traceparentPattern.FindStringSubmatch(string(t))
	if m == nil {
		return ""
	}
	return m[i]
}

// Child returns the context of an event that follows from t: the same trace and flags, the event's own span. Of an invalid t
// it returns [Trace] of the event alone.
func (t Traceparent) Child(correlationID, eventID string) Traceparent {
	own := Trace(correlationID, eventID)
	if _, err := ParseTraceparent(string(t)); err != nil {
		return own
	}
	return Traceparent(traceVersion + "-" + t.TraceID() + "-" + own.SpanID() + "-" + t.part(4))
}
