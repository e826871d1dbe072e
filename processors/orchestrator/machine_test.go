package orchestrator

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/regent-infra/regent/internal/event"
	"github.com/regent-infra/regent/internal/record"
	"github.com/regent-infra/regent/internal/topics"
	"github.com/regent-infra/regent/processors/decide"
	"github.com/regent-infra/regent/schemas"
)

// history is a cluster of two nodes from its initialisation to the loss of its primary, as records that are made one after the other: each
// sees what the machine has emitted before.
func history() []func(*fakeTask) *record.Record {
	last := func(t *fakeTask, kind string) *schemas.OrderResult {
		w := activeWorkflow(t)
		for _, o := range w.Orders {
			if o.OrderType == kind {
				return &schemas.OrderResult{OrderID: o.OrderID, OrderType: kind, WorkflowID: w.ID, Term: w.Term, Status: schemas.OrderStatusDone, StartedAt: epoch}
			}
		}
		return nil
	}
	primary := func(t *fakeTask, ssn string, order string) schemas.PostgresNodeObserved {
		o := schemas.PostgresNodeObserved{
			Node: "pg-1", Postmaster: schemas.PostmasterStatusRunning, Role: schemas.NodeRolePrimary, AcceptingConnections: true, Timeline: 1,
			SystemIdentifier: "7000000000000000001", PromisedTerm: 1, Term: 1, SynchronousStandbyNames: ssn,
		}
		if order != "" {
			o.LastOrder = last(t, order)
		}
		return o
	}
	standby := schemas.PostgresNodeObserved{
		Node: "pg-2", Postmaster: schemas.PostmasterStatusRunning, Role: schemas.NodeRoleStandby, AcceptingConnections: true, Timeline: 1,
		SystemIdentifier: "7000000000000000001", PromisedTerm: 1, Term: 1, Upstream: "pg-1",
		Receiver: &schemas.WalReceiver{Status: "streaming", ApplicationName: "pg-2-t1"},
	}
	return []func(*fakeTask) *record.Record{
		func(t *fakeTask) *record.Record { return t.command(id(1), initialize()) },
		func(t *fakeTask) *record.Record {
			return t.node(schemas.PostgresNodeObserved{Node: "pg-1", Postmaster: schemas.PostmasterStatusAbsent}, 1)
		},
		func(t *fakeTask) *record.Record { return t.node(primary(t, "", "BootstrapPrimary"), 2) },
		func(t *fakeTask) *record.Record { return t.node(standby, 1) },
		func(t *fakeTask) *record.Record {
			return t.node(primary(t, `ANY 1 ("pg-2-t1")`, "ConfigureSynchronous"), 3)
		},
		func(t *fakeTask) *record.Record { return t.beat(time.Second) },
		func(t *fakeTask) *record.Record {
			o := primary(t, "", "")
			o.Postmaster, o.Role, o.AcceptingConnections, o.RenouncedTerm = schemas.PostmasterStatusCrashed, schemas.NodeRoleUnknown, false, 1
			return t.node(o, 4)
		},
		func(t *fakeTask) *record.Record { return t.beat(1500 * time.Millisecond) },
		func(t *fakeTask) *record.Record {
			o := standby
			o.Upstream, o.Receiver, o.PromisedTerm, o.WalEnd = "", nil, 2, &schemas.WalEnd{Term: 1, Timeline: 1, Lsn: 100}
			return t.node(o, 2)
		},
		func(t *fakeTask) *record.Record {
			o := primary(t, "", "PromotePostgres")
			o.Node, o.Term, o.PromisedTerm, o.Timeline = "pg-2", 2, 2, 2
			return t.node(o, 3)
		},
	}
}

func clusterRecord(t *fakeTask) *schemas.ClusterRecord {
	t.tb.Helper()
	e, err := codec.Decode(workflowsTopic, t.tables[WorkflowsTable][string(cluster)])
	if err != nil {
		t.tb.Fatal(err)
	}
	return e.Payload.(*schemas.ClusterRecord)
}

