package fold

import (
	"fmt"
	"math"
	"reflect"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/regent-infra/regent/schemas"
)

// arbitrary fills a value with whatever its type allows: absent parts, negative numbers, unknown symbols.
func arbitrary(t *rapid.T, v reflect.Value, depth int) {
	switch v.Kind() {
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[time.Time]() {
			v.Set(reflect.ValueOf(testTime.Add(time.Duration(rapid.Int64Range(-1e10, 1e10).Draw(t, "time")))))
			return
		}
		for i := range v.NumField() {
			arbitrary(t, v.Field(i), depth+1)
		}
	case reflect.Pointer:
		if rapid.Bool().Draw(t, "present") {
			v.Set(reflect.New(v.Type().Elem()))
			arbitrary(t, v.Elem(), depth+1)
		}
	case reflect.Slice:
		n := rapid.IntRange(0, 3).Draw(t, "length")
		v.Set(reflect.MakeSlice(v.Type(), n, n))
		for i := range n {
			arbitrary(t, v.Index(i), depth+1)
		}
	case reflect.String:
		v.SetString(rapid.SampledFrom(words).Draw(t, v.Type().Name()))
	case reflect.Int64, reflect.Int32:
		n := rapid.SampledFrom([]int64{0, 1, 2, 3, 5, 99, 100_000, 1 << 30, math.MaxInt32, math.MaxInt64, -1, math.MinInt64}).Draw(t, "number")
		if v.Kind() == reflect.Int32 {
			n = int64(int32(n))
		}
		v.SetInt(n)
	case reflect.Bool:
		v.SetBool(rapid.Bool().Draw(t, "flag"))
	default:
		t.Fatalf("no arbitrary %s", v.Type())
	}
}

var words = []string{
	"", "a", "b", "c", "PRIMARY", "STANDBY", "UNKNOWN", "RUNNING", "STOPPED", "CRASHED", "ABSENT", "STARTING", "STOPPING", "OPEN", "HALF_OPEN", "CLOSED",
	"streaming", "quorum", "lost", "unreserved", "a-t5", "b-t5", "53300", "7001", "4711", `ANY 2 ("a-t5", b-t5)`, "FIRST 1 (*)", "ANY (", "NONSENSE", "\x00ü",
}

func arbitraryObservation(t *rapid.T, node string) *schemas.PostgresNodeObserved {
	var o schemas.PostgresNodeObserved
	arbitrary(t, reflect.ValueOf(&o).Elem(), 0)
	o.Node = node
	return &o
}

func arbitraryPulse(t *rapid.T) Pulse {
	return Pulse{
		Liveness:   rapid.SampledFrom([]schemas.Liveness{schemas.LivenessUnknown, schemas.LivenessAlive, schemas.LivenessSuspect}).Draw(t, "liveness"),
		IntervalMs: rapid.Int32().Draw(t, "interval"), SuspectAfterMs: rapid.Int32().Draw(t, "suspect after"),
	}
}

// TestFoldOfArbitraryFacts: whatever is observed, in whatever order, gives the same valid state and no panic; a change is reported exactly when
// something differs; and what was emitted, loaded again, is what was known.
func TestFoldOfArbitraryFacts(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var facts []NodeObserved
		for _, node := range []string{"a", "b", "c"} {
			if rapid.IntRange(0, 5).Draw(t, "absent") > 0 {
				facts = append(facts, NodeObserved{
					Header:   schemas.EnvelopeHeader{Sequence: 7, OccurredAt: testTime},
					Observed: arbitraryObservation(t, node), Pulse: arbitraryPulse(t),
				})
			}
		}
		one, emitted := foldAll(t, facts)
		other, _ := foldAll(t, rapid.Permutation(facts).Draw(t, "another order"))
		compareClusters(t, one, other)

		var nodes []PostgresNode
		for _, n := range one.Nodes {
			nodes = append(nodes, LoadPostgresNode(one.ID, emitted[n.Name]))
		}
		slices.Reverse(nodes)
		compareClusters(t, one, LoadPostgres(one.ID, nodes, one.State))
	})
}

