package stream

import (
	"bytes"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"

	"github.com/RaduBerinde/btreemap"

	"github.com/regent-infra/regent/internal/record"
	"github.com/regent-infra/regent/statestore"
)

// table is one table of one task. What it holds in memory are entries by key; each has up to three values:
//
//	pending    written by the transaction that is open, or by the one that is ending; seen by the machine alone: in a layer each
//	committed  known to everybody; dirty, then flushing, then clean, as it moves to the store
//
// Below them is the store, with what was flushed. An entry that is not clean hides the store's, so that nobody sees the move.
//
// Keys are hashed, because almost every access is a lookup. A table that is asked for a range gets an index in key order over its
// entries that are not clean, from then on.
type table struct {
	name   string
	prefix []byte // of its keys in the store
	store  statestore.Store
	cache  *cache

	// The rest is changed with the cache's lock held, by whoever folds; also by who folds another task, where an entry is evicted.
	entries directory
	// complete says that there is an entry for every key that the store has, so that it need not be asked for any other: a table that is new, and
	// has not outgrown the cache.
	complete bool
	sum      uint32 // see approach
	last     *entry // the one that get has returned last: what is read is mostly written next
	// layers are what the open transaction has written (layers[current]) and the one that is ending. Sealing turns them round.
	layers   [2][]write
	current  int
	dirty    []*entry
	flushing []write
	index    *index // nil until a machine has asked for a range
}

// write is what a transaction has put under a key; nil deletes.
type write struct {
	entry *entry
	value []byte
}

// index is an ordered set of entries.
type index = btreemap.BTreeMap[string, *entry]

func newTable(processor, name string, task int32, store statestore.Store, c *cache) *table {
	return &table{
		name:   name,
		prefix: statestore.PartitionPrefix(storeName(processor, name), task),
		store:  store,
		cache:  c,
	}
}

func (t *table) storeKey(key string) []byte {
	return append(append(make([]byte, 0, len(t.prefix)+len(key)), t.prefix...), key...)
}

// get returns what the machine sees under key; nil if there is nothing.
func (t *table) get(key []byte) ([]byte, error) {
	c := t.cache
	c.mu.Lock()
	defer c.mu.Unlock()
	hash := hashOf(key)
	e := t.find(key, hash)
	if e != nil {
		e.visited = true
		if v, ok := t.seen(e); ok {
			return v, nil
		}
	}
	var v []byte
	if !t.complete {
		var err error
		if v, err = t.stored(string(key)); err != nil {
			return nil, err
		}
	}
	if e == nil {
		e = c.add(t, key, hash)
	}
	t.last = e
	c.assign(e, v)
	c.evict(e)
	return v, nil
}

// findComplete finds out whether the table is complete. The store must have been brought up to date, and nothing read or written here yet.
func (t *table) findComplete() error {
	it, err := t.open(nil)
	if err != nil {
		return fmt.Errorf("look into table %q: %w", t.name, err)
	}
	t.complete = !it.Next()
	if err := errors.Join(it.Err(), it.Close()); err != nil {
		return fmt.Errorf("look into table %q: %w", t.name, err)
	}
	return nil
}

// find returns the entry of a key with its hash, if there is one.
func (t *table) find(key []byte, hash uint32) *entry {
	if t.last == nil || t.last.hash != hash || t.last.key() != string(key) {
		t.last = t.lookup(key, hash)
	}
	return t.last
}

// lookup is find for those who leave no trace.
func (t *table) lookup(key []byte, hash uint32) *entry {
	d := &t.entries
	if len(d.places) == 0 {
		return nil
	}
	for i := d.first(hash); d.places[i].ref != 0; i = d.next(i) {
		if d.places[i].hash == hash {
			if e := t.cache.at(d.places[i].ref - 1); e.key() == string(key) {
				return e
			}
		}
	}
	return nil
}

// strides are how many records are approached at a time.
const strides = 16

// approach touches what lookups of some keys are going to touch: their places, their entries, their values. With many keys each of these is a wait for the
// memory; here the waits for all records pass at the same time, for none depends on another's. It changes nothing but a sum that keeps the
// compiler from leaving it out.
func (t *table) approach(recs []record.Record) {
	c := t.cache
	c.mu.Lock()
	defer c.mu.Unlock()
	d := &t.entries
	if len(d.places) == 0 {
		return
	}
	recs = recs[:min(strides, len(recs))]
	var hashes [strides]uint32
	for i := range recs {
		hashes[i] = hashOf(recs[i].Key)
		t.sum += d.places[d.first(hashes[i])].hash
	}
	var entries [strides]*entry
	for i, hash := range hashes[:len(recs)] {
		j := d.first(hash)
		for d.places[j].ref != 0 && d.places[j].hash != hash {
			j = d.next(j)
		}
		if ref := d.places[j].ref; ref != 0 {
			entries[i] = c.at(ref - 1)
			t.sum += entries[i].hash
		}
	}
	const pair = 128 // two lines of memory, which come together
	for _, e := range entries[:len(recs)] {
		if e == nil {
			continue
		}
		for at := 0; at < min(len(e.value), 4*pair); at += pair {
			t.sum += uint32(e.value[at])
		}
		t.sum += uint32(e.short[shortKey-1]) // an entry may lie across two lines
	}
}

