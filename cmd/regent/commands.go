package main

import "github.com/spf13/cobra"

// commands lists every subcommand.
func (a *app) commands() []*cobra.Command {
	return append([]*cobra.Command{
		a.upCommand(), a.serverCommand(), a.agentCommand(), a.demoCommand(),
		a.statusCommand(), a.getCommand(), a.watchCommand(), a.eventsCommand(),
		a.listCommand("list", "Show clusters and their members, as Patroni does", false),
		a.listCommand("topology", "Show clusters as trees of replication", true),
		a.workflowsCommand(), a.explainCommand(), a.commandCommand(), a.topicsCommand(), a.configCommand(), a.versionCommand(), a.completionCommand(), a.rebuildCommand(), a.replayCommand(), a.checkpointCommand(), a.doctorCommand(),
	}, a.verbs()...)
}
