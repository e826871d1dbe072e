package brokerdisk

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// ErrDamaged means that a log is damaged in its middle, which no crash of a process does.
var ErrDamaged = errors.New("log is damaged")

// indexEntrySize is the length of one entry of an index file.
const indexEntrySize = 15

// indexEntry builds the index entry of a batch. latest is the highest time of this batch and all before it.
func indexEntry(b rawBatch, latest int64) [indexEntrySize]byte {
	var e [indexEntrySize]byte
	e[0] = kfakeFormat
	binary.LittleEndian.PutUint32(e[2:], uint32(b.leaderEpoch()))
	binary.LittleEndian.PutUint64(e[6:], uint64(latest))
	if b.isTransactional() && !b.isControl() {
		e[14] = 1
	}
	e[1] = byte(crc32.Checksum(e[2:], castagnoli))
	return e
}

// sameIndex reports whether the index has on disk what it must have. The time is left out: kfake derives it anew.
func sameIndex(disk, want []byte) bool {
	if len(disk) != len(want) {
		return false
	}
	for i := 0; i < len(want); i += indexEntrySize {
		d, w := disk[i:i+indexEntrySize], want[i:i+indexEntrySize]
		if d[0] != w[0] || d[14] != w[14] || !slices.Equal(d[2:6], w[2:6]) || d[1] != byte(crc32.Checksum(d[2:], castagnoli)) {
			return false
		}
	}
	return true
}

func segmentPath(dir string, base int64) string {
	return filepath.Join(dir, strconv.FormatInt(base, 10)+".dat")
}

func indexPath(dir string, base int64) string {
	return filepath.Join(dir, strconv.FormatInt(base, 10)+".idx")
}

// listSegments returns the base offsets of a partition's segment files in ascending order. A missing directory has none.
func listSegments(dir string) ([]int64, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list segments in %s: %w", dir, err)
	}
	var bases []int64
	for _, e := range entries {
		if name, ok := strings.CutSuffix(e.Name(), ".dat"); ok {
			if base, err := strconv.ParseInt(name, 10, 64); err == nil {
				bases = append(bases, base)
			}
		}
	}
	slices.Sort(bases)
	return bases, nil
}

// openTxn is a transaction without a marker in one partition.
type openTxn struct {
	first int64
	epoch int16
}

// partition is what a scan finds out about one partition.
type partition struct {
	topic  string
	number int32
	dir    string

	bases   []int64
	end     position // where the next batch goes
	size    int64    // bytes of the last segment
	open    map[int64]openTxn
	windows map[int64]*window
	latest  int64 // highest time

	batches, tornBytes, indexes int
}

// scan reads all batches of a partition, finishes what compaction began, cuts off a torn end and repairs the index
// files.
func (p *partition) scan() error {
	if err := finishSwaps(p.dir, func(string) {}); err != nil {
		return err
	}
	bases, err := listSegments(p.dir)
	if err != nil {
		return err
	}
	p.open, p.windows = make(map[int64]openTxn), make(map[int64]*window)
	for i, base := range bases {
		kept, err := p.scanSegment(base, i == len(bases)-1)
		if err != nil {
			return fmt.Errorf("scan partition %s/%d: %w", p.topic, p.number, err)
		}
		if kept {
			p.bases = append(p.bases, base)
		}
	}
	return p.removeLoneIndexes()
}

