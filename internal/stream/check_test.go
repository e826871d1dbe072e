package stream_test

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/regent-infra/regent/internal/record"
	"github.com/regent-infra/regent/internal/stream"
)

// The independent reader: it looks at the topics alone, folds the inputs itself, and says what does not agree.

// expectation is what a fold of the inputs gives for one partition.
type expectation struct {
	state map[string][]byte
	side  []string // one line for each side output: origin, key, value
	dead  []string
}

func foldInputs(facts []record.Record) expectation {
	e := expectation{state: map[string][]byte{}}
	for _, r := range facts {
		line := func(v []byte) string { return fmt.Sprintf("%d %s %x", r.Offset, r.Key, v) }
		next, accepted, gone, err := decodeTally(e.state[string(r.Key)]).step(r.Value)
		switch {
		case err != nil, next.text == "panic" && accepted:
			e.dead = append(e.dead, line(r.Value))
			continue
		case !accepted:
			continue
		}
		if e.state[string(r.Key)] = next.encode(); gone {
			delete(e.state, string(r.Key))
		}
		e.side = append(e.side, line(next.encode()))
	}
	return e
}

// materialise reads the changelog as plain upserts.
func materialise(changelog []record.Record) map[string][]byte {
	out := map[string][]byte{}
	for _, r := range changelog {
		if r.Value == nil {
			delete(out, string(r.Key))
		} else {
			out[string(r.Key)] = r.Value
		}
	}
	return out
}

func sameState(a, b map[string][]byte) error {
	for k, v := range a {
		w, ok := b[k]
		if !ok {
			return fmt.Errorf("key %q is missing", k)
		}
		if !bytes.Equal(v, w) {
			return fmt.Errorf("key %q is %x, expected %x", k, w, v)
		}
	}
	if len(a) != len(b) {
		return fmt.Errorf("%d keys, expected %d", len(b), len(a))
	}
	return nil
}

// audit checks invariants 1 and 3 of the runtime over what the topics hold. Every accepted fact must show in the side output
// exactly once and in order, which it can only if the committed ranges are contiguous and disjoint.
func (b *broker) audit(t testing.TB, running func(partition int32) map[string][]byte) error {
	t.Helper()
	facts, states := b.read(t, factsTopic), b.read(t, stateTopic)
	sides, deads := b.read(t, sideTopic), b.read(t, deadTopic)
	for p, list := range facts {
		want := foldInputs(list)
		if err := sameState(want.state, materialise(states[p])); err != nil {
			return fmt.Errorf("partition %d: materialise(S) against fold(inputs): %w", p, err)
		}
		if err := sameLines("side output", want.side, sides[p]); err != nil {
			return fmt.Errorf("partition %d: %w", p, err)
		}
		if err := sameLines("dead letters", want.dead, deads[p]); err != nil {
			return fmt.Errorf("partition %d: %w", p, err)
		}
		if running == nil {
			continue
		}
		if err := sameState(want.state, running(p)); err != nil {
			return fmt.Errorf("partition %d: running state against fold(inputs): %w", p, err)
		}
	}
	return nil
}

func sameLines(what string, want []string, got []record.Record) error {
	for i, r := range got {
		_, offset := origin(&r)
		key := string(r.Key)
		line := fmt.Sprintf("%d %s %x", offset, key, r.Value)
		if what == "dead letters" && i < len(want) { // its key is the reason
			var o int64
			var k, v string
			if _, err := fmt.Sscanf(want[i], "%d %s %s", &o, &k, &v); err == nil {
				line = fmt.Sprintf("%d %s %x", offset, k, r.Value)
			}
		}
		if i >= len(want) || want[i] != line {
			expected := "nothing more"
			if i < len(want) {
				expected = want[i]
			}
			return fmt.Errorf("%s, record %d is %q, expected %q", what, i, line, expected)
		}
	}
	if len(got) != len(want) {
		return fmt.Errorf("%s has %d records, expected %d", what, len(got), len(want))
	}
	return nil
}

// running reads the tables of an instance.
func running(t *testing.T, r *stream.Runtime) func(int32) map[string][]byte {
	return func(p int32) map[string][]byte {
		out := map[string][]byte{}
		for e, err := range r.RangePartition(tallyTable, p, nil) {
			if err != nil {
				t.Fatalf("range over partition %d: %v", p, err)
			}
			out[string(e.Key)] = e.Value
		}
		return out
	}
}
