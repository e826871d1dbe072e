package brokerdisk

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"

	"pgregory.net/rapid"
)

func (w *logWriter) compact(t interface {
	Helper()
	Fatal(...any)
}, now int64, crash func(string),
) CompactReport {
	t.Helper()
	report, err := Compact(Compaction{
		Dir: w.dir, Checkpoint: filepath.Join(w.dir, "..", "compaction.json"), NowMillis: now, SegmentBytes: w.segment,
		Continue: func() bool { return true }, Crash: crash,
	})
	if err != nil {
		t.Fatal(err)
	}
	return report
}

// valuesAt returns the value of each key just before an offset, and nothing for deleted ones.
func valuesAt(all []seen, before int64) map[string]string {
	m := make(map[string]string)
	for _, s := range all {
		if s.offset >= before {
			break
		}
		if m[s.key] = s.value; s.value == "-" {
			delete(m, s.key)
		}
	}
	return m
}

func sameValues(a, b map[string]string) bool {
	if len(a) != len(b) {
		return false
	}
	for k, v := range a {
		if w, ok := b[k]; !ok || v != w {
			return false
		}
	}
	return true
}

// Whatever is in the log: compaction keeps the value of every key at every moment inside the window, changes no record
// that it keeps, moves no offset, and may be interrupted anywhere.
func TestCompactionKeepsWhatItMust(t *testing.T) {
	dir := memoryDir(t)
	n := 0
	rapid.Check(t, func(rt *rapid.T) {
		n++
		now := int64(1_000_000)
		lag := rapid.Int64Range(0, 1200).Draw(rt, "lag") * 1000
		configs := map[string]string{
			"cleanup.policy": "compact", "min.compaction.lag.ms": strconv.FormatInt(lag, 10), "min.cleanable.dirty.ratio": "0",
			"delete.retention.ms": strconv.FormatInt(rapid.Int64Range(0, 1000).Draw(rt, "delete retention")*1000, 10),
		}
		w := newLog(filepath.Join(dir, strconv.Itoa(n), "b"), configs)
		w.segment = rapid.Int64Range(1, 1000).Draw(rt, "segment")
		at := int64(0)
		open := map[int64]bool{}
		for range rapid.IntRange(1, 40).Draw(rt, "batches") {
			at += rapid.Int64Range(0, 50_000).Draw(rt, "pause")
			pid := rapid.Int64Range(0, 3).Draw(rt, "pid")
			if open[pid] && rapid.Bool().Draw(rt, "end") {
				w.end(at, pid, rapid.Bool().Draw(rt, "commit"))
				delete(open, pid)
				continue
			}
			var recs []kv
			for range rapid.IntRange(1, 4).Draw(rt, "records") {
				recs = append(recs, kv{rapid.SampledFrom([]string{"a", "b", "c"}).Draw(rt, "key"), rapid.SampledFrom([]string{"1", "2", "3", "-"}).Draw(rt, "value")})
			}
			txn := pid > 0
			open[pid] = txn
			w.data(at, pid, txn, rapid.Int16Range(0, 4).Draw(rt, "codec"), recs...)
		}
		w.recover(rt) // ends what is open
		before, end := w.read()
		times := w.times

		for range rapid.IntRange(1, 3).Draw(rt, "compactions") {
			if rapid.Bool().Draw(rt, "interrupted") {
				func() {
					defer func() { _ = recover() }()
					left := rapid.IntRange(1, 6).Draw(rt, "interrupted after")
					w.compact(rt, now, func(string) {
						if left--; left == 0 {
							panic("killed")
						}
					})
				}()
				w.recover(rt)
				if mid, _ := w.read(); !sameValues(valuesAt(before, end), valuesAt(mid, end)) {
					rt.Fatalf("values were %v, are %v after an interruption", valuesAt(before, end), valuesAt(mid, end))
				}
			}
			w.compact(rt, now, nil)
			w.recover(rt) // finds nothing to do, and checks the files
			now += rapid.Int64Range(0, 300_000).Draw(rt, "later")
		}
		after, endAfter := w.read()
		if endAfter != end {
			rt.Fatalf("next offset was %d, is %d", end, endAfter)
		}
		for _, s := range after {
			if !slices.Contains(before, s) {
				rt.Fatalf("record %+v was not there before", s)
			}
		}
		// The first record that was too young at the last compaction bounds the window.
		window := end
		for _, s := range before {
			if times[s.offset] > now-lag {
				window = s.offset
				break
			}
		}
		for o := window; o <= end; o++ {
			if a, b := valuesAt(before, o), valuesAt(after, o); !sameValues(a, b) {
				rt.Fatalf("values before offset %d were %v, are %v (window from %d)", o, a, b, window)
			}
		}
		for _, s := range before {
			if s.offset >= window && !slices.Contains(after, s) {
				rt.Fatalf("record %+v inside the window is gone", s)
			}
		}
	})
}

