package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/regent-infra/regent/internal/event"
	"github.com/regent-infra/regent/internal/httpapi"
	"github.com/regent-infra/regent/internal/record"
	"github.com/regent-infra/regent/internal/topics"
	"github.com/regent-infra/regent/schemas"
)

func (a *app) explainCommand() *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use: "explain ID | CLUSTER", GroupID: groupExplain,
		Short: "Tell why: a workflow or command as a timeline with its evidence, or a cluster",
		Long: `Tell the story of a workflow or a command as a timeline: what was seen, decided, ordered and answered, each with the position in the log
that it rests on (topic/partition@offset; regent events --topic TOPIC --from OFFSET shows the record itself).

For a cluster: its last workflow, and why nothing happens now.`,
		Example: `  regent explain 0199f1a2-7c1e-7000-8000-3f2b1a0c9d8e
  regent explain postgres/orders
  regent explain postgres/orders -o json | jq '.timeline[].position'`,
		Args:              cobra.ExactArgs(1),
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
			clusterID, clusterErr := event.ParseClusterID(args[0])
			if clusterErr != nil && !event.ValidID(args[0]) {
				return usagef("regent explain %s: expected the id of a workflow or command, or a cluster such as postgres/orders", args[0])
			}
			l, err := a.dial(cmd.Context(), c)
			if err != nil {
				return err
			}
			defer l.close()
			e := &explainer{link: l, now: a.clock.Now()}
			var told *explanation
			if clusterErr == nil {
				told, err = e.cluster(cmd.Context(), clusterID)
			} else {
				told, err = e.id(cmd.Context(), args[0])
			}
			if err != nil {
				return err
			}
			if done, err := o.structured(told); done {
				return err
			}
			told.print(o)
			return nil
		},
	}
	addLink(cmd)
	a.addOutput(cmd, &format)
	return cmd
}

// explanation is what explain tells.
type explanation struct {
	Cluster string `json:"cluster"`
	// Workflow is null for a command that started none.
	Workflow *schemas.Workflow `json:"workflow"`
	Timeline []moment          `json:"timeline"`
	// Now says how the cluster is and why nothing is done, for a cluster.
	Now *present `json:"now,omitempty"`
	// Recent are the last workflows of the cluster, newest first, for a cluster.
	Recent []recent `json:"recent,omitempty"`
}

// recent is a workflow in one line.
type recent struct {
	ID        string                 `json:"id"`
	Kind      schemas.WorkflowKind   `json:"kind"`
	Status    schemas.WorkflowStatus `json:"status"`
	StartedAt time.Time              `json:"started_at"`
	Reason    string                 `json:"reason"`
}

// maxRecent is how many of them are told.
const maxRecent = 5

// moment is one line of a timeline.
type moment struct {
	At       time.Time          `json:"at"`
	What     string             `json:"what"`
	Text     string             `json:"text"`
	Position *httpapi.Position  `json:"position,omitempty"`
	Evidence []httpapi.Position `json:"evidence,omitempty"`
	// Said are the summaries of the evidence, in its order.
	Said []string `json:"said,omitempty"`
	// order breaks ties between moments of the same time.
	order int
}

// present is how a cluster is now.
type present struct {
	State  *schemas.PostgresClusterState `json:"state"`
	Record *schemas.ClusterRecord        `json:"record"`
	// Idle says why nothing is done.
	Idle []string `json:"idle"`
}

// explainer gathers stories from the topics.
type explainer struct {
	link *link
	now  time.Time
}

// decided is what a workflows topic says.
type decided struct {
	workflows map[string]*schemas.Workflow
	clusters  map[string]string
	records   map[string]*schemas.ClusterRecord
}

// of returns the workflows of a cluster, newest first.
func (d *decided) of(cluster string) []*schemas.Workflow {
	var list []*schemas.Workflow
	for id, w := range d.workflows {
		if d.clusters[id] == cluster {
			list = append(list, w)
		}
	}
	slices.SortFunc(list, func(a, b *schemas.Workflow) int {
		return cmp.Or(b.StartedAt.Compare(a.StartedAt), cmp.Compare(b.ID, a.ID))
	})
	return list
}

// id explains a workflow or a command.
func (e *explainer) id(ctx context.Context, id string) (*explanation, error) {
	d, err := e.decisions(ctx, event.KindPostgres, -1)
	if err != nil {
		return nil, err
	}
	for _, w := range d.workflows {
		if w.ID == id || w.CommandID == id {
			return e.story(ctx, d.clusters[w.ID], w)
		}
	}
	return e.commandOnly(ctx, id)
}

