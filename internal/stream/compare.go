package stream

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"

	"github.com/regent-infra/regent/internal/record"
	"github.com/regent-infra/regent/statestore"
)

// maxExamples is how many keys that differ a comparison names.
const maxExamples = 10

// Comparison is how one partition of a table compares with something else that should be equal.
type Comparison struct {
	Table     string `json:"table"`
	Partition int32  `json:"partition"`
	// Equal is how many entries are.
	Equal int64 `json:"equal"`
	// Different is how many keys have another value, Missing how many the table lacks, Surplus how many it has alone.
	Different int64 `json:"different"`
	Missing   int64 `json:"missing"`
	Surplus   int64 `json:"surplus"`
	// Examples are, in order, keys that are not equal, at most ten.
	Examples []string `json:"examples,omitempty"`
}

// Same reports whether nothing differs.
func (c *Comparison) Same() bool { return c.Different == 0 && c.Missing == 0 && c.Surplus == 0 }

func (c *Comparison) count(n *int64, key []byte) {
	*n++
	if len(c.Examples) < maxExamples {
		c.Examples = append(c.Examples, string(key))
	}
}

// CompareWithTopics reads the sources of what [Rebuild] has made again, from their start, and compares each entry of the store with the
// latest record of its key: what the topics say, by another way than that of the rebuild. It keeps a digest per key in memory.
func CompareWithTopics(ctx context.Context, def Definition, opts RebuildOptions, report *RebuildReport) ([]Comparison, error) {
	b, err := newRebuild(ctx, def, opts)
	if err != nil {
		return nil, fmt.Errorf("compare processor %q with its topics: %w", def.Name, err)
	}
	defer b.close(ctx)
	parts := slices.Clone(report.Parts)
	for i := range parts {
		parts[i].Sources = slices.Clone(parts[i].Sources)
		for j := range parts[i].Sources {
			parts[i].Sources[j].From = 0
		}
	}
	b.expect(parts)
	out := make([]Comparison, len(parts))
	err = b.eachPart(ctx, parts, func(ctx context.Context, i int) error {
		var err error
		out[i], err = b.comparePart(ctx, &parts[i])
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("compare processor %q with its topics: %w", def.Name, err)
	}
	b.advance(0, 0, true)
	return out, nil
}

// comparePart compares one part with the latest records of its sources.
func (b *rebuild) comparePart(ctx context.Context, part *RebuiltPart) (Comparison, error) {
	c := Comparison{Table: part.Table, Partition: part.Partition}
	latest := map[string][sha256.Size]byte{}
	err := b.scan(ctx, part, func(recs []record.Record) error {
		for i := range recs {
			if recs[i].Tombstone() {
				delete(latest, string(recs[i].Key))
			} else {
				latest[string(recs[i].Key)] = sha256.Sum256(recs[i].Value)
			}
		}
		return nil
	})
	if err != nil {
		return c, err
	}
	err = scanPart(b.opts.Store, b.def.Name, part.Table, part.Partition, func(k, v []byte) bool {
		want, ok := latest[string(k)]
		switch {
		case !ok:
			c.count(&c.Surplus, k)
		case want != sha256.Sum256(v):
			c.count(&c.Different, k)
		default:
			c.Equal++
		}
		delete(latest, string(k))
		return true
	})
	for k := range latest {
		c.count(&c.Missing, []byte(k))
	}
	slices.Sort(c.Examples)
	return c, err
}

// CompareFolds compares the changelog's table in two stores, partition by partition, by what [Definition.Canonical] keeps of each value.
// It is an error if the definition has none. A value that Canonical cannot read is compared as it is.
func CompareFolds(def Definition, rebuilt, folded statestore.Store, tasks []int32) ([]Comparison, error) {
	if def.Canonical == nil {
		return nil, fmt.Errorf("compare processor %q with a fold of its inputs: its state depends on the order in which they came", def.Name)
	}
	var out []Comparison
	for _, task := range tasks {
		c := Comparison{Table: def.changelogTable(), Partition: task}
		if err := compareFolds(&def, rebuilt, folded, &c); err != nil {
			return nil, fmt.Errorf("compare processor %q with a fold of its inputs: %w", def.Name, err)
		}
		out = append(out, c)
	}
	return out, nil
}

func compareFolds(def *Definition, rebuilt, folded statestore.Store, c *Comparison) (err error) {
	prefix := statestore.PartitionPrefix(storeName(def.Name, c.Table), c.Partition)
	var its [2]statestore.Iterator
	for i, s := range []statestore.Store{rebuilt, folded} {
		if its[i], err = s.Scan(prefix, statestore.PrefixEnd(prefix)); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, its[i].Err(), its[i].Close()) }()
	}
	a, b := its[0], its[1]
	for more, other := a.Next(), b.Next(); more || other; {
		var order int
		switch {
		case !more:
			order = 1
		case !other:
			order = -1
		default:
			order = bytes.Compare(a.Key(), b.Key())
		}
		switch {
		case order < 0:
			c.count(&c.Surplus, a.Key()[len(prefix):])
		case order > 0:
			c.count(&c.Missing, b.Key()[len(prefix):])
		case def.same(a.Value(), b.Value()):
			c.Equal++
		default:
			c.count(&c.Different, a.Key()[len(prefix):])
		}
		if order <= 0 {
			more = a.Next()
		}
		if order >= 0 {
			other = b.Next()
		}
	}
	return nil
}

// same reports whether two values of the changelog say the same.
func (d *Definition) same(a, b []byte) bool {
	if bytes.Equal(a, b) {
		return true
	}
	x, errX := d.Canonical(a)
	y, errY := d.Canonical(b)
	return errX == nil && errY == nil && bytes.Equal(x, y)
}
