package guard

import (
	"fmt"
	"slices"

	"github.com/regent-infra/regent/schemas"
)

// verdict is what the table says about an order.
type verdict string

const (
	// verdictIgnore: it is not for this node.
	verdictIgnore verdict = "IGNORE"
	// verdictRepeat: it is known already; its result is published again.
	verdictRepeat verdict = "REPEAT"
	// verdictRefuse: REFUSED with the reason; nothing else changes.
	verdictRefuse verdict = "REFUSE"
	// verdictSatisfied: what it wants is so already; DONE.
	verdictSatisfied verdict = "SATISFIED"
	// verdictExecute: it is carried out.
	verdictExecute verdict = "EXECUTE"
)

// situation is what a rule looks at.
type situation struct {
	s  State
	o  Order
	in OrderReceived
	// turn: it has waited and its turn has come.
	turn bool
}

func (c *situation) term() int64 { return c.o.Meta.Term }

// holdsTerm says whether this node was made primary of the order's term.
func (c *situation) holdsTerm() bool { return c.s.primary() && c.s.Term == c.term() }

func (c *situation) upstream() (schemas.ClusterMember, int64) {
	switch p := c.o.Payload.(type) {
	case *schemas.CloneStandby:
		return p.Upstream, p.UpstreamTerm
	case *schemas.FollowPrimary:
		return p.Upstream, p.UpstreamTerm
	default:
		return schemas.ClusterMember{}, 0
	}
}

func (c *situation) asPrimary() bool {
	p, ok := c.o.Payload.(*schemas.StartPostgres)
	return ok && p.AsPrimary
}

func (c *situation) promote() *schemas.PromotePostgres {
	p, _ := c.o.Payload.(*schemas.PromotePostgres)
	return p
}

// rule is one line of the table: the first rule whose orders include the order and whose situation holds decides.
type rule struct {
	number  string
	orders  []string // nil: all
	when    string   // the situation in words; "" for "else"
	holds   func(*situation) bool
	verdict verdict
	// why explains a refusal: what was found, and what would help.
	why func(*situation) string
}

func always(*situation) bool { return true }

func says(format string, args ...func(*situation) any) func(*situation) string {
	return func(c *situation) string {
		values := make([]any, len(args))
		for i, arg := range args {
			values[i] = arg(c)
		}
		return fmt.Sprintf(format, values...)
	}
}

func promisedTerm(c *situation) any { return c.s.PromisedTerm }
func ownTerm(c *situation) any      { return c.s.Term }
func orderTerm(c *situation) any    { return c.o.Meta.Term }
func upstreamTerm(c *situation) any { _, t := c.upstream(); return t }
func dataStatus(c *situation) any   { return c.s.Data }
func roleNow(c *situation) any      { return c.s.Role }

// decideGeneral returns the general rule that stops the order; nil if none does.
func decideGeneral(c *situation) *rule { return firstOf(generalRules, c) }

// decideOrder returns the rule of the order's own that applies; there is always one.
func decideOrder(c *situation) *rule { return firstOf(orderRules, c) }

func firstOf(rules []rule, c *situation) *rule {
	for i := range rules {
		if r := &rules[i]; (r.orders == nil || slices.Contains(r.orders, c.o.Type)) && r.holds(c) {
			return r
		}
	}
	return nil
}