// foldAll folds facts, checks the changes on the way, and returns what was emitted last per node.
func foldAll(t *rapid.T, facts []NodeObserved) (PostgresCluster, map[string]*schemas.PostgresNodeState) {
	c := LoadPostgres("postgres/orders", nil, nil)
	emitted := map[string]*schemas.PostgresNodeState{}
	for _, f := range facts {
		before := c.State
		next, changes := ApplyPostgres(c, f)
		for _, ch := range changes.Nodes {
			last := emitted[ch.Node]
			s := ch.State(last)
			if last != nil && reflect.DeepEqual(last, s) {
				t.Fatalf("%s is to be emitted, but nothing in it has changed", ch.Node)
			}
			emitted[ch.Node] = s
		}
		for _, n := range next.Nodes {
			s := emitted[n.Name]
			if d := (PostgresDerived{s.Health, s.Causes, s.LagBytes, s.LagMs, s.ConnectionSaturation}); !reflect.DeepEqual(d, n.Derived) {
				t.Fatalf("%s: derived %+v, last emitted %+v", n.Name, n.Derived, d)
			}
			checkNode(t, s)
		}
		if (changes.Cluster != nil) != !reflect.DeepEqual(before, next.State) {
			t.Fatalf("cluster emitted: %v; before %+v, after %+v", changes.Cluster != nil, before, next.State)
		}
		if again, silence := ApplyPostgres(next, f); !silence.Empty() || !reflect.DeepEqual(again, next) {
			t.Fatalf("the same fact again changed %+v", silence)
		}
		c = next
	}
	return c, emitted
}

// checkNode checks what holds of every state.
func checkNode(t *rapid.T, s *schemas.PostgresNodeState) {
	if (s.Health == schemas.HealthHealthy) != (len(s.Causes) == 0) || s.Causes == nil {
		t.Fatalf("%s is %s with causes %v", s.Node, s.Health, s.Causes)
	}
	if s.LagBytes != nil && (*s.LagBytes < 0 || *s.LagBytes%walPage != 0) || s.LagMs != nil && *s.LagMs < 0 {
		t.Fatalf("%s has lag %v, %v", s.Node, *s.LagBytes, s.LagMs)
	}
	if x := s.ConnectionSaturation; x != nil && !(*x >= 0 && *x <= 1) {
		t.Fatalf("%s has saturation %v", s.Node, *x)
	}
	for _, c := range s.Causes {
		if c.Code == "" || c.Message == "" || c.Resource != "postgres/orders/node/"+s.Node {
			t.Fatalf("cause %+v", c)
		}
	}
}

func compareClusters(t *rapid.T, a, b PostgresCluster) {
	if !reflect.DeepEqual(a.State, b.State) {
		t.Fatalf("clusters differ:\n%+v\n%+v", a.State, b.State)
	}
	for i := range a.Nodes {
		if !reflect.DeepEqual(a.Nodes[i], b.Nodes[i]) {
			t.Fatalf("nodes differ:\n%+v\n%+v", a.Nodes[i], b.Nodes[i])
		}
	}
}

func TestStaleFactsChangeNothing(t *testing.T) {
	t.Parallel()
	a := primaryPart("a", 5)
	c := cluster(a)
	for _, sequence := range []int64{1, 0, -1, math.MinInt64} {
		o := stopped(a, false).o
		next, changes := ApplyPostgres(c, NodeObserved{Header: schemas.EnvelopeHeader{Sequence: sequence}, Observed: &o})
		if !changes.Empty() || !reflect.DeepEqual(next, c) {
			t.Errorf("sequence %d after 1 changed %+v", sequence, changes)
		}
	}
	for _, guarded := range []int64{50, 51} {
		_, changes := ApplyPostgres(c, NodeObserved{Header: schemas.EnvelopeHeader{Sequence: 50}, Observed: &standbyPartB, Guard: guarded})
		if !changes.Empty() {
			t.Errorf("sequence 50 came back through a guard at %d", guarded)
		}
	}
	if _, changes := ApplyPostgres(c, NodeObserved{Header: schemas.EnvelopeHeader{Sequence: 50}, Observed: &standbyPartB, Guard: 49}); len(changes.Nodes) != 1 {
		t.Errorf("sequence 50 did not pass a guard at 49: %+v", changes)
	}
}

