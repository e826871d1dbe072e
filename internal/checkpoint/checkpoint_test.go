package checkpoint_test

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/regent-infra/regent/internal/checkpoint"
	"github.com/regent-infra/regent/internal/clock"
	"github.com/regent-infra/regent/internal/record"
	"github.com/regent-infra/regent/internal/stream"
	"github.com/regent-infra/regent/statestore"
	"github.com/regent-infra/regent/statestore/pebblestore"
	"github.com/regent-infra/regent/statestore/statestoretest"
)

const cluster = "cluster-1"

var stamped = time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC)

// stopped is a clock that stands still.
type stopped struct {
	clock.System
	at time.Time
}

func (s stopped) Now() time.Time { return s.at }

// openStore opens a store in a directory of the test, with small memtables so that there are tables on disk.
func openStore(t testing.TB, dir string) *pebblestore.Store {
	t.Helper()
	s, err := pebblestore.Open(pebblestore.Options{Dir: dir, CacheBytes: 1 << 20, MemTableBytes: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil && !errors.Is(err, statestore.ErrClosed) {
			t.Error(err)
		}
	})
	return s
}

// fill writes entries with the position that they stand at, as a runtime does.
func fill(t testing.TB, s statestore.Store, out int64) {
	t.Helper()
	if err := statestore.Bind(s, cluster); err != nil {
		t.Fatal(err)
	}
	var b statestore.Batch
	for i := range out {
		b.Put(statestore.Key("reducer/nodes", 1, fmt.Appendf(nil, "key-%04d", i)), bytes.Repeat(fmt.Appendf(nil, "%d/%d;", i, out), 30))
	}
	p := stream.Position{
		FoldVersion: 3, Out: out, Changelog: [16]byte{0xab, 1}, StreamTime: stamped.Add(-time.Second), StampedAt: stamped, Tables: []string{"nodes"},
		Inputs: []stream.InputPosition{{TopicPartition: record.TopicPartition{Topic: "in", Partition: 1}, TopicID: [16]byte{7}, Next: out * 2}},
	}
	b.Put(statestore.PositionKey("reducer", 1), p.Encode())
	if err := s.Apply(&b); err != nil {
		t.Fatal(err)
	}
}

func all(t testing.TB, s statestore.Store) []string {
	t.Helper()
	return statestoretest.All(t, s, nil, nil)
}

func library(t testing.TB) checkpoint.Library {
	return checkpoint.NewLibrary(filepath.Join(t.TempDir(), "checkpoints"))
}

func create(t testing.TB, l checkpoint.Library, s statestore.Store, name string, at time.Time) checkpoint.Named {
	t.Helper()
	c, err := l.Create(t.Context(), s, name, checkpoint.Options{Program: "test", Clock: stopped{at: at}})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestACheckpointIsAsOfOneMoment(t *testing.T) {
	t.Parallel()
	s := openStore(t, filepath.Join(t.TempDir(), "state"))
	fill(t, s, 2000)
	want := all(t, s)
	l := library(t)
	c := create(t, l, s, "", stamped)
	if c.Name != "20260131T120000.000Z" || c.ClusterID != cluster || c.Program != "test" || !c.CreatedAt.Equal(stamped) {
		t.Fatalf("%+v", c.Manifest)
	}
	p, ok := c.Task("reducer", 1)
	if !ok || p.Out != 2000 || p.FoldVersion != 3 || p.ChangelogID != "ab010000000000000000000000000000" || !p.StampedAt.Equal(stamped) ||
		!slices.Equal(p.Inputs, []checkpoint.Input{{Topic: "in", TopicID: "07000000000000000000000000000000", Partition: 1, Next: 4000}}) {
		t.Fatalf("%+v", p)
	}
	fill(t, s, 2500) // the original goes on
	for range 2 {    // any number of readers
		copied, err := c.OpenStore()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = copied.Close() })
		if got := all(t, copied); !slices.Equal(got, want) {
			t.Fatalf("the checkpoint holds %d entries, expected %d", len(got), len(want))
		}
		if err := copied.Apply(&statestore.Batch{}); err == nil {
			t.Fatal("a checkpoint took a write")
		}
	}
	if err := c.Verify(t.Context()); err != nil {
		t.Fatalf("reading changed it: %v", err)
	}
	again, err := l.Open(c.Name)
	if err != nil || again.Bytes() != c.Bytes() || again.Bytes() == 0 {
		t.Fatalf("%v, %v", again, err)
	}
}

