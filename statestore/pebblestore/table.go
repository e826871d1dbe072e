package pebblestore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/objstorage/objstorageprovider"
	"github.com/cockroachdb/pebble/v2/sstable"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// tableBytes is the size at which the next table is begun.
const tableBytes = 64 << 20

// Load implements [statestore.Store]: it builds sorted tables beside the database and adds them.
func (s *Store) Load(ctx context.Context, entries iter.Seq2[[]byte, []byte]) error {
	if err := s.usable("load"); err != nil {
		return err
	}
	return s.failure.guard("load into the state store", func() error {
		paths, err := s.build(ctx, &builder{store: s, lasting: true}, nil, nil, entries)
		if err != nil || len(paths) == 0 {
			return err
		}
		return s.db.Ingest(ctx, paths)
	})
}

// Replace implements [statestore.Store]: it builds sorted tables, and adds them and cuts the span out of all others in one
// step.
func (s *Store) Replace(ctx context.Context, lower, upper []byte, entries iter.Seq2[[]byte, []byte]) error {
	if err := s.usable("replace"); err != nil {
		return err
	}
	return s.failure.guard("replace a span of the state store", func() error {
		paths, err := s.build(ctx, &builder{store: s, lasting: true}, lower, upper, entries)
		if err != nil {
			return err
		}
		if len(paths) == 0 {
			return s.db.DeleteRange(lower, upper, pebble.Sync)
		}
		_, err = s.db.IngestAndExcise(ctx, paths, nil, nil, pebble.KeyRange{Start: lower, End: upper})
		return err
	})
}

// build has a builder write the entries to tables in the store's tmp directory and returns their paths. Where upper is set, keys outside of
// [lower, upper) are an error.
func (s *Store) build(ctx context.Context, b *builder, lower, upper []byte, entries iter.Seq2[[]byte, []byte]) ([]string, error) {
	var last []byte
	for k, v := range entries {
		err := ctx.Err()
		switch {
		case err != nil:
			err = context.Cause(ctx)
		case upper != nil && (bytes.Compare(k, lower) < 0 || bytes.Compare(k, upper) >= 0):
			err = fmt.Errorf("key %x is outside of the span %x to %x", k, lower, upper)
		case last != nil && bytes.Compare(last, k) >= 0:
			err = fmt.Errorf("key %x does not follow %x: expected strictly ascending keys", k, last)
		default:
			err = b.add(k, v)
		}
		if err != nil {
			return nil, errors.Join(err, b.abandon())
		}
		last = append(last[:0], k...)
	}
	if err := b.finish(); err != nil {
		return nil, errors.Join(err, b.abandon())
	}
	return b.paths, nil
}

// builder writes entries to one table after the other.
type builder struct {
	store *Store
	// lasting tables are made for the lowest level; others are soon merged into it.
	lasting bool
	w       *sstable.Writer
	paths   []string
}

func (b *builder) add(key, value []byte) error {
	if b.w != nil && b.w.Raw().EstimatedSize() >= tableBytes {
		if err := b.finish(); err != nil {
			return err
		}
	}
	if b.w == nil {
		s := b.store
		path := s.root.path(tmpDir, fmt.Sprintf("%06d.sst", s.tables.Add(1)))
		f, err := s.opts.FS.Create(path, vfs.WriteCategoryUnspecified)
		if err != nil {
			return err
		}
		b.paths = append(b.paths, path)
		// The options of level 0, wherever the table ends up: those of the lowest level mark deletions as obsolete, and they would
		// hide nothing any more.
		po := s.opts.pebble(s.failure)
		wo := po.MakeWriterOptions(0, s.db.FormatMajorVersion().MaxTableFormat())
		if b.lasting {
			wo.Compression = po.Levels[len(po.Levels)-1].Compression()
		}
		b.w = sstable.NewWriter(objstorageprovider.NewFileWritable(f), wo)
	}
	if value == nil {
		return b.w.Delete(key)
	}
	return b.w.Set(key, value)
}

func (b *builder) finish() error {
	if b.w == nil {
		return nil
	}
	w := b.w
	b.w = nil
	return w.Close()
}

// abandon removes what was built.
func (b *builder) abandon() error {
	errs := []error{b.finish()}
	for _, p := range b.paths {
		errs = append(errs, b.store.opts.FS.Remove(p))
	}
	return errors.Join(errs...)
}
