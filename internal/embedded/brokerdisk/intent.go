package brokerdisk

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Intent is a commit that must become visible as a whole: everything that kfake would do on the EndTxn request.
type Intent struct {
	// ProducerID and ProducerEpoch name the transaction; its records are found in the log.
	ProducerID    int64
	ProducerEpoch int16
	// RequestVersion is the version of the EndTxn request: from 5 on the epoch rises with each transaction (KIP-890).
	RequestVersion int16
	// TransactionalID is the producer's transactional.id.
	TransactionalID string
	// Offsets are the group offsets that the transaction has staged.
	Offsets []GroupOffset
}

// GroupOffset is one committed offset of a consumer group.
type GroupOffset struct {
	Group       string
	Topic       string
	Partition   int32
	Offset      int64
	LeaderEpoch int32
	// Metadata is the client's own; nil is distinct from empty.
	Metadata *string
}

// The intent file holds one intent, overwritten in place by each commit: kfake handles one request at a time, so at most
// the last commit can be incomplete.
const (
	intentMagic      = "RGIT"
	intentVersion    = 1
	intentHeaderSize = 16
	intentStateAt    = 5 // offset of the state byte
	intentDone       = 0
	intentPending    = 1
	maxIntentBytes   = 64 << 20
)

// IntentFile is the open intent file. Its methods are not safe for concurrent use.
type IntentFile struct {
	f       *os.File
	sync    bool
	pending bool
	buf     []byte
}

// OpenIntentFile opens or creates the intent file. With sync each change is durable against power loss.
func OpenIntentFile(path string, sync bool) (*IntentFile, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o640)
	if err != nil {
		return nil, fmt.Errorf("open commit intent %s: %w", path, err)
	}
	return &IntentFile{f: f, sync: sync}, nil
}

// Write stores the intent, replacing the one before. When it returns, the commit survives the process.
func (i *IntentFile) Write(intent Intent) error {
	b := append(i.buf[:0], make([]byte, intentHeaderSize)...)
	b = intent.append(b)
	copy(b, intentMagic)
	b[4] = intentVersion
	b[intentStateAt] = intentPending
	payload := b[intentHeaderSize:]
	binary.LittleEndian.PutUint32(b[8:], uint32(len(payload)))
	binary.LittleEndian.PutUint32(b[12:], crc32.Checksum(payload, castagnoli))
	i.buf = b
	i.pending = true
	return i.put(b, 0)
}

// Done marks the intent as carried out. It does nothing when none is pending.
func (i *IntentFile) Done() error {
	if !i.pending {
		return nil
	}
	i.pending = false
	return i.put([]byte{intentDone}, intentStateAt)
}

func (i *IntentFile) put(b []byte, at int64) error {
	_, err := i.f.WriteAt(b, at)
	if err == nil && i.sync {
		err = i.f.Sync()
	}
	if err != nil {
		return fmt.Errorf("write commit intent %s: %w", i.f.Name(), err)
	}
	return nil
}

// Close closes the file and leaves its content as it is.
func (i *IntentFile) Close() error {
	if err := i.f.Close(); err != nil {
		return fmt.Errorf("close commit intent: %w", err)
	}
	return nil
}

// Pending returns the intent that was not marked as carried out, or nil. A torn or foreign content is no intent: the
// write was interrupted, so the commit was never let through, and the one before was complete.
func (i *IntentFile) Pending() (*Intent, error) {
	size, err := i.f.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, fmt.Errorf("read commit intent %s: %w", i.f.Name(), err)
	}
	if size < intentHeaderSize {
		return nil, nil
	}
	head := make([]byte, intentHeaderSize)
	if _, err := i.f.ReadAt(head, 0); err != nil {
		return nil, fmt.Errorf("read commit intent %s: %w", i.f.Name(), err)
	}
	if string(head[:4]) != intentMagic {
		return nil, nil
	}
	if head[4] != intentVersion {
		return nil, fmt.Errorf("read commit intent %s: %w: it has format %d, %d expected; use the binary that wrote it", i.f.Name(), ErrFormat, head[4], intentVersion)
	}
	length := int64(binary.LittleEndian.Uint32(head[8:]))
	if head[intentStateAt] != intentPending || length > maxIntentBytes || intentHeaderSize+length > size {
		return nil, nil
	}
	payload := make([]byte, length)
	if _, err := i.f.ReadAt(payload, intentHeaderSize); err != nil {
		return nil, fmt.Errorf("read commit intent %s: %w", i.f.Name(), err)
	}
	if crc32.Checksum(payload, castagnoli) != binary.LittleEndian.Uint32(head[12:]) {
		return nil, nil
	}
	intent, err := decodeIntent(payload)
	if err != nil {
		return nil, fmt.Errorf("read commit intent %s: %w", i.f.Name(), err)
	}
	i.pending = true
	return intent, nil
}

func (in *Intent) append(b []byte) []byte {
	b = binary.LittleEndian.AppendUint64(b, uint64(in.ProducerID))
	b = binary.LittleEndian.AppendUint16(b, uint16(in.ProducerEpoch))
	b = binary.LittleEndian.AppendUint16(b, uint16(in.RequestVersion))
	b = appendString(b, in.TransactionalID)
	b = binary.AppendUvarint(b, uint64(len(in.Offsets)))
	for i := range in.Offsets {
		o := &in.Offsets[i]
		b = appendString(b, o.Group)
		b = appendString(b, o.Topic)
		b = binary.LittleEndian.AppendUint32(b, uint32(o.Partition))
		b = binary.LittleEndian.AppendUint64(b, uint64(o.Offset))
		b = binary.LittleEndian.AppendUint32(b, uint32(o.LeaderEpoch))
		if o.Metadata == nil {
			b = append(b, 0)
			continue
		}
		b = append(b, 1)
		b = appendString(b, *o.Metadata)
	}
	return b
}

func appendString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

var errIntent = errors.New("commit intent does not parse although its checksum holds")

func decodeIntent(b []byte) (*Intent, error) {
	r := intentReader{b: b, ok: true}
	in := &Intent{
		ProducerID:      int64(r.fixed(8)),
		ProducerEpoch:   int16(r.fixed(2)),
		RequestVersion:  int16(r.fixed(2)),
		TransactionalID: r.string(),
	}
	n := r.uvarint()
	for range n {
		o := GroupOffset{
			Group:       r.string(),
			Topic:       r.string(),
			Partition:   int32(r.fixed(4)),
			Offset:      int64(r.fixed(8)),
			LeaderEpoch: int32(r.fixed(4)),
		}
		if r.fixed(1) == 1 {
			m := r.string()
			o.Metadata = &m
		}
		if !r.ok {
			return nil, errIntent
		}
		in.Offsets = append(in.Offsets, o)
	}
	if !r.ok || len(r.b) > 0 {
		return nil, errIntent
	}
	return in, nil
}

// intentReader reads little-endian fields; after the first one that is missing everything reads as zero.
type intentReader struct {
	b  []byte
	ok bool
}

func (r *intentReader) take(n uint64) []byte {
	if n > uint64(len(r.b)) {
		r.ok, r.b = false, nil
		return nil
	}
	out := r.b[:n]
	r.b = r.b[n:]
	return out
}

func (r *intentReader) fixed(n int) uint64 {
	var v uint64
	for i, c := range r.take(uint64(n)) {
		v |= uint64(c) << (8 * i)
	}
	return v
}

func (r *intentReader) uvarint() uint64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 {
		r.ok, r.b = false, nil
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *intentReader) string() string { return string(r.take(r.uvarint())) }