func workflow(t *fakeTask, id string) *schemas.Workflow {
	t.tb.Helper()
	raw := t.tables[WorkflowsTable][workflowKey(cluster, id)]
	if raw == nil {
		return nil
	}
	e, err := codec.Decode(workflowsTopic, raw)
	if err != nil {
		t.tb.Fatal(err)
	}
	return e.Payload.(*schemas.Workflow)
}

func activeWorkflow(t *fakeTask) *schemas.Workflow {
	t.tb.Helper()
	return workflow(t, clusterRecord(t).ActiveWorkflow)
}

func TestFromInitialisationToFailover(t *testing.T) {
	t.Parallel()
	task := newTask(t, testConfig())
	want := [][]string{
		{"OrchestratorStarted", "BootstrapPrimary", "CommandAccepted", "Workflow", "ClusterRecord"},
		nil,
		{"CloneStandby", "Workflow", "ClusterRecord"},
		{"ConfigureSynchronous", "Workflow", "ClusterRecord"},
		{"CommandCompleted", "Workflow", "ClusterRecord"},
		nil,
		{"FencePostgres", "FencePostgres", "Workflow", "ClusterRecord"},
		{"FencePostgres", "FencePostgres", "Workflow", "ClusterRecord"},
		{"PromotePostgres", "Workflow", "ClusterRecord"},
		{"Workflow", "Workflow", "ClusterRecord"},
	}
	sequences := map[string]int64{}
	ids := map[string]bool{}
	for i, step := range history() {
		rec := step(task)
		events := task.must(rec)
		got := types(events)
		if i == 1 {
			// Whether the agent's first word is history does not matter here.
			got = slices.DeleteFunc(got, func(s string) bool { return s == "Workflow" || s == "ClusterRecord" })
			got = append([]string(nil), got...)
		}
		if i == 9 {
			got = slices.Compact(slices.Clone(got))
			want[i] = slices.Compact(slices.Clone(want[i]))
			got = slices.DeleteFunc(got, func(s string) bool { return s == "FollowPrimary" })
		}
		if strings.Join(got, " ") != strings.Join(want[i], " ") {
			t.Errorf("step %d: emitted %v, want %v", i, got, want[i])
		}
		for _, e := range events {
			if ids[e.ID] {
				t.Errorf("step %d: the id %s is used twice", i, e.ID)
			}
			ids[e.ID] = true
			if e.Source != "orchestrator.postgres/0" || e.BootID != "test-instance" || !e.OccurredAt.Equal(task.streamTime) {
				t.Errorf("step %d: header %+v", i, e.EnvelopeHeader)
			}
			if e.Sequence <= sequences[e.Resource] {
				t.Errorf("step %d: sequence %d of %s about %s does not rise above %d", i, e.Sequence, e.Type, e.Resource, sequences[e.Resource])
			}
			sequences[e.Resource] = e.Sequence
		}
	}
	r := clusterRecord(task)
	if r.Primary != "pg-2" || r.PrimaryTerm != 2 || r.Timeline != 2 || !r.Initialized || r.LastFailoverAt == nil {
		t.Errorf("record %s", asJSON(r))
	}
}

