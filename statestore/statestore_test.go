package statestore_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/regent-infra/regent/statestore"
	"github.com/regent-infra/regent/statestore/memstore"
)

func TestKeysKeepOrderAndStayApart(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		name := rapid.StringMatching(`[a-z/.]{1,20}`)
		a, b := name.Draw(t, "table"), name.Draw(t, "other table")
		p, q := rapid.Int32Min(0).Draw(t, "partition"), rapid.Int32Min(0).Draw(t, "other partition")
		k, l := rapid.SliceOf(rapid.Byte()).Draw(t, "key"), rapid.SliceOf(rapid.Byte()).Draw(t, "other key")
		first, second := statestore.Key(a, p, k), statestore.Key(b, q, l)
		if a == b && p == q {
			if bytes.Compare(first, second) != bytes.Compare(k, l) {
				t.Fatalf("keys %x and %x do not sort like %x and %x", first, second, k, l)
			}
		} else if bytes.HasPrefix(second, statestore.PartitionPrefix(a, p)) {
			t.Fatalf("key %x of %s/%d stands among those of %s/%d", second, b, q, a, p)
		}
		end := statestore.PrefixEnd(statestore.PartitionPrefix(a, p))
		if bytes.Compare(first, end) >= 0 {
			t.Fatalf("key %x is not below the end %x", first, end)
		}
		table, partition, key, err := statestore.ParseKey(first)
		if err != nil || table != a || partition != p || !bytes.Equal(key, k) {
			t.Fatalf("parsed %q, %d, %x, %v", table, partition, key, err)
		}
	})
}

func FuzzParseKey(f *testing.F) {
	f.Add(statestore.Key("table", 3, []byte("key")))
	f.Add([]byte{3})
	f.Add([]byte{3, 200, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		table, partition, key, err := statestore.ParseKey(b)
		if err == nil && !bytes.Equal(statestore.Key(table, partition, key), b) {
			t.Fatalf("%x does not come back", b)
		}
	})
}

func TestPrefixEnd(t *testing.T) {
	for in, want := range map[string]string{"a": "b", "a\xff": "b", "a\xff\xff": "b", "ab": "ac"} {
		if got := statestore.PrefixEnd([]byte(in)); string(got) != want {
			t.Errorf("end of %q is %q, expected %q", in, got, want)
		}
	}
	if got := statestore.PrefixEnd([]byte("\xff\xff")); got != nil {
		t.Errorf("end of the last prefix is %q, expected none", got)
	}
}

func TestKindsStayApart(t *testing.T) {
	keys := [][]byte{
		statestore.MetaKey(), statestore.PositionKey("p", 1), statestore.PartitionPrefix("p", 1), statestore.ShadowPrefix("p", 1),
	}
	for i, a := range keys {
		for j, b := range keys {
			if i != j && bytes.HasPrefix(a, b) {
				t.Errorf("%x is a prefix of %x", b, a)
			}
		}
	}
	if _, _, _, err := statestore.ParseKey(statestore.PositionKey("p", 1)); err == nil {
		t.Error("a position's key was taken for one of a table")
	}
}

func TestCheckName(t *testing.T) {
	for name, ok := range map[string]bool{"": false, "a": true, strings.Repeat("x", 255): true, strings.Repeat("x", 256): false} {
		if err := statestore.CheckName(name); (err == nil) != ok {
			t.Errorf("name of %d bytes: %v", len(name), err)
		}
	}
}

func TestMetaComesBackOrIsRefused(t *testing.T) {
	m := statestore.Meta{Format: statestore.FormatVersion, ClusterID: "some-cluster"}
	b := m.Encode()
	got, err := statestore.DecodeMeta(b)
	if err != nil || got != m {
		t.Fatalf("decoded %+v, %v", got, err)
	}
	for i := range b {
		torn := bytes.Clone(b)
		torn[i] ^= 1
		if _, err := statestore.DecodeMeta(torn); err == nil {
			t.Errorf("byte %d changed and nobody saw it", i)
		}
		if _, err := statestore.DecodeMeta(b[:i]); err == nil {
			t.Errorf("%d of %d bytes were taken for all", i, len(b))
		}
	}
	other := statestore.Meta{Format: 99, ClusterID: "c"}.Encode()
	if _, err := statestore.DecodeMeta(other); !errors.Is(err, statestore.ErrVersion) {
		t.Errorf("another version: %v", err)
	}
}

func TestBatchKeepsOrderAndCounts(t *testing.T) {
	var b statestore.Batch
	b.Put([]byte("a"), nil)
	b.Delete([]byte("b"))
	b.DeleteRange([]byte("c"), []byte("d"))
	ops := b.Ops()
	if b.Len() != 3 || b.Bytes() != 4 || ops[0].Value == nil || ops[1].Value != nil || ops[1].End != nil || string(ops[2].End) != "d" {
		t.Fatalf("batch of %d bytes: %+v", b.Bytes(), ops)
	}
	if b.Reset(); b.Len() != 0 || b.Bytes() != 0 {
		t.Fatal("a reset batch is not empty")
	}
}

func TestBindTiesAStoreToACluster(t *testing.T) {
	s := memstore.New()
	for range 2 {
		if err := statestore.Bind(s, "one"); err != nil {
			t.Fatal(err)
		}
	}
	err := statestore.Bind(s, "two")
	if !errors.Is(err, statestore.ErrCluster) || !strings.Contains(err.Error(), `"one"`) || !strings.Contains(err.Error(), `"two"`) {
		t.Fatalf("bind to another cluster: %v", err)
	}
	broken := errors.New("broken")
	s.Fail(broken)
	if err := statestore.Bind(s, "one"); !errors.Is(err, broken) {
		t.Fatalf("bind a broken store: %v", err)
	}
	s.Fail(nil)
	var b statestore.Batch
	b.Put(statestore.MetaKey(), []byte{0, 1, 0})
	if err := s.Apply(&b); err != nil {
		t.Fatal(err)
	}
	if err := statestore.Bind(s, "one"); err == nil || !strings.Contains(err.Error(), "meta record") {
		t.Fatalf("bind a store whose meta record is torn: %v", err)
	}
}

func TestPositionKeysAreRead(t *testing.T) {
	t.Parallel()
	processor, task, err := statestore.ParsePositionKey(statestore.PositionKey("reducer.postgres", 7))
	if err != nil || processor != "reducer.postgres" || task != 7 {
		t.Fatalf("%q, %d, %v", processor, task, err)
	}
	for _, k := range [][]byte{nil, {2}, {2, 0}, {2, 3, 'a'}, statestore.MetaKey(), statestore.Key("a", 1, nil), append(statestore.PositionKey("a", 1), 0)} {
		if _, _, err := statestore.ParsePositionKey(k); err == nil {
			t.Errorf("read %x", k)
		}
		if bytes.HasPrefix(k, statestore.PositionsPrefix()) != (len(k) > 0 && k[0] == 2) {
			t.Errorf("the prefix of all positions is wrong about %x", k)
		}
	}
}