func TestAStoreBeginsWithACheckpoint(t *testing.T) {
	t.Parallel()
	s := openStore(t, filepath.Join(t.TempDir(), "state"))
	fill(t, s, 2000)
	want := all(t, s)
	c := create(t, library(t), s, "base", stamped)
	for _, dir := range []string{filepath.Join(t.TempDir(), "new"), filepath.Join(t.TempDir(), "old")} {
		if strings.HasSuffix(dir, "old") { // one that holds something else
			o := openStore(t, dir)
			fill(t, o, 10)
			if err := o.Close(); err != nil {
				t.Fatal(err)
			}
		}
		staged, err := c.Stage(pebblestore.Options{Dir: dir})
		if err != nil {
			t.Fatal(err)
		}
		fill(t, staged, 2100) // the new store goes on, the checkpoint does not
		if err := errors.Join(staged.Promote(), staged.Close()); err != nil {
			t.Fatal(err)
		}
		if got := all(t, openStore(t, dir)); len(got) != len(want)+100 {
			t.Fatalf("the new store holds %d entries, expected %d", len(got), len(want)+100)
		}
	}
	if err := c.Verify(t.Context()); err != nil {
		t.Fatal(err)
	}
	copied, err := c.OpenStore()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = copied.Close() }()
	if got := all(t, copied); !slices.Equal(got, want) {
		t.Fatal("the checkpoint has changed with the store that began with it")
	}
}

// exported returns an exported checkpoint and the entries in it.
func exported(t testing.TB, entries int64) ([]byte, []string) {
	t.Helper()
	s := openStore(t, filepath.Join(t.TempDir(), "state"))
	fill(t, s, entries)
	c := create(t, library(t), s, "base", stamped)
	var file bytes.Buffer
	if err := c.Export(t.Context(), &file); err != nil {
		t.Fatal(err)
	}
	return file.Bytes(), all(t, s)
}

