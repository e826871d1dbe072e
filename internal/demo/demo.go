// Package demo is the main job on real input, as a show and as a measurement.
//
// It starts the control plane (`regent up`), three agents as processes of their own, and three real PostgreSQL servers with
// quorum synchronous replication; a writer commits all the time and remembers every commit that a server acknowledged. Then it breaks
// things: it kills the primary's postgres, switches over, loses a whole node, kills the control plane, and rebuilds the state from the
// topics. For each it says how long nobody could write, how many acknowledged rows were lost, and why Regent did what it did.
//
// It uses nothing but what a user has: the regent command, its HTTP API and a PostgreSQL client. Time to writable is measured by the
// writer, from the moment of the fault to the acknowledgement of the first commit that began after it.
package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/regent-infra/regent/internal/clock"
)

// Options say how the demo runs.
type Options struct {
	// Script runs unattended: line by line, no live view, and it ends by itself.
	Script bool
	// Rounds is how often each fault is repeated; 0 takes 5 with Script, so that a median means something, and 1 without.
	Rounds int
	// Soak, if positive, replaces the acts: a crash of the primary's postgres every SoakEvery, for this long, with memory and
	// goroutines sampled.
	Soak time.Duration
	// SoakEvery is the time from one crash to the next in a soak; at least 10 s.
	SoakEvery time.Duration
	// Nodes is the number of PostgreSQL nodes, 3 to 9.
	Nodes int
	// Dir is where everything is kept; empty: a temporary directory, removed at the end.
	Dir string
	// Keep leaves the directory in place.
	Keep bool
	// Report, if not empty, is the file that the results are written to as JSON.
	Report string
	// Executable is the regent binary.
	Executable string
	// LogLevel is passed to every process.
	LogLevel string
	// Terminal says whether Out is a terminal that can show the live view.
	Terminal bool
	// Out receives the story and the results.
	Out io.Writer
	// Clock is the clock; nil: the system's.
	Clock clock.Clock
}

// Validate reports every fault together.
func (o *Options) Validate() error {
	var errs []error
	if o.Rounds < 0 {
		errs = append(errs, fmt.Errorf("rounds is %d: expected at least 1", o.Rounds))
	}
	if o.Nodes < 3 || o.Nodes > 9 {
		errs = append(errs, fmt.Errorf("nodes is %d: expected 3 to 9, since a quorum needs two standbys", o.Nodes))
	}
	if o.Soak < 0 || o.Soak > 0 && o.SoakEvery < 10*time.Second {
		errs = append(errs, fmt.Errorf("soak is %s with a failover every %s: expected a positive length and at least 10s in between", o.Soak, o.SoakEvery))
	}
	if o.Executable == "" || o.Out == nil {
		errs = append(errs, errors.New("executable and output must be given"))
	}
	return errors.Join(errs...)
}

// ErrBroken says that the demo ran to its end and a promise was not kept.
var ErrBroken = errors.New("a promise was not kept")

// scriptRounds is how often an unattended run repeats each fault.
const scriptRounds = 5

// superuser is the database role of the agents, which the writer uses as well.
const superuser = "postgres"

// cleanUpTimeout bounds the orderly end of all processes.
const cleanUpTimeout = 30 * time.Second

