package decide

import (
	"cmp"
	"slices"

	"github.com/regent-infra/regent/schemas"
)

// position is how far a node's WAL goes. Timeline ids are assigned one after the other, one per promotion, so the greater timeline is
// of the later promotion; on one timeline the greater LSN is further. A term would order the same way, but a standby that has
// attached to a new primary without having received anything yet is under the new term with WAL of the old one.
type position struct{ timeline, lsn int64 }

func (p position) compare(q position) int {
	return cmp.Or(cmp.Compare(p.timeline, q.timeline), cmp.Compare(p.lsn, q.lsn))
}

// effective places an end of WAL on the timeline that its last record belongs to: one that has not gone beyond the point at which its
// timeline left another is still on that other one.
func effective(end schemas.WalEnd, history []schemas.TimelineSwitch) position {
	for _, s := range history {
		if s.Timeline < end.Timeline && end.Lsn <= s.SwitchLsn {
			return position{s.Timeline, end.Lsn}
		}
	}
	return position{end.Timeline, end.Lsn}
}

// at is the position of an acknowledgement, whose timeline was made effective when it was taken.
func at(a schemas.PromotionEvidence) position { return position{a.WalEnd.Timeline, a.WalEnd.Lsn} }

// acknowledgement returns what a node has acknowledged of the revocation under the workflow's term.
func (r *run) acknowledgement(name string) (schemas.PromotionEvidence, bool) {
	n := r.node(name)
	if n == nil {
		return schemas.PromotionEvidence{}, false
	}
	o := &n.Observed
	switch {
	case o.PromisedTerm != r.wf.Term, o.WalEnd == nil, o.Receiver != nil, o.Upstream != "":
		return schemas.PromotionEvidence{}, false
	case !down(n) && o.Role == schemas.NodeRolePrimary:
		return schemas.PromotionEvidence{}, false
	case o.WalEnd.Timeline <= 0 || o.WalEnd.Timeline > r.rec.Timeline:
		// A timeline that was never assigned: somebody promoted the server by hand. Its WAL cannot be compared.
		return schemas.PromotionEvidence{}, false
	case r.rec.SystemIdentifier != "" && o.SystemIdentifier != "" && o.SystemIdentifier != r.rec.SystemIdentifier:
		return schemas.PromotionEvidence{}, false
	}
	end := *o.WalEnd
	end.Timeline = effective(end, o.TimelineHistory).timeline
	return schemas.PromotionEvidence{
		Node: name, Term: o.PromisedTerm, WalEnd: end,
		Topic: n.ObservedTopic, Partition: n.ObservedPartition, Offset: n.ObservedOffset,
	}, true
}

// gather adds new acknowledgements to those that the workflow holds. One once given stays: the promise is durable, whatever becomes
// of the node.
func (r *run) gather() {
	for _, name := range r.names() {
		a, ok := r.acknowledgement(name)
		if !ok {
			continue
		}
		i := slices.IndexFunc(r.wf.Acknowledgements, func(b schemas.PromotionEvidence) bool { return b.Node == name })
		switch {
		case i < 0:
			r.wf.Acknowledgements = append(r.wf.Acknowledgements, a)
			r.note(text("%s promised term %d with WAL up to %s", name, a.Term, describeEnd(a.WalEnd)), evidence(r.node(name), "acknowledgement"))
		case at(r.wf.Acknowledgements[i]) != at(a):
			r.wf.Acknowledgements[i] = a
		}
	}
}

func describeEnd(w schemas.WalEnd) string {
	return text("%s on timeline %d", LSN(w.Lsn), w.Timeline)
}

// LSN writes a WAL position the way PostgreSQL does.
func LSN(lsn int64) string { return text("%X/%X", uint64(lsn)>>32, uint64(lsn)&0xffffffff) }

// choice is the outcome of an election.
type choice struct {
	// candidate is the node to promote; empty if none can be, and then missing says why.
	candidate string
	missing   string
	// cited are the acknowledgements that the promotion rests on.
	cited []schemas.PromotionEvidence
}

// elect chooses whom to promote: the most advanced of those whose acknowledgements stand for every acknowledged commit.
func (r *run) elect() choice {
	acks := r.countable(func(string) bool { return true })
	// A node that has died since it acknowledged cannot be promoted, and nobody behind it may be. So it is left out where the
	// others are enough without it.
	cited := r.countable(func(name string) bool { return alive(r.node(name)) })
	if !r.enough(nodesOf(cited)) {
		cited = acks
	}
	if !r.enough(nodesOf(cited)) {
		return choice{missing: text("%d of %d acknowledgements of term %d have arrived", r.inSets(nodesOf(cited)), r.wf.FenceSize, r.wf.Term)}
	}
	greatest := position{r.rec.FloorTimeline, r.rec.FloorLsn}
	if r.wf.Kind == schemas.WorkflowKindSwitchover {
		greatest = position{r.wf.Timeline, r.wf.MinLsn}
	}
	for _, a := range cited {
		if at(a).compare(greatest) > 0 {
			greatest = at(a)
		}
	}
	return r.best(cited, greatest)
}

