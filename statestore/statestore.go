// Package statestore is the port to the ordered key-value store in which a process keeps the state of its tasks.
//
// # What it is for
//
// A store is a cache with a position: everything in it can be made again from the topics, and the positions that stand in
// the same store say up to where that has been done (docs/formats-store.md). So a store need not be durable to the last
// write. It must do two things instead, and all that the task runtime promises rests on them:
//
//  1. A [Batch] is atomic. After a crash either all of it is there or nothing.
//  2. What survives a crash is a prefix of the batches, in the order in which they were applied.
//
// The store knows nothing of tables, partitions or records: keys are bytes, and [Key] and its relatives build them.
//
// # Implementations
//
// pebblestore is the production store, memstore the one for tests and for machines without a disk. Package statestoretest
// holds the one conformance suite for both.
package statestore

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"iter"
	"slices"
)

// Sentinel errors, to be tested with errors.Is.
var (
	// ErrInUse says that another process, or another opener in this one, holds the store.
	ErrInUse = errors.New("state store is in use")
	// ErrVersion says that the store was written in a format that this program cannot read.
	ErrVersion = errors.New("state store has another format version")
	// ErrCluster says that the store belongs to another Kafka cluster.
	ErrCluster = errors.New("state store belongs to another cluster")
	// ErrFailed says that the store has failed for good (a full or broken disk, say) and takes no more writes. What was
	// applied before is intact; reopen the store when the cause is gone.
	ErrFailed = errors.New("state store has failed")
	// ErrClosed says that the store is closed.
	ErrClosed = errors.New("state store is closed")
)

// Store is an ordered map from bytes to bytes. All methods are safe for concurrent use, except that Close must be the last.
type Store interface {
	// Get returns a copy of the value under key that the caller may keep, and whether there is one.
	Get(key []byte) ([]byte, bool, error)
	// Scan iterates over the keys in [lower, upper) in ascending byte order, as of the call: later writes do not show. A nil
	// upper means no bound. The caller must close the iterator.
	Scan(lower, upper []byte) (Iterator, error)
	// Apply applies the batch atomically, without waiting for the disk. See the package comment for what a crash leaves.
	Apply(b *Batch) error
	// Load applies entries that are in strictly ascending key order; a nil value deletes the key. It is the fast way for many:
	// where the implementation can, it builds sorted tables and adds them as files. It is atomic only as far as a crash in
	// the middle leaves some of the entries applied, so it is for stores that nobody reads from yet.
	Load(ctx context.Context, entries iter.Seq2[[]byte, []byte]) error
	// Replace swaps everything in [lower, upper) for the entries, which are in strictly ascending key order and inside of the
	// span. It is atomic for readers and crashes alike, and durable when it returns.
	Replace(ctx context.Context, lower, upper []byte, entries iter.Seq2[[]byte, []byte]) error
	// Flush makes everything that was applied before durable.
	Flush() error
	// Checkpoint writes a consistent copy of the store as of the call into dir, which must not exist. It flushes first. An
	// implementation shares what it can with the original (hard links).
	Checkpoint(dir string) error
	// Usage tells how much the store holds.
	Usage() Usage
	// Close flushes and releases the store.
	Close() error
}

// Iterator walks over entries in key order.
type Iterator interface {
	// Next moves to the next entry, the first at the first call, and says whether there is one.
	Next() bool
	// Key returns the current key; it is valid until the next call of Next.
	Key() []byte
	// Value returns the current value; it is valid until the next call of Next.
	Value() []byte
	// Err returns what ended the iteration early, or nil.
	Err() error
	// Close releases the iterator. It may be called more than once.
	Close() error
}

// Usage tells how much a store holds.
type Usage struct {
	// DiskBytes is the space on disk, live data and garbage together; 0 for a store in memory.
	DiskBytes uint64
	// MemoryBytes is the memory held by tables and caches.
	MemoryBytes uint64
}

// Op is one operation of a batch.
type Op struct {
	Key []byte
	// Value is nil for a deletion, of Key or of the range [Key, End).
	Value []byte
	// End, where set, makes this a deletion of the range [Key, End).
	End []byte
}

// Batch is a list of operations that are applied together, in order. The zero value is ready to use. Keys and values are kept
// by reference and must not change until the batch has been applied.
type Batch struct {
	ops   []Op
	bytes int
}

// Grow makes room for n more operations.
func (b *Batch) Grow(n int) { b.ops = slices.Grow(b.ops, n) }

// Put sets the value under key. A nil value is stored as an empty one.
func (b *Batch) Put(key, value []byte) {
	if value == nil {
		value = []byte{}
	}
	b.ops = append(b.ops, Op{Key: key, Value: value})
	b.bytes += len(key) + len(value)
}

// Delete removes key, if it is there.
func (b *Batch) Delete(key []byte) {
	b.ops = append(b.ops, Op{Key: key})
	b.bytes += len(key)
}

// DeleteRange removes all keys in [lower, upper).
func (b *Batch) DeleteRange(lower, upper []byte) {
	b.ops = append(b.ops, Op{Key: lower, End: upper})
	b.bytes += len(lower) + len(upper)
}

// Ops returns the operations in order.
func (b *Batch) Ops() []Op { return b.ops }

// Len returns the number of operations.
func (b *Batch) Len() int { return len(b.ops) }

// Bytes returns the summed length of keys and values.
func (b *Batch) Bytes() int { return b.bytes }

// Ranges reports whether a deletion of a range is among the operations.
func (b *Batch) Ranges() bool {
	return slices.ContainsFunc(b.ops, func(op Op) bool { return op.End != nil })
}

// Sorted yields what the batch leaves under each of its keys, in ascending key order; a nil value deletes. The batch must not have
// deletions of ranges.
func (b *Batch) Sorted() iter.Seq2[[]byte, []byte] {
	order := make([]int32, len(b.ops))
	for i := range order {
		order[i] = int32(i) //nolint:gosec // a batch is held in memory
	}
	slices.SortFunc(order, func(x, y int32) int {
		return cmp.Or(bytes.Compare(b.ops[x].Key, b.ops[y].Key), cmp.Compare(x, y))
	})
	return func(yield func(key, value []byte) bool) {
		for i, at := range order {
			op := b.ops[at]
			if i+1 < len(order) && bytes.Equal(b.ops[order[i+1]].Key, op.Key) {
				continue // a later operation wins
			}
			if !yield(op.Key, op.Value) {
				return
			}
		}
	}
}

// Reset empties the batch for reuse.
func (b *Batch) Reset() {
	clear(b.ops)
	b.ops, b.bytes = b.ops[:0], 0
}
