package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/regent-infra/regent/bench/measure"
)

// stopPatience is how long a contender may take to stop after SIGTERM.
const stopPatience = 90 * time.Second

// process is one running contender.
type process struct {
	job   job
	cmd   *exec.Cmd
	began time.Time
	done  chan struct{}
	ended error // after done
	log   string
}

// start starts the contender of a job; more are arguments after its own.
func (b *bench) start(ctx context.Context, j job, more ...string) (*process, error) {
	command, err := b.builder.command(ctx, j.contender.program)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Join(j.dir, "state"), 0o750); err != nil {
		return nil, err
	}
	args := append(append(command[1:len(command):len(command)], j.arguments(b.cluster.server.Broker(), b.settingsOf(j.contender, j.phase))...), more...)
	p := &process{job: j, done: make(chan struct{}), log: filepath.Join(j.dir, fmt.Sprintf("contender-%d.log", b.starts))}
	b.starts++
	log, err := os.Create(p.log)
	if err != nil {
		return nil, err
	}
	p.cmd = exec.Command(command[0], args...)
	p.cmd.Stderr, p.cmd.Stdout = log, log
	// A group of its own: an interrupt of the terminal is for this program, which then ends its children.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	started := make(chan error, 1)
	go p.live(log, started)
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start the contender %s: %w", j.contender.name, err)
	}
	return p, nil
}

// live starts the process and waits for its end, on a thread that lives as long: the kernel sends the parent-death signal when the thread that
// forked ends (prctl(2)).
func (p *process) live(log *os.File, started chan<- error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer close(p.done)
	defer log.Close()
	p.began = time.Now()
	err := p.cmd.Start()
	started <- err
	if err == nil {
		p.ended = p.cmd.Wait()
	}
}

func (p *process) pid() int { return p.cmd.Process.Pid }

func (p *process) memory() (measure.Memory, error) { return measure.ReadMemory(p.pid()) }

// died returns an error if the process has ended by itself.
func (p *process) died() error {
	select {
	case <-p.done:
		return fmt.Errorf("the contender %s ended before its time: %w: %s", p.job.contender.name, p.ended, p.logTail())
	default:
		return nil
	}
}

// stop ends the process in the regular way.
func (p *process) stop() error {
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // gone already shows below
	select {
	case <-p.done:
	case <-time.After(stopPatience):
		p.kill()
		return fmt.Errorf("the contender %s did not stop within %s: %s", p.job.contender.name, stopPatience, p.logTail())
	}
	code := p.cmd.ProcessState.ExitCode()
	const javaTerminated = 128 + int(syscall.SIGTERM)
	if code != 0 && (code != javaTerminated || p.job.contender.program != programStreams) {
		return fmt.Errorf("the contender %s stopped with status %d: %s", p.job.contender.name, code, p.logTail())
	}
	return nil
}

// kill ends the process with SIGKILL and waits until it is gone.
func (p *process) kill() {
	_ = p.cmd.Process.Kill() // gone already is fine
	<-p.done
}

func (p *process) logTail() string {
	raw, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	const tail = 2000
	return strings.TrimSpace(string(raw[max(0, len(raw)-tail):]))
}

// usage is what contender and broker have used so far.
type usage struct {
	at             time.Time
	client, broker time.Duration
}

func (b *bench) usage(p *process) (u usage, err error) {
	u.at = time.Now()
	if u.client, err = measure.CPU(p.pid()); err != nil {
		return u, err
	}
	u.broker, err = b.cluster.cpu()
	return u, err
}
