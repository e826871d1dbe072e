// Package event is the vocabulary that all parts of Regent share: the event with its header, the names of clusters and
// resources, where an event belongs, and identifiers that can be derived again.
//
// It is a leaf: it imports the generated types and nothing of Regent besides. Facts are past tense (NodeHeartbeat stands for
// "a node has beaten", PostgresNodeObserved), commands and orders are imperative (SwitchoverCluster, FencePostgres), outcomes
// answer commands (CommandAccepted).
package event

import (
	"encoding/binary"
	"fmt"
	"time"

	"github.com/cespare/xxhash/v2"
	"github.com/google/uuid"

	"github.com/regent-infra/regent/schemas"
)

// Event is one decoded envelope. Its payload is a pointer to one of the generated record types.
type Event struct {
	schemas.EnvelopeHeader
	// Payload is a pointer to a generated record of the union that its topic allows.
	Payload any
}

// Codec turns events into the bytes of a topic and back. Implementations are safe for concurrent use.
type Codec interface {
	// Encode returns the wire bytes of e for the topic. It sets nothing in e: Type must be the payload's record name.
	Encode(topic string, e *Event) ([]byte, error)
	// Decode reads wire bytes of the topic. A [*DecodeError] is permanent: the bytes can never be read. Any other error is
	// transient, such as a registry that does not answer.
	Decode(topic string, value []byte) (*Event, error)
	// NewDecoder returns what reads one event after the other into the same memory.
	NewDecoder() Decoder
}

// Decoder reads events as [Codec.Decode] does, but into memory that it uses again, and its texts are the bytes that they were read from. It is for
// whoever looks at one event after the other and keeps none of them, such as a fold that goes through millions.
//
// An event, and all that hangs on it, is valid until the next one is decoded, and only as long as the bytes are not changed. A text of it that
// is to be kept must be cloned, or it keeps all of the bytes that surround it. A Decoder must not be used by two goroutines at a time.
type Decoder interface {
	// Decode reads wire bytes of the topic. Its errors are those of [Codec.Decode].
	Decode(topic string, value []byte) (*Event, error)
}

// DecodeError says that bytes can never be read as an event of their topic.
type DecodeError struct {
	// Reason is a short constant: undecodable, oversized, foreign_schema.
	Reason string
	// Err says what is wrong.
	Err error
}

// Error implements error.
func (e *DecodeError) Error() string { return e.Reason + ": " + e.Err.Error() }

// Unwrap returns the cause.
func (e *DecodeError) Unwrap() error { return e.Err }

// New makes an event around payload with the header's Type filled in. The rest of the header is the caller's.
func New(header schemas.EnvelopeHeader, payload any) *Event {
	header.Type = schemas.RecordName(payload)
	return &Event{EnvelopeHeader: header, Payload: payload}
}

// NewID returns a fresh UUIDv7. It is for drivers: cores and machines derive identifiers with [DeriveID].
func NewID() string { return uuid.Must(uuid.NewV7()).String() }

// DeriveID returns the UUIDv7-shaped identifier that belongs to a moment and the parts that name a cause, such as topic,
// partition, offset and ordinal. The same arguments always give the same identifier, so that whatever is folded or decided
// again carries the identifiers that it had.
func DeriveID(at time.Time, parts ...any) string {
	h := xxhash.New()
	for _, p := range parts {
		fmt.Fprintf(h, "%v\x00", p)
	}
	a := h.Sum64()
	_, _ = h.WriteString("regent")
	b := h.Sum64()

	var id uuid.UUID
	ms := uint64(max(at.UnixMilli(), 0))
	binary.BigEndian.PutUint64(id[0:8], ms<<16|a>>48)
	binary.BigEndian.PutUint64(id[8:16], b)
	id[6] = id[6]&0x0f | 0x70
	id[8] = id[8]&0x3f | 0x80
	return id.String()
}

// ValidID reports whether s is a UUID in its canonical form.
func ValidID(s string) bool {
	id, err := uuid.Parse(s)
	return err == nil && id.String() == s
}
