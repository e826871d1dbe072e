package basebackup

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"math/bits"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// archive makes a tar of the given entries.
func archive(t testing.TB, entries ...tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range entries {
		content := []byte(h.PAXRecords["content"])
		h.PAXRecords = nil
		h.Size = int64(len(content))
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func file(name, content string) tar.Header {
	return tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o600, PAXRecords: map[string]string{"content": content}}
}

func newTestTree(t testing.TB) *tree {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "copy")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = root.Close() })
	o, err := Options{DataDir: "/x"}.resolve()
	if err != nil {
		t.Fatal(err)
	}
	return newTree(root, dir, o)
}

func TestUnpackStaysInside(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		header tar.Header
		want   string
	}{
		{file("../evil", "x"), "its name leads out of the data directory"},
		{file("/evil", "x"), "its name leads out of the data directory"},
		{file("a/../../evil", "x"), "its name leads out of the data directory"},
		{tar.Header{Name: "pg_tblspc/1", Typeflag: tar.TypeSymlink, Linkname: "/evil"}, `it is a link to "/evil", expected files and folders`},
		{tar.Header{Name: "hard", Typeflag: tar.TypeLink, Linkname: "PG_VERSION"}, "it is a link to"},
		{tar.Header{Name: "pipe", Typeflag: tar.TypeFifo}, "unexpected kind of entry"},
		{file("PG_VERSION", "twice"), "file exists"},
	} {
		tr := newTestTree(t)
		err := tr.unpack(t.Context(), bytes.NewReader(archive(t, file("PG_VERSION", "15"), c.header)))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: want %q, got %v", c.header.Name, c.want, err)
		}
		entries, err := os.ReadDir(filepath.Dir(tr.path))
		if err != nil || len(entries) != 1 {
			t.Errorf("%s: something was written outside: %v, %v", c.header.Name, entries, err)
		}
	}
	tr := newTestTree(t)
	if err := tr.unpack(t.Context(), bytes.NewReader(archive(t, file("a/b/c", "deep"), tar.Header{Name: "./", Typeflag: tar.TypeDir}))); err != nil {
		t.Error(err)
	}
	if got := tr.files["a/b/c"]; got.size != 4 {
		t.Errorf("got %+v", tr.files)
	}
}

// manifestOf writes a manifest with its own checksum.
func manifestOf(lines ...string) []byte {
	body := "{ \"PostgreSQL-Backup-Manifest-Version\": 1,\n\"Files\": [\n" + strings.Join(lines, ",\n") + "\n],\n"
	sum := sha256.Sum256([]byte(body))
	return []byte(body + "\"Manifest-Checksum\": \"" + hex.EncodeToString(sum[:]) + "\"}\n")
}

func entry(path, content string) string {
	crc := bits.ReverseBytes32(crc32.Checksum([]byte(content), castagnoli))
	return fmt.Sprintf(`{ "Path": %q, "Size": %d, "Checksum-Algorithm": "CRC32C", "Checksum": "%08x" }`, path, len(content), crc)
}

func TestVerify(t *testing.T) {
	t.Parallel()
	must := []string{entry("PG_VERSION", "15"), entry("global/pg_control", "c"), entry("backup_label", "l")}
	for _, c := range []struct {
		name     string
		manifest []byte
		want     string
	}{
		{"whole", manifestOf(must...), ""},
		{"encoded path", manifestOf(append(must, `{ "Encoded-Path": "`+hex.EncodeToString([]byte("odd"))+`", "Size": 1 }`)...), "odd is missing"},
		{"missing", manifestOf(append(must, entry("base/1/2", "x"))...), "base/1/2 is missing"},
		{"size", manifestOf(must[1], must[2], entry("PG_VERSION", "156")), "PG_VERSION has 2 bytes, expected 3"},
		{"content", manifestOf(must[1], must[2], entry("PG_VERSION", "16")), "PG_VERSION has checksum"},
		{"changed manifest", bytes.Replace(manifestOf(must...), []byte("PG_VERSION"), []byte("PG_version"), 1), "the manifest does not have its own checksum"},
		{"no manifest", nil, "read the manifest"},
		{"version", []byte(`{"PostgreSQL-Backup-Manifest-Version": 9}`), "expected version 1 or 2, got 9"},
		{"no checksum", []byte(`{"PostgreSQL-Backup-Manifest-Version": 2}`), "it has no checksum"},
		{"no path", manifestOf(`{"Size": 1}`), "a file has no path"},
		{"bad path", manifestOf(`{"Encoded-Path": "zz", "Size": 1}`), `path "zz"`},
		{"bad checksum", manifestOf(`{"Path": "a", "Size": 1, "Checksum-Algorithm": "CRC32C", "Checksum": "1"}`), "expected 8 hexadecimal digits"},
	} {
		tr := newTestTree(t)
		if err := tr.unpack(t.Context(), bytes.NewReader(archive(t, file("PG_VERSION", "15"), file("global/pg_control", "c"), file("backup_label", "l")))); err != nil {
			t.Fatal(err)
		}
		tr.manifest = c.manifest
		err := tr.verify()
		if c.want == "" {
			if err != nil {
				t.Errorf("%s: %v", c.name, err)
			}
			continue
		}
		if !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: want ErrDamaged with %q, got %v", c.name, c.want, err)
		}
	}
	tr := newTestTree(t)
	tr.manifest = manifestOf()
	if err := tr.verify(); !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), "PG_VERSION is missing") {
		t.Errorf("an empty copy: got %v", err)
	}
}

func TestCommandDialects(t *testing.T) {
	t.Parallel()
	o := Options{Label: "x", MaxRate: 64}
	if got, want := o.command(14), "BASE_BACKUP LABEL 'x' PROGRESS FAST WAL MAX_RATE 64 MANIFEST 'yes' MANIFEST_CHECKSUMS 'CRC32C'"; got != want {
		t.Errorf("14: want %s, got %s", want, got)
	}
	if got, want := o.command(15), "BASE_BACKUP (LABEL 'x', PROGRESS, WAL, MANIFEST 'yes', MANIFEST_CHECKSUMS 'CRC32C', WAIT true, CHECKPOINT 'fast', MAX_RATE 64)"; got != want {
		t.Errorf("15: want %s, got %s", want, got)
	}
	o.SpreadCheckpoint = true
	if strings.Contains(o.command(14)+o.command(15), "FAST") || strings.Contains(o.command(15), "CHECKPOINT") {
		t.Error("a spread checkpoint was not asked for")
	}
}

func FuzzUnpack(f *testing.F) {
	f.Add(archive(f, file("PG_VERSION", "15"), file("a/b", "x")))
	f.Add(archive(f, file("../evil", "x")))
	f.Fuzz(func(t *testing.T, content []byte) {
		tr := newTestTree(t)
		_ = tr.unpack(t.Context(), bytes.NewReader(content))
		if entries, err := os.ReadDir(filepath.Dir(tr.path)); err != nil || len(entries) != 1 {
			t.Fatalf("something was written outside: %v, %v", entries, err)
		}
	})
}

func FuzzParseManifest(f *testing.F) {
	f.Add(manifestOf(entry("PG_VERSION", "15")))
	f.Add([]byte("{}"))
	f.Fuzz(func(_ *testing.T, content []byte) { _, _ = parseManifest(content) })
}
