package fold

import (
	"slices"
	"strings"

	"github.com/regent-infra/regent/internal/event"
	"github.com/regent-infra/regent/schemas"
)

// Bounds of a roll-up, so that its record stays small whatever happens to the fleet.
const (
	maxFleetIssues      = 100
	maxFleetIssueCauses = 8
)

// Fleet rolls clusters up, per kind and over all. It takes full values: putting a cluster replaces what it contributed, so that repeated
// and skipped values do no harm. Counts are kept, not counted anew, so that a change costs the same in a fleet of any size.
type Fleet struct {
	kinds    []*kindRollup // by kind
	clusters map[event.ClusterID]contribution
}

// healthCounts counts by the place in countedHealths.
type healthCounts [4]int32

// countedHealths is the order in which counts are listed.
var countedHealths = [4]schemas.Health{schemas.HealthUnknown, schemas.HealthHealthy, schemas.HealthDegraded, schemas.HealthDown}

func (h *healthCounts) add(health schemas.Health, n int32) {
	i := slices.Index(countedHealths[:], health)
	h[max(i, 0)] += n
}

func (h *healthCounts) addAll(other healthCounts, sign int32) {
	for i := range h {
		h[i] += sign * other[i]
	}
}

func (h *healthCounts) list() []schemas.HealthCount {
	counts := make([]schemas.HealthCount, len(h))
	for i, n := range h {
		counts[i] = schemas.HealthCount{Health: countedHealths[i], Count: n}
	}
	return counts
}

func (h *healthCounts) worst() schemas.Health {
	for _, health := range slices.Backward(healthOrder) {
		if h[slices.Index(countedHealths[:], health)] > 0 {
			return health
		}
	}
	return schemas.HealthUnknown
}

// contribution is what one cluster adds.
type contribution struct {
	health   schemas.Health
	nodes    healthCounts
	breakers int32
	// issue is nil if the cluster is healthy.
	issue *schemas.FleetIssue
}

// kindRollup is the sum over the clusters of one kind.
type kindRollup struct {
	kind            event.Kind
	clusters, nodes healthCounts
	breakers        int32
	issues          []*schemas.FleetIssue // by cluster id
}

// NewFleet returns the roll-up of no clusters.
func NewFleet() *Fleet { return &Fleet{clusters: map[event.ClusterID]contribution{}} }

// Put sets what a PostgreSQL cluster contributes. A nil state takes the contribution away.
func (f *Fleet) Put(id event.ClusterID, state *schemas.PostgresClusterState) {
	k := f.kind(id.Kind())
	if old, known := f.clusters[id]; known {
		k.add(old, -1)
		delete(f.clusters, id)
	}
	if state == nil {
		return
	}
	c := contributionOf(id, state)
	f.clusters[id] = c
	k.add(c, 1)
}

// Kinds returns the kinds that have, or had, clusters, sorted.
func (f *Fleet) Kinds() []event.Kind {
	kinds := make([]event.Kind, len(f.kinds))
	for i, k := range f.kinds {
		kinds[i] = k.kind
	}
	return kinds
}

// State returns the roll-up of one kind.
func (f *Fleet) State(kind event.Kind) *schemas.FleetState {
	return f.kind(kind).state(string(kind))
}

// Total returns the roll-up over all kinds.
func (f *Fleet) Total() *schemas.FleetState {
	var all kindRollup
	for _, k := range f.kinds {
		all.clusters.addAll(k.clusters, 1)
		all.nodes.addAll(k.nodes, 1)
		all.breakers += k.breakers
		all.issues = append(all.issues, k.issues...) // kinds are sorted, and ids begin with them
	}
	return all.state("")
}

func (f *Fleet) kind(kind event.Kind) *kindRollup {
	i, found := slices.BinarySearchFunc(f.kinds, kind, func(k *kindRollup, kind event.Kind) int {
		return strings.Compare(string(k.kind), string(kind))
	})
	if !found {
		f.kinds = slices.Insert(f.kinds, i, &kindRollup{kind: kind})
	}
	return f.kinds[i]
}

// add adds a contribution, or takes it away with sign -1.
func (k *kindRollup) add(c contribution, sign int32) {
	k.clusters.add(c.health, sign)
	k.nodes.addAll(c.nodes, sign)
	k.breakers += sign * c.breakers
	if c.issue == nil {
		return
	}
	i, _ := slices.BinarySearchFunc(k.issues, c.issue.Cluster, func(issue *schemas.FleetIssue, id string) int { return strings.Compare(issue.Cluster, id) })
	if sign > 0 {
		k.issues = slices.Insert(k.issues, i, c.issue)
	} else {
		k.issues = slices.Delete(k.issues, i, i+1)
	}
}

func (k *kindRollup) state(kind string) *schemas.FleetState {
	s := &schemas.FleetState{
		Kind: kind, Health: k.clusters.worst(), Clusters: k.clusters.list(), Nodes: k.nodes.list(),
		OpenBreakers: k.breakers, IssuesTotal: int32(len(k.issues)), //nolint:gosec // far fewer clusters than that
		Issues: make([]schemas.FleetIssue, 0, min(len(k.issues), maxFleetIssues)),
	}
	for _, issue := range k.issues[:min(len(k.issues), maxFleetIssues)] {
		s.Issues = append(s.Issues, *issue)
	}
	return s
}

func contributionOf(id event.ClusterID, state *schemas.PostgresClusterState) contribution {
	c := contribution{health: state.Health}
	for _, m := range state.Members {
		c.nodes.add(m.Health, 1)
		if m.Breaker == schemas.BreakerStateOpen || m.Breaker == schemas.BreakerStateHalfOpen {
			c.breakers++
		}
	}
	if state.Health != schemas.HealthHealthy {
		causes := append([]schemas.HealthCause{}, state.Causes[:min(len(state.Causes), maxFleetIssueCauses)]...)
		c.issue = &schemas.FleetIssue{Cluster: string(id), Health: state.Health, Analysis: string(state.Analysis), Causes: causes}
	}
	return c
}

// EqualFleetStates compares all that a consumer can see.
func EqualFleetStates(a, b *schemas.FleetState) bool {
	return a.Kind == b.Kind && a.Health == b.Health && slices.Equal(a.Clusters, b.Clusters) && slices.Equal(a.Nodes, b.Nodes) &&
		a.OpenBreakers == b.OpenBreakers && a.IssuesTotal == b.IssuesTotal &&
		slices.EqualFunc(a.Issues, b.Issues, func(x, y schemas.FleetIssue) bool {
			return x.Cluster == y.Cluster && x.Health == y.Health && x.Analysis == y.Analysis && slices.Equal(x.Causes, y.Causes)
		})
}
