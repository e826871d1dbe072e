package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/regent-infra/regent/internal/config"
	"github.com/regent-infra/regent/internal/embedded"
	"github.com/regent-infra/regent/internal/httpapi"
	"github.com/regent-infra/regent/internal/lifecycle"
	"github.com/regent-infra/regent/internal/telemetry"
	"github.com/regent-infra/regent/statestore"
)

func (a *app) upCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "up", GroupID: groupRun,
		Short: "Run broker, registry, reducer, orchestrator and API in one process",
		Long: `Run a whole control plane in one process and one data directory: an embedded broker (Kafka protocol) and schema registry, the
topics, the reducer, the fleet roll-up, the orchestrator and the HTTP API. Any Kafka and Avro client can connect.

It stops gracefully on SIGINT or SIGTERM, at once on a second one, and after kill -9 it comes back where it was. A data directory
belongs to one process at a time.`,
		Example: `  regent up
  regent up --data-dir /var/lib/regent --http-listen 0.0.0.0:7400
  regent up --broker-listen 127.0.0.1:0 --registry-listen 127.0.0.1:0 --http-listen 127.0.0.1:0   # any free ports`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.load(cmd)
			if err != nil {
				return err
			}
			return a.runPlane(cmd.Context(), c, true, allRoles)
		},
	}
	f := cmd.Flags()
	config.BindFlag(f, "broker-listen", "listen.broker")
	config.BindFlag(f, "broker-advertise", "listen.broker_advertise")
	config.BindFlag(f, "registry-listen", "listen.registry")
	config.BindFlag(f, "cluster-id", "data.cluster_id")
	config.BindFlag(f, "sync", "embedded.sync")
	config.BindFlag(f, "partitions", "topics.partitions")
	addPlaneFlags(cmd)
	return cmd
}

// addPlaneFlags adds what up and server share.
func addPlaneFlags(cmd *cobra.Command) {
	f := cmd.Flags()
	config.BindFlag(f, "data-dir", "data.dir")
	config.BindFlag(f, "http-listen", "listen.http")
	config.BindFlag(f, "topics-file", "topics.file")
	config.BindFlag(f, "drain-timeout", "lifecycle.drain_timeout")
}

func (a *app) serverCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "server", GroupID: groupRun,
		Short: "Run roles against a real Kafka and schema registry",
		Long: `Run some or all roles of a control plane against a Kafka cluster and a schema registry that exist (regent topics apply creates the topics).
Several processes with the same role share its work; each needs a data directory of its own.

  reducer        folds observations into consolidated state
  orchestrator   decides and issues orders
  fleet          rolls the state up over the fleet
  api            serves the HTTP API
  registry       serves a schema registry that keeps its content in the topic _schemas, for installations that have none; it runs alone,
                 and one per Kafka cluster: the one that was started last writes, any other ends

Where --http-listen is given, roles other than api answer there too: health, metrics and digests.`,
		Example: `  regent server --brokers kafka-1:9092,kafka-2:9092 --registry http://registry:8081
  regent server --roles reducer,fleet --data-dir /var/lib/regent/reducer
  regent server --roles orchestrator --data-dir /var/lib/regent/orchestrator
  regent server --roles registry --brokers kafka-1:9092 --registry-listen 0.0.0.0:8081`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.load(cmd)
			if err != nil {
				return err
			}
			var missing []error
			if len(c.Brokers) == 0 {
				missing = append(missing, errors.New("--brokers is empty, expected the addresses of a Kafka cluster (regent up runs an embedded one)"))
			}
			alone := slices.Contains(c.Process.Roles, roleRegistry)
			if c.Registry == "" && !alone {
				missing = append(missing, errors.New("--registry is empty, expected the URL of a schema registry"))
			}
			if len(c.Process.Roles) == 0 {
				missing = append(missing, errors.New("--roles is empty, expected some of reducer, orchestrator, fleet, api, registry"))
			}
			if alone && len(c.Process.Roles) > 1 {
				missing = append(missing, errors.New("the role registry runs in a process of its own, expected it alone: the others start only when regent topics apply has registered the schemas with it"))
			}
			if err := errors.Join(missing...); err != nil {
				return usagef("run roles: %w", err)
			}
			if alone {
				return a.runRegistry(cmd.Context(), c)
			}
			return a.runPlane(cmd.Context(), c, false, c.Process.Roles)
		},
	}
	f := cmd.Flags()
	config.BindFlag(f, "roles", "process.roles")
	config.BindFlag(f, "brokers", "brokers")
	config.BindFlag(f, "registry", "registry")
	config.BindFlag(f, "instance", "process.instance")
	config.BindFlag(f, "registry-listen", "listen.registry")
	config.BindFlag(f, "replication-factor", "topics.replication_factor")
	addPlaneFlags(cmd)
	return cmd
}

