package guard

import (
	"reflect"
	"slices"
	"time"

	"github.com/regent-infra/regent/internal/invariant"
	"github.com/regent-infra/regent/schemas"
)

// Backoff of a standby that is restarted by the agent itself.
const (
	// RestartMin is the wait before the first restart, RestartMax the longest; it doubles in between.
	RestartMin = 100 * time.Millisecond
	RestartMax = 10 * time.Second
	// SettledAfter is how long a standby must have been up for the wait to start from RestartMin again.
	SettledAfter = time.Minute
)

// Step takes one fact into account. It returns the next state and what is owed, in order; it changes nothing of s. Where the
// first action is a [Persist], the next state holds only once that has been done; if it fails, step [PersistFailed] from s.
func Step(s State, f Fact) (State, []Action) {
	m := machine{State: s, now: timeOf(f)}
	m.Orders = slices.Clone(s.Orders)
	m.Waiting = slices.Clone(s.Waiting)
	if s.Operation != nil {
		op := *s.Operation
		m.Operation = &op
	}
	m.take(f)
	if _, failed := f.(PersistFailed); failed {
		return m.State, append(m.actions, Publish{})
	}
	m.settle()
	if s.Unsaved || !reflect.DeepEqual(s.Durable, m.Durable) {
		m.Unsaved = false
		m.actions = slices.Insert(m.actions, 0, Action(Persist{Durable: m.Durable}))
	}
	if m.publish {
		m.actions = append(m.actions, Publish{})
	}
	if m.leave {
		m.actions = append(m.actions, Leave{})
	}
	m.check(s)
	return m.State, m.actions
}

// machine is one step at work.
type machine struct {
	State
	now            time.Time
	streamTime     time.Time
	actions        []Action
	publish, leave bool
}

func timeOf(f Fact) time.Time {
	switch f := f.(type) {
	case Booted:
		return f.At
	case OrderReceived:
		return f.At
	case DoorReached:
		return f.At
	case OperationEnded:
		return f.At
	case PostmasterChanged:
		return f.At
	case PostmasterExited:
		return f.Exit.At
	case RestartDue:
		return f.At
	case Looked:
		return f.At
	case Ticked:
		return f.At
	case PersistFailed:
		return f.At
	case ShutdownRequested:
		return f.At
	case OperationProgressed, TimelineSeen, SequenceReserved, WalEndFound:
		return time.Time{}
	}
	return time.Time{}
}

func (m *machine) do(a Action) { m.actions = append(m.actions, a) }

func (m *machine) take(f Fact) {
	switch f := f.(type) {
	case Booted:
		m.booted(f)
	case OrderReceived:
		m.streamTime = f.StreamTime
		m.received(f)
	case DoorReached:
		m.door(f)
	case OperationProgressed:
		if op := m.operation(f.Operation); op != nil {
			op.Done, op.Total = f.Done, f.Total
		}
	case OperationEnded:
		m.streamTime = f.StreamTime
		m.ended(f)
	case PostmasterChanged:
		m.changed(f)
	case PostmasterExited:
		m.exited(f)
	case WalEndFound:
		if m.Postmaster == schemas.PostmasterStatusCrashed && m.Operation == nil {
			m.setWalEnd(&f.WalEnd)
			m.publish = true
		}
	case Looked:
		m.answer(f.Order, schemas.OrderStatusDone, "")
	case RestartDue:
		m.RestartScheduled = false
		m.restart()
	case TimelineSeen:
		if f.Term == m.Term && m.standby() {
			m.learnTimeline(f.Timeline, f.Term)
		}
	case SequenceReserved:
		invariant.Assert(f.Limit >= m.SequenceLimit, "the sequence limit must rise: %d after %d", f.Limit, m.SequenceLimit)
		m.SequenceLimit = f.Limit
	case Ticked:
	case PersistFailed:
		m.persistFailed(f)
	case ShutdownRequested:
		m.shutdown()
	}
}

func (m *machine) operation(id uint64) *Operation {
	if m.Operation != nil && m.Operation.ID == id {
		return m.Operation
	}
	return nil
}

// booted: nothing runs, whatever ran when the agent died died with it.
func (m *machine) booted(f Booted) {
	m.Booted, m.publish = true, true
	if f.Data == DataNone && m.Data != DataNone {
		m.forgetData(DataNone)
	}
	for i := range m.Orders {
		o := &m.Orders[i]
		if o.Status == schemas.OrderStatusRunning || o.Status == schemas.OrderStatusReceived {
			finish(o, schemas.OrderStatusFailed, "the agent ended before it was done; issue it again", f.At)
		}
	}
	if m.Running {
		m.LastExit = &schemas.PostmasterExit{At: f.At, Expected: false}
		m.Running = false
	}
	switch m.Data {
	case DataWhole:
		m.Postmaster = schemas.PostmasterStatusStopped
		if m.SystemIdentifier == "" {
			m.SystemIdentifier = f.SystemIdentifier
		}
		m.setWalEnd(f.WalEnd)
	case DataNone, DataBroken:
		m.Postmaster = schemas.PostmasterStatusAbsent
	}
	m.restart() // a standby; a former primary stays down
}

