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
