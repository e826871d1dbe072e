package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/regent-infra/regent/internal/avrocodec"
	"github.com/regent-infra/regent/internal/config"
	"github.com/regent-infra/regent/internal/embedded/registry"
	"github.com/regent-infra/regent/internal/lifecycle"
	"github.com/regent-infra/regent/internal/registryserver"
	"github.com/regent-infra/regent/internal/telemetry"
)

// registryCredentials are what a registry of this process asks its clients for.
func registryCredentials(c *config.Loaded) (registry.Credentials, error) {
	password, err := passwordFrom("the schema registry", c.RegistryAuth.Password, c.RegistryAuth.PasswordFile)
	if err != nil {
		return registry.Credentials{}, err
	}
	credentials := registry.Credentials{User: c.RegistryAuth.User, Password: password}
	if err := credentials.Validate(); err != nil {
		return registry.Credentials{}, usagef("read registry_auth: %w", err)
	}
	return credentials, nil
}

// runRegistry serves a schema registry for a Kafka cluster until ctx ends. It needs no data directory: its content is a topic.
func (a *app) runRegistry(ctx context.Context, c *config.Loaded) error {
	logger, closer, err := a.logger(c)
	if err != nil {
		return err
	}
	defer func() { _ = closer.Close() }() // nothing is left to be lost
	kafkaConfig := kafkaConfig(c, c.Brokers)
	if err := kafkaConfig.Validate(); err != nil {
		return withCode(exitUsage, err)
	}
	credentials, err := registryCredentials(c)
	if err != nil {
		return err
	}
	var server *registryserver.Server
	serve := service("schema registry", func(ctx context.Context) (<-chan struct{}, error) {
		var err error
		server, err = registryserver.Open(ctx, registryserver.Config{
			Kafka: kafkaConfig, Listen: c.Listen.Registry,
			ReplicationFactor: int16(c.Topics.ReplicationFactor), //nolint:gosec // at most 15, checked when it was read
			Credentials:       credentials,
			// The registry asks "writer, reader"; the codec is asked "reader, writer".
			Compatible: func(writer, reader string) error { return avrocodec.Compatible(reader, writer) },
			Logger:     logger, Clock: a.clock,
		})
		if err != nil {
			return nil, err
		}
		logger.Info("the schema registry is up", "registry", server.URL(), "topic", registryserver.Topic)
		return server.Failed(), nil
	}, func(ctx context.Context) error { return errors.Join(server.Err(), server.Close(ctx)) })
	logger.Info("starting", "version", telemetry.ReadBuild(version).Version, "roles", []string{roleRegistry}, "brokers", c.Brokers)
	err = lifecycle.New(lifecycle.Config{Start: c.Lifecycle.StartTimeout, Drain: c.Lifecycle.DrainTimeout}, logger, a.clock, serve).Run(ctx)
	if err != nil {
		return err
	}
	logger.Info("stopped", "cause", fmt.Sprint(context.Cause(ctx)))
	return nil
}
