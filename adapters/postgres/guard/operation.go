package guard

import (
	"fmt"
	"slices"

	"github.com/regent-infra/regent/internal/invariant"
	"github.com/regent-infra/regent/schemas"
)

// begin takes an order up: what must be durable before anything of it happens, then the operation.
//
//	order                raises the promise  besides
//	BootstrapPrimary     yes                 data BROKEN until the door OPEN
//	CloneStandby         yes
//	FollowPrimary        yes                 a primary renounces its term
//	FencePostgres        yes                 forgets the upstream; a primary renounces its term
//	PromotePostgres      yes
//	ReinstatePrimary     yes
//	StartPostgres        no                  no longer held; a primary takes its renunciation back
//	StopPostgres         no                  held; renounces if told to
//	RestartPostgres      no                  as StartPostgres
//	ConfigureSynchronous no
func (m *machine) begin(o Order) {
	op := Operation{Work: Work(o.Type), Order: &o, Data: m.Data, WasPrimary: m.primary(), WasRunning: m.up()}
	switch p := o.Payload.(type) {
	case *schemas.BootstrapPrimary:
		m.promise(p.Meta.Term)
		m.Held = false
		if m.Data != DataWhole {
			m.Data = DataBroken
		}
	case *schemas.CloneStandby:
		m.promise(p.Meta.Term)
		op.Upstream = upstreamOf(p.Upstream, p.Slot, p.UpstreamTerm)
	case *schemas.FollowPrimary:
		m.promise(p.Meta.Term)
		m.renounce()
		op.Upstream = upstreamOf(p.Upstream, p.Slot, p.UpstreamTerm)
	case *schemas.FencePostgres:
		m.promise(p.Meta.Term)
		m.Upstream = Upstream{}
		if m.renounce() {
			m.Running = false
		}
	case *schemas.PromotePostgres:
		m.promise(p.Meta.Term)
		m.Upstream = Upstream{}
	case *schemas.ReinstatePrimary:
		m.promise(p.Meta.Term)
	case *schemas.StartPostgres:
		m.Held, m.Running = false, true
		m.Restarts = 0
		op.AsPrimary, op.Upstream = p.AsPrimary, m.Upstream
		if p.AsPrimary && m.RenouncedTerm == m.Term {
			m.RenouncedTerm = 0
		}
	case *schemas.StopPostgres:
		m.Held, m.Running = true, false
		if p.Renounce {
			m.renounce()
		}
	case *schemas.RestartPostgres:
		m.Held, m.Running = false, true
		op.AsPrimary, op.Upstream = m.primary(), m.Upstream
		if m.primary() && m.RenouncedTerm == m.Term {
			m.RenouncedTerm = 0
		}
	case *schemas.ConfigureSynchronous:
	}
	m.note(o, schemas.OrderStatusRunning)
	m.start(op)
}

func upstreamOf(u schemas.ClusterMember, slot string, term int64) Upstream {
	return Upstream{Node: u.Node, Host: u.Host, Port: u.Port, Slot: slot, Term: term}
}

// renounce gives up the term of a primary; it says whether this node is one.
func (m *machine) renounce() bool {
	if !m.primary() {
		return false
	}
	m.RenouncedTerm = m.Term
	return true
}

// doors lists which operations come to which doors.
var doors = map[Work][]Door{
	orderBootstrap: {DoorOpen},
	orderClone:     {DoorErase, DoorAttach},
	orderFollow:    {DoorErase, DoorAttach},
	orderPromote:   {DoorOpen},
	orderReinstate: {DoorOpen},
	orderRestart:   {DoorAttach, DoorOpen},
	orderStart:     {DoorAttach, DoorOpen},
}

// door looks again whether an operation may go on, and writes down what the step behind the door makes true.
func (m *machine) door(f DoorReached) {
	op := m.operation(f.Operation)
	if op == nil {
		m.do(Deny{Operation: f.Operation, Why: "the operation is over"})
		return
	}
	invariant.Assert(slices.Contains(doors[op.Work], f.Door), "%s has no door %s", op.Work, f.Door)
	switch {
	case op.Cancelled || m.ShuttingDown:
		m.do(Deny{Operation: op.ID, Why: "it was cancelled"})
		return
	case f.Door == DoorAttach && op.Upstream.Term != m.PromisedTerm:
		m.do(Deny{Operation: op.ID, Why: fmt.Sprintf("its upstream is of term %d, the promise is %d", op.Upstream.Term, m.PromisedTerm)})
		return
	}
	if f.LostWrites != nil {
		lost := *f.LostWrites
		lost.Term = m.TermOf(lost.Timeline)
		if known := m.LostWrites; known != nil && known.OrderID == lost.OrderID {
			lost.Term = known.Term // told at an earlier door, when the data was still known
		}
		m.LostWrites, m.publish = &lost, true
	}
	switch f.Door {
	case DoorErase:
		m.forgetData(DataBroken)
	case DoorAttach:
		m.throughAttach(op, f)
	case DoorOpen:
		m.throughOpen(op, f)
	}
	m.do(Proceed{Operation: op.ID})
}

