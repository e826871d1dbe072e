package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/regent-infra/regent/internal/avrocodec"
	"github.com/regent-infra/regent/internal/clock"
	"github.com/regent-infra/regent/internal/config"
	"github.com/regent-infra/regent/internal/event"
	"github.com/regent-infra/regent/internal/httpapi"
	"github.com/regent-infra/regent/internal/kafka"
	"github.com/regent-infra/regent/internal/lifecycle"
	"github.com/regent-infra/regent/internal/stream"
	"github.com/regent-infra/regent/internal/telemetry"
	"github.com/regent-infra/regent/internal/topicplan"
	"github.com/regent-infra/regent/internal/topics"
	"github.com/regent-infra/regent/statestore"
	"github.com/regent-infra/regent/statestore/pebblestore"
)

// Names inside the data directory of a control plane.
const (
	embeddedDir  = "embedded"
	storeDir     = "state"
	instanceFile = "instance"
)

// plane is a control plane, or some of its roles, as it is put together: each service fills in what those behind it need.
type plane struct {
	config  *config.Loaded
	logger  *slog.Logger
	clock   clock.Clock
	build   telemetry.Build
	metrics *prometheus.Registry
	set     *topics.Set
	roles   []string
	// embedded says that broker and registry are part of the process.
	embedded bool
	// offline says that the process works on what a stopped server has left.
	offline  bool
	started  time.Time
	instance string

	brokers     []string
	registryURL string
	clusterID   string
	kafka       kafka.Config
	admin       *kafka.Admin
	registry    *avrocodec.Client
	codec       *avrocodec.Codec
	log         stream.Log
	store       statestore.Store
	runtimes    *runtimes
}

// service makes a [lifecycle.Service] of something that is opened, held, and closed.
func service(name string, open func(ctx context.Context) (failed <-chan struct{}, err error), end func(ctx context.Context) error) lifecycle.Service {
	return lifecycle.Service{Name: name, Run: func(ctx context.Context, ready func()) error {
		failed, err := open(ctx)
		if err != nil {
			return err
		}
		ready()
		select {
		case <-ctx.Done():
		case <-failed:
		}
		return end(context.WithoutCancel(ctx))
	}}
}

// instanceID returns the name of this instance: as configured, or made once and kept in the data directory.
func instanceID(c *config.Loaded) (string, error) {
	if c.Process.Instance != "" {
		return c.Process.Instance, nil
	}
	if err := os.MkdirAll(c.Data.Dir, 0o750); err != nil {
		return "", fmt.Errorf("make the data directory: %w; name one that this user may write with --data-dir", err)
	}
	name := filepath.Join(c.Data.Dir, instanceFile)
	raw, err := os.ReadFile(name)
	if err == nil && strings.TrimSpace(string(raw)) != "" {
		return strings.TrimSpace(string(raw)), nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("read the name of this instance: %w", err)
	}
	id := event.NewID()
	temporary := name + ".new"
	if err := os.WriteFile(temporary, []byte(id+"\n"), 0o640); err != nil {
		return "", fmt.Errorf("keep the name of this instance in the data directory: %w; name a directory that this user may write with --data-dir", err)
	}
	if err := os.Rename(temporary, name); err != nil {
		return "", fmt.Errorf("keep the name of this instance in the data directory: %w", err)
	}
	return id, nil
}

// clients connects to brokers and registry.
func (p *plane) clients() lifecycle.Service {
	return service("clients", func(ctx context.Context) (<-chan struct{}, error) {
		p.kafka = kafkaConfig(p.config, p.brokers)
		var err error
		if p.admin, err = kafka.NewAdmin(p.kafka); err != nil {
			return nil, err
		}
		if p.registry, err = registryClient(p.config, p.registryURL); err != nil {
			return nil, err
		}
		if p.codec, err = avrocodec.New(p.registry, p.set, avrocodec.Config{}); err != nil {
			return nil, err
		}
		if p.log, err = kafka.NewLog(p.kafka, kafka.SessionConfig{InstanceID: p.instance, Logger: p.logger}); err != nil {
			return nil, err
		}
		l := link{admin: p.admin, registry: p.registry}
		if err := l.ping(ctx, p.registryURL); err != nil {
			return nil, err
		}
		cluster, err := p.admin.Cluster(ctx)
		if err != nil {
			return nil, err
		}
		p.clusterID = cluster.ID
		return nil, nil //nolint:nilnil // nothing can fail once it is open
	}, func(context.Context) error {
		p.admin.Close()
		p.registry.Close()
		return nil
	})
}

// topics makes the embedded broker and registry agree with the declaration; elsewhere it only checks that schemas are registered.
func (p *plane) topics() lifecycle.Service {
	return service("topics", func(ctx context.Context) (<-chan struct{}, error) {
		if p.embedded {
			plan, err := topicplan.Make(ctx, p.admin, p.registry, p.set)
			if err != nil {
				return nil, err
			}
			err = topicplan.Apply(ctx, p.admin, p.registry, plan, nil, func(s topicplan.Step) {
				p.logger.Info("topics brought up to date", "topic", s.Topic, "action", string(s.Action), "detail", s.Detail)
			})
			if err != nil {
				return nil, err
			}
		}
		return nil, p.prepareCodec(ctx)
	}, func(context.Context) error { return nil })
}

// prepareCodec checks that all schemas are registered.
func (p *plane) prepareCodec(ctx context.Context) error {
	err := p.codec.Prepare(ctx, p.set.Names()...)
	if errors.Is(err, avrocodec.ErrNotRegistered) {
		return fmt.Errorf("%w; run: regent topics apply", err)
	}
	return err
}

func (p *plane) storeOptions() pebblestore.Options {
	return pebblestore.Options{
		Dir: filepath.Join(p.config.Data.Dir, storeDir), CacheBytes: p.cacheShare(storeDir), Logger: p.logger,
	}
}

// stateStore opens the store of the processors.
func (p *plane) stateStore() lifecycle.Service {
	return service("state store", func(context.Context) (<-chan struct{}, error) {
		store, err := pebblestore.Open(p.storeOptions())
		if err != nil {
			return nil, err
		}
		p.store = store
		return nil, nil //nolint:nilnil // a store that fails shows in the runtimes that write to it
	}, func(context.Context) error { return p.store.Close() })
}

// info is what clients are told.
func (p *plane) info() httpapi.Info {
	partitions := map[string]int32{}
	for _, t := range p.set.All() {
		if t.Kind != "" {
			partitions[string(t.Kind)] = t.Partitions
		}
	}
	dir, err := filepath.Abs(p.config.Data.Dir)
	if err != nil {
		dir = p.config.Data.Dir
	}
	return httpapi.Info{
		Version: p.build.Version, ClusterID: p.clusterID, Brokers: p.brokers, Registry: p.registryURL, Embedded: p.embedded, Roles: p.roles,
		DataDir: dir, StartedAt: p.started, Partitions: partitions, PID: os.Getpid(),
	}
}
