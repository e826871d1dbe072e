package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// rebuildPatience bounds one rebuild.
const rebuildPatience = 10 * time.Minute

// rebuilt is what one rebuild gave.
type rebuilt struct {
	records float64
	seconds float64 // of the rebuild proper
	whole   time.Duration
	peak    int64 // resident bytes
}

// rebuild takes the state of a contender away that has caught up, and lets it make it again from the topics.
func (b *bench) rebuild(ctx context.Context, j job, d *dataset, round int) error {
	if err := os.RemoveAll(filepath.Join(j.dir, "state")); err != nil {
		return err
	}
	j.phase = phaseRebuild
	run := b.rebuildRegent
	if j.contender.program == programStreams {
		run = b.rebuildStreams
	}
	r, err := run(ctx, j)
	if err != nil {
		return fmt.Errorf("rebuild: %w", err)
	}
	if r.records < float64(d.spec.Keys) {
		return fmt.Errorf("rebuild: %s has read %.0f records, expected one for each of %d keys at least", j.contender.name, r.records, d.spec.Keys)
	}
	s := sample{Figure: string(phaseRebuild), Contender: j.contender.name, Keys: d.spec.Keys, Round: round}
	b.add(s.With("rate", r.records/r.seconds, "records/s"))
	b.add(s.With("rebuild", r.seconds, "s"))
	b.add(s.With("from process start", r.whole.Seconds(), "s"))
	b.add(s.With("resident memory, peak", float64(r.peak)/(1<<20), "MiB"))
	return nil
}

// rebuildRegent runs the rebuild as a program that ends with a report.
func (b *bench) rebuildRegent(ctx context.Context, j job) (r rebuilt, err error) {
	p, err := b.start(ctx, j, "-rebuild")
	if err != nil {
		return r, err
	}
	defer p.kill()
	select {
	case <-p.done:
	case <-time.After(rebuildPatience):
		return r, fmt.Errorf("not done within %s: %s", rebuildPatience, p.logTail())
	case <-ctx.Done():
		return r, ctx.Err()
	}
	r.whole = time.Since(p.began)
	if p.ended != nil {
		return r, fmt.Errorf("%w: %s", p.ended, p.logTail())
	}
	if use, ok := p.cmd.ProcessState.SysUsage().(*syscall.Rusage); ok {
		r.peak = use.Maxrss << 10 // KiB (getrusage(2))
	}
	var said struct{ Records, Seconds float64 }
	if err := p.said(func(line []byte) bool { return json.Unmarshal(line, &said) == nil && said.Records > 0 }); err != nil {
		return r, err
	}
	r.records, r.seconds = said.Records, said.Seconds
	return r, nil
}

// rebuildStreams starts the application and waits until it has said of every partition that it is restored.
func (b *bench) rebuildStreams(ctx context.Context, j job) (r rebuilt, err error) {
	p, err := b.start(ctx, j)
	if err != nil {
		return r, err
	}
	defer p.kill()
	type restored struct {
		Partition int     `json:"partition"`
		Records   float64 `json:"records"`
		Began     int64   `json:"began_ms"`
		Ended     int64   `json:"ended_ms"`
	}
	deadline := time.After(rebuildPatience)
	for {
		all := map[int]restored{}
		err := p.said(func(line []byte) bool {
			var one restored
			if json.Unmarshal(line, &one) == nil && one.Ended > 0 {
				all[one.Partition] = one
			}
			return len(all) == int(b.options.partitions)
		})
		if err == nil {
			var began, ended int64
			for _, one := range all {
				r.records += one.Records
				if began == 0 || one.Began < began {
					began = one.Began
				}
				ended = max(ended, one.Ended)
			}
			r.seconds = float64(ended-began) / 1000
			r.whole = time.UnixMilli(ended).Sub(p.began)
			memory, err := p.memory()
			if err != nil {
				return r, err
			}
			r.peak = memory.Peak
			return r, p.stop()
		}
		select {
		case <-time.After(watchInterval):
		case <-p.done:
			return r, p.died()
		case <-deadline:
			return r, fmt.Errorf("not done within %s: %s", rebuildPatience, p.logTail())
		case <-ctx.Done():
			return r, ctx.Err()
		}
	}
}

// said calls fn with what the process has said that looks like JSON, line by line, until fn returns true.
func (p *process) said(fn func(line []byte) bool) error {
	f, err := os.Open(p.log)
	if err != nil {
		return err
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		if strings.HasPrefix(s.Text(), "{") && fn(s.Bytes()) {
			return nil
		}
	}
	return fmt.Errorf("the contender %s did not say what it has done: %s", p.job.contender.name, p.logTail())
}
