package kafka

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/regent-infra/regent/internal/stream"
)

// What members tell the leader, and the leader tells members, beside what Kafka's own consumers do. It travels as the user data of the
// protocol "consumer"; docs/formats-group.md documents it byte by byte. Who does not know it, an older program, neither says nor reads anything:
// it counts as a member without copies.

// aboutVersion is the first byte of both.
const aboutVersion = 1

// aboutMember is what a member says of itself when it joins.
type aboutMember struct {
	foldVersion int32
	standbys    int
	held        []stream.Held
}

func (a aboutMember) encode() []byte {
	b := []byte{aboutVersion}
	b = binary.BigEndian.AppendUint32(b, uint32(a.foldVersion))
	b = binary.AppendUvarint(b, uint64(a.standbys))
	b = binary.AppendUvarint(b, uint64(len(a.held)))
	for _, h := range a.held {
		b = binary.BigEndian.AppendUint32(b, uint32(h.Task))
		b = binary.BigEndian.AppendUint64(b, uint64(h.Position))
		b = binary.BigEndian.AppendUint32(b, uint32(h.FoldVersion))
	}
	return b
}

var errAbout = errors.New("decode what the group says beside the assignment")

// maxStandbys bounds what is believed of how many copies somebody wants.
const maxStandbys = 1000

func decodeAboutMember(b []byte) (aboutMember, error) {
	var a aboutMember
	if len(b) == 0 || b[0] != aboutVersion {
		return a, nil // another program's, or none
	}
	r := aboutReader{b: b[1:]}
	a.foldVersion = int32(r.uint32())
	standbys := r.uvarint()
	n := r.uvarint()
	if r.short || standbys > maxStandbys || n > uint64(len(r.b)/16) {
		return aboutMember{}, fmt.Errorf("%w: member: it is cut off after %d bytes", errAbout, len(b))
	}
	a.standbys = int(standbys)
	for range n {
		a.held = append(a.held, stream.Held{Task: int32(r.uint32()), Position: int64(r.uint64()), FoldVersion: int32(r.uint32())})
	}
	if r.short || len(r.b) > 0 {
		return aboutMember{}, fmt.Errorf("%w: member: it ends in the wrong place, %d bytes are left", errAbout, len(r.b))
	}
	return a, nil
}

// encodeStandbys is what the leader tells a member beside its tasks.
func encodeStandbys(list []stream.StandbyTask) []byte {
	b := []byte{aboutVersion}
	b = binary.AppendUvarint(b, uint64(len(list)))
	for _, st := range list {
		b = binary.BigEndian.AppendUint32(b, uint32(st.Task))
		flags := byte(0)
		if st.WarmUp {
			flags = 1
		}
		b = append(b, flags)
	}
	return b
}

// decodeStandbys returns a list that is not nil, unless there is an error.
func decodeStandbys(b []byte) ([]stream.StandbyTask, error) {
	list := []stream.StandbyTask{}
	if len(b) == 0 || b[0] != aboutVersion {
		return list, nil
	}
	r := aboutReader{b: b[1:]}
	n := r.uvarint()
	if r.short || n != uint64(len(r.b)/5) || len(r.b)%5 != 0 {
		return nil, fmt.Errorf("%w: standbys: expected %d of 5 bytes each, found %d bytes", errAbout, n, len(r.b))
	}
	for range n {
		task := int32(r.uint32())
		list = append(list, stream.StandbyTask{Task: task, WarmUp: r.take(1)[0]&1 != 0})
	}
	return list, nil
}

// aboutReader takes bytes apart; after the first one that is missing, everything reads as zero.
type aboutReader struct {
	b     []byte
	short bool
}

func (r *aboutReader) take(n int) []byte {
	if n > len(r.b) {
		r.short, r.b = true, nil
		return make([]byte, n)
	}
	out := r.b[:n]
	r.b = r.b[n:]
	return out
}

func (r *aboutReader) uint32() uint32 { return binary.BigEndian.Uint32(r.take(4)) }
func (r *aboutReader) uint64() uint64 { return binary.BigEndian.Uint64(r.take(8)) }

func (r *aboutReader) uvarint() uint64 {
	n, w := binary.Uvarint(r.b)
	if w <= 0 {
		r.short, r.b = true, nil
		return 0
	}
	r.b = r.b[w:]
	return n
}
