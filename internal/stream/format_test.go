package stream

import (
	"bytes"
	"encoding/hex"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/regent-infra/regent/internal/record"
)

func drawPosition(t *rapid.T) Position {
	p := Position{
		FoldVersion: rapid.Int32Min(0).Draw(t, "fold"), Out: rapid.Int64Min(0).Draw(t, "out"),
		StreamTime: fromMillis(rapid.Int64Range(0, 1<<44).Draw(t, "stream time")), StampedAt: fromMillis(rapid.Int64Range(0, 1<<44).Draw(t, "stamp")),
	}
	copy(p.Changelog[:], rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "changelog"))
	p.Tables = rapid.SliceOfN(rapid.StringMatching(`[a-z]{1,9}`), 0, 3).Draw(t, "tables")
	for range rapid.IntRange(0, 4).Draw(t, "inputs") {
		in := InputPosition{Next: rapid.Int64Min(0).Draw(t, "next")}
		in.Topic, in.Partition = rapid.StringMatching(`[a-z.]{1,30}`).Draw(t, "topic"), rapid.Int32Min(0).Draw(t, "partition")
		copy(in.TopicID[:], rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "id"))
		p.Inputs = append(p.Inputs, in)
	}
	return p
}

func TestPositionComesBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := drawPosition(t)
		b := p.Encode()
		got, err := DecodePosition(b)
		if err != nil || !bytes.Equal(got.Encode(), b) || got.Out != p.Out || !got.StreamTime.Equal(p.StreamTime) || len(got.Inputs) != len(p.Inputs) {
			t.Fatalf("%+v came back as %+v, %v", p, got, err)
		}
		i := rapid.IntRange(0, len(b)-1).Draw(t, "torn at")
		if _, err := DecodePosition(b[:i]); err == nil {
			t.Fatalf("%d of %d bytes were taken for all", i, len(b))
		}
		b[i] ^= byte(rapid.IntRange(1, 255).Draw(t, "flip"))
		if _, err := DecodePosition(b); err == nil {
			t.Fatalf("byte %d changed and nobody saw it", i)
		}
	})
}

// TestPositionBytes holds the format that docs/formats-store.md documents.
func TestPositionBytes(t *testing.T) {
	p := Position{
		FoldVersion: 3, Out: 258, Changelog: [16]byte{0xaa}, StreamTime: time.UnixMilli(5), StampedAt: time.UnixMilli(6), Tables: []string{"t"},
		Inputs: []InputPosition{{TopicPartition: record.TopicPartition{Topic: "in", Partition: 1}, TopicID: [16]byte{0xbb}, Next: 7}},
	}
	want := "01" + "00000003" + "0000000000000102" + "aa000000000000000000000000000000" + "0000000000000005" + "0000000000000006" +
		"01" + "0174" + "01" + "02696e" + "bb000000000000000000000000000000" + "00000001" + "0000000000000007" + "e8fdabf2"
	if got := hex.EncodeToString(p.Encode()); got[:len(got)-8] != want[:len(want)-8] {
		t.Fatalf("encoded as\n%s, expected\n%s", got, want)
	}
}

func FuzzDecodePosition(f *testing.F) {
	p := Position{Tables: []string{"t"}, Inputs: []InputPosition{{TopicPartition: record.TopicPartition{Topic: "in"}}}}
	f.Add(p.Encode())
	f.Add([]byte{1, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		if p, err := DecodePosition(b); err == nil && !bytes.Equal(p.Encode(), b) {
			t.Fatalf("%x does not come back", b)
		}
	})
}

func TestMetadataComesBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := Metadata{
			Out: rapid.Int64Min(0).Draw(t, "out"), FoldVersion: rapid.Int32Min(0).Draw(t, "fold"),
			StreamTime: fromMillis(rapid.Int64Range(0, 1<<44).Draw(t, "time")),
		}
		copy(m.Changelog[:], rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "changelog"))
		got, err := DecodeMetadata(m.Encode())
		if err != nil || got != m {
			t.Fatalf("%+v came back as %+v, %v", m, got, err)
		}
	})
}

func TestMetadataBytes(t *testing.T) {
	m := Metadata{Out: 7, Changelog: [16]byte{0xab}, FoldVersion: 1, StreamTime: time.UnixMilli(1234).UTC()}
	want := "regent/1 out=7 topic=ab000000000000000000000000000000 fold=1 time=1234"
	if got := m.Encode(); got != want {
		t.Fatalf("encoded as %q, expected %q", got, want)
	}
	for _, bad := range []string{
		"", "regent/2" + want[8:], want + " more=1", strings.Replace(want, "out=7", "out=-7", 1), strings.Replace(want, "out=7", "7", 1),
		strings.Replace(want, "ab0", "zz0", 1), strings.Replace(want, "ab0", "ab", 1), strings.Replace(want, "fold=1", "fold=99999999999", 1),
		strings.Replace(want, "time=1234", "time=", 1),
	} {
		if _, err := DecodeMetadata(bad); err == nil {
			t.Errorf("%q was taken for metadata", bad)
		}
	}
}

func FuzzDecodeMetadata(f *testing.F) {
	f.Add("regent/1 out=7 topic=ab000000000000000000000000000000 fold=1 time=1234")
	f.Fuzz(func(t *testing.T, s string) {
		m, err := DecodeMetadata(s)
		if err != nil {
			return
		}
		if again, err := DecodeMetadata(m.Encode()); err != nil || again != m {
			t.Fatalf("%q does not come back: %+v, %v", s, again, err)
		}
	})
}

func TestOrigin(t *testing.T) {
	rec := &record.Record{Topic: "a.b", Partition: 3, Offset: 99}
	tp, offset, ok := ParseOrigin(appendOrigin(nil, rec))
	if !ok || tp != rec.Position() || offset != 99 {
		t.Fatalf("parsed %v, %d, %v", tp, offset, ok)
	}
	for _, bad := range []string{"", "a/1", "/1/2", "a/x/2", "a/1/x", "a/-1/2", "a/1/-2", "a/1/2/3", "a/99999999999/1"} {
		if _, _, ok := ParseOrigin([]byte(bad)); ok {
			t.Errorf("%q was taken for an origin", bad)
		}
	}
}
