package decide

import (
	"slices"
	"strings"
	"time"

	"github.com/regent-infra/regent/internal/invariant"
	"github.com/regent-infra/regent/schemas"
)

// issued returns the last order of a type that the workflow sent to a node; nil if it sent none.
func (r *run) issued(node, kind string) *schemas.IssuedOrder {
	for i := range r.wf.Orders {
		if r.wf.Orders[i].Node == node && r.wf.Orders[i].OrderType == kind {
			return &r.wf.Orders[i]
		}
	}
	return nil
}

// results takes over what the nodes say of the orders of the workflow.
func (r *run) results() {
	for i := range r.wf.Orders {
		o := &r.wf.Orders[i]
		n := r.node(o.Node)
		last := resultOf(n, o.OrderID)
		if last == nil || o.Status == last.Status {
			continue
		}
		o.Status, o.Message = last.Status, last.Message
		if ended(last.Status) {
			r.note(text("%s on %s: %s%s", o.OrderType, o.Node, strings.ToLower(string(last.Status)), because(last.Message)), evidence(n, string(last.Status)))
		}
	}
}

// resultOf is what a node last said of an order; nil if it does not know it (any more).
func resultOf(n *schemas.PostgresNodeState, id string) *schemas.OrderResult {
	if n == nil {
		return nil
	}
	if last := n.Observed.LastOrder; last != nil && last.OrderID == id {
		return last
	}
	for i := range n.Observed.RecentOrders {
		if n.Observed.RecentOrders[i].OrderID == id {
			return &n.Observed.RecentOrders[i]
		}
	}
	return nil
}

func ended(s schemas.OrderStatus) bool {
	switch s {
	case schemas.OrderStatusDone, schemas.OrderStatusFailed, schemas.OrderStatusRefused:
		return true
	default:
		return false
	}
}

func because(message string) string {
	if message == "" {
		return ""
	}
	return ": " + message
}

func failed(o *schemas.IssuedOrder) bool {
	return o != nil && (o.Status == schemas.OrderStatusFailed || o.Status == schemas.OrderStatusRefused)
}

// press sees to it that an order is under way: it is issued, issued again where it was missed, and left alone while the agent works
// on it. A failed one costs a retry; without retries left it stays failed.
func (r *run) press(node, kind string, payload func(schemas.OrderMeta) any) {
	o, n := r.issued(node, kind), r.node(node)
	if o == nil {
		r.issue(node, kind, payload)
		return
	}
	// The agent has started again since, and does not know the order: it reads orders from the end.
	missed := n != nil && o.BootID != "" && n.ObservedBootID != "" && n.ObservedBootID != o.BootID && resultOf(n, o.OrderID) == nil
	again := false
	switch o.Status {
	case schemas.OrderStatusIssued:
		again = missed || alive(n) && r.reached(o.IssuedAt.Add(resend(o)))
	case schemas.OrderStatusReceived, schemas.OrderStatusRunning:
		again = missed
	case schemas.OrderStatusDone:
		again = alive(n) && r.reached(o.IssuedAt.Add(settleAfter))
	case schemas.OrderStatusFailed, schemas.OrderStatusRefused:
		if r.wf.RetriesLeft > 0 && r.reached(o.IssuedAt.Add(retryAfter)) {
			r.wf.RetriesLeft--
			again = true
		}
	}
	if again {
		r.issue(node, kind, payload)
	}
}

// resend is how long an order may go untaken: longer with each attempt.
func resend(o *schemas.IssuedOrder) time.Duration {
	return resendAfter << min(max(o.Attempt-1, 0), 3)
}

// issue sends an order and remembers it. One that is sent again has a new identifier, but for a promotion: there is one per term.
func (r *run) issue(node, kind string, payload func(schemas.OrderMeta) any) {
	invariant.Assert(r.row == nil || r.row.allows(kind), "row %s of %s may issue %s", idOf(r.row), r.wf.Kind, kind)
	entry := schemas.IssuedOrder{OrderType: kind, Node: node, Attempt: 1, IssuedAt: r.now, Status: schemas.OrderStatusIssued}
	if n := r.node(node); n != nil {
		entry.ObservedSequence, entry.BootID, entry.PostmasterStartedAt = n.ObservedSequence, n.ObservedBootID, n.Observed.PostmasterStartedAt
	}
	if before := r.issued(node, kind); before != nil {
		entry.Attempt = before.Attempt + 1
		if kind == "PromotePostgres" || kind == "ReinstatePrimary" {
			entry.OrderID = before.OrderID
		}
		if kind == "RestartPostgres" {
			// Whether it was restarted is judged against the first time.
			entry.PostmasterStartedAt = before.PostmasterStartedAt
		}
		r.note(text("%s is sent to %s again, attempt %d", kind, node, entry.Attempt))
		if entry.OrderID == "" {
			entry.OrderID = r.id()
		}
		*before = entry
	} else {
		entry.OrderID = r.id()
		r.wf.Orders = append(r.wf.Orders, entry)
	}
	p := payload(schemas.OrderMeta{Node: node, Term: r.rec.Term, WorkflowID: r.wf.ID, Step: r.wf.Step, ExpiresAt: r.wf.StepDeadline})
	invariant.Assert(schemas.RecordName(p) == kind, "the payload of %s is of that type", kind)
	if alive(r.node(node)) {
		r.wake(entry.IssuedAt.Add(resend(&entry)))
	}
	r.orders = append(r.orders, Order{ID: entry.OrderID, Sequence: r.sequence(), Node: node, Workflow: r.wf.ID, Payload: p})
}

