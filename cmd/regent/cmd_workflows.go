package main

import (
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/regent-infra/regent/internal/httpapi"
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

func (a *app) workflowsCommand() *cobra.Command {
	var format, clusterID, status, kind string
	var limit int
	list := &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List runs of workflows, newest first",
		Example: `  regent workflows list
  regent workflows list --cluster postgres/orders --kind FAILOVER
  regent workflows list --status RUNNING -o json`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.load(cmd)
			if err != nil {
				return err
			}
			o, err := a.output(format)
			if err != nil {
				return err
			}
			query := url.Values{"cluster": {clusterID}, "status": {status}, "kind": {kind}, "limit": {strconv.Itoa(limit)}}
			var answer struct {
				Workflows []httpapi.WorkflowRun `json:"workflows"`
				Total     int                   `json:"total"`
			}
			if err := newAPI(c).get(cmd.Context(), "/v1/workflows", query, &answer); err != nil {
				return err
			}
			if done, err := o.structured(answer); done {
				return err
			}
			now := a.clock.Now()
			t := &table{header: []string{"ID", "CLUSTER", "KIND", "STATUS", "STEP", "STARTED", "TOOK", "REASON"}}
			for _, w := range answer.Workflows {
				end := now
				if w.FinishedAt != nil {
					end = *w.FinishedAt
				}
				t.add(w.ID, w.Cluster, string(w.Kind), o.style.health(string(w.Status)), w.Step, age(now, w.StartedAt)+" ago", age(end, w.StartedAt), w.Reason)
			}
			t.print(o)
			return nil
		},
	}
	f := list.Flags()
	f.StringVar(&clusterID, "cluster", "", "only of this cluster")
	f.StringVar(&status, "status", "", "only with this status, such as RUNNING or FAILED")
	f.StringVar(&kind, "kind", "", "only of this kind, such as FAILOVER")
	f.IntVar(&limit, "limit", 20, "at most so many")
	addServer(list)
	a.addOutput(list, &format)
	return parent(&cobra.Command{
		Use: "workflows", GroupID: groupExplain, Short: "Runs of workflows, and the decision tables behind them",
		Example: `  regent workflows list --status RUNNING
  regent workflows show failover`,
	}, list, a.workflowsShowCommand())
}
