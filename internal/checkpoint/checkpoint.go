package checkpoint

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/regent-infra/regent/internal/clock"
	"github.com/regent-infra/regent/statestore"
	"github.com/regent-infra/regent/statestore/pebblestore"
)

// Names inside of a checkpoint's directory.
const (
	manifestFile = "checkpoint.json"
	storeDir     = "store"
)

// unfinished is what the name of a directory ends in as long as it is not complete, or on its way out.
const unfinished = ".unfinished"

// Checkpoint is a complete checkpoint in a directory.
type Checkpoint struct {
	Manifest

	dir string
}

// Dir returns the directory.
func (c *Checkpoint) Dir() string { return c.dir }

// Options say how a checkpoint is made.
type Options struct {
	// Program is the version of the program, for people.
	Program string
	// Clock tells the time. Default: the machine's.
	Clock clock.Clock
}

// Create copies what was applied to a store into dir, which must not exist; it is made with its parents. The store may be in use meanwhile, and
// must be one of pebblestore.
func Create(ctx context.Context, store statestore.Store, dir string, o Options) (*Checkpoint, error) {
	if o.Clock == nil {
		o.Clock = clock.System{}
	}
	c, err := beside(dir, func(beside string) (*Manifest, error) {
		m := &Manifest{Format: FormatVersion, StoreFormat: statestore.FormatVersion, CreatedAt: o.Clock.Now().UTC(), Program: o.Program}
		if err := store.Checkpoint(filepath.Join(beside, storeDir)); err != nil {
			return nil, err
		}
		if err := m.describe(filepath.Join(beside, storeDir)); err != nil {
			return nil, err
		}
		return m, m.digest(ctx, filepath.Join(beside, storeDir))
	})
	if err != nil {
		return nil, fmt.Errorf("make the checkpoint %s: %w", dir, err)
	}
	return c, nil
}

// Open returns the checkpoint in dir. It looks at the manifest alone, see [Checkpoint.Verify]. The error wraps [ErrNotFound], [ErrDamaged] or
// [ErrVersion].
func Open(dir string) (*Checkpoint, error) {
	raw, err := os.ReadFile(filepath.Join(dir, manifestFile)) //nolint:gosec // the caller names its own checkpoint
	if errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("%w: there is no %s", ErrNotFound, manifestFile)
	}
	var m *Manifest
	if err == nil {
		m, err = decodeManifest(raw)
	}
	if err != nil {
		return nil, fmt.Errorf("open the checkpoint %s: %w", dir, err)
	}
	return &Checkpoint{Manifest: *m, dir: dir}, nil
}

// Verify reads every file and compares it with the manifest. The error wraps [ErrDamaged] and names every file that differs.
func (c *Checkpoint) Verify(ctx context.Context) error {
	found := Manifest{}
	err := found.digest(ctx, filepath.Join(c.dir, storeDir))
	if err == nil {
		err = c.compare(found.Files)
	}
	if err != nil {
		return fmt.Errorf("verify the checkpoint %s: %w", c.dir, err)
	}
	return nil
}

// compare returns how files differ from those of the manifest.
func (c *Checkpoint) compare(found []File) error {
	var errs []error
	for _, f := range c.Files {
		i, ok := slices.BinarySearchFunc(found, f.Name, func(f File, name string) int { return compareNames(f.Name, name) })
		switch {
		case !ok:
			errs = append(errs, fmt.Errorf("%w: %s is missing", ErrDamaged, f.Name))
		case found[i] != f:
			errs = append(errs, fmt.Errorf("%w: %s has %d bytes and the digest %s, expected %d bytes and %s",
				ErrDamaged, f.Name, found[i].Size, found[i].SHA256, f.Size, f.SHA256))
		}
	}
	for _, f := range found {
		if _, ok := slices.BinarySearchFunc(c.Files, f.Name, func(f File, name string) int { return compareNames(f.Name, name) }); !ok {
			errs = append(errs, fmt.Errorf("%w: %s does not belong to it", ErrDamaged, f.Name))
		}
	}
	return errors.Join(errs...)
}

// OpenStore opens the state for reading. Any number of readers can have it open; close it.
func (c *Checkpoint) OpenStore() (statestore.Store, error) {
	s, err := pebblestore.OpenReadOnly(pebblestore.Options{Dir: filepath.Join(c.dir, storeDir)})
	if err != nil {
		return nil, fmt.Errorf("open the state in the checkpoint %s: %w", c.dir, err)
	}
	return s, nil
}

// Stage begins a generation of the store in o.Dir with the state of the checkpoint, see [pebblestore.StageFrom]: promote it to make it count.
// Verify before, if the files are not beyond doubt.
func (c *Checkpoint) Stage(o pebblestore.Options) (*pebblestore.Store, error) {
	s, err := pebblestore.StageFrom(o, filepath.Join(c.dir, storeDir))
	if err != nil {
		return nil, fmt.Errorf("begin with the checkpoint %s: %w", c.dir, err)
	}
	return s, nil
}

// describe reads cluster and positions from the copy of a store.
func (m *Manifest) describe(dir string) error {
	s, err := pebblestore.OpenReadOnly(pebblestore.Options{Dir: dir})
	if err != nil {
		return err
	}
	m.Tasks, m.ClusterID, err = positionsOf(s)
	return errors.Join(err, s.Close())
}

// digest lists the files of a store with their digests.
func (m *Manifest) digest(ctx context.Context, dir string) error {
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		f := File{Name: filepath.ToSlash(name)}
		f.Size, f.SHA256, err = digestFile(path)
		m.Files = append(m.Files, f)
		return err
	})
	slices.SortFunc(m.Files, func(a, b File) int { return compareNames(a.Name, b.Name) })
	return err
}

func compareNames(a, b string) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	default:
		return 0
	}
}

func digestFile(path string) (size int64, sum string, err error) {
	f, err := os.Open(path) //nolint:gosec // a file of the checkpoint
	if err != nil {
		return 0, "", err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	h := sha256.New()
	size, err = io.Copy(h, f)
	return size, hex.EncodeToString(h.Sum(nil)), err
}

// beside makes a directory under another name, completes it with the manifest, and renames it. Whatever fails, nothing is left.
func beside(dir string, fill func(beside string) (*Manifest, error)) (_ *Checkpoint, err error) {
	if _, err := os.Lstat(dir); err == nil {
		return nil, fmt.Errorf("%w: expected a name that is not taken", ErrExists)
	}
	temporary := dir + unfinished
	if err := os.RemoveAll(temporary); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(temporary, 0o750); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(temporary))
		}
	}()
	m, err := fill(temporary)
	if err != nil {
		return nil, err
	}
	raw, err := m.encode()
	if err == nil {
		err = writeFile(filepath.Join(temporary, manifestFile), raw)
	}
	if err == nil {
		err = syncTree(temporary)
	}
	if err == nil {
		err = os.Rename(temporary, dir)
	}
	if err == nil {
		err = syncDir(filepath.Dir(dir))
	}
	if err != nil {
		return nil, err
	}
	return &Checkpoint{Manifest: *m, dir: dir}, nil
}

func writeFile(path string, raw []byte) (err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o640) //nolint:gosec // readable by the group, like the rest of the data directory
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if _, err := f.Write(raw); err != nil {
		return err
	}
	return f.Sync()
}

// syncTree makes the entries of all directories in dir durable; files are synced by who writes them.
func syncTree(dir string) error {
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return err
		}
		return syncDir(path)
	})
}

func syncDir(dir string) (err error) {
	d, err := os.Open(dir) //nolint:gosec // a directory of ours
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	return d.Sync()
}
