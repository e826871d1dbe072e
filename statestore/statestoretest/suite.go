// Package statestoretest is the conformance suite of the port [statestore.Store]: every implementation runs it.
package statestoretest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"github.com/regent-infra/regent/statestore"
)

// Harness makes stores for the suite.
type Harness struct {
	// Open opens an empty store, which the suite closes.
	Open func(t testing.TB) statestore.Store
	// OpenCheckpoint opens what Checkpoint has written, as a store of its own.
	OpenCheckpoint func(t testing.TB, dir string) statestore.Store
}

// Run runs the suite.
func Run(t *testing.T, h Harness) {
	t.Helper()
	for name, test := range map[string]func(*testing.T, Harness){
		"get, put, delete":               testBasics,
		"values are copies":              testCopies,
		"scan is ordered and bounded":    testScan,
		"scan is a snapshot":             testSnapshot,
		"batch in order":                 testBatchOrder,
		"load":                           testLoad,
		"load refuses disorder":          testLoadDisorder,
		"replace":                        testReplace,
		"replace by nothing":             testReplaceEmpty,
		"replace refuses strays":         testReplaceStrays,
		"cancelled":                      testCancelled,
		"checkpoint":                     testCheckpoint,
		"closed":                         testClosed,
		"meta":                           testMeta,
		"readers beside a writer":        testConcurrent,
		"any history equals a plain map": testModel,
	} {
		t.Run(name, func(t *testing.T) { test(t, h) })
	}
}

func open(t testing.TB, h Harness) statestore.Store {
	t.Helper()
	s := h.Open(t)
	t.Cleanup(func() {
		if err := s.Close(); err != nil && !errors.Is(err, statestore.ErrClosed) {
			t.Errorf("close: %v", err)
		}
	})
	return s
}

func apply(t testing.TB, s statestore.Store, fill func(b *statestore.Batch)) {
	t.Helper()
	var b statestore.Batch
	fill(&b)
	if err := s.Apply(&b); err != nil {
		t.Fatalf("apply: %v", err)
	}
}

func expect(t testing.TB, s statestore.Store, key, want string) {
	t.Helper()
	v, ok, err := s.Get([]byte(key))
	if err != nil || !ok || string(v) != want {
		t.Fatalf("get %q: %q, %v, %v; expected %q", key, v, ok, err, want)
	}
}

func expectNone(t testing.TB, s statestore.Store, key string) {
	t.Helper()
	if v, ok, err := s.Get([]byte(key)); err != nil || ok {
		t.Fatalf("get %q: %q, %v, %v; expected nothing", key, v, ok, err)
	}
}

// All reads [lower, upper) as "key=value" lines.
func All(t testing.TB, s statestore.Store, lower, upper []byte) []string {
	t.Helper()
	it, err := s.Scan(lower, upper)
	if err != nil {
		t.Fatalf("scan: %v", err)
	}
	out := drain(it)
	if err := errors.Join(it.Err(), it.Close(), it.Close()); err != nil {
		t.Fatalf("scan: %v", err)
	}
	return out
}

func drain(it statestore.Iterator) []string {
	out := []string{}
	for it.Next() {
		out = append(out, fmt.Sprintf("%s=%s", it.Key(), it.Value()))
	}
	return out
}

func same(t testing.TB, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Fatalf("got %q, expected %q", got, want)
	}
}

// entries makes a sequence of pairs; a value "-" is nil.
func entries(pairs ...string) iter.Seq2[[]byte, []byte] {
	return func(yield func(k, v []byte) bool) {
		for i := 0; i < len(pairs); i += 2 {
			v := []byte(pairs[i+1])
			if pairs[i+1] == "-" {
				v = nil
			}
			if !yield([]byte(pairs[i]), v) {
				return
			}
		}
	}
}

func testBasics(t *testing.T, h Harness) {
	s := open(t, h)
	expectNone(t, s, "a")
	apply(t, s, func(b *statestore.Batch) {
		b.Put([]byte("a"), []byte("1"))
		b.Put([]byte("b"), nil)
	})
	expect(t, s, "a", "1")
	expect(t, s, "b", "")
	if v, _, _ := s.Get([]byte("b")); v == nil {
		t.Fatal("an empty value came back as nil")
	}
	apply(t, s, func(b *statestore.Batch) { b.Delete([]byte("a")); b.Delete([]byte("nothing")) })
	expectNone(t, s, "a")
	if err := s.Flush(); err != nil {
		t.Fatalf("flush: %v", err)
	}
	expect(t, s, "b", "")
	if s.Usage().DiskBytes+s.Usage().MemoryBytes == 0 {
		t.Fatal("a store that holds something uses nothing")
	}
}

