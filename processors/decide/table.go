package decide

import (
	"slices"
	"time"

	"github.com/regent-infra/regent/internal/invariant"
	"github.com/regent-infra/regent/schemas"
)

// Step is one step of a workflow.
type Step string

// Table is one workflow as a decision table.
type Table struct {
	// Kind is the workflow; empty for the watch, which decides what a cluster that nobody works on needs.
	Kind schemas.WorkflowKind
	// Doc says what the workflow is for and what it leaves behind.
	Doc string
	// Deadline is when the workflow as a whole has failed.
	Deadline time.Duration
	// Retries is how many failures it absorbs.
	Retries int32
	// Exclusive workflows are not pre-empted by a failover: they contain its decisions.
	Exclusive bool
	// Steps in the order in which they are normally passed; the first is where it starts.
	Steps []StepInfo
	// Rows decide. In every situation exactly one row of the current step holds.
	Rows []Row
	// begin, where set, is done once when the workflow starts.
	begin func(*run)
}

// StepInfo describes a step.
type StepInfo struct {
	Name Step
	// Deadline is when the step is overdue.
	Deadline time.Duration
	// Doc says what the step waits for.
	Doc string
}

// Row is one line of a table: in this step, if these facts hold, do this and go there.
type Row struct {
	// ID is unique over all tables and stands in the history of workflows.
	ID   string
	Step Step
	// If lists the facts that must (or must not) hold. What is not listed does not matter.
	If []Condition
	// Do lists the actions, in order. The next step is entered, or the workflow ended, before they run.
	Do []Action
	// Next is the step that follows; empty to stay.
	Next Step
	// End, where set, ends the workflow with this status.
	End schemas.WorkflowStatus
	// Why says why this is right.
	Why string
	// say, where set, tells the particulars: what is waited for, or how it ended.
	say func(*run) string
}

// Condition demands that a fact holds or does not.
type Condition struct {
	Fact *Fact
	Want bool
}

// Fact is something that holds or does not hold of a situation.
type Fact struct {
	// Name is short, Doc says exactly when it holds.
	Name, Doc string
	// Timeout marks facts that come to hold by the passing of time alone.
	Timeout bool
	holds   func(*run) bool
}

// Action is something that a row does.
type Action struct {
	// Name is a verb phrase.
	Name string
	// Orders are the record names of the orders that it may issue.
	Orders []string
	do     func(*run)
}

func yes(f *Fact) Condition { return Condition{Fact: f, Want: true} }
func no(f *Fact) Condition  { return Condition{Fact: f, Want: false} }

// tables are set by init, because tables refer to functions that refer to tables.
var tables []*Table

func init() {
	tables = []*Table{
		watchTable(), initializeTable(), failoverTable(), switchoverTable(), rejoinTable(), reinitializeTable(),
		restartTable(), shutdownTable(), startTable(), checkTable(),
	}
}

// Tables returns all decision tables, the watch first. Do not change them.
func Tables() []*Table { return slices.Clone(tables) }

func tableOf(kind schemas.WorkflowKind) *Table {
	for _, t := range tables {
		if t.Kind == kind {
			return t
		}
	}
	return nil
}

func (t *Table) step(name Step) StepInfo {
	for _, s := range t.Steps {
		if s.Name == name {
			return s
		}
	}
	return StepInfo{}
}

// match returns the one row that holds in the step.
func (t *Table) match(r *run, step Step) *Row {
	var found *Row
	known := make([]Condition, 0, 8)
	for i := range t.Rows {
		row := &t.Rows[i]
		if row.Step != step || !holds(r, row.If, &known) {
			continue
		}
		invariant.Assert(found == nil, "one row of %s holds in step %s: both %s and %s do", t.Kind, step, idOf(found), row.ID)
		found = row
	}
	invariant.Assert(found != nil, "a row of %s holds in step %s", t.Kind, step)
	return found
}

func idOf(row *Row) string {
	if row == nil {
		return ""
	}
	return row.ID
}

// holds evaluates conditions; each fact is asked once per match.
func holds(r *run, conditions []Condition, known *[]Condition) bool {
	for _, c := range conditions {
		if value(r, c.Fact, known) != c.Want {
			return false
		}
	}
	return true
}

func value(r *run, f *Fact, known *[]Condition) bool {
	for _, k := range *known {
		if k.Fact == f {
			return k.Want
		}
	}
	v := f.holds(r)
	*known = append(*known, Condition{f, v})
	return v
}
