package guard

import (
	"reflect"

	"github.com/regent-infra/regent/schemas"
)

// placing is what becomes of an order that the general rules let pass, in view of what runs.
type placing string

const (
	placeNow     placing = "NOW"     // begin it, or answer it, at once
	placeJoin    placing = "JOIN"    // what runs is what it asks for: it takes its place
	placePreempt placing = "PREEMPT" // cancel what runs and begin it next
	placeWait    placing = "WAIT"    // begin it after what runs and waits
	placeRefuse  placing = "REFUSE"  // too much waits already
)

// maxWaiting bounds the orders that wait: an orchestrator has one workflow per cluster and never needs more.
const maxWaiting = 4

// scheduleRule is one line of the second table; the first that holds decides.
type scheduleRule struct {
	number  string
	when    string
	holds   func(*State, Order) bool
	placing placing
}

var scheduleRules = []scheduleRule{
	{"Q1", "it only asks to look", func(_ *State, o Order) bool { return o.Type == orderCheck }, placeNow},
	{"Q2", "nothing runs", func(s *State, _ Order) bool { return s.Operation == nil }, placeNow},
	{"Q3", "another attempt of what runs", func(s *State, o Order) bool { return sameWork(s.Operation, o) }, placeJoin},
	// A later decision: what runs would be turned away at its next door anyway, and a clone may take an hour to get there.
	{"Q4", "its term is above that of what runs", func(s *State, o Order) bool { return o.Meta.Term > s.Operation.Term }, placePreempt},
	{"Q5", "it stops or fences", func(_ *State, o Order) bool { return o.Type == orderStop || o.Type == orderFence }, placePreempt},
	{"Q6", "it changes whom to follow while that is being done", func(s *State, o Order) bool { return follows(o.Type) && follows(string(s.Operation.Work)) }, placePreempt},
	{"Q7", "what runs waits for a primary to hand over", func(s *State, _ Order) bool { return drains(s.Operation) }, placePreempt},
	// What the agent began by itself gives way to what the orchestrator wants.
	{"Q8", "what runs was begun by the agent itself, and is no shutdown", func(s *State, _ Order) bool { return s.Operation.Order == nil && !s.ShuttingDown }, placePreempt},
	{"Q9", "few wait", func(s *State, _ Order) bool { return len(s.Waiting) < maxWaiting }, placeWait},
	{"Q10", "", func(*State, Order) bool { return true }, placeRefuse},
}

// drains says whether an operation waits on a standby for the primary to end its stream. Whatever comes next in that term, the waiting is
// of no more use: cancelled, it cuts the standby off at once, as promised.
func drains(op *Operation) bool {
	if op.Work != orderFence || op.WasPrimary || op.Order == nil {
		return false
	}
	p, ok := op.Order.Payload.(*schemas.FencePostgres)
	return ok && p.Planned
}

func follows(work string) bool { return work == orderFollow || work == orderClone }

// place finds the line that applies.
func place(s *State, o Order) *scheduleRule {
	for i := range scheduleRules {
		if scheduleRules[i].holds(s, o) {
			return &scheduleRules[i]
		}
	}
	return nil
}

// sameWork says whether an order asks for exactly what an operation does: the same record but for its workflow and expiry. One
// that is being cancelled is no longer doing it.
func sameWork(op *Operation, o Order) bool {
	return !op.Cancelled && op.Order != nil && op.Order.Type == o.Type && op.Order.Meta.Term == o.Meta.Term &&
		reflect.DeepEqual(withoutMeta(op.Order.Payload), withoutMeta(o.Payload))
}

// withoutMeta returns a copy of an order's record with an empty meta.
func withoutMeta(payload any) any {
	v := reflect.ValueOf(payload)
	if v.Kind() != reflect.Pointer || v.IsNil() {
		return payload
	}
	c := reflect.New(v.Elem().Type()).Elem()
	c.Set(v.Elem())
	c.FieldByName("Meta").SetZero()
	return c.Interface()
}

// resultOf returns a fresh result for an order.
func resultOf(o Order) schemas.OrderResult {
	return schemas.OrderResult{OrderID: o.ID, OrderType: o.Type, WorkflowID: o.Meta.WorkflowID, Term: o.Meta.Term}
}