func testCopies(t *testing.T, h Harness) {
	s := open(t, h)
	key, value := []byte("key"), []byte("value")
	apply(t, s, func(b *statestore.Batch) { b.Put(key, value) })
	key[0], value[0] = 'x', 'x' // once applied, the caller may do with them what it wants
	got, _, err := s.Get([]byte("key"))
	if err != nil || string(got) != "value" {
		t.Fatalf("get: %q, %v", got, err)
	}
	got[0] = 'y'
	expect(t, s, "key", "value")
}

func fill(t testing.TB, s statestore.Store) {
	t.Helper()
	apply(t, s, func(b *statestore.Batch) {
		for _, k := range []string{"b", "a", "d", "c", "e\xff", "f"} {
			b.Put([]byte(k), []byte(k+k))
		}
	})
}

func testScan(t *testing.T, h Harness) {
	s := open(t, h)
	same(t, All(t, s, nil, nil))
	fill(t, s)
	same(t, All(t, s, nil, nil), "a=aa", "b=bb", "c=cc", "d=dd", "e\xff=e\xffe\xff", "f=ff")
	same(t, All(t, s, []byte("b"), []byte("d")), "b=bb", "c=cc")
	same(t, All(t, s, []byte("e"), statestore.PrefixEnd([]byte("e"))), "e\xff=e\xffe\xff")
	same(t, All(t, s, []byte("g"), nil))
	it, err := s.Scan([]byte("a"), nil)
	if err != nil {
		t.Fatal(err)
	}
	if !it.Next() { // and it may be left early
		t.Fatal("nothing to read")
	}
	if err := it.Close(); err != nil {
		t.Fatal(err)
	}
}

