package server

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/user"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/regent-infra/regent/adapters/postgres/control"
	"github.com/regent-infra/regent/adapters/postgres/wal"
	"github.com/regent-infra/regent/internal/clock"
	"github.com/regent-infra/regent/internal/secret"
)

// Errors that callers tell apart.
var (
	// ErrInUse: another process of Regent manages this data directory.
	ErrInUse = errors.New("data directory is in use")
	// ErrRunning: the operation needs a stopped server.
	ErrRunning = errors.New("the server is running")
	// ErrNotRunning: the operation needs a running server.
	ErrNotRunning = errors.New("the server is not running")
	// ErrNotReady: the server runs but does not accept connections yet (crash recovery, or a standby that is not consistent).
	ErrNotReady = errors.New("the server is not ready yet")
	// ErrForeign: the data directory belongs to another cluster or another major version.
	ErrForeign = errors.New("data directory does not belong here")
	// ErrEmpty: there is no data directory.
	ErrEmpty = errors.New("no data directory")
	// ErrStopRequested: Stop was called while the server was being started.
	ErrStopRequested = errors.New("a stop was asked for meanwhile")
)

// poll is the step of waiting loops for what cannot be awaited: files and processes of the server. A step costs some 100 µs.
const poll = 5 * time.Millisecond

// Instance is one PostgreSQL server on this machine. Its methods may be called concurrently; operations that change the server wait for
// each other; Stop, Wait and WaitStopped do not, and a start that is under way when Stop is called launches nothing any more.
type Instance struct {
	config   Config
	identity identity
	masker   *secret.Masker
	lock     *os.File

	// operation is held by whoever changes the server; a channel, so that waiting for it respects a context.
	operation chan struct{}

	// What follows is guarded by operation.
	moment     map[string]string // settings that depend on role and moment
	clientsCut bool
	// drained is how far a standby that drains had replayed when it began to; 0 if it does not.
	drained wal.LSN

	// mu guards what follows; it is held while a postmaster is forked.
	mu       sync.Mutex
	child    *child
	stopping bool
	// stops counts the calls of Stop: a start that began before one must not launch after it.
	stops    uint64
	watchers sync.WaitGroup
}

// Open takes hold of a data directory, which may not exist yet. It starts nothing. Two instances cannot hold one directory.
func Open(config Config) (*Instance, error) {
	config = config.withDefaults()
	if err := config.Validate(); err != nil {
		return nil, err
	}
	id, err := resolveIdentity(os.Geteuid(), config.User, user.Lookup)
	if err != nil {
		return nil, fmt.Errorf("open PostgreSQL instance %s: %w", config.DataDir, err)
	}
	// The kernel shows processes by their real working directory.
	parent, err := filepath.EvalSymlinks(filepath.Dir(config.DataDir))
	if err != nil {
		return nil, fmt.Errorf("open PostgreSQL instance %s: %w", config.DataDir, err)
	}
	config.DataDir = filepath.Join(parent, filepath.Base(config.DataDir))
	if resolved, err := filepath.EvalSymlinks(config.DataDir); err == nil {
		config.DataDir = resolved
	}
	for _, path := range []string{config.DataDir, config.RunDir, filepath.Join(config.Binaries.Dir, "postgres")} {
		if err := id.checkReach(path); err != nil {
			return nil, fmt.Errorf("open PostgreSQL instance %s: %w", config.DataDir, err)
		}
	}
	if err := id.makeDir(config.RunDir); err != nil {
		return nil, fmt.Errorf("open PostgreSQL instance %s: prepare %s: %w", config.DataDir, config.RunDir, err)
	}
	if socketDir := config.socketDir(); socketDir != config.RunDir {
		if err := id.makeDir(socketDir); err != nil {
			return nil, fmt.Errorf("open PostgreSQL instance %s: prepare the socket's folder: %w", config.DataDir, err)
		}
	}
	lock, err := lockFile(filepath.Join(config.RunDir, "lock"))
	if err != nil {
		return nil, fmt.Errorf("open PostgreSQL instance %s: %w", config.DataDir, err)
	}
	i := &Instance{
		config: config, identity: id, lock: lock, operation: make(chan struct{}, 1),
		masker: secret.NewMasker(config.Superuser.Password, config.Replication.Password, config.Rewind.Password),
		moment: map[string]string{},
	}
	if err := i.remember(); err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	return i, nil
}

// lockFile holds an advisory lock as long as the file is open; the kernel drops it with the process, and children do not inherit it.
func lockFile(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open lock: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil { //nolint:gosec // a descriptor is small
		closeErr := f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("%w: another process holds %s: stop it first", ErrInUse, path)
		}
		return nil, errors.Join(fmt.Errorf("lock %s: %w", path, err), closeErr)
	}
	return f, nil
}

// remember takes over what an earlier process had set: upstream and synchronous set survive the agent.
func (i *Instance) remember() error {
	content, err := os.ReadFile(filepath.Join(i.config.DataDir, settingsFile))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read %s: %w", settingsFile, err)
	}
	if !strings.Contains(string(content), i.config.ownerLine()) {
		return nil // another server's, which came with a copy
	}
	settings, err := parseSettings(content)
	if err != nil {
		return err
	}
	for _, name := range append([]string{"synchronous_standby_names"}, upstreamSettings...) {
		if value, ok := settings[name]; ok {
			i.moment[name] = value
		}
	}
	return nil
}