// generalRules apply to every order, when it is read and, but for G2, again when its turn comes.
var generalRules = []rule{
	{number: "G1", when: "addressed to another node", verdict: verdictIgnore, holds: func(c *situation) bool { return c.o.Meta.Node != c.s.Node }},
	{number: "G2", when: "its id is known", verdict: verdictRepeat, holds: known},
	{
		number: "G3", when: "malformed", verdict: verdictRefuse, holds: func(c *situation) bool { return malformed(c.o) != nil },
		why: func(c *situation) string { return "malformed: " + malformed(c.o).Error() },
	},
	{
		number: "G4", when: "expired by stream time", verdict: verdictRefuse, holds: func(c *situation) bool { return c.in.StreamTime.After(c.o.Meta.ExpiresAt) },
		why: func(c *situation) string {
			return fmt.Sprintf("expired %s before it could begin; issue a new one", c.in.StreamTime.Sub(c.o.Meta.ExpiresAt))
		},
	},
	{
		number: "G5", when: "its term is below the promise", verdict: verdictRefuse, holds: func(c *situation) bool { return c.term() < c.s.PromisedTerm },
		why: says("term %d is below the promised term %d: a later decision has been made", orderTerm, promisedTerm),
	},
	{
		number: "G6", when: "the agent is shutting down", verdict: verdictRefuse, holds: func(c *situation) bool { return c.s.ShuttingDown },
		why: says("the agent is shutting down; issue it again when it is back"),
	},
}

