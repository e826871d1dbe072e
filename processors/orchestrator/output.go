package orchestrator

import (
	"fmt"
	"strconv"
	"time"

	"github.com/regent-infra/regent/internal/avrocodec"
	"github.com/regent-infra/regent/internal/event"
	"github.com/regent-infra/regent/internal/record"
	"github.com/regent-infra/regent/internal/stream"
	"github.com/regent-infra/regent/processors/decide"
	"github.com/regent-infra/regent/schemas"
)

// output writes what follows from one record.
type output struct {
	m    *machine
	task stream.Task
	rec  *record.Record
	// cause is the id of the record's event, once asked for; turn counts the decisions so far.
	cause string
	asked bool
	turn  int
}

func (m *machine) output(task stream.Task, rec *record.Record) *output {
	return &output{m: m, task: task, rec: rec}
}

// causation is the id of the event that everything follows from. It is read when something does follow, which is rare.
func (o *output) causation() string {
	if !o.asked {
		o.asked = true
		if e, err := o.m.config.Codec.Decode(o.rec.Topic, o.rec.Value); err == nil {
			o.cause = e.ID
		}
	}
	return o.cause
}

// put emits an event.
func (o *output) put(topic string, partition int32, key string, h schemas.EnvelopeHeader, payload any) error {
	h.Source = Name + "/" + strconv.Itoa(int(o.task.ID()))
	h.OccurredAt = o.task.StreamTime()
	h.CausationID = o.causation()
	h.BootID = o.m.config.Instance
	e := event.New(h, payload)
	value, err := o.m.config.Codec.Encode(topic, e)
	if err != nil {
		return fmt.Errorf("encode %s about %s: %s", e.Type, h.Resource, err) //nolint:errorlint // our own output must not pass for a DecodeError of the input
	}
	o.task.Emit(record.Record{Topic: topic, Partition: partition, Key: []byte(key), Value: value, Headers: o.m.config.Headers(e, o.rec)})
	return nil
}

// decision emits what a decision owes: orders first, for agents wait for them; and what is about the
// cluster in the order of its sequence.
func (o *output) decision(cluster event.ClusterID, d *decide.Decision) error {
	id := string(cluster)
	for _, order := range d.Orders {
		h := schemas.EnvelopeHeader{ID: order.ID, Cluster: id, Resource: string(cluster.Node(order.Node)), CorrelationID: order.Workflow, Sequence: order.Sequence}
		if err := o.put(o.m.orders, stream.OwnPartition, id, h, order.Payload); err != nil {
			return err
		}
	}
	for _, c := range d.Outcomes {
		if err := o.outcome(cluster, c); err != nil {
			return err
		}
	}
	for _, c := range d.Workflows {
		h := schemas.EnvelopeHeader{ID: c.ID, Cluster: id, Resource: id, CorrelationID: c.Workflow.ID, Sequence: c.Sequence}
		if err := o.put(o.m.workflows, stream.OwnPartition, workflowKey(cluster, c.Workflow.ID), h, c.Workflow); err != nil {
			return err
		}
		o.m.sweep(cluster, c.Workflow)
	}
	if r := d.Record; r != nil {
		h := schemas.EnvelopeHeader{
			ID: o.derive("record", o.turn, id), Cluster: id, Resource: id, CorrelationID: r.ActiveWorkflow, Sequence: r.Sequence,
		}
		if err := o.put(o.m.workflows, stream.OwnPartition, id, h, r); err != nil {
			return err
		}
	}
	return nil
}

// outcome answers a command where its sender waits: in the cluster's own partition.
func (o *output) outcome(cluster event.ClusterID, c decide.Outcome) error {
	partition := stream.OwnPartition
	if n := o.m.config.Partitions; n > 0 {
		partition = event.Partition(cluster, n)
	}
	h := schemas.EnvelopeHeader{ID: c.ID, Cluster: string(cluster), Resource: string(cluster), CorrelationID: c.Command, Sequence: c.Sequence}
	return o.put(o.m.outcomes, partition, string(cluster), h, c.Payload)
}

// bury sends the record to the dead-letter topic, without giving up what else follows from it.
func (o *output) bury(reason string, cause error) error {
	letter, err := avrocodec.DeadLetters(o.m.config.Codec, Name)(o.rec, reason, cause)
	if err != nil {
		return err
	}
	o.task.Emit(letter)
	return nil
}

// derive makes an identifier from where the record stood and what it is for.
func (o *output) derive(what ...any) string {
	return event.DeriveID(o.task.StreamTime(), append([]any{Name, o.rec.Topic, o.rec.Partition, o.rec.Offset}, what...)...)
}

// tick returns what makes time pass on an idle task.
func tick(config *Config, topic string, every time.Duration) *stream.Tick {
	return &stream.Tick{
		Topic: topic,
		Every: every,
		Make: func(task int32) (record.Record, error) {
			e := event.New(schemas.EnvelopeHeader{
				ID: event.NewID(), Source: Name + "/" + strconv.Itoa(int(task)), BootID: config.Instance,
			}, &schemas.StreamTicked{Task: task, Instance: config.Instance})
			value, err := config.Codec.Encode(topic, e)
			if err != nil {
				return record.Record{}, fmt.Errorf("make a tick for task %d: %w", task, err)
			}
			return record.Record{Topic: topic, Partition: task, Key: []byte("tick/" + strconv.Itoa(int(task))), Value: value}, nil
		},
	}
}
