package server

import (
	"errors"
	"log/slog"
	"os"
	"os/user"
	"path/filepath"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/regent-infra/regent/adapters/postgres/binary"
	"github.com/regent-infra/regent/internal/secret"
)

func valid(t *testing.T) Config {
	t.Helper()
	return Config{
		Binaries: binary.Set{Dir: "/usr/bin", Version: binary.Version{Major: 15, Minor: 1}}, DataDir: "/srv/data", ClusterName: "c1", Port: 5432,
	}.withDefaults()
}

func TestConfigReportsAllFaultsAtOnce(t *testing.T) {
	t.Parallel()
	if err := valid(t).Validate(); err != nil {
		t.Fatal(err)
	}
	c := Config{
		DataDir: "data", RunDir: "run", ClusterName: "a b", ListenHosts: []string{"example.org"},
		Superuser: Credential{User: "Bad"}, Replication: Credential{User: "same", Password: secret.New("line\nbreak")}, Rewind: Credential{User: "same"},
		Settings:    map[string]string{"port": "1", "9x": "1", "work_mem": "1\n2", "wal_level": "minimal"},
		ClientRules: []string{"host all"},
		Binaries:    binary.Set{Version: binary.Version{Major: 12, Minor: 3}},
	}
	err := c.withDefaults().Validate()
	if err == nil {
		t.Fatal("want faults")
	}
	for _, want := range []string{
		`DataDir: expected an absolute path, got "data"`, `RunDir: expected an absolute path, got "run"`,
		`ClusterName: expected 1 to 63 letters, digits or _./- and a letter, digit or _ first, got "a b"`,
		`Port: expected 1 to 65535, got 0`, `ListenHosts: expected IP addresses, localhost or *, got "example.org"`,
		`role "Bad": expected lower-case letters, digits and underscores, at most 63`,
		`role "same" is given twice: superuser, replication and rewind must differ`,
		`password of role "same": expected printable ASCII only, so that every client prepares it alike`,
		`setting port is owned by Regent (Config.Port)`, `setting "9x": expected a name of letters, digits and underscores`,
		`setting wal_level: expected replica or logical, got "minimal": standbys need them`,
		`setting work_mem: a line break or NUL cannot be written to a configuration file`,
		`ClientRules: expected a line of pg_hba.conf, got "host all"`,
		`unsupported PostgreSQL version 12.3: expected 13 to 18`,
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the error lacks %q:\n%v", want, err)
		}
	}
	c = valid(t)
	c.RunDir = "/srv/data/run"
	if err := c.Validate(); err == nil || !strings.Contains(err.Error(), "must not lie inside DataDir") {
		t.Errorf("RunDir inside DataDir: got %v", err)
	}
}

func TestResolveIdentity(t *testing.T) {
	t.Parallel()
	self, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	known := func(u user.User) func(string) (*user.User, error) {
		return func(name string) (*user.User, error) {
			if name != u.Username {
				return nil, user.UnknownUserError(name)
			}
			u.Username = self.Username // GroupIds asks the system
			return &u, nil
		}
	}
	for _, c := range []struct {
		name       string
		euid       int
		configured string
		lookup     func(string) (*user.User, error)
		want       string
		is         error
	}{
		{"root without the user", 0, "", known(user.User{}), `PostgreSQL cannot run as root: this process is root and the user "postgres" does not exist: create it or configure another one (user: …): user: unknown user postgres`, ErrRoot},
		{"root as root", 0, "root", known(user.User{Username: "root", Uid: "0", Gid: "0"}), `PostgreSQL cannot run as root: the configured user "root" is root: configure an unprivileged one (user: …)`, ErrRoot},
		{"odd ids", 0, "x", known(user.User{Username: "x", Uid: "S-1", Gid: "0"}), `run PostgreSQL as "x": expected numeric ids`, nil},
		{"not root", 12345, "postgres", nil, `run PostgreSQL as "postgres": this process is "12345" and only root can change user: start it as root or as "postgres"`, nil},
	} {
		_, err := resolveIdentity(c.euid, c.configured, c.lookup)
		if err == nil || !strings.Contains(err.Error(), c.want) || c.is != nil && !errors.Is(err, c.is) {
			t.Errorf("%s: want %q, got %v", c.name, c.want, err)
		}
	}
	id, err := resolveIdentity(12345, "", nil)
	if err != nil || id.drop || id.credential() != nil || id.uid != 12345 {
		t.Errorf("an unprivileged process: got %+v, %v", id, err)
	}
	id, err = resolveIdentity(0, "", known(user.User{Username: "postgres", Uid: "77", Gid: "78"}))
	if err != nil || !id.drop || id.credential().Uid != 77 || id.credential().Gid != 78 {
		t.Errorf("root: got %+v, %v", id, err)
	}
}

