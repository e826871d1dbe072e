package decide

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/regent-infra/regent/schemas"
)

// entry is one commit in the model's WAL. The LSN is the number of entries.
type entry struct {
	timeline, term int64
	id             int
}

// agent is a model of one agent and its postgres: what PROTOCOL and the .avsc files demand of them, and no more. What is durable
// survives kill, what is not does not.
type agent struct {
	w    *world
	name string
	// Durable.
	promised, term, upstreamTerm, renounced int64
	upstream                                string
	asPrimary                               bool // the data directory is a primary's
	wal                                     []entry
	hasData                                 bool
	timeline                                int64
	history                                 []schemas.TimelineSwitch
	system                                  string
	last                                    *schemas.OrderResult
	sequence                                int64
	ssn                                     string
	rewind, fresh                           bool
	// Volatile.
	up, frozen       bool // the agent's process lives; it is not scheduled
	boots            int
	running, crashed bool // postgres
	startedAt        time.Time
	streaming        bool
	sealed           bool // what streams goes on, and nothing new attaches
	job              *job
	inbox            []Order
	outbox           []published
	// Faults.
	cutFromBroker bool
	cutFrom       map[string]bool
	slow          int // ticks that a job takes
	dirty         bool
	refusals      []string // orders of these types fail, once each
}

type published struct{ schemas.PostgresNodeState }

// job is an order that takes time.
type job struct {
	order Order
	ticks int
	// finish returns whether it is done, and an error text if it failed.
	finish func() (bool, string)
}

func newAgent(w *world, name string) *agent {
	return &agent{w: w, name: name, cutFrom: map[string]bool{}}
}

func (a *agent) boot() {
	if a.up {
		return
	}
	a.up, a.frozen, a.job, a.inbox = true, false, nil, nil
	a.boots++
	if a.sealed {
		a.fence(a.promised)
	}
	// An orphan of an earlier run is stopped first. A former primary stays down; a standby starts by itself.
	a.running, a.streaming, a.crashed = false, false, false
	if a.last != nil && (a.last.Status == schemas.OrderStatusRunning || a.last.Status == schemas.OrderStatusReceived) {
		a.last.Status, a.last.Message = schemas.OrderStatusFailed, "the agent was restarted while it ran"
	}
	if a.hasData && !a.asPrimary && a.upstream != "" {
		a.start()
	}
	a.publish()
}

func (a *agent) start() {
	a.w.starts++
	a.running, a.crashed, a.startedAt = true, false, a.w.now.Add(time.Duration(a.w.starts)*time.Microsecond)
}

// kill ends the agent; with it postgres, or not.
func (a *agent) kill(postgres bool) {
	a.up, a.job, a.inbox, a.outbox = false, nil, nil, nil
	if postgres {
		a.running, a.streaming = false, false
	}
}

// crash ends postgres alone.
func (a *agent) crash() {
	if !a.running {
		return
	}
	a.running, a.streaming, a.crashed = false, false, true
	if a.asPrimary {
		a.renounced = a.term
	}
	a.dirty = true
}

func (a *agent) serving() bool { return a.running && a.asPrimary }

func (a *agent) lsn() int64 { return int64(len(a.wal)) }

func (a *agent) reaches(b *agent) bool { return !a.cutFrom[b.name] && !b.cutFrom[a.name] }

// upstreamSaid is what an agent says of its upstream: a promise above its term forgets it, also while its stream still drains.
func (a *agent) upstreamSaid() string {
	if a.sealed {
		return ""
	}
	return a.upstream
}

