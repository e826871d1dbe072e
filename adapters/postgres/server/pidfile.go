package server

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

const pidFileName = "postmaster.pid"

// pidFile is what postmaster.pid says (miscadmin.h, LOCK_FILE_LINE_*). Lines appear one after the other while the server starts.
type pidFile struct {
	pid int
	// shmID is the System V segment's id, 0 while unknown.
	shmID int
	// status is "starting", "stopping", "ready" or "standby" (recovering, not accepting); empty while unknown.
	status string
}

// readPidFile returns ok false if there is none.
func readPidFile(dataDir string) (pf pidFile, ok bool, err error) {
	content, err := os.ReadFile(filepath.Join(dataDir, pidFileName))
	if errors.Is(err, os.ErrNotExist) {
		return pidFile{}, false, nil
	}
	if err != nil {
		return pidFile{}, false, fmt.Errorf("read %s: %w", pidFileName, err)
	}
	pf, err = parsePidFile(string(content))
	return pf, err == nil, err
}

func parsePidFile(content string) (pidFile, error) {
	lines := strings.Split(content, "\n")
	pid, err := strconv.Atoi(strings.TrimSpace(lines[0]))
	if err != nil {
		if strings.TrimSpace(content) == "" {
			return pidFile{}, fmt.Errorf("%s is empty: the server was just starting, or its disk was full", pidFileName)
		}
		return pidFile{}, fmt.Errorf("%s: expected a process id in line 1, got %q", pidFileName, lines[0])
	}
	// A single-user server writes its id as a negative number.
	pf := pidFile{pid: max(pid, -pid)}
	if len(lines) > 6 {
		if fields := strings.Fields(lines[6]); len(fields) == 2 {
			pf.shmID, _ = strconv.Atoi(fields[1]) // absent when the server uses none
		}
	}
	if len(lines) > 7 {
		pf.status = strings.TrimSpace(lines[7])
	}
	return pf, nil
}