// Close lets go of the data directory. The server must be stopped first.
func (i *Instance) Close() error {
	if i.Running() {
		return fmt.Errorf("close PostgreSQL instance %s: %w: stop it first", i.config.DataDir, ErrRunning)
	}
	i.watchers.Wait()
	return i.lock.Close()
}

// DataDir returns the resolved data directory.
func (i *Instance) DataDir() string { return i.config.DataDir }

// Port returns the TCP port.
func (i *Instance) Port() uint16 { return i.config.Port }

// SocketDir returns the private folder of the server's Unix socket.
func (i *Instance) SocketDir() string { return i.config.socketDir() }

// WALDir returns where the write-ahead log lies.
func (i *Instance) WALDir() string { return filepath.Join(i.config.DataDir, "pg_wal") }

// Own gives a file or folder below the data directory to the server's user, for whoever has put it there (a base backup).
func (i *Instance) Own(path string) error { return i.identity.own(path) }

// UserIDs returns the numeric user and group that the server runs as.
func (i *Instance) UserIDs() (uid, gid int) { return i.identity.uid, i.identity.gid }

// Settings returns what Regent's settings file holds, or will hold at the next change.
func (i *Instance) Settings() map[string]string {
	i.operation <- struct{}{}
	defer i.release()
	return maps.Clone(i.effective())
}

// acquire waits for the turn to change the server.
func (i *Instance) acquire(ctx context.Context) error {
	select {
	case i.operation <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for another operation on %s: %w", i.config.DataDir, context.Cause(ctx))
	}
}

func (i *Instance) release() { <-i.operation }

// Running says whether the postmaster that this process started is alive.
func (i *Instance) Running() bool {
	c := i.current()
	return c != nil && c.alive()
}

func (i *Instance) current() *child {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.child
}

// running returns the live child or [ErrNotRunning].
func (i *Instance) running() (*child, error) {
	if !i.Running() {
		return nil, ErrNotRunning
	}
	return i.current(), nil
}

// PID returns the postmaster's process id, 0 if it does not run.
func (i *Instance) PID() int {
	if c, err := i.running(); err == nil {
		return c.pid
	}
	return 0
}

// Wait blocks until the postmaster of the current (or last) start is gone and says how it ended: at once, whoever ended it. Processes
// of the server may live on for a moment; [Instance.WaitStopped] waits for those too.
func (i *Instance) Wait(ctx context.Context) (Exit, error) {
	c := i.current()
	if c == nil {
		return Exit{}, fmt.Errorf("wait for the postmaster: %w", ErrNotRunning)
	}
	select {
	case <-c.exited:
		return i.exitOf(c), nil
	case <-ctx.Done():
		return Exit{}, context.Cause(ctx)
	}
}

// exitOf completes what is known of a postmaster that has ended.
func (i *Instance) exitOf(c *child) Exit {
	exit := c.exit
	exit.LastLines = append(c.log.lines(), exit.LastLines...)
	i.mu.Lock()
	defer i.mu.Unlock()
	exit.Requested = i.stopping && i.child == c
	return exit
}

// WaitStopped blocks until no process of the server is left: neither the postmaster nor any that has outlived it.
func (i *Instance) WaitStopped(ctx context.Context) error {
	c := i.current()
	if c == nil {
		return nil
	}
	select {
	case <-c.stopped:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait until no process of %s is left: %w", i.config.DataDir, context.Cause(ctx))
	}
}

// Control reads the control file.
func (i *Instance) Control() (control.Data, error) { return control.Read(i.config.DataDir) }

// Initialized says whether there is a data directory.
func (i *Instance) Initialized() bool {
	_, err := os.Stat(filepath.Join(i.config.DataDir, "PG_VERSION"))
	return err == nil
}

// Check says whether the data directory is there, of the right version and of the right cluster.
func (i *Instance) Check() error {
	content, err := os.ReadFile(filepath.Join(i.config.DataDir, "PG_VERSION"))
	if errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("%w at %s: initialise it, or copy one from the primary", ErrEmpty, i.config.DataDir)
	}
	if err != nil {
		return fmt.Errorf("check %s: %w", i.config.DataDir, err)
	}
	if err := i.checkCondemned(); err != nil {
		return err
	}
	version := strings.TrimSpace(string(content))
	if want := fmt.Sprint(i.config.Binaries.Version.Major); version != want {
		return fmt.Errorf("%w: %s is of PostgreSQL %s, the programs in %s are %s: use those of version %s, or pg_upgrade",
			ErrForeign, i.config.DataDir, version, i.config.Binaries.Dir, want, version)
	}
	data, err := i.Control()
	if err != nil {
		return err
	}
	if want := i.config.SystemIdentifier; want != 0 && data.SystemIdentifier != want {
		return fmt.Errorf("%w: %s is of the cluster with system identifier %d, expected %d: it was initialised separately",
			ErrForeign, i.config.DataDir, data.SystemIdentifier, want)
	}
	return nil
}

// await polls done until it is true, an error, or ctx ends.
func (i *Instance) await(ctx context.Context, done func() (bool, error)) error {
	for {
		ok, err := done()
		if ok || err != nil {
			return err
		}
		if err := clock.Wait(ctx, i.config.Clock, poll); err != nil {
			return err
		}
	}
}

// bound gives an operation its own deadline unless the caller has set an earlier one.
func bound(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, d)
}
