package server_test

import (
	"testing"

	"github.com/regent-infra/regent/adapters/postgres/server"
	"github.com/regent-infra/regent/adapters/postgres/servertest"
)

func TestMain(m *testing.M) { servertest.Main(m) }

func TestPrimaryAndStandby(t *testing.T) {
	t.Parallel()
	ctx := servertest.Context(t)
	primary := servertest.Start(t, server.RolePrimary)
	primary.SQL(t, "CREATE TABLE t AS SELECT g FROM generate_series(1, 1000) g")
	standby := servertest.Follow(t, primary, "s1")
	servertest.Await(t, "replication", func() bool {
		return standby.SQL(t, "SELECT coalesce(to_regclass('t')::text, '')") == "t" && standby.SQL(t, "SELECT count(*) FROM t") == "1000"
	})
	if _, err := primary.Stop(ctx, server.StopOptions{Mode: server.ModeKill}); err != nil {
		t.Fatal(err)
	}
	position, err := standby.RevokeUpstream(ctx)
	if err != nil {
		t.Fatal(err)
	}
	promoted, err := standby.Promote(ctx, server.PromoteOptions{Timeline: 7})
	if err != nil {
		t.Fatal(err)
	}
	if promoted.Timeline != 7 || promoted.Switch != position.End {
		t.Errorf("promoted %+v from %+v: want timeline 7 that begins at the end of WAL", promoted, position)
	}
	t.Logf("revoke %s, promote %s", position.Took, promoted.Took)
	standby.SQL(t, "INSERT INTO t VALUES (0)")
}
