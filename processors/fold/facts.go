package fold

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/regent-infra/regent/schemas"
)

// receiverFreshness is how old the last message of a WAL receiver may be, by its own host's clock, for the receiver to vouch for the
// life of its primary. Agents set wal_receiver_timeout to 10 s, and an idle receiver asks for a sign of life after half of
// it, so on a healthy link the last message is never much older than 5 s.
const receiverFreshness = 6 * time.Second

// Limits beyond which a node is not healthy.
const (
	diskLowFraction    = 0.10
	diskFullFraction   = 0.02
	saturationLimit    = 0.90
	slotRetentionLimit = 1 << 30
)

// facts is what the diagnosis of a cluster depends on in one observation. It is immutable and small, and follows from the
// observation alone, so that it can be kept, dropped and derived again.
type facts struct {
	host             string
	port             int32
	systemIdentifier string
	postmaster       schemas.PostmasterStatus
	role             schemas.NodeRole
	breaker          schemas.BreakerState
	accepting        bool
	// stoppedAsAsked: the postmaster is down because it was told to stop, and may be started again as what it was. A primary that
	// was fenced has renounced its term, and that is not it.
	stoppedAsAsked bool
	// exit says how the postmaster ended, for people; empty if unknown.
	exit string

	term, promised, renounced int64
	upstream                  string
	// streaming: the WAL receiver streams and its last message is fresh.
	streaming         bool
	receivingTimeline int64

	timeline int64
	history  []branch
	// settled: timeline is that of the node's last WAL. A running standby without receiver may have replayed a later timeline than
	// its control file names, unless the end of WAL was looked for on disk.
	settled bool
	// written is how far this node's WAL goes, whatever its role; replayed is -1 on a primary.
	written, replayed int64
	// replayLagMs is -1 where it was not measured.
	replayLagMs int64

	senders   []sender
	syncRule  syncRule
	diskFull  bool
	exhausted bool
	// saturation is -1 while the server cannot be asked.
	saturation float64
	// causes are those that follow from this observation alone.
	causes []schemas.HealthCause
}

// branch is one timeline of an ancestry and the LSN at which it was left.
type branch struct{ timeline, end int64 }

// sender is one walsender, with the node and term that its application name carries.
type sender struct {
	application string
	node        string
	streaming   bool
	synchronous bool
	replayed    int64
	lagMs       int64
}

// digest takes from an observation what the rest depends on. at is the moment of the observation by the agent's own clock.
func digest(resource string, o *schemas.PostgresNodeObserved, at time.Time) *facts {
	f := &facts{
		host: o.Host, port: o.Port, systemIdentifier: o.SystemIdentifier,
		postmaster: o.Postmaster, role: knownRole(o.Role), breaker: knownBreaker(o.Breaker.State),
		accepting: o.AcceptingConnections && o.Postmaster == schemas.PostmasterStatusRunning,
		term:      o.Term, promised: o.PromisedTerm, renounced: o.RenouncedTerm, upstream: o.Upstream,
		timeline: o.Timeline, replayed: -1, replayLagMs: -1, saturation: -1,
		syncRule: parseSyncRule(o.SynchronousStandbyNames),
	}
	if x := o.LastExit; x != nil {
		f.stoppedAsAsked = o.Postmaster == schemas.PostmasterStatusStopped && x.Expected && !f.hasRenounced()
		f.exit = exitText(x)
	}
	for _, h := range o.TimelineHistory {
		f.history = append(f.history, branch{timeline: h.Timeline, end: h.SwitchLsn})
	}
	f.digestPositions(o)
	if r := o.Receiver; r != nil {
		fresh := r.LastMessageReceivedAt != nil && at.Sub(*r.LastMessageReceivedAt) <= receiverFreshness
		f.streaming = r.Status == "streaming" && fresh && o.Postmaster == schemas.PostmasterStatusRunning
		f.receivingTimeline = r.Timeline
	}
	for _, w := range o.Senders {
		f.senders = append(f.senders, digestSender(w))
	}
	if c := o.Connections; c != nil && c.Max > 0 {
		f.saturation = min(max(float64(c.Total)/float64(c.Max), 0), 1)
	}
	tooMany := !f.accepting && strings.Contains(o.Breaker.LastError, "53300") // too_many_connections
	f.exhausted = f.saturation >= 1 || tooMany
	f.diskFull = slices.ContainsFunc(fileSystems(o.Disk), func(v fileSystem) bool { return v.freeFraction < diskFullFraction })
	f.causes = ownCauses(resource, o, f)
	return f
}

