package killtest

import (
	"fmt"
	"time"

	"github.com/regent-infra/regent/internal/event"
	"github.com/regent-infra/regent/internal/record"
	"github.com/regent-infra/regent/schemas"
)

// node is one of a cluster that nobody has initialised: it reports whatever a node may report, in and out of order.
type node struct {
	id        event.ResourceID
	sequence  int64
	boot      string
	boots     int
	term, lsn int64
	primary   bool
	crashed   bool
	forgotten bool
	nextBeat  time.Time
	// What health depends on. It changes now and then, as in life: each change shows in the state of the cluster and of the fleet.
	used, dataFree, walFree, lag, retained int64
	quiet                                  time.Duration // of the receiver
	breaker                                schemas.BreakerState
	sender                                 string
}

func newNode(cluster event.ClusterID, i int) *node {
	n := &node{
		id: cluster.Node(fmt.Sprintf("pg-%d", i+1)), term: 1, lsn: 1 << 24, primary: i == 0,
		used: 10, dataFree: 1 << 35, walFree: 1 << 33, breaker: schemas.BreakerStateClosed, sender: "streaming",
	}
	n.restart()
	return n
}

// restart is a new run of the agent: its sequence leaps, as if taken from the clock.
func (n *node) restart() {
	n.boots++
	n.boot = fmt.Sprintf("%s/boot-%d", n.id, n.boots)
	n.sequence += 1_000
}

// live reports once, perhaps twice, late, or for the last time.
func (n *node) live(l *load, now time.Time) {
	n.change(l)
	n.sequence++
	r := l.observation(n.id, n.sequence, n.boot, n.observe(l, now))
	if n.forgotten && !l.chance(0.2) {
		// What was under way when the node was deleted must not bring it back.
		r = l.observation(n.id, n.sequence-5, n.boot, n.observe(l, now))
		n.sequence--
		l.send(r)
		return
	}
	n.forgotten = false
	switch {
	case l.chance(0.03): // a retry
		l.send(r)
		l.send(r)
	case l.chance(0.03): // overtaken
		n.sequence++
		l.send(l.observation(n.id, n.sequence, n.boot, n.observe(l, now)))
		l.send(r)
	case l.chance(0.01): // very late
		l.send(r)
		l.send(l.observation(n.id, max(n.sequence-int64(l.rnd.IntN(500)), 1), n.boot, n.observe(l, now)))
	case l.chance(0.004):
		l.send(r)
		l.send(record.Record{Topic: r.Topic, Partition: r.Partition, Key: r.Key})
		n.forgotten = true
	default:
		l.send(r)
	}
}

// change lets something happen to the node.
func (n *node) change(l *load) {
	n.lsn += int64(l.rnd.IntN(1 << 16))
	switch {
	case l.chance(0.005):
		n.restart()
	case n.crashed && l.chance(0.05):
		n.crashed = false
	case !n.crashed && l.chance(0.001):
		n.crashed = true
	case l.chance(0.001):
		n.primary = !n.primary
		n.term++
	case l.chance(0.002):
		n.used, n.dataFree, n.walFree = l.rnd.Int64N(101), l.rnd.Int64N(1<<36), l.rnd.Int64N(1<<34)
	case l.chance(0.002):
		n.lag, n.retained, n.quiet = l.rnd.Int64N(3_000), l.rnd.Int64N(1<<31), time.Duration(l.rnd.IntN(9))*time.Second
	case l.chance(0.001):
		n.breaker = []schemas.BreakerState{schemas.BreakerStateClosed, schemas.BreakerStateOpen, schemas.BreakerStateHalfOpen}[l.rnd.IntN(3)]
		n.sender = []string{"streaming", "catchup"}[l.rnd.IntN(2)]
	}
}

