package embedded

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/gofrs/flock"
)

// FormatVersion is the version of the data directory's layout, see docs/formats-embedded.md.
const FormatVersion = 1

// Names inside the data directory.
const (
	lockName     = "LOCK"
	identityName = "regent-embedded.json"
	brokerName   = "broker"
	intentName   = "commit.intent"
	cleanName    = "CLEAN"
	cleanedName  = "compaction.json"
)

// Errors that [Open] wraps; the text around them names the directory and what to do.
var (
	// ErrInUse means that another process holds the directory.
	ErrInUse = errors.New("data directory is in use")
	// ErrOtherVersion means that the directory was written in a format that this binary does not know.
	ErrOtherVersion = errors.New("data directory has another format version")
	// ErrOtherCluster means that the directory belongs to another cluster than the configuration demands.
	ErrOtherCluster = errors.New("data directory belongs to another cluster")
	// ErrDiskFull means that there is less free space than the configuration demands, or none.
	ErrDiskFull = errors.New("disk is full")
)

// identity is the content of regent-embedded.json.
type identity struct {
	Format    int    `json:"format"`
	ClusterID string `json:"cluster_id"`
}

// directory is a locked data directory.
type directory struct {
	path string
	id   identity
	lock *flock.Flock
}

func (d *directory) file(name string) string { return filepath.Join(d.path, name) }

// openDirectory creates, locks and identifies the data directory.
func openDirectory(cfg Config) (_ *directory, err error) {
	if err := os.MkdirAll(cfg.Dir, 0o750); err != nil {
		return nil, fmt.Errorf("create data directory %s: %w (expected a directory that this user may write; choose another or change its owner)", cfg.Dir, err)
	}
	d := &directory{path: cfg.Dir, lock: flock.New(filepath.Join(cfg.Dir, lockName), flock.SetPermissions(0o640))}
	locked, err := d.lock.TryLock()
	if err != nil {
		return nil, fmt.Errorf("lock data directory %s: %w (expected a directory that this user may write; choose another or change its owner)", cfg.Dir, diskError(err))
	}
	if !locked {
		return nil, fmt.Errorf("open data directory %s: %w by %s; stop that process, or choose another directory", cfg.Dir, ErrInUse, holder(cfg.Dir))
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, d.lock.Close())
		}
	}()
	if err := d.checkSpace(cfg.MinFreeBytes); err != nil {
		return nil, err
	}
	if err := os.WriteFile(d.file(lockName), []byte(strconv.Itoa(os.Getpid())+"\n"), 0o640); err != nil {
		return nil, fmt.Errorf("write process id to %s: %w", d.file(lockName), diskError(err))
	}
	if err := d.identify(cfg.ClusterID); err != nil {
		return nil, err
	}
	return d, nil
}

// holder describes the process that holds the lock of dir.
func holder(dir string) string {
	raw, err := os.ReadFile(filepath.Join(dir, lockName))
	pid := strings.TrimSpace(string(raw))
	if _, convErr := strconv.Atoi(pid); err != nil || convErr != nil {
		return "another process (its id is not in " + lockName + " yet)"
	}
	return "process " + pid
}

func (d *directory) checkSpace(least int64) error {
	if least < 0 {
		return nil
	}
	var st syscall.Statfs_t
	if err := syscall.Statfs(d.path, &st); err != nil {
		return fmt.Errorf("ask for the free space of %s: %w", d.path, err)
	}
	if free := int64(st.Bavail * uint64(st.Bsize)); free < least {
		return fmt.Errorf("open data directory %s: %w: %d MiB free, at least %d MiB expected; free some space, or lower the limit",
			d.path, ErrDiskFull, free>>20, least>>20)
	}
	return nil
}

// identify reads the identity, or writes one when the directory is new.
func (d *directory) identify(demanded string) error {
	name := d.file(identityName)
	raw, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return d.create(demanded)
	}
	if err != nil {
		return fmt.Errorf("read identity %s: %w", name, err)
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	if err := dec.Decode(&d.id); err != nil {
		return fmt.Errorf("read identity %s: %w (expected JSON with format and cluster_id; restore the file, or start with an empty directory)", name, err)
	}
	if d.id.Format != FormatVersion {
		return fmt.Errorf("open data directory %s: %w: it has %d, this binary expects %d; use the binary that wrote it, or start with an empty directory",
			d.path, ErrOtherVersion, d.id.Format, FormatVersion)
	}
	if demanded != "" && demanded != d.id.ClusterID {
		return fmt.Errorf("open data directory %s: %w: it has %q, the configuration demands %q; correct the cluster id, or choose another directory",
			d.path, ErrOtherCluster, d.id.ClusterID, demanded)
	}
	return nil
}

func (d *directory) create(clusterID string) error {
	if _, err := os.Stat(d.file(brokerName)); err == nil {
		return fmt.Errorf("open data directory %s: it holds %s but no %s; restore that file, or start with an empty directory", d.path, brokerName, identityName)
	}
	if clusterID == "" {
		var b [16]byte
		_, _ = rand.Read(b[:]) // never fails, see crypto/rand
		clusterID = base64.RawURLEncoding.EncodeToString(b[:])
	}
	d.id = identity{Format: FormatVersion, ClusterID: clusterID}
	raw, err := json.Marshal(d.id)
	if err != nil {
		return fmt.Errorf("encode identity: %w", err)
	}
	return d.writeAtomically(identityName, append(raw, '\n'))
}

// writeAtomically replaces a file of the directory, durably: either the old or the new content is found after a crash.
func (d *directory) writeAtomically(name string, content []byte) error {
	tmp := d.file(name + ".tmp")
	f, err := os.OpenFile(tmp, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o640)
	if err == nil {
		_, err = f.Write(content)
		err = errors.Join(err, f.Sync(), f.Close())
	}
	if err == nil {
		err = os.Rename(tmp, d.file(name))
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", d.file(name), diskError(err))
	}
	return syncDir(d.path)
}

func (d *directory) close() error {
	if err := d.lock.Close(); err != nil {
		return fmt.Errorf("unlock data directory %s: %w", d.path, err)
	}
	return nil
}

func syncDir(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("sync directory %s: %w", path, err)
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("sync directory %s: %w", path, err)
	}
	return nil
}

// diskError marks an error that means that the disk is full.
func diskError(err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return fmt.Errorf("%w: %w; free some space and start again", ErrDiskFull, err)
	}
	return err
}

// takeClean reports whether the last process ended in order, and forgets it: from here on a crash needs recovery.
func (d *directory) takeClean() (bool, error) {
	err := os.Remove(d.file(cleanName))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("remove %s: %w", d.file(cleanName), diskError(err))
	}
	return true, syncDir(d.path)
}
