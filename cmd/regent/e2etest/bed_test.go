package e2etest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"go.yaml.in/yaml/v3"

	"github.com/regent-infra/regent/internal/canary"
	"github.com/regent-infra/regent/internal/childprocess"
	"github.com/regent-infra/regent/internal/freeport"
)

// Exit codes of regent, see regent help exit-codes.
const (
	done        = 0
	failed      = 1
	usage       = 2
	refused     = 3
	unreachable = 5
)

// patience bounds every wait. It is generous: machines that run tests are busy.
const patience = 90 * time.Second

// program is the regent binary that all tests run.
var program string

func TestMain(m *testing.M) {
	code, err := build(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = max(code, 1)
	}
	os.Exit(code)
}

// build builds the program, runs the tests, and looks for goroutines that they have left.
func build(m *testing.M) (code int, err error) {
	dir, err := os.MkdirTemp("", "regent-e2e-bin-")
	if err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	program = filepath.Join(dir, "regent")
	if out, err := exec.Command("go", "build", "-o", program, "github.com/regent-infra/regent/cmd/regent").CombinedOutput(); err != nil {
		return 1, fmt.Errorf("build regent: %w: %s", err, out)
	}
	code = m.Run()
	if code == 0 {
		err = goleak.Find(goleak.IgnoreTopFunction("github.com/twmb/franz-go/pkg/kgo.(*Client).reapConnectionsLoop"))
	}
	return code, err
}

// bed is where one test lives: a directory that any user may pass through, processes, and canaries.
type bed struct {
	t       *testing.T
	dir     string
	cage    *canary.Cage
	spawner *childprocess.Spawner

	mu        sync.Mutex
	processes []*childprocess.Process
	// said is everything that commands have printed.
	said bytes.Buffer
}

func newBed(t *testing.T) *bed {
	t.Helper()
	// Not t.TempDir: an unprivileged PostgreSQL must get through, and socket paths must be short.
	dir, err := os.MkdirTemp("", "regent-e2e-") //nolint:usetesting // see above
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil { //nolint:gosec // see above
		t.Fatal(err)
	}
	b := &bed{t: t, dir: dir, cage: canary.New(), spawner: childprocess.NewSpawner()}
	t.Cleanup(b.close)
	return b
}

// close kills what still runs, tells the ends of the logs if the test has failed, and removes everything.
func (b *bed) close() {
	b.spawner.Close()
	for _, p := range b.processes {
		if done := p.Done(); done != nil {
			<-done
		}
		if b.t.Failed() {
			b.t.Logf("the end of the log of %s:\n%s", p.Name, tail(read(b.t, p.Log)))
		}
	}
	http.DefaultClient.CloseIdleConnections()
	// Backends of a killed postmaster may still be on their way out.
	if err := eventually(func() error { return os.RemoveAll(b.dir) }); err != nil {
		b.t.Errorf("remove %s: %v", b.dir, err)
	}
}

func tail(text string) string {
	const most = 4000
	if len(text) > most {
		return "…" + text[len(text)-most:]
	}
	return text
}

func (b *bed) path(names ...string) string {
	return filepath.Join(append([]string{b.dir}, names...)...)
}

// write writes a file that only its owner can read, and returns its path.
func (b *bed) write(name, content string) string {
	b.t.Helper()
	if err := os.WriteFile(b.path(name), []byte(content), 0o600); err != nil {
		b.t.Fatal(err)
	}
	return b.path(name)
}

// yaml writes a file.
func (b *bed) yaml(name string, content map[string]any) string {
	b.t.Helper()
	raw, err := yaml.Marshal(content)
	if err != nil {
		b.t.Fatal(err)
	}
	return b.write(name, string(raw))
}

// secret makes a canary and a file that holds it.
func (b *bed) secret(name string) (value, file string) {
	value = b.cage.Secret(name)
	return value, b.write(name, value+"\n")
}

// launch starts a regent process that runs for long.
func (b *bed) launch(name string, args ...string) *childprocess.Process {
	b.t.Helper()
	return b.start(name, program, args...)
}

// start starts a process.
func (b *bed) start(name, executable string, args ...string) *childprocess.Process {
	b.t.Helper()
	p := &childprocess.Process{
		Name: name, Executable: executable, Args: args, Log: b.path(fmt.Sprintf("%s.%d.log", name, len(b.processes))), Env: environment(),
	}
	if err := p.Start(b.spawner); err != nil {
		b.t.Fatal(err)
	}
	b.mu.Lock()
	b.processes = append(b.processes, p)
	b.mu.Unlock()
	return p
}

// environment is what processes see: nothing of a configuration that the machine may have.
func environment() []string {
	return slices.DeleteFunc(append(os.Environ(), "XDG_CONFIG_HOME=/nonexistent", "NO_COLOR=1"), func(pair string) bool {
		return strings.HasPrefix(pair, "REGENT_") && !strings.HasPrefix(pair, "REGENT_CACHE")
	})
}

// kill ends processes at once.
func (b *bed) kill(all ...*childprocess.Process) {
	b.t.Helper()
	for _, p := range all {
		if err := p.Signal(syscall.SIGKILL); err != nil {
			b.t.Fatal(err)
		}
	}
	for _, p := range all {
		if err := p.Wait(b.patient()); err != nil {
			b.t.Fatal(err)
		}
	}
}

