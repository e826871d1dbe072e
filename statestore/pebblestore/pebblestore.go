package pebblestore

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2"

	"github.com/regent-infra/regent/statestore"
)

// Store is a state store in a Pebble database.
type Store struct {
	opts       Options
	root       *root
	generation int
	staged     bool
	readOnly   bool
	db         *pebble.DB
	failure    *failure
	closed     atomic.Bool
	tables     atomic.Uint64 // names of tables being built

	// order keeps small batches, which are not durable yet, from falling between two that are: see applyTables.
	order sync.RWMutex
}

var _ statestore.Store = (*Store)(nil)

// Open opens the store in o.Dir, and makes it if there is none. Errors wrap [statestore.ErrInUse], [statestore.ErrVersion] or
// say what the file system said.
func Open(o Options) (*Store, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	o = o.withDefaults()
	r, err := openRoot(o.FS, o.Dir)
	if err != nil {
		return nil, err
	}
	n, err := r.active()
	fresh := n == 0
	if fresh {
		n = 1
	}
	if err == nil {
		err = r.removeOthers(map[bool]int{true: 0, false: n}[fresh]) // a new store starts from nothing
	}
	var s *Store
	if err == nil {
		s, err = openGeneration(o, r, n)
	}
	if err == nil && fresh {
		if err = r.activate(n); err != nil {
			err = errors.Join(err, s.db.Close())
		}
	}
	if err != nil {
		return nil, errors.Join(err, r.lock.Close())
	}
	return s, nil
}

// Stage opens an empty generation beside the active one, for a rebuild. Nothing of it counts until [Store.Promote]; closed
// without that, it is removed, after a crash at the next open.
func Stage(o Options) (*Store, error) {
	return stage(o, func(string) error { return nil })
}

// StageFrom is [Stage], but the generation begins as the store in another directory, which nobody has open: a checkpoint. Tables are
// linked where the file system can, and copied elsewhere; that store stays as it is.
func StageFrom(o Options, from string) (*Store, error) {
	o = o.withDefaults()
	return stage(o, func(dir string) error { return cloneGeneration(o.FS, from, dir) })
}

// stage opens the generation after the active one, once fill has put its beginnings into the directory. What is active stays as it is, also when
// it cannot be read.
func stage(o Options, fill func(dir string) error) (*Store, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	o = o.withDefaults()
	r, err := openRoot(o.FS, o.Dir)
	if err != nil {
		return nil, err
	}
	n, err := r.active()
	if err == nil {
		err = r.removeOthers(n)
	}
	if err != nil {
		return nil, errors.Join(err, r.lock.Close())
	}
	dir := r.path(generationName(n + 1))
	var s *Store
	if err = fill(dir); err == nil {
		s, err = openGeneration(o, r, n+1)
	}
	if err != nil {
		return nil, errors.Join(err, o.FS.RemoveAll(dir), r.lock.Close())
	}
	s.staged = true
	return s, nil
}

// OpenReadOnly opens the store in o.Dir for reading alone: nothing in the directory is changed, and no lock taken, so any number of readers can
// have it open. It is for stores that nobody writes to: checkpoints. Whatever writes returns an error.
func OpenReadOnly(o Options) (*Store, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	o = o.withDefaults()
	r := &root{fs: o.FS, dir: o.Dir, lock: nil}
	n, err := r.active()
	if err == nil && n == 0 {
		err = fmt.Errorf("%w: %s holds no %s; expected the directory of a state store", statestore.ErrVersion, o.Dir, activeFile)
	}
	if err != nil {
		return nil, err
	}
	o.FS = unlockedFS{o.FS}
	return openGenerationAs(o, r, n, true)
}

func openGeneration(o Options, r *root, n int) (*Store, error) {
	return openGenerationAs(o, r, n, false)
}

func openGenerationAs(o Options, r *root, n int, readOnly bool) (*Store, error) {
	s := &Store{opts: o, root: r, generation: n, failure: newFailure(), readOnly: readOnly}
	armed := &atomic.Bool{}
	po := o.pebble(s.failure)
	po.ReadOnly = readOnly
	po.FS = &stopFS{FS: o.FS, dir: o.Dir, failure: s.failure, armed: armed}
	cache := pebble.NewCache(o.CacheBytes)
	defer cache.Unref()
	po.Cache = cache
	err := s.failure.guard("open the state store in "+r.path(generationName(n)), func() error {
		db, err := pebble.Open(r.path(generationName(n)), po)
		s.db = db
		return err
	})
	if err != nil {
		return nil, err
	}
	if !readOnly {
		err = syncDir(o.FS, o.Dir) // the generation's own directory
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open the state store in %s: %w", o.Dir, err), s.db.Close())
	}
	if _, _, err := statestore.ReadMeta(s); err != nil {
		return nil, errors.Join(fmt.Errorf("open the state store in %s: %w", o.Dir, err), s.db.Close())
	}
	armed.Store(true)
	return s, nil
}

// usable returns why the store takes no reads.
func (s *Store) usable(op string) error {
	if s.closed.Load() {
		return fmt.Errorf("%s: %w", op, statestore.ErrClosed)
	}
	return nil
}

// Get implements [statestore.Store].
func (s *Store) Get(key []byte) ([]byte, bool, error) {
	if err := s.usable("get"); err != nil {
		return nil, false, err
	}
	v, closer, err := s.db.Get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, fmt.Errorf("get from the state store: %w", err)
	}
	value := append([]byte{}, v...)
	if err := closer.Close(); err != nil {
		return nil, false, fmt.Errorf("get from the state store: %w", err)
	}
	return value, true, nil
}

