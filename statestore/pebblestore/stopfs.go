package pebblestore

import (
	"errors"
	"strings"
	"sync/atomic"
	"syscall"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// stopFS keeps the errors of a full or broken disk from Pebble: where one cannot be survived, Pebble ends the process, sometimes
// from inside of a lock, so that nothing can be said any more. Instead the store has failed from then on, and the goroutine that
// met the error stands still for ever, as if the disk were very slow. Whoever waits for it is told by [failure.guard].
//
// It is not armed while the database is opened: there, errors are simply returned. It looks only at the store's own directory,
// because a checkpoint may go to another disk.
type stopFS struct {
	vfs.FS
	dir     string
	failure *failure
	armed   *atomic.Bool
}

var (
	_ vfs.FS   = (*stopFS)(nil)
	_ vfs.File = (*stopFile)(nil)
)

// diskErrors are those that say that a disk takes no writes.
var diskErrors = []error{
	syscall.ENOSPC, syscall.EDQUOT, syscall.EIO, syscall.EROFS, syscall.ENXIO, syscall.ENODEV, syscall.ESTALE, syscall.EFBIG,
}

func (s *stopFS) check(name string, err error) error {
	if err == nil || !s.armed.Load() || !strings.HasPrefix(name, s.dir) {
		return err
	}
	for _, d := range diskErrors {
		if errors.Is(err, d) {
			s.failure.set(err)
			select {} // see the type's comment
		}
	}
	return err
}

func (s *stopFS) file(name string, f vfs.File, err error) (vfs.File, error) {
	if err := s.check(name, err); err != nil {
		return nil, err
	}
	return &stopFile{File: f, fs: s, name: name}, nil
}

// Create implements [vfs.FS].
func (s *stopFS) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := s.FS.Create(name, c)
	return s.file(name, f, err)
}

// OpenReadWrite implements [vfs.FS].
func (s *stopFS) OpenReadWrite(name string, c vfs.DiskWriteCategory, opts ...vfs.OpenOption) (vfs.File, error) {
	f, err := s.FS.OpenReadWrite(name, c, opts...)
	return s.file(name, f, err)
}

// ReuseForWrite implements [vfs.FS].
func (s *stopFS) ReuseForWrite(oldname, newname string, c vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := s.FS.ReuseForWrite(oldname, newname, c)
	return s.file(newname, f, err)
}

// OpenDir implements [vfs.FS]: directories are opened to be synced.
func (s *stopFS) OpenDir(name string) (vfs.File, error) {
	f, err := s.FS.OpenDir(name)
	return s.file(name, f, err)
}

// Link implements [vfs.FS].
func (s *stopFS) Link(oldname, newname string) error {
	return s.check(newname, s.FS.Link(oldname, newname))
}

// Rename implements [vfs.FS].
func (s *stopFS) Rename(oldname, newname string) error {
	return s.check(newname, s.FS.Rename(oldname, newname))
}

// Unwrap implements [vfs.FS].
func (s *stopFS) Unwrap() vfs.FS { return s.FS }

// stopFile is a file of a [stopFS] that is written to.
type stopFile struct {
	vfs.File
	fs   *stopFS
	name string
}

// Write implements [vfs.File].
func (f *stopFile) Write(p []byte) (int, error) {
	n, err := f.File.Write(p)
	return n, f.fs.check(f.name, err)
}

// WriteAt implements [vfs.File].
func (f *stopFile) WriteAt(p []byte, off int64) (int, error) {
	n, err := f.File.WriteAt(p, off)
	return n, f.fs.check(f.name, err)
}

// Preallocate implements [vfs.File].
func (f *stopFile) Preallocate(offset, length int64) error {
	return f.fs.check(f.name, f.File.Preallocate(offset, length))
}

// Sync implements [vfs.File].
func (f *stopFile) Sync() error { return f.fs.check(f.name, f.File.Sync()) }

// SyncData implements [vfs.File].
func (f *stopFile) SyncData() error { return f.fs.check(f.name, f.File.SyncData()) }

// SyncTo implements [vfs.File].
func (f *stopFile) SyncTo(length int64) (bool, error) {
	full, err := f.File.SyncTo(length)
	return full, f.fs.check(f.name, err)
}
