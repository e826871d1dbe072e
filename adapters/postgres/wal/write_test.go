package wal

import (
	"encoding/binary"
	"hash/crc32"
	"os"
	"path/filepath"
	"testing"
)

// writer makes WAL as PostgreSQL lays it out, for tests that need to know every byte.
type writer struct {
	size     SegmentSize
	system   uint64
	timeline Timeline
	// content is the log from base on, page by page.
	base     LSN
	content  []byte
	at       LSN
	previous LSN
}

const testSystem = 0x6b03c301c5b62287

func newWriter(size SegmentSize, start LSN, t Timeline) *writer {
	return &writer{size: size, system: testSystem, timeline: t, base: start, at: start}
}

// put writes bytes, beginning pages where they start; remaining is what of the record is still to come at each page.
func (w *writer) put(data []byte, inRecord bool) {
	for len(data) > 0 {
		if w.at%BlockSize == 0 {
			w.beginPage(len(data), inRecord, 0)
		}
		room := BlockSize - int(w.at%BlockSize)
		n := min(room, len(data))
		w.content = append(w.content, data[:n]...)
		w.at += LSN(n)
		data = data[n:]
		inRecord = true
	}
}

func (w *writer) beginPage(remaining int, continues bool, flags uint16) {
	le := binary.LittleEndian
	first := w.size.Offset(w.at) == 0
	header := make([]byte, shortHeaderSize)
	if first {
		header = make([]byte, longHeaderSize)
		flags |= flagLongHeader
		le.PutUint64(header[24:], w.system)
		le.PutUint32(header[32:], uint32(w.size))
		le.PutUint32(header[36:], BlockSize)
	}
	if continues {
		flags |= flagContinues
		le.PutUint32(header[16:], uint32(remaining))
	}
	le.PutUint16(header, 0xd110)
	le.PutUint16(header[2:], flags)
	le.PutUint32(header[4:], uint32(w.timeline))
	le.PutUint64(header[8:], uint64(w.at))
	w.content = append(w.content, header...)
	w.at += LSN(len(header))
}

// build makes a record's bytes.
func (w *writer) build(manager, info uint8, xid uint32, body []byte) []byte {
	le := binary.LittleEndian
	data := make([]byte, recordHeaderSize+len(body))
	le.PutUint32(data, uint32(len(data)))
	le.PutUint32(data[4:], xid)
	le.PutUint64(data[8:], uint64(w.previous))
	data[16], data[17] = info, manager
	copy(data[recordHeaderSize:], body)
	crc := crc32.Update(0, castagnoli, data[recordHeaderSize:])
	le.PutUint32(data[recordCRCOffset:], crc32.Update(crc, castagnoli, data[:recordCRCOffset]))
	return data
}

// add appends a record and returns where it starts and ends.
func (w *writer) add(manager, info uint8, xid uint32, body []byte) (start, end LSN) {
	if w.at%BlockSize == 0 {
		w.beginPage(0, false, 0)
	}
	start = w.at
	data := w.build(manager, info, xid, body)
	w.previous = start
	w.put(data, false)
	w.put(make([]byte, w.at.align()-w.at), false)
	return start, w.at
}

// switchSegment appends a switch record and leaves the rest of the segment empty.
func (w *writer) switchSegment() (end LSN) {
	w.add(ManagerXLOG, xlogSwitch, 0, nil)
	if rest := w.size.Offset(w.at); rest != 0 {
		w.content = append(w.content, make([]byte, uint64(w.size)-rest)...)
		w.at += LSN(uint64(w.size) - rest)
	}
	return w.at
}

// store writes the segments as whole files, the rest zero.
func (w *writer) store(t testing.TB, dir string) {
	t.Helper()
	padded := append([]byte(nil), w.content...)
	if rest := uint64(len(padded)) % uint64(w.size); rest != 0 {
		padded = append(padded, make([]byte, uint64(w.size)-rest)...)
	}
	first := w.size.SegmentOf(w.base)
	for n := 0; n*int(w.size) < len(padded); n++ {
		name := w.size.Name(w.timeline, first+Segment(n))
		if err := os.WriteFile(filepath.Join(dir, name), padded[n*int(w.size):(n+1)*int(w.size)], 0o600); err != nil {
			t.Fatal(err)
		}
	}
}
