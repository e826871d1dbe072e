package rewind_test

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/regent-infra/regent/adapters/postgres/binary"
	"github.com/regent-infra/regent/adapters/postgres/rewind"
	"github.com/regent-infra/regent/adapters/postgres/server"
	"github.com/regent-infra/regent/adapters/postgres/servertest"
)

func TestMain(m *testing.M) { servertest.Main(m) }

// diverge builds a cluster whose primary has written n commits that its standby, which is then promoted, never got.
func diverge(t *testing.T, n int) (old, promoted *servertest.Server) {
	t.Helper()
	ctx := servertest.Context(t)
	old = servertest.Start(t, server.RolePrimary)
	old.SQL(t, "CREATE TABLE t (g int)")
	promoted = servertest.Follow(t, old, "s1")
	old.SQL(t, "INSERT INTO t VALUES (-1)")
	end := old.SQL(t, "SELECT pg_current_wal_insert_lsn()")
	servertest.Await(t, "replication", func() bool {
		return promoted.SQL(t, "SELECT pg_last_wal_replay_lsn() >= '"+end+"'") == "t"
	})
	if _, err := promoted.RevokeUpstream(ctx); err != nil {
		t.Fatal(err)
	}
	conn := old.Connect(t)
	for range n {
		if _, err := servertest.Query(ctx, conn, "INSERT INTO t VALUES (1)"); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := old.Stop(ctx, server.StopOptions{Mode: server.ModeKill}); err != nil {
		t.Fatal(err)
	}
	if _, err := promoted.Promote(ctx, server.PromoteOptions{Timeline: 5}); err != nil {
		t.Fatal(err)
	}
	promoted.SQL(t, "INSERT INTO t VALUES (2)")
	return old, promoted
}

func options(old, promoted *servertest.Server, archive string) rewind.Options {
	return rewind.Options{
		Instance: old.Instance, Binaries: old.Config.Binaries, Source: promoted.Address(),
		Replication: server.Credential{User: "regent_replication", Password: servertest.ReplicationPassword},
		Checkpoint:  promoted.Checkpoint, ArchiveDir: archive, Logger: old.Config.Logger,
	}
}

func TestReturnRewindsADivergedPrimary(t *testing.T) {
	t.Parallel()
	ctx := servertest.Context(t)
	const lost = 25
	old, promoted := diverge(t, lost)
	archive := filepath.Join(servertest.Dir(t), "archive")
	report, err := rewind.Return(ctx, options(old, promoted, archive))
	if err != nil {
		t.Fatal(err)
	}
	found := report.Divergence.Lost
	if !report.Rewound || found.Commits != lost || len(found.Transactions) != lost || found.From >= found.To || found.Last.Before(found.First) {
		t.Errorf("report %+v: want %d lost commits and a rewind", report, lost)
	}
	checkArchive(t, report)
	if err := promoted.CreateSlot(ctx, "old"); err != nil {
		t.Fatal(err)
	}
	if err := old.FollowUpstream(ctx, server.FollowOptions{Upstream: promoted.Address(), Slot: "old", ApplicationName: "old"}); err != nil {
		t.Fatal(err)
	}
	if err := old.Start(ctx, server.StartOptions{Role: server.RoleStandby}); err != nil {
		t.Fatal(err)
	}
	if err := old.AwaitStreaming(ctx, promoted.Address()); err != nil {
		t.Fatal(err)
	}
	servertest.Await(t, "the new primary's rows", func() bool { return old.SQL(t, "SELECT string_agg(g::text, ',' ORDER BY g) FROM t") == "-1,2" })
	t.Logf("returned in %s", report.Took)
}

func checkArchive(t *testing.T, report rewind.Report) {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(report.Archive, "manifest.json"))
	if err != nil {
		t.Fatal(err)
	}
	var m rewind.Manifest
	if err := json.Unmarshal(content, &m); err != nil {
		t.Fatal(err)
	}
	if len(m.Files) == 0 || len(m.Missing) != 0 || m.Lost.Commits != report.Divergence.Lost.Commits {
		t.Errorf("manifest %+v does not fit the report", m)
	}
	for _, f := range m.Files {
		info, err := os.Stat(filepath.Join(report.Archive, f.Name))
		if err != nil || info.Size() != f.Bytes {
			t.Errorf("archived file %s: want %d bytes, got %v, %v", f.Name, f.Bytes, info, err)
		}
	}
}

func TestReturnFollowsWithoutRewindWhenNothingIsLost(t *testing.T) {
	t.Parallel()
	ctx := servertest.Context(t)
	old, promoted := diverge(t, 0)
	report, err := rewind.Return(ctx, options(old, promoted, filepath.Join(servertest.Dir(t), "archive")))
	if err != nil {
		t.Fatal(err)
	}
	// A running primary writes by itself (running transactions); those records are no commits but do diverge.
	if report.Divergence.Lost.Commits != 0 {
		t.Errorf("want no lost commits, got %+v", report.Divergence)
	}
}

func TestReturnAsksForACopy(t *testing.T) {
	t.Parallel()
	ctx := servertest.Context(t)
	old, promoted := diverge(t, 1)
	o := options(old, promoted, filepath.Join(servertest.Dir(t), "archive"))
	o.Binaries = binary.Set{Dir: "/nowhere", Version: old.Config.Binaries.Version}
	report, err := rewind.Return(ctx, o)
	if !errors.Is(err, rewind.ErrCopyAfresh) || !strings.Contains(err.Error(), "pg_rewind is not among the programs in /nowhere") {
		t.Errorf("without pg_rewind: want ErrCopyAfresh, got %v", err)
	}
	if report.Archive == "" || report.Divergence.Lost.Commits != 1 {
		t.Errorf("the report must name what is lost and where it is: %+v", report)
	}
	// A rewind that fails half way condemns the directory until it is replaced.
	o = options(old, promoted, o.ArchiveDir)
	o.Checkpoint = func(ctx context.Context) error {
		_, err := promoted.Stop(ctx, server.StopOptions{Mode: server.ModeImmediate})
		return err
	}
	if _, err := rewind.Return(ctx, o); !errors.Is(err, rewind.ErrCopyAfresh) {
		t.Errorf("a failed rewind: want ErrCopyAfresh, got %v", err)
	}
	if err := old.Start(ctx, server.StartOptions{Role: server.RoleStandby}); !errors.Is(err, server.ErrCondemned) {
		t.Errorf("start after a failed rewind: want ErrCondemned, got %v", err)
	}
}
