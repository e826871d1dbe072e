package binary

import (
	"archive/tar"
	"archive/zip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/xi2/xz"
)

// Limits on what an archive may contain, about ten times what the real ones do.
const (
	maxUnpacked = 2 << 30 // bytes
	maxEntries  = 100_000
)

// unpackJar unpacks the .txz that a jar holds into the new folder dir.
func unpackJar(ctx context.Context, jar, dir string, report func(Progress)) (err error) {
	archive, err := zip.OpenReader(jar)
	if err != nil {
		return fmt.Errorf("open the jar: %w", err)
	}
	defer func() { err = errors.Join(err, archive.Close()) }()
	for _, f := range archive.File {
		if strings.HasSuffix(f.Name, ".txz") {
			inner, err := f.Open()
			if err != nil {
				return fmt.Errorf("open %s in the jar: %w", f.Name, err)
			}
			defer func() { _ = inner.Close() }()
			size := int64(min(f.UncompressedSize64, maxArchive)) //nolint:gosec // bounded
			counted := io.TeeReader(io.LimitReader(inner, maxArchive), &progressWriter{phase: "unpack", total: size, report: report})
			return unpackTxz(ctx, counted, dir)
		}
	}
	return errors.New("the jar holds no .txz")
}

// unpackTxz writes a compressed tar below dir, which must not exist. os.Root keeps every name and link inside.
func unpackTxz(ctx context.Context, r io.Reader, dir string) error {
	if err := makeOpenDir(dir); err != nil {
		return err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer func() { _ = root.Close() }()
	plain, err := xz.NewReader(r, 0)
	if err != nil {
		return fmt.Errorf("read xz: %w", err)
	}
	left := int64(maxUnpacked)
	archive := tar.NewReader(plain)
	for n := 0; ; n++ {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read tar: %w", err)
		}
		if left -= header.Size; left < 0 || n >= maxEntries {
			return fmt.Errorf("the archive is larger than %d bytes or %d entries", int64(maxUnpacked), maxEntries)
		}
		if err := unpackEntry(root, header, archive); err != nil {
			return fmt.Errorf("entry %q: %w", header.Name, err)
		}
	}
}

func unpackEntry(root *os.Root, header *tar.Header, content io.Reader) error {
	name := filepath.Clean(filepath.FromSlash(header.Name))
	if name == "." {
		return nil
	}
	if !filepath.IsLocal(name) {
		return errors.New("the name leads out of the archive")
	}
	if err := root.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	switch header.Typeflag {
	case tar.TypeDir:
		if err := root.MkdirAll(name, 0o755); err != nil {
			return err
		}
		return root.Chmod(name, 0o755)
	case tar.TypeReg:
		mode := fs.FileMode(0o644)
		if header.Mode&0o111 != 0 {
			mode = 0o755
		}
		return unpackFile(root, name, mode, content)
	case tar.TypeSymlink:
		if filepath.IsAbs(header.Linkname) || !filepath.IsLocal(filepath.Join(filepath.Dir(name), header.Linkname)) {
			return fmt.Errorf("the link to %q leads out of the archive", header.Linkname)
		}
		return root.Symlink(header.Linkname, name)
	default:
		return fmt.Errorf("unexpected kind of entry %q", string(header.Typeflag))
	}
}

// unpackFile holds off every fork of this process while a program is open for writing: a child that is forked meanwhile, by whatever
// goroutine, has the file open until it execs, and running the program fails with "text file busy" for that long.
func unpackFile(root *os.Root, name string, mode fs.FileMode, content io.Reader) (err error) {
	if mode&0o111 != 0 {
		syscall.ForkLock.RLock()
		defer syscall.ForkLock.RUnlock()
	}
	file, err := root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, mode)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	if _, err = io.Copy(file, content); err != nil { // sizes are bounded by the caller
		return err
	}
	return file.Chmod(mode) // whatever the umask
}
