package e2etest

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// docs/bad-input.md says which test asserts which message. It is held to that here.
func TestTheTableOfBadInputIsTrue(t *testing.T) {
	t.Parallel()
	const root = "../../.."
	raw, err := os.ReadFile(filepath.Join(root, "docs", "bad-input.md"))
	if err != nil {
		t.Fatal(err)
	}
	sources := map[string]string{}
	rows := 0
	for line := range strings.Lines(string(raw)) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), " | ")
		if !strings.HasPrefix(line, "| ") || strings.HasPrefix(line, "| input |") {
			continue
		}
		if len(cells) != 3 {
			t.Errorf("a row has %d cells, expected 3: %s", len(cells), line)
			continue
		}
		rows++
		pkg, test, ok := strings.Cut(strings.TrimSpace(cells[2]), " ")
		message, hasMessage := strings.CutPrefix(strings.TrimSpace(cells[1]), "`")
		message, closed := strings.CutSuffix(message, "`")
		if !ok || !hasMessage || !closed {
			t.Errorf("a row is not input, `message`, package and test: %s", line)
			continue
		}
		if _, known := sources[pkg]; !known {
			sources[pkg] = testSource(t, filepath.Join(root, pkg))
		}
		if !strings.Contains(sources[pkg], "func "+test+"(t *testing.T)") {
			t.Errorf("%s has no %s", pkg, test)
		}
		if !strings.Contains(sources[pkg], message) && !strings.Contains(sources[pkg], strings.ReplaceAll(message, `"`, `\"`)) {
			t.Errorf("no test of %s asserts %q", pkg, message)
		}
	}
	if rows < 60 {
		t.Errorf("the table has %d rows", rows)
	}
}

// testSource returns all tests of a package.
func testSource(t *testing.T, dir string) string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	var all strings.Builder
	for _, file := range files {
		all.WriteString(read(t, file))
	}
	return all.String()
}
