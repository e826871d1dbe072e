package wal

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// written is what a test wrote, to be found again.
type written struct {
	start, end LSN
	xid        uint32
	length     int
}

// randomLog writes random records and segment switches over a few small segments.
func randomLog(t *rapid.T, w *writer, records int) []written {
	var log []written
	for n := range records {
		if rapid.IntRange(0, 40).Draw(t, "switch") == 0 {
			before := w.at
			end := w.switchSegment()
			log = append(log, written{start: skipHeader(before, w.size), end: end, length: recordHeaderSize})
			continue
		}
		// Some records are longer than a page, few longer than a segment.
		size := rapid.OneOf(rapid.IntRange(0, 300), rapid.IntRange(0, 300), rapid.IntRange(8000, 40_000)).Draw(t, "size")
		if rapid.IntRange(0, 60).Draw(t, "huge") == 0 {
			size = int(MinSegmentSize) + 12345
		}
		start, end := w.add(10, 0, uint32(n), bytes.Repeat([]byte{byte(n)}, size))
		log = append(log, written{start: start, end: end, xid: uint32(n), length: size + recordHeaderSize})
	}
	return log
}

func TestScanFindsWhatWasWritten(t *testing.T) {
	t.Parallel()
	base := t.TempDir()
	rapid.Check(t, func(rt *rapid.T) {
		dir := filepath.Join(base, "log")
		if err := errors.Join(os.RemoveAll(dir), os.Mkdir(dir, 0o700)); err != nil {
			rt.Fatal(err)
		}
		start := MinSegmentSize.Start(3)
		w := newWriter(MinSegmentSize, start, 1)
		log := randomLog(rt, w, rapid.IntRange(1, 60).Draw(rt, "records"))
		w.store(t, dir)

		// A tear at any byte: everything before the record it hits is found, nothing behind it.
		tear := rapid.IntRange(0, len(w.content)+100).Draw(rt, "tear")
		want := log
		torn := w.base + LSN(tear)
		if tear < len(w.content) && rapid.Bool().Draw(rt, "torn") {
			name := filepath.Join(dir, w.size.Name(1, w.size.SegmentOf(torn)))
			flip(rt, name, int64(w.size.Offset(torn)))
			want = nil
			for _, r := range log {
				if r.start > torn || r.end > torn && r.start <= torn {
					break
				}
				want = append(want, r)
			}
		} else {
			torn = 0
		}
		var got []written
		end, err := Scan(t.Context(), ScanConfig{
			Dir: dir, SegmentSize: w.size, SystemIdentifier: testSystem, History: History{Timeline: 1}, Start: start,
		}, func(r Record) error {
			got = append(got, written{r.Start, r.End, r.XID, r.Length()})
			return nil
		})
		if err != nil {
			rt.Fatal(err)
		}
		// A flipped byte may be one that nothing looks at (alignment, the empty rest behind a switch): then more is found, never less
		// or something else.
		if len(got) < len(want) || torn == 0 && len(got) != len(log) {
			rt.Fatalf("found %d records, want %d (tear at %s)", len(got), len(want), torn)
		}
		for n, r := range got {
			if r != log[n] {
				rt.Fatalf("record %d: got %+v, want %+v", n, r, log[n])
			}
			if torn != 0 && r.start <= torn && torn < r.start+LSN(min(r.length, int(BlockSize-r.start%BlockSize))) {
				rt.Fatalf("record %+v was accepted although the byte at %s is wrong", r, torn)
			}
		}
		wantEnd := start
		if len(got) > 0 {
			wantEnd = got[len(got)-1].end
		}
		if end != wantEnd {
			rt.Fatalf("end is %s, want %s", end, wantEnd)
		}
	})
}

func flip(t *rapid.T, name string, at int64) {
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	b := make([]byte, 1)
	if _, err := f.ReadAt(b, at); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 0x5a
	if _, err := f.WriteAt(b, at); err != nil {
		t.Fatal(err)
	}
}

