package basebackup_test

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/regent-infra/regent/adapters/postgres/basebackup"
	"github.com/regent-infra/regent/adapters/postgres/binary"
	"github.com/regent-infra/regent/adapters/postgres/server"
	"github.com/regent-infra/regent/adapters/postgres/servertest"
)

func TestMain(m *testing.M) { servertest.Main(m) }

func replication() server.Credential {
	return server.Credential{User: "regent_replication", Password: servertest.ReplicationPassword}
}

// target is where a copy goes to: an instance without a data directory.
func target(t *testing.T, set binary.Set) *servertest.Server {
	t.Helper()
	return servertest.Open(t, servertest.Config(t, set), nil)
}

func options(source, to *servertest.Server) basebackup.Options {
	return basebackup.Options{
		Source: source.Address(), Credential: replication(), DataDir: to.DataDir(), Own: to.Own, NoSync: true, Logger: to.Config.Logger,
	}
}

const rows = "CREATE TABLE t AS SELECT g, repeat('x', 100) AS filler FROM generate_series(1, 50000) g"

// life takes a copy of a busy primary, follows it, and lets it take over.
func life(t *testing.T, primary *servertest.Server) {
	t.Helper()
	ctx := servertest.Context(t)
	primary.SQL(t, rows)
	busy, stop := context.WithCancel(ctx)
	done := make(chan struct{})
	conn := primary.Connect(t)
	go func() { // files change while they are copied
		defer close(done)
		for busy.Err() == nil {
			_, _ = servertest.Query(ctx, conn, "UPDATE t SET filler = repeat('y', 90) WHERE g % 50 = 0; INSERT INTO t VALUES (0, '')")
		}
	}()
	standby := target(t, primary.Config.Binaries)
	o := options(primary, standby)
	o.Slot, o.NoSync, o.Major = "copy", false, primary.Config.Binaries.Version.Major
	var phases []string
	o.OnProgress = func(p basebackup.Progress) {
		if len(phases) == 0 || phases[len(phases)-1] != p.Phase {
			phases = append(phases, p.Phase)
		}
	}
	result, err := basebackup.Take(ctx, o)
	stop()
	<-done
	if err != nil {
		t.Fatal(err)
	}
	if strings.Join(phases, " ") != "checkpoint copy verify sync" || result.Timeline != 1 || result.End <= result.Start || result.Bytes < 5<<20 || result.Files < 500 {
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
	want := primary.SQL(t, "SELECT count(*) || ' ' || sum(g) || ' ' || sum(length(filler)) FROM t")
	servertest.Await(t, "replication", func() bool {
		return standby.SQL(t, "SELECT count(*) || ' ' || sum(g) || ' ' || sum(length(filler)) FROM t") == want
	})
	if _, err := primary.Stop(ctx, server.StopOptions{Mode: server.ModeKill}); err != nil {
		t.Fatal(err)
	}
	if _, err := standby.RevokeUpstream(ctx); err != nil {
		t.Fatal(err)
	}
	promoted, err := standby.Promote(ctx, server.PromoteOptions{Timeline: 4})
	if err != nil || promoted.Timeline != 4 {
		t.Fatalf("promoted %+v, %v", promoted, err)
	}
	standby.SQL(t, "INSERT INTO t VALUES (1, '')")
}

func TestTakeFollowPromote(t *testing.T) {
	t.Parallel()
	life(t, servertest.Start(t, server.RolePrimary))
}

// The published archives have neither pg_basebackup nor pg_rewind; 14 speaks the older dialect of BASE_BACKUP, 18 has the newest formats.
func TestPublishedArchives(t *testing.T) {
	t.Parallel()
	for _, major := range []int{14, 18} {
		set, err := binary.Fetch(servertest.Context(t), binary.FetchOptions{Major: major})
		if err != nil {
			t.Fatal(err)
		}
		if set.Version.Major != major || set.Has(binary.ToolBaseBackup) || set.Has(binary.ToolRewind) {
			t.Errorf("unexpected programs %+v", set)
		}
		primary := servertest.Open(t, servertest.Config(t, set), nil)
		if err := primary.Init(servertest.Context(t), server.InitOptions{Fast: true}); err != nil {
			t.Fatal(err)
		}
		if err := primary.Start(servertest.Context(t), server.StartOptions{Role: server.RolePrimary}); err != nil {
			t.Fatal(err)
		}
		life(t, primary)
	}
}

// proxy stands between source and target, and breaks what flows to the target.
type proxy struct {
	address server.Address
	// flip is the position of a byte to change, cut that where the connection ends, stall that where nothing more comes. 0: not at all.
	flip, cut, stall int64
	conns            atomic.Int64
}

func startProxy(t *testing.T, to server.Address, p *proxy) *proxy {
	t.Helper()
	listener, err := (&net.ListenConfig{}).Listen(servertest.Context(t), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p.address = server.Address{Host: "127.0.0.1", Port: uint16(listener.Addr().(*net.TCPAddr).Port)} //nolint:forcetypeassert,gosec // TCP
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			down, err := listener.Accept()
			if err != nil {
				return
			}
			p.conns.Add(1)
			p.serve(t.Context(), down, to)
		}
	}()
	t.Cleanup(func() {
		_ = listener.Close()
		<-done
	})
	return p
}