func TestCheckReach(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp("", "regent-reach-") //nolint:usetesting // what t.TempDir makes lies below a folder that is closed to others
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	closed := filepath.Join(dir, "closed")
	if err := errors.Join(os.Chmod(dir, 0o755), os.Mkdir(closed, 0o700)); err != nil { //nolint:gosec // the test's subject
		t.Fatal(err)
	}
	stranger := identity{name: "stranger", uid: 987654, gid: 987654, drop: true}
	want := `user "stranger" may not pass through ` + closed + ` (mode 0700), which lies above ` + closed + `/a/b: chmod o+x it or choose another place`
	if err := stranger.checkReach(closed + "/a/b"); err == nil || err.Error() != want {
		t.Errorf("want %q, got %v", want, err)
	}
	if err := stranger.checkReach(dir + "/a"); err != nil {
		t.Errorf("an open way: got %v", err)
	}
}

func TestSettingsComeBack(t *testing.T) {
	t.Parallel()
	c := valid(t)
	rapid.Check(t, func(t *rapid.T) {
		settings := rapid.MapOf(rapid.StringMatching(`[a-z_][a-z0-9_.]{0,5}x`).Filter(settingPattern.MatchString),
			rapid.StringOf(rapid.RuneFrom([]rune(`ab'\ "$=#	é`)))).Draw(t, "settings")
		back, err := parseSettings(c.renderSettings(settings))
		if err != nil || len(back) != len(settings) {
			t.Fatalf("%v comes back as %v, %v", settings, back, err)
		}
		for name, value := range settings {
			if back[name] != value {
				t.Fatalf("%s = %q comes back as %q", name, value, back[name])
			}
		}
	})
	for _, bad := range []string{"x", "x = y", "x = 'y", "1 = 'y'"} {
		if _, err := parseSettings([]byte(bad)); err == nil {
			t.Errorf("parseSettings(%q): want an error", bad)
		}
	}
}

func TestEnsureInclude(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"":                             "include 'regent.conf'\n",
		"a = 1\n":                      "a = 1\ninclude 'regent.conf'\n",
		"include 'regent.conf'\nb=2":   "b=2\ninclude 'regent.conf'\n",
		"a\ninclude 'regent.conf'\n":   "a\ninclude 'regent.conf'\n",
		" include 'regent.conf' \nc\n": "c\ninclude 'regent.conf'\n",
	} {
		got := ensureInclude(in)
		if got != want {
			t.Errorf("ensureInclude(%q): want %q, got %q", in, want, got)
		}
		if again := ensureInclude(got); again != got {
			t.Errorf("ensureInclude is not idempotent: %q becomes %q", got, again)
		}
	}
}

func TestStripAuto(t *testing.T) {
	t.Parallel()
	in := "# Do not edit\nprimary_conninfo = 'host=old'\nWork_Mem = '4MB'\nsynchronous_standby_names=''\nmax_wal_senders = '3'\n"
	got, removed := stripAuto(in, map[string]string{"max_wal_senders": "20"})
	if got != "# Do not edit\nWork_Mem = '4MB'\n" || strings.Join(removed, " ") != "max_wal_senders primary_conninfo synchronous_standby_names" {
		t.Errorf("got %q without %v", got, removed)
	}
}

