package guard

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/regent-infra/regent/schemas"
)

// world is a shell with a disk, a server and a worker in memory: what the guard is told to do happens here, and a crash loses all
// but the disk. It asserts what must hold whatever the order of things.
type world struct {
	t     *rapid.T
	disk  Durable
	state State
	// what the machine does
	running  bool
	writable bool
	attached int64 // term of the primary whose WAL is received; 0: none
	door     *DoorReached
	executed map[string]int
	promoted map[int64]bool
	ids      int
	wal      int64
	full     bool // the disk refuses to be written
}

func newWorld(t *rapid.T) *world {
	w := &world{t: t, disk: NewDurable("postgres/orders", "pg-1"), executed: map[string]int{}, promoted: map[int64]bool{}, wal: 100}
	w.boot()
	return w
}

func (w *world) boot() {
	w.running, w.writable, w.attached, w.door, w.full = false, false, 0, nil, false
	w.state = New(w.disk)
	w.step(Booted{At: epoch, Data: DataWhole, WalEnd: w.end()})
	if w.writable {
		w.t.Fatal("writable at boot")
	}
	if w.state.primary() && !w.disk.Held && w.disk.RenouncedTerm != w.disk.Term {
		w.t.Fatalf("a former primary booted without renouncing term %d", w.disk.Term)
	}
}

func (w *world) end() *schemas.WalEnd { return &schemas.WalEnd{Timeline: 1, Lsn: w.wal} }

func (w *world) step(f Fact) {
	before := w.state
	next, actions := Step(w.state, f)
	if next.PromisedTerm < before.PromisedTerm {
		w.t.Fatal("the promise fell")
	}
	if len(actions) > 0 {
		if p, ok := actions[0].(Persist); ok {
			if w.full {
				if _, again := f.(PersistFailed); !again {
					w.step(PersistFailed{Fact: f, Err: "no space left on device", At: epoch})
					return
				}
			} else {
				w.disk = p.Durable
			}
			actions = actions[1:]
		}
	}
	w.state = next
	if !w.full && w.state.PromisedTerm != w.disk.PromisedTerm {
		w.t.Fatal("the promise in memory is not the one on disk")
	}
	if w.state.RenouncedTerm > w.disk.RenouncedTerm {
		w.t.Fatal("a renunciation would be said before it is durable")
	}
	for _, a := range actions {
		w.carryOut(a)
	}
	if w.state.WalEnd != nil && (w.attached != 0 || w.writable) {
		w.t.Fatalf("the end of WAL is reported while WAL may be written (%s)", describe(w.state))
	}
}

func describe(s State) string {
	return fmt.Sprintf("role %s term %d promised %d op %+v", s.Role, s.Term, s.PromisedTerm, s.Operation)
}

func (w *world) carryOut(a Action) {
	switch a := a.(type) {
	case Begin:
		op := a.Operation
		if op.Order != nil {
			w.executed[op.Order.ID]++
			if w.executed[op.Order.ID] > 1 && op.Work != orderPromote && op.Work != orderReinstate {
				w.t.Fatalf("%s was executed twice", op.Order.ID)
			}
			if op.Order.Meta.Term < w.disk.PromisedTerm {
				w.t.Fatal("an order below the promise was begun")
			}
		}
		switch op.Work {
		case orderFence, orderPromote, orderFollow, orderClone:
			w.attached = 0
			if op.WasPrimary {
				w.running, w.writable = false, false
			}
		case orderStop, orderRestart:
			w.running, w.writable, w.attached = false, false, 0
		}
	case Proceed:
		w.proceed()
	case Deny:
		w.door = nil
	case Persist:
		w.t.Fatal("a persist after another action")
	case Cancel, Publish, Look, RestartLater, Leave:
	}
}