// seen returns what the machine sees in an entry; ok is false if only the store knows.
func (t *table) seen(e *entry) (value []byte, ok bool) {
	if i := e.pending[t.current]; i != 0 {
		return t.layers[t.current][i-1].value, true
	}
	if i := e.pending[1-t.current]; i != 0 {
		return t.layers[1-t.current][i-1].value, true
	}
	return e.value, e.known
}

// stored returns what the store has under key; nil if it has nothing.
func (t *table) stored(key string) ([]byte, error) {
	v, ok, err := t.store.Get(t.storeKey(key))
	if err != nil {
		return nil, fmt.Errorf("read table %q: %w", t.name, err)
	}
	if !ok {
		return nil, nil
	}
	return v, nil
}

// committed returns the committed value under key. It is safe for concurrent use, and leaves the cache as it is.
func (t *table) committed(key []byte) ([]byte, error) {
	t.cache.mu.Lock()
	e := t.lookup(key, hashOf(key))
	if e != nil && e.known {
		defer t.cache.mu.Unlock()
		return e.value, nil
	}
	t.cache.mu.Unlock()
	return t.stored(string(key))
}

// undo is what a write to the open layer replaced.
type undo struct {
	write   write
	existed bool
}

// put writes to the open layer, and returns how to take it back. The value becomes the table's own; the key is copied.
func (t *table) put(key, value []byte) undo {
	c := t.cache
	c.mu.Lock()
	defer c.mu.Unlock()
	hash := hashOf(key)
	e := t.find(key, hash)
	if e == nil {
		e = c.add(t, key, hash)
	}
	e.visited = true
	layer := &t.layers[t.current]
	if i := e.pending[t.current]; i != 0 {
		w := &(*layer)[i-1]
		before := *w
		w.value = value
		return undo{write: before, existed: true}
	}
	if t.index != nil && !e.pinned() {
		t.index.ReplaceOrInsert(strings.Clone(e.key()), e)
	}
	*layer = append(*layer, write{e, value})
	e.pending[t.current] = int32(len(*layer)) //nolint:gosec // a transaction has fewer
	c.evict(e)
	return undo{write: write{entry: e}}
}

// revert takes a write back. Writes are reverted from the last to the first.
func (u undo) revert() {
	e := u.write.entry
	t := e.owner
	t.cache.mu.Lock()
	defer t.cache.mu.Unlock()
	layer, i := t.layers[t.current], e.pending[t.current]
	if u.existed {
		layer[i-1].value = u.write.value
		return
	}
	last := len(layer) - 1
	if int(i) != last+1 {
		panic(fmt.Sprintf("table %q: a write is reverted out of order", t.name))
	}
	layer[last] = write{}
	t.layers[t.current] = layer[:last]
	t.forsake(e, t.current)
}

// forsake makes an entry as if the transaction of a layer had not written it.
func (t *table) forsake(e *entry, layer int) {
	e.pending[layer] = 0
	t.unlist(e)
	if !e.known && !e.pinned() {
		t.cache.remove(e)
	}
}

// unlist takes an entry that holds no more than the store out of the index.
func (t *table) unlist(e *entry) {
	if t.index != nil && !e.pinned() {
		t.index.Delete(e.key())
	}
}

// seal begins a new layer; the one that was open is that of the ending transaction. The caller holds the cache's lock.
func (t *table) seal() {
	if len(t.layers[1-t.current]) > 0 {
		panic(fmt.Sprintf("table %q: a transaction is sealed while one is ending", t.name))
	}
	t.current = 1 - t.current
}

// commit moves what the ending transaction has written into the dirty set and returns how many bytes that adds. The caller holds the
// cache's lock, over all tables of the transaction, so that readers see all of it or nothing.
func (t *table) commit() (added int) {
	sealed := t.layers[1-t.current]
	for i, w := range sealed {
		e := w.entry
		if e.dirty {
			added -= e.size()
		} else {
			e.dirty = true
			t.dirty = append(t.dirty, e)
		}
		t.cache.assign(e, w.value)
		added += e.size()
		e.pending[1-t.current] = 0
		sealed[i] = write{}
	}
	t.layers[1-t.current] = sealed[:0]
	return added
}

// drop forgets what is not committed: of the transaction that is open and of the one that was ending.
func (t *table) drop() {
	t.cache.mu.Lock()
	defer t.cache.mu.Unlock()
	for n, layer := range t.layers {
		for i, w := range layer {
			t.forsake(w.entry, n)
			layer[i] = write{}
		}
		t.layers[n] = layer[:0]
	}
}