// publish puts the full value of the node into the outbox.
func (a *agent) publish() {
	if !a.up {
		return
	}
	a.sequence++
	o := schemas.PostgresNodeObserved{
		Node: a.name, Host: a.name, Port: 5432, SystemIdentifier: a.system, Timeline: a.timeline, TimelineHistory: slices.Clone(a.history),
		PromisedTerm: a.promised, Term: a.term, RenouncedTerm: a.renounced, Upstream: a.upstreamSaid(), Role: schemas.NodeRoleUnknown,
		FlushedLsn: a.lsn(), Postmaster: schemas.PostmasterStatusStopped, Senders: []schemas.WalSender{}, Slots: []schemas.ReplicationSlot{},
	}
	switch {
	case a.running:
		o.Postmaster, o.AcceptingConnections, o.Role, o.PostmasterStartedAt = schemas.PostmasterStatusRunning, true, schemas.NodeRoleStandby, new(a.startedAt)
		if a.asPrimary {
			o.Role, o.SynchronousStandbyNames, o.WrittenLsn = schemas.NodeRolePrimary, a.ssn, a.lsn()
		}
	case !a.hasData:
		o.Postmaster = schemas.PostmasterStatusAbsent
	case a.crashed:
		o.Postmaster = schemas.PostmasterStatusCrashed
	}
	if a.hasData && (!a.running || !a.asPrimary && a.upstream == "") {
		end := schemas.WalEnd{Timeline: 1, Lsn: a.lsn()}
		if n := len(a.wal); n > 0 {
			end.Timeline, end.Term = a.wal[n-1].timeline, a.wal[n-1].term
		}
		o.WalEnd = &end
	}
	if a.streaming {
		o.Receiver = &schemas.WalReceiver{Status: "streaming", ApplicationName: ApplicationName(a.name, a.upstreamTerm)}
	}
	if a.last != nil {
		o.LastOrder = new(*a.last)
	}
	a.outbox = append(a.outbox, published{schemas.PostgresNodeState{
		Node: a.name, Observed: o, ObservedAt: a.w.now, ObservedSequence: a.sequence, ObservedBootID: fmt.Sprintf("%s/%d", a.name, a.boots),
	}})
	a.dirty = false
}

// deliver hands everything published to the reducer.
func (a *agent) deliver() bool {
	if len(a.outbox) == 0 || a.cutFromBroker {
		return false
	}
	out := a.outbox
	a.outbox = nil
	for _, o := range out {
		a.w.lastBeat[a.name] = a.w.now
		if s := a.w.states[a.name]; s != nil && s.Liveness != schemas.LivenessAlive {
			a.w.liveness(a.name, schemas.LivenessAlive)
		}
		a.w.observe(o)
	}
	return true
}

// work takes up orders and moves jobs and replication on.
func (a *agent) work() bool {
	moved := a.replicate()
	if !a.up || a.frozen {
		return moved
	}
	if len(a.inbox) > 0 && !a.cutFromBroker {
		o := a.inbox[0]
		a.inbox = a.inbox[1:]
		a.take(o)
		moved = true
	}
	if a.job != nil {
		moved = a.progress() || moved
	}
	if a.crashed && !a.asPrimary && a.hasData && a.upstream != "" && a.job == nil {
		a.start()
		a.dirty = true
	}
	if a.dirty {
		a.publish()
		moved = true
	}
	return moved
}

func (a *agent) progress() bool {
	if a.job.ticks > 0 {
		a.job.ticks--
		return a.job.ticks == 0
	}
	done, failure := a.job.finish()
	switch {
	case failure != "":
		a.result(a.job.order, schemas.OrderStatusFailed, failure)
	case done:
		a.result(a.job.order, schemas.OrderStatusDone, "")
	default:
		return false
	}
	a.job = nil
	return true
}

func (a *agent) result(o Order, status schemas.OrderStatus, message string) {
	m := orderMeta(o.Payload)
	a.last = &schemas.OrderResult{OrderID: o.ID, OrderType: schemas.RecordName(o.Payload), WorkflowID: m.WorkflowID, Term: m.Term, Status: status, Message: message, StartedAt: a.w.now}
	a.dirty = true
}

func orderMeta(payload any) schemas.OrderMeta {
	switch p := payload.(type) {
	case *schemas.BootstrapPrimary:
		return p.Meta
	case *schemas.CloneStandby:
		return p.Meta
	case *schemas.StartPostgres:
		return p.Meta
	case *schemas.StopPostgres:
		return p.Meta
	case *schemas.RestartPostgres:
		return p.Meta
	case *schemas.FencePostgres:
		return p.Meta
	case *schemas.PromotePostgres:
		return p.Meta
	case *schemas.FollowPrimary:
		return p.Meta
	case *schemas.ReinstatePrimary:
		return p.Meta
	case *schemas.ConfigureSynchronous:
		return p.Meta
	case *schemas.CheckNode:
		return p.Meta
	}
	panic(fmt.Sprintf("%T is no order", payload))
}

