package stream

// What the tests of package stream_test reach into.

// WithReached sets the function that hears of the points of the cycle.
func WithReached(o Options, f func(Point)) Options {
	o.reached = f
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
	case SabotageNone:
	}
	return o
}
