package server_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/regent-infra/regent/adapters/postgres/binary"
	"github.com/regent-infra/regent/adapters/postgres/server"
	"github.com/regent-infra/regent/adapters/postgres/servertest"
	"github.com/regent-infra/regent/internal/secret"
)

func wantError(t *testing.T, what string, err, is error, text string) {
	t.Helper()
	if err == nil || is != nil && !errors.Is(err, is) || !strings.Contains(err.Error(), text) {
		t.Errorf("%s: want an error with %q, got %v", what, text, err)
	}
}

func TestStartSaysWhyItFailed(t *testing.T) {
	t.Parallel()
	ctx := servertest.Context(t)
	primary := server.StartOptions{Role: server.RolePrimary}
	taken, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = taken.Close() }()
	port := taken.Addr().(*net.TCPAddr).Port //nolint:forcetypeassert // it listens on TCP
	s := servertest.New(t, func(c *server.Config) { c.Port = uint16(port) })
	wantError(t, "port taken", s.Start(ctx, primary), nil, "Address already in use")

	s = servertest.New(t, func(c *server.Config) { c.Settings["shared_buffers"] = "many" })
	wantError(t, "bad setting", s.Start(ctx, primary), nil, `FATAL:  configuration file`)
	s = servertest.New(t, func(c *server.Config) { c.Settings["no_such_setting"] = "1" })
	wantError(t, "unknown setting", s.Start(ctx, primary), nil, `FATAL:  configuration file`)
	if s.Running() || s.PID() != 0 || len(processesIn(t, s.DataDir())) != 0 {
		t.Error("a failed start must leave nothing")
	}

	s = servertest.Open(t, servertest.Config(t, s.Config.Binaries), nil)
	wantError(t, "no data directory", s.Start(ctx, primary), server.ErrEmpty, "initialise it, or copy one from the primary")
	if _, err := s.Wait(ctx); !errors.Is(err, server.ErrNotRunning) {
		t.Errorf("wait without a start: got %v", err)
	}

	s = servertest.New(t, func(c *server.Config) { c.SystemIdentifier = 42 })
	wantError(t, "another cluster", s.Start(ctx, primary), server.ErrForeign, "expected 42: it was initialised separately")

	s = servertest.New(t, nil)
	if err := os.WriteFile(filepath.Join(s.DataDir(), "PG_VERSION"), []byte("12\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	wantError(t, "another version", s.Start(ctx, primary), server.ErrForeign, "is of PostgreSQL 12, the programs in")

	s = servertest.New(t, nil)
	if err := os.Remove(filepath.Join(s.DataDir(), "global", "pg_control")); err != nil {
		t.Fatal(err)
	}
	wantError(t, "no control file", s.Start(ctx, primary), os.ErrNotExist, "read control file")
	wantError(t, "no role", servertest.New(t, nil).Start(ctx, server.StartOptions{}), nil, "expected a role, got Role(0)")
}

func TestOpenRefusesWhatItCannotRun(t *testing.T) {
	t.Parallel()
	set, err := servertest.Binaries(servertest.Context(t))
	if err != nil {
		t.Fatal(err)
	}
	c := servertest.Config(t, set)
	c.User = "no-such-user"
	_, err = server.Open(c)
	if os.Geteuid() == 0 {
		wantError(t, "root without a user", err, server.ErrRoot, `this process is root and the user "no-such-user" does not exist`)
		c.User = "root"
		_, err = server.Open(c)
		wantError(t, "root", err, server.ErrRoot, `the configured user "root" is root`)
	} else {
		wantError(t, "another user", err, nil, "only root can change user")
	}
	c = servertest.Config(t, binary.Set{Dir: set.Dir, Version: binary.Version{Major: 19, Minor: 1}})
	_, err = server.Open(c)
	wantError(t, "unsupported version", err, binary.ErrUnsupported, "unsupported PostgreSQL version 19.1: expected 13 to 18")
	c = servertest.Config(t, binary.Set{Dir: set.Dir, Version: set.Version})
	s := servertest.Open(t, c, nil)
	wantError(t, "missing program", s.Init(servertest.Context(t), server.InitOptions{}), binary.ErrNoTool, "initdb is not in")
}

func TestInit(t *testing.T) {
	t.Parallel()
	ctx := servertest.Context(t)
	set, err := servertest.Binaries(ctx)
	if err != nil {
		t.Fatal(err)
	}
	s := servertest.Open(t, servertest.Config(t, set), nil)
	if s.Initialized() {
		t.Fatal("nothing is there yet")
	}
	wantError(t, "segment size", s.Init(ctx, server.InitOptions{SegmentSize: 5}), nil, "expected a power of two between 1 MiB and 1 GiB")
	wantError(t, "unknown locale", s.Init(ctx, server.InitOptions{Locale: "xx_NO.such", Fast: true}), nil, "run initdb: exit status 1: ")
	if entries, err := os.ReadDir(s.DataDir()); err != nil || len(entries) != 0 {
		t.Errorf("a failed initdb has left %v, %v", entries, err)
	}
	if err := s.Init(ctx, server.InitOptions{Fast: true}); err != nil {
		t.Fatal(err)
	}
	wantError(t, "twice", s.Init(ctx, server.InitOptions{}), server.ErrForeign, "the folder is not empty")
	data, err := s.Control()
	if err != nil || !data.DataChecksums || !data.CleanShutdown() {
		t.Errorf("after Init: %+v, %v", data, err)
	}
	if err := s.Start(ctx, server.StartOptions{Role: server.RolePrimary}); err != nil {
		t.Fatal(err)
	}
	// Over TCP everybody proves who they are.
	connect := func(user string, password secret.Value) error {
		conn, err := pgconn.Connect(ctx, fmt.Sprintf("postgres://%s:%s@127.0.0.1:%d/postgres?sslmode=disable", user, password.Reveal(), s.Port()))
		if err == nil {
			err = conn.Close(ctx)
		}
		return err
	}
	for user, password := range map[string]secret.Value{
		"postgres": servertest.SuperuserPassword, "regent_replication": servertest.ReplicationPassword, "regent_rewind": servertest.RewindPassword,
	} {
		if err := connect(user, password); err != nil {
			t.Errorf("%s: %v", user, err)
		}
		wantError(t, user, connect(user, secret.New("wrong")), nil, "password authentication failed")
	}
	info, err := os.Stat(s.SocketDir())
	if err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the socket's folder must be private: %v, %v", info, err)
	}
	if err := s.EnsureRoles(ctx); err != nil {
		t.Error(err)
	}
}

