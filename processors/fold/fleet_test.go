package fold

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/regent-infra/regent/internal/event"
	"github.com/regent-infra/regent/schemas"
)

// TestFleetIsTheSumOfItsClusters compares the kept counts with counting anew, after random puts and removals.
func TestFleetIsTheSumOfItsClusters(t *testing.T) {
	t.Parallel()
	healths := []schemas.Health{schemas.HealthUnknown, schemas.HealthHealthy, schemas.HealthDegraded, schemas.HealthDown}
	rapid.Check(t, func(t *rapid.T) {
		fleet, clusters := NewFleet(), map[event.ClusterID]*schemas.PostgresClusterState{}
		for range rapid.IntRange(0, 60).Draw(t, "changes") {
			id := event.NewClusterID(event.Kind(rapid.SampledFrom([]string{"postgres", "kafka"}).Draw(t, "kind")), fmt.Sprint("c", rapid.IntRange(0, 5).Draw(t, "name")))
			if rapid.IntRange(0, 4).Draw(t, "remove") == 0 {
				fleet.Put(id, nil)
				delete(clusters, id)
				continue
			}
			state := &schemas.PostgresClusterState{
				Health: rapid.SampledFrom(healths).Draw(t, "health"), Analysis: schemas.AnalysisCodeDeadStandby,
				Causes: make([]schemas.HealthCause, rapid.IntRange(0, 12).Draw(t, "causes")),
			}
			for range rapid.IntRange(0, 3).Draw(t, "members") {
				state.Members = append(state.Members, schemas.PostgresMemberState{
					Health:  rapid.SampledFrom(healths).Draw(t, "node health"),
					Breaker: rapid.SampledFrom([]schemas.BreakerState{schemas.BreakerStateClosed, schemas.BreakerStateOpen, schemas.BreakerStateHalfOpen}).Draw(t, "breaker"),
				})
			}
			fleet.Put(id, state)
			clusters[id] = state
		}
		for _, kind := range []string{"", "postgres", "kafka"} {
			got := fleet.Total()
			if kind != "" {
				got = fleet.State(event.Kind(kind))
			}
			if want := countAnew(kind, clusters); !reflect.DeepEqual(got, want) || !EqualFleetStates(got, want) {
				t.Fatalf("kind %q:\ngot  %+v\nwant %+v", kind, got, want)
			}
		}
	})
}

func countAnew(kind string, clusters map[event.ClusterID]*schemas.PostgresClusterState) *schemas.FleetState {
	s := &schemas.FleetState{Kind: kind, Health: schemas.HealthUnknown, Issues: []schemas.FleetIssue{}}
	count := func(counts *[]schemas.HealthCount, match func(schemas.Health) bool, n int32) {
		for i := range *counts {
			if match((*counts)[i].Health) {
				(*counts)[i].Count += n
			}
		}
	}
	for _, h := range []schemas.Health{schemas.HealthUnknown, schemas.HealthHealthy, schemas.HealthDegraded, schemas.HealthDown} {
		s.Clusters = append(s.Clusters, schemas.HealthCount{Health: h})
		s.Nodes = append(s.Nodes, schemas.HealthCount{Health: h})
	}
	worst := -1
	for id, c := range clusters {
		if !strings.HasPrefix(string(id), kind) {
			continue
		}
		if r := rank(c.Health); r > worst {
			worst, s.Health = r, c.Health
		}
		count(&s.Clusters, func(h schemas.Health) bool { return h == c.Health }, 1)
		for _, m := range c.Members {
			count(&s.Nodes, func(h schemas.Health) bool { return h == m.Health }, 1)
			if m.Breaker != schemas.BreakerStateClosed {
				s.OpenBreakers++
			}
		}
		if c.Health != schemas.HealthHealthy {
			causes := append([]schemas.HealthCause{}, c.Causes[:min(len(c.Causes), maxFleetIssueCauses)]...)
			s.Issues = append(s.Issues, schemas.FleetIssue{Cluster: string(id), Health: c.Health, Analysis: string(c.Analysis), Causes: causes})
			s.IssuesTotal++
		}
	}
	slices.SortFunc(s.Issues, func(a, b schemas.FleetIssue) int { return strings.Compare(a.Cluster, b.Cluster) })
	return s
}

func TestFleetIssuesAreBounded(t *testing.T) {
	t.Parallel()
	fleet := NewFleet()
	for i := range 250 {
		fleet.Put(event.NewClusterID(event.KindPostgres, fmt.Sprintf("c%03d", i)), &schemas.PostgresClusterState{Health: schemas.HealthDown})
	}
	total := fleet.Total()
	if len(total.Issues) != maxFleetIssues || total.IssuesTotal != 250 || total.Issues[0].Cluster != "postgres/c000" {
		t.Errorf("%d issues of %d, the first %s", len(total.Issues), total.IssuesTotal, total.Issues[0].Cluster)
	}
}
