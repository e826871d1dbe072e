package decide

import (
	"slices"
	"strings"
	"time"

	"github.com/regent-infra/regent/schemas"
)

const (
	stepBootstrap Step = "bootstrap"
	stepClone     Step = "clone"
	stepUndo      Step = "undo"
)

// initializeTable makes a cluster out of empty nodes, in the order of dependence.
func initializeTable() *Table {
	return &Table{
		Kind:      schemas.WorkflowKindInitializeCluster,
		Doc:       "Makes a cluster: bootstraps the first member as primary, with nobody to wait for; clones the others from it side by side; then lets commits wait for them. Given up, it stops what it started, and the command may be sent again under a new id.",
		Deadline:  6 * time.Hour,
		Retries:   3,
		Exclusive: true,
		Steps: []StepInfo{
			{stepBootstrap, 2 * time.Minute, "The first member is initialised and serves."},
			{stepClone, 5 * time.Minute, "The others are copied from it and stream. The deadline moves along while an agent copies."},
			{stepSynchronise, 30 * time.Second, "The primary runs the synchronous set."},
			{stepUndo, 30 * time.Second, "What was started is stopped again."},
		},
		Rows: []Row{
			{ID: "I1", Step: stepBootstrap, If: []Condition{yes(factServing)}, Next: stepClone, Do: []Action{actIdentify, actClone}, Why: "there is something to copy from"},
			{ID: "I2", Step: stepBootstrap, If: []Condition{no(factServing), yes(factStuck)}, Next: stepUndo, Do: []Action{actStopAll}, say: (*run).sayStuck, Why: "without a primary there is no cluster"},
			{ID: "I3", Step: stepBootstrap, If: []Condition{no(factServing), no(factStuck)}, Do: []Action{actBootstrap}, say: (*run).sayServing, Why: "it is being initialised"},

			{ID: "I4", Step: stepClone, If: []Condition{yes(factAllStream)}, Next: stepSynchronise, Do: []Action{actGrow, actConfigure}, Why: "all stream"},
			{ID: "I5", Step: stepClone, If: []Condition{no(factAllStream), yes(factStuck), yes(factEnoughStream)}, Next: stepSynchronise, Do: []Action{actGrow, actConfigure}, say: (*run).sayClone, Why: "enough stream; the others are rejoined one by one"},
			{ID: "I6", Step: stepClone, If: []Condition{no(factAllStream), yes(factStuck), no(factEnoughStream)}, Next: stepUndo, Do: []Action{actStopAll}, say: (*run).sayStuck, Why: "fewer stream than a commit must wait for"},
			{ID: "I7", Step: stepClone, If: []Condition{no(factAllStream), no(factStuck)}, Do: []Action{actClone}, say: (*run).sayClone, Why: "they are being copied"},

			{ID: "I8", Step: stepSynchronise, If: []Condition{yes(factSynchronised)}, End: schemas.WorkflowStatusSucceeded, Do: []Action{actInitialized}, say: (*run).sayInitialized, Why: "commits wait for their standbys"},
			{ID: "I9", Step: stepSynchronise, If: []Condition{no(factSynchronised), yes(factStuck)}, Next: stepUndo, Do: []Action{actStopAll}, say: (*run).sayStuck, Why: "a cluster that loses commits must not be handed out"},
			{ID: "I10", Step: stepSynchronise, If: []Condition{no(factSynchronised), no(factStuck)}, Do: []Action{actConfigure}, say: (*run).sayConfigure, Why: "the marker commit is on its way"},

			{ID: "I11", Step: stepUndo, If: []Condition{yes(factAllDown)}, End: schemas.WorkflowStatusFailed, say: (*run).sayUndone, Why: "as before, but for the data directories"},
			{ID: "I12", Step: stepUndo, If: []Condition{no(factAllDown), yes(factOverdue)}, End: schemas.WorkflowStatusFailed, say: (*run).sayNotUndone, Why: "who does not answer cannot be stopped"},
			{ID: "I13", Step: stepUndo, If: []Condition{no(factAllDown), no(factOverdue)}, Do: []Action{actStopAll}, say: (*run).sayStopAll, Why: "they are being stopped"},
		},
	}
}

