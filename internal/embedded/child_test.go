package embedded

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// The test binary runs a stack when it is started with these.
const (
	childEnv      = "REGENT_EMBEDDED_CHILD" // the data directory
	childListen   = "REGENT_EMBEDDED_LISTEN"
	childCrashEnv = "REGENT_EMBEDDED_CRASH"   // point:n, kill yourself when it is passed for the n-th time
	childFileEnv  = "REGENT_EMBEDDED_FSIZE"   // no file may grow over this many bytes
	childNoIntent = "REGENT_EMBEDDED_BLIND"   // forget the commit intent at boot
	childSegment  = "REGENT_EMBEDDED_SEGMENT" // bytes of a segment
)

// childSays is what a child tells its parent, one JSON object a line.
type childSays struct {
	Brokers  []string
	Registry string
	Failure  string
	BootMS   float64
}

// runChild runs a stack until standard input ends, which it does when the parent dies.
func runChild(dir string) int {
	out := json.NewEncoder(os.Stdout)
	cfg := Config{Dir: dir, BrokerListen: os.Getenv(childListen), Compatible: compatible, Logger: testLogger()}
	if n, err := strconv.ParseInt(os.Getenv(childSegment), 10, 64); err == nil {
		cfg.SegmentBytes = n
	}
	if limit, err := strconv.ParseUint(os.Getenv(childFileEnv), 10, 64); err == nil {
		signal.Ignore(syscall.SIGXFSZ)
		if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: limit, Max: limit}); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
	if os.Getenv(childNoIntent) != "" {
		_ = os.Remove(dir + "/" + intentName)
	}
	point, count, _ := strings.Cut(os.Getenv(childCrashEnv), ":")
	left, _ := strconv.Atoi(count)
	var mu sync.Mutex
	cfg.crash = func(at string) {
		mu.Lock()
		defer mu.Unlock()
		if at == point {
			if left--; left <= 0 {
				_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
				select {}
			}
		}
	}
	begin := time.Now()
	s, err := Open(context.Background(), cfg)
	if err != nil {
		_ = out.Encode(childSays{Failure: err.Error()})
		return 1
	}
	_ = out.Encode(childSays{Brokers: s.Brokers(), Registry: s.RegistryURL(), BootMS: float64(time.Since(begin).Microseconds()) / 1000})
	ended := make(chan struct{})
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		close(ended)
	}()
	select {
	case <-ended:
	case <-s.Failed():
		_ = out.Encode(childSays{Failure: s.Err().Error()})
	}
	_ = s.Close(context.Background())
	return 0
}

// child is a stack in a process of its own.
type child struct {
	cmd   *exec.Cmd
	stdin io.Closer
	lines *bufio.Scanner
	said  childSays
}

// startChild starts a stack; it is killed when the test ends.
func startChild(t *testing.T, dir string, env ...string) *child {
	t.Helper()
	c := &child{cmd: exec.Command(os.Args[0], "-test.run=^$")}
	c.cmd.Env = append(append(os.Environ(), childEnv+"="+dir), env...)
	c.cmd.Stderr = os.Stderr
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	stdin, err := c.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	c.stdin = stdin
	stdout, err := c.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	c.lines = bufio.NewScanner(stdout)
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.kill)
	c.said = c.next()
	return c
}

// next reads what the child says next; nothing when it has died.
func (c *child) next() childSays {
	var s childSays
	if c.lines.Scan() {
		if err := json.Unmarshal(c.lines.Bytes(), &s); err != nil {
			s.Failure = c.lines.Text()
		}
	}
	return s
}

// kill kills the child with SIGKILL and waits for its end.
func (c *child) kill() {
	if c.cmd.ProcessState == nil {
		_ = c.cmd.Process.Signal(syscall.SIGKILL)
		_ = c.cmd.Wait()
	}
}

// await waits for a child that kills itself, and says whether it did.
func (c *child) await() bool {
	var exit *exec.ExitError
	err := c.cmd.Wait()
	if !errors.As(err, &exit) {
		return false
	}
	status, ok := exit.Sys().(syscall.WaitStatus)
	return ok && status.Signaled() && status.Signal() == syscall.SIGKILL
}

// freeAddress asks the system for an address, so that a stack can come back on it.
func freeAddress(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ln.Close() }()
	return ln.Addr().String()
}
