package decide

import (
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/regent-infra/regent/schemas"
)

// TestEveryTransitionIsToldByAStory finds rows that no story ever passes: nobody has read what they do.
func TestEveryTransitionIsToldByAStory(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/story/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no stories: %v", err)
	}
	var all strings.Builder
	for _, f := range files {
		raw, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		all.Write(raw)
	}
	for _, table := range Tables() {
		for _, row := range table.Rows {
			begins := table.Kind == "" && slices.ContainsFunc(row.Do, func(a Action) bool { return strings.HasPrefix(a.Name, "begin ") })
			if row.Next == "" && row.End == "" && !begins {
				continue
			}
			if !strings.Contains(all.String(), ": "+row.ID+": ") && !strings.Contains(all.String(), "("+row.ID+")") {
				t.Errorf("%s: no story passes row %s (%s)", table.Kind, row.ID, row.Why)
			}
		}
	}
}

var (
	someNodes  = []string{"pg-1", "pg-2", "pg-3", "stranger"}
	someOrders = append(slices.Clone(accepted), "NoSuchOrder")
)

func drawNode(t *rapid.T, name string) *schemas.PostgresNodeState {
	term := rapid.SampledFrom([]int64{-1, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 7, 1 << 62})
	o := schemas.PostgresNodeObserved{
		Node:         name,
		Postmaster:   rapid.SampledFrom([]schemas.PostmasterStatus{"RUNNING", "STOPPED", "CRASHED", "ABSENT", "STARTING", "STOPPING", "?"}).Draw(t, "postmaster"),
		Role:         rapid.SampledFrom([]schemas.NodeRole{"PRIMARY", "STANDBY", "UNKNOWN", "?"}).Draw(t, "role"),
		PromisedTerm: term.Draw(t, "promised"), Term: term.Draw(t, "term"), RenouncedTerm: term.Draw(t, "renounced"),
		Upstream: rapid.SampledFrom(append(slices.Clone(someNodes), "")).Draw(t, "upstream"), AcceptingConnections: rapid.Bool().Draw(t, "accepting"),
		Timeline: term.Draw(t, "timeline"), SynchronousStandbyNames: rapid.SampledFrom([]string{"", `ANY 1 ("pg-2-t1", "pg-3-t1")`, "garbage"}).Draw(t, "ssn"),
	}
	if rapid.Bool().Draw(t, "has end") {
		o.WalEnd = &schemas.WalEnd{Timeline: term.Draw(t, "end timeline"), Lsn: term.Draw(t, "end")}
	}
	if rapid.Bool().Draw(t, "has receiver") {
		o.Receiver = &schemas.WalReceiver{Status: rapid.SampledFrom([]string{"streaming", "waiting"}).Draw(t, "receiver")}
	}
	if rapid.Bool().Draw(t, "has history") {
		o.TimelineHistory = []schemas.TimelineSwitch{{Timeline: term.Draw(t, "switch"), SwitchLsn: term.Draw(t, "at")}}
	}
	if rapid.Bool().Draw(t, "has order") {
		o.LastOrder = &schemas.OrderResult{OrderID: rapid.SampledFrom([]string{"o1", "o2"}).Draw(t, "order"), Status: drawStatus(t)}
	}
	return &schemas.PostgresNodeState{
		Node: name, Observed: o, ObservedSequence: rapid.Int64Range(0, 9).Draw(t, "sequence"), ObservedBootID: rapid.SampledFrom([]string{"", "a", "b"}).Draw(t, "boot"),
		Liveness: rapid.SampledFrom([]schemas.Liveness{"ALIVE", "SUSPECT", "UNKNOWN", "?"}).Draw(t, "liveness"),
	}
}

func drawStatus(t *rapid.T) schemas.OrderStatus {
	return rapid.SampledFrom([]schemas.OrderStatus{"RECEIVED", "RUNNING", "DONE", "FAILED", "REFUSED", "ISSUED", "?"}).Draw(t, "status")
}

func drawTime(t *rapid.T) time.Time {
	return epoch.Add(time.Duration(rapid.IntRange(-100, 100).Draw(t, "seconds")) * time.Second)
}

