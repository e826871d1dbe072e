package brokerdisk

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"pgregory.net/rapid"
)

func intents() *rapid.Generator[Intent] {
	return rapid.Custom(func(t *rapid.T) Intent {
		in := Intent{
			ProducerID:      rapid.Int64().Draw(t, "pid"),
			ProducerEpoch:   rapid.Int16().Draw(t, "epoch"),
			RequestVersion:  rapid.Int16Range(0, 5).Draw(t, "version"),
			TransactionalID: rapid.String().Draw(t, "txid"),
		}
		for range rapid.IntRange(0, 5).Draw(t, "offsets") {
			o := GroupOffset{
				Group: rapid.String().Draw(t, "group"), Topic: rapid.String().Draw(t, "topic"), Partition: rapid.Int32().Draw(t, "partition"),
				Offset: rapid.Int64().Draw(t, "offset"), LeaderEpoch: rapid.Int32().Draw(t, "leader epoch"),
			}
			if rapid.Bool().Draw(t, "has metadata") {
				m := rapid.String().Draw(t, "metadata")
				o.Metadata = &m
			}
			in.Offsets = append(in.Offsets, o)
		}
		return in
	})
}

func openIntent(t interface {
	Helper()
	Fatal(...any)
}, path string,
) *IntentFile {
	t.Helper()
	f, err := OpenIntentFile(path, false)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// What was written is read, until it is marked as done; an interrupted write is no intent.
func TestIntentIsReadWholeOrNotAtAll(t *testing.T) {
	dir := t.TempDir()
	rapid.Check(t, func(rt *rapid.T) {
		path := filepath.Join(dir, "intent")
		_ = os.Remove(path)
		f := openIntent(rt, path)
		defer func() { _ = f.Close() }()
		first, second := intents().Draw(rt, "first"), intents().Draw(rt, "second")
		if err := f.Write(first); err != nil {
			rt.Fatal(err)
		}
		if got, err := f.Pending(); err != nil || !reflect.DeepEqual(got, &first) {
			rt.Fatalf("read %+v (%v), wrote %+v", got, err, first)
		}
		if err := f.Done(); err != nil {
			rt.Fatal(err)
		}
		if got, err := f.Pending(); err != nil || got != nil {
			rt.Fatalf("read %+v (%v) after it was done", got, err)
		}
		before, err := os.ReadFile(path)
		if err != nil {
			rt.Fatal(err)
		}
		if err := f.Write(second); err != nil {
			rt.Fatal(err)
		}
		after, err := os.ReadFile(path)
		if err != nil {
			rt.Fatal(err)
		}
		written := intentHeaderSize + len(second.append(nil))
		n := rapid.IntRange(0, written-1).Draw(rt, "torn at")
		mixed := append([]byte(nil), after[:n]...)
		if len(before) > n {
			mixed = append(mixed, before[n:]...)
		}
		if err := os.WriteFile(path, mixed, 0o600); err != nil {
			rt.Fatal(err)
		}
		g := openIntent(rt, path)
		defer func() { _ = g.Close() }()
		got, err := g.Pending()
		if err != nil {
			rt.Fatal(err)
		}
		if got != nil && !reflect.DeepEqual(got, &second) && !reflect.DeepEqual(got, &first) {
			rt.Fatalf("read %+v out of a torn write of %+v over %+v", got, second, first)
		}
	})
}

func TestIntentOfAnotherFormatIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "intent")
	f := openIntent(t, path)
	if err := f.Write(Intent{}); err != nil {
		t.Fatal(err)
	}
	if _, err := f.f.WriteAt([]byte{9}, 4); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Pending(); !errors.Is(err, ErrFormat) {
		t.Errorf("error is %v", err)
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
}

func FuzzDecodeIntent(f *testing.F) {
	m := "m"
	in := Intent{ProducerID: 1, TransactionalID: "t", Offsets: []GroupOffset{{Group: "g", Topic: "t", Metadata: &m}, {}}}
	f.Add(in.append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		in, err := decodeIntent(b)
		if err == nil {
			if again, err := decodeIntent(in.append(nil)); err != nil || !reflect.DeepEqual(in, again) {
				t.Errorf("%+v became %+v (%v)", in, again, err)
			}
		}
	})
}

func BenchmarkIntent(b *testing.B) {
	m := "out=123456789 topic=AAAAAAAAAAAAAAAAAAAAAA fold=1"
	in := Intent{ProducerID: 1, TransactionalID: "regent-reducer"}
	for p := range int32(16) {
		in.Offsets = append(in.Offsets, GroupOffset{Group: "regent-reducer", Topic: "infra.observations.postgres.v1", Partition: p, Metadata: &m})
	}
	for _, sync := range []bool{false, true} {
		name := "page cache"
		if sync {
			name = "fsync"
		}
		b.Run(name, func(b *testing.B) {
			f, err := OpenIntentFile(filepath.Join(b.TempDir(), "intent"), sync)
			if err != nil {
				b.Fatal(err)
			}
			defer func() { _ = f.Close() }()
			for b.Loop() {
				if err := f.Write(in); err != nil {
					b.Fatal(err)
				}
				if err := f.Done(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
