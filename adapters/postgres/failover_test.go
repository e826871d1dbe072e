package postgres

import (
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/regent-infra/regent/adapters/postgres/guard"
	"github.com/regent-infra/regent/schemas"
)

func slotOf(name string) string { return guard.SlotName(name) }

func slots(names ...string) []schemas.SlotOwner {
	var all []schemas.SlotOwner
	for _, name := range names {
		all = append(all, schemas.SlotOwner{Slot: slotOf(name), Node: name})
	}
	return all
}

func acked(o *schemas.PostgresNodeObserved, term int64) bool {
	return o.PromisedTerm == term && o.WalEnd != nil && o.Receiver == nil && o.Upstream == ""
}

// TestFailoverByHand plays the orchestrator: bootstrap, clone, crash, fence, promote, follow with a rewind.
func TestFailoverByHand(t *testing.T) {
	t.Parallel()
	log := newLog()
	one, two := startNode(t, log, "pg-1"), startNode(t, log, "pg-2")

	boot := one.bootstrap(1, slots("pg-2")...)
	if boot.Role != schemas.NodeRolePrimary || boot.Term != 1 || !boot.AcceptingConnections || boot.WalEnd != nil || boot.SystemIdentifier == "" || boot.Timeline != 1 {
		t.Fatalf("after the bootstrap: %s", describe(boot))
	}
	if status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", one.agent.instance.PID())); err != nil || os.Geteuid() == 0 && strings.Contains(string(status), "Uid:\t0") {
		t.Errorf("an agent that is root runs its server as root (%v):\n%s", err, status)
	}
	one.mustSQL("CREATE TABLE t (x int)")
	cloned := two.cloneFrom(one, 1)
	if cloned.Role != schemas.NodeRoleStandby || cloned.Term != 1 || cloned.Receiver == nil || cloned.Receiver.Status != "streaming" || cloned.Receiver.ApplicationName != "pg-2-t1" {
		t.Fatalf("after the clone: %s", describe(cloned))
	}
	if cloned.LastOrder.ProgressDone == 0 || cloned.LastOrder.ProgressDone > cloned.LastOrder.ProgressTotal {
		t.Errorf("progress %+v", cloned.LastOrder)
	}
	one.do(&schemas.ConfigureSynchronous{Meta: one.meta(1), SynchronousStandbyNames: `ANY 1 ("pg-2-t1")`, Slots: slots("pg-2")})
	one.mustSQL("INSERT INTO t SELECT generate_series(1, 100)")

	// What is committed while nobody receives it is lost in the failover, and must be counted.
	from := log.length()
	if err := syscall.Kill(one.agent.instance.PID(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	killed := time.Now()
	crash, _ := one.await("the crash", from, func(o *schemas.PostgresNodeObserved) bool { return o.Postmaster == schemas.PostmasterStatusCrashed })
	crashSeen := time.Since(killed)
	if crash.WalEnd == nil { // on a slow machine the crash is told before the end of the log is found
		crash, _ = one.await("the end of its log", from, func(o *schemas.PostgresNodeObserved) bool { return o.WalEnd != nil })
	}
	if crash.RenouncedTerm != 1 || crash.LastExit == nil || crash.LastExit.Expected || crash.LastExit.Signal == nil || *crash.LastExit.Signal != "SIGKILL" || crash.WalEnd == nil || crash.WalEnd.Term != 1 {
		t.Fatalf("after the crash: %s exit %+v", describe(crash), crash.LastExit)
	}

	fenced := time.Now()
	from = log.length()
	two.order(&schemas.FencePostgres{Meta: two.meta(2), FormerPrimary: "pg-1"})
	ack, _ := two.await("the fence", from, func(o *schemas.PostgresNodeObserved) bool { return acked(o, 2) })
	fenceTook := time.Since(fenced)
	if ack.WalEnd.Timeline != 1 || ack.WalEnd.Term != 1 || ack.WalEnd.Lsn < crash.WalEnd.Lsn-1<<20 {
		t.Fatalf("the acknowledgement: %s", describe(ack))
	}

	ordered := time.Now()
	from = log.length()
	two.order(&schemas.PromotePostgres{
		Meta: two.meta(2), MinLsn: ack.WalEnd.Lsn, Timeline: 5, Slots: slots("pg-1"),
		Evidence: []schemas.PromotionEvidence{{Node: "pg-2", Term: 2, WalEnd: *ack.WalEnd}},
	})
	promoted, _ := two.await("the promotion", from, func(o *schemas.PostgresNodeObserved) bool {
		return o.LastOrder.OrderType == "PromotePostgres" && o.LastOrder.Status == schemas.OrderStatusDone
	})
	promoteTook := time.Since(ordered)
	if promoted.Role != schemas.NodeRolePrimary || promoted.Term != 2 || promoted.Timeline != 5 || !promoted.AcceptingConnections || promoted.WalEnd != nil || len(promoted.TimelineHistory) == 0 {
		t.Fatalf("after the promotion: %s history %+v", describe(promoted), promoted.TimelineHistory)
	}
	if n := two.mustSQL("INSERT INTO t VALUES (101) RETURNING (SELECT count(*) FROM t)"); n != "100" {
		t.Fatalf("%s rows survived", n)
	}
	t.Logf("crash seen after %s; fence acknowledged after %s; promoted after %s; total %s", crashSeen, fenceTook, promoteTook, time.Since(killed))

	back := one.do(&schemas.FollowPrimary{
		Meta: one.meta(2), Upstream: two.member(), UpstreamTerm: 2, UpstreamTimeline: 5, Slot: slotOf("pg-1"), AllowRewind: true, AllowCopy: true,
	})
	if back.Role != schemas.NodeRoleStandby || back.Term != 2 || back.Upstream != "pg-2" || back.Receiver == nil || back.Receiver.ApplicationName != "pg-1-t2" {
		t.Fatalf("after the return: %s", describe(back))
	}
	two.do(&schemas.ConfigureSynchronous{Meta: two.meta(2), SynchronousStandbyNames: `ANY 1 ("pg-1-t2")`, Slots: slots("pg-1")})
	two.mustSQL("INSERT INTO t VALUES (102)")
}
