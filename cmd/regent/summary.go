package main

import (
	"fmt"
	"strings"

	"github.com/regent-infra/regent/schemas"
)

// summarize says in one line what a payload tells, for people.
func summarize(s style, payload any) string {
	switch p := payload.(type) {
	case nil:
		return "deleted"
	case *schemas.PostgresNodeObserved:
		return observedLine(s, p)
	case *schemas.NodeHeartbeat:
		return fmt.Sprintf("beats, %s, %s, term %d", p.Postmaster, p.Role, p.Term)
	case *schemas.StreamTicked:
		return fmt.Sprintf("task %d ticks", p.Task)
	case *schemas.PostgresNodeState:
		return fmt.Sprintf("%s%s, %s", s.health(string(p.Health)), causes(p.Causes), observedLine(s, &p.Observed))
	case *schemas.PostgresClusterState:
		return fmt.Sprintf("%s, %s, primary %s, term %d", s.health(string(p.Health)), p.Analysis, orDash(p.Primary), p.Term)
	case *schemas.ResourceForgotten:
		return fmt.Sprintf("forgotten at sequence %d", p.Sequence)
	case *schemas.FleetState:
		return fmt.Sprintf("%s, %d clusters are not healthy", s.health(string(p.Health)), p.IssuesTotal)
	case *schemas.ClusterRecord:
		line := fmt.Sprintf("decided: primary %s, term %d, %d members", orDash(p.Primary), p.Term, len(p.Members))
		if p.Held != nil {
			line += fmt.Sprintf(", %s held back: %s", strings.ToLower(string(p.Held.Kind)), p.Held.Message)
		}
		return line
	case *schemas.Workflow:
		return workflowLine(s, p)
	case *schemas.OrchestratorStarted:
		return fmt.Sprintf("task %d has a new owner, %s", p.Task, p.Instance)
	case *schemas.LeaseGranted:
		return fmt.Sprintf("lease of %d ms for %s, term %d", p.DurationMs, p.Node, p.Term)
	case *schemas.DeadLetter:
		return fmt.Sprintf("%s/%d offset %d: %s: %s", p.Topic, p.Partition, p.Offset, p.Reason, p.Error)
	default:
		return moreSummaries(s, payload)
	}
}

func moreSummaries(s style, payload any) string {
	switch p := payload.(type) {
	case *schemas.CommandAccepted:
		return fmt.Sprintf("%s: %s", p.CommandType, p.Plan)
	case *schemas.CommandRejected:
		return fmt.Sprintf("%s: %s: %s", p.CommandType, p.Reason, p.Message)
	case *schemas.CommandCompleted:
		return fmt.Sprintf("%s: %s", p.CommandType, p.Summary)
	case *schemas.CommandFailed:
		return fmt.Sprintf("%s: %s", p.CommandType, p.Message)
	case *schemas.InitializeCluster:
		return fmt.Sprintf("%d members, %s", len(p.Members), reason(p.Meta))
	case *schemas.SwitchoverCluster:
		return candidate(p.Candidate) + reason(p.Meta)
	case *schemas.FailoverCluster:
		return candidate(p.Candidate) + reason(p.Meta)
	case *schemas.RestartNode:
		return fmt.Sprintf("%s, %s, %s", p.Node, p.Mode, reason(p.Meta))
	case *schemas.ReinitializeNode:
		return fmt.Sprintf("%s, %s", p.Node, reason(p.Meta))
	case *schemas.ShutdownCluster:
		return fmt.Sprintf("%s, %s", p.Mode, reason(p.Meta))
	case *schemas.StartCluster:
		return reason(p.Meta)
	case *schemas.CheckHealth:
		return reason(p.Meta)
	case *schemas.PromotePostgres:
		return fmt.Sprintf("%s, min LSN %s, timeline %d, evidence of %d", order(p.Meta), lsn(p.MinLsn), p.Timeline, len(p.Evidence))
	case *schemas.FollowPrimary:
		return fmt.Sprintf("%s, upstream %s term %d", order(p.Meta), p.Upstream.Node, p.UpstreamTerm)
	case *schemas.CloneStandby:
		return fmt.Sprintf("%s, from %s", order(p.Meta), p.Upstream.Node)
	default:
		if m, ok := orderMeta(payload); ok {
			return order(m)
		}
		return ""
	}
}

// orderMeta returns what all orders carry.
func orderMeta(payload any) (schemas.OrderMeta, bool) {
	switch p := payload.(type) {
	case *schemas.BootstrapPrimary:
		return p.Meta, true
	case *schemas.CloneStandby:
		return p.Meta, true
	case *schemas.StartPostgres:
		return p.Meta, true
	case *schemas.StopPostgres:
		return p.Meta, true
	case *schemas.RestartPostgres:
		return p.Meta, true
	case *schemas.FencePostgres:
		return p.Meta, true
	case *schemas.PromotePostgres:
		return p.Meta, true
	case *schemas.FollowPrimary:
		return p.Meta, true
	case *schemas.ReinstatePrimary:
		return p.Meta, true
	case *schemas.ConfigureSynchronous:
		return p.Meta, true
	case *schemas.CheckNode:
		return p.Meta, true
	default:
		return schemas.OrderMeta{}, false
	}
}

func order(m schemas.OrderMeta) string {
	return fmt.Sprintf("to %s, term %d, step %s", m.Node, m.Term, m.Step)
}

func reason(m schemas.CommandMeta) string {
	line := "asked by " + orDash(m.RequestedBy)
	if m.Reason != "" {
		line += ": " + m.Reason
	}
	if m.DryRun {
		line += " (dry run)"
	}
	return line
}

func candidate(name *string) string {
	if name == nil {
		return ""
	}
	return "to " + *name + ", "
}

func causes(list []schemas.HealthCause) string {
	if len(list) == 0 {
		return ""
	}
	codes := make([]string, len(list))
	for i, c := range list {
		codes[i] = c.Code
	}
	return " (" + strings.Join(codes, ", ") + ")"
}

func observedLine(_ style, p *schemas.PostgresNodeObserved) string {
	line := fmt.Sprintf("%s %s, term %d (promised %d), timeline %d, flushed %s", p.Postmaster, p.Role, p.Term, p.PromisedTerm, p.Timeline, lsn(p.FlushedLsn))
	if p.Receiver != nil {
		line += ", " + p.Receiver.Status
	}
	if p.LastOrder != nil {
		line += fmt.Sprintf(", %s %s", p.LastOrder.OrderType, p.LastOrder.Status)
		if p.LastOrder.ProgressTotal > 0 && p.LastOrder.Status == schemas.OrderStatusRunning {
			line += fmt.Sprintf(" %d%%", 100*p.LastOrder.ProgressDone/p.LastOrder.ProgressTotal)
		}
	}
	return line
}

func workflowLine(s style, p *schemas.Workflow) string {
	line := fmt.Sprintf("%s %s, step %s", p.Kind, s.health(string(p.Status)), p.Step)
	if p.WaitingFor != "" && p.FinishedAt == nil {
		return line + ": " + p.WaitingFor
	}
	if n := len(p.History); n > 0 {
		return line + ": " + p.History[n-1].Message
	}
	return line
}