func (w *world) proceed() {
	op := w.state.Operation
	if w.door == nil || op == nil {
		w.t.Fatal("a door opens at which nobody waits")
	}
	if op.Order != nil && op.Order.Meta.Term < w.disk.PromisedTerm && op.Work != orderStart {
		w.t.Fatal("a door opens below the promise")
	}
	switch w.door.Door {
	case DoorErase:
		w.running, w.writable, w.attached = false, false, 0
	case DoorAttach:
		if op.Upstream.Term < w.disk.PromisedTerm {
			w.t.Fatal("a receiver attaches below the promise")
		}
		w.running, w.attached = true, op.Upstream.Term
	case DoorOpen:
		if w.disk.Term != w.disk.PromisedTerm || w.disk.Role != schemas.NodeRolePrimary {
			w.t.Fatalf("opened without being the primary on disk: %+v", w.disk)
		}
		if op.Work == orderPromote {
			w.promoted[w.disk.Term] = true
		}
		w.running, w.writable = true, true
	}
	w.door = nil
}

func (w *world) order() Order {
	w.ids++
	term := max(1, w.disk.PromisedTerm+rapid.Int64Range(-1, 1).Draw(w.t, "term"))
	all := payloads(term)
	p := all[rapid.IntRange(0, len(all)-1).Draw(w.t, "payload")]
	o, _ := NewOrder(schemas.EnvelopeHeader{ID: orderID(w.ids)}, p)
	return o
}

func (w *world) checkRefusals(before State, o Order) {
	r := w.state.order(o.ID)
	if r == nil || r.Status != schemas.OrderStatusRefused {
		return
	}
	a, b := before.Durable, w.state.Durable
	a.Orders, b.Orders = nil, nil
	if fmt.Sprintf("%+v", a) != fmt.Sprintf("%+v", b) {
		w.t.Fatalf("a refused order changed %+v to %+v", a, b)
	}
}

// TestAnyInterleavingIsSafe plays orders, ends, doors, crashes of the server, of the agent and of the disk in any order.
func TestAnyInterleavingIsSafe(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t)
		var last Order
		t.Repeat(map[string]func(*rapid.T){
			"order": func(*rapid.T) {
				last = w.order()
				before := w.state
				w.step(OrderReceived{Order: last, StreamTime: epoch, At: epoch})
				w.checkRefusals(before, last)
			},
			"duplicate": func(t *rapid.T) {
				if last.ID == "" || w.state.order(last.ID) == nil {
					t.Skip("nothing to repeat")
				}
				if last.Type == orderPromote || last.Type == orderReinstate {
					t.Skip("a promotion may be taken up again")
				}
				before := w.disk
				w.step(OrderReceived{Order: last, StreamTime: epoch, At: epoch})
				if !w.state.Unsaved && fmt.Sprintf("%+v", before) != fmt.Sprintf("%+v", w.disk) && !w.state.RestartScheduled {
					t.Fatalf("a duplicate changed the disk")
				}
			},
			"door": func(t *rapid.T) {
				op := w.state.Operation
				if op == nil || len(doors[op.Work]) == 0 {
					t.Skip("no door")
				}
				d := rapid.SampledFrom(doors[op.Work]).Draw(t, "door")
				if d == DoorOpen && (op.Work == orderStart || op.Work == orderRestart) != (op.AsPrimary && (op.Work == orderStart || op.Work == orderRestart)) {
					t.Skip("a standby has no door to the open")
				}
				if d == DoorAttach && op.Upstream.IsZero() {
					t.Skip("nobody to attach to")
				}
				w.door = &DoorReached{Operation: op.ID, Door: d, At: epoch, Timeline: 1, SystemIdentifier: "42"}
				w.step(*w.door)
			},
			"end": func(t *rapid.T) {
				op := w.state.Operation
				if op == nil {
					t.Skip("nothing runs")
				}
				outcome := rapid.SampledFrom([]schemas.OrderStatus{schemas.OrderStatusDone, schemas.OrderStatusFailed, schemas.OrderStatusRefused}).Draw(t, "outcome")
				f := OperationEnded{Operation: op.ID, At: epoch, StreamTime: epoch, Outcome: outcome, Message: "m", Up: w.running}
				if w.attached == 0 && !w.writable {
					f.WalEnd = w.end()
				}
				w.door = nil
				w.step(f)
			},
			"exit": func(t *rapid.T) {
				if !w.running {
					t.Skip("nothing runs")
				}
				w.running, w.writable, w.attached = false, false, 0
				w.step(PostmasterExited{Exit: schemas.PostmasterExit{At: epoch}, WalEnd: w.end()})
			},
			"restart due":  func(*rapid.T) { w.step(RestartDue{At: epoch}) },
			"tick":         func(*rapid.T) { w.step(Ticked{At: epoch}) },
			"agent killed": func(*rapid.T) { w.boot() },
			"disk full":    func(*rapid.T) { w.full = true },
			"disk freed":   func(*rapid.T) { w.full = false; w.step(Ticked{At: epoch}) },
			"shutdown": func(t *rapid.T) {
				if rapid.IntRange(0, 9).Draw(t, "rarely") == 0 {
					w.step(ShutdownRequested{At: epoch})
				}
			},
		})
	})
}

