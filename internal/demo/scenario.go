package demo

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"github.com/regent-infra/regent/internal/clock"
)

// What each act must stay under, as the median of its rounds.
const (
	crashLimit      = time.Second
	nodeLossLimit   = 5 * time.Second
	switchoverLimit = 500 * time.Millisecond
)

// settleTimeout bounds how long the cluster may take to be whole again after an act.
const settleTimeout = 90 * time.Second

// actTimeout bounds the fault itself, until the writer commits again.
const actTimeout = 60 * time.Second

// undisturbedWrites is how long the writer goes on while the control plane is dead.
const undisturbedWrites = 2 * time.Second

// play is one run of the demo.
type play struct {
	stack    *stack
	writer   *writer
	audience audience
	clock    clock.Clock
	results  []result
}

// act is one thing that the demo does to the cluster.
type act struct {
	title string
	run   func(p *play, ctx context.Context, round int) (result, error)
}

// faults are repeated in every round, in this order.
var faults = []act{
	{"the primary's postgres is killed with SIGKILL", (*play).postgresCrash},
	{"a planned switchover", (*play).switchover},
	{"the primary's whole node is lost: agent and postgres killed together", (*play).nodeLoss},
}

// finale is done once.
var finale = []act{
	{"the control plane is killed with SIGKILL, and recovers", (*play).controlPlaneLoss},
	{"the control plane is stopped, its state is rebuilt from the topics, and compared", (*play).rebuild},
}

// perform runs all rounds of the faults, then the finale.
func (p *play) perform(ctx context.Context, rounds int) error {
	for round := 1; round <= rounds; round++ {
		for _, a := range faults {
			if err := p.do(ctx, a, round); err != nil {
				return err
			}
		}
	}
	for _, a := range finale {
		if err := p.do(ctx, a, 1); err != nil {
			return err
		}
	}
	return nil
}

func (p *play) do(ctx context.Context, a act, round int) error {
	if err := p.settle(ctx); err != nil {
		return fmt.Errorf("before %s, round %d: %w", a.title, round, err)
	}
	p.audience.phase(fmt.Sprintf("%s (round %d)", a.title, round))
	r, err := a.run(p, ctx, round)
	if err != nil {
		return fmt.Errorf("%s, round %d: %w", a.title, round, err)
	}
	lost, err := p.writer.lost(ctx)
	if err != nil {
		return fmt.Errorf("%s, round %d: %w", a.title, round, err)
	}
	r.Round, r.Lost = round, len(lost)
	p.results = append(p.results, r)
	p.audience.outcome(r)
	return nil
}

// settle waits until the cluster is healthy with every node in its place.
func (p *play) settle(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, settleTimeout)
	defer cancel()
	_, err := p.stack.waitCluster(ctx, p.clock, "every node healthy and in its place", func(c clusterView) bool {
		return c.whole(len(p.stack.nodes))
	})
	return err
}

// primary returns the node that is primary now.
func (p *play) primary(ctx context.Context) (node, error) {
	c, err := p.stack.cluster(ctx)
	if err != nil {
		return node{}, err
	}
	return p.stack.byName(c.Primary)
}

func (p *play) postgresCrash(ctx context.Context, _ int) (result, error) {
	return p.failover(ctx, "postgres crash", crashLimit, node.killPostgres, func(node) error { return nil })
}

func (p *play) nodeLoss(ctx context.Context, _ int) (result, error) {
	return p.failover(ctx, "node loss", nodeLossLimit, node.killNode, func(n node) error {
		p.audience.say("%s comes back: its agent is started again", n.name)
		return n.agent.Start(p.stack.spawner)
	})
}

// failover breaks the primary, waits for a commit elsewhere, repairs, and tells why it happened.
func (p *play) failover(ctx context.Context, name string, limit time.Duration, breakIt, repair func(node) error) (result, error) {
	old, err := p.primary(ctx)
	if err != nil {
		return result{}, err
	}
	p.audience.say("the primary is %s; it is broken now", old.name)
	act, cancel := context.WithTimeout(ctx, actTimeout)
	defer cancel()
	at := p.clock.Now()
	if err := breakIt(old); err != nil {
		return result{}, err
	}
	took, err := p.writer.waitWritable(act, at, old.port)
	if err != nil {
		return result{}, err
	}
	p.audience.say("writable again after %s", ms(took))
	if err := repair(old); err != nil {
		return result{}, err
	}
	c, err := p.stack.waitCluster(act, p.clock, "another primary", func(c clusterView) bool { return c.Primary != "" && c.Primary != old.name })
	if err != nil {
		return result{}, err
	}
	if err := p.tell(act, "FAILOVER"); err != nil {
		return result{}, err
	}
	return result{Act: name, Measure: "time to writable", Took: took, Limit: limit, Detail: old.name + " → " + c.Primary}, nil
}

