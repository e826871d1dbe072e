package reducer

import (
	"bytes"
	"fmt"
	"strings"

	"github.com/regent-infra/regent/internal/event"
	"github.com/regent-infra/regent/internal/stream"
	"github.com/regent-infra/regent/processors/fold"
	"github.com/regent-infra/regent/schemas"
)

// Parts of keys, as the package comment lists them.
const (
	nodeInfix  = "/node/"
	guardInfix = "/forgotten/"
)

func guardKey(resource event.ResourceID) []byte {
	return []byte(string(resource.Cluster()) + guardInfix + resource.Node())
}

// maxViewNodes bounds how many nodes the views of one task hold together; beyond it all views are dropped and made anew.
const maxViewNodes = 1 << 15

// viewCache holds the decoded, small form of clusters. It is a cache of the table and nothing else: whatever it returns was
// compared with the table's bytes just before.
type viewCache struct {
	codec event.Codec
	topic string
	views map[event.ClusterID]*view
	nodes int
}

// view is one cluster and the bytes that it was made from.
type view struct {
	cluster fold.PostgresCluster
	// slots are those of cluster.Nodes, in the same order.
	slots []slot
	state slot
}

// slot is one entry of the table: its key, its value as last seen, and the sequence of its envelope.
type slot struct {
	key, value []byte
	sequence   int64
}

func newViewCache(codec event.Codec, topic string) viewCache {
	return viewCache{codec: codec, topic: topic, views: map[event.ClusterID]*view{}}
}

// decodeState reads one of the reducer's own records. A failure is no poison: the reducer must not go on without its memory.
func decodeState[T any](codec event.Codec, topic string, value []byte) (*event.Event, *T, error) {
	e, err := codec.Decode(topic, value)
	if err != nil {
		return nil, nil, fmt.Errorf("decode the reducer's own record of %s: %s", topic, err) //nolint:errorlint // must not pass for a DecodeError of the input
	}
	payload, ok := e.Payload.(*T)
	if !ok {
		return nil, nil, fmt.Errorf("decode the reducer's own record of %s: found a %s, expected a %T", topic, e.Type, payload)
	}
	return e, payload, nil
}

// has says whether the node is known.
func (v *view) has(node string) bool { return v.find(node) >= 0 }

// guard returns the sequence of the node's last accepted observation.
func (v *view) guard(node string) int64 { return v.cluster.Nodes[v.find(node)].Sequence }

func (v *view) find(node string) int {
	for i := range v.cluster.Nodes {
		if v.cluster.Nodes[i].Name == node {
			return i
		}
	}
	return -1
}

// current says whether the slot's value is still that of the table.
func (s *slot) current(task stream.Task) (bool, error) {
	value, err := task.Get(StateTable, s.key)
	if err != nil {
		return false, err
	}
	return sameBytes(s.value, value), nil
}

// sameBytes compares two values; most of the time they are one and the same.
func sameBytes(a, b []byte) bool {
	if len(a) != len(b) || (a == nil) != (b == nil) {
		return false
	}
	return len(a) == 0 || &a[0] == &b[0] || bytes.Equal(a, b)
}

// current says whether the view agrees with the table. The set of nodes needs no look of its own: it cannot change without the
// cluster's state.
func (v *view) current(task stream.Task) (bool, error) {
	if ok, err := v.state.current(task); err != nil || !ok {
		return false, err
	}
	for i := range v.slots {
		if ok, err := v.slots[i].current(task); err != nil || !ok {
			return false, err
		}
	}
	return true, nil
}

// says tells whether the table already holds the pulse for the node, or no such node, with one look at the table if the view has it.
func (c *viewCache) says(task stream.Task, a address, pulse fold.Pulse) (bool, error) {
	v, i := c.views[a.cluster], -1
	if v != nil {
		i = v.find(a.node)
	}
	if i < 0 {
		value, err := task.Get(StateTable, []byte(a.resource))
		return value == nil, err
	}
	ok, err := v.slots[i].current(task)
	return ok && v.cluster.Nodes[i].Pulse == pulse, err
}

// pulse returns what the view of its cluster, as last applied, says of the node.
func (c *viewCache) pulse(a address) (fold.Pulse, bool) {
	if v := c.views[a.cluster]; v != nil {
		if i := v.find(a.node); i >= 0 {
			return v.cluster.Nodes[i].Pulse, true
		}
	}
	return fold.Pulse{}, false
}

