package postgres

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/regent-infra/regent/adapters/postgres/guard"
	"github.com/regent-infra/regent/adapters/postgres/server"
	"github.com/regent-infra/regent/internal/clock"
	"github.com/regent-infra/regent/schemas"
)

// errCancelled is why an operation's context ends early.
var errCancelled = errors.New("overtaken by a later order, or the agent ends")

// deniedError says that the guard did not let an operation through a door.
type deniedError struct{ why string }

// Error implements error.
func (e deniedError) Error() string { return "turned away: " + e.why }

// refusedError says that an operation met what its order forbids, before it changed anything.
type refusedError struct{ why string }

// Error implements error.
func (e refusedError) Error() string { return e.why }

// worker carries out one operation.
type worker struct {
	*Agent
	op     guard.Operation
	cancel context.CancelCauseFunc
	// door receives nil when the guard lets the operation through, or why not.
	door chan error
	// known is the end of valid WAL as it was when the operation began; nil if WAL could be written then.
	known *schemas.WalEnd
	// lost is what a divergence has cost, once that is known.
	lost *schemas.LostWrites
	// end is the end of valid WAL where the operation has found it.
	end *schemas.WalEnd
}

// begin starts an operation on a goroutine of its own.
func (a *Agent) begin(ctx context.Context, op guard.Operation) {
	ctx, cancel := context.WithCancelCause(ctx)
	w := &worker{Agent: a, op: op, cancel: cancel, door: make(chan error, 1), known: a.state.WalEnd}
	a.worker = w
	a.wg.Go(func() {
		defer cancel(nil)
		w.run(ctx)
	})
}

// works are the operations by the order that asks for them. A test holds it against the contract.
var works = map[guard.Work]func(*worker, context.Context) error{
	"BootstrapPrimary":     (*worker).bootstrap,
	"CloneStandby":         (*worker).clone,
	"StartPostgres":        (*worker).start,
	"StopPostgres":         (*worker).stop,
	"RestartPostgres":      (*worker).restart,
	"FencePostgres":        (*worker).fence,
	"PromotePostgres":      (*worker).promote,
	"ReinstatePrimary":     (*worker).reinstate,
	"FollowPrimary":        (*worker).follow,
	"ConfigureSynchronous": (*worker).configure,
}

func (w *worker) run(ctx context.Context) {
	began := w.clock.Now()
	err := works[w.op.Work](w, ctx)
	// What is reported beside the result must have been seen after it.
	var seen *view
	if w.instance.Running() {
		v := w.looks.fresh(context.WithoutCancel(ctx))
		seen = &v
	}
	ended := guard.OperationEnded{
		Operation: w.op.ID, At: w.now(), StreamTime: w.stream.now(), Outcome: schemas.OrderStatusDone, Up: w.instance.Running(), WalEnd: w.end,
	}
	took := w.clock.Now().Sub(began).Round(time.Millisecond).String()
	var refused refusedError
	switch {
	case err == nil:
		w.logger.InfoContext(ctx, "done", "work", string(w.op.Work), "took", took)
	case errors.As(err, &refused):
		ended.Outcome, ended.Message = schemas.OrderStatusRefused, string(w.op.Work)+" refused: "+w.oneLine(err)
		w.logger.WarnContext(ctx, "refused", "work", string(w.op.Work), "error", err)
	default:
		if cause := context.Cause(ctx); cause != nil && !errors.Is(err, cause) {
			err = fmt.Errorf("%w: %w", cause, err)
		}
		ended.Outcome, ended.Message = schemas.OrderStatusFailed, string(w.op.Work)+" failed: "+w.oneLine(err)
		w.logger.ErrorContext(ctx, "failed", "work", string(w.op.Work), "took", took, "error", err)
	}
	_ = w.send(context.Background(), message{fact: ended, seen: seen}) // when the loop is over, nobody needs it
}

// pass waits until the guard lets the operation through a door.
func (w *worker) pass(door guard.Door, timeline int64) error {
	f := guard.DoorReached{Operation: w.op.ID, Door: door, At: w.now(), Timeline: timeline, LostWrites: w.lost}
	if door != guard.DoorErase {
		data, err := w.instance.Control()
		if err != nil {
			return err
		}
		f.SystemIdentifier = strconv.FormatUint(data.SystemIdentifier, 10)
	}
	if door == guard.DoorErase {
		w.looks.forgetHistories()
	}
	w.end = nil // behind the door WAL may be written
	w.tell(f)
	return <-w.door
}

// tellStatus says which state the postmaster has come to.
func (w *worker) tellStatus(status schemas.PostmasterStatus, exit *schemas.PostmasterExit) {
	w.tell(guard.PostmasterChanged{Status: status, At: w.now(), Exit: exit})
}

