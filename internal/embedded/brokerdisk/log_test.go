package brokerdisk

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// logWriter writes the files of one partition, as kfake does.
type logWriter struct {
	dir     string
	topic   Topic
	pd      partition
	segment int64           // bytes at which a segment is closed
	times   map[int64]int64 // time of the batch of each record that was read, by offset
}

func newLog(dir string, configs map[string]string) *logWriter {
	w := &logWriter{dir: dir, topic: Topic{Name: "t", ID: "AAAAAAAAAAAAAAAAAAAAAA==", Partitions: 1, Configs: configs}, segment: 1 << 20}
	w.pd = partition{topic: "t", dir: partitionDir(dir, "t", 0), open: map[int64]openTxn{}, windows: map[int64]*window{}}
	must(os.MkdirAll(w.pd.dir, 0o755))
	must(os.WriteFile(filepath.Join(dir, "meta.json"), []byte(`{"version":1,"cluster_id":"c"}`), 0o600))
	raw, err := json.Marshal(map[string]any{"version": 1, "topics": []Topic{w.topic}})
	must(err)
	must(os.WriteFile(filepath.Join(dir, "topics.json"), raw, 0o600))
	return w
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

// kv is a record to write; a value "-" is a tombstone.
type kv struct{ key, value string }

// batchOf builds a batch.
func batchOf(at int64, millis int64, pid int64, epoch int16, seq int32, txn bool, codec int16, recs ...kv) rawBatch {
	var plain []byte
	for i, r := range recs {
		rec := kmsg.Record{OffsetDelta: int32(i), Key: []byte(r.key), Value: []byte(r.value)}
		if r.value == "-" {
			rec.Value = nil
		}
		body := rec.AppendTo(nil) // with a length of zero, one byte
		rec.Length = int32(len(body) - 1)
		plain = rec.AppendTo(plain)
	}
	packed, codec, err := compress(plain, codec)
	must(err)
	attrs := codec
	if txn {
		attrs |= attrTransactional
	}
	b := kmsg.RecordBatch{
		FirstOffset: at, Magic: 2, Attributes: attrs, LastOffsetDelta: int32(len(recs) - 1), FirstTimestamp: millis, MaxTimestamp: millis,
		ProducerID: pid, ProducerEpoch: epoch, FirstSequence: seq, NumRecords: int32(len(recs)), Records: packed,
	}
	raw := rawBatch(b.AppendTo(nil))
	binary.BigEndian.PutUint32(raw[atLength:], uint32(len(raw)-lengthOverhead))
	raw.setCRC()
	return raw
}

// write appends a batch.
func (w *logWriter) write(b rawBatch) {
	if len(w.pd.bases) == 0 || w.pd.size >= w.segment {
		w.pd.bases = append(w.pd.bases, b.baseOffset())
		w.pd.size = 0
	}
	must(w.pd.append(b))
	w.pd.size += int64(len(b))
}

// data appends a batch at the end.
func (w *logWriter) data(millis, pid int64, txn bool, codec int16, recs ...kv) {
	w.write(batchOf(w.pd.end.offset, millis, pid, 0, int32(w.pd.end.offset), txn, codec, recs...))
}

// end appends a marker.
func (w *logWriter) end(millis, pid int64, commit bool) {
	w.write(marker(pid, 0, commit, w.pd.end, millis))
}

// seen is a record as a read_committed reader sees it.
type seen struct {
	offset     int64
	key, value string
}

// read returns what a read_committed reader sees, by its own reading of the files: the batches in order, without those of
// transactions that end in an abort or do not end.
func (w *logWriter) read() (all []seen, next int64) {
	bases, err := listSegments(w.pd.dir)
	must(err)
	type held struct{ records []seen }
	open := make(map[int64]*held)
	byOffset := make(map[int64]seen)
	w.times = make(map[int64]int64)
	for _, base := range bases {
		raw, err := os.ReadFile(segmentPath(w.pd.dir, base))
		must(err)
		for pos := 0; pos < len(raw); {
			b, ok := nextBatch(raw[pos:])
			if !ok {
				panic(fmt.Sprintf("segment %d is unreadable at %d", base, pos))
			}
			pos += len(b)
			if b.baseOffset() < next {
				panic("offsets fall")
			}
			next = b.nextOffset()
			if b.isControl() {
				if h := open[b.producerID()]; h != nil && !b.isAbort() {
					for _, s := range h.records {
						byOffset[s.offset] = s
					}
				}
				delete(open, b.producerID())
				continue
			}
			_, err := eachRecord(b, func(r record) {
				s := seen{r.offset, string(r.key), string(r.value)}
				w.times[r.offset] = b.firstTime()
				if r.value == nil {
					s.value = "-"
				}
				if !b.isTransactional() {
					byOffset[s.offset] = s
					return
				}
				h := open[b.producerID()]
				if h == nil {
					h = &held{}
					open[b.producerID()] = h
				}
				h.records = append(h.records, s)
			})
			must(err)
		}
	}
	for o := range next {
		if s, ok := byOffset[o]; ok {
			all = append(all, s)
		}
	}
	return all, next
}

func (w *logWriter) recover(t interface {
	Helper()
	Fatal(...any)
},
) Report {
	t.Helper()
	f := openIntent(t, filepath.Join(w.dir, "..", "intent"))
	defer func() { _ = f.Close() }()
	report, err := Recover(Recovery{Dir: w.dir, Intent: f, NowMillis: 1})
	if err != nil {
		t.Fatal(err)
	}
	return report
}

func TestRecoverCutsATornEndAndKeepsTheRest(t *testing.T) {
	for _, cut := range []int{1, 11, 12, 60, 61, 70} {
		w := newLog(filepath.Join(t.TempDir(), "b"), nil)
		w.data(1, -1, false, 0, kv{"a", "1"})
		w.data(1, -1, false, 0, kv{"b", "2"}, kv{"c", "3"})
		path := segmentPath(w.pd.dir, 0)
		raw, err := os.ReadFile(path)
		must(err)
		next := batchOf(3, 1, -1, 0, -1, false, 0, kv{"d", "4"})
		must(os.WriteFile(path, append(raw, next[:min(cut, len(next)-1)]...), 0o600))
		report := w.recover(t)
		got, end := w.read()
		if len(got) != 3 || end != 3 || report.TornBytes != min(cut, len(next)-1) {
			t.Errorf("cut at %d: %v, end %d, %d bytes cut off", cut, got, end, report.TornBytes)
		}
	}
}

func TestRecoverRefusesDamageInTheMiddle(t *testing.T) {
	w := newLog(filepath.Join(t.TempDir(), "b"), nil)
	for i := range 3 {
		w.data(1, -1, false, 0, kv{strconv.Itoa(i), "value"})
	}
	path := segmentPath(w.pd.dir, 0)
	raw, err := os.ReadFile(path)
	must(err)
	raw[len(raw)/2] ^= 1
	must(os.WriteFile(path, raw, 0o600))
	f := openIntent(t, filepath.Join(t.TempDir(), "intent"))
	defer func() { _ = f.Close() }()
	_, err = Recover(Recovery{Dir: w.dir, Intent: f})
	if !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), "scan partition t/0") || !strings.Contains(err.Error(), "although sound data follows; restore the data directory from a copy") {
		t.Errorf("error is %v", err)
	}
}

