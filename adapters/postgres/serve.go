package postgres

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/regent-infra/regent/adapters/postgres/guard"
	"github.com/regent-infra/regent/adapters/postgres/server"
	"github.com/regent-infra/regent/internal/invariant"
	"github.com/regent-infra/regent/schemas"
)

// payload returns the record of the operation's order.
func payload[T any](w *worker) *T {
	p, ok := w.op.Order.Payload.(*T)
	invariant.Assert(ok, "%s carries a %T", w.op.Work, w.op.Order.Payload)
	return p
}

// bootstrap initialises the data directory, unless that was done, and starts the first primary.
func (w *worker) bootstrap(ctx context.Context) error {
	p := payload[schemas.BootstrapPrimary](w)
	if w.op.Data != guard.DataWhole {
		if w.op.Data == guard.DataBroken {
			if err := w.empty(); err != nil {
				return err
			}
		}
		if err := w.instance.Init(ctx, server.InitOptions{}); err != nil {
			return err
		}
	}
	if w.instance.Running() {
		// A primary of an earlier term of its own goes on under this one, which its observation is to say from its start on.
		if err := w.stopServer(ctx, server.ModeFast, w.config.StopTimeout); err != nil {
			return err
		}
	}
	if _, err := w.instance.SetSynchronous(ctx, p.SynchronousStandbyNames); err != nil {
		return err
	}
	if err := w.pass(guard.DoorOpen, 1); err != nil {
		return err
	}
	if err := w.startServer(ctx, server.RolePrimary); err != nil {
		return err
	}
	return w.keepSlots(ctx, p.Slots)
}

// empty removes what an unfinished initialisation or copy has left in the data directory.
func (w *worker) empty() error {
	entries, err := os.ReadDir(w.config.DataDir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	for _, entry := range entries {
		err = errors.Join(err, os.RemoveAll(filepath.Join(w.config.DataDir, entry.Name())))
	}
	return err
}

// start starts the server as what it is.
func (w *worker) start(ctx context.Context) error {
	if w.op.AsPrimary {
		if err := w.pass(guard.DoorOpen, 0); err != nil {
			return err
		}
		return w.startServer(ctx, server.RolePrimary)
	}
	return w.startStandby(ctx, w.op.Upstream)
}

// startStandby starts a standby of an upstream, or, where there is none, one that follows nobody.
func (w *worker) startStandby(ctx context.Context, upstream guard.Upstream) error {
	if upstream.IsZero() {
		if err := w.revoke(ctx); err != nil {
			return err
		}
		return w.startServer(ctx, server.RoleStandby)
	}
	if err := w.pass(guard.DoorAttach, 0); err != nil {
		return err
	}
	if err := w.instance.FollowUpstream(ctx, w.followOptions(upstream)); err != nil {
		return err
	}
	if err := w.startServer(ctx, server.RoleStandby); err != nil {
		return err
	}
	w.dropSlots(ctx)
	return nil
}

func (w *worker) followOptions(u guard.Upstream) server.FollowOptions {
	return server.FollowOptions{
		Upstream: addressOf(u), Slot: u.Slot, ApplicationName: guard.ApplicationName(w.config.Node, u.Term),
	}
}

func addressOf(u guard.Upstream) server.Address {
	return server.Address{Host: u.Host, Port: uint16(u.Port)} //nolint:gosec // checked by the guard
}

// stop stops the server as the order says, or as the agent's configuration does when it ends.
func (w *worker) stop(ctx context.Context) error {
	mode, budget := w.config.StopMode, w.config.StopTimeout
	if w.op.Order != nil {
		p := payload[schemas.StopPostgres](w)
		mode, budget = modeOf(p.Mode), w.budget(p.TimeoutMs)
	}
	return w.stopServer(ctx, mode, budget)
}

func (w *worker) budget(ms int32) time.Duration {
	if ms > 0 {
		return time.Duration(ms) * time.Millisecond
	}
	return w.config.StopTimeout
}

func modeOf(m schemas.StopMode) server.Mode {
	switch m {
	case schemas.StopModeSmart:
		return server.ModeSmart
	case schemas.StopModeImmediate:
		return server.ModeImmediate
	default:
		return server.ModeFast
	}
}

// restart stops the server and starts it as what it was.
func (w *worker) restart(ctx context.Context) error {
	p := payload[schemas.RestartPostgres](w)
	if err := w.stopServer(ctx, modeOf(p.Mode), w.budget(p.TimeoutMs)); err != nil {
		return err
	}
	return w.start(ctx)
}

// configure sets slots first, then the synchronous set, and proves by a commit that it is in force.
func (w *worker) configure(ctx context.Context) error {
	p := payload[schemas.ConfigureSynchronous](w)
	if err := w.keepSlots(ctx, p.Slots); err != nil {
		return err
	}
	if _, err := w.instance.SetSynchronous(ctx, p.SynchronousStandbyNames); err != nil {
		return err
	}
	return w.commitMarker(ctx)
}

// slotPrefix is that of all slots that Regent makes; others are somebody else's.
const slotPrefix = "regent_"

// keepSlots makes the slots that are wanted and drops those that are not, unless a standby uses them.
func (w *worker) keepSlots(ctx context.Context, wanted []schemas.SlotOwner) error {
	have, err := w.instance.Slots(ctx)
	if err != nil {
		return err
	}
	if slices.ContainsFunc(wanted, func(s schemas.SlotOwner) bool { _, ok := have[s.Slot]; return !ok }) {
		if err := w.makeSlots(ctx, wanted); err != nil {
			return err
		}
	}
	for name, active := range have {
		unwanted := strings.HasPrefix(name, slotPrefix) && !slices.ContainsFunc(wanted, func(s schemas.SlotOwner) bool { return s.Slot == name })
		if unwanted && !active {
			if err := w.instance.DropSlot(ctx, name); err != nil {
				return err
			}
		}
	}
	return nil
}

// makeSlots makes the slots that are missing, on one connection: a promotion waits for it. Names are checked by the guard to need no
// quoting.
func (w *worker) makeSlots(ctx context.Context, wanted []schemas.SlotOwner) error {
	if len(wanted) == 0 {
		return nil
	}
	names := make([]string, len(wanted))
	for i, s := range wanted {
		names[i] = s.Slot
	}
	config, err := w.instance.ConnConfig()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, slotTimeout)
	defer cancel()
	conn, err := pgconn.ConnectConfig(ctx, config)
	if err != nil {
		return fmt.Errorf("make replication slots: %w", err)
	}
	err = conn.Exec(ctx, fmt.Sprintf(`SELECT pg_create_physical_replication_slot(name, true) FROM unnest(ARRAY['%s']) name
		WHERE name NOT IN (SELECT slot_name FROM pg_replication_slots)`, strings.Join(names, "','"))).Close()
	if err = errors.Join(err, conn.Close(ctx)); err != nil {
		return fmt.Errorf("make replication slots %s: %w", strings.Join(names, ", "), err)
	}
	return nil
}

