package guard

import (
	"time"

	"github.com/regent-infra/regent/schemas"
)

// Order is one order as it was read from its topic.
type Order struct {
	// ID is the envelope's id, Type the payload's record name, CorrelationID the envelope's.
	ID, Type, CorrelationID string
	// Meta is the payload's meta.
	Meta schemas.OrderMeta
	// Payload is a pointer to one of the records in [Orders].
	Payload any
}

// Orders lists the record names of the orders that an agent executes.
func Orders() []string {
	return []string{
		orderBootstrap, orderCheck, orderClone, orderConfigure, orderFence, orderFollow,
		orderPromote, orderReinstate, orderRestart, orderStart, orderStop,
	}
}

const (
	orderBootstrap = "BootstrapPrimary"
	orderCheck     = "CheckNode"
	orderClone     = "CloneStandby"
	orderConfigure = "ConfigureSynchronous"
	orderFence     = "FencePostgres"
	orderFollow    = "FollowPrimary"
	orderPromote   = "PromotePostgres"
	orderReinstate = "ReinstatePrimary"
	orderRestart   = "RestartPostgres"
	orderStart     = "StartPostgres"
	orderStop      = "StopPostgres"
)

// NewOrder makes an Order of an envelope's payload; ok is false if the payload is no order for an agent.
func NewOrder(header schemas.EnvelopeHeader, payload any) (Order, bool) {
	meta := metaOf(payload)
	if meta == nil {
		return Order{}, false
	}
	return Order{ID: header.ID, Type: schemas.RecordName(payload), CorrelationID: header.CorrelationID, Meta: *meta, Payload: payload}, true
}

func metaOf(payload any) *schemas.OrderMeta {
	switch p := payload.(type) {
	case *schemas.BootstrapPrimary:
		return &p.Meta
	case *schemas.CheckNode:
		return &p.Meta
	case *schemas.CloneStandby:
		return &p.Meta
	case *schemas.ConfigureSynchronous:
		return &p.Meta
	case *schemas.FencePostgres:
		return &p.Meta
	case *schemas.FollowPrimary:
		return &p.Meta
	case *schemas.PromotePostgres:
		return &p.Meta
	case *schemas.ReinstatePrimary:
		return &p.Meta
	case *schemas.RestartPostgres:
		return &p.Meta
	case *schemas.StartPostgres:
		return &p.Meta
	case *schemas.StopPostgres:
		return &p.Meta
	default:
		return nil
	}
}

// Work names what an operation does; it is the record name of the order that asks for it. An agent begins only StartPostgres
// and StopPostgres by itself.
type Work string

// Operation is one piece of work that runs outside the guard. At most one runs at a time.
type Operation struct {
	// ID tells operations of one run of the agent apart; it rises.
	ID uint64
	// Work says what it does.
	Work Work
	// Term is the promise under which it began.
	Term int64
	// Order is what it carries out; nil if the agent began it by itself.
	Order *Order
	// AsPrimary: a StartPostgres or RestartPostgres of a primary.
	AsPrimary bool
	// Upstream is whom to follow: of CloneStandby and FollowPrimary, and of StartPostgres on a standby. Zero: nobody.
	Upstream Upstream
	// Data is what stood in the data directory when it began.
	Data DataStatus
	// WasPrimary and WasRunning describe the server when it began.
	WasPrimary, WasRunning bool
	// Cancelled: it was asked to end early.
	Cancelled bool
	// Done and Total are its progress, bytes.
	Done, Total int64
}

// State is all that the guard knows. It is a value: Step never changes the one it is given.
type State struct {
	Durable
	// Booted is set once the shell has said what it found.
	Booted bool
	// Postmaster is the state of the server's main process.
	Postmaster schemas.PostmasterStatus
	// UpSince is when it last became ready.
	UpSince time.Time
	// Operation is what runs now; nil if nothing does.
	Operation *Operation
	// Waiting are orders that were taken up and wait for the operation to end, first come first.
	Waiting []Order
	// WalEnd is the end of valid WAL on disk; nil while something may write WAL.
	WalEnd *schemas.WalEnd
	// Restarts counts the starts of a standby by the agent itself that did not hold.
	Restarts int
	// RestartScheduled: a RestartLater is under way.
	RestartScheduled bool
	// ShuttingDown: the agent ends; nothing new is begun.
	ShuttingDown bool
	// Unsaved: the durable part is ahead of what could be written down, in what binds to nothing.
	Unsaved bool
	// LastOperation is the highest operation id used.
	LastOperation uint64
}

// New returns the state of an agent that has just read its memory.
func New(d Durable) State {
	return State{Durable: d, Postmaster: schemas.PostmasterStatusAbsent}
}

// up says whether a postmaster exists.
func (s *State) up() bool {
	switch s.Postmaster {
	case schemas.PostmasterStatusRunning, schemas.PostmasterStatusStarting, schemas.PostmasterStatusStopping:
		return true
	default:
		return false
	}
}

// running says whether the server serves.
func (s *State) running() bool { return s.Postmaster == schemas.PostmasterStatusRunning }

// primary says whether the node is, or was when it last ran, a primary.
func (s *State) primary() bool { return s.Role == schemas.NodeRolePrimary }

// standby says whether it is a standby.
func (s *State) standby() bool { return s.Role == schemas.NodeRoleStandby }

// LastOrder returns the result of the order that is being carried out, else of the last one that was heard of; nil if none was.
func (s *State) LastOrder() *schemas.OrderResult {
	recent := s.RecentOrders(MaxOrders)
	if len(recent) == 0 {
		return nil
	}
	for i := range recent {
		if op := s.Operation; op != nil && op.Order != nil && op.Order.ID == recent[i].OrderID {
			return &recent[i]
		}
	}
	return &recent[0]
}

// RecentOrders returns up to n order results, newest first, with the progress of the running one.
func (s *State) RecentOrders(n int) []schemas.OrderResult {
	recent := make([]schemas.OrderResult, 0, n)
	for i := len(s.Orders) - 1; i >= 0 && len(recent) < n; i-- {
		result := s.Orders[i]
		if op := s.Operation; op != nil && op.Order != nil && op.Order.ID == result.OrderID {
			result.ProgressDone, result.ProgressTotal = op.Done, op.Total
		}
		recent = append(recent, result)
	}
	return recent
}