func TestRecoverDerivesTheIndexFromTheBatches(t *testing.T) {
	w := newLog(filepath.Join(t.TempDir(), "b"), nil)
	w.data(1, 7, true, 0, kv{"a", "1"})
	w.end(2, 7, true)
	w.data(3, 7, true, 0, kv{"a", "2"})
	path := indexPath(w.pd.dir, 0)
	good, err := os.ReadFile(path)
	must(err)
	for name, bad := range map[string][]byte{
		"missing": nil, "one entry short": good[:len(good)-indexEntrySize], "torn": good[:len(good)-3],
		"one too many": append(append([]byte(nil), good...), good[:indexEntrySize]...), "foreign": make([]byte, len(good)),
	} {
		v := newLog(filepath.Join(t.TempDir(), "b"), nil)
		raw, err := os.ReadFile(segmentPath(w.pd.dir, 0))
		must(err)
		must(os.WriteFile(segmentPath(v.pd.dir, 0), raw, 0o600))
		if bad != nil {
			must(os.WriteFile(indexPath(v.pd.dir, 0), bad, 0o600))
		}
		report := v.recover(t)
		fixed, err := os.ReadFile(indexPath(v.pd.dir, 0))
		must(err)
		if report.Indexes != 1 || !sameIndex(fixed[:len(good)], good) || len(fixed) != len(good)+indexEntrySize {
			t.Errorf("%s: the index was not repaired (%d)", name, report.Indexes)
		}
		if report.Aborted != 1 {
			t.Errorf("%s: %d transactions aborted", name, report.Aborted)
		}
		if got, _ := v.read(); len(got) != 1 || got[0].value != "1" {
			t.Errorf("%s: committed records are %v", name, got)
		}
	}
}

