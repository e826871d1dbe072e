package reducer

import (
	"fmt"
	"reflect"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/regent-infra/regent/internal/event"
	"github.com/regent-infra/regent/internal/record"
	"github.com/regent-infra/regent/internal/topics"
	"github.com/regent-infra/regent/processors/fold"
	"github.com/regent-infra/regent/schemas"
)

func newFleetTask(tb testing.TB, config Config) *fakeTask {
	tb.Helper()
	def, err := Fleet(config)
	if err != nil {
		tb.Fatal(err)
	}
	if err := def.Validate(); err != nil {
		tb.Fatal(err)
	}
	return newFakeTask(def)
}

func clusterRecord(tb testing.TB, id event.ClusterID, offset int64, state *schemas.PostgresClusterState) *record.Record {
	rec := &record.Record{Topic: stateTopic, Offset: offset, Timestamp: epoch.Add(time.Duration(offset) * time.Second), Key: []byte(id)}
	if state != nil {
		header := schemas.EnvelopeHeader{ID: event.DeriveID(rec.Timestamp, id), Cluster: string(id), Resource: string(id), OccurredAt: rec.Timestamp}
		rec.Value = mustEncode(tb, stateTopic, header, state)
	}
	return rec
}

func clusterState(health schemas.Health, breaker schemas.BreakerState) *schemas.PostgresClusterState {
	return &schemas.PostgresClusterState{
		Health: health, Analysis: schemas.AnalysisCodeNoProblem, Causes: []schemas.HealthCause{{Code: "c"}},
		Members: []schemas.PostgresMemberState{{
			Node: "n", Role: schemas.NodeRolePrimary, Health: health, Liveness: schemas.LivenessAlive, Postmaster: schemas.PostmasterStatusRunning, Breaker: breaker,
		}},
	}
}

// TestFleetRollsUp: after every record both roll-ups equal one made anew, they are emitted exactly when they differ, and take-overs and repetitions
// leave no trace.
func TestFleetRollsUp(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		task := newFleetTask(t, testConfig())
		states := map[event.ClusterID]*schemas.PostgresClusterState{}
		for i := range rapid.IntRange(1, 40).Draw(rt, "records") {
			if rapid.IntRange(0, 9).Draw(rt, "take over") == 0 {
				task.restart()
			}
			id := event.NewClusterID(event.KindPostgres, fmt.Sprint("c", rapid.IntRange(0, 4).Draw(rt, "cluster")))
			states[id] = nil
			if rapid.IntRange(0, 4).Draw(rt, "delete") > 0 {
				states[id] = clusterState(
					rapid.SampledFrom([]schemas.Health{schemas.HealthHealthy, schemas.HealthDown, schemas.HealthDegraded}).Draw(rt, "health"),
					rapid.SampledFrom([]schemas.BreakerState{schemas.BreakerStateOpen, schemas.BreakerStateClosed}).Draw(rt, "breaker"))
			}
			before := payloads(t, topics.FleetState, task.tables[FleetTable])
			outs, err := task.process(clusterRecord(t, id, int64(i), states[id]))
			if err != nil {
				rt.Fatal(err)
			}
			after := payloads(t, topics.FleetState, task.tables[FleetTable])
			anew := fold.NewFleet()
			for id, state := range states {
				anew.Put(id, state)
			}
			for key, want := range map[string]*schemas.FleetState{"postgres": anew.State(event.KindPostgres), FleetKey: anew.Total()} {
				if got, ok := after[key].(*schemas.FleetState); !ok || !fold.EqualFleetStates(got, want) {
					rt.Fatalf("%s: got %+v, want %+v", key, after[key], want)
				}
			}
			for _, out := range outs {
				if key := string(out.Key); reflect.DeepEqual(before[key], after[key]) {
					rt.Fatalf("%s was emitted, but has not changed", key)
				}
			}
			if outs, err := task.process(clusterRecord(t, id, int64(i), states[id])); err != nil || len(outs) > 0 {
				rt.Fatalf("a repetition gave %d outputs, %v", len(outs), err)
			}
		}
	})
}

func TestFleetSkipsNodesAndGuards(t *testing.T) {
	t.Parallel()
	task := newFleetTask(t, testConfig())
	for _, key := range []string{string(node1), string(guardKey(node1))} {
		if outs, err := task.process(&record.Record{Topic: stateTopic, Key: []byte(key), Value: []byte("not even read")}); err != nil || len(outs) > 0 {
			t.Errorf("%s gave %d outputs, %v", key, len(outs), err)
		}
	}
}

// TestFleetForgetsWhatItCannotRead: an unreadable state is poison, and contributes nothing, before a take-over and after it.
func TestFleetForgetsWhatItCannotRead(t *testing.T) {
	t.Parallel()
	task := newFleetTask(t, testConfig())
	process := func(rec *record.Record) error {
		_, err := task.process(rec)
		return err
	}
	if err := process(clusterRecord(t, "postgres/a", 1, clusterState(schemas.HealthDown, schemas.BreakerStateOpen))); err != nil {
		t.Fatal(err)
	}
	unreadable := clusterRecord(t, "postgres/a", 2, nil)
	unreadable.Value = []byte{0, 1}
	if err := process(unreadable); poisonReason(err) != "undecodable" {
		t.Fatalf("got %v", err)
	}
	foreign := clusterRecord(t, "postgres/b", 3, clusterState(schemas.HealthDown, schemas.BreakerStateOpen))
	foreign.Key = []byte("postgres/c")
	if err := process(foreign); poisonReason(err) != "malformed" {
		t.Fatalf("got %v", err)
	}
	if err := process(&record.Record{Topic: stateTopic, Key: []byte("Postgres/x")}); poisonReason(err) != "misaddressed" {
		t.Fatalf("got %v", err)
	}
	for i := range 2 {
		if err := process(clusterRecord(t, "postgres/z", int64(5+i), clusterState(schemas.HealthHealthy, schemas.BreakerStateClosed))); err != nil {
			t.Fatal(err)
		}
		total := payloads(t, topics.FleetState, task.tables[FleetTable])[FleetKey].(*schemas.FleetState)
		if total.IssuesTotal != 0 || total.OpenBreakers != 0 || total.Health != schemas.HealthHealthy {
			t.Errorf("take-over %d: %+v", i, total)
		}
		task.restart()
		task.tables["postgres"]["postgres/a"] = unreadable.Value
	}
}

func TestFleetStopsOnTransientFailures(t *testing.T) {
	t.Parallel()
	broken := &brokenCodec{Codec: codec}
	config := testConfig()
	config.Codec = broken
	task := newFleetTask(t, config)
	rec := clusterRecord(t, "postgres/a", 1, clusterState(schemas.HealthDown, schemas.BreakerStateOpen))
	check := func(what string) {
		t.Helper()
		if _, err := task.process(rec); err == nil || poisonReason(err) != "" {
			t.Errorf("%s: got %v, want a plain error", what, err)
		}
	}
	broken.decode = func(string) error { return errAway }
	check("the state cannot be decoded")
	broken.decode = nil
	broken.encode = func(string, *event.Event) error { return errAway }
	check("the roll-up cannot be encoded")
	broken.encode = nil
	task.failing = errAway
	check("the table cannot be read")
	task.failing = nil
	task.tables[FleetTable][FleetKey] = []byte("garbage")
	check("the roll-up in the table cannot be read")
	delete(task.tables[FleetTable], FleetKey)
	if outs, err := task.process(rec); err != nil || len(outs) == 0 {
		t.Errorf("afterwards: %d outputs, %v", len(outs), err)
	}
}