// runPlane runs roles until ctx ends.
func (a *app) runPlane(ctx context.Context, c *config.Loaded, embeddedStack bool, roles []string) (err error) {
	logger, closer, err := a.logger(c)
	if err != nil {
		return err
	}
	defer func() { _ = closer.Close() }() // nothing is left to be lost
	set, err := topicSet(c)
	if err != nil {
		return err
	}
	p := &plane{
		config: c, logger: logger, clock: a.clock, build: telemetry.ReadBuild(version), set: set, roles: roles, embedded: embeddedStack,
		started: a.clock.Now().UTC(), brokers: c.Brokers, registryURL: c.Registry, runtimes: &runtimes{alone: embeddedStack},
	}
	p.metrics = telemetry.NewRegistry(p.build)
	if p.instance, err = instanceID(c); err != nil {
		return err
	}
	var listener net.Listener
	if slices.Contains(roles, roleAPI) || c.Set("listen.http") {
		if listener, err = httpapi.Listen(c.Listen.HTTP); err != nil {
			return err
		}
		defer func() { _ = listener.Close() }() // nothing is left to be lost
	}
	services, err := p.services(listener)
	if err != nil {
		return err
	}
	logger.Info("starting", "version", p.build.Version, "roles", strings.Join(roles, ","), "data_dir", c.Data.Dir, "instance", p.instance)
	err = lifecycle.New(lifecycle.Config{Start: c.Lifecycle.StartTimeout, Drain: c.Lifecycle.DrainTimeout}, logger, a.clock, services...).Run(ctx)
	if err != nil {
		return planeError(c, err)
	}
	logger.Info("stopped", "cause", fmt.Sprint(context.Cause(ctx)))
	return nil
}

// services lists what the roles need, in the order of their start.
func (p *plane) services(listener net.Listener) ([]lifecycle.Service, error) {
	var services []lifecycle.Service
	if p.embedded {
		p.set = p.set.WithReplicationFactor(1)
		services = append(services, p.embeddedStack())
	}
	services = append(services, p.clients(), p.topics())
	if processes := slices.ContainsFunc(p.roles, func(r string) bool { return r != roleAPI }); processes {
		services = append(services, p.stateStore())
		services = append(services, p.processors()...)
		services = append(services, p.checkpointing())
	}
	switch {
	case slices.Contains(p.roles, roleAPI):
		services = append(services, p.api(listener)...)
	case listener != nil:
		services = append(services, p.probe(listener))
	}
	return services, nil
}

// planeError adds what a person can do about an error of a control plane.
func planeError(c *config.Loaded, err error) error {
	switch {
	case errors.Is(err, embedded.ErrInUse), errors.Is(err, statestore.ErrInUse):
		return fmt.Errorf("%w (the data directory is %s; --data-dir names another)", err, c.Data.Dir)
	case errors.Is(err, statestore.ErrFailed):
		return fmt.Errorf("%w (the data directory is %s: free some space or mend the disk, then start again: what was committed is redone from the topics)", err, c.Data.Dir)
	default:
		return err
	}
}
