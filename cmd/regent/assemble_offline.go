package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"

	"github.com/regent-infra/regent/internal/config"
	"github.com/regent-infra/regent/internal/embedded"
	"github.com/regent-infra/regent/internal/event"
	"github.com/regent-infra/regent/internal/lifecycle"
	"github.com/regent-infra/regent/internal/stream"
	"github.com/regent-infra/regent/internal/telemetry"
	"github.com/regent-infra/regent/internal/topics"
	"github.com/regent-infra/regent/statestore"
)

// anyPort is a free port that nobody else is told.
const anyPort = "127.0.0.1:0"

// offlinePlane puts together what works on the state of a stopped server: the one whose data directory is configured. What that directory
// holds says whether it was regent up, with its broker in there, or regent server.
func (a *app) offlinePlane(c *config.Loaded) (*plane, error) {
	_, err := os.Stat(filepath.Join(c.Data.Dir, embeddedDir))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("look into the data directory: %w", err)
	}
	inside := err == nil
	if !inside && (len(c.Brokers) == 0 || c.Registry == "") {
		return nil, usagef("the data directory %s holds no broker: name that of regent up with --data-dir; or, for that of regent server, the brokers and the registry with --brokers and --registry", c.Data.Dir)
	}
	set, err := topicSet(c)
	if err != nil {
		return nil, err
	}
	level := c.Log.Level
	if !c.Set("log.level") {
		level = "warn" // the command itself says what happens
	}
	logger, _, err := telemetry.NewLogger(telemetry.Options{Level: level, Format: c.Log.Format, Output: a.env.Stderr})
	if err != nil {
		return nil, err
	}
	p := &plane{
		config: c, logger: logger, clock: a.clock, build: telemetry.ReadBuild(version), set: set, embedded: inside, offline: true,
		started: a.clock.Now().UTC(), brokers: c.Brokers, registryURL: c.Registry, instance: "offline/" + event.NewID(),
	}
	p.roles = slices.DeleteFunc(slices.Clone(c.Process.Roles), func(r string) bool { return r == roleAPI || r == roleRegistry })
	if inside {
		p.set = p.set.WithReplicationFactor(1)
		p.roles = slices.DeleteFunc(slices.Clone(allRoles), func(r string) bool { return r == roleAPI })
	}
	if len(p.roles) == 0 {
		return nil, usagef("--roles is %v: none of them keeps state, expected some of reducer, orchestrator, fleet", c.Process.Roles)
	}
	return p, nil
}

// work connects, starting the broker if it is in the data directory, does a job, and ends everything again.
func (p *plane) work(ctx context.Context, name string, job func(ctx context.Context) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var services []lifecycle.Service
	if p.embedded {
		services = append(services, p.embeddedStack())
	}
	finished := false
	services = append(services, p.clients(), lifecycle.Service{Name: name, Run: func(ctx context.Context, ready func()) error {
		ready()
		err := p.settleTopics(ctx)
		if err == nil {
			err = job(ctx)
		}
		if err != nil {
			return err
		}
		finished = true
		cancel()
		<-ctx.Done()
		return nil
	}})
	quiet := slog.New(slog.DiscardHandler) // a person asked for one thing, and hears of that
	err := lifecycle.New(lifecycle.Config{Start: p.config.Lifecycle.StartTimeout, Drain: p.config.Lifecycle.DrainTimeout}, quiet, p.clock, services...).Run(ctx)
	switch {
	case errors.Is(err, embedded.ErrInUse), errors.Is(err, statestore.ErrInUse):
		return withCode(exitRefused, fmt.Errorf("%w; it works on the state of a stopped server", planeError(p.config, err)))
	case err == nil && !finished:
		return context.Cause(ctx)
	default:
		return err
	}
}

// settleTopics takes the partition count from the brokers, where the server has made it, and checks that the schemas are there.
func (p *plane) settleTopics(ctx context.Context) error {
	name := topics.State(event.KindPostgres)
	found, err := p.admin.Topics(ctx, name)
	if err != nil {
		return err
	}
	t, ok := found[name]
	if !ok {
		return fmt.Errorf("use topic %s: it does not exist: no server has run here yet (is this the right data directory, and the right cluster?)", name)
	}
	p.set = p.set.WithPartitions(event.KindPostgres, t.Partitions)
	return p.prepareCodec(ctx)
}

// definitions are the processors of the roles.
func (p *plane) definitions() ([]stream.Definition, error) {
	boot := event.NewID()
	var out []stream.Definition
	for _, role := range []string{roleReducer, roleFleet, roleOrchestrator} {
		if !slices.Contains(p.roles, role) {
			continue
		}
		d, err := p.definition(role, boot)
		if err != nil {
			return nil, fmt.Errorf("make the processor: %w", err)
		}
		out = append(out, d)
	}
	return out, nil
}