var standbyPartB = standbyPart("b", "a", 5).o

func TestNewsOfUnknownNodesChangesNothing(t *testing.T) {
	t.Parallel()
	c := cluster(primaryPart("a", 5))
	for _, e := range []PostgresEvent{PulseChanged{Node: "z", Pulse: Pulse{Liveness: schemas.LivenessSuspect}}, NodeForgotten{Node: "z"}} {
		if next, changes := ApplyPostgres(c, e); !changes.Empty() || !reflect.DeepEqual(next, c) {
			t.Errorf("%T changed %+v", e, changes)
		}
	}
}

func TestForgettingTheLastNodeForgetsTheCluster(t *testing.T) {
	t.Parallel()
	c, changes := ApplyPostgres(cluster(primaryPart("a", 5), standbyPart("b", "a", 5)), NodeForgotten{Node: "b"})
	if changes.Forgotten != "b" || changes.Sequence != 2 || changes.ClusterForgotten || changes.Cluster == nil || len(changes.Cluster.Members) != 1 {
		t.Errorf("the first: %+v", changes)
	}
	c, changes = ApplyPostgres(c, NodeForgotten{Node: "a"})
	if changes.Forgotten != "a" || !changes.ClusterForgotten || changes.Cluster != nil || c.State != nil || len(c.Nodes) != 0 {
		t.Errorf("the last: %+v, left %+v", changes, c)
	}
}

// TestEveryVisibleFieldIsCompared changes each field of a state, also such as will be added, and expects a difference.
func TestEveryVisibleFieldIsCompared(t *testing.T) {
	t.Parallel()
	base := cluster(primaryPart("a", 5), unheard(standbyPart("b", "a", 5))).State
	eachField(t, *base, func(name string, changed schemas.PostgresClusterState) {
		if equalClusterStates(base, &changed) {
			t.Errorf("a change of PostgresClusterState.%s is not seen", name)
		}
	})
	fleet := NewFleet()
	fleet.Put("postgres/orders", base)
	total := fleet.Total()
	eachField(t, *total, func(name string, changed schemas.FleetState) {
		if EqualFleetStates(total, &changed) {
			t.Errorf("a change of FleetState.%s is not seen", name)
		}
	})
	eachField(t, total.Issues[0], func(name string, changed schemas.FleetIssue) {
		other := *total
		other.Issues = []schemas.FleetIssue{changed}
		if EqualFleetStates(total, &other) {
			t.Errorf("a change of FleetIssue.%s is not seen", name)
		}
	})
	n := PostgresDerived{Causes: []schemas.HealthCause{}}
	eachField(t, n, func(name string, changed PostgresDerived) {
		if n.equal(changed) {
			t.Errorf("a change of PostgresDerived.%s is not seen", name)
		}
	})
}

// eachField calls visit with copies of v, in each of which one field differs.
func eachField[T any](t *testing.T, v T, visit func(name string, changed T)) {
	t.Helper()
	for i := range reflect.TypeFor[T]().NumField() {
		changed := v
		f := reflect.ValueOf(&changed).Elem().Field(i)
		switch f.Kind() {
		case reflect.String:
			f.SetString(f.String() + "x")
		case reflect.Int64, reflect.Int32:
			f.SetInt(f.Int() + 1)
		case reflect.Bool:
			f.SetBool(!f.Bool())
		case reflect.Slice:
			f.Set(reflect.Append(reflect.AppendSlice(reflect.Zero(f.Type()), f), reflect.Zero(f.Type().Elem())))
		case reflect.Pointer:
			f.Set(reflect.New(f.Type().Elem()))
		default:
			t.Fatalf("no change of a %s", f.Type())
		}
		visit(reflect.TypeFor[T]().Field(i).Name, changed)
	}
}