// Run performs the demo. It returns [ErrBroken] when a limit was missed or a row lost.
func Run(ctx context.Context, o Options) (err error) {
	if err := o.Validate(); err != nil {
		return fmt.Errorf("start the demo: %w", err)
	}
	if o.Clock == nil {
		o.Clock = clock.System{}
	}
	if o.Rounds == 0 {
		o.Rounds = 1
		if o.Script {
			o.Rounds = scriptRounds
		}
	}
	dir, remove, err := o.directory()
	if err != nil {
		return err
	}
	s, err := newStack(dir, o.Executable, o.Nodes, o.LogLevel)
	if err != nil {
		return fmt.Errorf("start the demo: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer func() {
		ending, done := context.WithTimeout(context.WithoutCancel(ctx), cleanUpTimeout)
		defer done()
		if stopErr := s.stopAll(ending); stopErr != nil {
			err = errors.Join(err, fmt.Errorf("end the demo: %w", stopErr))
		}
		if err != nil && !errors.Is(err, context.Canceled) {
			fmt.Fprintf(o.Out, "logs and data are in %s\n", dir)
			return
		}
		remove()
	}()

	p := &play{stack: s, clock: o.Clock}
	if o.Script || !o.Terminal {
		p.audience = &plain{out: o.Out, start: o.Clock.Now(), now: o.Clock.Now}
		return o.show(ctx, p)
	}
	view := newLive(cancel)
	p.audience = view
	finished := make(chan error, 1)
	go func() {
		err := o.show(ctx, p)
		if err != nil {
			view.program.Quit()
		}
		finished <- err
	}()
	if _, err := view.program.Run(); err != nil {
		cancel()
		return errors.Join(fmt.Errorf("show the live view: %w", err), <-finished)
	}
	cancel()
	err = <-finished
	printSummary(o.Out, p.results)
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// directory returns the demo's directory, and what removes it.
func (o *Options) directory() (string, func(), error) {
	if o.Dir != "" {
		if err := os.MkdirAll(o.Dir, 0o755); err != nil {
			return "", nil, fmt.Errorf("make the demo's directory: %w", err)
		}
		dir, err := filepath.Abs(o.Dir)
		return dir, func() {}, err
	}
	dir, err := os.MkdirTemp("", "regent-demo-")
	if err != nil {
		return "", nil, fmt.Errorf("make the demo's directory: %w", err)
	}
	// The servers run as another user, who must be able to pass through.
	if err := os.Chmod(dir, 0o755); err != nil {
		return "", nil, fmt.Errorf("make the demo's directory: %w", err)
	}
	return dir, func() {
		if o.Keep {
			fmt.Fprintf(o.Out, "logs and data are in %s\n", dir)
			return
		}
		if err := os.RemoveAll(dir); err != nil {
			slog.New(slog.NewTextHandler(o.Out, nil)).Warn("the demo's directory could not be removed", "directory", dir, "error", err)
		}
	}, nil
}

// show starts everything, performs, and sums up.
func (o *Options) show(ctx context.Context, p *play) error {
	p.audience.phase(fmt.Sprintf("starting the control plane and %d agents in %s", o.Nodes, p.stack.dir))
	if err := p.stack.startAll(ctx); err != nil {
		return err
	}
	p.audience.phase("initialising the cluster: bootstrap a primary, clone the standbys, establish the synchronous set")
	if err := p.stack.initialize(ctx); err != nil {
		return err
	}
	p.writer = newWriter(multiHostDSN(p.stack.nodes, superuser, p.stack.password, "postgres"), o.Clock)
	if err := p.writer.prepare(ctx); err != nil {
		return err
	}
	background, stop := context.WithCancel(ctx)
	done := make(chan struct{}, 3)
	for _, job := range []func(context.Context){p.writer.run, p.watchTopology, p.watchEvents} {
		go func() {
			job(background)
			done <- struct{}{}
		}()
	}
	defer func() {
		stop()
		for range cap(done) {
			<-done
		}
	}()
	if err := o.perform(ctx, p); err != nil {
		return err
	}
	return o.conclude(ctx, p)
}

func (o *Options) perform(ctx context.Context, p *play) error {
	if o.Soak > 0 {
		return p.soak(ctx, o.Soak, o.SoakEvery)
	}
	return p.perform(ctx, o.Rounds)
}

// conclude prints the results; unless unattended, it then stays until the user leaves.
func (o *Options) conclude(ctx context.Context, p *play) error {
	if o.Report != "" {
		f, err := os.Create(o.Report)
		if err != nil {
			return fmt.Errorf("write the report: %w", err)
		}
		if err := errors.Join(writeReport(f, p.results), f.Close()); err != nil {
			return fmt.Errorf("write the report: %w", err)
		}
	}
	if !o.Script {
		p.audience.phase("everything is up: it is yours")
		for _, line := range p.stack.invitation() {
			p.audience.say("%s", line)
		}
		<-ctx.Done()
		return context.Cause(ctx)
	}
	if !printSummary(o.Out, p.results) {
		return ErrBroken
	}
	fmt.Fprintf(o.Out, "\nevery promise was kept; %d commits were acknowledged, none was lost\n", p.writer.count())
	return nil
}
