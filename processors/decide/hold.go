package decide

import (
	"slices"
	"time"

	"github.com/regent-infra/regent/schemas"
)

// hold is the action of not acting: the reason is recorded, once.
func hold(kind schemas.WorkflowKind, code string, say func(*run) string) Action {
	return Action{Name: "record why " + string(kind) + " is held back", do: func(r *run) {
		code := code
		if code == "" {
			code = r.doubtCode()
		}
		r.hold(kind, code, say(r))
	}}
}

func (r *run) hold(kind schemas.WorkflowKind, code, message string) {
	if h := r.rec.Held; h != nil && h.Kind == kind && h.Code == code && h.Message == message {
		return
	}
	r.release()
	r.rec.Held = &schemas.HeldDecision{
		At: r.now, Kind: kind, Code: code, Message: message, Analysis: r.analysis(),
		Evidence: append(r.observed(r.names()...), r.origin("the fact that led here")),
	}
}

// release files what was held back: the reason no longer holds.
func (r *run) release() {
	if r.rec.Held == nil {
		return
	}
	r.rec.HeldHistory = append(r.rec.HeldHistory, *r.rec.Held)
	if extra := len(r.rec.HeldHistory) - maxHeldHistory; extra > 0 {
		r.rec.HeldHistory = slices.Delete(r.rec.HeldHistory, 0, extra)
	}
	r.rec.Held = nil
}

func (r *run) doubtCode() string {
	if r.analysis() == schemas.AnalysisCodeUnreachablePrimaryWithStreamingStandbys {
		return "standby_streams"
	}
	return "uncorroborated"
}

func (r *run) sayDoubt() string {
	if r.doubtCode() == "standby_streams" {
		return text("%s is silent, but a standby still streams from it: it lives, and only its agent or the way to it does not; a failover follows when the last receiver loses it", r.rec.Primary)
	}
	return text("%s is silent and its death is not corroborated (%s); a failover follows when no standby hears from it either", r.rec.Primary, r.analysis())
}

func (r *run) sayManual() string {
	return text("%s does not serve and failover_mode is MANUAL: send FailoverCluster to replace it, or bring its postgres back", r.rec.Primary)
}

func (r *run) sayBackoff() string {
	b := r.backoff(r.rec.Primary)
	return text("%s could not be restarted in place (%s) and nobody else can serve (%s); it is tried again at %s",
		r.rec.Primary, b.Reason, r.infeasible(), b.Until.UTC().Format(time.RFC3339))
}

func (r *run) saySpent() string {
	b := r.backoff("")
	return text("the last failover ended without a primary (%s); another one begins at %s, or at once by FailoverCluster", b.Reason, b.Until.UTC().Format(time.RFC3339))
}

func (r *run) backoff(node string) *schemas.NodeBackoff {
	for i := range r.rec.Backoffs {
		if r.rec.Backoffs[i].Node == node {
			return &r.rec.Backoffs[i]
		}
	}
	return nil
}

// backingOff reports whether a node is left alone for now.
func (r *run) backingOff(node string) bool {
	b := r.backoff(node)
	return b != nil && !r.reached(b.Until)
}

// penalise lets a node be left alone for a while after a failed workflow; for twice as long each time.
func (r *run) penalise(node, reason string) {
	failures := int32(1)
	if b := r.backoff(node); b != nil {
		failures = b.Failures + 1
	}
	pause := backoffBase << min(max(failures-1, 0), 6)
	r.setBackoff(schemas.NodeBackoff{Node: node, Failures: failures, Until: r.now.Add(min(pause, backoffMax)), Reason: reason})
}

func (r *run) setBackoff(b schemas.NodeBackoff) {
	r.clearBackoff(b.Node)
	r.rec.Backoffs = append(r.rec.Backoffs, b)
	slices.SortFunc(r.rec.Backoffs, func(a, b schemas.NodeBackoff) int {
		if a.Node < b.Node {
			return -1
		}
		return 1
	})
}

func (r *run) clearBackoff(node string) {
	r.rec.Backoffs = slices.DeleteFunc(r.rec.Backoffs, func(b schemas.NodeBackoff) bool { return b.Node == node })
}

