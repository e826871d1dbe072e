package main

import (
	"fmt"
	"testing"

	"pgregory.net/rapid"

	"github.com/regent-infra/regent/internal/httpapi"
	"github.com/regent-infra/regent/internal/record"
)

// Whatever stands in a changelog, and wherever in it the running state is, the comparison finds that place; and it never finds one for a
// state that the changelog does not give.
func TestVerificationFindsTheRunningStateInTheLog(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		tp := record.TopicPartition{Topic: "s"}
		var log []record.Record
		for offset := range int64(rapid.IntRange(0, 30).Draw(rt, "records")) {
			r := record.Record{Topic: "s", Offset: offset, Key: []byte(rapid.StringMatching(`[a-c]`).Draw(rt, "key"))}
			if rapid.IntRange(0, 3).Draw(rt, "tombstone") > 0 {
				r.Value = fmt.Appendf(nil, "v%d", offset)
			}
			log = append(log, r)
		}
		at := rapid.IntRange(0, len(log)).Draw(rt, "running")
		before := rapid.IntRange(0, at).Draw(rt, "before")
		running := &materialised{tp: tp, entries: map[string][]byte{}}
		for _, r := range log[:at] {
			running.apply(r, int64(len(log)))
		}
		digest := httpapi.Digest{Sum: running.digest().Sum}

		m := &materialised{tp: tp, entries: map[string][]byte{}}
		for _, r := range log {
			m.apply(r, int64(before))
		}
		if p, equal := m.compare(digest, int64(before)); !equal || p.Rebuilt != digest.Sum || p.Position > int64(at) {
			rt.Fatalf("running at %d, asked at %d: got %+v", at, before, p)
		}
		if len(m.journal) != 0 || m.digest().Sum != lastDigest(log).Sum {
			rt.Fatal("what followed was not taken in")
		}

		other := &materialised{tp: tp, entries: map[string][]byte{}}
		for _, r := range log {
			other.apply(r, int64(before))
		}
		if p, equal := other.compare(httpapi.Digest{Sum: "another"}, int64(before)); equal || p.Equal {
			rt.Fatalf("a state that the log does not give was found at %+v", p)
		}
	})
}

func lastDigest(log []record.Record) httpapi.Digest {
	m := &materialised{entries: map[string][]byte{}}
	latest := map[string][]byte{}
	for _, r := range log {
		if r.Value == nil {
			delete(latest, string(r.Key))
		} else {
			latest[string(r.Key)] = r.Value
		}
	}
	m.entries = latest
	return httpapi.Digest{Sum: m.digest().Sum}
}
