package decide

import (
	"slices"
)

// damagedRecord says what in the record cannot be; empty if nothing. Only a bug or a hand in the log can cause it: then commands are turned
// down with it, and nothing else is decided.
func (r *run) damagedRecord() string {
	rec := r.rec
	switch {
	case rec.PrimaryTerm < 0 || rec.PromotionTerm < 0 || rec.PromotionTerm > rec.PrimaryTerm || rec.PrimaryTerm > rec.Term || rec.Term > maxTerm:
		return text("its terms do not follow each other: %d promoted, %d primary, %d opened", rec.PromotionTerm, rec.PrimaryTerm, rec.Term)
	case rec.Timeline < 1 || rec.Timeline > maxTimeline || rec.FloorTimeline > rec.Timeline:
		return text("its timeline is %d above a floor on %d", rec.Timeline, rec.FloorTimeline)
	case !slices.Contains(r.names(), rec.Primary):
		return text("its primary %q is no member", rec.Primary)
	}
	for _, c := range r.configs() {
		if c.k < 0 || c.k > len(c.set) {
			return text("a commit cannot wait for %d of (%v)", c.k, c.set)
		}
		for i, name := range c.set {
			if _, ok := r.member(name); !ok || slices.Contains(c.set[:i], name) {
				return text("the synchronous set (%v) is not one of distinct members", c.set)
			}
		}
	}
	return ""
}

func (r *run) damage() string {
	if r.rec == nil {
		return ""
	}
	return r.damagedRecord()
}

// damagedWorkflow says where the workflow at hand contradicts the record; empty if nowhere. Such a one is ended, and the watch begins
// what is needed.
func (r *run) damagedWorkflow() string {
	rec, w := r.rec, r.wf
	for _, a := range w.Acknowledgements {
		if a.Term != w.Term {
			return text("the acknowledgement of %s is of term %d", a.Node, a.Term)
		}
	}
	names := nodesOf(w.Acknowledgements)
	slices.Sort(names)
	if len(slices.Compact(names)) != len(w.Acknowledgements) {
		return "somebody has acknowledged twice"
	}
	switch Step(w.Step) {
	case stepFence, stepStop:
		if w.Term != rec.Term || rec.Term <= rec.PrimaryTerm {
			return text("its revocation is of term %d", w.Term)
		}
	case stepPromote:
		if w.Term != rec.Term || rec.PrimaryTerm != rec.Term || w.Candidate != rec.Primary || w.Timeline != rec.Timeline || len(names) == 0 {
			return text("its promotion is of %s in term %d on timeline %d", w.Candidate, w.Term, w.Timeline)
		}
	case stepReinstate:
		if w.Term != rec.Term || rec.PrimaryTerm != rec.Term || w.Candidate != rec.Primary {
			return text("its reinstatement is of %s in term %d", w.Candidate, w.Term)
		}
	default: // the other steps rest on the record alone
	}
	return ""
}