// removeLoneIndexes deletes index files without a segment.
func (p *partition) removeLoneIndexes() error {
	entries, err := os.ReadDir(p.dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("list index files in %s: %w", p.dir, err)
	}
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), ".idx")
		if !ok {
			continue
		}
		if base, err := strconv.ParseInt(name, 10, 64); err == nil && slices.Contains(p.bases, base) {
			continue
		}
		if err := removeFile(filepath.Join(p.dir, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

func (p *partition) scanSegment(base int64, last bool) (kept bool, err error) {
	path := segmentPath(p.dir, base)
	raw, err := os.ReadFile(path)
	if err != nil {
		return false, fmt.Errorf("read segment: %w", err)
	}
	var index []byte
	pos := 0
	for pos < len(raw) {
		b, ok := nextBatch(raw[pos:])
		if !ok {
			break
		}
		if b.baseOffset() < p.end.offset || pos == 0 && b.baseOffset() < base {
			return false, fmt.Errorf("%w: segment %s has offset %d at byte %d, at least %d expected; restore the data directory from a copy",
				ErrDamaged, path, b.baseOffset(), pos, max(p.end.offset, base))
		}
		p.note(b)
		entry := indexEntry(b, p.latest)
		index = append(index, entry[:]...)
		pos += len(b)
	}
	if pos < len(raw) {
		if !last || soundAfter(raw[pos:]) {
			return false, fmt.Errorf("%w: segment %s is unreadable at byte %d of %d although sound data follows; restore the data directory from a copy",
				ErrDamaged, path, pos, len(raw))
		}
		p.tornBytes += len(raw) - pos
		if pos > 0 {
			if err := cutFile(path, int64(pos)); err != nil {
				return false, err
			}
		}
	}
	if pos == 0 {
		return false, errors.Join(removeFile(path), removeFile(indexPath(p.dir, base)))
	}
	p.size = int64(pos)
	return true, p.repairIndex(base, index)
}

func (p *partition) repairIndex(base int64, want []byte) error {
	path := indexPath(p.dir, base)
	disk, err := readOptional(path)
	if err != nil {
		return err
	}
	if sameIndex(disk, want) {
		return nil
	}
	p.indexes++
	return replaceFile(path, want)
}

// soundAfter reports whether a sound batch follows the unsound one at the start of raw: then its bytes are all there, and
// what is wrong with it is not an interrupted write.
func soundAfter(raw []byte) bool {
	if len(raw) < lengthOverhead {
		return false
	}
	size := int64(binary.BigEndian.Uint32(raw[atLength:])) + lengthOverhead
	if size > int64(len(raw)) {
		return false
	}
	_, ok := nextBatch(raw[size:])
	return ok
}

// note takes one batch into account.
func (p *partition) note(b rawBatch) {
	p.batches++
	p.end = position{b.nextOffset(), b.leaderEpoch()}
	if p.batches == 1 || b.maxTime() > p.latest {
		p.latest = b.maxTime()
	}
	pid := b.producerID()
	switch {
	case b.isControl():
		delete(p.open, pid)
	case pid >= 0:
		if b.isTransactional() {
			txn, open := p.open[pid]
			if !open {
				txn.first = b.baseOffset()
			}
			txn.epoch = b.epoch()
			p.open[pid] = txn
		}
		w := p.windows[pid]
		if w == nil {
			w = &window{}
			p.windows[pid] = w
		}
		w.note(b)
	}
}

// append adds a batch to the last segment, index entry first: an index entry too many is cut off at the next scan, and
// the batch alone carries what counts.
func (p *partition) append(b rawBatch) error {
	if len(p.bases) == 0 {
		return fmt.Errorf("append to partition %s/%d: no segment, although a transaction is open in it", p.topic, p.number)
	}
	base := p.bases[len(p.bases)-1]
	p.note(b)
	entry := indexEntry(b, p.latest)
	if err := appendFile(indexPath(p.dir, base), entry[:]); err != nil {
		return err
	}
	return appendFile(segmentPath(p.dir, base), b)
}

func removeFile(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove %s: %w", path, err)
	}
	return nil
}

// window holds the last batches of a producer in one partition, from which kfake recognises a repetition.
type window struct {
	entries [5]windowEntry
	at      uint8
	count   uint8
	epoch   int16
	next    int32
}

type windowEntry struct {
	FirstSeq int32 `json:"first_seq"`
	NextSeq  int32 `json:"next_seq"`
	Offset   int64 `json:"offset"`
}

func (w *window) note(b rawBatch) {
	first := b.baseSequence()
	if first < 0 {
		return
	}
	if w.count > 0 && w.epoch != b.epoch() {
		*w = window{}
	}
	const maxSequence = 1<<31 - 1 // kfake wraps here
	w.epoch = b.epoch()
	w.next = int32((int64(first) + int64(b.lastDelta()) + 1) % maxSequence)
	w.entries[w.at] = windowEntry{FirstSeq: first, NextSeq: w.next, Offset: b.baseOffset()}
	w.at = (w.at + 1) % uint8(len(w.entries))
	w.count = min(w.count+1, uint8(len(w.entries)))
}
