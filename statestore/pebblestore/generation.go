package pebblestore

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/regent-infra/regent/statestore"
)

const (
	activeFile = "ACTIVE"
	tmpDir     = "tmp"
	magic      = "regent-store"
)

// root is the locked directory of a store.
type root struct {
	fs   vfs.FS
	dir  string
	lock *pebble.Lock
}

func openRoot(fs vfs.FS, dir string) (*root, error) {
	if err := makeDir(fs, dir); err != nil {
		return nil, fmt.Errorf("make the state store's directory %s: %w", dir, err)
	}
	lock, err := pebble.LockDirectory(dir, fs)
	if err != nil {
		if errors.Is(err, os.ErrPermission) || errors.Is(err, os.ErrNotExist) {
			return nil, fmt.Errorf("lock the state store in %s: %w", dir, err)
		}
		return nil, fmt.Errorf("open the state store in %s: %w: another process has it open; stop that one, or use another directory (%w)",
			dir, statestore.ErrInUse, err)
	}
	r := &root{fs: fs, dir: dir, lock: lock}
	err = fs.RemoveAll(r.path(tmpDir))
	if err == nil {
		err = fs.MkdirAll(r.path(tmpDir), 0o750)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("empty the state store's %s: %w", r.path(tmpDir), err), lock.Close())
	}
	return r, nil
}

func (r *root) path(elem ...string) string {
	return r.fs.PathJoin(append([]string{r.dir}, elem...)...)
}

func generationName(n int) string { return fmt.Sprintf("gen-%06d", n) }

// active returns the number of the active generation; 0 if the store is new.
func (r *root) active() (int, error) {
	b, err := readFile(r.fs, r.path(activeFile))
	if errors.Is(err, os.ErrNotExist) {
		return 0, r.refuseForeign()
	}
	if err != nil {
		return 0, fmt.Errorf("read which generation of the state store is active: %w", err)
	}
	var (
		word    string
		version uint16
		n       int
	)
	line := strings.TrimSpace(string(b))
	if _, err := fmt.Sscanf(line, "%s %d gen-%d", &word, &version, &n); err != nil || word != magic || n < 1 {
		return 0, fmt.Errorf("%w: %s says %q, expected %q", statestore.ErrVersion, r.path(activeFile), line,
			activeLine(1))
	}
	if version != statestore.FormatVersion {
		return 0, fmt.Errorf("%w: %s has version %d, this program reads version %d; "+
			"run the program that wrote it, or rebuild the state from the topics into a new directory",
			statestore.ErrVersion, r.dir, version, statestore.FormatVersion)
	}
	return n, nil
}

// refuseForeign keeps a store from being made in a directory that holds something else.
func (r *root) refuseForeign() error {
	names, err := r.fs.List(r.dir)
	if err != nil {
		return fmt.Errorf("list the state store's directory %s: %w", r.dir, err)
	}
	for _, name := range names {
		if name != "LOCK" && name != tmpDir && !strings.HasPrefix(name, "gen-") {
			return fmt.Errorf("%w: %s holds %q and no %s; expected an empty directory or a state store",
				statestore.ErrVersion, r.dir, name, activeFile)
		}
	}
	return nil
}

func activeLine(n int) string {
	return fmt.Sprintf("%s %d %s\n", magic, statestore.FormatVersion, generationName(n))
}

// activate makes generation n the active one: a write beside, a sync, an atomic rename, a sync of the directory.
func (r *root) activate(n int) error {
	return writeActive(r.fs, r.dir, n)
}

func writeActive(fs vfs.FS, dir string, n int) error {
	beside := fs.PathJoin(dir, activeFile+".new")
	if err := writeFileSync(fs, beside, activeLine(n)); err != nil {
		return fmt.Errorf("write %s: %w", beside, err)
	}
	if err := fs.Rename(beside, fs.PathJoin(dir, activeFile)); err != nil {
		return fmt.Errorf("make generation %d of the state store active: %w", n, err)
	}
	if err := syncDir(fs, dir); err != nil {
		return fmt.Errorf("make generation %d of the state store active: %w", n, err)
	}
	return nil
}

// removeOthers deletes what crashes and swaps left behind.
func (r *root) removeOthers(keep int) error {
	names, err := r.fs.List(r.dir)
	if err != nil {
		return fmt.Errorf("list the state store's directory %s: %w", r.dir, err)
	}
	for _, name := range names {
		if strings.HasPrefix(name, "gen-") && name != generationName(keep) {
			if err := r.fs.RemoveAll(r.path(name)); err != nil {
				return fmt.Errorf("remove an old generation of the state store: %w", err)
			}
		}
	}
	return nil
}

// cloneGeneration makes a generation's directory from the active one of another store. What Pebble never changes once it is written is linked,
// the rest copied: a store that is opened goes on writing in its manifest.
func cloneGeneration(fs vfs.FS, fromStore, to string) error {
	other := &root{fs: fs, dir: fromStore}
	n, err := other.active()
	if err == nil && n == 0 {
		err = fmt.Errorf("%w: there is no %s", statestore.ErrVersion, activeFile)
	}
	var names []string
	from := other.path(generationName(n))
	if err == nil {
		names, err = fs.List(from)
	}
	if err == nil {
		err = makeDir(fs, to)
	}
	for _, name := range names {
		switch {
		case err != nil || name == "LOCK":
		case strings.HasSuffix(name, ".sst"):
			err = vfs.LinkOrCopy(fs, fs.PathJoin(from, name), fs.PathJoin(to, name))
		default:
			err = copyFile(fs, fs.PathJoin(from, name), fs.PathJoin(to, name))
		}
	}
	if err == nil {
		err = syncDir(fs, to)
	}
	if err != nil {
		return fmt.Errorf("begin a generation of the state store with what is in %s: %w", fromStore, err)
	}
	return nil
}

// copyFile copies a file and makes it durable.
func copyFile(fs vfs.FS, from, to string) error {
	b, err := readFile(fs, from)
	if err != nil {
		return err
	}
	return writeFileSync(fs, to, string(b))
}

// unlockedFS takes no locks.
type unlockedFS struct{ vfs.FS }

// Lock implements [vfs.FS].
func (unlockedFS) Lock(string) (io.Closer, error) { return io.NopCloser(nil), nil }

func readFile(fs vfs.FS, path string) (b []byte, err error) {
	f, err := fs.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	return io.ReadAll(f)
}

func writeFileSync(fs vfs.FS, path, content string) error {
	f, err := fs.Create(path, vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	_, err = f.Write([]byte(content))
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// makeDir makes a directory with its parents so that they survive a loss of power: what is synced in a directory is nowhere as
// long as the directory itself is not.
func makeDir(fs vfs.FS, dir string) error {
	if _, err := fs.Stat(dir); err == nil {
		return nil
	}
	if err := fs.MkdirAll(dir, 0o750); err != nil {
		return err
	}
	for parent := fs.PathDir(dir); ; dir, parent = parent, fs.PathDir(parent) {
		if err := syncDir(fs, parent); err != nil {
			return err
		}
		if parent == dir || parent == "." || parent == "/" {
			return nil
		}
	}
}

func syncDir(fs vfs.FS, dir string) error {
	d, err := fs.OpenDir(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
