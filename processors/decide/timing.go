package decide

import "time"

// All times are stream time. They bound how long a lost record or a dead process can hold a step up; nothing waits for them
// while facts arrive.
const (
	// resendAfter is how long an order may go untaken by an agent that is alive. Orders are only lost when an agent starts, so this
	// is longer than any healthy hop.
	resendAfter = time.Second
	// settleAfter is how long the observed level may lag behind an order that was reported DONE.
	settleAfter = 5 * time.Second
	// retryAfter is the pause before a failed order is issued again.
	retryAfter = 2 * time.Second
	// stopGrace is what a primary gets for a fast shutdown before it is stopped with immediate.
	stopGrace = 10 * time.Second
	// plannedStopGrace is the same in a switchover, where everything must reach the standbys.
	plannedStopGrace = 20 * time.Second
	// drainLimit is how long a standby waits for the primary to end the stream: all that the primary may take to stop, and some more.
	drainLimit = 30 * time.Second
	// drainGrace is how long a standby that drains may take to notice that the primary has stopped, before it is cut off: a receiver
	// whose connection broke without a word would wait for its timeout.
	drainGrace = time.Second
	// asyncStopWait is how long a primary must have been suspected before an asynchronous standby takes over without having seen
	// it stop.
	asyncStopWait = 2 * time.Second
	// gatherFor is how long an election that could be won already waits for the acknowledgements of others that live: where there
	// would be too few to wait for afterwards, or a more advanced one in asynchronous mode.
	gatherFor = time.Second
	// maxFenceWait bounds the doubling pauses between attempts of a revocation that nobody can win.
	maxFenceWait = 2 * time.Minute
	// attachGrace is how long a standby that follows the right primary may go without streaming before it is worked on.
	attachGrace = 30 * time.Second
	// backoffBase and backoffMax bound the pause after a failed workflow for one node; it doubles with each failure.
	backoffBase = 10 * time.Second
	backoffMax  = 10 * time.Minute
	// commandTTL is how long a command is wanted that does not say.
	commandTTL = 5 * time.Minute
	// maxCheckTimeout bounds a health check.
	maxCheckTimeout = 10 * time.Minute
)

// Limits on what a record holds.
const (
	maxHistory     = 200
	maxHeldHistory = 20
	maxChecks      = 16
	maxMembers     = 64
	// maxTerm bounds the terms that are believed: one above it is a bug or a forgery, and must not be counted on from.
	maxTerm = 1 << 48
	// maxTimeline bounds timeline ids the same way; agents refuse greater ones.
	maxTimeline = 1<<31 - 1
)
