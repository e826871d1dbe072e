package decide

import (
	"fmt"
	"reflect"
	"slices"
	"time"

	"github.com/regent-infra/regent/internal/event"
	"github.com/regent-infra/regent/schemas"
)

// run is one decision in the making. It works on copies: the view stays as it was.
type run struct {
	v   *View
	now time.Time
	rec *schemas.ClusterRecord
	// owner and checks are the workflows that go on; wf is the one whose table is being read.
	owner  *schemas.Workflow
	checks []*schemas.Workflow
	wf     *schemas.Workflow
	table  *Table
	row    *Row
	// touched are all workflows that this decision has seen, in order, with what they were.
	touched  []*change
	orders   []Order
	outcomes []Outcome
	due      time.Time
	ordinal  int
	// progress says that a turn has moved something. passed are the rows so far, for the assertion that decisions come to rest.
	progress bool
	passed   []string
}

type change struct {
	before, after *schemas.Workflow
}

func newRun(v *View) *run {
	r := &run{v: v, now: v.Now}
	if v.Record != nil {
		rec := *v.Record
		rec.HeldHistory = slices.Clone(rec.HeldHistory)
		rec.Backoffs = slices.Clone(rec.Backoffs)
		rec.Checks = slices.Clone(rec.Checks)
		r.rec = &rec
	}
	if v.Owner != nil && v.Owner.Status == schemas.WorkflowStatusRunning {
		r.owner = r.touch(v.Owner)
	}
	for _, c := range v.Checks {
		if c != nil && c.Status == schemas.WorkflowStatusRunning {
			r.checks = append(r.checks, r.touch(c))
		}
	}
	return r
}

// touch returns a copy of a workflow that may be changed, and remembers to compare.
func (r *run) touch(w *schemas.Workflow) *schemas.Workflow {
	c := *w
	c.Orders = slices.Clone(w.Orders)
	c.History = slices.Clone(w.History)
	c.Nodes = slices.Clone(w.Nodes)
	c.FailedCandidates = slices.Clone(w.FailedCandidates)
	c.Acknowledgements = slices.Clone(w.Acknowledgements)
	r.touched = append(r.touched, &change{before: w, after: &c})
	return &c
}

// id derives the next identifier of this decision.
func (r *run) id() string {
	r.ordinal++
	o := r.v.Origin
	return event.DeriveID(r.now, "decide", o.Topic, o.Partition, o.Offset, r.v.Turn, r.v.Cluster, r.ordinal)
}

// sequence counts the events about this cluster. A cluster without a record is counted by time, which a record then starts from.
func (r *run) sequence() int64 {
	if r.rec == nil {
		r.ordinal++
		return r.now.UnixMicro() + int64(r.ordinal)
	}
	r.rec.Sequence++
	return r.rec.Sequence
}

// wake asks to decide again at t at the latest.
func (r *run) wake(t time.Time) {
	if r.now.Before(t) && (r.due.IsZero() || t.Before(r.due)) {
		r.due = t
	}
}

// reached reports whether t has come, and asks to be woken at it otherwise.
func (r *run) reached(t time.Time) bool {
	if !r.now.Before(t) {
		return true
	}
	r.wake(t)
	return false
}

// note adds a line to the history of the workflow at hand.
func (r *run) note(message string, evidence ...schemas.EvidenceRef) {
	r.noteIn(r.wf, message, evidence...)
}

func (r *run) noteIn(w *schemas.Workflow, message string, evidence ...schemas.EvidenceRef) {
	if len(w.History) >= maxHistory {
		// The beginning says why it was started, the end where it stands: drop from the middle.
		w.History = slices.Delete(w.History, maxHistory/4, maxHistory/4+1)
	}
	if evidence == nil {
		evidence = []schemas.EvidenceRef{}
	}
	w.History = append(w.History, schemas.WorkflowEvent{At: r.now, Step: w.Step, Message: message, Evidence: evidence})
}

// waiting says what the step waits for. Only a change is history.
func (r *run) waiting(what string, evidence ...schemas.EvidenceRef) {
	if r.wf.WaitingFor == what {
		return
	}
	r.wf.WaitingFor = what
	if what != "" {
		r.note("waiting: "+what, evidence...)
	}
}

