package pebblestore_test

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/regent-infra/regent/statestore"
	"github.com/regent-infra/regent/statestore/pebblestore"
	"github.com/regent-infra/regent/statestore/statestoretest"
)

func options(t testing.TB) pebblestore.Options {
	return pebblestore.Options{
		Dir: filepath.Join(t.TempDir(), "state"), CacheBytes: 1 << 20, MemTableBytes: 1 << 20,
		Logger: slog.New(slog.NewTextHandler(t.Output(), nil)),
	}
}

func mustOpen(t testing.TB, o pebblestore.Options) *pebblestore.Store {
	t.Helper()
	s, err := pebblestore.Open(o)
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	return s
}

func mustClose(t testing.TB, s *pebblestore.Store) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Fatalf("close: %v", err)
	}
}

func put(t testing.TB, s statestore.Store, key, value string) {
	t.Helper()
	var b statestore.Batch
	b.Put([]byte(key), []byte(value))
	if err := s.Apply(&b); err != nil {
		t.Fatalf("apply: %v", err)
	}
}

func get(t testing.TB, s statestore.Store, key string) string {
	t.Helper()
	v, ok, err := s.Get([]byte(key))
	if err != nil {
		t.Fatalf("get: %v", err)
	}
	if !ok {
		return "(none)"
	}
	return string(v)
}

func TestConformance(t *testing.T) {
	for name, tableBytes := range map[string]int{"log": 0, "tables": 1} {
		t.Run(name, func(t *testing.T) {
			statestoretest.Run(t, statestoretest.Harness{
				Open: func(t testing.TB) statestore.Store {
					o := options(t)
					o.TableBytes = tableBytes
					return mustOpen(t, o)
				},
				OpenCheckpoint: func(t testing.TB, dir string) statestore.Store {
					return mustOpen(t, pebblestore.Options{Dir: dir, CacheBytes: 1 << 20, MemTableBytes: 1 << 20})
				},
			})
		})
	}
}

func TestOptionsReportAllFaultsTogether(t *testing.T) {
	_, err := pebblestore.Open(pebblestore.Options{CacheBytes: 1, MemTableBytes: 2 << 30, TableBytes: -1})
	for _, want := range []string{"Dir", "CacheBytes", "MemTableBytes", "TableBytes"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v does not name %s", err, want)
		}
	}
	if _, err := pebblestore.Stage(pebblestore.Options{}); err == nil {
		t.Error("staged without a directory")
	}
}

func TestComesBack(t *testing.T) {
	o := options(t)
	s := mustOpen(t, o)
	put(t, s, "a", "1")
	mustClose(t, s)
	s = mustOpen(t, o)
	defer mustClose(t, s)
	if got := get(t, s, "a"); got != "1" {
		t.Fatalf("a is %s", got)
	}
}