// lockedBuffer collects what concurrent loggers write.
type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// Passwords appear in no log, not even in one that PostgreSQL writes, nor in any file but the passfile.
func TestSecretsStaySecret(t *testing.T) {
	t.Parallel()
	ctx := servertest.Context(t)
	var log lockedBuffer
	s := servertest.New(t, func(c *server.Config) {
		c.Logger = slog.New(slog.NewJSONHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
		c.Settings["log_statement"], c.Settings["log_min_duration_statement"] = "all", "0"
	})
	if err := s.Start(ctx, server.StartOptions{Role: server.RolePrimary}); err != nil {
		t.Fatal(err)
	}
	s.SQL(t, "ALTER ROLE regent_rewind PASSWORD 'something else'")
	if err := s.EnsureRoles(ctx); err != nil {
		t.Fatal(err)
	}
	s.SQL(t, "SELECT '"+servertest.SuperuserPassword.Reveal()+"'") // a person who types it into a statement
	if err := s.FollowUpstream(ctx, server.FollowOptions{Upstream: s.Address(), ApplicationName: "self"}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Stop(ctx, server.StopOptions{}); err != nil {
		t.Fatal(err)
	}
	exit, err := s.Wait(ctx)
	if err != nil {
		t.Fatal(err)
	}
	texts := map[string]string{"log": log.String(), "exit": fmt.Sprintf("%+v", exit), "config": fmt.Sprintf("%+v", s.Config)}
	for _, name := range []string{"regent.conf", "postgresql.conf", "pg_hba.conf", "postgresql.auto.conf"} {
		content, err := os.ReadFile(filepath.Join(s.DataDir(), name))
		if err != nil {
			t.Fatal(err)
		}
		texts[name] = string(content)
	}
	for where, text := range texts {
		if strings.Contains(text, "canary-") {
			t.Errorf("a password shows in %s:\n%s", where, text[max(0, strings.Index(text, "canary-")-200):])
		}
	}
	if !strings.Contains(texts["log"], secret.Mask) || !strings.Contains(texts["log"], "SELECT") {
		t.Error("the statements were not logged at all: the test proves nothing")
	}
	content, err := os.ReadFile(filepath.Join(s.SocketDir(), "passfile"))
	if err != nil || !strings.Contains(string(content), servertest.ReplicationPassword.Reveal()) {
		t.Errorf("the passfile must hold the replication password: %v", err)
	}
	info, err := os.Stat(filepath.Join(s.SocketDir(), "passfile"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the passfile's mode is %v, %v", info, err)
	}
}

func TestConfigure(t *testing.T) {
	t.Parallel()
	ctx := servertest.Context(t)
	s := servertest.Start(t, server.RolePrimary)
	settings := func(changes map[string]string) map[string]string {
		all := map[string]string{}
		for name, value := range s.Config.Settings {
			all[name] = value
		}
		for name, value := range changes {
			all[name] = value
		}
		return all
	}
	applied, err := s.Configure(ctx, settings(map[string]string{"work_mem": "7MB"}))
	if err != nil || !applied.Reloaded || len(applied.PendingRestart) != 0 || s.SQL(t, "SHOW work_mem") != "7MB" {
		t.Errorf("reloadable: got %+v, %v", applied, err)
	}
	applied, err = s.Configure(ctx, settings(map[string]string{"max_connections": "55"}))
	if err != nil || strings.Join(applied.PendingRestart, " ") != "max_connections" || s.SQL(t, "SHOW work_mem") == "7MB" {
		t.Errorf("needs a restart: got %+v, %v", applied, err)
	}
	_, err = s.Configure(ctx, settings(map[string]string{"work_mem": "much"}))
	wantError(t, "a bad value", err, server.ErrSetting, "PostgreSQL refuses the setting work_mem = 'much': setting could not be applied")
	_, err = s.Configure(ctx, settings(map[string]string{"listen_addresses": "*"}))
	wantError(t, "an owned setting", err, nil, "setting listen_addresses is owned by Regent (Config.ListenHosts)")
	// The refused value is gone again, the one before it is still there.
	if _, err := s.Restart(ctx, server.StopOptions{}, server.StartOptions{Role: server.RolePrimary}); err != nil {
		t.Fatal(err)
	}
	if got := s.SQL(t, "SHOW max_connections"); got != "55" {
		t.Errorf("max_connections is %s, want 55", got)
	}
	// Nobody overrides Regent's settings behind its back.
	if s.Config.Binaries.Version.Major < 17 {
		s.SQL(t, "ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
		s.SQL(t, "ALTER SYSTEM SET autovacuum_naptime = '77s'")
	}
	if _, err := s.Reload(ctx); err != nil {
		t.Fatal(err)
	}
	if got := s.SQL(t, "SHOW synchronous_standby_names"); got != "" {
		t.Errorf("synchronous_standby_names is %q: ALTER SYSTEM has won", got)
	}
	if got := s.SQL(t, "SHOW autovacuum_naptime"); s.Config.Binaries.Version.Major < 17 && got != "77s" {
		t.Errorf("autovacuum_naptime is %q: a setting that Regent does not own was lost", got)
	}
	if _, err := s.SetSynchronous(ctx, "ANY 1 (a, b)"); err != nil {
		t.Fatal(err)
	}
	// It survives the agent.
	if _, err := s.Stop(ctx, server.StopOptions{}); err != nil {
		t.Fatal(err)
	}
	if got := s.Settings()["synchronous_standby_names"]; got != "ANY 1 (a, b)" {
		t.Errorf("Settings has synchronous_standby_names %q", got)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := server.Open(s.Config)
	if err != nil {
		t.Fatal(err)
	}
	if got := again.Settings()["synchronous_standby_names"]; got != "ANY 1 (a, b)" {
		t.Errorf("after a new Open it is %q", got)
	}
	if err := again.Close(); err != nil {
		t.Fatal(err)
	}
	s.Instance, err = server.Open(s.Config)
	if err != nil {
		t.Fatal(err)
	}
}

// A long recovery goes on when the caller's patience ends, and says how far it is.
func TestStartReportsRecovery(t *testing.T) {
	t.Parallel()
	s := servertest.Start(t, server.RolePrimary)
	if _, err := s.Stop(servertest.Context(t), server.StopOptions{}); err != nil {
		t.Fatal(err)
	}
	// A standby that waits for WAL which nobody has is never consistent.
	label := "START WAL LOCATION: 0/7000028 (file 000000010000000000000007)\nCHECKPOINT LOCATION: 0/7000060\nBACKUP METHOD: streamed\nBACKUP FROM: primary\nSTART TIMELINE: 1\n"
	path := filepath.Join(s.DataDir(), "backup_label")
	if err := errors.Join(os.WriteFile(path, []byte(label), 0o600), s.Own(path)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	var seen []server.Recovery
	err := s.Start(ctx, server.StartOptions{Role: server.RoleStandby, OnProgress: func(r server.Recovery) { seen = append(seen, r) }})
	wantError(t, "not ready", err, server.ErrNotReady, "the server is not ready yet after")
	if !s.Running() || len(seen) == 0 || seen[0].Elapsed <= 0 {
		t.Errorf("the server must go on (%t) and progress be told: %+v", s.Running(), seen)
	}
}
