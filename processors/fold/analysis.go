package fold

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/regent-infra/regent/internal/invariant"
	"github.com/regent-infra/regent/schemas"
)

// AnalysisRow is one row of the decision table of diagnoses, for people.
type AnalysisRow struct {
	Code schemas.AnalysisCode
	// When says in which case the row holds, given that no row above does.
	When string
}

// AnalysisTable returns the decision table of diagnoses, most urgent first. The first row that holds is the diagnosis.
func AnalysisTable() []AnalysisRow {
	rows := make([]AnalysisRow, len(analysisTable))
	for i, r := range analysisTable {
		rows[i] = AnalysisRow{Code: r.code, When: r.when}
	}
	return rows
}

// analysisRow is a row with its condition: detail says what it rests on; empty means that the row does not hold.
type analysisRow struct {
	code schemas.AnalysisCode
	when string
	// lone rows are looked at without a primary, the others only with one.
	lone   bool
	detail func(s *situation) string
}

// analysisTable is the decision table of diagnoses. Order is urgency: whether there is a primary at all, whether it lives, whether
// somebody else is writable, whether it serves, whether commits return, whether the standbys are fit to take over.
//
// "Primary" is the node that holds, or last held, the role of the highest term. "Silent" is liveness SUSPECT. "Dead" is reported
// by the node's own agent: CRASHED, ABSENT, or STOPPED without having been asked or after the term was renounced. A
// "witness" is a standby whose agent lives, whose server runs, and which follows the primary or had its upstream revoked.
var analysisTable = []analysisRow{
	{
		code: schemas.AnalysisCodeNotInitialized, lone: true,
		when:   "no node claims the primary role, and none has a database system",
		detail: notInitialized,
	},
	{
		code:   schemas.AnalysisCodeShutDown,
		when:   "the primary was stopped as asked and has not renounced its term",
		detail: shutDown,
	},
	{
		code:   schemas.AnalysisCodeDeadPrimaryWithoutStandbys,
		when:   "the primary is dead, and there is no other node",
		detail: func(s *situation) string { return deadPrimary(s, func(all, _ int) bool { return all == 0 }) },
	},
	{
		code:   schemas.AnalysisCodeDeadPrimaryAndStandbys,
		when:   "the primary is dead, and every other node is dead, stopped or silent",
		detail: func(s *situation) string { return deadPrimary(s, func(all, dead int) bool { return dead == all }) },
	},
	{
		code:   schemas.AnalysisCodeDeadPrimaryAndSomeStandbys,
		when:   "the primary is dead, and some other nodes are dead, stopped or silent",
		detail: func(s *situation) string { return deadPrimary(s, func(_, dead int) bool { return dead > 0 }) },
	},
	{
		code:   schemas.AnalysisCodeDeadPrimary,
		when:   "the primary is dead, and every other node lives",
		detail: func(s *situation) string { return deadPrimary(s, func(int, int) bool { return true }) },
	},
	{
		code:   schemas.AnalysisCodeUnreachablePrimaryWithStreamingStandbys,
		when:   "the primary is silent, but a direct standby has fresh messages from it: a veto against failing over",
		detail: silentButStreaming,
	},
	{
		code:   schemas.AnalysisCodeDeadPrimaryAndSomeStandbys,
		when:   "the primary is silent, a witness does not hear it either, and some other nodes are dead, stopped or silent",
		detail: func(s *situation) string { return silentAndUnseen(s, true) },
	},
	{
		code:   schemas.AnalysisCodeDeadPrimary,
		when:   "the primary is silent, a witness does not hear it either, and every other node lives",
		detail: func(s *situation) string { return silentAndUnseen(s, false) },
	},
	{
		code:   schemas.AnalysisCodeUnreachablePrimary,
		when:   "the primary is silent, and there is no witness to ask: perhaps it is we who are cut off",
		detail: silentWithoutWitness,
	},
	{
		code: schemas.AnalysisCodeStalePrimaryReturned, lone: true,
		when:   "a living node is writable as the primary of a lower term",
		detail: stalePrimary,
	},
	{
		code: schemas.AnalysisCodeStandbyIsWritable, lone: true,
		when:   "a living node is writable although it should follow another, or in the term of the primary",
		detail: standbyIsWritable,
	},
	{
		code: schemas.AnalysisCodeUnreachablePrimaryWithStreamingStandbys, lone: true,
		when:   "no node claims the primary role, but a standby streams from somebody",
		detail: func(s *situation) string { return noPrimary(s, true) },
	},
	{
		code: schemas.AnalysisCodeUnreachablePrimary, lone: true,
		when:   "no node claims the primary role, and no standby streams",
		detail: func(s *situation) string { return noPrimary(s, false) },
	},
	{
		code:   schemas.AnalysisCodeConnectionExhaustion,
		when:   "the primary has no connection left for clients",
		detail: connectionExhaustion,
	},
	{
		code:   schemas.AnalysisCodePrimaryDiskFull,
		when:   "less than 2 % of a file system of the primary is free",
		detail: primaryDiskFull,
	},
	{
		code:   schemas.AnalysisCodeUnreachablePrimaryWithStreamingStandbys,
		when:   "the primary's agent lives, its server accepts no connection, but a direct standby has fresh messages from it",
		detail: func(s *situation) string { return notAccepting(s, true) },
	},
	{
		code:   schemas.AnalysisCodeUnreachablePrimary,
		when:   "the primary's agent lives, its server accepts no connection, and no standby streams from it",
		detail: func(s *situation) string { return notAccepting(s, false) },
	},
	{
		code:   schemas.AnalysisCodeLockedSynchronousReplication,
		when:   "commits wait for more synchronous standbys than stream",
		detail: lockedReplication,
	},
	{
		code:   schemas.AnalysisCodeTimelineFork,
		when:   "a node of the same database system holds WAL that the primary's history does not contain",
		detail: timelineFork,
	},
	{
		code:   schemas.AnalysisCodeConnectedToWrongPrimary,
		when:   "a running standby follows a node that is neither the primary nor a running standby, or belongs to another database system",
		detail: wrongPrimary,
	},
	{
		code:   schemas.AnalysisCodeAllStandbysNotReplicating,
		when:   "there are other nodes, at least one of them runs, and none streams",
		detail: noneReplicating,
	},
	{
		code:   schemas.AnalysisCodeDeadStandby,
		when:   "another node is dead, stopped or silent",
		detail: deadStandby,
	},
	{
		code: schemas.AnalysisCodeNoProblem, lone: true,
		when:   "nothing of the above",
		detail: func(s *situation) string { return s.describe() + " serves as primary" },
	},
}

