package server_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/regent-infra/regent/adapters/postgres/server"
	"github.com/regent-infra/regent/adapters/postgres/servertest"
)

// burn is a statement that never looks at anything but its own loop: a backend that no message reaches.
const burn = "DO $$ DECLARE i bigint := 0; BEGIN LOOP i := i + 1; END LOOP; END $$"

func TestStoppedMeansNoProcessIsLeft(t *testing.T) {
	t.Parallel()
	ctx := servertest.Context(t)
	s := servertest.Start(t, server.RolePrimary)
	busy := s.Connect(t)
	failed := make(chan error, 1)
	go func() {
		_, err := servertest.Query(ctx, busy, burn)
		failed <- err
	}()
	servertest.Await(t, "a busy backend", func() bool {
		return s.SQL(t, "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE 'DO%'") == "1"
	})
	pid := s.PID()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	exit, err := s.Wait(ctx)
	if err != nil || exit.PID != pid || exit.Signal != syscall.SIGKILL || exit.Code != -1 || exit.Requested || exit.At.IsZero() {
		t.Errorf("exit %+v, %v: want signal 9 of %d that nobody asked for", exit, err, pid)
	}
	if err := s.WaitStopped(ctx); err != nil {
		t.Fatal(err)
	}
	if left := processesIn(t, s.DataDir()); len(left) != 0 {
		t.Errorf("processes %v are left", left)
	}
	if n, err := s.Processes(); n != 0 || err != nil {
		t.Errorf("Processes: got %d, %v", n, err)
	}
	if err := <-failed; err == nil {
		t.Error("the busy session must have failed")
	}
	if data, err := s.Control(); err != nil || data.CleanShutdown() {
		t.Errorf("control file after a crash: %+v, %v", data, err)
	}
	if err := s.Start(ctx, server.StartOptions{Role: server.RolePrimary}); err != nil {
		t.Fatal(err)
	}
}

func TestStopModes(t *testing.T) {
	t.Parallel()
	ctx := servertest.Context(t)
	s := servertest.New(t, nil)
	if stopped, err := s.Stop(ctx, server.StopOptions{}); err != nil || stopped.Mode != 0 {
		t.Errorf("stop before any start: got %+v, %v", stopped, err)
	}
	for _, c := range []struct {
		ask, need server.Mode
		clean     bool
		options   server.StopOptions
		prepare   func()
	}{
		{server.ModeFast, server.ModeFast, true, server.StopOptions{}, func() { s.Connect(t) }},
		{server.ModeSmart, server.ModeFast, true, server.StopOptions{SmartBudget: 100 * time.Millisecond}, func() { s.Connect(t) }},
		{server.ModeImmediate, server.ModeImmediate, false, server.StopOptions{}, func() {}},
		{server.ModeKill, server.ModeKill, false, server.StopOptions{}, func() {}},
		{server.ModeFast, server.ModeKill, false, server.StopOptions{FastBudget: 50 * time.Millisecond, ImmediateBudget: 50 * time.Millisecond}, func() {
			if err := syscall.Kill(s.PID(), syscall.SIGSTOP); err != nil { // a postmaster that answers nothing
				t.Fatal(err)
			}
		}},
	} {
		if err := s.Start(ctx, server.StartOptions{Role: server.RolePrimary}); err != nil {
			t.Fatal(err)
		}
		c.prepare()
		c.options.Mode = c.ask
		stopped, err := s.Stop(ctx, c.options)
		if err != nil || stopped.Mode != c.need || stopped.Escalated != (c.ask != c.need) || !stopped.Exit.Requested {
			t.Errorf("stop %s: want %s, got %+v, %v", c.ask, c.need, stopped, err)
		}
		if left := processesIn(t, s.DataDir()); len(left) != 0 {
			t.Errorf("stop %s: processes %v are left", c.ask, left)
		}
		if data, err := s.Control(); err != nil || data.CleanShutdown() != c.clean {
			t.Errorf("stop %s: clean shutdown is %t, want %t, %v", c.ask, data.CleanShutdown(), c.clean, err)
		}
	}
}

