package fold

import "github.com/regent-infra/regent/schemas"

// walPage is the unit in which lag is told: less than a page is no lag worth an event.
const walPage = 8192

// Limits beyond which a standby is not healthy.
const (
	lagBytesLimit = 64 << 20
	lagMsLimit    = 10_000
)

// lag says how far a standby is behind what its primary had written when that was last observed: in bytes, and in milliseconds.
// Each is nil where it is not known. What the primary's walsender knew of the standby counts too: it was seen at the same moment
// as the primary's own position, so that a healthy pair shows no lag from looking at two moments.
func lag(primary *PostgresNode, node *PostgresNode) (lagBytes, lagMs *int64) {
	p, f := primary.facts, node.facts
	if f.role != schemas.NodeRoleStandby || f.replayed < 0 || p.written <= 0 || f.timeline <= 0 || diverged(p, f) {
		return nil, nil
	}
	replayed, measured := f.replayed, int64(-1)
	for _, s := range p.senders {
		if s.node == node.Name {
			replayed = max(replayed, s.replayed)
			measured = max(measured, s.lagMs)
		}
	}
	behind := max(p.written-replayed, 0) / walPage * walPage
	if f.streaming && f.replayLagMs >= 0 {
		measured = f.replayLagMs
	}
	switch {
	case behind == 0:
		return &behind, new(int64)
	case measured > 0 || measured == 0 && f.streaming:
		return &behind, &measured
	default:
		return &behind, nil
	}
}