// The actions of the watch.
var (
	actRelease = Action{Name: "hold nothing back", do: (*run).release}

	actRestartInPlace = Action{Name: "begin RESTART_NODE of the incumbent", do: func(r *run) {
		why := text("%s: its postgres is down, and it is restarted in place (%s)", describe(r.rec.Primary, r.incumbent()), r.sayInPlace())
		r.preempt(schemas.WorkflowKindRestartNode)
		r.automatic(schemas.WorkflowKindRestartNode, why, func(w *schemas.Workflow) { w.Step, w.Nodes = string(stepStart), []string{r.rec.Primary} })
	}}

	actReinstateInPlace = Action{Name: "begin RESTART_NODE of the incumbent", do: func(r *run) {
		why := text("%s serves under term %d, but term %d has been promised: it is confirmed under a new one", r.rec.Primary, r.rec.PrimaryTerm, r.highestPromise())
		r.automatic(schemas.WorkflowKindRestartNode, why, func(w *schemas.Workflow) { w.Step, w.Nodes = string(stepStart), []string{r.rec.Primary} })
	}}

	actFailover = Action{Name: "begin FAILOVER", do: func(r *run) {
		r.preempt(schemas.WorkflowKindFailover)
		r.automatic(schemas.WorkflowKindFailover, text("%s (%s)", describe(r.rec.Primary, r.incumbent()), r.diagnosis()), nil)
	}}

	actRejoin = Action{Name: "begin REJOIN_NODE", do: func(r *run) {
		name, reason := r.ailing()
		r.preempt(schemas.WorkflowKindRejoinNode)
		r.automatic(schemas.WorkflowKindRejoinNode, name+" "+reason, func(w *schemas.Workflow) {
			w.Nodes, w.Candidate = []string{name}, name
			if name == r.rec.Primary {
				w.Step = string(stepSynchronise)
			}
		})
	}}

	actObserve = Action{Name: "keep watching", do: (*run).observe}
)

// automatic begins a workflow that nobody asked for.
func (r *run) automatic(kind schemas.WorkflowKind, reason string, prepare func(*schemas.Workflow)) {
	r.release()
	w := r.begin(kind, r.id(), reason, prepare)
	if info := tableOf(kind).step(Step(w.Step)); info.Name != "" {
		w.StepDeadline = r.now.Add(info.Deadline)
	}
	if kind == schemas.WorkflowKindFailover || kind == schemas.WorkflowKindRestartNode {
		w.Analysis = r.diagnosis()
	}
	r.noteIn(w, text("%s: %s", r.row.ID, reason), append(r.observed(r.names()...), r.origin("the fact that led here"))...)
	r.start(w)
}

// start does what a workflow of its kind begins with.
func (r *run) start(w *schemas.Workflow) {
	r.wf, r.table, r.row = w, tableOf(w.Kind), nil
	if r.table.begin != nil {
		r.table.begin(r)
	}
}

// diagnosis is what the watch acts on: the word of the incumbent's own agent may come before the consolidated diagnosis does.
func (r *run) diagnosis() schemas.AnalysisCode {
	if r.incumbentDown() && r.analysis() == schemas.AnalysisCodeNoProblem {
		return schemas.AnalysisCodeDeadPrimary
	}
	return r.analysis()
}

func (r *run) sayInPlace() string {
	switch {
	case r.rec.Policy.CrashAction == schemas.CrashActionRestart:
		return "crash_action is RESTART"
	case r.stoppedCleanly():
		return "it did not crash"
	case r.infeasible() != "":
		return "nobody else can serve: " + r.infeasible()
	default:
		return "the last failover is too recent for another"
	}
}

// preempt cancels the owner for the sake of something more urgent.
func (r *run) preempt(kind schemas.WorkflowKind) {
	if r.owner == nil {
		return
	}
	r.finish(r.owner, schemas.WorkflowStatusCancelled, text("pre-empted by %s", kind))
}

// observe keeps track of standbys that follow the right primary without streaming: that heals by itself or, after a while, does not.
// What cannot be worked on yet is said.
func (r *run) observe() {
	if !serves(r.incumbent(), r.rec.PrimaryTerm) {
		r.release()
		return
	}
	var held *schemas.NodeBackoff
	for _, name := range r.others() {
		b := r.backoff(name)
		switch {
		case r.streams(name):
			r.clearBackoff(name)
		case r.follows(name) && b == nil:
			r.setBackoff(schemas.NodeBackoff{Node: name, Until: r.now.Add(attachGrace), Reason: "follows " + r.rec.Primary + " but does not stream from it"})
			r.wake(r.now.Add(attachGrace))
		case b != nil && b.Failures > 0 && held == nil:
			held = b
		}
	}
	if held == nil {
		r.release()
		return
	}
	r.hold(schemas.WorkflowKindRejoinNode, "backoff", text("%s is left alone until %s after %d failures: %s", held.Node, held.Until.UTC().Format(time.RFC3339), held.Failures, held.Reason))
}
