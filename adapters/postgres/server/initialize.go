package server

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/regent-infra/regent/adapters/postgres/binary"
	"github.com/regent-infra/regent/adapters/postgres/wal"
)

// InitOptions says what a new cluster is like.
type InitOptions struct {
	// Locale of the cluster. Default: C, with UTF-8 encoding: sorting does not change with the operating system's library.
	Locale string
	// SegmentSize of the WAL. Default: 16 MiB.
	SegmentSize wal.SegmentSize
	// Fast leaves out initdb's fsync; for tests.
	Fast bool
}

const initTimeout = 2 * time.Minute

// Init creates a new cluster with data checksums and its roles. The server must not run, the data directory be missing or empty;
// it is stopped afterwards. The roles' passwords are stored as SCRAM verifiers that are computed here, so that no statement carries one.
func (i *Instance) Init(ctx context.Context, o InitOptions) error {
	ctx, cancel := bound(ctx, initTimeout)
	defer cancel()
	if err := i.acquire(ctx); err != nil {
		return err
	}
	if i.Running() {
		i.release()
		return fmt.Errorf("initialise %s: %w", i.config.DataDir, ErrRunning)
	}
	err := i.initdb(ctx, o)
	if err == nil {
		err = i.bootstrapRoles(ctx)
	}
	i.release()
	if err != nil {
		return fmt.Errorf("initialise %s: %w", i.config.DataDir, err)
	}
	return nil
}

func (i *Instance) initdb(ctx context.Context, o InitOptions) error {
	program, err := i.config.Binaries.Path(binary.ToolInitdb)
	if err != nil {
		return err
	}
	if o.Locale == "" {
		o.Locale = "C"
	}
	if o.SegmentSize == 0 {
		o.SegmentSize = wal.DefaultSegmentSize
	}
	if err := o.SegmentSize.Validate(); err != nil {
		return err
	}
	entries, err := os.ReadDir(i.config.DataDir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if len(entries) > 0 {
		return fmt.Errorf("%w: the folder is not empty: initialise elsewhere, or move its content away", ErrForeign)
	}
	if err := i.identity.makeDir(i.config.DataDir); err != nil {
		return err
	}
	args := []string{
		// initdb wants a password for scram; its pg_hba.conf is replaced before any server reads it.
		"-D", i.config.DataDir, "-U", i.config.Superuser.User, "-A", "trust",
		"--data-checksums", "--encoding=UTF8", "--locale=" + o.Locale, fmt.Sprintf("--wal-segsize=%d", o.SegmentSize>>20), "--no-instructions",
	}
	if i.config.Binaries.Version.Major < 14 {
		args = args[:len(args)-1] // --no-instructions came with 14
	}
	if o.Fast {
		args = append(args, "--no-sync")
	}
	if _, err := i.RunTool(ctx, program, args, nil); err != nil {
		// What initdb leaves behind would be taken for a data directory.
		return errors.Join(err, i.emptyDataDir())
	}
	return i.writeConfiguration()
}

func (i *Instance) emptyDataDir() error {
	entries, err := os.ReadDir(i.config.DataDir)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		err = errors.Join(err, os.RemoveAll(filepath.Join(i.config.DataDir, entry.Name())))
	}
	return err
}

// RunTool runs a PostgreSQL program as the server's user and returns what it printed, secrets masked. Its error quotes the complaints. The
// program and its children die with ctx and with this process.
func (i *Instance) RunTool(ctx context.Context, program string, args, env []string) (string, error) {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir = i.config.RunDir
	cmd.Env = append(i.environment(), env...)
	cmd.SysProcAttr = toolAttributes(i.identity)
	cmd.Cancel = func() error { return killGroup(cmd.Process.Pid) }
	cmd.WaitDelay = time.Second
	out, err := runLocked(cmd)
	text := i.masker.Clean(string(out))
	if err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return text, fmt.Errorf("run %s: %w: %s", filepath.Base(program), err, complaints(splitLines(text)))
	}
	return text, nil
}

// bootstrapRoles starts the new server for a moment to create the roles.
func (i *Instance) bootstrapRoles(ctx context.Context) (err error) {
	if err := i.start(ctx, StartOptions{Role: RolePrimary}); err != nil {
		return err
	}
	defer func() {
		_, stopErr := i.Stop(ctx, StopOptions{})
		err = errors.Join(err, stopErr)
	}()
	return i.withConn(ctx, func(conn *pgconn.PgConn) error {
		// ensureRoles is level-triggered: it also serves to change passwords later.
		return i.ensureRoles(ctx, conn)
	})
}