func TestSecondOpenerIsRefused(t *testing.T) {
	o := options(t)
	s := mustOpen(t, o)
	defer mustClose(t, s)
	for name, open := range map[string]func(pebblestore.Options) (*pebblestore.Store, error){"open": pebblestore.Open, "stage": pebblestore.Stage} {
		_, err := open(o)
		if !errors.Is(err, statestore.ErrInUse) || !strings.Contains(err.Error(), "another process has it open") || !strings.Contains(err.Error(), o.Dir) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestForeignDirectoriesAreRefused(t *testing.T) {
	for name, c := range map[string]struct{ file, content, want string }{
		"newer version": {"ACTIVE", "regent-store 2 gen-000001\n", "this program reads version 1"},
		"gibberish":     {"ACTIVE", "something", `expected "regent-store 1 gen-000001`},
		"not a store":   {"precious.txt", "do not touch", "precious.txt"},
	} {
		t.Run(name, func(t *testing.T) {
			o := options(t)
			if err := os.MkdirAll(o.Dir, 0o750); err != nil {
				t.Fatal(err)
			}
			file := filepath.Join(o.Dir, c.file)
			if err := os.WriteFile(file, []byte(c.content), 0o600); err != nil {
				t.Fatal(err)
			}
			for range 2 { // and the refusal leaves no lock behind
				_, err := pebblestore.Open(o)
				if !errors.Is(err, statestore.ErrVersion) || !strings.Contains(err.Error(), c.want) {
					t.Fatalf("open: %v", err)
				}
			}
			if b, err := os.ReadFile(file); err != nil || string(b) != c.content {
				t.Fatalf("the file is %q, %v", b, err)
			}
		})
	}
}

func TestStoreOfAnotherVersionInsideIsRefused(t *testing.T) {
	o := options(t)
	s := mustOpen(t, o)
	put(t, s, string(statestore.MetaKey()), string(statestore.Meta{Format: 7}.Encode()))
	mustClose(t, s)
	if _, err := pebblestore.Open(o); !errors.Is(err, statestore.ErrVersion) {
		t.Fatalf("open: %v", err)
	}
}

func TestDirectoryThatCannotBeMade(t *testing.T) {
	o := options(t)
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	o.Dir = filepath.Join(file, "state")
	if _, err := pebblestore.Open(o); err == nil || !strings.Contains(err.Error(), "make the state store's directory") {
		t.Fatalf("open: %v", err)
	}
}

func TestStageAndPromote(t *testing.T) {
	o := options(t)
	s := mustOpen(t, o)
	put(t, s, "a", "old")
	if err := s.Promote(); err == nil {
		t.Fatal("promoted a store that was not staged")
	}
	mustClose(t, s)

	// One that is not promoted leaves no trace.
	staged, err := pebblestore.Stage(o)
	if err != nil {
		t.Fatal(err)
	}
	put(t, staged, "a", "abandoned")
	scratch := staged.Scratch("work")
	if err := os.MkdirAll(scratch, 0o750); err != nil {
		t.Fatal(err)
	}
	mustClose(t, staged)
	if _, err := os.Stat(filepath.Join(o.Dir, "gen-000002")); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("the abandoned generation is still there: %v", err)
	}
	s = mustOpen(t, o)
	if got := get(t, s, "a"); got != "old" {
		t.Fatalf("a is %s", got)
	}
	if _, err := os.Stat(scratch); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("scratch work outlived an open: %v", err)
	}
	mustClose(t, s)

	if staged, err = pebblestore.Stage(o); err != nil {
		t.Fatal(err)
	}
	if got := get(t, staged, "a"); got != "(none)" {
		t.Fatalf("a staged store begins with a = %s", got)
	}
	put(t, staged, "a", "new")
	if err := staged.Promote(); err != nil {
		t.Fatal(err)
	}
	mustClose(t, staged)
	s = mustOpen(t, o)
	defer mustClose(t, s)
	if got := get(t, s, "a"); got != "new" {
		t.Fatalf("a is %s", got)
	}
	if entries, err := filepath.Glob(filepath.Join(o.Dir, "gen-*")); err != nil || len(entries) != 1 {
		t.Fatalf("generations left: %v, %v", entries, err)
	}
}

// full is a file system that can become full.
func full(inner vfs.FS) (vfs.FS, *atomic.Bool) {
	var on atomic.Bool
	return errorfs.Wrap(inner, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if on.Load() && op.Kind.ReadOrWrite() == errorfs.OpIsWrite {
			return syscall.ENOSPC
		}
		return nil
	})), &on
}

