package main

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"time"

	"github.com/regent-infra/regent/internal/checkpoint"
	"github.com/regent-infra/regent/internal/clock"
	"github.com/regent-infra/regent/internal/lifecycle"
	"github.com/regent-infra/regent/internal/stream"
)

// requestInterval is how often a process looks whether a checkpoint is asked for.
const requestInterval = 200 * time.Millisecond

// checkpointing makes the checkpoints that are asked for, and those that are due.
func (p *plane) checkpointing() lifecycle.Service {
	return lifecycle.Service{Name: "checkpoints", Run: func(ctx context.Context, ready func()) error {
		k := &keeper{plane: p, library: checkpoint.NewLibrary(filepath.Join(p.config.Data.Dir, checkpointsDir)), log: p.logger, since: p.clock.Now()}
		if err := k.library.Sweep(); err != nil {
			return err
		}
		ready()
		for clock.Wait(ctx, p.clock, requestInterval) == nil {
			k.requests(ctx)
			k.due(ctx)
		}
		return nil
	}}
}

// keeper makes checkpoints of the state of this process. What goes wrong is told and tried again: no checkpoint is worth the process.
type keeper struct {
	plane   *plane
	library checkpoint.Library
	log     *slog.Logger
	// since is when the time to the next one began.
	since time.Time
	// looked says that the last one was looked for, trouble what was told last.
	looked  bool
	trouble string
}

// create brings everything that is committed into the store and copies it.
func (k *keeper) create(ctx context.Context, name string) (checkpoint.Named, error) {
	p := k.plane
	for _, r := range p.runtimes.list() {
		if err := r.runtime.Flush(ctx); err != nil {
			return checkpoint.Named{}, err
		}
	}
	c, err := k.library.Create(ctx, p.store, name, checkpoint.Options{Program: p.build.Version, Clock: p.clock})
	if err == nil {
		k.log.Info("checkpoint made", "name", c.Name, "bytes", c.Bytes(), "tasks", len(c.Tasks))
	}
	return c, err
}

// recovering reports whether a task is: its state is on the way, and no moment of anything.
func (k *keeper) recovering() bool {
	for _, r := range k.plane.runtimes.list() {
		if s := r.runtime.Status(); slices.ContainsFunc(s.Tasks, func(t stream.TaskStatus) bool { return !t.Running }) {
			return true
		}
	}
	return false
}

func (k *keeper) requests(ctx context.Context) {
	names, err := k.library.Requests()
	k.tell(err)
	if len(names) > 0 && k.recovering() {
		return // who asks waits
	}
	for _, name := range names {
		_, err := k.create(ctx, name)
		if ctx.Err() != nil {
			return
		}
		k.tell(k.library.Answer(name, err))
	}
}

// due makes the next one that nobody asks for, when it is time.
func (k *keeper) due(ctx context.Context) {
	c := k.plane.config.Checkpoints
	if c.Interval == 0 {
		return
	}
	if !k.looked {
		last, err := k.library.LastAutomatic()
		if k.tell(err); err != nil {
			return
		}
		if k.looked = true; !last.IsZero() {
			k.since = last
		}
	}
	now := k.plane.clock.Now()
	if now.Sub(k.since) < c.Interval || k.recovering() {
		return
	}
	k.since = now // also if it fails: the next one is tried then
	if _, err := k.create(ctx, checkpoint.AutomaticName(now)); err != nil {
		if ctx.Err() == nil {
			k.tell(err)
		}
		return
	}
	removed, err := k.library.Keep(int(c.Keep))
	k.tell(err)
	for _, name := range removed {
		k.log.Info("checkpoint removed: there are enough younger ones", "name", name, "keep", c.Keep)
	}
}

// tell logs an error once, as long as it stays the same.
func (k *keeper) tell(err error) {
	if err == nil {
		return
	}
	if text := fmt.Sprint(err); text != k.trouble {
		k.trouble = text
		k.log.Warn("checkpoints cannot be made as they should; the server goes on", "error", err)
	}
}
