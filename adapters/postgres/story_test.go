package postgres

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/regent-infra/regent/adapters/postgres/servertest"
	"github.com/regent-infra/regent/internal/event"
	"github.com/regent-infra/regent/internal/record"
	"github.com/regent-infra/regent/internal/topics"
	"github.com/regent-infra/regent/schemas"
)

// pair starts a primary and a standby under term 1.
func pair(t *testing.T) (log *memoryLog, one, two *node) {
	t.Helper()
	log = newLog()
	one, two = startNode(t, log, "pg-1"), startNode(t, log, "pg-2")
	one.bootstrap(1, slots("pg-2")...)
	one.mustSQL("CREATE TABLE t (x int)")
	two.cloneFrom(one, 1)
	return log, one, two
}

// fence fences a node and returns its acknowledgement.
func (n *node) fence(term int64, planned bool) *schemas.PostgresNodeObserved {
	n.t.Helper()
	value := n.do(&schemas.FencePostgres{Meta: n.meta(term), FormerPrimary: "pg-1", Planned: planned})
	if !acked(value, term) {
		n.t.Fatalf("a fence that is done is acknowledged: %s", describe(value))
	}
	return value
}

func (n *node) promote(term, timeline int64, ack *schemas.PostgresNodeObserved, followers ...string) *schemas.PostgresNodeObserved {
	n.t.Helper()
	return n.do(n.promotion(term, timeline, ack.WalEnd.Lsn, followers...))
}

func (n *node) promotion(term, timeline, minLsn int64, followers ...string) *schemas.PromotePostgres {
	return &schemas.PromotePostgres{
		Meta: n.meta(term), MinLsn: minLsn, Timeline: timeline, Slots: slots(followers...),
		Evidence: []schemas.PromotionEvidence{{Node: n.name, Term: term}},
	}
}

func (n *node) following(primary *node, term, timeline int64) *schemas.FollowPrimary {
	return &schemas.FollowPrimary{Meta: n.meta(term), Upstream: primary.member(), UpstreamTerm: term, UpstreamTimeline: timeline, Slot: slotOf(n.name)}
}

