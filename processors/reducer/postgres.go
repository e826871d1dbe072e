package reducer

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/regent-infra/regent/internal/avrocodec"
	"github.com/regent-infra/regent/internal/event"
	"github.com/regent-infra/regent/internal/record"
	"github.com/regent-infra/regent/internal/stream"
	"github.com/regent-infra/regent/internal/topics"
	"github.com/regent-infra/regent/processors/fold"
	"github.com/regent-infra/regent/schemas"
)

const (
	// PostgresName is the processor's name.
	PostgresName = "reducer.postgres"
	// StateTable is the table of the changelog: the state as last emitted.
	StateTable = "state"
	// postgresFoldVersion rises with every change of what processors/fold makes of the same facts.
	postgresFoldVersion = 1

	// recheckEvery is how often, by append time, silent nodes are compared with the table again, and recheckLimit how many at once.
	recheckEvery = time.Second
	recheckLimit = 256
)

// Postgres returns the reducer of PostgreSQL nodes and clusters. The error names every fault of the configuration, or of the contract.
func Postgres(config Config) (stream.Definition, error) {
	config, err := config.withDefaults()
	if err != nil {
		return stream.Definition{}, err
	}
	kind := event.KindPostgres
	def := stream.Definition{
		Name:        PostgresName,
		FoldVersion: postgresFoldVersion,
		Inputs:      []stream.Input{{Topic: topics.Observations(kind), Looks: StateTable}, {Topic: topics.Heartbeats(kind), Looks: StateTable}},
		Changelog:   topics.State(kind),
		Outputs:     []string{topics.DeadLetter},
		Tables:      []stream.Table{{Name: StateTable, Source: topics.State(kind)}},
		Tick:        tick(&config, PostgresName, topics.Heartbeats(kind)),
		DeadLetter:  avrocodec.DeadLetters(config.Codec, PostgresName),
		Canonical:   canonical(&config, topics.State(kind)),
		NewMachine:  func(int32) stream.Machine { return newPostgresMachine(&config) },
	}
	return def, conform(&def, "contract.yaml", postgresContract)
}

// postgresMachine folds the records of one task. Everything in it is soft.
type postgresMachine struct {
	config       *Config
	observations string
	heartbeats   string
	state        string

	views     viewCache
	addresses map[string]address
	// beats reads heartbeats: nothing of them is kept.
	beats   event.Decoder
	silence *fold.Silence
	// tookOver: the table has been read for nodes that were alive, and for guards.
	tookOver bool
	// rechecked is the append time of the last comparison of silent nodes with the table.
	rechecked time.Time
	// guards are those in the table, the oldest first.
	guards []guard
}

// guard is a ResourceForgotten in the table.
type guard struct {
	key         string
	forgottenAt time.Time
}

func newPostgresMachine(config *Config) *postgresMachine {
	return &postgresMachine{
		config:       config,
		observations: topics.Observations(event.KindPostgres),
		heartbeats:   topics.Heartbeats(event.KindPostgres),
		state:        topics.State(event.KindPostgres),
		views:        newViewCache(config.Codec, topics.State(event.KindPostgres)),
		addresses:    map[string]address{},
		beats:        config.Codec.NewDecoder(),
		silence:      fold.NewSilence(),
	}
}

// Process implements [stream.Machine].
func (m *postgresMachine) Process(task stream.Task, rec *record.Record) error {
	switch rec.Topic {
	case m.observations:
		if rec.Tombstone() {
			return m.forget(task, rec)
		}
		return m.observe(task, rec)
	case m.heartbeats:
		return m.beat(task, rec)
	default:
		return fmt.Errorf("process a record of topic %s: %s does not read it", rec.Topic, PostgresName)
	}
}

// address is a node that was found to belong into this task.
type address struct {
	resource event.ResourceID
	cluster  event.ClusterID
	node     string
}

// maxAddresses bounds how many checked addresses are remembered, for checking one costs as much as folding a heartbeat.
const maxAddresses = 2 * maxViewNodes

// address checks that an event about a node stands where it belongs, and returns the node.
func (m *postgresMachine) address(rec *record.Record, header *schemas.EnvelopeHeader) (address, error) {
	a, err := m.resource(rec, header.Resource)
	if err != nil {
		return a, err
	}
	if header.Cluster != string(a.cluster) {
		return a, poison(reasonMisaddressed, "the event says cluster %q, but its resource is %s", header.Cluster, a.resource)
	}
	return a, nil
}

