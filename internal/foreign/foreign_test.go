package foreign

import (
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/regent-infra/regent/internal/artifact"
)

func TestAMissingLanguageSaysHowToGetIt(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("PATH", dir)
	t.Setenv("REGENT_TEST_JAVA", "")
	t.Setenv("REGENT_CACHE", filepath.Join(dir, "cache"))
	check := func(prepare func(context.Context, string) (*Program, error), want ...string) {
		t.Helper()
		_, err := prepare(t.Context(), "../..")
		for _, w := range want {
			if err == nil || !strings.Contains(err.Error(), w) {
				t.Errorf("got %v, expected %q in it", err, w)
			}
		}
	}
	check(Shell, "find kcat, curl, jq, perl, xxd", "no apt-get in PATH", "apt-get install -y kcat curl jq perl xxd")
	check(func(ctx context.Context, _ string) (*Program, error) { return Node(ctx, "../asyncapi/testdata/parser") }, "no node in PATH", "apt-get install -y nodejs npm")
	check(Java, "no java in PATH", "apt-get install -y openjdk-17-jre-headless")
	check(Python, "no python3 in PATH", "apt-get install -y python3-venv")
	// A Python without the module venv.
	script := "#!/bin/sh\n[ \"$1\" = -c ] || { echo 'No module named venv' >&2; exit 1; }\n"
	if err := os.WriteFile(filepath.Join(dir, "python3"), []byte(script), 0o700); err != nil { //nolint:gosec // it is to be run
		t.Fatal(err)
	}
	check(Python, "make a virtual environment", "No module named venv", "apt-get install -y python3-venv")
	left, err := os.ReadDir(filepath.Join(dir, "cache"))
	if err != nil || slices.ContainsFunc(left, func(e os.DirEntry) bool { return e.IsDir() }) {
		t.Errorf("what was half made is left: %v, %v", left, err)
	}
}

func TestWhatWasMadeIsKept(t *testing.T) {
	t.Setenv("REGENT_CACHE", t.TempDir())
	made := 0
	build := func(text string, fails error) (string, error) {
		return cached(t.Context(), "thing", []byte(text), func(beside string) error {
			made++
			return errors.Join(fails, os.WriteFile(filepath.Join(beside, "file"), []byte(text), 0o600))
		})
	}
	first, err := build("one", nil)
	if err != nil {
		t.Fatal(err)
	}
	again, err := build("one", nil)
	if err != nil || again != first || made != 1 {
		t.Errorf("asked again, it was made %d times in %s, %v", made, again, err)
	}
	if _, err := build("two", context.Canceled); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	other, err := build("two", nil)
	if err != nil || other == first || made != 3 {
		t.Errorf("something else was made %d times in %s, %v", made, other, err)
	}
}

// Tests of several packages ask at once.
func TestWhatManyAskForIsMadeOnce(t *testing.T) {
	t.Setenv("REGENT_CACHE", t.TempDir())
	var made atomic.Int64
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			if _, err := cached(t.Context(), "thing", []byte("many"), func(string) error { made.Add(1); return nil }); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if n := made.Load(); n != 1 {
		t.Errorf("it was made %d times", n)
	}
}

// Who builds with Maven gets the libraries that the tests run with.
func TestThePomAsksForWhatIsPinned(t *testing.T) {
	raw, err := os.ReadFile("../../docs/clients/java/pom.xml")
	if err != nil {
		t.Fatal(err)
	}
	var pom struct {
		Dependencies []struct {
			Group    string `xml:"groupId"`
			Artifact string `xml:"artifactId"`
			Version  string `xml:"version"`
		} `xml:"dependencies>dependency"`
	}
	if err := xml.Unmarshal(raw, &pom); err != nil {
		t.Fatal(err)
	}
	for _, d := range pom.Dependencies {
		path := fmt.Sprintf("%s/%s/%s/%s-%s.jar", strings.ReplaceAll(d.Group, ".", "/"), d.Artifact, d.Version, d.Artifact, d.Version)
		if !slices.ContainsFunc(jarFiles(), func(f artifact.File) bool { return f.Path == path }) {
			t.Errorf("pom.xml asks for %s, which jars.sha256 does not have", path)
		}
	}
	if len(pom.Dependencies) < 4 {
		t.Errorf("pom.xml has %d dependencies", len(pom.Dependencies))
	}
}
