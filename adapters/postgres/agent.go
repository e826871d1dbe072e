package postgres

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/regent-infra/regent/adapters"
	"github.com/regent-infra/regent/adapters/postgres/binary"
	"github.com/regent-infra/regent/adapters/postgres/guard"
	"github.com/regent-infra/regent/adapters/postgres/observe"
	"github.com/regent-infra/regent/adapters/postgres/server"
	"github.com/regent-infra/regent/adapters/postgres/statefile"
	"github.com/regent-infra/regent/internal/avrocodec"
	"github.com/regent-infra/regent/internal/clock"
	"github.com/regent-infra/regent/internal/event"
	"github.com/regent-infra/regent/internal/secret"
	"github.com/regent-infra/regent/internal/topics"
	"github.com/regent-infra/regent/schemas"
)

// Dependencies are what an agent needs besides its configuration.
type Dependencies struct {
	// Stream is the way to the log. Required.
	Stream Stream
	// Codec turns events into bytes and back. Required.
	Codec event.Codec
	// Logger gets what the agent does. Default: discarded.
	Logger *slog.Logger
	// Clock is for waiting and for dating. Default: the machine's.
	Clock clock.Clock
}

// Agent looks after one PostgreSQL server. Use it once: [New], then [Agent.Run].
type Agent struct {
	config   Config
	deps     Dependencies
	logger   *slog.Logger
	clock    clock.Clock
	binaries binary.Set
	roles    credentials
	masker   *secret.Masker
	bootID   string

	instance *server.Instance
	observer *observe.Observer
	looks    *looker
	file     *statefile.File
	publish  *publisher
	stream   *streamClock

	inbox chan message
	// seen is nudged when the looker has seen something.
	seen chan struct{}
	// ended is closed when the loop is over.
	ended chan struct{}
	// starts counts the starts of the server, so that the exit of an earlier one is told from that of the present one.
	starts atomic.Int64
	wg     sync.WaitGroup

	// What follows belongs to the loop.
	state     guard.State
	worker    *worker
	published *schemas.PostgresNodeObserved
	leaving   bool
	restart   *time.Timer
	seenNow   *view
}

var _ adapters.Adapter = (*Agent)(nil)

// message is what the loop takes.
type message struct {
	fact guard.Fact
	// start, where it is not 0, is the start of the server that the fact is about; it is dropped when there was a later one.
	start int64
	// order, where it is set, is looked at with the stream time in place of fact.
	order *guard.Order
	// streamTime is the broker's time as the sender of an order knows it.
	streamTime time.Time
	// observe, where it is set, receives the full current value.
	observe chan<- *schemas.PostgresNodeObserved
	// seen, where it is set, was seen of the server right before the fact.
	seen *view
	// done, where it is set, is closed when the message has been taken into account.
	done chan<- struct{}
}

// Run looks after a server until ctx ends. It connects to the brokers and the registry of the configuration by itself; that they are
// away is no error.
func Run(ctx context.Context, config Config, logger *slog.Logger) error {
	if err := config.Validate(); err != nil {
		return err
	}
	if _, err := Contract(topics.Default()); err != nil {
		return err
	}
	stream, err := newKafkaStream(config.Kafka, config.Cluster)
	if err != nil {
		return err
	}
	defer stream.close()
	registry, err := avrocodec.NewClient(config.Registry)
	if err != nil {
		return err
	}
	defer registry.Close()
	codec, err := avrocodec.New(registry, topics.Default(), avrocodec.Config{})
	if err != nil {
		return err
	}
	a, err := New(ctx, config, Dependencies{Stream: stream, Codec: codec, Logger: logger})
	if err != nil {
		return err
	}
	return a.Run(ctx)
}

// New checks everything that can be checked before the first step, takes hold of the data directory and ends what an earlier agent has left.
// The agent must then be run, or closed.
func New(ctx context.Context, config Config, deps Dependencies) (*Agent, error) {
	config = config.withDefaults()
	if err := config.Validate(); err != nil {
		return nil, err
	}
	if deps.Stream == nil || deps.Codec == nil {
		return nil, errors.New("make an agent: expected a stream and a codec")
	}
	if deps.Logger == nil {
		deps.Logger = slog.New(slog.DiscardHandler)
	}
	if deps.Clock == nil {
		deps.Clock = clock.System{}
	}
	a := &Agent{
		config: config, deps: deps, logger: deps.Logger.With("node", config.Node), clock: deps.Clock, bootID: event.NewID(),
		inbox: make(chan message, 64), seen: make(chan struct{}, 1), ended: make(chan struct{}),
		stream: &streamClock{clock: deps.Clock},
	}
	if err := a.prepare(ctx); err != nil {
		return nil, fmt.Errorf("start the agent of %s: %w", a.Resource(), err)
	}
	header := schemas.EnvelopeHeader{
		Source: "agent/" + config.Cluster.Name() + "/" + config.Node, Cluster: string(config.Cluster), Resource: string(a.Resource()), BootID: a.bootID,
	}
	a.publish = newPublisher(deps, header, a.stream)
	return a, nil
}

