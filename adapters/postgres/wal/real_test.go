package wal_test

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"

	"github.com/regent-infra/regent/adapters/postgres/binary"
	"github.com/regent-infra/regent/adapters/postgres/server"
	"github.com/regent-infra/regent/adapters/postgres/servertest"
	"github.com/regent-infra/regent/adapters/postgres/wal"
)

func TestMain(m *testing.M) { servertest.Main(m) }

// work makes a log with all that is special: records over several pages, segment switches, two-phase commits.
const work = `CREATE TABLE big (v text);
	ALTER TABLE big ALTER v SET STORAGE EXTERNAL;
	INSERT INTO big SELECT repeat('x', 30000) FROM generate_series(1, 200);
	SELECT pg_switch_wal();
	CREATE TABLE small AS SELECT g FROM generate_series(1, 20000) g;
	CHECKPOINT;
	UPDATE small SET g = g + 1;
	SELECT pg_logical_emit_message(false, 'test', repeat('y', 300000));
	BEGIN; CREATE TABLE two (g int); SAVEPOINT s; INSERT INTO small VALUES (0); PREPARE TRANSACTION 'p1';
	COMMIT PREPARED 'p1';
	INSERT INTO small VALUES (-1);`

// start opens a server with small segments, so that much happens at their borders.
func start(t *testing.T) *servertest.Server {
	t.Helper()
	set, err := servertest.Binaries(servertest.Context(t))
	if err != nil {
		t.Fatal(err)
	}
	c := servertest.Config(t, set)
	c.Settings["min_wal_size"], c.Settings["max_prepared_transactions"] = "4MB", "5"
	s := servertest.Open(t, c, nil)
	if err := s.Init(servertest.Context(t), server.InitOptions{SegmentSize: wal.MinSegmentSize, Fast: true}); err != nil {
		t.Fatal(err)
	}
	if err := s.Start(servertest.Context(t), server.StartOptions{Role: server.RolePrimary}); err != nil {
		t.Fatal(err)
	}
	return s
}

func run(t *testing.T, s *servertest.Server, statements string) {
	t.Helper()
	conn := s.Connect(t)
	for _, statement := range regexp.MustCompile(`;\s*`).Split(statements, -1) {
		if _, err := servertest.Query(servertest.Context(t), conn, statement); err != nil {
			t.Fatalf("%s: %v", statement, err)
		}
	}
}

func config(t *testing.T, s *servertest.Server) wal.ScanConfig {
	t.Helper()
	data, err := s.Control()
	if err != nil {
		t.Fatal(err)
	}
	position, err := s.Position(servertest.Context(t))
	if err != nil {
		t.Fatal(err)
	}
	return wal.ScanConfig{
		Dir: s.WALDir(), SegmentSize: data.SegmentSize, SystemIdentifier: data.SystemIdentifier, History: position.History, Start: data.Redo,
	}
}

// dumped is a line of pg_waldump.
var dumped = regexp.MustCompile(`(?m)^rmgr: (\S+) +len \(rec/tot\): *(\d+)/ *(\d+), tx: +(\d+), lsn: ([0-9A-F/]+), prev ([0-9A-F/]+)`)

