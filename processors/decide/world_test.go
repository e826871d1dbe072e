package decide

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"sort"
	"strings"
	"testing"
	"time"

	"github.com/regent-infra/regent/internal/event"
	"github.com/regent-infra/regent/schemas"
)

const (
	testCluster     = event.ClusterID("postgres/orders")
	observationsLog = "infra.observations.postgres.v1"
	stateLog        = "infra.state.postgres.v1"
	commandsLog     = "infra.commands.postgres.v1"
	heartbeatsLog   = "infra.heartbeats.postgres.v1"
)

var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// world is a model of everything around the decisions: the durable log of the orchestrator, the reducer, the agents. Stories drive it
// by hand, the simulation at random. The decisions are the real ones.
type world struct {
	t     testing.TB
	now   time.Time
	names []string
	// What the orchestrator has made durable, as bytes, so that nothing survives in memory by accident.
	record    []byte
	workflows map[string][]byte
	order     []string // workflow ids in order of appearance
	// What the reducer has made of it.
	states   map[string]*schemas.PostgresNodeState
	cluster  *schemas.PostgresClusterState
	lastBeat map[string]time.Time
	offsets  map[string]int64
	due      time.Time

	agents map[string]*agent
	// sink receives what is decided, for stories.
	sink func(Decision)
	// truth
	acked      map[int]acknowledged
	nextEntry  int
	promotions map[int64]string
	terms      []int64
	outcomes   []Outcome
	commands   map[string]*Command
	decisions  int
	starts     int
	// lossy: asynchronous, so that acknowledged writes may be lost.
	lossy bool
	// hold: the orchestrator does not run. aborts: so many of its next transactions are aborted.
	hold   bool
	aborts int
}

func newWorld(t testing.TB, names ...string) *world {
	w := &world{
		t: t, now: epoch, names: names, workflows: map[string][]byte{}, states: map[string]*schemas.PostgresNodeState{},
		lastBeat: map[string]time.Time{}, offsets: map[string]int64{}, agents: map[string]*agent{}, acked: map[int]acknowledged{},
		promotions: map[int64]string{}, commands: map[string]*Command{},
	}
	for _, n := range names {
		w.agents[n] = newAgent(w, n)
	}
	return w
}

