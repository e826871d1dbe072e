package decide

import (
	"slices"
	"strconv"
	"strings"

	"github.com/regent-infra/regent/schemas"
)

// member returns a declared node.
func (r *run) member(name string) (schemas.ClusterMember, bool) {
	i := slices.IndexFunc(r.rec.Members, func(m schemas.ClusterMember) bool { return m.Node == name })
	if i < 0 {
		return schemas.ClusterMember{}, false
	}
	return r.rec.Members[i], true
}

// node returns what is known of a node; nil if its agent has never spoken.
func (r *run) node(name string) *schemas.PostgresNodeState {
	i := slices.IndexFunc(r.v.Nodes, func(n *schemas.PostgresNodeState) bool { return n.Node == name })
	if i < 0 {
		return nil
	}
	return r.v.Nodes[i]
}

// others returns the names of all members but the primary, in the declared order.
func (r *run) others() []string {
	var names []string
	for _, m := range r.rec.Members {
		if m.Node != r.rec.Primary {
			names = append(names, m.Node)
		}
	}
	return names
}

func (r *run) names() []string {
	names := make([]string, 0, len(r.rec.Members))
	for _, m := range r.rec.Members {
		names = append(names, m.Node)
	}
	return names
}

// alive reports whether the node's agent is heard. A node that has not beaten yet but has been observed counts as heard.
func alive(n *schemas.PostgresNodeState) bool {
	return n != nil && n.Liveness != schemas.LivenessSuspect
}

// down reports whether no postgres runs on the node, as its agent says.
func down(n *schemas.PostgresNodeState) bool {
	if n == nil {
		return false
	}
	switch n.Observed.Postmaster {
	case schemas.PostmasterStatusStopped, schemas.PostmasterStatusCrashed, schemas.PostmasterStatusAbsent:
		return true
	default:
		return false
	}
}

// serves reports whether the node is a primary of the term and takes connections.
func serves(n *schemas.PostgresNodeState, term int64) bool {
	return alive(n) && n.Observed.Postmaster == schemas.PostmasterStatusRunning && n.Observed.Role == schemas.NodeRolePrimary &&
		n.Observed.Term == term && n.Observed.AcceptingConnections
}

// tookOffice reports whether the node has ever been the primary of the term that it was authorised for. Until then it is a
// standby whose promotion failed or has not happened yet.
func tookOffice(n *schemas.PostgresNodeState, term int64) bool {
	return n != nil && n.Observed.Term >= term && n.Observed.Role != schemas.NodeRoleStandby
}

// follows reports whether the node was told to follow the present primary under its term, and runs.
func (r *run) follows(name string) bool {
	n := r.node(name)
	return alive(n) && n.Observed.Postmaster == schemas.PostmasterStatusRunning && n.Observed.Role != schemas.NodeRolePrimary &&
		n.Observed.Upstream == r.rec.Primary && n.Observed.Term == r.rec.PrimaryTerm
}

// streams reports whether the node receives WAL from the present primary under the name that carries its term.
func (r *run) streams(name string) bool {
	if !r.follows(name) {
		return false
	}
	receiver := r.node(name).Observed.Receiver
	return receiver != nil && receiver.Status == "streaming" &&
		(receiver.ApplicationName == "" || receiver.ApplicationName == ApplicationName(name, r.rec.PrimaryTerm))
}

func (r *run) count(names []string, holds func(string) bool) int {
	c := 0
	for _, name := range names {
		if holds(name) {
			c++
		}
	}
	return c
}

// ApplicationName is the name under which a standby streams from the primary of a term. It carries the term, so that a walsender
// of an earlier term can never be counted as synchronous.
func ApplicationName(node string, term int64) string {
	return node + "-t" + strconv.FormatInt(term, 10)
}

// SlotName is the replication slot that a primary keeps for a standby: only a-z, 0-9 and underscore are allowed there.
func SlotName(node string) string { return "regent_" + strings.ReplaceAll(node, "-", "_") }

// evidence refers to the observation that a node's state rests on.
func evidence(n *schemas.PostgresNodeState, summary string) schemas.EvidenceRef {
	return schemas.EvidenceRef{Topic: n.ObservedTopic, Partition: n.ObservedPartition, Offset: n.ObservedOffset, Summary: summary}
}

// describe says in a few words how a node stands.
func describe(name string, n *schemas.PostgresNodeState) string {
	switch {
	case n == nil:
		return name + " has never reported"
	case n.Liveness == schemas.LivenessSuspect:
		return name + " is silent"
	case down(n):
		return text("%s is %s", name, strings.ToLower(string(n.Observed.Postmaster)))
	case n.Observed.Role == schemas.NodeRoleUnknown:
		return text("%s is %s", name, strings.ToLower(string(n.Observed.Postmaster)))
	default:
		return text("%s is a %s of term %d", name, strings.ToLower(string(n.Observed.Role)), n.Observed.Term)
	}
}

// observed is evidence of how the nodes stand, for those that have reported.
func (r *run) observed(names ...string) []schemas.EvidenceRef {
	refs := []schemas.EvidenceRef{}
	for _, name := range names {
		if n := r.node(name); n != nil {
			refs = append(refs, evidence(n, describe(name, n)))
		}
	}
	return refs
}
