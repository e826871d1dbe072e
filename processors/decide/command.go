package decide

import (
	"slices"
	"strings"
	"time"

	"github.com/regent-infra/regent/schemas"
)

// request is a command with what all commands share taken out.
type request struct {
	kind schemas.WorkflowKind
	name string
	meta schemas.CommandMeta
	// faults are all reasons against it; the first names the rejection.
	faults []fault
	// plan says what it would do; prepare makes the workflow its own.
	plan    string
	prepare func(*schemas.Workflow)
}

type fault struct {
	reason  schemas.RejectionReason
	message string
}

func (q *request) reject(reason schemas.RejectionReason, format string, args ...any) {
	q.faults = append(q.faults, fault{reason, text(format, args...)})
}

// command answers a command: it is rejected with every fault at once, or accepted and begun. One that was answered before is only told
// so.
func (r *run) command(c *Command) {
	q := &request{name: schemas.RecordName(c.Payload)}
	r.kindOf(q, c.Payload)
	// A deferred command meets itself when its time has come.
	itself := r.v.CaughtUp && c.Earlier != nil && c.Earlier.Status == schemas.WorkflowStatusPending && c.Earlier.RequestOffset == c.Origin.Offset
	if e := c.Earlier; e != nil && !itself {
		r.answer(c.ID, &schemas.CommandRejected{
			CommandID: c.ID, CommandType: q.name, Reason: schemas.RejectionReasonDuplicate,
			Message: text("%s %s was answered before: %s; send a new command id to ask again", q.name, c.ID, earlierAnswer(e)),
		})
		return
	}
	expires := c.At.Add(commandTTL)
	if q.meta.ExpiresAt != nil {
		expires = *q.meta.ExpiresAt
	}
	switch {
	case q.kind == "":
		q.reject(schemas.RejectionReasonMalformed, "%T is no command", c.Payload)
	case !r.now.Before(expires):
		q.reject(schemas.RejectionReasonExpired, "it was wanted until %s and it is %s by stream time", expires.UTC().Format(time.RFC3339), r.now.UTC().Format(time.RFC3339))
	default:
		if strings.TrimSpace(q.meta.RequestedBy) == "" {
			q.reject(schemas.RejectionReasonMalformed, "meta.requested_by is empty, expected the person or program that asks")
		}
		if damage := r.damage(); damage != "" {
			q.reject(schemas.RejectionReasonUnsafe, "the cluster's record is damaged: %s", damage)
			break
		}
		r.examine(q, c.Payload)
		r.examineConflict(q)
	}
	if len(q.faults) > 0 {
		r.refuse(c, q)
		return
	}
	if q.meta.DryRun {
		if c.Earlier != nil {
			r.forget(c.Earlier)
		}
		r.answer(c.ID, &schemas.CommandAccepted{CommandID: c.ID, CommandType: q.name, Plan: q.plan})
		return
	}
	r.accept(c, q)
}

func earlierAnswer(e *schemas.Workflow) string {
	last := ""
	if len(e.History) > 0 {
		last = ", " + e.History[len(e.History)-1].Message
	}
	switch e.Status {
	case schemas.WorkflowStatusRejected:
		return "rejected" + last
	case schemas.WorkflowStatusPending:
		return "it waits until the orchestrator has caught up"
	case schemas.WorkflowStatusRunning:
		return text("its workflow %s is running, in step %s", e.ID, e.Step)
	default:
		return text("its workflow %s ended %s%s", e.ID, e.Status, last)
	}
}

// refuse answers with the rejection and remembers it, so that the same command is not judged again later with another result.
func (r *run) refuse(c *Command, q *request) {
	messages := make([]string, 0, len(q.faults))
	for _, f := range q.faults {
		messages = append(messages, f.message)
	}
	message := text("%s for %s: %s", q.name, r.v.Cluster, strings.Join(messages, "; "))
	r.answer(c.ID, &schemas.CommandRejected{CommandID: c.ID, CommandType: q.name, Reason: q.faults[0].reason, Message: message})
	if q.kind == "" || q.meta.DryRun {
		if c.Earlier != nil {
			r.forget(c.Earlier)
		}
		return
	}
	w := &schemas.Workflow{
		ID: c.ID, Kind: q.kind, Status: schemas.WorkflowStatusRejected, CommandID: c.ID, Reason: q.meta.Reason, Analysis: r.analysis(),
		Mode: schemas.StopModeFast, Nodes: []string{}, FailedCandidates: []string{}, Acknowledgements: []schemas.PromotionEvidence{}, Orders: []schemas.IssuedOrder{},
		StartedAt: r.now, StepStartedAt: r.now, StepDeadline: r.now, Deadline: r.now, FinishedAt: new(r.now),
		History: []schemas.WorkflowEvent{{At: r.now, Message: text("%s: %s", q.faults[0].reason, message), Evidence: []schemas.EvidenceRef{c.evidence(q.name)}}},
	}
	r.touched = append(r.touched, &change{before: c.Earlier, after: w})
}

// forget ends a deferred command that was only tried.
func (r *run) forget(earlier *schemas.Workflow) {
	w := r.touch(earlier)
	w.Status, w.FinishedAt, w.Request = schemas.WorkflowStatusSucceeded, new(r.now), nil
	r.noteIn(w, "a dry run: it was answered, and nothing was done")
}

func (c *Command) evidence(name string) schemas.EvidenceRef {
	return schemas.EvidenceRef{Topic: c.Origin.Topic, Partition: c.Origin.Partition, Offset: c.Origin.Offset, Summary: "command " + name}
}

