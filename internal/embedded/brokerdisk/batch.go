package brokerdisk

import (
	"encoding/binary"
	"hash/crc32"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// Positions in the header of a record batch (Kafka's message format 2, big-endian).
const (
	atBaseOffset   = 0
	atLength       = 8
	atLeaderEpoch  = 12
	atMagic        = 16
	atCRC          = 17
	atAttributes   = 21
	atLastDelta    = 23
	atFirstTime    = 27
	atMaxTime      = 35
	atProducerID   = 43
	atEpoch        = 51
	atBaseSequence = 53
	atRecordCount  = 57
	headerSize     = 61
	lengthOverhead = 12 // base offset and length itself
)

// Bits of a batch's attributes.
const (
	attrCodec         = 0x07
	attrAppendTime    = 0x08
	attrTransactional = 0x10
	attrControl       = 0x20
)

// rawBatch is one record batch as it lies in a segment file.
type rawBatch []byte

func (b rawBatch) baseOffset() int64  { return int64(binary.BigEndian.Uint64(b[atBaseOffset:])) }
func (b rawBatch) length() int32      { return int32(binary.BigEndian.Uint32(b[atLength:])) }
func (b rawBatch) leaderEpoch() int32 { return int32(binary.BigEndian.Uint32(b[atLeaderEpoch:])) }
func (b rawBatch) attributes() int16  { return int16(binary.BigEndian.Uint16(b[atAttributes:])) }
func (b rawBatch) lastDelta() int32   { return int32(binary.BigEndian.Uint32(b[atLastDelta:])) }
func (b rawBatch) firstTime() int64   { return int64(binary.BigEndian.Uint64(b[atFirstTime:])) }
func (b rawBatch) maxTime() int64     { return int64(binary.BigEndian.Uint64(b[atMaxTime:])) }
func (b rawBatch) producerID() int64  { return int64(binary.BigEndian.Uint64(b[atProducerID:])) }
func (b rawBatch) epoch() int16       { return int16(binary.BigEndian.Uint16(b[atEpoch:])) }
func (b rawBatch) baseSequence() int32 {
	return int32(binary.BigEndian.Uint32(b[atBaseSequence:]))
}

func (b rawBatch) recordCount() int32    { return int32(binary.BigEndian.Uint32(b[atRecordCount:])) }
func (b rawBatch) nextOffset() int64     { return b.baseOffset() + int64(b.lastDelta()) + 1 }
func (b rawBatch) isControl() bool       { return b.attributes()&attrControl != 0 }
func (b rawBatch) isTransactional() bool { return b.attributes()&attrTransactional != 0 }

func (b rawBatch) crcHolds() bool {
	return binary.BigEndian.Uint32(b[atCRC:]) == crc32.Checksum(b[atAttributes:], castagnoli)
}

func (b rawBatch) setCRC() {
	binary.BigEndian.PutUint32(b[atCRC:], crc32.Checksum(b[atAttributes:], castagnoli))
}

func (b rawBatch) setAttributes(a int16) { binary.BigEndian.PutUint16(b[atAttributes:], uint16(a)) }

// isAbort reports whether a control batch is an abort marker. What cannot be read counts as one, as kfake has it.
func (b rawBatch) isAbort() bool {
	var rec kmsg.Record
	if err := rec.ReadFrom(b[headerSize:]); err != nil || len(rec.Key) < 4 {
		return true
	}
	return binary.BigEndian.Uint16(rec.Key[2:4]) == uint16(kmsg.ControlRecordKeyTypeAbort)
}

// nextBatch returns the batch at the start of raw and whether it is whole and sound.
func nextBatch(raw []byte) (rawBatch, bool) {
	if len(raw) < headerSize {
		return nil, false
	}
	size := int64(binary.BigEndian.Uint32(raw[atLength:])) + lengthOverhead
	if size < headerSize || size > int64(len(raw)) {
		return nil, false
	}
	b := rawBatch(raw[:size])
	if b[atMagic] != 2 || !b.crcHolds() || b.lastDelta() < 0 {
		return nil, false
	}
	return b, true
}

// marker builds the control batch that ends a transaction in one partition.
func marker(pid int64, epoch int16, commit bool, at position, nowMillis int64) rawBatch {
	key := kmsg.ControlRecordKey{Type: kmsg.ControlRecordKeyTypeAbort}
	if commit {
		key.Type = kmsg.ControlRecordKeyTypeCommit
	}
	end := kmsg.EndTxnMarker{}
	rec := kmsg.Record{Key: key.AppendTo(nil), Value: end.AppendTo(nil)}
	rec.Length = int32(len(rec.AppendTo(nil)) - 1) // the length itself is one byte
	b := kmsg.RecordBatch{
		FirstOffset:          at.offset,
		PartitionLeaderEpoch: at.leaderEpoch,
		Magic:                2,
		Attributes:           attrControl | attrTransactional,
		FirstTimestamp:       nowMillis,
		MaxTimestamp:         nowMillis,
		ProducerID:           pid,
		ProducerEpoch:        epoch,
		FirstSequence:        -1,
		NumRecords:           1,
		Records:              rec.AppendTo(nil),
	}
	raw := rawBatch(b.AppendTo(nil))
	binary.BigEndian.PutUint32(raw[atLength:], uint32(len(raw)-lengthOverhead))
	raw.setCRC()
	return raw
}

// position is where the next batch of a partition goes.
type position struct {
	offset      int64
	leaderEpoch int32
}

// StampBatch prepares a batch that a producer sent, in place.
//
// With stamp the batch gets the broker's time: its newest record becomes nowMillis, and the others keep their distance
// to it, because the time of a record is stored as a difference to the batch's first. Only the header changes, so it
// works for compressed batches too. The flag of LogAppendTime is not set, and is taken away where a client has set it:
// kfake would then write its own time without renewing the checksum, and cut off the log at that batch when it starts
// again.
//
// A batch that is not sound is left alone; kfake refuses it.
func StampBatch(batch []byte, stamp bool, nowMillis int64) {
	b, ok := peekBatch(batch)
	if !ok || !stamp && b.attributes()&attrAppendTime == 0 {
		return
	}
	if !b.crcHolds() {
		return
	}
	b.setAttributes(b.attributes() &^ attrAppendTime)
	if stamp {
		span := max(b.maxTime()-b.firstTime(), 0)
		binary.BigEndian.PutUint64(b[atFirstTime:], uint64(nowMillis-span))
		binary.BigEndian.PutUint64(b[atMaxTime:], uint64(nowMillis))
	}
	b.setCRC()
}

func peekBatch(raw []byte) (rawBatch, bool) {
	if len(raw) < headerSize || raw[atMagic] != 2 {
		return nil, false
	}
	return rawBatch(raw), true
}
