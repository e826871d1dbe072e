package schemas

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/bits"
	"slices"
	"strconv"
	"time"
	"unsafe"
)

// This file is what the generated codec (avro_gen.go) stands on: the Avro binary of the types that the .avsc files use. The generated
// functions are straight lines of calls into it, one for each field. internal/avrocodec is the one that calls them, and only where the writer's
// schema says the same as ours; what another schema wrote goes through an Avro library. Tests there hold the two equal, in what they
// accept, what they say, and every byte that they write.

// windowBytes is how much text one allocation of a [Reader] holds at most. Whoever keeps a string of an event keeps its window.
const windowBytes = 4096

// longText is from where on a string that does not lie in the window gets an allocation of its own.
const longText = 1024

// Reader reads the Avro binary of generated records. Its zero value reads nothing; [Reader.Reset] gives it bytes.
//
// It never reads beyond the bytes, whatever they claim: a length must fit what is left, and so must a count of items, each of which takes a
// byte at least. After the first fault it has no bytes left, every read gives zero, and Err says what was wrong and where.
//
// What it returns shares no memory with the bytes, unless they were given by [Reader.Share]. Texts are cut from windows: one allocation of at
// most 4 KiB that begins at the first text that is not in a window yet, which is one allocation for most records. So a text that is kept keeps
// 4 KiB at most, and never more than its record had; a long one stands alone.
type Reader struct {
	data []byte
	at   int
	// window is the text of data[from:from+len(window)].
	window string
	from   int
	fault  *FieldError
}

// FieldError says which field cannot be read or written, and why.
type FieldError struct {
	// Field is the path to the field, such as timeline_history[2].reason.
	Field string
	// Message says what is wrong.
	Message string
}

// Error implements error.
func (e *FieldError) Error() string { return "field " + e.Field + ": " + e.Message }

// Reset gives the reader other bytes. It does not keep them longer than it reads.
func (r *Reader) Reset(data []byte) { *r = Reader{data: data} }

// Share gives the reader other bytes, and makes all of them the window: texts are the bytes themselves, and nothing is copied. Nobody may change
// the bytes as long as any of the texts is in use, and a text that is kept keeps all of them.
func (r *Reader) Share(data []byte) {
	*r = Reader{data: data, window: unsafe.String(unsafe.SliceData(data), len(data))}
}

// Err returns the first fault, or nil.
func (r *Reader) Err() error {
	if r.fault == nil {
		return nil
	}
	return r.fault
}

// Rest returns the bytes that are not read yet.
func (r *Reader) Rest() []byte { return r.data[r.at:] }

// Header reads the part that all events share.
func (r *Reader) Header(h *EnvelopeHeader) { h.readAvro(r) }

// HeaderSize returns how many bytes [AppendHeader] adds.
func HeaderSize(h *EnvelopeHeader) int { return h.avroSize() }

// AppendHeader appends the Avro binary of the part that all events share.
func AppendHeader(b []byte, h *EnvelopeHeader) ([]byte, error) { return h.appendAvro(b) }

// Skip passes over n of them.
func (r *Reader) Skip(n int) { r.at += min(n, len(r.data)-r.at) }

// failed says what is wrong with a field, unless something was before.
//
//go:noinline
func (r *Reader) failed(field, format string, args ...any) {
	if r.fault == nil {
		r.fault = &FieldError{Field: field, Message: fmt.Sprintf(format, args...)}
	}
	r.at = len(r.data)
}

// within names the record around the field at fault.
func (r *Reader) within(field string) { r.fault.Field = field + "." + r.fault.Field }

// item names the item of an array that is at fault; record says that the fault is in a field of it.
func (r *Reader) item(array string, i int, record bool) {
	name := itemName(array, i)
	if record {
		name += "." + r.fault.Field
	}
	r.fault.Field = name
}

func (r *Reader) boolean(field string) bool {
	if r.at >= len(r.data) {
		r.failed(field, "it is missing: the bytes end before it")
		return false
	}
	r.at++
	return r.data[r.at-1] == 1 // as Java has it: anything else is false
}

