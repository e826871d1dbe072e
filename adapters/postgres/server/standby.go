package server

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/regent-infra/regent/adapters/postgres/wal"
)

// FollowOptions says whom a standby follows.
type FollowOptions struct {
	// Upstream is the server to stream from.
	Upstream Address
	// Slot is the physical replication slot there. Empty: none.
	Slot string
	// ApplicationName is what the upstream's synchronous_standby_names goes by.
	ApplicationName string
	// RestoreCommand fetches WAL from an archive. Empty: none. Refused before 14, where it could not be revoked.
	RestoreCommand string
}

func (o FollowOptions) validate() error {
	var faults []error
	faults = append(faults, o.Upstream.validate(), checkValue("restore_command", o.RestoreCommand))
	if o.Slot != "" && !slotPattern.MatchString(o.Slot) {
		faults = append(faults, fmt.Errorf("slot %q: expected 1 to 63 lower-case letters, digits and underscores", o.Slot))
	}
	if !namePattern.MatchString(o.ApplicationName) {
		faults = append(faults, fmt.Errorf("application name %q: expected 1 to 63 letters, digits or _./-", o.ApplicationName))
	}
	return errors.Join(faults...)
}

const followTimeout = 15 * time.Second

// nobodyYet stands in synchronous_standby_names of a standby that has none. It names no server, and a standby commits nothing. It is there
// because the flag that commits must wait at all reaches backends through the checkpointer, in its own time: on a server that is
// promoted with an empty setting just replaced, the first commits might not wait. With a list already set only its names change.
const nobodyYet = `"regent-nobody-yet"`

// FollowUpstream makes a standby stream from an upstream, on its latest timeline, with the replication role and the passfile
// that only this instance has. It works on a stopped server (for the next start) and on a running one, whose receiver is re-pointed
// without a restart. It does not wait until WAL flows: see [Instance.AwaitStreaming].
func (i *Instance) FollowUpstream(ctx context.Context, o FollowOptions) error {
	ctx, cancel := bound(ctx, followTimeout)
	defer cancel()
	if err := o.validate(); err != nil {
		return fmt.Errorf("follow %s: %w", o.Upstream, err)
	}
	if o.RestoreCommand != "" && i.config.Binaries.Version.Major < 14 {
		return fmt.Errorf("follow %s: PostgreSQL 13 gives up a restore_command only at a restart, so it could not be revoked: use 14 or later, or no archive",
			o.Upstream)
	}
	if err := i.acquire(ctx); err != nil {
		return err
	}
	defer i.release()
	if err := i.writePassFile(o.Upstream); err != nil {
		return fmt.Errorf("follow %s: %w", o.Upstream, err)
	}
	i.moment["primary_conninfo"] = conninfo(
		[2]string{"host", o.Upstream.Host}, [2]string{"port", fmt.Sprint(o.Upstream.Port)},
		[2]string{"user", i.config.Replication.User}, [2]string{"passfile", i.passFile()},
		[2]string{"application_name", o.ApplicationName}, [2]string{"connect_timeout", "3"},
		[2]string{"sslmode", "prefer"}, [2]string{"gssencmode", "disable"},
		[2]string{"keepalives_idle", "5"}, [2]string{"keepalives_interval", "2"}, [2]string{"keepalives_count", "3"},
	)
	i.moment["primary_slot_name"] = o.Slot
	i.moment["restore_command"] = o.RestoreCommand
	if i.moment["synchronous_standby_names"] == "" {
		i.moment["synchronous_standby_names"] = nobodyYet
	}
	if err := i.writeConfiguration(); err != nil {
		return fmt.Errorf("follow %s: %w", o.Upstream, err)
	}
	if !i.Running() {
		return nil
	}
	if err := i.hangUp(); err != nil {
		return fmt.Errorf("follow %s: %w", o.Upstream, err)
	}
	return nil
}

// AwaitStreaming waits until the WAL receiver streams from the upstream given last.
func (i *Instance) AwaitStreaming(ctx context.Context, upstream Address) error {
	err := i.await(ctx, func() (bool, error) {
		var host, port string
		err := i.withConn(ctx, func(conn *pgconn.PgConn) error {
			rows, err := query(ctx, conn, "SELECT coalesce(sender_host, ''), coalesce(sender_port, 0)::text FROM pg_stat_wal_receiver WHERE status = 'streaming'")
			if err == nil && len(rows) == 1 {
				host, port = rows[0][0], rows[0][1]
			}
			return err
		})
		if err != nil && i.Running() && ctx.Err() == nil {
			return false, nil // not accepting yet, or out of connections: ask again
		}
		return host == upstream.Host && port == fmt.Sprint(upstream.Port), err
	})
	if err != nil {
		return fmt.Errorf("wait until %s streams from %s: %w", i.config.DataDir, upstream, err)
	}
	return nil
}

