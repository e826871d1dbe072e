package orchestrator

import (
	"errors"
	"fmt"
	"time"

	"github.com/regent-infra/regent/internal/event"
	"github.com/regent-infra/regent/internal/record"
	"github.com/regent-infra/regent/internal/stream"
	"github.com/regent-infra/regent/processors/decide"
	"github.com/regent-infra/regent/schemas"
)

// deferred is a command that was read before the task had caught up.
type deferred struct {
	cluster  event.ClusterID
	workflow *schemas.Workflow
}

// command answers a command. One that cannot be read goes to the dead-letter topic, and its sender is told as far as the record says
// who that is.
func (m *machine) command(task stream.Task, rec *record.Record, out *output) error {
	if rec.Tombstone() {
		return m.unreadable(rec, out, &event.DecodeError{Reason: "malformed", Err: errors.New("a command cannot be deleted: send another one")})
	}
	e, err := m.config.Codec.Decode(rec.Topic, rec.Value)
	var undecodable *event.DecodeError
	switch {
	case errors.As(err, &undecodable):
		return m.unreadable(rec, out, undecodable)
	case err != nil:
		return fmt.Errorf("decode a command: %w", err)
	}
	cluster, fault := m.address(rec, e)
	if fault != "" {
		if cluster == "" {
			return m.unreadable(rec, out, &event.DecodeError{Reason: "misaddressed", Err: errors.New(fault)})
		}
		return m.reject(out, cluster, e.ID, e.Type, fault)
	}
	c := &decide.Command{ID: e.ID, At: rec.Timestamp, Origin: decide.Origin{Topic: rec.Topic, Partition: rec.Partition, Offset: rec.Offset}, Payload: e.Payload}
	if m.started {
		return m.decide(task, rec, out, cluster, c)
	}
	return m.deferCommand(task, rec, out, cluster, c)
}

// address checks whom a command is for and whether it stands where its cluster's task reads it. The cluster is empty if even that is
// not known.
func (m *machine) address(rec *record.Record, e *event.Event) (cluster event.ClusterID, fault string) {
	cluster, err := event.ParseClusterID(e.Cluster)
	switch {
	case err != nil:
		return "", err.Error()
	case cluster.Kind() != event.KindPostgres:
		return "", fmt.Sprintf("cluster %s is of kind %s, expected postgres: send it to the topic of its kind", cluster, cluster.Kind())
	case !event.ValidID(e.ID):
		return cluster, fmt.Sprintf("the envelope's id is %q, expected a UUID such as %s", clip(e.ID), "0198c0de-0000-7000-8000-000000000001")
	}
	if n := m.config.Partitions; n > 0 && event.Partition(cluster, n) != rec.Partition {
		return cluster, fmt.Sprintf("the command stands in partition %d of %s, and %s belongs to partition %d of %d: use the cluster id as the record's key and the default partitioner (murmur2)",
			rec.Partition, rec.Topic, cluster, event.Partition(cluster, n), n)
	}
	return cluster, ""
}

// unreadable sends a record to the dead-letter topic. If its key names a cluster, whoever waits there is told.
func (m *machine) unreadable(rec *record.Record, out *output, cause *event.DecodeError) error {
	out.asked = true // there is no event that it follows from
	if err := out.bury(cause.Reason, cause.Err); err != nil {
		return err
	}
	cluster, err := event.ParseClusterID(string(rec.Key))
	if err != nil || cluster.Kind() != event.KindPostgres {
		return nil
	}
	id, name := string(rec.Header("ce_id")), string(rec.Header("ce_type"))
	return m.reject(out, cluster, clip(id), clip(name), fmt.Sprintf("the record at %s, partition %d, offset %d cannot be read as a command: %v; it was kept in the dead-letter topic",
		rec.Topic, rec.Partition, rec.Offset, cause))
}

// reject answers a command that never reached a decision.
func (m *machine) reject(out *output, cluster event.ClusterID, id, name, message string) error {
	return out.outcome(cluster, decide.Outcome{
		ID: out.derive("rejected"), Sequence: out.task.StreamTime().UnixMicro(), Command: id,
		Payload: &schemas.CommandRejected{CommandID: id, CommandType: name, Reason: schemas.RejectionReasonMalformed, Message: message},
	})
}

// clip bounds a word from outside for a message.
func clip(s string) string { return s[:min(len(s), 200)] }

// deferCommand keeps a command until the task has caught up: its record will not be read again once this transaction is committed, and
// nothing may be decided before. A repeated one is answered at once.
func (m *machine) deferCommand(task stream.Task, rec *record.Record, out *output, cluster event.ClusterID, c *decide.Command) error {
	earlier, err := get[schemas.Workflow](m, task, WorkflowsTable, workflowKey(cluster, c.ID))
	if err != nil {
		return err
	}
	if earlier != nil {
		return m.decide(task, rec, out, cluster, c)
	}
	kind, ok := decide.Kind(c.Payload)
	if !ok {
		return m.reject(out, cluster, c.ID, schemas.RecordName(c.Payload), fmt.Sprintf("%T is no command", c.Payload))
	}
	request, now := rec.Value, task.StreamTime()
	w := &schemas.Workflow{
		ID: c.ID, Kind: kind, Status: schemas.WorkflowStatusPending, CommandID: c.ID, Analysis: schemas.AnalysisCodeNoProblem, Mode: schemas.StopModeFast,
		Nodes: []string{}, FailedCandidates: []string{}, Acknowledgements: []schemas.PromotionEvidence{}, Orders: []schemas.IssuedOrder{},
		StartedAt: now, StepStartedAt: now, StepDeadline: now, Deadline: now,
		Request: &request, RequestAt: utc(rec.Timestamp), RequestOffset: rec.Offset,
		History: []schemas.WorkflowEvent{{At: now, Message: "read while the orchestrator is catching up; decided about when it has", Evidence: []schemas.EvidenceRef{
			{Topic: rec.Topic, Partition: rec.Partition, Offset: rec.Offset, Summary: "command " + schemas.RecordName(c.Payload)},
		}}},
	}
	h := schemas.EnvelopeHeader{ID: out.derive("deferred"), Cluster: string(cluster), Resource: string(cluster), CorrelationID: c.ID, Sequence: now.UnixMicro()}
	return out.put(m.workflows, stream.OwnPartition, workflowKey(cluster, c.ID), h, w)
}

func utc(t time.Time) *time.Time {
	t = t.UTC()
	return &t
}

// resume decides about a command that had to wait.
func (m *machine) resume(task stream.Task, rec *record.Record, out *output, p deferred) error {
	e, err := m.config.Codec.Decode(m.commands, *p.workflow.Request)
	if err != nil {
		return fmt.Errorf("read the deferred command %s of %s: %s", p.workflow.ID, p.cluster, err) //nolint:errorlint // must not pass for a DecodeError of the input
	}
	c := &decide.Command{
		ID: e.ID, At: *p.workflow.RequestAt, Payload: e.Payload,
		Origin: decide.Origin{Topic: m.commands, Partition: task.ID(), Offset: p.workflow.RequestOffset},
	}
	return m.decide(task, rec, out, p.cluster, c)
}
