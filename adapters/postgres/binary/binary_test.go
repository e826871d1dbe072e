package binary

import (
	"archive/zip"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

func TestParseVersion(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n": "15.18",
		"postgres (PostgreSQL) 18beta2\n":                        "18beta2",
		"initdb (PostgreSQL) 13.23\n":                            "13.23",
		"postgres (PostgreSQL) 9.6.24\n":                         "9.6",
	} {
		v, err := ParseVersion(text)
		if err != nil || v.String() != want {
			t.Errorf("%q: want %s, got %s, %v", text, want, v, err)
		}
	}
	_, err := ParseVersion("bash 5.2\nmore")
	if err == nil || err.Error() != `parse version of PostgreSQL: expected a line like "postgres (PostgreSQL) 15.4", got "bash 5.2"` {
		t.Errorf("another program: got %v", err)
	}
	for major, ok := range map[int]bool{9: false, 12: false, 13: true, 18: true, 19: false} {
		err := Version{Major: major}.Supported()
		if (err == nil) != ok || err != nil && (!errors.Is(err, ErrUnsupported) || err.Error() != fmt.Sprintf("unsupported PostgreSQL version %d.0: expected 13 to 18", major)) {
			t.Errorf("major %d: got %v", major, err)
		}
	}
}

func FuzzParseVersion(f *testing.F) {
	f.Add("postgres (PostgreSQL) 15.18 (Debian)")
	f.Add("(PostgreSQL) 99999999999999999999.1")
	f.Fuzz(func(t *testing.T, text string) {
		if v, err := ParseVersion(text); err == nil && v.Major < 0 {
			t.Fatalf("accepted %+v", v)
		}
	})
}

// install makes a folder of programs that say they are some version.
func install(t *testing.T, version string, names ...string) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range names {
		script := fmt.Sprintf("#!/bin/sh\necho '%s (PostgreSQL) %s'\n", name, version)
		if name == "pg_config" {
			script = "#!/bin/sh\necho " + version + "\n"
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(script), 0o755); err != nil { //nolint:gosec // a program
			t.Fatal(err)
		}
	}
	return dir
}

func TestFind(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	old, fourteen, sixteen := install(t, "12.3", "postgres", "initdb"), install(t, "14.9", "postgres", "initdb", "pg_ctl"), install(t, "16.2", "postgres", "initdb", "pg_rewind")
	noInit := install(t, "15.1", "postgres")
	links := t.TempDir()
	if err := os.Symlink(filepath.Join(fourteen, "postgres"), filepath.Join(links, "postgres")); err != nil {
		t.Fatal(err)
	}
	config := install(t, sixteen, "pg_config")
	none := []string{}
	for _, c := range []struct {
		name    string
		options FindOptions
		dir     string
		source  string
	}{
		{"given", FindOptions{Dir: fourteen}, fourteen, "given"},
		{"PATH", FindOptions{SearchPath: old + ":" + sixteen + ":" + fourteen, Patterns: none}, sixteen, "PATH"},
		{"PATH by version", FindOptions{SearchPath: sixteen + ":" + fourteen, Major: 14, Patterns: none}, fourteen, "PATH"},
		{"links in PATH", FindOptions{SearchPath: links, Patterns: none}, fourteen, "PATH"},
		{"pg_config", FindOptions{SearchPath: config, Patterns: none}, sixteen, "pg_config"},
		{"the newest of the distribution", FindOptions{SearchPath: "/nowhere", Patterns: []string{fourteen, sixteen, old, "[bad"}}, sixteen, "distribution"},
		{"the distribution's by version", FindOptions{SearchPath: "/nowhere", Major: 14, Patterns: []string{fourteen, sixteen}}, fourteen, "distribution"},
	} {
		set, err := Find(ctx, c.options)
		if err != nil || set.Dir != c.dir || set.Source != c.source {
			t.Errorf("%s: want %s by %s, got %+v, %v", c.name, c.dir, c.source, set, err)
		}
	}
	hint := ": install the distribution's postgresql package, name the folder with the programs, or let them be fetched"
	for _, c := range []struct {
		name    string
		options FindOptions
		is      error
		want    string
	}{
		{
			"nothing",
			FindOptions{SearchPath: "/nowhere", Patterns: none},
			ErrNotFound,
			"no PostgreSQL programs found for version 13 to 18 in PATH, by pg_config or in the distribution's folders" + hint,
		},
		{
			"old",
			FindOptions{SearchPath: old, Patterns: none},
			ErrUnsupported,
			"no PostgreSQL programs found for version 13 to 18: inspect PostgreSQL programs in " + old + ": unsupported PostgreSQL version 12.3: expected 13 to 18" + hint,
		},
		{
			"other major",
			FindOptions{SearchPath: sixteen, Major: 15, Patterns: none},
			ErrNotFound,
			"no PostgreSQL programs found for version 15: " + sixteen + " is PostgreSQL 16.2, expected 15" + hint,
		},
		{
			"given, missing",
			FindOptions{Dir: "/nowhere"},
			ErrNoTool,
			"no PostgreSQL programs found for version 13 to 18: inspect PostgreSQL programs in /nowhere: PostgreSQL program is missing: postgres: file does not exist" + hint,
		},
		{"no initdb", FindOptions{Dir: noInit}, ErrNoTool, "PostgreSQL program is missing: initdb: file does not exist"},
		{"major out of range", FindOptions{Major: 19}, ErrUnsupported, "find PostgreSQL programs: unsupported PostgreSQL version 19: expected 13 to 18"},
	} {
		_, err := Find(ctx, c.options)
		if err == nil || !errors.Is(err, c.is) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: want %q, got %v", c.name, c.want, err)
		}
	}
}

