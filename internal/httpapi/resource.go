package httpapi

import (
	"cmp"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/regent-infra/regent/internal/event"
	"github.com/regent-infra/regent/internal/topics"
	"github.com/regent-infra/regent/schemas"
)

// Resource is one value with where it stands in the log.
type Resource struct {
	// ID is the resource id, or the record key for what is no resource.
	ID string `json:"id"`
	// Type is the record name of the value.
	Type string `json:"type"`
	// Since is when its health or status became what it is.
	Since time.Time `json:"since"`
	// UpdatedAt is when the broker took the last change.
	UpdatedAt time.Time `json:"updated_at"`
	// Position is where that change stands.
	Position Position `json:"position"`
	// EventID is the envelope id of that change, and CausationID that of the event which it follows from.
	EventID     string `json:"event_id"`
	CausationID string `json:"causation_id"`
	// Value is the record; null if it was deleted.
	Value any `json:"value"`
}

// Position is a place in the log.
type Position struct {
	Topic     string `json:"topic"`
	Partition int32  `json:"partition"`
	Offset    int64  `json:"offset"`
}

func resourceOf(e Entry) Resource {
	r := Resource{
		ID: e.Key, Since: e.Since, UpdatedAt: e.Timestamp,
		Position: Position{Topic: e.Topic, Partition: e.Partition, Offset: e.Offset},
	}
	if e.Event != nil {
		r.Type, r.Value, r.EventID, r.CausationID = e.Event.Type, e.Event.Payload, e.Event.ID, e.Event.CausationID
	}
	return r
}

// stateTopics are the topics that resources are read from.
func (s *Server) stateTopics() []string {
	names := []string{}
	for _, kind := range s.kinds() {
		names = append(names, topics.State(kind))
	}
	return append(names, topics.FleetState)
}

func (s *Server) kinds() []event.Kind {
	var kinds []event.Kind
	for _, t := range s.config.Set.All() {
		if t.Kind != "" && !slices.Contains(kinds, t.Kind) {
			kinds = append(kinds, t.Kind)
		}
	}
	return kinds
}

func (s *Server) resources(r *http.Request) (any, error) {
	limit, err := limitOf(r)
	if err != nil {
		return nil, err
	}
	prefix, recordType := r.URL.Query().Get("prefix"), r.URL.Query().Get("type")
	if recordType != "" && schemas.NewRecord(recordType) == nil {
		return nil, badRequest("type %q is no record, expected one such as PostgresNodeState", recordType)
	}
	found := []Resource{}
	for _, topic := range s.stateTopics() {
		entries, err := s.config.View.List(topic, prefix)
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			if recordType == "" && e.Event.Type == "ResourceForgotten" || recordType != "" && e.Event.Type != recordType {
				continue
			}
			found = append(found, resourceOf(e))
		}
	}
	total := len(found)
	return map[string]any{"resources": found[:min(limit, total)], "total": total}, nil
}

func limitOf(r *http.Request) (int, error) {
	text := r.URL.Query().Get("limit")
	if text == "" {
		return defaultList, nil
	}
	limit, err := strconv.Atoi(text)
	if err != nil || limit < 1 || limit > maxList {
		return 0, badRequest("limit %q, expected a number from 1 to %d", text, maxList)
	}
	return limit, nil
}

func (s *Server) resource(r *http.Request) (any, error) {
	id := r.PathValue("id")
	if id == "fleet" {
		return s.one(topics.FleetState, "fleet", "the fleet reducer has said nothing yet")
	}
	resource, err := event.ParseResourceID(id)
	if err != nil {
		return nil, badRequest("%v", err)
	}
	kind := resource.Cluster().Kind()
	if s.config.Set.Partitions(kind) == 0 {
		return nil, notFound("%s: there is no kind %s, expected one of %v", id, kind, s.kinds())
	}
	return s.one(topics.State(kind), id, "its agent may never have reported, or the name is wrong: /v1/resources lists all")
}

func (s *Server) one(topic, key, hint string) (any, error) {
	e, ok, err := s.config.View.Get(topic, key)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, notFound("%s: there is no such resource; %s", key, hint)
	}
	return resourceOf(e), nil
}

// Cluster is everything about one cluster.
type Cluster struct {
	// ID is the cluster id, such as postgres/orders.
	ID string `json:"id"`
	// State is the consolidated state; null if no agent has reported.
	State *schemas.PostgresClusterState `json:"state"`
	// Since is when its health became what it is.
	Since time.Time `json:"since"`
	// StatePosition is where the state stands.
	StatePosition *Position `json:"state_position"`
	// Record is the decided state; null if the cluster was never initialised.
	Record *schemas.ClusterRecord `json:"record"`
	// RecordPosition is where it stands.
	RecordPosition *Position `json:"record_position"`
	// Nodes are the states of its nodes, by name.
	Nodes []Resource `json:"nodes"`
	// Workflow is the one that owns the cluster now; null if none.
	Workflow *schemas.Workflow `json:"workflow"`
	// LastWorkflow is the one that ended last; null if none.
	LastWorkflow *schemas.Workflow `json:"last_workflow"`
}

func (s *Server) clusters(*http.Request) (any, error) {
	all, err := s.gather("")
	if err != nil {
		return nil, err
	}
	return map[string][]Cluster{"clusters": all}, nil
}

