package decide

import (
	"slices"
	"strings"
	"time"

	"github.com/regent-infra/regent/internal/event"
	"github.com/regent-infra/regent/schemas"
)

// examine validates what a command asks for against the record and what is observed, and makes its plan.
func (r *run) examine(q *request, payload any) {
	if init, ok := payload.(*schemas.InitializeCluster); ok {
		r.examineInitialize(q, init)
		return
	}
	switch {
	case r.rec == nil:
		q.reject(schemas.RejectionReasonUnknownCluster, "there is no cluster %s: check the name, or send InitializeCluster", r.v.Cluster)
		return
	case !r.rec.Initialized && q.kind != schemas.WorkflowKindCheckHealth:
		q.reject(schemas.RejectionReasonNotInitialized, "the cluster is not initialised: send InitializeCluster, or wait until it is done")
		return
	case r.rec.ShutDown && q.kind != schemas.WorkflowKindStartCluster && q.kind != schemas.WorkflowKindCheckHealth:
		q.reject(schemas.RejectionReasonPolicy, "the cluster is shut down: send StartCluster first")
	}
	switch p := payload.(type) {
	case *schemas.CheckHealth:
		r.examineCheck(q, p)
	case *schemas.SwitchoverCluster:
		r.examineSwitchover(q, p)
	case *schemas.FailoverCluster:
		r.examineFailover(q, p)
	case *schemas.RestartNode:
		r.examineRestart(q, p)
	case *schemas.ReinitializeNode:
		r.examineReinitialize(q, p)
	case *schemas.ShutdownCluster:
		if !validMode(p.Mode) {
			q.reject(schemas.RejectionReasonMalformed, "mode is %q, expected SMART, FAST or IMMEDIATE", p.Mode)
		}
		q.plan = text("stop the primary %s (%s), then the standbys %s; nothing fails over until StartCluster", r.rec.Primary, p.Mode, strings.Join(r.others(), ", "))
		q.prepare = func(w *schemas.Workflow) { w.Mode = p.Mode }
	case *schemas.StartCluster:
		if !r.rec.ShutDown {
			q.reject(schemas.RejectionReasonPolicy, "the cluster is not shut down: there is nothing to start")
		}
		q.plan = text("start %s as primary, then let %s follow it", r.rec.Primary, strings.Join(r.others(), ", "))
	}
}

func validMode(m schemas.StopMode) bool {
	return m == schemas.StopModeSmart || m == schemas.StopModeFast || m == schemas.StopModeImmediate
}

func (r *run) examineCheck(q *request, p *schemas.CheckHealth) {
	timeout := time.Duration(p.TimeoutMs) * time.Millisecond
	if timeout <= 0 || timeout > maxCheckTimeout {
		q.reject(schemas.RejectionReasonMalformed, "timeout_ms is %d, expected 1 to %d", p.TimeoutMs, maxCheckTimeout.Milliseconds())
	}
	q.plan = text("ask %s to look at once; wait %s for their answers", strings.Join(r.names(), ", "), timeout)
	q.prepare = func(w *schemas.Workflow) { w.StepDeadline = r.now.Add(timeout) }
}

// candidate validates the node that a command wants to promote.
func (r *run) candidate(q *request, name *string) string {
	if name == nil {
		return ""
	}
	m, ok := r.member(*name)
	switch {
	case !ok:
		q.reject(schemas.RejectionReasonUnknownNode, "candidate %q is no member, expected one of %s", *name, strings.Join(r.others(), ", "))
	case *name == r.rec.Primary:
		q.reject(schemas.RejectionReasonPolicy, "candidate %s is the primary already", *name)
	case m.FailoverPriority <= 0:
		q.reject(schemas.RejectionReasonPolicy, "candidate %s has failover priority 0: it must not be promoted", *name)
	case !alive(r.node(*name)):
		q.reject(schemas.RejectionReasonUnsafe, "candidate %s cannot take over: %s", *name, describe(*name, r.node(*name)))
	}
	return *name
}

