// Package servertest gives tests real PostgreSQL servers, quickly.
//
// initdb costs seconds, so it runs once per test binary; every server starts from a copy of that data directory. A standby is
// another copy that streams from its primary: both have one system identifier and one past. Everything dies with the test.
//
//	func TestMain(m *testing.M) { servertest.Main(m) }
//
//	primary := servertest.Start(t, server.RolePrimary)
//	standby := servertest.Follow(t, primary, "s1")
package servertest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"go.uber.org/goleak"

	"github.com/regent-infra/regent/adapters/postgres/binary"
	"github.com/regent-infra/regent/adapters/postgres/server"
	"github.com/regent-infra/regent/internal/clock"
	"github.com/regent-infra/regent/internal/freeport"
	"github.com/regent-infra/regent/internal/secret"
)

// Timeout bounds whatever a test waits for. It is generous: machines that run tests are busy.
const Timeout = 60 * time.Second

// Passwords of the roles; canaries, because no log may ever show them.
var (
	SuperuserPassword   = secret.New("canary-superuser-5d1f")
	ReplicationPassword = secret.New("canary-replication-88b2")
	RewindPassword      = secret.New("canary-rewind-c07e")
)

var (
	base     string
	template = sync.OnceValues(makeTemplate)
	counter  atomic.Int64
)

// Main runs the tests of a package, then removes the template and looks for leaked goroutines. It exits the process.
func Main(m *testing.M) {
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = max(code, 1)
	}
	os.Exit(code)
}

func run(m *testing.M) (code int, err error) {
	// Not t.TempDir: an unprivileged PostgreSQL must get through, and socket paths must be short.
	if base, err = os.MkdirTemp("", "regent-pg-"); err != nil {
		return 1, fmt.Errorf("make the tests' folder: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(base)) }()
	if err := os.Chmod(base, 0o755); err != nil { //nolint:gosec // see above
		return 1, fmt.Errorf("open the tests' folder: %w", err)
	}
	code = m.Run()
	if code == 0 {
		err = goleak.Find()
	}
	return code, err
}

// BinariesVariable names the environment variable that gives the folder of the programs to test with, to run the tests on
// another version than the installed one.
const BinariesVariable = "REGENT_TEST_POSTGRES"

// Binaries returns the installed PostgreSQL, or fetches one.
func Binaries(ctx context.Context) (binary.Set, error) {
	return binary.Locate(ctx, binary.FindOptions{Dir: os.Getenv(BinariesVariable)}, &binary.FetchOptions{})
}

// Dir returns a new folder that PostgreSQL's user can reach; it is removed with the test.
func Dir(t testing.TB) string {
	t.Helper()
	dir := filepath.Join(base, strconv.FormatInt(counter.Add(1), 10))
	if err := os.Mkdir(dir, 0o755); err != nil { //nolint:gosec // see run
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Errorf("remove %s: %v", dir, err)
		}
	})
	return dir
}

// Config returns a configuration for a new server in a folder of its own.
func Config(t testing.TB, set binary.Set) server.Config {
	t.Helper()
	return config(set, Dir(t), Port(t), slog.New(slog.NewTextHandler(t.Output(), nil)))
}

func config(set binary.Set, dir string, port uint16, logger *slog.Logger) server.Config {
	return server.Config{
		Binaries: set, DataDir: filepath.Join(dir, "data"), ClusterName: "test-" + filepath.Base(dir), Port: port,
		Superuser: server.Credential{Password: SuperuserPassword}, Replication: server.Credential{Password: ReplicationPassword},
		Rewind: server.Credential{Password: RewindPassword},
		Settings: map[string]string{
			"fsync": "off", "shared_buffers": "16MB", "max_connections": "40", "wal_keep_size": "64MB", "max_wal_size": "128MB",
			"min_wal_size": "32MB",
		},
		Logger: logger, Clock: clock.System{},
	}
}

// Port returns a port that was free a moment ago.
func Port(t testing.TB) uint16 {
	t.Helper()
	port, err := freePort()
	if err != nil {
		t.Fatal(err)
	}
	return port
}

func freePort() (uint16, error) {
	ports, err := freeport.Find(1)
	if err != nil {
		return 0, err
	}
	return uint16(ports[0]), nil //nolint:gosec // ports have 16 bits
}

// templated is a cluster that was initialised and shut down.
type templated struct {
	set     binary.Set
	dataDir string
}

func makeTemplate() (templated, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	set, err := Binaries(ctx)
	if err != nil {
		return templated{}, err
	}
	dir := filepath.Join(base, "template")
	if err := os.Mkdir(dir, 0o755); err != nil { //nolint:gosec // see run
		return templated{}, err
	}
	port, err := freePort()
	if err != nil {
		return templated{}, err
	}
	instance, err := server.Open(config(set, dir, port, slog.New(slog.DiscardHandler)))
	if err != nil {
		return templated{}, err
	}
	err = errors.Join(instance.Init(ctx, server.InitOptions{Fast: true}), instance.Close())
	return templated{set: set, dataDir: instance.DataDir()}, err
}

// Server is a server of a test.
type Server struct {
	*server.Instance
	// Config is what it was opened with.
	Config server.Config
}

// Address is where it listens.
func (s *Server) Address() server.Address {
	return server.Address{Host: "127.0.0.1", Port: s.Port()}
}

