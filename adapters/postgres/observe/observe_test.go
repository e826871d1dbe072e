package observe_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/regent-infra/regent/adapters/postgres/binary"
	"github.com/regent-infra/regent/adapters/postgres/observe"
	"github.com/regent-infra/regent/adapters/postgres/server"
	"github.com/regent-infra/regent/adapters/postgres/servertest"
	"github.com/regent-infra/regent/schemas"
)

func TestMain(m *testing.M) { servertest.Main(m) }

func observer(t *testing.T, connect func() (*pgconn.Config, error), timeout time.Duration) *observe.Observer {
	t.Helper()
	o, err := observe.New(observe.Config{Connect: connect, Timeout: timeout})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(o.Close)
	return o
}

func TestPrimaryAndStandbyAreSeenInFull(t *testing.T) {
	t.Parallel()
	primary := servertest.Start(t, server.RolePrimary)
	standby := servertest.Follow(t, primary, "s1_t1")
	p, s := observer(t, primary.ConnConfig, 0), observer(t, standby.ConnConfig, 0)
	primary.SQL(t, "CREATE TABLE x AS SELECT generate_series(1, 1000)")

	pulse, err := p.Pulse(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if pulse.Role != schemas.NodeRolePrimary || pulse.Timeline != 1 || pulse.WrittenLsn < 1<<24 || pulse.FlushedLsn == 0 || pulse.ServerVersion < 130000 || pulse.StartedAt.IsZero() {
		t.Errorf("primary: %+v", pulse)
	}
	if len(pulse.Senders) != 1 || pulse.Senders[0].ApplicationName != "s1_t1" || pulse.Senders[0].State != "streaming" || pulse.Senders[0].ClientAddress != "127.0.0.1" || pulse.Senders[0].SentLsn == 0 {
		t.Errorf("senders: %+v", pulse.Senders)
	}
	servertest.Await(t, "the standby has replayed all", func() bool {
		follower, err := s.Pulse(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return follower.ReplayedLsn >= pulse.WrittenLsn && follower.ReplayLagMs != nil && *follower.ReplayLagMs == 0
	})
	follower, err := s.Pulse(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	r := follower.Receiver
	if follower.Role != schemas.NodeRoleStandby || r == nil || r.Status != "streaming" || r.ApplicationName != "s1_t1" || r.SlotName != "s1_t1" || r.SenderPort != int32(primary.Port()) || r.LastMessageReceivedAt == nil {
		t.Errorf("standby: %+v, receiver %+v", follower, r)
	}
	if follower.SystemIdentifier != pulse.SystemIdentifier || follower.Timeline != 1 {
		t.Errorf("standby: %+v", follower)
	}
	usage, err := p.Usage(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(usage.Slots) != 1 || !usage.Slots[0].Active || usage.Slots[0].RestartLsn == nil || usage.Slots[0].WalStatus != "reserved" || usage.Connections.Max < 10 || usage.PendingRestart {
		t.Errorf("usage: %+v", usage)
	}
	volume, err := p.Volume(t.Context(), pulse.ServerVersion)
	if err != nil {
		t.Fatal(err)
	}
	if volume.DatabaseBytes < 1<<20 || volume.WalBytes < 1<<24 || volume.Queries.Commits == 0 || volume.Queries.WalBytes == 0 {
		t.Errorf("volume: %+v", volume)
	}
	disk, err := observe.Disk(primary.DataDir())
	if err != nil || disk.DataTotalBytes == 0 || disk.DataFreeBytes == 0 || disk.WalSizeBytes < 1<<24 {
		t.Errorf("disk: %+v (%v)", disk, err)
	}
	if _, err := s.Usage(t.Context()); err != nil {
		t.Errorf("a standby's usage: %v", err)
	}
	if _, err := s.Volume(t.Context(), pulse.ServerVersion); err != nil {
		t.Errorf("a standby's volume: %v", err)
	}
}

func TestConnectionsAreCountedByWhatTheyDo(t *testing.T) {
	t.Parallel()
	primary := servertest.Start(t, server.RolePrimary)
	o := observer(t, primary.ConnConfig, 0)
	idle, open, waiting := primary.Connect(t), primary.Connect(t), primary.Connect(t)
	if _, err := servertest.Query(t.Context(), open, "BEGIN; SELECT 1"); err != nil {
		t.Fatal(err)
	}
	_ = idle
	if _, err := primary.SetSynchronous(t.Context(), "ANY 1 (nobody)"); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = servertest.Query(ctx, waiting, "SET synchronous_commit = on; CREATE TABLE never ()") // it is cancelled below
	}()
	servertest.Await(t, "a commit waits for a standby", func() bool {
		usage, err := o.Usage(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		c := usage.Connections
		return c.WaitingOnSync == 1 && c.IdleInTransaction == 1 && c.Idle == 1 && c.Active == 1 && c.Total == 3 && c.LongestTransactionMs >= 0
	})
	cancel()
	<-done
	pulse, err := o.Pulse(t.Context())
	if err != nil || pulse.Synchronous != "ANY 1 (nobody)" {
		t.Fatalf("synchronous %q (%v)", pulse.Synchronous, err)
	}
}

// TestTheBreakerOpensForAFrozenServerAndShutsAgain stops every process of a real server by signal.
func TestTheBreakerOpensForAFrozenServerAndShutsAgain(t *testing.T) {
	t.Parallel()
	primary := servertest.Start(t, server.RolePrimary)
	o := observer(t, primary.ConnConfig, 200*time.Millisecond)
	if _, err := o.Pulse(t.Context()); err != nil {
		t.Fatal(err)
	}
	// Only the postmaster: sessions live on, so that the looks fail at connecting once the held connection is gone.
	o.Reset()
	if err := syscall.Kill(primary.PID(), syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	thawed := false
	thaw := func() {
		if !thawed {
			thawed = true
			_ = syscall.Kill(primary.PID(), syscall.SIGCONT)
		}
	}
	defer thaw()
	for range 3 {
		began := time.Now()
		if _, err := o.Pulse(t.Context()); err == nil || !strings.Contains(err.Error(), "timeout") {
			t.Fatalf("a frozen server answered: %v", err)
		}
		if took := time.Since(began); took > 2*time.Second {
			t.Fatalf("a look took %s", took)
		}
	}
	if b := o.Breaker(); b.State != schemas.BreakerStateOpen || b.ConsecutiveFailures != 3 || b.LastError != "timeout" {
		t.Fatalf("breaker %+v", b)
	}
	if _, err := o.Pulse(t.Context()); !errors.Is(err, observe.ErrOpen) {
		t.Fatalf("an open breaker let a look through: %v", err)
	}
	thaw()
	servertest.Await(t, "the breaker shuts again", func() bool {
		_, err := o.Pulse(t.Context())
		return err == nil && o.Breaker().State == schemas.BreakerStateClosed
	})
}

func TestStatementTimeoutIsEnforcedByTheServer(t *testing.T) {
	t.Parallel()
	primary := servertest.Start(t, server.RolePrimary)
	blocker := primary.Connect(t)
	if _, err := servertest.Query(t.Context(), blocker, "BEGIN; LOCK TABLE pg_database IN ACCESS EXCLUSIVE MODE"); err != nil {
		t.Fatal(err)
	}
	config, err := primary.ConnConfig()
	if err != nil {
		t.Fatal(err)
	}
	_ = config
	o := observer(t, primary.ConnConfig, 300*time.Millisecond)
	_, err = o.Volume(t.Context(), 150000)
	if err == nil {
		t.Fatal("it came through a lock")
	}
	if strings.Contains(err.Error(), "pg_database_size") {
		t.Fatalf("the error quotes the statement: %v", err)
	}
}

func TestTripsBySQLState(t *testing.T) {
	t.Parallel()
	for code, want := range map[string]bool{
		"08006": true, "53300": true, "53100": true, "57P03": true, "57014": true, "58030": true, "XX001": true, "": true,
		"22012": false, "23505": false, "28P01": false, "42P01": false, "40001": false, "55000": false,
	} {
		if got := observe.Trips(fmt.Errorf("wrapped: %w", &pgconn.PgError{Code: code})); got != want {
			t.Errorf("SQLSTATE %q trips: %v, want %v", code, got, want)
		}
	}
	for name, c := range map[string]struct {
		err  error
		want bool
	}{
		"none": {nil, false}, "cancelled": {context.Canceled, false}, "deadline": {context.DeadlineExceeded, true},
		"refused": {&net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}, true},
	} {
		if got := observe.Trips(c.err); got != c.want {
			t.Errorf("%s trips: %v, want %v", name, got, c.want)
		}
	}
}

func TestNobodyThereIsToldByKind(t *testing.T) {
	t.Parallel()
	dir := servertest.Dir(t)
	o := observer(t, func() (*pgconn.Config, error) {
		return pgconn.ParseConfig("host=" + dir + " port=5432 user=postgres dbname=postgres sslmode=disable")
	}, time.Second)
	_, err := o.Pulse(t.Context())
	if err == nil || !strings.Contains(err.Error(), "look at role and positions: no socket") {
		t.Fatalf("%v", err)
	}
	if b := o.Breaker(); b.LastError != "no socket" {
		t.Fatalf("%+v", b)
	}
	if _, err := observe.Disk(filepath.Join(dir, "nowhere")); err == nil || !strings.Contains(err.Error(), "look at the file system of") {
		t.Fatalf("%v", err)
	}
}

// TestSQLWorksOnOtherVersions runs every look on the oldest and the newest version that is supported, fetched if need be.
func TestSQLWorksOnOtherVersions(t *testing.T) {
	t.Parallel()
	for _, major := range []int{13, 18} {
		set, err := binary.Locate(t.Context(), binary.FindOptions{Major: major}, &binary.FetchOptions{Major: major})
		if err != nil {
			t.Fatal(err)
		}
		s := servertest.Open(t, servertest.Config(t, set), nil)
		ctx := servertest.Context(t)
		if err := s.Init(ctx, server.InitOptions{Fast: true}); err != nil {
			t.Fatal(err)
		}
		if err := s.Start(ctx, server.StartOptions{Role: server.RolePrimary}); err != nil {
			t.Fatal(err)
		}
		o := observer(t, s.ConnConfig, 0)
		pulse, err := o.Pulse(ctx)
		if err != nil || int(pulse.ServerVersion)/10000 != major {
			t.Fatalf("%d: %+v %v", major, pulse, err)
		}
		if _, err := o.Usage(ctx); err != nil {
			t.Fatalf("%d: %v", major, err)
		}
		if _, err := o.Volume(ctx, pulse.ServerVersion); err != nil {
			t.Fatalf("%d: %v", major, err)
		}
	}
}
