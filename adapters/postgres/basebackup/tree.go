package basebackup

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// received is what arrived of one file.
type received struct {
	size int64
	crc  uint32
}

// tree is the copy while it is made.
type tree struct {
	root     *os.Root
	path     string
	options  Options
	files    map[string]received
	manifest []byte
	done     int64
	total    int64
	told     time.Time
}

func newTree(root *os.Root, path string, o Options) *tree {
	return &tree{root: root, path: path, options: o, files: map[string]received{}}
}

// reportEvery bounds how often progress is told.
const reportEvery = 200 * time.Millisecond

// report tells how much of the archive the source says it has sent.
func (t *tree) report(done int64) {
	t.done = max(t.done, done)
	if now := t.options.Clock.Now(); now.Sub(t.told) >= reportEvery {
		t.told = now
		t.options.OnProgress(Progress{Phase: "copy", Done: t.done, Total: t.total})
	}
}

// unpack writes the tar below the root, then reads on to the end of r: what follows the archive's end mark is the source's business.
func (t *tree) unpack(ctx context.Context, r io.Reader) error {
	counted := &counter{r: r, t: t}
	archive := tar.NewReader(counted)
	for {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("receive the archive: %w", err)
		}
		if err := t.entry(header, archive); err != nil {
			return fmt.Errorf("receive %q: %w", header.Name, err)
		}
	}
	if _, err := io.Copy(io.Discard, counted); err != nil {
		return fmt.Errorf("receive the archive: %w", err)
	}
	return nil
}

// counter tells progress by what has been received.
type counter struct {
	r io.Reader
	t *tree
	n int64
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	c.t.report(c.n)
	return n, err
}

// entry writes one file or folder.
func (t *tree) entry(header *tar.Header, content io.Reader) error {
	name := filepath.Clean(filepath.FromSlash(header.Name))
	if name == "." {
		return nil
	}
	if !filepath.IsLocal(name) {
		return errors.New("its name leads out of the data directory")
	}
	switch header.Typeflag {
	case tar.TypeDir:
		return t.mkdir(name)
	case tar.TypeReg:
		if err := t.mkdir(filepath.Dir(name)); err != nil {
			return err
		}
		return t.write(name, content)
	case tar.TypeSymlink, tar.TypeLink:
		return fmt.Errorf("it is a link to %q, expected files and folders: %w", header.Linkname, ErrTablespaces)
	default:
		return fmt.Errorf("unexpected kind of entry %q", string(header.Typeflag))
	}
}

func (t *tree) mkdir(name string) error {
	if name == "." {
		return nil
	}
	err := t.root.Mkdir(name, 0o700)
	if errors.Is(err, fs.ErrNotExist) {
		if err := t.mkdir(filepath.Dir(name)); err != nil {
			return err
		}
		err = t.root.Mkdir(name, 0o700)
	}
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return t.options.Own(filepath.Join(t.path, name))
}

func (t *tree) write(name string, content io.Reader) (err error) {
	file, err := t.root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	sum := crc32.New(castagnoli)
	n, err := io.Copy(io.MultiWriter(file, sum), content)
	if err != nil {
		return err
	}
	t.files[filepath.ToSlash(name)] = received{size: n, crc: sum.Sum32()}
	return t.options.Own(filepath.Join(t.path, name))
}

// verify compares what arrived with the manifest.
func (t *tree) verify() error {
	m, err := parseManifest(t.manifest)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	var faults []error
	for _, f := range m {
		got, ok := t.files[f.path]
		switch {
		case !ok:
			faults = append(faults, fmt.Errorf("%s is missing", f.path))
		case got.size != f.size:
			faults = append(faults, fmt.Errorf("%s has %d bytes, expected %d", f.path, got.size, f.size))
		case f.hasCRC && got.crc != f.crc:
			faults = append(faults, fmt.Errorf("%s has checksum %08x, expected %08x", f.path, got.crc, f.crc))
		}
		if len(faults) == 10 {
			break
		}
	}
	if len(faults) > 0 {
		return fmt.Errorf("%w: %w", ErrDamaged, errors.Join(faults...))
	}
	for _, must := range []string{"PG_VERSION", "global/pg_control", "backup_label"} {
		if _, ok := t.files[must]; !ok {
			return fmt.Errorf("%w: %s is missing", ErrDamaged, must)
		}
	}
	return nil
}

// foreign are files of the source that must not speak for the copy: Regent's settings name the source's upstream, passfile and port.
var foreign = []string{"regent.conf", "standby.signal", "recovery.signal", "postmaster.opts"}

// finish removes what is the source's own, stores the manifest and makes everything durable.
func (t *tree) finish(ctx context.Context) error {
	for _, name := range foreign {
		if err := t.root.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove the source's %s: %w", name, err)
		}
	}
	const name = "backup_manifest"
	if err := t.root.WriteFile(name, t.manifest, 0o600); err != nil {
		return fmt.Errorf("store the manifest: %w", err)
	}
	if err := t.options.Own(filepath.Join(t.path, name)); err != nil {
		return fmt.Errorf("store the manifest: %w", err)
	}
	if t.options.NoSync {
		return nil
	}
	return filepath.WalkDir(t.path, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if entry.IsDir() || entry.Type().IsRegular() {
			return syncPath(path)
		}
		return fmt.Errorf("unexpected %s in the copy", strings.TrimPrefix(path, t.path))
	})
}
