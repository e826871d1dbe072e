package stream

import (
	"bytes"
	"container/list"
	"fmt"
	"iter"
	"slices"

	"github.com/RaduBerinde/btreemap"

	"github.com/regent-infra/regent/statestore"
)

// layer is an ordered set of writes; a nil value deletes.
type layer = btreemap.BTreeMap[[]byte, []byte]

func newLayer() *layer { return btreemap.New[[]byte, []byte](32, bytes.Compare) }

// table is one table of one task: four layers, the upper ones hide the lower ones.
//
//	overlay   written by the transaction that is open; seen by the machine alone
//	active    committed, not yet on the way to the store
//	flushing  committed, being written to the store
//	store     flushed
//
// The cache stands beside the lower three and holds committed values.
type table struct {
	name   string
	prefix []byte // of its keys in the store
	store  statestore.Store

	overlay *layer

	// active and flushing are changed by the cycle under the view's lock; the cycle itself reads them without.
	active, flushing *layer

	cache  *cache
	cached map[string]*list.Element
}

func newTable(processor, name string, task int32, store statestore.Store, c *cache) *table {
	return &table{
		name:    name,
		prefix:  statestore.PartitionPrefix(storeName(processor, name), task),
		store:   store,
		overlay: newLayer(),
		active:  newLayer(),
		cache:   c,
		cached:  map[string]*list.Element{},
	}
}

func (t *table) storeKey(key []byte) []byte {
	return append(slices.Clip(t.prefix), key...)
}

// get returns what the machine sees under key; nil if there is nothing.
func (t *table) get(key []byte) ([]byte, error) {
	if t.overlay.Len() > 0 {
		if _, v, ok := t.overlay.Get(key); ok {
			return v, nil
		}
	}
	if v, ok := t.cache.get(t.cached, key); ok {
		return v, nil
	}
	v, err := t.committed(key)
	if err != nil {
		return nil, err
	}
	t.cache.put(t.cached, key, v)
	return v, nil
}

// committed returns the committed value under key, past overlay and cache.
func (t *table) committed(key []byte) ([]byte, error) {
	for _, l := range []*layer{t.active, t.flushing} {
		if l == nil || l.Len() == 0 {
			continue
		}
		if _, v, ok := l.Get(key); ok {
			return v, nil
		}
	}
	v, ok, err := t.store.Get(t.storeKey(key))
	if err != nil {
		return nil, fmt.Errorf("read table %q: %w", t.name, err)
	}
	if !ok {
		return nil, nil
	}
	return v, nil
}

// undo is what a write to the overlay replaced.
type undo struct {
	table   *table
	key     []byte
	value   []byte
	existed bool
}

// put writes to the overlay, and returns how to take it back. Key and value are copied: they may be slices of a fetched batch,
// which a value that stays would keep alive as a whole.
func (t *table) put(key, value []byte) undo {
	k := bytes.Clone(key)
	if k == nil {
		k = []byte{}
	}
	_, before, existed := t.overlay.ReplaceOrInsert(k, bytes.Clone(value))
	return undo{table: t, key: k, value: before, existed: existed}
}

func (u undo) revert() {
	if u.existed {
		u.table.overlay.ReplaceOrInsert(u.key, u.value)
	} else {
		u.table.overlay.Delete(u.key)
	}
}

// commit moves the overlay into the dirty set and returns how many bytes that adds. The caller holds the view's lock.
func (t *table) commit() (added int) {
	if t.overlay.Len() == 0 {
		return 0
	}
	for k, v := range t.overlay.Ascend(btreemap.Min[[]byte](), btreemap.Max[[]byte]()) {
		_, before, existed := t.active.ReplaceOrInsert(k, v)
		if existed {
			added += len(v) - len(before)
		} else {
			added += len(k) + len(v) + entryOverhead
		}
		t.cache.put(t.cached, k, v)
	}
	t.overlay = newLayer()
	return added
}

// drop forgets what the open transaction wrote.
func (t *table) drop() {
	if t.overlay.Len() > 0 {
		t.overlay = newLayer()
	}
}

// entry is one key with its value; a nil value hides what lower layers have.
type entry struct{ key, value []byte }

// collect returns the entries of the layers whose keys start with prefix, in key order; earlier layers hide later ones.
func collect(prefix []byte, layers ...*layer) []entry {
	var out []entry
	from, to := btreemap.GE(prefix), btreemap.Max[[]byte]()
	if end := statestore.PrefixEnd(prefix); end != nil {
		to = btreemap.LT(end)
	}
	for _, l := range layers {
		if l == nil || l.Len() == 0 {
			continue
		}
		var lower []entry
		for k, v := range l.Ascend(from, to) {
			lower = append(lower, entry{k, v})
		}
		out = mergeEntries(out, lower)
	}
	return out
}

// mergeEntries merges two sorted lists; upper wins.
func mergeEntries(upper, lower []entry) []entry {
	if len(upper) == 0 {
		return lower
	}
	if len(lower) == 0 {
		return upper
	}
	out := make([]entry, 0, len(upper)+len(lower))
	for len(upper) > 0 && len(lower) > 0 {
		switch bytes.Compare(upper[0].key, lower[0].key) {
		case -1:
			out, upper = append(out, upper[0]), upper[1:]
		case 1:
			out, lower = append(out, lower[0]), lower[1:]
		default:
			out, upper, lower = append(out, upper[0]), upper[1:], lower[1:]
		}
	}
	return append(append(out, upper...), lower...)
}

// scan yields the entries over the store's, hiding and deleting as they say, until yield returns false. The store's keys come
// without the table's prefix. It closes the iterator.
func scan(it statestore.Iterator, strip int, over []entry, yield func(k, v []byte) bool) error {
	defer func() { _ = it.Close() }() // reading is over, Err below has what matters
	emit := func(e entry) bool { return e.value == nil || yield(e.key, e.value) }
	for it.Next() {
		k := it.Key()[strip:]
		for len(over) > 0 && bytes.Compare(over[0].key, k) < 0 {
			if !emit(over[0]) {
				return nil
			}
			over = over[1:]
		}
		if len(over) > 0 && bytes.Equal(over[0].key, k) {
			if !emit(over[0]) {
				return nil
			}
			over = over[1:]
			continue
		}
		if !yield(bytes.Clone(k), append([]byte{}, it.Value()...)) {
			return nil
		}
	}
	if err := it.Err(); err != nil {
		return err
	}
	for _, e := range over {
		if !emit(e) {
			return nil
		}
	}
	return nil
}

// open starts a scan of the store below prefix.
func (t *table) open(prefix []byte) (statestore.Iterator, error) {
	lower := t.storeKey(prefix)
	return t.store.Scan(lower, statestore.PrefixEnd(lower))
}

// each yields what the machine sees under prefix, as of the call; an error of the store goes to fail. The layers are read now
// and the store when the sequence is: in between, the store changes only by what the layers hide.
func (t *table) each(prefix []byte, fail func(error)) iter.Seq2[[]byte, []byte] {
	over := collect(prefix, t.overlay, t.active, t.flushing)
	return func(yield func(k, v []byte) bool) {
		it, err := t.open(prefix)
		if err == nil {
			err = scan(it, len(t.prefix), over, yield)
		}
		if err != nil {
			fail(fmt.Errorf("range over table %q: %w", t.name, err))
		}
	}
}