func encode(t testing.TB, v any) []byte {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func decode[T any](t testing.TB, b []byte) *T {
	t.Helper()
	if b == nil {
		return nil
	}
	v := new(T)
	if err := json.Unmarshal(b, v); err != nil {
		t.Fatal(err)
	}
	return v
}

func (w *world) rec() *schemas.ClusterRecord { return decode[schemas.ClusterRecord](w.t, w.record) }

func (w *world) workflow(id string) *schemas.Workflow {
	return decode[schemas.Workflow](w.t, w.workflows[id])
}

// view is read from bytes each time: a decision can rely on nothing else.
func (w *world) view(topic string) *View {
	v := &View{Cluster: testCluster, Now: w.now, CaughtUp: true, Origin: Origin{topic, 0, w.offsets[topic]}, Record: w.rec(), State: w.cluster}
	if v.Record != nil {
		v.Owner = w.workflow(v.Record.ActiveWorkflow)
		for _, id := range v.Record.Checks {
			v.Checks = append(v.Checks, w.workflow(id))
		}
	}
	names := make([]string, 0, len(w.states))
	for n := range w.states {
		names = append(names, n)
	}
	sort.Strings(names)
	for _, n := range names {
		v.Nodes = append(v.Nodes, w.states[n])
	}
	return v
}

// decide runs the real decision on what is durable, checks what must hold of any decision, and makes it durable.
func (w *world) decide(topic string, command *Command) Decision {
	w.t.Helper()
	if w.hold {
		return Decision{}
	}
	v := w.view(topic)
	if command != nil {
		command.Earlier = w.workflow(command.ID)
		v.Command = command
	}
	before := encode(w.t, v)
	d := Decide(v)
	w.decisions++
	if w.aborts > 0 && !d.Empty() {
		// The transaction was aborted: the same records are processed again, and give the same.
		w.aborts--
		return w.decide(topic, command)
	}
	if !d.Empty() {
		if after := encode(w.t, v); string(after) != string(before) {
			w.t.Fatalf("a decision changed its view:\n%s\n%s", before, after)
		}
		if again := Decide(v); !reflect.DeepEqual(d, again) {
			w.t.Fatalf("the same view gave two decisions:\n%+v\n%+v", d, again)
		}
	}
	w.apply(d)
	if !d.Empty() {
		// Level-triggered: what was decided does not make the next decision act again.
		if next := Decide(w.view(topic)); !next.Empty() {
			w.t.Fatalf("deciding again at once acts again:\n%s\nafter:\n%s", encode(w.t, next), encode(w.t, d))
		} else if !next.Due.IsZero() && (d.Due.IsZero() || next.Due.Before(d.Due)) {
			w.t.Fatalf("deciding again at once is due at %s, and was at %s after:\n%s", next.Due, d.Due, encode(w.t, d))
		}
	}
	return d
}

func (w *world) apply(d Decision) {
	w.t.Helper()
	var previous *schemas.ClusterRecord
	if d.Record != nil {
		previous = w.rec()
		w.checkRecord(previous, d.Record)
		w.record = encode(w.t, d.Record)
	}
	for _, c := range d.Workflows {
		if w.workflows[c.Workflow.ID] == nil {
			w.order = append(w.order, c.Workflow.ID)
		}
		w.workflows[c.Workflow.ID] = encode(w.t, c.Workflow)
	}
	for _, o := range d.Orders {
		w.checkOrder(o)
		if a := w.agents[o.Node]; a != nil {
			a.inbox = append(a.inbox, o)
		}
	}
	w.outcomes = append(w.outcomes, d.Outcomes...)
	w.due = d.Due
	if w.sink != nil {
		w.sink(d)
	}
}

func (w *world) checkRecord(before, after *schemas.ClusterRecord) {
	w.t.Helper()
	if before == nil {
		return
	}
	if after.Term < before.Term || after.PrimaryTerm < before.PrimaryTerm || after.Timeline < before.Timeline || after.Sequence <= before.Sequence {
		w.t.Fatalf("invariant 1: something fell: term %d to %d, primary term %d to %d, timeline %d to %d, sequence %d to %d",
			before.Term, after.Term, before.PrimaryTerm, after.PrimaryTerm, before.Timeline, after.Timeline, before.Sequence, after.Sequence)
	}
	if after.Term > before.Term {
		w.terms = append(w.terms, after.Term)
	}
}

// checkOrder holds invariants 1, 3 and 4 against the truth: the durable promises and the WAL of the agents themselves.
func (w *world) checkOrder(o Order) {
	w.t.Helper()
	switch p := o.Payload.(type) {
	case *schemas.PromotePostgres:
		what := string(encode(w.t, p))
		if i := strings.Index(what, `"timeline"`); i < 0 || p.Timeline <= 0 {
			w.t.Fatalf("a promotion without a timeline: %s", what)
		}
		w.onePromotion(p.Meta.Term, o.ID+what)
		for _, e := range p.Evidence {
			if a := w.agents[e.Node]; a != nil && (a.promised < p.Meta.Term || e.Term != p.Meta.Term) {
				w.t.Fatalf("invariant 3: %s is cited for term %d but has promised %d", e.Node, p.Meta.Term, a.promised)
			}
		}
	case *schemas.ReinstatePrimary:
		w.onePromotion(p.Meta.Term, o.ID+p.Meta.Node)
	}
}

func (w *world) onePromotion(term int64, what string) {
	if have, ok := w.promotions[term]; ok && have != what {
		w.t.Fatalf("invariant 1: two promotions in term %d:\n%s\n%s", term, have, what)
	}
	w.promotions[term] = what
}

// observe lets the reducer take up what an agent has published, in order; stale ones are dropped by sequence.
func (w *world) observe(o published) {
	w.t.Helper()
	s := w.states[o.Observed.Node]
	if s != nil && o.ObservedSequence <= s.ObservedSequence {
		return
	}
	n := o.PostgresNodeState
	n.Liveness = schemas.LivenessAlive
	if s != nil {
		n.Liveness = s.Liveness
	}
	w.offsets[observationsLog]++
	n.ObservedTopic, n.ObservedOffset = observationsLog, w.offsets[observationsLog]
	n.Health = schemas.HealthHealthy
	w.states[n.Node] = &n
	w.changed()
}

// changed emits a node state, then the cluster state if the diagnosis has changed.
func (w *world) changed() {
	w.t.Helper()
	w.offsets[stateLog]++
	w.decide(stateLog, nil)
	before := w.cluster
	w.cluster = w.diagnose()
	if !reflect.DeepEqual(before, w.cluster) {
		w.offsets[stateLog]++
		w.decide(stateLog, nil)
	}
}

func (w *world) liveness(node string, l schemas.Liveness) {
	s := w.states[node]
	if s == nil || s.Liveness == l {
		return
	}
	c := *s
	c.Liveness = l
	w.states[node] = &c
	w.changed()
}

// diagnose is a small model of the reducer's analysis.
func (w *world) diagnose() *schemas.PostgresClusterState {
	var p *schemas.PostgresNodeState
	for _, name := range w.names {
		s := w.states[name]
		if s == nil || s.Observed.Upstream != "" || s.Observed.Role == schemas.NodeRoleStandby || s.Observed.Term == 0 {
			continue
		}
		if p == nil || s.Observed.Term > p.Observed.Term {
			p = s
		}
	}
	c := &schemas.PostgresClusterState{Analysis: schemas.AnalysisCodeNoProblem, Health: schemas.HealthHealthy}
	if p == nil {
		c.Analysis, c.Health = schemas.AnalysisCodeNotInitialized, schemas.HealthUnknown
		return c
	}
	c.Primary, c.Term, c.Timeline, c.SystemIdentifier = p.Node, p.Observed.Term, p.Observed.Timeline, p.Observed.SystemIdentifier
	streaming, dead := 0, 0
	for _, name := range w.names {
		s := w.states[name]
		if s == nil || s == p {
			continue
		}
		if s.Liveness == schemas.LivenessSuspect {
			dead++
		} else if s.Observed.Upstream == p.Node && s.Observed.Receiver != nil && s.Observed.Receiver.Status == "streaming" {
			streaming++
		}
	}
	switch {
	case p.Liveness == schemas.LivenessSuspect && streaming > 0:
		c.Analysis = schemas.AnalysisCodeUnreachablePrimaryWithStreamingStandbys
	case p.Liveness == schemas.LivenessSuspect || down(p) && p.Observed.Postmaster == schemas.PostmasterStatusCrashed:
		c.Analysis = schemas.AnalysisCodeDeadPrimary
		if dead > 0 {
			c.Analysis = schemas.AnalysisCodeDeadPrimaryAndSomeStandbys
		}
		c.Health = schemas.HealthDown
	}
	return c
}

// pass lets stream time pass up to a moment, deciding whenever a decision is due.
func (w *world) pass(until time.Time) {
	w.t.Helper()
	for i := 0; !w.due.IsZero() && !w.due.After(until); i++ {
		if i > 10_000 {
			w.t.Fatalf("decisions keep being due at %s", w.due)
		}
		if w.due.After(w.now) {
			w.now = w.due
		}
		w.offsets[heartbeatsLog]++
		at := w.due
		w.decide(heartbeatsLog, nil)
		if w.due.Equal(at) {
			w.t.Fatalf("a decision at %s is due again at the same moment", at)
		}
	}
	if until.After(w.now) {
		w.now = until
	}
}

func (w *world) command(id string, payload any) Decision {
	w.t.Helper()
	w.offsets[commandsLog]++
	c := &Command{ID: id, At: w.now, Origin: Origin{commandsLog, 0, w.offsets[commandsLog]}, Payload: payload}
	w.commands[id] = c
	return w.decide(commandsLog, c)
}

func meta() schemas.CommandMeta { return schemas.CommandMeta{RequestedBy: "tester"} }

func members(names ...string) []schemas.ClusterMember {
	var m []schemas.ClusterMember
	for i, n := range names {
		m = append(m, schemas.ClusterMember{Node: n, Host: "10.0.0." + fmt.Sprint(i+1), Port: 5432, FailoverPriority: 100})
	}
	return m
}

func quorumPolicy(k int32) schemas.ClusterPolicy {
	return schemas.ClusterPolicy{
		Version: 1, SynchronousMode: schemas.SynchronousModeQuorum, SynchronousCount: k,
		FailoverMode: schemas.FailoverModeAutomatic, CrashAction: schemas.CrashActionFailover,
	}
}

// initialise brings a whole cluster up through the real INITIALIZE_CLUSTER.
func (w *world) initialise(policy schemas.ClusterPolicy) {
	w.t.Helper()
	for _, n := range w.names {
		w.agents[n].boot()
	}
	w.settle()
	w.command("0198c000-0000-7000-8000-000000000001", &schemas.InitializeCluster{Meta: meta(), Members: members(w.names...), Policy: policy})
	for range 200 {
		w.settle()
		if r := w.rec(); r.Initialized && r.ActiveWorkflow == "" {
			return
		}
		w.pass(w.now.Add(50 * time.Millisecond))
	}
	w.t.Fatalf("the cluster did not come up: %s", w.record)
}

// settle delivers everything until nothing moves any more.
func (w *world) settle() {
	w.t.Helper()
	for range 1000 {
		moved := false
		for _, n := range w.names {
			a := w.agents[n]
			moved = a.work() || moved
			moved = a.deliver() || moved
		}
		if !moved {
			return
		}
	}
	w.t.Fatal("the world does not settle")
}

func (w *world) active() *schemas.Workflow {
	r := w.rec()
	if r == nil {
		return nil
	}
	return w.workflow(r.ActiveWorkflow)
}

// acknowledged says who told a client that a commit is safe.
type acknowledged struct {
	by   string
	term int64
}

// holdsAll checks invariant 5: everything that was acknowledged to a client under earlier terms, or its own, is in the WAL of the primary of
// a term. One that takes up a term late, after a higher one was authorised, lacks what that one acknowledged; nobody will
// acknowledge anything to it.
func (w *world) holdsAll(a *agent, term int64, when string) {
	w.t.Helper()
	if w.lossy {
		return
	}
	have := map[int]bool{}
	for _, e := range a.wal {
		have[e.id] = true
	}
	var lost []int
	for id, ack := range w.acked {
		if !have[id] && ack.term <= term {
			lost = append(lost, id)
		}
	}
	slices.Sort(lost)
	if len(lost) > 0 {
		w.t.Fatalf("invariant 5: %s %s without the acknowledged writes %v (first acknowledged by %v)", a.name, when, lost, w.acked[lost[0]])
	}
}