// decisions reads a workflows topic, or one partition of it.
func (e *explainer) decisions(ctx context.Context, kind event.Kind, partition int32) (*decided, error) {
	d := &decided{workflows: map[string]*schemas.Workflow{}, clusters: map[string]string{}, records: map[string]*schemas.ClusterRecord{}}
	err := e.all(ctx, []string{topics.Workflows(kind)}, partition, fromEarliest, func(r *record.Record, ev *event.Event) {
		cluster := string(event.ResourceID(r.Key).Cluster())
		switch p := ev.Payload.(type) {
		case *schemas.Workflow:
			d.workflows[p.ID], d.clusters[p.ID] = p, cluster
		case *schemas.ClusterRecord:
			d.records[cluster] = p
		}
	})
	return d, err
}

// all reads topics from start to their ends; what cannot be decoded is passed over. partition -1 means all.
func (e *explainer) all(ctx context.Context, names []string, partition int32, from origin, fn func(*record.Record, *event.Event)) error {
	var partitions []record.TopicPartition
	for _, name := range names {
		count, err := e.link.partitions(ctx, name)
		if err != nil {
			return err
		}
		for p := range count {
			if partition < 0 || p == partition {
				partitions = append(partitions, record.TopicPartition{Topic: name, Partition: p})
			}
		}
	}
	var failed error
	err := e.link.scan(ctx, partitions, from, func(r record.Record) {
		if r.Tombstone() || failed != nil {
			return
		}
		ev, err := e.link.decode(&r)
		var permanent *event.DecodeError
		switch {
		case err == nil:
			fn(&r, ev)
		case !errors.As(err, &permanent):
			failed = err
		}
	})
	return errors.Join(err, failed)
}

func (e *explainer) partition(ctx context.Context, cluster event.ClusterID) (int32, error) {
	count, err := e.link.partitions(ctx, topics.Workflows(cluster.Kind()))
	if err != nil {
		return 0, err
	}
	return event.Partition(cluster, count), nil
}

// story tells a workflow: its own history, and the commands, orders and outcomes that belong to it.
func (e *explainer) story(ctx context.Context, clusterID string, w *schemas.Workflow) (*explanation, error) {
	x := &explanation{Cluster: clusterID, Workflow: w}
	for i, h := range w.History {
		m := moment{At: h.At, What: h.Step, Text: h.Message, order: i}
		for _, ref := range h.Evidence {
			m.Evidence = append(m.Evidence, httpapi.Position{Topic: ref.Topic, Partition: ref.Partition, Offset: ref.Offset})
			m.Said = append(m.Said, ref.Summary)
		}
		x.Timeline = append(x.Timeline, m)
	}
	cluster := event.ClusterID(clusterID)
	partition, err := e.partition(ctx, cluster)
	if err != nil {
		return nil, err
	}
	kind := cluster.Kind()
	// A command may have waited before it was taken up; five minutes is how long it may by default.
	since := origin{at: w.StartedAt.Add(-10 * time.Minute)}
	err = e.all(ctx, []string{topics.Commands(kind), topics.Orders(kind), topics.Outcomes(kind)}, partition, since, func(r *record.Record, ev *event.Event) {
		if m, ok := belongs(r, ev, w); ok {
			x.Timeline = append(x.Timeline, m)
		}
	})
	if err != nil {
		return nil, err
	}
	x.sort()
	return x, nil
}

func (x *explanation) sort() {
	slices.SortStableFunc(x.Timeline, func(a, b moment) int { return cmp.Or(a.At.Compare(b.At), cmp.Compare(a.order, b.order)) })
}

// belongs turns a record into a moment if it belongs to the workflow.
func belongs(r *record.Record, ev *event.Event, w *schemas.Workflow) (moment, bool) {
	m := moment{At: r.Timestamp, Position: &httpapi.Position{Topic: r.Topic, Partition: r.Partition, Offset: r.Offset}, order: 1000}
	if meta, ok := orderMeta(ev.Payload); ok {
		m.What, m.Text = "order", ev.Type+" "+summarize(style{}, ev.Payload)
		return m, meta.WorkflowID == w.ID
	}
	return m, commandMoment(&m, ev, w.CommandID, w.ID)
}

// commandMoment fills in a moment of a command or an outcome, and reports whether it belongs to one of the two ids.
func commandMoment(m *moment, ev *event.Event, commandID, workflowID string) bool {
	m.Text = ev.Type + ": " + summarize(style{}, ev.Payload)
	outcome := func(command, workflow string) bool {
		m.What = "outcome"
		return commandID != "" && command == commandID || workflow != "" && workflow == workflowID
	}
	switch p := ev.Payload.(type) {
	case *schemas.CommandAccepted:
		return outcome(p.CommandID, p.WorkflowID)
	case *schemas.CommandCompleted:
		return outcome(p.CommandID, p.WorkflowID)
	case *schemas.CommandFailed:
		return outcome(p.CommandID, p.WorkflowID)
	case *schemas.CommandRejected:
		return outcome(p.CommandID, "")
	}
	m.What, m.order = "command", -1
	return metaOf(ev.Payload) != nil && commandID != "" && ev.ID == commandID
}

