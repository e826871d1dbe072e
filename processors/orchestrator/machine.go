package orchestrator

import (
	"cmp"
	"fmt"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"

	"github.com/regent-infra/regent/internal/avrocodec"
	"github.com/regent-infra/regent/internal/event"
	"github.com/regent-infra/regent/internal/record"
	"github.com/regent-infra/regent/internal/stream"
	"github.com/regent-infra/regent/internal/topics"
	"github.com/regent-infra/regent/processors/decide"
	"github.com/regent-infra/regent/schemas"
)

const (
	// Name is the processor's name.
	Name = "orchestrator.postgres"
	// WorkflowsTable is the table of the changelog: cluster records and workflows as last emitted.
	WorkflowsTable = "workflows"
	// StateTable is the table of the consolidated states.
	StateTable = "state"
	// foldVersion rises whenever an older binary could not read on: a step that it does not know, a field that it would lose.
	foldVersion = 1
)

// Postgres returns the orchestrator of PostgreSQL clusters. The error names every fault of the configuration, or of the contract.
func Postgres(config Config) (stream.Definition, error) {
	config, err := config.withDefaults()
	if err != nil {
		return stream.Definition{}, err
	}
	kind := event.KindPostgres
	def := stream.Definition{
		Name:        Name,
		FoldVersion: foldVersion,
		Inputs: []stream.Input{
			{Topic: topics.State(kind), Table: StateTable}, {Topic: topics.Commands(kind)}, {Topic: topics.Heartbeats(kind)},
		},
		Changelog: topics.Workflows(kind),
		Outputs:   []string{topics.Orders(kind), topics.Outcomes(kind), topics.DeadLetter},
		Tables: []stream.Table{
			{Name: WorkflowsTable, Source: topics.Workflows(kind)}, {Name: StateTable, Source: topics.State(kind)},
		},
		Tick:       tick(&config, topics.Heartbeats(kind), config.TickEvery),
		DeadLetter: avrocodec.DeadLetters(config.Codec, Name),
		NewMachine: func(int32) stream.Machine { return newMachine(&config) },
	}
	return def, conform(&def)
}

// machine decides for the clusters of one task. Everything in it is soft.
type machine struct {
	config *Config

	state, commands, heartbeats, workflows, orders, outcomes string

	// generation is the assignment that the rest belongs to; started says that OrchestratorStarted was emitted in it.
	generation int64
	started    bool
	decoded    *decoded
	// deadlines say when to decide about a cluster again, forgets when a finished workflow's tombstone is due.
	deadlines, forgets *schedule
}

func newMachine(config *Config) *machine {
	kind := event.KindPostgres
	m := &machine{
		config: config, state: topics.State(kind), commands: topics.Commands(kind), heartbeats: topics.Heartbeats(kind),
		workflows: topics.Workflows(kind), orders: topics.Orders(kind), outcomes: topics.Outcomes(kind),
	}
	m.reset(0)
	return m
}

func (m *machine) reset(generation int64) {
	m.generation, m.started = generation, false
	m.decoded, m.deadlines, m.forgets = newDecoded(m.config.Codec), newSchedule(), newSchedule()
}

// Process implements [stream.Machine].
func (m *machine) Process(task stream.Task, rec *record.Record) error {
	if task.Generation() != m.generation {
		m.reset(task.Generation())
	}
	out := m.output(task, rec)
	if !m.started && task.CaughtUp() {
		if err := m.start(task, rec, out); err != nil {
			return err
		}
	}
	switch rec.Topic {
	case m.state:
		cluster, ok := clusterOf(rec.Key)
		if !ok || !m.started {
			return nil
		}
		return m.decide(task, rec, out, cluster, nil)
	case m.commands:
		return m.command(task, rec, out)
	case m.heartbeats:
		return m.pass(task, rec, out)
	default:
		return fmt.Errorf("process a record of topic %s: %s does not read it", rec.Topic, Name)
	}
}

