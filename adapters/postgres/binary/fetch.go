package binary

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/regent-infra/regent/internal/artifact"
)

// ErrChecksum is wrapped when an archive is not the one that was published.
var ErrChecksum = errors.New("checksum does not match")

const (
	maxArchive     = 256 << 20        // bytes; the archives have about 15 MB
	maxChecksum    = 4 << 10          // bytes of the published checksum file
	requestTimeout = 60 * time.Second // until the header of an answer
)

// Progress is told how far a fetch is. Total is 0 while unknown.
type Progress struct {
	Phase string // "download" or "unpack"
	Done  int64  // bytes
	Total int64  // bytes
}

// FetchOptions says what to fetch, and to where.
type FetchOptions struct {
	// Version is the archive's version, "15.19.0" for example. Empty: the release for Major.
	Version string
	// Major chooses a release when Version is empty. 0: the newest supported major version.
	Major int
	// CacheDir is where archives are unpacked, one folder each. Empty: [DefaultCacheDir].
	CacheDir string
	// BaseURL is the Maven repository. Empty: [artifact.Repository].
	BaseURL string
	// Client makes the requests. Nil: one that honours HTTPS_PROXY, HTTP_PROXY and NO_PROXY.
	Client *http.Client
	// OnProgress is called from the fetching goroutine, often. Nil: not at all.
	OnProgress func(Progress)
	// platform overrides this machine's, for tests.
	platform string
}

// DefaultCacheDir is /var/cache/regent/postgresql for root, because an unprivileged PostgreSQL must be able to run what is
// there, and the user's cache folder for everyone else.
func DefaultCacheDir() (string, error) {
	if os.Geteuid() == 0 {
		return "/var/cache/regent/postgresql", nil
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("find a cache folder for PostgreSQL programs: %w: name one", err)
	}
	return filepath.Join(dir, "regent", "postgresql"), nil
}

var archiveVersion = regexp.MustCompile(`^([0-9]{1,3})\.[0-9]{1,4}\.[0-9]{1,4}$`)

func (o FetchOptions) resolve() (FetchOptions, error) {
	if o.Version == "" {
		if o.Major == 0 {
			o.Major = NewestMajor
		}
		o.Version = releases[o.Major]
	}
	var major int
	if m := archiveVersion.FindStringSubmatch(o.Version); m != nil {
		major, _ = strconv.Atoi(m[1]) // at most three digits
	} else if o.Version != "" {
		return o, fmt.Errorf("version of a PostgreSQL archive: expected three numbers like 15.19.0, got %q", o.Version)
	} else {
		major = o.Major
	}
	if err := (Version{Major: major, Minor: -1, Text: strconv.Itoa(major)}).Supported(); err != nil {
		return o, err
	}
	var err error
	if o.CacheDir == "" {
		if o.CacheDir, err = DefaultCacheDir(); err != nil {
			return o, err
		}
	}
	if o.BaseURL == "" {
		o.BaseURL = artifact.Repository()
	}
	o.BaseURL = strings.TrimRight(o.BaseURL, "/")
	if o.platform == "" {
		if o.platform, err = thisPlatform(); err != nil {
			return o, err
		}
	}
	if o.Client == nil {
		transport := http.DefaultTransport.(*http.Transport).Clone() //nolint:forcetypeassert // documented to be one
		transport.ResponseHeaderTimeout = requestTimeout
		o.Client = &http.Client{Transport: transport}
	}
	if o.OnProgress == nil {
		o.OnProgress = func(Progress) {}
	}
	return o, nil
}

// Fetch returns the programs of a published archive, from the cache if they are there.
func Fetch(ctx context.Context, o FetchOptions) (Set, error) {
	o, err := o.resolve()
	if err != nil {
		return Set{}, fmt.Errorf("fetch PostgreSQL programs: %w", err)
	}
	defer o.Client.CloseIdleConnections()
	pin := pinned[o.platform+"/"+o.Version]
	if pin != "" {
		if set, ok := o.cached(ctx, pin); ok {
			return set, nil
		}
	}
	artifact := "embedded-postgres-binaries-" + o.platform
	url := fmt.Sprintf("%s/io/zonky/test/postgres/%s/%s/%s-%s.jar", o.BaseURL, artifact, o.Version, artifact, o.Version)
	published, err := o.publishedChecksum(ctx, url+".sha256")
	if err != nil {
		return Set{}, fmt.Errorf("fetch PostgreSQL %s: %w", o.Version, err)
	}
	if pin != "" && pin != published {
		return Set{}, fmt.Errorf("fetch PostgreSQL %s: %w: %s publishes SHA-256 %s, expected %s; the archive was replaced",
			o.Version, ErrChecksum, url, published, pin)
	}
	if set, ok := o.cached(ctx, published); ok {
		return set, nil
	}
	if err := o.install(ctx, url, published); err != nil {
		return Set{}, fmt.Errorf("fetch PostgreSQL %s: %w", o.Version, err)
	}
	set, err := Inspect(ctx, filepath.Join(o.folder(published), "bin"))
	set.Source = "fetched"
	return set, err
}

