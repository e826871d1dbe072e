package stream

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/regent-infra/regent/statestore"
	"github.com/regent-infra/regent/statestore/memstore"
)

// TestTableLayersEqualAMap moves random writes through the layers, with a cache that is too small.
func TestTableLayersEqualAMap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		store := memstore.New()
		tb := newTable("p", "t", 3, store, newCache(rapid.IntRange(1, 2000).Draw(t, "budget")))
		seen, kept := map[string]string{}, map[string]string{}
		for range rapid.IntRange(1, 40).Draw(t, "operations") {
			k := rapid.StringMatching(`[ab]{0,3}`).Draw(t, "key")
			switch rapid.IntRange(0, 9).Draw(t, "operation") {
			case 0:
				tb.commit()
				kept = maps.Clone(seen)
			case 1:
				tb.drop()
				seen = maps.Clone(kept)
			case 2: // a flush, as the flusher does it
				tb.flushing, tb.active = mergeLayers(tb.flushing, tb.active), newLayer()
			case 3:
				spillLayer(t, tb, store)
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

func mergeLayers(lower, upper *layer) *layer {
	out := newLayer()
	for _, e := range collect(nil, upper, lower) {
		out.ReplaceOrInsert(e.key, e.value)
	}
	return out
}

func spillLayer(t *rapid.T, tb *table, store *memstore.Store) {
	var b statestore.Batch
	for _, e := range collect(nil, tb.flushing) {
		if e.value == nil {
			b.Delete(tb.storeKey(e.key))
		} else {
			b.Put(tb.storeKey(e.key), e.value)
		}
	}
	if err := store.Apply(&b); err != nil {
		t.Fatal(err)
	}
	tb.flushing = nil
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
	if tb.cache.used > tb.cache.budget {
		t.Fatalf("the cache holds %d bytes, its budget is %d", tb.cache.used, tb.cache.budget)
	}
}

func TestCachePurgeGivesTheMemoryBack(t *testing.T) {
	c := newCache(10_000)
	a, b := newTable("p", "a", 0, memstore.New(), c), newTable("p", "b", 0, memstore.New(), c)
	for i := range 20 {
		c.put(a.cached, fmt.Appendf(nil, "%d", i), []byte("value"))
		c.put(b.cached, fmt.Appendf(nil, "%d", i), nil)
	}
	c.purge(a.cached)
	if len(a.cached) != 0 || len(b.cached) != 20 {
		t.Fatalf("after the purge: %d and %d entries", len(a.cached), len(b.cached))
	}
	c.purge(b.cached)
	if c.used != 0 || c.order.Len() != 0 {
		t.Fatalf("an empty cache holds %d bytes", c.used)
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
	var told error
	for range tb.each(nil, func(err error) { told = err }) {
		t.Fatal("a broken store has an entry")
	}
	if !errors.Is(told, broken) {
		t.Fatalf("range: %v", told)
	}
}
