package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/regent-infra/regent/adapters/postgres"
	"github.com/regent-infra/regent/adapters/postgres/server"
	"github.com/regent-infra/regent/internal/avrocodec"
	"github.com/regent-infra/regent/internal/config"
	"github.com/regent-infra/regent/internal/event"
	"github.com/regent-infra/regent/internal/httpapi"
	"github.com/regent-infra/regent/internal/lifecycle"
	"github.com/regent-infra/regent/internal/telemetry"
)

// agentListen is where an agent serves metrics and health unless told otherwise: beside a control plane on the same host.
const agentListen = "127.0.0.1:7401"

func (a *app) agentCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "agent", GroupID: groupRun,
		Short: "Look after one PostgreSQL node",
		Long: `Look after one PostgreSQL server as its parent: run it, observe it, and carry orders out. Started as root, it drops to --user for the server.

The PostgreSQL that is installed is used (13 to 18), else published programs are fetched. A former primary stays down after a restart of its
agent until the orchestrator says what it is to be.`,
		Example: `  regent agent --config pg-1.yaml
  regent agent --cluster postgres/orders --node pg-1 --host 10.0.0.1 --data-dir /var/lib/regent/pg-1 \
      --password-file /etc/regent/password --brokers 10.0.0.9:9092 --registry http://10.0.0.9:8081`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.load(cmd)
			if err != nil {
				return err
			}
			return a.runAgent(cmd.Context(), c)
		},
	}
	f := cmd.Flags()
	for _, bound := range [][2]string{
		{"cluster", "agent.cluster"},
		{"node", "agent.node"},
		{"profile", "agent.profile"},
		{"data-dir", "postgres.data_dir"},
		{"host", "postgres.host"},
		{"port", "postgres.port"},
		{"bin-dir", "postgres.bin_dir"},
		{"user", "postgres.user"},
		{"password-file", "postgres.password_file"},
		{"http-listen", "listen.http"},
	} {
		config.BindFlag(f, bound[0], bound[1])
	}
	addLink(cmd)
	return cmd
}

func (a *app) runAgent(ctx context.Context, c *config.Loaded) error {
	logger, closer, err := a.logger(c)
	if err != nil {
		return err
	}
	defer func() { _ = closer.Close() }() // nothing is left to be lost
	build := telemetry.ReadBuild(version)
	agent, err := agentConfig(ctx, c, build)
	if err != nil {
		return err
	}
	address := c.Listen.HTTP
	if !c.Set("listen.http") {
		address = agentListen
	}
	listener, err := httpapi.Listen(address)
	if err != nil {
		return err
	}
	defer func() { _ = listener.Close() }() // nothing is left to be lost
	probe := httpapi.NewProbe(listener, httpapi.Config{
		Info: httpapi.Info{
			Version: build.Version, Brokers: agent.Kafka.Brokers, Registry: agent.Registry.URLs[0], Roles: []string{"agent"}, DataDir: agent.DataDir,
			StartedAt: a.clock.Now().UTC(), PID: os.Getpid(),
		},
		Metrics: telemetry.NewRegistry(build), Logger: logger, Clock: a.clock,
	})
	logger.Info("starting", "version", build.Version, "cluster", string(agent.Cluster), "node", agent.Node, "data_dir", agent.DataDir, "probe", probe.URL())
	err = lifecycle.New(lifecycle.Config{}, logger, a.clock,
		lifecycle.Service{Name: "probe", Run: probe.Run},
		agentService(agent, logger),
	).Run(ctx)
	if err != nil {
		return err
	}
	logger.Info("stopped", "cause", fmt.Sprint(context.Cause(ctx)))
	return nil
}

// agentService runs the agent. It waits as long as the server needs to stop: a server that is cut off loses nothing, but recovers for longer.
func agentService(c postgres.Config, logger *slog.Logger) lifecycle.Service {
	return lifecycle.Service{Name: "agent", Run: func(ctx context.Context, ready func()) error {
		ready()
		return postgres.Run(ctx, c, logger)
	}}
}

