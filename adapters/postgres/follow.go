package postgres

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/regent-infra/regent/adapters/postgres/basebackup"
	"github.com/regent-infra/regent/adapters/postgres/binary"
	"github.com/regent-infra/regent/adapters/postgres/guard"
	"github.com/regent-infra/regent/adapters/postgres/rewind"
	"github.com/regent-infra/regent/adapters/postgres/server"
	"github.com/regent-infra/regent/adapters/postgres/wal"
	"github.com/regent-infra/regent/schemas"
)

const (
	// attachRetry is how often an upstream that does not answer, or still promotes, is asked again.
	attachRetry = 100 * time.Millisecond
	// streamPoll is how often it is looked whether the receiver streams.
	streamPoll = 25 * time.Millisecond
	// streamPatience is how long a receiver may take to stream before it is looked again whether the histories fit.
	streamPatience = 3 * time.Second
)

// errDiverged says that this node has WAL that its upstream's history does not contain.
var errDiverged = errors.New("this node's history has diverged from the upstream's")

// clone replaces whatever is here by a copy of the upstream.
func (w *worker) clone(ctx context.Context) error { return w.copyAfresh(ctx) }

// follow makes the node a standby of the upstream: as it is where its WAL is part of the upstream's history, else rewound, else copied.
func (w *worker) follow(ctx context.Context) error {
	p := payload[schemas.FollowPrimary](w)
	if w.streams(ctx) {
		return nil // from this very upstream, under this very term
	}
	if w.op.Data != guard.DataWhole {
		return w.copyAfresh(ctx)
	}
	if w.op.WasPrimary {
		if err := w.stopServer(ctx, server.ModeFast, w.config.FenceTimeout); err != nil {
			return err
		}
	}
	// Nobody of an earlier term sends this node anything from here on. A standby whose end of WAL is known was cut off before.
	if w.known != nil && !w.op.WasPrimary {
		w.end = w.known
	} else if err := w.revoke(ctx); err != nil {
		return err
	}
	err := w.attach(ctx, w.end)
	if !errors.Is(err, errDiverged) {
		return err
	}
	w.logger.WarnContext(ctx, "this node has diverged from its upstream", "upstream", w.op.Upstream.Node)
	return w.reconcile(ctx, p.AllowRewind, p.AllowCopy)
}

// streams says whether the receiver streams from the operation's upstream under its term.
func (w *worker) streams(ctx context.Context) bool {
	if !w.instance.Running() {
		return false
	}
	pulse, err := w.observer.Pulse(ctx)
	if err != nil || pulse.Receiver == nil {
		return false
	}
	r, u := pulse.Receiver, w.op.Upstream
	return r.Status == "streaming" && r.SenderHost == u.Host && r.SenderPort == u.Port && r.SlotName == u.Slot &&
		r.ApplicationName == guard.ApplicationName(w.config.Node, u.Term)
}

// attach points the node at its upstream once the histories fit, and waits until WAL flows. It returns errDiverged when they do not fit.
func (w *worker) attach(ctx context.Context, end *schemas.WalEnd) error {
	began := w.clock.Now()
	attached := false
	for {
		if err := w.awaitFit(ctx, began, end); err != nil {
			return err
		}
		if !attached {
			if err := w.pass(guard.DoorAttach, payload[schemas.FollowPrimary](w).UpstreamTimeline); err != nil {
				return err
			}
			if err := w.instance.FollowUpstream(ctx, w.followOptions(w.op.Upstream)); err != nil {
				return err
			}
			attached = true
			if !w.instance.Running() {
				if err := w.startServer(ctx, server.RoleStandby); err != nil {
					return err
				}
			}
			w.wg.Go(func() { w.dropSlots(context.WithoutCancel(ctx)) })
		}
		streams, err := w.awaitStreaming(ctx, streamPatience)
		if streams || err != nil {
			return err
		}
		if w.clock.Now().Sub(began) > w.config.FollowTimeout {
			if payload[schemas.FollowPrimary](w).AllowCopy {
				w.logger.WarnContext(ctx, "the upstream may have removed the WAL that this node needs: it is copied afresh", "upstream", w.op.Upstream.Node)
				return w.copyAfresh(ctx)
			}
			return fmt.Errorf("the receiver does not stream from %s after %s: see its log; the upstream may have removed the WAL that this node needs", addressOf(w.op.Upstream), w.config.FollowTimeout)
		}
		// It may have been attached to a node that was about to begin a timeline which leaves ours before our end.
		position, err := w.instance.Position(ctx)
		if err != nil {
			return err
		}
		end = w.endOf(position)
	}
}

