package workload

import (
	"testing"
	"time"
)

// BenchmarkFold is the fold that every contender of the benchmark runs for each record: decode, decode, encode.
func BenchmarkFold(b *testing.B) {
	codec, err := Codec()
	if err != nil {
		b.Fatal(err)
	}
	s, err := NewStream(Spec{Seed: 1, Records: 1000, Keys: 100, Partitions: 4})
	if err != nil {
		b.Fatal(err)
	}
	inputs, numbers := make([][]byte, 1000), make([]int, 1000)
	for i := range inputs {
		o, value, err := s.Next(nil, time.UnixMicro(1_767_225_600_000_000))
		if err != nil {
			b.Fatal(err)
		}
		inputs[i], numbers[i] = value, o.Number
	}
	states, folder := make([][]byte, 100), NewFolder(codec)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		at := i % len(inputs)
		if states[numbers[at]], err = folder.Fold(states[numbers[at]], inputs[at]); err != nil {
			b.Fatal(err)
		}
	}
}
