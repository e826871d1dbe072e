package guard

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/regent-infra/regent/internal/event"
	"github.com/regent-infra/regent/schemas"
)

var epoch = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func orderID(n int) string { return event.DeriveID(epoch, "order", n) }

func meta(term int64) schemas.OrderMeta {
	return schemas.OrderMeta{Node: "pg-1", Term: term, WorkflowID: "w", Step: "s", ExpiresAt: epoch.Add(time.Hour)}
}

func peer(name string) schemas.ClusterMember {
	return schemas.ClusterMember{Node: name, Host: "127.0.0.1", Port: 5432, FailoverPriority: 1}
}

func evidence(term int64) []schemas.PromotionEvidence {
	return []schemas.PromotionEvidence{{Node: "pg-1", Term: term}, {Node: "pg-3", Term: term}}
}

// payloads are, for each order, the variants that the table tells apart.
func payloads(term int64) []any {
	var all []any
	all = append(all,
		&schemas.CheckNode{Meta: meta(term)}, &schemas.FencePostgres{Meta: meta(term)}, &schemas.BootstrapPrimary{Meta: meta(term)},
		&schemas.ReinstatePrimary{Meta: meta(term)}, &schemas.ConfigureSynchronous{Meta: meta(term)},
		&schemas.StopPostgres{Meta: meta(term), Mode: schemas.StopModeFast}, &schemas.StopPostgres{Meta: meta(term), Mode: schemas.StopModeFast, Renounce: true},
		&schemas.RestartPostgres{Meta: meta(term), Mode: schemas.StopModeFast},
		&schemas.StartPostgres{Meta: meta(term)}, &schemas.StartPostgres{Meta: meta(term), AsPrimary: true},
	)
	for _, node := range []string{"pg-1", "pg-2"} {
		for _, up := range []int64{term, term - 1} {
			all = append(all, &schemas.CloneStandby{Meta: meta(term), Upstream: peer(node), UpstreamTerm: up, Slot: "regent_pg_1"})
			for _, copyAllowed := range []bool{false, true} {
				all = append(all, &schemas.FollowPrimary{Meta: meta(term), Upstream: peer(node), UpstreamTerm: up, Slot: "regent_pg_1", AllowCopy: copyAllowed})
			}
		}
	}
	for _, ev := range [][]schemas.PromotionEvidence{nil, evidence(term), evidence(term + 1), append(evidence(term), evidence(term)...)} {
		for _, min := range []int64{0, 200} {
			all = append(all, &schemas.PromotePostgres{Meta: meta(term), MinLsn: min, Timeline: 7, Evidence: ev})
		}
	}
	return all
}

// states are all combinations of what the table looks at that the invariants allow.
func states() []State {
	var all []State
	for _, role := range []schemas.NodeRole{schemas.NodeRoleUnknown, schemas.NodeRolePrimary, schemas.NodeRoleStandby} {
		for _, promised := range []int64{0, 2, 3} {
			for _, term := range []int64{0, 2, 3} {
				for _, data := range []DataStatus{DataNone, DataWhole, DataBroken} {
					for _, up := range []bool{false, true} {
						for variant := range 8 {
							s := New(NewDurable("postgres/orders", "pg-1"))
							s.Booted, s.Role, s.PromisedTerm, s.Term, s.Data = true, role, promised, term, data
							if term > promised || up && data != DataWhole || role != schemas.NodeRoleUnknown && (term == 0 || data != DataWhole) {
								continue
							}
							if up {
								s.Postmaster = schemas.PostmasterStatusRunning
							}
							if variant&1 != 0 && role == schemas.NodeRoleStandby {
								s.Upstream = Upstream{Node: "pg-2", Host: "h", Port: 1, Term: promised}
							}
							if variant&2 != 0 {
								s.WalEnd = &schemas.WalEnd{Timeline: 1, Lsn: 100}
							}
							if variant&4 != 0 {
								s.Opening = role == schemas.NodeRolePrimary
								s.Bootstrapped = variant&1 != 0 && role == schemas.NodeRolePrimary
								s.record(schemas.OrderResult{OrderID: orderID(99), OrderType: orderClone, WorkflowID: "w", Term: promised, Status: schemas.OrderStatusDone})
								s.ShuttingDown = variant == 7
							}
							all = append(all, s)
						}
					}
				}
			}
		}
	}
	return all
}