// TestReprocessingGivesTheSame aborts every transaction once, and hands the task over before each record: the same events come out.
func TestReprocessingGivesTheSame(t *testing.T) {
	t.Parallel()
	plain, harassed := newTask(t, testConfig()), newTask(t, testConfig())
	for i, step := range history() {
		want, err := plain.process(step(plain))
		if err != nil {
			t.Fatal(err)
		}
		rec := step(harassed)
		tried, err := harassed.try(rec)
		if err != nil {
			t.Fatal(err)
		}
		harassed.machine = harassed.def.NewMachine(0) // the runtime makes it anew after an abort
		got, err := harassed.process(rec)
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(tried, got) {
			t.Errorf("step %d: aborted and processed again, the task emitted\n%s\ninstead of\n%s", i, asJSON(harassed.events(got)), asJSON(harassed.events(tried)))
		}
		if a, b := withoutStart(want), withoutStart(got); !samePayloads(plain, a, b) {
			t.Errorf("step %d: with a take-over before each record the task emitted\n%s\ninstead of\n%s", i, asJSON(harassed.events(b)), asJSON(plain.events(a)))
		}
		harassed.takeOver()
	}
	if !reflect.DeepEqual(clusterRecord(plain), clusterRecord(harassed)) {
		t.Errorf("the records differ:\n%s\n%s", asJSON(clusterRecord(plain)), asJSON(clusterRecord(harassed)))
	}
}

func withoutStart(outs []record.Record) []record.Record {
	return slices.DeleteFunc(slices.Clone(outs), func(r record.Record) bool { return strings.HasPrefix(string(r.Key), startedPrefix) })
}

func samePayloads(t *fakeTask, a, b []record.Record) bool {
	x, y := t.events(a), t.events(b)
	return slices.EqualFunc(x, y, func(x, y *event.Event) bool { return reflect.DeepEqual(x.Payload, y.Payload) && x.ID != "" })
}

// counting counts what is decoded.
type counting struct {
	event.Codec
	decoded atomic.Int64
}

func (c *counting) Decode(topic string, value []byte) (*event.Event, error) {
	c.decoded.Add(1)
	return c.Codec.Decode(topic, value)
}

func TestHeartbeatsCostNothing(t *testing.T) {
	t.Parallel()
	c := &counting{Codec: codec}
	config := testConfig()
	config.Codec = c
	task := newTask(t, config)
	for _, step := range history()[:5] {
		task.must(step(task))
	}
	task.must(task.beat(time.Second))
	before := c.decoded.Load()
	for range 1000 {
		if outs := task.must(task.beat(time.Millisecond)); len(outs) > 0 {
			t.Fatalf("a heartbeat gave %v", types(outs))
		}
	}
	if n := c.decoded.Load() - before; n > 0 {
		t.Errorf("1000 heartbeats decoded %d values", n)
	}
	// A state of a cluster that nobody manages is not decoded either.
	task.must(task.record(stateTopic, "postgres/unmanaged/node/pg-1", []byte("whatever")))
	if n := c.decoded.Load() - before; n > 0 {
		t.Errorf("a state of an unmanaged cluster decoded %d values", n)
	}
}

