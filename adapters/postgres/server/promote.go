package server

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/regent-infra/regent/adapters/postgres/wal"
)

// ErrTimeline is wrapped when a promotion cannot take the timeline id that it was given.
var ErrTimeline = errors.New("timeline id cannot be taken")

// maxPlaceholders bounds how many timeline ids may be skipped: one file each.
const maxPlaceholders = 10_000

// PromoteOptions says how to promote.
type PromoteOptions struct {
	// Timeline is the id to take, never used before in the cluster. 0: PostgreSQL's choice, the next that it does not know, which
	// two standbys that are promoted apart would both take.
	Timeline wal.Timeline
	// SynchronousStandbyNames to set before open sessions become writable. Nil: left as it is.
	SynchronousStandbyNames *string
	// Before is called when the settings are in force, right before the promotion is asked for; its error calls that off. Nil: nothing.
	Before func() error
}

// Promoted says how a promotion went.
type Promoted struct {
	Timeline wal.Timeline
	// Switch is where the new timeline begins.
	Switch  wal.LSN
	History wal.History
	Took    time.Duration
}

const promoteTimeout = time.Minute

// Promote makes a running standby the primary and returns when it accepts writes. Before that everything is set: upstream
// cleared, synchronous set, timeline id. On an error the server may still become primary: ask [Instance.InRecovery] or stop it.
//
// A standby never runs with an empty synchronous_standby_names, see nobodyYet: so commits wait from the first one on.
func (i *Instance) Promote(ctx context.Context, o PromoteOptions) (Promoted, error) {
	ctx, cancel := bound(ctx, promoteTimeout)
	defer cancel()
	if err := i.acquire(ctx); err != nil {
		return Promoted{}, err
	}
	defer i.release()
	promoted, err := i.promote(ctx, o)
	if err != nil {
		return Promoted{}, fmt.Errorf("promote %s: %w", i.config.DataDir, err)
	}
	return promoted, nil
}

func (i *Instance) promote(ctx context.Context, o PromoteOptions) (Promoted, error) {
	began := i.config.Clock.Now()
	if !i.Running() {
		return Promoted{}, ErrNotRunning
	}
	var promoted Promoted
	err := i.withConn(ctx, func(conn *pgconn.PgConn) error {
		if recovering, err := inRecovery(ctx, conn); err != nil || !recovering {
			return errors.Join(err, errors.New("expected a standby, found a primary"))
		}
		if err := i.settle(ctx, conn, o); err != nil {
			return err
		}
		if o.Before != nil {
			if err := o.Before(); err != nil {
				return err
			}
		}
		if o.Timeline != 0 {
			if err := i.reserve(o.Timeline); err != nil {
				return err
			}
		}
		// Without waiting: pg_promote's own wait polls ten times a second.
		if _, err := query(ctx, conn, "SELECT pg_promote(false)"); err != nil {
			return errors.Join(fmt.Errorf("ask for promotion: %w", err), i.dropTrailingPlaceholders())
		}
		return i.awaitPrimary(ctx, conn, &promoted)
	})
	if err != nil {
		return Promoted{}, err
	}
	if promoted.History, err = wal.ReadHistory(i.WALDir(), promoted.Timeline); err != nil {
		return Promoted{}, err
	}
	promoted.Switch, _ = promoted.History.BeginOf(promoted.Timeline)
	promoted.Took = i.config.Clock.Now().Sub(began)
	if o.Timeline != 0 && promoted.Timeline != o.Timeline {
		return promoted, fmt.Errorf("%w: asked for %d, PostgreSQL took %d", ErrTimeline, o.Timeline, promoted.Timeline)
	}
	return promoted, nil
}

// settle writes the settings of the new role and waits until this session, and with it the postmaster, has read them.
func (i *Instance) settle(ctx context.Context, conn *pgconn.PgConn, o PromoteOptions) error {
	for _, name := range upstreamSettings {
		delete(i.moment, name)
	}
	want := i.moment["synchronous_standby_names"]
	if want == nobodyYet {
		want, i.moment["synchronous_standby_names"] = "", ""
	}
	if o.SynchronousStandbyNames != nil {
		want = *o.SynchronousStandbyNames
		if err := checkValue("synchronous_standby_names", want); err != nil {
			return err
		}
		i.moment["synchronous_standby_names"] = want
	}
	before, err := queryValue(ctx, conn, "SELECT extract(epoch FROM pg_conf_load_time())::text")
	if err != nil {
		return err
	}
	if err := removeFile(i.passFile()); err != nil {
		return err
	}
	if err := i.writeConfiguration(); err != nil {
		return err
	}
	if err := i.hangUp(); err != nil {
		return err
	}
	return i.await(ctx, func() (bool, error) {
		rows, err := query(ctx, conn, `SELECT extract(epoch FROM pg_conf_load_time())::text,
			current_setting('synchronous_standby_names'), current_setting('primary_conninfo')`)
		if err != nil {
			return false, err
		}
		row := rows[0]
		if row[0] == before {
			return false, nil
		}
		if row[1] != want || row[2] != "" {
			return false, fmt.Errorf("%w synchronous_standby_names %q: it still has %q", ErrSetting, want, row[1])
		}
		return true, nil
	})
}

