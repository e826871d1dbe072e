package wal

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// ScanConfig says which records to read.
type ScanConfig struct {
	// Dir holds the segments: pg_wal.
	Dir         string
	SegmentSize SegmentSize
	// SystemIdentifier of the cluster; segments of another one are not WAL. 0: not checked.
	SystemIdentifier uint64
	// History says on which timelines to read.
	History History
	// Start is a known record boundary.
	Start LSN
	// Stop ends the scan before the first record that starts at or behind it. 0: read to the end.
	Stop LSN
}

func (c ScanConfig) validate() error {
	if err := c.SegmentSize.Validate(); err != nil {
		return err
	}
	if c.Start == 0 || c.Start%recordAlignment != 0 {
		return fmt.Errorf("start of a WAL scan: expected a record boundary, got %s", c.Start)
	}
	if c.History.Timeline == 0 {
		return errors.New("history of a WAL scan: expected a timeline")
	}
	return nil
}

// Scan calls f for each valid record from c.Start on, in order, and returns where the last one ends: c.Start if there is none. What
// follows is not WAL, or not yet; that is no error. f must not keep the record. An error of f ends the scan and is returned as it is.
func Scan(ctx context.Context, c ScanConfig, f func(Record) error) (LSN, error) {
	if err := c.validate(); err != nil {
		return 0, err
	}
	r := &reader{config: c}
	defer r.close()
	return r.scan(ctx, f)
}

// chunk is how much is read at once.
const chunk = 128 * BlockSize

// reader reads records from the segments of a history.
type reader struct {
	config ScanConfig
	// file is the segment of timeline that is open; nil if none.
	file     *os.File
	timeline Timeline
	segment  Segment
	// buffer holds filled bytes of file from offset on.
	buffer []byte
	offset uint64
	filled int
	// last is the header of the page that was asked for last, so that its records do not check it anew.
	last pageHeader
	// record collects one that goes over several pages.
	record []byte
	ways   []Branch
	list   []Timeline
}

func (r *reader) close() {
	if r.file != nil {
		_ = r.file.Close() // opened for reading
		r.file = nil
	}
}

func (r *reader) scan(ctx context.Context, f func(Record) error) (LSN, error) {
	at := r.config.Start
	var previous LSN
	for n := 0; r.config.Stop == 0 || at < r.config.Stop; n++ {
		if n%1024 == 0 && ctx.Err() != nil {
			return at, context.Cause(ctx)
		}
		record, err := r.next(at)
		if err == nil && previous != 0 && record.Previous != previous {
			err = fmt.Errorf("%w: record at %s links back to %s, expected %s", errInvalid, record.Start, record.Previous, previous)
		}
		if err == nil && previous == 0 && record.Previous >= record.Start {
			err = fmt.Errorf("%w: record at %s links forward to %s", errInvalid, record.Start, record.Previous)
		}
		if errors.Is(err, errInvalid) {
			return at, nil
		}
		if err != nil {
			return at, err
		}
		if err := f(record); err != nil {
			return at, err
		}
		previous, at = record.Start, record.End
	}
	return at, nil
}

// next reads the record at a boundary. Near a switch of timelines several files can hold the place; the newest timeline's is tried first, as
// PostgreSQL does, and an older one's only for what it wrote before it was left.
func (r *reader) next(at LSN) (Record, error) {
	var first error
	for _, t := range r.timelinesFor(at) {
		record, err := r.read(at, t)
		if err == nil {
			record.Timeline = r.config.History.TimelineAt(record.Start)
			return record, nil
		}
		if !errors.Is(err, errInvalid) {
			return Record{}, err
		}
		if first == nil {
			first = err
		}
	}
	if first == nil {
		first = fmt.Errorf("%w: %s is on no timeline", errInvalid, at)
	}
	return Record{}, first
}

// timelinesFor lists the timelines whose files can hold what the history has at l, the newest first.
func (r *reader) timelinesFor(l LSN) []Timeline {
	if r.ways == nil {
		r.ways = r.config.History.way()
	}
	segment := r.config.SegmentSize.SegmentOf(l)
	r.list = r.list[:0]
	for n := len(r.ways) - 1; n >= 0; n-- {
		begin := LSN(0)
		if n > 0 {
			begin = r.ways[n-1].End
		}
		if l < r.ways[n].End && r.config.SegmentSize.SegmentOf(begin) <= segment {
			r.list = append(r.list, r.ways[n].Timeline)
		}
	}
	return r.list
}