func TestSetReportsTools(t *testing.T) {
	t.Parallel()
	set, err := Inspect(t.Context(), install(t, "16.2", "postgres", "initdb", "pg_rewind"))
	if err != nil || !set.Has(ToolRewind) || set.Has(ToolBaseBackup) || len(set.Tools)+len(set.Missing()) != len(tools) {
		t.Errorf("got %+v, %v", set, err)
	}
	if path, err := set.Path(ToolRewind); err != nil || path != filepath.Join(set.Dir, "pg_rewind") {
		t.Errorf("got %s, %v", path, err)
	}
	want := "PostgreSQL program is missing: pg_basebackup is not in " + set.Dir + " (PostgreSQL 16.2, given)"
	if _, err := set.Path(ToolBaseBackup); !errors.Is(err, ErrNoTool) || err.Error() != want {
		t.Errorf("want %q, got %v", want, err)
	}
	broken := install(t, "", "postgres", "initdb")
	if err := os.WriteFile(filepath.Join(broken, "postgres"), []byte("#!/bin/sh\necho lost library >&2; exit 127\n"), 0o755); err != nil { //nolint:gosec // a program
		t.Fatal(err)
	}
	if _, err := Inspect(t.Context(), broken); err == nil || !strings.Contains(err.Error(), "--version: exit status 127: lost library") {
		t.Errorf("a broken program: got %v", err)
	}
}

// repository serves one archive the way Maven repositories do.
type repository struct {
	*httptest.Server
	jar      []byte
	checksum string
	requests atomic.Int64
}

const artifactPath = "/io/zonky/test/postgres/embedded-postgres-binaries-linux-test/15.99.0/embedded-postgres-binaries-linux-test-15.99.0.jar"

func serve(t *testing.T, txz string) *repository {
	t.Helper()
	var jar bytes.Buffer
	w := zip.NewWriter(&jar)
	if _, err := w.Create("META-INF/MANIFEST.MF"); err != nil {
		t.Fatal(err)
	}
	if txz != "" {
		content, err := os.ReadFile(filepath.Join("testdata", txz+".txz"))
		if err != nil {
			t.Fatal(err)
		}
		f, err := w.Create("postgres-linux-x86_64.txz")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Write(content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(jar.Bytes())
	r := &repository{jar: jar.Bytes(), checksum: hex.EncodeToString(sum[:])}
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		r.requests.Add(1)
		switch q.URL.Path {
		case artifactPath:
			_, _ = w.Write(r.jar)
		case artifactPath + ".sha256":
			_, _ = w.Write([]byte(r.checksum))
		default:
			http.NotFound(w, q)
		}
	}))
	t.Cleanup(r.Close)
	return r
}

func (r *repository) options(t *testing.T) FetchOptions {
	t.Helper()
	return FetchOptions{Version: "15.99.0", CacheDir: filepath.Join(t.TempDir(), "cache"), BaseURL: r.URL + "/", platform: "linux-test"}
}

