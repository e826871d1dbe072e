package server_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/regent-infra/regent/adapters/postgres/server"
	"github.com/regent-infra/regent/adapters/postgres/servertest"
	"github.com/regent-infra/regent/internal/clock"
)

// actAsParent is what a killed agent does: it starts a server, says so, and waits for its end.
func actAsParent(text string) error {
	plan, err := decodePlan(text)
	if err != nil {
		return err
	}
	instance, err := server.Open(plan.Config)
	if err != nil {
		return err
	}
	fmt.Println("opened")
	if err := instance.Start(context.Background(), server.StartOptions{Role: plan.Role}); err != nil {
		return err
	}
	fmt.Println("ready")
	_, err = instance.Wait(context.Background())
	return err
}

// parent is an agent in a process of its own.
type parent struct {
	cmd   *exec.Cmd
	lines *bufio.Scanner
}

func startParent(t *testing.T, c server.Config) *parent {
	t.Helper()
	c.Logger, c.Clock = nil, nil
	plan, err := json.Marshal(parentPlan{Config: c, Role: server.RolePrimary})
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(servertest.Context(t), os.Args[0])
	cmd.Env = append(os.Environ(), parentVariable+"="+string(plan))
	cmd.Stderr = t.Output()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p := &parent{cmd: cmd, lines: bufio.NewScanner(out)}
	t.Cleanup(func() { p.kill(t) })
	return p
}

func (p *parent) await(t *testing.T, line string) {
	t.Helper()
	for p.lines.Scan() {
		if p.lines.Text() == line {
			return
		}
	}
	t.Fatalf("the agent ended before it was %s", line)
}

// kill ends the agent as the kernel's memory killer does.
func (p *parent) kill(t *testing.T) {
	t.Helper()
	if p.cmd.ProcessState != nil {
		return
	}
	if err := p.cmd.Process.Kill(); err != nil {
		t.Error(err)
	}
	_ = p.cmd.Wait() // it was killed
}

// processesIn counts the processes whose working directory is the data directory; the test's own way, without the code under test.
func processesIn(t *testing.T, dataDir string) []int {
	t.Helper()
	entries, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	var pids []int
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		if cwd, err := os.Readlink("/proc/" + entry.Name() + "/cwd"); err == nil && cwd == dataDir {
			pids = append(pids, pid)
		}
	}
	return pids
}

func TestServerDiesWithItsParent(t *testing.T) {
	t.Parallel()
	c := servertest.Detached(t)
	p := startParent(t, c)
	p.await(t, "ready")
	if len(processesIn(t, c.DataDir)) < 5 {
		t.Fatal("the server does not run")
	}
	began := time.Now()
	p.kill(t)
	servertest.Await(t, "the end of all processes", func() bool { return len(processesIn(t, c.DataDir)) == 0 })
	t.Logf("gone %s after the agent was killed", time.Since(began))
}

// The agent is killed at many moments of a start: before the fork, right behind it, in recovery.
func TestServerDiesWithItsParentDuringStart(t *testing.T) {
	t.Parallel()
	c := servertest.Detached(t)
	for n := range 12 {
		p := startParent(t, c)
		p.await(t, "opened")
		if err := clock.Wait(t.Context(), clock.System{}, time.Duration(n*n)*time.Millisecond/2); err != nil {
			t.Fatal(err)
		}
		p.kill(t)
		servertest.Await(t, "the end of all processes", func() bool { return len(processesIn(t, c.DataDir)) == 0 })
	}
	// The directory has survived it all.
	s := servertest.Open(t, c, nil)
	if err := s.Start(servertest.Context(t), server.StartOptions{Role: server.RolePrimary}); err != nil {
		t.Fatal(err)
	}
}

// An agent that died may leave a server behind when the kernel's signal is lost on it: it was stopped, or traced. The next
// agent finds it by itself.
func TestLeftoverServerIsEnded(t *testing.T) {
	t.Parallel()
	c := servertest.Detached(t)
	p := startParent(t, c)
	p.await(t, "ready")
	frozen := processesIn(t, c.DataDir)
	for _, pid := range frozen {
		if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
	}
	p.kill(t)
	if left := processesIn(t, c.DataDir); len(left) != len(frozen) {
		t.Fatalf("the frozen server should have survived: %d of %d processes", len(left), len(frozen))
	}
	s := servertest.Open(t, c, nil)
	if _, err := s.RevokeUpstream(servertest.Context(t)); err == nil || !strings.Contains(err.Error(), "processes of an earlier server are alive: clear them first") {
		t.Errorf("revoke beside a leftover server: got %v", err)
	}
	n, err := s.ClearLeftovers(servertest.Context(t))
	if err != nil || n != len(frozen) || len(processesIn(t, c.DataDir)) != 0 {
		t.Fatalf("cleared %d processes of %d, %v", n, len(frozen), err)
	}
	if err := s.Start(servertest.Context(t), server.StartOptions{Role: server.RolePrimary}); err != nil {
		t.Fatal(err)
	}
}

// A second agent on the same directory is refused while the first lives, and not longer.
func TestDirectoryInUse(t *testing.T) {
	t.Parallel()
	c := servertest.Detached(t)
	p := startParent(t, c)
	p.await(t, "opened")
	want := "data directory is in use: another process holds " + c.RunDir + "/lock: stop it first"
	if _, err := server.Open(c); err == nil || !strings.HasSuffix(err.Error(), want) {
		t.Errorf("want %q, got %v", want, err)
	}
	p.kill(t)
	servertest.Open(t, c, nil)
}
