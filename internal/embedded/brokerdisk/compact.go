package brokerdisk

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Compaction says how to compact one directory.
type Compaction struct {
	// Dir is kfake's data directory. No transaction may be open in it.
	Dir string
	// Checkpoint is the file that remembers up to where partitions have been compacted.
	Checkpoint string
	// NowMillis is the time, in milliseconds since 1970.
	NowMillis int64
	// SegmentBytes is the size up to which compacted segments are merged.
	SegmentBytes int64
	// Continue is asked between the parts of the work; when it says no, the rest is left for the next time.
	Continue func() bool
	// Crash is called between the steps with their names; nil in production.
	Crash func(point string)
}

// CompactReport says what [Compact] did.
type CompactReport struct {
	Partitions     int   // rewritten
	BytesBefore    int64 // of their compactable parts
	BytesAfter     int64
	RecordsRemoved int
	Left           int // partitions that were due when Continue said no
}

// checkpoint is, by topic id and partition, the offset up to which compaction has come.
type checkpoint map[string]map[int32]int64

// Compact removes from compacted topics the records that a later record with the same key has replaced, and tombstones
// that have done their work, as Kafka's log cleaner does:
//
//   - Only the beginning of the log is looked at, up to the first batch younger than min.compaction.lag.ms, or the last
//     batch. What follows neither disappears nor replaces.
//   - A partition is due when at least min.cleanable.dirty.ratio of that part is new since the last time (default 0.5), or
//     when its oldest new batch is older than max.compaction.lag.ms.
//   - A tombstone goes when its time is older than delete.retention.ms (default 24 h).
//   - Committed records stay where they are and as they are; aborted ones, and the markers, go. What stays is no longer
//     marked as transactional, because its marker is gone.
//
// Files are replaced in a way that a crash cannot leave half done, see docs/formats-embedded.md.
func Compact(c Compaction) (CompactReport, error) {
	var report CompactReport
	if c.Crash == nil {
		c.Crash = func(string) {}
	}
	topics, err := readTopics(c.Dir)
	if err != nil {
		return report, err
	}
	before := c.readCheckpoint()
	after := make(checkpoint)
	for _, t := range topics {
		if !t.compacted() {
			continue
		}
		after[t.ID] = make(map[int32]int64)
		for n := range int32(t.Partitions) {
			from := before[t.ID][n]
			after[t.ID][n] = from
			cl := cleaner{Compaction: &c, topic: &t, dir: partitionDir(c.Dir, t.Name, n), report: &report}
			to, err := cl.clean(from)
			if err != nil {
				return report, fmt.Errorf("compact partition %s/%d: %w", t.Name, n, err)
			}
			after[t.ID][n] = to
		}
	}
	if maps.EqualFunc(before, after, maps.Equal) {
		return report, nil
	}
	raw, err := json.Marshal(after)
	if err != nil {
		return report, fmt.Errorf("encode %s: %w", c.Checkpoint, err)
	}
	return report, replaceFile(c.Checkpoint, raw)
}

// readCheckpoint reads the checkpoint. One that cannot be read is as good as none: everything is compacted again.
func (c *Compaction) readCheckpoint() checkpoint {
	var cp checkpoint
	if raw, err := os.ReadFile(c.Checkpoint); err != nil || json.Unmarshal(raw, &cp) != nil {
		return nil
	}
	return cp
}

// cleaner compacts one partition.
type cleaner struct {
	*Compaction
	topic  *Topic
	dir    string
	report *CompactReport

	bases   []int64
	batches []batchInfo
}

// batchInfo is what compaction needs to know about a batch without reading it again.
type batchInfo struct {
	base    int64
	maxTime int64
	size    int
	control bool
	aborted bool
}

// clean compacts a partition that is due, and returns up to where it is compacted now.
func (c *cleaner) clean(from int64) (int64, error) {
	if err := finishSwaps(c.dir, c.Crash); err != nil {
		return from, err
	}
	if err := c.list(); err != nil || len(c.batches) == 0 {
		return from, err
	}
	to := c.end()
	from = min(from, to)
	var dirty, all int64
	oldest := int64(math.MaxInt64)
	for _, b := range c.batches {
		if b.base >= to {
			break
		}
		all += int64(b.size)
		if b.base >= from {
			dirty += int64(b.size)
			oldest = min(oldest, b.maxTime)
		}
	}
	if dirty == 0 {
		return from, nil
	}
	overdue := oldest < c.NowMillis-c.topic.config("max.compaction.lag.ms", math.MaxInt64/2)
	if !overdue && float64(dirty) < float64(all)*c.topic.ratio("min.cleanable.dirty.ratio", defaultDirtyRatio) {
		return from, nil
	}
	if !c.Continue() {
		c.report.Left++
		return from, nil
	}
	latest, err := c.latest(from, to)
	if err != nil {
		return from, err
	}
	c.report.Partitions++
	c.report.BytesBefore += all
	done, err := c.rewrite(latest, to)
	if err != nil || !done {
		return from, err
	}
	return to, nil
}