// script drives one agent through a story without chance.
type script struct {
	t     *testing.T
	state State
	acts  []Action
	ids   int
}

func newScript(t *testing.T, d Durable) *script {
	s := &script{t: t, state: New(d)}
	s.step(Booted{At: epoch, Data: d.Data, WalEnd: &schemas.WalEnd{Timeline: 1, Lsn: 500}})
	return s
}

func (s *script) step(f Fact) []Action {
	s.t.Helper()
	s.state, s.acts = Step(s.state, f)
	return s.acts
}

func (s *script) order(p any) string {
	s.t.Helper()
	s.ids++
	o, ok := NewOrder(schemas.EnvelopeHeader{ID: orderID(s.ids)}, p)
	if !ok {
		s.t.Fatalf("%T is no order", p)
	}
	s.step(OrderReceived{Order: o, StreamTime: epoch, At: epoch})
	return o.ID
}

func (s *script) status(id string) schemas.OrderStatus {
	s.t.Helper()
	r := s.state.order(id)
	if r == nil {
		s.t.Fatalf("order %s has no result", id)
	}
	return r.Status
}

func (s *script) door(d Door, timeline int64) {
	s.t.Helper()
	s.step(DoorReached{Operation: s.state.Operation.ID, Door: d, At: epoch, Timeline: timeline, SystemIdentifier: "42"})
	if !slices.ContainsFunc(s.acts, func(a Action) bool { _, ok := a.(Proceed); return ok }) {
		s.t.Fatalf("the door %s stayed closed: %+v", d, s.acts)
	}
}

func (s *script) done(up bool, end *schemas.WalEnd) {
	s.t.Helper()
	s.step(OperationEnded{Operation: s.state.Operation.ID, At: epoch, StreamTime: epoch, Outcome: schemas.OrderStatusDone, Up: up, WalEnd: end})
}

func standbyOf(term int64) Durable {
	d := NewDurable("postgres/orders", "pg-1")
	d.PromisedTerm, d.Term, d.Role, d.Data, d.SystemIdentifier = term, term, schemas.NodeRoleStandby, DataWhole, "42"
	d.Upstream = Upstream{Node: "pg-2", Host: "h", Port: 1, Slot: "regent_pg_1", Term: term}
	d.Timelines = []TimelineTerm{{1, term}}
	return d
}

func primaryOf(term int64) Durable {
	d := standbyOf(term)
	d.Role, d.Upstream, d.Running = schemas.NodeRolePrimary, Upstream{}, true
	return d
}

