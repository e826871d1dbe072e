package decide

import (
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"

	"github.com/regent-infra/regent/schemas"
)

// accepted are the orders that agents execute; the agent's contract lists the same.
var accepted = []string{
	"BootstrapPrimary", "CloneStandby", "StartPostgres", "StopPostgres", "RestartPostgres", "FencePostgres", "PromotePostgres",
	"FollowPrimary", "ReinstatePrimary", "ConfigureSynchronous", "CheckNode",
}

// TestTablesAreCompleteAndUnambiguous goes through all combinations of the facts that a step asks for: exactly one row must hold in
// each. A combination that cannot happen must be decided, too: who knows what cannot happen.
func TestTablesAreCompleteAndUnambiguous(t *testing.T) {
	t.Parallel()
	for _, table := range Tables() {
		for _, s := range table.Steps {
			var facts []*Fact
			var rows []Row
			for _, row := range table.Rows {
				if row.Step != s.Name {
					continue
				}
				rows = append(rows, row)
				for _, c := range row.If {
					if !slices.Contains(facts, c.Fact) {
						facts = append(facts, c.Fact)
					}
				}
			}
			for bits := range 1 << len(facts) {
				var matching []string
				for _, row := range rows {
					if !slices.ContainsFunc(row.If, func(c Condition) bool { return bits>>slices.Index(facts, c.Fact)&1 == 1 != c.Want }) {
						matching = append(matching, row.ID)
					}
				}
				if len(matching) != 1 {
					var holding []string
					for i, f := range facts {
						if bits>>i&1 == 1 {
							holding = append(holding, f.Name)
						}
					}
					t.Errorf("%s, step %s: with %v holding and nothing else, rows %v match; expected exactly one", table.Kind, s.Name, holding, matching)
				}
			}
		}
	}
}

func TestTablesAreWellFormed(t *testing.T) {
	t.Parallel()
	kinds, ids, issued := map[schemas.WorkflowKind]bool{}, map[string]bool{}, map[string]bool{}
	for _, table := range Tables() {
		if kinds[table.Kind] {
			t.Errorf("there are two tables of %s", table.Kind)
		}
		kinds[table.Kind] = true
		watch := table.Kind == ""
		if !watch && (table.Deadline <= 0 || table.Doc == "" || len(table.Steps) == 0) {
			t.Errorf("%s lacks a deadline, a doc or steps", table.Kind)
		}
		reached := map[Step]bool{}
		if len(table.Steps) > 0 {
			reached[table.Steps[0].Name] = true
		}
		if table.Kind == schemas.WorkflowKindRestartNode {
			reached[stepStart] = true // the watch begins there
		}
		for _, row := range table.Rows {
			if ids[row.ID] || row.ID == "" {
				t.Errorf("%s: the id %q is used twice", table.Kind, row.ID)
			}
			ids[row.ID] = true
			if row.Why == "" || len(row.If) == 0 {
				t.Errorf("%s: row %s lacks a reason or conditions", table.Kind, row.ID)
			}
			if table.step(row.Step).Name == "" || row.Next != "" && table.step(row.Next).Name == "" {
				t.Errorf("%s: row %s is in, or goes to, a step that does not exist", table.Kind, row.ID)
			}
			if row.Next != "" && row.End != "" {
				t.Errorf("%s: row %s both ends and goes on", table.Kind, row.ID)
			}
			if row.Next != "" {
				reached[row.Next] = true
			}
			for _, a := range row.Do {
				for _, o := range a.Orders {
					issued[o] = true
					if schemas.NewRecord(o) == nil || !slices.Contains(accepted, o) {
						t.Errorf("%s: row %s issues %s, which no schema or no agent knows", table.Kind, row.ID, o)
					}
				}
			}
		}
		for _, s := range table.Steps {
			if !reached[s.Name] {
				t.Errorf("%s: no row leads to step %s", table.Kind, s.Name)
			}
			if watch {
				continue
			}
			if s.Deadline <= 0 || s.Doc == "" {
				t.Errorf("%s: step %s lacks a deadline or a doc", table.Kind, s.Name)
			}
			if !timesOut(table, s.Name) {
				t.Errorf("%s: step %s has no row that leaves it by the passing of time", table.Kind, s.Name)
			}
		}
	}
	for _, o := range accepted {
		if !issued[o] {
			t.Errorf("no row ever issues %s", o)
		}
	}
	for _, f := range reflectKinds() {
		if !kinds[f] {
			t.Errorf("there is no table of %s", f)
		}
	}
}

// timesOut reports whether some row leaves the step on a fact that comes with time.
func timesOut(t *Table, s Step) bool {
	return slices.ContainsFunc(t.Rows, func(row Row) bool {
		return row.Step == s && (row.Next != "" || row.End != "") &&
			slices.ContainsFunc(row.If, func(c Condition) bool { return c.Want && c.Fact.Timeout })
	})
}

func reflectKinds() []schemas.WorkflowKind {
	return []schemas.WorkflowKind{
		schemas.WorkflowKindInitializeCluster, schemas.WorkflowKindCheckHealth, schemas.WorkflowKindRestartNode, schemas.WorkflowKindSwitchover,
		schemas.WorkflowKindFailover, schemas.WorkflowKindShutdownCluster, schemas.WorkflowKindStartCluster, schemas.WorkflowKindRejoinNode,
		schemas.WorkflowKindReinitializeNode,
	}
}

// TestEveryOrderCarriesItsMeta holds what agents rely on: each order has a meta as its first field.
func TestEveryOrderCarriesItsMeta(t *testing.T) {
	t.Parallel()
	for _, name := range accepted {
		f, ok := reflect.TypeOf(schemas.NewRecord(name)).Elem().FieldByName("Meta")
		if !ok || f.Type != reflect.TypeOf(schemas.OrderMeta{}) {
			t.Errorf("%s has no meta", name)
		}
	}
}

// TestRender pins the tables as people read them: a change of a decision is a change of this file.
func TestRender(t *testing.T) {
	t.Parallel()
	datadriven.RunTest(t, "testdata/tables.txt", func(t *testing.T, d *datadriven.TestData) string {
		var b strings.Builder
		for _, table := range Tables() {
			if string(table.Kind) == strings.TrimSpace(d.Input) || d.Input == "WATCH" && table.Kind == "" {
				if err := Render(&b, table); err != nil {
					t.Fatal(err)
				}
			}
		}
		return strings.ReplaceAll(b.String(), "\n\n", "\n.\n")
	})
	if _, err := os.Stat("testdata/tables.txt"); err != nil {
		t.Fatal(err)
	}
}