// diagnose returns the first row that holds. The last one always does.
func (s *situation) diagnose() (schemas.AnalysisCode, string) {
	for _, r := range analysisTable {
		if s.primary == nil && !r.lone {
			continue
		}
		if detail := r.detail(s); detail != "" {
			return r.code, detail
		}
	}
	invariant.Assert(false, "the last row of the decision table holds always")
	return schemas.AnalysisCodeNoProblem, ""
}

// describe names the primary with its term.
func (s *situation) describe() string {
	if s.primary == nil {
		return "nobody"
	}
	return s.primary.Name + " (term " + strconv.FormatInt(s.claim.term, 10) + ")"
}

func list(names []string) string { return strings.Join(names, ", ") }

func notInitialized(s *situation) string {
	if s.primary != nil || s.systemIdentifier() != "" {
		return ""
	}
	return fmt.Sprintf("none of %d nodes has a database system", len(s.nodes))
}

func shutDown(s *situation) string {
	if !s.primary.facts.stoppedAsAsked {
		return ""
	}
	detail := fmt.Sprintf("primary %s was stopped as asked", s.describe())
	if running := s.which(func(n *PostgresNode) bool { return !down(n) }); len(running) > 0 {
		detail += "; still running: " + list(running)
	}
	return detail
}

// deadPrimary holds when the primary is reported dead and the numbers of other nodes, and of those that are down, fit.
func deadPrimary(s *situation, fits func(all, dead int) bool) string {
	if !reportedDead(s.primary) {
		return ""
	}
	dead := s.which(down)
	if !fits(len(s.others), len(dead)) {
		return ""
	}
	detail := fmt.Sprintf("the agent of primary %s reports its postgres %s", s.describe(), strings.ToLower(string(s.primary.facts.postmaster)))
	if exit := s.primary.facts.exit; exit != "" {
		detail += ", " + exit
	}
	if len(dead) > 0 {
		detail += "; down as well: " + list(dead)
	}
	return detail
}

func silentButStreaming(s *situation) string {
	by := s.vouching(s.primary)
	if !suspect(s.primary) || by == "" {
		return ""
	}
	return fmt.Sprintf("the agent of primary %s is silent, but %s streams from it with fresh messages", s.describe(), by)
}

func silentAndUnseen(s *situation, someDown bool) string {
	if !suspect(s.primary) {
		return ""
	}
	witnesses, dead := s.witnesses(), s.which(down)
	if len(witnesses) == 0 || someDown != (len(dead) > 0) {
		return ""
	}
	detail := fmt.Sprintf("primary %s is silent, and no longer heard by %s", s.describe(), list(witnesses))
	if len(dead) > 0 {
		detail += "; down as well: " + list(dead)
	}
	return detail
}