func TestRenderHBA(t *testing.T) {
	t.Parallel()
	c := valid(t)
	c.ClientRules = []string{"hostssl app app 10.0.0.0/8 scram-sha-256"}
	open, cut := string(c.renderHBA(false)), string(c.renderHBA(true))
	always := "local all postgres trust\nlocal replication postgres trust\nhost replication regent_replication all scram-sha-256\nhost all regent_rewind all scram-sha-256\n"
	if !strings.Contains(open, always+c.ClientRules[0]+"\n") || strings.Contains(open, "reject") {
		t.Errorf("open: %s", open)
	}
	if !strings.Contains(cut, always) || strings.Contains(cut, "10.0.0.0") || !strings.HasSuffix(cut, "local all all reject\nhost all all all reject\n") {
		t.Errorf("cut: %s", cut)
	}
}

func TestParsePidFile(t *testing.T) {
	t.Parallel()
	whole := "1234\n/srv/data\n1700000000\n5432\n/run\n127.0.0.1\n   111   222\nready   \n"
	pf, err := parsePidFile(whole)
	if err != nil || pf != (pidFile{pid: 1234, shmID: 222, status: "ready"}) {
		t.Errorf("got %+v, %v", pf, err)
	}
	for n := range len(whole) { // it is written line by line
		if pf, err := parsePidFile(whole[:n]); err == nil && pf.status == "ready" && n < len(whole)-5 {
			t.Errorf("the first %d bytes say %+v", n, pf)
		}
	}
	if pf, err := parsePidFile("-99\n"); err != nil || pf.pid != 99 {
		t.Errorf("a single-user server: got %+v, %v", pf, err)
	}
	for text, want := range map[string]string{
		"":     "postmaster.pid is empty: the server was just starting, or its disk was full",
		"x\ny": `postmaster.pid: expected a process id in line 1, got "x"`,
	} {
		if _, err := parsePidFile(text); err == nil || err.Error() != want {
			t.Errorf("%q: want %q, got %v", text, want, err)
		}
	}
}

func TestKindOfProcess(t *testing.T) {
	t.Parallel()
	i := &Instance{config: valid(t)}
	for title, want := range map[string]kind{
		"/usr/lib/postgresql/15/bin/postgres -D /srv/data":                        kindNew,
		"postgres: c1: walreceiver streaming 0/3000148":                           kindReceiver,
		"postgres: c1: walreceiver":                                               kindReceiver,
		"postgres: walreceiver streaming 0/3000148":                               kindReceiver,
		"postgres: c1: startup recovering 000000010000000000000003":               kindStartup,
		"postgres: c1: walsender regent_replication 10.0.0.2(4321) streaming 0/3": kindSender,
		"postgres: c1: app orders 10.0.0.9(4711) idle":                            kindClient,
		"postgres: c1: walreceiver orders 10.0.0.9(4711) idle":                    kindClient, // a role of that name
		"postgres: c1: startup orders [local] SELECT":                             kindClient,
		"postgres: c1: app orders 10.0.0.9(4711) COMMIT waiting for 0/175E3A8":    kindClient,
		"postgres: c1: checkpointer":                                              kindAuxiliary,
		"postgres: c1: archiver last was 000000010000000000000003":                kindAuxiliary,
		"postgres: c1: autovacuum worker orders":                                  kindAuxiliary,
		"postgres: c1: logical replication apply worker for subscription 16400":   kindAuxiliary,
	} {
		if got := i.kind(process{pid: 5, title: title}); got != want {
			t.Errorf("%s: want %d, got %d", title, want, got)
		}
	}
	for title, want := range map[string]bool{
		"postgres: c1: postgres orders [local] idle": true, "postgres: c1: postgres orders 10.0.0.1(5) idle": false, "postgres: c1: app orders [local] idle": false,
	} {
		if got := i.isAgents(process{title: title}); got != want {
			t.Errorf("%s: want %t", title, want)
		}
	}
}

