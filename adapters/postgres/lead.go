package postgres

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/regent-infra/regent/adapters/postgres/guard"
	"github.com/regent-infra/regent/adapters/postgres/server"
	"github.com/regent-infra/regent/adapters/postgres/wal"
	"github.com/regent-infra/regent/schemas"
)

// fence keeps the promise that was made before it began: a standby is cut off, a primary stopped, and the end of WAL found.
func (w *worker) fence(ctx context.Context) error {
	p := payload[schemas.FencePostgres](w)
	if w.op.WasPrimary && w.instance.Running() {
		if p.Planned {
			w.checkpointBeforeStop(ctx)
		}
		budget := w.config.FenceTimeout
		if p.StopTimeoutMs > 0 {
			budget = time.Duration(p.StopTimeoutMs) * time.Millisecond
		}
		// The promise is made: it is kept whatever overtakes this operation. The end of WAL is found below.
		if err := w.halt(context.WithoutCancel(ctx), server.ModeFast, budget); err != nil {
			return err
		}
	}
	if p.Planned && !w.op.WasPrimary {
		w.drain(ctx, time.Duration(p.StopTimeoutMs)*time.Millisecond)
	}
	err := w.revoke(ctx)
	if errors.Is(err, server.ErrEmpty) {
		return nil // nothing here can follow or serve
	}
	return err
}

// drain lets the receiver of a standby take what a primary that hands over still sends. The promise binds meanwhile: nobody can attach
// anew. Whatever ends the waiting, the standby is cut off next, so it costs at most that it does not hold all.
func (w *worker) drain(ctx context.Context, budget time.Duration) {
	if budget <= 0 {
		budget = w.config.FenceTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, budget)
	defer cancel()
	if err := w.instance.DrainUpstream(ctx); err != nil && !errors.Is(err, server.ErrEmpty) {
		w.logger.WarnContext(ctx, "the primary that hands over has not ended the stream; this standby is cut off and may lack the last of it", "error", err)
	}
}

// handoverCheckpoint bounds the checkpoint that a primary writes while it still serves, so that its shutdown has little left to write.
const handoverCheckpoint = 5 * time.Second

func (w *worker) checkpointBeforeStop(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, handoverCheckpoint)
	defer cancel()
	if err := w.instance.Checkpoint(ctx); err != nil {
		w.logger.WarnContext(ctx, "the checkpoint before the handover was not finished; the stop takes longer", "error", err)
	}
}

// promote makes a standby the primary of the term: everything is set before it becomes writable.
func (w *worker) promote(ctx context.Context) error {
	p := payload[schemas.PromotePostgres](w)
	if !w.instance.Running() {
		if done, err := w.reviveFor(ctx, p); done || err != nil {
			return err
		}
	}
	switch {
	case w.end != nil: // found while it was started
	case w.known != nil:
		w.end = w.known // cut off before, and nothing was written since
	default:
		pulse, err := w.observer.Pulse(ctx)
		if err != nil {
			return err
		}
		if pulse.Role == schemas.NodeRolePrimary {
			// An earlier attempt has come further than it could tell.
			return w.pass(guard.DoorOpen, p.Timeline)
		}
		if err := w.revoke(ctx); err != nil {
			return err
		}
	}
	if err := w.reaches(p.MinLsn); err != nil {
		return err
	}
	promoted, err := w.open(ctx, p)
	if err != nil {
		return err
	}
	w.looks.keep(promoted.History)
	w.checkpointLater()
	return nil
}

// open passes the door and makes the server writable. A slot costs many writes to disk, so those that commits wait for are made
// meanwhile, and the others when the server is writable: a standby that comes before its slot tries again.
func (w *worker) open(ctx context.Context, p *schemas.PromotePostgres) (server.Promoted, error) {
	first, later := urgentSlots(p)
	made := make(chan error, 1)
	w.wg.Go(func() { made <- w.makeSlots(ctx, first) })
	if err := w.pass(guard.DoorOpen, p.Timeline); err != nil {
		return server.Promoted{}, err
	}
	// Behind the door there is no way back: whoever overtakes this waits for its end.
	behind := context.WithoutCancel(ctx)
	promoted, err := w.instance.Promote(behind, server.PromoteOptions{
		Timeline: wal.Timeline(p.Timeline), SynchronousStandbyNames: &p.SynchronousStandbyNames, //nolint:gosec // checked by the guard
		Before: func() error { return <-made },
	})
	if err != nil {
		return server.Promoted{}, err
	}
	if err := w.makeSlots(behind, later); err != nil {
		// It is the primary, which is what was ordered; the next ConfigureSynchronous makes them.
		w.logger.WarnContext(behind, "slots of standbys that no commit waits for were not made", "error", err)
	}
	return promoted, nil
}

// urgentSlots tells the slots of the standbys that commits will wait for from the others.
func urgentSlots(p *schemas.PromotePostgres) (first, later []schemas.SlotOwner) {
	for _, s := range p.Slots {
		if strings.Contains(p.SynchronousStandbyNames, `"`+guard.ApplicationName(s.Node, p.Meta.Term)+`"`) {
			first = append(first, s)
		} else {
			later = append(later, s)
		}
	}
	return first, later
}

// reaches says whether the node holds what must not be lost.
func (w *worker) reaches(least int64) error {
	if w.end.Lsn < least {
		return refusedError{why: fmt.Sprintf("the end of valid WAL %s is below min_lsn %s: acknowledged writes would be lost", lsn(w.end.Lsn), lsn(least))}
	}
	return nil
}

// reviveFor starts a stopped candidate from its own WAL; done says that it is the primary already, because an earlier attempt had
// begun the timeline before the server ended.
func (w *worker) reviveFor(ctx context.Context, p *schemas.PromotePostgres) (done bool, err error) {
	if err := w.revoke(ctx); err != nil {
		return false, err
	}
	if err := w.reaches(p.MinLsn); err != nil {
		return false, err
	}
	timeline := wal.Timeline(p.Timeline) //nolint:gosec // checked by the guard
	if h, err := wal.ReadHistory(w.instance.WALDir(), timeline); err == nil && !h.IsPlaceholder() && w.endedRecovery() {
		if _, err := w.instance.SetSynchronous(ctx, p.SynchronousStandbyNames); err != nil {
			return false, err
		}
		if err := w.pass(guard.DoorOpen, p.Timeline); err != nil {
			return false, err
		}
		if err := w.startServer(ctx, server.RolePrimary); err != nil {
			return false, err
		}
		return true, w.keepSlots(ctx, p.Slots)
	}
	return false, w.startServer(ctx, server.RoleStandby)
}

// endedRecovery says whether the server had left recovery: PostgreSQL removes the signal file at the end of it.
func (w *worker) endedRecovery() bool {
	_, err := os.Stat(filepath.Join(w.instance.DataDir(), "standby.signal"))
	return errors.Is(err, os.ErrNotExist)
}

// reinstate lets the incumbent go on as the primary of a new term, on its own timeline.
func (w *worker) reinstate(ctx context.Context) error {
	p := payload[schemas.ReinstatePrimary](w)
	if _, err := w.instance.SetSynchronous(ctx, p.SynchronousStandbyNames); err != nil {
		return err
	}
	if err := w.pass(guard.DoorOpen, 0); err != nil {
		return err
	}
	if !w.instance.Running() {
		if err := w.startServer(ctx, server.RolePrimary); err != nil {
			return err
		}
	}
	return w.keepSlots(ctx, p.Slots)
}

// lsn prints a position as PostgreSQL does.
func lsn(at int64) string { return wal.LSN(at).String() } //nolint:gosec // positions are not negative