func silentWithoutWitness(s *situation) string {
	if !suspect(s.primary) {
		return ""
	}
	detail := fmt.Sprintf("primary %s is silent, and no living standby of it could tell more", s.describe())
	if dead := s.which(down); len(dead) > 0 {
		detail += "; down or silent as well: " + list(dead)
	}
	return detail
}

// writableOthers returns those living nodes besides the primary that say they are primaries.
func writableOthers(s *situation, stale bool) []string {
	return s.which(func(n *PostgresNode) bool {
		if suspect(n) || n.facts.role != schemas.NodeRolePrimary || n.facts.postmaster != schemas.PostmasterStatusRunning {
			return false
		}
		held, legitimate := s.claims(n)
		if s.primary == nil {
			return !stale
		}
		return stale == (legitimate && held.term < s.claim.term)
	})
}

func stalePrimary(s *situation) string {
	names := writableOthers(s, true)
	if len(names) == 0 {
		return ""
	}
	return fmt.Sprintf("%s is writable as primary of a lower term than %s", list(names), s.describe())
}

func standbyIsWritable(s *situation) string {
	names := writableOthers(s, false)
	if len(names) == 0 {
		return ""
	}
	return fmt.Sprintf("%s is writable beside primary %s", list(names), s.describe())
}

func noPrimary(s *situation, streaming bool) string {
	if s.primary != nil {
		return ""
	}
	names := s.which(func(n *PostgresNode) bool { return !suspect(n) && n.facts.streaming })
	switch {
	case streaming && len(names) > 0:
		return fmt.Sprintf("no node reports that it is the primary, but %s streams from somebody", list(names))
	case !streaming && len(names) == 0:
		return "no node reports that it is the primary, and none streams"
	default:
		return ""
	}
}

func connectionExhaustion(s *situation) string {
	if !s.primary.facts.exhausted {
		return ""
	}
	return fmt.Sprintf("primary %s has no connection left for clients", s.describe())
}

func primaryDiskFull(s *situation) string {
	if !s.primary.facts.diskFull {
		return ""
	}
	return fmt.Sprintf("less than %.0f %% of a file system of primary %s is free", diskFullFraction*100, s.describe())
}

func notAccepting(s *situation, streaming bool) string {
	f := s.primary.facts
	by := s.vouching(s.primary)
	if f.accepting || streaming != (by != "") {
		return ""
	}
	detail := fmt.Sprintf("the agent of primary %s lives, but its postgres (%s) accepts no connection", s.describe(), strings.ToLower(clip(string(f.postmaster))))
	if streaming {
		detail += fmt.Sprintf("; %s streams from it with fresh messages", by)
	}
	return detail
}

func lockedReplication(s *situation) string {
	if !s.locked() {
		return ""
	}
	f := s.primary.facts
	return fmt.Sprintf("commits on primary %s wait for %d synchronous standbys, %d stream", s.describe(), f.syncRule.count, f.syncRule.streaming(f.senders))
}

// foreign says that the node belongs to another database system than the primary.
func (s *situation) foreign(n *PostgresNode) bool {
	a, b := s.primary.facts.systemIdentifier, n.facts.systemIdentifier
	return a != "" && b != "" && a != b
}

func timelineFork(s *situation) string {
	names := s.which(func(n *PostgresNode) bool { return !s.foreign(n) && diverged(s.primary.facts, n.facts) })
	if len(names) == 0 {
		return ""
	}
	return fmt.Sprintf("%s holds WAL that the history of primary %s does not contain", list(names), s.describe())
}

func wrongPrimary(s *situation) string {
	names := s.which(func(n *PostgresNode) bool {
		if down(n) || n.facts.role != schemas.NodeRoleStandby {
			return false
		}
		return s.foreign(n) || n.facts.upstream != "" && n.facts.upstream != s.primary.Name && !s.cascades(n)
	})
	if len(names) == 0 {
		return ""
	}
	return fmt.Sprintf("%s does not follow primary %s", list(names), s.describe())
}

// cascades says that the node follows a running standby.
func (s *situation) cascades(n *PostgresNode) bool {
	for _, o := range s.others {
		if o.Name == n.facts.upstream && o != n {
			return !down(o) && o.facts.role == schemas.NodeRoleStandby
		}
	}
	return false
}

func noneReplicating(s *situation) string {
	if slices.ContainsFunc(s.others, func(n *PostgresNode) bool { return !down(n) && n.facts.streaming }) {
		return ""
	}
	running := s.which(func(n *PostgresNode) bool { return !down(n) })
	if len(running) == 0 {
		return ""
	}
	return fmt.Sprintf("no standby streams from primary %s; running: %s", s.describe(), list(running))
}

func deadStandby(s *situation) string {
	names := s.which(down)
	if len(names) == 0 {
		return ""
	}
	return fmt.Sprintf("not running or silent: %s", list(names))
}