func scanAll(t *testing.T, c ScanConfig) ([]Record, LSN) {
	t.Helper()
	var records []Record
	end, err := Scan(t.Context(), c, func(r Record) error {
		r.data = nil
		records = append(records, r)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return records, end
}

func TestScanIsNotFooledByARecycledSegment(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	w := newWriter(MinSegmentSize, MinSegmentSize.Start(3), 1)
	for range 2000 {
		w.add(10, 0, 1, make([]byte, 500))
	}
	w.store(t, dir)
	// The segment behind the last one is the first one under a new name, with the same records at the same offsets: whole, with
	// right CRCs. Its first page is even overwritten with a new, short record, so that old records follow right behind it.
	last := w.size.SegmentOf(w.at) + 1
	old := append([]byte(nil), w.content[:w.size]...)
	fresh := newWriter(MinSegmentSize, w.size.Start(last), 1)
	fresh.previous = w.previous
	_, end := fresh.add(10, 0, 7, make([]byte, 500))
	copy(old, fresh.content)
	if err := os.WriteFile(filepath.Join(dir, w.size.Name(1, last)), old, 0o600); err != nil {
		t.Fatal(err)
	}
	config := EndConfig{Dir: dir, SegmentSize: w.size, SystemIdentifier: testSystem, Known: w.size.Start(last), Timeline: 1}
	found, err := FindEnd(t.Context(), config)
	if err != nil || found.LSN != end || found.Records != 1 {
		t.Errorf("from the segment's start: want 1 record up to %s, got %+v, %v", end, found, err)
	}
	// From a replay position right in front of the stale record, only its back link can expose it.
	config.Known, config.Start = MinSegmentSize.Start(3), end
	found, err = FindEnd(t.Context(), config)
	if err != nil || found.LSN != end || found.Records != 0 {
		t.Errorf("from the replay position: want no record behind %s, got %+v, %v", end, found, err)
	}
	// The same start in front of a real next record is taken.
	next, after := fresh.add(10, 0, 8, make([]byte, 500))
	copy(old, fresh.content)
	if err := os.WriteFile(filepath.Join(dir, w.size.Name(1, last)), old, 0o600); err != nil {
		t.Fatal(err)
	}
	found, err = FindEnd(t.Context(), config)
	if err != nil || found.LSN != after || found.Records != 1 || next != end {
		t.Errorf("from the replay position: want one record up to %s, got %+v, %v", after, found, err)
	}
}

func TestScanPassesOverAnUnfinishedRecord(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	start := MinSegmentSize.Start(3)
	w := newWriter(MinSegmentSize, start, 1)
	w.add(10, 0, 1, make([]byte, 100))
	// A record that needs three pages is cut off at the end of its first page.
	data := w.build(10, 0, 2, make([]byte, 20_000))
	room := BlockSize - int(w.at%BlockSize)
	w.content = append(w.content, data[:room]...)
	w.at += LSN(room)
	w.beginPage(0, false, flagOverwritten)
	over, _ := w.add(ManagerXLOG, 0xd0, 0, make([]byte, 24))
	_, end := w.add(10, 0, 3, make([]byte, 100))
	w.store(t, dir)
	records, got := scanAll(t, ScanConfig{Dir: dir, SegmentSize: w.size, SystemIdentifier: testSystem, History: History{Timeline: 1}, Start: start})
	if len(records) != 3 || records[1].Start != over || records[2].XID != 3 || got != end {
		t.Errorf("want records 1, the overwrite mark and 3 up to %s, got %+v up to %s", end, records, got)
	}
}

// branches writes timeline 1, a switch in the middle of a segment, and timeline 2 beyond it; 1 has gone on, too.
func branches(t *testing.T, dir string) (fork, end1, end2 LSN) {
	t.Helper()
	start := MinSegmentSize.Start(3)
	one := newWriter(MinSegmentSize, start, 1)
	for range 20 {
		one.add(10, 0, 1, make([]byte, 1000))
	}
	fork = one.at
	two := *one
	two.content = append([]byte(nil), one.content...)
	two.timeline = 2
	for range 3 {
		_, end1 = one.add(10, 0, 11, make([]byte, 30_000))
	}
	for range 2 {
		_, end2 = two.add(10, 0, 22, make([]byte, 10_000))
	}
	one.store(t, dir)
	two.store(t, dir)
	return fork, end1, end2
}

func TestFindEndChoosesTheTimelineThatWrote(t *testing.T) {
	t.Parallel()
	start := MinSegmentSize.Start(3)
	find := func(dir string, from LSN) End {
		end, err := FindEnd(t.Context(), EndConfig{
			Dir: dir, SegmentSize: MinSegmentSize, SystemIdentifier: testSystem, Known: start, Start: from, Timeline: 1,
		})
		if err != nil {
			t.Fatal(err)
		}
		return end
	}
	history := func(dir string, h History) {
		if err := os.WriteFile(filepath.Join(dir, h.Timeline.HistoryName()), h.Format(), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	dir := t.TempDir()
	fork, end1, end2 := branches(t, dir)
	if end := find(dir, 0); end.LSN != end1 || end.Timeline != 1 {
		t.Errorf("without a history file timeline 2 is unknown: want the end of 1 at %s, got %+v", end1, end)
	}
	two := History{Timeline: 2, Ancestors: []Branch{{Timeline: 1, End: fork, Reason: "test"}}}
	history(dir, two)
	for _, from := range []LSN{0, fork} {
		if end := find(dir, from); end.LSN != end2 || end.Timeline != 2 || len(end.History.Ancestors) != 1 {
			t.Errorf("from %s: timeline 2 has written: want its end at %s, got %+v", from, end2, end)
		}
	}
	// A history alone is no WAL: without 2's segments the node is on 1, and what it wrote there behind the fork counts.
	if err := os.Remove(filepath.Join(dir, MinSegmentSize.Name(2, 3))); err != nil {
		t.Fatal(err)
	}
	for _, from := range []LSN{0, fork} {
		if end := find(dir, from); end.LSN != end1 || end.Timeline != 1 || len(end.History.Ancestors) != 0 {
			t.Errorf("from %s: only the history of 2 is here: want the end of 1 at %s, got %+v", from, end1, end)
		}
	}
	// Placeholders and other clusters' histories are none of ours.
	if err := os.WriteFile(filepath.Join(dir, Timeline(9).HistoryName()), Placeholder(), 0o600); err != nil {
		t.Fatal(err)
	}
	history(dir, History{Timeline: 8, Ancestors: []Branch{{Timeline: 1, End: start / 2}, {Timeline: 7, End: start - 8}}})
	if end := find(dir, 0); end.LSN != end1 || end.Timeline != 1 {
		t.Errorf("foreign histories: want the end of 1 at %s, got %+v", end1, end)
	}
}

func TestFindEndStaysOnTheControlFilesTimeline(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	fork, end1, _ := branches(t, dir)
	two := History{Timeline: 2, Ancestors: []Branch{{Timeline: 1, End: fork, Reason: "test"}}}
	if err := os.WriteFile(filepath.Join(dir, two.Timeline.HistoryName()), two.Format(), 0o600); err != nil {
		t.Fatal(err)
	}
	// The server's last checkpoint is on timeline 1 behind the fork: whoever wrote the files of 2, it was not this server.
	records := 0
	var known LSN
	_, err := Scan(t.Context(), ScanConfig{Dir: dir, SegmentSize: MinSegmentSize, History: History{Timeline: 1}, Start: fork}, func(r Record) error {
		if records++; records == 2 {
			known = r.Start
		}
		return nil
	})
	if err != nil || known == 0 {
		t.Fatalf("no record behind the fork: %v", err)
	}
	end, err := FindEnd(t.Context(), EndConfig{Dir: dir, SegmentSize: MinSegmentSize, Known: known, Timeline: 1})
	if err != nil || end.LSN != end1 || end.Timeline != 1 {
		t.Errorf("want the end of 1 at %s, got %+v, %v", end1, end, err)
	}
	end, err = FindEnd(t.Context(), EndConfig{
		Dir: dir, SegmentSize: MinSegmentSize, Known: MinSegmentSize.Start(3), Timeline: 1, MinRecovery: known, MinTimeline: 1,
	})
	if err != nil || end.LSN != end1 || end.Timeline != 1 {
		t.Errorf("by the minimum recovery point: want the end of 1 at %s, got %+v, %v", end1, end, err)
	}
}

func TestParsePageRefuses(t *testing.T) {
	t.Parallel()
	w := newWriter(MinSegmentSize, MinSegmentSize.Start(3), 1)
	w.add(10, 0, 1, make([]byte, 20_000))
	first, second := w.content[:BlockSize], w.content[BlockSize:2*BlockSize]
	at := MinSegmentSize.Start(3)
	change := func(page []byte, at int, b byte) []byte {
		c := append([]byte(nil), page...)
		c[at] = b
		return c
	}
	for _, c := range []struct {
		name    string
		page    []byte
		address LSN
		system  uint64
		want    string
	}{
		{"short", first[:100], at, 0, "no valid WAL: page at 0/300000 is cut short"},
		{"zeros", make([]byte, BlockSize), at, 0, "no valid WAL: page at 0/300000 has magic 0x0000, which no version from 13 to 18 writes"},
		{"flags", change(first, 2, 0xf2), at, 0, "no valid WAL: page at 0/300000 has unknown flags 0x00f2"},
		{"recycled", second, at + 5*BlockSize, 0, "no valid WAL: page at 0/30A000 says it is at 0/302000: a recycled segment"},
		{"short header first", change(first, 2, 0), at, 0, "no valid WAL: page at 0/300000 has the wrong kind of header"},
		{"no timeline", change(first, 4, 0), at, 0, "no valid WAL: page at 0/300000 has no timeline"},
		{"other cluster", first, at, 1, "no valid WAL: segment at 0/300000 belongs to the cluster with system identifier 7711221399367852679, expected 1"},
		{"other size", change(first, 34, 0x20), at, 0, "no valid WAL: segment at 0/300000 has sizes 2097152 and 8192, expected 1048576 and 8192"},
	} {
		if _, err := parsePage(c.page, c.address, MinSegmentSize, c.system); !errors.Is(err, errInvalid) || err.Error() != c.want {
			t.Errorf("%s: want %q, got %v", c.name, c.want, err)
		}
	}
	if h, err := parsePage(first, at, MinSegmentSize, testSystem); err != nil || h.major != 15 || h.size != longHeaderSize {
		t.Errorf("a good page: got %+v, %v", h, err)
	}
}

func TestFindEndReports(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	_, err := FindEnd(t.Context(), EndConfig{Dir: dir, SegmentSize: MinSegmentSize, Known: MinSegmentSize.Start(3), Timeline: 1})
	if err == nil || !strings.Contains(err.Error(), "nothing valid at 0/300000 on timeline 1") {
		t.Errorf("an empty folder: got %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	branches(t, dir)
	_, err = FindEnd(ctx, EndConfig{Dir: dir, SegmentSize: MinSegmentSize, Known: MinSegmentSize.Start(3), Timeline: 1})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled context: got %v", err)
	}
	for _, c := range []ScanConfig{
		{Dir: dir, SegmentSize: 12345, Start: 8, History: History{Timeline: 1}},
		{Dir: dir, SegmentSize: MinSegmentSize, Start: 7, History: History{Timeline: 1}},
		{Dir: dir, SegmentSize: MinSegmentSize, Start: 8},
	} {
		if _, err := Scan(t.Context(), c, nil); err == nil {
			t.Errorf("Scan(%+v): want an error", c)
		}
	}
}

func TestCommitRecords(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 3, 4, 5, 6, 7, 89_000, time.UTC)
	stamp := binary.LittleEndian.AppendUint64(nil, uint64(at.Sub(postgresEpoch).Microseconds()))
	short := func(main []byte) []byte { return append([]byte{idDataShort, byte(len(main))}, main...) }
	origin := append([]byte{idOrigin, 1, 0, idTopLevelID, 1, 2, 3, 4}, short(stamp)...)
	// COMMIT PREPARED of 777 with database, one subtransaction, one relation, no dropped statistics, one invalidation.
	prepared := append([]byte(nil), stamp...)
	prepared = binary.LittleEndian.AppendUint32(prepared, xinfoDatabase|xinfoSubXacts|xinfoRelations|xinfoInvalidations|xinfoTwoPhase)
	prepared = append(prepared, make([]byte, 8)...)
	for _, item := range []int{4, 12, 16} {
		prepared = binary.LittleEndian.AppendUint32(prepared, 1)
		prepared = append(prepared, make([]byte, item)...)
	}
	prepared = binary.LittleEndian.AppendUint32(prepared, 777)
	long := append([]byte{idDataLong}, binary.LittleEndian.AppendUint32(nil, uint32(len(prepared)))...)
	long = append(long, prepared...)
	for _, c := range []struct {
		name string
		info uint8
		body []byte
		want Commit
		fail string
	}{
		{"commit", xactCommit, short(stamp), Commit{XID: 5, At: at}, ""},
		{"with origin", xactCommit, origin, Commit{XID: 5, At: at}, ""},
		{"prepared", xactCommitPrepared | xactHasInfo, long, Commit{XID: 777, At: at}, ""},
		{"prepared without id", xactCommitPrepared, short(stamp), Commit{}, "not named"},
		{"prepared, cut", xactCommitPrepared | xactHasInfo, short(prepared[:20]), Commit{}, "cut short"},
		{"no time", xactCommit, nil, Commit{}, "expected a time stamp"},
		{"block reference", xactCommit, []byte{0, 1, 2}, Commit{}, "unexpected block id 0"},
		{"wrong length", xactCommit, []byte{idDataShort, 9, 1}, Commit{}, "does not fit"},
		{"wrong long length", xactCommit, []byte{idDataLong, 255, 255, 255, 255, 1}, Commit{}, "does not fit"},
		{"cut origin", xactCommit, []byte{idOrigin, 1}, Commit{}, "cut short"},
	} {
		r := Record{XID: 5, Manager: ManagerTransaction, Info: c.info, Major: 15, data: append(make([]byte, recordHeaderSize), c.body...)}
		got, err := r.Commit()
		if c.fail != "" {
			if err == nil || !strings.Contains(err.Error(), c.fail) {
				t.Errorf("%s: want an error with %q, got %v", c.name, c.fail, err)
			}
			continue
		}
		if err != nil || got != c.want {
			t.Errorf("%s: want %+v, got %+v, %v", c.name, c.want, got, err)
		}
	}
	if _, err := (Record{Manager: ManagerTransaction, Info: 0x20}).Commit(); !errors.Is(err, errNotCommit) {
		t.Errorf("an abort is no commit: got %v", err)
	}
}

// FuzzScan feeds arbitrary bytes as a segment: no panic, no end before the start, no record outside.
func FuzzScan(f *testing.F) {
	w := newWriter(MinSegmentSize, MinSegmentSize.Start(3), 1)
	w.add(10, 0, 1, make([]byte, 100))
	w.add(10, 0, 2, make([]byte, 10_000))
	w.add(ManagerTransaction, 0, 3, append([]byte{idDataShort, 8}, make([]byte, 8)...))
	f.Add(w.content, uint16(0))
	f.Add(w.content[:9000], uint16(3))
	w.switchSegment()
	f.Add(w.content[:20_000], uint16(8192))
	dir := f.TempDir()
	path := filepath.Join(dir, MinSegmentSize.Name(1, 3))
	f.Fuzz(func(t *testing.T, content []byte, skip uint16) {
		if len(content) > int(MinSegmentSize) {
			return
		}
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		start := MinSegmentSize.Start(3) + LSN(skip)&^7
		end, err := Scan(t.Context(), ScanConfig{Dir: dir, SegmentSize: MinSegmentSize, History: History{Timeline: 1}, Start: start}, func(r Record) error {
			if r.End <= r.Start || r.Length() > len(content) {
				t.Fatalf("impossible record %+v", r)
			}
			_, _ = r.Commit()
			return nil
		})
		if err != nil || end < start {
			t.Fatalf("end %s before start %s, %v", end, start, err)
		}
	})
}

// BenchmarkScan reads 64 MiB of small records, some four times what a failover usually has to.
func BenchmarkScan(b *testing.B) {
	dir := b.TempDir()
	w := newWriter(DefaultSegmentSize, DefaultSegmentSize.Start(3), 1)
	body := make([]byte, 120)
	for w.at < DefaultSegmentSize.Start(7) {
		w.add(10, 0, 1, body)
	}
	w.store(b, dir)
	b.SetBytes(int64(len(w.content)))
	for b.Loop() {
		_, err := Scan(b.Context(), ScanConfig{Dir: dir, SegmentSize: w.size, History: History{Timeline: 1}, Start: w.base}, func(Record) error { return nil })
		if err != nil {
			b.Fatal(err)
		}
	}
}
