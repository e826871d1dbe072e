package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/regent-infra/regent/internal/event"
	"github.com/regent-infra/regent/internal/httpapi"
	"github.com/regent-infra/regent/schemas"
)

func (a *app) statusCommand() *cobra.Command {
	var format string
	var watch watchFlag
	cmd := &cobra.Command{
		Use: "status", GroupID: groupLook,
		Short: "One screen: what is unhealthy, since when, why, what is being done, what needs a person",
		Long: `One screen about everything: what is unhealthy, since when, why, what is being done about it, and what needs a person.

The exit code is 0 whatever the health is; programs read -o json.`,
		Example: `  regent status
  regent status --watch
  regent status -o json | jq '.problems[] | {resource, why, needs}'`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.load(cmd)
			if err != nil {
				return err
			}
			o, err := a.output(format)
			if err != nil {
				return err
			}
			return watch.run(cmd.Context(), a, func() error {
				var s httpapi.Status
				if err := newAPI(c).get(cmd.Context(), "/v1/status", nil, &s); err != nil {
					return err
				}
				if done, err := o.structured(s); done {
					return err
				}
				a.printStatus(o, s)
				return nil
			})
		},
	}
	addServer(cmd)
	a.addOutput(cmd, &format)
	watch.add(cmd)
	return cmd
}

func (a *app) printStatus(o *output, s httpapi.Status) {
	count := func(counts map[schemas.Health]int) string {
		parts := []string{}
		for _, h := range []schemas.Health{schemas.HealthHealthy, schemas.HealthDegraded, schemas.HealthDown, schemas.HealthUnknown} {
			if counts[h] > 0 {
				parts = append(parts, fmt.Sprintf("%d %s", counts[h], strings.ToLower(string(h))))
			}
		}
		if len(parts) == 0 {
			return "none"
		}
		return strings.Join(parts, ", ")
	}
	t := &table{header: []string{"FLEET", o.style.health(string(s.Health))}}
	t.add("clusters", count(s.Clusters))
	t.add("nodes", count(s.Nodes))
	control := o.style.health(s.ControlPlane.Status)
	if len(s.ControlPlane.Reasons) > 0 {
		control += ": " + strings.Join(s.ControlPlane.Reasons, "; ")
	}
	t.add("control plane", control)
	t.print(o)
	now := a.clock.Now()
	for _, p := range s.Problems {
		fmt.Fprintln(o.out)
		writable := "not writable"
		if p.Writable {
			writable = "writable"
		}
		head := fmt.Sprintf("%s  %s", o.style.bold(p.Resource), o.style.health(string(p.Health)))
		if !p.Since.IsZero() {
			head += fmt.Sprintf(" for %s (since %s)", age(now, p.Since), p.Since.UTC().Format("2006-01-02 15:04:05Z"))
		}
		if p.Diagnosis != "" {
			head += fmt.Sprintf(", %s, %s", p.Diagnosis, writable)
		}
		fmt.Fprintln(o.out, head)
		for i, why := range p.Why {
			label := "       "
			if i == 0 {
				label = "  why  "
			}
			fmt.Fprintln(o.out, label+why)
		}
		if p.Doing != "" {
			doing := p.Doing
			if p.WorkflowID != "" {
				doing += o.style.faint("  (regent explain " + p.WorkflowID + ")")
			}
			fmt.Fprintln(o.out, "  now  "+doing)
		}
		needs := "nothing"
		if p.Needs != "" {
			needs = p.Needs
		}
		fmt.Fprintln(o.out, "  you  "+needs)
	}
	if len(s.Problems) == 0 && len(s.Clusters) > 0 {
		fmt.Fprintln(o.out, "\nnothing is wrong, nothing needs a person")
	}
	if len(s.Clusters) == 0 {
		fmt.Fprintln(o.out, "\nthere are no clusters yet: start agents (regent agent --help), then create one (regent init --help)")
	}
}

func (a *app) getCommand() *cobra.Command {
	var format, recordType, at string
	var watch watchFlag
	var back pastFlags
	cmd := &cobra.Command{
		Use: "get [ID | PREFIX/]", GroupID: groupLook,
		Short: "Show a resource, or list resources",
		Long: `Show the consolidated state of one resource by its id, or list resources. An id is kind/cluster or kind/cluster/node/name. Without an
argument, or with one that ends in a slash, everything below it is listed.

With --at it is shown as it was at a moment: ` + momentHelp + `.
That is read from the topics, and not asked of the server: see regent replay --help, also for what cannot be had any more.`,
		Example: `  regent get                                # everything
  regent get postgres/orders/               # the cluster and its nodes
  regent get postgres/orders/node/pg-1 -o yaml
  regent get --type PostgresClusterState -o json
  regent get postgres/orders --at 10m       # as it was ten minutes ago
  regent get --at 2026-01-31T12:00:00Z --data-dir /var/lib/regent   # of a regent up that is stopped`,
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: a.completeResources,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.load(cmd)
			if err != nil {
				return err
			}
			o, err := a.output(format)
			if err != nil {
				return err
			}
			if at != "" {
				if watch.on {
					return usagef("--at %s --watch: the past does not change, expected one of them", at)
				}
				return a.getPast(cmd.Context(), cmd, o, &back, at, strings.Join(args, ""), recordType)
			}
			for _, name := range []string{"from", "rate", "data-dir", "brokers", "registry"} {
				if cmd.Flags().Changed(name) {
					return usagef("--%s says where the past is read from: expected --at with it", name)
				}
			}
			return watch.run(cmd.Context(), a, func() error {
				if len(args) == 1 && !strings.HasSuffix(args[0], "/") {
					return a.getOne(cmd.Context(), newAPI(c), o, args[0])
				}
				return a.getMany(cmd.Context(), newAPI(c), o, strings.Join(args, ""), recordType)
			})
		},
	}
	cmd.Flags().StringVar(&recordType, "type", "", "list only values of this record type, such as PostgresNodeState")
	cmd.Flags().StringVar(&at, "at", "", "as it was at this moment: RFC 3339, how long ago, or offsets")
	back.add(cmd)
	a.addOutput(cmd, &format)
	watch.add(cmd)
	return cmd
}

