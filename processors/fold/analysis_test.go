package fold

import (
	"encoding/json"
	"slices"
	"testing"
	"time"

	"github.com/regent-infra/regent/schemas"
)

var testTime = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// part is one node of a scenario.
type part struct {
	o       schemas.PostgresNodeObserved
	suspect bool
}

func (p part) with(change func(*schemas.PostgresNodeObserved)) part {
	change(&p.o)
	return p
}

func (p part) silent() part {
	p.suspect = true
	return p
}

func primaryPart(node string, term int64) part {
	return part{o: schemas.PostgresNodeObserved{
		Node: node, Postmaster: schemas.PostmasterStatusRunning, Role: schemas.NodeRolePrimary, AcceptingConnections: true,
		SystemIdentifier: "7001", Timeline: 1, WrittenLsn: 100_000, Term: term, PromisedTerm: term,
	}}
}

func standbyPart(node, upstream string, term int64) part {
	heard := testTime.Add(-time.Second)
	return part{o: schemas.PostgresNodeObserved{
		Node: node, Postmaster: schemas.PostmasterStatusRunning, Role: schemas.NodeRoleStandby, AcceptingConnections: true,
		SystemIdentifier: "7001", Timeline: 1, ReceivedLsn: 100_000, FlushedLsn: 100_000, ReplayedLsn: 100_000, Upstream: upstream,
		Term: term, PromisedTerm: term,
		Receiver: &schemas.WalReceiver{Status: "streaming", Timeline: 1, LastMessageReceivedAt: &heard},
	}}
}

func unheard(p part) part {
	return p.with(func(o *schemas.PostgresNodeObserved) { o.Receiver = nil })
}

func crashed(p part) part {
	return p.with(func(o *schemas.PostgresNodeObserved) {
		o.Postmaster, o.Role, o.AcceptingConnections, o.RenouncedTerm = schemas.PostmasterStatusCrashed, schemas.NodeRoleUnknown, false, o.Term
	})
}

func stopped(p part, asked bool) part {
	return p.with(func(o *schemas.PostgresNodeObserved) {
		o.Postmaster, o.Role, o.AcceptingConnections = schemas.PostmasterStatusStopped, schemas.NodeRoleUnknown, false
		if asked {
			o.LastExit = &schemas.PostmasterExit{Expected: true}
		}
	})
}

func absent(node string) part {
	return part{o: schemas.PostgresNodeObserved{Node: node, Postmaster: schemas.PostmasterStatusAbsent, Role: schemas.NodeRoleUnknown}}
}

// cluster folds the parts of a scenario.
func cluster(parts ...part) PostgresCluster {
	c := LoadPostgres("postgres/orders", nil, nil)
	for i, p := range parts {
		pulse := Pulse{Liveness: schemas.LivenessAlive, IntervalMs: 250, SuspectAfterMs: 1000}
		if p.suspect {
			pulse.Liveness = schemas.LivenessSuspect
		}
		c, _ = ApplyPostgres(c, NodeObserved{
			Header:   schemas.EnvelopeHeader{Sequence: int64(i + 1), OccurredAt: testTime},
			Observed: &p.o, Pulse: pulse,
		})
	}
	return c
}