// received: see the tables.
func (m *machine) received(f OrderReceived) {
	invariant.Assert(m.Booted, "an order came before the agent knew what it stands on")
	c := &situation{s: m.State, o: f.Order, in: f}
	if r := decideGeneral(c); r != nil {
		m.apply(c, r)
		return
	}
	switch place(&m.State, f.Order).placing {
	case placeNow:
		m.apply(c, decideOrder(c))
	case placeJoin:
		m.join(f.Order)
	case placePreempt:
		m.preempt(f.Order)
	case placeWait:
		m.wait(f.Order)
	case placeRefuse:
		m.refuse(f.Order, "too many orders wait already; issue it again when they are done")
	}
}

// apply carries out what a rule says.
func (m *machine) apply(c *situation, r *rule) {
	invariant.Assert(r != nil, "no rule for %s in role %s, data %s", c.o.Type, c.s.Role, c.s.Data)
	switch r.verdict {
	case verdictIgnore:
	case verdictRepeat:
		m.publish = true
	case verdictRefuse:
		m.refuse(c.o, r.why(c))
	case verdictSatisfied:
		m.answer(c.o, schemas.OrderStatusDone, "")
	case verdictExecute:
		if c.o.Type == orderCheck {
			m.note(c.o, schemas.OrderStatusReceived)
			m.publish = false // it is answered by what was seen after it
			m.do(Look{Order: c.o})
			return
		}
		m.begin(c.o)
	}
}

func (m *machine) refuse(o Order, why string) {
	m.answer(o, schemas.OrderStatusRefused, o.Type+" refused: "+why)
}

// answer records an order that is over as soon as it began.
func (m *machine) answer(o Order, status schemas.OrderStatus, message string) {
	r := resultOf(o)
	r.StartedAt = m.now
	finish(&r, status, message, m.now)
	m.record(r)
	m.publish = true
}

func finish(r *schemas.OrderResult, status schemas.OrderStatus, message string, at time.Time) {
	r.Status, r.Message, r.FinishedAt = status, shorten(message), &at
}

// wait notes an order that is carried out later.
func (m *machine) wait(o Order) {
	m.Waiting = append(m.Waiting, o)
	m.note(o, schemas.OrderStatusReceived)
}

func (m *machine) note(o Order, status schemas.OrderStatus) {
	r := resultOf(o)
	r.Status, r.StartedAt = status, m.now
	m.record(r)
	m.publish = true
}

// preempt cancels what runs, and puts the order before all that wait; those of lower terms have no future.
func (m *machine) preempt(o Order) {
	kept := []Order{o}
	for _, w := range m.Waiting {
		if w.Meta.Term < o.Meta.Term {
			m.refuse(w, "superseded by "+o.Type+" of a higher term")
			continue
		}
		kept = append(kept, w)
	}
	m.Waiting = kept
	if len(m.Waiting) > maxWaiting {
		last := m.Waiting[maxWaiting]
		m.Waiting = m.Waiting[:maxWaiting]
		m.refuse(last, "too many orders wait already; issue it again when they are done")
	}
	m.note(o, schemas.OrderStatusReceived)
	m.cancel()
}

func (m *machine) cancel() {
	if op := m.Operation; op != nil && !op.Cancelled {
		op.Cancelled = true
		m.do(Cancel{Operation: op.ID})
	}
}

// join lets a new attempt of what runs take the place of the earlier one.
func (m *machine) join(o Order) {
	if old := m.order(m.Operation.Order.ID); old != nil {
		r := *old
		finish(&r, schemas.OrderStatusFailed, "goes on under a later attempt: "+o.ID, m.now)
		m.record(r)
	}
	m.Operation.Order = &o
	m.note(o, schemas.OrderStatusRunning)
}

// exited: the server ended by itself.
func (m *machine) exited(f PostmasterExited) {
	exit := f.Exit
	m.LastExit, m.Running = &exit, false
	m.Postmaster = schemas.PostmasterStatusCrashed
	if exit.Expected {
		m.Postmaster = schemas.PostmasterStatusStopped
	}
	m.setWalEnd(f.WalEnd)
	m.publish = true
	if !m.UpSince.IsZero() && exit.At.Sub(m.UpSince) >= SettledAfter {
		m.Restarts = 0
	}
	m.UpSince = time.Time{}
	if m.primary() {
		m.RenouncedTerm = m.Term
	}
}

