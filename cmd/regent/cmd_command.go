package main

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/regent-infra/regent/internal/config"
	"github.com/regent-infra/regent/internal/event"
	"github.com/regent-infra/regent/schemas"
)

func (a *app) commandCommand() *cobra.Command {
	var s sending
	var file, payload, id string
	cmd := &cobra.Command{
		Use: "command [TYPE CLUSTER]", GroupID: groupAct,
		Short: "Send a command and wait for its outcome",
		Long: `Send a command to the commands topic, as any program may, and wait for its outcome. The command's id is printed first.

The command is either named with its cluster, with --payload for its fields, or read from a file (- is standard input):

  type: SwitchoverCluster
  cluster: postgres/orders
  payload:
    candidate: pg-2

Types: ` + strings.Join(commandTypes(), ", "),
		Example: `  regent command SwitchoverCluster postgres/orders --payload '{"candidate": "pg-2"}' --reason "kernel update"
  regent command -f switchover.yaml --dry-run
  jq -n '{type:"CheckHealth",cluster:"postgres/orders"}' | regent command -f - -o json`,
		Args:              cobra.MaximumNArgs(2),
		ValidArgsFunction: a.completeCommand,
		RunE: func(cmd *cobra.Command, args []string) error {
			parsed, err := a.readCommand(file, payload, args)
			if err != nil {
				return err
			}
			if id != "" {
				if !event.ValidID(id) {
					return usagef("--id %s: expected a UUID in canonical form", id)
				}
				parsed.ID = id
			}
			return a.send(cmd, &s, parsed.Cluster, parsed.ID, parsed.Payload)
		},
	}
	f := cmd.Flags()
	f.StringVarP(&file, "file", "f", "", "read the command from this file, YAML or JSON; - is standard input")
	f.StringVar(&payload, "payload", "", "fields of the command, YAML or JSON")
	f.StringVar(&id, "id", "", "id of the command; the same id again is the same command and is executed once")
	a.addSending(cmd, &s)
	return cmd
}

func (a *app) completeCommand(cmd *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
	if len(args) == 0 {
		return commandTypes(), cobra.ShellCompDirectiveNoFileComp
	}
	return a.completeClusters(cmd, args[1:], prefix)
}

func (a *app) readCommand(file, payload string, args []string) (commandFile, error) {
	switch {
	case file != "" && (len(args) > 0 || payload != ""):
		return commandFile{}, usagef("regent command: a file holds the whole command, expected no TYPE, CLUSTER or --payload with it")
	case file == "" && len(args) != 2:
		return commandFile{}, usagef("regent command: expected TYPE and CLUSTER, or -f FILE; types are %s", strings.Join(commandTypes(), ", "))
	case file == "":
		text := fmt.Sprintf("{type: %q, cluster: %q, payload: %s}", args[0], args[1], orBraces(payload))
		return parseCommand("the command line", []byte(text))
	}
	var raw []byte
	var err error
	if file == "-" {
		file = "standard input"
		raw, err = io.ReadAll(io.LimitReader(a.env.Stdin, 1<<20+1))
	} else {
		raw, err = os.ReadFile(file)
	}
	if err != nil {
		return commandFile{}, usagef("read the command: %w", err)
	}
	return parseCommand(file, raw)
}

func orBraces(payload string) string {
	if strings.TrimSpace(payload) == "" {
		return "{}"
	}
	return payload
}

// verb makes a command that sends one payload to the cluster that is its first argument.
func (a *app) verb(cmd *cobra.Command, flags func(*cobra.Command), build func(cluster event.ClusterID, args []string) (any, error)) *cobra.Command {
	var s sending
	cmd.GroupID = groupAct
	cmd.ValidArgsFunction = a.completeClusters
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		cluster, err := event.ParseClusterID(args[0])
		if err != nil {
			return withCode(exitUsage, err)
		}
		payload, err := build(cluster, args[1:])
		if err != nil {
			return err
		}
		return a.send(cmd, &s, string(cluster), "", payload)
	}
	if flags != nil {
		flags(cmd)
	}
	a.addSending(cmd, &s)
	return cmd
}

func (a *app) verbs() []*cobra.Command {
	return []*cobra.Command{
		a.initCommand(), a.switchoverCommand(), a.failoverCommand(), a.restartCommand(), a.reinitCommand(), a.shutdownCommand(),
		a.verb(&cobra.Command{
			Use: "start CLUSTER", Short: "Start a cluster that was shut down", Args: cobra.ExactArgs(1),
			Example: "  regent start postgres/orders",
		}, nil, func(event.ClusterID, []string) (any, error) { return &schemas.StartCluster{}, nil }),
		a.checkCommand(),
	}
}

