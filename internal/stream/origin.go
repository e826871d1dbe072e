package stream

import (
	"errors"
	"slices"
	"strconv"
	"strings"

	"github.com/regent-infra/regent/internal/record"
)

// HeaderOrigin is the header that the runtime adds to every output: the input record that the output follows from, as
// "<topic>/<partition>/<offset>". Explanations cite it, and a lost group position is found again from it.
const HeaderOrigin = "regent_origin"

// ReasonPanic is the reason of a dead letter for a record on which the machine panicked.
const ReasonPanic = "panic"

// stamps puts origins on outputs. Many share an allocation, because every output has one; they are never written to again.
type stamps struct {
	bytes   []byte
	headers []record.Header
}

// How much is allocated at once.
const (
	stampBytes   = 8 << 10
	stampHeaders = 256
)

// stamp returns the headers of an output with its origin added, in a slice of their own.
func (s *stamps) stamp(headers []record.Header, from *record.Record) []record.Header {
	if longest := len(from.Topic) + len("/-2147483648/-9223372036854775808"); cap(s.bytes)-len(s.bytes) < longest {
		s.bytes = make([]byte, 0, max(stampBytes, longest))
	}
	at := len(s.bytes)
	s.bytes = appendOrigin(s.bytes, from)
	n := len(headers) + 1
	if cap(s.headers)-len(s.headers) < n {
		s.headers = make([]record.Header, 0, max(stampHeaders, n))
	}
	begin := len(s.headers)
	s.headers = append(s.headers, headers...)
	s.headers = append(s.headers, record.Header{Key: HeaderOrigin, Value: slices.Clip(s.bytes[at:])})
	return slices.Clip(s.headers[begin:])
}

func appendOrigin(b []byte, rec *record.Record) []byte {
	b = append(b, rec.Topic...)
	b = append(b, '/')
	b = strconv.AppendInt(b, int64(rec.Partition), 10)
	b = append(b, '/')
	return strconv.AppendInt(b, rec.Offset, 10)
}

// ParseOrigin reads the value of a [HeaderOrigin] header; ok is false if it is not one.
func ParseOrigin(value []byte) (tp record.TopicPartition, offset int64, ok bool) {
	parts := strings.Split(string(value), "/")
	if len(parts) != 3 || parts[0] == "" {
		return record.TopicPartition{}, 0, false
	}
	p, errP := strconv.ParseInt(parts[1], 10, 32)
	o, errO := strconv.ParseInt(parts[2], 10, 64)
	if errP != nil || errO != nil || p < 0 || o < 0 {
		return record.TopicPartition{}, 0, false
	}
	return record.TopicPartition{Topic: parts[0], Partition: int32(p)}, o, true
}

func asPoison(err error) (*Poison, bool) {
	var p *Poison
	ok := errors.As(err, &p)
	return p, ok
}

func (d *Definition) tableNames() []string {
	out := make([]string, 0, len(d.Tables))
	for _, t := range d.Tables {
		out = append(out, t.Name)
	}
	slices.Sort(out)
	return out
}