func planned(o Order) bool {
	p, ok := o.Payload.(*schemas.FencePostgres)
	return ok && p.Planned
}

// take obeys an order, if the guards let it.
func (a *agent) take(o Order) {
	m := orderMeta(o.Payload)
	switch {
	case a.last != nil && a.last.OrderID == o.ID:
		a.dirty = true
		return
	case !a.w.now.Before(m.ExpiresAt):
		a.result(o, schemas.OrderStatusRefused, "expired")
		return
	case m.Term < a.promised:
		a.result(o, schemas.OrderStatusRefused, fmt.Sprintf("term %d is below the promised %d", m.Term, a.promised))
		return
	}
	if _, check := o.Payload.(*schemas.CheckNode); check {
		if a.job == nil {
			a.result(o, schemas.OrderStatusDone, "")
		}
		a.dirty = true
		return
	}
	if a.job != nil {
		if orderMeta(a.job.order.Payload).Term >= m.Term && schemas.RecordName(a.job.order.Payload) == schemas.RecordName(o.Payload) && (!a.sealed || planned(o)) {
			// The same once more: the one at work answers for both.
			a.job.order = o
			a.result(o, schemas.OrderStatusRunning, "")
			return
		}
		a.job = nil
		if a.sealed {
			a.fence(a.promised)
		}
	}
	a.execute(o, m)
}

func (a *agent) execute(o Order, m schemas.OrderMeta) {
	if i := slices.Index(a.refusals, schemas.RecordName(o.Payload)); i >= 0 {
		a.refusals = slices.Delete(a.refusals, i, i+1)
		a.promised = max(a.promised, m.Term)
		a.result(o, schemas.OrderStatusFailed, "the disk is full")
		return
	}
	switch p := o.Payload.(type) {
	case *schemas.FencePostgres:
		if p.Planned && a.streaming && !a.asPrimary {
			a.drain(o, p)
			return
		}
		if p.Planned {
			a.empty()
		}
		a.fence(m.Term)
		a.result(o, schemas.OrderStatusDone, "")
	case *schemas.BootstrapPrimary:
		a.promised = m.Term
		a.begin(o, func() (bool, string) {
			if !a.hasData {
				a.hasData, a.system, a.timeline, a.wal, a.history = true, "7000000000000000001", 1, nil, nil
			}
			a.office(m.Term, p.SynchronousStandbyNames)
			return true, ""
		})
	case *schemas.PromotePostgres:
		a.promised = m.Term
		if a.serving() && a.term == m.Term {
			a.result(o, schemas.OrderStatusDone, "")
			return
		}
		a.begin(o, func() (bool, string) { return a.promote(p) })
	case *schemas.ReinstatePrimary:
		a.promised = m.Term
		if !a.hasData || !a.asPrimary {
			a.result(o, schemas.OrderStatusFailed, "this node was no primary")
			return
		}
		a.begin(o, func() (bool, string) {
			a.w.holdsAll(a, m.Term, "was reinstated")
			a.office(m.Term, p.SynchronousStandbyNames)
			return true, ""
		})
	case *schemas.FollowPrimary:
		a.follow(o, p)
	case *schemas.CloneStandby:
		a.clone(o, p)
	default:
		a.simple(o, m)
	}
}

