package basebackup_test

import (
	"testing"

	"github.com/regent-infra/regent/adapters/postgres/basebackup"
	"github.com/regent-infra/regent/adapters/postgres/server"
	"github.com/regent-infra/regent/adapters/postgres/servertest"
)

func TestMain(m *testing.M) { servertest.Main(m) }

func TestTakeAndFollow(t *testing.T) {
	t.Parallel()
	ctx := servertest.Context(t)
	primary := servertest.Start(t, server.RolePrimary)
	primary.SQL(t, "CREATE TABLE t AS SELECT g, repeat('x', 100) AS filler FROM generate_series(1, 50000) g")
	standby := servertest.Open(t, servertest.Config(t, primary.Config.Binaries), nil)
	var phases []string
	result, err := basebackup.Take(ctx, basebackup.Options{
		Source: primary.Address(), Credential: replication(primary), DataDir: standby.DataDir(), Own: standby.Own,
		Slot: "copy", NoSync: true, Logger: standby.Config.Logger,
		OnProgress: func(p basebackup.Progress) {
			if len(phases) == 0 || phases[len(phases)-1] != p.Phase {
				phases = append(phases, p.Phase)
			}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(phases) != 4 || result.Timeline != 1 || result.End <= result.Start || result.Bytes < 5<<20 || result.Files < 500 {
		t.Errorf("unexpected result %+v with phases %v", result, phases)
	}
	if err := standby.FollowUpstream(ctx, server.FollowOptions{Upstream: primary.Address(), Slot: "copy", ApplicationName: "copy"}); err != nil {
		t.Fatal(err)
	}
	if err := standby.Start(ctx, server.StartOptions{Role: server.RoleStandby}); err != nil {
		t.Fatal(err)
	}
	if err := standby.AwaitStreaming(ctx, primary.Address()); err != nil {
		t.Fatal(err)
	}
	primary.SQL(t, "INSERT INTO t VALUES (0, '')")
	servertest.Await(t, "replication", func() bool { return standby.SQL(t, "SELECT count(*) FROM t") == "50001" })
}

func replication(s *servertest.Server) server.Credential {
	c := s.Config.Replication
	c.User = "regent_replication"
	return c
}
