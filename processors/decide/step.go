package decide

import (
	"slices"
	"strings"
	"time"

	"github.com/regent-infra/regent/schemas"
)

// Steps that several workflows share: what they wait for is the same.
const (
	stepFence       Step = "fence"
	stepStop        Step = "stop"
	stepPromote     Step = "promote"
	stepAttach      Step = "attach"
	stepReinstate   Step = "reinstate"
	stepSynchronise Step = "synchronise"
	stepStart       Step = "start"
)

// Facts that several workflows share.
var (
	factOverdue = &Fact{Name: "overdue", Doc: "the step's deadline has passed", Timeout: true, holds: func(r *run) bool {
		return r.reached(r.wf.StepDeadline)
	}}
	factExpired = &Fact{Name: "expired", Doc: "the workflow's deadline has passed", Timeout: true, holds: func(r *run) bool {
		return r.reached(r.wf.Deadline)
	}}
	factRetries = &Fact{Name: "retries left", Doc: "the retry budget is not used up", holds: func(r *run) bool { return r.wf.RetriesLeft > 0 }}
	// factElectable is the heart of a failover.
	factElectable = &Fact{Name: "electable", Doc: "f nodes of every synchronous set in force have promised the term, one of the living among them holds at least as much as all of them and the floor, and may be promoted; asynchronous mode: besides, the old primary was seen stopped or has been silent long enough, and the lag is within the limit. Others that live get a moment where there would be too few to follow", holds: func(r *run) bool {
		c := r.elect()
		return c.candidate != "" && r.cleared(c) == ""
	}}
	factReinstatable = &Fact{Name: "reinstatable", Doc: "the incumbent's agent lives, and the incumbent has held office", holds: (*run).reinstatable}
	factGivenUp      = &Fact{Name: "given up", Doc: "the step's deadline has passed, or too few live for an election ever to succeed", Timeout: true, holds: func(r *run) bool {
		return r.reached(r.wf.StepDeadline) || r.hopeless()
	}}
	factPromoted = &Fact{Name: "promoted", Doc: "the authorised node is a primary under the term and takes connections", holds: (*run).promoted}
	factFailed   = &Fact{Name: "failed", Doc: "the step's deadline has passed, or the node is silent, or its postgres crashed, or it reports that the order failed", Timeout: true, holds: func(r *run) bool {
		return r.reached(r.wf.StepDeadline) || r.promotionFailed()
	}}
	factAttached = &Fact{Name: "attached", Doc: "all living nodes that were told to follow stream from the new primary", holds: func(r *run) bool {
		return r.count(r.wf.Nodes, func(n string) bool { return alive(r.node(n)) && !r.streams(n) }) == 0
	}}
	factFallen = &Fact{Name: "fallen", Doc: "the new primary is silent, or its postgres is down", holds: func(r *run) bool {
		return r.incumbentSilent() || down(r.incumbent())
	}}
	factSynchronised = &Fact{Name: "synchronised", Doc: "the primary runs the recorded synchronous set, confirmed by a marker commit; always so in asynchronous mode once its setting is empty", holds: (*run).configured}
)

// cleared says what keeps an election waiting that could be won; empty if nothing does. With a quorum the promises of f standbys are
// enough, whatever the old primary does: nobody acknowledges it.
func (r *run) cleared(c choice) string {
	if r.quorum() {
		return r.gathering(c)
	}
	p := r.node(r.wf.FormerPrimary)
	switch {
	case alive(p) && down(p):
	case alive(p) && p.Observed.Role == schemas.NodeRoleStandby:
	case alive(p):
		return text("%s still runs", r.wf.FormerPrimary)
	case !r.reached(r.wf.StepStartedAt.Add(asyncStopWait)):
		return text("%s has not been silent for %s", r.wf.FormerPrimary, asyncStopWait)
	}
	return r.gathering(c)
}

