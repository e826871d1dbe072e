package main

import (
	"context"
	"errors"
	"path/filepath"
	"strings"

	"github.com/regent-infra/regent/internal/avrocodec"
	"github.com/regent-infra/regent/internal/embedded"
	"github.com/regent-infra/regent/internal/lifecycle"
)

// embeddedStack is broker and registry in this process.
func (p *plane) embeddedStack() lifecycle.Service {
	var stack *embedded.Stack
	return service("embedded broker", func(ctx context.Context) (<-chan struct{}, error) {
		credentials, err := registryCredentials(p.config)
		if err != nil {
			return nil, err
		}
		config := embedded.Config{
			Dir:                 filepath.Join(p.config.Data.Dir, embeddedDir),
			BrokerListen:        p.config.Listen.Broker,
			BrokerAdvertise:     p.config.Listen.BrokerAdvertise,
			RegistryListen:      p.config.Listen.Registry,
			RegistryCredentials: credentials,
			ClusterID:           p.config.Data.ClusterID,
			Sync:                p.config.Embedded.Sync,
			// The registry asks "writer, reader"; the codec is asked "reader, writer".
			Compatible:        func(writer, reader string) error { return avrocodec.Compatible(reader, writer) },
			Logger:            p.logger,
			Clock:             p.clock,
			RetentionInterval: p.config.Embedded.RetentionInterval,
			MinFreeBytes:      minFree(int64(p.config.Embedded.MinFree)),
		}
		if p.offline { // nobody finds it, and it leaves the log as it is
			config.BrokerListen, config.BrokerAdvertise, config.RegistryListen = anyPort, "", anyPort
			config.CompactionBudget = -1
		}
		if stack, err = embedded.Open(ctx, config); err != nil {
			return nil, err
		}
		p.brokers, p.registryURL = stack.Brokers(), stack.RegistryURL()
		p.logger.Info("embedded broker and registry are up", "brokers", strings.Join(p.brokers, ","), "registry", p.registryURL)
		return stack.Failed(), nil
	}, func(ctx context.Context) error { return errors.Join(stack.Err(), stack.Close(ctx)) })
}

// minFree turns "no limit" into what the stack calls so.
func minFree(n int64) int64 {
	if n == 0 {
		return -1
	}
	return n
}
