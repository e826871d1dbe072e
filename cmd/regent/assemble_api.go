package main

import (
	"cmp"
	"context"
	"net"
	"slices"
	"sync"

	"github.com/regent-infra/regent/internal/httpapi"
	"github.com/regent-infra/regent/internal/httpapi/topicview"
	"github.com/regent-infra/regent/internal/kafka"
	"github.com/regent-infra/regent/internal/lifecycle"
	"github.com/regent-infra/regent/internal/record"
	"github.com/regent-infra/regent/internal/stream"
)

// runtimes are the processors of this process, for the API.
type runtimes struct {
	// alone says that nobody else can have the tasks: without any, a processor is not ready.
	alone bool

	mu  sync.Mutex
	all []processor
}

// processor is one running processor.
type processor struct {
	definition stream.Definition
	runtime    *stream.Runtime
}

func (r *runtimes) add(d stream.Definition, runtime *stream.Runtime) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.all = append(r.all, processor{d, runtime})
}

func (r *runtimes) list() []processor {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.all)
}

// Status implements [httpapi.Processors].
func (r *runtimes) Status() []httpapi.Processor {
	var all []httpapi.Processor
	for _, p := range r.list() {
		s := p.runtime.Status()
		all = append(all, httpapi.Processor{Status: s, Ready: s.Ready() && (!r.alone || len(s.Tasks) > 0)})
	}
	slices.SortFunc(all, func(a, b httpapi.Processor) int { return cmp.Compare(a.Processor, b.Processor) })
	return all
}

// Digests implements [httpapi.Processors].
func (r *runtimes) Digests(context.Context) ([]httpapi.Digest, error) {
	var all []httpapi.Digest
	for _, p := range r.list() {
		digests, err := p.runtime.Digests()
		if err != nil {
			return nil, err
		}
		for _, d := range digests {
			digest := httpapi.Digest{Processor: p.definition.Name, Table: d.Table, Partition: d.Partition, Keys: d.Entries, Sum: d.Sum}
			for _, t := range p.definition.Tables {
				if t.Name == d.Table && t.Source == p.definition.Changelog {
					digest.Changelog = t.Source
				}
			}
			all = append(all, digest)
		}
	}
	slices.SortFunc(all, func(a, b httpapi.Digest) int {
		return cmp.Or(cmp.Compare(a.Processor, b.Processor), cmp.Compare(a.Table, b.Table), cmp.Compare(a.Partition, b.Partition))
	})
	return all, nil
}

// api returns the services of the HTTP API: the view that it reads, and the server. The view counts as started before it has caught up, so
// that the server can say how far it is.
func (p *plane) api(listener net.Listener) []lifecycle.Service {
	var view *topicview.View
	return []lifecycle.Service{
		{Name: "view", Run: func(ctx context.Context, ready func()) error {
			view = topicview.New(topicview.Config{
				Topics: p.followed(), Open: p.openView, Codec: p.codec, Logger: p.logger, Metrics: p.metrics, Clock: p.clock,
			})
			ready()
			return view.Run(ctx, func() { p.logger.Debug("the view of the topics has caught up") })
		}},
		{Name: "HTTP API", Run: func(ctx context.Context, ready func()) error {
			server := httpapi.New(listener, httpapi.Config{
				Info: p.info(), View: view, Processors: p.runtimes, Set: p.set, Metrics: p.metrics, Logger: p.logger, Clock: p.clock,
			})
			p.logger.Info("the HTTP API is up", "url", server.URL())
			return server.Run(ctx, ready)
		}},
	}
}

// probe answers health, metrics and digests, in a process that does not serve the API.
func (p *plane) probe(listener net.Listener) lifecycle.Service {
	return lifecycle.Service{Name: "probe", Run: func(ctx context.Context, ready func()) error {
		server := httpapi.NewProbe(listener, httpapi.Config{Info: p.info(), Processors: p.runtimes, Metrics: p.metrics, Logger: p.logger, Clock: p.clock})
		p.logger.Info("the probe is up", "url", server.URL())
		return server.Run(ctx, ready)
	}}
}

// openView reads the followed topics from their start.
func (p *plane) openView(ctx context.Context) (topicview.Source, map[record.TopicPartition]int64, error) {
	names := p.followed()
	starts, err := p.admin.StartOffsets(ctx, names...)
	if err != nil {
		return nil, nil, err
	}
	ends, err := p.admin.StableOffsets(ctx, names...)
	if err != nil {
		return nil, nil, err
	}
	from := map[record.TopicPartition]kafka.Start{}
	due := map[record.TopicPartition]int64{}
	for tp, start := range starts {
		from[tp] = kafka.FromEarliest()
		if ends[tp] > start {
			due[tp] = ends[tp]
		}
	}
	reader, err := kafka.NewReader(p.kafka, from, kafka.ReaderConfig{})
	if err != nil {
		return nil, nil, err
	}
	return reader, due, nil
}
