package server

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/regent-infra/regent/adapters/postgres/binary"
	"github.com/regent-infra/regent/internal/clock"
)

// Role is what a server starts as.
type Role uint8

// The roles.
const (
	// RoleStandby recovers and follows; it never accepts writes.
	RoleStandby Role = iota + 1
	// RolePrimary accepts writes.
	RolePrimary
)

// String names the role.
func (r Role) String() string {
	switch r {
	case RoleStandby:
		return "standby"
	case RolePrimary:
		return "primary"
	default:
		return fmt.Sprintf("Role(%d)", uint8(r))
	}
}

// Recovery is told while a server starts and is not ready yet.
type Recovery struct {
	Elapsed time.Duration
	// Status is postmaster.pid's: "starting", "standby" or empty.
	Status string
	// Segment is the WAL file that is being replayed, empty while unknown.
	Segment string
}

// StartOptions says how to start.
type StartOptions struct {
	Role Role
	// OnProgress is called about twice a second until the server is ready. Nil: not at all.
	OnProgress func(Recovery)
}

const progressEvery = 500 * time.Millisecond

// Start starts the postmaster as a child of this process and waits until it accepts connections: after crash recovery for a
// primary, at a consistent state for a standby. Leftover processes of the data directory are stopped before.
//
// When ctx ends first, the error wraps [ErrNotReady] and the server goes on starting: to kill a long recovery only makes the next
// one longer. Stop it if it must not go on. When the server ends by itself the error quotes its log.
func (i *Instance) Start(ctx context.Context, o StartOptions) error {
	if err := i.acquire(ctx); err != nil {
		return err
	}
	defer i.release()
	if err := i.start(ctx, o); err != nil {
		return fmt.Errorf("start PostgreSQL %s as %s: %w", i.config.DataDir, o.Role, err)
	}
	return nil
}

func (i *Instance) start(ctx context.Context, o StartOptions) error {
	if o.Role != RolePrimary && o.Role != RoleStandby {
		return fmt.Errorf("expected a role, got %s", o.Role)
	}
	if i.Running() {
		return ErrRunning
	}
	i.mu.Lock()
	stops := i.stops
	i.mu.Unlock()
	if err := i.WaitStopped(ctx); err != nil {
		return err
	}
	if err := i.Check(); err != nil {
		return err
	}
	if _, err := i.clearLeftovers(ctx); err != nil {
		return err
	}
	if err := i.prepare(o.Role); err != nil {
		return err
	}
	c, err := i.launch(stops)
	if err != nil {
		return err
	}
	return i.awaitReady(ctx, c, o.OnProgress)
}

// prepare writes everything that decides how the server comes up.
func (i *Instance) prepare(role Role) error {
	if err := i.dropTrailingPlaceholders(); err != nil {
		return err
	}
	if err := i.writeConfiguration(); err != nil {
		return err
	}
	signal := filepath.Join(i.config.DataDir, "standby.signal")
	if err := removeFile(filepath.Join(i.config.DataDir, "recovery.signal")); err != nil {
		return fmt.Errorf("remove recovery.signal: %w", err)
	}
	// A request to promote that was never answered must not promote the next start.
	if err := removeFile(filepath.Join(i.config.DataDir, "promote")); err != nil {
		return fmt.Errorf("remove the promotion request: %w", err)
	}
	if role == RoleStandby {
		return i.identity.writeFile(signal, nil, 0o600)
	}
	if err := removeFile(signal); err != nil {
		return fmt.Errorf("remove standby.signal: %w", err)
	}
	return nil
}