// awaitFit waits until the upstream answers and it is certain whether this node's WAL is part of its history. A node that still promotes
// may leave our timeline anywhere behind what it has: until then only what it has, too, is known to fit.
func (w *worker) awaitFit(ctx context.Context, began time.Time, end *schemas.WalEnd) error {
	told := false
	for {
		up, err := server.AskUpstream(ctx, addressOf(w.op.Upstream), w.roles.replication)
		switch {
		case err == nil && w.systemIdentifier() != "" && strconv.FormatUint(up.SystemIdentifier, 10) != w.systemIdentifier():
			return fmt.Errorf("%w: the upstream %s has system identifier %d, this node %s", server.ErrForeign, addressOf(w.op.Upstream), up.SystemIdentifier, w.systemIdentifier())
		case err == nil && !up.History.Contains(timelineOf(end), lsnOf(end)):
			if up.History.Timeline > timelineOf(end) || w.promised(int64(up.History.Timeline)) {
				return errDiverged
			}
			// It is on an older timeline than we are: it has not promoted yet, or never will.
			err = fmt.Errorf("the upstream is on timeline %d, this node on %d", up.History.Timeline, end.Timeline)
		case err == nil && up.History.Timeline == timelineOf(end) && lsnOf(end) > up.Flushed:
			err = fmt.Errorf("the upstream has WAL up to %s, this node up to %s", up.Flushed, lsn(end.Lsn))
		case err == nil:
			return nil
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if w.clock.Now().Sub(began) > w.config.FollowTimeout {
			return fmt.Errorf("cannot follow %s after %s: %w", addressOf(w.op.Upstream), w.config.FollowTimeout, err)
		}
		if !told {
			told = true
			w.logger.InfoContext(ctx, "the upstream is not ready to be followed yet", "upstream", w.op.Upstream.Node, "why", w.oneLine(err))
		}
		if err := w.sleep(ctx, attachRetry); err != nil {
			return err
		}
	}
}

// promised says whether the timeline is the one that the order names as the upstream's own.
func (w *worker) promised(timeline int64) bool {
	want := payload[schemas.FollowPrimary](w).UpstreamTimeline
	return want != 0 && timeline == want
}

func timelineOf(end *schemas.WalEnd) wal.Timeline { return wal.Timeline(end.Timeline) } //nolint:gosec // read from a log
func lsnOf(end *schemas.WalEnd) wal.LSN           { return wal.LSN(end.Lsn) }           //nolint:gosec // read from a log

func (w *worker) archiveDir() string { return filepath.Join(w.config.AgentDir, "archive") }

func (w *worker) systemIdentifier() string {
	data, err := w.instance.Control()
	if err != nil {
		return ""
	}
	return strconv.FormatUint(data.SystemIdentifier, 10)
}

// awaitStreaming waits for WAL to flow; false without error means that it did not within the patience.
func (w *worker) awaitStreaming(ctx context.Context, patience time.Duration) (bool, error) {
	began := w.clock.Now()
	for !w.streams(ctx) {
		if !w.instance.Running() {
			return false, errors.New("the server has ended while it was to attach to its upstream")
		}
		if w.clock.Now().Sub(began) > patience {
			return false, nil
		}
		if err := w.sleep(ctx, streamPoll); err != nil {
			return false, err
		}
	}
	return true, nil
}

// reconcile brings a diverged node back: what it has more than the cluster is archived and counted, then undone.
func (w *worker) reconcile(ctx context.Context, allowRewind, allowCopy bool) error {
	if !allowRewind && !allowCopy {
		return fmt.Errorf("%w, and neither a rewind nor a copy is allowed", errDiverged)
	}
	if err := w.stopServer(ctx, server.ModeFast, w.config.FenceTimeout); err != nil {
		return err
	}
	programs := w.binaries
	if !allowRewind {
		// What is archived before a rewind is archived before a copy, too.
		programs.Tools = slices.DeleteFunc(slices.Clone(programs.Tools), func(t binary.Tool) bool { return t == binary.ToolRewind })
	}
	if err := w.countLost(ctx); err != nil {
		return err
	}
	report, err := rewind.Return(ctx, rewind.Options{
		Instance: w.instance, Binaries: programs, Source: addressOf(w.op.Upstream), Replication: w.roles.replication,
		Checkpoint: w.beforeRewind, ArchiveDir: w.archiveDir(), Logger: w.logger, Clock: w.clock,
		OnPhase: func(phase string) { w.logger.InfoContext(ctx, "bringing the node back", "phase", phase) },
	})
	if w.lost != nil && report.Archive != "" {
		w.lost.Archive = report.Archive
	}
	switch {
	case errors.Is(err, rewind.ErrCopyAfresh) && allowCopy:
		w.logger.WarnContext(ctx, "the node cannot be rewound and is copied afresh", "error", err)
		return w.copyAfresh(ctx)
	case err != nil:
		return err
	}
	if err := w.pass(guard.DoorAttach, payload[schemas.FollowPrimary](w).UpstreamTimeline); err != nil {
		return err
	}
	return w.startAttached(ctx)
}

// countLost says what the node has more than its upstream, before any of it is touched.
func (w *worker) countLost(ctx context.Context) error {
	up, err := server.AskUpstream(ctx, addressOf(w.op.Upstream), w.roles.replication)
	if err != nil {
		return err
	}
	d, err := rewind.Inspect(ctx, w.instance, up.History)
	if err != nil {
		// It is archived and reported as far as it can be read; what cannot be read must not keep the node away.
		w.logger.ErrorContext(ctx, "the lost writes cannot be counted", "error", err)
		w.lost = &schemas.LostWrites{OrderID: w.op.Order.ID, Commits: -1, FoundAt: w.now()}
		if w.end != nil {
			w.lost.Timeline, w.lost.EndLsn = w.end.Timeline, w.end.Lsn
		}
		return nil
	}
	if d.None() {
		return nil
	}
	w.lost = &schemas.LostWrites{
		OrderID: w.op.Order.ID, Timeline: int64(d.Mine.Timeline), ForkLsn: int64(d.Fork.LSN), EndLsn: int64(d.End), //nolint:gosec // no log reaches 2^63 bytes
		Commits: int64(d.Lost.Commits), FoundAt: w.now(),
	}
	return nil
}

// beforeRewind waits until the upstream's control file names its timeline, which pg_rewind goes by, and asks the guard: from
// here on the data directory is no server's until the rewind is over.
func (w *worker) beforeRewind(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, checkpointTimeout)
	defer cancel()
	for {
		ready, err := w.upstreamCheckpointed(ctx)
		if ready {
			return w.pass(guard.DoorErase, 0)
		}
		if sleepErr := w.sleep(ctx, attachRetry); sleepErr != nil {
			return errors.Join(sleepErr, err)
		}
	}
}