func TestScramVerifier(t *testing.T) {
	t.Parallel()
	// Made by PostgreSQL 15 for the password "pencil".
	const known = "SCRAM-SHA-256$4096:c2FsdHNhbHRzYWx0c2FsdA==$"
	made, err := scramVerifier(secret.New("pencil"), []byte("saltsaltsaltsalt"), 4096)
	if err != nil || !strings.HasPrefix(made, known) {
		t.Fatalf("got %q, %v", made, err)
	}
	if !scramMatches(secret.New("pencil"), made) || scramMatches(secret.New("pencil2"), made) {
		t.Error("a verifier must match its own password alone")
	}
	for _, bad := range []string{"", "md5abc", "SCRAM-SHA-256$", "SCRAM-SHA-256$x:y$z:w", "SCRAM-SHA-256$99999999999:AA==$x:y", "SCRAM-SHA-256$1:!!$x:y"} {
		if scramMatches(secret.New("pencil"), bad) {
			t.Errorf("%q matches", bad)
		}
	}
}

func TestLogLines(t *testing.T) {
	t.Parallel()
	for line, want := range map[string]logLine{
		"2026-11-23 05:02:37.257 UTC [2036] LOG:  starting":                                {slog.LevelInfo, "2036", "LOG:  starting"},
		"2026-11-23 05:02:37.257 UTC [2036] app@db FATAL:  no":                             {slog.LevelWarn, "2036", "app@db FATAL:  no"},
		"2026-11-23 05:02:37.257 UTC [9] LOG:  waiting for WAL to become available at 0/1": {slog.LevelDebug, "9", "LOG:  waiting for WAL to become available at 0/1"},
		"\tthis goes on [1] ": {slog.LevelInfo, "", "\tthis goes on [1] "},
	} {
		if got := parseLogLine(line); got != want {
			t.Errorf("%q: want %+v, got %+v", line, want, got)
		}
	}
	lines := []string{"LOG:  a", "x FATAL:  could not bind", "y HINT:  Is another", "LOG:  shut down"}
	if got := complaints(lines); got != "FATAL:  could not bind; HINT:  Is another" {
		t.Errorf("complaints: got %q", got)
	}
	if got := complaints([]string{"a", "b", "c", "d"}); got != "b; c; d" {
		t.Errorf("without complaints the last lines speak: got %q", got)
	}
}

func TestConninfoQuoting(t *testing.T) {
	t.Parallel()
	if got := conninfo([2]string{"host", "a"}, [2]string{"passfile", `/a'b\c`}); got != `host='a' passfile='/a\'b\\c'` {
		t.Errorf("got %s", got)
	}
	if got := passLine(Address{Host: "::1", Port: 5432}, "replication", Credential{User: "u", Password: secret.New(`a:b\c`)}); got != `\:\:1:5432:replication:u:a\:b\\c`+"\n" {
		t.Errorf("got %s", got)
	}
	for _, bad := range []Address{{}, {Host: "a"}, {Host: "a b", Port: 1}, {Host: "a,b", Port: 1}, {Host: "a'b", Port: 1}} {
		if bad.validate() == nil {
			t.Errorf("address %+v: want it refused", bad)
		}
	}
}

func FuzzParsePidFile(f *testing.F) {
	f.Add("1234\n/srv/data\n1700000000\n5432\n/run\n127.0.0.1\n   111   222\nready   \n")
	f.Fuzz(func(t *testing.T, text string) {
		if pf, err := parsePidFile(text); err == nil && pf.pid < 0 {
			t.Fatalf("accepted %+v", pf)
		}
	})
}