// New opens a stopped server on a copy of the template. change, if not nil, adapts its configuration.
func New(t testing.TB, change func(*server.Config)) *Server {
	t.Helper()
	origin, err := template()
	if err != nil {
		t.Fatalf("make the template: %v", err)
	}
	c := Config(t, origin.set)
	if change != nil {
		change(&c)
	}
	return Open(t, c, func(i *server.Instance) {
		if err := copyTree(origin.dataDir, i.DataDir(), i.Own); err != nil {
			t.Fatalf("copy the template: %v", err)
		}
	})
}

// Detached makes a data directory from the template that nobody holds, and returns its configuration: for tests that hand it to
// another process. What that leaves behind is the test's to clear.
func Detached(t testing.TB) server.Config {
	t.Helper()
	origin, err := template()
	if err != nil {
		t.Fatalf("make the template: %v", err)
	}
	c := Config(t, origin.set)
	instance, err := server.Open(c)
	if err != nil {
		t.Fatal(err)
	}
	err = copyTree(origin.dataDir, instance.DataDir(), instance.Own)
	if err := errors.Join(err, instance.Close()); err != nil {
		t.Fatalf("copy the template: %v", err)
	}
	c.DataDir, c.RunDir = instance.DataDir(), instance.DataDir()+".run"
	return c
}

// Open opens an instance that is killed and closed with the test. fill, if not nil, provides the data directory.
func Open(t testing.TB, c server.Config, fill func(*server.Instance)) *Server {
	t.Helper()
	instance, err := server.Open(c)
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{Instance: instance, Config: c}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), Timeout)
		defer cancel()
		if _, err := s.Stop(ctx, server.StopOptions{Mode: server.ModeKill}); err != nil {
			t.Errorf("stop: %v", err)
		}
		if _, err := s.ClearLeftovers(ctx); err != nil {
			t.Errorf("clear: %v", err)
		}
		if err := s.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	if fill != nil {
		fill(instance)
	}
	return s
}

// Start opens and starts a server.
func Start(t testing.TB, role server.Role) *Server {
	t.Helper()
	s := New(t, nil)
	if err := s.Start(Context(t), server.StartOptions{Role: role}); err != nil {
		t.Fatal(err)
	}
	return s
}

// Follow starts a standby that streams from primary through a slot of its own name.
func Follow(t testing.TB, primary *Server, name string) *Server {
	t.Helper()
	return FollowWith(t, primary, name, nil)
}

// FollowWith is [Follow] with a configuration that change adapts.
func FollowWith(t testing.TB, primary *Server, name string, change func(*server.Config)) *Server {
	t.Helper()
	ctx := Context(t)
	if err := primary.CreateSlot(ctx, name); err != nil {
		t.Fatal(err)
	}
	s := New(t, change)
	o := server.FollowOptions{Upstream: primary.Address(), Slot: name, ApplicationName: name}
	if err := s.FollowUpstream(ctx, o); err != nil {
		t.Fatal(err)
	}
	if err := s.Start(ctx, server.StartOptions{Role: server.RoleStandby}); err != nil {
		t.Fatal(err)
	}
	if err := s.AwaitStreaming(ctx, primary.Address()); err != nil {
		t.Fatal(err)
	}
	return s
}

// Context ends with the test, or after [Timeout].
func Context(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), Timeout)
	t.Cleanup(cancel)
	return ctx
}

// Connect opens a session as superuser over the private socket, closed with the test.
func (s *Server) Connect(t testing.TB) *pgconn.PgConn {
	t.Helper()
	conn, err := s.connect(Context(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { hangUp(conn) })
	return conn
}

func (s *Server) connect(ctx context.Context) (*pgconn.PgConn, error) {
	c, err := s.ConnConfig()
	if err != nil {
		return nil, err
	}
	c.RuntimeParams = map[string]string{"application_name": "test"}
	return pgconn.ConnectConfig(ctx, c)
}

func hangUp(conn *pgconn.PgConn) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = conn.Close(ctx) // the server may be gone
}

// SQL runs statements on a session of their own and returns the last one's first value.
func (s *Server) SQL(t testing.TB, sql string) string {
	t.Helper()
	conn, err := s.connect(Context(t))
	if err != nil {
		t.Fatal(err)
	}
	defer hangUp(conn)
	value, err := Query(Context(t), conn, sql)
	if err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return value
}

// Query runs statements and returns the last one's first value.
func Query(ctx context.Context, conn *pgconn.PgConn, sql string) (string, error) {
	results, err := conn.Exec(ctx, sql).ReadAll()
	if err != nil || len(results) == 0 {
		return "", err
	}
	last := results[len(results)-1]
	if len(last.Rows) == 0 || len(last.Rows[0]) == 0 {
		return "", nil
	}
	return string(last.Rows[0][0]), nil
}

// Await polls until done, or fails the test after [Timeout].
func Await(t testing.TB, what string, done func() bool) {
	t.Helper()
	ctx := Context(t)
	for !done() {
		if err := clock.Wait(ctx, clock.System{}, 2*time.Millisecond); err != nil {
			t.Fatalf("%s: did not happen: %v", what, err)
		}
	}
}

// copyTree copies a data directory and gives it to its user. Regent's own settings are left out: they are the template's.
func copyTree(from, to string, own func(string) error) error {
	return filepath.WalkDir(from, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		relative, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		target := filepath.Join(to, relative)
		switch {
		case entry.IsDir():
			if err := os.Mkdir(target, 0o700); err != nil {
				return err
			}
		case relative == "regent.conf" || relative == "postmaster.opts":
			return nil
		default:
			content, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			if err := os.WriteFile(target, content, 0o600); err != nil {
				return err
			}
		}
		return own(target)
	})
}