// stop asks processes to end, all at once, and expects that they do so in order.
func (b *bed) stop(all ...*childprocess.Process) {
	b.t.Helper()
	for _, p := range all {
		if err := p.Signal(syscall.SIGTERM); err != nil {
			b.t.Fatal(err)
		}
	}
	for _, p := range all {
		b.exit(p, done)
	}
}

// exit waits for the end of a process, expects an exit code and texts in its log, and returns the log.
func (b *bed) exit(p *childprocess.Process, code int, want ...string) string {
	b.t.Helper()
	if err := p.Wait(b.patient()); err != nil {
		b.t.Fatal(err)
	}
	log := read(b.t, p.Log)
	if p.ExitCode() != code {
		b.t.Errorf("%s ended with %d, want %d:\n%s", p.Name, p.ExitCode(), code, tail(log))
	}
	for _, text := range want {
		if !strings.Contains(log, text) {
			b.t.Errorf("%s does not say %q:\n%s", p.Name, text, tail(log))
		}
	}
	return log
}

// run runs a regent command to its end and returns what it printed: standard output, then standard error.
func (b *bed) run(code int, args ...string) (stdout, stderr string) {
	b.t.Helper()
	cmd := exec.CommandContext(b.patient(), program, args...)
	var out, errs bytes.Buffer
	cmd.Env, cmd.Stdout, cmd.Stderr = environment(), &out, &errs
	err := cmd.Run()
	b.mu.Lock()
	defer b.mu.Unlock()
	b.said.WriteString(out.String() + errs.String())
	var ended *exec.ExitError
	if err != nil && !errors.As(err, &ended) {
		b.t.Fatal(err)
	}
	if got := cmd.ProcessState.ExitCode(); got != code {
		b.t.Fatalf("regent %s ended with %d, want %d:\n%s%s", strings.Join(args, " "), got, code, out.String(), errs.String())
	}
	return out.String(), errs.String()
}

// patient returns a context that bounds one wait.
func (b *bed) patient() context.Context {
	ctx, cancel := context.WithTimeoutCause(b.t.Context(), patience, fmt.Errorf("not within %s", patience))
	b.t.Cleanup(cancel)
	return ctx
}

// await waits until a condition holds, and fails if a process that is needed for it ends meanwhile.
func (b *bed) await(what string, holds func() error, needed ...*childprocess.Process) {
	b.t.Helper()
	err := eventually(func() error {
		err := holds()
		for _, p := range needed {
			if err != nil && !p.Running() {
				b.t.Fatalf("%s ended while waiting for %s (%v):\n%s", p.Name, what, err, tail(read(b.t, p.Log)))
			}
		}
		return err
	})
	if err != nil {
		b.t.Fatalf("waited in vain for %s: %v", what, err)
	}
}

// eventually tries until there is no error or patience ends, and returns the last error.
func eventually(holds func() error) error {
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := holds()
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-deadline.C:
			return err
		}
	}
}

func read(t *testing.T, file string) string {
	t.Helper()
	raw, err := os.ReadFile(file)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return string(raw)
}

// logged waits for a line of a JSON log with a message and returns one of its fields; "" where it has none.
func (b *bed) logged(p *childprocess.Process, message, field string) string {
	b.t.Helper()
	var value string
	b.await("its log to say "+message, func() error {
		for line := range strings.Lines(read(b.t, p.Log)) {
			var entry map[string]any
			if json.Unmarshal([]byte(line), &entry) != nil || entry["msg"] != message {
				continue
			}
			if list, ok := entry[field].([]any); ok && len(list) == 1 {
				entry[field] = list[0]
			}
			value = fmt.Sprint(entry[field])
			return nil
		}
		return errors.New("it has not said so")
	}, p)
	return value
}

// get asks for a path of an HTTP server. Where into is not nil, the answer is decoded into it.
func (b *bed) get(server, path string, into any) (status int, body []byte, err error) {
	request, err := http.NewRequestWithContext(b.t.Context(), http.MethodGet, server+path, nil)
	if err != nil {
		return 0, nil, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return 0, nil, err
	}
	defer response.Body.Close()
	var buffer bytes.Buffer
	if _, err := buffer.ReadFrom(response.Body); err != nil {
		return 0, nil, err
	}
	if into != nil && response.StatusCode == http.StatusOK {
		err = json.Unmarshal(buffer.Bytes(), into)
	}
	return response.StatusCode, buffer.Bytes(), err
}

// ready waits until a server says so.
func (b *bed) ready(p *childprocess.Process, server string) {
	b.t.Helper()
	b.await("readiness of "+p.Name, func() error {
		status, body, err := b.get(server, "/health/ready", nil)
		if err == nil && status != http.StatusOK {
			err = fmt.Errorf("%d: %s", status, body)
		}
		return err
	}, p)
}

// freePorts returns TCP ports of loopback that nobody listens on.
func freePorts(t *testing.T, n int) []int {
	t.Helper()
	ports, err := freeport.Find(n)
	if err != nil {
		t.Fatal(err)
	}
	return ports
}