// resource checks that name is the record's key, and a node of a PostgreSQL cluster whose partition is the record's.
func (m *postgresMachine) resource(rec *record.Record, name string) (address, error) {
	if string(rec.Key) != name {
		return address{}, poison(reasonMisaddressed, "the record's key is %q, expected the resource %s", clip(rec.Key), clip([]byte(name)))
	}
	if a, known := m.addresses[name]; known {
		return a, nil
	}
	name = strings.Clone(name) // it is remembered: the rest of its event need not be
	resource, err := event.ParseResourceID(name)
	if err != nil {
		return address{}, poison(reasonMisaddressed, "read what the event is about: %w", err)
	}
	a := address{resource: resource, cluster: resource.Cluster(), node: resource.Node()}
	switch {
	case a.node == "" || a.cluster.Kind() != event.KindPostgres:
		return a, poison(reasonMisaddressed, "the event is about %s, expected a node such as postgres/orders/node/pg-1", resource)
	case m.config.Partitions > 0 && event.Partition(a.cluster, m.config.Partitions) != rec.Partition:
		return a, poison(reasonMisaddressed, "%s belongs to partition %d of %d: the producer must partition by murmur2 of the cluster id",
			a.cluster, event.Partition(a.cluster, m.config.Partitions), m.config.Partitions)
	}
	if len(m.addresses) >= maxAddresses {
		clear(m.addresses)
	}
	m.addresses[name] = a
	return a, nil
}

// observe folds an observation.
func (m *postgresMachine) observe(task stream.Task, rec *record.Record) error {
	e, err := m.config.Codec.Decode(rec.Topic, rec.Value)
	if err != nil {
		return undecodable(err)
	}
	observed, ok := e.Payload.(*schemas.PostgresNodeObserved)
	if !ok {
		return poison(reasonMalformed, "the payload is %s, expected PostgresNodeObserved", e.Type)
	}
	a, err := m.address(rec, &e.EnvelopeHeader)
	if err != nil {
		return err
	}
	switch {
	case observed.Node != a.node:
		return poison(reasonMalformed, "the observation says node %q, but its resource is %s", observed.Node, a.resource)
	case e.Sequence < 1:
		return poison(reasonMalformed, "the sequence is %d, expected 1 or more", e.Sequence)
	}
	v, err := m.views.load(task, a.cluster)
	if err != nil {
		return err
	}
	fact := fold.NodeObserved{
		Header: e.EnvelopeHeader, Observed: observed,
		At: fold.Position{Topic: rec.Topic, Partition: rec.Partition, Offset: rec.Offset},
	}
	returned := false
	if !v.has(observed.Node) {
		if fact.Guard, returned, err = m.guardOf(task, a.resource, rec.Timestamp); err != nil {
			return err
		}
	}
	fact.Pulse, _ = m.silence.Pulse(string(a.resource))
	out := newOutput(m.config, PostgresName, task, m.state, rec, e.EnvelopeHeader)
	accepted, err := m.views.apply(task, out, v, fact)
	if err != nil || !accepted {
		return err
	}
	if returned {
		out.drop(guardKey(a.resource))
	}
	// A node that was never heard is expected to beat from now on, else one that never does would stay UNKNOWN for ever.
	if m.tookOver && fact.Pulse.Liveness == "" {
		if pulse, known := m.views.pulse(a); known && pulse.Liveness != schemas.LivenessSuspect {
			m.silence.Expect(string(a.resource), pulse)
		}
	}
	return nil
}

// guardOf returns the sequence that a forgotten node has to exceed to come back; present says that there is a guard in the table.
func (m *postgresMachine) guardOf(task stream.Task, resource event.ResourceID, appended time.Time) (sequence int64, present bool, err error) {
	value, err := task.Get(StateTable, guardKey(resource))
	if err != nil || value == nil {
		return 0, false, err
	}
	_, g, err := decodeState[schemas.ResourceForgotten](m.config.Codec, m.state, value)
	if err != nil {
		return 0, true, fmt.Errorf("read the guard of %s: %w", resource, err)
	}
	if !fold.ForgottenGuards(g, appended, m.config.HistoryWindow) {
		return 0, true, nil
	}
	return g.Sequence, true, nil
}

// forget folds a tombstone: the node's state goes, a guard stays.
func (m *postgresMachine) forget(task stream.Task, rec *record.Record) error {
	a, err := m.resource(rec, string(rec.Key))
	if err != nil {
		return err
	}
	v, err := m.views.load(task, a.cluster)
	if err != nil || !v.has(a.node) {
		return err
	}
	sequence := v.guard(a.node)
	out := newOutput(m.config, PostgresName, task, m.state, rec, schemas.EnvelopeHeader{})
	if _, err := m.views.apply(task, out, v, fold.NodeForgotten{Node: a.node}); err != nil {
		return err
	}
	key := guardKey(a.resource)
	forgotten := &schemas.ResourceForgotten{Resource: string(a.resource), Sequence: sequence, ForgottenAt: rec.Timestamp}
	if _, _, err := out.put(key, string(a.cluster), string(a.resource), forgotten, 0); err != nil {
		return err
	}
	if m.tookOver {
		m.guards = append(m.guards, guard{key: string(key), forgottenAt: rec.Timestamp})
	}
	return nil
}

