package workload

import (
	"fmt"

	"github.com/regent-infra/regent/internal/avrocodec"
	"github.com/regent-infra/regent/schemas"
)

// Reference knows what the outputs must be, from the decisions of the stream alone: it shares no code with the fold.
type Reference struct {
	counts []int64
	totals [][12]int64
}

// NewReference returns the reference for the first records of a stream.
func NewReference(spec Spec) (*Reference, error) {
	s, err := NewStream(spec)
	if err != nil {
		return nil, err
	}
	ref := &Reference{counts: make([]int64, spec.Keys), totals: make([][12]int64, spec.Keys)}
	for range spec.Records {
		o := s.draw()
		for range idsPerInput {
			s.id() // keeps the random numbers in step
		}
		ref.Observe(&o)
	}
	return ref, nil
}

// Observe takes one more input into account.
func (r *Reference) Observe(o *Observation) {
	r.counts[o.Number]++
	for i, v := range list(&o.Counters) {
		r.totals[o.Number][i] += v
	}
}

func list(m *schemas.QueryMetrics) [12]int64 {
	return [12]int64{
		m.Commits, m.Rollbacks, m.BlocksHit, m.BlocksRead, m.RowsReturned, m.RowsInserted, m.RowsUpdated, m.RowsDeleted,
		m.Deadlocks, m.TempBytes, m.WalBytes, m.ChecksumFailures,
	}
}

// Checker reads the outputs of one contender. It is for one goroutine.
type Checker struct {
	ref   *Reference
	codec *avrocodec.Codec
	seen  []int64
	bytes int64
	count int64
	bad   int
	first error
}

// NewChecker returns a checker that has seen nothing.
func NewChecker(ref *Reference) (*Checker, error) {
	codec, err := Codec()
	if err != nil {
		return nil, err
	}
	return &Checker{ref: ref, codec: codec, seen: make([]int64, len(ref.counts))}, nil
}

// See takes one output: its sequence must follow the one before it of its key, and the last one must hold the reference's totals.
func (c *Checker) See(key string, value []byte) {
	c.count++
	c.bytes += int64(len(value))
	e, err := c.codec.Decode(State, value)
	if err != nil {
		c.fault("the output for %s: %w", key, err)
		return
	}
	var n int
	if _, err := fmt.Sscanf(key, "bench/cluster-%07d/", &n); err != nil || n >= len(c.seen) || Key(n) != key || e.Resource != key {
		c.fault("an output for the key %q and the resource %q, which was never asked for", key, e.Resource)
		return
	}
	if e.Sequence != c.seen[n]+1 {
		c.fault("the output for %s has sequence %d after %d: something is lost or doubled", key, e.Sequence, c.seen[n])
	}
	c.seen[n] = e.Sequence
	if e.Sequence == c.ref.counts[n] {
		if got := list(e.Payload.(*schemas.QueryMetrics)); got != c.ref.totals[n] {
			c.fault("the last output for %s holds %v, expected %v", key, got, c.ref.totals[n])
		}
	}
}

func (c *Checker) fault(format string, args ...any) {
	c.bad++
	if c.first == nil {
		c.first = fmt.Errorf(format, args...)
	}
}

// Outputs returns how many outputs were seen, and their mean size in bytes.
func (c *Checker) Outputs() (count int64, meanBytes float64) {
	return c.count, float64(c.bytes) / float64(max(c.count, 1))
}

// Finish returns what was wrong, after the last output.
func (c *Checker) Finish() error {
	for n, want := range c.ref.counts {
		if c.seen[n] != want {
			c.fault("%s was said %d times, expected %d", Key(n), c.seen[n], want)
		}
	}
	if c.bad > 0 {
		return fmt.Errorf("%d faults in the output, the first: %w", c.bad, c.first)
	}
	return nil
}
