// Package childprocess runs other programs that must not outlive this one: the kernel kills them when it dies, whatever killed it.
//
//	spawner := childprocess.NewSpawner()
//	defer spawner.Close()
//	p := &childprocess.Process{Name: "agent pg-1", Executable: "/usr/bin/regent", Args: []string{"agent"}, Log: "pg-1.log"}
//	err := p.Start(spawner)
//	…
//	p.Signal(syscall.SIGTERM)
//	err = p.Wait(ctx)
//
// The kernel sends a parent-death signal when the thread that forked ends, not when the process does (prctl(2), PR_SET_PDEATHSIG). So everything
// is started from one locked thread, that of the [Spawner], which must live as long as what it has started: closing it kills what still runs.
package childprocess

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"syscall"
)

// Spawner starts processes from one locked thread. It is safe for concurrent use until it is closed.
type Spawner struct {
	requests chan func()
	ended    chan struct{}
}

// NewSpawner returns a spawner.
func NewSpawner() *Spawner {
	s := &Spawner{requests: make(chan func()), ended: make(chan struct{})}
	go s.serve()
	return s
}

// serve takes requests on a thread of its own, which ends with it because it is never unlocked. The first thread of a process is no such
// thread: the runtime parks it instead of ending it, and the kernel would send no signal.
func (s *Spawner) serve() {
	runtime.LockOSThread()
	if syscall.Gettid() == syscall.Getpid() {
		defer runtime.UnlockOSThread()
		elsewhere := make(chan struct{})
		go func() {
			runtime.LockOSThread()
			close(elsewhere)
			s.take()
		}()
		<-elsewhere // until then this thread is taken
		return
	}
	s.take()
}

func (s *Spawner) take() {
	defer close(s.ended)
	for request := range s.requests {
		request()
	}
}

// start forks on the locked thread.
func (s *Spawner) start(cmd *exec.Cmd) error {
	result := make(chan error, 1)
	s.requests <- func() { result <- cmd.Start() }
	return <-result
}

// Close ends the thread, and with it every process that still runs.
func (s *Spawner) Close() {
	close(s.requests)
	<-s.ended
}

// Process is a program that can be started, killed, and started again. Its output goes to a log file. The fields must not change after the
// first start; the methods are safe for concurrent use.
type Process struct {
	// Name is for errors.
	Name string
	// Executable is the program.
	Executable string
	// Args are its arguments.
	Args []string
	// Env is its environment; nil: that of this process.
	Env []string
	// Log is the file that its output is appended to.
	Log string

	mu   sync.Mutex
	cmd  *exec.Cmd
	done chan struct{}
}

// Start runs the program, in a process group of its own so that a signal from the terminal does not reach it.
func (p *Process) Start(s *Spawner) error {
	out, err := os.OpenFile(p.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("start %s: open its log: %w", p.Name, err)
	}
	defer out.Close()
	cmd := exec.Command(p.Executable, p.Args...)
	cmd.Env = p.Env
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	if err := s.start(cmd); err != nil {
		return fmt.Errorf("start %s: %w", p.Name, err)
	}
	done := make(chan struct{})
	p.mu.Lock()
	p.cmd, p.done = cmd, done
	p.mu.Unlock()
	go func() {
		_ = cmd.Wait() // how it ended: ExitCode, and its log
		close(done)
	}()
	return nil
}

// PID returns the process id of the last start, or 0.
func (p *Process) PID() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd == nil {
		return 0
	}
	return p.cmd.Process.Pid
}

// Signal sends a signal; that the process has ended already is no error.
func (p *Process) Signal(sig syscall.Signal) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd == nil {
		return nil
	}
	if err := p.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("send %s to %s: %w", sig, p.Name, err)
	}
	return nil
}

// Wait blocks until the process has ended; one that was never started has.
func (p *Process) Wait(ctx context.Context) error {
	done := p.Done()
	if done == nil {
		return nil
	}
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for %s to end: %w; its log is %s", p.Name, context.Cause(ctx), p.Log)
	}
}

// Done is closed when the last start has ended; nil if there was none.
func (p *Process) Done() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.done
}

// Running reports whether the process was started and has not ended.
func (p *Process) Running() bool {
	done := p.Done()
	if done == nil {
		return false
	}
	select {
	case <-done:
		return false
	default:
		return true
	}
}

// ExitCode returns how the last start ended: its exit code, or -1 if a signal ended it or it still runs.
func (p *Process) ExitCode() int {
	if p.Done() == nil || p.Running() {
		return -1
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.cmd.ProcessState.ExitCode()
}