// upstreamCheckpointed says whether the upstream has written a checkpoint on its timeline.
func (w *worker) upstreamCheckpointed(ctx context.Context) (bool, error) {
	u := w.op.Upstream
	config, err := pgconn.ParseConfig(fmt.Sprintf("host='%s' port=%d user='%s' dbname=postgres sslmode=prefer connect_timeout=3", u.Host, u.Port, w.roles.rewind.User))
	if err != nil {
		return false, err
	}
	config.Password, config.RuntimeParams = w.roles.rewind.Password.Reveal(), map[string]string{"application_name": "regent-rewind"}
	ctx, cancel := context.WithTimeout(ctx, w.config.LookTimeout)
	defer cancel()
	conn, err := pgconn.ConnectConfig(ctx, config)
	if err != nil {
		return false, fmt.Errorf("ask %s for its last checkpoint: %w", addressOf(u), err)
	}
	defer func() { _ = conn.Close(ctx) }() // the answer is here
	result := conn.ExecParams(ctx, `SELECT NOT pg_is_in_recovery() AND (SELECT timeline_id FROM pg_control_checkpoint())
		= ('x' || left(pg_walfile_name(CASE WHEN pg_is_in_recovery() THEN NULL ELSE pg_current_wal_lsn() END), 8))::bit(32)::int`, nil, nil, nil, nil).Read()
	if result.Err != nil {
		return false, fmt.Errorf("ask %s for its last checkpoint: %w", addressOf(u), result.Err)
	}
	return len(result.Rows) == 1 && string(result.Rows[0][0]) == "t", nil
}

