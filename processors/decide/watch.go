package decide

import (
	"slices"
	"strings"
	"time"

	"github.com/regent-infra/regent/schemas"
)

const stepWatch Step = "watch"

// The facts of the watch. They are about the incumbent: the node that the record names as primary.
var (
	factManaged = &Fact{Name: "managed", Doc: "the cluster is initialised and was not shut down by command", holds: func(r *run) bool {
		return r.rec.Initialized && !r.rec.ShutDown
	}}
	factBusy = &Fact{Name: "busy", Doc: "a workflow owns the cluster that looks after its primary itself", holds: (*run).busy}
	factFree = &Fact{Name: "free", Doc: "no workflow owns the cluster, or only the rejoin of another node than one that is writable", holds: (*run).free}
	factGone = &Fact{Name: "gone", Doc: "the incumbent's postgres is down by its agent's word, or it never took office, or it is silent and the diagnosis says dead", holds: func(r *run) bool {
		return r.incumbentDown() || r.incumbentLost()
	}}
	factInPlace = &Fact{Name: "in place", Doc: "its agent is alive and a restart in place comes first: by policy, because it stopped without a crash, in the cool-down after a failover, or because nobody else can serve", holds: (*run).restartFirst}
	factPaused  = &Fact{Name: "backing off", Doc: "the incumbent could not be restarted in place and is left alone for a while", Timeout: true, holds: func(r *run) bool {
		return r.restartFirst() && r.backingOff(r.rec.Primary)
	}}
	factSpent = &Fact{Name: "spent", Doc: "the last failover ended without a primary a short while ago", Timeout: true, holds: func(r *run) bool {
		return r.backingOff("")
	}}
	factAutomatic = &Fact{Name: "automatic", Doc: "the policy lets Regent fail over by itself", holds: func(r *run) bool {
		return r.rec.Policy.FailoverMode == schemas.FailoverModeAutomatic
	}}
	factFeasible = &Fact{Name: "feasible", Doc: "enough of every synchronous set in force live to acknowledge a revocation, and one of the living may be promoted", holds: func(r *run) bool {
		return r.infeasible() == ""
	}}
	factDoubt   = &Fact{Name: "doubt", Doc: "the incumbent is silent, and its death is not corroborated", holds: (*run).doubt}
	factRevoked = &Fact{Name: "revoked", Doc: "a term was opened that authorised nobody, and the incumbent still serves under its own", holds: (*run).revoked}
	factAiling  = &Fact{Name: "ailing", Doc: "a node that lives does not follow the primary, or the synchronous set is not what it could be", holds: func(r *run) bool {
		name, _ := r.ailing()
		return name != ""
	}}
)

// watchTable decides what a cluster needs that no workflow looks after.
func watchTable() *Table {
	managed := []Condition{yes(factManaged), no(factBusy)}
	gone := append(slices.Clone(managed), yes(factGone))
	failover := append(slices.Clone(gone), no(factInPlace))
	sound := append(slices.Clone(managed), no(factGone), no(factDoubt))
	with := func(base []Condition, more ...Condition) []Condition { return append(slices.Clone(base), more...) }
	return &Table{
		Doc:   "What a cluster needs that no workflow looks after. A decision not to act is recorded with its reason, once per change of reason.",
		Steps: []StepInfo{{Name: stepWatch, Doc: "Reads every change of a node or the cluster. It has no deadline: it ends when there is something to do."}},
		Rows: []Row{
			{ID: "W1", Step: stepWatch, If: []Condition{no(factManaged)}, Do: []Action{actRelease}, Why: "nobody asked for it to run"},
			{ID: "W2", Step: stepWatch, If: []Condition{yes(factManaged), yes(factBusy)}, Do: []Action{actRelease}, Why: "its owner decides"},
			{ID: "W3", Step: stepWatch, If: with(gone, yes(factInPlace), no(factPaused)), Do: []Action{actRestartInPlace}, Why: "the incumbent has everything; nobody has to be revoked"},
			{ID: "W4", Step: stepWatch, If: with(gone, yes(factInPlace), yes(factPaused)), Do: []Action{hold(schemas.WorkflowKindRestartNode, "backoff", (*run).sayBackoff)}, Why: "trying again at once would fail again"},
			{ID: "W5", Step: stepWatch, If: with(failover, no(factAutomatic)), Do: []Action{hold(schemas.WorkflowKindFailover, "manual", (*run).sayManual)}, Why: "the policy leaves it to people"},
			{ID: "W6", Step: stepWatch, If: with(failover, yes(factAutomatic), no(factFeasible)), Do: []Action{hold(schemas.WorkflowKindFailover, "acknowledgements_missing", (*run).infeasible)}, Why: "without f acknowledgements an acknowledged commit could be lost"},
			{ID: "W7", Step: stepWatch, If: with(failover, yes(factAutomatic), yes(factFeasible), no(factSpent)), Do: []Action{actFailover}, Why: "nobody serves, and what is needed to go on safely is there"},
			{ID: "W7b", Step: stepWatch, If: with(failover, yes(factAutomatic), yes(factFeasible), yes(factSpent)), Do: []Action{hold(schemas.WorkflowKindFailover, "backoff", (*run).saySpent)}, Why: "candidates that fail one after the other would only use up terms"},
			{ID: "W8", Step: stepWatch, If: with(managed, no(factGone), yes(factDoubt)), Do: []Action{hold(schemas.WorkflowKindFailover, "", (*run).sayDoubt)}, Why: "silence alone is no death: a standby that still streams vetoes"},
			{ID: "W9", Step: stepWatch, If: with(sound, yes(factRevoked)), Do: []Action{actReinstateInPlace}, Why: "its standbys have promised a higher term and would refuse it for ever"},
			{ID: "W10", Step: stepWatch, If: with(sound, no(factRevoked), yes(factFree), yes(factAiling)), Do: []Action{actRejoin}, Why: "one node after the other; a writable one first"},
			{ID: "W11", Step: stepWatch, If: with(sound, no(factRevoked), yes(factFree), no(factAiling)), Do: []Action{actObserve}, Why: "all is as it should be, or has to wait"},
			{ID: "W12", Step: stepWatch, If: with(sound, no(factRevoked), no(factFree)), Do: []Action{actRelease}, Why: "its owner goes on"},
		},
	}
}