func (p *play) switchover(ctx context.Context, _ int) (result, error) {
	old, err := p.primary(ctx)
	if err != nil {
		return result{}, err
	}
	act, cancel := context.WithTimeout(ctx, actTimeout)
	defer cancel()
	at := p.clock.Now()
	if err := p.stack.switchover(act); err != nil {
		return result{}, err
	}
	c, err := p.stack.cluster(act)
	if err != nil {
		return result{}, err
	}
	if c.Primary == old.name {
		return result{}, fmt.Errorf("the primary is still %s after the switchover", old.name)
	}
	if _, err := p.writer.waitWritable(act, p.clock.Now(), anyServer); err != nil {
		return result{}, err
	}
	if err := p.tell(act, "SWITCHOVER"); err != nil {
		return result{}, err
	}
	return result{Act: "switchover", Measure: "gap", Took: p.writer.longestGap(at), Limit: switchoverLimit, Detail: old.name + " → " + c.Primary}, nil
}

// controlPlaneLoss kills the control plane and lets the writer go on without it for a while: the servers must not care.
func (p *play) controlPlaneLoss(ctx context.Context, _ int) (result, error) {
	act, cancel := context.WithTimeout(ctx, actTimeout)
	defer cancel()
	before, err := p.stack.digests(act)
	if err != nil {
		return result{}, err
	}
	at := p.clock.Now()
	if err := p.stack.control.Signal(syscall.SIGKILL); err != nil {
		return result{}, err
	}
	if err := p.stack.control.Wait(act); err != nil {
		return result{}, err
	}
	if err := clock.Wait(act, p.clock, undisturbedWrites); err != nil {
		return result{}, err
	}
	if _, err := p.writer.waitWritable(act, p.clock.Now(), anyServer); err != nil {
		return result{}, fmt.Errorf("writes stopped while the control plane was dead: %w", err)
	}
	restarted := p.clock.Now()
	if err := p.stack.control.Start(p.stack.spawner); err != nil {
		return result{}, err
	}
	if err := p.stack.waitControlPlane(act); err != nil {
		return result{}, err
	}
	took := p.clock.Now().Sub(restarted)
	if err := p.settle(ctx); err != nil {
		return result{}, err
	}
	after, err := p.stack.digests(act)
	if err != nil {
		return result{}, err
	}
	gap := p.writer.longestGap(at)
	p.audience.say("recovered in %s with %d keys (%d before); the longest pause between two commits meanwhile was %s", ms(took), after.Keys, before.Keys, ms(gap))
	if after.Keys < before.Keys {
		return result{}, fmt.Errorf("the state has %d keys after recovery, %d before", after.Keys, before.Keys)
	}
	return result{Act: "control plane killed", Measure: "back in service", Took: took, Detail: "longest pause of the writer " + ms(gap)}, nil
}

// rebuild stops the control plane, makes its state anew from the topics, and compares what runs then with them.
func (p *play) rebuild(ctx context.Context, _ int) (result, error) {
	act, cancel := context.WithTimeout(ctx, actTimeout)
	defer cancel()
	if err := p.stack.control.Signal(syscall.SIGTERM); err != nil {
		return result{}, err
	}
	if err := p.stack.control.Wait(act); err != nil {
		return result{}, err
	}
	at := p.clock.Now()
	told, err := p.stack.rebuild(act)
	if err != nil {
		return result{}, err
	}
	took := p.clock.Now().Sub(at)
	for _, line := range told {
		p.audience.say("%s", line)
	}
	if err := p.stack.control.Start(p.stack.spawner); err != nil {
		return result{}, err
	}
	if err := p.stack.waitControlPlane(act); err != nil {
		return result{}, err
	}
	if err := p.settle(ctx); err != nil {
		return result{}, err
	}
	detail, err := p.stack.verify(act)
	if err != nil {
		return result{}, err
	}
	return result{Act: "rebuild", Measure: "rebuilt in", Took: took, Detail: detail}, nil
}

// tell prints the explanation of the last workflow of a kind.
func (p *play) tell(ctx context.Context, kind string) error {
	lines, err := p.stack.explain(ctx, kind)
	if err != nil {
		return err
	}
	if len(lines) == 0 {
		return errors.New("explain: it says nothing")
	}
	for _, l := range lines {
		p.audience.say("%s", l)
	}
	return nil
}
