package fold

import (
	"math"
	"slices"
	"strings"
	"time"

	"github.com/regent-infra/regent/internal/event"
	"github.com/regent-infra/regent/internal/invariant"
	"github.com/regent-infra/regent/schemas"
)

// PostgresCluster is what is known of one PostgreSQL cluster: a part per node, and what was last emitted. It is immutable:
// [ApplyPostgres] returns another one.
type PostgresCluster struct {
	// ID is the cluster's id, such as postgres/orders.
	ID event.ClusterID
	// Nodes are the nodes that were observed and not forgotten, by name.
	Nodes []PostgresNode
	// State is the cluster's state as last emitted; nil before the first.
	State *schemas.PostgresClusterState
}

// PostgresNode is one node's part, and what was last emitted about it.
type PostgresNode struct {
	// Name is the node's name.
	Name string
	// Sequence is that of the last accepted observation.
	Sequence int64
	// Pulse is what the heartbeats partition says of it.
	Pulse Pulse
	// Derived is what follows for it.
	Derived PostgresDerived

	facts *facts
}

// PostgresDerived is what a node's state says besides its observation and its pulse.
type PostgresDerived struct {
	Health     schemas.Health
	Causes     []schemas.HealthCause
	LagBytes   *int64
	LagMs      *int64
	Saturation *float64
}

// Position says where in the log a fact stands.
type Position struct {
	Topic     string
	Partition int32
	Offset    int64
}

// PostgresEvent is what can happen to a PostgreSQL cluster in the reducer's eyes.
//
//sumtype:decl
type PostgresEvent interface{ postgresEvent() }

// NodeObserved brings the full current value of a node.
type NodeObserved struct {
	// Header is the envelope of the observation.
	Header schemas.EnvelopeHeader
	// Observed is its payload.
	Observed *schemas.PostgresNodeObserved
	// At is where it stands.
	At Position
	// Pulse is what is known of the node's heartbeats; its liveness is empty if nothing is, and then a known node keeps its own.
	Pulse Pulse
	// Guard is the sequence of the last observation that was accepted before the node was forgotten; 0 if it never was.
	Guard int64
}

// NodeForgotten deletes a node: its observation got a tombstone.
type NodeForgotten struct{ Node string }

// PulseChanged brings news of a node's heartbeats.
type PulseChanged struct {
	Node  string
	Pulse Pulse
}

func (NodeObserved) postgresEvent()  {}
func (NodeForgotten) postgresEvent() {}
func (PulseChanged) postgresEvent()  {}

// PostgresChanges says what has to be emitted: exactly what a consumer would see otherwise than it was last emitted.
type PostgresChanges struct {
	// Nodes are the nodes whose state has changed, by name.
	Nodes []PostgresNodeChange
	// Forgotten is the node whose state is to be deleted; empty if none is. Sequence is the guard that has to outlive it.
	Forgotten string
	Sequence  int64
	// Cluster is the cluster's new state; nil if it has not changed.
	Cluster *schemas.PostgresClusterState
	// ClusterForgotten says that the cluster's state is to be deleted, for its last node is gone.
	ClusterForgotten bool
}

// Empty reports whether nothing is to be emitted.
func (c PostgresChanges) Empty() bool {
	return len(c.Nodes) == 0 && c.Forgotten == "" && c.Cluster == nil && !c.ClusterForgotten
}

// PostgresNodeChange is the change of one node's state.
type PostgresNodeChange struct {
	Node    string
	Pulse   Pulse
	Derived PostgresDerived
	// Observation is set if a new one was accepted.
	Observation *NodeObserved
}

// State returns the node's whole new state, given the one that was last emitted. That may be nil if an observation was accepted.
func (c PostgresNodeChange) State(last *schemas.PostgresNodeState) *schemas.PostgresNodeState {
	var s schemas.PostgresNodeState
	if o := c.Observation; o != nil {
		s = schemas.PostgresNodeState{
			Node: c.Node, Observed: *o.Observed,
			ObservedAt: o.Header.OccurredAt, ObservedSequence: o.Header.Sequence,
			ObservedTopic: o.At.Topic, ObservedPartition: o.At.Partition, ObservedOffset: o.At.Offset,
			ObservedID: o.Header.ID, ObservedBootID: o.Header.BootID,
		}
	} else {
		invariant.Assert(last != nil, "a change of %s without observation builds on the state that was last emitted", c.Node)
		s = *last
	}
	s.Liveness = c.Pulse.Liveness
	s.HeartbeatIntervalMs, s.SuspectAfterMs = c.Pulse.IntervalMs, c.Pulse.SuspectAfterMs
	s.Health, s.Causes = c.Derived.Health, c.Derived.Causes
	s.LagBytes, s.LagMs, s.ConnectionSaturation = c.Derived.LagBytes, c.Derived.LagMs, c.Derived.Saturation
	return &s
}

// LoadPostgresNode takes a node's part out of its state as last emitted.
func LoadPostgresNode(id event.ClusterID, s *schemas.PostgresNodeState) PostgresNode {
	return PostgresNode{
		Name:     s.Node,
		Sequence: s.ObservedSequence,
		Pulse:    Pulse{Liveness: s.Liveness, IntervalMs: s.HeartbeatIntervalMs, SuspectAfterMs: s.SuspectAfterMs},
		Derived: PostgresDerived{
			Health: s.Health, Causes: s.Causes, LagBytes: s.LagBytes, LagMs: s.LagMs, Saturation: s.ConnectionSaturation,
		},
		facts: digest(string(id.Node(s.Node)), &s.Observed, s.ObservedAt),
	}
}

