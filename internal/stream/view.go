package stream

import (
	"cmp"
	"errors"
	"fmt"
	"iter"
	"slices"

	"github.com/regent-infra/regent/statestore"
)

// ErrNotHere says that the partition is not a running task of this process: it recovers, or another instance has it.
var ErrNotHere = errors.New("partition is not served by this process")

// ErrNoTable says that the definition does not declare the table.
var ErrNoTable = errors.New("no such table")

// Entry is one entry of a table, as committed. Its bytes must not be changed.
type Entry struct {
	Partition  int32
	Key, Value []byte
}

// Get returns the committed value under key in one partition of a table; nil if there is none. It is safe for concurrent use.
// Errors wrap [ErrNotHere] or [ErrNoTable], or come from the store.
func (r *Runtime) Get(table string, partition int32, key []byte) ([]byte, error) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	tb, err := r.tableOf(table, partition)
	if err != nil {
		return nil, err
	}
	return tb.committed(key)
}

// Find returns the committed entry under key in whichever running partition of this process has it, the lowest first, and
// whether there is one. It is safe for concurrent use.
func (r *Runtime) Find(table string, key []byte) (Entry, bool, error) {
	for _, p := range r.Partitions() {
		v, err := r.Get(table, p, key)
		if err != nil && !errors.Is(err, ErrNotHere) {
			return Entry{}, false, err
		}
		if v != nil {
			return Entry{Partition: p, Key: key, Value: v}, true, nil
		}
	}
	return Entry{}, false, nil
}

// Partitions returns the running tasks of this process, in order. It is safe for concurrent use.
func (r *Runtime) Partitions() []int32 {
	r.mu.RLock()
	defer r.mu.RUnlock()
	out := make([]int32, 0, len(r.tasks))
	for id := range r.tasks {
		out = append(out, id)
	}
	slices.Sort(out)
	return out
}

// Range yields the committed entries of all running partitions whose keys start with prefix: partition by partition, in key
// order, each partition as of the moment when its first entry is yielded. An error ends the sequence. It is safe for
// concurrent use.
func (r *Runtime) Range(table string, prefix []byte) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		for _, p := range r.Partitions() {
			for e, err := range r.RangePartition(table, p, prefix) {
				if errors.Is(err, ErrNotHere) {
					break // it was revoked meanwhile
				}
				if !yield(e, err) || err != nil {
					return
				}
			}
		}
	}
}

// RangePartition is [Runtime.Range] over one partition; it yields an error that wraps [ErrNotHere] if that does not run here.
func (r *Runtime) RangePartition(table string, partition int32, prefix []byte) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		it, over, strip, err := r.snapshot(table, partition, prefix)
		if err != nil {
			yield(Entry{}, err)
			return
		}
		err = scan(it, strip, over, func(k, v []byte) bool {
			return yield(Entry{Partition: partition, Key: k, Value: v}, nil)
		})
		if err != nil {
			yield(Entry{}, fmt.Errorf("range over table %q: %w", table, err))
		}
	}
}

// snapshot takes what is committed under prefix at one moment, so that nothing that moves from memory to the store is missed or seen
// twice.
func (r *Runtime) snapshot(table string, partition int32, prefix []byte) (statestore.Iterator, []pair, int, error) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	tb, err := r.tableOf(table, partition)
	if err != nil {
		return nil, nil, 0, err
	}
	it, over, err := tb.snapshot(prefix)
	return it, over, len(tb.prefix), err
}

// tableOf returns a table of a running task; the caller holds the lock.
func (r *Runtime) tableOf(name string, partition int32) (*table, error) {
	if !slices.ContainsFunc(r.def.Tables, func(t Table) bool { return t.Name == name }) {
		return nil, fmt.Errorf("read table %q of processor %q: %w", name, r.def.Name, ErrNoTable)
	}
	t := r.tasks[partition]
	if t == nil {
		return nil, fmt.Errorf("read table %q, partition %d, of processor %q: %w", name, partition, r.def.Name, ErrNotHere)
	}
	return t.tables[name], nil
}

// DigestEntry is the digest of one partition of a table.
type DigestEntry struct {
	Table     string `json:"table"`
	Partition int32  `json:"partition"`
	Digest
}

// Digests returns the digest of every running partition of every table, as committed. It is safe for concurrent use.
func (r *Runtime) Digests() ([]DigestEntry, error) {
	var out []DigestEntry
	for _, name := range r.def.tableNames() {
		for _, p := range r.Partitions() {
			d := NewDigester()
			for e, err := range r.RangePartition(name, p, nil) {
				if err != nil {
					return nil, err
				}
				d.Add(e.Key, e.Value)
			}
			out = append(out, DigestEntry{Table: name, Partition: p, Digest: d.Sum()})
		}
	}
	slices.SortFunc(out, func(a, b DigestEntry) int {
		return cmp.Or(cmp.Compare(a.Table, b.Table), cmp.Compare(a.Partition, b.Partition))
	})
	return out, nil
}
