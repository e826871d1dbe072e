package main

import (
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/regent-infra/regent/internal/demo"
)

func (a *app) demoCommand() *cobra.Command {
	var o demo.Options
	cmd := &cobra.Command{
		Use: "demo", GroupID: groupRun,
		Short: "Run three real PostgreSQL nodes under Regent, and break them",
		Long: `Run the main job on this machine: a control plane, three agents and three PostgreSQL servers with quorum synchronous replication as
processes of their own, and a writer that commits all the time. Then break things, and show what happens: the primary's postgres is killed,
the primary role is handed over, a whole node is lost, the control plane is killed, the state is rebuilt from the topics.

For each it says how long nobody could write, how many acknowledged rows were lost (there must be none), and why Regent did what it did.
Without --script it then stays up to play with. Everything lies in one temporary directory and is removed at the end.`,
		Example: `  regent demo                               # a live view; q ends it
  regent demo --script                      # unattended; exit code 0 if every check held
  regent demo --script --rounds 10 --report demo.json
  regent demo --script --soak 30m           # a failover a minute; memory and goroutines must stay flat`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.load(cmd)
			if err != nil {
				return err
			}
			executable, err := os.Executable()
			if err != nil {
				return fmt.Errorf("find the regent binary: %w", err)
			}
			o.Executable, o.Out, o.LogLevel = executable, a.env.Stdout, c.Log.Level
			if out, ok := a.env.Stdout.(*os.File); ok {
				o.Terminal = term.IsTerminal(int(out.Fd()))
			}
			if err := o.Validate(); err != nil {
				return usagef("%w", err)
			}
			return demo.Run(cmd.Context(), o)
		},
	}
	f := cmd.Flags()
	f.BoolVar(&o.Script, "script", false, "run unattended: no live view, ends by itself, the exit code says whether every check held")
	f.IntVar(&o.Rounds, "rounds", 0, "how often each fault is repeated (default 5 with --script, else 1)")
	f.DurationVar(&o.Soak, "soak", 0, "instead of the tour: a crash of the primary's postgres every --soak-every, for this long, with memory and goroutines watched")
	f.DurationVar(&o.SoakEvery, "soak-every", time.Minute, "time from one crash to the next in a soak")
	f.IntVar(&o.Nodes, "nodes", 3, "PostgreSQL nodes, 3 to 9")
	f.StringVar(&o.Dir, "dir", "", "directory for everything (default: a temporary one, removed at the end)")
	f.BoolVar(&o.Keep, "keep", false, "keep the temporary directory")
	f.StringVar(&o.Report, "report", "", "file to write the results to, JSON")
	return cmd
}
