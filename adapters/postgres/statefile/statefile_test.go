package statefile

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/regent-infra/regent/adapters/postgres/guard"
	"github.com/regent-infra/regent/schemas"
)

const (
	envDir   = "REGENT_STATEFILE_DIR"
	envPoint = "REGENT_STATEFILE_POINT"
	cluster  = "postgres/orders"
)

// TestMain also is the process that gets killed: it raises the promise for ever and says so after each write.
func TestMain(m *testing.M) {
	if dir := os.Getenv(envDir); dir != "" {
		writeForEver(New(dir), os.Getenv(envPoint))
	}
	os.Exit(m.Run())
}

func writeForEver(f *File, point string) {
	d, err := f.Read(cluster, "pg-1")
	if errors.Is(err, ErrMissing) {
		d, err = guard.NewDurable(cluster, "pg-1"), nil
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(3)
	}
	writes := 0
	f.at = func(at string) {
		if at == point && writes == 2 {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		}
	}
	for {
		d.PromisedTerm++
		if err := f.Write(d); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(4)
		}
		writes++
		fmt.Println(d.PromisedTerm)
	}
}

// killed runs the writer until it kills itself at a point, or until it is killed after some time, and returns the last promise that it made.
func killed(t *testing.T, dir, point string, after time.Duration) int64 {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), envDir+"="+dir, envPoint+"="+point)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if after > 0 {
		timer := time.AfterFunc(after, func() { _ = cmd.Process.Kill() })
		defer timer.Stop()
	}
	last := int64(0)
	for lines := bufio.NewScanner(out); lines.Scan(); {
		if n, err := strconv.ParseInt(lines.Text(), 10, 64); err == nil {
			last = n
		}
	}
	err = cmd.Wait()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Fatalf("the writer ended with %v, expected SIGKILL", err)
	}
	return last
}

func TestAPromiseSurvivesKillAtEachPoint(t *testing.T) {
	t.Parallel()
	for _, point := range []string{"before", "created", "half written", "written", "synced", "renamed", "done"} {
		dir := t.TempDir()
		var last int64
		for range 3 {
			last = max(last, killed(t, dir, point, 0))
			d, err := New(dir).Read(cluster, "pg-1")
			if err != nil {
				t.Fatalf("%s: %v", point, err)
			}
			if d.PromisedTerm < last || d.PromisedTerm > last+1 {
				t.Fatalf("%s: read promise %d after %d had been made", point, d.PromisedTerm, last)
			}
		}
	}
}

func TestAPromiseSurvivesKillAtAnyMoment(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	var last int64
	for i := range 12 {
		last = max(last, killed(t, dir, "", time.Duration(25+7*i)*time.Millisecond))
		d, err := New(dir).Read(cluster, "pg-1")
		if errors.Is(err, ErrMissing) && last == 0 {
			continue
		}
		if err != nil || d.PromisedTerm < last {
			t.Fatalf("read promise %d (%v) after %d had been made", d.PromisedTerm, err, last)
		}
	}
	if last == 0 {
		t.Fatal("no promise was ever made")
	}
}

func sample() guard.Durable {
	d := guard.NewDurable(cluster, "pg-1")
	d.PromisedTerm, d.Term, d.Role, d.Data, d.SystemIdentifier = 7, 7, schemas.NodeRoleStandby, guard.DataWhole, "7412345678901234567"
	d.Upstream = guard.Upstream{Node: "pg-2", Host: "10.0.0.2", Port: 5432, Slot: "regent_pg_1", Term: 7}
	d.Timelines = []guard.TimelineTerm{{Timeline: 1, Term: 3}}
	at := time.Date(2026, 3, 4, 5, 6, 7, 8000, time.UTC)
	d.Orders = []schemas.OrderResult{{OrderID: "x", Status: schemas.OrderStatusDone, StartedAt: at, FinishedAt: &at}}
	d.LastExit = &schemas.PostmasterExit{At: at}
	return d
}