func drawWorkflow(t *rapid.T, id string) *schemas.Workflow {
	table := rapid.SampledFrom(Tables()).Draw(t, "table")
	step := rapid.SampledFrom(append(slices.Clone(table.Steps), StepInfo{Name: "nowhere"})).Draw(t, "step")
	w := &schemas.Workflow{
		ID: id, Kind: table.Kind, Step: string(step.Name), CommandID: rapid.SampledFrom([]string{"", "c"}).Draw(t, "command"),
		Status: rapid.SampledFrom([]schemas.WorkflowStatus{"RUNNING", "RUNNING", "RUNNING", "SUCCEEDED"}).Draw(t, "workflow status"),
		Term:   rapid.Int64Range(-1, 4).Draw(t, "workflow term"), RetriesLeft: rapid.Int32Range(-1, 3).Draw(t, "retries"),
		FormerPrimary: rapid.SampledFrom(someNodes).Draw(t, "former"), Candidate: rapid.SampledFrom(someNodes).Draw(t, "candidate"),
		Nodes:     rapid.SliceOfN(rapid.SampledFrom(someNodes), 0, 3).Draw(t, "nodes"),
		FenceSize: rapid.Int32Range(-1, 4).Draw(t, "f"), StartedAt: drawTime(t), StepStartedAt: drawTime(t), StepDeadline: drawTime(t), Deadline: drawTime(t),
	}
	for range rapid.IntRange(0, 3).Draw(t, "orders") {
		w.Orders = append(w.Orders, schemas.IssuedOrder{
			OrderID: rapid.SampledFrom([]string{"o1", "o2"}).Draw(t, "issued"), OrderType: rapid.SampledFrom(someOrders).Draw(t, "type"),
			Node: rapid.SampledFrom(someNodes).Draw(t, "addressee"), Attempt: rapid.Int32Range(-1, 40).Draw(t, "attempt"), IssuedAt: drawTime(t), Status: drawStatus(t),
		})
	}
	for range rapid.IntRange(0, 3).Draw(t, "acks") {
		w.Acknowledgements = append(w.Acknowledgements, schemas.PromotionEvidence{
			Node: rapid.SampledFrom(someNodes).Draw(t, "acker"), Term: rapid.Int64Range(0, 4).Draw(t, "ack term"),
			WalEnd: schemas.WalEnd{Timeline: rapid.Int64Range(0, 3).Draw(t, "ack timeline"), Lsn: rapid.Int64Range(0, 9).Draw(t, "ack lsn")},
		})
	}
	return w
}

func drawView(t *rapid.T) *View {
	v := &View{Cluster: testCluster, Now: epoch, CaughtUp: rapid.Bool().Draw(t, "caught up") || true, Origin: Origin{stateLog, 0, 7}}
	if rapid.IntRange(0, 9).Draw(t, "record") > 0 {
		r := &schemas.ClusterRecord{
			Members: members("pg-1", "pg-2", "pg-3")[:rapid.IntRange(0, 3).Draw(t, "members")], Policy: quorumPolicy(rapid.Int32Range(0, 3).Draw(t, "k")),
			Term: rapid.Int64Range(-1, 4).Draw(t, "record term"), Primary: rapid.SampledFrom(append(slices.Clone(someNodes), "")).Draw(t, "primary"),
			PrimaryTerm: rapid.Int64Range(-1, 4).Draw(t, "primary term"), PromotionTerm: rapid.Int64Range(-1, 4).Draw(t, "promotion term"),
			Timeline: rapid.Int64Range(-1, 3).Draw(t, "record timeline"), SynchronousStandbys: rapid.SliceOfN(rapid.SampledFrom(someNodes), 0, 3).Draw(t, "set"),
			SynchronousCount: rapid.Int32Range(-1, 3).Draw(t, "count"), Initialized: rapid.Bool().Draw(t, "initialised"), ShutDown: rapid.IntRange(0, 5).Draw(t, "down") == 0,
			ActiveWorkflow: rapid.SampledFrom([]string{"", "w1", "lost"}).Draw(t, "active"), Checks: []string{"w2", "lost"},
			FloorTimeline: rapid.Int64Range(0, 2).Draw(t, "floor"), RestartFailedTerm: rapid.Int64Range(0, 3).Draw(t, "restart failed"),
		}
		if rapid.Bool().Draw(t, "async") {
			r.Policy.SynchronousMode = schemas.SynchronousModeAsync
		}
		if rapid.Bool().Draw(t, "restart") {
			r.Policy.CrashAction = schemas.CrashActionRestart
		}
		if rapid.Bool().Draw(t, "previous") {
			r.PreviousSynchronous = &schemas.SynchronousSet{Standbys: []string{"pg-2"}, Count: rapid.Int32Range(-1, 2).Draw(t, "previous count")}
		}
		if rapid.Bool().Draw(t, "backoff") {
			r.Backoffs = []schemas.NodeBackoff{{Node: rapid.SampledFrom(append(slices.Clone(someNodes), "")).Draw(t, "backing off"), Failures: rapid.Int32Range(-1, 99).Draw(t, "failures"), Until: drawTime(t)}}
		}
		if rapid.IntRange(0, 7).Draw(t, "damaged") > 0 {
			r.Members = members("pg-1", "pg-2", "pg-3")
			r.Primary = rapid.SampledFrom([]string{"pg-1", "pg-2", "pg-3"}).Draw(t, "member")
			r.PromotionTerm, r.PrimaryTerm = max(r.PromotionTerm, 0), max(r.PrimaryTerm, r.PromotionTerm, 0)
			r.Term, r.Timeline = max(r.Term, r.PrimaryTerm), max(r.Timeline, r.FloorTimeline, 1)
			r.SynchronousStandbys = [][]string{{}, {"pg-2"}, {"pg-2", "pg-3"}, {"pg-1", "pg-3"}}[rapid.IntRange(0, 3).Draw(t, "sound set")]
			r.SynchronousCount = int32(rapid.IntRange(0, len(r.SynchronousStandbys)).Draw(t, "sound count"))
			if r.PreviousSynchronous != nil {
				r.PreviousSynchronous.Count = min(max(r.PreviousSynchronous.Count, 0), 1)
			}
		}
		v.Record = r
		if r.ActiveWorkflow == "w1" {
			v.Owner = drawWorkflow(t, "w1")
			if rapid.IntRange(0, 5).Draw(t, "in keeping") > 0 {
				w := v.Owner
				w.Term, w.Candidate, w.Timeline, w.Status = r.Term, r.Primary, r.Timeline, schemas.WorkflowStatusRunning
				for i := range w.Acknowledgements {
					w.Acknowledgements[i].Term, w.Acknowledgements[i].Node = r.Term, someNodes[i]
				}
				switch Step(w.Step) {
				case stepFence, stepStop:
					if r.Term == r.PrimaryTerm {
						r.Term++
						w.Term++
						for i := range w.Acknowledgements {
							w.Acknowledgements[i].Term++
						}
					}
				case stepPromote, stepReinstate:
					r.PrimaryTerm = r.Term
				default: // the other steps go with any term
				}
			}
		}
		v.Checks = []*schemas.Workflow{drawWorkflow(t, "w2"), nil}
	}
	for _, name := range someNodes {
		if rapid.IntRange(0, 4).Draw(t, "known") > 0 {
			v.Nodes = append(v.Nodes, drawNode(t, name))
		}
	}
	if rapid.Bool().Draw(t, "state") {
		v.State = &schemas.PostgresClusterState{
			Primary:  rapid.SampledFrom(append(slices.Clone(someNodes), "")).Draw(t, "state primary"),
			Analysis: rapid.SampledFrom([]schemas.AnalysisCode{"NO_PROBLEM", "DEAD_PRIMARY", "UNREACHABLE_PRIMARY_WITH_STREAMING_STANDBYS", "?"}).Draw(t, "analysis"),
		}
	}
	if rapid.IntRange(0, 3).Draw(t, "commanded") == 0 {
		v.Command = drawCommand(t)
	}
	return v
}

