package killtest

import (
	"fmt"
	"slices"
	"time"

	"github.com/regent-infra/regent/internal/event"
	"github.com/regent-infra/regent/schemas"
)

// estate is a cluster whose agents obey orders. They are models: they keep what an agent keeps durably, take their time, crash and come
// back, so that the orchestrator has failovers to decide; there is no postgres behind them.
type estate struct {
	cluster  event.ClusterID
	agents   []*agent
	nextInit time.Time
}

// agent is one of an estate.
type agent struct {
	e  *estate
	id event.ResourceID
	// Durable.
	sequence, promised, term, renounced, upstreamTerm, timeline, lsn int64
	upstream, names                                                  string
	hasData, asPrimary                                               bool
	history                                                          []schemas.TimelineSwitch
	results                                                          []schemas.OrderResult // newest first
	// Volatile.
	up, running, crashed, streaming bool
	boots                           int
	started, comesBack              time.Time
	job                             *job
	nextBeat, nextReport            time.Time
}

// job is an order under way. finish reports whether it is done, and why it failed.
type job struct {
	meta   schemas.OrderMeta
	id     string
	after  time.Time
	finish func(now time.Time) (done bool, failure string)
}

func newEstate(cluster event.ClusterID) *estate {
	e := &estate{cluster: cluster}
	for i := range nodesPerCluster {
		e.agents = append(e.agents, &agent{e: e, id: cluster.Node(fmt.Sprintf("pg-%d", i+1)), timeline: 1})
	}
	return e
}

func (e *estate) agent(name string) *agent {
	i := slices.IndexFunc(e.agents, func(a *agent) bool { return a.id.Node() == name })
	if i < 0 {
		return nil
	}
	return e.agents[i]
}

// initialise asks for the cluster to be made; again and again, as an operator would who lost the answer.
func (e *estate) initialise(l *load) {
	var members []schemas.ClusterMember
	for i, a := range e.agents {
		members = append(members, schemas.ClusterMember{Node: a.id.Node(), Host: fmt.Sprintf("10.0.0.%d", i+1), Port: 5432, FailoverPriority: 100})
	}
	l.order(e.cluster, &schemas.InitializeCluster{Meta: metaOf("make it"), Members: members, Policy: schemas.ClusterPolicy{
		Version: 1, SynchronousMode: schemas.SynchronousModeQuorum, SynchronousCount: 1,
		FailoverMode: schemas.FailoverModeAutomatic, CrashAction: schemas.CrashActionFailover,
	}})
}

func (e *estate) step(l *load, now time.Time) {
	if e.nextInit.IsZero() || now.After(e.nextInit) && l.chance(0.01) {
		e.nextInit = now.Add(15 * time.Second)
		e.initialise(l)
	}
	for _, a := range e.agents {
		a.fault(l, now)
		if !a.up {
			if now.After(a.comesBack) {
				a.boot(now)
				a.report(l, now)
			}
			continue
		}
		changed := a.replicate(l)
		if a.job != nil && now.After(a.job.after) {
			changed = a.progress(now) || changed
		}
		if a.crashed && !a.asPrimary && a.upstream != "" && a.job == nil {
			a.start(now) // a standby is restarted by its agent
			changed = true
		}
		if changed || now.After(a.nextReport) {
			a.report(l, now)
		}
		if now.After(a.nextBeat) {
			a.nextBeat = now.Add(250 * time.Millisecond)
			l.beat(a.id, a.sequence, a.bootID(), 250, 1_000)
		}
	}
}

// fault crashes postgres, or loses the whole node for a while.
func (a *agent) fault(l *load, now time.Time) {
	switch {
	case a.up && a.running && l.chance(0.0007):
		a.running, a.streaming, a.crashed = false, false, true
		if a.asPrimary {
			a.renounced = a.term
		}
		a.report(l, now)
	case a.up && l.chance(0.0002):
		a.up, a.running, a.streaming, a.job = false, false, false, nil
		a.comesBack = now.Add(time.Duration(200+l.rnd.IntN(3_000)) * time.Millisecond)
	}
}

func (a *agent) bootID() string { return fmt.Sprintf("%s/boot-%d", a.id, a.boots) }

// boot starts the agent: a standby comes up by itself, a former primary stays down.
func (a *agent) boot(now time.Time) {
	if a.up {
		return
	}
	a.up, a.running, a.crashed, a.job = true, false, false, nil
	a.boots++
	a.sequence += 1_000
	for i := range a.results {
		if a.results[i].Status == schemas.OrderStatusRunning {
			a.results[i].Status, a.results[i].Message = schemas.OrderStatusFailed, "the agent was restarted while it ran"
		}
	}
	if a.hasData && !a.asPrimary && a.upstream != "" {
		a.start(now)
	}
}

func (a *agent) start(now time.Time) { a.running, a.crashed, a.started = true, false, now }