func TestFetchVerifiesUnpacksAndCaches(t *testing.T) {
	t.Parallel()
	r := serve(t, "good")
	o := r.options(t)
	phases := map[string]int64{}
	o.OnProgress = func(p Progress) { phases[p.Phase] = p.Done }
	set, err := Fetch(t.Context(), o)
	if err != nil || set.Version.String() != "15.99" || set.Source != "fetched" || !set.Has(ToolInitdb) {
		t.Fatalf("got %+v, %v", set, err)
	}
	if phases["download"] != int64(len(r.jar)) || phases["unpack"] == 0 {
		t.Errorf("progress ended at %v of %d bytes", phases, len(r.jar))
	}
	if target, err := os.Readlink(filepath.Join(set.Dir, "..", "lib", "libx.so")); err != nil || target != "libx.so.1" {
		t.Errorf("the library's link: got %q, %v", target, err)
	}
	for dir := set.Dir; dir != filepath.Dir(o.CacheDir); dir = filepath.Dir(dir) {
		if info, err := os.Stat(dir); err != nil || info.Mode().Perm()&0o005 != 0o005 {
			t.Errorf("%s must be open to PostgreSQL's user: %v, %v", dir, info.Mode(), err)
		}
	}
	before := r.requests.Load()
	again, err := Fetch(t.Context(), o)
	if err != nil || again.Dir != set.Dir || r.requests.Load() != before+1 {
		t.Errorf("a second fetch must ask for the checksum alone: %d requests, %v", r.requests.Load()-before, err)
	}
	// What is in the cache is used as it is; what is broken there is replaced.
	if err := os.Remove(filepath.Join(set.Dir, "initdb")); err != nil {
		t.Fatal(err)
	}
	if again, err = Fetch(t.Context(), o); err != nil || !again.Has(ToolInitdb) {
		t.Errorf("a broken cache: got %+v, %v", again, err)
	}
}

func TestFetchByManyAtOnce(t *testing.T) {
	t.Parallel()
	o := serve(t, "good").options(t)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if _, err := Fetch(t.Context(), o); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	entries, err := os.ReadDir(o.CacheDir)
	if err != nil || len(entries) != 1 {
		t.Errorf("the cache holds %v, %v: want one folder", entries, err)
	}
}

func TestFetchRefuses(t *testing.T) {
	t.Parallel()
	refuse := func(name string, r *repository, change func(*FetchOptions), is error, want string) {
		t.Helper()
		o := r.options(t)
		if change != nil {
			change(&o)
		}
		_, err := Fetch(t.Context(), o)
		if err == nil || is != nil && !errors.Is(err, is) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: want %q, got %v", name, want, err)
		}
		if entries, err := os.ReadDir(o.CacheDir); err == nil && len(entries) != 0 {
			t.Errorf("%s: the cache holds %v", name, entries)
		}
		if _, err := os.Stat(filepath.Join(o.CacheDir, "..", "evil")); err == nil {
			t.Errorf("%s: something was written outside of the cache", name)
		}
	}
	bad := serve(t, "good")
	bad.checksum = strings.Repeat("0", 64)
	refuse("checksum", bad, nil, ErrChecksum, "checksum does not match: SHA-256 is ")
	text := serve(t, "good")
	text.checksum = "<html>"
	refuse("no checksum", text, nil, nil, `expected a SHA-256 in hexadecimal, got "<html>"`)
	empty := serve(t, "good")
	empty.checksum = ""
	refuse("empty checksum", empty, nil, nil, "expected a SHA-256, got nothing")
	cut := serve(t, "good")
	cut.jar = cut.jar[:len(cut.jar)/2]
	refuse("cut short", cut, nil, ErrChecksum, "checksum does not match")
	good := serve(t, "good")
	refuse("unpublished", good, func(o *FetchOptions) { o.Version = "15.98.0" }, nil, "expected status 200, got 404 Not Found: is this version published?")
	refuse("unreachable", good, func(o *FetchOptions) { o.BaseURL = "http://127.0.0.1:1" }, nil,
		"connection refused: set REGENT_MAVEN_URL to a repository that can be reached, or install PostgreSQL")
	refuse("version", good, func(o *FetchOptions) { o.Version = "15" }, nil, `expected three numbers like 15.19.0, got "15"`)
	refuse("unsupported", good, func(o *FetchOptions) { o.Version = "12.22.0" }, ErrUnsupported, "unsupported PostgreSQL version 12: expected 13 to 18")
	refuse("unsupported major", good, func(o *FetchOptions) { o.Version, o.Major = "", 19 }, ErrUnsupported, "unsupported PostgreSQL version 19: expected 13 to 18")
	for txz, want := range map[string]string{
		"traversal": `entry "../evil": the name leads out of the archive`, "absolute": `entry "/tmp/evil": the name leads out of the archive`,
		"link": `entry "./lib/out": the link to "../../evil" leads out of the archive`, "abslink": `the link to "/etc/passwd" leads out of the archive`,
		"fifo": `entry "./lib/pipe": unexpected kind of entry`, "empty": "PostgreSQL program is missing: postgres", "": "the jar holds no .txz",
	} {
		refuse(txz, serve(t, txz), nil, nil, want)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Fetch(ctx, good.options(t)); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: got %v", err)
	}
}

