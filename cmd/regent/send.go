package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/user"
	"time"

	"github.com/spf13/cobra"

	"github.com/regent-infra/regent/internal/avrocodec"
	"github.com/regent-infra/regent/internal/event"
	"github.com/regent-infra/regent/internal/invariant"
	"github.com/regent-infra/regent/internal/kafka"
	"github.com/regent-infra/regent/internal/record"
	"github.com/regent-infra/regent/internal/topics"
	"github.com/regent-infra/regent/schemas"
)

// sending is what every command that changes something takes.
type sending struct {
	reason  string
	dryRun  bool
	wait    bool
	timeout time.Duration
	expires time.Duration
	format  string
}

func (a *app) addSending(cmd *cobra.Command, s *sending) {
	f := cmd.Flags()
	f.StringVar(&s.reason, "reason", "", "why, for the audit trail")
	f.BoolVar(&s.dryRun, "dry-run", false, "only have it validated and say what would be done")
	f.BoolVar(&s.wait, "wait", true, "wait for the outcome; =false: end when the command is written")
	f.DurationVar(&s.timeout, "timeout", 5*time.Minute, "how long to wait for the outcome")
	f.DurationVar(&s.expires, "expires", 5*time.Minute, "the command is refused if it is not taken up within this time")
	addLink(cmd)
	a.addOutput(cmd, &s.format)
}

func (s *sending) check() error {
	if s.timeout <= 0 {
		return usagef("--timeout %s: expected more than 0", s.timeout)
	}
	if s.expires <= 0 {
		return usagef("--expires %s: expected more than 0", s.expires)
	}
	return nil
}

// meta returns what every command carries, with what is not said left as it is in from.
func (s *sending) meta(now time.Time, from schemas.CommandMeta) schemas.CommandMeta {
	if from.RequestedBy == "" {
		from.RequestedBy = userName()
	}
	if s.reason != "" {
		from.Reason = s.reason
	}
	from.DryRun = from.DryRun || s.dryRun
	if from.ExpiresAt == nil {
		at := now.Add(s.expires).UTC().Truncate(time.Millisecond)
		from.ExpiresAt = &at
	}
	return from
}

func userName() string {
	u, err := user.Current()
	if err != nil || u.Username == "" {
		return "unknown"
	}
	return u.Username
}

// metaOf returns the meta of a command.
func metaOf(payload any) *schemas.CommandMeta {
	switch p := payload.(type) {
	case *schemas.InitializeCluster:
		return &p.Meta
	case *schemas.CheckHealth:
		return &p.Meta
	case *schemas.SwitchoverCluster:
		return &p.Meta
	case *schemas.FailoverCluster:
		return &p.Meta
	case *schemas.RestartNode:
		return &p.Meta
	case *schemas.ReinitializeNode:
		return &p.Meta
	case *schemas.StartCluster:
		return &p.Meta
	case *schemas.ShutdownCluster:
		return &p.Meta
	default:
		return nil
	}
}

// builtInCommands are the commands topics of the built-in declaration.
func builtInCommands() []topics.Topic {
	var found []topics.Topic
	for _, t := range topics.Default().All() {
		if t.Kind != "" && t.Name == topics.Commands(t.Kind) {
			found = append(found, t)
		}
	}
	return found
}

// send writes a command and waits for what becomes of it.
func (a *app) send(cmd *cobra.Command, s *sending, clusterID, id string, payload any) error {
	if err := s.check(); err != nil {
		return err
	}
	cluster, err := event.ParseClusterID(clusterID)
	if err != nil {
		return withCode(exitUsage, err)
	}
	c, err := a.load(cmd)
	if err != nil {
		return err
	}
	o, err := a.output(s.format)
	if err != nil {
		return err
	}
	meta := metaOf(payload)
	invariant.Assert(meta != nil, "a payload of a commands topic has a meta: %T", payload)
	*meta = s.meta(a.clock.Now(), *meta)
	if id == "" {
		id = event.NewID()
	}
	l, err := a.dial(cmd.Context(), c)
	if err != nil {
		return err
	}
	defer l.close()
	d := &dispatch{app: a, link: l, out: o, sending: s, id: id, cluster: cluster, dryRun: meta.DryRun}
	return d.run(cmd.Context(), payload)
}

// dispatch is one command under way.
type dispatch struct {
	*sending
	app     *app
	link    *link
	out     *output
	id      string
	cluster event.ClusterID
	dryRun  bool
	// lines counts the lines of the workflow's history that were shown.
	lines int
	plan  string
}

func (d *dispatch) run(ctx context.Context, payload any) error {
	topic := topics.Commands(d.cluster.Kind())
	if _, ok := d.link.set.Topic(topic); !ok {
		return usagef("send a command to %s: there is no kind %s", d.cluster, d.cluster.Kind())
	}
	count, err := d.link.partitions(ctx, topic)
	if err != nil {
		return err
	}
	partition := event.Partition(d.cluster, count)
	now := d.app.clock.Now().UTC().Truncate(time.Millisecond)
	e := event.New(schemas.EnvelopeHeader{
		ID: d.id, Source: "cli/" + userName(), Cluster: string(d.cluster), Resource: string(d.cluster), OccurredAt: now,
		CorrelationID: d.id, Sequence: now.UnixMicro(), BootID: d.id,
	}, payload)
	value, err := d.link.codec.Encode(topic, e)
	if err != nil {
		return usagef("send %s: %w", e.Type, err)
	}
	waiting, err := d.listen(ctx, partition)
	if err != nil {
		return err
	}
	defer waiting.Close()
	if err := d.write(ctx, record.Record{
		Topic: topic, Partition: partition, Key: []byte(d.cluster), Value: value, Headers: avrocodec.Headers(e, ""),
	}, e.Type); err != nil {
		return err
	}
	if !d.wait {
		return nil
	}
	limited, cancel := context.WithTimeout(ctx, d.timeout)
	defer cancel()
	err = d.follow(limited, waiting)
	if ctx.Err() == nil && errors.Is(limited.Err(), context.DeadlineExceeded) && err != nil {
		return withCode(exitTimedOut, fmt.Errorf("wait for %s: no outcome within %s; it may still finish: regent explain %s", d.id, d.timeout, d.id))
	}
	return err
}

