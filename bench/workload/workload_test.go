package workload

import (
	"testing"
	"time"
)

func spec() Spec { return Spec{Seed: 7, Records: 5000, Keys: 300, Partitions: 4} }

// run folds a stream and hands every output to see.
func run(t *testing.T, see func(i int, key string, input, value []byte)) {
	t.Helper()
	s, err := NewStream(spec())
	if err != nil {
		t.Fatal(err)
	}
	codec, err := Codec()
	if err != nil {
		t.Fatal(err)
	}
	states, folder := map[string][]byte{}, NewFolder(codec)
	for i := range spec().Records {
		o, value, err := s.Next(nil, time.UnixMicro(1_700_000_000_000_000))
		if err != nil {
			t.Fatal(err)
		}
		out, err := folder.Fold(states[o.Key], value)
		if err != nil {
			t.Fatal(err)
		}
		states[o.Key] = out
		see(i, o.Key, value, out)
	}
}

func TestTheFoldAgreesWithTheReference(t *testing.T) {
	ref, err := NewReference(spec())
	if err != nil {
		t.Fatal(err)
	}
	c, err := NewChecker(ref)
	if err != nil {
		t.Fatal(err)
	}
	in := 0
	run(t, func(_ int, key string, input, value []byte) {
		in += len(input)
		c.See(key, value)
	})
	if err := c.Finish(); err != nil {
		t.Fatal(err)
	}
	n, out := c.Outputs()
	if mean := float64(in) / float64(n); mean < 284 || mean > 305 || out < 225 || out > 240 {
		t.Errorf("an input has %.0f bytes and a state %.0f, expected about 300 and 232", mean, out)
	}
}

func TestTheCheckerSeesEveryFault(t *testing.T) {
	ref, err := NewReference(spec())
	if err != nil {
		t.Fatal(err)
	}
	for name, broken := range map[string]func(c *Checker, i int, key string, value []byte){
		"lost": func(c *Checker, i int, key string, value []byte) {
			if i != 4000 {
				c.See(key, value)
			}
		},
		"the last of a key lost": func(c *Checker, i int, key string, value []byte) {
			if i != spec().Records-1 {
				c.See(key, value)
			}
		},
		"doubled": func(c *Checker, i int, key string, value []byte) {
			c.See(key, value)
			if i == 4000 {
				c.See(key, value)
			}
		},
		"under another key": func(c *Checker, i int, key string, value []byte) {
			if i == 4000 {
				key = map[bool]string{true: Key(1), false: Key(0)}[key == Key(0)]
			}
			c.See(key, value)
		},
		"undecodable": func(c *Checker, i int, key string, value []byte) {
			if i == 4000 {
				value = value[:20]
			}
			c.See(key, value)
		},
		"wrong totals": func(c *Checker, i int, key string, value []byte) {
			if i == spec().Records-1 {
				value = append([]byte(nil), value...)
				value[len(value)-2] += 2
			}
			c.See(key, value)
		},
	} {
		t.Run(name, func(t *testing.T) {
			c, err := NewChecker(ref)
			if err != nil {
				t.Fatal(err)
			}
			run(t, func(i int, key string, _, value []byte) { broken(c, i, key, value) })
			if c.Finish() == nil {
				t.Error("nothing was noticed")
			}
		})
	}
}
