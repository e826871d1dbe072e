// Package lifecycle is the one way in which the services of a process start, run and stop.
//
// A [Service] is a function that runs until its context ends and says when it is ready. A [Group] starts services in order, each when
// the one before it is ready, and stops them in reverse order: what was built on something is gone before that something goes.
//
//	err := lifecycle.New(lifecycle.Config{Drain: 10 * time.Second}, logger, clock.System{},
//		lifecycle.Service{Name: "broker", Run: broker.Run},
//		lifecycle.Service{Name: "reducer", Run: reducer.Run},
//	).Run(ctx)
//
// Invariants: (1) a service is started only after all before it were ready, and stopped only after all behind it have ended or the
// drain deadline has passed; (2) the first failure stops the whole group and is the error that Run returns; (3) a service that ends while
// nobody asked it to is a failure, even without an error; (4) Run returns only after every service has ended, or with an
// error that names those which did not end in time.
//
// [Signals] turns the first SIGINT or SIGTERM into a graceful stop and the second one into a forced end.
package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/regent-infra/regent/internal/clock"
)

// Service is one part of a process.
type Service struct {
	// Name is for logs and errors.
	Name string
	// Run does the work until ctx ends. It calls ready once, when others may build on it. Ending by itself is a failure.
	Run func(ctx context.Context, ready func()) error
}

// Config says how patient a group is.
type Config struct {
	// Start is how long one service may take until it is ready. 0: as long as it wants.
	Start time.Duration
	// Drain is how long all services together may take to end. 0: as long as they want.
	Drain time.Duration
}

// Group starts and stops services. Use it once.
type Group struct {
	config   Config
	logger   *slog.Logger
	clock    clock.Clock
	services []Service
}

// New makes a group. The order of services is the order of their start.
func New(config Config, logger *slog.Logger, c clock.Clock, services ...Service) *Group {
	return &Group{config: config, logger: logger, clock: c, services: services}
}

// running is a started service.
type running struct {
	name   string
	cancel context.CancelFunc
	// done is closed when Run has returned; err is valid then.
	done chan struct{}
	err  error
}

// ended tells the group which service ended.
type ended struct{ service *running }

// Run starts all services, waits until ctx ends or one of them does, stops all of them, and returns the first failure. A stop that was
// asked for by ctx is no failure.
func (g *Group) Run(ctx context.Context) error {
	// Services outlive ctx: they are stopped one by one, in order.
	root := context.WithoutCancel(ctx)
	ends := make(chan ended, len(g.services))
	var started []*running
	var first error

	for _, service := range g.services {
		r, err := g.start(ctx, root, service, ends, &started)
		if r != nil && err == nil {
			continue
		}
		first = err
		break
	}
	if first == nil && ctx.Err() == nil {
		g.logger.DebugContext(ctx, "all services are ready", "services", len(started))
		select {
		case <-ctx.Done():
		case e := <-ends:
			first = failure(e.service)
		}
	}
	stopErr := g.stop(root, started)
	if first != nil {
		return first
	}
	return stopErr
}

// start runs one service and waits until it is ready. It returns nil, nil if ctx ended meanwhile.
func (g *Group) start(ctx, root context.Context, service Service, ends chan<- ended, started *[]*running) (*running, error) {
	if ctx.Err() != nil {
		return nil, nil //nolint:nilnil // documented: nothing was started and nothing failed
	}
	own, cancel := context.WithCancel(root)
	r := &running{name: service.Name, cancel: cancel, done: make(chan struct{})}
	ready := make(chan struct{}, 1)
	*started = append(*started, r)
	go func() {
		r.err = service.Run(own, func() {
			select {
			case ready <- struct{}{}:
			default:
			}
		})
		close(r.done)
		ends <- ended{r}
	}()

	var late <-chan time.Time
	if g.config.Start > 0 {
		timer := g.clock.NewTimer(g.config.Start)
		defer timer.Stop()
		late = timer.C
	}
	select {
	case <-ready:
		g.logger.DebugContext(ctx, "service is ready", "service", service.Name)
		return r, nil
	case <-r.done:
		if ctx.Err() != nil && r.err == nil {
			return nil, nil //nolint:nilnil // documented: the stop came first
		}
		return r, failure(r)
	case <-late:
		return r, fmt.Errorf("start %s: not ready within %s", service.Name, g.config.Start)
	case <-ctx.Done():
		return nil, nil //nolint:nilnil // documented: the stop came first
	}
}

// stop ends services in reverse order, all within the drain deadline.
func (g *Group) stop(ctx context.Context, started []*running) error {
	var deadline <-chan time.Time
	if g.config.Drain > 0 {
		timer := g.clock.NewTimer(g.config.Drain)
		defer timer.Stop()
		deadline = timer.C
	}
	var errs []error
	var stuck []string
	expired := false
	for i := len(started) - 1; i >= 0; i-- {
		r := started[i]
		r.cancel()
		if expired {
			select {
			case <-r.done:
			default:
				stuck = append(stuck, r.name)
			}
			continue
		}
		select {
		case <-r.done:
			g.logger.DebugContext(ctx, "service has stopped", "service", r.name)
			if r.err != nil && !errors.Is(r.err, context.Canceled) {
				errs = append(errs, fmt.Errorf("stop %s: %w", r.name, r.err))
			}
		case <-deadline:
			expired = true
			stuck = append(stuck, r.name)
		}
	}
	if len(stuck) > 0 {
		errs = append(errs, fmt.Errorf("stop: %s did not end within %s; what it had not finished is redone at the next start",
			strings.Join(stuck, ", "), g.config.Drain))
	}
	return errors.Join(errs...)
}

func failure(r *running) error {
	if r.err != nil {
		return fmt.Errorf("%s: %w", r.name, r.err)
	}
	return fmt.Errorf("%s ended although nobody asked it to", r.name)
}
