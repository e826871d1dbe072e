package wal

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Sizes of the log's format (xlogrecord.h, xlog_internal.h) on machines with 8-byte alignment.
const (
	// BlockSize is the size of a WAL page (wal_block_size); other sizes need a PostgreSQL that was compiled for them and are refused.
	BlockSize = 8192

	recordAlignment  = 8
	shortHeaderSize  = 24
	longHeaderSize   = 40
	recordHeaderSize = 24
	recordCRCOffset  = 20
)

// MaxRecordSize bounds the length of one record: PostgreSQL keeps it below 1020 MiB (XLogRecordMaxSize) since 16, and below 1 GiB before.
const MaxRecordSize = 1 << 30

// Flags of a page header (xlp_info).
const (
	flagContinues    = 0x0001 // the page begins with the rest of a record
	flagLongHeader   = 0x0002 // the segment's first page
	flagOverwritten  = 0x0008 // the record that was to continue here was given up; another begins
	knownHeaderFlags = 0x000f
)

// majors maps the page magic to the major version that writes it.
var majors = map[uint16]int{0xd106: 13, 0xd10d: 14, 0xd110: 15, 0xd113: 16, 0xd116: 17, 0xd118: 18}

// errInvalid is the ordinary end of the log: what stands here is no valid WAL. Its text says why, for whoever debugs.
var errInvalid = errors.New("no valid WAL")

// pageHeader is the head of each page.
type pageHeader struct {
	major     int
	flags     uint16
	timeline  Timeline
	address   LSN
	remaining uint32
	size      int
}

// parsePage checks what stands at address: magic, flags, address, and on a segment's first page the cluster and the sizes.
func parsePage(page []byte, address LSN, segments SegmentSize, system uint64) (pageHeader, error) {
	le := binary.LittleEndian
	if len(page) < BlockSize {
		return pageHeader{}, fmt.Errorf("%w: page at %s is cut short", errInvalid, address)
	}
	h := pageHeader{
		major: majors[le.Uint16(page)], flags: le.Uint16(page[2:]), timeline: Timeline(le.Uint32(page[4:])),
		address: LSN(le.Uint64(page[8:])), remaining: le.Uint32(page[16:]), size: shortHeaderSize,
	}
	first := segments.Offset(address) == 0
	switch {
	case h.major == 0:
		return h, fmt.Errorf("%w: page at %s has magic %#04x, which no version from 13 to 18 writes", errInvalid, address, le.Uint16(page))
	case h.flags&^knownHeaderFlags != 0:
		return h, fmt.Errorf("%w: page at %s has unknown flags %#04x", errInvalid, address, h.flags)
	case h.address != address:
		return h, fmt.Errorf("%w: page at %s says it is at %s: a recycled segment", errInvalid, address, h.address)
	case first != (h.flags&flagLongHeader != 0):
		return h, fmt.Errorf("%w: page at %s has the wrong kind of header", errInvalid, address)
	case h.timeline == 0:
		return h, fmt.Errorf("%w: page at %s has no timeline", errInvalid, address)
	}
	if first {
		h.size = longHeaderSize
		owner, size, block := le.Uint64(page[24:]), le.Uint32(page[32:]), le.Uint32(page[36:])
		if system != 0 && owner != system {
			return h, fmt.Errorf("%w: segment at %s belongs to the cluster with system identifier %d, expected %d", errInvalid, address, owner, system)
		}
		if uint64(size) != uint64(segments) || block != BlockSize {
			return h, fmt.Errorf("%w: segment at %s has sizes %d and %d, expected %d and %d", errInvalid, address, size, block, segments, BlockSize)
		}
	}
	return h, nil
}

// skipHeader moves a position that stands at a page's start behind its header, where the first record can be.
func skipHeader(l LSN, segments SegmentSize) LSN {
	switch {
	case segments.Offset(l) == 0:
		return l + longHeaderSize
	case l%BlockSize == 0:
		return l + shortHeaderSize
	default:
		return l
	}
}