func TestFullDiskStopsWithoutLoss(t *testing.T) {
	for name, write := range map[string]func(t *testing.T, s *pebblestore.Store) error{
		"apply": func(_ *testing.T, s *pebblestore.Store) error {
			for i := range 100_000 { // until a memtable is full and wants to be written
				var b statestore.Batch
				b.Put(fmt.Appendf(nil, "fill/%08d", i), make([]byte, 1000))
				if err := s.Apply(&b); err != nil {
					return err
				}
			}
			return nil
		},
		"flush": func(t *testing.T, s *pebblestore.Store) error {
			var b statestore.Batch
			b.Put([]byte("x"), []byte("y"))
			if err := s.Apply(&b); err != nil {
				t.Logf("apply: %v", err)
			}
			return s.Flush()
		},
		"load": func(t *testing.T, s *pebblestore.Store) error {
			return s.Load(t.Context(), func(yield func(k, v []byte) bool) { yield([]byte("x"), []byte("y")) })
		},
		"replace": func(t *testing.T, s *pebblestore.Store) error {
			return s.Replace(t.Context(), []byte("x"), []byte("z"), func(yield func(k, v []byte) bool) { yield([]byte("y"), nil) })
		},
	} {
		t.Run(name, func(t *testing.T) {
			mem := vfs.NewMem()
			fs, on := full(mem)
			o := pebblestore.Options{Dir: "state", FS: fs, CacheBytes: 1 << 20, MemTableBytes: 1 << 20}
			s := mustOpen(t, o)
			put(t, s, "before", "safe")
			if err := s.Flush(); err != nil {
				t.Fatal(err)
			}
			on.Store(true)
			err := write(t, s)
			if !errors.Is(err, syscall.ENOSPC) && (err == nil || !strings.Contains(err.Error(), "no space left")) {
				t.Fatalf("write to a full disk: %v", err)
			}
			if name == "apply" || name == "flush" {
				if !errors.Is(err, statestore.ErrFailed) {
					t.Fatalf("error %v does not say that the store has failed", err)
				}
				if err := s.Apply(&statestore.Batch{}); !errors.Is(err, statestore.ErrFailed) {
					t.Fatalf("a failed store takes a batch: %v", err)
				}
			}
			if got := get(t, s, "before"); got != "safe" {
				t.Fatalf("before is %s", got)
			}
			if err := s.Close(); err != nil && name != "load" && name != "replace" {
				t.Fatalf("close: %v", err)
			}
		})
	}
}

// TestFullDiskHeals reopens what a full disk has left, from a copy, as the process does that comes after.
func TestFullDiskHeals(t *testing.T) {
	mem := vfs.NewCrashableMem()
	fs, on := full(mem)
	o := pebblestore.Options{Dir: "state", FS: fs, CacheBytes: 1 << 20, MemTableBytes: 1 << 20}
	s := mustOpen(t, o)
	put(t, s, "before", "safe")
	if err := s.Flush(); err != nil {
		t.Fatal(err)
	}
	on.Store(true)
	var b statestore.Batch
	b.Put([]byte("later"), []byte("lost"))
	_ = s.Apply(&b)
	if err := s.Flush(); err == nil {
		t.Fatal("flushed to a full disk")
	}
	o.FS = mem.CrashClone(vfs.CrashCloneCfg{})
	_ = s.Close()
	s = mustOpen(t, o)
	defer mustClose(t, s)
	if got := get(t, s, "before"); got != "safe" {
		t.Fatalf("before is %s", got)
	}
	put(t, s, "later", "there")
}

func TestFailingOpenSaysWhy(t *testing.T) {
	for after := range 12 {
		var ops atomic.Int64
		fs := errorfs.Wrap(vfs.NewMem(), errorfs.InjectorFunc(func(op errorfs.Op) error {
			if op.Kind.ReadOrWrite() == errorfs.OpIsWrite && ops.Add(1) > int64(after) {
				return syscall.EIO
			}
			return nil
		}))
		s, err := pebblestore.Open(pebblestore.Options{Dir: "state", FS: fs})
		if err == nil {
			_ = s.Close()
			continue
		}
		if !strings.Contains(err.Error(), "state store") {
			t.Errorf("after %d writes: %v", after, err)
		}
	}
}

// What doctor asks for is what a store takes: no less, or a volume that it finds large enough is too small, and not much more.
func TestInitialBytesIsWhatANewStoreTakes(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "state")
	s := mustOpen(t, pebblestore.Options{Dir: dir})
	defer mustClose(t, s)
	for i := range 4 { // the first memtable is small, so that this starts a second log
		put(t, s, fmt.Sprint(i), strings.Repeat("v", 64<<10))
	}
	taken := allocated(t, dir)
	deadline, tick := time.NewTimer(10*time.Second), time.NewTicker(10*time.Millisecond)
	defer deadline.Stop()
	defer tick.Stop()
	for ; taken < pebblestore.InitialBytes*9/10; taken = allocated(t, dir) {
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatalf("a new store takes %d bytes, InitialBytes is %d", taken, pebblestore.InitialBytes)
		}
	}
	if taken > pebblestore.InitialBytes {
		t.Errorf("a new store takes %d bytes, InitialBytes is %d", taken, pebblestore.InitialBytes)
	}
}