func TestFailoverAsTheCandidateSeesIt(t *testing.T) {
	t.Parallel()
	s := newScript(t, standbyOf(1))
	if op := s.state.Operation; op == nil || op.Work != orderStart || op.Upstream.Node != "pg-2" {
		t.Fatalf("a standby whose promise is its upstream's term starts itself: %+v", op)
	}
	s.door(DoorAttach, 1)
	s.done(true, nil)
	if s.state.WalEnd != nil {
		t.Fatal("the end of WAL is known while a receiver streams")
	}
	fence := s.order(&schemas.FencePostgres{Meta: meta(2), FormerPrimary: "pg-2"})
	if p, ok := s.acts[0].(Persist); !ok || p.Durable.PromisedTerm != 2 || !p.Durable.Upstream.IsZero() {
		t.Fatalf("the promise is not written down first: %+v", s.acts[0])
	}
	promote := s.order(&schemas.PromotePostgres{Meta: meta(2), MinLsn: 500, Timeline: 2, Evidence: evidence(2)})
	if s.status(promote) != schemas.OrderStatusReceived {
		t.Fatalf("the promotion waits for the fence, it is %s", s.status(promote))
	}
	s.done(true, &schemas.WalEnd{Timeline: 1, Lsn: 600})
	if s.status(fence) != schemas.OrderStatusDone || s.status(promote) != schemas.OrderStatusRunning {
		t.Fatalf("fence %s, promote %s", s.status(fence), s.status(promote))
	}
	if s.state.WalEnd == nil || *s.state.WalEnd != (schemas.WalEnd{Term: 1, Timeline: 1, Lsn: 600}) {
		t.Fatalf("end of WAL %+v", s.state.WalEnd)
	}
	s.door(DoorOpen, 2)
	if !s.state.Opening || s.state.Role != schemas.NodeRolePrimary || s.state.Term != 2 {
		t.Fatalf("behind the door: %+v", s.state.Durable)
	}
	s.done(true, nil)
	if s.state.Opening || s.state.TermOf(2) != 2 || s.state.TermOf(1) != 1 {
		t.Fatalf("after the promotion: %+v", s.state.Durable)
	}
	again := s.order(&schemas.PromotePostgres{Meta: meta(2), MinLsn: 500, Timeline: 2, Evidence: evidence(2)})
	if s.status(again) != schemas.OrderStatusDone || s.state.Operation != nil {
		t.Fatalf("a second attempt is satisfied, it is %s", s.status(again))
	}
}

func TestPromotionInterruptedByAKillIsTakenUpAgainNotRestarted(t *testing.T) {
	t.Parallel()
	d := primaryOf(2)
	d.Opening = true
	s := newScript(t, d)
	if s.state.Operation != nil || s.state.RenouncedTerm != 2 || s.state.Postmaster != schemas.PostmasterStatusStopped {
		t.Fatalf("who may have been promoted stays down: %+v", s.state)
	}
	start := s.order(&schemas.StartPostgres{Meta: meta(2), AsPrimary: true})
	if s.status(start) != schemas.OrderStatusRefused {
		t.Fatalf("start as primary is %s", s.status(start))
	}
	promote := s.order(&schemas.PromotePostgres{Meta: meta(2), MinLsn: 500, Timeline: 2, Evidence: evidence(2)})
	if s.status(promote) != schemas.OrderStatusRunning {
		t.Fatalf("promote again is %s", s.status(promote))
	}
}

func TestCrashedPrimaryRenouncesAndIsStartedOnlyByOrder(t *testing.T) {
	t.Parallel()
	s := newScript(t, primaryOf(3))
	if s.state.RenouncedTerm != 3 || s.state.LastExit == nil || s.state.LastExit.Expected {
		t.Fatalf("after a boot: %+v", s.state.Durable)
	}
	id := s.order(&schemas.StartPostgres{Meta: meta(3), AsPrimary: true})
	if p, ok := s.acts[0].(Persist); !ok || p.Durable.RenouncedTerm != 0 {
		t.Fatalf("the renunciation is taken back first: %+v", s.acts)
	}
	s.door(DoorOpen, 1)
	s.done(true, nil)
	if s.status(id) != schemas.OrderStatusDone {
		t.Fatal(s.status(id))
	}
	s.step(PostmasterExited{Exit: schemas.PostmasterExit{At: epoch}, WalEnd: &schemas.WalEnd{Timeline: 1, Lsn: 700}})
	p, ok := s.acts[0].(Persist)
	if !ok || p.Durable.RenouncedTerm != 3 || s.state.Postmaster != schemas.PostmasterStatusCrashed || s.state.WalEnd.Lsn != 700 {
		t.Fatalf("after a crash: %+v %+v", s.acts, s.state)
	}
	for _, a := range s.acts {
		switch a.(type) {
		case Begin, RestartLater:
			t.Fatalf("a primary is not restarted by its agent: %+v", a)
		default:
		}
	}
}