// hasRenounced says that the node gave up the primary role of its present term for good.
func (f *facts) hasRenounced() bool { return f.renounced > 0 && f.renounced >= f.term }

// digestPositions finds how far the node's WAL goes and how far it is replayed. Down, or revoked, the end of valid WAL
// on disk counts, for the positions of a server that cannot be asked are nothing.
func (f *facts) digestPositions(o *schemas.PostgresNodeObserved) {
	f.settled = f.role != schemas.NodeRoleStandby || o.WalEnd != nil
	f.written = max(o.WrittenLsn, o.ReceivedLsn, o.FlushedLsn, o.ReplayedLsn, 0)
	if o.WalEnd != nil && f.role != schemas.NodeRolePrimary {
		f.written = max(f.written, o.WalEnd.Lsn)
		if f.timeline <= 0 {
			f.timeline = o.WalEnd.Timeline
		}
	}
	if f.role == schemas.NodeRoleStandby {
		f.replayed = max(o.ReplayedLsn, 0)
		if o.ReplayLagMs != nil && *o.ReplayLagMs >= 0 {
			f.replayLagMs = *o.ReplayLagMs
		}
	}
}

func digestSender(w schemas.WalSender) sender {
	d := sender{
		application: w.ApplicationName,
		node:        nodeOfApplication(w.ApplicationName),
		streaming:   w.State == "streaming",
		synchronous: w.SyncState == "sync" || w.SyncState == "quorum",
		replayed:    w.ReplayLsn,
		lagMs:       -1,
	}
	if w.ReplayLagMs != nil && *w.ReplayLagMs >= 0 {
		d.lagMs = *w.ReplayLagMs
	}
	return d
}

// nodeOfApplication strips the term from the name under which a standby streams: pg-2-t5 is node pg-2 in term 5.
func nodeOfApplication(name string) string {
	i := strings.LastIndex(name, "-t")
	if i <= 0 {
		return name
	}
	if _, err := strconv.ParseUint(name[i+2:], 10, 63); err != nil {
		return name
	}
	return name[:i]
}

func exitText(x *schemas.PostmasterExit) string {
	switch {
	case x.Signal != nil && *x.Signal != "":
		return "ended by " + *x.Signal
	case x.ExitCode != nil:
		return fmt.Sprintf("exited with status %d", *x.ExitCode)
	default:
		return ""
	}
}

func knownRole(r schemas.NodeRole) schemas.NodeRole {
	switch r {
	case schemas.NodeRolePrimary, schemas.NodeRoleStandby:
		return r
	default:
		return schemas.NodeRoleUnknown
	}
}

func knownBreaker(s schemas.BreakerState) schemas.BreakerState {
	switch s {
	case schemas.BreakerStateOpen, schemas.BreakerStateHalfOpen:
		return s
	default:
		return schemas.BreakerStateClosed
	}
}

// fileSystem is one file system under a server.
type fileSystem struct {
	name         string
	freeFraction float64
}

// fileSystems returns those whose size is known.
func fileSystems(d *schemas.DiskUsage) []fileSystem {
	if d == nil {
		return nil
	}
	var known []fileSystem
	for _, v := range []struct {
		name        string
		total, free int64
	}{{"data", d.DataTotalBytes, d.DataFreeBytes}, {"WAL", d.WalTotalBytes, d.WalFreeBytes}} {
		if v.total > 0 {
			known = append(known, fileSystem{name: v.name, freeFraction: float64(max(v.free, 0)) / float64(v.total)})
		}
	}
	return known
}
