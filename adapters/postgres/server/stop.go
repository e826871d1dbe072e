package server

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// Mode is how to stop (pg_ctl's words).
type Mode uint8

// The modes. Each escalates to the next when its budget is used up; the last, kill, cannot be refused.
const (
	// ModeSmart waits for clients to leave by themselves.
	ModeSmart Mode = iota + 1
	// ModeFast ends sessions, writes a checkpoint and ships all WAL to the connected standbys, one of which may be unreachable: it can
	// hang until wal_sender_timeout.
	ModeFast
	// ModeImmediate ends all processes at once; the next start recovers.
	ModeImmediate
	// ModeKill sends SIGKILL to every process of the server.
	ModeKill
)

// String names the mode.
func (m Mode) String() string {
	switch m {
	case ModeSmart:
		return "smart"
	case ModeFast:
		return "fast"
	case ModeImmediate:
		return "immediate"
	case ModeKill:
		return "kill"
	default:
		return fmt.Sprintf("Mode(%d)", uint8(m))
	}
}

// StopOptions says how to stop, and how long each step may take.
type StopOptions struct {
	// Mode to begin with. Default: fast.
	Mode Mode
	// SmartBudget is how long smart may take before fast. Default: 30 s.
	SmartBudget time.Duration
	// FastBudget is how long fast may take before immediate. Default: 10 s.
	FastBudget time.Duration
	// ImmediateBudget is how long immediate may take before SIGKILL. Default: 2 s.
	ImmediateBudget time.Duration
}

func (o StopOptions) withDefaults() StopOptions {
	if o.Mode == 0 {
		o.Mode = ModeFast
	}
	for _, d := range []struct {
		budget   *time.Duration
		standard time.Duration
	}{{&o.SmartBudget, 30 * time.Second}, {&o.FastBudget, 10 * time.Second}, {&o.ImmediateBudget, 2 * time.Second}} {
		if *d.budget <= 0 {
			*d.budget = d.standard
		}
	}
	return o
}

// Stopped says how a stop went.
type Stopped struct {
	// Mode is the last one that was needed.
	Mode Mode
	// Escalated says that the mode asked for was not enough.
	Escalated bool
	Took      time.Duration
	Exit      Exit
}

// Stop stops the server and returns when no process of it is left. That the server does not run is no error. It does not wait for
// other operations: a start that hangs, or a promotion, must not keep a fence waiting; their waiting ends with the postmaster.
//
// ctx bounds the whole; when it ends early the error says so, and the escalation has stopped where it was.
func (i *Instance) Stop(ctx context.Context, o StopOptions) (Stopped, error) {
	o = o.withDefaults()
	began := i.config.Clock.Now()
	i.mu.Lock()
	i.stops++
	c := i.child
	if c != nil && c.alive() {
		i.stopping = true
	}
	i.mu.Unlock()
	if c == nil {
		return Stopped{}, nil
	}
	budgets := map[Mode]time.Duration{ModeSmart: o.SmartBudget, ModeFast: o.FastBudget, ModeImmediate: o.ImmediateBudget}
	signals := map[Mode]syscall.Signal{ModeSmart: syscall.SIGTERM, ModeFast: syscall.SIGINT, ModeImmediate: syscall.SIGQUIT}
	mode := o.Mode
	for ; ; mode++ {
		if mode >= ModeKill {
			mode = ModeKill
			if err := i.killUntilStopped(ctx, c); err != nil {
				return Stopped{Mode: mode}, fmt.Errorf("stop PostgreSQL %s by kill: %w", i.config.DataDir, err)
			}
			break
		}
		if err := i.signalPostmaster(c, signals[mode]); err != nil {
			return Stopped{Mode: mode}, fmt.Errorf("stop PostgreSQL %s (%s): %w", i.config.DataDir, mode, err)
		}
		done, err := i.waitBudget(ctx, c, budgets[mode])
		if err != nil {
			return Stopped{Mode: mode}, fmt.Errorf("stop PostgreSQL %s (%s): %w", i.config.DataDir, mode, err)
		}
		if done {
			break
		}
		i.config.Logger.Warn("stop escalates", "from", mode.String(), "after", budgets[mode].String())
	}
	return Stopped{Mode: mode, Escalated: mode != o.Mode, Took: i.config.Clock.Now().Sub(began), Exit: i.exitOf(c)}, nil
}

