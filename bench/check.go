package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/regent-infra/regent/bench/workload"
	"github.com/regent-infra/regent/internal/record"
)

// prepare makes what a job needs.
func (b *bench) prepare(ctx context.Context, j *job) error {
	if err := os.MkdirAll(j.dir, 0o750); err != nil {
		return err
	}
	if j.contender.tableOutput {
		return nil
	}
	return b.cluster.createOutput(ctx, j.output)
}

// clean removes the topics and the state of a job; after an error the state stays for a look.
func (b *bench) clean(ctx context.Context, j *job, failed *error) {
	if *failed != nil {
		return
	}
	*failed = errors.Join(b.cluster.forget(ctx, j.group), os.RemoveAll(j.dir))
}

// check reads all that a job has written, as a reader of committed records does, and holds it against the reference.
func (b *bench) check(ctx context.Context, j *job, d *dataset) error {
	err := b.compare(ctx, j, d)
	if err != nil {
		return fmt.Errorf("the output of %s in %s is wrong: %w", j.contender.name, j.output, err)
	}
	return nil
}

func (b *bench) compare(ctx context.Context, j *job, d *dataset) error {
	if j.contender.copies {
		got := newDigests(d.spec.Partitions)
		if err := b.scan(ctx, j.output, func(r *record.Record) { got.add(r) }); err != nil {
			return err
		}
		if !slices.Equal(got.sums(), d.copied) {
			return errors.New("its bytes are not those of the input")
		}
		return nil
	}
	c, err := workload.NewChecker(d.ref)
	if err != nil {
		return err
	}
	if err := b.scan(ctx, j.output, func(r *record.Record) { c.See(string(r.Key), r.Value) }); err != nil {
		return err
	}
	return c.Finish()
}

// scan reads all committed records of a topic, one partition after the other.
func (b *bench) scan(ctx context.Context, topic string, see func(*record.Record)) error {
	ends, err := b.cluster.admin.EndOffsets(ctx, topic)
	if err != nil {
		return err
	}
	for tp, end := range ends {
		err := b.cluster.admin.Scan(ctx, tp, 0, end, func(records []record.Record, _ int64) error {
			for i := range records {
				see(&records[i])
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}
