// Package adapters holds what all adapters have in common: the two ports through which the rest of Regent sees a real system.
//
// An adapter stands beside one system, says how it is and does what it is ordered. It is made of an [Observer] and an [Executor] for the
// same resource; the suite in adapters/adaptertest holds both to the contracts below, whatever the kind.
//
//	orders.K --read--> Execute ... the system changes ... Observe --written--> observations.K
//
// There is no other answer to an order than the observation: it carries the last orders with their results, so a lost or
// repeated answer does no harm, and what is reported is what is so, not what was tried.
package adapters

import (
	"context"
	"errors"
	"time"

	"github.com/regent-infra/regent/internal/event"
)

// ErrEnded is wrapped by every method of an adapter that does not run (any more).
var ErrEnded = errors.New("the adapter does not run")

// Observer says how one resource is. Implementations are safe for concurrent use.
type Observer interface {
	// Resource returns the id of the resource. It never changes.
	Resource() event.ResourceID

	// Observe looks at once and returns the full current value: a pointer to a generated record, a payload of the kind's
	// observations topic. It is never a delta, and the caller owns it.
	//
	// That the system is down, absent or does not answer is a value, not an error; it is told within a few seconds. An error
	// means that there is no value at all: ctx has ended, or the adapter has ([ErrEnded]). No value carries a secret.
	Observe(ctx context.Context) (any, error)
}

// Executor carries out orders for one resource. Implementations are safe for concurrent use.
type Executor interface {
	// Resource returns the id of the resource.
	Resource() event.ResourceID

	// Orders returns the record names of the orders that it knows, in alphabetical order: those of its contract.yaml.
	Orders() []string

	// Execute takes up one order, given as its decoded envelope. It returns as soon as the order is taken up, refused, or found
	// to be known already; what comes of it shows in observations. streamTime is the broker's time now, as far as the caller knows it.
	//
	// These hold for every kind:
	//
	//   - an order for another resource, or of an unknown record, is ignored;
	//   - an id that was seen before is not carried out again, and its result is reported again;
	//   - an expired order, one of a term below the promised one, and one that is malformed are refused: the result says REFUSED
	//     and why, and nothing else changes;
	//   - what an order binds the adapter to is durable before anybody can see that it was taken up.
	//
	// An error means that the order was not looked at: ctx has ended, or the adapter has ([ErrEnded]).
	Execute(ctx context.Context, order *event.Event, streamTime time.Time) error
}

// Adapter is both.
type Adapter interface {
	Observer
	Executor
}