func TestWhatIsImportedIsWhatWasExported(t *testing.T) {
	t.Parallel()
	file, want := exported(t, 2000)
	l := library(t)
	for _, name := range []string{"", "mine"} {
		c, err := l.Import(t.Context(), bytes.NewReader(file), name)
		if err != nil {
			t.Fatal(err)
		}
		if name == "" && c.Name != "20260131T120000.000Z" {
			t.Fatalf("it is called %s", c.Name)
		}
		if err := c.Verify(t.Context()); err != nil {
			t.Fatal(err)
		}
		s, err := c.OpenStore()
		if err != nil {
			t.Fatal(err)
		}
		if got := all(t, s); !slices.Equal(got, want) {
			t.Fatalf("imported %d entries, expected %d", len(got), len(want))
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if _, err := l.Import(t.Context(), bytes.NewReader(file), name); !errors.Is(err, checkpoint.ErrExists) {
			t.Fatalf("imported twice under one name: %v", err)
		}
	}
	expectNames(t, l, "20260131T120000.000Z", "mine")
}

// expectNames also finds what must not be left in the directory.
func expectNames(t testing.TB, l checkpoint.Library, want ...string) {
	t.Helper()
	entries, err := os.ReadDir(l.Dir())
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	if !slices.Equal(names, want) {
		t.Fatalf("the directory holds %v, expected %v", names, want)
	}
}

func TestADamagedFileIsNotImported(t *testing.T) {
	t.Parallel()
	file, _ := exported(t, 50)
	l := library(t)
	refuse := func(what string, damaged []byte) {
		t.Helper()
		if _, err := l.Import(t.Context(), bytes.NewReader(damaged), "x"); !errors.Is(err, checkpoint.ErrDamaged) {
			t.Fatalf("%s: %v", what, err)
		}
		expectNames(t, l)
	}
	refuse("nothing", nil)
	refuse("something else", []byte("not a checkpoint at all, only some text"))
	for _, n := range []int{1, 10, len(file) / 2, len(file) - 1} {
		refuse(fmt.Sprintf("the first %d bytes of %d", n, len(file)), file[:n])
	}
	for at := 0; at < len(file); at += max(len(file)/200, 1) {
		damaged := bytes.Clone(file)
		damaged[at] ^= 0x20
		// What is flipped may be a bit that means nothing (a reserved one of zstd's, say): then the content must be whole.
		c, err := l.Import(t.Context(), bytes.NewReader(damaged), "x")
		if err == nil {
			err = c.Verify(t.Context())
			if removed := l.Remove("x"); err != nil || removed != nil {
				t.Fatalf("byte %d: imported, but %v, %v", at, err, removed)
			}
			continue
		}
		if !errors.Is(err, checkpoint.ErrDamaged) && !errors.Is(err, checkpoint.ErrVersion) {
			t.Fatalf("byte %d: %v", at, err)
		}
		expectNames(t, l)
	}
}

// rewritten returns an exported checkpoint whose manifest and files went through a function.
func rewritten(t testing.TB, file []byte, change func(m map[string]any, names []string) []string) []byte {
	t.Helper()
	z, err := zstd.NewReader(bytes.NewReader(file))
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	content, names := map[string][]byte{}, []string{}
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if content[h.Name], err = io.ReadAll(r); err != nil {
			t.Fatal(err)
		}
		names = append(names, h.Name)
	}
	var m map[string]any
	if err := json.Unmarshal(content[names[0]], &m); err != nil {
		t.Fatal(err)
	}
	names = change(m, names)
	if content["checkpoint.json"], err = json.Marshal(m); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	w, err := zstd.NewWriter(&out)
	if err != nil {
		t.Fatal(err)
	}
	tw := tar.NewWriter(w)
	for _, n := range names {
		if err := tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: n, Size: int64(len(content[n])), Mode: 0o600}); err != nil {
			t.Fatal(err)
		}
		if _, err := tw.Write(content[n]); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(tw.Close(), w.Close()); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestAForgedFileIsNotImported(t *testing.T) {
	t.Parallel()
	file, _ := exported(t, 50)
	first := func(m map[string]any) map[string]any { return m["files"].([]any)[0].(map[string]any) }
	for what, c := range map[string]struct {
		change func(m map[string]any, names []string) []string
		err    error
		says   string
	}{
		"nothing":            {func(_ map[string]any, n []string) []string { return n }, nil, ""},
		"another version":    {func(m map[string]any, n []string) []string { m["format"] = 2; return n }, checkpoint.ErrVersion, "it has version 2, this program reads version 1"},
		"another store":      {func(m map[string]any, n []string) []string { m["store_format"] = 9; return n }, checkpoint.ErrVersion, "its state store has version 9"},
		"an unknown field":   {func(m map[string]any, n []string) []string { m["colour"] = "red"; return n }, checkpoint.ErrDamaged, `unknown field "colour"`},
		"no cluster":         {func(m map[string]any, n []string) []string { m["cluster_id"] = ""; return n }, checkpoint.ErrDamaged, "names no cluster"},
		"a way out":          {func(m map[string]any, n []string) []string { first(m)["name"] = "../../instance"; return n }, checkpoint.ErrDamaged, "expected a path inside of the store"},
		"an absolute way":    {func(m map[string]any, n []string) []string { first(m)["name"] = "/etc/passwd"; return n }, checkpoint.ErrDamaged, "expected a path inside of the store"},
		"another size":       {func(m map[string]any, n []string) []string { first(m)["size"] = 3; return n }, checkpoint.ErrDamaged, "has not the 3 bytes"},
		"a longer file":      {func(m map[string]any, n []string) []string { first(m)["size"] = 3000; return n }, checkpoint.ErrDamaged, "has not the 3000 bytes"},
		"another digest":     {func(m map[string]any, n []string) []string { first(m)["sha256"] = strings.Repeat("0", 64); return n }, checkpoint.ErrDamaged, "has the digest"},
		"no digest":          {func(m map[string]any, n []string) []string { first(m)["sha256"] = ""; return n }, checkpoint.ErrDamaged, "expected 64 hexadecimal digits"},
		"a file is missing":  {func(_ map[string]any, n []string) []string { return n[:len(n)-1] }, checkpoint.ErrDamaged, "is missing"},
		"a file too many":    {func(_ map[string]any, n []string) []string { return append(n, "instance") }, checkpoint.ErrDamaged, "instance does not belong to it"},
		"files in disorder":  {func(_ map[string]any, n []string) []string { n[1], n[2] = n[2], n[1]; return n }, checkpoint.ErrDamaged, "found"},
		"the manifest later": {func(_ map[string]any, n []string) []string { n[0], n[1] = n[1], n[0]; return n }, checkpoint.ErrDamaged, "with checkpoint.json first"},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			l := library(t)
			_, err := l.Import(t.Context(), bytes.NewReader(rewritten(t, file, c.change)), "x")
			if c.err == nil {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			if !errors.Is(err, c.err) || !strings.Contains(err.Error(), c.says) {
				t.Fatalf("%v, expected %q", err, c.says)
			}
			expectNames(t, l)
		})
	}
}

