package guard

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/regent-infra/regent/internal/event"
	"github.com/regent-infra/regent/schemas"
)

// DataStatus says what stands in the data directory.
type DataStatus string

// The states of a data directory.
const (
	// DataNone: there is no data directory, or an empty one.
	DataNone DataStatus = "NONE"
	// DataWhole: a server can be started on it.
	DataWhole DataStatus = "WHOLE"
	// DataBroken: an initialisation, a copy or a rewind was begun and not finished; only a new copy helps.
	DataBroken DataStatus = "BROKEN"
)

// Upstream is the primary that a standby follows. The zero value is "none".
type Upstream struct {
	// Node is its node name.
	Node string `json:"node,omitempty"`
	// Host and Port are where its server listens.
	Host string `json:"host,omitempty"`
	Port int32  `json:"port,omitempty"`
	// Slot is the replication slot to stream through; empty for none.
	Slot string `json:"slot,omitempty"`
	// Term is the term of that primary.
	Term int64 `json:"term,omitempty"`
}

// IsZero says whether there is no upstream.
func (u Upstream) IsZero() bool { return u == Upstream{} }

// TimelineTerm says under which term a timeline was begun.
type TimelineTerm struct {
	Timeline int64 `json:"timeline"`
	Term     int64 `json:"term"`
}

// Limits on what is remembered.
const (
	// MaxOrders is how many order results are kept: enough that an id which a reader may meet again is still known.
	MaxOrders = 32
	// MaxTimelines is how many pairs of timeline and term are kept.
	MaxTimelines = 32
	// MaxMessage is the longest message of an order result, bytes.
	MaxMessage = 600
)

// Durable is what must survive a kill -9. The shell writes it whole.
type Durable struct {
	Cluster event.ClusterID `json:"cluster"`
	Node    string          `json:"node"`
	// SystemIdentifier is that of the data directory, decimal; empty before there is one.
	SystemIdentifier string `json:"system_identifier"`
	// PromisedTerm is the highest term that this agent has bound itself to.
	PromisedTerm int64 `json:"promised_term"`
	// Role is what the server is, or was when it last ran. UNKNOWN: it never had a role here.
	Role schemas.NodeRole `json:"role"`
	// Term is the term of that role: of its promotion for a primary, of the primary that it follows for a standby.
	Term int64 `json:"term"`
	// Opening: the server may have become writable under Term, and it is not known yet whether it has.
	Opening bool `json:"opening"`
	// RenouncedTerm is the term that this node gave up as a primary; 0 if none.
	RenouncedTerm int64 `json:"renounced_term"`
	// Upstream is whom the standby follows; zero on a primary and after a revocation.
	Upstream Upstream `json:"upstream"`
	// Timelines are the known pairs of timeline and term, by timeline.
	Timelines []TimelineTerm `json:"timelines"`
	// Data is what stands in the data directory.
	Data DataStatus `json:"data"`
	// Bootstrapped: the data directory was initialised here, and nothing but its first primary has run on it since.
	Bootstrapped bool `json:"bootstrapped"`
	// Held: stopped by an order, so it is not started without one.
	Held bool `json:"held"`
	// Running: the server was up, or on its way up, and was not asked to stop since. Found set at boot, it ended unseen.
	Running bool `json:"running"`
	// LastExit is how the postmaster last ended.
	LastExit *schemas.PostmasterExit `json:"last_exit"`
	// Orders are the last orders with their results, oldest first.
	Orders []schemas.OrderResult `json:"orders"`
	// LostWrites is what the last divergence cost.
	LostWrites *schemas.LostWrites `json:"lost_writes"`
	// SequenceLimit: every envelope sequence used so far is below it.
	SequenceLimit int64 `json:"sequence_limit"`
}

// NewDurable returns the memory of a node that was never anything.
func NewDurable(cluster event.ClusterID, node string) Durable {
	return Durable{Cluster: cluster, Node: node, Role: schemas.NodeRoleUnknown, Data: DataNone}
}