func (a *app) initCommand() *cobra.Command {
	var members []string
	var mode, failover, crash string
	var count int32
	var lag string
	var cooldown time.Duration
	return a.verb(&cobra.Command{
		Use: "init CLUSTER --member NODE=HOST:PORT...", Short: "Create a cluster: bootstrap a primary, clone the standbys",
		Long: `Create a cluster out of nodes whose agents run: bootstrap the first member as primary, clone the others from it, and establish the synchronous
set. The policy says how Regent may act on the cluster.`,
		Example: `  regent init postgres/orders --member pg-1=10.0.0.1:5432 --member pg-2=10.0.0.2:5432 --member pg-3=10.0.0.3:5432
  regent init postgres/orders --member pg-1=a:5432,priority=200 --member pg-2=b:5432,priority=0 --synchronous-mode async`,
		Args: cobra.ExactArgs(1),
	}, func(cmd *cobra.Command) {
		f := cmd.Flags()
		f.StringArrayVar(&members, "member", nil, "a node: NAME=HOST:PORT[,priority=N]; priority 0 is never promoted, default 100; the first is the first primary")
		f.StringVar(&mode, "synchronous-mode", "quorum", "whether commits wait for standbys: quorum or async")
		f.Int32Var(&count, "synchronous-count", 1, "how many standbys a commit waits for")
		f.StringVar(&failover, "failover", "automatic", "whether Regent fails over by itself: automatic or manual")
		f.StringVar(&crash, "on-crash", "failover", "when the primary's postgres crashes: failover, or restart in place")
		f.StringVar(&lag, "max-failover-lag", "16MiB", "with async: a standby that is further behind is no candidate")
		f.DurationVar(&cooldown, "failover-cooldown", 0, "after a failover the next automatic one is held back for so long, unless nothing else can serve")
	}, func(event.ClusterID, []string) (any, error) {
		maxLag, err := config.ParseSize(lag)
		if err != nil {
			return nil, usagef("--max-failover-lag: %w", err)
		}
		if cooldown < 0 {
			return nil, usagef("--failover-cooldown %s: expected 0 or more", cooldown)
		}
		p := &schemas.InitializeCluster{Policy: schemas.ClusterPolicy{
			Version: 1, SynchronousMode: schemas.SynchronousMode(strings.ToUpper(mode)), SynchronousCount: count,
			FailoverMode: schemas.FailoverMode(strings.ToUpper(failover)), CrashAction: schemas.CrashAction(strings.ToUpper(crash)),
			MaxFailoverLagBytes: int64(maxLag), FailoverCooldownMs: cooldown.Milliseconds(),
		}}
		for _, check := range []struct{ flag, value, allowed string }{
			{"synchronous-mode", mode, "quorum async"}, {"failover", failover, "automatic manual"}, {"on-crash", crash, "failover restart"},
		} {
			if !slices.Contains(strings.Fields(check.allowed), strings.ToLower(check.value)) {
				return nil, usagef("--%s %s: expected %s", check.flag, check.value, strings.Join(strings.Fields(check.allowed), " or "))
			}
		}
		if len(members) == 0 {
			return nil, usagef("regent init: expected at least one --member NAME=HOST:PORT")
		}
		for _, text := range members {
			m, err := parseMember(text)
			if err != nil {
				return nil, err
			}
			p.Members = append(p.Members, m)
		}
		return p, nil
	})
}

// parseMember reads NAME=HOST:PORT[,priority=N].
func parseMember(text string) (schemas.ClusterMember, error) {
	bad := func() (schemas.ClusterMember, error) {
		return schemas.ClusterMember{}, usagef("--member %s: expected NAME=HOST:PORT[,priority=N], such as pg-1=10.0.0.1:5432", text)
	}
	address, priority, hasPriority := strings.Cut(text, ",priority=")
	m := schemas.ClusterMember{FailoverPriority: 100}
	if hasPriority {
		n, err := strconv.ParseInt(priority, 10, 32)
		if err != nil || n < 0 {
			return bad()
		}
		m.FailoverPriority = int32(n)
	}
	name, hostPort, ok := strings.Cut(address, "=")
	colon := strings.LastIndexByte(hostPort, ':')
	if !ok || colon < 1 || !event.ValidName(name) {
		return bad()
	}
	port, err := strconv.ParseInt(hostPort[colon+1:], 10, 32)
	if err != nil || port < 1 || port > 65535 {
		return bad()
	}
	m.Node, m.Host, m.Port = name, strings.Trim(hostPort[:colon], "[]"), int32(port)
	return m, nil
}