// load returns the view of a cluster as the table has it now. An unknown cluster has an empty one.
func (c *viewCache) load(task stream.Task, id event.ClusterID) (*view, error) {
	if v := c.views[id]; v != nil {
		if ok, err := v.current(task); err != nil || ok {
			return v, err
		}
		c.remove(id)
	}
	v := &view{state: slot{key: []byte(id)}}
	var nodes []fold.PostgresNode
	for key, value := range task.Range(StateTable, []byte(string(id)+nodeInfix)) {
		e, s, err := decodeState[schemas.PostgresNodeState](c.codec, c.topic, value)
		if err != nil {
			return nil, err
		}
		nodes = append(nodes, fold.LoadPostgresNode(id, s))
		v.slots = append(v.slots, slot{key: bytes.Clone(key), value: value, sequence: e.Sequence})
	}
	var state *schemas.PostgresClusterState
	value, err := task.Get(StateTable, v.state.key)
	if err != nil {
		return nil, err
	}
	if value != nil {
		e, s, err := decodeState[schemas.PostgresClusterState](c.codec, c.topic, value)
		if err != nil {
			return nil, err
		}
		v.state.value, v.state.sequence, state = value, e.Sequence, s
	}
	v.cluster = fold.LoadPostgres(id, nodes, state)
	c.keep(id, v)
	return v, nil
}

func (c *viewCache) keep(id event.ClusterID, v *view) {
	if c.nodes+len(v.slots) > maxViewNodes {
		clear(c.views)
		c.nodes = 0
	}
	c.views[id] = v
	c.nodes += len(v.slots)
}

func (c *viewCache) remove(id event.ClusterID) {
	if v := c.views[id]; v != nil {
		c.nodes -= len(v.slots)
		delete(c.views, id)
	}
}

// apply folds one event into the cluster and emits what has changed; accepted says whether anything has. While it is at it the view is
// not in the cache: if it fails, the next one to need it reads the table.
func (c *viewCache) apply(task stream.Task, out *output, v *view, e fold.PostgresEvent) (accepted bool, err error) {
	id := v.cluster.ID
	next, changes := fold.ApplyPostgres(v.cluster, e)
	if changes.Empty() {
		return false, nil
	}
	c.remove(id)
	after := &view{cluster: next, slots: v.slots, state: v.state}
	if len(next.Nodes) != len(v.cluster.Nodes) {
		after.slots = v.rearranged(next)
	}
	for _, change := range changes.Nodes {
		if err := c.emitNode(out, after, change); err != nil {
			return false, err
		}
	}
	if changes.Forgotten != "" {
		out.drop([]byte(id.Node(changes.Forgotten)))
	}
	switch {
	case changes.ClusterForgotten:
		out.drop(v.state.key)
		return true, nil
	case changes.Cluster != nil:
		s := &after.state
		if s.value, s.sequence, err = out.put(s.key, string(id), string(id), changes.Cluster, s.sequence); err != nil {
			return false, err
		}
	}
	c.keep(id, after)
	return true, nil
}

// rearranged returns the slots for another set of nodes.
func (v *view) rearranged(next fold.PostgresCluster) []slot {
	slots := make([]slot, len(next.Nodes))
	for i, n := range next.Nodes {
		if j := v.find(n.Name); j >= 0 {
			slots[i] = v.slots[j]
		} else {
			slots[i].key = []byte(next.ID.Node(n.Name))
		}
	}
	return slots
}

// emitNode emits the changed state of one node and notes it in the view.
func (c *viewCache) emitNode(out *output, v *view, change fold.PostgresNodeChange) error {
	s := &v.slots[v.find(change.Node)]
	var last *schemas.PostgresNodeState
	if change.Observation == nil {
		var err error
		if _, last, err = decodeState[schemas.PostgresNodeState](c.codec, c.topic, s.value); err != nil {
			return err
		}
	}
	id := v.cluster.ID
	value, sequence, err := out.put(s.key, string(id), string(s.key), change.State(last), s.sequence)
	if err != nil {
		return err
	}
	s.value, s.sequence = value, sequence
	return nil
}

// isClusterKey says whether a key of the state topic is a cluster's.
func isClusterKey(key []byte) bool { return strings.Count(string(key), "/") == 1 }