// Validate says whether d can be the memory of an agent; a shell that reads it from a file must not go on otherwise.
func (d *Durable) Validate() error {
	var faults []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			faults = append(faults, fmt.Errorf(format, args...))
		}
	}
	_, err := event.ParseClusterID(string(d.Cluster))
	check(err == nil, "cluster %q is no cluster id", d.Cluster)
	check(event.ValidName(d.Node), "node %q is no node name", d.Node)
	check(d.PromisedTerm >= 0, "promised_term %d is negative", d.PromisedTerm)
	check(d.Term >= 0 && d.Term <= d.PromisedTerm, "term %d is outside 0..promised_term %d", d.Term, d.PromisedTerm)
	check(d.RenouncedTerm >= 0 && d.RenouncedTerm <= d.PromisedTerm, "renounced_term %d is outside 0..promised_term %d", d.RenouncedTerm, d.PromisedTerm)
	check(slices.Contains([]schemas.NodeRole{schemas.NodeRoleUnknown, schemas.NodeRolePrimary, schemas.NodeRoleStandby}, d.Role), "role %q is unknown", d.Role)
	check(slices.Contains([]DataStatus{DataNone, DataWhole, DataBroken}, d.Data), "data %q is unknown", d.Data)
	check(d.Upstream.IsZero() || d.Upstream.Term == d.PromisedTerm, "upstream of term %d under promised_term %d", d.Upstream.Term, d.PromisedTerm)
	check(d.Upstream.IsZero() || d.Role != schemas.NodeRolePrimary, "a primary has an upstream")
	check(d.SequenceLimit >= 0, "sequence_limit %d is negative", d.SequenceLimit)
	check(len(d.Orders) <= MaxOrders && len(d.Timelines) <= MaxTimelines, "more orders or timelines than are kept")
	if d.SystemIdentifier != "" {
		_, err := strconv.ParseUint(d.SystemIdentifier, 10, 64)
		check(err == nil, "system_identifier %q is no number", d.SystemIdentifier)
	}
	return errors.Join(faults...)
}

// TermOf returns the term under whose primary WAL of a timeline was written; 0 if that cannot be known. Timelines are
// numbered in the order of terms, so one above all known pairs belongs to the term of the present role, which is written
// down before a receiver attaches; one between two known pairs is credited to the lower, never to more than it can be.
func (d *Durable) TermOf(timeline int64) int64 {
	term, highest := int64(0), int64(0)
	for _, p := range d.Timelines {
		if p.Timeline <= timeline {
			term = p.Term
		}
		highest = max(highest, p.Timeline)
	}
	if timeline > highest {
		return d.Term
	}
	return term
}

// KnowsTimeline says whether it is known under which term a timeline was begun.
func (d *Durable) KnowsTimeline(timeline int64) bool {
	return slices.ContainsFunc(d.Timelines, func(p TimelineTerm) bool { return p.Timeline == timeline })
}

// learnTimeline notes that the timeline was begun under the term.
func (d *Durable) learnTimeline(timeline, term int64) {
	if timeline <= 0 || term <= 0 {
		return
	}
	at, found := slices.BinarySearchFunc(d.Timelines, timeline, func(p TimelineTerm, t int64) int { return int(p.Timeline - t) })
	if found {
		return // the first to name it was there when it began
	}
	d.Timelines = slices.Insert(slices.Clone(d.Timelines), at, TimelineTerm{Timeline: timeline, Term: term})
	if extra := len(d.Timelines) - MaxTimelines; extra > 0 {
		d.Timelines = d.Timelines[extra:]
	}
}

// promise raises the promised term and forgets an upstream that is below it.
func (d *Durable) promise(term int64) {
	if term <= d.PromisedTerm {
		return
	}
	d.PromisedTerm = term
	d.Upstream = Upstream{}
}

// order returns the result of an order, or nil.
func (d *Durable) order(id string) *schemas.OrderResult {
	for i := range d.Orders {
		if d.Orders[i].OrderID == id {
			return &d.Orders[i]
		}
	}
	return nil
}

// record puts an order's result at the end of the list, in place of an earlier one of the same order.
func (d *Durable) record(result schemas.OrderResult) {
	result.Message = shorten(result.Message)
	kept := make([]schemas.OrderResult, 0, len(d.Orders)+1)
	for _, o := range d.Orders {
		if o.OrderID != result.OrderID {
			kept = append(kept, o)
		}
	}
	if extra := len(kept) + 1 - MaxOrders; extra > 0 {
		kept = kept[extra:]
	}
	d.Orders = append(kept, result)
}

// shorten cuts a message at a character boundary.
func shorten(text string) string {
	if len(text) <= MaxMessage {
		return text
	}
	return strings.ToValidUTF8(text[:MaxMessage-3], "") + "..."
}

// ApplicationName is the name under which a node streams: it carries the term of the primary that it follows, so that a
// half-open connection of an earlier term is never counted as a synchronous standby of a later one.
func ApplicationName(node string, term int64) string {
	return node + "-t" + strconv.FormatInt(term, 10)
}

// SlotName is the replication slot of a node.
func SlotName(node string) string { return "regent_" + strings.ReplaceAll(node, "-", "_") }