// folder is where the archive with this hash lives, unpacked.
func (o FetchOptions) folder(hash string) string {
	return filepath.Join(o.CacheDir, fmt.Sprintf("%s-%s-%s", o.Version, o.platform, hash[:16]))
}

func (o FetchOptions) cached(ctx context.Context, hash string) (Set, bool) {
	set, err := Inspect(ctx, filepath.Join(o.folder(hash), "bin"))
	set.Source = "fetched"
	return set, err == nil
}

func (o FetchOptions) get(ctx context.Context, url string) (*http.Response, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, fmt.Errorf("request %s: %w", url, err)
	}
	response, err := o.Client.Do(request)
	if err != nil {
		return nil, fmt.Errorf("reach the Maven repository: %w: set %s to a repository that can be reached, or install PostgreSQL",
			err, artifact.RepositoryVariable)
	}
	if response.StatusCode != http.StatusOK {
		_ = response.Body.Close()
		return nil, fmt.Errorf("get %s: expected status 200, got %s: is this version published?", url, response.Status)
	}
	return response, nil
}

func (o FetchOptions) publishedChecksum(ctx context.Context, url string) (string, error) {
	response, err := o.get(ctx, url)
	if err != nil {
		return "", err
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(response.Body, maxChecksum))
	if err != nil {
		return "", fmt.Errorf("get %s: %w", url, err)
	}
	fields := strings.Fields(string(body))
	if len(fields) == 0 {
		return "", fmt.Errorf("get %s: expected a SHA-256, got nothing", url)
	}
	sum, err := hex.DecodeString(fields[0])
	if err != nil || len(sum) != sha256.Size {
		return "", fmt.Errorf("get %s: expected a SHA-256 in hexadecimal, got %q", url, firstLine(fields[0]))
	}
	return hex.EncodeToString(sum), nil
}

// install downloads beside the final folder, verifies, unpacks, and moves into place with one rename.
func (o FetchOptions) install(ctx context.Context, url, hash string) error {
	if err := makeOpenDir(o.CacheDir); err != nil {
		return fmt.Errorf("create the cache: %w", err)
	}
	work, err := os.MkdirTemp(o.CacheDir, ".incoming-")
	if err != nil {
		return fmt.Errorf("create a working folder in the cache: %w", err)
	}
	defer func() { _ = os.RemoveAll(work) }() // what is left of a failure only takes room
	jar := filepath.Join(work, "archive.jar")
	if err := o.download(ctx, url, jar, hash); err != nil {
		return err
	}
	tree := filepath.Join(work, "tree")
	if err := unpackJar(ctx, jar, tree, o.OnProgress); err != nil {
		return fmt.Errorf("unpack %s: %w", url, err)
	}
	if _, err := Inspect(ctx, filepath.Join(tree, "bin")); err != nil {
		return fmt.Errorf("use %s: %w", url, err)
	}
	target := o.folder(hash)
	err = os.Rename(tree, target)
	if err != nil {
		if _, ok := o.cached(ctx, hash); ok {
			return nil // another process was faster
		}
		// A folder that is there but does not work: replace it.
		if err := os.RemoveAll(target); err != nil {
			return fmt.Errorf("replace %s: %w", target, err)
		}
		err = os.Rename(tree, target)
	}
	if err != nil {
		return fmt.Errorf("move the programs into the cache: %w", err)
	}
	return nil
}

// makeOpenDir creates a folder and its parents for everyone to pass through, whatever the umask: another user will run what is there. Folders
// that exist are left as they are.
func makeOpenDir(path string) error {
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := makeOpenDir(filepath.Dir(path)); err != nil {
		return err
	}
	if err := os.Mkdir(path, 0o755); err != nil && !errors.Is(err, os.ErrExist) { //nolint:gosec // see above
		return err
	}
	return os.Chmod(path, 0o755) //nolint:gosec // see above
}

func (o FetchOptions) download(ctx context.Context, url, path, hash string) (err error) {
	response, err := o.get(ctx, url)
	if err != nil {
		return err
	}
	defer func() { _ = response.Body.Close() }()
	file, err := os.Create(path)
	if err != nil {
		return fmt.Errorf("store %s: %w", url, err)
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	digest := sha256.New()
	report := &progressWriter{phase: "download", total: max(response.ContentLength, 0), report: o.OnProgress}
	n, err := io.Copy(io.MultiWriter(file, digest, report), io.LimitReader(response.Body, maxArchive+1))
	if err != nil {
		return fmt.Errorf("download %s: after %d bytes: %w", url, n, err)
	}
	if n > maxArchive {
		return fmt.Errorf("download %s: more than %d bytes, expected about 15 MB", url, maxArchive)
	}
	if got := hex.EncodeToString(digest.Sum(nil)); got != hash {
		return fmt.Errorf("download %s: %w: SHA-256 is %s, expected %s", url, ErrChecksum, got, hash)
	}
	return nil
}

// progressWriter counts what passes by.
type progressWriter struct {
	phase  string
	done   int64
	total  int64
	report func(Progress)
}

func (w *progressWriter) Write(p []byte) (int, error) {
	w.done += int64(len(p))
	w.report(Progress{Phase: w.phase, Done: w.done, Total: w.total})
	return len(p), nil
}
