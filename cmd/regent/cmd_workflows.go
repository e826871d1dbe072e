package main

import (
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/regent-infra/regent/processors/decide"
)

// watchTable is the name of the table that decides what a cluster needs that no workflow looks after.
const watchTable = "watch"

// tableName is how a decision table is called on the command line.
func tableName(t *decide.Table) string {
	if t.Kind == "" {
		return watchTable
	}
	return strings.ReplaceAll(strings.ToLower(string(t.Kind)), "_", "-")
}

func tableNames() []string {
	var names []string
	for _, t := range decide.Tables() {
		names = append(names, tableName(t))
	}
	slices.Sort(names)
	return names
}

// workflowsShowCommand renders decision tables.
func (a *app) workflowsShowCommand() *cobra.Command {
	return &cobra.Command{
		Use: "show [KIND]", Short: "Print the decision tables that workflows follow, with the facts that they rest on",
		Example: `  regent workflows show
  regent workflows show failover
  regent workflows show watch      # what starts a workflow by itself, and what holds it back`,
		Args:      cobra.MaximumNArgs(1),
		ValidArgs: tableNames(),
		RunE: func(_ *cobra.Command, args []string) error {
			shown := 0
			for _, t := range decide.Tables() {
				if len(args) == 1 && !strings.EqualFold(args[0], tableName(t)) && !strings.EqualFold(args[0], string(t.Kind)) {
					continue
				}
				if shown > 0 {
					a.printf("\n")
				}
				shown++
				if err := decide.Render(a.env.Stdout, t); err != nil {
					return err
				}
			}
			if shown == 0 {
				return usagef("regent workflows show %s: there is no such decision table, expected one of %s", args[0], strings.Join(tableNames(), ", "))
			}
			return nil
		},
	}
}
