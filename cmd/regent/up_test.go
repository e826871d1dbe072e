package main

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/regent-infra/regent/internal/event"
)

func httpClient(t *testing.T) *http.Client {
	t.Helper()
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	t.Cleanup(http.DefaultTransport.(*http.Transport).CloseIdleConnections)
	return &http.Client{Transport: transport}
}

// A control plane as a real process: commands are answered, it comes back after kill -9 where it was, and it stops when asked.
func TestUpAnswersCommandsAndSurvivesKill9(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "plane")
	p, server := up(t, dir)

	id := event.NewID()
	r := cli(t, server, exitRefused, "command", "CheckHealth", "postgres/nowhere", "--id", id, "--payload", "{timeout_ms: 1000}")
	if !strings.HasPrefix(r.stdout, "command "+id+"\n") || !strings.Contains(r.stderr, "UNKNOWN_CLUSTER") {
		t.Errorf("got %s%s", r.stdout, r.stderr)
	}
	r = cli(t, server, exitRefused, "switchover", "postgres/nowhere", "-o", "json")
	var first struct {
		Event string `json:"event"`
		ID    string `json:"command_id"`
	}
	line, _, _ := strings.Cut(r.stdout, "\n")
	if err := json.Unmarshal([]byte(line), &first); err != nil || first.Event != "command" || !event.ValidID(first.ID) {
		t.Errorf("the first line is %q: %v", line, err)
	}
	expired := filepath.Join(t.TempDir(), "expired.yaml")
	if err := os.WriteFile(expired, []byte("type: StartCluster\ncluster: postgres/nowhere\npayload: {meta: {expires_at: 2001-01-01T00:00:00Z}}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if r := cli(t, server, exitRefused, "command", "-f", expired); !strings.Contains(r.stderr, "EXPIRED") {
		t.Errorf("got %s", r.stderr)
	}
	r = cli(t, server, exitDone, "explain", id)
	for _, want := range []string{"CheckHealth", "CommandRejected", "commands.postgres/", "outcomes.postgres/"} {
		if !strings.Contains(r.stdout, want) {
			t.Errorf("explain does not say %s: %s", want, r.stdout)
		}
	}
	if r := cli(t, server, exitDone, "events", "--topic", "outcomes", "--from", "earliest", "--follow=false", "-o", "json"); strings.Count(r.stdout, "CommandRejected") < 3 {
		t.Errorf("the outcomes are %s", r.stdout)
	}
	cli(t, server, exitFailed, "explain", event.NewID())
	cli(t, server, exitFailed, "explain", "postgres/elsewhere")
	cli(t, server, exitDone, "topics", "diff")
	if r := cli(t, server, exitDone, "doctor"); !strings.Contains(r.stdout, "agree with the declaration") {
		t.Errorf("got %s", r.stdout)
	}
	cli(t, server, exitDone, "rebuild", "--verify")

	p.kill()
	cli(t, server, exitUnreachable, "status")
	p, server = up(t, dir)
	if r := cli(t, server, exitDone, "explain", id); !strings.Contains(r.stdout, "CommandRejected") {
		t.Errorf("after kill -9, explain says %s", r.stdout)
	}
	cli(t, server, exitDone, "rebuild", "--verify")
	if code := p.end(); code != exitDone {
		t.Errorf("a graceful stop ended with %d:\n%s", code, p.log.String())
	}
}

