package wal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"time"
)

// Resource managers and record kinds that are told apart here (rmgrlist.h, pg_control.h, xact.h).
const (
	ManagerXLOG        = 0
	ManagerTransaction = 1

	kindMask   = 0xf0
	xlogSwitch = 0x40

	xactMask           = 0x70
	xactCommit         = 0x00
	xactCommitPrepared = 0x30
	xactHasInfo        = 0x80
)

// Record is one WAL record.
type Record struct {
	// Start is the position of its first byte; End that of the first byte behind it, aligned, where the next one may start.
	Start LSN
	End   LSN
	// Previous is its link to the record before it.
	Previous LSN
	// Timeline it is on, by the history that is followed.
	Timeline Timeline
	// Major is the version of PostgreSQL that wrote it.
	Major   int
	Manager uint8
	Info    uint8
	XID     uint32
	// data is header and body, valid until the next record is read.
	data []byte
}

// Length is the record's own size in bytes, without page headers and alignment.
func (r Record) Length() int { return len(r.data) }

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// parseRecord fills a record from its bytes and checks the CRC.
func parseRecord(r *Record, data []byte) error {
	le := binary.LittleEndian
	r.XID, r.Previous, r.Info, r.Manager = le.Uint32(data[4:]), LSN(le.Uint64(data[8:])), data[16], data[17]
	crc := crc32.Update(0, castagnoli, data[recordHeaderSize:])
	crc = crc32.Update(crc, castagnoli, data[:recordCRCOffset])
	if want := le.Uint32(data[recordCRCOffset:]); want != crc {
		return fmt.Errorf("%w: record at %s has CRC %08x, computed %08x", errInvalid, r.Start, want, crc)
	}
	r.data = data
	return nil
}

// isSwitch says that the rest of the segment is unused (pg_switch_wal).
func (r Record) isSwitch() bool { return r.Manager == ManagerXLOG && r.Info&kindMask == xlogSwitch }

// Commit is a transaction that a record commits.
type Commit struct {
	XID uint32
	// At is the server's wall clock.
	At time.Time
}

// errNotCommit is returned by Commit for any other record.
var errNotCommit = errors.New("not a commit record")

// IsCommit says whether the record commits a transaction (COMMIT, or COMMIT PREPARED).
func (r Record) IsCommit() bool {
	if r.Manager != ManagerTransaction {
		return false
	}
	kind := r.Info & xactMask
	return kind == xactCommit || kind == xactCommitPrepared
}

// postgresEpoch is 2000-01-01 UTC, from which PostgreSQL counts microseconds.
var postgresEpoch = time.Date(2000, time.January, 1, 0, 0, 0, 0, time.UTC)

// Commit reads which transaction a commit record is for.
func (r Record) Commit() (Commit, error) {
	if !r.IsCommit() {
		return Commit{}, errNotCommit
	}
	main, err := r.mainData()
	if err != nil {
		return Commit{}, fmt.Errorf("read commit record at %s: %w", r.Start, err)
	}
	if len(main) < 8 {
		return Commit{}, fmt.Errorf("read commit record at %s: expected a time stamp, got %d bytes", r.Start, len(main))
	}
	micros := int64(binary.LittleEndian.Uint64(main)) //nolint:gosec // TimestampTz is signed
	c := Commit{XID: r.XID, At: postgresEpoch.Add(time.Duration(micros/1e6) * time.Second).Add(time.Duration(micros%1e6) * time.Microsecond)}
	if r.Info&xactMask == xactCommitPrepared {
		xid, err := preparedXID(r, main)
		if err != nil {
			return Commit{}, fmt.Errorf("read commit record at %s: %w", r.Start, err)
		}
		c.XID = xid
	}
	return c, nil
}

// Block ids with a meaning of their own in a record's header chain (xlogrecord.h).
const (
	idDataShort  = 255
	idDataLong   = 254
	idOrigin     = 253
	idTopLevelID = 252
)

// mainData finds the record's main data: it stands last, and the chain of headers before says how long it is. Commit records
// refer to no blocks, so a block header is an error here.
func (r Record) mainData() ([]byte, error) {
	rest := r.data[recordHeaderSize:]
	for len(rest) > 0 {
		id := rest[0]
		switch id {
		case idOrigin, idTopLevelID:
			size := map[byte]int{idOrigin: 3, idTopLevelID: 5}[id]
			if len(rest) < size {
				return nil, errors.New("header chain is cut short")
			}
			rest = rest[size:]
		case idDataShort:
			if len(rest) < 2 || len(rest) != 2+int(rest[1]) {
				return nil, errors.New("length of the main data does not fit the record")
			}
			return rest[2:], nil
		case idDataLong:
			if len(rest) < 5 || uint64(len(rest)) != 5+uint64(binary.LittleEndian.Uint32(rest[1:])) {
				return nil, errors.New("length of the main data does not fit the record")
			}
			return rest[5:], nil
		default:
			return nil, fmt.Errorf("unexpected block id %d", id)
		}
	}
	return nil, nil
}

// Flags of xl_xact_xinfo that say what stands before the prepared transaction's id (xact.h, ParseCommitRecord).
const (
	xinfoDatabase      = 1 << 0
	xinfoSubXacts      = 1 << 1
	xinfoRelations     = 1 << 2
	xinfoInvalidations = 1 << 3
	xinfoTwoPhase      = 1 << 4
	xinfoDroppedStats  = 1 << 8
)

// preparedXID reads the id of the transaction that COMMIT PREPARED commits: the record's own header names none.
func preparedXID(r Record, main []byte) (uint32, error) {
	if r.Info&xactHasInfo == 0 || len(main) < 12 {
		return 0, errors.New("the prepared transaction is not named")
	}
	info := binary.LittleEndian.Uint32(main[8:])
	rest := main[12:]
	statItem := 12
	if r.Major >= 18 {
		statItem = 16
	}
	skip := func(header, item int, counted bool) error {
		if len(rest) < header {
			return errors.New("the record is cut short")
		}
		n := 0
		if counted {
			n = int(binary.LittleEndian.Uint32(rest))
		}
		if n < 0 || n > (len(rest)-header)/max(item, 1) {
			return errors.New("a count does not fit the record")
		}
		rest = rest[header+n*item:]
		return nil
	}
	for _, part := range []struct {
		flag    uint32
		header  int
		item    int
		counted bool
	}{
		{xinfoDatabase, 8, 0, false},
		{xinfoSubXacts, 4, 4, true},
		{xinfoRelations, 4, 12, true},
		{xinfoDroppedStats, 4, statItem, true},
		{xinfoInvalidations, 4, 16, true},
	} {
		if info&part.flag == 0 || part.flag == xinfoDroppedStats && r.Major < 15 {
			continue
		}
		if err := skip(part.header, part.item, part.counted); err != nil {
			return 0, err
		}
	}
	if info&xinfoTwoPhase == 0 || len(rest) < 4 {
		return 0, errors.New("the prepared transaction is not named")
	}
	return binary.LittleEndian.Uint32(rest), nil
}