// scenarios has one entry, at least, for every row of the decision table; row is its place.
var scenarios = []struct {
	name  string
	row   int
	parts []part
	// writable and primary are checked too.
	writable bool
	primary  string
}{
	{"empty machines", 0, []part{absent("a"), absent("b")}, false, ""},
	{"stopped as asked", 1, []part{stopped(primaryPart("a", 1), true), unheard(standbyPart("b", "a", 1))}, false, "a"},
	{"stopped as asked and silent", 1, []part{stopped(primaryPart("a", 1), true).silent(), stopped(standbyPart("b", "a", 1), true)}, false, "a"},
	{"alone and crashed", 2, []part{crashed(primaryPart("a", 1))}, false, "a"},
	{"all crashed", 3, []part{crashed(primaryPart("a", 1)), crashed(standbyPart("b", "a", 1)), standbyPart("c", "a", 1).silent()}, false, "a"},
	{"crashed, one standby gone", 4, []part{crashed(primaryPart("a", 1)), standbyPart("b", "a", 1), standbyPart("c", "a", 1).silent()}, false, "a"},
	{"crashed", 5, []part{crashed(primaryPart("a", 1)), standbyPart("b", "a", 1), unheard(standbyPart("c", "a", 1))}, false, "a"},
	{"stopped, and nobody asked", 5, []part{stopped(primaryPart("a", 1), false), unheard(standbyPart("c", "a", 1))}, false, "a"},
	{"fenced while it lived", 5, []part{
		stopped(primaryPart("a", 5), true).with(func(o *schemas.PostgresNodeObserved) { o.RenouncedTerm, o.PromisedTerm = 5, 6 }),
		unheard(standbyPart("b", "", 5)),
	}, false, "a"},
	{"crashed and then silent", 5, []part{crashed(primaryPart("a", 1)).silent(), standbyPart("b", "a", 1)}, false, "a"},
	{"agent dead, server alive", 6, []part{primaryPart("a", 1).silent(), standbyPart("b", "a", 1), unheard(standbyPart("c", "a", 1))}, true, "a"},
	{"node lost, a standby too", 7, []part{primaryPart("a", 1).silent(), unheard(standbyPart("b", "a", 1)), standbyPart("c", "a", 1).silent()}, false, "a"},
	{"node lost", 8, []part{primaryPart("a", 1).silent(), unheard(standbyPart("b", "a", 1))}, false, "a"},
	{"node lost, standbys fenced", 8, []part{primaryPart("a", 5).silent(), unheard(standbyPart("b", "", 5)), unheard(standbyPart("c", "", 5))}, false, "a"},
	{"cascade is no witness", 9, []part{primaryPart("a", 1).silent(), standbyPart("b", "a", 1).silent(), standbyPart("c", "b", 1)}, false, "a"},
	{"alone and silent", 9, []part{primaryPart("a", 1).silent()}, false, "a"},
	{"all silent", 9, []part{primaryPart("a", 1).silent(), standbyPart("b", "a", 1).silent()}, false, "a"},
	{"the old primary is back", 10, []part{primaryPart("a", 5), primaryPart("b", 6)}, true, "b"},
	{"promoted by hand", 11, []part{primaryPart("a", 5), primaryPart("b", 5).with(func(o *schemas.PostgresNodeObserved) { o.Upstream = "a" })}, true, "a"},
	{"two in one term", 11, []part{primaryPart("a", 5), primaryPart("b", 5)}, true, "a"},
	{"promoted by hand, the primary forgotten", 11, []part{primaryPart("b", 5).with(func(o *schemas.PostgresNodeObserved) { o.Upstream = "a" })}, false, ""},
	{"the primary was never observed, its standby streams", 12, []part{standbyPart("b", "a", 5), unheard(standbyPart("c", "a", 5))}, false, ""},
	{"nobody is primary", 13, []part{unheard(standbyPart("b", "", 5)), unheard(standbyPart("c", "", 5))}, false, ""},
	{"no connection left", 14, []part{primaryPart("a", 1).with(func(o *schemas.PostgresNodeObserved) {
		o.Connections = &schemas.ConnectionUsage{Max: 10, Total: 11}
	})}, true, "a"},
	{"no connection left, not even for the agent", 14, []part{primaryPart("a", 1).with(func(o *schemas.PostgresNodeObserved) {
		o.AcceptingConnections, o.Breaker.LastError = false, "53300 too_many_connections"
	})}, false, "a"},
	{"WAL disk full", 15, []part{primaryPart("a", 1).with(func(o *schemas.PostgresNodeObserved) {
		o.Disk = &schemas.DiskUsage{DataTotalBytes: 1000, DataFreeBytes: 500, WalTotalBytes: 1000, WalFreeBytes: 19}
	})}, true, "a"},
	{"server hangs, but sends", 16, []part{primaryPart("a", 1).with(func(o *schemas.PostgresNodeObserved) { o.AcceptingConnections = false }), standbyPart("b", "a", 1)}, false, "a"},
	{"server hangs", 17, []part{primaryPart("a", 1).with(func(o *schemas.PostgresNodeObserved) { o.AcceptingConnections = false })}, false, "a"},
	{"starting", 17, []part{primaryPart("a", 1).with(func(o *schemas.PostgresNodeObserved) { o.Postmaster = schemas.PostmasterStatusStarting })}, false, "a"},
	{"commits hang", 18, []part{primaryPart("a", 1).with(func(o *schemas.PostgresNodeObserved) {
		o.SynchronousStandbyNames = `ANY 2 ("b-t1", "c-t1")`
		o.Senders = []schemas.WalSender{
			{ApplicationName: "b-t1", State: "streaming", SyncState: "quorum"},
			{ApplicationName: "B-t1", State: "streaming", SyncState: "quorum"}, // its half-open predecessor
			{ApplicationName: "c-t1", State: "startup", SyncState: "async"},
			{ApplicationName: "d-t1", State: "streaming", SyncState: "async"},
		}
	}), standbyPart("b", "a", 1)}, false, "a"},
	{"the former primary holds more", 19, []part{
		stopped(primaryPart("a", 5), false).with(func(o *schemas.PostgresNodeObserved) {
			o.RenouncedTerm, o.WalEnd = 5, &schemas.WalEnd{Term: 5, Timeline: 1, Lsn: 100_500}
		}),
		primaryPart("b", 6).with(func(o *schemas.PostgresNodeObserved) {
			o.Timeline, o.TimelineHistory = 2, []schemas.TimelineSwitch{{Timeline: 1, SwitchLsn: 100_000}}
		}),
	}, true, "b"},
	{"told to follow a node that is gone", 20, []part{primaryPart("b", 6), unheard(standbyPart("c", "a", 5)), crashed(primaryPart("a", 5))}, true, "b"},
	{"of another database system", 20, []part{primaryPart("a", 1), standbyPart("b", "a", 1).with(func(o *schemas.PostgresNodeObserved) { o.SystemIdentifier = "4711" })}, true, "a"},
	{"no standby streams", 21, []part{primaryPart("a", 1), unheard(standbyPart("b", "a", 1)), standbyPart("c", "a", 1).silent()}, true, "a"},
	{"a standby is gone", 22, []part{primaryPart("a", 1), standbyPart("b", "a", 1), standbyPart("c", "a", 1).silent()}, true, "a"},
	{"all well", 23, []part{primaryPart("a", 1), standbyPart("b", "a", 1), standbyPart("c", "b", 1)}, true, "a"},
	{"one standby does not stream", 23, []part{primaryPart("a", 1), standbyPart("b", "a", 1), unheard(standbyPart("c", "a", 1))}, true, "a"},
}

