package main

import (
	"context"
	"fmt"
	"time"
)

const (
	// restartRate is the traffic around a kill.
	restartRate = 1_000
	// restartPatience bounds the wait for the first output after a kill.
	restartPatience = 3 * time.Minute
)

// restart lets a contender catch up with inputs of its own, then kills it again and again under traffic, and measures from the start of
// the new process until its first new output has been read. What was written over all lives must be right in the end.
func (b *bench) restart(ctx context.Context, c *contender, d *dataset, rounds int) (err error) {
	j := b.job(c, phaseRestart, "")
	j.input = j.group + "-input"
	if err := b.prepare(ctx, &j); err != nil {
		return err
	}
	if err := b.cluster.createInput(ctx, j.input); err != nil {
		return err
	}
	defer b.clean(ctx, &j, &err)
	own, err := newDataset(d.spec, j.input)
	if err != nil {
		return err
	}
	stream, err := b.cluster.fill(ctx, own, true)
	if err != nil {
		return err
	}
	p, err := b.start(ctx, j)
	if err != nil {
		return err
	}
	defer func() { p.kill() }()
	if _, err := b.watch(ctx, p, own); err != nil {
		return err
	}
	t, err := b.newTraffic(ctx, &j, own, stream, newDigests(d.spec.Partitions))
	if err != nil {
		return err
	}
	defer t.close()
	t.sent = int64(own.spec.Records)
	var took []time.Duration
	for range rounds {
		first, err := b.killOnce(ctx, t, &p)
		if err != nil {
			return err
		}
		took = append(took, first)
	}
	if err := t.drain(ctx, p, drainPatience); err != nil {
		return err
	}
	if err := p.stop(); err != nil {
		return err
	}
	if err := b.check(ctx, &j, own); err != nil {
		return err
	}
	for i, d := range took {
		s := sample{Figure: string(phaseRestart), Contender: c.name, Keys: own.spec.Keys, Round: i + 1}
		b.add(s.With("first new output", d.Seconds(), "s after process start"))
	}
	return nil
}

// killOnce kills the contender under traffic, starts it again, and returns when its first output was read, counted from its start.
func (b *bench) killOnce(ctx context.Context, t *traffic, p **process) (time.Duration, error) {
	if err := t.flow(ctx, restartRate, func(elapsed time.Duration) bool { return elapsed >= b.options.steady }); err != nil {
		return 0, err
	}
	j := (*p).job
	(*p).kill()
	next, err := b.start(ctx, j)
	if err != nil {
		return 0, err
	}
	*p = next
	from := len(t.arrivals())
	var first time.Duration
	err = t.flow(ctx, restartRate, func(elapsed time.Duration) bool {
		arrived := t.arrivals()
		for ; from < len(arrived) && first == 0; from++ {
			// What the old process had written may be read late; the broker's time tells it apart.
			if a := arrived[from]; a.appended.UnixMilli() > next.began.UnixMilli() {
				first = a.at.Sub(next.began)
			}
		}
		return first > 0 || elapsed >= restartPatience || next.died() != nil
	})
	if err != nil {
		return 0, err
	}
	if err := next.died(); err != nil {
		return 0, err
	}
	if first == 0 {
		return 0, fmt.Errorf("no output within %s after a kill: %s", restartPatience, next.logTail())
	}
	return first, nil
}
