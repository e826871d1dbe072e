package fold

import "math"

// diverged says whether node holds WAL that the primary's history does not contain. Where it cannot be told, it says no: a
// diagnosis must rest on what was seen. Timelines are compared by where they were left, never by their ids alone, where
// the histories are known.
func diverged(primary, node *facts) bool {
	if primary.systemIdentifier != "" && node.systemIdentifier != "" && primary.systemIdentifier != node.systemIdentifier {
		return true
	}
	if primary.timeline <= 0 || node.timeline <= 0 {
		return false
	}
	if node.streaming && node.receivingTimeline == primary.timeline {
		return false // the walsender has checked it; the node's own control file may lag behind
	}
	theirs, mine := branches(primary, math.MaxInt64), branches(node, node.written)
	if !rooted(primary) || !rooted(node) {
		return divergedByID(theirs, node)
	}
	for i := range mine {
		if i >= len(theirs) || mine[i].timeline != theirs[i].timeline {
			return true // left the common history for a timeline that the primary never was on
		}
		if i == len(mine)-1 {
			return node.settled && mine[i].end > theirs[i].end
		}
		if mine[i].end != theirs[i].end {
			return true // left the same timeline at another place
		}
	}
	return false
}

// branches returns the whole ancestry, the current timeline with the given end included.
func branches(f *facts, end int64) []branch {
	all := make([]branch, 0, len(f.history)+1)
	return append(append(all, f.history...), branch{timeline: f.timeline, end: end})
}

// rooted says whether the history of the node is known down to its root. Timeline 1 has none.
func rooted(f *facts) bool { return f.timeline == 1 || len(f.history) > 0 }

// divergedByID does with ids what can be done without a history: a node on a timeline that the primary left must not have gone
// beyond that point.
func divergedByID(theirs []branch, node *facts) bool {
	for _, b := range theirs {
		if b.timeline == node.timeline {
			return node.settled && node.written > b.end
		}
	}
	return false
}