// TestTableIsCompleteAndEveryRuleIsReached tries every order in every situation: there is always a rule, each rule is the first to hold
// somewhere, and each refusal says why.
func TestTableIsCompleteAndEveryRuleIsReached(t *testing.T) {
	t.Parallel()
	reached := map[string]bool{}
	for _, s := range states() {
		for _, term := range []int64{2, 3, 4} {
			for i, p := range payloads(term) {
				o, ok := NewOrder(schemas.EnvelopeHeader{ID: orderID(i)}, p)
				if !ok {
					t.Fatalf("%T is no order", p)
				}
				c := &situation{s: s, o: o, in: OrderReceived{Order: o, StreamTime: epoch, At: epoch}}
				r := decideGeneral(c)
				if r == nil {
					r = decideOrder(c)
				}
				if r == nil {
					t.Fatalf("no rule for %s in %+v", o.Type, s)
				}
				reached[r.number] = true
				if (r.verdict == verdictRefuse) != (r.why != nil) {
					t.Fatalf("rule %s: a refusal says why, nothing else does", r.number)
				}
				if r.why != nil && len(r.why(c)) < 20 {
					t.Errorf("rule %s says only %q", r.number, r.why(c))
				}
				checkStep(t, s, OrderReceived{Order: o, StreamTime: epoch, At: epoch}, r)
			}
		}
	}
	for _, rules := range [][]rule{generalRules, orderRules} {
		for _, r := range rules {
			if !reached[r.number] && r.number != "G1" && r.number != "G2" && r.number != "G3" && r.number != "G4" {
				t.Errorf("rule %s (%s) is never the first that holds", r.number, r.when)
			}
		}
	}
}

// checkStep holds one step of an idle agent against the rule that applied.
func checkStep(t *testing.T, s State, f OrderReceived, r *rule) {
	t.Helper()
	next, actions := Step(s, f)
	began := false
	for _, a := range actions {
		if b, ok := a.(Begin); ok && b.Operation.Order != nil {
			began = true
			if b.Operation.Term < s.PromisedTerm || f.Order.Meta.Term < s.PromisedTerm {
				t.Fatalf("rule %s begins below the promise", r.number)
			}
		}
	}
	want := r.verdict == verdictExecute && f.Order.Type != orderCheck
	if began != want {
		t.Fatalf("rule %s of %s: began %v, want %v", r.number, f.Order.Type, began, want)
	}
	if r.verdict == verdictRefuse {
		result := next.order(f.Order.ID)
		if result == nil || result.Status != schemas.OrderStatusRefused || !strings.HasPrefix(result.Message, f.Order.Type+" refused: ") {
			t.Fatalf("rule %s: result %+v", r.number, result)
		}
	}
}

func TestGeneralRules(t *testing.T) {
	t.Parallel()
	base := New(NewDurable("postgres/orders", "pg-1"))
	base.Booted, base.PromisedTerm = true, 5
	base.record(schemas.OrderResult{OrderID: orderID(1), Status: schemas.OrderStatusDone})
	fence := func(change func(*schemas.FencePostgres)) *schemas.FencePostgres {
		p := &schemas.FencePostgres{Meta: meta(6), FormerPrimary: "pg-2"}
		change(p)
		return p
	}
	for name, c := range map[string]struct {
		id      int
		payload *schemas.FencePostgres
		rule    string
		says    string
	}{
		"other node": {2, fence(func(p *schemas.FencePostgres) { p.Meta.Node = "pg-9" }), "G1", ""},
		"duplicate":  {1, fence(func(*schemas.FencePostgres) {}), "G2", ""},
		"malformed":  {2, fence(func(p *schemas.FencePostgres) { p.Meta.Term = 0 }), "G3", "term 0: terms start at 1"},
		"expired":    {2, fence(func(p *schemas.FencePostgres) { p.Meta.ExpiresAt = epoch.Add(-time.Second) }), "G4", "expired 1s before it could begin"},
		"stale":      {2, fence(func(p *schemas.FencePostgres) { p.Meta.Term = 4 }), "G5", "term 4 is below the promised term 5"},
	} {
		o, _ := NewOrder(schemas.EnvelopeHeader{ID: orderID(c.id)}, c.payload)
		in := OrderReceived{Order: o, StreamTime: epoch, At: epoch}
		r := decideGeneral(&situation{s: base, o: o, in: in})
		if r == nil || r.number != c.rule {
			t.Errorf("%s: rule %+v, want %s", name, r, c.rule)
			continue
		}
		next, _ := Step(base, in)
		if c.says == "" {
			if len(next.Orders) != 1 {
				t.Errorf("%s: it left a result", name)
			}
			continue
		}
		if got := next.order(o.ID); got == nil || !strings.Contains(got.Message, c.says) {
			t.Errorf("%s: result %+v, want a message with %q", name, got, c.says)
		}
	}
}

