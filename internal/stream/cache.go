package stream

import (
	"sync"
	"unsafe"
)

// entryOverhead is what an entry costs beside its value, about: itself with its key, its places in the directory, what allocations are rounded
// up to.
const entryOverhead = 136

// entry is one key of one table in memory. What is written to the store later has its only copy here, so an entry that is dirty or
// being flushed stays until it is clean again.
type entry struct {
	value []byte // committed; nil says that the key is absent. Valid if known.
	owner *table // nil: nobody's, to be used again
	// number is the place in the cache, hash that of the key in the owner's directory.
	number, hash uint32
	// pending is, for each of the owner's layers, 1 + the index in it; 0 if its transaction has not written the key.
	pending [2]int32
	known   bool // value is what is committed; false for a key that was written without being read
	visited bool // since the clock's hand was here
	// dirty: committed, not yet on the way to the store; flushing: being written to it.
	dirty, flushing bool
	// The key lies in the entry itself, as most do: nothing for a garbage collector to follow, and near to what is looked at next. One that is too
	// long lies elsewhere.
	shortLength uint8
	short       [shortKey]byte
	long        string
}

// shortKey is the length up to which a key lies in its entry.
const shortKey = 40

// key returns the entry's key. It is good as long as the entry is, see [cache]; who keeps it longer must clone it.
func (e *entry) key() string {
	if e.long != "" {
		return e.long
	}
	return unsafe.String(&e.short[0], int(e.shortLength))
}

func (e *entry) setKey(key []byte) {
	if len(key) > shortKey {
		e.long = string(key)
		return
	}
	e.shortLength = uint8(copy(e.short[:], key)) //nolint:gosec // shortKey at most
}

func (e *entry) size() int { return len(e.long) + len(e.value) + entryOverhead }

// pinned reports whether the entry holds what the store does not have.
func (e *entry) pinned() bool { return e.dirty || e.flushing || e.pending != [2]int32{} }

// cache keeps entries, encoded, up to a budget of bytes over all tables of a runtime. Pinned ones stay whatever the budget says (the
// flusher bounds them); of the others those go first that were not used for a while, by the clock algorithm: it needs one bit
// where a list of the least recently used needs six pointer writes for each access.
//
// Entries lie in blocks, which are kept and used again: a garbage collector has few objects to look at, and a directory says in four bytes which
// entry it means. A pointer to an entry is good until it is removed, which no pinned one is.
//
// The cycle's goroutine, or the ones that fold for it, are the only ones that change it, with mu held; others read with mu held. The bytes of values
// are immutable.
type cache struct {
	mu     sync.Mutex
	budget int
	used   int
	blocks []*[blockEntries]entry
	made   uint32   // as many entries were ever made
	free   []uint32 // those of them that are nobody's
	hand   uint32
}

// blockEntries is how many entries are allocated at once.
const blockEntries = 512

// sweep bounds how many entries the hand passes for each that is added, in case most are pinned; idle how many that are nobody's.
const (
	sweep = 32
	idle  = 32 * sweep
)

func newCache(budget int) *cache { return &cache{budget: budget} }

// at returns the entry of a number.
func (c *cache) at(number uint32) *entry {
	return &c.blocks[number/blockEntries][number%blockEntries]
}

// add makes an entry for a key that its table does not have yet.
func (c *cache) add(owner *table, key []byte, hash uint32) *entry {
	var number uint32
	if last := len(c.free) - 1; last >= 0 {
		number, c.free = c.free[last], c.free[:last]
	} else {
		number = c.made
		c.made++
		if int(number)/blockEntries == len(c.blocks) {
			c.blocks = append(c.blocks, new([blockEntries]entry))
		}
	}
	e := c.at(number)
	*e = entry{owner: owner, number: number, hash: hash}
	e.setKey(key)
	owner.entries.insert(hash, number)
	c.used += e.size()
	return e
}

// assign sets the committed value.
func (c *cache) assign(e *entry, value []byte) {
	c.used += len(value) - len(e.value)
	e.value, e.known = value, true
}

// evict lets the hand go round until the budget is kept, or it has seen enough for this time. It leaves the entry alone that was added last.
func (c *cache) evict(last *entry) {
	for passed, skipped := 0, 0; c.used > c.budget && passed < sweep && skipped < idle && c.made > 0; passed++ {
		if c.hand >= c.made {
			c.hand = 0
		}
		switch e := c.at(c.hand); {
		case e.owner == nil:
			passed--
			skipped++
		case e == last || e.pinned():
		case e.visited:
			e.visited = false
		default:
			c.remove(e)
		}
		c.hand++
	}
}

func (c *cache) remove(e *entry) {
	if e.value != nil {
		e.owner.complete = false // from now on the store alone knows the key
	}
	e.owner.entries.remove(e.hash, e.number)
	if e.owner.last == e {
		e.owner.last = nil
	}
	c.release(e)
}

// release makes an entry nobody's.
func (c *cache) release(e *entry) {
	c.used -= e.size()
	c.free = append(c.free, e.number)
	*e = entry{number: e.number}
}

// purge drops everything of one table. None of it may be on its way to the store.
func (c *cache) purge(owner *table) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for number := range owner.entries.all {
		c.release(c.at(number))
	}
	owner.entries.reset()
	owner.last, owner.complete = nil, false
	owner.layers = [2][]write{}
	owner.dirty, owner.flushing, owner.index = nil, nil, nil
	if len(c.free) == int(c.made) { // nobody's, all of them
		c.blocks, c.made, c.free, c.hand = nil, 0, nil, 0
	}
}
