package server

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// writeFile replaces a file atomically and durably, owned by the server's user: after a crash the old or the new content is there,
// whole. The temporary file is created exclusively, so a planted link cannot lead root astray.
func (id identity) writeFile(path string, content []byte, mode os.FileMode) error {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, ".regent-*")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := id.fill(f, content, mode); err != nil {
		return fmt.Errorf("write %s: %w", path, errors.Join(err, f.Close(), os.Remove(f.Name())))
	}
	err = f.Close()
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", path, errors.Join(err, os.Remove(f.Name())))
	}
	return syncDir(dir)
}

func (id identity) fill(f *os.File, content []byte, mode os.FileMode) error {
	if _, err := f.Write(content); err != nil {
		return err
	}
	if err := f.Chmod(mode); err != nil {
		return err
	}
	if id.drop {
		if err := f.Chown(id.uid, id.gid); err != nil {
			return err
		}
	}
	return f.Sync()
}

// ensureFile is writeFile that spares the disk when the content is there already, from an earlier writeFile.
func (id identity) ensureFile(path string, content []byte, mode os.FileMode) error {
	if old, err := os.ReadFile(path); err == nil && bytes.Equal(old, content) {
		return nil
	}
	return id.writeFile(path, content, mode)
}

// removeFile removes a file durably; that it is missing is no error.
func removeFile(path string) error {
	if err := os.Remove(path); err != nil {
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		return err
	}
	return syncDir(filepath.Dir(path))
}

// syncDir makes renames, creations and removals in a folder durable.
func syncDir(dir string) (err error) {
	f, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("sync folder %s: %w", dir, err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if err := f.Sync(); err != nil {
		return fmt.Errorf("sync folder %s: %w", dir, err)
	}
	return nil
}