// A fast shutdown waits until the standbys have everything; one that cannot answer keeps it waiting.
func TestFastStopEscalatesWhenAStandbyHangs(t *testing.T) {
	t.Parallel()
	ctx := servertest.Context(t)
	primary := servertest.Start(t, server.RolePrimary)
	standby := servertest.Follow(t, primary, "s1")
	servertest.Await(t, "a walsender that has caught up", func() bool {
		return primary.SQL(t, "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming' AND flush_lsn = sent_lsn") == "1"
	})
	for _, pid := range processesIn(t, standby.DataDir()) {
		if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
	}
	primary.SQL(t, "CREATE TABLE t (g int)") // something that the standby cannot confirm
	stopped, err := primary.Stop(ctx, server.StopOptions{Mode: server.ModeFast, FastBudget: 700 * time.Millisecond})
	if err != nil || stopped.Mode != server.ModeImmediate || !stopped.Escalated || stopped.Took > 5*time.Second {
		t.Errorf("want an escalation to immediate, got %+v, %v", stopped, err)
	}
}

func TestStopIsBoundByItsContext(t *testing.T) {
	t.Parallel()
	s := servertest.Start(t, server.RolePrimary)
	if err := syscall.Kill(s.PID(), syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := s.Stop(ctx, server.StopOptions{}); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "(fast): context deadline exceeded") {
		t.Errorf("want a deadline error that names the mode, got %v", err)
	}
}

// A stop that is asked for while a start is under way wins, whether the postmaster is there already or not.
func TestStopBeatsAStart(t *testing.T) {
	t.Parallel()
	s := servertest.New(t, nil)
	ctx := servertest.Context(t)
	for n := range 8 {
		// The start writes this file a few milliseconds before it forks.
		sign := filepath.Join(s.DataDir(), "regent.conf")
		if err := os.Remove(sign); err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
		started := make(chan error, 1)
		go func() { started <- s.Start(ctx, server.StartOptions{Role: server.RolePrimary}) }()
		for {
			if _, err := os.Stat(sign); err == nil {
				break
			}
			runtime.Gosched()
		}
		if _, err := s.Stop(ctx, server.StopOptions{Mode: server.ModeKill}); err != nil {
			t.Fatal(err)
		}
		if err := <-started; err == nil || s.Running() || len(processesIn(t, s.DataDir())) != 0 {
			t.Fatalf("round %d: the server runs after a stop (start said %v)", n, err)
		}
	}
}

// The kernel ties the parent-death signal to the thread that forked, so that must not be the caller's.
func TestServerOutlivesTheThreadThatAskedForIt(t *testing.T) {
	t.Parallel()
	s := servertest.New(t, nil)
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // not unlocked: Go ends the thread with the goroutine
		done <- s.Start(servertest.Context(t), server.StartOptions{Role: server.RolePrimary})
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	for range 50 {
		if got := s.SQL(t, "SELECT 1"); got != "1" {
			t.Fatal("the server is gone")
		}
	}
}

// restart_after_crash is off: a backend that dies takes the server with it, and the agent decides what happens next.
func TestACrashedBackendEndsTheServer(t *testing.T) {
	t.Parallel()
	ctx := servertest.Context(t)
	s := servertest.Start(t, server.RolePrimary)
	conn := s.Connect(t)
	if err := syscall.Kill(int(conn.PID()), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	exit, err := s.Wait(ctx)
	if err != nil || exit.Code != 1 || exit.Signal != 0 || exit.Requested {
		t.Errorf("exit %+v, %v: want status 1", exit, err)
	}
	if !strings.Contains(strings.Join(exit.LastLines, "\n"), "was terminated by signal 9") {
		t.Errorf("the last lines do not tell why: %q", exit.LastLines)
	}
	if err := s.WaitStopped(ctx); err != nil || len(processesIn(t, s.DataDir())) != 0 {
		t.Errorf("processes are left, %v", err)
	}
}

func TestRestart(t *testing.T) {
	t.Parallel()
	ctx := servertest.Context(t)
	s := servertest.Start(t, server.RolePrimary)
	before := s.PID()
	if err := s.Start(ctx, server.StartOptions{Role: server.RolePrimary}); !errors.Is(err, server.ErrRunning) {
		t.Errorf("start twice: want ErrRunning, got %v", err)
	}
	if err := s.Close(); !errors.Is(err, server.ErrRunning) {
		t.Errorf("close while running: want ErrRunning, got %v", err)
	}
	if _, err := s.Restart(ctx, server.StopOptions{}, server.StartOptions{Role: server.RolePrimary}); err != nil || s.PID() == before {
		t.Errorf("restart: pid %d was %d, %v", s.PID(), before, err)
	}
}