// watch passes the watch table once.
func (r *run) watch() {
	r.wf, r.table = nil, tableOf("")
	r.row = r.table.match(r, stepWatch)
	r.passed = append(r.passed, r.row.ID)
	for _, a := range r.row.Do {
		a.do(r)
	}
}

func (r *run) incumbent() *schemas.PostgresNodeState { return r.node(r.rec.Primary) }

// incumbentDown: the agent lives and says that no postgres runs, or that it runs as something else than the primary it was made.
func (r *run) incumbentDown() bool {
	n := r.incumbent()
	return alive(n) && (down(n) || r.vacant())
}

// vacant reports whether the node that was promoted last never took office: it still is a standby, or was stopped as one.
func (r *run) vacant() bool {
	n := r.incumbent()
	return n != nil && (n.Observed.Role == schemas.NodeRoleStandby || down(n) && n.Observed.Term < r.rec.PromotionTerm)
}

func (r *run) incumbentSilent() bool {
	n := r.incumbent()
	return n == nil || n.Liveness == schemas.LivenessSuspect
}

// incumbentLost: silent, and either it never took office, or the consolidated diagnosis of this very primary says dead, which no
// streaming standby contradicts.
func (r *run) incumbentLost() bool {
	if !r.incumbentSilent() {
		return false
	}
	if r.vacant() {
		return true
	}
	if r.v.State == nil || r.v.State.Primary != "" && r.v.State.Primary != r.rec.Primary {
		return false
	}
	switch r.analysis() {
	case schemas.AnalysisCodeDeadPrimary, schemas.AnalysisCodeDeadPrimaryWithoutStandbys,
		schemas.AnalysisCodeDeadPrimaryAndSomeStandbys, schemas.AnalysisCodeDeadPrimaryAndStandbys:
		return true
	default:
		return false
	}
}

func (r *run) doubt() bool { return r.incumbentSilent() && !r.incumbentLost() }

// busy: these workflows contain the decision what to do about a primary that falls while they run.
func (r *run) busy() bool {
	if r.owner == nil {
		return false
	}
	if tableOf(r.owner.Kind).Exclusive {
		return true
	}
	// A restart takes the primary down on purpose, and has a deadline. Only the loss of its node is more than it can mend.
	return r.owner.Kind == schemas.WorkflowKindRestartNode && slices.Contains(r.owner.Nodes, r.rec.Primary) && !r.incumbentLost()
}

func (r *run) free() bool {
	if r.owner == nil {
		return true
	}
	stray := r.stray()
	return stray != "" && !r.backingOff(stray) && automaticRejoin(r.owner) && !slices.Contains(r.owner.Nodes, stray)
}

// automaticRejoin reports whether the workflow is one that Regent began by itself and will begin again by itself.
func automaticRejoin(w *schemas.Workflow) bool {
	return w != nil && w.Kind == schemas.WorkflowKindRejoinNode && w.CommandID == ""
}

// cooling reports whether the last failover is so recent that the next is held back where something else can serve.
func (r *run) cooling() bool {
	if r.rec.LastFailoverAt == nil {
		return false
	}
	return !r.reached(r.rec.LastFailoverAt.Add(time.Duration(r.rec.Policy.FailoverCooldownMs) * time.Millisecond))
}