// A data directory belongs to one process, one cluster, one version.
func TestUpRefusesADirectoryThatIsNotItsOwn(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "plane")
	p, _ := up(t, dir)
	refused := func(code int, want []string, more ...string) {
		t.Helper()
		second := launch(t, append([]string{
			"up", "--data-dir", dir, "--http-listen", "127.0.0.1:0", "--broker-listen", "127.0.0.1:0", "--registry-listen", "127.0.0.1:0", "--log-level", "error",
		}, more...)...)
		if got := second.exit(); got != code {
			t.Errorf("exit %d, want %d: %s", got, code, second.log.String())
		}
		for _, text := range want {
			if !strings.Contains(second.log.String(), text) {
				t.Errorf("missing %q in %s", text, second.log.String())
			}
		}
	}
	refused(exitFailed, []string{"data directory is in use by process", "--data-dir names another"})
	if code := p.end(); code != exitDone {
		t.Fatalf("exit %d", code)
	}
	refused(exitFailed, []string{"data directory belongs to another cluster", "correct the cluster id"}, "--cluster-id", "AAAAAAAAAAAAAAAAAAAAAA")

	identity := filepath.Join(dir, embeddedDir, "regent-embedded.json")
	raw, err := os.ReadFile(identity)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(identity, []byte(strings.Replace(string(raw), `"format":1`, `"format":99`, 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	refused(exitFailed, []string{"data directory has another format version", "it has 99, this binary expects 1"})
	if err := os.WriteFile(identity, raw, 0o600); err != nil {
		t.Fatal(err)
	}

	active := filepath.Join(dir, storeDir, "ACTIVE")
	raw, err = os.ReadFile(active)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(active, []byte(strings.Replace(string(raw), "regent-store 1", "regent-store 99", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	refused(exitFailed, []string{"another format version"})
}

func TestUpSaysWhenItMayNotWriteItsDirectory(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	r := regent(t, "", "up", "--data-dir", filepath.Join(file, "below"), "--http-listen", "127.0.0.1:0", "--log-level", "error")
	if r.code != exitFailed || !strings.Contains(r.stderr, "make the data directory") || !strings.Contains(r.stderr, "--data-dir") {
		t.Errorf("exit %d: %s", r.code, r.stderr)
	}
}

// The embedded registry asks for the password that registry_auth names, and the processors and commands bring it.
func TestUpsRegistryAsksForThePassword(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	password := event.NewID()
	file := filepath.Join(dir, "password")
	if err := os.WriteFile(file, []byte(password+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	config := filepath.Join(dir, "regent.yaml")
	if err := os.WriteFile(config, []byte("registry_auth: {user: programs, password_file: "+file+"}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	p, server := up(t, filepath.Join(dir, "plane"), "--config", config)
	for _, c := range []struct {
		user, password, path string
		status               int
	}{
		{"", "", "/subjects", http.StatusUnauthorized},
		{"programs", "wrong", "/subjects", http.StatusUnauthorized},
		{"other", password, "/subjects", http.StatusUnauthorized},
		{"programs", password, "/subjects", http.StatusOK},
		{"", "", "/", http.StatusOK},
	} {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, p.logged("embedded broker and registry are up", "registry")+c.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		request.SetBasicAuth(c.user, c.password)
		answer, err := httpClient(t).Do(request)
		if err != nil {
			t.Fatal(err)
		}
		if _ = answer.Body.Close(); answer.StatusCode != c.status {
			t.Errorf("%s as %q: %s, want %d", c.path, c.user, answer.Status, c.status)
		}
	}
	cli(t, server, exitDone, "topics", "diff", "--config", config)
	if r := cli(t, server, exitUnreachable, "topics", "diff"); !strings.Contains(r.stderr, "401") {
		t.Errorf("without the password: %s", r.stderr)
	}
}

func TestARegistryRefusesHalfOfItsCredentials(t *testing.T) {
	t.Parallel()
	for name, auth := range map[string]string{
		"user programs of the schema registry has no password": "{user: programs}",
		"the schema registry has a password but no user":       "{password: secret-word}",
	} {
		for _, args := range [][]string{
			{"up", "--data-dir", t.TempDir(), "--http-listen", "127.0.0.1:0", "--broker-listen", "127.0.0.1:0", "--registry-listen", "127.0.0.1:0"},
			{"server", "--roles", "registry", "--brokers", "127.0.0.1:1", "--registry-listen", "127.0.0.1:0"},
		} {
			config := filepath.Join(t.TempDir(), "regent.yaml")
			if err := os.WriteFile(config, []byte("registry_auth: "+auth+"\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			r := regent(t, "", append(args, "--config", config)...)
			if r.code != exitUsage || !strings.Contains(r.stderr, name) || strings.Contains(r.stderr, "secret-word") {
				t.Errorf("%s with %s: exit %d: %s", args[0], auth, r.code, r.stderr)
			}
		}
	}
}
