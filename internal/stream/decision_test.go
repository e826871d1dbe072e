package stream

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/regent-infra/regent/internal/record"
)

var (
	testChangelog = [16]byte{1}
	testInputID   = [16]byte{2}
	testInput     = topicPartition{Topic: "in", Partition: 3}
	testNow       = time.Date(2026, 1, 2, 0, 0, 0, 0, time.UTC)
)

func testDefinition() *Definition {
	return &Definition{
		Name: "p", FoldVersion: 2, Inputs: []Input{{Topic: "in"}}, Changelog: "out", Tables: []Table{{Name: "t", Source: "out"}},
	}
}

// found makes the evidence of a task that was flushed at 50, committed at 60 and 100, on a changelog that ends at 61.
func found(change func(e *evidence)) evidence {
	e := evidence{
		def: testDefinition(), task: 3, now: testNow,
		p: &Position{
			FoldVersion: 2, Out: 50, Changelog: testChangelog, StampedAt: testNow.Add(-time.Minute), Tables: []string{"t"},
			StreamTime: testNow.Add(-2 * time.Minute),
			Inputs:     []InputPosition{{TopicPartition: testInput, TopicID: testInputID, Next: 90}},
		},
		k: commits{
			offsets: map[topicPartition]int64{testInput: 100},
			meta:    &Metadata{Out: 60, Changelog: testChangelog, FoldVersion: 2, StreamTime: testNow.Add(-time.Minute)},
		},
		changelog: TopicInfo{ID: testChangelog, Partitions: 4, DeleteRetention: time.Hour, Compacted: true},
		s:         Watermarks{Start: 0, Stable: 61, High: 61},
		inputs: map[topicPartition]inputEvidence{
			testInput: {info: TopicInfo{ID: testInputID, Partitions: 4, DeleteRetention: time.Hour}, marks: Watermarks{Start: 10, High: 200}},
		},
	}
	if change != nil {
		change(&e)
	}
	return e
}

func TestDecisionRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		change func(e *evidence)
		want   string
	}{
		"changelog of K was made anew":   {func(e *evidence) { e.k.meta.Changelog[5] = 9 }, "belongs to a changelog \"out\" with the topic id"},
		"changelog of P was made anew":   {func(e *evidence) { e.p.Changelog[5] = 9 }, "the state in the store belongs to a changelog"},
		"input was made anew":            {func(e *evidence) { e.p.Inputs[0].TopicID[0] = 9 }, "the state in the store belongs to an input \"in\""},
		"older binary, by P":             {func(e *evidence) { e.p.FoldVersion = 3 }, "folded by version 3, this program folds version 2"},
		"older binary, by K":             {func(e *evidence) { e.k.meta.FoldVersion = 3 }, "folded by version 3, this program folds version 2"},
		"store ahead of the group":       {func(e *evidence) { e.p.Out = 61 }, "contains the changelog up to offset 61, the group's position is 60"},
		"changelog lost its end":         {func(e *evidence) { e.s = Watermarks{High: 59} }, "but it ends at 59"},
		"input lost its end":             {func(e *evidence) { e.k.offsets[testInput] = 201 }, "but the input ends at 200"},
		"store ahead, group lost":        {func(e *evidence) { e.k = commits{}; e.p.Out = 62 }, "the changelog's end is 61"},
		"store has state, changelog new": {func(e *evidence) { e.k = commits{}; e.s = Watermarks{} }, "contains the changelog up to offset 50, the group's position is 0"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := decide(found(c.change))
			var r *Refusal
			if !errors.As(err, &r) || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("got %v, expected a refusal with %q", err, c.want)
			}
			if r.Task != 3 || r.Processor != "p" || len(r.Choices) < 2 || !strings.Contains(err.Error(), "choices:") {
				t.Fatalf("the refusal %+v does not name its choices", r)
			}
			if !fatal(err) {
				t.Fatal("a refusal would be retried")
			}
		})
	}
}