// long reads a zigzag varint of 64 bits.
func (r *Reader) long(field string) int64 {
	if r.at < len(r.data) {
		if b := r.data[r.at]; b < 0x80 {
			r.at++
			return int64(b>>1) ^ -int64(b&1)
		}
	}
	u, n := varint(r.data[r.at:])
	if n <= 0 {
		r.badVarint(field, n, 64)
		return 0
	}
	r.at += n
	return int64(u>>1) ^ -int64(u&1) //nolint:gosec // zigzag
}

// badVarint says why there is no varint of so many bits.
func (r *Reader) badVarint(field string, n, width int) {
	if n < 0 {
		r.failed(field, "the number takes more than %d bits", width)
		return
	}
	r.failed(field, "the bytes end in the number or before it")
}

// varint returns the value and the length of the varint at the beginning of data; a length of 0 means that the data end before it does, and -1
// that it takes more than 64 bits.
func varint(data []byte) (u uint64, n int) {
	const more = 0x8080808080808080 // the bits that say that another byte follows
	if len(data) < 8 {
		return shortVarint(data)
	}
	w := binary.LittleEndian.Uint64(data)
	last := ^w & more
	if last == 0 {
		return shortVarint(data)
	}
	// All bytes at once: seven bits of each, moved together in three steps.
	width := bits.TrailingZeros64(last) + 1
	w &= 1<<width - 1
	w = w&0x007f007f007f007f | w&0x7f007f007f007f00>>1
	w = w&0x00003fff00003fff | w&0x3fff00003fff0000>>2
	w = w&0x000000000fffffff | w&0x0fffffff00000000>>4
	return w, width / 8
}

// shortVarint is varint byte by byte.
func shortVarint(data []byte) (u uint64, n int) {
	for i, b := range data {
		if i == 9 && b > 1 {
			return 0, -1
		}
		u |= uint64(b&0x7f) << (7 * i)
		if b < 0x80 {
			return u, i + 1
		}
	}
	return 0, 0
}

// int reads a zigzag varint of 32 bits.
func (r *Reader) int(field string) int32 {
	var u uint32
	for i, b := range r.data[r.at:] {
		if i == 4 && b > 0xf {
			r.badVarint(field, -1, 32)
			return 0
		}
		u |= uint32(b&0x7f) << (7 * i)
		if b < 0x80 {
			r.at += i + 1
			return int32(u>>1) ^ -int32(u&1) //nolint:gosec // zigzag
		}
	}
	r.badVarint(field, 0, 32)
	return 0
}

func (r *Reader) double(field string) float64 {
	rest := r.data[r.at:]
	if len(rest) < 8 {
		r.failed(field, "it takes 8 bytes, %d are left", len(rest))
		return 0
	}
	r.at += 8
	return math.Float64frombits(binary.LittleEndian.Uint64(rest))
}

func (r *Reader) timestamp(field string) time.Time { return time.UnixMicro(r.long(field)).UTC() }

// length reads the length of a text or of bytes and returns where they begin and end; it has passed over them then.
func (r *Reader) length(field string) (from, to int) {
	n := r.long(field)
	left := len(r.data) - r.at
	if n < 0 || n > int64(left) {
		r.failed(field, "it claims a length of %d, %d bytes are left", n, left)
		return r.at, r.at
	}
	from, to = r.at, r.at+int(n)
	r.at = to
	return from, to
}

func (r *Reader) string(field string) string {
	from, to := r.length(field)
	if from >= r.from && to <= r.from+len(r.window) {
		return r.window[from-r.from : to-r.from]
	}
	return r.text(from, to)
}

// text opens the next window for the text at from, or makes a long one alone.
//
//go:noinline
func (r *Reader) text(from, to int) string {
	if from == to {
		return ""
	}
	if to-from >= longText {
		return string(r.data[from:to])
	}
	r.window, r.from = string(r.data[from:min(from+windowBytes, len(r.data))]), from
	return r.window[:to-from]
}

func (r *Reader) bytes(field string) []byte {
	from, to := r.length(field)
	b := make([]byte, to-from)
	copy(b, r.data[from:to])
	return b
}

