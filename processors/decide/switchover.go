package decide

import (
	"slices"
	"time"

	"github.com/regent-infra/regent/schemas"
)

// switchoverTable hands the primary role over without loss.
func switchoverTable() *Table {
	return &Table{
		Kind:      schemas.WorkflowKindSwitchover,
		Doc:       "Hands the primary role to a standby without loss: the primary stops cleanly while its standbys, who have promised the term already and let nobody new send to them, take all that it still sends and are fenced as its stream ends; then one is promoted. Until that is authorised every failure ends in reinstating the primary.",
		Deadline:  5 * time.Minute,
		Retries:   3,
		Exclusive: true,
		begin:     (*run).revoke,
		Steps: []StepInfo{
			{stepStop, 30 * time.Second, "The primary promises the term, stops cleanly and reports the end of its WAL. The standbys promise it, too, drain what the primary sends, and report theirs."},
			{stepFence, 10 * time.Second, "The acknowledgements that are missing still come, or are pressed for."},
			{stepPromote, 20 * time.Second, "The candidate becomes primary."},
			{stepAttach, 15 * time.Second, "The others stream from it, the old primary too."},
			{stepSynchronise, 15 * time.Second, "The old primary joins the synchronous set."},
			{stepReinstate, 30 * time.Second, "The old primary goes on."},
		},
		Rows: []Row{
			{ID: "S1", Step: stepStop, If: []Condition{yes(factHandedIn)}, Next: stepFence, Do: []Action{actTakeOver, actFenceStandbys}, Why: "nothing more will be written, and how far the WAL goes is known"},
			{ID: "S2", Step: stepStop, If: []Condition{no(factHandedIn), yes(factFallenSilent)}, End: schemas.WorkflowStatusFailed, say: (*run).sayPrimaryLost, Why: "that is a failure, no switchover any more: the watch decides"},
			{ID: "S3", Step: stepStop, If: []Condition{no(factHandedIn), no(factFallenSilent), yes(factStopFailed)}, Next: stepReinstate, Do: []Action{actReinstate}, say: (*run).sayNotStopped, Why: "nobody was promoted: it can go on"},
			{ID: "S4", Step: stepStop, If: []Condition{no(factHandedIn), no(factFallenSilent), no(factStopFailed)}, Do: []Action{actFencePrimary, actDrainStandbys}, say: (*run).sayStopping, Why: "it issues its checkpoint and stops; they end as its stream does, so that no round trip lies between"},

			{ID: "S5", Step: stepFence, If: []Condition{yes(factElectable)}, Next: stepPromote, Do: []Action{actAuthorise}, Why: "the candidate holds everything"},
			{ID: "S6", Step: stepFence, If: []Condition{no(factElectable), yes(factGivenUp), yes(factReinstatable)}, Next: stepReinstate, Do: []Action{actReinstate}, say: (*run).sayElection, Why: "nobody can take over without loss: the primary goes on"},
			{ID: "S7", Step: stepFence, If: []Condition{no(factElectable), yes(factGivenUp), no(factReinstatable)}, End: schemas.WorkflowStatusFailed, say: (*run).sayElection, Why: "the primary was lost meanwhile: the watch decides"},
			{ID: "S8", Step: stepFence, If: []Condition{no(factElectable), no(factGivenUp)}, Do: []Action{actFenceStandbys}, say: (*run).sayElection, Why: "acknowledgements are on their way"},

			{ID: "S9", Step: stepPromote, If: []Condition{yes(factPromoted)}, Next: stepAttach, Do: []Action{actConfirmOffice, actPressFollowers}, Why: "the cluster is writable again"},
			{ID: "S10", Step: stepPromote, If: []Condition{no(factPromoted), yes(factFailed)}, End: schemas.WorkflowStatusFailed, Do: []Action{actHandToFailover}, say: (*run).sayFallen, Why: "nobody serves: what goes on is a failover, whatever the policy says about beginning one"},
			{ID: "S11", Step: stepPromote, If: []Condition{no(factPromoted), no(factFailed)}, Do: []Action{actPressPromotion}, say: (*run).sayPromoting, Why: "it promotes"},

			{ID: "S12", Step: stepAttach, If: []Condition{yes(factAttached)}, Next: stepSynchronise, Do: []Action{actGrow, actConfigure}, Why: "all stream"},
			{ID: "S13", Step: stepAttach, If: []Condition{no(factAttached), yes(factFallen)}, End: schemas.WorkflowStatusSucceeded, say: (*run).sayFallenAgain, Why: "the hand-over was done; what followed is a failure, and the watch decides"},
			{ID: "S14", Step: stepAttach, If: []Condition{no(factAttached), no(factFallen), yes(factOverdue)}, End: schemas.WorkflowStatusSucceeded, say: (*run).sayPromoted, Why: "who is missing is rejoined one by one"},
			{ID: "S15", Step: stepAttach, If: []Condition{no(factAttached), no(factFallen), no(factOverdue)}, Do: []Action{actPressFollowers}, say: (*run).sayAttach, Why: "they attach"},

			{ID: "S16", Step: stepSynchronise, If: []Condition{yes(factSynchronised)}, End: schemas.WorkflowStatusSucceeded, say: (*run).sayPromoted, Why: "as before, with the roles exchanged"},
			{ID: "S17", Step: stepSynchronise, If: []Condition{no(factSynchronised), yes(factOverdue)}, End: schemas.WorkflowStatusSucceeded, say: (*run).sayPromoted, Why: "the watch goes on to complete the synchronous set"},
			{ID: "S18", Step: stepSynchronise, If: []Condition{no(factSynchronised), no(factOverdue)}, Do: []Action{actConfigure}, say: (*run).sayConfigure, Why: "the marker commit is on its way"},

			{ID: "S19", Step: stepReinstate, If: []Condition{yes(factPromoted)}, End: schemas.WorkflowStatusReinstated, say: (*run).sayReinstated, Why: "the switchover was given up without harm"},
			{ID: "S20", Step: stepReinstate, If: []Condition{no(factPromoted), yes(factFailed)}, End: schemas.WorkflowStatusFailed, Do: []Action{actHandToFailover}, say: (*run).sayFallen, Why: "nobody serves: what goes on is a failover"},
			{ID: "S21", Step: stepReinstate, If: []Condition{no(factPromoted), no(factFailed)}, Do: []Action{actPressReinstatement}, say: (*run).sayPromoting, Why: "it comes up"},
		},
	}
}