// memoryDir returns a directory in memory, where the system has one: this test replaces thousands of files durably.
func memoryDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "regent-test-") //nolint:usetesting // t.TempDir is on a disk
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func TestCompactionShrinksAndMerges(t *testing.T) {
	w := newLog(filepath.Join(t.TempDir(), "b"), map[string]string{"cleanup.policy": "compact"})
	w.segment = 2000
	for i := range 1000 {
		w.data(int64(i), -1, false, 3, kv{fmt.Sprintf("k%d", i%10), "some value that takes its place"})
	}
	segments, _ := listSegments(w.pd.dir)
	report := w.compact(t, 1_000_000, nil)
	got, end := w.read()
	if len(got) != 11 || end != 1000 { // the last batch stays as it is
		t.Errorf("%d records up to %d, 11 up to 1000 expected", len(got), end)
	}
	if report.RecordsRemoved != 989 || report.Partitions != 1 || report.BytesAfter*10 > report.BytesBefore {
		t.Errorf("report is %+v", report)
	}
	after, _ := listSegments(w.pd.dir)
	if len(segments) < 30 || len(after) > 2 {
		t.Errorf("%d segments became %d", len(segments), len(after))
	}
	if again := w.compact(t, 1_000_000, nil); again.Partitions != 0 {
		t.Errorf("compacted again without a need: %+v", again)
	}
}

func TestCompactionWaitsUntilItIsDue(t *testing.T) {
	w := newLog(filepath.Join(t.TempDir(), "b"), map[string]string{"cleanup.policy": "compact", "max.compaction.lag.ms": "5000"})
	for i := range 100 {
		w.data(int64(i), -1, false, 0, kv{fmt.Sprintf("k%d", i), "v"})
	}
	if r := w.compact(t, 1000, nil); r.Partitions != 1 {
		t.Errorf("a log that is new altogether is not due: %+v", r)
	}
	for i := range 20 {
		w.data(int64(2000+i), -1, false, 0, kv{"k1", "v"})
	}
	if r := w.compact(t, 3000, nil); r.Partitions != 0 {
		t.Errorf("a fifth is new, but compacted: %+v", r)
	}
	if r := w.compact(t, 9000, nil); r.Partitions != 1 {
		t.Errorf("max.compaction.lag.ms has passed, but not compacted: %+v", r)
	}
}

func TestCompactionLeavesOtherTopicsAndOpenTransactionsAlone(t *testing.T) {
	w := newLog(filepath.Join(t.TempDir(), "b"), map[string]string{"cleanup.policy": "delete"})
	for i := range 10 {
		w.data(int64(i), -1, false, 0, kv{"k", "v"})
	}
	if r := w.compact(t, 1_000_000, nil); r.Partitions != 0 {
		t.Errorf("report is %+v", r)
	}
	w = newLog(filepath.Join(t.TempDir(), "b"), map[string]string{"cleanup.policy": "compact"})
	w.data(1, 5, true, 0, kv{"k", "v"})
	w.data(1, -1, false, 0, kv{"k", "v"})
	_, err := Compact(Compaction{Dir: w.dir, Checkpoint: filepath.Join(t.TempDir(), "c"), NowMillis: 9, SegmentBytes: 1, Continue: func() bool { return true }})
	if err == nil || errors.Is(err, ErrDamaged) {
		t.Errorf("error is %v", err)
	}
}

func TestCompactionStopsWhenItsTimeIsUp(t *testing.T) {
	w := newLog(filepath.Join(t.TempDir(), "b"), map[string]string{"cleanup.policy": "compact"})
	w.segment = 200
	for i := range 50 {
		w.data(int64(i), -1, false, 0, kv{fmt.Sprintf("k%d", i%40), "v"})
	}
	before, end := w.read()
	left := 5
	c := Compaction{Dir: w.dir, Checkpoint: filepath.Join(t.TempDir(), "c"), NowMillis: 1000, SegmentBytes: 200, Continue: func() bool { left--; return left > 0 }}
	report, err := Compact(c)
	if err != nil || report.Left != 1 {
		t.Fatalf("report is %+v (%v)", report, err)
	}
	after, endAfter := w.read()
	if !sameValues(valuesAt(before, end), valuesAt(after, endAfter)) || end != endAfter {
		t.Errorf("values were %v, are %v", valuesAt(before, end), valuesAt(after, endAfter))
	}
}
