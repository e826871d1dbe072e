package stream_test

import (
	"fmt"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/regent-infra/regent/statestore/memstore"
)

func TestFoldsEmitsCommitsAndComesBack(t *testing.T) {
	b := startBroker(t, 3)
	store := memstore.New()
	in := b.start(t, "a", store)
	seq := uint64(0)
	ends := map[int32]int64{}
	feed := func(n int) {
		var recs []*kgo.Record
		for range n {
			seq++
			p := int32(seq % 3)
			text := "x"
			switch seq % 50 {
			case 7:
				text = "poison"
			case 13:
				text = "panic"
			case 21:
				text = "gone"
			}
			recs = append(recs, factRecord(p, fmt.Sprintf("k%d", seq%40), seq, text))
		}
		for _, r := range recs {
			ends[r.Partition] = max(ends[r.Partition], b.send(t, r)+1)
		}
	}
	settled := func(in *instance) func() bool {
		return func() bool {
			for p, end := range ends {
				if in.position(factsTopic, p) < end {
					return false
				}
			}
			return true
		}
	}
	feed(200)
	eventually(t, "all facts are committed", settled(in))
	if err := b.audit(t, running(t, in.Runtime)); err != nil {
		t.Fatal(err)
	}

	// A clean stop flushes; a store that lags behind, or is gone, is brought up to date from the changelog.
	early := store.Clone()
	if err := in.stop(); err != nil {
		t.Fatalf("stop: %v", err)
	}
	for name, s := range map[string]*memstore.Store{"flushed": store, "behind": early, "empty": memstore.New()} {
		t.Run(name, func(t *testing.T) {
			in := b.start(t, "a", s)
			feed(100)
			eventually(t, "all facts are committed", settled(in))
			if err := b.audit(t, running(t, in.Runtime)); err != nil {
				t.Fatal(err)
			}
			if err := in.stop(); err != nil {
				t.Fatalf("stop: %v", err)
			}
		})
	}
}
