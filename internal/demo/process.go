package demo

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// postmasterPID reads the process id of the postmaster of a data directory (first line of postmaster.pid, PostgreSQL manual,
// "Database File Layout").
func postmasterPID(dataDir string) (int, error) {
	raw, err := os.ReadFile(filepath.Join(dataDir, "postmaster.pid"))
	if err != nil {
		return 0, fmt.Errorf("find the postmaster of %s: %w", dataDir, err)
	}
	line, _, _ := strings.Cut(string(raw), "\n")
	pid, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil || pid <= 1 {
		return 0, fmt.Errorf("find the postmaster of %s: %q is no process id", dataDir, line)
	}
	return pid, nil
}