// accept begins the workflow of a command; its id is the command's.
func (r *run) accept(c *Command, q *request) {
	if init, ok := c.Payload.(*schemas.InitializeCluster); ok {
		r.found(init)
	}
	if q.kind != schemas.WorkflowKindCheckHealth {
		r.preempt(q.kind)
		r.release()
	}
	r.answer(c.ID, &schemas.CommandAccepted{CommandID: c.ID, CommandType: q.name, WorkflowID: c.ID, Plan: q.plan})
	w := r.begin(q.kind, c.ID, q.meta.Reason, func(w *schemas.Workflow) {
		w.CommandID = c.ID
		if q.prepare != nil {
			q.prepare(w)
		}
	})
	by := text("%s asked for %s", q.meta.RequestedBy, q.name)
	if q.meta.Reason != "" {
		by += ": " + q.meta.Reason
	}
	r.noteIn(w, by, append([]schemas.EvidenceRef{c.evidence(q.name)}, r.observed(r.names()...)...)...)
	r.start(w)
}

// found makes the record of a new cluster, or takes one up again whose initialisation failed: its terms go on.
func (r *run) found(init *schemas.InitializeCluster) {
	if r.rec == nil {
		r.rec = &schemas.ClusterRecord{Sequence: r.now.UnixMicro()}
	}
	r.rec.Members = slices.Clone(init.Members)
	r.rec.Policy = init.Policy
	r.rec.Term = r.highestPromise() + 1
	r.rec.Primary, r.rec.PrimaryTerm, r.rec.PromotionTerm = init.Members[0].Node, r.rec.Term, r.rec.Term
	r.rec.Timeline = max(r.rec.Timeline, 1)
	r.rec.SynchronousStandbys, r.rec.SynchronousCount, r.rec.PreviousSynchronous = []string{}, 0, nil
	r.rec.SystemIdentifier, r.rec.ShutDown, r.rec.LastFailoverAt = "", false, nil
	r.rec.Checks, r.rec.HeldHistory, r.rec.Backoffs = list(r.rec.Checks), append([]schemas.HeldDecision{}, r.rec.HeldHistory...), []schemas.NodeBackoff{}
}

// examineConflict looks for a workflow in the way. A rejoin that Regent began by itself gives way to anybody, for it begins again by
// itself; a failover makes its own way past everything that does not contain one.
func (r *run) examineConflict(q *request) {
	if r.rec == nil {
		return
	}
	if q.kind == schemas.WorkflowKindCheckHealth {
		if len(r.rec.Checks) >= maxChecks {
			q.reject(schemas.RejectionReasonConflict, "%d health checks are running already: wait for one to end", len(r.rec.Checks))
		}
		return
	}
	if r.owner == nil || automaticRejoin(r.owner) {
		return
	}
	if q.kind == schemas.WorkflowKindFailover && !tableOf(r.owner.Kind).Exclusive {
		return
	}
	q.reject(schemas.RejectionReasonConflict, "workflow %s %s owns the cluster, in step %s: wait until it ends (regent explain %s)", r.owner.Kind, r.owner.ID, r.owner.Step, r.owner.ID)
}

// commandOf names the command that asks for a kind of workflow; empty for one that only Regent begins.
func commandOf(kind schemas.WorkflowKind) string {
	switch kind {
	case schemas.WorkflowKindInitializeCluster:
		return "InitializeCluster"
	case schemas.WorkflowKindCheckHealth:
		return "CheckHealth"
	case schemas.WorkflowKindRestartNode:
		return "RestartNode"
	case schemas.WorkflowKindSwitchover:
		return "SwitchoverCluster"
	case schemas.WorkflowKindFailover:
		return "FailoverCluster"
	case schemas.WorkflowKindShutdownCluster:
		return "ShutdownCluster"
	case schemas.WorkflowKindStartCluster:
		return "StartCluster"
	case schemas.WorkflowKindReinitializeNode:
		return "ReinitializeNode"
	case schemas.WorkflowKindRejoinNode:
		return ""
	default:
		return ""
	}
}

// Kind returns the workflow that a command asks for; false if the payload is no command.
func Kind(payload any) (schemas.WorkflowKind, bool) {
	q := &request{}
	(&run{}).kindOf(q, payload)
	return q.kind, q.kind != ""
}

func (r *run) kindOf(q *request, payload any) {
	switch p := payload.(type) {
	case *schemas.InitializeCluster:
		q.kind, q.meta = schemas.WorkflowKindInitializeCluster, p.Meta
	case *schemas.CheckHealth:
		q.kind, q.meta = schemas.WorkflowKindCheckHealth, p.Meta
	case *schemas.SwitchoverCluster:
		q.kind, q.meta = schemas.WorkflowKindSwitchover, p.Meta
	case *schemas.FailoverCluster:
		q.kind, q.meta = schemas.WorkflowKindFailover, p.Meta
	case *schemas.RestartNode:
		q.kind, q.meta = schemas.WorkflowKindRestartNode, p.Meta
	case *schemas.ReinitializeNode:
		q.kind, q.meta = schemas.WorkflowKindReinitializeNode, p.Meta
	case *schemas.ShutdownCluster:
		q.kind, q.meta = schemas.WorkflowKindShutdownCluster, p.Meta
	case *schemas.StartCluster:
		q.kind, q.meta = schemas.WorkflowKindStartCluster, p.Meta
	}
}
