package stream

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/regent-infra/regent/internal/record"
	"github.com/regent-infra/regent/statestore"
)

type topicPartition = record.TopicPartition

// positionVersion is the first byte of an encoded [Position]; docs/formats-store.md documents the rest.
const positionVersion = 1

// Position is P: what the state of one task in the store describes. It is written in the same batch as the state.
type Position struct {
	// FoldVersion is the definition's when the state was made.
	FoldVersion int32
	// Out is the offset after the last record of the changelog that the state contains.
	Out int64
	// Changelog is the topic id of the changelog; zero if the processor has none.
	Changelog [16]byte
	// StreamTime is the highest append time that the task had read; zero if none.
	StreamTime time.Time
	// StampedAt is when, by the clock of the machine, the position was known to be up to date.
	StampedAt time.Time
	// Tables are the names of the tables that were kept, in order. A table that is not in here has to be built.
	Tables []string
	// Inputs are, sorted, the next offsets of the inputs. Tables with an input as their redo source contain all below.
	Inputs []InputPosition
}

// InputPosition is how far one input partition is contained in the state.
type InputPosition struct {
	record.TopicPartition
	TopicID [16]byte
	Next    int64
}

// input returns the entry of tp.
func (p *Position) input(tp topicPartition) (InputPosition, bool) {
	for _, in := range p.Inputs {
		if in.TopicPartition == tp {
			return in, true
		}
	}
	return InputPosition{}, false
}

// Encode returns the record's bytes.
func (p *Position) Encode() []byte {
	b := []byte{positionVersion}
	b = binary.BigEndian.AppendUint32(b, uint32(p.FoldVersion))
	b = binary.BigEndian.AppendUint64(b, uint64(p.Out))
	b = append(b, p.Changelog[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(toMillis(p.StreamTime)))
	b = binary.BigEndian.AppendUint64(b, uint64(toMillis(p.StampedAt)))
	b = binary.AppendUvarint(b, uint64(len(p.Tables)))
	for _, t := range p.Tables {
		b = appendString(b, t)
	}
	b = binary.AppendUvarint(b, uint64(len(p.Inputs)))
	for _, in := range p.Inputs {
		b = appendString(b, in.Topic)
		b = append(b, in.TopicID[:]...)
		b = binary.BigEndian.AppendUint32(b, uint32(in.Partition))
		b = binary.BigEndian.AppendUint64(b, uint64(in.Next))
	}
	return binary.BigEndian.AppendUint32(b, statestore.Checksum(b))
}

var errPosition = errors.New("decode a position record")

// DecodePosition reads what Encode wrote.
func DecodePosition(b []byte) (*Position, error) {
	if len(b) < 5 {
		return nil, fmt.Errorf("%w: expected at least 5 bytes, got %d", errPosition, len(b))
	}
	if b[0] != positionVersion {
		return nil, fmt.Errorf("%w: it has version %d, this program reads version %d", errPosition, b[0], positionVersion)
	}
	body, sum := b[:len(b)-4], binary.BigEndian.Uint32(b[len(b)-4:])
	if got := statestore.Checksum(body); got != sum {
		return nil, fmt.Errorf("%w: checksum %08x does not match %08x", errPosition, got, sum)
	}
	r := reader{b: body[1:]}
	p := &Position{FoldVersion: int32(r.uint32()), Out: int64(r.uint64())}
	r.fixed(p.Changelog[:])
	p.StreamTime = fromMillis(int64(r.uint64()))
	p.StampedAt = fromMillis(int64(r.uint64()))
	for n := r.count(); n > 0; n-- {
		p.Tables = append(p.Tables, r.string())
	}
	for n := r.count(); n > 0; n-- {
		in := InputPosition{}
		in.Topic = r.string()
		r.fixed(in.TopicID[:])
		in.Partition = int32(r.uint32())
		in.Next = int64(r.uint64())
		p.Inputs = append(p.Inputs, in)
	}
	if r.short || len(r.b) != 0 {
		return nil, fmt.Errorf("%w: it ends in the wrong place, %d bytes are left", errPosition, len(r.b))
	}
	return p, nil
}

// reader takes an encoded record apart; after the first byte that is missing, everything reads as zero.
type reader struct {
	b     []byte
	short bool
}

func (r *reader) take(n int) []byte {
	if n < 0 || n > len(r.b) {
		r.short, r.b = true, nil
		return make([]byte, min(max(n, 0), 16))
	}
	out := r.b[:n]
	r.b = r.b[n:]
	return out
}

func (r *reader) uint32() uint32   { return binary.BigEndian.Uint32(r.take(4)) }
func (r *reader) uint64() uint64   { return binary.BigEndian.Uint64(r.take(8)) }
func (r *reader) fixed(dst []byte) { copy(dst, r.take(len(dst))) }

// count reads a number of things of at least one byte each.
func (r *reader) count() int {
	n, w := binary.Uvarint(r.b)
	if w <= 0 || n > uint64(len(r.b)) {
		r.short, r.b = true, nil
		return 0
	}
	r.b = r.b[w:]
	return int(n)
}

func (r *reader) string() string {
	n := r.count()
	if n > len(r.b) {
		r.short, r.b = true, nil
		return ""
	}
	return string(r.take(n))
}

func appendString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// toMillis keeps Kafka's resolution; the zero time is 0.
func toMillis(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

func fromMillis(ms int64) time.Time {
	if ms == 0 {
		return time.Time{}
	}
	return time.UnixMilli(ms).UTC()
}

func sortInputs(in []InputPosition) {
	slices.SortFunc(in, func(a, b InputPosition) int {
		return cmp.Or(cmp.Compare(a.Topic, b.Topic), cmp.Compare(a.Partition, b.Partition))
	})
}