func TestAnalysisTable(t *testing.T) {
	t.Parallel()
	for _, sc := range scenarios {
		t.Run(sc.name, func(t *testing.T) {
			t.Parallel()
			got := cluster(sc.parts...).State
			want := analysisTable[sc.row]
			if got.Analysis != want.code {
				t.Fatalf("got %s (%s), want %s", got.Analysis, got.AnalysisDetail, want.code)
			}
			if row := holds(sc.parts); row != sc.row {
				t.Errorf("row %d holds (%s), want %d (%s)", row, analysisTable[row].when, sc.row, want.when)
			}
			if got.Writable != sc.writable || got.Primary != sc.primary {
				t.Errorf("writable %v, primary %q; want %v, %q", got.Writable, got.Primary, sc.writable, sc.primary)
			}
			if got.AnalysisDetail == "" {
				t.Error("the diagnosis rests on nothing")
			}
		})
	}
}

// holds returns the first row that holds.
func holds(parts []part) int {
	c := cluster(parts...)
	s := survey(&c)
	return slices.IndexFunc(analysisTable, func(r analysisRow) bool { return (s.primary != nil || r.lone) && r.detail(s) != "" })
}

// TestAnalysisTableIsComplete: every code has a row, every row a scenario and a description, and the last row holds always.
func TestAnalysisTableIsComplete(t *testing.T) {
	t.Parallel()
	raw, err := schemas.Files.ReadFile("analysis_code.avsc")
	if err != nil {
		t.Fatal(err)
	}
	var enum struct{ Symbols []schemas.AnalysisCode }
	if err := json.Unmarshal(raw, &enum); err != nil {
		t.Fatal(err)
	}
	for _, code := range enum.Symbols {
		if !slices.ContainsFunc(analysisTable, func(r analysisRow) bool { return r.code == code }) {
			t.Errorf("no row gives %s", code)
		}
	}
	for i, r := range AnalysisTable() {
		if !slices.Contains(enum.Symbols, r.Code) {
			t.Errorf("row %d gives %s, which is no symbol of AnalysisCode", i, r.Code)
		}
		if r.When == "" || slices.ContainsFunc(analysisTable[:i], func(other analysisRow) bool { return other.when == r.When }) {
			t.Errorf("row %d does not say when it holds, or says what another one says", i)
		}
		hit := 0
		for _, sc := range scenarios {
			if sc.row == i {
				hit++
			}
		}
		if hit == 0 {
			t.Errorf("row %d (%s: %s) has no scenario", i, r.Code, r.When)
		}
	}
	last := analysisTable[len(analysisTable)-1]
	for _, c := range []PostgresCluster{cluster(absent("a")), cluster(primaryPart("a", 1)), {ID: "postgres/none"}} {
		if !last.lone || last.detail(survey(&c)) == "" {
			t.Error("the last row does not hold always")
		}
	}
}