func TestWhatIsWrittenIsRead(t *testing.T) {
	t.Parallel()
	f := New(t.TempDir())
	if _, err := f.Read(cluster, "pg-1"); !errors.Is(err, ErrMissing) {
		t.Fatalf("no file: %v", err)
	}
	want := sample()
	if err := f.Write(want); err != nil {
		t.Fatal(err)
	}
	got, err := f.Read(cluster, "pg-1")
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Fatalf("read %+v (%v), want %+v", got, err, want)
	}
	if info, err := os.Stat(f.Path()); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, want 0600", info.Mode())
	}
}

// TestAnyDamageIsRefused flips, cuts and appends: what is not the very file is never read as a memory.
func TestAnyDamageIsRefused(t *testing.T) {
	t.Parallel()
	content, err := encode(sample())
	if err != nil {
		t.Fatal(err)
	}
	head := strings.IndexByte(string(content), '\n')
	rapid.Check(t, func(t *rapid.T) {
		broken := append([]byte(nil), content...)
		switch rapid.SampledFrom([]string{"flip", "cut", "append"}).Draw(t, "damage") {
		case "flip":
			at := rapid.IntRange(0, len(broken)-1).Draw(t, "at")
			broken[at] ^= byte(rapid.IntRange(1, 255).Draw(t, "bits"))
			if at <= head {
				// The header may still say the same, such as with a letter of the checksum in upper case.
				d, err := decode(broken)
				if err == nil && !reflect.DeepEqual(d, sample()) {
					t.Fatal("read another memory")
				}
				return
			}
		case "cut":
			broken = broken[:rapid.IntRange(0, len(broken)-1).Draw(t, "length")]
		case "append":
			broken = append(broken, rapid.SliceOfN(rapid.Byte(), 1, 20).Draw(t, "more")...)
		}
		if _, err := decode(broken); err == nil {
			t.Fatalf("read a damaged file:\n%s", broken)
		}
	})
}

func TestRefusalsSayWhatToDo(t *testing.T) {
	t.Parallel()
	good, err := encode(sample())
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		content string
		node    string
		is      error
		says    string
	}{
		"empty":   {"", "pg-1", ErrDamaged, "the first line is no header of an agent state: the promised term would be lost: restore the file"},
		"torn":    {string(good[:len(good)-9]), "pg-1", ErrDamaged, "bytes after the header, found"},
		"corrupt": {strings.Replace(string(good), `"promised_term": 7`, `"promised_term": 1`, 1), "pg-1", ErrDamaged, "the checksum is"},
		"newer":   {strings.Replace(string(good), magic+" 1 ", magic+" 2 ", 1), "pg-1", ErrForeign, "it was written by a newer agent (format 2, this one knows 1)"},
		"other":   {string(good), "pg-2", ErrForeign, "is that of node pg-1 of postgres/orders, expected node pg-2 of postgres/orders: give each node its own directory"},
		"text":    {"hello world\n", "pg-1", ErrDamaged, "no header"},
		"huge":    {strings.Repeat("x", maxSize+1), "pg-1", ErrDamaged, "expected at most"},
	} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, Name), []byte(c.content), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := New(dir).Read(cluster, c.node)
		if !errors.Is(err, c.is) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, want %q", name, err, c.says)
		}
	}
}

func TestANonsensicalMemoryIsNotWritten(t *testing.T) {
	t.Parallel()
	f := New(t.TempDir())
	d := sample()
	d.Term = d.PromisedTerm + 1
	if err := f.Write(d); err == nil || !strings.Contains(err.Error(), "term 8 is outside 0..promised_term 7") {
		t.Fatalf("wrote it: %v", err)
	}
	if _, err := os.Stat(f.Path()); !errors.Is(err, os.ErrNotExist) {
		t.Fatal("there is a file")
	}
}
