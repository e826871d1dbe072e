package server_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/regent-infra/regent/adapters/postgres/server"
	"github.com/regent-infra/regent/adapters/postgres/servertest"
	"github.com/regent-infra/regent/adapters/postgres/wal"
)

func TestRevokePromoteFollow(t *testing.T) {
	t.Parallel()
	ctx := servertest.Context(t)
	primary := servertest.Start(t, server.RolePrimary)
	primary.SQL(t, "CREATE TABLE t AS SELECT g FROM generate_series(1, 1000) g")
	candidate, other := servertest.Follow(t, primary, "s1"), servertest.Follow(t, primary, "s2")
	if _, err := primary.Stop(ctx, server.StopOptions{Mode: server.ModeKill}); err != nil {
		t.Fatal(err)
	}
	position, err := candidate.RevokeUpstream(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := other.RevokeUpstream(ctx); err != nil {
		t.Fatal(err)
	}
	names := "ANY 1 (s1, s2)"
	promoted, err := candidate.Promote(ctx, server.PromoteOptions{Timeline: 7, SynchronousStandbyNames: &names})
	if err != nil {
		t.Fatal(err)
	}
	if promoted.Timeline != 7 || promoted.Switch != position.End || !promoted.History.Contains(1, position.End) {
		t.Errorf("promoted %+v from %+v: want timeline 7 that begins at the end of WAL", promoted, position)
	}
	t.Logf("revoke %s, promote %s", position.Took, promoted.Took)
	if err := candidate.CreateSlot(ctx, "s2"); err != nil {
		t.Fatal(err)
	}
	follow := server.FollowOptions{Upstream: candidate.Address(), Slot: "s2", ApplicationName: "s2"}
	if err := other.FollowUpstream(ctx, follow); err != nil {
		t.Fatal(err)
	}
	if err := other.AwaitStreaming(ctx, candidate.Address()); err != nil {
		t.Fatal(err)
	}
	// The commit waits for the other standby, which follows across the gap of skipped timeline ids.
	candidate.SQL(t, "SET synchronous_commit = remote_apply; INSERT INTO t VALUES (0)")
	if got := other.SQL(t, "SELECT count(*) FROM t"); got != "1001" {
		t.Errorf("the other standby has %s rows, want 1001", got)
	}
	if histories, placeholders, err := wal.ReadHistories(other.WALDir()); err != nil || len(histories) != 1 || len(placeholders) != 5 {
		t.Errorf("the other standby has histories %v and placeholders %v, %v", histories, placeholders, err)
	}
	// Both come back from a crash: the placeholders do no harm below a real timeline.
	for _, s := range []*servertest.Server{candidate, other} {
		role := server.RolePrimary
		if s == other {
			role = server.RoleStandby
		}
		if _, err := s.Restart(ctx, server.StopOptions{Mode: server.ModeKill}, server.StartOptions{Role: role}); err != nil {
			t.Fatal(err)
		}
	}
	if err := other.AwaitStreaming(ctx, candidate.Address()); err != nil {
		t.Fatal(err)
	}
	if position, err := other.Position(ctx); err != nil || position.Timeline != 7 {
		t.Errorf("position %+v, %v: want timeline 7", position, err)
	}
	up, err := server.AskUpstream(ctx, candidate.Address(), server.Credential{User: "regent_replication", Password: servertest.ReplicationPassword})
	if err != nil || up.History.Timeline != 7 || len(up.History.Ancestors) != 1 {
		t.Errorf("upstream %+v, %v", up, err)
	}
}

// A standby that drains receives all that a primary which shuts down cleanly still sends, its last checkpoint included; then it is cut off
// where the primary ended.
func TestDrainEndsWithTheUpstream(t *testing.T) {
	t.Parallel()
	ctx := servertest.Context(t)
	primary := servertest.Start(t, server.RolePrimary)
	primary.SQL(t, "CREATE TABLE t (g int)")
	standby := servertest.Follow(t, primary, "s1")
	servertest.Await(t, "the table", func() bool { return standby.SQL(t, "SELECT to_regclass('t') IS NOT NULL") == "t" })
	drained := make(chan error, 1)
	go func() { drained <- standby.DrainUpstream(ctx) }()
	servertest.Await(t, "the sealed settings", func() bool { return standby.Settings()["primary_conninfo"] == "" })
	primary.SQL(t, "INSERT INTO t SELECT generate_series(1, 1000)")
	servertest.Await(t, "what is written while it drains", func() bool { return standby.SQL(t, "SELECT count(*) FROM t") == "1000" })
	select {
	case err := <-drained:
		t.Fatalf("the drain ended before the primary did: %v", err)
	default:
	}
	primary.SQL(t, "INSERT INTO t SELECT generate_series(1, 1000)")
	if _, err := primary.Stop(ctx, server.StopOptions{Mode: server.ModeFast}); err != nil {
		t.Fatal(err)
	}
	if err := <-drained; err != nil {
		t.Fatal(err)
	}
	position, err := standby.RevokeUpstream(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if want, err := primary.Position(ctx); err != nil || position.End != want.End {
		t.Errorf("the standby has WAL up to %s, the primary ended at %s, %v", position.End, want.End, err)
	}
	if err := standby.DrainUpstream(ctx); err != nil {
		t.Errorf("drain where nothing is received: %v", err)
	}
}

// Whoever drains may be left behind, but never attaches anew: the promise that was made before binds.
func TestNobodyAttachesToAStandbyThatDrains(t *testing.T) {
	t.Parallel()
	ctx := servertest.Context(t)
	primary := servertest.Start(t, server.RolePrimary)
	standby := servertest.Follow(t, primary, "s1")
	remembered := standby.Settings()["primary_conninfo"] + " dbname=replication replication=true"
	if err := connectAs(t, remembered); err != nil {
		t.Fatalf("before it drains the settings must do: %v", err)
	}
	bounded, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	if err := standby.DrainUpstream(bounded); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "end its stream") {
		t.Errorf("a drain that is given up: %v", err)
	}
	receiver := standby.SQL(t, "SELECT pid FROM pg_stat_wal_receiver")
	pid, err := strconv.Atoi(receiver)
	if err != nil {
		t.Fatalf("the receiver is there as before: %v", err)
	}
	drained := make(chan error, 1)
	go func() { drained <- standby.DrainUpstream(ctx) }()
	if err := syscall.Kill(pid, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := <-drained; err != nil {
		t.Fatal(err)
	}
	// The server has not read its settings anew and tries ten times a second, with what it remembers.
	if err := connectAs(t, remembered); err == nil {
		t.Error("the remembered settings still let a receiver in")
	}
	if got := primary.SQL(t, "SELECT count(*) FROM pg_stat_replication"); got != "0" {
		t.Errorf("%s receivers have attached", got)
	}
}

// With replay paused PostgreSQL goes on streaming and acknowledging, whatever its settings say.
func TestRevokeWithReplayPaused(t *testing.T) {
	t.Parallel()
	ctx := servertest.Context(t)
	primary := servertest.Start(t, server.RolePrimary)
	primary.SQL(t, "CREATE TABLE t (g int)")
	standby := servertest.Follow(t, primary, "s1")
	standby.SQL(t, "SELECT pg_wal_replay_pause()")
	servertest.Await(t, "the pause", func() bool { return standby.SQL(t, "SELECT pg_is_wal_replay_paused()") == "t" })
	primary.SQL(t, "INSERT INTO t SELECT g FROM generate_series(1, 10000) g")
	servertest.Await(t, "WAL that is not replayed", func() bool {
		return standby.SQL(t, "SELECT pg_last_wal_receive_lsn() > pg_last_wal_replay_lsn()") == "t"
	})
	stale := standby.Settings()["primary_conninfo"] + " dbname=replication replication=true"
	if !strings.Contains(stale, "passfile") {
		t.Fatalf("unexpected primary_conninfo %q", stale)
	}
	if err := connectAs(t, stale); err != nil {
		t.Fatalf("with the passfile the settings must do: %v", err)
	}
	acknowledged := primary.SQL(t, "SELECT flush_lsn FROM pg_stat_replication")
	position, err := standby.RevokeUpstream(ctx)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("revoked in %s", position.Took)
	if ack, err := wal.ParseLSN(acknowledged); err != nil || position.End+wal.BlockSize < ack {
		t.Errorf("acknowledged up to %s, but the end is %s, %v", acknowledged, position.End, err)
	}
	if standby.SQL(t, "SELECT count(*) FROM pg_stat_wal_receiver") != "0" {
		t.Error("a WAL receiver is alive")
	}
	servertest.Await(t, "the primary to notice", func() bool { return primary.SQL(t, "SELECT count(*) FROM pg_stat_replication") == "0" })
	// The cached settings are worth nothing without the passfile.
	err = connectAs(t, stale)
	if err == nil || !strings.Contains(err.Error(), "password") {
		t.Errorf("a connection with cached settings: want it refused for want of a password, got %v", err)
	}
	// New commits of the old primary do not arrive, not even after replay goes on.
	primary.SQL(t, "INSERT INTO t VALUES (-1)")
	standby.SQL(t, "SELECT pg_wal_replay_resume()")
	servertest.Await(t, "replay to the end", func() bool {
		return standby.SQL(t, "SELECT pg_last_wal_replay_lsn() = '"+position.End.String()+"'") == "t"
	})
	again, err := standby.RevokeUpstream(ctx)
	if err != nil || again.End != position.End {
		t.Errorf("a second revocation: end %s was %s, %v", again.End, position.End, err)
	}
}

// connectAs connects as a WAL receiver with these settings does.
func connectAs(t *testing.T, settings string) error {
	t.Helper()
	config, err := pgconn.ParseConfig(settings)
	if err != nil {
		t.Fatal(err)
	}
	config.RuntimeParams = map[string]string{"replication": "true"} // the rest is libpq's own
	conn, err := pgconn.ConnectConfig(servertest.Context(t), config)
	if err != nil {
		return err
	}
	return conn.Close(servertest.Context(t))
}

// The receiver is killed at any moment of its life, while it starts above all.
func TestRevokeWhileReceiversComeAndGo(t *testing.T) {
	t.Parallel()
	ctx := servertest.Context(t)
	primary := servertest.Start(t, server.RolePrimary)
	primary.SQL(t, "CREATE TABLE t (g int)")
	standby := servertest.Follow(t, primary, "s1")
	o := server.FollowOptions{Upstream: primary.Address(), Slot: "s1", ApplicationName: "s1"}
	for n := range 15 {
		if err := standby.FollowUpstream(ctx, o); err != nil {
			t.Fatal(err)
		}
		primary.SQL(t, fmt.Sprintf("INSERT INTO t VALUES (%d)", n)) // some work, and some time
		if n%3 == 0 {
			if err := standby.AwaitStreaming(ctx, primary.Address()); err != nil {
				t.Fatal(err)
			}
		}
		position, err := standby.RevokeUpstream(ctx)
		if err != nil {
			t.Fatal(err)
		}
		primary.SQL(t, "INSERT INTO t VALUES (-1)")
		for range 20 {
			if standby.SQL(t, "SELECT count(*) FROM pg_stat_wal_receiver") != "0" {
				t.Fatalf("round %d: a WAL receiver is alive", n)
			}
		}
		if later, err := standby.Position(ctx); err != nil || later.End != position.End {
			t.Fatalf("round %d: WAL went on from %s to %s, %v", n, position.End, later.End, err)
		}
	}
}

// The first commit after a promotion must wait for the synchronous set. Whether commits wait at all is a flag that only the checkpointer
// moves, so it must have been up before.
func TestStandbyNeverRunsWithoutSynchronousNames(t *testing.T) {
	t.Parallel()
	ctx := servertest.Context(t)
	primary := servertest.Start(t, server.RolePrimary)
	standby := servertest.Follow(t, primary, "s1")
	if got := standby.SQL(t, "SHOW synchronous_standby_names"); got == "" {
		t.Error("a standby runs with an empty synchronous_standby_names")
	}
	if _, err := standby.RevokeUpstream(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := standby.Promote(ctx, server.PromoteOptions{}); err != nil {
		t.Fatal(err)
	}
	if got := standby.SQL(t, "SHOW synchronous_standby_names"); got != "" {
		t.Errorf("promoted as asynchronous it waits for %s", got)
	}
	standby.SQL(t, "CREATE TABLE after_promotion (g int)") // would hang
}

func TestFollowAnotherWithoutRestart(t *testing.T) {
	t.Parallel()
	ctx := servertest.Context(t)
	primary := servertest.Start(t, server.RolePrimary)
	middle, leaf := servertest.Follow(t, primary, "s1"), servertest.Follow(t, primary, "s2")
	pid := leaf.PID()
	// A cascade: the leaf follows the middle, then the primary again.
	for _, upstream := range []*servertest.Server{middle, primary} {
		if err := leaf.FollowUpstream(ctx, server.FollowOptions{Upstream: upstream.Address(), ApplicationName: "s2"}); err != nil {
			t.Fatal(err)
		}
		if err := leaf.AwaitStreaming(ctx, upstream.Address()); err != nil {
			t.Fatal(err)
		}
	}
	if leaf.PID() != pid {
		t.Error("the standby was restarted")
	}
}

// An agent that is killed between its placeholders and the promotion leaves them; a standby would take them for its target.
func TestAbortedPromotionDoesNotKeepAStandbyDown(t *testing.T) {
	t.Parallel()
	ctx := servertest.Context(t)
	primary := servertest.Start(t, server.RolePrimary)
	standby := servertest.Follow(t, primary, "s1")
	for _, tl := range []wal.Timeline{2, 3, 4} {
		path := filepath.Join(standby.WALDir(), tl.HistoryName())
		if err := os.WriteFile(path, wal.Placeholder(), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := standby.Own(path); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := standby.Restart(ctx, server.StopOptions{}, server.StartOptions{Role: server.RoleStandby}); err != nil {
		t.Fatal(err)
	}
	if err := standby.AwaitStreaming(ctx, primary.Address()); err != nil {
		t.Fatal(err)
	}
	if _, placeholders, err := wal.ReadHistories(standby.WALDir()); err != nil || len(placeholders) != 0 {
		t.Errorf("placeholders %v are left, %v", placeholders, err)
	}
}

func TestPromoteRefuses(t *testing.T) {
	t.Parallel()
	ctx := servertest.Context(t)
	primary := servertest.Start(t, server.RolePrimary)
	standby := servertest.Follow(t, primary, "s1")
	refuse := func(s *servertest.Server, o server.PromoteOptions, want string) {
		t.Helper()
		if _, err := s.Promote(ctx, o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("promote %+v: want an error with %q, got %v", o, want, err)
		}
	}
	refuse(primary, server.PromoteOptions{}, "expected a standby, found a primary")
	refuse(servertest.New(t, nil), server.PromoteOptions{}, "the server is not running")
	refuse(standby, server.PromoteOptions{Timeline: 1}, "timeline id cannot be taken: 1: the server is on timeline 1")
	refuse(standby, server.PromoteOptions{Timeline: 99999}, "it lies more than 10000 above the current timeline 1")
	path := filepath.Join(standby.WALDir(), wal.Timeline(9).HistoryName())
	if err := os.WriteFile(path, []byte("1\t0/500000\tsomebody else\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := standby.Own(path); err != nil {
		t.Fatal(err)
	}
	refuse(standby, server.PromoteOptions{Timeline: 8}, "the history of timeline 9 is already here")
	if recovering, err := standby.InRecovery(ctx); err != nil || !recovering {
		t.Errorf("after refusals it must still be a standby: %t, %v", recovering, err)
	}
	if _, err := standby.Promote(ctx, server.PromoteOptions{Timeline: 12}); err != nil {
		t.Error(err)
	}
}

func TestRequestPromotionWithoutSQL(t *testing.T) {
	t.Parallel()
	primary := servertest.Start(t, server.RolePrimary)
	standby := servertest.Follow(t, primary, "s1")
	if err := standby.RequestPromotion(); err != nil {
		t.Fatal(err)
	}
	servertest.Await(t, "promotion", func() bool { return standby.SQL(t, "SELECT pg_is_in_recovery()") == "f" })
}

func TestCutClients(t *testing.T) {
	t.Parallel()
	ctx := servertest.Context(t)
	s := servertest.Start(t, server.RolePrimary)
	standby := servertest.Follow(t, s, "s1")
	s.SQL(t, "CREATE ROLE app LOGIN PASSWORD 'app-password'; CREATE TABLE written (g int); GRANT ALL ON written TO app")
	client := func() (*pgconn.PgConn, error) {
		return pgconn.Connect(ctx, fmt.Sprintf("postgres://app:app-password@%s/postgres?sslmode=disable", net.JoinHostPort("127.0.0.1", strconv.Itoa(int(s.Port())))))
	}
	var sessions []*pgconn.PgConn
	for range 5 {
		conn, err := client()
		if err != nil {
			t.Fatal(err)
		}
		sessions = append(sessions, conn)
	}
	// One of them hangs in a commit that no standby confirms: that is when fencing happens.
	if _, err := s.SetSynchronous(ctx, "ANY 1 (nobody)"); err != nil {
		t.Fatal(err)
	}
	hanging := make(chan error, 1)
	go func() {
		_, err := servertest.Query(ctx, sessions[0], "INSERT INTO written VALUES (1)")
		hanging <- err
	}()
	servertest.Await(t, "a commit that hangs", func() bool {
		return s.SQL(t, "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'") == "1"
	})
	began := time.Now()
	cut, err := s.CutClients(ctx)
	if err != nil || cut.Sessions != len(sessions) || cut.Lingering != 0 {
		t.Errorf("cut %+v, want %d sessions, %v", cut, len(sessions), err)
	}
	t.Logf("clients cut in %s", time.Since(began))
	if err := <-hanging; err == nil {
		t.Error("the hanging commit was acknowledged")
	}
	for _, conn := range sessions[1:] {
		if _, err := servertest.Query(ctx, conn, "SELECT 1"); err == nil {
			t.Error("a session survived")
		}
	}
	if _, err := client(); err == nil || !strings.Contains(err.Error(), "pg_hba.conf") {
		t.Errorf("a new client: want it refused by pg_hba.conf, got %v", err)
	}
	// Standbys and the agent stay.
	if err := standby.AwaitStreaming(ctx, s.Address()); err != nil {
		t.Error(err)
	}
	if got := s.SQL(t, "SELECT count(*) FROM pg_stat_replication"); got != "1" {
		t.Errorf("%s standbys stream, want 1", got)
	}
	if _, err := s.SetSynchronous(ctx, ""); err != nil {
		t.Fatal(err)
	}
	if err := s.AdmitClients(ctx); err != nil {
		t.Fatal(err)
	}
	conn, err := client()
	if err != nil {
		t.Fatal(err)
	}
	if err := conn.Close(ctx); err != nil {
		t.Error(err)
	}
}

// A session with a temporary table commits once more when it ends; where commits hang, so does its end. The server must not be
// taken down for it, and the caller must know.
func TestCutClientsReportsWhatLingers(t *testing.T) {
	t.Parallel()
	ctx := servertest.Context(t)
	s := servertest.Start(t, server.RolePrimary)
	s.SQL(t, "CREATE ROLE app LOGIN PASSWORD 'app-password'")
	conn, err := pgconn.Connect(ctx, fmt.Sprintf("postgres://app:app-password@127.0.0.1:%d/postgres?sslmode=disable", s.Port()))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := servertest.Query(ctx, conn, "CREATE TEMP TABLE x (g int)"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.SetSynchronous(ctx, "ANY 1 (nobody)"); err != nil {
		t.Fatal(err)
	}
	// The setting reaches each process in its own time: this commit hangs once it has reached the checkpointer.
	hanging := make(chan error, 1)
	go func() {
		for {
			if _, err := servertest.Query(ctx, conn, "INSERT INTO x VALUES (1); DROP TABLE IF EXISTS y; CREATE TEMP TABLE y (g int)"); err != nil {
				hanging <- err
				return
			}
		}
	}()
	servertest.Await(t, "a commit that hangs", func() bool {
		return s.SQL(t, "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'") == "1"
	})
	pid := s.PID()
	cut, err := s.CutClients(ctx)
	if err != nil || cut.Sessions != 1 || cut.Lingering != 1 || s.PID() != pid {
		t.Errorf("cut %+v, %v: want one lingering session and the server alive", cut, err)
	}
	if _, err := s.Stop(ctx, server.StopOptions{Mode: server.ModeImmediate}); err != nil {
		t.Fatal(err)
	}
	if err := <-hanging; err == nil {
		t.Error("the hanging commit was acknowledged")
	}
}

func TestSlots(t *testing.T) {
	t.Parallel()
	ctx := servertest.Context(t)
	primary := servertest.Start(t, server.RolePrimary)
	servertest.Follow(t, primary, "used")
	for range 2 { // both are idempotent
		if err := primary.CreateSlot(ctx, "idle"); err != nil {
			t.Fatal(err)
		}
	}
	slots, err := primary.Slots(ctx)
	if err != nil || len(slots) != 2 || !slots["used"] || slots["idle"] {
		t.Errorf("slots %v, %v: want used (active) and idle", slots, err)
	}
	if err := primary.DropSlot(ctx, "used"); err == nil || !strings.Contains(err.Error(), "is active") {
		t.Errorf("drop a slot in use: got %v", err)
	}
	for range 2 {
		if err := primary.DropSlot(ctx, "idle"); err != nil {
			t.Fatal(err)
		}
	}
	if err := primary.CreateSlot(ctx, "Bad-Name"); err == nil || err.Error() != `create replication slot "Bad-Name": expected 1 to 63 lower-case letters, digits and underscores` {
		t.Errorf("a bad name: got %v", err)
	}
	slots, err = primary.Slots(ctx)
	if err != nil || len(slots) != 1 {
		t.Errorf("slots %v, %v", slots, err)
	}
}

// The figures that the failover budget rests on, with fsync on as in production. The limits are far above what is
// measured: the machine may be busy.
func TestFailoverIsQuick(t *testing.T) {
	ctx := servertest.Context(t)
	const rounds = 5
	var revoke, promote []time.Duration
	durable := func(c *server.Config) { delete(c.Settings, "fsync") }
	primary := servertest.New(t, durable)
	if err := primary.Start(ctx, server.StartOptions{Role: server.RolePrimary}); err != nil {
		t.Fatal(err)
	}
	primary.SQL(t, "CREATE TABLE t AS SELECT g FROM generate_series(1, 20000) g")
	for n := range rounds {
		name := fmt.Sprintf("s%d", n)
		standby := servertest.FollowWith(t, primary, name, durable)
		primary.SQL(t, "INSERT INTO t SELECT g FROM generate_series(1, 20000) g")
		position, err := standby.RevokeUpstream(ctx)
		if err != nil {
			t.Fatal(err)
		}
		promoted, err := standby.Promote(ctx, server.PromoteOptions{Timeline: wal.Timeline(n + 3)})
		if err != nil {
			t.Fatal(err)
		}
		revoke, promote = append(revoke, position.Took), append(promote, promoted.Took)
		if _, err := standby.Stop(ctx, server.StopOptions{Mode: server.ModeKill}); err != nil {
			t.Fatal(err)
		}
		if err := primary.DropSlot(ctx, name); err != nil {
			t.Fatal(err)
		}
	}
	slices.Sort(revoke)
	slices.Sort(promote)
	t.Logf("revoke and report: %v; promote: %v", revoke, promote)
	if revoke[rounds/2] > time.Second || promote[rounds/2] > 2*time.Second {
		t.Errorf("too slow: revoke %v, promote %v", revoke, promote)
	}
}