func TestHealthOfClusters(t *testing.T) {
	t.Parallel()
	for want, parts := range map[schemas.Health][]part{
		schemas.HealthUnknown:  {absent("a")},
		schemas.HealthHealthy:  {primaryPart("a", 1), standbyPart("b", "a", 1)},
		schemas.HealthDegraded: {primaryPart("a", 1), unheard(standbyPart("b", "a", 1)), standbyPart("c", "a", 1)},
		schemas.HealthDown:     {crashed(primaryPart("a", 1)), standbyPart("b", "a", 1)},
	} {
		got := cluster(parts...).State
		if got.Health != want {
			t.Errorf("got %s (%s), want %s", got.Health, got.Analysis, want)
		}
		if (got.Health == schemas.HealthHealthy) != (len(got.Causes) == 0) {
			t.Errorf("%s with causes %v", got.Health, got.Causes)
		}
	}
}

// TestPrimaryIsFoundWhenItCannotSpeak: a server that is down says nothing of its role.
func TestPrimaryIsFoundWhenItCannotSpeak(t *testing.T) {
	t.Parallel()
	down := func(node string, term int64) part { return stopped(primaryPart(node, term), false) }
	for name, c := range map[string]PostgresCluster{
		"renounced beats merely down": cluster(down("a", 5), crashed(primaryPart("b", 5))),
		"followers decide":            cluster(down("a", 5), down("b", 5), stopped(standbyPart("c", "b", 5), true)),
		"the higher term":             cluster(primaryPart("a", 5), down("b", 6)),
		"who says so itself":          cluster(down("a", 5), primaryPart("b", 5)),
	} {
		if c.State.Primary != "b" {
			t.Errorf("%s: primary is %q, want b", name, c.State.Primary)
		}
	}
}

func TestCausesAreBounded(t *testing.T) {
	t.Parallel()
	var parts []part
	for i := range 200 {
		parts = append(parts, absent(string(rune('a'+i%26))+string(rune('a'+i/26))))
	}
	c := cluster(parts...)
	if n := len(c.State.Causes); n != maxCauses {
		t.Errorf("%d causes, want %d", n, maxCauses)
	}
	if n := len(c.State.Members); n != 200 {
		t.Errorf("%d members", n)
	}
}