// list reads the heads of all batches and finds out which ones were aborted.
func (c *cleaner) list() error {
	bases, err := listSegments(c.dir)
	if err != nil {
		return err
	}
	c.bases = bases
	open := make(map[int64][]int) // indices of the batches of transactions that are not ended yet
	for i := range bases {
		err := c.each(i, func(b rawBatch) error {
			at, pid := len(c.batches), b.producerID()
			info := batchInfo{base: b.baseOffset(), maxTime: b.maxTime(), size: len(b), control: b.isControl()}
			c.batches = append(c.batches, info)
			switch {
			case info.control:
				if b.isAbort() {
					for _, j := range open[pid] {
						c.batches[j].aborted = true
					}
				}
				delete(open, pid)
			case b.isTransactional():
				open[pid] = append(open[pid], at)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	if len(open) > 0 {
		return fmt.Errorf("%d transactions are open: recover the directory first", len(open))
	}
	return nil
}

// each reads the batches of the i-th segment.
func (c *cleaner) each(i int, fn func(rawBatch) error) error {
	path := segmentPath(c.dir, c.bases[i])
	raw, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("read segment: %w", err)
	}
	for pos := 0; pos < len(raw); {
		b, ok := nextBatch(raw[pos:])
		if !ok {
			return fmt.Errorf("%w: segment %s is unreadable at byte %d", ErrDamaged, path, pos)
		}
		if err := fn(b); err != nil {
			return err
		}
		pos += len(b)
	}
	return nil
}

// end returns the offset up to which the log may be compacted. A transaction may reach over it: how it ended is known.
func (c *cleaner) end() int64 {
	youngest := c.NowMillis - c.topic.config("min.compaction.lag.ms", 0)
	for _, b := range c.batches {
		if b.maxTime > youngest {
			return b.base
		}
	}
	return c.batches[len(c.batches)-1].base
}

// latest returns the last offset of each key between two offsets.
func (c *cleaner) latest(from, to int64) (map[string]int64, error) {
	latest := make(map[string]int64)
	at := 0
	for i := range c.bases {
		err := c.each(i, func(b rawBatch) error {
			info := c.batches[at]
			at++
			if info.base < from || info.base >= to || info.control || info.aborted {
				return nil
			}
			_, err := eachRecord(b, func(r record) {
				if r.key != nil {
					latest[string(r.key)] = r.offset
				}
			})
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return latest, nil
}

// rewrite replaces the segments that begin before an offset, in groups whose result is about one segment. done is false
// when Continue said no before the end.
func (c *cleaner) rewrite(latest map[string]int64, to int64) (done bool, err error) {
	f := filter{latest: latest, to: to, tombstonesBefore: c.NowMillis - c.topic.config("delete.retention.ms", defaultDeleteRetentionMillis)}
	at := 0
	for first := 0; first < len(c.bases) && c.bases[first] < to; {
		if !c.Continue() {
			c.report.Left++
			return false, nil
		}
		var out []byte
		i := first
		for ; i < len(c.bases) && c.bases[i] < to && (i == first || int64(len(out)) < c.SegmentBytes); i++ {
			err := c.each(i, func(b rawBatch) (err error) {
				info := c.batches[at]
				at++
				if info.base >= to {
					out = append(out, b...)
					return nil
				}
				before := len(out)
				out, err = f.appendKept(out, b, info.aborted)
				c.report.BytesAfter += int64(len(out) - before)
				return err
			})
			if err != nil {
				return false, err
			}
		}
		end := int64(math.MaxInt64)
		if i < len(c.bases) {
			end = c.bases[i]
		}
		if err := c.swap(c.bases[first], end, out); err != nil {
			return false, err
		}
		first = i
	}
	c.report.RecordsRemoved += f.removed
	return true, nil
}

// swap replaces the segments with bases in [base, end) by one. The new content is complete under a name of its own
// before the first old file goes, so whatever happens in between can be finished.
func (c *cleaner) swap(base, end int64, content []byte) error {
	name := filepath.Join(c.dir, fmt.Sprintf("%d-%d.swap", base, end))
	if err := replaceFile(name, content); err != nil {
		return err
	}
	c.Crash("compact-swap")
	return finishSwaps(c.dir, c.Crash)
}

// finishSwaps carries out the replacements that are prepared in a partition's directory.
func finishSwaps(dir string, crash func(string)) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("list segments in %s: %w", dir, err)
	}
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), ".swap")
		if !ok {
			continue
		}
		from, to, _ := strings.Cut(name, "-")
		base, err1 := strconv.ParseInt(from, 10, 64)
		end, err2 := strconv.ParseInt(to, 10, 64)
		if err := errors.Join(err1, err2); err != nil {
			return fmt.Errorf("finish the replacement of segments %s in %s: %w", e.Name(), dir, err)
		}
		if err := finishSwap(dir, filepath.Join(dir, e.Name()), base, end, crash); err != nil {
			return err
		}
	}
	return nil
}

func finishSwap(dir, swap string, base, end int64, crash func(string)) error {
	raw, err := os.ReadFile(swap)
	if err != nil {
		return fmt.Errorf("finish the replacement of segments: %w", err)
	}
	bases, err := listSegments(dir)
	if err != nil {
		return err
	}
	for _, b := range slices.Backward(bases) {
		if b >= base && b < end {
			if err := errors.Join(removeFile(indexPath(dir, b)), removeFile(segmentPath(dir, b))); err != nil {
				return err
			}
			crash("compact-removed")
		}
	}
	if len(raw) == 0 {
		return removeFile(swap)
	}
	var index []byte
	latest := int64(math.MinInt64)
	for pos := 0; pos < len(raw); {
		b, ok := nextBatch(raw[pos:])
		if !ok {
			return fmt.Errorf("%w: %s is unreadable at byte %d", ErrDamaged, swap, pos)
		}
		latest = max(latest, b.maxTime())
		entry := indexEntry(b, latest)
		index = append(index, entry[:]...)
		pos += len(b)
	}
	if err := replaceFile(indexPath(dir, base), index); err != nil {
		return err
	}
	if err := os.Rename(swap, segmentPath(dir, base)); err != nil {
		return fmt.Errorf("finish the replacement of segments: %w", err)
	}
	return nil
}