// symbol reads the index of one of n symbols; 0 after a fault.
func (r *Reader) symbol(field string, n int) int {
	i := r.int(field)
	if i < 0 || int(i) >= n {
		r.failed(field, "it claims symbol %d, expected 0 to %d", i, n-1)
		return 0
	}
	return int(i)
}

// present reads the branch of a union of null and something.
func (r *Reader) present(field string) bool {
	i := r.int(field)
	if i < 0 || i > 1 {
		r.failed(field, "it claims branch %d, expected 0 (null) or 1", i)
		return false
	}
	return i == 1
}

// block reads how many items the next block of an array has; 0 ends the array. An item takes least bytes or more.
func (r *Reader) block(field string, least int) int {
	n := r.long(field)
	if n < 0 { // the block's size in bytes follows, for those who skip
		n = -n
		r.long(field)
	}
	left := len(r.data) - r.at
	if n < 0 || n > int64(left/least) { // -MinInt64 is negative
		r.failed(field, "it claims a block of %d items of at least %d bytes each, %d bytes are left", n, least, left)
		return 0
	}
	return int(n)
}

// extend makes room for n more items, which are zero, at the end of an array and returns all of them. The room for many small blocks is doubled each time:
// what the bytes say does not make it quadratic.
func extend[T any](items []T, n int) []T {
	if items == nil {
		return make([]T, n)
	}
	from := len(items)
	items = slices.Grow(items, n)[:from+n]
	clear(items[from:])
	return items
}

// varSize returns the size of a zigzag varint.
func varSize(v int64) int {
	u := uint64(v)<<1 ^ uint64(v>>63)    //nolint:gosec // zigzag
	return (9*bits.Len64(u|1) + 64) >> 6 // the bits by seven, rounded up, without a division
}

func textSize(n int) int { return varSize(int64(n)) + n }

func appendLong(b []byte, v int64) []byte {
	u := uint64(v)<<1 ^ uint64(v>>63) //nolint:gosec // zigzag
	for u >= 0x80 {
		b = append(b, byte(u)|0x80) //nolint:gosec // the low seven bits
		u >>= 7
	}
	return append(b, byte(u)) //nolint:gosec // below 0x80
}

func appendString(b []byte, s string) []byte { return append(appendLong(b, int64(len(s))), s...) }

func appendBytes(b, v []byte) []byte { return append(appendLong(b, int64(len(v))), v...) }

func appendBoolean(b []byte, v bool) []byte {
	if v {
		return append(b, 1)
	}
	return append(b, 0)
}

func appendDouble(b []byte, v float64) []byte {
	return binary.LittleEndian.AppendUint64(b, math.Float64bits(v))
}

// maxSeconds is how many whole seconds fit into 64 bits of microseconds.
const maxSeconds = math.MaxInt64 / 1_000_000

// fitsMicros says whether a time can be said in 64 bits of microseconds since 1970.
func fitsMicros(t time.Time) bool {
	switch s := t.Unix(); {
	case s >= -maxSeconds && s < maxSeconds:
		return true
	case s == maxSeconds:
		return t.Nanosecond()/1000 <= math.MaxInt64%1_000_000
	case s == -maxSeconds-1:
		return t.Nanosecond()/1000 >= 1_000_000+math.MinInt64%1_000_000
	default:
		return false
	}
}

func inField(field string, err error) error {
	if inner, ok := err.(*FieldError); ok { //nolint:errorlint // made by the function that was called
		return &FieldError{Field: field + "." + inner.Field, Message: inner.Message}
	}
	return err
}

func noSymbol(field, symbol string) error {
	return &FieldError{Field: field, Message: fmt.Sprintf("unknown symbol %q", symbol[:min(len(symbol), 100)])}
}

func noTimestamp(field string, t time.Time) error {
	return &FieldError{Field: field, Message: fmt.Sprintf("the time %v does not fit into 64 bits of microseconds since 1970", t)}
}

// pair is an event and the record that it is about.
type pair[E, R any] struct {
	event  E
	record R
}

func noRecord(v any) error {
	return fmt.Errorf("a %T is no pointer to a generated record", v)
}

// itemName is the path to an item of an array.
func itemName(array string, i int) string { return array + "[" + strconv.Itoa(i) + "]" }