// launch starts the postmaster and the goroutine that sees to its end, unless Stop was called since stops was read.
func (i *Instance) launch(stops uint64) (*child, error) {
	program, err := i.config.Binaries.Path(binary.ToolPostgres)
	if err != nil {
		return nil, err
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.stops != stops {
		return nil, ErrStopRequested
	}
	log, err := newLogPipe(i.config.Logger, i.masker)
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(program, "-D", i.config.DataDir) //nolint:noctx // its life is not bound to this call's context
	cmd.Dir = i.config.DataDir
	cmd.Env = i.environment()
	cmd.Stdout, cmd.Stderr = log.write, log.write
	cmd.SysProcAttr = childAttributes(i.identity)
	c, err := spawn(cmd, log, i.config.Clock)
	closeErr := log.write.Close() // the child has its own; ours would keep the pipe open for ever
	if err != nil {
		<-log.done
		return nil, errors.Join(fmt.Errorf("run %s: %w", program, err), closeErr)
	}
	i.child, i.stopping = c, false
	i.watchers.Add(1)
	go i.watch(c)
	i.config.Logger.Info("postmaster started", "pid", c.pid, "data_directory", i.config.DataDir, "port", i.config.Port)
	return c, closeErr
}

// environment is small and fixed: PG* variables of the caller would change what the server does.
func (i *Instance) environment() []string {
	env := []string{"PATH=" + i.config.Binaries.Dir + ":/usr/local/bin:/usr/bin:/bin", "LC_ALL=C", "LANG=C", "HOME=" + i.identity.home}
	for _, name := range []string{"TZ", "LD_LIBRARY_PATH"} {
		if value, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+value)
		}
	}
	return env
}

// awaitReady waits until postmaster.pid, written by this very child, says ready.
func (i *Instance) awaitReady(ctx context.Context, c *child, report func(Recovery)) error {
	began := i.config.Clock.Now()
	var told time.Duration
	err := i.await(ctx, func() (bool, error) {
		select {
		case <-c.exited:
			<-c.stopped
			<-c.log.done
			return false, fmt.Errorf("%s: %s", c.exit, complaints(c.log.lines()))
		default:
		}
		pf, ok, err := readPidFile(i.config.DataDir)
		if err != nil || !ok || pf.pid != c.pid {
			return false, nil //nolint:nilerr // half written: look again
		}
		if pf.status == "ready" {
			return true, nil
		}
		if elapsed := i.config.Clock.Now().Sub(began); report != nil && elapsed-told >= progressEvery {
			told = elapsed
			report(Recovery{Elapsed: elapsed, Status: pf.status, Segment: i.replaying(c.pid)})
		}
		return false, nil
	})
	if err != nil && ctx.Err() != nil && i.Running() {
		return fmt.Errorf("%w after %s: %w: its last lines: %s", ErrNotReady, i.config.Clock.Now().Sub(began).Round(time.Millisecond),
			context.Cause(ctx), complaints(c.log.lines()))
	}
	return err
}

// replaying reads from the startup process's title which WAL file it is at.
func (i *Instance) replaying(postmaster int) string {
	all, err := processes(i.config.DataDir)
	if err != nil {
		return ""
	}
	for _, p := range all {
		if p.parent == postmaster && i.kind(p) == kindStartup {
			fields := strings.Fields(p.title)
			return fields[len(fields)-1]
		}
	}
	return ""
}

// watch sees a postmaster to its end: when it is gone, whatever it has left behind is killed. Its shared memory is dead then, so
// nothing that such a process may still do is of use, and it might still commit.
func (i *Instance) watch(c *child) {
	defer i.watchers.Done()
	<-c.exited
	i.config.Logger.Info("postmaster ended", "pid", c.pid, "how", c.exit.String())
	ctx := context.Background()
	for {
		left, err := i.killAll(syscall.SIGKILL)
		if err == nil && left == 0 {
			break
		}
		if err != nil {
			i.config.Logger.Error("cannot see to leftover processes", "error", err)
		}
		_ = clock.Wait(ctx, i.config.Clock, poll) // the background context never ends
	}
	close(c.stopped)
}

// killAll signals every process of the data directory and returns how many there were, those attached to its shared memory included.
func (i *Instance) killAll(sig syscall.Signal) (int, error) {
	all, err := processes(i.config.DataDir)
	if err != nil {
		return 0, err
	}
	for _, p := range all {
		err = errors.Join(err, signalProcess(p, i.config.DataDir, sig))
		if p.parent == os.Getpid() && p.pid != i.PID() {
			reap(p.pid)
		}
	}
	if err != nil || len(all) > 0 {
		return len(all), err
	}
	pf, ok, err := readPidFile(i.config.DataDir)
	if err != nil || !ok || pf.shmID == 0 {
		return 0, nil //nolint:nilerr // an unreadable file names no memory
	}
	return ipcAttached(pf.shmID)
}
