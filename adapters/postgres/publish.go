package postgres

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/regent-infra/regent/internal/avrocodec"
	"github.com/regent-infra/regent/internal/clock"
	"github.com/regent-infra/regent/internal/event"
	"github.com/regent-infra/regent/internal/record"
	"github.com/regent-infra/regent/internal/topics"
	"github.com/regent-infra/regent/schemas"
)

const (
	// maxInFlight is how many observations may wait for their acknowledgement; beyond that only the latest is kept.
	maxInFlight = 4
	// republishAfter is how soon what was not written is tried again.
	republishAfter = 250 * time.Millisecond
	// drainStep is how often it is looked whether the last value is on its way.
	drainStep = 5 * time.Millisecond
)

// publisher writes observations and heartbeats on a goroutine of its own. Observations are full values, so while the broker or the
// registry is slow or away only the latest waits; a heartbeat that cannot be written at once is dropped, because a late one would lie.
type publisher struct {
	stream     Stream
	codec      event.Codec
	clock      clock.Clock
	streamTime *streamClock
	logger     *slog.Logger
	header     schemas.EnvelopeHeader // what all events of this run have in common
	sequence   atomic.Int64           // last one used
	wake       chan struct{}

	mu        sync.Mutex
	partition int32
	open      bool
	latest    *schemas.PostgresNodeObserved // waits to be sent; nil if none
	beat      *schemas.NodeHeartbeat        // waits to be sent; nil if none
	inFlight  int
	beating   bool
	failing   bool
}

func newPublisher(d Dependencies, header schemas.EnvelopeHeader, streamTime *streamClock) *publisher {
	return &publisher{
		stream: d.Stream, codec: d.Codec, clock: d.Clock, streamTime: streamTime, logger: d.Logger, header: header, wake: make(chan struct{}, 1),
	}
}

func (p *publisher) nudge() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// start lets the publisher write; what was given to it before is sent now.
func (p *publisher) start(partition int32) {
	p.mu.Lock()
	p.partition, p.open = partition, true
	p.mu.Unlock()
	p.nudge()
}

// observation hands over a value; one that still waits is superseded. It never blocks.
func (p *publisher) observation(o *schemas.PostgresNodeObserved) {
	p.mu.Lock()
	p.latest = o
	p.mu.Unlock()
	p.nudge()
}

// heartbeat hands over a beat. It never blocks.
func (p *publisher) heartbeat(beat *schemas.NodeHeartbeat) {
	p.mu.Lock()
	p.beat = beat
	p.mu.Unlock()
	p.nudge()
}

// run sends until ctx ends.
func (p *publisher) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-p.wake:
		}
		if !p.send() {
			_ = clock.Wait(ctx, p.clock, republishAfter) // ctx is looked at above
			p.nudge()
		}
	}
}

// take removes what can be sent now.
func (p *publisher) take() (value *schemas.PostgresNodeObserved, beat *schemas.NodeHeartbeat) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.open {
		return nil, nil
	}
	if p.inFlight < maxInFlight && p.latest != nil {
		value, p.latest = p.latest, nil
		p.inFlight++
	}
	if !p.beating && p.beat != nil {
		p.beating = true
		beat = p.beat
	}
	p.beat = nil
	return value, beat
}

// send writes what waits; false means that something could not even be encoded, so it should be tried again later.
func (p *publisher) send() bool {
	value, beat := p.take()
	encoded := true
	if value != nil {
		encoded = p.write(topics.Observations(event.KindPostgres), value, value.LastOrder, func(err error) { p.observationSent(value, err) })
	}
	if beat != nil {
		encoded = p.write(topics.Heartbeats(event.KindPostgres), beat, nil, p.beatSent) && encoded
	}
	return encoded
}

// write wraps a payload in its envelope and produces it. done is called once.
func (p *publisher) write(topic string, payload any, order *schemas.OrderResult, done func(error)) bool {
	header := p.header
	header.ID = event.NewID()
	header.OccurredAt = p.clock.Now().UTC()
	header.Sequence = p.sequence.Add(1)
	header.CorrelationID = header.BootID
	if order != nil {
		header.CausationID = order.OrderID
		if order.WorkflowID != "" {
			header.CorrelationID = order.WorkflowID
		}
	}
	e := event.New(header, payload)
	value, err := p.codec.Encode(topic, e)
	if err != nil {
		done(err)
		return false
	}
	rec := record.Record{
		Topic: topic, Partition: p.partition, Key: []byte(header.Resource), Value: value, Headers: avrocodec.Headers(e, ""),
	}
	p.stream.ProduceAsync(rec, func(sent record.Record, err error) {
		if err == nil {
			p.streamTime.hear(sent.Timestamp)
		}
		done(err)
	})
	return true
}

func (p *publisher) observationSent(value *schemas.PostgresNodeObserved, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.inFlight--
	if err != nil && p.latest == nil {
		p.latest = value
	}
	p.note(err)
	// After a failure the next heartbeat or observation tries again.
	if err == nil && p.latest != nil {
		p.nudge()
	}
}

func (p *publisher) beatSent(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.beating = false
	p.note(err)
}

// note logs the first of a row of failures, and its end.
func (p *publisher) note(err error) {
	if (err != nil) == p.failing {
		return
	}
	p.failing = err != nil
	if err != nil {
		p.logger.Warn("what is observed cannot be written; the server goes on serving", "error", err)
		return
	}
	p.logger.Info("what is observed is written again")
}

// drain waits until the last value was handed to the stream, or ctx ends.
func (p *publisher) drain(ctx context.Context) {
	for {
		p.mu.Lock()
		done := p.latest == nil || !p.open
		p.mu.Unlock()
		if done || clock.Wait(ctx, p.clock, drainStep) != nil {
			return
		}
		p.nudge()
	}
}
