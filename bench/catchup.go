package main

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	"github.com/regent-infra/regent/bench/measure"
)

// How a catch-up is watched.
const (
	watchInterval   = 50 * time.Millisecond
	catchUpPatience = 15 * time.Minute
)

// catchUp lets a contender work off a dataset from nothing and measures it. The rate counts from the first commit that is seen, so that it
// does not depend on how long a program takes to start; that is a figure of its own.
//
// rebuildRound, where it is not warmUp, is the round of a rebuild that follows on what was caught up with.
func (b *bench) catchUp(ctx context.Context, c *contender, d *dataset, round, rebuildRound int, more ...string) (err error) {
	j := b.job(c, phaseCatchUp, d.topic)
	if err := b.prepare(ctx, &j); err != nil {
		return err
	}
	defer b.clean(ctx, &j, &err)
	p, err := b.start(ctx, j, more...)
	if err != nil {
		return err
	}
	defer p.kill()
	w, err := b.watch(ctx, p, d)
	if err != nil {
		return err
	}
	memory, err := p.memory()
	if err != nil {
		return err
	}
	if err := p.stop(); err != nil {
		return err
	}
	// A wrong output gives no figure.
	if err := b.check(ctx, &j, d); err != nil {
		return err
	}
	if round != warmUp {
		s := sample{Figure: string(phaseCatchUp), Contender: c.name, Keys: d.spec.Keys, Round: round}
		b.recordCatchUp(s, w, memory)
		if err := b.recordDisk(s, &j); err != nil {
			return err
		}
	}
	if rebuildRound == warmUp {
		return nil
	}
	return b.rebuild(ctx, j, d, rebuildRound)
}

// window is what lies between the first commit that was seen and the last.
type window struct {
	began       time.Time
	first, last usage
	before      int64 // records that were done at first
	records     int64 // in all
}

// watch waits until everything is committed.
func (b *bench) watch(ctx context.Context, p *process, d *dataset) (window, error) {
	ctx, cancel := context.WithTimeout(ctx, catchUpPatience)
	defer cancel()
	w := window{began: p.began, records: int64(d.spec.Records)}
	ticker := time.NewTicker(watchInterval)
	defer ticker.Stop()
	for {
		if err := p.died(); err != nil {
			return w, err
		}
		done, err := b.done(ctx, &p.job)
		if err != nil {
			return w, err
		}
		if done > 0 {
			u, err := b.usage(p)
			if err != nil {
				return w, err
			}
			if w.first.at.IsZero() {
				w.first, w.before = u, done
			}
			w.last = u
			if done >= w.records {
				if w.before >= w.records {
					return w, fmt.Errorf("the contender %s had done all of %d records at first sight: give it more", p.job.contender.name, w.records)
				}
				return w, nil
			}
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return w, fmt.Errorf("the contender %s has done %d of %d records: %w: %s", p.job.contender.name, done, w.records, ctx.Err(), p.logTail())
		}
	}
}

// done returns how many inputs count as processed: what the group has committed, or, where the program commits seldom, what is in its
// output.
func (b *bench) done(ctx context.Context, j *job) (int64, error) {
	if j.contender.tableOutput {
		topics, err := b.cluster.admin.Topics(ctx)
		if err != nil {
			return 0, err
		}
		if _, ok := topics[j.output]; !ok {
			return 0, nil
		}
		return b.cluster.end(ctx, j.output)
	}
	offsets, err := b.cluster.admin.GroupOffsets(ctx, j.group)
	if err != nil {
		return 0, err
	}
	total := int64(0)
	for tp, o := range offsets {
		if tp.Topic == j.input {
			total += max(o.Offset, 0)
		}
	}
	return total, nil
}

func (b *bench) recordCatchUp(s sample, w window, m measure.Memory) {
	records := float64(w.records - w.before)
	perMillion := func(d time.Duration) float64 { return d.Seconds() / records * 1e6 }
	b.add(s.With("throughput", records/w.last.at.Sub(w.first.at).Seconds(), "records/s"))
	b.add(s.With("client CPU", perMillion(w.last.client-w.first.client), "s per million records"))
	b.add(s.With("broker CPU", perMillion(w.last.broker-w.first.broker), "s per million records"))
	b.add(s.With("first commit", w.first.at.Sub(w.began).Seconds(), "s after process start"))
	b.add(s.With("whole run", w.last.at.Sub(w.began).Seconds(), "s"))
	b.add(s.With("resident memory, peak", float64(m.Peak)/(1<<20), "MiB"))
	b.add(s.With("resident memory, end", float64(m.Resident)/(1<<20), "MiB"))
}

func (b *bench) recordDisk(s sample, j *job) error {
	state, err := measure.Disk(filepath.Join(j.dir, "state"))
	if err != nil {
		return err
	}
	topics, err := b.cluster.diskOf(j.group)
	if err != nil {
		return err
	}
	b.add(s.With("disk, state", float64(state)/(1<<20), "MiB"))
	b.add(s.With("disk, topics", float64(topics)/(1<<20), "MiB"))
	return nil
}