// diverge makes the primary write what its fenced standby will never receive, kills it, and promotes the standby.
func diverge(t *testing.T) (log *memoryLog, one, two *node) {
	t.Helper()
	log, one, two = pair(t)
	ack := two.fence(2, false)
	one.mustSQL("INSERT INTO t SELECT generate_series(1, 1000)")
	one.mustSQL("INSERT INTO t VALUES (7)")
	if err := syscall.Kill(one.agent.instance.PID(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	two.promote(2, 2, ack, "pg-1")
	two.mustSQL("INSERT INTO t VALUES (42)")
	return log, one, two
}

func TestDivergedPrimaryIsRewoundAndItsLostWritesReported(t *testing.T) {
	t.Parallel()
	log, one, two := diverge(t)
	refused := one.refuse(one.following(two, 2, 2), schemas.OrderStatusFailed)
	if !strings.Contains(refused, "diverged from the upstream's, and neither a rewind nor a copy is allowed") {
		t.Fatalf("without leave: %s", refused)
	}
	follow := one.following(two, 2, 2)
	follow.AllowRewind = true
	from := log.length()
	back := one.do(follow)
	lost := back.LostWrites
	if lost == nil || lost.Commits != 2 || lost.Timeline != 1 || lost.Term != 1 || lost.ForkLsn <= 0 || lost.EndLsn <= lost.ForkLsn || lost.Archive == "" || lost.OrderID != back.LastOrder.OrderID {
		t.Fatalf("lost writes %+v", lost)
	}
	if entries, err := os.ReadDir(lost.Archive); err != nil || len(entries) < 2 {
		t.Errorf("the archive %s holds %d files (%v)", lost.Archive, len(entries), err)
	}
	values := log.values(t, "pg-1", from)
	told := slices.IndexFunc(values, func(o *schemas.PostgresNodeObserved) bool { return o.LostWrites != nil })
	erased := slices.IndexFunc(values, func(o *schemas.PostgresNodeObserved) bool { return o.Receiver != nil })
	if told < 0 || told > erased {
		t.Errorf("the loss was told in value %d, after the node was back in value %d", told, erased)
	}
	if back.Receiver == nil || back.Term != 2 || back.Role != schemas.NodeRoleStandby {
		t.Fatalf("after the return: %s", describe(back))
	}
	if n := one.mustSQL("SELECT count(*) FROM t"); n != "1" {
		t.Errorf("%s rows on the returned node, expected the one of the new primary", n)
	}
}

func TestDivergedPrimaryIsCopiedWhereItMayNotBeRewound(t *testing.T) {
	t.Parallel()
	_, one, two := diverge(t)
	follow := one.following(two, 2, 2)
	follow.AllowCopy = true
	back := one.do(follow)
	if back.LostWrites == nil || back.LostWrites.Commits != 2 || back.LostWrites.Archive == "" || back.LastOrder.ProgressDone == 0 || back.SystemIdentifier == "" {
		t.Fatalf("after the copy: lost %+v, order %+v", back.LostWrites, back.LastOrder)
	}
	if n := one.mustSQL("SELECT count(*) FROM t"); n != "1" {
		t.Errorf("%s rows on the returned node", n)
	}
}

// TestSwitchoverByHand hands over under a writer and measures how long nobody could write.
func TestSwitchoverByHand(t *testing.T) {
	t.Parallel()
	log, one, two := pair(t)
	one.do(&schemas.ConfigureSynchronous{Meta: one.meta(1), SynchronousStandbyNames: `ANY 1 ("pg-2-t1")`, Slots: slots("pg-2")})
	ctx, cancel := context.WithCancel(t.Context())
	writer := make(chan written, 1)
	go func() { writer <- write(ctx, one, two) }()
	servertest.Await(t, "the writer writes", func() bool { n, err := one.sql("SELECT count(*) > 20 FROM t"); return err == nil && n == "t" })

	from := log.length()
	began := time.Now()
	two.order(&schemas.FencePostgres{Meta: two.meta(2), FormerPrimary: "pg-1", Planned: true, StopTimeoutMs: 10000})
	two.await("the promise", from, func(o *schemas.PostgresNodeObserved) bool {
		return o.PromisedTerm == 2 && o.WalEnd == nil && o.Upstream == "" && !acked(o, 2)
	})
	one.order(&schemas.FencePostgres{Meta: one.meta(2), FormerPrimary: "pg-1", Planned: true, StopTimeoutMs: 5000})
	stopped, _ := one.await("the stop", from, func(o *schemas.PostgresNodeObserved) bool {
		return acked(o, 2) && o.Postmaster == schemas.PostmasterStatusStopped
	})
	stopTook := time.Since(began)
	ack, _ := two.await("the fence", from, func(o *schemas.PostgresNodeObserved) bool { return acked(o, 2) })
	if ack.WalEnd.Lsn != stopped.WalEnd.Lsn {
		t.Fatalf("the standby has WAL up to %s, the primary had %s: a planned stop loses nothing", lsn(ack.WalEnd.Lsn), lsn(stopped.WalEnd.Lsn))
	}
	fenceTook := time.Since(began) - stopTook
	// Both at once: the old primary is told whom to follow while that one still promotes.
	two.order(two.promotion(2, 2, stopped.WalEnd.Lsn, "pg-1"))
	followed := one.order(one.following(two, 2, 0))
	two.await("the promotion", from, func(o *schemas.PostgresNodeObserved) bool {
		return o.Role == schemas.NodeRolePrimary && o.Term == 2 && o.AcceptingConnections
	})
	took := time.Since(began)
	result, back := one.result(followed)
	if result.Status != schemas.OrderStatusDone || back.LostWrites != nil || back.Upstream != "pg-2" {
		t.Fatalf("the old primary: %+v, %s", result, describe(back))
	}
	servertest.Await(t, "the new primary is written to", func() bool { n, err := two.sql("SELECT count(*) FROM t WHERE x < 0"); return err == nil && n != "0" })
	cancel()
	w := <-writer
	t.Logf("switchover took %s from order to writable (stop %s, fence %s); the writer's gap was %s",
		took.Round(time.Millisecond), stopTook.Round(time.Millisecond), fenceTook.Round(time.Millisecond), w.gap.Round(time.Millisecond))
	if n := two.mustSQL(fmt.Sprintf("SELECT count(DISTINCT abs(x)) FROM t WHERE abs(x) = ANY (ARRAY[%s])", w.list())); n != fmt.Sprint(len(w.acknowledged)) {
		t.Fatalf("%s of %d acknowledged rows are left", n, len(w.acknowledged))
	}
}

// TestSwitchoverThereAndBack hands over twice: a former primary that follows again is a candidate like any.
func TestSwitchoverThereAndBack(t *testing.T) {
	t.Parallel()
	log, one, two := pair(t)
	one.do(&schemas.ConfigureSynchronous{Meta: one.meta(1), SynchronousStandbyNames: `ANY 1 ("pg-2-t1")`, Slots: slots("pg-2")})
	handOver(log, one, two, 2)
	handOver(log, two, one, 3)
	if n := one.mustSQL("SELECT string_agg(x::text, ',' ORDER BY x) FROM t"); n != "2,3" {
		t.Errorf("the table holds %s after two hand-overs, want 2,3", n)
	}
}

// handOver writes a row to a primary and makes its one standby the primary of a term, as the orchestrator does.
func handOver(log *memoryLog, from, to *node, term int64) {
	t := from.t
	t.Helper()
	from.mustSQL(fmt.Sprintf("INSERT INTO t VALUES (%d)", term))
	at := log.length()
	to.order(&schemas.FencePostgres{Meta: to.meta(term), FormerPrimary: from.name, Planned: true, StopTimeoutMs: 10000})
	from.order(&schemas.FencePostgres{Meta: from.meta(term), FormerPrimary: from.name, Planned: true, StopTimeoutMs: 5000})
	stopped, _ := from.await("the stop", at, func(o *schemas.PostgresNodeObserved) bool {
		return acked(o, term) && o.Postmaster == schemas.PostmasterStatusStopped
	})
	to.await("the fence", at, func(o *schemas.PostgresNodeObserved) bool { return acked(o, term) })
	promoted := to.do(to.promotion(term, term, stopped.WalEnd.Lsn, from.name))
	if promoted.Role != schemas.NodeRolePrimary || promoted.Term != term {
		t.Fatalf("the promotion of %s: %s", to.name, describe(promoted))
	}
	if back := from.do(from.following(to, term, term)); back.Role != schemas.NodeRoleStandby || back.LostWrites != nil {
		t.Fatalf("%s does not follow without loss: %s", from.name, describe(back))
	}
}

// written is what a writer has achieved.
type written struct {
	acknowledged []string
	gap          time.Duration
}

func (w written) list() string { return strings.Join(w.acknowledged, ",") }

// write commits a row after the other, on whichever of the nodes takes it: positive numbers on the first, negative ones on the second.
func write(ctx context.Context, nodes ...*node) written {
	var w written
	last := time.Now()
	var conn *pgconn.PgConn
	on := 0
	for i := 1; ctx.Err() == nil; i++ {
		if conn == nil {
			n := nodes[on]
			c, err := pgconn.Connect(ctx, fmt.Sprintf("host=%s port=%d user=postgres password=%s dbname=postgres sslmode=disable connect_timeout=1", n.config.Host, n.config.Port, canarySuperuser))
			if err != nil {
				on = (on + 1) % len(nodes)
				continue
			}
			conn = c
		}
		row := i
		if on > 0 {
			row = -i
		}
		if err := conn.Exec(ctx, fmt.Sprintf("INSERT INTO t VALUES (%d)", row)).Close(); err != nil {
			_ = conn.Close(ctx)
			conn, on = nil, (on+1)%len(nodes)
			continue
		}
		w.acknowledged = append(w.acknowledged, fmt.Sprint(i))
		w.gap = max(w.gap, time.Since(last))
		last = time.Now()
	}
	if conn != nil {
		_ = conn.Close(context.Background())
	}
	return w
}

func TestCrashedStandbyComesBackByItself(t *testing.T) {
	t.Parallel()
	log, _, two := pair(t)
	from := log.length()
	if err := syscall.Kill(two.agent.instance.PID(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	crash, _ := two.await("the crash", from, func(o *schemas.PostgresNodeObserved) bool { return o.Postmaster == schemas.PostmasterStatusCrashed })
	if crash.Upstream != "pg-1" || crash.RenouncedTerm != 0 {
		t.Fatalf("after the crash: %s", describe(crash))
	}
	two.await("it streams again", log.length(), func(o *schemas.PostgresNodeObserved) bool {
		return o.Receiver != nil && o.Receiver.Status == "streaming" && o.PostmasterStartedAt != nil
	})
	stopped := two.do(&schemas.StopPostgres{Meta: two.meta(1), Mode: schemas.StopModeFast})
	if stopped.Postmaster != schemas.PostmasterStatusStopped || stopped.LastExit == nil || !stopped.LastExit.Expected || stopped.WalEnd == nil {
		t.Fatalf("after the stop: %s", describe(stopped))
	}
	restarted := two.do(&schemas.RestartPostgres{Meta: two.meta(1), Mode: schemas.StopModeFast})
	if restarted.Postmaster != schemas.PostmasterStatusRunning || restarted.WalEnd != nil || !restarted.AcceptingConnections {
		t.Fatalf("after the restart: %s", describe(restarted))
	}
}

func TestReinstatedIncumbentGoesOnUnderTheNewTerm(t *testing.T) {
	t.Parallel()
	log, one, two := pair(t)
	one.fence(2, false)
	two.fence(2, false)
	why := one.refuse(&schemas.StartPostgres{Meta: one.meta(2), AsPrimary: true}, schemas.OrderStatusRefused)
	if !strings.Contains(why, "it cannot be started as primary of term 2 (role PRIMARY, term 1); reinstate it, or let it follow") {
		t.Fatalf("a start under a term that is not its own: %s", why)
	}
	back := one.do(&schemas.ReinstatePrimary{Meta: one.meta(2), Slots: slots("pg-2")})
	if back.Role != schemas.NodeRolePrimary || back.Term != 2 || back.Timeline != 1 || !back.AcceptingConnections || back.WalEnd != nil {
		t.Fatalf("after reinstating: %s", describe(back))
	}
	one.mustSQL("INSERT INTO t VALUES (1)")
	follow := two.following(one, 2, 1)
	two.do(follow)
	// Whoever follows already reports at once, without a restart.
	from := log.length()
	again := two.do(two.following(one, 2, 1))
	for _, value := range log.values(t, "pg-2", from) {
		if value.Receiver == nil {
			t.Fatalf("it let go of its upstream: %s", describe(value))
		}
	}
	if again.Upstream != "pg-1" || again.Term != 2 {
		t.Fatalf("after following again: %s", describe(again))
	}
}

func TestPromotionBelowMinLsnIsRefused(t *testing.T) {
	t.Parallel()
	_, _, two := pair(t)
	// Not fenced yet: its end is found, and looked at, when it has let go of its upstream.
	if why := two.refuse(two.promotion(2, 2, 1<<40), schemas.OrderStatusRefused); !strings.Contains(why, "is below min_lsn 100/0") {
		t.Fatal(why)
	}
	ack := two.fence(2, false)
	why := two.refuse(two.promotion(2, 2, ack.WalEnd.Lsn+1), schemas.OrderStatusRefused)
	if !strings.Contains(why, "is below min_lsn") || !strings.Contains(why, "acknowledged writes would be lost") {
		t.Fatal(why)
	}
	if recovering, err := two.agent.instance.InRecovery(t.Context()); err != nil || !recovering {
		t.Fatalf("it left recovery (%v)", err)
	}
	// The promotion of the term keeps its id when it is sent again: one that was refused is looked at anew.
	id := event.NewID()
	two.orderAs(id, two.promotion(2, 2, ack.WalEnd.Lsn+1))
	two.result(id)
	two.orderAs(id, two.promotion(2, 2, ack.WalEnd.Lsn))
	two.await("the promotion", 0, func(o *schemas.PostgresNodeObserved) bool {
		return o.Role == schemas.NodeRolePrimary && o.Term == 2 && o.Timeline == 2
	})
}

func TestStoppedCandidateIsStartedAndPromoted(t *testing.T) {
	t.Parallel()
	_, _, two := pair(t)
	two.do(&schemas.StopPostgres{Meta: two.meta(1), Mode: schemas.StopModeImmediate})
	ack := two.fence(2, false)
	if ack.Postmaster != schemas.PostmasterStatusStopped {
		t.Fatalf("a fence does not start anything: %s", describe(ack))
	}
	promoted := two.promote(2, 3, ack)
	if promoted.Role != schemas.NodeRolePrimary || promoted.Timeline != 3 || promoted.Term != 2 {
		t.Fatalf("after the promotion: %s", describe(promoted))
	}
}

func TestSynchronousSetIsProvenByACommit(t *testing.T) {
	t.Parallel()
	_, one, _ := pair(t)
	set := &schemas.ConfigureSynchronous{Meta: one.meta(1), SynchronousStandbyNames: `ANY 1 ("nobody-t1")`, Slots: slots("pg-2", "pg-3")}
	why := one.refuse(set, schemas.OrderStatusFailed)
	if !strings.Contains(why, "did not acknowledge a marker commit within 5s: are enough of its standbys streaming?") {
		t.Fatal(why)
	}
	set = &schemas.ConfigureSynchronous{Meta: one.meta(1), SynchronousStandbyNames: `ANY 1 ("pg-2-t1")`, Slots: slots("pg-2")}
	done := one.do(set)
	if done.SynchronousStandbyNames != set.SynchronousStandbyNames {
		t.Fatalf("the value shows %q", done.SynchronousStandbyNames)
	}
	shown, _ := one.await("slots and waiting sessions", 0, func(o *schemas.PostgresNodeObserved) bool {
		return len(o.Slots) == 1 && o.Slots[0].Name == "regent_pg_2" && o.Slots[0].Active && o.Connections != nil && o.Connections.WaitingOnSync == 0 && o.Disk != nil && o.Queries != nil
	})
	if shown.Disk.DatabaseSizeBytes == 0 || shown.Queries.Commits == 0 {
		t.Errorf("disk %+v, queries %+v", shown.Disk, shown.Queries)
	}
}

func TestOrdersThatMustNotBeExecutedAreNot(t *testing.T) {
	t.Parallel()
	log, one, two := pair(t)
	two.fence(5, false)
	before, err := two.agent.file.Read(testCluster, "pg-2")
	if err != nil {
		t.Fatal(err)
	}
	late := two.promotion(6, 2, 0)
	late.Meta.ExpiresAt = time.Now().Add(-time.Minute)
	for want, payload := range map[string]any{
		"term 4 is below the promised term 5":                  two.promotion(4, 2, 0),
		"expired":                                              late,
		"it cites no acknowledgement":                          &schemas.PromotePostgres{Meta: two.meta(6), Timeline: 2},
		"malformed: slot":                                      &schemas.PromotePostgres{Meta: two.meta(6), Timeline: 2, Slots: []schemas.SlotOwner{{Slot: "a'b"}}},
		"there is a data directory already":                    &schemas.BootstrapPrimary{Meta: two.meta(5)},
		"this node is not the primary of term 5":               &schemas.ConfigureSynchronous{Meta: two.meta(5)},
		"only a former primary can be reinstated":              &schemas.ReinstatePrimary{Meta: two.meta(6)},
		"upstream_term 3 is not the order's term 6":            &schemas.FollowPrimary{Meta: two.meta(6), Upstream: one.member(), UpstreamTerm: 3},
		"a node cannot follow itself":                          &schemas.FollowPrimary{Meta: two.meta(6), Upstream: two.member(), UpstreamTerm: 6},
		"malformed: upstream.host \"a b\" is no host name":     &schemas.FollowPrimary{Meta: two.meta(6), Upstream: schemas.ClusterMember{Node: "pg-1", Host: "a b", Port: 1}, UpstreamTerm: 6},
		"cannot be started as primary of term 5 (role STANDBY": &schemas.StartPostgres{Meta: two.meta(5), AsPrimary: true},
	} {
		if why := two.refuse(payload, schemas.OrderStatusRefused); !strings.Contains(why, want) {
			t.Errorf("refused because %q, want %q", why, want)
		}
	}
	after, err := two.agent.file.Read(testCluster, "pg-2")
	if err != nil {
		t.Fatal(err)
	}
	before.Orders, after.Orders = nil, nil
	if fmt.Sprintf("%+v", before) != fmt.Sprintf("%+v", after) {
		t.Errorf("refused orders changed the memory from\n%+v to\n%+v", before, after)
	}

	// The same id again is reported, not executed.
	id := event.NewID()
	restart := &schemas.RestartPostgres{Meta: one.meta(1), Mode: schemas.StopModeFast}
	one.orderAs(id, restart)
	_, first := one.result(id)
	from := log.length()
	one.orderAs(id, restart)
	again, _ := one.await("the result again", from, func(o *schemas.PostgresNodeObserved) bool { return o.LastOrder != nil && o.LastOrder.OrderID == id })
	if !again.PostmasterStartedAt.Equal(*first.PostmasterStartedAt) {
		t.Error("a duplicate restarted the server")
	}
	// Unreadable orders are buried, and the reader goes on.
	log.append(record.Record{Topic: topics.Orders(event.KindPostgres), Partition: 0, Key: []byte(testCluster), Value: []byte("junk")})
	check := one.do(&schemas.CheckNode{Meta: one.meta(1)})
	if check.LastOrder.OrderType != "CheckNode" || check.Connections == nil {
		t.Fatalf("after a check: %s", describe(check))
	}
	records, _ := log.snapshot(0)
	if !slices.ContainsFunc(records, func(r record.Record) bool { return r.Topic == topics.DeadLetter }) {
		t.Error("an unreadable order left no dead letter")
	}
}

func TestServerServesWhileTheLogIsAway(t *testing.T) {
	t.Parallel()
	log, one, _ := pair(t)
	log.setAway(true)
	from := log.length()
	began := time.Now()
	for time.Since(began) < time.Second {
		one.mustSQL("INSERT INTO t VALUES (1)")
	}
	if n := len(log.values(t, "pg-1", from)); n != 0 {
		t.Fatalf("%d values came through", n)
	}
	log.setAway(false)
	value, _ := one.await("the latest value", from, func(*schemas.PostgresNodeObserved) bool { return true })
	if value.WrittenLsn == 0 || !value.AcceptingConnections {
		t.Fatalf("after the return: %s", describe(value))
	}
	if n := len(log.values(t, "pg-1", from)); n > maxInFlight+2 {
		t.Errorf("%d values were kept for the time that the log was away, expected only the last", n)
	}
}

func TestLostMemoryDirectoryFailsOrdersWithoutBeginningThem(t *testing.T) {
	t.Parallel()
	log := newLog()
	n := startNode(t, log, "pg-1")
	n.bootstrap(1)
	dir := n.agent.config.AgentDir
	aside := dir + ".aside"
	if err := os.Rename(dir, aside); err != nil {
		t.Fatal(err)
	}
	why := n.refuse(&schemas.FencePostgres{Meta: n.meta(2)}, schemas.OrderStatusFailed)
	if !strings.Contains(why, "the agent's memory could not be written, so nothing was begun") {
		t.Fatal(why)
	}
	n.mustSQL("SELECT 1")
	from := log.length()
	if err := syscall.Kill(n.agent.instance.PID(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	crash, _ := n.await("the crash", from, func(o *schemas.PostgresNodeObserved) bool { return o.Postmaster == schemas.PostmasterStatusCrashed })
	if crash.RenouncedTerm != 0 || crash.PromisedTerm != 1 {
		t.Fatalf("it says what it could not write down: %s", describe(crash))
	}
	if err := os.Rename(aside, dir); err != nil {
		t.Fatal(err)
	}
	n.await("the renunciation", from, func(o *schemas.PostgresNodeObserved) bool { return o.RenouncedTerm == 1 })
}

// TestNoSecretIsSeen looks for the canary passwords in everything that a life with a clone and a failover leaves behind.
func TestNoSecretIsSeen(t *testing.T) {
	t.Parallel()
	log, one, two := diverge(t)
	follow := one.following(two, 2, 2)
	follow.AllowRewind = true
	one.do(follow)
	one.stop()
	two.stop()
	has := func(content []byte) string {
		for _, canary := range []string{canarySuperuser, canaryReplicator} {
			if strings.Contains(string(content), canary) {
				return canary
			}
		}
		return ""
	}
	records, _ := log.snapshot(0)
	for _, rec := range records {
		if s := has(rec.Value); s != "" {
			t.Errorf("%s is in a record of %s", s, rec.Topic)
		}
	}
	for _, n := range []*node{one, two} {
		if s := has([]byte(n.logs.String())); s != "" {
			t.Errorf("%s is in the log of %s", s, n.name)
		}
		for _, dir := range []string{n.agent.config.AgentDir, n.agent.config.RunDir, n.config.DataDir} {
			err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
				if err != nil || !entry.Type().IsRegular() || filepath.Base(path) == "passfile" {
					return err
				}
				content, err := os.ReadFile(path)
				if s := has(content); s != "" {
					t.Errorf("%s is in %s", s, path)
				}
				return err
			})
			if err != nil {
				t.Error(err)
			}
		}
		if text := fmt.Sprintf("%+v %#v", n.agent.roles, n.agent.roles); has([]byte(text)) != "" {
			t.Error("the roles print their passwords")
		}
	}
}
