package server

import (
	"bytes"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
)

// maxToolOutput bounds what is kept of a program's output: its end, where the errors are.
const maxToolOutput = 64 << 10

// tail keeps the last bytes that were written to it.
type tail struct{ buf bytes.Buffer }

func (t *tail) Write(p []byte) (int, error) {
	t.buf.Write(p)
	if extra := t.buf.Len() - maxToolOutput; extra > 0 {
		t.buf.Next(extra)
	}
	return len(p), nil
}

// runLocked runs a program to its end on a thread of its own, so that its parent-death signal means this process (see spawn).
func runLocked(cmd *exec.Cmd) ([]byte, error) {
	var out tail
	cmd.Stdout, cmd.Stderr = &out, &out
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		done <- cmd.Run()
	}()
	err := <-done
	return out.buf.Bytes(), err
}

func killGroup(pid int) error { return syscall.Kill(-pid, syscall.SIGKILL) }

func splitLines(text string) []string { return strings.Split(strings.TrimRight(text, "\n"), "\n") }
