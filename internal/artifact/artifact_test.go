package artifact

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
)

func TestFetchVerifiesAndCaches(t *testing.T) {
	var requests atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		requests.Add(1)
		_, _ = w.Write([]byte("content of " + r.URL.Path))
	}))
	defer server.Close()
	t.Setenv(RepositoryVariable, server.URL+"/")
	sum := sha256.Sum256([]byte("content of /a/b/c-1.jar"))
	file := File{Path: "a/b/c-1.jar", SHA256: hex.EncodeToString(sum[:])}
	dir := filepath.Join(t.TempDir(), "jars")

	for range 2 {
		if err := FetchAll(t.Context(), dir, []File{file}); err != nil {
			t.Fatal(err)
		}
	}
	if n := requests.Load(); n != 1 {
		t.Errorf("%d requests, want 1: the second run must be served from the cache", n)
	}

	file.Path = "a/b/forged-1.jar"
	err := FetchAll(t.Context(), dir, []File{file})
	if !errors.Is(err, ErrChecksum) || !strings.Contains(err.Error(), "fetch a/b/forged-1.jar: checksum does not match: expected SHA-256") {
		t.Errorf("a forged file gave: %v", err)
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 1 {
		t.Errorf("a refused download left files behind: %v, %v", left, err)
	}
}

func TestPublicRepositoryIsKnown(t *testing.T) {
	t.Setenv(RepositoryVariable, "")
	if url := Repository(); !strings.HasPrefix(url, "https://") || strings.HasSuffix(url, "/") {
		t.Errorf("Repository() = %q, want an https address without a slash at its end: has embedded-postgres renamed its field?", url)
	}
}
