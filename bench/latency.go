package main

import (
	"context"
	"fmt"
	"time"

	"github.com/regent-infra/regent/bench/measure"
	"github.com/regent-infra/regent/bench/workload"
)

const (
	// latencyKeys are few enough to be there when measuring begins.
	latencyKeys = 5_000
	// drainPatience bounds the wait for the last outputs, and for the first.
	drainPatience = 2 * time.Minute
)

// latency measures the time from when an input is to be sent until its output has been read, at one rate.
func (b *bench) latency(ctx context.Context, c *contender, rate, round int) (err error) {
	j := b.job(c, phaseLatency, "")
	j.input = j.group + "-input"
	if err := b.prepare(ctx, &j); err != nil {
		return err
	}
	if err := b.cluster.createInput(ctx, j.input); err != nil {
		return err
	}
	defer b.clean(ctx, &j, &err)
	spec := workload.Spec{Seed: b.options.seed, Keys: latencyKeys, Partitions: b.options.partitions}
	d, err := newDataset(spec, j.input)
	if err != nil {
		return err
	}
	stream, err := workload.NewStream(spec)
	if err != nil {
		return err
	}
	p, err := b.start(ctx, j)
	if err != nil {
		return err
	}
	defer p.kill()
	digests := newDigests(spec.Partitions)
	t, err := b.newTraffic(ctx, &j, d, stream, digests)
	if err != nil {
		return err
	}
	defer t.close()
	r, err := b.latencyRun(ctx, t, p, rate)
	if err != nil {
		return err
	}
	if err := p.stop(); err != nil {
		return err
	}
	d.copied = digests.sums()
	if err := b.check(ctx, &j, d); err != nil {
		return err
	}
	b.recordLatency(sample{
		Figure: string(phaseLatency), Load: fmt.Sprintf("%d/s", rate), Contender: c.name, Keys: latencyKeys, Round: round,
	}, r)
	return nil
}

// latencyResult is what one run gave.
type latencyResult struct {
	latency  measure.Latency
	from, to usage
	backlog  int64 // outputs that were missing when the last input was sent
}

// latencyRun sends one input to each partition's first key, waits for the contender to be there, then sends at the rate.
func (b *bench) latencyRun(ctx context.Context, t *traffic, p *process, rate int) (r latencyResult, err error) {
	if err := t.send(time.Now()); err != nil {
		return r, err
	}
	if err := t.drain(ctx, p, drainPatience); err != nil {
		return r, fmt.Errorf("wait for the first output: %w", err)
	}
	length := b.options.latencyWarmUp + b.options.latencyTime
	began := time.Now()
	var failed error
	err = t.flow(ctx, rate, func(elapsed time.Duration) bool {
		if elapsed >= b.options.latencyWarmUp && r.from.at.IsZero() {
			r.from, failed = b.usage(p)
		}
		return failed != nil || elapsed >= length
	})
	if err == nil {
		err = failed
	}
	if err != nil {
		return r, err
	}
	if r.to, err = b.usage(p); err != nil {
		return r, err
	}
	t.mu.Lock()
	r.backlog = t.sent - t.seen
	t.mu.Unlock()
	if err := t.drain(ctx, p, drainPatience); err != nil {
		return r, err
	}
	var samples []time.Duration
	for _, a := range t.arrivals() {
		if a.due.Sub(began) >= b.options.latencyWarmUp {
			samples = append(samples, a.at.Sub(a.due))
		}
	}
	r.latency = measure.Summarise(samples)
	return r, nil
}

func (b *bench) recordLatency(s sample, r latencyResult) {
	elapsed := r.to.at.Sub(r.from.at).Seconds()
	b.add(s.With("p50", r.latency.P50, "ms"))
	b.add(s.With("p99", r.latency.P99, "ms"))
	b.add(s.With("p99.9", r.latency.P999, "ms"))
	b.add(s.With("max", r.latency.Max, "ms"))
	b.add(s.With("client CPU", (r.to.client-r.from.client).Seconds()/elapsed*100, "% of one processor"))
	b.add(s.With("broker CPU", (r.to.broker-r.from.broker).Seconds()/elapsed*100, "% of one processor"))
	b.add(s.With("outputs missing at the end", float64(r.backlog), "records"))
}