func TestRecoverCutsTornStateLogs(t *testing.T) {
	w := newLog(filepath.Join(t.TempDir(), "b"), nil)
	entry := appendFrame(nil, []byte(`{"type":"commit","g":"g","t":"t","o":1}`))
	pid := appendFrame(nil, []byte(`{"type":"init","pid":7,"epoch":3,"txid":"x","commit":true}`))
	must(os.WriteFile(filepath.Join(w.dir, "groups.log"), append(append([]byte(nil), entry...), entry[:20]...), 0o600))
	must(os.WriteFile(filepath.Join(w.dir, "pids.log"), append(append([]byte(nil), pid...), pid[:20]...), 0o600))
	w.recover(t)
	if raw, err := os.ReadFile(filepath.Join(w.dir, "groups.log")); err != nil || len(raw) != len(entry) {
		t.Errorf("groups.log has %d bytes (%v), %d expected", len(raw), err, len(entry))
	}
	known, err := readProducers(w.dir)
	if err != nil || known[7] == nil || known[7].Epoch != 4 || known[7].Commit == nil || *known[7].Commit {
		t.Errorf("producer is %+v (%v): fenced, and without a result of its last transaction, was expected", known[7], err)
	}
}

func TestRecoverRemovesFilesOfDeletedTopics(t *testing.T) {
	w := newLog(filepath.Join(t.TempDir(), "b"), nil)
	w.data(1, -1, false, 0, kv{"a", "1"})
	orphan := partitionDir(w.dir, "gone", 0)
	must(os.MkdirAll(orphan, 0o755))
	must(os.WriteFile(segmentPath(orphan, 0), []byte("x"), 0o600))
	if report := w.recover(t); report.Orphans != 1 {
		t.Errorf("%d orphans", report.Orphans)
	}
	if _, err := os.Stat(orphan); !os.IsNotExist(err) {
		t.Errorf("orphan is still there: %v", err)
	}
	if got, _ := w.read(); len(got) != 1 {
		t.Errorf("records are %v", got)
	}
}

func TestRecoverRefusesToForgetAllTopics(t *testing.T) {
	w := newLog(filepath.Join(t.TempDir(), "b"), nil)
	w.data(1, -1, false, 0, kv{"a", "1"})
	must(os.Remove(filepath.Join(w.dir, "topics.json")))
	f := openIntent(t, filepath.Join(t.TempDir(), "intent"))
	defer func() { _ = f.Close() }()
	if _, err := Recover(Recovery{Dir: w.dir, Intent: f}); !errors.Is(err, ErrFormat) || !strings.Contains(err.Error(), "it is missing, but there are partitions") {
		t.Errorf("error is %v", err)
	}
}

func TestRetentionPoint(t *testing.T) {
	w := newLog(filepath.Join(t.TempDir(), "b"), nil)
	w.segment = 300
	for i := range 20 {
		w.data(int64(1000*(i+1)), -1, false, 0, kv{"k", "0123456789"})
	}
	size := int64(len(batchOf(0, 0, -1, 0, 0, false, 0, kv{"k", "0123456789"})))
	for _, c := range []struct {
		name string
		r    Retention
		want int64
	}{
		{"nothing has expired", Retention{Limit: 19, Before: 500}, 0},
		{"by time", Retention{Limit: 19, Before: 5001}, 5},
		{"by time, exactly", Retention{Limit: 19, Before: 5000}, 4},
		{"all but the last", Retention{Limit: 19, Before: 1 << 60}, 19},
		{"up to an open transaction", Retention{Limit: 7, Before: 1 << 60}, 7},
		{"by size", Retention{Limit: 19, ExcessBytes: 3*size - 1}, 3},
		{"by size, exactly", Retention{Limit: 19, ExcessBytes: 3 * size}, 3},
		{"by size, a byte more", Retention{Limit: 19, ExcessBytes: 3*size + 1}, 4},
		{"from the log's start", Retention{Limit: 19, LogStart: 9, ExcessBytes: 2 * size}, 11},
		{"from the log's start, in the last segment", Retention{Limit: 19, LogStart: 18, Before: 1 << 60}, 19},
	} {
		c.r.Dir, c.r.Topic = w.dir, "t"
		if got, err := RetentionPoint(c.r); err != nil || got != c.want {
			t.Errorf("%s: %d (%v), %d expected", c.name, got, err, c.want)
		}
	}
}