// read assembles the record at a boundary from the files of one timeline. A record that was never finished, because the server died
// in its middle and went on at the next page, is passed over.
func (r *reader) read(at LSN, t Timeline) (Record, error) {
	for {
		record, data, resumed, err := r.assemble(at, t)
		if err != nil {
			return Record{}, err
		}
		if resumed != 0 {
			at = resumed
			continue
		}
		if err := parseRecord(&record, data); err != nil {
			return Record{}, err
		}
		if record.isSwitch() {
			size := r.config.SegmentSize
			record.End = size.Start(size.SegmentOf(record.End-1) + 1)
		}
		if limit, ok := r.config.History.EndOf(t); ok && record.End > limit {
			return Record{}, fmt.Errorf("%w: record at %s lies behind the switch from timeline %d at %s", errInvalid, record.Start, t, limit)
		}
		return record, nil
	}
}

// assemble collects the bytes of a record. resumed is not 0 if the record was given up, and another begins there.
func (r *reader) assemble(at LSN, t Timeline) (record Record, data []byte, resumed LSN, err error) {
	start := skipHeader(at, r.config.SegmentSize)
	pageStart := start &^ (BlockSize - 1)
	page, header, err := r.page(pageStart, t)
	if err != nil {
		return Record{}, nil, 0, err
	}
	if int(start-pageStart) < header.size || header.flags&flagContinues != 0 && start == pageStart+LSN(header.size) {
		return Record{}, nil, 0, fmt.Errorf("%w: no record starts at %s", errInvalid, start)
	}
	rest := page[start-pageStart:]
	total := int(binary.LittleEndian.Uint32(rest))
	if total < recordHeaderSize || total > MaxRecordSize {
		return Record{}, nil, 0, fmt.Errorf("%w: record at %s has length %d", errInvalid, start, total)
	}
	record = Record{Start: start, Major: header.major}
	if total <= len(rest) {
		record.End = (start + LSN(total)).align()
		return record, rest[:total:total], 0, nil // most records: nothing to collect
	}
	r.record = append(r.record[:0], rest...)
	end := start + LSN(len(r.record))
	for len(r.record) < total {
		pageStart += BlockSize
		page, header, err := r.page(pageStart, t)
		if err != nil {
			return Record{}, nil, 0, err
		}
		if header.flags&flagOverwritten != 0 {
			return Record{}, nil, pageStart, nil
		}
		missing := total - len(r.record)
		if header.flags&flagContinues == 0 || int(header.remaining) != missing {
			return Record{}, nil, 0, fmt.Errorf("%w: record at %s does not go on at %s", errInvalid, start, pageStart)
		}
		part := page[header.size:]
		part = part[:min(missing, len(part))]
		r.record = append(r.record, part...)
		end = pageStart + LSN(header.size+len(part))
	}
	record.End = end.align()
	return record, r.record, 0, nil
}

// page returns the page at an address from a timeline's file, valid until the next call.
func (r *reader) page(address LSN, t Timeline) ([]byte, pageHeader, error) {
	size := r.config.SegmentSize
	if segment := size.SegmentOf(address); r.file == nil || r.timeline != t || r.segment != segment {
		r.close()
		name := size.Name(t, segment)
		f, err := os.Open(filepath.Join(r.config.Dir, name))
		if errors.Is(err, os.ErrNotExist) {
			return nil, pageHeader{}, fmt.Errorf("%w: there is no segment %s", errInvalid, name)
		}
		if err != nil {
			return nil, pageHeader{}, fmt.Errorf("read WAL at %s: %w", address, err)
		}
		r.file, r.timeline, r.segment, r.filled, r.last = f, t, segment, 0, pageHeader{}
	}
	offset := size.Offset(address)
	if offset < r.offset || offset+BlockSize > r.offset+uint64(r.filled) {
		if r.buffer == nil {
			r.buffer = make([]byte, chunk)
		}
		n, err := r.file.ReadAt(r.buffer, int64(offset)) //nolint:gosec // within a segment, at most 1 GiB
		if err != nil && !errors.Is(err, io.EOF) {
			return nil, pageHeader{}, fmt.Errorf("read WAL at %s: %w", address, err)
		}
		r.offset, r.filled, r.last = offset, n, pageHeader{}
	}
	from := int(offset - r.offset)
	page := r.buffer[from:min(from+BlockSize, r.filled)]
	if r.last.size != 0 && r.last.address == address {
		return page, r.last, nil
	}
	header, err := parsePage(page, address, size, r.config.SystemIdentifier)
	if err != nil {
		return nil, header, err
	}
	// A page is stamped with the timeline in force when it was begun: the file's own, or an ancestor's that was copied.
	if begin, ok := r.config.History.BeginOf(t); header.timeline > t || ok && address >= begin && header.timeline != t {
		return nil, header, fmt.Errorf("%w: page at %s of timeline %d is stamped with timeline %d", errInvalid, address, t, header.timeline)
	}
	r.last = header
	return page, header, nil
}
