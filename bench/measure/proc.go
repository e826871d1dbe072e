// Package measure reads what a process costs from /proc, and turns samples into percentiles and medians.
package measure

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// ticksPerSecond is the unit of the times in /proc/PID/stat: USER_HZ, which is 100 on every Linux that Go runs on.
const ticksPerSecond = 100

// CPU returns the processor time, user and system, that a process has used with all of its threads.
func CPU(pid int) (time.Duration, error) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, fmt.Errorf("read the processor time of process %d: %w", pid, err)
	}
	return parseStat(raw)
}

// parseStat reads fields 14 and 15 (proc(5)); the name in field 2 may hold blanks and parentheses.
func parseStat(raw []byte) (time.Duration, error) {
	const user, system = 14 - 3, 15 - 3 // counted from field 3
	fields := strings.Fields(string(raw[bytes.LastIndexByte(raw, ')')+1:]))
	if len(fields) <= system {
		return 0, fmt.Errorf("read the processor time of a process: %q is no line of /proc/PID/stat", raw)
	}
	ticks := int64(0)
	for _, i := range []int{user, system} {
		n, err := strconv.ParseInt(fields[i], 10, 64)
		if err != nil {
			return 0, fmt.Errorf("read the processor time of a process: %w", err)
		}
		ticks += n
	}
	return time.Duration(ticks) * time.Second / ticksPerSecond, nil
}

// Memory is what a process holds, bytes.
type Memory struct {
	// Resident is now, Peak the most there ever was.
	Resident, Peak int64
}

// ReadMemory returns the memory of a process.
func ReadMemory(pid int) (Memory, error) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return Memory{}, fmt.Errorf("read the memory of process %d: %w", pid, err)
	}
	return parseStatus(raw)
}

func parseStatus(raw []byte) (Memory, error) {
	var m Memory
	for line := range strings.Lines(string(raw)) {
		name, rest, _ := strings.Cut(line, ":")
		to := map[string]*int64{"VmRSS": &m.Resident, "VmHWM": &m.Peak}[name]
		if to == nil {
			continue
		}
		kib, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
		if err != nil {
			return Memory{}, fmt.Errorf("read the memory of a process: %w", err)
		}
		*to = kib << 10
	}
	if m.Peak == 0 {
		return Memory{}, errors.New("read the memory of a process: its status has no VmHWM: has it ended?")
	}
	return m, nil
}

// Disk returns the bytes that the files below a directory take on the disk, which for a sparse file is less than its size; none if the
// directory does not exist. Files that vanish meanwhile count as gone.
func Disk(dir string) (int64, error) {
	total := int64(0)
	err := filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		const block = 512 // stat(2)
		stat, ok := info.Sys().(*syscall.Stat_t)
		if !ok {
			return fmt.Errorf("measure the disk use of %s: this system does not tell blocks", dir)
		}
		total += stat.Blocks * block
		return nil
	})
	return total, err
}