// Position is what a data directory's log holds.
type Position struct {
	// End is where the last whole record on disk ends; it has been fsynced.
	End wal.LSN
	// Timeline wrote that record.
	Timeline wal.Timeline
	// History is that timeline's.
	History wal.History
	// SystemIdentifier is the cluster's.
	SystemIdentifier uint64
	// Took says how long it took to revoke and to find out.
	Took time.Duration
}

const revokeTimeout = 10 * time.Second

// RevokeUpstream cuts a standby off its upstream for good, and says what its log holds then. When it returns without error:
//
//   - no WAL receiver is alive, and none can attach again until [Instance.FollowUpstream]: the settings are cleared durably, and the passfile has no
//     entry, so even a process with cached settings cannot authenticate;
//   - every whole record that a receiver has ever acknowledged lies below the reported end, and is on disk.
//
// It needs no SQL and works with replay paused, when PostgreSQL would go on streaming. On a stopped server it clears and reports alike.
func (i *Instance) RevokeUpstream(ctx context.Context) (Position, error) {
	ctx, cancel := bound(ctx, revokeTimeout)
	defer cancel()
	began := i.config.Clock.Now()
	if err := i.acquire(ctx); err != nil {
		return Position{}, err
	}
	defer i.release()
	replayed := i.drained
	i.drained = 0
	if err := i.revoke(ctx); err != nil {
		return Position{}, fmt.Errorf("revoke the upstream of %s: %w", i.config.DataDir, err)
	}
	position, err := i.position(ctx, replayed)
	if err != nil {
		return Position{}, fmt.Errorf("revoke the upstream of %s: it is cut off, but its position is unknown: %w", i.config.DataDir, err)
	}
	position.Took = i.config.Clock.Now().Sub(began)
	return position, nil
}

func (i *Instance) revoke(ctx context.Context) error {
	if err := i.seal(); err != nil {
		return err
	}
	if !i.Running() {
		return i.refuseLeftovers()
	}
	if err := i.hangUp(); err != nil {
		return err
	}
	return i.endReceivers(ctx)
}

// seal makes sure that no receiver can attach any more. The order matters: first nobody new can authenticate, then the settings go. Whoever is
// connected stays so, until the settings are read anew or the upstream ends.
func (i *Instance) seal() error {
	if err := removeFile(i.passFile()); err != nil {
		return fmt.Errorf("invalidate the passfile: %w", err)
	}
	for _, name := range upstreamSettings {
		delete(i.moment, name)
	}
	if !i.Initialized() {
		return ErrEmpty
	}
	return i.writeConfiguration()
}

// DrainUpstream is for an upstream that is about to shut down cleanly: no receiver can attach any more, but those that run go on until
// the upstream has ended their stream, which it does only when they have all of its WAL. It returns when none of them is left, and
// at once where none runs. When ctx ends first, it says so.
//
// It cuts nobody off and promises nothing about the position: [Instance.RevokeUpstream] comes next, whatever this returns.
func (i *Instance) DrainUpstream(ctx context.Context) error {
	draining, err := i.beginDrain(ctx)
	if err == nil {
		err = i.await(ctx, func() (bool, error) {
			for len(draining) > 0 {
				if _, alive := inspect(draining[0].pid, i.config.DataDir); alive {
					return false, nil
				}
				draining = draining[1:]
			}
			return true, nil
		})
	}
	if err != nil {
		return fmt.Errorf("wait for the upstream of %s to end its stream: %w", i.config.DataDir, err)
	}
	return nil
}

// beginDrain seals the standby and lists the receivers that run. A child that has no title yet may become one; it finds no password.
func (i *Instance) beginDrain(ctx context.Context) ([]process, error) {
	if err := i.acquire(ctx); err != nil {
		return nil, err
	}
	defer i.release()
	if err := i.seal(); err != nil {
		return nil, err
	}
	c, err := i.running()
	if err != nil {
		return nil, nil //nolint:nilerr // a server that does not run receives nothing
	}
	// Asked for now, while there is time: from here on a record boundary, whatever is replayed later.
	i.drained = i.replayed(ctx)
	all, err := processes(i.config.DataDir)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(all, func(p process) bool { return p.parent != c.pid || i.kind(p) != kindReceiver }), nil
}