// enter moves the workflow to a step.
func (r *run) enter(s Step) {
	info := r.table.step(s)
	r.wf.Step = string(s)
	r.wf.StepStartedAt = r.now
	r.wf.StepDeadline = r.now.Add(info.Deadline)
	r.wf.WaitingFor = ""
	r.progress = true
}

// begin starts a workflow and lets it own the cluster, unless it is a health check, which runs beside.
func (r *run) begin(kind schemas.WorkflowKind, id, reason string, prepare func(*schemas.Workflow)) *schemas.Workflow {
	t := tableOf(kind)
	w := &schemas.Workflow{
		ID: id, Kind: kind, Status: schemas.WorkflowStatusRunning, Reason: reason, Analysis: r.analysis(),
		FormerPrimary: r.rec.Primary, PolicyVersion: r.rec.Policy.Version, Mode: schemas.StopModeFast, RetriesLeft: t.Retries,
		Nodes: []string{}, FailedCandidates: []string{}, Acknowledgements: []schemas.PromotionEvidence{}, Orders: []schemas.IssuedOrder{}, History: []schemas.WorkflowEvent{},
		StartedAt: r.now, Deadline: r.now.Add(t.Deadline),
		Step: string(t.Steps[0].Name), StepStartedAt: r.now, StepDeadline: r.now.Add(t.Steps[0].Deadline),
	}
	if prepare != nil {
		prepare(w)
	}
	r.touched = append(r.touched, &change{after: w})
	if kind == schemas.WorkflowKindCheckHealth {
		r.checks = append(r.checks, w)
		r.rec.Checks = append(r.rec.Checks, w.ID)
	} else {
		r.owner = w
		r.rec.ActiveWorkflow = w.ID
	}
	r.progress = true
	return w
}

// finish ends a workflow with a status, and answers the command that asked for it.
func (r *run) finish(w *schemas.Workflow, status schemas.WorkflowStatus, summary string) {
	w.Status = status
	w.FinishedAt = new(r.now)
	w.WaitingFor = ""
	r.noteIn(w, string(status)+": "+summary)
	if r.owner == w {
		r.owner = nil
		r.rec.ActiveWorkflow = ""
	}
	if i := slices.Index(r.checks, w); i >= 0 {
		r.checks = slices.Delete(r.checks, i, i+1)
		r.rec.Checks = slices.DeleteFunc(r.rec.Checks, func(id string) bool { return id == w.ID })
	}
	r.progress = true
	if w.CommandID == "" {
		return
	}
	if status == schemas.WorkflowStatusSucceeded {
		r.answer(w.CommandID, &schemas.CommandCompleted{CommandID: w.CommandID, CommandType: commandOf(w.Kind), WorkflowID: w.ID, Summary: summary})
		return
	}
	r.answer(w.CommandID, &schemas.CommandFailed{CommandID: w.CommandID, CommandType: commandOf(w.Kind), WorkflowID: w.ID, Message: summary})
}

func (r *run) answer(command string, payload any) {
	r.outcomes = append(r.outcomes, Outcome{ID: r.id(), Sequence: r.sequence(), Command: command, Payload: payload})
}

// decision collects what has changed.
func (r *run) decision() Decision {
	d := Decision{Orders: r.orders, Outcomes: r.outcomes, Due: r.due}
	for _, c := range r.touched {
		if c.before != nil && reflect.DeepEqual(c.before, c.after) {
			continue
		}
		d.Workflows = append(d.Workflows, WorkflowChange{ID: r.id(), Sequence: r.sequence(), Workflow: c.after})
	}
	if r.rec != nil && (r.v.Record == nil || !reflect.DeepEqual(r.v.Record, r.rec)) {
		r.sequence()
		d.Record = r.rec
	}
	return d
}

// analysis is the diagnosis as last consolidated.
func (r *run) analysis() schemas.AnalysisCode {
	if r.v.State == nil || r.v.State.Analysis == "" {
		return schemas.AnalysisCodeNoProblem
	}
	return r.v.State.Analysis
}

// origin is a reference to the record that gave rise to this decision.
func (r *run) origin(summary string) schemas.EvidenceRef {
	o := r.v.Origin
	return schemas.EvidenceRef{Topic: o.Topic, Partition: o.Partition, Offset: o.Offset, Summary: summary}
}

func text(format string, args ...any) string { return fmt.Sprintf(format, args...) }
