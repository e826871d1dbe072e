package postgres

import (
	"context"
	"time"

	"github.com/regent-infra/regent/adapters/postgres/guard"
	"github.com/regent-infra/regent/adapters/postgres/observe"
	"github.com/regent-infra/regent/schemas"
)

// sequenceBlock is how many envelope sequences one write of the memory reserves; half of it is the margin at which the next is reserved.
const sequenceBlock = 1 << 20

// boot writes what was found into the state; it is the first step, and the only one that may fail the agent.
func (a *Agent) boot(ctx context.Context) error {
	booted, err := a.look(ctx)
	if err != nil {
		return err
	}
	now := a.clock.Now()
	first := max(a.state.SequenceLimit, now.UnixMicro())
	a.publish.sequence.Store(first)
	next, _ := guard.Step(a.state, guard.SequenceReserved{Limit: first + sequenceBlock})
	if err := a.file.Write(next.Durable); err != nil {
		return err
	}
	a.state = next
	a.step(ctx, booted)
	return nil
}

// loop takes messages until the agent leaves.
func (a *Agent) loop(ctx, own context.Context) {
	beats := a.clock.NewTicker(a.config.Profile.Heartbeat)
	defer beats.Stop()
	values := a.clock.NewTicker(a.config.ObserveInterval)
	defer values.Stop()
	a.restart = a.clock.NewTimer(time.Hour)
	a.restart.Stop()
	defer a.restart.Stop()
	a.beat()
	stop := ctx.Done()
	for !a.leaving {
		select {
		case <-stop:
			stop = nil
			a.logger.InfoContext(own, "the agent was told to end")
			a.step(own, guard.ShutdownRequested{At: a.now()})
		case m := <-a.inbox:
			a.take(own, m)
		case <-a.seen:
			a.compare(own)
		case <-beats.C:
			a.beat()
		case <-values.C:
			a.regular(own)
		case <-a.restart.C:
			a.step(own, guard.RestartDue{At: a.now()})
		}
	}
}

func (a *Agent) now() time.Time { return a.clock.Now().UTC() }

func (a *Agent) take(ctx context.Context, m message) {
	switch {
	case m.observe != nil:
		m.observe <- a.compose()
	case m.order != nil:
		a.logger.InfoContext(ctx, "order received", "order", m.order.Type, "id", m.order.ID, "term", m.order.Meta.Term, "workflow", m.order.Meta.WorkflowID)
		a.step(ctx, guard.OrderReceived{Order: *m.order, StreamTime: m.streamTime, At: a.now()})
	case m.start != 0 && m.start != a.starts.Load():
		// The end of a server that was started anew meanwhile.
	default:
		a.seenNow = m.seen
		a.step(ctx, m.fact)
	}
	if m.done != nil {
		close(m.done)
	}
}

// regular publishes the value that is due, and sees to what waits for its time.
func (a *Agent) regular(ctx context.Context) {
	if limit := a.state.SequenceLimit; a.publish.sequence.Load() > limit-sequenceBlock/2 {
		a.step(ctx, guard.SequenceReserved{Limit: limit + sequenceBlock})
	}
	if a.state.Unsaved {
		a.step(ctx, guard.Ticked{At: a.now()})
	}
	a.report()
}

// compare publishes what was seen if it differs in what must be told at once.
func (a *Agent) compare(ctx context.Context) {
	value := a.compose()
	if r := value.Receiver; r != nil && value.Upstream != "" && r.Timeline > 0 && !a.state.KnowsTimeline(r.Timeline) {
		a.step(ctx, guard.TimelineSeen{Term: a.state.Term, Timeline: r.Timeline})
	}
	if what := observe.Urgent(a.published, value); what != "" {
		a.logger.DebugContext(ctx, "told at once", "changed", what)
		a.published = value
		a.publish.observation(value)
	}
}

// report publishes the full current value.
func (a *Agent) report() {
	a.published = a.compose()
	a.publish.observation(a.published)
}

func (a *Agent) beat() {
	beat := &schemas.NodeHeartbeat{
		Node: a.config.Node, IntervalMs: int32(a.config.Profile.Heartbeat.Milliseconds()), //nolint:gosec // at most a minute
		SuspectAfterMs: int32(min(a.config.Profile.SuspectAfter, time.Hour).Milliseconds()), //nolint:gosec // at most an hour
		Postmaster:     a.state.Postmaster, Term: a.state.Term, Role: schemas.NodeRoleUnknown,
	}
	if a.published != nil {
		beat.Role = a.published.Role
	}
	a.publish.heartbeat(beat)
}

// step takes one fact into account and carries out what is owed.
func (a *Agent) step(ctx context.Context, f guard.Fact) {
	next, actions := guard.Step(a.state, f)
	if len(actions) > 0 {
		if p, ok := actions[0].(guard.Persist); ok {
			if err := a.file.Write(p.Durable); err != nil {
				a.logger.ErrorContext(ctx, "the agent's memory cannot be written: nothing new is begun", "error", err)
				next, actions = guard.Step(a.state, guard.PersistFailed{Fact: f, Err: err.Error(), At: a.now()})
			} else {
				actions = actions[1:]
			}
		}
	}
	a.state = next
	a.looks.serve(a.state.Postmaster == schemas.PostmasterStatusRunning)
	if a.seenNow != nil {
		a.looks.put(*a.seenNow)
		a.seenNow = nil
	}
	for _, action := range actions {
		a.carryOut(ctx, action)
	}
}

func (a *Agent) carryOut(ctx context.Context, action guard.Action) {
	switch action := action.(type) {
	case guard.Persist:
		// Only after a failure: what is published then has not been promised.
	case guard.Begin:
		a.begin(ctx, action.Operation)
	case guard.Cancel:
		a.worker.cancel(errCancelled)
	case guard.Proceed:
		a.worker.door <- nil
	case guard.Deny:
		a.worker.door <- deniedError{why: action.Why}
	case guard.Publish:
		a.report()
	case guard.Look:
		a.wg.Go(func() {
			a.looks.all(ctx)
			a.tell(guard.Looked{Order: action.Order, At: a.now()})
		})
	case guard.RestartLater:
		a.logger.WarnContext(ctx, "the standby is started again", "after", action.After.String())
		a.restart.Reset(action.After)
	case guard.Leave:
		a.leaving = true
	}
}