// LoadPostgres makes a cluster of its parts. state is nil if none was emitted yet.
func LoadPostgres(id event.ClusterID, nodes []PostgresNode, state *schemas.PostgresClusterState) PostgresCluster {
	nodes = slices.Clone(nodes)
	slices.SortFunc(nodes, func(a, b PostgresNode) int { return strings.Compare(a.Name, b.Name) })
	return PostgresCluster{ID: id, Nodes: nodes, State: state}
}

// ApplyPostgres folds one event into the cluster. A stale or repeated observation, and news of a node that is not known, change
// nothing. Whatever differs from what was last emitted is in the changes, also when the event is not its cause, as after a
// change of the fold itself.
func ApplyPostgres(c PostgresCluster, e PostgresEvent) (PostgresCluster, PostgresChanges) {
	var changes PostgresChanges
	next := PostgresCluster{ID: c.ID, Nodes: slices.Clone(c.Nodes), State: c.State}
	var observed *NodeObserved
	switch e := e.(type) {
	case NodeObserved:
		if !next.observe(e) {
			return c, changes
		}
		observed = &e
	case PulseChanged:
		i, known := next.find(e.Node)
		if !known {
			return c, changes
		}
		next.Nodes[i].Pulse = e.Pulse
	case NodeForgotten:
		i, known := next.find(e.Node)
		if !known {
			return c, changes
		}
		changes.Forgotten, changes.Sequence = e.Node, next.Nodes[i].Sequence
		next.Nodes = slices.Delete(next.Nodes, i, i+1)
		if len(next.Nodes) == 0 {
			next.State = nil
			changes.ClusterForgotten = c.State != nil
			return next, changes
		}
	}
	next.derive(c, observed, &changes)
	return next, changes
}

// find returns the index of the node, or where it belongs.
func (c *PostgresCluster) find(node string) (int, bool) {
	return slices.BinarySearchFunc(c.Nodes, node, func(n PostgresNode, name string) int { return strings.Compare(n.Name, name) })
}

// observe accepts an observation, or says no to a stale one.
func (c *PostgresCluster) observe(e NodeObserved) bool {
	node := e.Observed.Node
	i, known := c.find(node)
	guard := e.Guard
	if known {
		guard = c.Nodes[i].Sequence
	}
	if e.Header.Sequence <= guard {
		return false
	}
	if !known {
		c.Nodes = slices.Insert(c.Nodes, i, PostgresNode{Name: node, Pulse: Pulse{Liveness: schemas.LivenessUnknown}})
	}
	n := &c.Nodes[i]
	n.Sequence = e.Header.Sequence
	n.facts = digest(string(c.ID.Node(node)), e.Observed, e.Header.OccurredAt)
	if e.Pulse.Liveness != "" {
		n.Pulse = e.Pulse
	}
	return true
}

// derive computes what follows from the parts, keeps it in c, and notes what differs from last.
func (c *PostgresCluster) derive(last PostgresCluster, observed *NodeObserved, changes *PostgresChanges) {
	s := survey(c)
	for i := range c.Nodes {
		n := &c.Nodes[i]
		derived := s.derived(i)
		isNew := observed != nil && observed.Observed.Node == n.Name
		j, known := last.find(n.Name)
		same := known && last.Nodes[j].Pulse == n.Pulse && n.Derived.equal(derived)
		n.Derived = derived
		if same && !isNew {
			continue
		}
		change := PostgresNodeChange{Node: n.Name, Pulse: n.Pulse, Derived: derived}
		if isNew {
			change.Observation = observed
		}
		changes.Nodes = append(changes.Nodes, change)
	}
	if state := s.clusterState(); c.State == nil || !equalClusterStates(c.State, state) {
		c.State, changes.Cluster = state, state
	}
}

// derived returns what follows for the i-th node.
func (s *situation) derived(i int) PostgresDerived {
	n := &s.nodes[i]
	var d PostgresDerived
	isDiverged := false
	if s.primary != nil && n != s.primary {
		d.LagBytes, d.LagMs = lag(s.primary, n)
		isDiverged = diverged(s.primary.facts, n.facts)
	}
	if n.facts.saturation >= 0 {
		rounded := math.Round(n.facts.saturation*100) / 100
		d.Saturation = &rounded
	}
	d.Causes = derivedCauses(s.id, n, s.vouching(n), isDiverged, d.LagBytes, d.LagMs)
	d.Health = nodeHealth(d.Causes)
	return d
}

func (d PostgresDerived) equal(other PostgresDerived) bool {
	return d.Health == other.Health && slices.Equal(d.Causes, other.Causes) &&
		equalPointees(d.LagBytes, other.LagBytes) && equalPointees(d.LagMs, other.LagMs) && equalPointees(d.Saturation, other.Saturation)
}

func equalPointees[T comparable](a, b *T) bool {
	if a == nil || b == nil {
		return a == b
	}
	return *a == *b
}

// equalClusterStates compares all that a consumer can see.
func equalClusterStates(a, b *schemas.PostgresClusterState) bool {
	return a.Primary == b.Primary && a.Term == b.Term && a.Timeline == b.Timeline && a.SystemIdentifier == b.SystemIdentifier &&
		a.Health == b.Health && slices.Equal(a.Causes, b.Causes) && a.Analysis == b.Analysis && a.AnalysisDetail == b.AnalysisDetail &&
		slices.Equal(a.Members, b.Members) && a.Writable == b.Writable
}

// ForgottenGuards says whether a guard still holds against an observation that was appended at the given time.
func ForgottenGuards(g *schemas.ResourceForgotten, appended time.Time, window time.Duration) bool {
	return appended.Before(g.ForgottenAt.Add(window))
}