// start takes the task over: it tells so, rebuilds the schedules from the tables, decides about every cluster, and answers the
// commands that had to wait.
func (m *machine) start(task stream.Task, rec *record.Record, out *output) error {
	m.started = true
	if err := m.announce(task, out); err != nil {
		return err
	}
	var clusters []event.ClusterID
	var pending []deferred
	for key, value := range task.Range(WorkflowsTable, []byte(string(event.KindPostgres)+"/")) {
		name := string(key)
		if isRecordKey(name) {
			clusters = append(clusters, event.ClusterID(name))
			continue
		}
		cluster, _, ok := strings.Cut(name, workflowInfix)
		if !ok {
			continue
		}
		w, err := load[schemas.Workflow](m.decoded, m.workflows, name, value)
		if err != nil {
			return err
		}
		m.sweep(event.ClusterID(cluster), w)
		if w.Status == schemas.WorkflowStatusPending && w.Request != nil {
			pending = append(pending, deferred{event.ClusterID(cluster), w})
		}
	}
	for _, cluster := range clusters {
		if err := m.decide(task, rec, out, cluster, nil); err != nil {
			return err
		}
	}
	slices.SortFunc(pending, func(a, b deferred) int { return cmp.Compare(a.workflow.RequestOffset, b.workflow.RequestOffset) })
	for _, p := range pending {
		if err := m.resume(task, rec, out, p); err != nil {
			return err
		}
	}
	return nil
}

// announce says OrchestratorStarted, once per assignment: the machine is made anew after an aborted transaction, too.
func (m *machine) announce(task stream.Task, out *output) error {
	id := strconv.Itoa(int(task.ID()))
	said, err := get[schemas.OrchestratorStarted](m, task, WorkflowsTable, startedPrefix+id)
	if err != nil {
		return err
	}
	started := &schemas.OrchestratorStarted{Task: task.ID(), Instance: m.config.Instance, Version: m.config.Version, Generation: task.Generation()}
	if said != nil && *said == *started {
		return nil
	}
	h := schemas.EnvelopeHeader{ID: out.derive("started"), Resource: Name + "/" + id, Sequence: task.StreamTime().UnixMicro()}
	return out.put(m.workflows, stream.OwnPartition, startedPrefix+id, h, started)
}

// decide asks the core about a cluster and emits what it owes.
func (m *machine) decide(task stream.Task, rec *record.Record, out *output, cluster event.ClusterID, command *decide.Command) error {
	v, err := m.view(task, rec, cluster, command != nil)
	if err != nil || v == nil {
		return err
	}
	if command != nil {
		v.Command = command
		if command.Earlier, err = get[schemas.Workflow](m, task, WorkflowsTable, workflowKey(cluster, command.ID)); err != nil {
			return err
		}
	}
	v.Turn = out.turn
	out.turn++
	d, err := safely(v)
	if err != nil {
		return out.bury("panic", fmt.Errorf("decide about %s: %w", cluster, err))
	}
	m.deadlines.set(string(cluster), d.Due)
	return out.decision(cluster, &d)
}

// safely decides, and returns what the core asserts in vain: then nothing is done about this cluster, and it is told, while all others
// go on.
func safely(v *decide.View) (d decide.Decision, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%v\n%s", p, debug.Stack())
		}
	}()
	return decide.Decide(v), nil
}

// pass lets stream time pass: clusters with a deadline that has come are decided about, and nothing else is looked at. What the
// record says does not matter.
func (m *machine) pass(task stream.Task, rec *record.Record, out *output) error {
	if !m.started {
		return nil
	}
	for {
		cluster, ok := m.deadlines.due(task.StreamTime())
		if !ok {
			return m.forget(task, out)
		}
		if err := m.decide(task, rec, out, event.ClusterID(cluster), nil); err != nil {
			return err
		}
	}
}

// drop emits a tombstone.
func (o *output) drop(topic, key string) {
	o.task.Emit(record.Record{Topic: topic, Partition: stream.OwnPartition, Key: []byte(key)})
}