// observe makes the full current value of the node.
func (n *node) observe(l *load, now time.Time) *schemas.PostgresNodeObserved {
	at := now.UTC().Truncate(time.Microsecond)
	pick := func(n int64) int64 { return l.rnd.Int64N(n) }
	o := &schemas.PostgresNodeObserved{
		Node: n.id.Node(), Host: "10.0.0.1", Port: 5432, AgentVersion: "test", ServerVersion: 150018, SystemIdentifier: "7000000000000000001",
		Postmaster: schemas.PostmasterStatusRunning, PostmasterStartedAt: new(at.Add(-time.Hour)), Role: schemas.NodeRoleStandby,
		AcceptingConnections: true, Timeline: n.term, TimelineHistory: []schemas.TimelineSwitch{},
		FlushedLsn: n.lsn, Senders: []schemas.WalSender{}, Slots: []schemas.ReplicationSlot{}, RecentOrders: []schemas.OrderResult{},
		Connections: &schemas.ConnectionUsage{Max: 100, Total: int32(n.used), Active: int32(n.used / 2), Idle: 3},
		Disk:        &schemas.DiskUsage{DataTotalBytes: 1 << 36, DataFreeBytes: n.dataFree, WalTotalBytes: 1 << 34, WalFreeBytes: n.walFree, WalSizeBytes: 1 << 30},
		Queries:     &schemas.QueryMetrics{Commits: n.lsn >> 8, BlocksHit: pick(1 << 30), RowsReturned: pick(1 << 30)},
		Breaker:     schemas.BreakerStatus{State: n.breaker, ChangedAt: at.Add(-time.Minute)},
		Term:        n.term, PromisedTerm: n.term,
	}
	if n.breaker != schemas.BreakerStateClosed {
		o.Breaker.ConsecutiveFailures, o.Breaker.LastError = 3, "connection 08006"
	}
	if n.term > 1 {
		o.TimelineHistory = append(o.TimelineHistory, schemas.TimelineSwitch{Timeline: n.term - 1, SwitchLsn: n.lsn / 2, Reason: "no recovery target specified"})
	}
	switch {
	case n.crashed:
		o.Postmaster, o.Role, o.AcceptingConnections, o.PostmasterStartedAt = schemas.PostmasterStatusCrashed, schemas.NodeRoleUnknown, false, nil
		o.LastExit = &schemas.PostmasterExit{At: at, Signal: new("SIGKILL")}
		o.WalEnd = &schemas.WalEnd{Term: n.term, Timeline: n.term, Lsn: n.lsn}
		o.Connections, o.Queries = nil, nil
		if n.primary {
			o.RenouncedTerm = n.term
		}
	case n.primary:
		o.Role, o.WrittenLsn, o.SynchronousStandbyNames = schemas.NodeRolePrimary, n.lsn, fmt.Sprintf(`ANY 1 ("pg-2-t%d", "pg-3-t%d")`, n.term, n.term)
		for _, name := range []string{"pg-2", "pg-3"} {
			o.Senders = append(o.Senders, schemas.WalSender{
				ApplicationName: fmt.Sprintf("%s-t%d", name, n.term), ClientAddress: "10.0.0.2", State: n.sender,
				SyncState: "quorum", SentLsn: n.lsn, WriteLsn: n.lsn, FlushLsn: n.lsn, ReplayLsn: n.lsn - pick(1<<20), ReplayLagMs: new(n.lag),
			})
			o.Slots = append(o.Slots, schemas.ReplicationSlot{Name: "regent_" + name, Active: true, RestartLsn: new(n.lsn), RetainedBytes: n.retained, WalStatus: "reserved"})
		}
	default:
		o.ReceivedLsn, o.ReplayedLsn, o.ReplayLagMs, o.Upstream = n.lsn, n.lsn-pick(1<<20), new(n.lag), "pg-1"
		if n.lag < 2_900 {
			o.Receiver = &schemas.WalReceiver{
				Status: "streaming", SenderHost: "10.0.0.1", SenderPort: 5432, Timeline: n.term, ApplicationName: fmt.Sprintf("%s-t%d", n.id.Node(), n.term),
				LastMessageSentAt: new(at), LastMessageReceivedAt: new(at.Add(-n.quiet)), LatestEndLsn: n.lsn,
			}
		}
	}
	return o
}