func (a *agent) simple(o Order, m schemas.OrderMeta) {
	switch p := o.Payload.(type) {
	case *schemas.StartPostgres:
		if p.AsPrimary && (!a.asPrimary || a.term != m.Term || a.promised > m.Term || !a.hasData) {
			a.result(o, schemas.OrderStatusRefused, "the term is not its own")
			return
		}
		a.begin(o, func() (bool, string) {
			if p.AsPrimary && !a.running {
				a.w.holdsAll(a, m.Term, "was started as primary")
			}
			a.renounced = 0
			a.start()
			return true, ""
		})
	case *schemas.StopPostgres:
		a.running, a.streaming, a.crashed = false, false, false
		a.result(o, schemas.OrderStatusDone, "")
	case *schemas.RestartPostgres:
		if !a.hasData || a.asPrimary && a.term != m.Term {
			a.result(o, schemas.OrderStatusRefused, "the term is not its own")
			return
		}
		a.running, a.streaming = false, false
		a.begin(o, func() (bool, string) { a.start(); return true, "" })
	case *schemas.ConfigureSynchronous:
		if !a.serving() {
			a.result(o, schemas.OrderStatusFailed, "not a primary")
			return
		}
		a.ssn = p.SynchronousStandbyNames
		marker := a.write()
		a.begin(o, func() (bool, string) {
			if !a.serving() {
				return false, "no primary any more"
			}
			return a.committed(marker), ""
		})
	}
}

func (a *agent) begin(o Order, finish func() (bool, string)) {
	a.result(o, schemas.OrderStatusRunning, "")
	a.job = &job{order: o, ticks: a.slow, finish: finish}
}

// drain promises the term and keeps the stream that is there until it ends; nothing takes its place.
func (a *agent) drain(o Order, p *schemas.FencePostgres) {
	a.promised, a.sealed = p.Meta.Term, true
	until := a.w.now.Add(time.Duration(p.StopTimeoutMs) * time.Millisecond)
	a.begin(o, func() (bool, string) {
		if a.streaming && a.w.now.Before(until) {
			return false, ""
		}
		a.fence(p.Meta.Term)
		return true, ""
	})
}

// empty: a fast shutdown sends everything to the standbys that stream.
func (a *agent) empty() {
	for _, name := range a.w.names {
		b := a.w.agents[name]
		for b.streaming && b.upstream == a.name && b.replicate() {
		}
	}
}

func (a *agent) fence(term int64) {
	a.promised = term
	if a.asPrimary {
		a.renounced = a.term
		a.running = false
		a.crashed = false
	}
	a.streaming, a.upstream, a.upstreamTerm, a.sealed = false, "", 0, false
}

func (a *agent) office(term int64, ssn string) {
	a.asPrimary, a.term, a.ssn, a.renounced, a.upstream, a.streaming = true, term, ssn, 0, "", false
	if !a.running {
		a.start()
	}
}

func (a *agent) promote(p *schemas.PromotePostgres) (bool, string) {
	switch {
	case !a.hasData:
		return false, "no data directory"
	case a.asPrimary:
		return false, "this node was a primary; let it follow first"
	case a.lsn() < p.MinLsn:
		return false, fmt.Sprintf("WAL ends at %d, below %d", a.lsn(), p.MinLsn)
	case a.promised != p.Meta.Term:
		return false, "more was promised"
	}
	a.w.holdsAll(a, p.Meta.Term, fmt.Sprintf("was promoted under term %d", p.Meta.Term))
	a.history = append(slices.Clone(a.history), schemas.TimelineSwitch{Timeline: a.timeline, SwitchLsn: a.lsn()})
	a.timeline = p.Timeline
	a.office(p.Meta.Term, p.SynchronousStandbyNames)
	return true, ""
}

func (a *agent) follow(o Order, p *schemas.FollowPrimary) {
	a.promised = max(a.promised, p.Meta.Term)
	if a.serving() {
		a.running, a.renounced = false, a.term
	}
	if !a.hasData && !p.AllowCopy {
		a.result(o, schemas.OrderStatusFailed, "no data directory and no copy allowed")
		return
	}
	if a.upstream == p.Upstream.Node && a.upstreamTerm == p.UpstreamTerm && a.streaming {
		a.result(o, schemas.OrderStatusDone, "")
		return
	}
	a.upstream, a.upstreamTerm, a.term, a.streaming = p.Upstream.Node, p.UpstreamTerm, p.UpstreamTerm, false
	a.rewind, a.fresh = p.AllowRewind, p.AllowCopy
	a.begin(o, func() (bool, string) { return a.attach() })
	a.dirty = true
}