// agentConfig turns the configuration into the agent's. Everything that is missing is reported together.
func agentConfig(ctx context.Context, c *config.Loaded, build telemetry.Build) (postgres.Config, error) {
	var missing []error
	for _, key := range []struct{ value, key, flag string }{
		{c.Agent.Cluster, "agent.cluster", "--cluster"},
		{c.Agent.Node, "agent.node", "--node"},
		{c.Postgres.PasswordFile, "postgres.password_file", "--password-file"},
	} {
		if key.value == "" {
			missing = append(missing, fmt.Errorf("%s is not set (%s)", key.key, key.flag))
		}
	}
	settings := map[string]string{}
	for _, pair := range c.Postgres.Settings {
		name, value, ok := strings.Cut(pair, "=")
		if !ok || name == "" {
			missing = append(missing, fmt.Errorf("postgres.settings: %q, expected name=value", pair))
		}
		settings[strings.TrimSpace(name)] = strings.TrimSpace(value)
	}
	if err := errors.Join(missing...); err != nil {
		return postgres.Config{}, usagef("configure the agent: %w", err)
	}
	brokers, registry, err := addresses(ctx, c)
	if err != nil {
		return postgres.Config{}, err
	}
	password, err := passwordFrom("the schema registry", c.RegistryAuth.Password, c.RegistryAuth.PasswordFile)
	if err != nil {
		return postgres.Config{}, err
	}
	p := c.Postgres
	agent := postgres.Config{
		Cluster: event.ClusterID(c.Agent.Cluster), Node: c.Agent.Node,
		Host: p.Host, Port: uint16(p.Port), ListenHosts: p.ListenHosts, //nolint:gosec // 1 to 65535, checked when it was read
		BinDir: p.BinDir, Version: int(p.Version), NoFetch: p.NoFetch, User: p.User, Settings: settings,
		SuperuserRole: p.Superuser, ReplicationRole: p.ReplicationUser, RewindRole: p.RewindUser,
		SuperuserPasswordFile: p.PasswordFile, ReplicationPasswordFile: or(p.ReplicationPasswordFile, p.PasswordFile), RewindPasswordFile: p.RewindPasswordFile,
		Kafka:    kafkaConfig(c, brokers),
		Registry: avrocodec.ClientConfig{URLs: []string{registry}, User: c.RegistryAuth.User, Password: password},
		Profile:  profile(c.Agent), PulseInterval: c.Agent.PulseInterval, ObserveInterval: c.Agent.ObserveInterval, VolumeInterval: c.Agent.VolumeInterval,
		LookTimeout: c.Agent.LookTimeout, StartTimeout: p.StartTimeout, StopMode: stopMode(p.StopMode), StopTimeout: p.StopTimeout,
		FenceTimeout: p.FenceTimeout, FollowTimeout: p.FollowTimeout, MarkerTimeout: p.MarkerTimeout, AgentVersion: build.Version,
	}
	for _, dir := range []struct {
		into *string
		path string
	}{{&agent.DataDir, p.DataDir}, {&agent.AgentDir, p.AgentDir}, {&agent.RunDir, p.RunDir}} {
		if dir.path == "" {
			continue
		}
		if *dir.into, err = filepath.Abs(dir.path); err != nil {
			return postgres.Config{}, fmt.Errorf("configure the agent: find the directory %s: %w", dir.path, err)
		}
	}
	if err := agent.Validate(); err != nil {
		return postgres.Config{}, withCode(exitUsage, err)
	}
	return agent, nil
}

func or(value, otherwise string) string {
	if value == "" {
		return otherwise
	}
	return value
}

func stopMode(word string) server.Mode {
	if word == "immediate" {
		return server.ModeImmediate
	}
	return server.ModeFast
}

// profile returns the profile by its name, with what is set beside it.
func profile(c config.Agent) postgres.Profile {
	p := postgres.DefaultProfile
	if c.Profile == "fast" {
		p = postgres.FastProfile
	}
	if c.Heartbeat > 0 {
		p.Heartbeat = c.Heartbeat
	}
	if c.SuspectAfter > 0 {
		p.SuspectAfter = c.SuspectAfter
	}
	return p
}