var (
	factHandedIn = &Fact{Name: "handed in", Doc: "the primary has promised the term, is stopped, and has reported the end of its WAL", holds: func(r *run) bool {
		_, ok := r.acknowledgement(r.rec.Primary)
		return ok && down(r.incumbent())
	}}
	factFallenSilent = &Fact{Name: "silent", Doc: "the primary's agent is silent", holds: (*run).incumbentSilent}
	factStopFailed   = &Fact{Name: "not stopped", Doc: "the step's deadline has passed, or the primary's agent reports that the order failed", Timeout: true, holds: func(r *run) bool {
		return r.reached(r.wf.StepDeadline) || failed(r.issued(r.rec.Primary, "FencePostgres"))
	}}

	actFencePrimary = Action{Name: "fence the primary, planned", Orders: []string{"FencePostgres"}, do: func(r *run) { r.pressHandover(r.rec.Primary) }}

	actDrainStandbys = Action{Name: "fence the standbys as the primary's stream ends", Orders: []string{"FencePostgres"}, do: func(r *run) {
		for _, name := range r.unacknowledged() {
			r.pressDrain(name)
		}
	}}

	actFenceStandbys = Action{Name: "fence the standbys", Orders: []string{"FencePostgres"}, do: func(r *run) {
		for _, name := range r.unacknowledged() {
			switch {
			case !r.draining(name):
				r.pressFence(name)
			case r.reached(r.wf.StepStartedAt.Add(drainGrace)):
				r.issue(name, "FencePostgres", r.fenceOrder(false, stopGrace))
			}
		}
	}}

	actTakeOver = Action{Name: "record how far the primary's WAL goes: less is no candidate", do: func(r *run) {
		a, _ := r.acknowledgement(r.rec.Primary)
		r.wf.Timeline, r.wf.MinLsn = a.WalEnd.Timeline, a.WalEnd.Lsn
	}}

	actHandToFailover = Action{Name: "hand over to a FAILOVER", do: func(r *run) {
		r.automatic(schemas.WorkflowKindFailover, text("%s %s ended with nobody serving", r.wf.Kind, r.wf.ID), func(w *schemas.Workflow) {
			w.FailedCandidates = append(w.FailedCandidates, r.rec.Primary)
		})
	}}
)

// unacknowledged are the standbys whose acknowledgement is missing.
func (r *run) unacknowledged() []string {
	return slices.DeleteFunc(r.others(), func(name string) bool { return slices.Contains(nodesOf(r.wf.Acknowledgements), name) })
}

// draining reports whether a standby was told to be fenced as the primary's stream ends, and has not said what came of it.
func (r *run) draining(name string) bool {
	o := r.issued(name, "FencePostgres")
	return o != nil && !o.IssuedAt.After(r.wf.StepStartedAt) && !ended(o.Status)
}

func (r *run) sayPrimaryLost() string {
	return text("%s before it had handed over", describe(r.rec.Primary, r.incumbent()))
}

func (r *run) sayNotStopped() string {
	if o := r.issued(r.rec.Primary, "FencePostgres"); failed(o) {
		return text("%s could not be stopped%s", r.rec.Primary, because(o.Message))
	}
	return text("%s did not stop in time", r.rec.Primary)
}

func (r *run) sayStopping() string {
	return text("%s to stop cleanly and report the end of its WAL", r.rec.Primary)
}

func (r *run) sayConfigure() string {
	return text("%s to run %q", r.rec.Primary, r.setting())
}