// takeDirty begins a flush: it returns the dirty entries with their values as of now. The caller holds the cache's lock.
func (t *table) takeDirty() []write {
	taken := make([]write, len(t.dirty))
	for i, e := range t.dirty {
		e.dirty, e.flushing = false, true
		taken[i] = write{e, e.value}
		t.dirty[i] = nil
	}
	t.dirty, t.flushing = t.dirty[:0], taken
	return taken
}

// settle ends a flush: the store has what was taken. The caller holds the cache's lock.
func (t *table) settle() {
	for _, w := range t.flushing {
		w.entry.flushing = false
		t.unlist(w.entry)
	}
	t.flushing = nil
}

// pair is a key with its value; a nil value hides what the store has.
type pair struct {
	key   string
	value []byte
}

// unclean returns what hides the store under prefix, in key order; with what is not committed, if asked to. The caller holds the
// cache's lock.
func (t *table) unclean(prefix string, pending bool) []pair {
	var out []pair
	add := func(e *entry) {
		if pending && e.pinned() {
			v, _ := t.seen(e)
			out = append(out, pair{strings.Clone(e.key()), v})
		} else if e.dirty || e.flushing {
			out = append(out, pair{strings.Clone(e.key()), e.value})
		}
	}
	if t.index != nil {
		to := btreemap.Max[string]()
		if end := statestore.PrefixEnd([]byte(prefix)); end != nil {
			to = btreemap.LT(string(end))
		}
		for _, e := range t.index.Ascend(btreemap.GE(prefix), to) {
			add(e)
		}
		return out
	}
	for e := range t.pinned() {
		if strings.HasPrefix(e.key(), prefix) {
			add(e)
		}
	}
	slices.SortFunc(out, func(a, b pair) int { return strings.Compare(a.key, b.key) })
	return out
}

// order makes the index. The caller holds the cache's lock.
func (t *table) order() {
	if t.index != nil {
		return
	}
	t.index = btreemap.New[string, *entry](32, strings.Compare)
	for e := range t.pinned() {
		t.index.ReplaceOrInsert(strings.Clone(e.key()), e)
	}
}

// pinned yields the entries that hold what the store does not have, each once, in no order.
func (t *table) pinned() iter.Seq[*entry] {
	return func(yield func(*entry) bool) {
		for _, w := range t.layers[0] {
			if !yield(w.entry) {
				return
			}
		}
		for _, w := range t.layers[1] {
			if w.entry.pending[0] == 0 && !yield(w.entry) {
				return
			}
		}
		pending := func(e *entry) bool { return e.pending != [2]int32{} }
		for _, e := range t.dirty {
			if !pending(e) && !yield(e) {
				return
			}
		}
		for _, w := range t.flushing {
			if e := w.entry; !pending(e) && !e.dirty && !yield(e) {
				return
			}
		}
	}
}

// each yields what the machine sees under prefix, as of the call; an error of the store goes to fail. What is in memory is read now and
// the store when the sequence is: in between, the store changes only by what is hidden.
func (t *table) each(prefix []byte, fail func(error)) iter.Seq2[[]byte, []byte] {
	t.cache.mu.Lock()
	t.order()
	over := t.unclean(string(prefix), true)
	t.cache.mu.Unlock()
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

// snapshot takes what is committed under prefix, in memory and in the store, at one moment. It is safe for concurrent use.
func (t *table) snapshot(prefix []byte) (statestore.Iterator, []pair, error) {
	t.cache.mu.Lock()
	defer t.cache.mu.Unlock()
	it, err := t.open(prefix)
	if err != nil {
		return nil, nil, err
	}
	return it, t.unclean(string(prefix), false), nil
}

// open starts a scan of the store below prefix.
func (t *table) open(prefix []byte) (statestore.Iterator, error) {
	lower := t.storeKey(string(prefix))
	return t.store.Scan(lower, statestore.PrefixEnd(lower))
}

// scan yields the pairs over the store's entries, hiding and deleting as they say, until yield returns false. The store's keys come
// without the table's prefix. It closes the iterator.
func scan(it statestore.Iterator, strip int, over []pair, yield func(k, v []byte) bool) error {
	defer func() { _ = it.Close() }() // reading is over, Err below has what matters
	emit := func(p pair) bool { return p.value == nil || yield([]byte(p.key), p.value) }
	for it.Next() {
		k := it.Key()[strip:]
		for len(over) > 0 && over[0].key < string(k) {
			if !emit(over[0]) {
				return nil
			}
			over = over[1:]
		}
		if len(over) > 0 && over[0].key == string(k) {
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
	for _, p := range over {
		if !emit(p) {
			return nil
		}
	}
	return nil
}
