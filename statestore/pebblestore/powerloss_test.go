package pebblestore_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"pgregory.net/rapid"

	"github.com/regent-infra/regent/statestore"
	"github.com/regent-infra/regent/statestore/pebblestore"
)

// TestPowerLossLeavesAPrefix takes the power away at a random moment: a prefix of the batches is left, none of them in part.
func TestPowerLossLeavesAPrefix(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		fs := vfs.NewCrashableMem()
		o := pebblestore.Options{Dir: "state", FS: fs, CacheBytes: 1 << 20, MemTableBytes: 1 << 20, TableBytes: 200}
		s, err := pebblestore.Open(o)
		if err != nil {
			rt.Fatal(err)
		}
		batches := rapid.IntRange(1, 60).Draw(rt, "batches")
		flushed := 0
		for i := 1; i <= batches; i++ {
			var b statestore.Batch
			size := rapid.SampledFrom([]int{0, 0, 100}).Draw(rt, "size") // the large ones become tables
			for k := range 3 {                                           // one batch's keys lie beside the others', or a table would have to wait for the memtable that it overlaps
				b.Put(fmt.Appendf(nil, "%04d/%d", i, k), make([]byte, size))
			}
			if err := s.Apply(&b); err != nil {
				rt.Fatal(err)
			}
			if rapid.IntRange(0, 20).Draw(rt, "flush") == 0 {
				if err := s.Flush(); err != nil {
					rt.Fatal(err)
				}
				flushed = i
			}
		}
		after := fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: rapid.IntRange(0, 100).Draw(rt, "percent"), RNG: rngOf(rapid.Uint64().Draw(rt, "seed"))})
		if err := s.Close(); err != nil {
			rt.Fatal(err)
		}
		o.FS = after
		if s, err = pebblestore.Open(o); err != nil {
			rt.Fatal(err)
		}
		last := 0
		for i := 1; i <= batches; i++ {
			if _, ok, err := s.Get(fmt.Appendf(nil, "%04d/0", i)); err != nil {
				rt.Fatal(err)
			} else if ok {
				last = i
			}
		}
		if last < flushed {
			rt.Fatalf("batch %d is the last although %d was flushed", last, flushed)
		}
		for k := range 3 {
			for i := 1; i <= batches; i++ {
				_, ok, err := s.Get(fmt.Appendf(nil, "%04d/%d", i, k))
				if err != nil || ok != (i <= last) {
					rt.Fatalf("key %d of batch %d: %v, %v; the last batch is %d", k, i, ok, err, last)
				}
			}
		}
		if err := s.Close(); err != nil {
			rt.Fatal(err)
		}
	})
}

// TestPowerLossInASwap takes the power away somewhere in a rebuild: the old generation or the new one is there, as a whole.
func TestPowerLossInASwap(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		fs := vfs.NewCrashableMem()
		o := pebblestore.Options{Dir: "state", FS: fs, CacheBytes: 1 << 20, MemTableBytes: 1 << 20}
		s, err := pebblestore.Open(o)
		if err != nil {
			rt.Fatal(err)
		}
		put(t, s, "a", "old")
		if err := s.Close(); err != nil {
			rt.Fatal(err)
		}
		if s, err = pebblestore.Stage(o); err != nil {
			rt.Fatal(err)
		}
		put(t, s, "a", "new")
		crash := func() *vfs.MemFS {
			return fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: rapid.IntRange(0, 100).Draw(rt, "percent"), RNG: rngOf(rapid.Uint64().Draw(rt, "seed"))})
		}
		want, after := "old", crash()
		promoted := rapid.Bool().Draw(rt, "promoted")
		if err := s.Promote(); err != nil {
			rt.Fatal(err)
		}
		if promoted {
			want, after = "new", crash()
		}
		if err := s.Close(); err != nil {
			rt.Fatal(err)
		}
		o.FS = after
		if s, err = pebblestore.Open(o); err != nil {
			rt.Fatal(err)
		}
		if got := get(t, s, "a"); got != want {
			rt.Fatalf("a is %s, expected %s", got, want)
		}
		if err := s.Close(); err != nil {
			rt.Fatal(err)
		}
	})
}

// What rapid found: a batch that goes through the log, then one that is added as files, which are durable at once. Without the sync in between the
// first was gone and the second there.
func TestPowerLossLeavesNoHoleBeforeATable(t *testing.T) {
	fs := vfs.NewCrashableMem()
	o := pebblestore.Options{Dir: "state", FS: fs, CacheBytes: 1 << 20, MemTableBytes: 1 << 20, TableBytes: 200}
	s, err := pebblestore.Open(o)
	if err != nil {
		t.Fatal(err)
	}
	var small, large statestore.Batch
	small.Put([]byte("1"), nil)
	large.Put([]byte("2"), make([]byte, o.TableBytes))
	if err := errors.Join(s.Apply(&small), s.Apply(&large)); err != nil {
		t.Fatal(err)
	}
	after := fs.CrashClone(vfs.CrashCloneCfg{})
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	o.FS = after
	if s, err = pebblestore.Open(o); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"1", "2"} {
		if _, ok, err := s.Get([]byte(key)); err != nil || !ok {
			t.Errorf("key %s: %v, %v", key, ok, err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}