// slotTimeout bounds making slots, each of which is a directory and some fsyncs.
const slotTimeout = 15 * time.Second

// dropSlots drops what a standby has of slots from when it was a primary: they would keep its WAL for ever.
func (w *worker) dropSlots(ctx context.Context) {
	if err := w.keepSlots(ctx, nil); err != nil && ctx.Err() == nil {
		w.logger.WarnContext(ctx, "replication slots of an earlier role were not dropped", "error", err)
	}
}

// markerSQL writes a record that belongs to a transaction, so that the commit waits for the synchronous set, and changes no data.
const markerSQL = "SELECT pg_logical_emit_message(true, 'regent', 'marker')"

// commitMarker commits a transaction that was begun after the reload. A walsender reads its configuration anew before it handles a reply
// to WAL that is later than the reload, so the acknowledgement was counted by the new set.
func (w *worker) commitMarker(ctx context.Context) error {
	config, err := w.instance.ConnConfig()
	if err != nil {
		return err
	}
	config.RuntimeParams["synchronous_commit"] = "on"
	cancelled := false
	config.OnNotice = func(_ *pgconn.PgConn, n *pgconn.Notice) {
		// A wait that is given up ends in a commit that succeeds, with this warning.
		cancelled = cancelled || n.Code == "01000"
	}
	ctx, cancel := context.WithTimeout(ctx, w.config.MarkerTimeout)
	defer cancel()
	conn, err := pgconn.ConnectConfig(ctx, config)
	if err != nil {
		return fmt.Errorf("commit a marker: %w", err)
	}
	pid := conn.PID()
	err = conn.Exec(ctx, markerSQL).Close()
	closing, stop := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer stop()
	closeErr := conn.Close(closing)
	switch {
	case err != nil && ctx.Err() != nil:
		// The backend would wait on; what it has committed is only the marker.
		w.endBackend(context.WithoutCancel(ctx), pid)
		return fmt.Errorf("the synchronous set did not acknowledge a marker commit within %s: are enough of its standbys streaming? %w", w.config.MarkerTimeout, context.Cause(ctx))
	case err != nil:
		return fmt.Errorf("commit a marker: %w", err)
	case cancelled:
		return errors.New("commit a marker: the wait for the synchronous set was cancelled")
	default:
		return closeErr
	}
}

func (w *worker) endBackend(ctx context.Context, pid uint32) {
	config, err := w.instance.ConnConfig()
	if err != nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, w.config.LookTimeout)
	defer cancel()
	conn, err := pgconn.ConnectConfig(ctx, config)
	if err != nil {
		return
	}
	err = conn.Exec(ctx, fmt.Sprintf("SELECT pg_terminate_backend(%d)", pid)).Close()
	if err = errors.Join(err, conn.Close(ctx)); err != nil {
		w.logger.WarnContext(ctx, "a session that waits for the synchronous set was not ended", "error", err)
	}
}