// refuseLeftovers makes sure that "not running" means it: a receiver of a dead agent's server could still be streaming.
func (i *Instance) refuseLeftovers() error {
	left, err := processes(i.config.DataDir)
	if err != nil {
		return err
	}
	if len(left) > 0 {
		return fmt.Errorf("%d processes of an earlier server are alive: clear them first", len(left))
	}
	return nil
}

// endReceivers signals WAL receivers until none is seen, nor a child that has no title yet and might become one. A receiver that
// starts later finds no password; one that has read the password before is alive now, and is ended here.
func (i *Instance) endReceivers(ctx context.Context) error {
	began := i.config.Clock.Now()
	return i.await(ctx, func() (bool, error) {
		c, err := i.running()
		if err != nil {
			return true, nil //nolint:nilerr // a server that has ended meanwhile streams no more
		}
		all, err := processes(i.config.DataDir)
		if err != nil {
			return false, err
		}
		sig := syscall.SIGTERM
		if i.config.Clock.Now().Sub(began) > revokeTimeout/4 {
			// The receiver hangs (its disk stalls). Killing it ends the whole server, which serves the purpose.
			sig = syscall.SIGKILL
		}
		waiting := false
		for _, p := range all {
			k := i.kind(p)
			if p.parent != c.pid || k != kindReceiver && k != kindNew {
				continue
			}
			waiting = true
			if k == kindReceiver {
				if err := signalProcess(p, i.config.DataDir, sig); err != nil {
					return false, err
				}
			}
		}
		return !waiting, nil
	})
}

// Position says what the data directory's log holds. It is exact on a stopped server and on a standby whose upstream is revoked; while
// WAL flows in it is a lower bound.
func (i *Instance) Position(ctx context.Context) (Position, error) {
	began := i.config.Clock.Now()
	position, err := i.position(ctx, 0)
	if err != nil {
		return Position{}, fmt.Errorf("find the end of WAL of %s: %w", i.config.DataDir, err)
	}
	position.Took = i.config.Clock.Now().Sub(began)
	return position, nil
}

// replayTimeout bounds asking a server where replay is: it only saves reading from the last checkpoint.
const replayTimeout = 250 * time.Millisecond

// position searches from where the server has replayed, which is asked for unless it is known.
func (i *Instance) position(ctx context.Context, replayed wal.LSN) (Position, error) {
	data, err := i.Control()
	if err != nil {
		return Position{}, err
	}
	if replayed == 0 && i.Running() {
		replayed = i.replayed(ctx)
	}
	start := max(data.Redo, replayed)
	config := wal.EndConfig{
		Dir: i.WALDir(), SegmentSize: data.SegmentSize, Start: start, Known: data.Redo,
		Timeline: data.Timeline, MinRecovery: data.MinRecovery, MinTimeline: data.MinRecoveryLine, SystemIdentifier: data.SystemIdentifier,
	}
	end, err := wal.FindEnd(ctx, config)
	if err != nil && config.Start > config.Known && ctx.Err() == nil {
		// Replay may stand in a segment that came from an archive and is gone: the long way knows more.
		config.Start = 0
		end, err = wal.FindEnd(ctx, config)
	}
	if err != nil {
		return Position{}, err
	}
	return Position{End: end.LSN, Timeline: end.Timeline, History: end.History, SystemIdentifier: data.SystemIdentifier}, nil
}

// replayed asks a running standby for the end of the last record that it has applied, a known record boundary; 0 if it does not say.
func (i *Instance) replayed(ctx context.Context) wal.LSN {
	ctx, cancel := context.WithTimeout(ctx, replayTimeout)
	defer cancel()
	var lsn wal.LSN
	err := i.withConn(ctx, func(conn *pgconn.PgConn) error {
		text, err := queryValue(ctx, conn, "SELECT coalesce(pg_last_wal_replay_lsn()::text, '')")
		if err != nil || text == "" {
			return err
		}
		lsn, err = wal.ParseLSN(text)
		return err
	})
	if err != nil {
		return 0
	}
	return lsn
}