// orderRules decide what the general rules let pass: the order's term is the promised one or above it.
var orderRules = []rule{
	{number: "C1", orders: []string{orderCheck}, holds: always, verdict: verdictExecute},

	{
		number: "F1", orders: []string{orderFence}, when: "this node was made primary of that term", verdict: verdictRefuse, holds: (*situation).holdsTerm,
		why: says("this node is the primary of term %d itself; only a higher term can revoke it", orderTerm),
	},
	{
		number: "F2", orders: []string{orderFence}, when: "it follows the primary of that term", verdict: verdictRefuse,
		holds: func(c *situation) bool { return c.s.Upstream.Term == c.term() },
		why:   says("this node follows the primary of term %d already: the revocation that opened it is over", orderTerm),
	},
	{number: "F3", orders: []string{orderFence}, holds: always, verdict: verdictExecute},

	{
		number: "B1", orders: []string{orderBootstrap}, when: "it runs as the primary of that term", verdict: verdictSatisfied,
		holds: func(c *situation) bool { return c.holdsTerm() && !c.s.Opening && c.s.running() },
	},
	{
		number: "B2", orders: []string{orderBootstrap}, when: "there is a data directory that was not bootstrapped here", verdict: verdictRefuse,
		holds: func(c *situation) bool { return c.s.Data == DataWhole && !c.s.Bootstrapped },
		why:   says("there is a data directory already (role %s, term %d); Regent never initialises over one. Remove it by hand, or clone this node", roleNow, ownTerm),
	},
	{number: "B3", orders: []string{orderBootstrap}, holds: always, verdict: verdictExecute},

	{
		number: "U1", orders: []string{orderClone, orderFollow}, when: "the upstream is this node", verdict: verdictRefuse,
		holds: func(c *situation) bool { u, _ := c.upstream(); return u.Node == c.s.Node },
		why:   says("a node cannot follow itself"),
	},
	{
		number: "U2", orders: []string{orderClone, orderFollow}, when: "the upstream's term is not the order's", verdict: verdictRefuse,
		holds: func(c *situation) bool { _, t := c.upstream(); return t != c.term() },
		why:   says("upstream_term %d is not the order's term %d: a receiver may attach only to the primary of the promised term", upstreamTerm, orderTerm),
	},
	{
		number: "U3", orders: []string{orderClone, orderFollow}, when: "this node was made primary of that term", verdict: verdictRefuse, holds: (*situation).holdsTerm,
		why: says("this node is the primary of term %d itself; only a higher term can make it follow", orderTerm),
	},
	{
		number: "L1", orders: []string{orderClone}, when: "it runs as a primary of an earlier term", verdict: verdictRefuse,
		holds: func(c *situation) bool { return c.s.primary() && c.s.up() },
		why:   says("this node runs as the primary of term %d; fence or stop it before its data is replaced", ownTerm),
	},
	{
		number: "L2", orders: []string{orderClone}, when: "the same step of the same workflow has cloned it already", verdict: verdictSatisfied,
		holds: clonedAlready,
	},
	{number: "L3", orders: []string{orderClone}, holds: always, verdict: verdictExecute},
	{
		number: "W1", orders: []string{orderFollow}, when: "there is no usable data and no copy is allowed", verdict: verdictRefuse,
		holds: func(c *situation) bool {
			p, _ := c.o.Payload.(*schemas.FollowPrimary)
			return c.s.Data != DataWhole && !p.AllowCopy
		},
		why: says("the data directory is %s and allow_copy is not set; clone this node or allow a copy", dataStatus),
	},
	{number: "W2", orders: []string{orderFollow}, holds: always, verdict: verdictExecute},

	{
		number: "P1", orders: []string{orderPromote}, when: "it runs as the primary of that term", verdict: verdictSatisfied,
		holds: func(c *situation) bool { return c.holdsTerm() && !c.s.Opening && c.s.running() },
	},
	{
		number: "P2", orders: []string{orderPromote}, when: "it was promoted in that term and has stopped", verdict: verdictRefuse,
		holds: func(c *situation) bool { return c.holdsTerm() && !c.s.Opening },
		why:   says("this node was promoted in term %d already and has stopped; start it as primary, or fail over under a higher term", orderTerm),
	},
	{
		number: "P3", orders: []string{orderPromote}, when: "it was a primary of an earlier term", verdict: verdictRefuse,
		holds: func(c *situation) bool { return c.s.primary() && !c.holdsTerm() },
		why:   says("this node was the primary of term %d; reinstate it, or let it follow first", ownTerm),
	},
	{
		number: "P4", orders: []string{orderPromote}, when: "it has no role or no usable data", verdict: verdictRefuse,
		holds: func(c *situation) bool { return c.s.Role == schemas.NodeRoleUnknown || c.s.Data != DataWhole },
		why:   says("there is no standby to promote (role %s, data directory %s)", roleNow, dataStatus),
	},
	{
		number: "P5", orders: []string{orderPromote}, when: "it follows another primary of that term", verdict: verdictRefuse,
		holds: func(c *situation) bool { return c.s.Upstream.Term == c.term() },
		why:   says("this node follows another primary of term %d: a term has one primary", orderTerm),
	},
	{
		number: "P6", orders: []string{orderPromote}, when: "its evidence is weak", verdict: verdictRefuse,
		holds: func(c *situation) bool { return weakEvidence(c.promote()) != "" },
		why:   func(c *situation) string { return "the promotion is not proven: " + weakEvidence(c.promote()) },
	},
	{
		number: "P7", orders: []string{orderPromote}, when: "its known end of WAL is below min_lsn", verdict: verdictRefuse,
		holds: func(c *situation) bool { return c.s.WalEnd != nil && c.s.WalEnd.Lsn < c.promote().MinLsn },
		why: func(c *situation) string {
			return fmt.Sprintf("the end of valid WAL %s is below min_lsn %s: acknowledged writes would be lost", lsn(c.s.WalEnd.Lsn), lsn(c.promote().MinLsn))
		},
	},
	{number: "P8", orders: []string{orderPromote}, holds: always, verdict: verdictExecute},

	{
		number: "R1", orders: []string{orderReinstate}, when: "it is no primary", verdict: verdictRefuse,
		holds: func(c *situation) bool { return !c.s.primary() },
		why:   says("this node is no incumbent (role %s, term %d): only a former primary can be reinstated", roleNow, ownTerm),
	},
	{number: "R2", orders: []string{orderReinstate}, holds: always, verdict: verdictExecute},

	{
		number: "S1", orders: []string{orderStart}, when: "it runs as asked", verdict: verdictSatisfied,
		holds: func(c *situation) bool {
			return c.s.running() && c.asPrimary() == c.s.primary() && (!c.asPrimary() || c.holdsTerm()) && !c.s.Opening
		},
	},
	{
		number: "S2", orders: []string{orderStart, orderRestart}, when: "it has no role or no usable data", verdict: verdictRefuse,
		holds: func(c *situation) bool { return c.s.Role == schemas.NodeRoleUnknown || c.s.Data != DataWhole },
		why:   says("there is nothing to start (role %s, data directory %s); bootstrap or clone this node", roleNow, dataStatus),
	},
	{
		number: "S3", orders: []string{orderStart}, when: "as primary, but the term is not its own", verdict: verdictRefuse,
		holds: func(c *situation) bool { return c.asPrimary() && !c.holdsTerm() },
		why:   says("it cannot be started as primary of term %d (role %s, term %d); reinstate it, or let it follow", orderTerm, roleNow, ownTerm),
	},
	{
		number: "S4", orders: []string{orderStart}, when: "as primary, but its promotion was not finished", verdict: verdictRefuse,
		holds: func(c *situation) bool { return c.asPrimary() && c.s.Opening },
		why:   says("the promotion in term %d was not finished; issue PromotePostgres again", ownTerm),
	},
	{
		number: "S5", orders: []string{orderStart}, when: "not as primary, but it is a former one", verdict: verdictRefuse,
		holds: func(c *situation) bool { return !c.asPrimary() && c.s.primary() },
		why:   says("this node was the primary of term %d and does not start as a standby by itself; let it follow", ownTerm),
	},
	{
		number: "S6", orders: []string{orderStart, orderRestart}, when: "a standby, under a term that it knows no primary of", verdict: verdictRefuse,
		holds: func(c *situation) bool { return c.s.standby() && c.term() > c.s.PromisedTerm },
		why:   says("this standby has promised term %d and knows no primary of term %d; let it follow", promisedTerm, orderTerm),
	},
	{number: "S7", orders: []string{orderStart}, holds: always, verdict: verdictExecute},

	{
		number: "T1", orders: []string{orderStop}, when: "there is nothing to stop", verdict: verdictSatisfied,
		holds: func(c *situation) bool { return c.s.Data == DataNone },
	},
	{number: "T2", orders: []string{orderStop}, holds: always, verdict: verdictExecute},

	{
		number: "X1", orders: []string{orderRestart}, when: "a primary of another term", verdict: verdictRefuse,
		holds: func(c *situation) bool { return c.s.primary() && (!c.holdsTerm() || c.s.Opening) },
		why:   says("this node was made primary in term %d, not in term %d, or its promotion is not finished", ownTerm, orderTerm),
	},
	{number: "X2", orders: []string{orderRestart}, holds: always, verdict: verdictExecute},

	{
		number: "Y1", orders: []string{orderConfigure}, when: "it is not the primary of that term", verdict: verdictRefuse,
		holds: func(c *situation) bool { return !c.holdsTerm() || c.s.Opening },
		why:   says("this node is not the primary of term %d (role %s, term %d)", orderTerm, roleNow, ownTerm),
	},
	{
		number: "Y2", orders: []string{orderConfigure}, when: "it does not run", verdict: verdictRefuse,
		holds: func(c *situation) bool { return !c.s.running() },
		why:   says("the server does not run; start it"),
	},
	{number: "Y3", orders: []string{orderConfigure}, holds: always, verdict: verdictExecute},
}

// known says whether the order was read before. A promotion is the exception: a term has one, which keeps its id when it is sent
// again, so one that did not come to pass is looked at anew.
func known(c *situation) bool {
	result := c.s.order(c.o.ID)
	if c.turn || result == nil {
		return false
	}
	over := result.Status == schemas.OrderStatusFailed || result.Status == schemas.OrderStatusRefused
	return !over || c.o.Type != orderPromote && c.o.Type != orderReinstate
}

// clonedAlready says whether an earlier attempt of the same step was done, and its result still stands.
func clonedAlready(c *situation) bool {
	u, t := c.upstream()
	if !c.s.standby() || c.s.Upstream.Term != t || c.s.Upstream.Node != u.Node {
		return false
	}
	for _, o := range c.s.Orders {
		if o.OrderType == orderClone && o.WorkflowID == c.o.Meta.WorkflowID && o.WorkflowID != "" && o.Term == t && o.Status == schemas.OrderStatusDone {
			return true
		}
	}
	return false
}

// lsn prints a position as PostgreSQL does.
func lsn(at int64) string {
	return fmt.Sprintf("%X/%X", uint32(at>>32), uint32(at)) //nolint:gosec // both halves of a 64-bit position
}
