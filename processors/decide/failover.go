package decide

import (
	"time"

	"github.com/regent-infra/regent/schemas"
)

// failoverTable replaces a primary whose postgres or node has died, or that a command wants replaced (DESIGN: P3 to P6).
func failoverTable() *Table {
	return &Table{
		Kind:      schemas.WorkflowKindFailover,
		Doc:       "Replaces the primary: revoke its term, elect the most advanced of those that acknowledged, promote it while the others are re-pointed. Given up, it ends in reinstating the incumbent, so that nobody is stranded.",
		Deadline:  10 * time.Minute,
		Retries:   5,
		Exclusive: true,
		begin:     (*run).revoke,
		Steps: []StepInfo{
			{stepFence, 10 * time.Second, "Every member is asked to promise the new term and to report the end of its WAL."},
			{stepPromote, 20 * time.Second, "The authorised node becomes primary."},
			{stepAttach, 15 * time.Second, "The others stream from it."},
			{stepReinstate, 30 * time.Second, "The incumbent goes on."},
		},
		Rows: []Row{
			{ID: "F1", Step: stepFence, If: []Condition{yes(factElectable)}, Next: stepPromote, Do: []Action{actAuthorise}, Why: "every acknowledged commit is on the candidate, and nobody acknowledges the old primary any more"},
			{ID: "F2", Step: stepFence, If: []Condition{no(factElectable), yes(factReinstatable), yes(factGivenUp)}, Next: stepReinstate, Do: []Action{actReinstate}, say: (*run).sayElection, Why: "the incumbent lives and nobody was promoted: it is the only one that surely has everything"},
			{ID: "F3", Step: stepFence, If: []Condition{no(factElectable), yes(factReinstatable), no(factGivenUp)}, Do: []Action{actFenceAll}, say: (*run).sayElection, Why: "acknowledgements may still come"},
			{ID: "F4", Step: stepFence, If: []Condition{no(factElectable), no(factReinstatable), no(factOverdue)}, Do: []Action{actFenceAll}, say: (*run).sayElection, Why: "acknowledgements may still come, and nobody else can serve"},
			{ID: "F5", Step: stepFence, If: []Condition{no(factElectable), no(factReinstatable), yes(factOverdue), no(factExpired)}, Do: []Action{actBackOffFence, actFenceAll}, say: (*run).sayElection, Why: "nobody can serve: ask again, less and less often"},
			{ID: "F6", Step: stepFence, If: []Condition{no(factElectable), no(factReinstatable), yes(factOverdue), yes(factExpired)}, End: schemas.WorkflowStatusTimedOut, Do: []Action{actSpent}, say: (*run).sayElection, Why: "the watch begins anew when the prospects are better, and says so until then"},

			{ID: "F7", Step: stepPromote, If: []Condition{yes(factPromoted)}, Next: stepAttach, Do: []Action{actConfirmFailover, actPressFollowers}, Why: "the cluster is writable again"},
			{ID: "F8", Step: stepPromote, If: []Condition{no(factPromoted), yes(factFailed), yes(factRetries)}, Next: stepFence, Do: []Action{actRetry, actOpenTerm, actFenceAll}, say: (*run).sayFallen, Why: "the candidate is lost: another is elected under a higher term, above what this one may have written"},
			{ID: "F9", Step: stepPromote, If: []Condition{no(factPromoted), yes(factFailed), no(factRetries)}, End: schemas.WorkflowStatusFailed, Do: []Action{actSpent}, say: (*run).sayFallen, Why: "candidates keep failing: the watch decides whether another failover can help"},
			{ID: "F10", Step: stepPromote, If: []Condition{no(factPromoted), no(factFailed)}, Do: []Action{actPressPromotion}, say: (*run).sayPromoting, Why: "it promotes"},

			{ID: "F11", Step: stepAttach, If: []Condition{yes(factAttached)}, End: schemas.WorkflowStatusSucceeded, say: (*run).sayPromoted, Why: "commits are replicated again"},
			{ID: "F12", Step: stepAttach, If: []Condition{no(factAttached), yes(factFallen)}, End: schemas.WorkflowStatusSucceeded, say: (*run).sayFallenAgain, Why: "that is another failure: the watch decides by policy"},
			{ID: "F13", Step: stepAttach, If: []Condition{no(factAttached), no(factFallen), yes(factOverdue)}, End: schemas.WorkflowStatusSucceeded, say: (*run).sayPromoted, Why: "who is missing is rejoined one by one"},
			{ID: "F14", Step: stepAttach, If: []Condition{no(factAttached), no(factFallen), no(factOverdue)}, Do: []Action{actPressFollowers}, say: (*run).sayAttach, Why: "they attach"},

			{ID: "F15", Step: stepReinstate, If: []Condition{yes(factPromoted)}, End: schemas.WorkflowStatusReinstated, say: (*run).sayReinstated, Why: "the revocation was given up without harm"},
			{ID: "F16", Step: stepReinstate, If: []Condition{no(factPromoted), yes(factFailed), yes(factRetries), yes(factFeasible)}, Next: stepFence, Do: []Action{actRetry, actOpenTerm, actFenceAll}, say: (*run).sayFallen, Why: "the incumbent cannot go on either, and an election could succeed by now"},
			{ID: "F17", Step: stepReinstate, If: []Condition{no(factPromoted), yes(factFailed), yes(factRetries), no(factFeasible)}, End: schemas.WorkflowStatusFailed, Do: []Action{actSpent}, say: (*run).sayFallen, Why: "nobody else can serve: the watch restarts it in place, with pauses"},
			{ID: "F17b", Step: stepReinstate, If: []Condition{no(factPromoted), yes(factFailed), no(factRetries)}, End: schemas.WorkflowStatusFailed, Do: []Action{actSpent}, say: (*run).sayFallen, Why: "neither works: the watch decides when to try again"},
			{ID: "F18", Step: stepReinstate, If: []Condition{no(factPromoted), no(factFailed)}, Do: []Action{actPressReinstatement}, say: (*run).sayPromoting, Why: "it comes up"},
		},
	}
}

