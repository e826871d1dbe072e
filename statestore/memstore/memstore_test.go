package memstore_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/regent-infra/regent/statestore"
	"github.com/regent-infra/regent/statestore/memstore"
	"github.com/regent-infra/regent/statestore/statestoretest"
)

func TestConformance(t *testing.T) {
	statestoretest.Run(t, statestoretest.Harness{
		Open: func(testing.TB) statestore.Store { return memstore.New() },
		OpenCheckpoint: func(t testing.TB, dir string) statestore.Store {
			s, err := memstore.Restore(dir)
			if err != nil {
				t.Fatal(err)
			}
			return s
		},
	})
}

func TestCloneIsIndependent(t *testing.T) {
	s := memstore.New()
	var b statestore.Batch
	b.Put([]byte("a"), []byte("1"))
	if err := s.Apply(&b); err != nil {
		t.Fatal(err)
	}
	c := s.Clone()
	b.Reset()
	b.Put([]byte("a"), []byte("2"))
	if err := s.Apply(&b); err != nil {
		t.Fatal(err)
	}
	if v, _, err := c.Get([]byte("a")); err != nil || string(v) != "1" {
		t.Fatalf("the clone has %q, %v", v, err)
	}
}

func TestFailAndHeal(t *testing.T) {
	s := memstore.New()
	broken := errors.New("disk is gone")
	s.Fail(broken)
	err := s.Apply(&statestore.Batch{})
	if !errors.Is(err, statestore.ErrFailed) || !errors.Is(err, broken) {
		t.Fatalf("apply: %v", err)
	}
	s.Fail(nil)
	if err := s.Apply(&statestore.Batch{}); err != nil {
		t.Fatalf("apply after healing: %v", err)
	}
}

func TestRestoreRefusesWhatIsTorn(t *testing.T) {
	dir := t.TempDir()
	if _, err := memstore.Restore(dir); err == nil {
		t.Fatal("restored from nothing")
	}
	for _, torn := range []string{"\x05ab", "\x01a", "\x01a\x09b", "\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"} {
		if err := os.WriteFile(filepath.Join(dir, "entries"), []byte(torn), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := memstore.Restore(dir); err == nil {
			t.Fatalf("restored from %q", torn)
		}
	}
}