// forgetData drops what was known about a data directory that is no more.
func (m *machine) forgetData(now DataStatus) {
	m.renounce()
	m.Data, m.Role, m.Term = now, schemas.NodeRoleUnknown, 0
	m.Opening, m.Running, m.Held, m.Bootstrapped = false, false, false, false
	m.Upstream, m.SystemIdentifier, m.WalEnd = Upstream{}, "", nil
}

// throughAttach: a standby of the operation's upstream.
func (m *machine) throughAttach(op *Operation, f DoorReached) {
	m.Data, m.Role, m.Term = DataWhole, schemas.NodeRoleStandby, op.Upstream.Term
	m.Opening, m.Running, m.Held, m.Bootstrapped = false, true, false, false
	m.Upstream, m.WalEnd = op.Upstream, nil
	if f.SystemIdentifier != "" {
		m.SystemIdentifier = f.SystemIdentifier
	}
	m.learnTimeline(f.Timeline, op.Upstream.Term)
}

// throughOpen: the one primary of the promised term.
func (m *machine) throughOpen(op *Operation, f DoorReached) {
	invariant.Assert(m.Upstream.IsZero(), "%s opens a server that follows %s", op.Work, m.Upstream.Node)
	switch op.Work {
	case orderPromote, orderBootstrap, orderReinstate:
		m.Opening = op.Work == orderPromote
		m.Bootstrapped = op.Work == orderBootstrap || op.Work == orderReinstate && m.Bootstrapped
		m.Role, m.Term = schemas.NodeRolePrimary, m.PromisedTerm
	default:
		invariant.Assert(m.primary() && m.Term == m.PromisedTerm, "%s opens a server in role %s of term %d under promise %d", op.Work, m.Role, m.Term, m.PromisedTerm)
	}
	m.Data, m.Running, m.Held, m.WalEnd = DataWhole, true, false, nil
	if f.SystemIdentifier != "" {
		m.SystemIdentifier = f.SystemIdentifier
	}
	if op.Work != orderReinstate {
		m.learnTimeline(f.Timeline, m.Term)
	}
}

// ended: the operation is over, and its order answered.
func (m *machine) ended(f OperationEnded) {
	op := m.operation(f.Operation)
	if op == nil {
		return
	}
	m.Operation, m.publish = nil, true
	done := f.Outcome == schemas.OrderStatusDone
	if op.Order != nil {
		m.close(op, f)
	}
	if done && op.Work == orderPromote {
		m.Opening = false
	}
	if !f.Up || m.Upstream.IsZero() && !m.primary() {
		m.setWalEnd(f.WalEnd) // else something may write WAL already
	}
	m.setPostmaster(op, f)
	if done && op.Work == orderStart && op.Order != nil {
		m.Restarts = 0
	}
}

// close records the order's result.
func (m *machine) close(op *Operation, f OperationEnded) {
	r := resultOf(*op.Order)
	if known := m.order(op.Order.ID); known != nil {
		r = *known
	}
	r.ProgressDone, r.ProgressTotal = op.Done, op.Total
	message := ""
	if f.Outcome != schemas.OrderStatusDone {
		message = f.Message
	}
	finish(&r, f.Outcome, message, m.now)
	m.record(r)
}

// setPostmaster takes over how the operation left the server.
func (m *machine) setPostmaster(op *Operation, f OperationEnded) {
	switch {
	case m.Data != DataWhole:
		m.Postmaster, m.Running = schemas.PostmasterStatusAbsent, false
	case f.Up:
		if !m.running() {
			m.UpSince = f.At
		}
		m.Postmaster, m.Running = schemas.PostmasterStatusRunning, true
	case m.Postmaster != schemas.PostmasterStatusCrashed || op.Work == orderStop:
		m.Postmaster, m.Running = schemas.PostmasterStatusStopped, false
	default:
		m.Running = false
	}
}

// check asserts the invariants of the package comment on what a step has made of before.
func (m *machine) check(before State) {
	invariant.Assert(m.PromisedTerm >= before.PromisedTerm, "the promised term must not fall: %d after %d", m.PromisedTerm, before.PromisedTerm)
	invariant.Assert(m.Term <= m.PromisedTerm, "the term %d of the role must not exceed the promise %d", m.Term, m.PromisedTerm)
	invariant.Assert(m.Upstream.IsZero() || m.Upstream.Term == m.PromisedTerm, "an upstream of term %d under the promise %d", m.Upstream.Term, m.PromisedTerm)
	invariant.Assert(m.Upstream.IsZero() || m.standby(), "role %s has an upstream", m.Role)
	for i, a := range m.actions {
		if _, is := a.(Persist); is {
			invariant.Assert(i == 0, "a persist must come before every other action")
		}
	}
	if op := m.Operation; op != nil {
		// Orders of a higher term cancel what runs and raise the promise only when it is over.
		invariant.Assert(op.Term == m.PromisedTerm, "an operation of term %d under the promise %d", op.Term, m.PromisedTerm)
	}
	invariant.Assert(len(m.Waiting) <= maxWaiting, "%d orders wait", len(m.Waiting))
}
