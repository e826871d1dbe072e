package decide

import (
	"slices"
	"strings"

	"github.com/regent-infra/regent/schemas"
)

// config is one synchronous configuration: a commit waits for any k of the set. Every fence of f = n − k + 1 nodes of the set meets
// every k of it, so it holds at least one node with each acknowledged commit. The primary holds each of its own.
type config struct {
	primary string
	set     []string
	k       int
}

// f is the fence size. Of an empty set it is 1, which nobody but the primary can give: what was committed while nobody was waited
// for is on it alone.
func (c config) f() int { return len(c.set) - c.k + 1 }

// met reports whether enough of the nodes are in the set. The promise of the primary itself is enough alone: it holds all that it
// had acknowledged, and will not take up the office of a term below. (One that has held office does not take part in
// elections, but one that was authorised and never got there does.)
func (c config) met(nodes []string) bool {
	if slices.Contains(nodes, c.primary) {
		return true
	}
	n := 0
	for _, node := range c.set {
		if slices.Contains(nodes, node) {
			n++
		}
	}
	return n >= c.f()
}

// configs are the synchronous configurations that may be in force: the recorded one and, while a change is unconfirmed, the one
// before. In asynchronous mode there is none.
func (r *run) configs() []config {
	if !r.quorum() {
		return nil
	}
	all := []config{{primary: r.rec.Primary, set: r.rec.SynchronousStandbys, k: int(r.rec.SynchronousCount)}}
	if p := r.rec.PreviousSynchronous; p != nil {
		all = append(all, config{primary: r.rec.Primary, set: p.Standbys, k: int(p.Count)})
	}
	return all
}

func (r *run) quorum() bool { return r.rec.Policy.SynchronousMode == schemas.SynchronousModeQuorum }

// fenceSize is the least number of acknowledgements that can be enough.
func (r *run) fenceSize() int32 {
	f := 1
	for _, c := range r.configs() {
		f = max(f, c.f())
	}
	return int32(f)
}

// enough reports whether these nodes, having promised a term, can stand for every acknowledged commit.
func (r *run) enough(nodes []string) bool {
	for _, c := range r.configs() {
		if !c.met(nodes) {
			return false
		}
	}
	return len(nodes) > 0
}

// SynchronousStandbyNames is the setting that waits for any k of the nodes under a term; empty if k is 0.
func SynchronousStandbyNames(k int, nodes []string, term int64) string {
	if k <= 0 || len(nodes) == 0 {
		return ""
	}
	quoted := make([]string, 0, len(nodes))
	for _, n := range nodes {
		quoted = append(quoted, `"`+ApplicationName(n, term)+`"`)
	}
	return text("ANY %d (%s)", min(k, len(nodes)), strings.Join(quoted, ", "))
}

// setting is what the primary's synchronous_standby_names must be by record.
func (r *run) setting() string {
	if !r.quorum() {
		return ""
	}
	return SynchronousStandbyNames(int(r.rec.SynchronousCount), r.rec.SynchronousStandbys, r.rec.PrimaryTerm)
}

// configured reports whether the primary runs the recorded set. While a change is unconfirmed its setting alone proves nothing: only
// a ConfigureSynchronous that is done does, because of its marker commit.
func (r *run) configured() bool {
	p := r.node(r.rec.Primary)
	if !serves(p, r.rec.PrimaryTerm) || p.Observed.SynchronousStandbyNames != r.setting() {
		return false
	}
	return r.rec.PreviousSynchronous == nil
}

// confirm ends an unconfirmed change once the order for exactly that setting is done.
func (r *run) confirm() {
	p := r.node(r.rec.Primary)
	if r.rec.PreviousSynchronous == nil || !serves(p, r.rec.PrimaryTerm) || p.Observed.SynchronousStandbyNames != r.setting() {
		return
	}
	o := r.issued(r.rec.Primary, "ConfigureSynchronous")
	if o != nil && o.Status == schemas.OrderStatusDone {
		r.rec.PreviousSynchronous = nil
		r.note(text("the primary %s runs %q and a marker commit was acknowledged under it: the earlier set no longer counts", r.rec.Primary, r.setting()),
			evidence(p, "ConfigureSynchronous done"))
	}
}

// grown is the set as it could be: those recorded and those that stream now.
func (r *run) grown() config {
	set := slices.Clone(r.rec.SynchronousStandbys)
	for _, name := range r.others() {
		if r.streams(name) && !slices.Contains(set, name) {
			set = append(set, name)
		}
	}
	slices.Sort(set)
	return config{set: set, k: min(int(r.rec.Policy.SynchronousCount), len(set))}
}

// grow records the grown set before anybody is told of it. Until the primary proves that it runs the new one, a revocation needs
// enough acknowledgements from both. While one change is unconfirmed no other begins.
func (r *run) grow() {
	if !r.quorum() || r.rec.PreviousSynchronous != nil {
		return
	}
	g := r.grown()
	if slices.Equal(g.set, r.rec.SynchronousStandbys) && g.k == int(r.rec.SynchronousCount) {
		return
	}
	r.rec.PreviousSynchronous = &schemas.SynchronousSet{Standbys: list(r.rec.SynchronousStandbys), Count: r.rec.SynchronousCount}
	r.rec.SynchronousStandbys, r.rec.SynchronousCount = list(g.set), int32(g.k)
	r.note(text("recorded the synchronous set ANY %d (%s) before the primary is told", g.k, strings.Join(g.set, ", ")), r.observed(g.set...)...)
}

// list never returns nil: a decision read back from its bytes must equal the one that was made.
func list(s []string) []string { return append([]string{}, s...) }
