package decide

import (
	"slices"
	"strings"

	"github.com/regent-infra/regent/internal/invariant"
	"github.com/regent-infra/regent/schemas"
)

// openTerm starts a revocation: a term above everything that was ever promised, under which nothing is authorised yet.
func (r *run) openTerm() {
	term := r.highestPromise() + 1
	invariant.Assert(term > r.rec.Term && term > r.rec.PrimaryTerm, "term %d rises above %d and %d", term, r.rec.Term, r.rec.PrimaryTerm)
	r.rec.Term, r.wf.Term = term, term
	r.wf.Round++
	r.wf.FormerPrimary = r.rec.Primary
	r.wf.Acknowledgements = []schemas.PromotionEvidence{}
	r.wf.Orders = []schemas.IssuedOrder{}
	r.wf.Candidate = ""
	r.wf.FenceSize = r.fenceSize()
}

// revoke opens a term in order to take the present one from the primary.
func (r *run) revoke() {
	r.openTerm()
	r.note(text("opened term %d: the term %d of %s is being revoked; acknowledgements needed: %d", r.wf.Term, r.rec.PrimaryTerm, r.rec.Primary, r.wf.FenceSize),
		r.observed(r.names()...)...)
}

// authorise makes the chosen node primary of the workflow's term. This is the only place where that is decided, besides
// reinstating the incumbent.
func (r *run) authorise() {
	c := r.elect()
	term := r.wf.Term
	chosen := r.assertAuthorised(c)

	former, formerTerm := r.rec.Primary, r.rec.PromotionTerm
	timeline := r.rec.Timeline
	for _, name := range r.names() {
		if n := r.node(name); n != nil && n.Observed.Timeline < maxTimeline {
			timeline = max(timeline, n.Observed.Timeline)
		}
	}
	timeline++
	followers, set := r.successors(c.candidate, chosen, former, formerTerm)
	k := 0
	if r.quorum() {
		k = min(int(r.rec.Policy.SynchronousCount), len(set))
	} else {
		set = nil
	}
	r.rec.Primary, r.rec.PrimaryTerm, r.rec.PromotionTerm, r.rec.Timeline = c.candidate, term, term, timeline
	r.rec.SynchronousStandbys, r.rec.SynchronousCount, r.rec.PreviousSynchronous = list(set), int32(k), nil
	floor := at(chosen)
	r.rec.FloorTimeline, r.rec.FloorLsn = floor.timeline, floor.lsn
	r.wf.Candidate, r.wf.Timeline, r.wf.MinLsn, r.wf.Acknowledgements, r.wf.Nodes = c.candidate, timeline, floor.lsn, c.cited, followers
	r.note(text("%s is made primary of term %d on timeline %d: it holds %s, the most of the %d that acknowledged; commits will wait for %d of (%s)",
		c.candidate, term, timeline, describeEnd(chosen.WalEnd), len(c.cited), k, strings.Join(set, ", ")), citations(c.cited)...)
	if r.quorum() && k < int(r.rec.Policy.SynchronousCount) {
		r.note(text("degraded: the policy asks for %d synchronous standbys and %d can follow; others are added when they stream", r.rec.Policy.SynchronousCount, k))
	}
	if r.wf.Preferred != "" && r.wf.Preferred != c.candidate {
		r.note(text("%s was asked for and passed over: it does not hold all that may have been acknowledged", r.wf.Preferred))
	}
	r.pressPromotion()
}

// assertAuthorised states what must hold of every promotion, and returns the candidate's acknowledgement.
func (r *run) assertAuthorised(c choice) schemas.PromotionEvidence {
	term := r.wf.Term
	invariant.Assert(c.candidate != "", "a promotion has a candidate: %s", c.missing)
	invariant.Assert(term == r.rec.Term && term > r.rec.PrimaryTerm, "term %d is open and has no promotion yet (record: term %d, last promotion %d)", term, r.rec.Term, r.rec.PrimaryTerm)
	nodes := nodesOf(c.cited)
	slices.Sort(nodes)
	invariant.Assert(len(slices.Compact(slices.Clone(nodes))) == len(nodes), "the acknowledgements are of distinct nodes: %v", nodes)
	invariant.Assert(r.enough(nodes), "%v are f acknowledgements of every synchronous set in force (f = %d), or the one of the authorised node that never took office", nodes, r.wf.FenceSize)
	i := slices.IndexFunc(c.cited, func(a schemas.PromotionEvidence) bool { return a.Node == c.candidate })
	invariant.Assert(i >= 0, "the candidate %s has acknowledged", c.candidate)
	for _, a := range c.cited {
		invariant.Assert(a.Term == term, "the acknowledgement of %s is of term %d, not %d", a.Node, term, a.Term)
		invariant.Assert(at(c.cited[i]).compare(at(a)) >= 0, "the candidate %s at %v is not behind %s at %v", c.candidate, at(c.cited[i]), a.Node, at(a))
	}
	invariant.Assert(at(c.cited[i]).compare(position{r.rec.FloorTimeline, r.rec.FloorLsn}) >= 0, "the candidate %s at %v holds the floor %d/%s", c.candidate, at(c.cited[i]), r.rec.FloorTimeline, LSN(r.rec.FloorLsn))
	return c.cited[i]
}