// replicate moves WAL along, and reports whether streaming has begun or ended.
func (a *agent) replicate(l *load) bool {
	if a.asPrimary {
		if a.running {
			a.lsn += int64(l.rnd.IntN(1 << 12))
		}
		return false
	}
	was, up := a.streaming, a.e.agent(a.upstream)
	a.streaming = a.running && a.job == nil && a.attached(up)
	if a.streaming {
		a.lsn, a.timeline, a.history = up.lsn, up.timeline, up.history
	}
	return was != a.streaming
}

// attached reports whether the upstream serves under the term that this standby follows.
func (a *agent) attached(up *agent) bool {
	return a.hasData && up != nil && up.up && up.running && up.asPrimary && up.term == a.upstreamTerm
}

func (a *agent) report(l *load, now time.Time) { l.send(a.observation(l, now)) }

func (a *agent) result(id, kind string, m schemas.OrderMeta, status schemas.OrderStatus, message string) {
	now := time.Now().UTC().Truncate(time.Microsecond)
	r := schemas.OrderResult{OrderID: id, OrderType: kind, WorkflowID: m.WorkflowID, Term: m.Term, Status: status, Message: message, StartedAt: now}
	a.results = slices.DeleteFunc(slices.Clone(a.results), func(r schemas.OrderResult) bool { return r.OrderID == id })
	a.results = slices.Insert(a.results, 0, r)
	a.results = a.results[:min(len(a.results), 8)]
}

func (a *agent) progress(now time.Time) bool {
	done, failure := a.job.finish(now)
	if !done && failure == "" {
		return false
	}
	status := schemas.OrderStatusDone
	if failure != "" {
		status = schemas.OrderStatusFailed
	}
	i := slices.IndexFunc(a.results, func(r schemas.OrderResult) bool { return r.OrderID == a.job.id })
	if i >= 0 {
		a.results[i].Status, a.results[i].Message = status, failure
	}
	a.job = nil
	return true
}

// observation makes the next full value.
func (a *agent) observe(now time.Time) *schemas.PostgresNodeObserved {
	at := now.UTC().Truncate(time.Microsecond)
	o := &schemas.PostgresNodeObserved{
		Node: a.id.Node(), Host: "10.0.0.1", Port: 5432, AgentVersion: "model", ServerVersion: 150018, Postmaster: schemas.PostmasterStatusStopped,
		Role: schemas.NodeRoleUnknown, Timeline: a.timeline, TimelineHistory: slices.Clone(a.history), FlushedLsn: a.lsn, PromisedTerm: a.promised,
		Term: a.term, RenouncedTerm: a.renounced, Upstream: a.upstream, Senders: []schemas.WalSender{}, Slots: []schemas.ReplicationSlot{},
		Breaker: schemas.BreakerStatus{State: schemas.BreakerStateClosed, ChangedAt: at.Add(-time.Hour)}, RecentOrders: slices.Clone(a.results),
	}
	if len(a.results) > 0 {
		o.LastOrder = new(a.results[0])
	}
	switch {
	case !a.hasData:
		o.Postmaster, o.Timeline, o.TimelineHistory = schemas.PostmasterStatusAbsent, 0, nil
	case a.crashed:
		o.Postmaster, o.LastExit = schemas.PostmasterStatusCrashed, &schemas.PostmasterExit{At: at, Signal: new("SIGKILL")}
	case a.running:
		o.Postmaster, o.AcceptingConnections, o.Role, o.PostmasterStartedAt = schemas.PostmasterStatusRunning, true, schemas.NodeRoleStandby, new(a.started.UTC().Truncate(time.Microsecond))
	}
	if a.hasData {
		o.SystemIdentifier = "7000000000000000042"
	}
	if a.hasData && (!a.running || !a.asPrimary && a.upstream == "") {
		o.WalEnd = &schemas.WalEnd{Term: a.term, Timeline: a.timeline, Lsn: a.lsn}
	}
	if a.running && a.asPrimary {
		o.Role, o.SynchronousStandbyNames, o.WrittenLsn = schemas.NodeRolePrimary, a.names, a.lsn
		for _, b := range a.e.agents {
			if b.streaming && b.upstream == a.id.Node() {
				o.Senders = append(o.Senders, schemas.WalSender{
					ApplicationName: b.application(), State: "streaming", SyncState: "quorum", SentLsn: b.lsn, WriteLsn: b.lsn, FlushLsn: b.lsn, ReplayLsn: b.lsn,
				})
			}
		}
	}
	if a.streaming {
		o.ReceivedLsn, o.ReplayedLsn = a.lsn, a.lsn
		o.Receiver = &schemas.WalReceiver{Status: "streaming", Timeline: a.timeline, ApplicationName: a.application(), LastMessageReceivedAt: &at, LatestEndLsn: a.lsn}
	}
	return o
}

func (a *agent) application() string { return fmt.Sprintf("%s-t%d", a.id.Node(), a.upstreamTerm) }
