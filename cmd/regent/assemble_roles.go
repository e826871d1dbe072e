package main

import (
	"context"
	"fmt"
	"slices"

	"github.com/regent-infra/regent/internal/avrocodec"
	"github.com/regent-infra/regent/internal/event"
	"github.com/regent-infra/regent/internal/httpapi"
	"github.com/regent-infra/regent/internal/lifecycle"
	"github.com/regent-infra/regent/internal/record"
	"github.com/regent-infra/regent/internal/stream"
	"github.com/regent-infra/regent/internal/topics"
	"github.com/regent-infra/regent/processors/orchestrator"
	"github.com/regent-infra/regent/processors/reducer"
)

// Roles of a control plane.
const (
	roleReducer      = "reducer"
	roleOrchestrator = "orchestrator"
	roleFleet        = "fleet"
	roleAPI          = "api"
	roleRegistry     = "registry"
)

// allRoles is what regent up runs.
var allRoles = []string{roleReducer, roleOrchestrator, roleFleet, roleAPI}

// headers are the record headers of an event that a processor emits: CloudEvents attributes, and the trace of its cause.
func headers(e *event.Event, cause *record.Record) []record.Header {
	return avrocodec.Headers(e, avrocodec.TraceOf(cause).Child(e.CorrelationID, e.ID))
}

// definition returns the processor of a role. It refuses one that does not keep its contract.
func (p *plane) definition(role, boot string) (d stream.Definition, err error) {
	switch role {
	case roleReducer:
		d, err = reducer.Postgres(p.reducerConfig(boot))
	case roleFleet:
		d, err = reducer.Fleet(p.reducerConfig(boot))
	case roleOrchestrator:
		d, err = orchestrator.Postgres(orchestrator.Config{
			Instance: boot, Version: p.build.Version, Codec: p.codec, Partitions: p.set.Partitions(event.KindPostgres), Headers: headers,
		})
	default:
		err = fmt.Errorf("there is no processor for the role %s", role)
	}
	return d, err
}

func (p *plane) reducerConfig(boot string) reducer.Config {
	return reducer.Config{Instance: boot, Codec: p.codec, Partitions: p.set.Partitions(event.KindPostgres), Headers: headers}
}

// processors makes the services of the roles that process. Their definitions need the codec, so they are made when they start.
func (p *plane) processors() []lifecycle.Service {
	metrics := stream.NewMetrics(p.metrics)
	boot := event.NewID()
	var services []lifecycle.Service
	for _, role := range []string{roleReducer, roleFleet, roleOrchestrator} {
		if !slices.Contains(p.roles, role) {
			continue
		}
		services = append(services, lifecycle.Service{Name: role, Run: func(ctx context.Context, ready func()) error {
			d, err := p.definition(role, boot)
			if err != nil {
				return fmt.Errorf("make the processor: %w", err)
			}
			r, err := stream.New(d, stream.Options{
				Log: p.log, Store: p.store, Clock: p.clock, Logger: p.logger, Metrics: metrics,
				FlushInterval: p.config.Process.FlushInterval, CacheBytes: int(p.cacheShare(role)),
				Standbys: int(p.config.Process.Standbys),
			})
			if err != nil {
				return err
			}
			p.runtimes.add(d, r)
			ready()
			return r.Run(ctx)
		}})
	}
	return services
}

// cacheWeights say how the cache is shared out. The store's part holds blocks for what the processors' own, which hold single entries, have
// not.
var cacheWeights = map[string]int64{roleReducer: 5, roleOrchestrator: 1, roleFleet: 1, storeDir: 1}

// cacheShare returns the part of process.cache_size that a role gets, or the store; the parts of roles that run elsewhere go to the others.
func (p *plane) cacheShare(of string) int64 {
	total := cacheWeights[storeDir]
	for _, role := range p.roles {
		total += cacheWeights[role]
	}
	return max(int64(p.config.Process.CacheSize)*cacheWeights[of]/total, 1<<20)
}

// followed are the topics that the API reads.
func (p *plane) followed() []string {
	names := []string{topics.FleetState}
	for _, t := range p.set.All() {
		if t.Kind != "" && (t.Name == topics.State(t.Kind) || t.Name == topics.Workflows(t.Kind)) {
			names = append(names, t.Name)
		}
	}
	return names
}

var _ httpapi.Processors = (*runtimes)(nil)