func TestScanAgreesWithWalDump(t *testing.T) {
	t.Parallel()
	ctx := servertest.Context(t)
	s := start(t)
	tool, err := s.Config.Binaries.Path(binary.ToolWalDump)
	if err != nil {
		// The published archives have no pg_waldump: the comparison is made wherever PostgreSQL is installed in full, and what
		// can be asked of the server alone holds here.
		t.Log(err)
	}
	begin := s.SQL(t, "SELECT pg_current_wal_insert_lsn()")
	run(t, s, work)
	xid := s.SQL(t, "INSERT INTO small VALUES (-2) RETURNING xmin")
	if _, err := s.Stop(ctx, server.StopOptions{Mode: server.ModeKill}); err != nil {
		t.Fatal(err)
	}
	c := config(t, s)
	if c.Start, err = wal.ParseLSN(begin); err != nil {
		t.Fatal(err)
	}
	var lines []string
	commits := map[uint32]bool{}
	_, err = wal.Scan(ctx, c, func(r wal.Record) error {
		lines = append(lines, fmt.Sprintf("%d %d %s %s", r.Length(), r.XID, r.Start, r.Previous))
		if r.IsCommit() {
			commit, err := r.Commit()
			if err != nil {
				return err
			}
			commits[commit.XID] = true
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	last, err := strconv.ParseUint(xid, 10, 32)
	if err != nil {
		t.Fatal(err)
	}
	if !commits[uint32(last)] || !commits[uint32(last-3)] || len(lines) < 20_000 {
		t.Errorf("found %d records; want the commits of %d and of the prepared transaction %d among %v", len(lines), last, last-3, commits)
	}
	if tool == "" {
		return
	}
	want := dump(t, s, tool, c)
	for n := range min(len(want), len(lines)) {
		if want[n] != lines[n] {
			t.Fatalf("record %d: pg_waldump says %s, the scan %s", n, want[n], lines[n])
		}
	}
	if len(want) != len(lines) {
		t.Errorf("pg_waldump finds %d records, the scan %d", len(want), len(lines))
	}
}

// dump lists the records that pg_waldump finds. Its output is longer than what RunTool keeps, so it goes to a file.
func dump(t *testing.T, s *servertest.Server, tool string, c wal.ScanConfig) []string {
	t.Helper()
	out := filepath.Join(servertest.Dir(t), "out")
	script := fmt.Sprintf("%s -p %s -t 1 -s %s > %s", tool, c.Dir, c.Start, out)
	if err := os.Chmod(filepath.Dir(out), 0o777); err != nil { //nolint:gosec // a test's own folder
		t.Fatal(err)
	}
	// It ends with an error where the log ends; the comparison shows whether that is right.
	if output, err := s.RunTool(servertest.Context(t), "/bin/sh", []string{"-c", script}, nil); err != nil {
		t.Logf("pg_waldump: %s", output)
	}
	content, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, m := range dumped.FindAllStringSubmatch(string(content), -1) {
		lines = append(lines, fmt.Sprintf("%s %s %s %s", m[3], m[4], normal(t, m[5]), normal(t, m[6])))
	}
	return lines
}

func normal(t *testing.T, text string) string {
	t.Helper()
	l, err := wal.ParseLSN(text)
	if err != nil {
		t.Fatal(err)
	}
	return l.String()
}

// Recovery itself is the judge: after a crash it writes its checkpoint where it found the end of WAL.
func TestFindEndAgreesWithRecovery(t *testing.T) {
	t.Parallel()
	ctx := servertest.Context(t)
	s := start(t)
	run(t, s, work)
	if _, err := s.Stop(ctx, server.StopOptions{Mode: server.ModeKill}); err != nil {
		t.Fatal(err)
	}
	for _, tear := range []int64{0, 3, 40, 100, 9000} {
		position, err := s.Position(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if tear > 0 {
			// The last bytes never reached the disk.
			data, err := s.Control()
			if err != nil {
				t.Fatal(err)
			}
			zero(t, s, data.SegmentSize, position.End-wal.LSN(tear), position.End)
			before := position.End
			if position, err = s.Position(ctx); err != nil || position.End > before-wal.LSN(tear)+8 {
				t.Fatalf("with the last %d bytes torn off: end %s was %s, %v", tear, position.End, before, err)
			}
		}
		if err := s.Start(ctx, server.StartOptions{Role: server.RolePrimary}); err != nil {
			t.Fatal(err)
		}
		// The end-of-recovery checkpoint is the first record behind the end; later ones follow it.
		checkpoint := s.SQL(t, "SELECT checkpoint_lsn FROM pg_control_checkpoint()")
		got, err := wal.ParseLSN(checkpoint)
		if err != nil {
			t.Fatal(err)
		}
		if got < position.End || got > position.End+wal.BlockSize {
			t.Errorf("torn by %d: recovery ended at %s, found %s", tear, got, position.End)
		}
		run(t, s, "INSERT INTO small SELECT 1 FROM generate_series(1, 200); INSERT INTO big VALUES (repeat('z', 20000)); INSERT INTO small VALUES (3)")
		if _, err := s.Stop(ctx, server.StopOptions{Mode: server.ModeKill}); err != nil {
			t.Fatal(err)
		}
	}
}

// zero wipes the bytes of a range of the log that lie in one segment.
func zero(t *testing.T, s *servertest.Server, size wal.SegmentSize, from, to wal.LSN) {
	t.Helper()
	from = max(from, size.Start(size.SegmentOf(to-1)))
	f, err := os.OpenFile(filepath.Join(s.WALDir(), size.Name(1, size.SegmentOf(from))), os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	}()
	if _, err := f.WriteAt(make([]byte, to-from), int64(size.Offset(from))); err != nil {
		t.Fatal(err)
	}
}

func TestFindEndOnAStandby(t *testing.T) {
	t.Parallel()
	ctx := servertest.Context(t)
	primary := servertest.Start(t, server.RolePrimary)
	standby := servertest.Follow(t, primary, "s1")
	primary.SQL(t, "CREATE TABLE t AS SELECT g FROM generate_series(1, 50000) g")
	end := primary.SQL(t, "SELECT pg_current_wal_insert_lsn()")
	servertest.Await(t, "the standby to receive all", func() bool {
		return standby.SQL(t, "SELECT pg_last_wal_receive_lsn() >= '"+end+"'") == "t"
	})
	position, err := standby.RevokeUpstream(ctx)
	if err != nil {
		t.Fatal(err)
	}
	received := standby.SQL(t, "SELECT pg_last_wal_receive_lsn()")
	// What was received may end within a record; what is found ends with one.
	receivedLSN, errReceived := wal.ParseLSN(received)
	committed, errCommitted := wal.ParseLSN(end)
	if errReceived != nil || errCommitted != nil || position.End > receivedLSN || position.End < committed || position.Timeline != 1 {
		t.Errorf("found %s on %d, the server received %s, and %s was committed", position.End, position.Timeline, received, end)
	}
	// After a restart the server does not know what it has received; the files do.
	if _, err := standby.Stop(ctx, server.StopOptions{Mode: server.ModeKill}); err != nil {
		t.Fatal(err)
	}
	if err := standby.Start(ctx, server.StartOptions{Role: server.RoleStandby}); err != nil {
		t.Fatal(err)
	}
	if got := standby.SQL(t, "SELECT coalesce(pg_last_wal_receive_lsn()::text, 'NULL')"); got != "NULL" {
		t.Errorf("received LSN after a restart: want NULL, got %s", got)
	}
	again, err := standby.RevokeUpstream(ctx)
	if err != nil || again.End != position.End {
		t.Errorf("after a restart: want %s, got %+v, %v", position.End, again, err)
	}
}
