package server

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// process is one PostgreSQL process as /proc shows it.
type process struct {
	pid    int
	parent int
	// title is the command line: PostgreSQL writes there what the process is.
	title string
}

// processes lists the PostgreSQL processes that work in a data directory: postmaster, backends, single-user servers, and whatever
// of them has outlived its postmaster. PostgreSQL makes each child the leader of a session of its own, so neither process
// group nor session binds them together; the working directory does, for every one of them, all its life. A zombie has none
// and is rightly not counted: it can do no more harm.
func processes(dataDir string) ([]process, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	var found []process
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		if p, ok := inspect(pid, dataDir); ok {
			found = append(found, p)
		}
	}
	return found, nil
}

// inspect says whether pid is a PostgreSQL process of the data directory. A process that ends meanwhile is none.
func inspect(pid int, dataDir string) (process, bool) {
	base := "/proc/" + strconv.Itoa(pid)
	cwd, err := os.Readlink(base + "/cwd")
	if err != nil || strings.TrimSuffix(cwd, " (deleted)") != dataDir {
		return process{}, false
	}
	exe, err := os.Readlink(base + "/exe")
	if err != nil {
		return process{}, false
	}
	name := filepath.Base(strings.TrimSuffix(exe, " (deleted)"))
	if name != "postgres" && name != "postmaster" {
		return process{}, false
	}
	title, err := os.ReadFile(base + "/cmdline")
	if err != nil {
		return process{}, false
	}
	parent, err := parentOf(pid)
	if err != nil {
		return process{}, false
	}
	text := string(bytes.TrimRight(title, "\x00 "))
	return process{pid: pid, parent: parent, title: strings.ReplaceAll(text, "\x00", " ")}, true
}

// parentOf reads field 4 of /proc/pid/stat; the name in field 2 may hold anything, so it is looked for behind the last ")".
func parentOf(pid int) (int, error) {
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, err
	}
	i := bytes.LastIndexByte(stat, ')')
	fields := strings.Fields(string(stat[i+1:]))
	if i < 0 || len(fields) < 2 {
		return 0, fmt.Errorf("process %d: cannot read its state", pid)
	}
	return strconv.Atoi(fields[1])
}

// signalProcess sends a signal to exactly the process that was found, if it still is what it was: the handle is opened first
// and the check made after, so a reused id is never hit. A process that is gone is no error.
func signalProcess(p process, dataDir string, sig syscall.Signal) error {
	handle, err := unix.PidfdOpen(p.pid, 0)
	if err != nil {
		if errors.Is(err, unix.ESRCH) {
			return nil
		}
		return fmt.Errorf("open process %d: %w", p.pid, err)
	}
	defer func() { _ = unix.Close(handle) }() // nothing is written through it
	if _, ok := inspect(p.pid, dataDir); !ok {
		return nil
	}
	if err := unix.PidfdSendSignal(handle, sig, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("signal %s to process %d: %w", sig, p.pid, err)
	}
	return nil
}

// directoryID identifies a folder: a new one in its place has another identity, even if the file system gives it the same number.
func directoryID(path string) (string, error) {
	var s unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, path, 0, unix.STATX_INO|unix.STATX_BTIME, &s); err != nil {
		return "", fmt.Errorf("identify %s: %w", path, err)
	}
	return fmt.Sprintf("%d:%d:%d:%d.%d", s.Dev_major, s.Dev_minor, s.Ino, s.Btime.Sec, s.Btime.Nsec), nil
}

// reap collects orphans that have become this process's children (it is process 1 of a container, or a subreaper), which would
// stay zombies for ever. It is harmless for any other process.
func reap(pid int) {
	var status syscall.WaitStatus
	_, _ = syscall.Wait4(pid, &status, syscall.WNOHANG, nil) // ECHILD: not ours
}

// ipcAttached returns how many processes are attached to the server's System V shared memory, by the id in postmaster.pid. PostgreSQL
// itself refuses to start while there are any. An id that no longer exists has none.
func ipcAttached(id int) (int, error) {
	var desc unix.SysvShmDesc
	if _, err := unix.SysvShmCtl(id, unix.IPC_STAT, &desc); err != nil {
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EIDRM) || errors.Is(err, unix.EACCES) {
			return 0, nil // removed, or the number was given to a stranger
		}
		return 0, fmt.Errorf("ask for shared memory segment %d: %w", id, err)
	}
	return int(desc.Nattch), nil //nolint:gosec // a count of processes
}

// childAttributes make a server die with its parent. SIGQUIT is its immediate shutdown: the postmaster takes its children with
// it, where SIGKILL would leave a busy backend alive. The kernel ties this to the thread that forks: see spawn.
func childAttributes(id identity) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Credential: id.credential(), Setsid: true, Pdeathsig: syscall.SIGQUIT}
}

// toolAttributes are for programs that run to their end (initdb, pg_rewind): in a group of their own, killed with this process.
func toolAttributes(id identity) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Credential: id.credential(), Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
