package decide

import (
	"strings"

	"github.com/regent-infra/regent/schemas"
)

// Facts, actions and words of restarting, stopping, starting and checking.
var (
	factRestarted = &Fact{Name: "restarted", Doc: "the node takes connections and its postmaster is not the one that ran when the restart was ordered; the agent reports the order done", holds: func(r *run) bool {
		n, o := r.node(r.subject()), r.issued(r.subject(), "RestartPostgres")
		if o == nil || o.Status != schemas.OrderStatusDone || !alive(n) || n.Observed.Postmaster != schemas.PostmasterStatusRunning || !n.Observed.AcceptingConnections {
			return false
		}
		at, before := n.Observed.PostmasterStartedAt, o.PostmasterStartedAt
		return at == nil || before == nil || !at.Equal(*before)
	}}
	factInOffice = &Fact{Name: "in office", Doc: "the recorded primary serves under its term, and nobody has been promised a higher one", holds: func(r *run) bool {
		return r.promoted() && r.highestPromise() <= r.rec.PrimaryTerm
	}}
	factPrimaryDown = &Fact{Name: "primary down", Doc: "no postgres runs on the primary's node, by its agent's word", holds: func(r *run) bool {
		return alive(r.incumbent()) && down(r.incumbent())
	}}
	factAllAnswered = &Fact{Name: "all answered", Doc: "every member has reported since it was asked: the order done, or, while it is busy with another, any newer observation", holds: func(r *run) bool {
		return r.count(r.names(), r.answered) == len(r.names())
	}}

	actRestart = Action{Name: "see to it that the node restarts", Orders: []string{"RestartPostgres"}, do: func(r *run) {
		r.press(r.subject(), "RestartPostgres", func(m schemas.OrderMeta) any {
			return &schemas.RestartPostgres{Meta: m, Mode: r.wf.Mode, TimeoutMs: int32(stopGrace.Milliseconds())}
		})
	}}
	actRestartFailed = Action{Name: "remember that it failed", do: func(r *run) {
		if r.subject() == r.rec.Primary {
			r.rec.RestartFailedTerm = r.rec.PrimaryTerm
			r.penalise(r.rec.Primary, r.lastFailure())
		}
	}}
	actStartPrimary = Action{Name: "see to it that the primary comes back: under its own term if that still stands, else reinstated under a new one", Orders: []string{"StartPostgres", "ReinstatePrimary", "FollowPrimary"}, do: (*run).startPrimary}

	actStopPrimary  = Action{Name: "see to it that the primary stops", Orders: []string{"StopPostgres"}, do: func(r *run) { r.pressStop(r.rec.Primary) }}
	actStopStandbys = Action{Name: "see to it that the standbys stop", Orders: []string{"StopPostgres"}, do: func(r *run) {
		for _, name := range r.others() {
			if r.running(name) {
				r.pressStop(name)
			}
		}
	}}
	actReportDrained = Action{Name: "note what the standbys hold", do: func(r *run) {
		p := r.incumbent()
		if p == nil || p.Observed.WalEnd == nil {
			return
		}
		for _, name := range r.others() {
			if n := r.node(name); down(n) && n.Observed.WalEnd != nil {
				r.note(text("%s ended at %s, %s at %s", r.rec.Primary, LSN(p.Observed.WalEnd.Lsn), name, LSN(n.Observed.WalEnd.Lsn)), evidence(p, "stopped"), evidence(n, "stopped"))
			}
		}
	}}
	actStayUp    = Action{Name: "take the shutdown back", do: func(r *run) { r.rec.ShutDown = false }}
	actStarted   = Action{Name: "record that the cluster runs again", do: func(r *run) { r.rec.ShutDown = false }}
	actFollowAll = Action{Name: "see to it that the standbys follow", Orders: []string{"FollowPrimary"}, do: func(r *run) {
		for _, name := range r.others() {
			if !r.streams(name) {
				r.pressFollow(name, true, false)
			}
		}
	}}
	actProbe = Action{Name: "ask every agent to look", Orders: []string{"CheckNode"}, do: func(r *run) {
		for _, name := range r.names() {
			if !r.answered(name) {
				r.press(name, "CheckNode", func(m schemas.OrderMeta) any { return &schemas.CheckNode{Meta: m} })
			}
		}
	}}
)

