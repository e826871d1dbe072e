package main

import (
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/regent-infra/regent/internal/clock"
	"github.com/regent-infra/regent/internal/config"
	"github.com/regent-infra/regent/internal/secret"
	"github.com/regent-infra/regent/internal/telemetry"
)

// Groups of subcommands in the help.
const (
	groupRun     = "run"
	groupLook    = "look"
	groupAct     = "act"
	groupExplain = "explain"
	groupTools   = "tools"
)

// app is one run of the program.
type app struct {
	env   environment
	clock clock.Clock

	configFile string
	noColor    bool
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "regent",
		Short: "An event-sourced control plane for infrastructure",
		Long: `Regent watches PostgreSQL clusters, keeps one consolidated state of them in Kafka topics, and acts on it: it initialises
clusters, fails over when a primary dies, switches over when asked, and can explain each decision with the evidence it rests on.

  real systems --observe--> observations --reducer--> state --orchestrator--> orders --execute--> real systems`,
		Example: `  regent up                                  # broker, registry, reducer, orchestrator and API in one process
  regent agent --config pg-1.yaml            # look after one PostgreSQL node
  regent status                              # what is unhealthy, why, and what is being done
  regent switchover postgres/orders          # hand the primary role to the best standby
  regent explain postgres/orders             # the last decision and its evidence`,
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return unknownCommand(cmd, args[0])
			}
			return cmd.Help()
		},
		CompletionOptions: cobra.CompletionOptions{DisableDefaultCmd: true},
	}
	root.SetIn(a.env.Stdin)
	root.SetOut(a.env.Stdout)
	root.SetErr(a.env.Stderr)
	root.AddGroup(
		&cobra.Group{ID: groupRun, Title: "Run:"},
		&cobra.Group{ID: groupLook, Title: "Look:"},
		&cobra.Group{ID: groupExplain, Title: "Understand:"},
		&cobra.Group{ID: groupAct, Title: "Act (each prints the command id first; --dry-run, --reason, --wait):"},
		&cobra.Group{ID: groupTools, Title: "Tools:"},
	)
	flags := root.PersistentFlags()
	flags.StringVar(&a.configFile, "config", "", "configuration file, YAML (default: REGENT_CONFIG, else ~/.config/regent/config.yaml if there is one)")
	flags.BoolVar(&a.noColor, "no-color", false, "no colours (also: NO_COLOR, or no terminal)")
	config.BindFlag(flags, "context", "context")
	config.BindFlag(flags, "log-level", "log.level")
	config.BindFlag(flags, "log-format", "log.format")
	config.BindFlag(flags, "log-file", "log.file")
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usagef("%w; see: %s --help", err, cmd.CommandPath())
	})

	root.AddCommand(a.commands()...)
	root.AddCommand(&cobra.Command{Use: "exit-codes", Short: "What the exit codes mean", Long: exitCodesHelp})
	a.strict(root)
	return root
}

// strict makes every faulty use of a command end in exit code 2 with a hint.
func (a *app) strict(cmd *cobra.Command) {
	check := cmd.Args
	if check == nil {
		check = cobra.ArbitraryArgs
		if cmd.Runnable() && !cmd.HasSubCommands() {
			check = cobra.NoArgs
		}
	}
	cmd.Args = func(c *cobra.Command, args []string) error {
		if err := check(c, args); err != nil {
			return usagef("%s: %w; see: %s --help", c.CommandPath(), err, c.CommandPath())
		}
		return nil
	}
	for _, sub := range cmd.Commands() {
		a.strict(sub)
	}
}

// parent makes a command that only holds others.
func parent(cmd *cobra.Command, children ...*cobra.Command) *cobra.Command {
	cmd.Args = cobra.ArbitraryArgs
	cmd.RunE = func(c *cobra.Command, args []string) error {
		if len(args) > 0 {
			return unknownCommand(c, args[0])
		}
		return c.Help()
	}
	cmd.AddCommand(children...)
	return cmd
}

func unknownCommand(cmd *cobra.Command, name string) error {
	hint := ""
	cmd.SuggestionsMinimumDistance = 2
	if near := cmd.SuggestionsFor(name); len(near) > 0 {
		hint = "; did you mean " + strings.Join(near, " or ") + "?"
	}
	return usagef("unknown command %q for %q%s (%s --help lists all)", name, cmd.CommandPath(), hint, cmd.CommandPath())
}

// load reads the configuration with the command's flags on top.
func (a *app) load(cmd *cobra.Command) (*config.Loaded, error) {
	all := pflag.NewFlagSet("", pflag.ContinueOnError)
	all.AddFlagSet(cmd.Flags())
	c, err := config.Load(config.Options{File: a.configFile, Environ: a.env.Environ, Flags: all, Home: a.env.ConfigHome})
	return c, withCode(exitUsage, err)
}

// logger makes the logger of a process that runs for long.
func (a *app) logger(c *config.Loaded) (*slog.Logger, io.Closer, error) {
	return telemetry.NewLogger(telemetry.Options{
		Level: c.Log.Level, Format: c.Log.Format, File: c.Log.File, Output: a.env.Stderr, Secrets: []secret.Value{c.RegistryAuth.Password},
	})
}

// lookupEnv returns a variable of the environment that the program was given.
func (a *app) lookupEnv(name string) (string, bool) {
	i := slices.IndexFunc(a.env.Environ, func(pair string) bool { return strings.HasPrefix(pair, name+"=") })
	if i < 0 {
		return "", false
	}
	return a.env.Environ[i][len(name)+1:], true
}

func (a *app) printf(format string, args ...any) { fmt.Fprintf(a.env.Stdout, format, args...) }