// commandOnly explains a command that started no workflow.
func (e *explainer) commandOnly(ctx context.Context, id string) (*explanation, error) {
	x := &explanation{}
	kind := event.KindPostgres
	err := e.all(ctx, []string{topics.Commands(kind), topics.Outcomes(kind)}, -1, fromEarliest, func(r *record.Record, ev *event.Event) {
		m := moment{At: r.Timestamp, Position: &httpapi.Position{Topic: r.Topic, Partition: r.Partition, Offset: r.Offset}, order: 1000}
		if commandMoment(&m, ev, id, "") {
			x.Cluster = ev.Cluster
			x.Timeline = append(x.Timeline, m)
		}
	})
	if err != nil {
		return nil, err
	}
	if len(x.Timeline) == 0 {
		return nil, fmt.Errorf("explain %s: there is no workflow and no command of that id; regent workflows list shows which there are", id)
	}
	x.sort()
	if len(x.Timeline) == 1 && x.Timeline[0].What == "command" {
		x.Timeline = append(x.Timeline, moment{At: e.now, What: "now", Text: "nobody has answered it yet: is an orchestrator running? (regent status)"})
	}
	return x, nil
}

// cluster explains the last workflow of a cluster, and why nothing happens now.
func (e *explainer) cluster(ctx context.Context, id event.ClusterID) (*explanation, error) {
	partition, err := e.partition(ctx, id)
	if err != nil {
		return nil, err
	}
	d, err := e.decisions(ctx, id.Kind(), partition)
	if err != nil {
		return nil, err
	}
	var state *schemas.PostgresClusterState
	err = e.all(ctx, []string{topics.State(id.Kind())}, partition, fromEarliest, func(r *record.Record, ev *event.Event) {
		if p, ok := ev.Payload.(*schemas.PostgresClusterState); ok && string(r.Key) == string(id) {
			state = p
		}
	})
	if err != nil {
		return nil, err
	}
	all := d.of(string(id))
	var last *schemas.Workflow
	if len(all) > 0 {
		last = all[0]
	}
	if state == nil && d.records[string(id)] == nil && last == nil {
		return nil, fmt.Errorf("explain %s: there is no such cluster; no agent has reported for it and no command has created it", id)
	}
	x := &explanation{Cluster: string(id)}
	if last != nil {
		if x, err = e.story(ctx, string(id), last); err != nil {
			return nil, err
		}
	}
	for _, w := range all[:min(len(all), maxRecent)] {
		x.Recent = append(x.Recent, recent{w.ID, w.Kind, w.Status, w.StartedAt, w.Reason})
	}
	x.Now = &present{State: state, Record: d.records[string(id)]}
	x.Now.Idle = idle(x.Now, last, e.now)
	return x, nil
}

// idle says why nothing is done about a cluster.
func idle(p *present, last *schemas.Workflow, now time.Time) []string {
	if last != nil && last.FinishedAt == nil && last.Status == schemas.WorkflowStatusRunning {
		return []string{"a workflow is under way: " + workflowLine(style{}, last)}
	}
	var why []string
	if p.State == nil {
		why = append(why, "no agent of this cluster has reported, so there is nothing to act upon")
	} else {
		why = append(why, fmt.Sprintf("diagnosis %s: %s", p.State.Analysis, orDash(p.State.AnalysisDetail)))
	}
	r := p.Record
	if r == nil {
		return append(why, "it was never initialised: regent init")
	}
	if r.ShutDown {
		why = append(why, "it was shut down by command, so nothing is started: regent start")
	}
	if r.Held != nil {
		why = append(why, fmt.Sprintf("%s is held back since %s (%s): %s", r.Held.Kind, r.Held.At.UTC().Format(time.RFC3339), r.Held.Code, r.Held.Message))
	}
	if r.Policy.FailoverMode == schemas.FailoverModeManual {
		why = append(why, "the policy leaves failover to a person: regent failover")
	}
	if r.LastFailoverAt != nil && r.Policy.FailoverCooldownMs > 0 {
		until := r.LastFailoverAt.Add(time.Duration(r.Policy.FailoverCooldownMs) * time.Millisecond)
		if until.After(now) {
			why = append(why, "the last failover was at "+r.LastFailoverAt.UTC().Format(time.RFC3339)+"; the next automatic one is held back until "+until.UTC().Format(time.RFC3339))
		}
	}
	for _, b := range r.Backoffs {
		if b.Until.After(now) {
			why = append(why, fmt.Sprintf("%s is left alone until %s: %s", b.Node, b.Until.UTC().Format(time.RFC3339), b.Reason))
		}
	}
	if p.State != nil && p.State.Health == schemas.HealthHealthy && len(why) == 1 {
		why = append(why, "what is desired and what is observed agree: nothing is to do")
	}
	return why
}

