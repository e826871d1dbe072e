package wal

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestParseHistory(t *testing.T) {
	t.Parallel()
	content := "1\t0/3000148\tno recovery target specified\n\n# a comment\n2\t0/50000A0\tbefore 2026-01-01 00:00:00+00\n"
	h, err := ParseHistory(4, []byte(content))
	want := History{Timeline: 4, Ancestors: []Branch{
		{1, 0x3000148, "no recovery target specified"}, {2, 0x50000A0, "before 2026-01-01 00:00:00+00"},
	}}
	if err != nil || !reflect.DeepEqual(h, want) {
		t.Fatalf("want %+v, got %+v, %v", want, h, err)
	}
	for l, tl := range map[LSN]Timeline{0: 1, 0x3000147: 1, 0x3000148: 2, 0x500009f: 2, 0x50000A0: 4, ^LSN(0): 4} {
		if got := h.TimelineAt(l); got != tl {
			t.Errorf("TimelineAt(%s): want %d, got %d", l, tl, got)
		}
	}
	for _, c := range []struct {
		tl   Timeline
		lsn  LSN
		want bool
	}{{1, 0x3000148, true}, {1, 0x3000149, false}, {2, 0x4000000, true}, {3, 1, false}, {4, 1 << 50, true}} {
		if got := h.Contains(c.tl, c.lsn); got != c.want {
			t.Errorf("Contains(%d, %s): want %t", c.tl, c.lsn, c.want)
		}
	}
}

func TestParseHistoryRefuses(t *testing.T) {
	t.Parallel()
	for content, message := range map[string]string{
		"x\t0/1\tr":            `parse history of timeline 4, line 1: expected a numeric timeline id, got "x"`,
		"0\t0/1\tr":            `parse history of timeline 4, line 1: expected a numeric timeline id, got "0"`,
		"1":                    `parse history of timeline 4, line 1: expected a timeline id and a switch point, got "1"`,
		"1\tzz\tr":             `parse history of timeline 4, line 1: parse LSN "zz": expected two hexadecimal numbers with a slash between, like 0/1A2B3C4D`,
		"2\t0/1\tr\n1\t0/2\tr": "parse history of timeline 4, line 2: timeline ids must rise, 1 follows 2",
		"4\t0/1\tr":            "parse history of timeline 4, line 1: an ancestor's id must be below the timeline's own, got 4",
	} {
		if _, err := ParseHistory(4, []byte(content)); err == nil || err.Error() != message {
			t.Errorf("%q: want %s, got %v", content, message, err)
		}
	}
	if _, err := ParseHistory(0, nil); err == nil {
		t.Error("timeline 0: want an error")
	}
	if _, err := ParseHistory(1, make([]byte, maxHistorySize+1)); err == nil || !strings.Contains(err.Error(), "over the limit") {
		t.Errorf("an endless file: got %v", err)
	}
}

// grow draws a history that has switched n times.
func grow(t *rapid.T, from History, at LSN, n int, ids *Timeline) (History, LSN) {
	h := from
	for range n {
		at += LSN(rapid.IntRange(1, 1000).Draw(t, "written"))
		*ids++
		h = History{Timeline: *ids, Ancestors: append(append([]Branch(nil), h.Ancestors...), Branch{Timeline: h.Timeline, End: at, Reason: "r"})}
	}
	return h, at
}

func TestCompareFindsTheFork(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var ids Timeline = 1
		common, at := grow(t, History{Timeline: 1}, 100, rapid.IntRange(0, 4).Draw(t, "common"), &ids)
		nA, nB := rapid.IntRange(0, 3).Draw(t, "a"), rapid.IntRange(0, 3).Draw(t, "b")
		a, _ := grow(t, common, at, nA, &ids)
		b, _ := grow(t, common, at, nB, &ids)
		fork := Compare(a, b)
		endA, _ := a.EndOf(common.Timeline)
		endB, _ := b.EndOf(common.Timeline)
		want := Fork{Timeline: common.Timeline, LSN: min(endA, endB)}
		switch {
		case nA == 0 && nB == 0:
			want.Relation = RelationSame
		case nA == 0:
			want.Relation = RelationAncestor
		case nB == 0:
			want.Relation = RelationDescendant
		default:
			want.Relation = RelationDiverged
		}
		if fork != want {
			t.Fatalf("Compare(%+v, %+v): want %+v, got %+v", a, b, want, fork)
		}
		// Seen from the other side it is the same fork.
		mirror := map[Relation]Relation{RelationAncestor: RelationDescendant, RelationDescendant: RelationAncestor}
		back := Compare(b, a)
		if m, ok := mirror[back.Relation]; ok {
			back.Relation = m
		}
		if back != fork {
			t.Fatalf("not symmetric: %+v and %+v", fork, back)
		}
		// What is before the fork is common, and a history with it can be followed; what is behind it on the other way cannot.
		if !a.Contains(fork.Timeline, min(fork.LSN, 1<<40)) || !b.Contains(fork.Timeline, min(fork.LSN, 1<<40)) {
			t.Fatalf("the fork %+v is not on both ways", fork)
		}
		if back, err := ParseHistory(a.Timeline, a.Format()); err != nil || !reflect.DeepEqual(back, a) {
			t.Fatalf("%+v comes back as %+v, %v", a, back, err)
		}
	})
	// The ids agree, the contents do not: told apart.
	a := History{Timeline: 3, Ancestors: []Branch{{1, 100, ""}}}
	b := History{Timeline: 3, Ancestors: []Branch{{1, 200, ""}}}
	if got := Compare(a, b); got.Relation != RelationDiverged || got.LSN != 100 {
		t.Errorf("equal ids with other pasts: got %+v", got)
	}
	if got := Compare(History{Timeline: 1}, History{Timeline: 2}); got.Relation != RelationUnrelated {
		t.Errorf("nothing in common: got %+v", got)
	}
}

func TestReadHistories(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write := func(name string, content []byte) {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("00000002.history", Placeholder())
	write("00000003.history", []byte("1\t0/2000000\tr\n"))
	write("000000010000000000000001", nil)
	write("00000004.history.tmp", []byte("garbage"))
	histories, placeholders, err := ReadHistories(dir)
	if err != nil || len(histories) != 1 || histories[3].Ancestors[0].End != 0x2000000 || len(placeholders) != 1 || placeholders[0] != 2 {
		t.Errorf("got %+v, %v, %v", histories, placeholders, err)
	}
	if h, err := ReadHistory(dir, 1); err != nil || len(h.Ancestors) != 0 || h.Timeline != 1 {
		t.Errorf("timeline 1 has no file: got %+v, %v", h, err)
	}
	if _, err := ReadHistory(dir, 9); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a missing history: got %v", err)
	}
	write("00000005.history", []byte("broken"))
	if _, _, err := ReadHistories(dir); err == nil {
		t.Error("a broken history: want an error")
	}
}

func FuzzParseHistory(f *testing.F) {
	f.Add(uint32(4), []byte("1\t0/3000148\tno recovery target specified\n2\t0/5\t\n"))
	f.Add(uint32(1), []byte("#\n"))
	f.Fuzz(func(t *testing.T, tl uint32, content []byte) {
		h, err := ParseHistory(Timeline(tl), content)
		if err != nil {
			return
		}
		if len(h.Ancestors) > 0 && h.Ancestors[len(h.Ancestors)-1].Timeline >= h.Timeline {
			t.Fatalf("accepted %+v", h)
		}
		if Compare(h, h).Relation != RelationSame {
			t.Fatalf("%+v is not itself", h)
		}
	})
}
