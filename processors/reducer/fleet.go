package reducer

import (
	"errors"
	"fmt"

	"github.com/regent-infra/regent/internal/avrocodec"
	"github.com/regent-infra/regent/internal/event"
	"github.com/regent-infra/regent/internal/record"
	"github.com/regent-infra/regent/internal/stream"
	"github.com/regent-infra/regent/internal/topics"
	"github.com/regent-infra/regent/processors/fold"
	"github.com/regent-infra/regent/schemas"
)

const (
	// FleetName is the processor's name.
	FleetName = "reducer.fleet"
	// FleetTable is the table of the roll-ups as last emitted.
	FleetTable = "fleet"
	// FleetKey is the key of the roll-up over all kinds; that of one kind has the kind as its key.
	FleetKey = "fleet"
	// fleetFoldVersion rises with every change of what the roll-up makes of the same states.
	fleetFoldVersion = 1
)

// fleetInputs are the kinds that are rolled up. Each one's state topic is an input and a table.
var fleetInputs = []event.Kind{event.KindPostgres}

// Fleet returns the reducer that rolls up the states of all clusters. The error names every fault of the configuration, or of the contract.
func Fleet(config Config) (stream.Definition, error) {
	config, err := config.withDefaults()
	if err != nil {
		return stream.Definition{}, err
	}
	d := stream.Definition{
		Name:        FleetName,
		FoldVersion: fleetFoldVersion,
		Changelog:   topics.FleetState,
		Outputs:     []string{topics.DeadLetter},
		Tables:      []stream.Table{{Name: FleetTable, Source: topics.FleetState}},
		SingleTask:  true,
		DeadLetter:  avrocodec.DeadLetters(config.Codec, FleetName),
		Canonical:   canonical(&config, topics.FleetState),
		NewMachine:  func(int32) stream.Machine { return &fleetMachine{config: &config} },
	}
	for _, kind := range fleetInputs {
		d.Inputs = append(d.Inputs, stream.Input{Topic: topics.State(kind), Table: string(kind)})
		d.Tables = append(d.Tables, stream.Table{Name: string(kind), Source: topics.State(kind)})
	}
	return d, conform(&d, "contract_fleet.yaml", fleetContract)
}

// fleetMachine rolls up. It emits what differs from the table of what was last emitted; its sums are soft, and are made from
// the tables of the inputs when it starts.
type fleetMachine struct {
	config *Config
	// fleet is nil before the first record.
	fleet *fold.Fleet
	// emitted are the roll-ups as last seen in the table, by key.
	emitted map[string]rollup
}

// rollup is one entry of the table, decoded.
type rollup struct {
	slot  slot
	state *schemas.FleetState
}

// Process implements [stream.Machine].
func (m *fleetMachine) Process(task stream.Task, rec *record.Record) error {
	if !isClusterKey(rec.Key) {
		return nil // a node, or a guard: what a cluster says of its nodes is in its own state
	}
	id, err := event.ParseClusterID(string(rec.Key))
	if err != nil {
		return poison(reasonMisaddressed, "read the record's key: %w", err)
	}
	if m.fleet == nil {
		if err := m.gather(task); err != nil {
			return err
		}
	}
	header, state, err := m.read(rec.Topic, id, rec.Value)
	m.fleet.Put(id, state) // what cannot be read contributes nothing, as it will after the next start
	if err != nil {
		return err
	}
	var cause schemas.EnvelopeHeader
	if header != nil {
		cause = *header
	}
	out := newOutput(m.config, FleetName, task, topics.FleetState, rec, cause)
	for _, kind := range m.fleet.Kinds() {
		if err := m.tell(task, out, string(kind), m.fleet.State(kind)); err != nil {
			return err
		}
	}
	return m.tell(task, out, FleetKey, m.fleet.Total())
}

// read decodes what a cluster contributes; a tombstone is nothing.
func (m *fleetMachine) read(topic string, id event.ClusterID, value []byte) (*schemas.EnvelopeHeader, *schemas.PostgresClusterState, error) {
	if value == nil {
		return nil, nil, nil
	}
	e, err := m.config.Codec.Decode(topic, value)
	if err != nil {
		return nil, nil, undecodable(err)
	}
	state, ok := e.Payload.(*schemas.PostgresClusterState)
	if !ok || e.Cluster != string(id) {
		return nil, nil, poison(reasonMalformed, "the record is a %s of cluster %q, expected PostgresClusterState of its key %s", e.Type, e.Cluster, id)
	}
	return &e.EnvelopeHeader, state, nil
}

// gather adds up all clusters in the tables. What cannot be read there was a dead letter when it came.
func (m *fleetMachine) gather(task stream.Task) error {
	fleet := fold.NewFleet()
	for _, kind := range fleetInputs {
		for key, value := range task.Range(string(kind), []byte(string(kind)+"/")) {
			id, err := event.ParseClusterID(string(key))
			if err != nil || !isClusterKey(key) {
				continue
			}
			_, state, err := m.read(topics.State(kind), id, value)
			if p := (*stream.Poison)(nil); err != nil && !errors.As(err, &p) {
				return err
			}
			fleet.Put(id, state)
		}
	}
	m.fleet, m.emitted = fleet, map[string]rollup{}
	return nil
}

// tell emits a roll-up, unless the table says it already.
func (m *fleetMachine) tell(task stream.Task, out *output, key string, state *schemas.FleetState) error {
	last, err := m.last(task, key)
	if err != nil {
		return err
	}
	if last.state != nil && fold.EqualFleetStates(last.state, state) {
		return nil
	}
	delete(m.emitted, key)
	if last.slot.value, last.slot.sequence, err = out.put(last.slot.key, "", key, state, last.slot.sequence); err != nil {
		return err
	}
	m.emitted[key] = rollup{slot: last.slot, state: state}
	return nil
}

// last returns the roll-up as the table has it now.
func (m *fleetMachine) last(task stream.Task, key string) (rollup, error) {
	value, err := task.Get(FleetTable, []byte(key))
	if err != nil {
		return rollup{}, err
	}
	if known, ok := m.emitted[key]; ok && sameBytes(known.slot.value, value) {
		return known, nil
	}
	r := rollup{slot: slot{key: []byte(key), value: value}}
	if value != nil {
		e, state, err := decodeState[schemas.FleetState](m.config.Codec, topics.FleetState, value)
		if err != nil {
			return rollup{}, fmt.Errorf("read the roll-up %s: %w", key, err)
		}
		r.state, r.slot.sequence = state, e.Sequence
	}
	m.emitted[key] = r
	return r, nil
}