func (i *Instance) signalPostmaster(c *child, sig syscall.Signal) error {
	if !c.alive() {
		return nil
	}
	return signalProcess(process{pid: c.pid}, i.config.DataDir, sig)
}

// waitBudget waits until all is stopped; false without error means that the budget is used up.
func (i *Instance) waitBudget(ctx context.Context, c *child, budget time.Duration) (bool, error) {
	timer := i.config.Clock.NewTimer(budget)
	defer timer.Stop()
	select {
	case <-c.stopped:
		return true, nil
	case <-timer.C:
		return false, nil
	case <-ctx.Done():
		return false, context.Cause(ctx)
	}
}

// killUntilStopped repeats, because a postmaster may be forking while it is looked at.
func (i *Instance) killUntilStopped(ctx context.Context, c *child) error {
	for {
		if _, err := i.killAll(syscall.SIGKILL); err != nil {
			return err
		}
		done, err := i.waitBudget(ctx, c, poll)
		if done || err != nil {
			return err
		}
	}
}

// Restart stops the server and starts it in the given role.
func (i *Instance) Restart(ctx context.Context, stop StopOptions, start StartOptions) (Stopped, error) {
	stopped, err := i.Stop(ctx, stop)
	if err != nil {
		return stopped, err
	}
	return stopped, i.Start(ctx, start)
}

// ClearLeftovers ends every process that works in the data directory without being a child of this instance: what is left of
// an agent that was killed. Such a server cannot be adopted (nobody would hear of its end), so it is stopped immediately, then killed. It
// returns how many processes there were, once none is left.
func (i *Instance) ClearLeftovers(ctx context.Context) (int, error) {
	if err := i.acquire(ctx); err != nil {
		return 0, err
	}
	defer i.release()
	if i.Running() {
		return 0, fmt.Errorf("clear leftover processes of %s: %w", i.config.DataDir, ErrRunning)
	}
	return i.clearLeftovers(ctx)
}

// leftoverGrace is how long a leftover server has for its immediate shutdown.
const leftoverGrace = 2 * time.Second

func (i *Instance) clearLeftovers(ctx context.Context) (int, error) {
	found, err := processes(i.config.DataDir)
	if err != nil {
		return 0, err
	}
	if len(found) > 0 {
		i.config.Logger.Warn("stopping processes that an earlier agent has left", "count", len(found))
	}
	began := i.config.Clock.Now()
	sig := syscall.SIGQUIT
	err = i.await(ctx, func() (bool, error) {
		if i.config.Clock.Now().Sub(began) > leftoverGrace {
			sig = syscall.SIGKILL
		}
		left, err := i.killAll(sig)
		return left == 0, err
	})
	if err != nil {
		return len(found), fmt.Errorf("stop the leftover processes: %w", err)
	}
	return len(found), i.removeStaleLocks()
}

// removeStaleLocks removes what a killed server leaves: postmaster.pid, the socket and its lock. Nobody is left who could own them, but
// PostgreSQL takes the process id in them for an owner if it was given to another server meanwhile, or if the dead one is still a zombie.
// The socket's folder is this instance's alone.
func (i *Instance) removeStaleLocks() error {
	stale, err := filepath.Glob(filepath.Join(i.config.socketDir(), ".s.PGSQL.*"))
	if err != nil {
		return fmt.Errorf("look for stale sockets: %w", err)
	}
	for _, path := range append(stale, filepath.Join(i.config.DataDir, pidFileName)) {
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("remove a stale lock: %w", err)
		}
	}
	return nil
}

// Processes returns how many processes of the server there are, leftovers included: 0 is what "stopped" means.
func (i *Instance) Processes() (int, error) {
	all, err := processes(i.config.DataDir)
	return len(all), err
}