func TestNothingIsDecidedBeforeTheTaskHasCaughtUp(t *testing.T) {
	t.Parallel()
	task := newTask(t, testConfig())
	steps := history()
	for _, step := range steps[:5] {
		task.must(step(task))
	}
	task.takeOver()
	task.caughtUp = false
	if got := task.must(steps[6](task)); len(got) > 0 {
		t.Fatalf("before catching up the crash gave %v", types(got))
	}
	if got := task.must(task.beat(time.Minute)); len(got) > 0 {
		t.Fatalf("before catching up a heartbeat gave %v", types(got))
	}
	// Commands are kept, and a repeated one is told so.
	deferred := task.must(task.command(id(7), &schemas.CheckHealth{Meta: requested(), TimeoutMs: 1000}))
	if w := find[schemas.Workflow](deferred); w == nil || w.Status != schemas.WorkflowStatusPending || w.Request == nil || len(deferred) != 1 {
		t.Fatalf("a command before catching up gave %s", asJSON(deferred))
	}
	again := task.must(task.command(id(7), &schemas.CheckHealth{Meta: requested(), TimeoutMs: 1000}))
	if r := find[schemas.CommandRejected](again); r == nil || r.Reason != schemas.RejectionReasonDuplicate || !strings.Contains(r.Message, "caught up") {
		t.Fatalf("the same command again gave %s", asJSON(again))
	}
	old := task.must(task.command(id(1), initialize()))
	if r := find[schemas.CommandRejected](old); r == nil || r.Reason != schemas.RejectionReasonDuplicate || !strings.Contains(r.Message, "SUCCEEDED") {
		t.Fatalf("a command of long ago gave %s", asJSON(old))
	}
	dry := requested()
	dry.DryRun = true
	task.must(task.command(id(8), &schemas.SwitchoverCluster{Meta: dry}))

	// A crash of the process in between loses none of it.
	task.takeOver()
	task.caughtUp = true
	events := task.must(task.beat(time.Second))
	if events[0].Type != "OrchestratorStarted" || find[schemas.OrchestratorStarted](events).Version != "1.2.3" {
		t.Fatalf("the first record after catching up gave %v", types(events))
	}
	names := strings.Join(types(events), " ")
	for _, want := range []string{"FencePostgres", "CheckNode", "CommandAccepted", "CommandRejected"} {
		if !strings.Contains(names, want) {
			t.Errorf("after catching up %s is missing in %s", want, names)
		}
	}
	if w := workflow(task, id(7)); w.Status != schemas.WorkflowStatusRunning || w.Request != nil {
		t.Errorf("the deferred command became %s", asJSON(w))
	}
	if w := workflow(task, id(8)); w.Status == schemas.WorkflowStatusPending || w.Request != nil {
		t.Errorf("the deferred dry run became %s", asJSON(w))
	}
	ids := map[string]bool{}
	for _, e := range events {
		if ids[e.ID] {
			t.Errorf("the id %s is used twice", e.ID)
		}
		ids[e.ID] = true
	}
}

func TestCommandsThatCannotBeReadAreAnswered(t *testing.T) {
	t.Parallel()
	task := newTask(t, testConfig())
	rec := task.record(commandsTopic, string(cluster), []byte("\x00garbage"))
	rec.Headers = []record.Header{{Key: "ce_id", Value: []byte(id(5))}, {Key: "ce_type", Value: []byte("SwitchoverCluster")}}
	for name, rec := range map[string]*record.Record{"garbage": rec, "tombstone": task.record(commandsTopic, string(cluster), nil)} {
		events := task.must(rec)
		letter, rejected := find[schemas.DeadLetter](events), find[schemas.CommandRejected](events)
		if letter == nil || letter.Reader != Name || letter.Topic != commandsTopic || letter.Offset != rec.Offset {
			t.Errorf("%s: the dead letter is %s", name, asJSON(letter))
		}
		if rejected == nil || rejected.Reason != schemas.RejectionReasonMalformed || !strings.Contains(rejected.Message, "cannot be read as a command") {
			t.Errorf("%s: the answer is %s", name, asJSON(rejected))
		}
		if name == "garbage" && (rejected.CommandID != id(5) || rejected.CommandType != "SwitchoverCluster") {
			t.Errorf("the answer names %q, %q", rejected.CommandID, rejected.CommandType)
		}
	}
	events := task.must(task.record(commandsTopic, "\xff no cluster", []byte("garbage")))
	if find[schemas.DeadLetter](events) == nil || find[schemas.CommandRejected](events) != nil {
		t.Errorf("without a cluster to answer to it gave %v", types(events))
	}
}