// Resource implements [adapters.Observer] and [adapters.Executor].
func (a *Agent) Resource() event.ResourceID { return a.config.Cluster.Node(a.config.Node) }

// Orders implements [adapters.Executor].
func (a *Agent) Orders() []string { return guard.Orders() }

// Observe implements [adapters.Observer]: it looks at everything and returns the full current value.
func (a *Agent) Observe(ctx context.Context) (any, error) {
	a.looks.all(ctx)
	answer := make(chan *schemas.PostgresNodeObserved, 1)
	if err := a.send(ctx, message{observe: answer}); err != nil {
		return nil, fmt.Errorf("observe %s: %w", a.Resource(), err)
	}
	select {
	case value := <-answer:
		return value, nil
	case <-a.ended:
		return nil, fmt.Errorf("observe %s: %w", a.Resource(), adapters.ErrEnded)
	case <-ctx.Done():
		return nil, fmt.Errorf("observe %s: %w", a.Resource(), context.Cause(ctx))
	}
}

// Execute implements [adapters.Executor].
func (a *Agent) Execute(ctx context.Context, e *event.Event, streamTime time.Time) error {
	if e.Resource != string(a.Resource()) {
		return nil
	}
	order, ok := guard.NewOrder(e.EnvelopeHeader, e.Payload)
	if !ok {
		return nil
	}
	done := make(chan struct{})
	if err := a.send(ctx, message{order: &order, streamTime: streamTime, done: done}); err != nil {
		return fmt.Errorf("take up %s for %s: %w", order.Type, a.Resource(), err)
	}
	select {
	case <-done:
		return nil
	case <-a.ended:
		return fmt.Errorf("take up %s for %s: %w", order.Type, a.Resource(), adapters.ErrEnded)
	case <-ctx.Done():
		return fmt.Errorf("take up %s for %s: %w", order.Type, a.Resource(), context.Cause(ctx))
	}
}

// send puts a message into the loop's inbox.
func (a *Agent) send(ctx context.Context, m message) error {
	select {
	case a.inbox <- m:
		return nil
	case <-a.ended:
		return adapters.ErrEnded
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// tell puts a fact into the inbox from a goroutine of the agent's own.
func (a *Agent) tell(f guard.Fact) {
	_ = a.send(context.Background(), message{fact: f}) // when the loop is over, nobody needs it
}

// Close lets go of the data directory of an agent that is not run.
func (a *Agent) Close() error {
	a.observer.Close()
	return a.instance.Close()
}

// Run looks after the server until ctx ends, then stops it and reports that. It returns an error only when the agent cannot go on.
func (a *Agent) Run(ctx context.Context) (err error) {
	// What the agent does outlives ctx: the server is stopped, and that is reported, after it has ended.
	own, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer func() {
		close(a.ended)
		cancel()
		a.wg.Wait()
		err = errors.Join(err, a.Close())
	}()
	if err := a.boot(own); err != nil {
		return err
	}
	a.wg.Go(func() { a.looks.run(own) })
	a.wg.Go(func() { a.publish.run(own) })
	reader := &orders{
		stream: a.deps.Stream, codec: a.deps.Codec, clock: a.clock, streamTime: a.stream, logger: a.logger,
		ready: a.publish.start,
		take: func(ctx context.Context, e *event.Event) {
			if err := a.Execute(ctx, e, a.stream.now()); err != nil && ctx.Err() == nil && !errors.Is(err, adapters.ErrEnded) {
				a.logger.ErrorContext(ctx, "an order was not taken up", "error", err)
			}
		},
	}
	a.wg.Go(func() { reader.run(own) })
	a.loop(ctx, own)
	return a.flush(own)
}

// flushTimeout bounds telling the last value: whoever stops an agent does not wait for a broker.
const flushTimeout = 2 * time.Second

func (a *Agent) flush(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, flushTimeout)
	defer cancel()
	a.publish.drain(ctx)
	if err := a.deps.Stream.Flush(ctx); err != nil {
		a.logger.WarnContext(ctx, "the last value was perhaps not written", "error", err)
	}
	return nil
}
