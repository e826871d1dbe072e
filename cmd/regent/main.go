// Command regent is the one binary of Regent: control plane, agent and tools.
//
// It wires; what it wires lies in the packages below. Each subcommand has a file of its own (cmd_*.go), the assembly of the roles is in
// assemble_*.go. `regent --help` is the manual, docs/cli.md its printed form.
package main

import (
	"context"
	"fmt"
	"io"
	"os"

	"github.com/regent-infra/regent/internal/clock"
	"github.com/regent-infra/regent/internal/gcpace"
	"github.com/regent-infra/regent/internal/lifecycle"
)

// version is set by the linker: -X main.version=….
var version string

func main() {
	gcpace.Start(clock.System{}.Now)
	ctx, stop := lifecycle.Signals(context.Background(), func(s os.Signal) {
		fmt.Fprintf(os.Stderr, "regent: second %s: ending at once\n", s)
		os.Exit(exitFailed)
	})
	code := run(ctx, os.Args[1:], environment{
		Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, Environ: os.Environ(), ConfigHome: configHome(),
	})
	stop()
	os.Exit(code)
}

// environment is everything that a run of the program sees of its surroundings.
type environment struct {
	Stdin   io.Reader
	Stdout  io.Writer
	Stderr  io.Writer
	Environ []string
	// ConfigHome is the user's configuration directory; empty if there is none.
	ConfigHome string
	// Clock tells the time; nil means the machine's.
	Clock clock.Clock
	// Reached, where set, hears of the points of long work that tests kill the process at.
	Reached func(point string)
}

func configHome() string {
	dir, err := os.UserConfigDir()
	if err != nil {
		return "" // a daemon without a home has no file of its own; --config names one
	}
	return dir
}

// run executes one command line and returns its exit code.
func run(ctx context.Context, args []string, env environment) int {
	a := &app{env: env, clock: env.Clock}
	if a.clock == nil {
		a.clock = clock.System{}
	}
	if a.env.Reached == nil {
		a.env.Reached = func(string) {}
	}
	root := a.root()
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitDone
	}
	code := exitCode(err)
	if message := errorMessage(err); message != "" {
		fmt.Fprintln(env.Stderr, "regent: "+message)
	}
	return code
}
