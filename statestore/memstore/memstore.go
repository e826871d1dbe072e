// Package memstore is a state store in memory: for tests, simulations and processes without a disk. It keeps the contract of
// [statestore.Store] to the letter, except that nothing survives the process.
package memstore

import (
	"bytes"
	"context"
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"sync"

	"github.com/RaduBerinde/btreemap"

	"github.com/regent-infra/regent/statestore"
)

const degree = 16

// Store is a state store in memory.
type Store struct {
	mu     sync.RWMutex
	m      *btreemap.BTreeMap[[]byte, []byte]
	bytes  uint64
	failed error
	closed bool
}

var _ statestore.Store = (*Store)(nil)

// New returns an empty store.
func New() *Store {
	return &Store{m: btreemap.New[[]byte, []byte](degree, bytes.Compare)}
}

// Clone returns an independent copy as of now: what a checkpoint, or a machine that died at this moment, would hold.
func (s *Store) Clone() *Store {
	s.mu.Lock()
	defer s.mu.Unlock()
	return &Store{m: s.m.Clone(), bytes: s.bytes}
}

// Fail makes every later operation fail with an error that wraps err and [statestore.ErrFailed], as a broken disk would; nil
// heals it.
func (s *Store) Fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failed = err
}

// usable returns why the store takes no operation; the caller holds the lock.
func (s *Store) usable(op string) error {
	switch {
	case s.closed:
		return fmt.Errorf("%s: %w", op, statestore.ErrClosed)
	case s.failed != nil:
		return fmt.Errorf("%s: %w: %w", op, statestore.ErrFailed, s.failed)
	default:
		return nil
	}
}

// Get implements [statestore.Store].
func (s *Store) Get(key []byte) ([]byte, bool, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if err := s.usable("get"); err != nil {
		return nil, false, err
	}
	_, v, ok := s.m.Get(key)
	if !ok {
		return nil, false, nil
	}
	return append([]byte{}, v...), true, nil
}

// Scan implements [statestore.Store].
func (s *Store) Scan(lower, upper []byte) (statestore.Iterator, error) {
	s.mu.Lock() // Clone marks the tree as shared, which is a write
	defer s.mu.Unlock()
	if err := s.usable("scan"); err != nil {
		return nil, err
	}
	to := btreemap.Max[[]byte]()
	if upper != nil {
		to = btreemap.LT(upper)
	}
	next, stop := iter.Pull2(s.m.Clone().Ascend(btreemap.GE(lower), to))
	return &iterator{next: next, stop: stop}, nil
}

// Apply implements [statestore.Store].
func (s *Store) Apply(b *statestore.Batch) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.usable("apply a batch"); err != nil {
		return err
	}
	for _, op := range b.Ops() {
		switch {
		case op.End != nil:
			s.deleteRange(op.Key, op.End)
		case op.Value == nil:
			s.delete(op.Key)
		default:
			s.put(op.Key, op.Value)
		}
	}
	return nil
}

// Load implements [statestore.Store].
func (s *Store) Load(ctx context.Context, entries iter.Seq2[[]byte, []byte]) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.usable("load"); err != nil {
		return err
	}
	var last []byte
	for k, v := range entries {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("load: %w", context.Cause(ctx))
		}
		if last != nil && bytes.Compare(last, k) >= 0 {
			return fmt.Errorf("load: key %x does not follow %x: expected strictly ascending keys", k, last)
		}
		last = append(last[:0], k...)
		if v == nil {
			s.delete(k)
		} else {
			s.put(k, v)
		}
	}
	return nil
}

// Replace implements [statestore.Store].
func (s *Store) Replace(ctx context.Context, lower, upper []byte, entries iter.Seq2[[]byte, []byte]) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.usable("replace"); err != nil {
		return err
	}
	var b statestore.Batch
	var last []byte
	for k, v := range entries {
		switch {
		case ctx.Err() != nil:
			return fmt.Errorf("replace: %w", context.Cause(ctx))
		case bytes.Compare(k, lower) < 0 || bytes.Compare(k, upper) >= 0:
			return fmt.Errorf("replace: key %x is outside of the span %x to %x", k, lower, upper)
		case last != nil && bytes.Compare(last, k) >= 0:
			return fmt.Errorf("replace: key %x does not follow %x: expected strictly ascending keys", k, last)
		}
		last = append(last[:0], k...)
		b.Put(append([]byte(nil), k...), append([]byte{}, v...))
	}
	s.deleteRange(lower, upper)
	for _, op := range b.Ops() {
		s.put(op.Key, op.Value)
	}
	return nil
}

// Flush implements [statestore.Store]; there is nothing to do.
func (s *Store) Flush() error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.usable("flush")
}

// Checkpoint implements [statestore.Store]: it writes one file with length-prefixed keys and values, which [Restore] reads.
func (s *Store) Checkpoint(dir string) error {
	s.mu.Lock()
	if err := s.usable("checkpoint"); err != nil {
		s.mu.Unlock()
		return err
	}
	m := s.m.Clone()
	s.mu.Unlock()
	if err := os.Mkdir(dir, 0o750); err != nil {
		return fmt.Errorf("checkpoint into %s: %w", dir, err)
	}
	var out []byte
	for k, v := range m.Ascend(btreemap.Min[[]byte](), btreemap.Max[[]byte]()) {
		out = appendChunk(appendChunk(out, k), v)
	}
	if err := os.WriteFile(filepath.Join(dir, checkpointFile), out, 0o600); err != nil {
		return fmt.Errorf("checkpoint into %s: %w", dir, err)
	}
	return nil
}

// Usage implements [statestore.Store].
func (s *Store) Usage() statestore.Usage {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return statestore.Usage{MemoryBytes: s.bytes}
}

// Close implements [statestore.Store].
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return fmt.Errorf("close: %w", statestore.ErrClosed)
	}
	s.closed = true
	return nil
}

func (s *Store) put(key, value []byte) {
	s.delete(key)
	s.m.ReplaceOrInsert(append([]byte(nil), key...), append([]byte{}, value...))
	s.bytes += uint64(len(key) + len(value))
}

func (s *Store) delete(key []byte) {
	if k, v, ok := s.m.Delete(key); ok {
		s.bytes -= uint64(len(k) + len(v))
	}
}

func (s *Store) deleteRange(lower, upper []byte) {
	var keys [][]byte
	for k := range s.m.Ascend(btreemap.GE(lower), btreemap.LT(upper)) {
		keys = append(keys, k)
	}
	for _, k := range keys {
		s.delete(k)
	}
}

type iterator struct {
	next       func() ([]byte, []byte, bool)
	stop       func()
	key, value []byte
}

func (it *iterator) Next() bool {
	k, v, ok := it.next()
	it.key, it.value = k, v
	return ok
}

func (it *iterator) Key() []byte   { return it.key }
func (it *iterator) Value() []byte { return it.value }
func (it *iterator) Err() error    { return nil }
func (it *iterator) Close() error  { it.stop(); return nil }
