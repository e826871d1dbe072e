package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/gofrs/flock"

	"github.com/regent-infra/regent/adapters/postgres/binary"
	"github.com/regent-infra/regent/internal/httpapi"
	"github.com/regent-infra/regent/statestore/pebblestore"
)

// directory checks the data directory of a control plane on this host.
func (d *doctor) directory(info *httpapi.Info) {
	dir := d.config.Data.Dir
	if info != nil && info.DataDir != "" && !d.config.Set("data.dir") {
		dir = info.DataDir
	}
	stat, err := os.Stat(dir)
	switch {
	case errors.Is(err, os.ErrNotExist):
		if info == nil {
			d.find("data directory", findingOK, dir+" does not exist yet; regent up creates it", "")
			d.space(dir, false)
		}
		return // that of a server elsewhere
	case err != nil:
		d.find("data directory", findingFault, err.Error(), "name a directory that this user may read with --data-dir")
		return
	case !stat.IsDir():
		d.find("data directory", findingFault, dir+" is no directory", "name another one with --data-dir")
		return
	}
	probe, err := os.CreateTemp(dir, ".doctor-*")
	if err != nil {
		d.find("data directory", findingFault, err.Error(), "give it to the user that runs regent, or name another one")
		return
	}
	name := probe.Name()
	_ = errors.Join(probe.Close(), os.Remove(name)) // what it found is that it may write
	detail := dir + " is writable"
	if mode := stat.Mode().Perm(); mode&0o007 != 0 {
		d.find("data directory", findingWarning, fmt.Sprintf("%s may be read by everybody (mode %04o)", dir, mode), "chmod o-rwx it: events name hosts and databases")
	}
	held, by := holder(filepath.Join(dir, embeddedDir, "LOCK"))
	if held {
		detail += ", in use" + by
	}
	d.find("data directory", findingOK, detail, "")
	d.space(dir, held)
}

// ample is the free space that a control plane with few nodes does not outgrow: the log segments of the broker, and the write-ahead logs of
// the store while it is written to faster than it can tidy up.
const ample = 1 << 30

// space checks the free space where a control plane keeps its data. A store that was opened before has its first log already.
func (d *doctor) space(dir string, held bool) {
	at := dir
	for {
		if _, err := os.Stat(at); err == nil || filepath.Dir(at) == at {
			break
		}
		at = filepath.Dir(at)
	}
	free, err := freeSpace(at)
	if err != nil {
		d.find("disk space", findingWarning, err.Error(), "")
		return
	}
	least := int64(d.config.Embedded.MinFree) + pebblestore.InitialBytes
	detail := fmt.Sprintf("%d MiB free for %s", free>>20, dir)
	switch {
	case free < least && !held:
		d.find("disk space", findingFault, fmt.Sprintf("%s, expected at least %d MiB: embedded.min_free is %d MiB, and the state store allocates its logs ahead, %d MiB",
			detail, least>>20, int64(d.config.Embedded.MinFree)>>20, pebblestore.InitialBytes>>20), "free some space, or name a directory on a larger volume with --data-dir")
	case free < ample:
		d.find("disk space", findingWarning, fmt.Sprintf("%s, a small installation wants %d MiB to work with", detail, int64(ample)>>20), "free some space before it is needed: a full disk stops the control plane")
	default:
		d.find("disk space", findingOK, detail, "")
	}
}

// freeSpace returns how many bytes this user may still write to the volume of a directory.
func freeSpace(dir string) (int64, error) {
	var st syscall.Statfs_t
	if err := syscall.Statfs(dir, &st); err != nil {
		return 0, fmt.Errorf("ask for the free space of %s: %w", dir, err)
	}
	return int64(min(st.Bavail, math.MaxInt64/uint64(st.Bsize)) * uint64(st.Bsize)), nil //nolint:gosec // capped
}

// holder reports whether a lock file is held, and by whom.
func holder(name string) (held bool, by string) {
	if _, err := os.Stat(name); err != nil {
		return false, ""
	}
	lock := flock.New(name)
	got, err := lock.TryRLock()
	if err != nil {
		return false, ""
	}
	if got {
		_ = lock.Close() // it was not held
		return false, ""
	}
	raw, err := os.ReadFile(name)
	if pid := strings.TrimSpace(string(raw)); err == nil && pid != "" {
		return true, " by process " + pid
	}
	return true, ""
}

// ports checks that the addresses of a control plane are free, where none runs.
func (d *doctor) ports(info *httpapi.Info) {
	if info != nil {
		return
	}
	for _, at := range [][2]string{
		{"http", d.config.Listen.HTTP}, {"broker", d.config.Listen.Broker}, {"registry", d.config.Listen.Registry},
	} {
		ln, err := net.Listen("tcp", at[1])
		if err != nil {
			d.find("ports", findingWarning, fmt.Sprintf("%s for listen.%s: %v", at[1], at[0], err), "stop the program that uses it, or choose another one for regent up")
			continue
		}
		_ = ln.Close() // it was free, that is all
		d.find("ports", findingOK, fmt.Sprintf("%s for listen.%s is free", at[1], at[0]), "")
	}
}

// postgres checks that there are PostgreSQL programs for an agent on this host.
func (d *doctor) postgres(ctx context.Context) {
	set, err := binary.Find(ctx, binary.FindOptions{Dir: d.config.Postgres.BinDir, Major: int(d.config.Postgres.Version)})
	if err != nil {
		d.find("postgres", findingWarning, err.Error(), "an agent on this host would fetch published programs; install PostgreSQL 13 to 18 to use your own")
	} else {
		detail := fmt.Sprintf("%s in %s (%s)", set.Version, set.Dir, set.Source)
		if set.Has(binary.ToolRewind) {
			d.find("postgres", findingOK, detail, "")
		} else {
			d.find("postgres", findingWarning, detail+", without pg_rewind", "a diverged node is copied afresh instead of rewound")
		}
	}
	if os.Geteuid() == 0 {
		d.find("user", findingOK, fmt.Sprintf("root: an agent runs its server as %s", d.config.Postgres.User), "")
	}
}
