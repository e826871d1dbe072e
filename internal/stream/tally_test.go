package stream_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"github.com/regent-infra/regent/internal/record"
	"github.com/regent-infra/regent/internal/stream"
)

// The test processor: small, but with all that a real one has. For each key it keeps how many facts it has accepted and the
// last one, behind a sequence guard that stands in the state; it says of each accepted fact in a side output what it made of
// it. Its state is the changelog.
const (
	factsTopic = "test.facts"
	stateTopic = "test.state"
	sideTopic  = "test.side"
	deadTopic  = "test.dead"
	tallyTable = "tally"
)

// fact is the value of an input: a rising number per key, and some text. A fact "poison" or "panic" is one.
func fact(seq uint64, text string) []byte {
	return append(binary.BigEndian.AppendUint64(nil, seq), text...)
}

// tally is the state of one key.
type tally struct {
	seq, count, sum uint64
	text            string
}

func (s tally) encode() []byte {
	b := binary.BigEndian.AppendUint64(nil, s.seq)
	b = binary.BigEndian.AppendUint64(b, s.count)
	b = binary.BigEndian.AppendUint64(b, s.sum)
	return append(b, s.text...)
}

func decodeTally(b []byte) tally {
	if len(b) < 24 {
		return tally{}
	}
	return tally{
		seq: binary.BigEndian.Uint64(b), count: binary.BigEndian.Uint64(b[8:]), sum: binary.BigEndian.Uint64(b[16:]),
		text: string(b[24:]),
	}
}

var errBad = errors.New("bad fact")

// step is the fold: what the state becomes, and whether the fact was accepted. A fact "gone" ends the key.
func (s tally) step(value []byte) (next tally, accepted, gone bool, err error) {
	if len(value) < 8 {
		return s, false, false, fmt.Errorf("%w: %d bytes", errBad, len(value))
	}
	seq, text := binary.BigEndian.Uint64(value), string(value[8:])
	if text == "poison" {
		return s, false, false, errBad
	}
	if seq <= s.seq {
		return s, false, false, nil
	}
	return tally{seq: seq, count: s.count + 1, sum: s.sum*31 + seq, text: text}, true, strings.HasPrefix(text, "gone"), nil
}

// tallier is the machine.
type tallier struct{}

func (tallier) Process(t stream.Task, rec *record.Record) error {
	value, err := t.Get(tallyTable, rec.Key)
	if err != nil {
		return err
	}
	next, accepted, gone, err := decodeTally(value).step(rec.Value)
	if err != nil {
		return &stream.Poison{Reason: "bad-fact", Err: err}
	}
	if !accepted {
		return nil
	}
	state := next.encode()
	if gone {
		state = nil
	}
	t.Emit(record.Record{Topic: stateTopic, Partition: stream.OwnPartition, Key: rec.Key, Value: state})
	t.Emit(record.Record{Topic: sideTopic, Partition: stream.OwnPartition, Key: rec.Key, Value: next.encode()})
	if next.text == "panic" {
		panic("asked to")
	}
	return nil
}

// definition is the test processor's.
func definition() stream.Definition {
	return stream.Definition{
		Name:        "test.tally",
		FoldVersion: 1,
		Inputs:      []stream.Input{{Topic: factsTopic, Looks: tallyTable}},
		Changelog:   stateTopic,
		Outputs:     []string{sideTopic, deadTopic},
		Tables:      []stream.Table{{Name: tallyTable, Source: stateTopic}},
		DeadLetter: func(rec *record.Record, reason string, _ error) (record.Record, error) {
			return record.Record{Topic: deadTopic, Partition: stream.OwnPartition, Key: []byte(reason), Value: rec.Value}, nil
		},
		NewMachine: func(int32) stream.Machine { return tallier{} },
	}
}