func TestWhatIsDamagedOnDiskIsFound(t *testing.T) {
	t.Parallel()
	for what, damage := range map[string]func(t *testing.T, dir, file string){
		"is missing": func(t *testing.T, _, file string) {
			if err := os.Remove(file); err != nil {
				t.Fatal(err)
			}
		},
		"expected": func(t *testing.T, _, file string) {
			raw, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			raw[len(raw)/2] ^= 1
			if err := errors.Join(os.Remove(file), os.WriteFile(file, raw, 0o600)); err != nil {
				t.Fatal(err)
			}
		},
		"stranger does not belong to it": func(t *testing.T, dir, _ string) {
			if err := os.WriteFile(filepath.Join(dir, "store", "stranger"), nil, 0o600); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			s := openStore(t, filepath.Join(t.TempDir(), "state"))
			fill(t, s, 500)
			c := create(t, library(t), s, "base", stamped)
			i := slices.IndexFunc(c.Files, func(f checkpoint.File) bool { return strings.HasSuffix(f.Name, ".sst") })
			damage(t, c.Dir(), filepath.Join(c.Dir(), "store", c.Files[i].Name))
			if err := c.Verify(t.Context()); !errors.Is(err, checkpoint.ErrDamaged) || !strings.Contains(err.Error(), what) {
				t.Fatal(err)
			}
			if what == "stranger does not belong to it" {
				return // an export does not look at it
			}
			if err := c.Export(t.Context(), io.Discard); err == nil {
				t.Fatal("a damaged checkpoint was exported")
			}
		})
	}
}