func TestCommandsThatStandInTheWrongPlace(t *testing.T) {
	t.Parallel()
	config := testConfig()
	config.Partitions = 12
	task := newTask(t, config)
	task.partition = (event.Partition(cluster, 12) + 1) % 12
	outs, err := task.process(task.command(id(1), initialize()))
	if err != nil {
		t.Fatal(err)
	}
	r := find[schemas.CommandRejected](task.events(outs))
	if r == nil || r.Reason != schemas.RejectionReasonMalformed || !strings.Contains(r.Message, fmt.Sprintf("belongs to partition %d of 12", event.Partition(cluster, 12))) {
		t.Fatalf("in the wrong partition: %s", asJSON(r))
	}
	if last := outs[len(outs)-1]; last.Partition != event.Partition(cluster, 12) {
		t.Errorf("the answer goes to partition %d, and the sender waits in %d", last.Partition, event.Partition(cluster, 12))
	}
	if task.tables[WorkflowsTable][string(cluster)] != nil {
		t.Error("a record was made in the wrong partition")
	}
	// Another key in the right partition does no harm.
	task.partition = event.Partition(cluster, 12)
	rec := task.command(id(2), initialize())
	rec.Key = []byte("another key")
	if find[schemas.CommandAccepted](task.must(rec)) == nil {
		t.Error("a command under another key in the right partition was not accepted")
	}

	for name, rec := range map[string]*record.Record{
		"kind":    newTask(t, testConfig()).commandTo("consul/main", id(3), initialize()),
		"id":      newTask(t, testConfig()).commandTo(cluster, "not-a-uuid", initialize()),
		"cluster": newTask(t, testConfig()).commandTo("no cluster", id(3), initialize()),
	} {
		events := newTask(t, testConfig()).must(rec)
		rejected, letter := find[schemas.CommandRejected](events), find[schemas.DeadLetter](events)
		switch name {
		case "kind":
			if letter == nil || !strings.Contains(letter.Error, "expected postgres") && rejected == nil {
				if rejected == nil || !strings.Contains(rejected.Message, "expected postgres") {
					t.Errorf("%s: %s %s", name, asJSON(rejected), asJSON(letter))
				}
			}
		case "id":
			if rejected == nil || !strings.Contains(rejected.Message, "expected a UUID") {
				t.Errorf("%s: %s", name, asJSON(rejected))
			}
		case "cluster":
			if letter == nil || letter.Reason != "misaddressed" {
				t.Errorf("%s: %s", name, asJSON(letter))
			}
		}
	}
}

func TestARegistryThatIsAwayStopsTheTask(t *testing.T) {
	t.Parallel()
	config := testConfig()
	config.Codec = silent{codec}
	task := newTask(t, config)
	rec := task.command(id(1), initialize())
	if _, err := task.process(rec); err == nil || isPoison(err) {
		t.Errorf("a registry that does not answer gave %v, expected an error that is no poison", err)
	}
}

type silent struct{ event.Codec }

func (silent) Decode(string, []byte) (*event.Event, error) {
	return nil, errors.New("the registry does not answer")
}

func TestDamagedMemoryStopsTheTask(t *testing.T) {
	t.Parallel()
	steps := history()
	for name, damage := range map[string]func(*fakeTask){
		"record":   func(t *fakeTask) { t.tables[WorkflowsTable][string(cluster)] = []byte("x") },
		"workflow": func(t *fakeTask) { t.tables[WorkflowsTable][workflowKey(cluster, id(1))] = []byte("x") },
		"state":    func(t *fakeTask) { t.tables[StateTable][string(cluster.Node("pg-2"))] = []byte("x") },
		"another type": func(t *fakeTask) {
			t.tables[WorkflowsTable][string(cluster)] = t.tables[WorkflowsTable][workflowKey(cluster, id(1))]
		},
		"store": func(t *fakeTask) { t.failing = errors.New("the disk is gone") },
	} {
		task := newTask(t, testConfig())
		for _, step := range steps[:3] {
			task.must(step(task))
		}
		damage(task)
		task.takeOver()
		if _, err := task.process(task.beat(time.Second)); err == nil || isPoison(err) {
			t.Errorf("%s: a damaged memory gave %v, expected an error that is no poison", name, err)
		}
	}
}