func inRecovery(ctx context.Context, conn *pgconn.PgConn) (bool, error) {
	value, err := queryValue(ctx, conn, "SELECT pg_is_in_recovery()")
	return value == "t", err
}

// InRecovery asks the server whether it is a standby.
func (i *Instance) InRecovery(ctx context.Context) (bool, error) {
	var recovering bool
	err := i.withConn(ctx, func(conn *pgconn.PgConn) (err error) {
		recovering, err = inRecovery(ctx, conn)
		return err
	})
	if err != nil {
		return false, fmt.Errorf("ask %s for its role: %w", i.config.DataDir, err)
	}
	return recovering, nil
}

func (i *Instance) awaitPrimary(ctx context.Context, conn *pgconn.PgConn, promoted *Promoted) error {
	data, err := i.Control()
	if err != nil {
		return err
	}
	return i.await(ctx, func() (bool, error) {
		recovering, err := inRecovery(ctx, conn)
		if err != nil || recovering {
			return false, err
		}
		// The control file names the old timeline until the next checkpoint; the name of the current segment does not.
		name, err := queryValue(ctx, conn, "SELECT pg_walfile_name(pg_current_wal_lsn())")
		if err != nil {
			return false, err
		}
		timeline, _, ok := data.SegmentSize.ParseName(name)
		if !ok {
			return false, fmt.Errorf("read the new timeline: expected the name of a segment, got %q", name)
		}
		promoted.Timeline = timeline
		return true, nil
	})
}

// RequestPromotion is the way without SQL, for a server that has no connection left: the file and signal that pg_ctl promote uses. It
// does not wait, and sets nothing before.
func (i *Instance) RequestPromotion() error {
	c, err := i.running()
	if err != nil {
		return fmt.Errorf("request the promotion of %s: %w", i.config.DataDir, err)
	}
	if err := i.identity.writeFile(filepath.Join(i.config.DataDir, "promote"), nil, 0o600); err != nil {
		return fmt.Errorf("request the promotion of %s: %w", i.config.DataDir, err)
	}
	if err := i.signalPostmaster(c, syscall.SIGUSR1); err != nil {
		return fmt.Errorf("request the promotion of %s: %w", i.config.DataDir, err)
	}
	return nil
}

// reserve puts placeholders for every id below the wanted one that this server has no history of: PostgreSQL takes the first id
// after the one that it follows for which there is no history file. The placeholders stay for good, since a standby that follows across the
// gap asks for the history of each id in it.
func (i *Instance) reserve(want wal.Timeline) error {
	data, err := i.Control()
	if err != nil {
		return err
	}
	histories, placeholders, err := wal.ReadHistories(i.WALDir())
	if err != nil {
		return err
	}
	current := max(data.Timeline, data.MinRecoveryLine, 1)
	known := map[wal.Timeline]bool{}
	for t := range histories {
		known[t] = true
		if t >= want {
			return fmt.Errorf("%w: %d: the history of timeline %d is already here", ErrTimeline, want, t)
		}
	}
	for _, t := range placeholders {
		known[t] = true
		if t >= want {
			return fmt.Errorf("%w: %d: it was skipped for good by a placeholder for %d", ErrTimeline, want, t)
		}
	}
	if want <= current {
		return fmt.Errorf("%w: %d: the server is on timeline %d", ErrTimeline, want, current)
	}
	if want-current > maxPlaceholders {
		return fmt.Errorf("%w: %d: it lies more than %d above the current timeline %d", ErrTimeline, want, maxPlaceholders, current)
	}
	for t := current + 1; t < want; t++ {
		if known[t] {
			continue
		}
		// Whole, and its user's, from the first moment: the startup process looks for histories ten times a second, and one that it
		// cannot open ends the server.
		if err := i.identity.writeFile(filepath.Join(i.WALDir(), t.HistoryName()), wal.Placeholder(), 0o600); err != nil {
			return fmt.Errorf("reserve timeline %d: %w", want, err)
		}
	}
	return nil
}

// dropTrailingPlaceholders removes those above the highest real timeline, which an aborted promotion has left: a standby that starts takes
// the highest id for its target and refuses to come up when that is not its descendant. Those below stay: see reserve.
func (i *Instance) dropTrailingPlaceholders() error {
	histories, placeholders, err := wal.ReadHistories(i.WALDir())
	if err != nil {
		return fmt.Errorf("look for timeline placeholders: %w", err)
	}
	var highest wal.Timeline
	for t := range histories {
		highest = max(highest, t)
	}
	if data, err := i.Control(); err == nil {
		highest = max(highest, data.Timeline)
	}
	slices.Sort(placeholders)
	for _, t := range placeholders {
		if t > highest {
			if err := removeFile(filepath.Join(i.WALDir(), t.HistoryName())); err != nil {
				return fmt.Errorf("remove the placeholder of timeline %d: %w", t, err)
			}
		}
	}
	return nil
}