// TestNodeStateCarriesEveryField: what is emitted of a node has every field of the schema set from somewhere.
func TestNodeStateCarriesEveryField(t *testing.T) {
	t.Parallel()
	one, bytes, saturation := int64(1), int64(8192), 0.5
	change := PostgresNodeChange{
		Node: "a", Pulse: Pulse{Liveness: schemas.LivenessAlive, IntervalMs: 250, SuspectAfterMs: 1000},
		Derived: PostgresDerived{Health: schemas.HealthDegraded, Causes: []schemas.HealthCause{{Code: "x"}}, LagBytes: &bytes, LagMs: &one, Saturation: &saturation},
		Observation: &NodeObserved{
			Header:   schemas.EnvelopeHeader{ID: "id", Sequence: 3, OccurredAt: testTime, BootID: "boot"},
			Observed: &schemas.PostgresNodeObserved{Node: "a"}, At: Position{Topic: "t", Partition: 1, Offset: 2},
		},
	}
	s := change.State(nil)
	v := reflect.ValueOf(*s)
	for i := range v.NumField() {
		if v.Field(i).IsZero() {
			t.Errorf("field %s is not set", v.Type().Field(i).Name)
		}
	}
	change.Observation, change.Pulse.Liveness = nil, schemas.LivenessSuspect
	if later := change.State(s); later.ObservedSequence != 3 || later.Liveness != schemas.LivenessSuspect || s.Liveness != schemas.LivenessAlive {
		t.Errorf("a change without observation: %+v of %+v", later, s)
	}
	defer func() {
		if recover() == nil {
			t.Error("a change of nothing gave a state")
		}
	}()
	change.State(nil)
}

func TestForgottenGuardsForAWindow(t *testing.T) {
	t.Parallel()
	g := &schemas.ResourceForgotten{ForgottenAt: testTime}
	if !ForgottenGuards(g, testTime.Add(time.Hour-1), time.Hour) || ForgottenGuards(g, testTime.Add(time.Hour), time.Hour) {
		t.Error("the guard does not hold for exactly the window")
	}
}

func TestSyncRule(t *testing.T) {
	t.Parallel()
	for setting, want := range map[string]syncRule{
		"":                                {},
		"  ":                              {},
		`ANY 1 ("pg-2-t5", "pg-3-t5")`:    {count: 1, names: []string{"pg-2-t5", "pg-3-t5"}},
		`any 2 (a,b, c)`:                  {count: 2, names: []string{"a", "b", "c"}},
		`FIRST 1 (*)`:                     {count: 1, any: true},
		`3 (a, A, b)`:                     {count: 3, names: []string{"a", "b"}},
		`a, "B"`:                          {count: 1, names: []string{"a", "b"}},
		`"we""ird"`:                       {count: 1, names: []string{`we"ird`}},
		`*`:                               {count: 1, any: true},
		`ANY x (a)`:                       {count: 1, any: true},
		`ANY 0 (a)`:                       {count: 1, any: true},
		`ANY 1 ()`:                        {count: 1, any: true},
		`SOME 99999999999999999999 (a,b)`: {count: 1, any: true},
	} {
		if got := parseSyncRule(setting); !reflect.DeepEqual(got, want) {
			t.Errorf("%q: got %+v, want %+v", setting, got, want)
		}
	}
}

func TestNodeOfApplication(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]string{"pg-2-t5": "pg-2", "pg-2": "pg-2", "pg-t2-t15": "pg-t2", "pg-t": "pg-t", "-t5": "-t5", "": "", "pg-t-5": "pg-t-5"} {
		if got := nodeOfApplication(name); got != want {
			t.Errorf("%q: got %q, want %q", name, got, want)
		}
	}
}