// beat lets time pass, and notes who lives.
func (m *postgresMachine) beat(task stream.Task, rec *record.Record) error {
	if rec.Tombstone() {
		return poison(reasonMalformed, "a heartbeat cannot be deleted: this topic holds no values per key")
	}
	e, err := m.beats.Decode(rec.Topic, rec.Value)
	if err != nil {
		return undecodable(err)
	}
	var beaten string
	var suspects []string
	switch p := e.Payload.(type) {
	case *schemas.StreamTicked:
		if err := m.takeOver(task); err != nil {
			return err
		}
		suspects = m.silence.Pass(rec.Timestamp)
	case *schemas.NodeHeartbeat:
		a, err := m.address(rec, &e.EnvelopeHeader)
		if err != nil {
			return err
		}
		if err := m.takeOver(task); err != nil {
			return err
		}
		beaten = string(a.resource)
		suspects = m.silence.Beat(rec.Timestamp, beaten, p.IntervalMs, p.SuspectAfterMs)
	default:
		return poison(reasonMalformed, "the payload is %s, expected NodeHeartbeat or StreamTicked", e.Type)
	}
	out := newOutput(m.config, PostgresName, task, m.state, rec, e.EnvelopeHeader)
	if beaten != "" {
		if err := m.tell(task, out, beaten); err != nil {
			return err
		}
	}
	if rec.Timestamp.Sub(m.rechecked).Abs() >= recheckEvery {
		m.rechecked = rec.Timestamp
		suspects = append(suspects, m.silence.Suspects(recheckLimit)...)
	}
	for _, name := range suspects {
		if err := m.tell(task, out, name); err != nil {
			return err
		}
	}
	return m.clearGuards(task, out, rec.Timestamp)
}

// tell folds what the heartbeats say of a node, unless the table says it already.
func (m *postgresMachine) tell(task stream.Task, out *output, resource string) error {
	pulse, known := m.silence.Pulse(resource)
	if !known {
		return nil
	}
	a, known := m.addresses[resource]
	if !known {
		id := event.ResourceID(resource)
		a = address{resource: id, cluster: id.Cluster(), node: id.Node()}
	}
	said, err := m.views.says(task, a, pulse)
	if err != nil || said {
		return err
	}
	v, err := m.views.load(task, a.cluster)
	if err != nil {
		return err
	}
	_, err = m.views.apply(task, out, v, fold.PulseChanged{Node: a.node, Pulse: pulse})
	return err
}

// takeOver reads the table once: what was not silent when last emitted is expected to beat from now on, and guards are to be cleared.
func (m *postgresMachine) takeOver(task stream.Task) error {
	if m.tookOver {
		return nil
	}
	for key, value := range task.Range(StateTable, []byte(string(event.KindPostgres)+"/")) {
		switch name := string(key); {
		case strings.Contains(name, nodeInfix):
			_, s, err := decodeState[schemas.PostgresNodeState](m.config.Codec, m.state, value)
			if err != nil {
				return fmt.Errorf("read the state of %s: %w", name, err)
			}
			if s.Liveness != schemas.LivenessSuspect {
				m.silence.Expect(name, fold.Pulse{Liveness: s.Liveness, IntervalMs: s.HeartbeatIntervalMs, SuspectAfterMs: s.SuspectAfterMs})
			}
		case strings.Contains(name, guardInfix):
			_, g, err := decodeState[schemas.ResourceForgotten](m.config.Codec, m.state, value)
			if err != nil {
				return fmt.Errorf("read the guard %s: %w", name, err)
			}
			m.guards = append(m.guards, guard{key: name, forgottenAt: g.ForgottenAt})
		}
	}
	slices.SortStableFunc(m.guards, func(a, b guard) int { return a.forgottenAt.Compare(b.forgottenAt) })
	m.tookOver = true
	return nil
}

// clearGuards deletes guards that hold no more. A guard may have been renewed, or the node may be back: the table decides.
func (m *postgresMachine) clearGuards(task stream.Task, out *output, now time.Time) error {
	for len(m.guards) > 0 && !now.Before(m.guards[0].forgottenAt.Add(m.config.HistoryWindow)) {
		g := m.guards[0]
		value, err := task.Get(StateTable, []byte(g.key))
		if err != nil {
			return err
		}
		if value != nil {
			_, kept, err := decodeState[schemas.ResourceForgotten](m.config.Codec, m.state, value)
			if err != nil {
				return fmt.Errorf("read the guard %s: %w", g.key, err)
			}
			if kept.ForgottenAt.Equal(g.forgottenAt) {
				out.drop([]byte(g.key))
			}
		}
		m.guards = m.guards[1:]
	}
	return nil
}

// clip bounds a key from outside for a message.
func clip(b []byte) []byte { return b[:min(len(b), 200)] }
