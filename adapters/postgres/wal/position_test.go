package wal

import (
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestLSNText(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]LSN{"0/0": 0, "16/B374D848": 0x16B374D848, "ffffffff/ffffffff": ^LSN(0), "0/1000028": 0x1000028, "00000001/00000000": 1 << 32} {
		got, err := ParseLSN(text)
		if err != nil || got != want {
			t.Errorf("ParseLSN(%q): want %d, got %d, %v", text, want, got, err)
		}
	}
	if got := LSN(0x1600000042).String(); got != "16/42" {
		t.Errorf("String: want 16/42, got %s", got)
	}
	for text, message := range map[string]string{
		"":            `parse LSN "": expected two hexadecimal numbers with a slash between, like 0/1A2B3C4D`,
		"16":          `parse LSN "16": expected two hexadecimal numbers with a slash between, like 0/1A2B3C4D`,
		"/1":          `parse LSN "/1": part before the slash: expected 1 to 8 hexadecimal digits, got 0`,
		"1/123456789": `parse LSN "1/123456789": part after the slash: expected 1 to 8 hexadecimal digits, got 9`,
		"1/0x10":      `parse LSN "1/0x10": part after the slash: expected hexadecimal digits, got "x"`,
		"+1/1":        `parse LSN "+1/1": part before the slash: expected hexadecimal digits, got "+"`,
		"1/2/3":       `parse LSN "1/2/3": part after the slash: expected hexadecimal digits, got "/"`,
	} {
		if _, err := ParseLSN(text); err == nil || err.Error() != message {
			t.Errorf("ParseLSN(%q): want %s, got %v", text, message, err)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		l := LSN(rapid.Uint64().Draw(t, "lsn"))
		var back LSN
		text, err := l.MarshalText()
		if err != nil || back.UnmarshalText(text) != nil || back != l {
			t.Fatalf("%s does not come back: %s", l, back)
		}
	})
}

func TestSegmentNames(t *testing.T) {
	t.Parallel()
	// As pg_walfile_name says.
	for _, c := range []struct {
		size SegmentSize
		lsn  string
		name string
	}{
		{DefaultSegmentSize, "0/1000028", "000000030000000000000001"},
		{DefaultSegmentSize, "16/B374D848", "0000000300000016000000B3"},
		{MinSegmentSize, "0/1000028", "000000030000000000000010"},
		{MinSegmentSize, "1/FFFFFFFF", "000000030000000100000FFF"},
		{MaxSegmentSize, "2/C0000000", "000000030000000200000003"},
	} {
		lsn, err := ParseLSN(c.lsn)
		if err != nil {
			t.Fatal(err)
		}
		if got := c.size.Name(3, c.size.SegmentOf(lsn)); got != c.name {
			t.Errorf("name of %s at %d: want %s, got %s", c.lsn, c.size, c.name, got)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		size := SegmentSize(1) << rapid.IntRange(20, 30).Draw(t, "size")
		tl := Timeline(rapid.Uint32Min(1).Draw(t, "timeline"))
		l := LSN(rapid.Uint64().Draw(t, "lsn"))
		n := size.SegmentOf(l)
		gotT, gotN, ok := size.ParseName(size.Name(tl, n))
		if !ok || gotT != tl || gotN != n || size.Start(n)+LSN(size.Offset(l)) != l {
			t.Fatalf("segment %d of timeline %d comes back as %d, %d, %t", n, tl, gotN, gotT, ok)
		}
	})
	for _, bad := range []string{"", "000000010000000000000001.partial", "00000001.history", "00000000000000000000000A", "0000000100000000000000g1", "00000001000000000000ffff", "000000010000000000000100"} {
		if _, _, ok := DefaultSegmentSize.ParseName(bad); ok {
			t.Errorf("ParseName(%q): want it refused", bad)
		}
	}
	for _, bad := range []SegmentSize{0, 1, 1 << 19, 1 << 31, 3 << 20} {
		if bad.Validate() == nil {
			t.Errorf("segment size %d: want it refused", bad)
		}
	}
}

func TestHistoryNames(t *testing.T) {
	t.Parallel()
	if got, ok := ParseHistoryName(Timeline(0x1a).HistoryName()); !ok || got != 0x1a {
		t.Errorf("0000001A.history: got %d, %t", got, ok)
	}
	for _, bad := range []string{"", "00000000.history", "1.history", "0000001a.history", "00000001", strings.Repeat("0", 16) + ".history"} {
		if _, ok := ParseHistoryName(bad); ok {
			t.Errorf("ParseHistoryName(%q): want it refused", bad)
		}
	}
}

func FuzzParseLSN(f *testing.F) {
	f.Add("16/B374D848")
	f.Add("0/")
	f.Fuzz(func(t *testing.T, text string) {
		l, err := ParseLSN(text)
		if err != nil {
			return
		}
		if back, err := ParseLSN(l.String()); err != nil || back != l {
			t.Fatalf("%q: %s comes back as %s, %v", text, l, back, err)
		}
	})
}