func TestCrashOnAFullDiskIsReportedWithoutRenouncing(t *testing.T) {
	t.Parallel()
	s := newScript(t, primaryOf(3))
	s.order(&schemas.StartPostgres{Meta: meta(3), AsPrimary: true})
	s.door(DoorOpen, 1)
	s.done(true, nil)
	exit := PostmasterExited{Exit: schemas.PostmasterExit{At: epoch}, WalEnd: &schemas.WalEnd{Timeline: 1, Lsn: 700}}
	s.step(PersistFailed{Fact: exit, Err: "no space left on device", At: epoch})
	if s.state.Postmaster != schemas.PostmasterStatusCrashed || s.state.RenouncedTerm != 0 || len(s.acts) != 1 {
		t.Fatalf("after a crash on a full disk: %+v %+v", s.state, s.acts)
	}
	s.step(Ticked{At: epoch})
	if p, ok := s.acts[0].(Persist); !ok || p.Durable.RenouncedTerm != 3 {
		t.Fatalf("it is tried again: %+v", s.acts)
	}
}

func TestHigherTermOvertakesAClone(t *testing.T) {
	t.Parallel()
	s := newScript(t, NewDurable("postgres/orders", "pg-1"))
	clone := s.order(&schemas.CloneStandby{Meta: meta(1), Upstream: peer("pg-2"), UpstreamTerm: 1})
	s.door(DoorErase, 0)
	fence := s.order(&schemas.FencePostgres{Meta: meta(2), FormerPrimary: "pg-2"})
	if !s.state.Operation.Cancelled || s.status(fence) != schemas.OrderStatusReceived {
		t.Fatalf("%+v", s.state.Operation)
	}
	s.step(DoorReached{Operation: s.state.Operation.ID, Door: DoorAttach, At: epoch})
	if _, ok := s.acts[0].(Deny); !ok {
		t.Fatalf("a cancelled clone came through a door: %+v", s.acts)
	}
	s.step(OperationEnded{Operation: s.state.Operation.ID, At: epoch, StreamTime: epoch, Outcome: schemas.OrderStatusFailed, Message: "cancelled"})
	if s.status(clone) != schemas.OrderStatusFailed || s.state.Operation.Work != orderFence || s.state.PromisedTerm != 2 {
		t.Fatalf("%+v", s.state)
	}
	s.done(false, nil)
	if s.state.Postmaster != schemas.PostmasterStatusAbsent || s.state.Data != DataBroken || s.status(fence) != schemas.OrderStatusDone {
		t.Fatalf("%+v", s.state)
	}
}

// A standby that waits for the primary to hand over has promised, and acknowledges nothing until it is cut off; whatever is ordered
// meanwhile makes an end of the waiting.
func TestWhatComesNextEndsADrain(t *testing.T) {
	t.Parallel()
	for name, next := range map[string]any{
		"it is cut off now":                 &schemas.FencePostgres{Meta: meta(2), FormerPrimary: "pg-2"},
		"the primary goes on":               &schemas.FollowPrimary{Meta: meta(2), Upstream: peer("pg-2"), UpstreamTerm: 2},
		"it is chosen without having ended": &schemas.PromotePostgres{Meta: meta(2), MinLsn: 500, Timeline: 2, Evidence: evidence(2)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newScript(t, standbyOf(1))
			s.door(DoorAttach, 1)
			s.done(true, nil)
			drain := s.order(&schemas.FencePostgres{Meta: meta(2), FormerPrimary: "pg-2", Planned: true})
			if s.state.PromisedTerm != 2 || !s.state.Upstream.IsZero() || s.state.WalEnd != nil {
				t.Fatalf("while it drains: %+v", s.state.Durable)
			}
			s.order(&schemas.FencePostgres{Meta: meta(2), FormerPrimary: "pg-2", Planned: true})
			if s.state.Operation.Cancelled {
				t.Fatal("the same once more ended the drain")
			}
			order := s.order(next)
			if !s.state.Operation.Cancelled || s.status(order) != schemas.OrderStatusReceived {
				t.Fatalf("%+v, the order is %s", s.state.Operation, s.status(order))
			}
			s.done(true, &schemas.WalEnd{Timeline: 1, Lsn: 600})
			if s.status(drain) == schemas.OrderStatusRunning || s.status(order) != schemas.OrderStatusRunning {
				t.Fatalf("drain %s, order %s", s.status(drain), s.status(order))
			}
		})
	}
}

