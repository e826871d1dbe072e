package main

import "github.com/spf13/cobra"

// commands lists every subcommand.
func (a *app) commands() []*cobra.Command {
	return []*cobra.Command{
		a.upCommand(), a.serverCommand(),
		a.statusCommand(), a.getCommand(), a.watchCommand(), a.eventsCommand(),
		a.listCommand("list", "Show clusters and their members, as Patroni does", false),
		a.listCommand("topology", "Show clusters as trees of replication", true),
		a.workflowsCommand(),
	}
}