// resource is a [httpapi.Resource] whose value is kept as it came.
type resource struct {
	httpapi.Resource
	Value json.RawMessage `json:"value"`
}

// decode turns the value into its record.
func (r *resource) decode() any {
	into := schemas.NewRecord(r.Type)
	if into == nil || json.Unmarshal(r.Value, into) != nil {
		return nil
	}
	return into
}

func (a *app) getOne(ctx context.Context, api *api, o *output, id string) error {
	if _, err := event.ParseResourceID(id); err != nil && id != "fleet" {
		return withCode(exitUsage, err)
	}
	var r resource
	if err := api.get(ctx, "/v1/resources/"+id, nil, &r); err != nil {
		return err
	}
	if done, err := o.structured(r); done {
		return err
	}
	fmt.Fprintf(o.out, "%s  %s\n", o.style.bold(r.ID), r.Type)
	fmt.Fprintf(o.out, "%s\n\n", o.style.faint(fmt.Sprintf("%s/%d offset %d, %s ago", r.Position.Topic, r.Position.Partition, r.Position.Offset, age(a.clock.Now(), r.UpdatedAt))))
	raw, err := toYAML(r.Value)
	if err != nil {
		return fmt.Errorf("show %s: %w", id, err)
	}
	_, err = o.out.Write(raw)
	return err
}

func (a *app) getMany(ctx context.Context, api *api, o *output, prefix, recordType string) error {
	query := url.Values{"prefix": {prefix}, "limit": {"10000"}}
	if recordType != "" {
		query.Set("type", recordType)
	}
	var answer struct {
		Resources []resource `json:"resources"`
		Total     int        `json:"total"`
	}
	if err := api.get(ctx, "/v1/resources", query, &answer); err != nil {
		return err
	}
	if done, err := o.structured(answer); done {
		return err
	}
	now := a.clock.Now()
	t := &table{header: []string{"ID", "TYPE", "HEALTH", "FOR", "UPDATED"}}
	if o.format == formatWide {
		t.header = append(t.header, "POSITION", "DETAIL")
	}
	for _, r := range answer.Resources {
		value := r.decode()
		cells := []string{r.ID, r.Type, o.style.health(httpapi.HealthOf(value)), age(now, r.Since), age(now, r.UpdatedAt) + " ago"}
		if o.format == formatWide {
			cells = append(cells, fmt.Sprintf("%s/%d@%d", r.Position.Topic, r.Position.Partition, r.Position.Offset), detailOf(value))
		}
		t.add(cells...)
	}
	t.print(o)
	if answer.Total > len(answer.Resources) {
		fmt.Fprintf(o.out, "%d of %d shown; narrow it down with a prefix\n", len(answer.Resources), answer.Total)
	}
	return nil
}

func detailOf(value any) string {
	switch v := value.(type) {
	case *schemas.PostgresClusterState:
		return fmt.Sprintf("primary %s, term %d, %s", orDash(v.Primary), v.Term, v.Analysis)
	case *schemas.PostgresNodeState:
		return fmt.Sprintf("%s, %s, term %d, timeline %d", v.Observed.Role, v.Observed.Postmaster, v.Observed.Term, v.Observed.Timeline)
	default:
		return ""
	}
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func (a *app) watchCommand() *cobra.Command {
	var format, events string
	var snapshot bool
	cmd := &cobra.Command{
		Use: "watch [PREFIX]", GroupID: groupLook,
		Short: "Follow changes of state and workflows as they are committed",
		Example: `  regent watch
  regent watch postgres/orders
  regent watch --events workflow -o json | jq -c '{id, status: .value.status}'`,
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: a.completeResources,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.load(cmd)
			if err != nil {
				return err
			}
			o, err := a.output(format)
			if err != nil {
				return err
			}
			query := url.Values{"events": {events}, "prefix": {strings.Join(args, "")}, "snapshot": {strconv.FormatBool(snapshot)}}
			err = newAPI(c).watch(cmd.Context(), query, func(name string, data []byte) error { return printChange(o, name, data) })
			if cmd.Context().Err() != nil {
				return nil
			}
			return err
		},
	}
	cmd.Flags().StringVar(&events, "events", "state,workflow", "which changes: state, workflow, or both")
	cmd.Flags().BoolVar(&snapshot, "snapshot", true, "begin with what there is")
	addServer(cmd)
	a.addOutput(cmd, &format)
	return cmd
}

func printChange(o *output, name string, data []byte) error {
	if name == "synced" {
		return nil
	}
	switch o.format {
	case formatJSON:
		_, err := fmt.Fprintf(o.out, "%s\n", data)
		return err
	case formatYAML:
		raw, err := toYAML(json.RawMessage(data))
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(o.out, "---\n%s", raw)
		return err
	}
	var r resource
	if err := json.Unmarshal(data, &r); err != nil {
		return fmt.Errorf("watch: read a change: %w", err)
	}
	fmt.Fprintf(o.out, "%s  %s@%d  %s  %s\n", r.UpdatedAt.UTC().Format("15:04:05.000"), shortTopic(r.Position.Topic), r.Position.Offset,
		o.style.bold(r.ID), summarize(o.style, r.decode()))
	return nil
}

// shortTopic leaves out what all topics share.
func shortTopic(topic string) string {
	return strings.TrimSuffix(strings.TrimPrefix(topic, "infra."), ".v1")
}