func (row *Row) allows(kind string) bool {
	return slices.ContainsFunc(row.Do, func(a Action) bool { return slices.Contains(a.Orders, kind) })
}

// exhausted reports whether one of these orders has failed and no retries are left.
func (r *run) exhausted(nodes []string, kinds ...string) bool {
	if r.wf.RetriesLeft > 0 {
		return false
	}
	for _, node := range nodes {
		for _, kind := range kinds {
			if failed(r.issued(node, kind)) {
				return true
			}
		}
	}
	return false
}

// extend moves the deadline of a step along while an agent works on an order of it: how long a copy takes depends on its size.
func (r *run) extend(nodes []string, kinds ...string) {
	limit := r.table.step(Step(r.wf.Step)).Deadline
	if r.wf.StepDeadline.Sub(r.now) > limit/2 {
		return
	}
	for _, node := range nodes {
		for _, kind := range kinds {
			o := r.issued(node, kind)
			if o != nil && o.Status == schemas.OrderStatusRunning && alive(r.node(node)) {
				r.wf.StepDeadline = earlier(r.now.Add(limit), r.wf.Deadline)
				return
			}
		}
	}
	r.wake(r.wf.StepDeadline.Add(-limit / 2))
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// slots are those that the primary keeps: one for each other member.
func (r *run) slots() []schemas.SlotOwner {
	slots := []schemas.SlotOwner{}
	for _, name := range r.others() {
		slots = append(slots, schemas.SlotOwner{Slot: SlotName(name), Node: name})
	}
	return slots
}

func (r *run) pressFence(node string) { r.press(node, "FencePostgres", r.fenceOrder(false, stopGrace)) }

// pressHandover fences a primary that stops cleanly first.
func (r *run) pressHandover(node string) {
	r.press(node, "FencePostgres", r.fenceOrder(true, plannedStopGrace))
}

// pressDrain fences a standby as the stream of a primary that hands over ends.
func (r *run) pressDrain(node string) { r.press(node, "FencePostgres", r.fenceOrder(true, drainLimit)) }

func (r *run) fenceOrder(planned bool, limit time.Duration) func(schemas.OrderMeta) any {
	return func(m schemas.OrderMeta) any {
		return &schemas.FencePostgres{Meta: m, FormerPrimary: r.wf.FormerPrimary, Planned: planned, StopTimeoutMs: int32(limit.Milliseconds())}
	}
}

// pressFollow lets a node follow the recorded primary. The timeline is named once the primary is known to be on it.
func (r *run) pressFollow(node string, rewind, fresh bool) {
	upstream, ok := r.member(r.rec.Primary)
	if !ok || node == r.rec.Primary {
		return
	}
	var timeline int64
	if serves(r.node(r.rec.Primary), r.rec.PrimaryTerm) {
		timeline = r.rec.Timeline
	}
	r.press(node, "FollowPrimary", func(m schemas.OrderMeta) any {
		return &schemas.FollowPrimary{
			Meta: m, Upstream: upstream, UpstreamTerm: r.rec.PrimaryTerm, UpstreamTimeline: timeline,
			Slot: SlotName(node), AllowRewind: rewind, AllowCopy: fresh,
		}
	})
}

func (r *run) pressClone(node string) {
	upstream, ok := r.member(r.rec.Primary)
	if !ok || node == r.rec.Primary {
		return
	}
	r.press(node, "CloneStandby", func(m schemas.OrderMeta) any {
		return &schemas.CloneStandby{Meta: m, Upstream: upstream, UpstreamTerm: r.rec.PrimaryTerm, Slot: SlotName(node), Members: slices.Clone(r.rec.Members)}
	})
}

func (r *run) pressConfigure() {
	r.press(r.rec.Primary, "ConfigureSynchronous", func(m schemas.OrderMeta) any {
		return &schemas.ConfigureSynchronous{Meta: m, SynchronousStandbyNames: r.setting(), Slots: r.slots()}
	})
}

func (r *run) pressStop(node string) {
	r.press(node, "StopPostgres", func(m schemas.OrderMeta) any {
		return &schemas.StopPostgres{Meta: m, Mode: r.wf.Mode, TimeoutMs: int32(stopGrace.Milliseconds())}
	})
}
