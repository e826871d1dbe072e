package stream

import "container/list"

// entryOverhead is what an entry costs beside its bytes: map slot, list element, headers.
const entryOverhead = 160

// cache keeps committed values, encoded, up to a budget of bytes over all tables; the least recently used go first. A value of
// nil remembers that a key is absent. It belongs to the cycle's goroutine, and its bytes are immutable.
type cache struct {
	budget int
	used   int
	order  *list.List // of *cacheEntry, the most recently used first
}

type cacheEntry struct {
	owner map[string]*list.Element
	key   string
	value []byte
}

func newCache(budget int) *cache { return &cache{budget: budget, order: list.New()} }

func (e *cacheEntry) size() int { return len(e.key) + len(e.value) + entryOverhead }

func (c *cache) get(owner map[string]*list.Element, key []byte) (value []byte, ok bool) {
	el, ok := owner[string(key)]
	if !ok {
		return nil, false
	}
	c.order.MoveToFront(el)
	return el.Value.(*cacheEntry).value, true
}

func (c *cache) put(owner map[string]*list.Element, key, value []byte) {
	if el, ok := owner[string(key)]; ok {
		e := el.Value.(*cacheEntry)
		c.used += len(value) - len(e.value)
		e.value = value
		c.order.MoveToFront(el)
	} else {
		e := &cacheEntry{owner: owner, key: string(key), value: value}
		owner[e.key] = c.order.PushFront(e)
		c.used += e.size()
	}
	for c.used > c.budget && c.order.Len() > 0 {
		c.remove(c.order.Back())
	}
}

func (c *cache) remove(el *list.Element) {
	e := c.order.Remove(el).(*cacheEntry)
	delete(e.owner, e.key)
	c.used -= e.size()
}

// purge drops everything of one table.
func (c *cache) purge(owner map[string]*list.Element) {
	for _, el := range owner {
		c.remove(el)
	}
}