func TestMalformedOrdersAreNamedInFull(t *testing.T) {
	t.Parallel()
	bad := &schemas.PromotePostgres{
		Meta: meta(0), MinLsn: -1, Timeline: 1, SynchronousStandbyNames: "a\nport = 1",
		Slots: []schemas.SlotOwner{{Slot: "a b"}, {Slot: "x"}, {Slot: "x"}},
	}
	err := malformed(Order{ID: "no-id", Type: orderPromote, Meta: bad.Meta, Payload: bad})
	if err == nil {
		t.Fatal("accepted")
	}
	for _, want := range []string{"is no UUID", "terms start at 1", "min_lsn -1", "timeline 1 is outside", "synchronous_standby_names: expected printable", `slot "a b"`, `slot "x" is named twice`} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the error does not say %q: %v", want, err)
		}
	}
	for _, host := range []string{"", "a b", "h'", "h\nprimary_slot_name=x", "host=evil", "a\\"} {
		f := &schemas.FollowPrimary{Meta: meta(1), Upstream: schemas.ClusterMember{Node: "pg-2", Host: host, Port: 1}}
		if malformed(Order{ID: orderID(1), Type: orderFollow, Meta: f.Meta, Payload: f}) == nil {
			t.Errorf("host %q was accepted", host)
		}
	}
}

func TestScheduleIsCompleteAndEveryRuleIsReached(t *testing.T) {
	t.Parallel()
	reached := map[string]bool{}
	for _, running := range append(payloads(2), any(&schemas.FencePostgres{Meta: meta(2), Planned: true})) {
		o, _ := NewOrder(schemas.EnvelopeHeader{ID: orderID(1000)}, running)
		for _, self := range []bool{false, true} {
			for waiting := range maxWaiting + 1 {
				s := New(NewDurable("postgres/orders", "pg-1"))
				s.Operation = &Operation{ID: 1, Work: Work(o.Type), Term: 2, Order: &o}
				if self {
					s.Operation.Order = nil
				}
				s.Waiting = make([]Order, waiting)
				for _, term := range []int64{2, 3} {
					for i, p := range payloads(term) {
						next, _ := NewOrder(schemas.EnvelopeHeader{ID: orderID(i)}, p)
						r := place(&s, next)
						if r == nil {
							t.Fatalf("no place for %s while %s runs", next.Type, o.Type)
						}
						reached[r.number] = true
					}
				}
			}
		}
	}
	idle := New(NewDurable("postgres/orders", "pg-1"))
	fence, _ := NewOrder(schemas.EnvelopeHeader{ID: orderID(1)}, &schemas.FencePostgres{Meta: meta(1)})
	reached[place(&idle, fence).number] = true
	for _, r := range scheduleRules {
		if !reached[r.number] {
			t.Errorf("rule %s (%s) is never the first that holds", r.number, r.when)
		}
	}
}

func TestEveryOrderHasAnEndingRule(t *testing.T) {
	t.Parallel()
	for _, name := range Orders() {
		last := rule{}
		for _, r := range orderRules {
			for _, o := range r.orders {
				if o == name {
					last = r
				}
			}
		}
		if last.number == "" || fmt.Sprintf("%p", last.holds) != fmt.Sprintf("%p", always) {
			t.Errorf("the last rule of %s is %q, which does not always hold", name, last.number)
		}
		if _, ok := NewOrder(schemas.EnvelopeHeader{}, schemas.NewRecord(name)); !ok {
			t.Errorf("%s is listed but no order", name)
		}
	}
}