func testSnapshot(t *testing.T, h Harness) {
	s := open(t, h)
	fill(t, s)
	it, err := s.Scan(nil, []byte("d"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = it.Close() }()
	apply(t, s, func(b *statestore.Batch) {
		b.Put([]byte("a"), []byte("new"))
		b.Delete([]byte("b"))
		b.Put([]byte("cc"), nil)
	})
	same(t, drain(it), "a=aa", "b=bb", "c=cc")
}

func testBatchOrder(t *testing.T, h Harness) {
	s := open(t, h)
	fill(t, s)
	apply(t, s, func(b *statestore.Batch) {
		b.Put([]byte("a"), []byte("1"))
		b.DeleteRange([]byte("a"), []byte("d"))
		b.Put([]byte("b"), []byte("2"))
		b.Put([]byte("f"), []byte("3"))
		b.Delete([]byte("f"))
		if b.Len() != 5 || b.Bytes() == 0 {
			t.Fatalf("the batch counts %d operations and %d bytes", b.Len(), b.Bytes())
		}
	})
	same(t, All(t, s, nil, nil), "b=2", "d=dd", "e\xff=e\xffe\xff")
	var b statestore.Batch
	b.Put([]byte("z"), nil)
	if b.Reset(); b.Len() != 0 || b.Bytes() != 0 {
		t.Fatal("a reset batch is not empty")
	}
}

func testLoad(t *testing.T, h Harness) {
	s := open(t, h)
	fill(t, s)
	if err := s.Load(t.Context(), entries("a", "new", "b", "-", "bb", "", "zz", "z")); err != nil {
		t.Fatalf("load: %v", err)
	}
	same(t, All(t, s, nil, nil), "a=new", "bb=", "c=cc", "d=dd", "e\xff=e\xffe\xff", "f=ff", "zz=z")
	if err := s.Load(t.Context(), entries()); err != nil {
		t.Fatalf("load nothing: %v", err)
	}
	apply(t, s, func(b *statestore.Batch) { b.Put([]byte("a"), []byte("newer")) })
	expect(t, s, "a", "newer")
}

func testLoadDisorder(t *testing.T, h Harness) {
	s := open(t, h)
	for _, bad := range []iter.Seq2[[]byte, []byte]{entries("b", "1", "a", "2"), entries("a", "1", "a", "2")} {
		if err := s.Load(t.Context(), bad); err == nil {
			t.Fatal("keys out of order were loaded")
		}
	}
}

func testReplace(t *testing.T, h Harness) {
	s := open(t, h)
	fill(t, s)
	it, err := s.Scan(nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = it.Close() }()
	if err := s.Replace(t.Context(), []byte("b"), []byte("e"), entries("ba", "1", "c", "2")); err != nil {
		t.Fatalf("replace: %v", err)
	}
	same(t, All(t, s, nil, nil), "a=aa", "ba=1", "c=2", "e\xff=e\xffe\xff", "f=ff")
	same(t, drain(it), "a=aa", "b=bb", "c=cc", "d=dd", "e\xff=e\xffe\xff", "f=ff")
}

func testReplaceEmpty(t *testing.T, h Harness) {
	s := open(t, h)
	fill(t, s)
	if err := s.Replace(t.Context(), []byte("b"), []byte("e"), entries()); err != nil {
		t.Fatalf("replace: %v", err)
	}
	same(t, All(t, s, nil, nil), "a=aa", "e\xff=e\xffe\xff", "f=ff")
}

func testReplaceStrays(t *testing.T, h Harness) {
	s := open(t, h)
	fill(t, s)
	for _, bad := range []iter.Seq2[[]byte, []byte]{
		entries("a", "1"), entries("e", "1"), entries("c", "1", "b", "2"), entries("c", "1", "c", "2"),
	} {
		if err := s.Replace(t.Context(), []byte("b"), []byte("e"), bad); err == nil {
			t.Fatal("keys out of order, or outside of the span, were taken")
		}
	}
	expect(t, s, "c", "cc")
}

func testCancelled(t *testing.T, h Harness) {
	s := open(t, h)
	fill(t, s)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Load(ctx, entries("x", "1")); !errors.Is(err, context.Canceled) {
		t.Fatalf("load: %v, expected that it was cancelled", err)
	}
	if err := s.Replace(ctx, []byte("b"), []byte("e"), entries("c", "1")); !errors.Is(err, context.Canceled) {
		t.Fatalf("replace: %v, expected that it was cancelled", err)
	}
	expectNone(t, s, "x")
	expect(t, s, "c", "cc")
}

func testCheckpoint(t *testing.T, h Harness) {
	s := open(t, h)
	fill(t, s)
	dir := filepath.Join(t.TempDir(), "checkpoint")
	if err := s.Checkpoint(dir); err != nil {
		t.Fatalf("checkpoint: %v", err)
	}
	if err := s.Checkpoint(dir); err == nil {
		t.Fatal("a checkpoint went into a directory that exists")
	}
	apply(t, s, func(b *statestore.Batch) { b.Delete([]byte("a")) })
	c := h.OpenCheckpoint(t, dir)
	expect(t, c, "a", "aa")
	same(t, All(t, c, nil, []byte("c")), "a=aa", "b=bb")
	apply(t, c, func(b *statestore.Batch) { b.Put([]byte("b"), []byte("other")) })
	if err := c.Close(); err != nil {
		t.Fatalf("close the checkpoint: %v", err)
	}
	expect(t, s, "b", "bb")
	expectNone(t, s, "a")
}

func testClosed(t *testing.T, h Harness) {
	s := open(t, h)
	fill(t, s)
	if err := s.Close(); err != nil {
		t.Fatalf("close: %v", err)
	}
	_, _, err := s.Get([]byte("a"))
	_, scan := s.Scan(nil, nil)
	for op, err := range map[string]error{
		"get": err, "scan": scan, "apply": s.Apply(&statestore.Batch{}), "flush": s.Flush(), "close": s.Close(),
		"load": s.Load(t.Context(), entries()), "replace": s.Replace(t.Context(), nil, []byte("z"), entries()),
		"checkpoint": s.Checkpoint(filepath.Join(t.TempDir(), "c")),
	} {
		if !errors.Is(err, statestore.ErrClosed) {
			t.Errorf("%s on a closed store: %v, expected ErrClosed", op, err)
		}
	}
}

func testMeta(t *testing.T, h Harness) {
	s := open(t, h)
	if _, ok, err := statestore.ReadMeta(s); ok || err != nil {
		t.Fatalf("meta of a new store: %v, %v", ok, err)
	}
	for range 2 {
		if err := statestore.Bind(s, "cluster-1"); err != nil {
			t.Fatalf("bind: %v", err)
		}
	}
	if err := statestore.Bind(s, "cluster-2"); !errors.Is(err, statestore.ErrCluster) {
		t.Fatalf("bind to another cluster: %v, expected ErrCluster", err)
	}
	apply(t, s, func(b *statestore.Batch) {
		b.Put(statestore.MetaKey(), statestore.Meta{Format: statestore.FormatVersion + 1}.Encode())
	})
	if err := statestore.Bind(s, "cluster-1"); !errors.Is(err, statestore.ErrVersion) {
		t.Fatalf("bind a store of another version: %v, expected ErrVersion", err)
	}
}

// testConcurrent has readers see each batch as a whole, or not at all.
func testConcurrent(t *testing.T, h Harness) {
	s := open(t, h)
	write := func(i int) error {
		var b statestore.Batch
		for _, k := range []string{"a", "b", "c"} {
			b.Put([]byte(k), fmt.Appendf(nil, "%d", i))
		}
		return s.Apply(&b)
	}
	if err := write(0); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	var wg sync.WaitGroup
	for range 2 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for {
				select {
				case <-done:
					return
				default:
				}
				it, err := s.Scan(nil, nil)
				if err != nil {
					t.Errorf("scan: %v", err)
					return
				}
				values := map[string]bool{}
				for it.Next() {
					values[string(it.Value())] = true
				}
				if err := it.Close(); err != nil || len(values) != 1 {
					t.Errorf("a reader saw parts of batches: %v, %v", values, err)
					return
				}
			}
		}()
	}
	for i := 1; i <= 300; i++ {
		if err := write(i); err != nil {
			t.Error(err)
			break
		}
	}
	close(done)
	wg.Wait()
}