func (p *proxy) serve(ctx context.Context, down net.Conn, to server.Address) {
	defer func() { _ = down.Close() }()
	up, err := (&net.Dialer{}).DialContext(ctx, "tcp", to.String())
	if err != nil {
		return
	}
	requests := make(chan struct{})
	go func() {
		defer close(requests)
		_, _ = io.Copy(up, down)
		_ = up.Close()
	}()
	buffer, at := make([]byte, 4096), int64(0)
	for {
		n, err := up.Read(buffer)
		if p.flip > at && p.flip <= at+int64(n) {
			buffer[p.flip-at-1] ^= 0x40
		}
		at += int64(n)
		if p.stall > 0 && at > p.stall {
			<-requests // until the other side gives up
			break
		}
		if _, writeErr := down.Write(buffer[:n]); writeErr != nil || err != nil || p.cut > 0 && at > p.cut {
			break
		}
	}
	_, _ = up.Close(), down.Close()
	<-requests
}

// Whatever breaks on the way, the former directory stays, and a copy that is accepted is whole.
func TestTakeSurvivesABadNetwork(t *testing.T) {
	t.Parallel()
	ctx := servertest.Context(t)
	primary := servertest.Start(t, server.RolePrimary)
	to := target(t, primary.Config.Binaries)
	if err := os.Mkdir(to.DataDir(), 0o700); err != nil {
		t.Fatal(err)
	}
	former := filepath.Join(to.DataDir(), "former")
	if err := os.WriteFile(former, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	// Single bytes at places spread over some 25 MB: in data files (the manifest tells), in headers, in the manifest itself.
	const step = 5_000_007
	damaged := 0
	for at := int64(50_000); at < 20_000_000; at += step {
		for _, p := range []*proxy{startProxy(t, primary.Address(), &proxy{flip: at}), startProxy(t, primary.Address(), &proxy{cut: at})} {
			o := options(primary, to)
			o.Source, o.StallTimeout = p.address, 3*time.Second // a changed length makes the target wait for bytes that never come
			_, err := basebackup.Take(ctx, o)
			if err == nil && p.cut != 0 {
				t.Errorf("a connection cut at byte %d went unnoticed", at)
			}
			if errors.Is(err, basebackup.ErrDamaged) {
				damaged++
			}
			if err == nil {
				t.Fatalf("the byte at %d was changed, and nobody noticed", at)
			}
			if _, err := os.Stat(former); err != nil {
				t.Fatalf("the former directory is gone after a failed copy: %v", err)
			}
		}
	}
	o := options(primary, to)
	o.Source, o.StallTimeout = startProxy(t, primary.Address(), &proxy{stall: 1 << 20}).address, 300*time.Millisecond
	if _, err := basebackup.Take(ctx, o); !errors.Is(err, basebackup.ErrStalled) || !strings.Contains(err.Error(), "the source has stalled: nothing has come for 300ms") {
		t.Errorf("a stalled source: got %v", err)
	}
	if damaged == 0 {
		t.Error("no damage was found by the manifest: the test proves nothing")
	}
	remains(t, to, "data", "data.run")
	if _, err := basebackup.Take(ctx, options(primary, to)); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(former); err == nil {
		t.Error("the former directory's content is still there")
	}
	remains(t, to, "data", "data.run")
}

// remains checks what lies beside the data directory.
func remains(t *testing.T, to *servertest.Server, want ...string) {
	t.Helper()
	entries, err := os.ReadDir(filepath.Dir(to.DataDir()))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, entry := range entries {
		names = append(names, entry.Name())
	}
	if strings.Join(names, " ") != strings.Join(want, " ") {
		t.Errorf("beside the data directory there are %v, want %v", names, want)
	}
}

func TestTakeCanBeCancelledAndLimited(t *testing.T) {
	t.Parallel()
	primary := servertest.Start(t, server.RolePrimary)
	primary.SQL(t, rows)
	to := target(t, primary.Config.Binaries)
	ctx, cancel := context.WithCancel(servertest.Context(t))
	o := options(primary, to)
	o.MaxRate = 2048
	began := time.Now()
	var rate float64
	o.OnProgress = func(p basebackup.Progress) {
		if p.Phase == "copy" && p.Done > 1<<20 {
			rate = float64(p.Done) / 1024 / time.Since(began).Seconds()
			cancel()
		}
	}
	_, err := basebackup.Take(ctx, o)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("want a cancellation, got %v", err)
	}
	if rate == 0 || rate > 2*2048 {
		t.Errorf("the rate was %.0f KiB/s, the limit is 2048", rate)
	}
	remains(t, to, "data.run")
}

