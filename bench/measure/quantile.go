package measure

import (
	"math"
	"slices"
	"time"
)

// Percentile returns the smallest of the sorted values below or at which p percent of them lie; 0 if there are none.
func Percentile[T any](sorted []T, p float64) T {
	var zero T
	if len(sorted) == 0 {
		return zero
	}
	const rounding = 1e-9 // 99.9 is no binary fraction
	at := int(math.Ceil(p*float64(len(sorted))/100-rounding)) - 1
	return sorted[min(max(at, 0), len(sorted)-1)]
}

// Latency sums up the latencies of one run, milliseconds.
type Latency struct {
	P50, P99, P999, Max float64
	Count               int
}

// Summarise sorts the samples and sums them up.
func Summarise(samples []time.Duration) Latency {
	slices.Sort(samples)
	ms := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
	return Latency{
		P50: ms(Percentile(samples, 50)), P99: ms(Percentile(samples, 99)), P999: ms(Percentile(samples, 99.9)),
		Max: ms(Percentile(samples, 100)), Count: len(samples),
	}
}

// Median returns the median of the values, which it does not change; NaN if there are none.
func Median(values []float64) float64 {
	if len(values) == 0 {
		return math.NaN()
	}
	s := slices.Sorted(slices.Values(values))
	if n := len(s); n%2 == 0 {
		return (s[n/2-1] + s[n/2]) / 2
	}
	return s[len(s)/2]
}