func (r *run) examineSwitchover(q *request, p *schemas.SwitchoverCluster) {
	preferred := r.candidate(q, p.Candidate)
	if !r.promoted() {
		q.reject(schemas.RejectionReasonUnsafe, "a switchover needs a primary that serves, but %s: FailoverCluster replaces a dead one", describe(r.rec.Primary, r.incumbent()))
	}
	if reason := r.infeasible(); reason != "" {
		q.reject(schemas.RejectionReasonUnsafe, "nobody could take over: %s", reason)
	}
	streaming := r.count(r.others(), func(n string) bool { m, _ := r.member(n); return r.streams(n) && m.FailoverPriority > 0 })
	switch {
	case preferred != "" && preferred != r.rec.Primary && r.follows(preferred) && !r.streams(preferred):
		q.reject(schemas.RejectionReasonUnsafe, "candidate %s does not stream from %s", preferred, r.rec.Primary)
	case preferred == "" && streaming == 0:
		q.reject(schemas.RejectionReasonUnsafe, "no standby that may be promoted streams from %s", r.rec.Primary)
	}
	who := preferred
	if who == "" {
		who = "the most advanced standby"
	}
	q.plan = text("under term %d: stop %s cleanly, fence the standbys, promote %s, let the others follow it", r.highestPromise()+1, r.rec.Primary, who)
	q.prepare = func(w *schemas.Workflow) { w.Preferred = preferred }
}

func (r *run) examineFailover(q *request, p *schemas.FailoverCluster) {
	preferred := r.candidate(q, p.Candidate)
	if reason := r.infeasible(); reason != "" {
		q.reject(schemas.RejectionReasonUnsafe, "acknowledged commits could be lost: %s", reason)
	}
	who := preferred
	if who == "" {
		who = "the most advanced standby"
	}
	q.plan = text("under term %d: fence every member, wait for %d acknowledgements, promote %s if it holds all that may have been acknowledged, let the others follow it", r.highestPromise()+1, r.fenceSize(), who)
	q.prepare = func(w *schemas.Workflow) { w.Preferred = preferred }
}

func (r *run) examineRestart(q *request, p *schemas.RestartNode) {
	if !validMode(p.Mode) {
		q.reject(schemas.RejectionReasonMalformed, "mode is %q, expected SMART, FAST or IMMEDIATE", p.Mode)
	}
	if _, ok := r.member(p.Node); !ok {
		q.reject(schemas.RejectionReasonUnknownNode, "node %q is no member, expected one of %s", p.Node, strings.Join(r.names(), ", "))
	} else if !alive(r.node(p.Node)) {
		q.reject(schemas.RejectionReasonUnsafe, "the agent of %s cannot be reached: %s", p.Node, describe(p.Node, r.node(p.Node)))
	}
	q.plan = text("restart postgres of %s in place (%s) under term %d", p.Node, p.Mode, r.rec.PrimaryTerm)
	q.prepare = func(w *schemas.Workflow) { w.Nodes, w.Candidate, w.Mode = []string{p.Node}, p.Node, p.Mode }
}

func (r *run) examineReinitialize(q *request, p *schemas.ReinitializeNode) {
	switch _, ok := r.member(p.Node); {
	case !ok:
		q.reject(schemas.RejectionReasonUnknownNode, "node %q is no member, expected one of %s", p.Node, strings.Join(r.names(), ", "))
	case p.Node == r.rec.Primary:
		q.reject(schemas.RejectionReasonUnsafe, "%s is the primary: its data would be lost; switch over first", p.Node)
	case !alive(r.node(p.Node)):
		q.reject(schemas.RejectionReasonUnsafe, "the agent of %s cannot be reached: %s", p.Node, describe(p.Node, r.node(p.Node)))
	}
	if !r.promoted() {
		q.reject(schemas.RejectionReasonUnsafe, "there is no primary to copy from: %s", describe(r.rec.Primary, r.incumbent()))
	}
	rest := r.count(r.rec.SynchronousStandbys, func(n string) bool { return n != p.Node && r.streams(n) })
	if slices.Contains(r.rec.SynchronousStandbys, p.Node) && rest < int(r.rec.SynchronousCount) {
		q.reject(schemas.RejectionReasonUnsafe, "commits wait for %d standbys and only %d others stream: they would hang while %s is copied", r.rec.SynchronousCount, rest, p.Node)
	}
	q.plan = text("replace the data of %s by a base backup from %s, then let it follow", p.Node, r.rec.Primary)
	q.prepare = func(w *schemas.Workflow) { w.Nodes, w.Candidate = []string{p.Node}, p.Node }
}