var (
	factServing = &Fact{Name: "serving", Doc: "the recorded primary is a primary under its term and takes connections", holds: (*run).promoted}
	factStuck   = &Fact{Name: "stuck", Doc: "the step's deadline has passed, or an order failed and no retries are left", Timeout: true, holds: func(r *run) bool {
		return r.reached(r.wf.StepDeadline) || r.exhausted(r.names(), "BootstrapPrimary", "CloneStandby", "FollowPrimary", "ConfigureSynchronous", "StartPostgres", "RestartPostgres", "ReinstatePrimary", "StopPostgres")
	}}
	factAllStream    = &Fact{Name: "all stream", Doc: "every other member streams from the primary", holds: func(r *run) bool { return r.count(r.others(), r.streams) == len(r.others()) }}
	factEnoughStream = &Fact{Name: "enough stream", Doc: "as many stream as a commit must wait for by policy", holds: func(r *run) bool {
		return r.count(r.others(), r.streams) >= r.leastStandbys()
	}}
	factAllDown = &Fact{Name: "all down", Doc: "no postgres runs on any member whose agent has reported", holds: func(r *run) bool {
		return r.count(r.names(), r.running) == 0
	}}

	actBootstrap = Action{Name: "see to it that the primary is bootstrapped", Orders: []string{"BootstrapPrimary"}, do: func(r *run) {
		r.press(r.rec.Primary, "BootstrapPrimary", func(m schemas.OrderMeta) any {
			return &schemas.BootstrapPrimary{Meta: m, SynchronousStandbyNames: "", Slots: r.slots(), Members: slices.Clone(r.rec.Members)}
		})
	}}

	actIdentify = Action{Name: "record the identity of the new database system", do: func(r *run) {
		n := r.incumbent()
		r.rec.SystemIdentifier = n.Observed.SystemIdentifier
		r.note(text("%s serves; its database system is %s", r.rec.Primary, r.rec.SystemIdentifier), evidence(n, "primary"))
	}}

	actClone = Action{Name: "see to it that the others are copied from the primary", Orders: []string{"CloneStandby"}, do: func(r *run) {
		for _, name := range r.others() {
			if !r.streams(name) {
				r.pressClone(name)
			}
		}
		r.extend(r.others(), "CloneStandby")
	}}

	actInitialized = Action{Name: "record that the cluster is initialised", do: func(r *run) { r.rec.Initialized = true }}

	actStopAll = Action{Name: "see to it that every postgres is stopped", Orders: []string{"StopPostgres"}, do: func(r *run) {
		for _, name := range r.names() {
			if r.running(name) {
				r.pressStop(name)
			}
		}
	}}
)

// running reports whether postgres may run on a node, for all we know.
func (r *run) running(name string) bool {
	n := r.node(name)
	return n != nil && !down(n)
}

// leastStandbys is how many standbys a commit must wait for by policy.
func (r *run) leastStandbys() int {
	if !r.quorum() {
		return 0
	}
	return int(r.rec.Policy.SynchronousCount)
}

func (r *run) sayServing() string {
	if r.node(r.rec.Primary) == nil {
		return text("the agent of %s to report", r.rec.Primary)
	}
	return text("%s to serve under term %d", r.rec.Primary, r.rec.PrimaryTerm)
}

// sayStuck tells which order failed, or that time has run out.
func (r *run) sayStuck() string {
	for i := range r.wf.Orders {
		if o := &r.wf.Orders[i]; failed(o) {
			return text("%s on %s failed%s", o.OrderType, o.Node, because(o.Message))
		}
	}
	var states []string
	for _, name := range r.names() {
		states = append(states, describe(name, r.node(name)))
	}
	return text("the deadline of step %s has passed: %s", r.wf.Step, strings.Join(states, ", "))
}

func (r *run) sayClone() string {
	var missing []string
	for _, name := range r.others() {
		if !r.streams(name) {
			missing = append(missing, name)
		}
	}
	return text("%s to stream from %s", strings.Join(missing, ", "), r.rec.Primary)
}

func (r *run) sayInitialized() string {
	return text("%s is primary; %d of %d standbys stream; synchronous_standby_names is %q", r.rec.Primary, r.count(r.others(), r.streams), len(r.others()), r.setting())
}

func (r *run) sayStopAll() string {
	var missing []string
	for _, name := range r.names() {
		if r.running(name) {
			missing = append(missing, name)
		}
	}
	return text("postgres to stop on %s", strings.Join(missing, ", "))
}

// cause is the last line of history that says why a step was left for its compensation.
func (r *run) cause() string {
	for i := len(r.wf.History) - 1; i >= 0; i-- {
		if m := r.wf.History[i].Message; strings.HasSuffix(m, "; on to "+string(stepUndo)) {
			return strings.TrimSuffix(m, "; on to "+string(stepUndo))
		}
	}
	return "given up"
}

func (r *run) sayUndone() string { return r.cause() + "; every postgres is stopped again" }
func (r *run) sayNotUndone() string {
	return r.cause() + "; not all could be stopped again: " + r.sayStopAll()
}
