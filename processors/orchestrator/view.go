package orchestrator

import (
	"bytes"
	"fmt"
	"strings"

	"github.com/regent-infra/regent/internal/event"
	"github.com/regent-infra/regent/internal/record"
	"github.com/regent-infra/regent/internal/stream"
	"github.com/regent-infra/regent/processors/decide"
	"github.com/regent-infra/regent/schemas"
)

// Parts of keys, as the package comment lists them.
const (
	workflowInfix = "/workflow/"
	nodeInfix     = "/node/"
	startedPrefix = "orchestrator/"
)

func workflowKey(cluster event.ClusterID, id string) string {
	return string(cluster) + workflowInfix + id
}

// maxDecoded bounds how many decoded values one task keeps; beyond it all are dropped and read again.
const maxDecoded = 1 << 14

// decoded remembers what bytes were decoded to. It is a cache of the tables and nothing else: an entry is only used while the table
// holds the very bytes that it was made from, so an aborted transaction cannot leave a wrong one behind. What it returns is shared:
// decisions work on copies.
type decoded struct {
	codec  event.Codec
	values map[string]remembered
}

type remembered struct {
	raw     []byte
	payload any
}

func newDecoded(codec event.Codec) *decoded {
	return &decoded{codec: codec, values: map[string]remembered{}}
}

// load decodes a value of a table. A failure is no poison: the orchestrator must not decide without its memory.
func load[T any](d *decoded, topic, key string, value []byte) (*T, error) {
	if value == nil {
		return nil, nil
	}
	if r, ok := d.values[topic+" "+key]; ok && sameBytes(r.raw, value) {
		if payload, ok := r.payload.(*T); ok {
			return payload, nil
		}
	}
	e, err := d.codec.Decode(topic, value)
	if err != nil {
		return nil, fmt.Errorf("read %s of %s: %s", key, topic, err) //nolint:errorlint // must not pass for a DecodeError of the input
	}
	payload, ok := e.Payload.(*T)
	if !ok {
		return nil, fmt.Errorf("read %s of %s: found a %s, expected a %T", key, topic, e.Type, payload)
	}
	if len(d.values) >= maxDecoded {
		clear(d.values)
	}
	d.values[topic+" "+key] = remembered{raw: value, payload: payload}
	return payload, nil
}

func sameBytes(a, b []byte) bool {
	return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0] || bytes.Equal(a, b))
}

// view reads all that bears on a decision about a cluster from the tables; for a cluster without a record only if somebody asks for
// it.
func (m *machine) view(task stream.Task, rec *record.Record, cluster event.ClusterID, asked bool) (*decide.View, error) {
	v := &decide.View{
		Cluster: cluster, Now: task.StreamTime(), CaughtUp: m.started,
		Origin: decide.Origin{Topic: rec.Topic, Partition: rec.Partition, Offset: rec.Offset},
	}
	var err error
	if v.Record, err = get[schemas.ClusterRecord](m, task, WorkflowsTable, string(cluster)); err != nil {
		return nil, err
	}
	if v.Record == nil && !asked {
		return nil, nil
	}
	if v.Record != nil && v.Record.ActiveWorkflow != "" {
		if v.Owner, err = get[schemas.Workflow](m, task, WorkflowsTable, workflowKey(cluster, v.Record.ActiveWorkflow)); err != nil {
			return nil, err
		}
	}
	if v.Record != nil {
		for _, id := range v.Record.Checks {
			check, err := get[schemas.Workflow](m, task, WorkflowsTable, workflowKey(cluster, id))
			if err != nil {
				return nil, err
			}
			v.Checks = append(v.Checks, check)
		}
	}
	for key, value := range task.Range(StateTable, []byte(string(cluster)+nodeInfix)) {
		n, err := load[schemas.PostgresNodeState](m.decoded, m.state, string(key), value)
		if err != nil {
			return nil, err
		}
		v.Nodes = append(v.Nodes, n)
	}
	v.State, err = get[schemas.PostgresClusterState](m, task, StateTable, string(cluster))
	return v, err
}

func get[T any](m *machine, task stream.Task, table, key string) (*T, error) {
	value, err := task.Get(table, []byte(key))
	if err != nil {
		return nil, fmt.Errorf("look up %s in the table %s: %w", key, table, err)
	}
	topic := m.state
	if table == WorkflowsTable {
		topic = m.workflows
	}
	return load[T](m.decoded, topic, key, value)
}

// clusterOf returns the cluster that a key of the state topic belongs to; false if it is none that decisions are about.
func clusterOf(key []byte) (event.ClusterID, bool) {
	resource, err := event.ParseResourceID(string(key))
	if err != nil {
		return "", false
	}
	return resource.Cluster(), resource.Cluster().Kind() == event.KindPostgres
}

// isRecordKey reports whether a key of the workflows topic is a cluster's record.
func isRecordKey(key string) bool {
	return strings.Count(key, "/") == 1 && !strings.HasPrefix(key, startedPrefix)
}