// allocated returns the bytes that the files of a directory take on the disk.
func allocated(t *testing.T, dir string) (sum int64) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st syscall.Stat_t
		if err := syscall.Stat(path, &st); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		sum += st.Blocks * 512
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return sum
}

func TestReadOnlyChangesNothing(t *testing.T) {
	t.Parallel()
	o := options(t)
	if _, err := pebblestore.OpenReadOnly(o); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("opened what is not there: %v", err)
	}
	s := mustOpen(t, o)
	put(t, s, "a", "1")
	mustClose(t, s)
	before := tree(t, o.Dir)
	first, err := pebblestore.OpenReadOnly(o)
	if err != nil {
		t.Fatal(err)
	}
	second, err := pebblestore.OpenReadOnly(o)
	if err != nil {
		t.Fatalf("a second reader: %v", err)
	}
	for _, r := range []*pebblestore.Store{first, second} {
		if v := get(t, r, "a"); v != "1" {
			t.Fatalf("read %q", v)
		}
		var b statestore.Batch
		b.Put([]byte("a"), []byte("2"))
		if err := r.Apply(&b); err == nil {
			t.Fatal("it took a write")
		}
		if err := r.Checkpoint(filepath.Join(t.TempDir(), "c")); err == nil {
			t.Fatal("it made a checkpoint, which flushes")
		}
		mustClose(t, r)
	}
	if after := tree(t, o.Dir); after != before {
		t.Fatalf("reading changed the directory:\n%s\nexpected:\n%s", after, before)
	}
	mustClose(t, mustOpen(t, o))
}

// tree lists the files below a directory with their sizes.
func tree(t testing.TB, dir string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err == nil {
			fmt.Fprintln(&b, path, info.Size(), info.ModTime())
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestAStagedGenerationBeginsAsAnotherStore(t *testing.T) {
	t.Parallel()
	from, o := options(t), options(t)
	s := mustOpen(t, from)
	put(t, s, "a", "1")
	mustClose(t, s)
	s = mustOpen(t, o)
	put(t, s, "b", "2")
	mustClose(t, s)
	staged, err := pebblestore.StageFrom(o, from.Dir)
	if err != nil {
		t.Fatal(err)
	}
	put(t, staged, "a", "3")
	mustClose(t, staged) // not promoted: it never was
	s = mustOpen(t, o)
	if v := get(t, s, "b"); v != "2" {
		t.Fatalf("the active generation holds %q", v)
	}
	mustClose(t, s)
	if staged, err = pebblestore.StageFrom(o, from.Dir); err != nil {
		t.Fatal(err)
	}
	put(t, staged, "c", "4")
	if err := staged.Promote(); err != nil {
		t.Fatal(err)
	}
	mustClose(t, staged)
	s = mustOpen(t, o)
	if a, c := get(t, s, "a"), get(t, s, "c"); a != "1" || c != "4" {
		t.Fatalf("the new generation holds %q and %q", a, c)
	}
	mustClose(t, s)
	s = mustOpen(t, from)
	if a := get(t, s, "a"); a != "1" {
		t.Fatalf("the other store holds %q", a)
	}
	mustClose(t, s)
	if _, err := pebblestore.StageFrom(o, filepath.Join(t.TempDir(), "none")); err == nil {
		t.Fatal("began with a store that is not there")
	}
	mustClose(t, mustOpen(t, o))
}

// A store that cannot be read, such as one of a later version, is refused and left alone.
func TestStageFromLeavesAStoreOfAnotherVersionAlone(t *testing.T) {
	t.Parallel()
	from := pebblestore.Options{Dir: filepath.Join(t.TempDir(), "from")}
	o := pebblestore.Options{Dir: filepath.Join(t.TempDir(), "store")}
	for _, o := range []pebblestore.Options{from, o} {
		s, err := pebblestore.Open(o)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(o.Dir, "ACTIVE"), []byte("regent-store 999 gen-000001\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := pebblestore.StageFrom(o, from.Dir); !errors.Is(err, statestore.ErrVersion) {
		t.Fatalf("stage: %v, expected %v", err, statestore.ErrVersion)
	}
	if entries, err := os.ReadDir(filepath.Join(o.Dir, "gen-000001")); err != nil || len(entries) == 0 {
		t.Errorf("the store's generation after the refusal: %d files, %v", len(entries), err)
	}
}