// startPrimary brings the incumbent back. StartPostgres is for a term that nobody was asked to give up. After a revocation that led to
// nothing, standbys would refuse that term, so the incumbent is reinstated under the next.
func (r *run) startPrimary() {
	n := r.incumbent()
	reinstating := r.issued(r.rec.Primary, "ReinstatePrimary") != nil
	own := n == nil || n.Observed.Term >= r.rec.PrimaryTerm
	if !reinstating && own && r.highestPromise() <= r.rec.PrimaryTerm {
		r.press(r.rec.Primary, "StartPostgres", func(m schemas.OrderMeta) any { return &schemas.StartPostgres{Meta: m, AsPrimary: true} })
		return
	}
	if reinstating && !failed(r.issued(r.rec.Primary, "ReinstatePrimary")) && r.highestPromise() <= r.rec.PrimaryTerm {
		r.pressReinstatement()
		return
	}
	if reinstating {
		if o := r.issued(r.rec.Primary, "ReinstatePrimary"); r.wf.RetriesLeft <= 0 || !r.reached(o.IssuedAt.Add(retryAfter)) {
			return
		}
		r.wf.RetriesLeft--
	}
	r.openTerm()
	r.note(text("opened term %d, for more than term %d was promised", r.wf.Term, r.rec.PrimaryTerm), r.observed(r.names()...)...)
	r.reinstate()
}

// answered reports whether a node has reported since the check asked it.
func (r *run) answered(name string) bool {
	o, n := r.issued(name, "CheckNode"), r.node(name)
	if o == nil || n == nil {
		return false
	}
	if o.Status == schemas.OrderStatusDone {
		return true
	}
	last := n.Observed.LastOrder
	busy := last != nil && last.OrderID != o.OrderID && (last.Status == schemas.OrderStatusRunning || last.Status == schemas.OrderStatusReceived)
	return busy && n.ObservedSequence > o.ObservedSequence
}

func (r *run) sayRestarted() string {
	return text("postgres of %s was restarted and takes connections", r.subject())
}
func (r *run) sayRestarting() string { return text("postgres of %s to restart", r.subject()) }
func (r *run) sayInOffice() string {
	return text("%s serves under term %d", r.rec.Primary, r.rec.PrimaryTerm)
}
func (r *run) sayStopPrimary() string { return text("postgres of %s to stop", r.rec.Primary) }
func (r *run) sayShutDown() string    { return "every postgres is down" }
func (r *run) sayNotAllDown() string {
	return "the primary is down, not all standbys are: " + r.sayStopAll()
}

func (r *run) sayStarted() string {
	return text("%s serves under term %d; %d of %d standbys stream", r.rec.Primary, r.rec.PrimaryTerm, r.count(r.others(), r.streams), len(r.others()))
}

func (r *run) sayHealth() string {
	health := schemas.HealthUnknown
	if r.v.State != nil {
		health = r.v.State.Health
	}
	parts := []string{text("the cluster is %s (%s)", health, r.analysis())}
	for _, name := range r.names() {
		n := r.node(name)
		part := text("%s %s", describe(name, n), n.Health)
		for _, c := range n.Causes {
			part += ", " + c.Code
		}
		parts = append(parts, part)
	}
	return strings.Join(parts, "; ")
}

func (r *run) sayUnanswered() string {
	var missing []string
	for _, name := range r.names() {
		if !r.answered(name) {
			missing = append(missing, name)
		}
	}
	return text("no answer from %s", strings.Join(missing, ", "))
}