func drawCommand(t *rapid.T) *Command {
	candidate := rapid.SampledFrom([]*string{nil, new("pg-2"), new("")}).Draw(t, "wanted")
	node := rapid.SampledFrom(append(slices.Clone(someNodes), "")).Draw(t, "node")
	c := &Command{ID: "c9", At: epoch, Payload: rapid.SampledFrom([]any{
		&schemas.InitializeCluster{Meta: meta(), Members: members("pg-1", "pg-2"), Policy: quorumPolicy(1)}, &schemas.InitializeCluster{Meta: meta()},
		&schemas.SwitchoverCluster{Meta: meta(), Candidate: candidate}, &schemas.FailoverCluster{Meta: meta(), Candidate: candidate},
		&schemas.RestartNode{Meta: meta(), Node: node, Mode: "FAST"}, &schemas.ReinitializeNode{Meta: meta(), Node: node},
		&schemas.CheckHealth{Meta: meta(), TimeoutMs: 5}, &schemas.ShutdownCluster{Meta: meta(), Mode: "FAST"}, &schemas.StartCluster{Meta: meta()},
		&schemas.Workflow{}, nil,
	}).Draw(t, "payload")}
	if rapid.IntRange(0, 3).Draw(t, "repeated") == 0 {
		c.Earlier = drawWorkflow(t, "c9")
	}
	return c
}

// TestArbitraryStatesNeverPanic: whatever stands in the tables, a decision comes of it; the same one each time; and it leaves the view
// as it was.
func TestArbitraryStatesNeverPanic(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		v := drawView(t)
		before, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		d := Decide(v)
		if after, _ := json.Marshal(v); string(after) != string(before) {
			t.Fatalf("the view was changed:\n%s\n%s", before, after)
		}
		if again := Decide(v); !reflect.DeepEqual(d, again) {
			t.Fatalf("two decisions:\n%+v\n%+v", d, again)
		}
		terms := map[int64]int{}
		for _, o := range d.Orders {
			switch p := o.Payload.(type) {
			case *schemas.PromotePostgres:
				terms[p.Meta.Term]++
				if len(p.Evidence) == 0 || p.Timeline < v.Record.Timeline {
					t.Fatalf("promotion %+v", p)
				}
			case *schemas.ReinstatePrimary:
				terms[p.Meta.Term]++
			}
		}
		for term, n := range terms {
			if n > 1 {
				t.Fatalf("%d promotions in term %d", n, term)
			}
		}
		if r := d.Record; r != nil && v.Record != nil && (r.Term < v.Record.Term || r.Timeline < v.Record.Timeline) {
			t.Fatalf("something fell: %+v to %+v", v.Record, r)
		}
	})
}