// startAttached starts the server as a standby of its upstream and waits until WAL flows.
func (w *worker) startAttached(ctx context.Context) error {
	if err := w.instance.FollowUpstream(ctx, w.followOptions(w.op.Upstream)); err != nil {
		return err
	}
	if err := w.startServer(ctx, server.RoleStandby); err != nil {
		return err
	}
	w.dropSlots(ctx)
	streams, err := w.awaitStreaming(ctx, w.config.FollowTimeout)
	if err == nil && !streams {
		err = fmt.Errorf("the receiver does not stream from %s after %s", addressOf(w.op.Upstream), w.config.FollowTimeout)
	}
	return err
}

// copyAfresh takes a base backup of the upstream in place of what is here.
func (w *worker) copyAfresh(ctx context.Context) error {
	if err := w.stopServer(ctx, server.ModeFast, w.config.FenceTimeout); err != nil {
		return err
	}
	if err := w.awaitUpstream(ctx); err != nil {
		return err
	}
	if err := w.pass(guard.DoorErase, 0); err != nil {
		return err
	}
	result, err := basebackup.Take(ctx, basebackup.Options{
		Source: addressOf(w.op.Upstream), Credential: w.roles.replication, DataDir: w.instance.DataDir(), Own: w.instance.Own,
		Major: w.binaries.Version.Major, Slot: w.op.Upstream.Slot, Label: "regent " + w.config.Node, Logger: w.logger, Clock: w.clock,
		OnProgress: func(p basebackup.Progress) {
			w.tell(guard.OperationProgressed{Operation: w.op.ID, Done: p.Done, Total: max(p.Done, p.Total)})
		},
	})
	if err != nil {
		return err
	}
	w.logger.InfoContext(ctx, "copied", "from", w.op.Upstream.Node, "bytes", result.Bytes, "files", result.Files, "took", result.Took.Round(time.Millisecond).String())
	if err := w.pass(guard.DoorAttach, int64(result.Timeline)); err != nil {
		return err
	}
	return w.startAttached(ctx)
}

// awaitUpstream waits until the upstream answers, before anything here is given up for its sake.
func (w *worker) awaitUpstream(ctx context.Context) error {
	began := w.clock.Now()
	for {
		_, err := server.AskUpstream(ctx, addressOf(w.op.Upstream), w.roles.replication)
		if err == nil {
			return nil
		}
		if w.clock.Now().Sub(began) > w.config.FollowTimeout {
			return fmt.Errorf("cannot copy %s after %s: %w", addressOf(w.op.Upstream), w.config.FollowTimeout, err)
		}
		if err := w.sleep(ctx, attachRetry); err != nil {
			return err
		}
	}
}