// listen reads outcomes and workflows from their ends as they are before the command is written.
func (d *dispatch) listen(ctx context.Context, partition int32) (*kafka.Reader, error) {
	kind := d.cluster.Kind()
	names := []string{topics.Outcomes(kind), topics.Workflows(kind)}
	ends, err := d.link.admin.StableOffsets(ctx, names...)
	if err != nil {
		return nil, err
	}
	starts := map[record.TopicPartition]kafka.Start{}
	for _, name := range names {
		tp := record.TopicPartition{Topic: name, Partition: partition}
		starts[tp] = kafka.FromOffset(ends[tp])
	}
	return kafka.NewReader(d.link.kafka, starts, kafka.ReaderConfig{})
}

func (d *dispatch) write(ctx context.Context, r record.Record, name string) error {
	d.tell("command", map[string]any{"command_id": d.id, "type": name, "cluster": d.cluster}, "command "+d.id)
	producer, err := kafka.NewProducer(d.link.kafka, kafka.ProducerConfig{})
	if err != nil {
		return err
	}
	defer producer.Close()
	if err := producer.Produce(ctx, r); err != nil {
		if errors.Is(err, kafka.ErrOutcomeUnknown) {
			return fmt.Errorf("send %s: %w; whether it was written is not known: regent explain %s tells", name, err, d.id)
		}
		return fmt.Errorf("send %s: %w", name, err)
	}
	return nil
}

// tell prints a step: a line for people, an object for programs.
func (d *dispatch) tell(name string, object map[string]any, line string) {
	switch d.out.format {
	case formatJSON:
		object["event"] = name
		_ = json.NewEncoder(d.out.out).Encode(object) // what cannot be written to standard output cannot be told either
	case formatYAML:
		object["event"] = name
		if raw, err := toYAML(object); err == nil {
			fmt.Fprintf(d.out.out, "---\n%s", raw)
		}
	default:
		fmt.Fprintln(d.out.out, line)
	}
}

// follow reads until the command has its outcome.
func (d *dispatch) follow(ctx context.Context, reader *kafka.Reader) error {
	for {
		records, err := reader.Poll(ctx)
		if err != nil {
			return err
		}
		for i := range records {
			if records[i].Tombstone() {
				continue
			}
			e, err := d.link.decode(&records[i])
			if err != nil {
				return err
			}
			if ended, err := d.take(e, &records[i]); ended || err != nil {
				return err
			}
		}
	}
}

// take looks at one event and reports whether the command has ended.
func (d *dispatch) take(e *event.Event, r *record.Record) (bool, error) {
	where := fmt.Sprintf("%s/%d@%d", shortTopic(r.Topic), r.Partition, r.Offset)
	at := r.Timestamp.UTC().Format("15:04:05.000")
	switch p := e.Payload.(type) {
	case *schemas.Workflow:
		if p.CommandID == d.id || p.ID == d.id {
			d.history(p)
		}
	case *schemas.CommandAccepted:
		if p.CommandID != d.id {
			return false, nil
		}
		d.plan = p.Plan
		object := map[string]any{"command_id": d.id, "workflow_id": p.WorkflowID, "plan": p.Plan, "position": where}
		if d.dryRun {
			d.tell("accepted", object, fmt.Sprintf("would be accepted: %s\nnothing was changed (dry run)", p.Plan))
			return true, nil
		}
		d.tell("accepted", object, fmt.Sprintf("%s  accepted: %s", at, p.Plan))
	case *schemas.CommandRejected:
		if p.CommandID != d.id {
			return false, nil
		}
		d.tell("rejected", map[string]any{"command_id": d.id, "reason": p.Reason, "message": p.Message, "position": where}, fmt.Sprintf("%s  rejected", at))
		return true, withCode(exitRefused, fmt.Errorf("%s was rejected (%s): %s", p.CommandType, p.Reason, p.Message))
	case *schemas.CommandCompleted:
		if p.CommandID != d.id {
			return false, nil
		}
		d.tell("completed", map[string]any{"command_id": d.id, "workflow_id": p.WorkflowID, "summary": p.Summary, "position": where}, fmt.Sprintf("%s  done: %s", at, p.Summary))
		return true, nil
	case *schemas.CommandFailed:
		if p.CommandID != d.id {
			return false, nil
		}
		d.tell("failed", map[string]any{"command_id": d.id, "workflow_id": p.WorkflowID, "message": p.Message, "position": where}, fmt.Sprintf("%s  failed", at))
		return true, fmt.Errorf("%s failed: %s; see: regent explain %s", p.CommandType, p.Message, d.id)
	}
	return false, nil
}

// history shows the lines of the workflow's history that are new, to people only.
func (d *dispatch) history(w *schemas.Workflow) {
	if d.out.format == formatJSON || d.out.format == formatYAML {
		return
	}
	if len(w.History) < d.lines {
		d.lines = 0
	}
	for _, line := range w.History[d.lines:] {
		fmt.Fprintf(d.out.out, "%s  %s: %s\n", line.At.UTC().Format("15:04:05.000"), d.out.style.faint(line.Step), line.Message)
	}
	d.lines = len(w.History)
}