// startServer starts the server and sees that its end is heard of.
func (w *worker) startServer(ctx context.Context, role server.Role) error {
	w.tellStatus(schemas.PostmasterStatusStarting, nil)
	ctx, cancel := context.WithTimeout(ctx, w.config.StartTimeout)
	defer cancel()
	start := w.starts.Add(1)
	err := w.instance.Start(ctx, server.StartOptions{Role: role, OnProgress: func(r server.Recovery) {
		w.logger.InfoContext(ctx, "the server recovers", "elapsed", r.Elapsed.Round(time.Millisecond).String(), "status", r.Status, "segment", r.Segment)
	}})
	if w.instance.Running() {
		w.watch(start)
	}
	if err != nil && !errors.Is(err, server.ErrNotReady) {
		w.tellStatus(schemas.PostmasterStatusStopped, nil)
	}
	if err == nil {
		w.tellStatus(schemas.PostmasterStatusRunning, nil)
	}
	return err
}

// quickPosition is how long the end of WAL may take to be found before a crash is reported without it.
const quickPosition = 60 * time.Millisecond

// watch waits for the end of the server that was started last. An end that was asked for is told by whoever asked.
func (a *Agent) watch(start int64) {
	a.wg.Go(func() {
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		a.wg.Go(func() {
			select {
			case <-a.ended:
				cancel()
			case <-ctx.Done():
			}
		})
		exit, err := a.instance.Wait(ctx)
		if err != nil || a.instance.WaitStopped(ctx) != nil {
			return
		}
		if exit.Requested {
			// Whoever asked tells it, too, unless that was overtaken before the server had ended.
			how := exitOf(exit, true)
			_ = a.send(ctx, message{start: start, fact: guard.PostmasterChanged{Status: schemas.PostmasterStatusStopped, At: a.now(), Exit: &how}}) // nobody needs it any more
			return
		}
		a.crashed(ctx, start, exit)
	})
}

// crashed reports an end that nobody asked for: at once, with the end of WAL if that is found quickly, else followed by it.
func (a *Agent) crashed(ctx context.Context, start int64, exit server.Exit) {
	a.logger.ErrorContext(ctx, "the server ended by itself", "how", exit.String(), "last_lines", exit.LastLines)
	found := make(chan *schemas.WalEnd, 1)
	a.wg.Go(func() { found <- a.walEnd(ctx) })
	quick := a.clock.NewTimer(quickPosition)
	defer quick.Stop()
	var end *schemas.WalEnd
	select {
	case end = <-found:
		_ = a.send(ctx, message{start: start, fact: guard.PostmasterExited{Exit: exitOf(exit, false), WalEnd: end}}) // nobody needs it any more
		return
	case <-quick.C:
	}
	_ = a.send(ctx, message{start: start, fact: guard.PostmasterExited{Exit: exitOf(exit, false)}}) // nobody needs it any more
	if end = <-found; end != nil {
		_ = a.send(ctx, message{start: start, fact: guard.WalEndFound{WalEnd: *end}}) // nobody needs it any more
	}
}

// stopServer stops the server if it runs, and finds the end of its WAL.
func (w *worker) stopServer(ctx context.Context, mode server.Mode, budget time.Duration) error {
	if err := w.halt(ctx, mode, budget); err != nil {
		return err
	}
	if w.instance.Initialized() {
		w.end = w.walEnd(context.WithoutCancel(ctx))
	}
	return nil
}

// halt stops the server if it runs.
func (w *worker) halt(ctx context.Context, mode server.Mode, budget time.Duration) error {
	if !w.instance.Running() {
		return nil
	}
	w.tellStatus(schemas.PostmasterStatusStopping, nil)
	stopped, err := w.instance.Stop(ctx, server.StopOptions{Mode: mode, SmartBudget: budget, FastBudget: budget})
	if err != nil {
		return err
	}
	exit := exitOf(stopped.Exit, true)
	w.tellStatus(schemas.PostmasterStatusStopped, &exit)
	return nil
}

// revoke cuts the node off its upstream, unless that was done before, and finds the end of its WAL.
func (w *worker) revoke(ctx context.Context) error {
	// A promise has been made: it is kept whatever overtakes this operation.
	position, err := w.instance.RevokeUpstream(context.WithoutCancel(ctx))
	if err != nil {
		return err
	}
	w.end = w.endOf(position)
	return nil
}

// checkpointTimeout bounds the checkpoint after a promotion: much may be dirty.
const checkpointTimeout = 10 * time.Minute

// checkpointLater writes a checkpoint in the background, so that others can be rewound against this primary.
func (w *worker) checkpointLater() {
	w.wg.Go(func() {
		ctx, cancel := context.WithTimeout(context.Background(), checkpointTimeout)
		defer cancel()
		w.wg.Go(func() {
			select {
			case <-w.ended:
				cancel()
			case <-ctx.Done():
			}
		})
		if err := w.instance.Checkpoint(ctx); err != nil && ctx.Err() == nil {
			w.logger.WarnContext(ctx, "the checkpoint after the promotion failed; standbys may not be rewound until the next one", "error", err)
		}
	})
}

// sleep waits for a moment; it returns ctx's cause when that ends.
func (w *worker) sleep(ctx context.Context, d time.Duration) error {
	return clock.Wait(ctx, w.clock, d)
}