func (s *Server) cluster(r *http.Request) (any, error) {
	id, err := event.ParseClusterID(r.PathValue("kind") + "/" + r.PathValue("name"))
	if err != nil {
		return nil, badRequest("%v", err)
	}
	all, err := s.gather(string(id))
	if err != nil {
		return nil, err
	}
	if len(all) == 0 {
		return nil, notFound("%s: there is no such cluster; no agent has reported for it and no command has created it", id)
	}
	return all[0], nil
}

// gather joins state and decisions into clusters, by id. only, where not empty, is the one id that is wanted.
func (s *Server) gather(only string) ([]Cluster, error) {
	byID := map[string]*Cluster{}
	at := func(id string) *Cluster {
		if byID[id] == nil {
			byID[id] = &Cluster{ID: id, Nodes: []Resource{}}
		}
		return byID[id]
	}
	wanted := func(id string) bool { return only == "" || id == only }
	for _, kind := range s.kinds() {
		states, err := s.config.View.List(topics.State(kind), only)
		if err != nil {
			return nil, err
		}
		for _, e := range states {
			cluster := string(event.ResourceID(e.Key).Cluster())
			if !wanted(cluster) {
				continue
			}
			switch value := e.Event.Payload.(type) {
			case *schemas.PostgresClusterState:
				c := at(cluster)
				c.State, c.Since, c.StatePosition = value, e.Since, &Position{e.Topic, e.Partition, e.Offset}
			case *schemas.PostgresNodeState:
				c := at(cluster)
				c.Nodes = append(c.Nodes, resourceOf(e))
			}
		}
		decided, err := s.config.View.List(topics.Workflows(kind), only)
		if err != nil {
			return nil, err
		}
		for _, e := range decided {
			if cluster := string(event.ResourceID(e.Key).Cluster()); wanted(cluster) {
				decidedInto(e, cluster, at)
			}
		}
	}
	all := make([]Cluster, 0, len(byID))
	for _, c := range byID {
		all = append(all, *c)
	}
	slices.SortFunc(all, func(a, b Cluster) int { return cmp.Compare(a.ID, b.ID) })
	return all, nil
}

func decidedInto(e Entry, cluster string, at func(string) *Cluster) {
	switch value := e.Event.Payload.(type) {
	case *schemas.ClusterRecord:
		c := at(cluster)
		c.Record, c.RecordPosition = value, &Position{e.Topic, e.Partition, e.Offset}
	case *schemas.Workflow:
		c := at(cluster)
		switch {
		case value.Status == schemas.WorkflowStatusRunning && value.Kind != schemas.WorkflowKindCheckHealth:
			c.Workflow = value
		case value.FinishedAt != nil && (c.LastWorkflow == nil || c.LastWorkflow.FinishedAt.Before(*value.FinishedAt)):
			c.LastWorkflow = value
		}
	}
}

// WorkflowRun is a workflow with its cluster and where its last change stands.
type WorkflowRun struct {
	Cluster  string   `json:"cluster"`
	Position Position `json:"position"`
	*schemas.Workflow
}

func (s *Server) allWorkflows() ([]WorkflowRun, error) {
	runs := []WorkflowRun{}
	for _, kind := range s.kinds() {
		entries, err := s.config.View.List(topics.Workflows(kind), "")
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			if w, ok := e.Event.Payload.(*schemas.Workflow); ok {
				runs = append(runs, WorkflowRun{
					Cluster: string(event.ResourceID(e.Key).Cluster()), Position: Position{e.Topic, e.Partition, e.Offset}, Workflow: w,
				})
			}
		}
	}
	slices.SortFunc(runs, func(a, b WorkflowRun) int {
		return cmp.Or(b.StartedAt.Compare(a.StartedAt), cmp.Compare(b.ID, a.ID))
	})
	return runs, nil
}

func (s *Server) workflows(r *http.Request) (any, error) {
	limit, err := limitOf(r)
	if err != nil {
		return nil, err
	}
	runs, err := s.allWorkflows()
	if err != nil {
		return nil, err
	}
	q := r.URL.Query()
	for _, filter := range []struct {
		name  string
		value func(WorkflowRun) string
	}{
		{"cluster", func(w WorkflowRun) string { return w.Cluster }},
		{"status", func(w WorkflowRun) string { return string(w.Status) }},
		{"kind", func(w WorkflowRun) string { return string(w.Kind) }},
	} {
		if want := q.Get(filter.name); want != "" {
			runs = slices.DeleteFunc(runs, func(w WorkflowRun) bool { return !strings.EqualFold(filter.value(w), want) })
		}
	}
	return map[string]any{"workflows": runs[:min(limit, len(runs))], "total": len(runs)}, nil
}

func (s *Server) workflow(r *http.Request) (any, error) {
	id := r.PathValue("id")
	runs, err := s.allWorkflows()
	if err != nil {
		return nil, err
	}
	for _, w := range runs {
		if w.ID == id || w.CommandID == id {
			return w, nil
		}
	}
	return nil, notFound("workflow %s: there is none of that id, and no command of that id started one; it may have been removed after its retention", id)
}

// healthOf returns what Since follows: the health or status of a value.
func healthOf(payload any) string {
	switch v := payload.(type) {
	case *schemas.PostgresNodeState:
		return string(v.Health)
	case *schemas.PostgresClusterState:
		return string(v.Health)
	case *schemas.FleetState:
		return string(v.Health)
	case *schemas.Workflow:
		return string(v.Status)
	default:
		return ""
	}
}

// HealthOf returns the health or status of a payload, which [Entry].Since follows; empty for what has none.
func HealthOf(payload any) string { return healthOf(payload) }

func plural(n int, noun string) string {
	if n == 1 {
		return fmt.Sprintf("1 %s", noun)
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