func nodeFlag(name string) *string {
	if name == "" {
		return nil
	}
	return &name
}

func (a *app) switchoverCommand() *cobra.Command {
	var to string
	return a.verb(&cobra.Command{
		Use: "switchover CLUSTER", Short: "Hand the primary role to a standby, planned, without loss",
		Example: `  regent switchover postgres/orders
  regent switchover postgres/orders --to pg-2 --reason "kernel update of pg-1"
  regent switchover postgres/orders --dry-run`,
		Args: cobra.ExactArgs(1),
	}, func(cmd *cobra.Command) {
		cmd.Flags().StringVar(&to, "to", "", "node to promote; empty: the best standby")
	}, func(event.ClusterID, []string) (any, error) {
		return &schemas.SwitchoverCluster{Candidate: nodeFlag(to)}, nil
	})
}

func (a *app) failoverCommand() *cobra.Command {
	var to string
	return a.verb(&cobra.Command{
		Use: "failover CLUSTER", Short: "Fail over now, although Regent would not do so by itself",
		Example: `  regent failover postgres/orders --reason "pg-1 answers, but its disk is dying"
  regent failover postgres/orders --to pg-3`,
		Args: cobra.ExactArgs(1),
	}, func(cmd *cobra.Command) {
		cmd.Flags().StringVar(&to, "to", "", "node to promote; empty: the most advanced")
	}, func(event.ClusterID, []string) (any, error) {
		return &schemas.FailoverCluster{Candidate: nodeFlag(to)}, nil
	})
}

// parseMode reads how a server is shut down.
func parseMode(mode string) (schemas.StopMode, error) {
	switch m := schemas.StopMode(strings.ToUpper(mode)); m {
	case schemas.StopModeSmart, schemas.StopModeFast, schemas.StopModeImmediate:
		return m, nil
	default:
		return "", usagef("--mode %s: expected smart, fast or immediate", mode)
	}
}

func addMode(cmd *cobra.Command, mode *string) {
	cmd.Flags().StringVar(mode, "mode", "fast", "how postgres is shut down: smart (waits for clients), fast, immediate")
}

func (a *app) restartCommand() *cobra.Command {
	var mode string
	return a.verb(&cobra.Command{
		Use: "restart CLUSTER NODE", Short: "Restart the postgres of one node in place",
		Example: "  regent restart postgres/orders pg-2 --reason \"shared_buffers changed\"",
		Args:    cobra.ExactArgs(2),
	}, func(cmd *cobra.Command) { addMode(cmd, &mode) }, func(_ event.ClusterID, args []string) (any, error) {
		m, err := parseMode(mode)
		return &schemas.RestartNode{Node: args[0], Mode: m}, err
	})
}

func (a *app) reinitCommand() *cobra.Command {
	return a.verb(&cobra.Command{
		Use: "reinit CLUSTER NODE", Short: "Copy a standby afresh from the primary",
		Example: "  regent reinit postgres/orders pg-3 --reason \"checksum failures\"",
		Args:    cobra.ExactArgs(2),
	}, nil, func(_ event.ClusterID, args []string) (any, error) {
		return &schemas.ReinitializeNode{Node: args[0]}, nil
	})
}

func (a *app) shutdownCommand() *cobra.Command {
	var mode string
	return a.verb(&cobra.Command{
		Use: "shutdown CLUSTER", Short: "Shut a whole cluster down, standbys last",
		Example: "  regent shutdown postgres/orders --reason \"the rack moves\"",
		Args:    cobra.ExactArgs(1),
	}, func(cmd *cobra.Command) { addMode(cmd, &mode) }, func(event.ClusterID, []string) (any, error) {
		m, err := parseMode(mode)
		return &schemas.ShutdownCluster{Mode: m}, err
	})
}

func (a *app) checkCommand() *cobra.Command {
	var within int32
	return a.verb(&cobra.Command{
		Use: "check CLUSTER", Short: "Have every node probed now, and report",
		Example: "  regent check postgres/orders",
		Args:    cobra.ExactArgs(1),
	}, func(cmd *cobra.Command) {
		cmd.Flags().Int32Var(&within, "within", 10_000, "how long the nodes have to answer, milliseconds")
	}, func(event.ClusterID, []string) (any, error) {
		if within < 1 {
			return nil, usagef("--within %d: expected at least 1", within)
		}
		return &schemas.CheckHealth{TimeoutMs: within}, nil
	})
}