func TestNothingIdentifiesTheInstance(t *testing.T) {
	t.Parallel()
	const instance, password = "0199f1a2-7c1e-7000-8000-3f2b1a0c9d8e", "correct horse battery staple"
	data := t.TempDir()
	for name, content := range map[string]string{"instance": instance, "config.yaml": "password: " + password} {
		if err := os.WriteFile(filepath.Join(data, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s := openStore(t, filepath.Join(data, "state"))
	fill(t, s, 500)
	c := create(t, checkpoint.NewLibrary(filepath.Join(data, "checkpoints")), s, "base", stamped)
	var file bytes.Buffer
	if err := c.Export(t.Context(), &file); err != nil {
		t.Fatal(err)
	}
	z, err := zstd.NewReader(&file)
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	raw, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	host, _ := os.Hostname()
	for _, secret := range []string{instance, password, data, host} {
		if secret != "" && bytes.Contains(raw, []byte(secret)) {
			t.Errorf("the export holds %q", secret)
		}
	}
}

func TestALibraryListsAndRemoves(t *testing.T) {
	t.Parallel()
	s := openStore(t, filepath.Join(t.TempDir(), "state"))
	fill(t, s, 100)
	l := library(t)
	if list, err := l.List(); err != nil || len(list) != 0 {
		t.Fatalf("%v, %v", list, err)
	}
	create(t, l, s, "younger", stamped.Add(time.Hour))
	create(t, l, s, "elder", stamped)
	broken := create(t, l, s, "broken", stamped)
	if err := os.WriteFile(filepath.Join(broken.Dir(), "checkpoint.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(l.Dir(), "dead.unfinished", "store"), 0o750); err != nil {
		t.Fatal(err)
	}
	list, err := l.List()
	if err != nil || len(list) != 3 || list[0].Name != "elder" || list[1].Name != "younger" || list[2].Name != "broken" || !errors.Is(list[2].Err, checkpoint.ErrDamaged) {
		t.Fatalf("%+v, %v", list, err)
	}
	if _, err := l.Create(t.Context(), s, "elder", checkpoint.Options{}); !errors.Is(err, checkpoint.ErrExists) {
		t.Fatalf("created twice: %v", err)
	}
	for name := range maps.Keys(map[string]bool{"": true, "../x": true, ".hidden": true, "a/b": true, "x.unfinished": true, strings.Repeat("a", 101): true}) {
		if _, err := l.Open(name); err == nil || !strings.Contains(err.Error(), "expected 1 to 100 letters") {
			t.Errorf("open %q: %v", name, err)
		}
		if err := l.Remove(name); err == nil {
			t.Errorf("removed %q", name)
		}
	}
	if err := l.Remove("none"); !errors.Is(err, checkpoint.ErrNotFound) {
		t.Fatal(err)
	}
	if err := errors.Join(l.Remove("broken"), l.Remove("elder"), l.Sweep()); err != nil {
		t.Fatal(err)
	}
	expectNames(t, l, "younger")
	if got := all(t, s); len(got) != 102 {
		t.Fatalf("the store lost entries with the checkpoint: %d", len(got))
	}
}

func TestAnEmptyStoreHasNoCheckpoint(t *testing.T) {
	t.Parallel()
	s := openStore(t, filepath.Join(t.TempDir(), "state"))
	l := library(t)
	if _, err := l.Create(t.Context(), s, "x", checkpoint.Options{}); err == nil || !strings.Contains(err.Error(), "no processor has run on it yet") {
		t.Fatal(err)
	}
	if err := statestore.Bind(s, cluster); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Create(t.Context(), s, "x", checkpoint.Options{}); err == nil || !strings.Contains(err.Error(), "holds no positions") {
		t.Fatal(err)
	}
	expectNames(t, l)
}

func TestACheckpointSharesTables(t *testing.T) {
	t.Parallel()
	data := t.TempDir()
	s := openStore(t, filepath.Join(data, "state"))
	fill(t, s, 2000)
	c := create(t, checkpoint.NewLibrary(filepath.Join(data, "checkpoints")), s, "base", stamped)
	for _, f := range c.Files {
		info, err := os.Stat(filepath.Join(c.Dir(), "store", f.Name))
		if err != nil {
			t.Fatal(err)
		}
		links := info.Sys().(*syscall.Stat_t).Nlink
		if shared := strings.HasSuffix(f.Name, ".sst"); shared != (links > 1) {
			t.Errorf("%s has %d links", f.Name, links)
		}
	}
}