func TestFinishedWorkflowsAreForgotten(t *testing.T) {
	t.Parallel()
	task := newTask(t, testConfig())
	for _, step := range history()[:5] {
		task.must(step(task))
	}
	task.must(task.command(id(9), &schemas.StartCluster{Meta: requested()})) // rejected
	if workflow(task, id(9)).Status != schemas.WorkflowStatusRejected {
		t.Fatalf("the rejected command left %s", asJSON(workflow(task, id(9))))
	}
	task.takeOver()
	if got := types(task.must(task.beat(keepFinished - time.Hour))); slices.Contains(got, "tombstone") {
		t.Fatalf("too early: %v", got)
	}
	if got := types(task.must(task.beat(2 * time.Hour))); !reflect.DeepEqual(got, []string{"tombstone", "tombstone"}) {
		t.Errorf("after 90 days: %v", got)
	}
	if workflow(task, id(1)) != nil || workflow(task, id(9)) != nil {
		t.Error("the workflows are still there")
	}
	if clusterRecord(task) == nil {
		t.Error("the record is gone, too")
	}
}

func TestScheduleKeepsOneMomentPerName(t *testing.T) {
	t.Parallel()
	s := newSchedule()
	for i := range 1000 {
		s.set("a", epoch.Add(time.Duration(1000-i)*time.Second))
	}
	s.set("b", epoch.Add(time.Hour))
	s.set("c", epoch)
	s.set("c", time.Time{})
	if len(s.queue) > 100 {
		t.Errorf("the queue holds %d entries for two names", len(s.queue))
	}
	if _, ok := s.due(epoch); ok {
		t.Error("something is due too early")
	}
	name, ok := s.due(epoch.Add(2 * time.Second))
	if !ok || name != "a" {
		t.Errorf("got %q, %v", name, ok)
	}
	if _, ok := s.due(epoch.Add(30 * time.Minute)); ok {
		t.Error("a name came twice")
	}
}

func TestConfigurationFaultsAreReportedTogether(t *testing.T) {
	t.Parallel()
	_, err := Postgres(Config{Partitions: -1, TickEvery: -1})
	for _, want := range []string{"Instance is empty", "Codec is nil", "Partitions is -1", "TickEvery is -1ns"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("the error %v does not say %q", err, want)
		}
	}
}

func TestTheContractIsThatOfTheCode(t *testing.T) {
	t.Parallel()
	def, err := Postgres(testConfig())
	if err != nil {
		t.Fatal(err)
	}
	def.Outputs = append(def.Outputs, topics.Leases(event.KindPostgres))
	if err := conform(&def); err == nil || !strings.Contains(err.Error(), "infra.leases.postgres.v1") {
		t.Errorf("an output that the contract does not know gave %v", err)
	}
	if len(handlers()) != 8 || len(orders()) != 11 {
		t.Errorf("handlers %v, orders %v", handlers(), orders())
	}
	if _, ok := decide.Kind(&schemas.NodeHeartbeat{}); ok {
		t.Error("a heartbeat passes for a command")
	}
}

func TestTicksAndDeadLetters(t *testing.T) {
	t.Parallel()
	task := newTask(t, testConfig())
	rec, err := task.def.Tick.Make(3)
	if err != nil || rec.Topic != heartbeatsTopic || rec.Partition != 3 {
		t.Fatalf("tick %+v, %v", rec, err)
	}
	if e := task.events([]record.Record{rec})[0]; e.Payload.(*schemas.StreamTicked).Task != 3 {
		t.Errorf("the tick says %s", asJSON(e))
	}
	long := task.record(commandsTopic, "k", make([]byte, 1<<20))
	letter, err := task.def.DeadLetter(long, "panic", errors.New("why"))
	if err != nil {
		t.Fatal(err)
	}
	l := task.events([]record.Record{letter})[0].Payload.(*schemas.DeadLetter)
	if !l.Truncated || len(*l.Value) >= 1<<20 || l.ValueSize != 1<<20 || l.Reason != "panic" {
		t.Errorf("the letter says truncated=%v, %d bytes, size %d, reason %s", l.Truncated, len(*l.Value), l.ValueSize, l.Reason)
	}
	if _, err := task.process(&record.Record{Topic: "another"}); err == nil {
		t.Error("a record of another topic was accepted")
	}
}