// restartFirst reports whether the incumbent is to be restarted in place rather than replaced.
func (r *run) restartFirst() bool {
	n := r.incumbent()
	if !r.incumbentDown() || r.vacant() || n.Observed.Postmaster == schemas.PostmasterStatusAbsent {
		return false
	}
	infeasible := r.infeasible() != ""
	if r.rec.RestartFailedTerm == r.rec.PrimaryTerm && !infeasible {
		return false
	}
	if r.rec.Policy.CrashAction == schemas.CrashActionRestart {
		return true
	}
	return r.rec.Policy.FailoverMode == schemas.FailoverModeAutomatic && (infeasible || r.stoppedCleanly() || r.cooling())
}

// stoppedCleanly reports whether the incumbent is down without having crashed and without having been fenced: its agent has started
// again, or was told to stop it. Starting it is as fast as replacing it, and moves nobody.
func (r *run) stoppedCleanly() bool {
	o := &r.incumbent().Observed
	return o.Postmaster == schemas.PostmasterStatusStopped && o.RenouncedTerm != o.Term
}

// infeasible says why a revocation could not succeed now; empty if it could.
func (r *run) infeasible() string {
	var living []string
	promotable := false
	for _, name := range r.names() {
		n := r.node(name)
		incumbent := name == r.rec.Primary && !r.vacant()
		if incumbent || !alive(n) || n.Observed.Postmaster == schemas.PostmasterStatusAbsent {
			continue
		}
		living = append(living, name)
		if m, _ := r.member(name); m.FailoverPriority > 0 {
			promotable = true
		}
	}
	for _, c := range r.configs() {
		if !c.met(living) {
			have := r.count(c.set, func(n string) bool { return slices.Contains(living, n) })
			if len(c.set) == 0 {
				return text("commits were waiting for nobody, so only %s has them all", r.rec.Primary)
			}
			return text("%d of the synchronous set (%s) live and %d must acknowledge (ANY %d of %d)", have, strings.Join(c.set, ", "), c.f(), c.k, len(c.set))
		}
	}
	if !promotable {
		return "no standby lives that may be promoted (failover priority above 0)"
	}
	return ""
}

// revoked: a revocation was opened and authorised nobody, while the incumbent goes on under its old term.
func (r *run) revoked() bool {
	if r.owner != nil || !serves(r.incumbent(), r.rec.PrimaryTerm) {
		return false
	}
	return r.highestPromise() > r.rec.PrimaryTerm
}

// highestPromise is the highest term that the record or a member knows of.
func (r *run) highestPromise() int64 {
	term := r.rec.Term
	for _, name := range r.names() {
		if n := r.node(name); n != nil && n.Observed.PromisedTerm <= maxTerm {
			term = max(term, n.Observed.PromisedTerm)
		}
	}
	return term
}

// stray is a member that is writable although it is not the primary; empty if there is none.
func (r *run) stray() string {
	for _, name := range r.others() {
		n := r.node(name)
		if alive(n) && !down(n) && n.Observed.Role == schemas.NodeRolePrimary && n.Observed.Term <= r.rec.PrimaryTerm {
			return name
		}
	}
	return ""
}

// ailing names the node that is to be worked on next, and what is wrong with it.
func (r *run) ailing() (name, reason string) {
	if !serves(r.incumbent(), r.rec.PrimaryTerm) {
		return "", ""
	}
	if stray := r.stray(); stray != "" && !r.backingOff(stray) {
		return stray, "is writable although it is not the primary"
	}
	for _, name := range r.others() {
		n := r.node(name)
		if !alive(n) || r.backingOff(name) || r.starting(n) {
			continue
		}
		if !r.follows(name) {
			return name, text("does not follow %s under term %d", r.rec.Primary, r.rec.PrimaryTerm)
		}
		if b := r.backoff(name); !r.streams(name) && b != nil {
			return name, b.Reason
		}
	}
	if r.backingOff(r.rec.Primary) {
		return "", ""
	}
	return r.unsynchronised()
}

// starting reports whether the agent is at work on the standby by itself: it starts and restarts one that knows whom to follow.
func (r *run) starting(n *schemas.PostgresNodeState) bool {
	switch n.Observed.Postmaster {
	case schemas.PostmasterStatusStarting, schemas.PostmasterStatusStopping, schemas.PostmasterStatusCrashed:
		return n.Observed.Upstream == r.rec.Primary && n.Observed.Term == r.rec.PrimaryTerm
	default:
		return false
	}
}

// unsynchronised names a node by which the synchronous set is to grow, or the primary where its setting is not the recorded one.
func (r *run) unsynchronised() (name, reason string) {
	if r.rec.PreviousSynchronous != nil || r.incumbent().Observed.SynchronousStandbyNames != r.setting() {
		return r.rec.Primary, "does not run the recorded synchronous set for certain"
	}
	if !r.quorum() {
		return "", ""
	}
	for _, name := range r.others() {
		if r.streams(name) && !slices.Contains(r.rec.SynchronousStandbys, name) {
			return name, "streams and could be synchronous"
		}
	}
	if g := r.grown(); g.k != int(r.rec.SynchronousCount) {
		return r.rec.Primary, text("waits for %d standbys and could wait for %d", r.rec.SynchronousCount, g.k)
	}
	return "", ""
}