func (r *run) examineInitialize(q *request, p *schemas.InitializeCluster) {
	if r.rec != nil && r.rec.Initialized {
		q.reject(schemas.RejectionReasonAlreadyInitialized, "the cluster exists, with primary %s under term %d", r.rec.Primary, r.rec.PrimaryTerm)
		return
	}
	malformed := func(format string, args ...any) { q.reject(schemas.RejectionReasonMalformed, format, args...) }
	if n := len(p.Members); n < 1 || n > maxMembers {
		malformed("there are %d members, expected 1 to %d", n, maxMembers)
		return
	}
	names, addresses := map[string]bool{}, map[string]bool{}
	for i, m := range p.Members {
		if !event.ValidName(m.Node) {
			malformed("members[%d].node is %q, expected 1 to 48 characters of a-z, 0-9 and hyphen", i, m.Node)
		}
		if m.Host == "" || len(m.Host) > 255 || strings.ContainsFunc(m.Host, unfitForHost) {
			malformed("members[%d].host is %q, expected a host name or address", i, m.Host)
		}
		if m.Port < 1 || m.Port > 65535 {
			malformed("members[%d].port is %d, expected 1 to 65535", i, m.Port)
		}
		if m.FailoverPriority < 0 {
			malformed("members[%d].failover_priority is %d, expected 0 or more", i, m.FailoverPriority)
		}
		address := text("%s:%d", m.Host, m.Port)
		if names[m.Node] {
			malformed("members[%d].node %q is listed twice", i, m.Node)
		}
		if addresses[address] {
			malformed("members[%d] has the address %s of another member", i, address)
		}
		names[m.Node], addresses[address] = true, true
		if n := r.node(m.Node); n != nil && n.Observed.SystemIdentifier != "" && !r.ownLeftover(n) {
			q.reject(schemas.RejectionReasonUnsafe, "%s already holds a database system (%s): initialising would replace it; use an empty data directory", m.Node, n.Observed.SystemIdentifier)
		}
	}
	examinePolicy(&p.Policy, len(p.Members)-1, malformed)
	var standbys []string
	for _, m := range p.Members[1:] {
		standbys = append(standbys, m.Node)
	}
	q.plan = text("bootstrap %s as primary, clone %s from it, then %s", p.Members[0].Node, strings.Join(standbys, ", "), planPolicy(&p.Policy, len(standbys)))
}

// ownLeftover reports whether the database system on a node is what an earlier initialisation of this cluster left.
func (r *run) ownLeftover(n *schemas.PostgresNodeState) bool {
	if r.rec == nil || r.rec.Initialized {
		return false
	}
	// Before the identity was recorded only the first member can have been touched.
	return n.Observed.SystemIdentifier == r.rec.SystemIdentifier || r.rec.SystemIdentifier == "" && n.Node == r.rec.Primary
}

// unfitForHost finds what could end a quoted value, or begin another, in a connection string or a host-based access file.
func unfitForHost(c rune) bool {
	return c <= ' ' || c == 0x7f || c == '\uFFFD' || strings.ContainsRune(`'"\=,`, c)
}

func planPolicy(p *schemas.ClusterPolicy, standbys int) string {
	if p.SynchronousMode != schemas.SynchronousModeQuorum {
		return "replicate asynchronously"
	}
	return text("let commits wait for any %d of %d standbys", p.SynchronousCount, standbys)
}

func examinePolicy(p *schemas.ClusterPolicy, standbys int, malformed func(string, ...any)) {
	if p.Version < 1 {
		malformed("policy.version is %d, expected 1 or more", p.Version)
	}
	switch p.SynchronousMode {
	case schemas.SynchronousModeQuorum:
		if p.SynchronousCount < 1 || int(p.SynchronousCount) > standbys {
			malformed("policy.synchronous_count is %d, expected 1 to %d, the number of standbys", p.SynchronousCount, standbys)
		}
	case schemas.SynchronousModeAsync:
		if p.MaxFailoverLagBytes < 0 {
			malformed("policy.max_failover_lag_bytes is %d, expected 0 or more", p.MaxFailoverLagBytes)
		}
	default:
		malformed("policy.synchronous_mode is %q, expected ASYNC or QUORUM", p.SynchronousMode)
	}
	if p.FailoverMode != schemas.FailoverModeAutomatic && p.FailoverMode != schemas.FailoverModeManual {
		malformed("policy.failover_mode is %q, expected AUTOMATIC or MANUAL", p.FailoverMode)
	}
	if p.CrashAction != schemas.CrashActionFailover && p.CrashAction != schemas.CrashActionRestart {
		malformed("policy.crash_action is %q, expected FAILOVER or RESTART", p.CrashAction)
	}
	if p.FailoverCooldownMs < 0 {
		malformed("policy.failover_cooldown_ms is %d, expected 0 or more", p.FailoverCooldownMs)
	}
}
