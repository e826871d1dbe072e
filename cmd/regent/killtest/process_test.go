package killtest

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/regent-infra/regent/internal/freeport"
	"github.com/regent-infra/regent/internal/httpapi"
)

const (
	// dirEnv names a directory to be made for data and log that outlives the test.
	dirEnv = "REGENT_KILL_DIR"
	// readyWithin bounds how long a start may take, recovery included, on a machine that has other work to do.
	readyWithin = 2 * time.Minute
	// processors is how many a control plane runs.
	processors = 3
	// lookEvery is how often a condition is looked at.
	lookEvery = 5 * time.Millisecond
)

// server is one control plane over all its lives: binary, directory and addresses stay, processes come and go.
type server struct {
	t                      *testing.T
	binary, dir            string
	log                    *os.File
	broker, registry, http string
	client                 *http.Client

	process *os.Process
	ended   chan struct{} // closed when the process is gone
	killed  time.Time     // of the last kill
	lives   int
}

func newServer(t *testing.T) *server {
	t.Helper()
	dir := os.Getenv(dirEnv)
	if dir == "" {
		dir = t.TempDir()
	} else if err := os.Mkdir(dir, 0o750); err != nil {
		t.Fatalf("%s: %v; expected a directory that does not exist yet", dirEnv, err)
	}
	s := &server{
		t: t, binary: filepath.Join(dir, "regent"), dir: filepath.Join(dir, "data"),
		client: &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}},
	}
	build := exec.CommandContext(t.Context(), "go", "build", "-o", s.binary, "github.com/regent-infra/regent/cmd/regent")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build regent: %v\n%s", err, out)
	}
	var err error
	if s.log, err = os.Create(filepath.Join(dir, "regent.log")); err != nil {
		t.Fatal(err)
	}
	ports, err := freeport.Find(3)
	if err != nil {
		t.Fatal(err)
	}
	for i, address := range []*string{&s.broker, &s.registry, &s.http} {
		*address = net.JoinHostPort("127.0.0.1", strconv.Itoa(ports[i]))
	}
	t.Cleanup(func() {
		s.kill()
		s.log.Close()
	})
	return s
}

// start runs a process. It dies with the test, even if the test itself is killed.
func (s *server) start() {
	s.t.Helper()
	s.lives++
	fmt.Fprintf(s.log, "---- life %d\n", s.lives)
	cmd := exec.Command(s.binary, "up", "--data-dir", s.dir, "--broker-listen", s.broker, "--registry-listen", s.registry, "--http-listen", s.http)
	cmd.Env = []string{"HOME=" + filepath.Dir(s.dir), "PATH=" + os.Getenv("PATH")}
	cmd.Stdout, cmd.Stderr = s.log, s.log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	started, ended := make(chan error, 1), make(chan struct{})
	go func() {
		// The signal follows the death of the thread that started the process, so that thread has to stay.
		runtime.LockOSThread()
		defer close(ended)
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait() // that it ended is all that matters: nobody but a kill may end it
		}
	}()
	if err := <-started; err != nil {
		s.t.Fatalf("start regent: %v", err)
	}
	s.process, s.ended = cmd.Process, ended
}

// kill sends SIGKILL and returns when the process is gone.
func (s *server) kill() {
	if s.process == nil {
		return
	}
	s.killed = time.Now()
	_ = s.process.Kill() // it may be gone, as alive would tell
	<-s.ended
	s.process = nil
}

// alive fails the test if the process has ended by itself.
func (s *server) alive() {
	s.t.Helper()
	select {
	case <-s.ended:
		s.t.Fatalf("regent ended by itself in life %d:\n%s", s.lives, s.tail())
	default:
	}
}

// stay lets the process live for a while.
func (s *server) stay(d time.Duration) {
	s.t.Helper()
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-s.ended:
		s.alive()
	}
}

// recovery is how long it took since the last kill until all processors worked again, and until the process called itself ready, which it
// does when its API has read the topics.
type recovery struct{ working, ready time.Duration }

// ready waits until the process says that it is ready.
func (s *server) ready() recovery {
	s.t.Helper()
	var took recovery
	var last string
	s.await(readyWithin, func() bool {
		r, err := s.readiness()
		last = fmt.Sprintf("%+v, %v", r, err)
		since := time.Since(s.killed)
		idle := func(p httpapi.Processor) bool { return !p.Ready }
		if took.working == 0 && len(r.Processors) == processors && !slices.ContainsFunc(r.Processors, idle) {
			took.working = since
		}
		took.ready = since
		return err == nil && r.Status == "ready"
	}, func() string { return "that it is ready; it last said " + last })
	return took
}

// await waits until a condition holds.
func (s *server) await(within time.Duration, holds func() bool, what func() string) {
	s.t.Helper()
	deadline := time.NewTimer(within)
	defer deadline.Stop()
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	for !holds() {
		select {
		case <-look.C:
		case <-s.ended:
			s.alive()
		case <-deadline.C:
			s.t.Fatalf("waited %s in vain for regent (life %d): %s\n%s", within, s.lives, what(), s.tail())
		}
	}
}

func (s *server) readiness() (httpapi.Readiness, error) {
	var ready httpapi.Readiness
	var failure struct {
		Error struct {
			Detail httpapi.Readiness `json:"detail"`
		} `json:"error"`
	}
	status, raw, err := s.get("/health/ready")
	switch {
	case err != nil:
		return ready, err
	case status == http.StatusOK:
		return ready, json.Unmarshal(raw, &ready)
	default:
		return failure.Error.Detail, json.Unmarshal(raw, &failure)
	}
}

func (s *server) digests() []httpapi.Digest {
	s.t.Helper()
	var answer struct {
		Digests []httpapi.Digest `json:"digests"`
	}
	status, raw, err := s.get("/v1/digests")
	if err == nil {
		err = json.Unmarshal(raw, &answer)
	}
	if err != nil || status != http.StatusOK {
		s.t.Fatalf("ask for the digests: status %d, %v: %s", status, err, raw)
	}
	return answer.Digests
}

func (s *server) get(path string) (status int, body []byte, err error) {
	ctx, cancel := context.WithTimeout(s.t.Context(), s.client.Timeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.http+path, nil)
	if err != nil {
		return 0, nil, err
	}
	response, err := s.client.Do(request)
	if err != nil {
		return 0, nil, err
	}
	defer response.Body.Close()
	body, err = io.ReadAll(response.Body)
	return response.StatusCode, body, err
}

// resident returns the resident memory of the process and its highest so far, in bytes; zeros if it is gone.
func (s *server) resident() (now, highest int64) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.process.Pid))
	if err != nil {
		return 0, 0
	}
	for line := range strings.Lines(string(raw)) {
		var kib int64
		if _, err := fmt.Sscanf(line, "VmRSS: %d kB", &kib); err == nil {
			now = kib << 10
		}
		if _, err := fmt.Sscanf(line, "VmHWM: %d kB", &kib); err == nil {
			highest = kib << 10
		}
	}
	return now, highest
}

// tail returns the end of what the processes have logged, without what the load makes them say.
func (s *server) tail() string {
	raw, err := os.ReadFile(s.log.Name())
	if err != nil {
		return err.Error()
	}
	var kept []string
	for line := range strings.Lines(string(raw)) {
		if !strings.Contains(line, "a record cannot be processed") {
			kept = append(kept, line)
		}
	}
	return strings.Join(kept[max(0, len(kept)-40):], "")
}
