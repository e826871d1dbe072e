package brokerdisk

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"sync"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// record is one record of a batch; the slices point into the batch.
type record struct {
	offset int64
	time   int64
	key    []byte // nil: no key
	value  []byte // nil: a tombstone
	raw    []byte // as it is encoded, with its length
}

// decompressor is safe for concurrent use and pools what it needs.
var decompressor = kgo.DefaultDecompressor()

// eachRecord calls fn for every record of a batch, and returns the uncompressed records.
func eachRecord(b rawBatch, fn func(record)) ([]byte, error) {
	plain, err := decompressor.Decompress(b[headerSize:], kgo.CompressionCodecType(b.attributes()&attrCodec))
	if err != nil {
		return nil, fmt.Errorf("decompress batch at offset %d: %w", b.baseOffset(), err)
	}
	rest := plain
	for n := range b.recordCount() {
		length, head := binary.Varint(rest)
		if head <= 0 || length < 0 || length > int64(len(rest)-head) {
			return nil, fmt.Errorf("%w: record %d of the batch at offset %d does not parse", ErrDamaged, n, b.baseOffset())
		}
		raw := rest[:int64(head)+length]
		var r kmsg.Record
		if err := r.ReadFrom(raw); err != nil {
			return nil, fmt.Errorf("%w: record %d of the batch at offset %d does not parse: %w", ErrDamaged, n, b.baseOffset(), err)
		}
		fn(record{
			offset: b.baseOffset() + int64(r.OffsetDelta),
			time:   b.firstTime() + r.TimestampDelta64,
			key:    r.Key,
			value:  r.Value,
			raw:    raw,
		})
		rest = rest[len(raw):]
	}
	return plain, nil
}

// filter decides which records survive compaction.
type filter struct {
	latest           map[string]int64
	to               int64
	tombstonesBefore int64
	removed          int
}

func (f *filter) keeps(r record) bool {
	if r.key == nil {
		return true
	}
	if last, seen := f.latest[string(r.key)]; seen && last > r.offset {
		return false
	}
	return r.value != nil || r.time >= f.tombstonesBefore
}

// appendKept appends what survives of a batch.
func (f *filter) appendKept(out []byte, b rawBatch, aborted bool) ([]byte, error) {
	if b.isControl() || aborted {
		f.removed += int(b.recordCount())
		return out, nil
	}
	var kept []byte
	count, newest := 0, int64(0)
	_, err := eachRecord(b, func(r record) {
		if !f.keeps(r) {
			f.removed++
			return
		}
		if count == 0 || r.time > newest {
			newest = r.time
		}
		count++
		kept = append(kept, r.raw...)
	})
	if err != nil || count == 0 {
		return out, err
	}
	if count == int(b.recordCount()) {
		at := len(out)
		out = append(out, b...)
		if same := rawBatch(out[at:]); same.isTransactional() {
			same.setAttributes(same.attributes() &^ attrTransactional)
			same.setCRC()
		}
		return out, nil
	}
	return appendRebuilt(out, b, kept, count, newest)
}

// appendRebuilt appends a batch with fewer records. It spans the same offsets and sequence numbers as before, as a batch
// that Kafka has compacted does.
func appendRebuilt(out []byte, b rawBatch, records []byte, count int, newest int64) ([]byte, error) {
	packed, codec, err := compress(records, b.attributes()&attrCodec)
	if err != nil {
		return out, fmt.Errorf("compress batch at offset %d: %w", b.baseOffset(), err)
	}
	at := len(out)
	out = append(append(out, b[:headerSize]...), packed...)
	n := rawBatch(out[at:])
	binary.BigEndian.PutUint32(n[atLength:], uint32(len(n)-lengthOverhead))
	n.setAttributes(b.attributes()&^(attrTransactional|attrCodec) | codec)
	binary.BigEndian.PutUint64(n[atMaxTime:], uint64(newest))
	binary.BigEndian.PutUint32(n[atRecordCount:], uint32(count))
	n.setCRC()
	return out, nil
}

// compressors are, by the codec's number in the attributes, safe for concurrent use and pool what they need.
var compressors = map[int16]func() (kgo.Compressor, error){
	1: sync.OnceValues(func() (kgo.Compressor, error) { return kgo.DefaultCompressor(kgo.GzipCompression()) }),
	2: sync.OnceValues(func() (kgo.Compressor, error) { return kgo.DefaultCompressor(kgo.SnappyCompression()) }),
	3: sync.OnceValues(func() (kgo.Compressor, error) { return kgo.DefaultCompressor(kgo.Lz4Compression()) }),
	4: sync.OnceValues(func() (kgo.Compressor, error) { return kgo.DefaultCompressor(kgo.ZstdCompression()) }),
}

func compress(plain []byte, codec int16) ([]byte, int16, error) {
	compressor, ok := compressors[codec]
	if !ok {
		return plain, 0, nil
	}
	c, err := compressor()
	if err != nil {
		return nil, 0, err
	}
	packed, used := c.Compress(new(bytes.Buffer), plain)
	return packed, int16(used), nil
}