// successors are those that are told to follow the candidate at once, and those of them that its commits wait for: who acknowledged
// and holds nothing that the candidate lacks. One that must be rewound first, or turned from a primary into a standby, would only
// hold commits up.
func (r *run) successors(candidate string, chosen schemas.PromotionEvidence, former string, formerTerm int64) (followers, set []string) {
	for _, name := range r.names() {
		n := r.node(name)
		if name == candidate || n == nil {
			continue
		}
		i := slices.IndexFunc(r.wf.Acknowledgements, func(a schemas.PromotionEvidence) bool { return a.Node == name })
		acked := i >= 0
		incumbent := name == former && tookOffice(n, formerTerm)
		planned := r.wf.Kind == schemas.WorkflowKindSwitchover && acked
		if !incumbent && (acked || alive(n)) || planned {
			followers = append(followers, name)
		}
		if !incumbent && acked && alive(n) && !formerPrimary(n) && !r.diverged(r.wf.Acknowledgements[i], chosen) {
			set = append(set, name)
		}
	}
	slices.Sort(set)
	return list(followers), set
}

func citations(acks []schemas.PromotionEvidence) []schemas.EvidenceRef {
	refs := []schemas.EvidenceRef{}
	for _, a := range acks {
		refs = append(refs, schemas.EvidenceRef{
			Topic: a.Topic, Partition: a.Partition, Offset: a.Offset,
			Summary: text("%s promised term %d with WAL up to %s", a.Node, a.Term, describeEnd(a.WalEnd)),
		})
	}
	return refs
}

// pressPromotion sends the promotion, and tells the others where to attach while it is under way.
func (r *run) pressPromotion() {
	r.press(r.wf.Candidate, "PromotePostgres", func(m schemas.OrderMeta) any {
		return &schemas.PromotePostgres{
			Meta: m, MinLsn: r.wf.MinLsn, Evidence: slices.Clone(r.wf.Acknowledgements), Timeline: r.wf.Timeline,
			SynchronousStandbyNames: r.setting(), Slots: r.slots(),
		}
	})
	r.pressFollowers()
}

// pressFollowers tells the others whom to follow. A former primary that no commit waits for is told when the new one serves: until then
// it could only be started for nothing.
func (r *run) pressFollowers() {
	for _, name := range r.wf.Nodes {
		if name == r.wf.FormerPrimary && !slices.Contains(r.rec.SynchronousStandbys, name) && !r.promoted() {
			continue
		}
		if alive(r.node(name)) && !r.follows(name) {
			r.pressFollow(name, true, false)
		}
	}
}

// reinstate lets the incumbent go on under a term that was opened and authorised nobody. It needs no acknowledgements: nobody else
// was made primary since.
func (r *run) reinstate() {
	invariant.Assert(r.rec.Term > r.rec.PrimaryTerm && r.rec.Term >= r.rec.PromotionTerm, "term %d has no promotion yet (last: %d)", r.rec.Term, r.rec.PrimaryTerm)
	r.wf.Term, r.wf.Candidate = r.rec.Term, r.rec.Primary
	r.rec.PrimaryTerm = r.rec.Term
	r.wf.Nodes = append([]string{r.rec.Primary}, r.others()...)
	r.note(text("%s goes on as primary, under term %d", r.rec.Primary, r.rec.Term), r.observed(r.rec.Primary)...)
	r.pressReinstatement()
}

func (r *run) pressReinstatement() {
	r.press(r.rec.Primary, "ReinstatePrimary", func(m schemas.OrderMeta) any {
		return &schemas.ReinstatePrimary{Meta: m, SynchronousStandbyNames: r.setting(), Slots: r.slots()}
	})
	r.pressFollowers()
}

// promoted reports whether the authorised node has taken office.
func (r *run) promoted() bool { return serves(r.node(r.rec.Primary), r.rec.PrimaryTerm) }

// promotionFailed reports whether the authorised node has failed to take office or has left it: its agent is silent, its postgres is
// down although nobody stopped it, or it says that the order failed.
func (r *run) promotionFailed() bool {
	n := r.node(r.rec.Primary)
	if n == nil || n.Liveness == schemas.LivenessSuspect {
		return true
	}
	for _, kind := range []string{"PromotePostgres", "ReinstatePrimary"} {
		o := r.issued(r.rec.Primary, kind)
		if failed(o) {
			return true
		}
		// It ran when the order was sent. A candidate that did not is started by the order.
		if o != nil && o.PostmasterStartedAt != nil && n.Observed.Postmaster == schemas.PostmasterStatusCrashed && n.ObservedSequence > o.ObservedSequence {
			return true
		}
	}
	return false
}