// attach starts following once the upstream serves under its term, and mends what has diverged.
func (a *agent) attach() (bool, string) {
	up := a.w.agents[a.upstream]
	if up == nil || !up.serving() || up.term != a.upstreamTerm || !a.reaches(up) {
		// While it waits, a standby runs.
		if a.hasData && !a.asPrimary && !a.running {
			a.start()
			a.dirty = true
		}
		return false, ""
	}
	if !a.hasData || !a.prefixOf(up) {
		if a.hasData && !a.rewind && !a.fresh || !a.hasData && !a.fresh {
			return false, "histories have diverged"
		}
		a.copyFrom(up)
	}
	a.asPrimary, a.renounced = false, 0
	a.timeline, a.history = up.timeline, slices.Clone(up.history)
	if !a.running {
		a.start()
	}
	a.streaming = true
	return true, ""
}

func (a *agent) copyFrom(up *agent) {
	a.wal, a.hasData, a.system = slices.Clone(up.wal), true, up.system
}

func (a *agent) prefixOf(up *agent) bool {
	// An entry determines all before it: each is written once, after them.
	n := len(a.wal)
	return n == 0 || n <= len(up.wal) && a.wal[n-1] == up.wal[n-1]
}

func (a *agent) clone(o Order, p *schemas.CloneStandby) {
	a.running, a.streaming, a.hasData, a.wal, a.asPrimary, a.crashed = false, false, false, nil, false, false
	a.history, a.timeline = nil, 0
	a.upstream, a.upstreamTerm, a.term = p.Upstream.Node, p.UpstreamTerm, p.UpstreamTerm
	a.rewind, a.fresh = true, true
	a.begin(o, func() (bool, string) { return a.attach() })
}

// replicate moves WAL from the upstream, as far as the simulation lets it.
func (a *agent) replicate() bool {
	if a.asPrimary || !a.running || a.upstream == "" {
		return false
	}
	up := a.w.agents[a.upstream]
	ok := up != nil && up.serving() && up.term == a.upstreamTerm && a.reaches(up) && a.prefixOf(up)
	if !ok {
		if a.streaming {
			a.streaming, a.dirty = false, true
		}
		return false
	}
	if !a.streaming {
		if a.job != nil || a.sealed {
			return false
		}
		a.streaming, a.dirty = true, true
	}
	if len(a.wal) == len(up.wal) {
		return false
	}
	a.wal = append(a.wal, up.wal[len(a.wal)])
	a.timeline, a.history = up.timeline, slices.Clone(up.history)
	up.acknowledge()
	return true
}

// write appends a commit to a primary's WAL; it is not acknowledged yet.
func (a *agent) write() int {
	if !a.serving() {
		return 0
	}
	a.w.nextEntry++
	a.wal = append(a.wal, entry{a.timeline, a.term, a.w.nextEntry})
	a.acknowledge()
	return a.w.nextEntry
}

// acknowledge tells clients of every commit that enough standbys hold.
func (a *agent) acknowledge() {
	for i := len(a.wal); i > 0; i-- {
		e := a.wal[i-1]
		if _, ok := a.w.acked[e.id]; ok || e.term != a.term {
			return
		}
		if a.held(i) {
			for _, e := range a.wal[:i] {
				if _, ok := a.w.acked[e.id]; !ok && e.term == a.term {
					a.w.acked[e.id] = acknowledged{a.name, a.term}
				}
			}
			return
		}
	}
}

func (a *agent) committed(id int) bool {
	a.acknowledge()
	_, ok := a.w.acked[id]
	return ok
}

// held reports whether the setting is satisfied for the first n entries.
func (a *agent) held(n int) bool {
	if a.ssn == "" {
		return true
	}
	var k int
	if _, err := fmt.Sscanf(a.ssn, "ANY %d", &k); err != nil {
		a.w.t.Fatalf("cannot read synchronous_standby_names %q: %v", a.ssn, err)
	}
	c := 0
	for _, name := range a.w.names {
		b := a.w.agents[name]
		if b != a && b.running && b.streaming && b.upstream == a.name && len(b.wal) >= n &&
			strings.Contains(a.ssn, `"`+ApplicationName(name, b.upstreamTerm)+`"`) {
			c++
		}
	}
	return c >= k
}
