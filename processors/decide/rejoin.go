package decide

import (
	"time"

	"github.com/regent-infra/regent/schemas"
)

const stepFollow Step = "follow"

// rejoinTable brings one node back under the present primary (DESIGN: P8).
func rejoinTable() *Table {
	return &Table{
		Kind:     schemas.WorkflowKindRejoinNode,
		Doc:      "Brings one node back: an old primary, a standby that lost its upstream, one without data. It is told to follow, rewound or copied if it must be, and then the synchronous set grows by it: recorded first, then told. Nodes are rejoined one after the other, a writable one first; one that fails is left alone for a while.",
		Deadline: 24 * time.Hour,
		Retries:  3,
		Steps: []StepInfo{
			{stepFollow, 2 * time.Minute, "The node streams from the primary. The deadline moves along while its agent rewinds or copies."},
			{stepSynchronise, 30 * time.Second, "The primary runs the recorded synchronous set."},
		},
		Rows: []Row{
			{ID: "J1", Step: stepFollow, If: []Condition{yes(factNodeStreams)}, Next: stepSynchronise, Do: []Action{actGrow, actConfigure}, say: (*run).sayStreams, Why: "it may acknowledge commits now"},
			{ID: "J2", Step: stepFollow, If: []Condition{no(factNodeStreams), yes(factNodeSilent)}, End: schemas.WorkflowStatusCancelled, Do: []Action{actPenalise}, say: (*run).sayNode, Why: "it is worked on again when it is back"},
			{ID: "J3", Step: stepFollow, If: []Condition{no(factNodeStreams), no(factNodeSilent), yes(factStuck)}, End: schemas.WorkflowStatusFailed, Do: []Action{actPenalise}, say: (*run).sayStuck, Why: "another attempt now would fail the same way, and others wait"},
			{ID: "J4", Step: stepFollow, If: []Condition{no(factNodeStreams), no(factNodeSilent), no(factStuck)}, Do: []Action{actFollow}, say: (*run).sayFollow, Why: "it is at work"},

			{ID: "J5", Step: stepSynchronise, If: []Condition{yes(factSynchronised)}, End: schemas.WorkflowStatusSucceeded, Do: []Action{actForgive}, say: (*run).sayRejoined, Why: "it is a member in full again"},
			{ID: "J6", Step: stepSynchronise, If: []Condition{no(factSynchronised), yes(factStuck)}, End: schemas.WorkflowStatusFailed, Do: []Action{actPenalisePrimary}, say: (*run).sayStuck, Why: "the larger set stays recorded, which only asks for more acknowledgements; the watch completes it later"},
			{ID: "J7", Step: stepSynchronise, If: []Condition{no(factSynchronised), no(factStuck)}, Do: []Action{actConfigure}, say: (*run).sayConfigure, Why: "the marker commit is on its way"},
		},
	}
}

// reinitializeTable copies a standby afresh.
func reinitializeTable() *Table {
	return &Table{
		Kind:     schemas.WorkflowKindReinitializeNode,
		Doc:      "Copies a standby afresh from the primary. It keeps its place in the synchronous set, so that a revocation meanwhile asks for enough of the others.",
		Deadline: 24 * time.Hour,
		Retries:  2,
		Steps: []StepInfo{
			{stepClone, 5 * time.Minute, "The node is copied and streams. The deadline moves along while its agent copies."},
			{stepSynchronise, 30 * time.Second, "The primary runs the recorded synchronous set."},
		},
		Rows: []Row{
			{ID: "N1", Step: stepClone, If: []Condition{yes(factCopied)}, Next: stepSynchronise, Do: []Action{actGrow, actConfigure}, say: (*run).sayStreams, Why: "it may acknowledge commits now"},
			{ID: "N2", Step: stepClone, If: []Condition{no(factCopied), yes(factStuck)}, End: schemas.WorkflowStatusFailed, Do: []Action{actPenalise}, say: (*run).sayStuck, Why: "the watch rejoins it later"},
			{ID: "N3", Step: stepClone, If: []Condition{no(factCopied), no(factStuck)}, Do: []Action{actCopy}, say: (*run).sayFollow, Why: "it is being copied"},

			{ID: "N4", Step: stepSynchronise, If: []Condition{yes(factSynchronised)}, End: schemas.WorkflowStatusSucceeded, Do: []Action{actForgive}, say: (*run).sayRejoined, Why: "it is a member in full"},
			{ID: "N5", Step: stepSynchronise, If: []Condition{no(factSynchronised), yes(factStuck)}, End: schemas.WorkflowStatusFailed, Do: []Action{actPenalisePrimary}, say: (*run).sayStuck, Why: "the watch completes it later"},
			{ID: "N6", Step: stepSynchronise, If: []Condition{no(factSynchronised), no(factStuck)}, Do: []Action{actConfigure}, say: (*run).sayConfigure, Why: "the marker commit is on its way"},
		},
	}
}

// subject is the node that the workflow works on.
func (r *run) subject() string {
	if len(r.wf.Nodes) == 0 {
		return r.rec.Primary
	}
	return r.wf.Nodes[0]
}

var (
	factNodeStreams = &Fact{Name: "streams", Doc: "the node streams from the primary under its term", holds: func(r *run) bool { return r.streams(r.subject()) }}
	factNodeSilent  = &Fact{Name: "silent", Doc: "the node's agent is silent", holds: func(r *run) bool { return !alive(r.node(r.subject())) }}
	factCopied      = &Fact{Name: "copied", Doc: "the copy is done and the node streams from the primary under its term", holds: func(r *run) bool {
		o := r.issued(r.subject(), "CloneStandby")
		return o != nil && o.Status == schemas.OrderStatusDone && r.streams(r.subject())
	}}

	actFollow = Action{Name: "see to it that the node follows, rewound or copied if it must be", Orders: []string{"FollowPrimary"}, do: func(r *run) {
		r.pressFollow(r.subject(), true, true)
		r.extend([]string{r.subject()}, "FollowPrimary")
	}}
	actCopy = Action{Name: "see to it that the node is copied", Orders: []string{"CloneStandby"}, do: func(r *run) {
		r.pressClone(r.subject())
		r.extend([]string{r.subject()}, "CloneStandby")
	}}
	actPenalise        = Action{Name: "leave the node alone for a while", do: func(r *run) { r.penalise(r.subject(), r.lastFailure()) }}
	actPenalisePrimary = Action{Name: "leave the setting alone for a while", do: func(r *run) { r.penalise(r.rec.Primary, r.lastFailure()) }}
	actForgive         = Action{Name: "forget earlier failures", do: func(r *run) {
		r.clearBackoff(r.subject())
		r.clearBackoff(r.rec.Primary)
	}}
)

// lastFailure is what the workflow ended with.
func (r *run) lastFailure() string {
	if len(r.wf.History) == 0 {
		return ""
	}
	return r.wf.History[len(r.wf.History)-1].Message
}

func (r *run) sayStreams() string { return text("%s streams from %s", r.subject(), r.rec.Primary) }
func (r *run) sayNode() string    { return describe(r.subject(), r.node(r.subject())) }
func (r *run) sayFollow() string {
	return text("%s to stream from %s under term %d", r.subject(), r.rec.Primary, r.rec.PrimaryTerm)
}

func (r *run) sayRejoined() string {
	return text("%s is in order; synchronous_standby_names of %s is %q", r.subject(), r.rec.Primary, r.setting())
}
