package server

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/regent-infra/regent/adapters/postgres/binary"
)

// ErrCondemned is wrapped when the data directory may hold a mixture of two servers: a rewind was interrupted. Only a fresh copy helps.
var ErrCondemned = errors.New("data directory is unusable")

const condemnedName = "condemned"

// condemn notes durably that the data directory must not be started. The note lies outside of it, because pg_rewind removes what its
// source does not have.
func (i *Instance) condemn(reason string) error {
	id, err := directoryID(i.config.DataDir)
	if err != nil {
		return err
	}
	return i.identity.writeFile(filepath.Join(i.config.RunDir, condemnedName), []byte(id+"\n"+reason+"\n"), 0o600)
}

// checkCondemned fails if the note is about this very directory.
func (i *Instance) checkCondemned() error {
	content, err := os.ReadFile(filepath.Join(i.config.RunDir, condemnedName))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	noted, reason, _ := strings.Cut(strings.TrimSpace(string(content)), "\n")
	id, err := directoryID(i.config.DataDir)
	if err != nil {
		return err
	}
	if noted == id {
		return fmt.Errorf("%w: %s: %s: copy the node afresh", ErrCondemned, i.config.DataDir, reason)
	}
	return nil
}

// RunRewind runs pg_rewind on the stopped data directory with source as its model. From before it begins until it has succeeded the
// directory is condemned: an interrupted pg_rewind leaves a mixture that looks like a server. Afterwards start it as a standby.
//
// pg_rewind first recovers a server that was not shut down, in single-user mode, which refuses standby.signal: it is removed here,
// and written again by Start. It also copies the source's configuration; Start writes this server's own.
func (i *Instance) RunRewind(ctx context.Context, source Address) (output string, err error) {
	if err := i.acquire(ctx); err != nil {
		return "", err
	}
	defer i.release()
	output, err = i.runRewind(ctx, source)
	if err != nil {
		return output, fmt.Errorf("rewind %s to %s: %w", i.config.DataDir, source, err)
	}
	return output, nil
}

func (i *Instance) runRewind(ctx context.Context, source Address) (output string, err error) {
	if i.Running() {
		return "", ErrRunning
	}
	if err := source.validate(); err != nil {
		return "", err
	}
	program, err := i.config.Binaries.Path(binary.ToolRewind)
	if err != nil {
		return "", err
	}
	if _, err := i.clearLeftovers(ctx); err != nil {
		return "", err
	}
	if err := i.writeConfiguration(); err != nil {
		return "", err
	}
	for _, name := range []string{"standby.signal", "recovery.signal", "promote"} {
		if err := removeFile(filepath.Join(i.config.DataDir, name)); err != nil {
			return "", fmt.Errorf("remove %s: %w", name, err)
		}
	}
	passFile := filepath.Join(i.config.RunDir, "rewind.passfile")
	if err := i.identity.writeFile(passFile, []byte(passLine(source, "postgres", i.config.Rewind)), 0o600); err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, removeFile(passFile)) }()
	if err := i.condemn("pg_rewind did not finish"); err != nil {
		return "", fmt.Errorf("note that a rewind begins: %w", err)
	}
	from := conninfo(
		[2]string{"host", source.Host}, [2]string{"port", fmt.Sprint(source.Port)}, [2]string{"user", i.config.Rewind.User},
		[2]string{"dbname", "postgres"}, [2]string{"connect_timeout", "10"}, [2]string{"application_name", "regent-rewind"},
	)
	output, err = i.RunTool(ctx, program, []string{"--target-pgdata", i.config.DataDir, "--source-server", from}, []string{"PGPASSFILE=" + passFile})
	if err != nil {
		return output, err
	}
	// What came from the source must not speak for this server if this process ends before the next start.
	if err := i.writeConfiguration(); err != nil {
		return output, err
	}
	if err := i.identity.writeFile(filepath.Join(i.config.DataDir, "standby.signal"), nil, 0o600); err != nil {
		return output, err
	}
	if err := removeFile(filepath.Join(i.config.RunDir, condemnedName)); err != nil {
		return output, fmt.Errorf("note that the rewind is done: %w", err)
	}
	return output, nil
}