var (
	actBackOffFence = Action{Name: "double the time until the next attempt", do: func(r *run) {
		wait := min(max(r.now.Sub(r.wf.StartedAt), r.table.step(stepFence).Deadline), maxFenceWait)
		r.wf.StepDeadline = later(earlier(r.now.Add(wait), r.wf.Deadline), r.now.Add(time.Second))
		r.wf.Orders = []schemas.IssuedOrder{}
		r.wake(r.wf.StepDeadline)
	}}

	actSpent = Action{Name: "hold the next failover back for a while", do: func(r *run) { r.penalise("", r.lastFailure()) }}

	actConfirmFailover = Action{Name: "note that the new primary serves, and when", do: func(r *run) {
		r.rec.LastFailoverAt = new(r.now)
		r.clearBackoff(r.wf.FormerPrimary)
		actConfirmOffice.do(r)
	}}
)

func later(a, b time.Time) time.Time {
	if a.Before(b) {
		return b
	}
	return a
}

func (r *run) sayPromoting() string {
	return text("%s to serve under term %d", r.rec.Primary, r.rec.PrimaryTerm)
}

func (r *run) sayFallen() string {
	n := r.incumbent()
	for _, kind := range []string{"PromotePostgres", "ReinstatePrimary"} {
		if o := r.issued(r.rec.Primary, kind); failed(o) {
			return text("%s on %s failed%s", kind, o.Node, because(o.Message))
		}
	}
	if r.promotionFailed() {
		return text("%s before it served under term %d", describe(r.rec.Primary, n), r.rec.PrimaryTerm)
	}
	return text("%s did not serve under term %d in time", r.rec.Primary, r.rec.PrimaryTerm)
}

func (r *run) sayFallenAgain() string {
	return text("%s took over under term %d and has fallen since: %s", r.rec.Primary, r.rec.PrimaryTerm, describe(r.rec.Primary, r.incumbent()))
}

func (r *run) sayReinstated() string {
	return text("given up; %s goes on as primary under term %d", r.rec.Primary, r.rec.PrimaryTerm)
}
