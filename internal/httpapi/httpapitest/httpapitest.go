// Package httpapitest holds a view of a small fleet in known states, for tests of the API and of what reads it.
package httpapitest

import (
	"context"
	"sort"
	"strings"
	"time"

	"github.com/regent-infra/regent/internal/event"
	"github.com/regent-infra/regent/internal/httpapi"
	"github.com/regent-infra/regent/internal/stream"
	"github.com/regent-infra/regent/internal/topics"
	"github.com/regent-infra/regent/schemas"
)

// Now is the moment at which the fleet is looked at.
var Now = time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC)

// View is a fixed [httpapi.View]. Changes that are sent to Changes reach watchers.
type View struct {
	Entries []httpapi.Entry
	Changes chan httpapi.Entry
	Behind  int64
	Trouble error
}

var _ httpapi.View = (*View)(nil)

// Get implements [httpapi.View].
func (v *View) Get(topic, key string) (httpapi.Entry, bool, error) {
	for _, e := range v.Entries {
		if e.Topic == topic && e.Key == key {
			return e, true, nil
		}
	}
	return httpapi.Entry{}, false, nil
}

// List implements [httpapi.View].
func (v *View) List(topic, prefix string) ([]httpapi.Entry, error) {
	var found []httpapi.Entry
	for _, e := range v.Entries {
		if e.Topic == topic && strings.HasPrefix(e.Key, prefix) {
			found = append(found, e)
		}
	}
	sort.Slice(found, func(i, j int) bool { return found[i].Key < found[j].Key })
	return found, nil
}

// Watch implements [httpapi.View].
func (v *View) Watch(ctx context.Context, _ []string, fn func(httpapi.Entry) error) error {
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case e := <-v.Changes:
			if err := fn(e); err != nil {
				return err
			}
		}
	}
}

// Lag implements [httpapi.View].
func (v *View) Lag() (int64, error) { return v.Behind, v.Trouble }

// Add puts a value under key of topic, changed some time before [Now].
func (v *View) Add(topic, key string, offset int64, ago time.Duration, payload any) httpapi.Entry {
	e := httpapi.Entry{
		Topic: topic, Partition: 3, Offset: offset, Timestamp: Now.Add(-ago), Since: Now.Add(-10 * ago), Key: key,
		Event: event.New(schemas.EnvelopeHeader{ID: event.DeriveID(Now, topic, key), Cluster: string(event.ResourceID(key).Cluster()), Resource: key}, payload),
	}
	v.Entries = append(v.Entries, e)
	return e
}

// Processors are fixed [httpapi.Processors].
type Processors struct {
	All     []httpapi.Processor
	Sums    []httpapi.Digest
	Failure error
}

var _ httpapi.Processors = (*Processors)(nil)

// Status implements [httpapi.Processors].
func (p *Processors) Status() []httpapi.Processor { return p.All }

// Digests implements [httpapi.Processors].
func (p *Processors) Digests(context.Context) ([]httpapi.Digest, error) { return p.Sums, p.Failure }

// Running returns processors that are all well.
func Running() *Processors {
	var p Processors
	for _, name := range []string{"orchestrator.postgres", "reducer.postgres"} {
		p.All = append(p.All, httpapi.Processor{Ready: true, Status: stream.Status{
			Processor: name, State: stream.StateRunning, Since: Now.Add(-time.Hour), Tasks: []stream.TaskStatus{{Task: 3, Running: true, CaughtUp: true}},
		}})
	}
	p.Sums = []httpapi.Digest{{Processor: "reducer.postgres", Table: "state", Partition: 3, Changelog: topics.State(event.KindPostgres), Keys: 7, Sum: "ab12"}}
	return &p
}

// Fleet returns two clusters: postgres/orders is well, postgres/billing has lost its primary and is being failed over.
func Fleet() *View {
	v := &View{Changes: make(chan httpapi.Entry)}
	state, decided := topics.State(event.KindPostgres), topics.Workflows(event.KindPostgres)
	v.orders(state, decided)
	v.billing(state, decided)
	v.Add(topics.FleetState, "fleet", 9, time.Minute, &schemas.FleetState{Health: schemas.HealthDown, IssuesTotal: 1})
	return v
}

func member(name string, port int32, role schemas.NodeRole, term int64) schemas.PostgresMemberState {
	m := schemas.PostgresMemberState{
		Node: name, Host: "10.0.0.1", Port: port, Role: role, Health: schemas.HealthHealthy, Liveness: schemas.LivenessAlive, Timeline: term, Term: term,
		PromisedTerm: term, Postmaster: schemas.PostmasterStatusRunning, Breaker: schemas.BreakerStateClosed,
	}
	if role == schemas.NodeRoleStandby {
		m.Streaming, m.Synchronous, m.Upstream = true, true, "pg-1"
	}
	return m
}

