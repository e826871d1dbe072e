package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/regent-infra/regent/internal/event"
	"github.com/regent-infra/regent/internal/httpapi"
	"github.com/regent-infra/regent/schemas"
)

func (a *app) listCommand(use, short string, tree bool) *cobra.Command {
	var format string
	var watch watchFlag
	cmd := &cobra.Command{
		Use: use + " [CLUSTER]", GroupID: groupLook, Short: short,
		Example: fmt.Sprintf(`  regent %[1]s
  regent %[1]s postgres/orders --watch
  regent %[1]s -o json`, use),
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: a.completeClusters,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.load(cmd)
			if err != nil {
				return err
			}
			o, err := a.output(format)
			if err != nil {
				return err
			}
			return watch.run(cmd.Context(), a, func() error {
				clusters, err := clusterList(cmd.Context(), newAPI(c), args)
				if err != nil {
					return err
				}
				if done, err := o.structured(map[string]any{"clusters": clusters}); done {
					return err
				}
				for i := range clusters {
					printCluster(o, &clusters[i], tree)
				}
				if len(clusters) == 0 {
					fmt.Fprintln(o.out, "there are no clusters yet: start agents (regent agent --help), then create one (regent init --help)")
				}
				return nil
			})
		},
	}
	addServer(cmd)
	a.addOutput(cmd, &format)
	watch.add(cmd)
	return cmd
}

// cluster is a [httpapi.Cluster] with decoded nodes.
type cluster struct {
	httpapi.Cluster
	Nodes []resource `json:"nodes"`
}

// node returns the state of a node, or nil.
func (c *cluster) node(name string) *schemas.PostgresNodeState {
	for i := range c.Nodes {
		if event.ResourceID(c.Nodes[i].ID).Node() == name {
			state, _ := c.Nodes[i].decode().(*schemas.PostgresNodeState)
			return state
		}
	}
	return nil
}

func clusterList(ctx context.Context, api *api, args []string) ([]cluster, error) {
	if len(args) == 1 {
		id, err := event.ParseClusterID(args[0])
		if err != nil {
			return nil, withCode(exitUsage, err)
		}
		var one cluster
		if err := api.get(ctx, "/v1/clusters/"+string(id), nil, &one); err != nil {
			return nil, err
		}
		return []cluster{one}, nil
	}
	var all struct {
		Clusters []cluster `json:"clusters"`
	}
	err := api.get(ctx, "/v1/clusters", nil, &all)
	return all.Clusters, err
}

// printCluster writes one cluster as Patroni would, with what Patroni does not have: term, promise, health.
func printCluster(o *output, c *cluster, tree bool) {
	t := &table{header: []string{"Member", "Host", "Role", "State", "TL", "Term", "Lag", "Health"}, right: []int{4, 5, 6}}
	if o.format == formatWide {
		t.header = append(t.header, "Promised", "Flushed LSN", "Upstream", "Version", "Liveness")
	}
	title := "Cluster: " + c.ID
	if c.State != nil {
		if c.State.SystemIdentifier != "" {
			title += " (" + c.State.SystemIdentifier + ")"
		}
		for _, m := range ordered(c.State, tree) {
			t.add(memberCells(o, c, m)...)
		}
	} else {
		title += " (no agent has reported)"
	}
	t.printBoxed(o, title)
	if c.Workflow != nil {
		fmt.Fprintf(o.out, " %s: step %s %s\n", strings.ToLower(string(c.Workflow.Kind)), c.Workflow.Step, c.Workflow.WaitingFor)
	}
	if c.Record == nil {
		fmt.Fprintf(o.out, " not initialised: regent init %s\n", c.ID)
	} else if c.Record.ShutDown {
		fmt.Fprintf(o.out, " shut down by command: regent start %s\n", c.ID)
	}
}

// indented is a member with its depth below the primary.
type indented struct {
	schemas.PostgresMemberState
	depth int
}

// ordered lists members by name, or as a tree from the primary down.
func ordered(state *schemas.PostgresClusterState, tree bool) []indented {
	var out []indented
	if !tree {
		for _, m := range state.Members {
			out = append(out, indented{m, 0})
		}
		return out
	}
	seen := map[string]bool{}
	var below func(upstream string, depth int)
	below = func(upstream string, depth int) {
		for _, m := range state.Members {
			if m.Upstream == upstream && !seen[m.Node] && m.Node != state.Primary {
				seen[m.Node] = true
				out = append(out, indented{m, depth})
				below(m.Node, depth+1)
			}
		}
	}
	for _, m := range state.Members {
		if m.Node == state.Primary {
			seen[m.Node] = true
			out = append(out, indented{m, 0})
			below(m.Node, 1)
		}
	}
	for _, m := range state.Members {
		if !seen[m.Node] {
			seen[m.Node] = true
			out = append(out, indented{m, 0})
		}
	}
	return out
}

func memberCells(o *output, c *cluster, m indented) []string {
	name := m.Node
	if m.depth > 0 {
		name = strings.Repeat("  ", m.depth-1) + "+ " + m.Node
	}
	role := map[schemas.NodeRole]string{schemas.NodeRolePrimary: "Primary", schemas.NodeRoleStandby: "Standby"}[m.Role]
	if m.Synchronous && m.Role == schemas.NodeRoleStandby {
		role = "Quorum Standby"
	}
	state := strings.ToLower(string(m.Postmaster))
	if m.Streaming {
		state = "streaming"
	}
	lag, wide := "", []string{"", "", "", "", string(m.Liveness)}
	if n := c.node(m.Node); n != nil {
		if n.LagBytes != nil {
			lag = sizeText(*n.LagBytes)
		}
		version := ""
		if v := n.Observed.ServerVersion; v > 0 {
			version = fmt.Sprintf("%d.%d", v/10000, v%10000)
		}
		wide = []string{strconv.FormatInt(m.PromisedTerm, 10), lsn(n.Observed.FlushedLsn), m.Upstream, version, o.style.health(string(m.Liveness))}
	}
	cells := []string{
		name, fmt.Sprintf("%s:%d", m.Host, m.Port), role, o.style.health(state), strconv.FormatInt(m.Timeline, 10), strconv.FormatInt(m.Term, 10), lag,
		o.style.health(string(m.Health)),
	}
	if o.format == formatWide {
		cells = append(cells, wide...)
	}
	return cells
}