func (x *explanation) print(o *output) {
	if w := x.Workflow; w != nil {
		fmt.Fprintf(o.out, "%s of %s  %s\n", o.style.bold(string(w.Kind)), o.style.bold(x.Cluster), o.style.health(string(w.Status)))
		fmt.Fprintf(o.out, "  workflow  %s\n", w.ID)
		fmt.Fprintf(o.out, "  why       %s\n", orDash(w.Reason))
		if w.Analysis != "" && w.Analysis != schemas.AnalysisCodeNoProblem {
			fmt.Fprintf(o.out, "  diagnosis %s\n", w.Analysis)
		}
		if w.Term > 0 {
			fmt.Fprintf(o.out, "  term      %d (policy version %d)\n", w.Term, w.PolicyVersion)
		}
		switch {
		case w.Kind == schemas.WorkflowKindFailover || w.Kind == schemas.WorkflowKindSwitchover:
			fmt.Fprintf(o.out, "  primary   %s → %s\n", orDash(w.FormerPrimary), orDash(w.Candidate))
		case w.Candidate != "":
			fmt.Fprintf(o.out, "  node      %s\n", w.Candidate)
		}
		if w.FenceSize > 0 {
			fmt.Fprintf(o.out, "  evidence  %d of %d acknowledgements needed:\n", len(w.Acknowledgements), w.FenceSize)
			for _, ack := range w.Acknowledgements {
				fmt.Fprintf(o.out, "            %s promised term %d, WAL ends at %s (term %d, timeline %d)  %s\n", ack.Node, ack.Term, lsn(ack.WalEnd.Lsn), ack.WalEnd.Term, ack.WalEnd.Timeline,
					o.style.faint(position(ack.Topic, ack.Partition, ack.Offset)))
			}
			fmt.Fprintf(o.out, "            least position of a candidate: %s\n", lsn(w.MinLsn))
		}
		end := "still running"
		if w.FinishedAt != nil {
			end = "took " + took(w.FinishedAt.Sub(w.StartedAt))
		}
		fmt.Fprintf(o.out, "  began     %s, %s\n", w.StartedAt.UTC().Format("2006-01-02 15:04:05.000Z"), end)
	} else if x.Cluster != "" {
		fmt.Fprintf(o.out, "%s\n", o.style.bold(x.Cluster))
	}
	if len(x.Timeline) > 0 {
		fmt.Fprintln(o.out)
		x.printTimeline(o)
	}
	if len(x.Recent) > 1 {
		fmt.Fprintln(o.out, "\nbefore that")
		t := &table{header: []string{"", "WORKFLOW", "KIND", "STATUS", "BEGAN", "WHY"}}
		for _, r := range x.Recent[1:] {
			t.add("", r.ID, string(r.Kind), o.style.health(string(r.Status)), r.StartedAt.UTC().Format("2006-01-02 15:04:05Z"), r.Reason)
		}
		t.print(o)
	}
	if x.Now != nil {
		fmt.Fprintln(o.out, "\nwhy nothing else happens now")
		for _, line := range x.Now.Idle {
			fmt.Fprintf(o.out, "  - %s\n", line)
		}
	}
}

func (x *explanation) printTimeline(o *output) {
	begin := x.Timeline[0].At
	wide := 0
	for _, m := range x.Timeline {
		wide = max(wide, len(m.What))
	}
	for _, m := range x.Timeline {
		where := ""
		if m.Position != nil {
			where = "  " + o.style.faint(position(m.Position.Topic, m.Position.Partition, m.Position.Offset))
		}
		fmt.Fprintf(o.out, "%s  %+8.3fs  %-*s  %s%s\n", m.At.UTC().Format("15:04:05.000"), m.At.Sub(begin).Seconds(), wide, m.What, m.Text, where)
		for i, ev := range m.Evidence {
			fmt.Fprintf(o.out, "%*s  %s\n", 12+2+9+2+wide, "", o.style.faint(position(ev.Topic, ev.Partition, ev.Offset)+"  "+m.Said[i]))
		}
	}
}

func position(topic string, partition int32, offset int64) string {
	return fmt.Sprintf("%s/%d@%d", shortTopic(topic), partition, offset)
}

// took writes a duration to the millisecond.
func took(d time.Duration) string { return d.Round(time.Millisecond).String() }