func TestStandbyIsRestartedWithBackoff(t *testing.T) {
	t.Parallel()
	s := newScript(t, standbyOf(1))
	var waits []time.Duration
	for range 9 {
		s.door(DoorAttach, 1)
		s.done(true, nil)
		s.step(PostmasterExited{Exit: schemas.PostmasterExit{At: epoch}})
		for _, a := range s.acts {
			if r, ok := a.(RestartLater); ok {
				waits = append(waits, r.After)
			}
		}
		s.step(RestartDue{At: epoch})
	}
	if len(waits) != 9 || waits[0] != 2*RestartMin || waits[8] != RestartMax || !slices.IsSorted(waits) {
		t.Fatalf("waits %v", waits)
	}
	stop := s.order(&schemas.StopPostgres{Meta: meta(1), Mode: schemas.StopModeFast})
	s.step(OperationEnded{Operation: s.state.Operation.ID, At: epoch, Outcome: schemas.OrderStatusFailed})
	s.done(false, &schemas.WalEnd{Timeline: 1, Lsn: 1})
	if s.status(stop) != schemas.OrderStatusDone || !s.state.Held || s.state.Operation != nil || s.state.RestartScheduled {
		t.Fatalf("who was stopped by an order stays down: %+v", s.state)
	}
}

func TestShutdownStopsThePrimaryAndRenounces(t *testing.T) {
	t.Parallel()
	s := newScript(t, primaryOf(3))
	s.order(&schemas.StartPostgres{Meta: meta(3), AsPrimary: true})
	s.door(DoorOpen, 1)
	s.done(true, nil)
	s.step(ShutdownRequested{At: epoch})
	if p, ok := s.acts[0].(Persist); !ok || p.Durable.RenouncedTerm != 3 || p.Durable.Running {
		t.Fatalf("%+v", s.acts)
	}
	s.done(false, &schemas.WalEnd{Timeline: 1, Lsn: 900})
	if _, ok := s.acts[len(s.acts)-1].(Leave); !ok {
		t.Fatalf("it does not leave: %+v", s.acts)
	}
}

func TestTermOfTimeline(t *testing.T) {
	t.Parallel()
	d := standbyOf(9)
	d.Timelines = []TimelineTerm{{1, 1}, {3, 4}, {6, 7}}
	for timeline, want := range map[int64]int64{0: 0, 1: 1, 2: 1, 3: 4, 5: 4, 6: 7, 8: 9} {
		if got := d.TermOf(timeline); got != want {
			t.Errorf("TermOf(%d) = %d, want %d", timeline, got, want)
		}
	}
}

func TestRecordKeepsTheLastOrdersAndShortMessages(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var d Durable
		n := rapid.IntRange(0, 3*MaxOrders).Draw(t, "n")
		for i := range n {
			d.record(schemas.OrderResult{OrderID: orderID(i % (MaxOrders + 5)), Message: rapid.StringN(0, 900, 2000).Draw(t, "message")})
		}
		seen := map[string]bool{}
		for _, o := range d.Orders {
			if seen[o.OrderID] || len(o.Message) > MaxMessage {
				t.Fatalf("%s twice or a message of %d bytes", o.OrderID, len(o.Message))
			}
			seen[o.OrderID] = true
		}
		if len(d.Orders) > MaxOrders || n > 0 && d.Orders[len(d.Orders)-1].OrderID != orderID((n-1)%(MaxOrders+5)) {
			t.Fatalf("%d orders, or the last is not the newest", len(d.Orders))
		}
	})
}
