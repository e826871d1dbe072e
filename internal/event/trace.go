package event

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
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

// parts are those of a traceparent: version, trace id, parent id, flags, and what later versions add.
type parts struct{ version, trace, span, flags, more string }

// split takes a value apart; ok says whether it has the form. It runs several times for each event that is published.
func split(value string) (p parts, ok bool) {
	const form = "vv-tttttttttttttttttttttttttttttttt-ssssssssssssssss-ff"
	if len(value) < len(form) {
		return parts{}, false
	}
	for i := range len(form) {
		b := value[i]
		if form[i] == '-' && b != '-' || form[i] != '-' && (b < '0' || b > '9') && (b < 'a' || b > 'f') {
			return parts{}, false
		}
	}
	p = parts{version: value[0:2], trace: value[3:35], span: value[36:52], flags: value[53:55], more: value[55:]}
	if p.more != "" && (p.more[0] != '-' || strings.Contains(p.more, "\n")) {
		return parts{}, false
	}
	return p, true
}

// Trace returns the trace context of the event with the given ids.
func Trace(correlationID, eventID string) Traceparent {
	trace := sha256.Sum256([]byte(correlationID))
	trace[0] |= 0x01 // see span
	var id [32]byte
	hex.Encode(id[:], trace[:16])
	return Traceparent(traceVersion + "-" + string(id[:]) + "-" + span(eventID) + "-" + traceSampled)
}

// span returns the span id of an event.
func span(eventID string) string {
	sum := sha256.Sum256([]byte(eventID))
	// An id of zeros alone is invalid. The hash of nothing that anybody finds is, but it costs nothing to rule it out.
	sum[0] |= 0x01
	return hex.EncodeToString(sum[:8])
}

// ParseTraceparent checks a header's value, as the standard asks: version ff is invalid, version 00 has four parts, later versions may
// have more, and no id consists of zeros alone.
func ParseTraceparent(value string) (Traceparent, error) {
	const zeros = "00000000000000000000000000000000"
	p, ok := split(value)
	switch {
	case !ok:
		return "", fmt.Errorf("parse traceparent %.80q: expected version-traceid-parentid-flags in lower-case hexadecimal", value)
	case p.version == "ff":
		return "", fmt.Errorf("parse traceparent %.80q: version ff is invalid", value)
	case p.version == traceVersion && p.more != "":
		return "", fmt.Errorf("parse traceparent %.80q: version 00 has four parts", value)
	case p.trace == zeros, p.span == zeros[:16]:
		return "", fmt.Errorf("parse traceparent %.80q: an id of zeros is invalid", value)
	}
	return Traceparent(value), nil
}

// TraceID returns the 32 digits of the trace id, or "" of an invalid value.
func (t Traceparent) TraceID() string {
	p, _ := split(string(t))
	return p.trace
}

// SpanID returns the 16 digits of the parent id, or "" of an invalid value.
func (t Traceparent) SpanID() string {
	p, _ := split(string(t))
	return p.span
}

// Sampled reports whether the caller may have recorded the trace.
func (t Traceparent) Sampled() bool {
	p, _ := split(string(t))
	flags, err := hex.DecodeString(p.flags)
	return err == nil && len(flags) == 1 && flags[0]&1 == 1
}

// Child returns the context of an event that follows from t: the same trace and flags, the event's own span. Of an invalid t
// it returns [Trace] of the event alone.
func (t Traceparent) Child(correlationID, eventID string) Traceparent {
	p, _ := split(string(t))
	if _, err := ParseTraceparent(string(t)); err != nil {
		return Trace(correlationID, eventID)
	}
	return Traceparent(traceVersion + "-" + p.trace + "-" + span(eventID) + "-" + p.flags)
}