func TestDecisionPlans(t *testing.T) {
	withTable := func(e *evidence) {
		e.def.Inputs[0].Table, e.def.Tables = "v", append(e.def.Tables, Table{Name: "v", Source: "in"})
		in := e.inputs[testInput]
		in.table = "v"
		e.inputs[testInput] = in
	}
	for name, c := range map[string]struct {
		change func(e *evidence)
		want   func(p plan) bool
	}{
		"P behind K: redo the tail": {nil, func(p plan) bool {
			return p.redoFrom == 50 && p.out == 60 && len(p.rebuild) == 0 && p.offsets[testInput] == 100 && !p.lost &&
				p.streamTime.Equal(testNow.Add(-time.Minute))
		}},
		"P at K: only the end is looked at": {func(e *evidence) { e.p.Out = 60 }, func(p plan) bool { return p.redoFrom == 60 && p.out == 60 }},
		"P too old: rebuild beside": {func(e *evidence) { e.p.StampedAt = testNow.Add(-2 * time.Hour) }, func(p plan) bool {
			return p.rebuild["t"] && p.redoFrom == 0 && len(p.warnings) == 1
		}},
		"P old but at K: run": {func(e *evidence) { e.p.StampedAt, e.p.Out = testNow.Add(-2*time.Hour), 60 }, func(p plan) bool {
			return !p.rebuild["t"] && p.redoFrom == 60
		}},
		"no P": {func(e *evidence) { e.p = nil }, func(p plan) bool { return p.redoFrom == 0 && p.out == 60 && !p.rebuild["t"] }},
		"table was not kept before": {func(e *evidence) { e.p.Tables = nil }, func(p plan) bool {
			return p.redoFrom == 0 && !p.rebuild["t"]
		}},
		"nothing anywhere": {func(e *evidence) { e.p, e.k, e.s = nil, commits{}, Watermarks{} }, func(p plan) bool {
			return p.redoFrom == 0 && p.out == 0 && p.offsets[testInput] == 10 && !p.lost
		}},
		"K lost": {func(e *evidence) { e.k = commits{} }, func(p plan) bool {
			return p.lost && p.rebuild["t"] && p.redoFrom == 0 && p.offsets[testInput] == 90
		}},
		"K lost, no P": {func(e *evidence) { e.k, e.p = commits{}, nil }, func(p plan) bool { return p.lost && p.offsets[testInput] == 10 }},
		"offsets set by hand": {func(e *evidence) { e.k.meta = nil }, func(p plan) bool {
			return p.lost && p.offsets[testInput] == 100 && p.rebuild["t"]
		}},
		"offset expired": {func(e *evidence) { e.k.offsets[testInput] = 5 }, func(p plan) bool {
			return p.offsets[testInput] == 10 && len(p.warnings) == 1
		}},
		"input newly declared":              {func(e *evidence) { delete(e.k.offsets, testInput) }, func(p plan) bool { return p.offsets[testInput] == 10 && !p.lost }},
		"older fold version":                {func(e *evidence) { e.p.FoldVersion, e.k.meta.FoldVersion = 1, 1 }, func(p plan) bool { return p.redoFrom == 50 }},
		"table of an input: newly declared": {withTable, func(p plan) bool { return p.tableFrom[testInput] == 0 && !p.rebuild["v"] }},
		"table of an input: behind": {func(e *evidence) { withTable(e); e.p.Tables = []string{"t", "v"} }, func(p plan) bool {
			return p.tableFrom[testInput] == 90 && !p.rebuild["v"]
		}},
		"table of an input: too old": {func(e *evidence) {
			withTable(e)
			e.p.Tables, e.p.StampedAt, e.p.Out = []string{"t", "v"}, testNow.Add(-2*time.Hour), 60
		}, func(p plan) bool { return p.tableFrom[testInput] == 0 && p.rebuild["v"] && !p.rebuild["t"] }},
		"no changelog": {func(e *evidence) {
			e.def.Changelog, e.def.Tables, e.p.Out, e.k.meta.Out = "", nil, 0, 0
			e.changelog, e.p.Changelog, e.k.meta.Changelog, e.s = TopicInfo{}, [16]byte{}, [16]byte{}, Watermarks{}
		}, func(p plan) bool { return p.offsets[testInput] == 100 && !p.lost }},
	} {
		t.Run(name, func(t *testing.T) {
			p, err := decide(found(c.change))
			if err != nil {
				t.Fatal(err)
			}
			if !c.want(p) {
				t.Fatalf("planned %+v", p)
			}
		})
	}
}

func TestReadCommits(t *testing.T) {
	a, b := topicPartition{Topic: "a"}, topicPartition{Topic: "b"}
	low, high := Metadata{Out: 5, StreamTime: testNow}, Metadata{Out: 7, StreamTime: testNow}
	k, err := readCommits(map[topicPartition]Committed{a: {1, low.Encode()}, b: {2, high.Encode()}, {Topic: "c"}: {3, ""}})
	if err != nil || k.meta.Out != 7 || k.offsets[a] != 1 || len(k.offsets) != 3 {
		t.Fatalf("read %+v, %v", k, err)
	}
	if _, err := readCommits(map[topicPartition]Committed{a: {1, "somebody else's"}}); err == nil || !strings.Contains(err.Error(), "a/0") {
		t.Fatalf("foreign metadata: %v", err)
	}
}

func TestShareMergesByTimeAndKeepsThePartitionsOrder(t *testing.T) {
	of := func(topic string, seconds ...int) part {
		p := part{in: &input{topicPartition: topicPartition{Topic: topic}}}
		for i, s := range seconds {
			p.recs = append(p.recs, record.Record{Topic: topic, Offset: int64(i), Timestamp: testNow.Add(time.Duration(s) * time.Second)})
		}
		return p
	}
	s := share{parts: []part{of("a", 5, 1, 9), of("b", 4, 6)}}
	var got []string
	err := s.each(func(in *input, rec *record.Record) error {
		if in.Topic != rec.Topic {
			t.Errorf("record %s@%d was given to the input of %s", rec.Topic, rec.Offset, in.Topic)
		}
		got = append(got, fmt.Sprintf("%s%d", rec.Topic, rec.Offset))
		return nil
	})
	if err != nil || !slices.Equal(got, []string{"b0", "a0", "a1", "b1", "a2"}) {
		t.Fatalf("merged to %v, %v", got, err)
	}
}
