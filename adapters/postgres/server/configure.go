package server

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// ErrSetting is wrapped when PostgreSQL refuses a setting; nothing was changed then.
var ErrSetting = errors.New("PostgreSQL refuses the setting")

const reloadTimeout = 15 * time.Second

// Applied says what a change of configuration came to.
type Applied struct {
	// Reloaded says that the running server has read the new files.
	Reloaded bool
	// PendingRestart names the settings that take effect at the next start.
	PendingRestart []string
}

// Configure replaces the caller's settings (Config.Settings) and applies them. A running server reads the files again; when it
// refuses one, the former files are put back and the error wraps [ErrSetting] with PostgreSQL's reason.
func (i *Instance) Configure(ctx context.Context, settings map[string]string) (Applied, error) {
	ctx, cancel := bound(ctx, reloadTimeout)
	defer cancel()
	var faults []error
	for name, value := range settings {
		faults = append(faults, checkSetting(name, value))
	}
	if err := errors.Join(faults...); err != nil {
		return Applied{}, fmt.Errorf("configure %s: %w", i.config.DataDir, err)
	}
	if err := i.acquire(ctx); err != nil {
		return Applied{}, err
	}
	defer i.release()
	former := i.config.Settings
	i.config.Settings = maps.Clone(settings)
	applied, err := i.apply(ctx)
	if errors.Is(err, ErrSetting) {
		i.config.Settings = former
		_, undoErr := i.apply(ctx)
		err = errors.Join(err, undoErr)
	}
	if err != nil {
		return Applied{}, fmt.Errorf("configure %s: %w", i.config.DataDir, err)
	}
	return applied, nil
}

// SetSynchronous sets synchronous_standby_names, for example "ANY 1 (a, b)"; empty is asynchronous. A reload reaches each process
// in its own time: SHOW proves nothing about walsenders, only a commit that waits does.
func (i *Instance) SetSynchronous(ctx context.Context, names string) (Applied, error) {
	ctx, cancel := bound(ctx, reloadTimeout)
	defer cancel()
	if err := checkValue("synchronous_standby_names", names); err != nil {
		return Applied{}, err
	}
	if err := i.acquire(ctx); err != nil {
		return Applied{}, err
	}
	defer i.release()
	i.moment["synchronous_standby_names"] = names
	applied, err := i.apply(ctx)
	if err != nil {
		return Applied{}, fmt.Errorf("set the synchronous standbys of %s: %w", i.config.DataDir, err)
	}
	return applied, nil
}

func checkValue(name, value string) error {
	if strings.ContainsAny(value, "\r\n\x00") {
		return fmt.Errorf("setting %s: a line break or NUL cannot be written to a configuration file", name)
	}
	return nil
}

// Reload writes the files again and makes a running server read them.
func (i *Instance) Reload(ctx context.Context) (Applied, error) {
	ctx, cancel := bound(ctx, reloadTimeout)
	defer cancel()
	if err := i.acquire(ctx); err != nil {
		return Applied{}, err
	}
	defer i.release()
	applied, err := i.apply(ctx)
	if err != nil {
		return Applied{}, fmt.Errorf("reload %s: %w", i.config.DataDir, err)
	}
	return applied, nil
}

// apply writes the files and, if the server runs, waits until it has read them, and asks what it thinks of them.
func (i *Instance) apply(ctx context.Context) (Applied, error) {
	if !i.Initialized() {
		return Applied{}, ErrEmpty
	}
	if err := i.writeConfiguration(); err != nil {
		return Applied{}, err
	}
	if !i.Running() {
		return Applied{}, nil
	}
	if err := i.reloadAndWait(ctx); err != nil {
		return Applied{}, err
	}
	applied := Applied{Reloaded: true}
	err := i.withConn(ctx, func(conn *pgconn.PgConn) error {
		// A setting that waits for a restart is listed with an error, too.
		rows, err := query(ctx, conn, `SELECT coalesce(f.name, ''), coalesce(f.setting, ''), f.error FROM pg_file_settings f
			LEFT JOIN pg_settings s ON lower(s.name) = lower(f.name)
			WHERE f.error IS NOT NULL AND NOT coalesce(s.pending_restart, false) ORDER BY f.seqno`)
		if err != nil {
			return fmt.Errorf("ask for faulty settings: %w", err)
		}
		var faults []error
		for _, row := range rows {
			faults = append(faults, fmt.Errorf("%w %s = %s: %s", ErrSetting, row[0], quote(row[1]), row[2]))
		}
		if err := errors.Join(faults...); err != nil {
			return err
		}
		rows, err = query(ctx, conn, "SELECT name FROM pg_settings WHERE pending_restart ORDER BY name")
		if err != nil {
			return fmt.Errorf("ask for settings that need a restart: %w", err)
		}
		for _, row := range rows {
			applied.PendingRestart = append(applied.PendingRestart, row[0])
		}
		return nil
	})
	return applied, err
}

// reloadAndWait signals the postmaster and waits until it has read the files: a connection made afterwards inherits the time of the
// postmaster's last reload, and a postmaster reads settings, pg_hba.conf and all in one go.
func (i *Instance) reloadAndWait(ctx context.Context) error {
	const loaded = "SELECT extract(epoch FROM pg_conf_load_time())::text"
	var before string
	read := func(into *string) error {
		return i.withConn(ctx, func(conn *pgconn.PgConn) (err error) {
			*into, err = queryValue(ctx, conn, loaded)
			return err
		})
	}
	if err := read(&before); err != nil {
		return err
	}
	if err := i.hangUp(); err != nil {
		return err
	}
	return i.await(ctx, func() (bool, error) {
		var now string
		if err := read(&now); err != nil {
			return false, err
		}
		return now != before, nil
	})
}

// hangUp tells the postmaster to read its files again.
func (i *Instance) hangUp() error {
	c, err := i.running()
	if err != nil {
		return err
	}
	return i.signalPostmaster(c, syscall.SIGHUP)
}
