package stream

import "sync"

// entryOverhead is what an entry costs beside its bytes, about: itself, its slots in the map and in the ring, what allocations are
// rounded up to.
const entryOverhead = 144

// entry is one key of one table in memory. What is written to the store later has its only copy here, so an entry that is dirty or
// being flushed stays until it is clean again.
type entry struct {
	key   string
	value []byte // committed; nil says that the key is absent. Valid if known.
	owner *table
	slot  int32 // in the cache's ring
	// pending is, for each of the owner's layers, 1 + the index in it; 0 if its transaction has not written the key.
	pending [2]int32
	known   bool // value is what is committed; false for a key that was written without being read
	visited bool // since the clock's hand was here
	// dirty: committed, not yet on the way to the store; flushing: being written to it.
	dirty, flushing bool
}

func (e *entry) size() int { return len(e.key) + len(e.value) + entryOverhead }

// pinned reports whether the entry holds what the store does not have.
func (e *entry) pinned() bool { return e.dirty || e.flushing || e.pending != [2]int32{} }

// cache keeps entries, encoded, up to a budget of bytes over all tables of a runtime. Pinned ones stay whatever the budget says (the
// flusher bounds them); of the others those go first that were not used for a while, by the clock algorithm: it needs one bit
// where a list of the least recently used needs six pointer writes for each access.
//
// The cycle's goroutine is the only one that changes it, with mu held; others read with mu held. The bytes of values are immutable.
type cache struct {
	mu     sync.Mutex
	budget int
	used   int
	ring   []*entry
	hand   int
}

// sweep bounds the steps of the hand for each entry that is added, in case most of the ring is pinned.
const sweep = 32

func newCache(budget int) *cache { return &cache{budget: budget} }

// add makes an entry for a key that its table does not have yet.
func (c *cache) add(owner *table, key string) *entry {
	e := &entry{key: key, owner: owner, slot: int32(len(c.ring))} //nolint:gosec // bounded by memory
	owner.entries[key] = e
	c.ring = append(c.ring, e)
	c.used += e.size()
	return e
}

// assign sets the committed value.
func (c *cache) assign(e *entry, value []byte) {
	c.used += len(value) - len(e.value)
	e.value, e.known = value, true
}

// evict lets the hand go round until the budget is kept, or it has seen enough for this time.
func (c *cache) evict() {
	for steps := 0; c.used > c.budget && steps < sweep && len(c.ring) > 0; steps++ {
		if c.hand >= len(c.ring) {
			c.hand = 0
		}
		switch e := c.ring[c.hand]; {
		case e.pinned():
			c.hand++
		case e.visited:
			e.visited = false
			c.hand++
		default:
			c.remove(e) // the ring's last takes its slot, and must not be next: it is the newest
			c.hand++
		}
	}
}

func (c *cache) remove(e *entry) {
	last := len(c.ring) - 1
	moved := c.ring[last]
	c.ring[e.slot], moved.slot = moved, e.slot
	c.ring[last] = nil
	c.ring = c.ring[:last]
	delete(e.owner.entries, e.key)
	if e.owner.last == e {
		e.owner.last = nil
	}
	c.used -= e.size()
}

// purge drops everything of one table.
func (c *cache) purge(owner *table) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, e := range owner.entries {
		c.remove(e)
	}
	owner.layers = [2][]write{}
	owner.dirty, owner.flushing, owner.index = nil, nil, nil
}