func node(m schemas.PostgresMemberState, lag int64) *schemas.PostgresNodeState {
	n := &schemas.PostgresNodeState{
		Node: m.Node, Liveness: m.Liveness, Health: m.Health,
		Observed: schemas.PostgresNodeObserved{
			Node: m.Node, Host: m.Host, Port: m.Port, ServerVersion: 150018, Postmaster: m.Postmaster, Role: m.Role, Timeline: m.Timeline, Term: m.Term,
			PromisedTerm: m.PromisedTerm, FlushedLsn: 0x1_0400_0000, AcceptingConnections: m.Postmaster == schemas.PostmasterStatusRunning,
		},
		ObservedAt: Now, ObservedTopic: topics.Observations(event.KindPostgres), ObservedPartition: 3, ObservedOffset: 41,
	}
	if m.Role == schemas.NodeRoleStandby {
		n.LagBytes = &lag
	}
	return n
}

func (v *View) orders(state, decided string) {
	members := []schemas.PostgresMemberState{
		member("pg-1", 5431, schemas.NodeRolePrimary, 2), member("pg-2", 5432, schemas.NodeRoleStandby, 2), member("pg-3", 5433, schemas.NodeRoleStandby, 2),
	}
	v.Add(state, "postgres/orders", 20, time.Minute, &schemas.PostgresClusterState{
		Primary: "pg-1", Term: 2, Timeline: 2, SystemIdentifier: "7711238701942915096", Health: schemas.HealthHealthy,
		Analysis: schemas.AnalysisCodeNoProblem, AnalysisDetail: "pg-1 (term 2) serves as primary", Members: members, Writable: true,
	})
	for i, m := range members {
		v.Add(state, "postgres/orders/node/"+m.Node, 21+int64(i), time.Second, node(m, int64(i)*8192))
	}
	v.Add(decided, "postgres/orders", 5, time.Hour, &schemas.ClusterRecord{
		Term: 2, Primary: "pg-1", PrimaryTerm: 2, Initialized: true, SynchronousStandbys: []string{"pg-2", "pg-3"}, SynchronousCount: 1,
		Policy: schemas.ClusterPolicy{Version: 1, FailoverMode: schemas.FailoverModeAutomatic},
	})
	finished := Now.Add(-time.Hour)
	v.Add(decided, "postgres/orders/workflow/"+SwitchoverID, 4, time.Hour, &schemas.Workflow{
		ID: SwitchoverID, CommandID: SwitchoverID, Kind: schemas.WorkflowKindSwitchover, Status: schemas.WorkflowStatusSucceeded, Step: "synchronise",
		Reason: "kernel update", StartedAt: finished.Add(-311 * time.Millisecond), FinishedAt: &finished, Term: 2,
		History: []schemas.WorkflowEvent{{At: finished, Step: "synchronise", Message: "pg-1 is primary of term 2"}},
	})
}

// Ids of the workflows of [Fleet].
const (
	SwitchoverID = "0199f1a2-7c1e-7000-8000-3f2b1a0c9d8e"
	FailoverID   = "0199f1a2-7c1e-7000-8000-3f2b1a0c9d8f"
)

func (v *View) billing(state, decided string) {
	primary := member("pg-1", 6431, schemas.NodeRoleUnknown, 4)
	primary.Health, primary.Postmaster = schemas.HealthDown, schemas.PostmasterStatusCrashed
	standby := member("pg-2", 6432, schemas.NodeRoleStandby, 4)
	standby.Streaming, standby.Health = false, schemas.HealthDegraded
	v.Add(state, "postgres/billing", 30, 2*time.Second, &schemas.PostgresClusterState{
		Primary: "pg-1", Term: 4, Timeline: 4, SystemIdentifier: "7711238701942915097", Health: schemas.HealthDown,
		Analysis: schemas.AnalysisCodeDeadPrimary, AnalysisDetail: "the agent of primary pg-1 (term 4) reports its postgres crashed, killed by SIGKILL",
		Members: []schemas.PostgresMemberState{primary, standby},
		Causes: []schemas.HealthCause{
			{Code: "dead_primary", Resource: "postgres/billing", Message: "the agent of primary pg-1 (term 4) reports its postgres crashed, killed by SIGKILL"},
			{Code: "not_streaming", Resource: "postgres/billing/node/pg-2", Message: "its WAL receiver does not stream"},
		},
	})
	v.Add(state, "postgres/billing/node/pg-1", 31, 2*time.Second, node(primary, 0))
	v.Add(state, "postgres/billing/node/pg-2", 32, 2*time.Second, node(standby, 65536))
	v.Add(decided, "postgres/billing", 6, time.Second, &schemas.ClusterRecord{
		Term: 5, Primary: "pg-1", PrimaryTerm: 4, Initialized: true, ActiveWorkflow: FailoverID,
		Policy: schemas.ClusterPolicy{Version: 1, FailoverMode: schemas.FailoverModeAutomatic},
	})
	v.Add(decided, "postgres/billing/workflow/"+FailoverID, 7, time.Second, &schemas.Workflow{
		ID: FailoverID, Kind: schemas.WorkflowKindFailover, Status: schemas.WorkflowStatusRunning, Step: "fence", Reason: "DEAD_PRIMARY",
		WaitingFor: "1 of 2 acknowledgements of term 5 have arrived", StartedAt: Now.Add(-time.Second), Term: 5, FormerPrimary: "pg-1",
	})
}
