// Package artifact fetches published files from a Maven repository: PostgreSQL programs and the jars of test servers.
//
// Every file is pinned by its SHA-256, downloaded beside its final place, verified and moved there with one rename, so that a
// killed download leaves nothing that looks complete, and a second run needs no network.
package artifact

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
	"reflect"
	"strings"

	embeddedpostgres "github.com/fergusstrange/embedded-postgres"
	"golang.org/x/sync/errgroup"
)

// RepositoryVariable names the environment variable that replaces the public repository, for sites with a mirror of their own.
const RepositoryVariable = "REGENT_MAVEN_URL"

// CacheVariable names the environment variable that replaces the user's cache folder.
const CacheVariable = "REGENT_CACHE"

// maxSize bounds one file, bytes.
const maxSize = 256 << 20

// parallel is how many downloads run at once.
const parallel = 8

// ErrChecksum is wrapped when a file is not the one that was pinned.
var ErrChecksum = errors.New("checksum does not match")

// Repository returns the base URL of the repository, without a slash at its end: the environment's, else the public one that the
// embedded-postgres library fetches the same archives from, so that its address is kept in one place.
func Repository() string {
	if url := os.Getenv(RepositoryVariable); url != "" {
		return strings.TrimRight(url, "/")
	}
	url := reflect.ValueOf(embeddedpostgres.DefaultConfig()).FieldByName("binaryRepositoryURL")
	return strings.TrimRight(url.String(), "/")
}

// File is one file of the repository.
type File struct {
	// Path is relative to the repository, such as org/slf4j/slf4j-api/1.7.36/slf4j-api-1.7.36.jar.
	Path string
	// SHA256 is its checksum, hexadecimal.
	SHA256 string
}

// CacheDir returns the folder outside any source tree where fetched files are kept: that of [CacheVariable], else the user's cache folder.
func CacheDir() (string, error) {
	if dir := os.Getenv(CacheVariable); dir != "" {
		return dir, nil
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("find a cache folder: %w: set %s", err, CacheVariable)
	}
	return filepath.Join(dir, "regent"), nil
}

// FetchAll makes sure that dir holds every file under its base name, and downloads what is missing.
func FetchAll(ctx context.Context, dir string, files []File) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("make the folder for fetched files: %w", err)
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(parallel)
	for _, f := range files {
		group.Go(func() error { return fetch(ctx, dir, f) })
	}
	return group.Wait()
}

func fetch(ctx context.Context, dir string, f File) error {
	final := filepath.Join(dir, filepath.Base(f.Path))
	if _, err := os.Stat(final); err == nil {
		return nil
	}
	url := Repository() + "/" + f.Path
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return fmt.Errorf("fetch %s: %w", f.Path, err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return fmt.Errorf("fetch %s: %w: set %s to a repository that can be reached", f.Path, err, RepositoryVariable)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("fetch %s: expected status 200, got %s", f.Path, response.Status)
	}
	temp, err := os.CreateTemp(dir, ".fetch-*")
	if err != nil {
		return fmt.Errorf("fetch %s: %w", f.Path, err)
	}
	defer os.Remove(temp.Name()) // gone already when the rename succeeded
	hash := sha256.New()
	if _, err := io.Copy(io.MultiWriter(temp, hash), io.LimitReader(response.Body, maxSize)); err != nil {
		return errors.Join(fmt.Errorf("fetch %s: %w", f.Path, err), temp.Close())
	}
	if err := errors.Join(temp.Chmod(0o644), temp.Close()); err != nil {
		return fmt.Errorf("fetch %s: %w", f.Path, err)
	}
	if got := hex.EncodeToString(hash.Sum(nil)); got != f.SHA256 {
		return fmt.Errorf("fetch %s: %w: expected SHA-256 %s, got %s", f.Path, ErrChecksum, f.SHA256, got)
	}
	if err := os.Rename(temp.Name(), final); err != nil {
		return fmt.Errorf("fetch %s: %w", f.Path, err)
	}
	return nil
}
