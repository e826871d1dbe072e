package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/regent-infra/regent/internal/checkpoint"
	"github.com/regent-infra/regent/internal/config"
	"github.com/regent-infra/regent/internal/stream"
	"github.com/regent-infra/regent/statestore"
	"github.com/regent-infra/regent/statestore/pebblestore"
)

// Points of a rebuild, for the tests that kill it.
const (
	pointStaged   = "staged"
	pointRebuilt  = "rebuilt"
	pointCompared = "compared"
	pointSwapped  = "swapped"
)

// rebuildFlags say how a state is made.
type rebuildFlags struct {
	crossCheck bool
	// from is the checkpoint to begin with; empty for none.
	from string
}

// rebuildState makes the state of a stopped server anew and swaps it in.
func (a *app) rebuildState(ctx context.Context, c *config.Loaded, o *output, flags rebuildFlags) error {
	p, err := a.offlinePlane(c)
	if err != nil {
		return err
	}
	b := &rebuilder{app: a, plane: p}
	if err := p.work(ctx, "rebuild", func(ctx context.Context) error { return b.run(ctx, flags) }); err != nil {
		var refusal *stream.Refusal
		if errors.Is(err, statestore.ErrCluster) || errors.As(err, &refusal) {
			return withCode(exitRefused, err)
		}
		return err
	}
	if done, err := o.structured(b.result); done {
		return err
	}
	b.result.print(o)
	return nil
}

// rebuilder makes a state.
type rebuilder struct {
	app     *app
	plane   *plane
	store   *pebblestore.Store
	reports []*stream.RebuildReport
	result  *rebuildResult
}

// run builds beside, compares, swaps, and cross-checks what is in place then.
func (b *rebuilder) run(ctx context.Context, flags rebuildFlags) (err error) {
	definitions, err := b.plane.definitions()
	if err != nil {
		return err
	}
	if b.store, err = b.stage(ctx, flags.from); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.store.Close()) }()
	b.app.env.Reached(pointStaged)
	b.result = &rebuildResult{DataDir: b.plane.config.Data.Dir, ClusterID: b.plane.clusterID, Equal: true, Partitions: []rebuiltPartition{}}
	began := b.app.clock.Now()
	for _, d := range definitions {
		if err := b.rebuild(ctx, d); err != nil {
			return err
		}
	}
	b.result.Seconds = b.app.clock.Now().Sub(began).Seconds()
	b.app.env.Reached(pointRebuilt)
	for i, d := range definitions {
		if err := b.compare(ctx, d, b.reports[i]); err != nil {
			return err
		}
	}
	b.app.env.Reached(pointCompared)
	if !b.result.Equal {
		return fmt.Errorf("rebuild the state: what was made differs from the topics: %s; it was not swapped in, and the old state stays", b.result.differences())
	}
	if err := b.store.Promote(); err != nil {
		return err
	}
	b.app.env.Reached(pointSwapped)
	if !flags.crossCheck {
		return nil
	}
	b.result.CrossCheck = &crossCheck{}
	for i, d := range definitions {
		if err := b.crossCheck(ctx, d, b.reports[i]); err != nil {
			return fmt.Errorf("%w; the rebuilt state is in place, only this check of it was not finished", err)
		}
	}
	return nil
}

// stage opens an empty generation of the store, or one that begins with a checkpoint.
func (b *rebuilder) stage(ctx context.Context, from string) (_ *pebblestore.Store, err error) {
	if from == "" {
		return pebblestore.Stage(b.plane.storeOptions())
	}
	c, remove, err := openCheckpoint(ctx, checkpoint.NewLibrary(filepath.Join(b.plane.config.Data.Dir, checkpointsDir)), from)
	defer func() { err = errors.Join(err, remove()) }()
	if err == nil {
		err = c.Verify(ctx)
	}
	if err != nil {
		return nil, err
	}
	return c.Stage(b.plane.storeOptions())
}

// options are those of one pass, with a meter of its own.
func (b *rebuilder) options(m *meter) stream.RebuildOptions {
	return stream.RebuildOptions{
		Log: b.plane.log, Store: b.store, Clock: b.app.clock, Logger: b.plane.logger,
		Progress: func(p stream.RebuildProgress) { m.set(p.Done, p.Total) },
	}
}

func (b *rebuilder) rebuild(ctx context.Context, d stream.Definition) error {
	m := newMeter(b.app.env.Stderr, d.Name+": materialise")
	defer m.end()
	report, err := stream.Rebuild(ctx, d, b.options(m))
	if err != nil {
		return err
	}
	b.reports = append(b.reports, report)
	b.result.Records += report.Records
	for _, part := range report.Parts {
		b.result.add(d.Name, &part)
	}
	return nil
}

func (b *rebuilder) compare(ctx context.Context, d stream.Definition, report *stream.RebuildReport) error {
	m := newMeter(b.app.env.Stderr, d.Name+": compare")
	defer m.end()
	compared, err := stream.CompareWithTopics(ctx, d, b.options(m), report)
	if err != nil {
		return err
	}
	for i := range compared {
		b.result.compared(d.Name, &compared[i])
	}
	return nil
}

// crossCheck folds the inputs again, beside, and compares.
func (b *rebuilder) crossCheck(ctx context.Context, d stream.Definition, report *stream.RebuildReport) (err error) {
	check := b.result.CrossCheck
	if d.Canonical == nil {
		check.Processors = append(check.Processors, crossChecked{
			Processor: d.Name, Notes: []string{"not comparable: what it decides depends on the order in which its inputs came, and on the time between"},
		})
		return nil
	}
	options := b.plane.storeOptions()
	options.Dir = b.store.Scratch(d.Name)
	folded, err := pebblestore.Open(options)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, folded.Close()) }()
	m := newMeter(b.app.env.Stderr, d.Name+": fold again")
	defer m.end()
	o := b.options(m)
	o.Store = folded
	began := b.app.clock.Now()
	again, err := stream.Refold(ctx, d, o)
	if err != nil {
		return err
	}
	var tasks []int32
	for _, part := range report.Parts {
		if len(part.Sources) > 0 && part.Sources[0].Topic == d.Changelog && !part.Lost {
			tasks = append(tasks, part.Partition)
		}
	}
	compared, err := stream.CompareFolds(d, b.store, folded, tasks)
	if err != nil {
		return err
	}
	check.add(d.Name, again, compared, b.app.clock.Now().Sub(began), len(tasks) == 0 && len(report.Parts) > 0)
	return nil
}

// rate is how much was done in how long, for people.
func rate(records int64, took time.Duration) string {
	return fmt.Sprintf("%d records in %.2fs (%.0f records/s)", records, took.Seconds(), float64(records)/max(took.Seconds(), 0.001))
}