// A pinned archive that was replaced together with its published checksum is refused.
func TestFetchKnowsItsArchives(t *testing.T) {
	t.Parallel()
	for key, sum := range pinned {
		if raw, err := hex.DecodeString(sum); err != nil || len(raw) != sha256.Size {
			t.Errorf("%s: %q is no SHA-256", key, sum)
		}
	}
	for major := OldestMajor; major <= NewestMajor; major++ {
		if !strings.HasPrefix(releases[major], fmt.Sprint(major)+".") || pinned["linux-amd64/"+releases[major]] == "" {
			t.Errorf("PostgreSQL %d: release %q is not pinned", major, releases[major])
		}
	}
	r := serve(t, "good")
	r.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(r.checksum)) })
	_, err := Fetch(t.Context(), FetchOptions{Major: 15, CacheDir: t.TempDir(), BaseURL: r.URL, platform: "linux-amd64"})
	if !errors.Is(err, ErrChecksum) || !strings.Contains(err.Error(), "the archive was replaced") {
		t.Errorf("got %v", err)
	}
}

func TestPlatform(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		goos, arch string
		musl       bool
		want       string
	}{
		{"linux", "amd64", false, "linux-amd64"}, {"linux", "arm64", true, "linux-arm64v8-alpine"}, {"darwin", "arm64", false, "darwin-arm64v8"},
	} {
		if got, err := platform(c.goos, c.arch, c.musl); err != nil || got != c.want {
			t.Errorf("%s/%s: want %s, got %s, %v", c.goos, c.arch, c.want, got, err)
		}
	}
	want := "no PostgreSQL archives are published for plan9/amd64: install PostgreSQL and name its folder"
	if _, err := platform("plan9", "amd64", false); err == nil || err.Error() != want {
		t.Errorf("want %q, got %v", want, err)
	}
}

func TestLocate(t *testing.T) {
	t.Parallel()
	r := serve(t, "good")
	o := r.options(t)
	nothing := FindOptions{SearchPath: "/nowhere", Patterns: []string{}}
	if set, err := Locate(t.Context(), nothing, &o); err != nil || set.Source != "fetched" {
		t.Errorf("nothing installed: got %+v, %v", set, err)
	}
	if _, err := Locate(t.Context(), nothing, nil); !errors.Is(err, ErrNotFound) {
		t.Errorf("fetching not allowed: got %v", err)
	}
	installed := install(t, "16.2", "postgres", "initdb")
	if set, err := Locate(t.Context(), FindOptions{SearchPath: installed, Patterns: []string{}}, &o); err != nil || set.Dir != installed {
		t.Errorf("installed: got %+v, %v", set, err)
	}
	if _, err := Locate(t.Context(), FindOptions{Dir: "/nowhere"}, &o); !errors.Is(err, ErrNotFound) {
		t.Errorf("a folder was named and has none: got %v", err)
	}
	o.BaseURL = "http://127.0.0.1:1"
	if _, err := Locate(t.Context(), nothing, &o); !errors.Is(err, ErrNotFound) || !strings.Contains(err.Error(), "connection refused") {
		t.Errorf("neither installed nor to be fetched: got %v", err)
	}
}
