package stream

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"github.com/regent-infra/regent/internal/record"
	"github.com/regent-infra/regent/statestore"
	"github.com/regent-infra/regent/statestore/memstore"
)

// TestTableLayersEqualAMap moves random writes through the layers, with a cache that is too small.
func TestTableLayersEqualAMap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		store := memstore.New()
		tb := newTable("p", "t", 3, store, newCache(rapid.IntRange(1, 2000).Draw(t, "budget")))
		if rapid.Bool().Draw(t, "complete") {
			if err := tb.findComplete(); err != nil || !tb.complete {
				t.Fatalf("an empty table is complete: %v, %v", tb.complete, err)
			}
		}
		seen, sealed, kept := map[string]string{}, map[string]string{}, map[string]string{}
		for range rapid.IntRange(1, 40).Draw(t, "operations") {
			k := rapid.StringMatching(`[ab]{0,3}`).Draw(t, "key")
			if rapid.IntRange(0, 3).Draw(t, "long") == 0 {
				k += strings.Repeat("k", shortKey-2) // within an entry, just so, or beside it
			}
			switch rapid.IntRange(0, 9).Draw(t, "operation") {
			case 0: // the transaction that is ending commits, and the open one is sealed
				tb.commit()
				kept = maps.Clone(sealed)
				tb.seal()
				sealed = maps.Clone(seen)
			case 1:
				tb.drop()
				seen, sealed = maps.Clone(kept), maps.Clone(kept)
			case 2: // a flush, as the flusher does it
				if tb.flushing == nil {
					tb.takeDirty()
				}
			case 3:
				settle(t, tb, store)
			case 4:
				u := tb.put([]byte(k), []byte("gone again"))
				u.revert()
			case 5:
				tb.put([]byte(k), nil)
				delete(seen, k)
			default:
				v := rapid.StringMatching(`[x-z]{0,2}`).Draw(t, "value")
				tb.put([]byte(k), []byte(v))
				seen[k] = v
			}
			compare(t, tb, seen, kept)
		}
	})
}

func settle(t *rapid.T, tb *table, store *memstore.Store) {
	var b statestore.Batch
	appendWrites(&b, tb.flushing)
	if err := store.Apply(&b); err != nil {
		t.Fatal(err)
	}
	tb.settle()
}

func compare(t *rapid.T, tb *table, seen, kept map[string]string) {
	fail := func(err error) { t.Fatal(err) }
	for _, prefix := range []string{"", "a", "ab", "b"} {
		var got, want []string
		for k, v := range tb.each([]byte(prefix), fail) {
			got = append(got, fmt.Sprintf("%s=%s", k, v))
			one, err := tb.get(k)
			if err != nil || string(one) != string(v) {
				t.Fatalf("get %q is %q, %v; the range has %q", k, one, err, v)
			}
		}
		for _, k := range slices.Sorted(maps.Keys(seen)) {
			if strings.HasPrefix(k, prefix) {
				want = append(want, k+"="+seen[k])
			}
		}
		if !slices.Equal(got, want) {
			t.Fatalf("range over %q is %q, expected %q", prefix, got, want)
		}
	}
	for _, k := range []string{"", "a", "b", "ab", "aaa"} {
		v, err := tb.committed([]byte(k))
		want, ok := kept[k]
		if err != nil || (v != nil) != ok || string(v) != want {
			t.Fatalf("committed %q is %q, %v; expected %q, %v", k, v, err, want, ok)
		}
	}
	checkCache(t, tb.cache)
}

// checkCache holds the cache's books against its entries, and its budget against those that may go.
func checkCache(t *rapid.T, c *cache) {
	used, loose := 0, 0
	inUse := entriesOf(c)
	if len(inUse)+len(c.free) != int(c.made) {
		t.Fatalf("%d entries are in use and %d free, %d were made", len(inUse), len(c.free), c.made)
	}
	for _, e := range inUse {
		if found := e.owner.lookup([]byte(e.key()), hashOf([]byte(e.key()))); found != e {
			t.Fatalf("entry %q: the table has another one, or none: %v", e.key(), found)
		}
		if !e.known && !e.pinned() {
			t.Fatalf("entry %q says nothing", e.key())
		}
		used += e.size()
		if !e.pinned() {
			loose++
		}
	}
	if c.used != used {
		t.Fatalf("the cache says that it holds %d bytes, its entries have %d", c.used, used)
	}
	c.evict(nil)
	if c.used > c.budget && loose > 0 && c.made <= sweep/2 {
		for range 2 { // the hand passes everybody twice
			c.evict(nil)
		}
		for _, e := range entriesOf(c) {
			if !e.pinned() && c.used > c.budget {
				t.Fatalf("the cache holds %d bytes, its budget is %d, and %q could go", c.used, c.budget, e.key())
			}
		}
	}
}

// entriesOf returns the entries that are somebody's.
func entriesOf(c *cache) []*entry {
	var out []*entry
	for n := range c.made {
		if e := c.at(n); e.owner != nil {
			out = append(out, e)
		}
	}
	return out
}

