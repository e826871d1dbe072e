package avrocodec

import (
	"errors"
	"maps"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/regent-infra/regent/internal/event"
	"github.com/regent-infra/regent/internal/topics"
)

// Whatever one decoder has read before, whole or broken, an event is what the codec makes of its bytes.
func TestADecoderKeepsNothingOfTheEventBefore(t *testing.T) {
	t.Parallel()
	codec := Standalone(topics.Default())
	records := payloadRecords()
	names := slices.Sorted(maps.Keys(records))
	rapid.Check(t, func(t *rapid.T) {
		decoder := codec.NewDecoder()
		few := rapid.SliceOfN(rapid.SampledFrom(names), 1, 3).Draw(t, "names") // few, so that memory is used again
		for range 10 {
			name := rapid.SampledFrom(few).Draw(t, "name")
			topic := records[name]
			value, err := codec.Encode(topic, newEvent(drawn{t}, name))
			if err != nil {
				t.Fatal(err)
			}
			if rapid.IntRange(0, 3).Draw(t, "whole") == 0 {
				value = value[:rapid.IntRange(0, len(value)-1).Draw(t, "cut")]
			}
			want, failed := codec.Decode(topic, value)
			got, err := decoder.Decode(topic, value)
			switch {
			case failed != nil:
				if err == nil || err.Error() != failed.Error() {
					t.Fatalf("the decoder says %v, the codec %v", err, failed)
				}
				var permanent *event.DecodeError
				if !errors.As(err, &permanent) {
					t.Fatalf("%v is not permanent", err)
				}
			case err != nil:
				t.Fatal(err)
			case !equal(got, want):
				t.Fatalf("got  %s\nwant %s", normal(got), normal(want))
			}
		}
	})
}

func TestADecoderAllocatesNothing(t *testing.T) { // not parallel: it measures the allocations of the whole process
	codec := Standalone(topics.Default())
	value, err := codec.Encode(heartbeats, beat())
	if err != nil {
		t.Fatal(err)
	}
	decoder := codec.NewDecoder()
	if n := testing.AllocsPerRun(100, func() {
		if _, err := decoder.Decode(heartbeats, value); err != nil {
			t.Fatal(err)
		}
	}); n > 0 {
		t.Errorf("a heartbeat costs %v allocations, expected none", n)
	}
}