// countable are the acknowledgements that an election rests on: without the incumbent's, and without those of former primaries that have
// followed nobody since. What such a node holds beyond the others was acknowledged to nobody, or is below the floor; it
// cannot be promoted, and must not outrank who can. An incumbent that never took office is a standby like any.
func (r *run) countable(keep func(string) bool) []schemas.PromotionEvidence {
	var acks []schemas.PromotionEvidence
	for _, a := range r.wf.Acknowledgements {
		n := r.node(a.Node)
		incumbent := a.Node == r.rec.Primary && tookOffice(n, r.rec.PromotionTerm)
		if !incumbent && !formerPrimary(n) && keep(a.Node) {
			acks = append(acks, a)
		}
	}
	return acks
}

func nodesOf(acks []schemas.PromotionEvidence) []string {
	names := make([]string, 0, len(acks))
	for _, a := range acks {
		names = append(names, a.Node)
	}
	return names
}

// inSets counts how many of the nodes are in the set with the greatest fence; all of them in asynchronous mode.
func (r *run) inSets(nodes []string) int {
	for _, c := range r.configs() {
		if int32(c.f()) == r.wf.FenceSize {
			return r.count(c.set, func(n string) bool { return slices.Contains(nodes, n) })
		}
	}
	return len(nodes)
}

// best picks among those that hold everything: one that has not failed already, the one that was asked for, by priority, by name.
func (r *run) best(cited []schemas.PromotionEvidence, greatest position) choice {
	var fit []schemas.ClusterMember
	ahead := ""
	for _, a := range cited {
		m, _ := r.member(a.Node)
		switch {
		case at(a).compare(greatest) < 0:
		case m.FailoverPriority <= 0:
			ahead = text("%s holds everything but must not be promoted (failover priority 0)", a.Node)
		case !alive(r.node(a.Node)):
			ahead = text("%s holds everything but has gone silent since it acknowledged", a.Node)
		default:
			fit = append(fit, m)
		}
	}
	if len(fit) == 0 {
		if ahead == "" {
			ahead = text("nobody who acknowledged and may be promoted has WAL up to %s on timeline %d", LSN(greatest.lsn), greatest.timeline)
		}
		return choice{missing: ahead}
	}
	slices.SortFunc(fit, func(a, b schemas.ClusterMember) int {
		return cmp.Or(
			cmp.Compare(among(a.Node, r.wf.FailedCandidates), among(b.Node, r.wf.FailedCandidates)),
			-cmp.Compare(among(a.Node, []string{r.wf.Preferred}), among(b.Node, []string{r.wf.Preferred})),
			-cmp.Compare(a.FailoverPriority, b.FailoverPriority),
			cmp.Compare(a.Node, b.Node))
	})
	if r.wf.Kind == schemas.WorkflowKindSwitchover && r.wf.Preferred != "" && fit[0].Node != r.wf.Preferred {
		return choice{missing: text("%s, who was asked for, does not hold everything", r.wf.Preferred)}
	}
	if reason := r.lagging(fit[0].Node, cited); reason != "" {
		return choice{missing: reason}
	}
	return choice{candidate: fit[0].Node, cited: cited}
}

// formerPrimary reports whether a node was a primary and has followed nobody since. Its data directory is no standby's: agents refuse to
// promote it, and reinstating it on its old timeline would make positions on it incomparable with those of the promotion that
// came between.
func formerPrimary(n *schemas.PostgresNodeState) bool {
	return n != nil && n.Observed.Role != schemas.NodeRoleStandby && n.Observed.RenouncedTerm > 0 && n.Observed.RenouncedTerm == n.Observed.Term
}

func among(node string, list []string) int {
	if slices.Contains(list, node) {
		return 1
	}
	return 0
}

// lagging says why an asynchronous candidate is too far behind; empty if it is not, or if a command asked for the failover.
func (r *run) lagging(candidate string, cited []schemas.PromotionEvidence) string {
	p := r.node(r.wf.FormerPrimary)
	if r.quorum() || r.wf.CommandID != "" || p == nil {
		return ""
	}
	last := max(p.Observed.FlushedLsn, p.Observed.WrittenLsn)
	if p.Observed.WalEnd != nil {
		last = p.Observed.WalEnd.Lsn
	}
	for _, a := range cited {
		if behind := last - a.WalEnd.Lsn; a.Node == candidate && behind > r.rec.Policy.MaxFailoverLagBytes {
			return text("%s is %d bytes behind what %s had written, more than the %d bytes that the policy lets a failover lose", candidate, behind, p.Node, r.rec.Policy.MaxFailoverLagBytes)
		}
	}
	return ""
}

// hopeless reports whether no election can succeed with the nodes that live: waiting would only keep the incumbent down.
func (r *run) hopeless() bool {
	possible := nodesOf(r.countable(func(string) bool { return true }))
	waiting := false
	for _, name := range r.names() {
		if name != r.rec.Primary && !slices.Contains(possible, name) && alive(r.node(name)) && r.node(name).Observed.Postmaster != schemas.PostmasterStatusAbsent {
			possible = append(possible, name)
			waiting = true
		}
	}
	return !r.enough(possible) || !waiting && r.elect().candidate == ""
}

// diverged reports whether a node holds WAL that the candidate's history does not contain, so that it cannot stream from it as it is.
func (r *run) diverged(a schemas.PromotionEvidence, candidate schemas.PromotionEvidence) bool {
	p, c := at(a), at(candidate)
	if p.timeline == c.timeline {
		return p.lsn > c.lsn
	}
	n := r.node(candidate.Node)
	if p.timeline > c.timeline || n == nil {
		return true
	}
	for _, s := range n.Observed.TimelineHistory {
		if s.Timeline == p.timeline {
			return p.lsn > s.SwitchLsn
		}
	}
	return true
}