// testModel compares any history with a plain map.
func testModel(t *testing.T, h Harness) {
	s := open(t, h)
	round := 0
	rapid.Check(t, func(rt *rapid.T) {
		round++
		prefix := fmt.Sprintf("%06d/", round)
		model := map[string]string{}
		key := func() string { return prefix + rapid.StringMatching(`[a-e]{1,2}`).Draw(rt, "key") }
		for range rapid.IntRange(1, 12).Draw(rt, "batches") {
			model = step(rt, s, model, prefix, key)
		}
		want := []string{}
		for k, v := range model {
			want = append(want, k+"="+v)
			expect(t, s, k, v)
		}
		slices.Sort(want)
		it, err := s.Scan([]byte(prefix), statestore.PrefixEnd([]byte(prefix)))
		if err != nil {
			rt.Fatal(err)
		}
		got := drain(it)
		if err := it.Close(); err != nil {
			rt.Fatal(err)
		}
		if !slices.Equal(got, want) {
			rt.Fatalf("got %q, expected %q", got, want)
		}
	})
}

// step applies one random operation to the store and to the model, which it returns.
func step(rt *rapid.T, s statestore.Store, model map[string]string, prefix string, key func() string) map[string]string {
	lower, upper := key(), key()
	if lower > upper {
		lower, upper = upper, lower
	}
	pairs := map[string]string{}
	for range rapid.IntRange(0, 5).Draw(rt, "pairs") {
		pairs[key()] = rapid.StringMatching(`[a-z]{0,3}`).Draw(rt, "value")
	}
	var sorted []string
	for k := range pairs {
		sorted = append(sorted, k)
	}
	slices.Sort(sorted)
	var err error
	switch rapid.IntRange(0, 4).Draw(rt, "operation") {
	case 0:
		err = s.Flush()
	case 1:
		if lower == upper {
			return model
		}
		var in []string
		for k := range model {
			if k >= lower && k < upper {
				delete(model, k)
			}
		}
		for _, k := range sorted {
			if k >= lower && k < upper {
				in = append(in, k, pairs[k])
				model[k] = pairs[k]
			}
		}
		err = s.Replace(context.Background(), []byte(lower), []byte(upper), entries(in...))
	case 2:
		var in []string
		for i, k := range sorted {
			if i%2 == 1 {
				in = append(in, k, "-")
				delete(model, k)
				continue
			}
			in = append(in, k, pairs[k])
			model[k] = pairs[k]
		}
		err = s.Load(context.Background(), entries(in...))
	default:
		var b statestore.Batch
		for _, k := range sorted {
			if bytes.HasSuffix([]byte(k), []byte("e")) {
				b.Delete([]byte(k))
				delete(model, k)
			} else {
				b.Put([]byte(k), []byte(pairs[k]))
				model[k] = pairs[k]
			}
		}
		err = s.Apply(&b)
	}
	if err != nil {
		rt.Fatal(err)
	}
	return model
}
