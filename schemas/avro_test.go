package schemas

import (
	"encoding/binary"
	"math"
	"strings"
	"testing"
	"time"
	"unsafe"

	"pgregory.net/rapid"
)

// The agreement of the generated code with an Avro library is tested in internal/avrocodec; here are its parts.

func TestVarints(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		v := rapid.Int64().Draw(t, "v") >> rapid.IntRange(0, 63).Draw(t, "shift")
		b := appendLong(nil, v)
		if want := binary.AppendVarint(nil, v); string(b) != string(want) || varSize(v) != len(want) {
			t.Fatalf("%d is written as % x and said to take %d, want % x", v, b, varSize(v), want)
		}
		after := rapid.SliceOfN(rapid.Byte(), 0, 12).Draw(t, "after")
		r := Reader{data: append(b, after...)}
		if got := r.long("f"); got != v || r.Err() != nil || len(r.Rest()) != len(after) {
			t.Fatalf("%d is read as %d, %v", v, got, r.Err())
		}
	})
	// Any bytes: read at once, they are what they are one by one.
	rapid.Check(t, func(t *rapid.T) {
		data := rapid.SliceOfN(rapid.SampledFrom([]byte{0, 1, 2, 0x7f, 0x80, 0x81, 0xff}), 0, 12).Draw(t, "data")
		u, n := varint(data)
		if wantU, wantN := shortVarint(data); u != wantU || n != wantN {
			t.Fatalf("% x: got %d, %d; want %d, %d", data, u, n, wantU, wantN)
		}
		wantU, wantN := binary.Uvarint(data)
		if (n > 0) != (wantN > 0) || n > 0 && (u != wantU || n != wantN) {
			t.Fatalf("% x: got %d, %d; want %d, %d", data, u, n, wantU, wantN)
		}
	})
	for _, v := range []int64{math.MinInt64, math.MaxInt64, math.MinInt32, math.MaxInt32, 0, -1} {
		if varSize(v) != len(binary.AppendVarint(nil, v)) {
			t.Errorf("%d is said to take %d bytes", v, varSize(v))
		}
	}
}

func TestTimesThatFit(t *testing.T) {
	t.Parallel()
	for _, us := range []int64{math.MinInt64, math.MinInt64 + 1, math.MaxInt64 - 1, math.MaxInt64, 0, -1} {
		at := time.UnixMicro(us)
		if !fitsMicros(at) || at.UnixMicro() != us {
			t.Errorf("%d microseconds are refused", us)
		}
	}
	for _, at := range []time.Time{
		time.UnixMicro(math.MaxInt64).Add(time.Microsecond), time.UnixMicro(math.MinInt64).Add(-time.Nanosecond), time.Unix(math.MaxInt64, 0), time.Unix(math.MinInt64, 0),
	} {
		if fitsMicros(at) {
			t.Errorf("%v is accepted, as %d", at, at.UnixMicro())
		}
	}
}

// What a text that is kept keeps: its window, 4 KiB at most.
func TestWindows(t *testing.T) {
	t.Parallel()
	var data []byte
	texts := []string{"", "a", strings.Repeat("b", longText-1), strings.Repeat("c", longText), strings.Repeat("d", 3*windowBytes), "é", "\xff"}
	for range 20 {
		for _, s := range texts {
			data = appendString(data, s)
		}
	}
	var r Reader
	r.Reset(data)
	windows, bytesOfText := map[*byte]int{}, 0
	for range 20 {
		for _, want := range texts {
			window := r.window
			got := r.string("f")
			if got != want || r.Err() != nil {
				t.Fatalf("got %d bytes, want %d; %v", len(got), len(want), r.Err())
			}
			if len(want) >= longText && unsafe.StringData(r.window) != unsafe.StringData(window) {
				t.Fatal("a long text opened a window")
			}
			if len(r.window) > windowBytes {
				t.Fatalf("a window of %d bytes", len(r.window))
			}
			if len(r.window) > 0 {
				windows[unsafe.StringData(r.window)] = len(r.window)
			}
		}
	}
	for _, n := range windows {
		bytesOfText += n
	}
	if limit := len(data) * windowBytes / (windowBytes - longText); bytesOfText > limit {
		t.Errorf("the windows take %d bytes of %d, expected %d at most", bytesOfText, len(data), limit)
	}
	for i := range data {
		data[i] = 'x'
	}
	if strings.Contains(r.window, "xx") {
		t.Error("a window changed with the bytes")
	}
}

func TestExtend(t *testing.T) {
	t.Parallel()
	items := extend[int](nil, 2)
	if len(items) != 2 || cap(items) != 2 {
		t.Errorf("the first block takes room for %d of %d", cap(items), len(items))
	}
	grown := 0
	for range 10_000 {
		before := cap(items)
		items = extend(items, 1)
		if cap(items) != before {
			grown++
		}
		if items[len(items)-1] != 0 {
			t.Fatal("an item is not zero")
		}
		items[len(items)-1] = 7
	}
	if grown > 100 {
		t.Errorf("10,000 blocks made it grow %d times", grown)
	}
}

func TestNothingIsAppendedForWhatIsNoRecord(t *testing.T) {
	t.Parallel()
	if b, err := AppendAvro([]byte("x"), 7); err == nil || string(b) != "x" || AvroSize(7) != 0 {
		t.Errorf("got %q, %v", b, err)
	}
}

// After a fault there is nothing left to read, and the first fault is the one that is told.
func TestAReaderStopsAtItsFirstFault(t *testing.T) {
	t.Parallel()
	var r Reader
	r.Reset([]byte{3, 1, 1, 1, 1})
	if b := r.bytes("first"); len(b) != 0 || r.Err() == nil || len(r.Rest()) != 0 {
		t.Fatalf("%v, %v", b, r.Err())
	}
	if r.string("s") != "" || r.long("l") != 0 || r.int("i") != 0 || r.boolean("b") || r.double("d") != 0 || r.present("p") || r.block("a", 1) != 0 || r.symbol("e", 3) != 0 {
		t.Error("it reads on")
	}
	if want := "field first: it claims a length of -2, 4 bytes are left"; r.Err().Error() != want {
		t.Errorf("got %q, want %q", r.Err(), want)
	}
}
