package stream

import (
	"context"
	"slices"
	"time"

	"github.com/regent-infra/regent/internal/clock"
)

// stablePoll is the pause between two looks at the last stable offset.
const stablePoll = 10 * time.Millisecond

// gatherer collects what the brokers know about a task.
type gatherer struct {
	def     *Definition
	session Session
	topics  map[string]TopicInfo
	clock   clock.Clock
	id      int32
}

// gather waits until everything that was written to S before the assignment is decided, then reads K. P is the caller's to add.
func (w *gatherer) gather(ctx context.Context) (evidence, error) {
	ev := evidence{def: w.def, task: w.id, inputs: map[topicPartition]inputEvidence{}}
	parts := w.def.partitionsOf(w.id, w.topics)
	all := slices.Clone(parts)
	s := topicPartition{Topic: w.def.Changelog, Partition: w.id}
	if s.Topic != "" {
		all = append(all, s)
	}
	marks, err := w.session.Watermarks(ctx, all)
	if err != nil {
		return ev, err
	}
	ev.s = marks[s]
	for stable := ev.s.Stable; s.Topic != "" && stable < ev.s.High; {
		if err := clock.Wait(ctx, w.clock, stablePoll); err != nil {
			return ev, err
		}
		now, err := w.session.Watermarks(ctx, []topicPartition{s})
		if err != nil {
			return ev, err
		}
		stable = now[s].Stable
	}
	committed, err := w.session.Committed(ctx, parts)
	if err != nil {
		return ev, err
	}
	if ev.k, err = readCommits(committed); err != nil {
		return ev, &taskError{err}
	}
	for _, tp := range parts {
		in := inputEvidence{info: w.topics[tp.Topic], marks: marks[tp]}
		for _, decl := range w.def.Inputs {
			if decl.Topic == tp.Topic {
				in.table = decl.Table
			}
		}
		ev.inputs[tp] = in
	}
	ev.changelog = w.topics[w.def.Changelog]
	ev.now = w.clock.Now()
	return ev, nil
}
