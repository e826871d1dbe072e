package fold

import (
	"slices"
	"strings"

	"github.com/regent-infra/regent/internal/event"
	"github.com/regent-infra/regent/schemas"
)

// situation is one cluster as it is looked at for a diagnosis.
type situation struct {
	id    event.ClusterID
	nodes []PostgresNode
	// primary holds, or last held, the primary role of the highest term; nil if no node does. claim is what it is that by.
	primary *PostgresNode
	claim   claim
	// others are all nodes besides it.
	others []*PostgresNode
}

// survey looks at the parts of a cluster.
func survey(c *PostgresCluster) *situation {
	s := &situation{id: c.ID, nodes: c.Nodes}
	for i := range s.nodes {
		if held, ok := s.claims(&s.nodes[i]); ok && (s.primary == nil || held.beats(s.claim)) {
			s.primary, s.claim = &s.nodes[i], held
		}
	}
	s.others = make([]*PostgresNode, 0, len(s.nodes))
	for i := range s.nodes {
		if n := &s.nodes[i]; n != s.primary {
			s.others = append(s.others, n)
		}
	}
	return s
}

// claim is how strongly a node is the primary of a term.
type claim struct {
	term int64
	// rank: 3 it says so itself; 2 it renounced the term; 1 its server cannot be asked, but it followed nobody in that term.
	rank int
	// followers are the nodes that were told to follow it in that term.
	followers int
}

func (c claim) beats(other claim) bool {
	if c.term != other.term {
		return c.term > other.term
	}
	if c.rank != other.rank {
		return c.rank > other.rank
	}
	return c.followers > other.followers
}

// claims says for which term the node holds, or last held, the primary role. A server that is writable although its agent
// follows another node has no claim: it is writable by accident.
func (s *situation) claims(n *PostgresNode) (claim, bool) {
	f := n.facts
	c := claim{term: f.term}
	switch {
	case f.role == schemas.NodeRoleStandby || f.upstream != "":
		return claim{}, false
	case f.role == schemas.NodeRolePrimary:
		c.rank = 3
	case f.hasRenounced():
		c.term, c.rank = f.renounced, 2
	case f.term > 0:
		c.rank = 1
	default:
		return claim{}, false
	}
	for i := range s.nodes {
		if o := s.nodes[i].facts; o.upstream == n.Name && o.term == c.term {
			c.followers++
		}
	}
	return c, true
}

func suspect(n *PostgresNode) bool { return n.Pulse.Liveness == schemas.LivenessSuspect }

// down says that the node's server does not run, or that its agent is silent.
func down(n *PostgresNode) bool {
	switch n.facts.postmaster {
	case schemas.PostmasterStatusAbsent, schemas.PostmasterStatusStopped, schemas.PostmasterStatusCrashed:
		return true
	default:
		return suspect(n)
	}
}

// reportedDead says that the node's own agent has reported that its server is gone, without anybody having asked for it.
func reportedDead(n *PostgresNode) bool {
	switch n.facts.postmaster {
	case schemas.PostmasterStatusAbsent, schemas.PostmasterStatusCrashed:
		return true
	case schemas.PostmasterStatusStopped:
		return !n.facts.stoppedAsAsked
	default:
		return false
	}
}

// vouching returns the first node that lives and streams straight from n, or "". A backlog in a cascade is no sign of life.
func (s *situation) vouching(n *PostgresNode) string {
	for i := range s.nodes {
		o := &s.nodes[i]
		if o != n && !suspect(o) && o.facts.upstream == n.Name && o.facts.streaming && o.facts.postmaster == schemas.PostmasterStatusRunning {
			return o.Name
		}
	}
	return ""
}

// witnesses are living standbys that would see the primary if it lived: those that follow it, and those whose upstream was revoked
// because somebody already judged it dead.
func (s *situation) witnesses() []string {
	var names []string
	for _, o := range s.others {
		f := o.facts
		if !suspect(o) && f.postmaster == schemas.PostmasterStatusRunning && f.role == schemas.NodeRoleStandby && (f.upstream == "" || f.upstream == s.primary.Name) {
			names = append(names, o.Name)
		}
	}
	return names
}

// which returns the names of those other nodes for which the condition holds.
func (s *situation) which(holds func(*PostgresNode) bool) []string {
	var names []string
	for _, o := range s.others {
		if holds(o) {
			names = append(names, o.Name)
		}
	}
	return names
}

func (s *situation) systemIdentifier() string {
	if s.primary != nil && s.primary.facts.systemIdentifier != "" {
		return s.primary.facts.systemIdentifier
	}
	for i := range s.nodes {
		if id := s.nodes[i].facts.systemIdentifier; id != "" {
			return id
		}
	}
	return ""
}

// locked says that commits of the primary wait for more standbys than stream.
func (s *situation) locked() bool {
	f := s.primary.facts
	return f.syncRule.count > f.syncRule.streaming(f.senders)
}

func (s *situation) writable() bool {
	p := s.primary
	return p != nil && p.facts.role == schemas.NodeRolePrimary && p.facts.accepting && !s.locked() && (!suspect(p) || s.vouching(p) != "")
}

// maxCauses bounds a cluster's causes.
const maxCauses = 64

// clusterState builds what is emitted about the cluster. The nodes' derived values must be in place.
func (s *situation) clusterState() *schemas.PostgresClusterState {
	code, detail := s.diagnose()
	state := &schemas.PostgresClusterState{
		SystemIdentifier: s.systemIdentifier(),
		Analysis:         code,
		AnalysisDetail:   detail,
		Writable:         s.writable(),
		Causes:           []schemas.HealthCause{},
		Members:          make([]schemas.PostgresMemberState, 0, len(s.nodes)),
	}
	if s.primary != nil {
		state.Primary, state.Term, state.Timeline = s.primary.Name, s.claim.term, max(s.primary.facts.timeline, 0)
	}
	if code != schemas.AnalysisCodeNoProblem {
		state.Causes = append(state.Causes, schemas.HealthCause{Code: strings.ToLower(string(code)), Message: detail, Resource: string(s.id)})
	}
	worst := schemas.HealthHealthy
	for i := range s.nodes {
		n := &s.nodes[i]
		state.Members = append(state.Members, s.member(n))
		state.Causes = append(state.Causes, n.Derived.Causes...)
		worst = worse(worst, n.Derived.Health)
	}
	state.Causes = slices.Clip(state.Causes[:min(len(state.Causes), maxCauses)])
	switch {
	case code == schemas.AnalysisCodeNotInitialized:
		state.Health = schemas.HealthUnknown
	case !state.Writable:
		state.Health = schemas.HealthDown
	case code != schemas.AnalysisCodeNoProblem || worst != schemas.HealthHealthy:
		state.Health = schemas.HealthDegraded
	default:
		state.Health = schemas.HealthHealthy
	}
	return state
}

func (s *situation) member(n *PostgresNode) schemas.PostgresMemberState {
	f := n.facts
	isPrimary := n == s.primary
	return schemas.PostgresMemberState{
		Node: n.Name, Role: f.role, Health: n.Derived.Health, Liveness: n.Pulse.Liveness,
		Timeline: f.timeline, Term: f.term, PromisedTerm: f.promised,
		Synchronous: s.primary != nil && !isPrimary && synchronousSender(s.primary.facts.senders, n.Name),
		Upstream:    f.upstream, Host: f.host, Port: f.port, Postmaster: f.postmaster,
		Streaming: f.streaming,
		Diverged:  s.primary != nil && !isPrimary && diverged(s.primary.facts, f),
		Breaker:   f.breaker,
	}
}
