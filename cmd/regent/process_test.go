package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/regent-infra/regent/internal/freeport"
	"github.com/regent-infra/regent/internal/httpapi"
)

// patience bounds every wait for a process.
const patience = 90 * time.Second

// process is a regent command as a process of its own. It dies with the test.
type process struct {
	t    *testing.T
	cmd  *exec.Cmd
	log  lockedBuffer
	done chan struct{}
}

// lockedBuffer is what a process has written.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// launch starts a regent command.
func launch(t *testing.T, args ...string) *process {
	t.Helper()
	return launchWith(t, nil, args...)
}

// launchWith starts a regent command with more in its environment.
func launchWith(t *testing.T, environ []string, args ...string) *process {
	t.Helper()
	p := &process{t: t, done: make(chan struct{})}
	p.cmd = exec.Command(os.Args[0], args...)
	p.cmd.Env = append(append(os.Environ(), childEnv+"=1"), environ...)
	p.cmd.Stdout, p.cmd.Stderr = &p.log, &p.log
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = p.cmd.Wait() // the state tells how it ended
		close(p.done)
	}()
	t.Cleanup(p.kill)
	return p
}

// kill ends the process at once.
func (p *process) kill() {
	_ = p.cmd.Process.Kill() // it may have ended
	<-p.done
}

// end asks the process to stop and returns its exit code.
func (p *process) end() int {
	p.t.Helper()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		p.t.Fatalf("%v\n%s", err, p.log.String())
	}
	return p.exit()
}

// exit waits until the process has ended.
func (p *process) exit() int {
	p.t.Helper()
	select {
	case <-p.done:
		return p.cmd.ProcessState.ExitCode()
	case <-time.After(patience):
		p.t.Fatalf("the process did not end:\n%s", p.log.String())
		return -1
	}
}

// await waits until a condition holds.
func await(t *testing.T, what string, p *process, holds func() bool) {
	t.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !holds() {
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatalf("waited in vain for %s:\n%s", what, p.log.String())
		}
		select {
		case <-p.done:
			t.Fatalf("the process ended while waiting for %s:\n%s", what, p.log.String())
		default:
		}
	}
}

// logged returns a field of the first line of a JSON log with the message.
func (p *process) logged(message, field string) string {
	for line := range strings.Lines(p.log.String()) {
		var entry map[string]any
		if json.Unmarshal([]byte(line), &entry) == nil && entry["msg"] == message {
			return fmt.Sprint(entry[field])
		}
	}
	return ""
}

// up starts a control plane on a data directory and waits until it is ready. It returns the process and the address of its API.
func up(t *testing.T, dir string, more ...string) (*process, string) {
	t.Helper()
	p := launch(t, append([]string{
		"up", "--data-dir", dir, "--http-listen", "127.0.0.1:0", "--broker-listen", "127.0.0.1:0", "--registry-listen", "127.0.0.1:0", "--log-format", "json",
	}, more...)...)
	return p, ready(t, p)
}

// ready waits until a process with the role api says that it is ready, and returns its address.
func ready(t *testing.T, p *process) string {
	t.Helper()
	var server string
	await(t, "the API", p, func() bool { server = p.logged("the HTTP API is up", "url"); return server != "" })
	a := &api{base: server, http: httpClient(t)}
	await(t, "readiness", p, func() bool {
		return a.get(t.Context(), "/health/ready", nil, &httpapi.Readiness{}) == nil
	})
	return server
}

// cli runs a command against a server in this process, and expects an exit code.
func cli(t *testing.T, server string, code int, args ...string) result {
	t.Helper()
	var out, errs bytes.Buffer
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	got := run(ctx, args, environment{Stdin: strings.NewReader(""), Stdout: &out, Stderr: &errs, Environ: []string{"REGENT_SERVER=" + server}})
	if got != code {
		t.Fatalf("regent %s: exit %d, want %d\n%s%s", strings.Join(args, " "), got, code, out.String(), errs.String())
	}
	return result{got, out.String(), errs.String()}
}

// openDir returns a directory that another user may pass through.
func openDir(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for _, d := range []string{dir, filepath.Dir(dir)} {
		if err := os.Chmod(d, 0o755); err != nil { //nolint:gosec // an unprivileged PostgreSQL must pass
			t.Fatal(err)
		}
	}
	return dir
}

func freePort(t *testing.T) int {
	t.Helper()
	ports, err := freeport.Find(1)
	if err != nil {
		t.Fatal(err)
	}
	return ports[0]
}
