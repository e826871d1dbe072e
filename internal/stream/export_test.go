package stream

import "context"

// What the tests of package stream_test reach into.

// WithReached sets the function that hears of the points of the cycle.
func WithReached(o Options, f func(Point)) Options {
	o.reached = f
	return o
}

// WithCopyStep bounds how far a copy is brought forward at a time.
func WithCopyStep(o Options, offsets int64) Options {
	o.copyStep = offsets
	return o
}

// Sabotage names a protection that can be taken out.
type Sabotage string

// The sabotages.
const (
	SabotageNone           Sabotage = ""
	SabotageIgnorePosition Sabotage = "ignore-position"
	SabotageSkipRedo       Sabotage = "skip-redo"
	SabotageKeepAborted    Sabotage = "keep-aborted"
	SabotageFlushAhead     Sabotage = "flush-ahead"
	SabotageBoast          Sabotage = "boast"
)

// WithSabotage takes one protection out.
func WithSabotage(o Options, s Sabotage) Options {
	switch s {
	case SabotageIgnorePosition:
		o.sabotage.ignorePosition = true
	case SabotageSkipRedo:
		o.sabotage.skipRedo = true
	case SabotageKeepAborted:
		o.sabotage.keepAborted = true
	case SabotageFlushAhead:
		o.sabotage.flushAhead = true
	case SabotageBoast:
		o.sabotage.boast = true
	case SabotageNone:
	}
	return o
}

// Begin connects and joins, for tests that take the steps themselves.
func (r *Runtime) Begin(ctx context.Context) error { return r.begin(ctx) }

// WithLateEnds lets transactions end only when something waits for them.
func WithLateEnds(o Options) Options {
	o.lateEnds = true
	return o
}

// Step takes one step of the cycle, then waits for what it has started beside it. A transaction that is sealed ends too, unless it is to be
// late.
func (r *Runtime) Step(ctx context.Context, late bool) error {
	if err := r.step(ctx); err != nil {
		return err
	}
	r.Rest()
	if late {
		return nil
	}
	return r.drain(ctx)
}

// Follow brings the copies of other members' tasks forward once.
func (r *Runtime) Follow(ctx context.Context) error {
	r.standbys.round(ctx, r.session, r.topics)
	r.standbys.work.Wait()
	return r.standbys.failure()
}

// Rest waits until nothing is going on beside the cycle.
func (r *Runtime) Rest() {
	r.recoveries.wg.Wait()
	if e := r.ending; e != nil && e.run == nil {
		<-e.done
	}
	if r.flush.running != nil {
		<-r.flush.running
	}
}

// End ends the session in order.
func (r *Runtime) End(ctx context.Context) error { return r.endSession(ctx, r.opts.EndTimeout) }

// Fatal reports whether an error ends Run.
func Fatal(err error) bool { return fatal(err) }