func TestCachePurgeGivesTheMemoryBack(t *testing.T) {
	c := newCache(100_000)
	a, b := newTable("p", "a", 0, memstore.New(), c), newTable("p", "b", 0, memstore.New(), c)
	for i := range 20 {
		for _, tb := range []*table{a, b} {
			if _, err := tb.get(fmt.Appendf(nil, "%d", i)); err != nil {
				t.Fatal(err)
			}
			tb.put(fmt.Appendf(nil, "%d", i), []byte("value"))
		}
	}
	a.seal()
	a.commit()
	c.purge(a)
	if a.entries.used != 0 || b.entries.used != 20 {
		t.Fatalf("after the purge: %d and %d entries", a.entries.used, b.entries.used)
	}
	c.purge(b)
	if c.used != 0 || len(c.blocks) != 0 {
		t.Fatalf("an empty cache holds %d bytes", c.used)
	}
}

// TestCacheKeepsWhatIsInUse: a hot key survives a scan over many cold ones.
func TestCacheKeepsWhatIsInUse(t *testing.T) {
	store := memstore.New()
	tb := newTable("p", "a", 0, store, newCache(10*(entryOverhead+10)))
	for i := range 1000 {
		for _, k := range []string{"hot", fmt.Sprint(i)} {
			if _, err := tb.get([]byte(k)); err != nil {
				t.Fatal(err)
			}
		}
		if tb.lookup([]byte("hot"), hashOf([]byte("hot"))) == nil {
			t.Fatalf("the hot key was evicted in round %d", i)
		}
	}
	if tb.cache.used > tb.cache.budget {
		t.Fatalf("the cache holds %d bytes, its budget is %d", tb.cache.used, tb.cache.budget)
	}
}

// TestCompleteTableAsksTheStoreForNothing: a new table knows what it does not have, until something of it lies in the store alone.
func TestCompleteTableAsksTheStoreForNothing(t *testing.T) {
	store := memstore.New()
	tb := newTable("p", "a", 0, store, newCache(1<<20))
	if err := tb.findComplete(); err != nil {
		t.Fatal(err)
	}
	store.Fail(errors.New("asked"))
	for i := range 100 {
		key := fmt.Appendf(nil, "%d", i)
		if v, err := tb.get(key); v != nil || err != nil {
			t.Fatalf("get %s: %q, %v", key, v, err)
		}
		tb.put(key, []byte("value"))
	}
	store.Fail(nil)
	if other := newTable("p", "a", 1, store, tb.cache); other.findComplete() != nil || !other.complete {
		t.Fatal("the table of another task is new too")
	}
	var b statestore.Batch
	b.Put(tb.storeKey("known to the store"), []byte("value"))
	if err := store.Apply(&b); err != nil {
		t.Fatal(err)
	}
	again := newTable("p", "a", 0, store, newCache(1<<20))
	if err := again.findComplete(); err != nil || again.complete {
		t.Fatalf("a table with something in the store is complete: %v, %v", again.complete, err)
	}
}

// TestTablesShareACacheAtTheSameTime: tasks are folded beside one another, and what one of them adds takes the place of what another has.
func TestTablesShareACacheAtTheSameTime(t *testing.T) {
	c := newCache(40 * entryOverhead)
	const keys = 60
	store := memstore.New()
	var tables []*table
	for id := range int32(4) {
		tb := newTable("p", "t", id, store, c)
		if err := tb.findComplete(); err != nil {
			t.Fatal(err)
		}
		tables = append(tables, tb)
	}
	counts := make([][keys]int, len(tables))
	for round := range 20 {
		var all sync.WaitGroup
		for i, tb := range tables {
			all.Go(func() {
				var ahead []record.Record
				for n := range keys {
					ahead = append(ahead, record.Record{Key: fmt.Appendf(nil, "key-%d", (n*7+round)%keys)})
				}
				for n := range ahead {
					if n%strides == 0 {
						tb.approach(ahead[n:])
					}
					number := (n*7 + round) % keys
					got, err := tb.get(ahead[n].Key)
					if want := counts[i][number]; err != nil || string(got) != strings.Repeat("x", want) {
						t.Errorf("table %d, round %d: key %d is %q, %v; expected %d bytes", i, round, number, got, err, want)
						return
					}
					if n%3 == 0 {
						counts[i][number]++
						tb.put(ahead[n].Key, []byte(strings.Repeat("x", counts[i][number])))
					}
				}
			})
		}
		all.Wait()
		for _, tb := range tables {
			tb.seal()
			tb.commit()
			var b statestore.Batch
			appendWrites(&b, tb.takeDirty())
			if err := store.Apply(&b); err != nil {
				t.Fatal(err)
			}
			tb.settle()
		}
	}
	for _, tb := range tables {
		if tb.complete {
			t.Fatal("a table that has outgrown the cache is complete")
		}
		c.purge(tb)
	}
	if c.used != 0 || len(c.blocks) != 0 {
		t.Fatalf("an empty cache holds %d bytes in %d blocks", c.used, len(c.blocks))
	}
}

func TestTableTellsOfAStoreThatFails(t *testing.T) {
	store := memstore.New()
	tb := newTable("p", "t", 0, store, newCache(1000))
	broken := errors.New("broken")
	store.Fail(broken)
	if _, err := tb.get([]byte("k")); !errors.Is(err, broken) {
		t.Fatalf("get: %v", err)
	}
	if err := tb.findComplete(); !errors.Is(err, broken) || tb.complete {
		t.Fatalf("complete: %v, %v", tb.complete, err)
	}
	var told error
	for range tb.each(nil, func(err error) { told = err }) {
		t.Fatal("a broken store has an entry")
	}
	if !errors.Is(told, broken) {
		t.Fatalf("range: %v", told)
	}
}