func TestTakeRefuses(t *testing.T) {
	t.Parallel()
	ctx := servertest.Context(t)
	primary := servertest.Start(t, server.RolePrimary)
	to := target(t, primary.Config.Binaries)
	refuse := func(name string, change func(*basebackup.Options), is error, want string) {
		t.Helper()
		o := options(primary, to)
		change(&o)
		_, err := basebackup.Take(ctx, o)
		if err == nil || is != nil && !errors.Is(err, is) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: want %q, got %v", name, want, err)
		}
		if err != nil && strings.Contains(err.Error(), "canary-") {
			t.Errorf("%s: the password shows in %v", name, err)
		}
	}
	refuse("relative", func(o *basebackup.Options) { o.DataDir = "x" }, nil, `data directory: expected an absolute path, got "x"`)
	refuse("slot", func(o *basebackup.Options) { o.Slot = "A B" }, nil, `slot: expected 1 to 63 lower-case letters, digits and underscores, got "A B"`)
	refuse("label", func(o *basebackup.Options) { o.Label = "it's" }, nil, `label: expected letters, digits, spaces and _.:/-, at most 200, got "it's"`)
	refuse("rate", func(o *basebackup.Options) { o.MaxRate = 5 }, nil, "rate limit: expected 32 to 1048576 KiB/s, got 5")
	refuse("password", func(o *basebackup.Options) { o.Credential.Password = servertest.RewindPassword }, nil, "password authentication failed")
	refuse("role", func(o *basebackup.Options) {
		o.Credential = server.Credential{User: "regent_rewind", Password: servertest.RewindPassword}
	}, nil, "regent_rewind")
	refuse("unreachable", func(o *basebackup.Options) { o.Source.Port = 1 }, nil, "connection refused")
	refuse("cluster", func(o *basebackup.Options) { o.SystemIdentifier = 42 }, basebackup.ErrForeign, "expected 42")
	refuse("version", func(o *basebackup.Options) { o.Major = 99 }, basebackup.ErrForeign, "expected 99")
	space := servertest.Dir(t)
	if err := primary.Own(space); err != nil {
		t.Fatal(err)
	}
	primary.SQL(t, "CREATE TABLESPACE elsewhere LOCATION '"+space+"'")
	refuse("tablespaces", func(*basebackup.Options) {}, basebackup.ErrTablespaces,
		"tablespaces cannot be copied: "+space+" (oid ")
	remains(t, to, "data.run")
}

// A process that dies between the two renames leaves the former directory aside; the next copy puts it back first.
func TestTakeClearsWhatAnInterruptedOneLeft(t *testing.T) {
	t.Parallel()
	ctx := servertest.Context(t)
	primary := servertest.Start(t, server.RolePrimary)
	to := target(t, primary.Config.Binaries)
	parent := filepath.Dir(to.DataDir())
	for _, dir := range []string{".data.incoming-123", "data.outgoing"} {
		if err := os.Mkdir(filepath.Join(parent, dir), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	o := options(primary, to)
	o.SystemIdentifier = 42
	if _, err := basebackup.Take(ctx, o); !errors.Is(err, basebackup.ErrForeign) {
		t.Fatalf("got %v", err)
	}
	remains(t, to, "data", "data.run")
	o.SystemIdentifier = 0
	if _, err := basebackup.Take(ctx, o); err != nil {
		t.Fatal(err)
	}
	remains(t, to, "data", "data.run")
}
