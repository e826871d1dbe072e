package childprocess_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/regent-infra/regent/internal/childprocess"
)

// role makes the test binary a parent that starts a child and waits for death.
const role = "CHILDPROCESS_TEST_ROLE"

func TestMain(m *testing.M) {
	if log := os.Getenv(role); log != "" {
		parent(log)
	}
	goleak.VerifyTestMain(m)
}

const patience = 10 * time.Second

// parent starts a child that would live for long, says its process id, and hangs.
func parent(log string) {
	p := &childprocess.Process{Name: "child", Executable: "/bin/sleep", Args: []string{"1000"}, Log: log}
	if err := p.Start(childprocess.NewSpawner()); err != nil {
		panic(err)
	}
	if err := os.WriteFile(log+".pid", fmt.Appendf(nil, "%d.", p.PID()), 0o600); err != nil {
		panic(err)
	}
	_ = p.Wait(context.Background())
}

func until(t *testing.T, what string, holds func() bool) {
	t.Helper()
	deadline := time.After(patience)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !holds() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

func TestAChildDiesWithItsParent(t *testing.T) {
	t.Parallel()
	log := filepath.Join(t.TempDir(), "log")
	spawner := childprocess.NewSpawner()
	defer spawner.Close()
	p := &childprocess.Process{Name: "parent", Executable: os.Args[0], Env: append(os.Environ(), role+"="+log), Log: log}
	if err := p.Start(spawner); err != nil {
		t.Fatal(err)
	}
	var child int
	until(t, "the child", func() bool {
		raw, err := os.ReadFile(log + ".pid")
		if err != nil || !strings.HasSuffix(string(raw), ".") {
			return false
		}
		_, err = fmt.Sscan(strings.TrimSuffix(string(raw), "."), &child)
		return err == nil
	})
	if err := p.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := p.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	// It is nobody's child then, so whoever adopts it has to reap it: a zombie counts as dead.
	until(t, "the death of the child", func() bool {
		raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", child))
		return errors.Is(err, os.ErrNotExist) || err == nil && strings.Contains(string(raw), ") Z ")
	})
}

func TestAProcessCanBeKilledAndStartedAgain(t *testing.T) {
	t.Parallel()
	spawner := childprocess.NewSpawner()
	p := &childprocess.Process{Name: "sleeper", Executable: "/bin/sleep", Args: []string{"1000"}, Log: filepath.Join(t.TempDir(), "log")}
	if p.Running() || p.PID() != 0 || p.ExitCode() != -1 || p.Signal(syscall.SIGTERM) != nil || p.Wait(t.Context()) != nil {
		t.Error("a process that was never started does something")
	}
	for range 2 {
		if err := p.Start(spawner); err != nil {
			t.Fatal(err)
		}
		if !p.Running() || p.PID() == 0 {
			t.Error("it does not run")
		}
		expired, cancel := context.WithCancel(t.Context())
		cancel()
		if err := p.Wait(expired); err == nil || !strings.Contains(err.Error(), "its log is") {
			t.Errorf("waiting for one that runs: %v", err)
		}
		if err := p.Signal(syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		if err := p.Wait(t.Context()); err != nil || p.Running() || p.ExitCode() != -1 || p.Signal(syscall.SIGKILL) != nil {
			t.Errorf("after SIGKILL: %v, exit code %d", err, p.ExitCode())
		}
	}
	// Closing the spawner kills what still runs.
	if err := p.Start(spawner); err != nil {
		t.Fatal(err)
	}
	spawner.Close()
	if err := p.Wait(t.Context()); err != nil {
		t.Error(err)
	}
}

// Whatever thread a spawner has got, the first one of the process included.
func TestClosingASpawnerKillsWhatStillRuns(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for i := range 200 {
		spawner := childprocess.NewSpawner()
		p := &childprocess.Process{Name: "sleeper", Executable: "/bin/sleep", Args: []string{"1000"}, Log: filepath.Join(dir, "log")}
		if err := p.Start(spawner); err != nil {
			t.Fatal(err)
		}
		spawner.Close()
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		if err := p.Wait(ctx); err != nil {
			t.Errorf("round %d: %v", i, err)
			_ = p.Signal(syscall.SIGKILL)
		}
		cancel()
	}
}

func TestStartSaysWhatIsMissing(t *testing.T) {
	t.Parallel()
	spawner := childprocess.NewSpawner()
	defer spawner.Close()
	dir := t.TempDir()
	for want, p := range map[string]*childprocess.Process{
		"start nobody: open its log":      {Name: "nobody", Executable: "/bin/true", Log: filepath.Join(dir, "missing", "log")},
		"start nobody: fork/exec /no/one": {Name: "nobody", Executable: "/no/one", Log: filepath.Join(dir, "log")},
	} {
		if err := p.Start(spawner); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
	p := &childprocess.Process{Name: "false", Executable: "/bin/false", Log: filepath.Join(dir, "log")}
	if err := p.Start(spawner); err != nil {
		t.Fatal(err)
	}
	if err := p.Wait(t.Context()); err != nil || p.ExitCode() != 1 {
		t.Errorf("%v, exit code %d", err, p.ExitCode())
	}
}
