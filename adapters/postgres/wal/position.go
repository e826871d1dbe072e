package wal

import (
	"fmt"
	"strconv"
	"strings"
)

// LSN is a byte position in the write-ahead log (pg_lsn). 0 is "no position".
type LSN uint64

// ParseLSN reads the form that PostgreSQL prints, X/Y in hexadecimal, upper or lower case, each at most eight digits.
func ParseLSN(text string) (LSN, error) {
	high, low, ok := strings.Cut(text, "/")
	if !ok {
		return 0, fmt.Errorf("parse LSN %q: expected two hexadecimal numbers with a slash between, like 0/1A2B3C4D", text)
	}
	h, err := parseHex32(high)
	if err != nil {
		return 0, fmt.Errorf("parse LSN %q: part before the slash: %w", text, err)
	}
	l, err := parseHex32(low)
	if err != nil {
		return 0, fmt.Errorf("parse LSN %q: part after the slash: %w", text, err)
	}
	return LSN(h)<<32 | LSN(l), nil
}

// parseHex32 reads one to eight hexadecimal digits; unlike strconv it takes no sign, prefix or underscore.
func parseHex32(text string) (uint32, error) {
	if len(text) == 0 || len(text) > 8 {
		return 0, fmt.Errorf("expected 1 to 8 hexadecimal digits, got %d", len(text))
	}
	for _, c := range []byte(text) {
		isDigit := c >= '0' && c <= '9' || c >= 'a' && c <= 'f' || c >= 'A' && c <= 'F'
		if !isDigit {
			return 0, fmt.Errorf("expected hexadecimal digits, got %q", string(c))
		}
	}
	n, err := strconv.ParseUint(text, 16, 32)
	return uint32(n), err
}

// String prints the position as PostgreSQL does: X/Y in upper case, Y without leading zeros.
func (l LSN) String() string { return fmt.Sprintf("%X/%X", uint32(l>>32), uint32(l)) }

// MarshalText implements encoding.TextMarshaler.
func (l LSN) MarshalText() ([]byte, error) { return []byte(l.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (l *LSN) UnmarshalText(text []byte) error {
	parsed, err := ParseLSN(string(text))
	if err != nil {
		return err
	}
	*l = parsed
	return nil
}

// align rounds up to the 8-byte boundary on which every record starts (MAXALIGN).
func (l LSN) align() LSN { return (l + recordAlignment - 1) &^ (recordAlignment - 1) }

// Timeline is a timeline id; the first one is 1, and 0 is "none".
type Timeline uint32

// HistoryName returns the name of the timeline's history file, e.g. 00000002.history.
func (t Timeline) HistoryName() string { return fmt.Sprintf("%08X.history", uint32(t)) }

// ParseHistoryName is the inverse of [Timeline.HistoryName]; ok is false for any other name.
func ParseHistoryName(name string) (Timeline, bool) {
	digits, ok := strings.CutSuffix(name, ".history")
	if !ok || len(digits) != 8 || strings.ToUpper(digits) != digits {
		return 0, false
	}
	n, err := parseHex32(digits)
	if err != nil || n == 0 {
		return 0, false
	}
	return Timeline(n), true
}

// Limits of wal_segment_size: a power of two from 1 MiB to 1 GiB (initdb --wal-segsize).
const (
	MinSegmentSize     SegmentSize = 1 << 20
	DefaultSegmentSize SegmentSize = 16 << 20
	MaxSegmentSize     SegmentSize = 1 << 30
)

// SegmentSize is the size of one WAL file in bytes.
type SegmentSize uint64

// Validate says whether PostgreSQL could have been initialised with this size.
func (s SegmentSize) Validate() error {
	if s < MinSegmentSize || s > MaxSegmentSize || s&(s-1) != 0 {
		return fmt.Errorf("WAL segment size %d: expected a power of two between 1 MiB and 1 GiB", uint64(s))
	}
	return nil
}

// Segment is the number of a WAL segment: position divided by segment size.
type Segment uint64

// SegmentOf returns the segment that holds the byte at l.
func (s SegmentSize) SegmentOf(l LSN) Segment { return Segment(uint64(l) / uint64(s)) }

// Start returns the position of the segment's first byte.
func (s SegmentSize) Start(n Segment) LSN { return LSN(uint64(n) * uint64(s)) }

// Offset returns where in its segment l lies.
func (s SegmentSize) Offset(l LSN) uint64 { return uint64(l) & (uint64(s) - 1) }

// perID is how many segments share the middle eight digits of a name.
func (s SegmentSize) perID() uint64 { return (1 << 32) / uint64(s) }

// Name returns the file name of segment n on timeline t, 24 hexadecimal digits.
func (s SegmentSize) Name(t Timeline, n Segment) string {
	return fmt.Sprintf("%08X%08X%08X", uint32(t), uint64(n)/s.perID(), uint64(n)%s.perID())
}

// ParseName is the inverse of [SegmentSize.Name]; ok is false for any other name (a history, a partial segment, a stray file).
func (s SegmentSize) ParseName(name string) (t Timeline, n Segment, ok bool) {
	if len(name) != 24 || strings.ToUpper(name) != name {
		return 0, 0, false
	}
	var parts [3]uint32
	for i := range parts {
		part, err := parseHex32(name[8*i : 8*i+8])
		if err != nil {
			return 0, 0, false
		}
		parts[i] = part
	}
	if parts[0] == 0 || uint64(parts[2]) >= s.perID() {
		return 0, 0, false
	}
	return Timeline(parts[0]), Segment(uint64(parts[1])*s.perID() + uint64(parts[2])), true
}