func TestDiverged(t *testing.T) {
	t.Parallel()
	at := func(timeline, written int64, history ...branch) *facts {
		return &facts{timeline: timeline, written: written, history: history, systemIdentifier: "1", settled: true}
	}
	unsettled := func(f *facts) *facts {
		f.settled = false
		return f
	}
	primary := at(3, 5000, branch{1, 1000}, branch{2, 3000})
	streaming := at(1, 4000)
	streaming.streaming, streaming.receivingTimeline = true, 3
	for _, c := range []struct {
		name    string
		primary *facts
		node    *facts
		want    bool
	}{
		{"same", primary, at(3, 5000, branch{1, 1000}, branch{2, 3000}), false},
		{"ahead on the same timeline", primary, at(3, 9000, branch{1, 1000}, branch{2, 3000}), false},
		{"at the fork of an ancestor", primary, at(1, 1000), false},
		{"beyond the fork of an ancestor", primary, at(1, 1001), true},
		{"beyond the second fork", primary, at(2, 3001, branch{1, 1000}), true},
		{"left an ancestor elsewhere", primary, at(3, 2000, branch{1, 900}, branch{2, 3000}), true},
		{"left for another timeline", primary, at(4, 2000, branch{1, 1000}), true},
		{"promoted from the primary's timeline", primary, at(4, 5100, branch{1, 1000}, branch{2, 3000}, branch{3, 5000}), true},
		{"streams the primary's timeline, control file behind", primary, streaming, false},
		{"beyond the fork, if its control file is right", primary, unsettled(at(1, 1001)), false},
		{"the same, its history unknown", primary, unsettled(at(2, 3001)), false},
		{"on a foreign timeline, whatever its control file says", primary, unsettled(at(4, 2000, branch{1, 1000})), true},
		{"node unknown", primary, at(0, 9999), false},
		{"primary unknown", at(0, 1), at(1, 9999), false},
		{"history of the node unknown, at the fork", primary, at(2, 3000), false},
		{"history of the node unknown, beyond", primary, at(2, 3001), true},
		{"history of the node unknown, foreign timeline", primary, at(9, 3001), false},
		{"history of the primary unknown", at(3, 5000), at(2, 9999, branch{1, 1000}), false},
		{"another system", primary, &facts{systemIdentifier: "2"}, true},
	} {
		if got := diverged(c.primary, c.node); got != c.want {
			t.Errorf("%s: got %v", c.name, got)
		}
	}
}

func TestCoarseTexts(t *testing.T) {
	t.Parallel()
	for n, want := range map[int64]string{
		math.MinInt64: "1 B", 0: "1 B", 1023: "512 B", 1024: "1 KiB", 3 << 20: "2 MiB", 1 << 30: "1 GiB", 1<<40 + 1: "1 TiB", math.MaxInt64: "8192 PiB",
	} {
		if got := atLeastBytes(n); got != want {
			t.Errorf("%d: got %s, want %s", n, got, want)
		}
	}
	for ms, want := range map[int64]string{0: "0 s", 10_000: "10 s", 59_999: "10 s", 3_600_000: "1 h", math.MaxInt64: "a day"} {
		if got := atLeastMs(ms); got != want {
			t.Errorf("%d: got %s, want %s", ms, got, want)
		}
	}
}

// BenchmarkApply folds an observation of a primary with two standbys.
func BenchmarkApply(b *testing.B) {
	c := cluster(primaryPart("a", 1), standbyPart("b", "a", 1), standbyPart("c", "a", 1))
	o := primaryPart("a", 1).o
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		var changes PostgresChanges
		c, changes = ApplyPostgres(c, NodeObserved{Header: schemas.EnvelopeHeader{Sequence: int64(i + 10), OccurredAt: testTime}, Observed: &o})
		if len(changes.Nodes) != 1 {
			b.Fatal(fmt.Sprint(changes))
		}
	}
}
