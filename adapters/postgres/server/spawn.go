package server

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/regent-infra/regent/internal/clock"
	"github.com/regent-infra/regent/internal/secret"
)

// Exit says how a postmaster ended.
type Exit struct {
	PID int
	At  time.Time
	// Code is the exit status, -1 if a signal ended it.
	Code int
	// Signal ended the process; 0 if it exited.
	Signal syscall.Signal
	// Requested says that a Stop of this library was under way.
	Requested bool
	// LastLines are the last lines that the server printed, secrets masked.
	LastLines []string
}

// String tells it in a line.
func (e Exit) String() string {
	if e.Signal != 0 {
		return fmt.Sprintf("postmaster %d was ended by signal %d (%s)", e.PID, int(e.Signal), e.Signal)
	}
	return fmt.Sprintf("postmaster %d exited with status %d", e.PID, e.Code)
}

// child is a running postmaster.
type child struct {
	pid int
	log *logPipe
	// exited is closed once exit is set: the postmaster is gone.
	exited chan struct{}
	// stopped is closed when no process of the data directory is left either.
	stopped chan struct{}
	exit    Exit
}

// alive says whether the postmaster has not ended.
func (c *child) alive() bool {
	select {
	case <-c.exited:
		return false
	default:
		return true
	}
}

// spawn starts a program whose life is tied to this process. The kernel sends the parent-death signal when the *thread* that
// forked ends, and Go ends idle threads as it likes; so the thread is locked to a goroutine that does nothing but wait for the child.
func spawn(cmd *exec.Cmd, log *logPipe, clk clock.Clock) (*child, error) {
	started := make(chan error)
	c := &child{log: log, exited: make(chan struct{}), stopped: make(chan struct{})}
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with this goroutine, after the child
		if err := cmd.Start(); err != nil {
			started <- err
			return
		}
		c.pid = cmd.Process.Pid
		started <- nil
		err := cmd.Wait()
		c.exit = Exit{PID: c.pid, At: clk.Now(), Code: cmd.ProcessState.ExitCode()}
		if status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && status.Signaled() {
			c.exit.Signal = status.Signal()
		}
		var exitErr *exec.ExitError
		if err != nil && !errors.As(err, &exitErr) {
			c.exit.LastLines = append(c.exit.LastLines, err.Error())
		}
		close(c.exited)
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	return c, nil
}

// lastLines is how many lines are kept to explain a failed start.
const lastLines = 20

// maxLine bounds a line of the server's log: queries in it can be of any length.
const maxLine = 16 << 10

// maxSecret bounds the passwords that are looked for at a cut.
const maxSecret = 1 << 10

// logPipe takes what the server prints, line by line, into slog with secrets masked.
type logPipe struct {
	logger *slog.Logger
	masker *secret.Masker
	write  *os.File
	done   chan struct{}

	mu   sync.Mutex
	last []string
}

func newLogPipe(logger *slog.Logger, masker *secret.Masker) (*logPipe, error) {
	read, write, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("make a pipe for the server's log: %w", err)
	}
	p := &logPipe{logger: logger.With("component", "postgres"), masker: masker, write: write, done: make(chan struct{})}
	go p.drain(read)
	return p, nil
}

// drain ends when the last process that holds the other end is gone.
func (p *logPipe) drain(read *os.File) {
	defer close(p.done)
	defer func() { _ = read.Close() }() // a pipe
	in := bufio.NewReaderSize(read, maxLine)
	for {
		line, tooLong, err := in.ReadLine()
		if err != nil {
			if !errors.Is(err, io.EOF) {
				p.logger.Warn("the server's log broke off", "error", err)
			}
			return
		}
		if tooLong {
			line = line[:maxLine-maxSecret] // a secret that the cut goes through would not be recognised
		}
		p.take(string(line))
		for tooLong && err == nil {
			_, tooLong, err = in.ReadLine()
		}
	}
}

func (p *logPipe) take(raw string) {
	line := p.masker.Clean(raw)
	p.mu.Lock()
	p.last = append(p.last, line)
	if len(p.last) > lastLines {
		p.last = p.last[1:]
	}
	p.mu.Unlock()
	said := parseLogLine(line)
	p.logger.Log(context.Background(), said.level, "postgres says", "said", said.text, "backend", said.backend)
}

// lines returns what was printed last.
func (p *logPipe) lines() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]string(nil), p.last...)
}

// logLine is a line of the server's log without what slog says itself.
type logLine struct {
	level   slog.Level
	backend string
	text    string
}

// parseLogLine takes off the time and the process id that log_line_prefix puts first: "2026-01-02 03:04:05.678 UTC [99] ". What
// has no prefix is the continuation of a line, or comes from a program that the server runs.
func parseLogLine(line string) logLine {
	said := logLine{level: slog.LevelInfo, text: line}
	if open, end := strings.Index(line, " ["), strings.Index(line, "] "); open > 0 && end > open && line[0] >= '0' && line[0] <= '9' {
		said.backend, said.text = line[open+2:end], line[end+2:]
	}
	switch {
	case strings.Contains(said.text, "PANIC:  "), strings.Contains(said.text, "FATAL:  "),
		strings.Contains(said.text, "ERROR:  "), strings.Contains(said.text, "WARNING:  "):
		said.level = slog.LevelWarn
	case strings.HasPrefix(said.text, "DEBUG"),
		// A standby without an upstream says so at each look, ten times a second.
		strings.Contains(said.text, "waiting for WAL to become available"):
		said.level = slog.LevelDebug
	}
	return said
}

// complaints picks the lines that explain a failure: errors with their details and hints.
func complaints(lines []string) string {
	var picked []string
	for _, l := range lines {
		for _, mark := range []string{"PANIC:  ", "FATAL:  ", "ERROR:  ", "DETAIL:  ", "HINT:  ", "error: ", "could not "} {
			if i := strings.Index(l, mark); i >= 0 {
				picked = append(picked, l[i:])
				break
			}
		}
	}
	if len(picked) == 0 && len(lines) > 0 {
		picked = lines[max(0, len(lines)-3):]
	}
	return strings.Join(picked, "; ")
}
