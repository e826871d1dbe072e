package server

import (
	"context"
	"errors"
	"fmt"
	"regexp"

	"github.com/jackc/pgx/v5/pgconn"
)

var slotPattern = regexp.MustCompile(`^[a-z0-9_]{1,63}$`)

// SQLSTATEs that make creating and dropping idempotent.
const (
	stateDuplicateObject = "42710"
	stateUndefinedObject = "42704"
)

// CreateSlot creates a physical replication slot that reserves WAL at once. That it exists is no error.
func (i *Instance) CreateSlot(ctx context.Context, name string) error {
	return i.slotStatement(ctx, "create", name, stateDuplicateObject, "SELECT pg_create_physical_replication_slot($1, true)::text")
}

// DropSlot drops a physical replication slot. That it does not exist is no error; that a standby uses it is.
func (i *Instance) DropSlot(ctx context.Context, name string) error {
	return i.slotStatement(ctx, "drop", name, stateUndefinedObject, "SELECT pg_drop_replication_slot($1)::text")
}

func (i *Instance) slotStatement(ctx context.Context, verb, name, harmless, sql string) error {
	if !slotPattern.MatchString(name) {
		return fmt.Errorf("%s replication slot %q: expected 1 to 63 lower-case letters, digits and underscores", verb, name)
	}
	ctx, cancel := bound(ctx, reloadTimeout)
	defer cancel()
	err := i.withConn(ctx, func(conn *pgconn.PgConn) error {
		_, err := query(ctx, conn, sql, name)
		var pgErr *pgconn.PgError
		if errors.As(err, &pgErr) && pgErr.Code == harmless {
			return nil
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("%s replication slot %s on %s: %w", verb, name, i.config.DataDir, err)
	}
	return nil
}

// Slots lists the physical replication slots; active says whether a standby streams through it.
func (i *Instance) Slots(ctx context.Context) (map[string]bool, error) {
	ctx, cancel := bound(ctx, reloadTimeout)
	defer cancel()
	slots := map[string]bool{}
	err := i.withConn(ctx, func(conn *pgconn.PgConn) error {
		rows, err := query(ctx, conn, "SELECT slot_name, active::text FROM pg_replication_slots WHERE slot_type = 'physical'")
		for _, row := range rows {
			slots[row[0]] = row[1] == "true"
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list replication slots of %s: %w", i.config.DataDir, err)
	}
	return slots, nil
}

// Checkpoint makes the server write a checkpoint, which can take long when much is dirty: ctx bounds it.
func (i *Instance) Checkpoint(ctx context.Context) error {
	err := i.withConn(ctx, func(conn *pgconn.PgConn) error { return execute(ctx, conn, "CHECKPOINT") })
	if err != nil {
		return fmt.Errorf("checkpoint %s: %w", i.config.DataDir, err)
	}
	return nil
}
