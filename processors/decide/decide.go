package decide

import (
	"slices"
	"time"

	"github.com/regent-infra/regent/internal/invariant"
	"github.com/regent-infra/regent/schemas"
)

// maxTurns bounds the rows that one decision may pass: every table comes to rest long before.
const maxTurns = 64

// Decide compares what is desired of one cluster with what is observed, answers the command if there is one, and returns the work
// owed. It is a plain function: the same view gives the same decision, and what a decision has changed does not make the next one
// act again.
func Decide(v *View) Decision {
	r := newRun(v)
	if !v.CaughtUp {
		// Nothing is decided, but who repeats a command can be told.
		if v.Command != nil && v.Command.Earlier != nil {
			r.command(v.Command)
		}
		return r.decision()
	}
	if v.Command != nil {
		r.command(v.Command)
	}
	if r.rec == nil || r.damagedRecord() != "" {
		return r.decision()
	}
	for turn := 0; ; turn++ {
		invariant.Assert(turn < maxTurns, "a decision about %s comes to rest within %d rows; it passed %v", v.Cluster, maxTurns, r.passed)
		r.progress = false
		// What a turn asks to be woken for only counts if it is the last.
		r.due = time.Time{}
		r.turn()
		if !r.progress {
			break
		}
	}
	return r.decision()
}

// turn lets the owner, the health checks and the watch each pass one row.
func (r *run) turn() {
	if r.rec.ActiveWorkflow != "" && r.owner == nil {
		// Its workflow is gone or has ended, which only a lost record can cause: release the cluster rather than leave it stuck.
		r.rec.ActiveWorkflow = ""
	}
	if r.owner != nil {
		r.pass(r.owner)
	}
	for _, w := range slices.Clone(r.checks) {
		r.pass(w)
	}
	r.watch()
}

// pass evaluates the table of a workflow once.
func (r *run) pass(w *schemas.Workflow) {
	t := tableOf(w.Kind)
	r.wf, r.table = w, t
	if t == nil || t.step(Step(w.Step)).Name == "" {
		r.finish(w, schemas.WorkflowStatusFailed, text("step %q of %s is unknown to this version", w.Step, w.Kind))
		return
	}
	if damage := r.damagedWorkflow(); damage != "" {
		r.finish(w, schemas.WorkflowStatusFailed, "it does not agree with the cluster's record: "+damage)
		return
	}
	r.results()
	switch Step(w.Step) {
	case stepFence, stepStop:
		r.gather()
	case stepSynchronise:
		r.confirm()
	default: // the other steps read nothing but orders' results beforehand
	}
	r.row = t.match(r, Step(w.Step))
	r.passed = append(r.passed, r.row.ID)
	r.apply(r.row)
}

// apply does what a row says. What follows an end, such as a successor, begins after it.
func (r *run) apply(row *Row) {
	if row.Next != "" {
		r.note(text("%s: %s; on to %s", row.ID, row.particulars(r), row.Next))
		r.enter(row.Next)
	}
	if row.End != "" {
		r.finish(r.wf, row.End, text("%s (%s)", row.particulars(r), row.ID))
	}
	for _, a := range row.Do {
		a.do(r)
	}
	if row.End == "" && row.Next == "" {
		r.waiting(row.particulars(r))
	}
}

func (row *Row) particulars(r *run) string {
	if row.say != nil {
		return row.say(r)
	}
	return row.Why
}
