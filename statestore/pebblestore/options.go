package pebblestore

import (
	"errors"
	"fmt"
	"log/slog"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"
	"github.com/cockroachdb/pebble/v2/sstable/block"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// Defaults of [Options].
const (
	DefaultCacheBytes    = 64 << 20
	DefaultMemTableBytes = 64 << 20
	DefaultTableBytes    = 4 << 20
)

// formatMajorVersion is the oldest Pebble format that a new store gets; an older program refuses it, a newer one reads it.
const formatMajorVersion = pebble.FormatTableFormatV6

// InitialBytes is the disk space, bytes, that a new store with default options takes after its first few hundred kilobytes: Pebble
// allocates the file of its write-ahead log ahead, a tenth longer than a memtable, and keeps one more to use again. Under load there are
// up to five of them.
const InitialBytes = 2*(DefaultMemTableBytes+DefaultMemTableBytes/10) + 1<<20

// Options say where a store is and how much memory it takes.
type Options struct {
	// Dir is the store's directory; it is made if it is not there. Required.
	Dir string
	// CacheBytes bounds the cache of uncompressed blocks. Default [DefaultCacheBytes] (64 MiB); at least 1 MiB.
	CacheBytes int64
	// MemTableBytes is the size at which a memtable is written out as a table. Default [DefaultMemTableBytes] (64 MiB; Pebble's
	// own 4 MiB costs two thirds of the write rate); at least 1 MiB, at most 1 GiB.
	MemTableBytes int64
	// TableBytes is the size from which a batch is written as sorted tables of its own and added as files, past log and memtable.
	// Default [DefaultTableBytes] (4 MiB); at least 1.
	TableBytes int
	// FS is the file system. Default: the machine's. Tests put one that fails or crashes here.
	FS vfs.FS
	// Logger takes Pebble's own messages, at debug level. Default: none.
	Logger *slog.Logger
}

func (o Options) withDefaults() Options {
	if o.CacheBytes == 0 {
		o.CacheBytes = DefaultCacheBytes
	}
	if o.MemTableBytes == 0 {
		o.MemTableBytes = DefaultMemTableBytes
	}
	if o.TableBytes == 0 {
		o.TableBytes = DefaultTableBytes
	}
	if o.FS == nil {
		o.FS = vfs.Default
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return o
}

// Validate reports every fault of the options together.
func (o Options) Validate() error {
	var errs []error
	if o.Dir == "" {
		errs = append(errs, errors.New("state store: Dir is empty: expected a directory"))
	}
	if o.CacheBytes != 0 && o.CacheBytes < 1<<20 {
		errs = append(errs, fmt.Errorf("state store: CacheBytes is %d: expected at least %d", o.CacheBytes, 1<<20))
	}
	if o.MemTableBytes != 0 && (o.MemTableBytes < 1<<20 || o.MemTableBytes > 1<<30) {
		errs = append(errs, fmt.Errorf("state store: MemTableBytes is %d: expected %d to %d", o.MemTableBytes, 1<<20, 1<<30))
	}
	if o.TableBytes < 0 {
		errs = append(errs, fmt.Errorf("state store: TableBytes is %d: expected at least 1", o.TableBytes))
	}
	return errors.Join(errs...)
}

// pebble builds the database's options. Everything that matters is set here and not left to a default.
func (o Options) pebble(f *failure) *pebble.Options {
	po := &pebble.Options{
		FS:                          o.FS,
		FormatMajorVersion:          formatMajorVersion,
		MemTableSize:                uint64(o.MemTableBytes),
		MemTableStopWritesThreshold: 4,
		L0CompactionThreshold:       8,
		L0StopWritesThreshold:       20,
		LBaseMaxBytes:               64 << 20,
		Logger:                      logger{log: o.Logger, failure: f},
		EventListener:               &pebble.EventListener{BackgroundError: f.set},
	}
	for i := range po.Levels {
		po.Levels[i].FilterPolicy = bloom.FilterPolicy(10)
		po.Levels[i].FilterType = pebble.TableFilter
		// What is not in the lowest level is merged soon: compressing it costs more than it saves.
		po.Levels[i].Compression = func() *block.CompressionProfile { return block.NoCompression }
	}
	po.Levels[len(po.Levels)-1].Compression = func() *block.CompressionProfile { return block.SnappyCompression }
	po.EnsureDefaults()
	return po
}