// gathering names somebody whose acknowledgement is worth a moment: it may be more advanced (asynchronous mode), or without it fewer
// would be left to wait for than the policy asks for, or only one that has failed already would be promoted again.
func (r *run) gathering(c choice) string {
	i := slices.IndexFunc(r.wf.Acknowledgements, func(a schemas.PromotionEvidence) bool { return a.Node == c.candidate })
	if i < 0 {
		return ""
	}
	_, set := r.successors(c.candidate, r.wf.Acknowledgements[i], r.rec.Primary, r.rec.PromotionTerm)
	if r.quorum() && len(set) >= int(r.rec.Policy.SynchronousCount) && !slices.Contains(r.wf.FailedCandidates, c.candidate) {
		return ""
	}
	acked := nodesOf(r.wf.Acknowledgements)
	for _, name := range r.names() {
		n := r.node(name)
		if name == r.rec.Primary && tookOffice(n, r.rec.PromotionTerm) || slices.Contains(acked, name) || !alive(n) || formerPrimary(n) || n.Observed.Postmaster == schemas.PostmasterStatusAbsent {
			continue
		}
		if !r.reached(r.wf.StepStartedAt.Add(gatherFor)) {
			return text("%s lives and is given a moment to acknowledge, too", name)
		}
	}
	return ""
}

func (r *run) reinstatable() bool {
	n := r.incumbent()
	return alive(n) && tookOffice(n, r.rec.PromotionTerm) && n.Observed.Postmaster != schemas.PostmasterStatusAbsent
}

// sayElection tells what an election waits for.
func (r *run) sayElection() string {
	c := r.elect()
	if c.missing != "" {
		return c.missing
	}
	return r.cleared(c)
}

func (r *run) sayAttach() string {
	var missing []string
	for _, name := range r.wf.Nodes {
		if alive(r.node(name)) && !r.streams(name) {
			missing = append(missing, name)
		}
	}
	return text("%s to stream from %s", strings.Join(missing, ", "), r.rec.Primary)
}

func (r *run) sayPromoted() string {
	return text("%s is primary of term %d on timeline %d", r.rec.Primary, r.rec.PrimaryTerm, r.rec.Timeline)
}

// Actions that several workflows share.
var (
	actOpenTerm = Action{Name: "open the next term", do: (*run).revoke}

	actFenceAll = Action{Name: "fence every member", Orders: []string{"FencePostgres"}, do: func(r *run) {
		for _, name := range r.names() {
			if !slices.Contains(nodesOf(r.wf.Acknowledgements), name) {
				r.pressFence(name)
			}
		}
	}}

	actAuthorise = Action{Name: "authorise the candidate, record it, and let the others follow it while it promotes", Orders: []string{"PromotePostgres", "FollowPrimary"}, do: (*run).authorise}

	actPressPromotion = Action{Name: "see to it that the promotion and the following are under way", Orders: []string{"PromotePostgres", "FollowPrimary"}, do: (*run).pressPromotion}

	actReinstate = Action{Name: "let the incumbent go on under the open term, and let the others follow it", Orders: []string{"ReinstatePrimary", "FollowPrimary"}, do: (*run).reinstate}

	actPressReinstatement = Action{Name: "see to it that the reinstatement is under way", Orders: []string{"ReinstatePrimary", "FollowPrimary"}, do: (*run).pressReinstatement}

	actConfirmOffice = Action{Name: "note that the new primary serves", do: func(r *run) {
		n := r.incumbent()
		r.clearBackoff("")
		if n.Observed.Timeline < maxTimeline {
			r.rec.Timeline = max(r.rec.Timeline, n.Observed.Timeline)
		}
		r.note(text("%s, %s after the workflow began", r.sayPromoted(), r.now.Sub(r.wf.StartedAt).Round(time.Millisecond)), evidence(n, text("primary of term %d, takes connections", n.Observed.Term)))
	}}

	actPressFollowers = Action{Name: "see to it that the others follow", Orders: []string{"FollowPrimary"}, do: (*run).pressFollowers}

	actGrow = Action{Name: "record the synchronous set as it can be now", do: (*run).grow}

	actConfigure = Action{Name: "see to it that the primary runs the recorded set", Orders: []string{"ConfigureSynchronous"}, do: func(r *run) {
		if !r.configured() {
			r.pressConfigure()
		}
	}}

	actRetry = Action{Name: "use up a retry", do: func(r *run) {
		r.wf.RetriesLeft--
		if c := r.rec.Primary; !slices.Contains(r.wf.FailedCandidates, c) {
			r.wf.FailedCandidates = append(r.wf.FailedCandidates, c)
		}
	}}
)