func (m *machine) changed(f PostmasterChanged) {
	if m.Postmaster == f.Status && f.Exit == nil {
		return
	}
	m.Postmaster, m.publish = f.Status, true
	if f.Exit != nil {
		exit := *f.Exit
		m.LastExit = &exit
	}
	if f.Status == schemas.PostmasterStatusRunning {
		m.UpSince = f.At
	}
}

// setWalEnd remembers the end of valid WAL with the term that wrote it.
func (m *machine) setWalEnd(end *schemas.WalEnd) {
	if end == nil {
		return
	}
	known := *end
	known.Term = m.TermOf(known.Timeline)
	m.WalEnd = &known
}

// persistFailed: nothing that binds may seem to have been written down.
func (m *machine) persistFailed(f PersistFailed) {
	before := m.Durable
	switch fact := f.Fact.(type) {
	case OrderReceived:
		m.answer(fact.Order, schemas.OrderStatusFailed, "the agent's memory could not be written, so nothing was begun: "+f.Err)
	case DoorReached:
		m.do(Deny{Operation: fact.Operation, Why: "the agent's memory could not be written: " + f.Err})
	case PersistFailed, SequenceReserved:
	default:
		last := m.LastOperation
		m.take(fact)
		m.actions = nil // what it would have owed stands on what was not written
		if m.Operation != nil && m.Operation.ID > last {
			m.Operation, m.RestartScheduled = nil, false
		}
	}
	m.PromisedTerm, m.Term, m.Role, m.Opening = before.PromisedTerm, before.Term, before.Role, before.Opening
	m.RenouncedTerm, m.Upstream, m.Data = before.RenouncedTerm, before.Upstream, before.Data
	m.SystemIdentifier, m.SequenceLimit, m.Timelines = before.SystemIdentifier, before.SequenceLimit, before.Timelines
	m.Unsaved = true
}

// shutdown ends the agent: no new work, and the server down first.
func (m *machine) shutdown() {
	if m.ShuttingDown {
		return
	}
	m.ShuttingDown, m.publish = true, true
	for _, o := range m.Waiting {
		m.refuse(o, "the agent is shutting down; issue it again when it is back")
	}
	m.Waiting = nil
	m.cancel()
}

// settle does what follows when nothing runs: the next order, then what the agent wants by itself.
func (m *machine) settle() {
	for m.Operation == nil && len(m.Waiting) > 0 {
		o := m.Waiting[0]
		m.Waiting = slices.Clone(m.Waiting[1:])
		c := &situation{s: m.State, o: o, in: OrderReceived{Order: o, StreamTime: m.streamTime, At: m.now}, turn: true}
		if r := decideGeneral(c); r != nil {
			m.apply(c, r)
			continue
		}
		m.apply(c, decideOrder(c))
	}
	if m.Operation != nil || !m.Booted {
		return
	}
	if m.ShuttingDown {
		m.settleShutdown()
		return
	}
	if m.primary() && !m.up() && !m.Held && m.RenouncedTerm < m.Term {
		// Down without having been asked to be: this node will not come back in place by itself, and says so durably.
		m.RenouncedTerm, m.publish = m.Term, true
	}
	if m.mayRestart() && !m.RestartScheduled {
		m.RestartScheduled = true
		m.do(RestartLater{After: m.backoff()})
	}
}

func (m *machine) settleShutdown() {
	if !m.up() {
		m.publish, m.leave = true, true
		return
	}
	if m.primary() {
		m.RenouncedTerm = m.Term
	}
	m.Running = false
	m.start(Operation{Work: orderStop, Data: m.Data, WasPrimary: m.primary(), WasRunning: true})
}

// mayRestart says whether the agent should start the server by itself: a standby that nobody stopped.
func (m *machine) mayRestart() bool {
	return m.standby() && m.Data == DataWhole && !m.Held && !m.up() && !m.ShuttingDown && m.Operation == nil
}

func (m *machine) restart() {
	if !m.mayRestart() {
		return
	}
	m.Restarts++
	m.Running = true
	m.start(Operation{Work: orderStart, Data: m.Data, Upstream: m.Upstream})
}

func (m *machine) backoff() time.Duration {
	wait := RestartMin
	for range min(m.Restarts, 10) {
		wait *= 2
	}
	return min(wait, RestartMax)
}

// start begins an operation.
func (m *machine) start(op Operation) {
	m.LastOperation++
	op.ID, op.Term = m.LastOperation, m.PromisedTerm
	m.Operation = &op
	m.do(Begin{Operation: op})
}
