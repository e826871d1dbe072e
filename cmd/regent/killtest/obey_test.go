package killtest

import (
	"fmt"
	"slices"
	"time"

	"github.com/regent-infra/regent/internal/event"
	"github.com/regent-infra/regent/internal/record"
	"github.com/regent-infra/regent/schemas"
)

// deliver hands an order to its agent, if that lives.
func (l *load) deliver(e *event.Event) {
	i := slices.IndexFunc(l.estates, func(s *estate) bool { return string(s.cluster) == e.Cluster })
	if i < 0 {
		l.t.Errorf("an order for %s, which nobody has initialised", e.Cluster)
		return
	}
	m := orderMeta(e.Payload)
	a := l.estates[i].agent(m.Node)
	if a == nil {
		l.t.Errorf("an order for %s of %s, which is no member", m.Node, e.Cluster)
		return
	}
	if a.up {
		a.take(e, m, time.Now(), time.Duration(10+l.rnd.IntN(120))*time.Millisecond)
		a.report(l, time.Now())
	}
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
	default:
		panic(fmt.Sprintf("%T is no order", payload))
	}
}

// take obeys an order, if the guards of an agent let it.
func (a *agent) take(e *event.Event, m schemas.OrderMeta, now time.Time, work time.Duration) {
	refuse := func(why string) { a.result(e.ID, e.Type, m, schemas.OrderStatusRefused, why) }
	switch {
	case slices.ContainsFunc(a.results, func(r schemas.OrderResult) bool { return r.OrderID == e.ID && r.Status != schemas.OrderStatusFailed }):
		return // it is reported again
	case !now.Before(m.ExpiresAt):
		refuse("it has expired")
		return
	case m.Term < a.promised:
		refuse(fmt.Sprintf("term %d is below the promised %d", m.Term, a.promised))
		return
	}
	if _, check := e.Payload.(*schemas.CheckNode); check {
		a.result(e.ID, e.Type, m, schemas.OrderStatusDone, "")
		return
	}
	if a.job != nil && a.job.meta.Term > m.Term {
		refuse("a later term is at work")
		return
	}
	if why := a.guard(e.Payload, m); why != "" {
		refuse(why)
		return
	}
	a.result(e.ID, e.Type, m, schemas.OrderStatusRunning, "")
	a.job = &job{meta: m, id: e.ID, after: now.Add(work), finish: a.execute(e.Payload, m, now)}
}

func (a *agent) guard(payload any, m schemas.OrderMeta) string {
	switch p := payload.(type) {
	case *schemas.StartPostgres:
		if !a.hasData || p.AsPrimary && (!a.asPrimary || a.term != m.Term) {
			return "it is not the primary of this term"
		}
	case *schemas.RestartPostgres:
		if !a.hasData || a.asPrimary && a.term != m.Term {
			return "it is not the primary of this term"
		}
	case *schemas.ConfigureSynchronous:
		if !a.running || !a.asPrimary {
			return "it is no primary"
		}
	case *schemas.PromotePostgres:
		if !a.hasData || a.asPrimary && a.term != m.Term || a.lsn < p.MinLsn {
			return fmt.Sprintf("it cannot be promoted: its WAL ends at %d", a.lsn)
		}
	case *schemas.ReinstatePrimary:
		if !a.hasData || !a.asPrimary {
			return "it was no primary"
		}
	}
	return ""
}

// execute begins an order and returns what ends it.
func (a *agent) execute(payload any, m schemas.OrderMeta, now time.Time) func(time.Time) (bool, string) {
	switch p := payload.(type) {
	case *schemas.BootstrapPrimary:
		a.promised = m.Term
		return a.office(m.Term, a.timeline, p.SynchronousStandbyNames)
	case *schemas.PromotePostgres:
		a.promised = m.Term
		if a.asPrimary && a.term == m.Term {
			return func(now time.Time) (bool, string) { a.start(now); return true, "" }
		}
		return func(now time.Time) (bool, string) {
			a.history = append(slices.Clone(a.history), schemas.TimelineSwitch{Timeline: a.timeline, SwitchLsn: a.lsn, Reason: "promoted"})
			return a.office(m.Term, p.Timeline, p.SynchronousStandbyNames)(now)
		}
	case *schemas.ReinstatePrimary:
		a.promised = m.Term
		return a.office(m.Term, a.timeline, p.SynchronousStandbyNames)
	case *schemas.FencePostgres:
		a.promised, a.streaming, a.upstream, a.upstreamTerm = m.Term, false, "", 0
		if a.asPrimary {
			a.running, a.crashed, a.renounced = false, false, a.term
		}
	case *schemas.FollowPrimary:
		a.promised = max(a.promised, m.Term)
		return a.follow(p.Upstream.Node, p.UpstreamTerm, p.AllowCopy, p.AllowRewind || p.AllowCopy)
	case *schemas.CloneStandby:
		a.running, a.hasData, a.asPrimary, a.crashed = false, false, false, false
		return a.follow(p.Upstream.Node, p.UpstreamTerm, true, true)
	case *schemas.StopPostgres:
		a.running, a.streaming, a.crashed = false, false, false
		if p.Renounce && a.asPrimary {
			a.renounced = a.term
		}
	case *schemas.StartPostgres:
		return func(now time.Time) (bool, string) { a.renounced = 0; a.start(now); return true, "" }
	case *schemas.RestartPostgres:
		a.running, a.streaming = false, false
		return func(now time.Time) (bool, string) { a.start(now); return true, "" }
	case *schemas.ConfigureSynchronous:
		return func(time.Time) (bool, string) { a.names = p.SynchronousStandbyNames; return true, "" }
	}
	return func(time.Time) (bool, string) { return true, "" }
}

// office makes the node primary of a term.
func (a *agent) office(term, timeline int64, names string) func(time.Time) (bool, string) {
	return func(now time.Time) (bool, string) {
		a.hasData, a.asPrimary, a.term, a.timeline, a.names, a.renounced = true, true, term, timeline, names, 0
		a.upstream, a.streaming = "", false
		if !a.running {
			a.start(now)
		}
		return true, ""
	}
}

// follow attaches the node once the upstream serves.
func (a *agent) follow(upstream string, term int64, fresh, mend bool) func(time.Time) (bool, string) {
	if a.asPrimary && a.running {
		a.running, a.renounced = false, a.term
	}
	a.upstream, a.upstreamTerm, a.term, a.streaming = upstream, term, term, false
	return func(now time.Time) (bool, string) {
		up := a.e.agent(upstream)
		switch {
		case up == nil || !up.up || !up.running || !up.asPrimary || up.term != term:
			return false, ""
		case !a.hasData && !fresh, a.asPrimary && !mend:
			return false, "it has to be copied, and that is not allowed"
		}
		a.hasData, a.asPrimary, a.renounced, a.lsn, a.timeline, a.history = true, false, 0, up.lsn, up.timeline, slices.Clone(up.history)
		if !a.running {
			a.start(now)
		}
		return true, ""
	}
}

// observation makes the record of the agent's next report.
func (a *agent) observation(l *load, now time.Time) record.Record {
	a.sequence++
	a.nextReport = now.Add(time.Second)
	return l.observation(a.id, a.sequence, a.bootID(), a.observe(now))
}