// Scan implements [statestore.Store].
func (s *Store) Scan(lower, upper []byte) (statestore.Iterator, error) {
	if err := s.usable("scan"); err != nil {
		return nil, err
	}
	it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: lower, UpperBound: upper})
	if err != nil {
		return nil, fmt.Errorf("scan the state store: %w", err)
	}
	return &iterator{it: it}, nil
}

// Apply implements [statestore.Store].
func (s *Store) Apply(b *statestore.Batch) error {
	if err := s.usable("apply a batch"); err != nil {
		return err
	}
	if b.Bytes() >= s.opts.TableBytes && !b.Ranges() {
		return s.failure.guard("add a batch to the state store as tables", func() error { return s.applyTables(b) })
	}
	return s.failure.guard("apply a batch to the state store", func() error {
		s.order.RLock()
		defer s.order.RUnlock()
		batch := s.db.NewBatchWithSize(b.Bytes() + 16*b.Len())
		for _, op := range b.Ops() {
			var err error
			switch {
			case op.End != nil:
				err = batch.DeleteRange(op.Key, op.End, nil)
			case op.Value == nil:
				err = batch.Delete(op.Key, nil)
			default:
				err = batch.Set(op.Key, op.Value, nil)
			}
			if err != nil {
				return errors.Join(err, batch.Close())
			}
		}
		return errors.Join(batch.Commit(pebble.NoSync), batch.Close())
	})
}

// applyTables adds a batch as sorted tables. It is atomic like any other, costs a tenth of the time, and leaves nothing in the log
// that the next open would have to replay.
func (s *Store) applyTables(b *statestore.Batch) error {
	paths, err := s.build(context.Background(), &builder{store: s}, nil, nil, b.Sorted())
	if err != nil || len(paths) == 0 {
		return err
	}
	// What is added as files is durable at once. So must be what came before, or a loss of power would leave a hole instead of a prefix.
	s.order.Lock()
	defer s.order.Unlock()
	if err := s.db.LogData(nil, pebble.Sync); err != nil {
		return err
	}
	return s.db.Ingest(context.Background(), paths)
}

// Flush implements [statestore.Store].
func (s *Store) Flush() error {
	if err := s.usable("flush"); err != nil {
		return err
	}
	return s.failure.guard("flush the state store", s.db.Flush)
}

// Checkpoint implements [statestore.Store]. The copy is a store of its own: open it with [Open].
func (s *Store) Checkpoint(dir string) error {
	if err := s.Flush(); err != nil { // a checkpoint links tables, but would copy the log
		return err
	}
	fs := s.opts.FS
	if _, err := fs.Stat(dir); err == nil {
		return fmt.Errorf("checkpoint the state store into %s: it exists; expected a new directory", dir)
	}
	return s.failure.guard("checkpoint the state store into "+dir, func() error {
		if err := makeDir(fs, dir); err != nil {
			return err
		}
		if err := s.db.Checkpoint(fs.PathJoin(dir, generationName(1)), pebble.WithFlushedWAL()); err != nil {
			return err
		}
		return writeActive(fs, dir, 1)
	})
}

// Usage implements [statestore.Store].
func (s *Store) Usage() statestore.Usage {
	if s.closed.Load() {
		return statestore.Usage{}
	}
	m := s.db.Metrics()
	return statestore.Usage{DiskBytes: m.DiskSpaceUsage(), MemoryBytes: m.MemTable.Size + uint64(m.BlockCache.Size)}
}

// Promote makes a staged generation the active one and removes the one before. The store must be closed afterwards.
func (s *Store) Promote() error {
	if !s.staged {
		return errors.New("promote the state store: it is not staged; expected one from Stage")
	}
	if err := s.Flush(); err != nil {
		return err
	}
	s.staged = false // from here on the generation may be the active one, whatever an error says
	if err := s.root.activate(s.generation); err != nil {
		return err
	}
	return s.root.removeOthers(s.generation)
}

// Scratch returns a directory inside of the store's own for work that need not last: it is emptied at each open. It need not exist.
func (s *Store) Scratch(name string) string { return s.root.path(tmpDir, name) }

// Close implements [statestore.Store]. It flushes, so that the next open need not replay a log.
func (s *Store) Close() error {
	if s.closed.Swap(true) {
		return fmt.Errorf("close the state store: %w", statestore.ErrClosed)
	}
	if s.readOnly {
		return s.failure.guard("close the state store", s.db.Close)
	}
	failed := s.failure.get()
	err := s.failure.guard("close the state store", func() error {
		return errors.Join(s.db.Flush(), s.db.Close())
	})
	if failed != nil {
		err = nil // it was told when it happened; the files are as the last good write left them
	}
	if s.staged {
		err = errors.Join(err, s.opts.FS.RemoveAll(s.root.path(generationName(s.generation))))
	}
	return errors.Join(err, s.root.lock.Close())
}

type iterator struct {
	it      *pebble.Iterator
	started bool
	closed  bool
}

func (i *iterator) Next() bool {
	if !i.started {
		i.started = true
		return i.it.First()
	}
	return i.it.Next()
}

func (i *iterator) Key() []byte   { return i.it.Key() }
func (i *iterator) Value() []byte { return i.it.Value() }

func (i *iterator) Err() error {
	if i.closed {
		return nil
	}
	return i.it.Error()
}

func (i *iterator) Close() error {
	if i.closed {
		return nil
	}
	i.closed = true
	return i.it.Close()
}
