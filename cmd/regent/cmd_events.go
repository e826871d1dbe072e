package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/regent-infra/regent/internal/event"
	"github.com/regent-infra/regent/internal/kafka"
	"github.com/regent-infra/regent/internal/record"
	"github.com/regent-infra/regent/internal/topics"
	"github.com/regent-infra/regent/schemas"
)

// eventFilter says which events are shown.
type eventFilter struct {
	cluster, resource string
	types, topics     []string
	heartbeats        bool
	from              string
	follow            bool
	limit             int
	uncommitted       bool
}

func (a *app) eventsCommand() *cobra.Command {
	var format string
	var f eventFilter
	cmd := &cobra.Command{
		Use: "events [CLUSTER | RESOURCE]", GroupID: groupLook,
		Short: "Follow the events on the topics, decoded",
		Long: `Follow the events on all of Regent's topics, decoded, as they are committed. Heartbeats are left out unless asked for.

--from says where to begin: now (the default), earliest, an offset, a moment (RFC 3339), or a time ago such as 10m. An offset counts in each
partition that is read, so give --topic and a cluster with it.`,
		Example: `  regent events                                        # everything, live
  regent events postgres/orders --from 10m             # the last ten minutes of one cluster, then live
  regent events --topic commands --topic outcomes --from earliest --follow=false
  regent events --type PromotePostgres -o json | jq .payload.evidence`,
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: a.completeResources,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 {
				f.resource = args[0]
			}
			c, err := a.load(cmd)
			if err != nil {
				return err
			}
			o, err := a.output(format)
			if err != nil {
				return err
			}
			if err := f.check(); err != nil {
				return err
			}
			l, err := a.dial(cmd.Context(), c)
			if err != nil {
				return err
			}
			defer l.close()
			err = a.tail(cmd.Context(), l, o, &f)
			if cmd.Context().Err() != nil {
				return nil
			}
			return err
		},
	}
	flags := cmd.Flags()
	flags.StringArrayVar(&f.topics, "topic", nil, "only this topic, such as commands or infra.state.fleet.v1; may be repeated")
	flags.StringArrayVar(&f.types, "type", nil, "only events of this type, such as CommandRejected; may be repeated")
	flags.StringVar(&f.cluster, "cluster", "", "only of this cluster")
	flags.BoolVar(&f.heartbeats, "heartbeats", false, "heartbeats and ticks, too")
	flags.StringVar(&f.from, "from", "now", "where to begin: now, earliest, OFFSET, TIME, or how long ago")
	flags.BoolVarP(&f.follow, "follow", "f", true, "go on with what comes; =false: end where the topics end now")
	flags.IntVar(&f.limit, "limit", 0, "end after so many events; 0: no limit")
	flags.BoolVar(&f.uncommitted, "uncommitted", false, "also records of transactions that are open or were aborted")
	addLink(cmd)
	a.addOutput(cmd, &format)
	_ = cmd.RegisterFlagCompletionFunc("cluster", a.completeClusters) // fails only for an unknown flag
	return cmd
}

func (f *eventFilter) check() error {
	if f.resource != "" {
		id, err := event.ParseResourceID(f.resource)
		if err != nil {
			return withCode(exitUsage, err)
		}
		if f.cluster != "" && f.cluster != string(id.Cluster()) {
			return usagef("--cluster %s: the resource %s belongs to another cluster", f.cluster, f.resource)
		}
		f.cluster = string(id.Cluster())
		if id.Node() == "" {
			f.resource = ""
		}
	}
	if f.cluster != "" {
		if _, err := event.ParseClusterID(f.cluster); err != nil {
			return withCode(exitUsage, err)
		}
	}
	if err := checkTypes(f.types); err != nil {
		return err
	}
	if f.limit < 0 {
		return usagef("--limit %d: expected 0 or more", f.limit)
	}
	return nil
}

// checkTypes refuses types of events that there are not.
func checkTypes(types []string) error {
	for _, t := range types {
		if schemas.NewRecord(t) == nil {
			return usagef("--type %s: there is no such event (see schemas/), expected one such as CommandRejected", t)
		}
	}
	return nil
}

// origin parses --from; now is a moment that nothing is later than.
func (f *eventFilter) origin(now time.Time) (from origin, latest bool, err error) {
	switch f.from {
	case "now":
		return origin{}, true, nil
	case "earliest":
		return fromEarliest, false, nil
	}
	if offset, err := strconv.ParseInt(f.from, 10, 64); err == nil && offset >= 0 {
		return origin{offset: offset}, false, nil
	}
	if ago, err := time.ParseDuration(f.from); err == nil && ago >= 0 {
		return origin{at: now.Add(-ago)}, false, nil
	}
	if at, err := time.Parse(time.RFC3339, f.from); err == nil {
		return origin{at: at}, false, nil
	}
	return origin{}, false, usagef("--from %s: expected now, earliest, an offset, a moment such as 2026-01-31T12:00:00Z, or how long ago such as 10m", f.from)
}

// sources returns the partitions to read.
func (f *eventFilter) sources(ctx context.Context, l *link) ([]record.TopicPartition, error) {
	var names []string
	for _, name := range f.topics {
		topic, err := l.resolveTopic(name)
		if err != nil {
			return nil, err
		}
		names = append(names, topic)
	}
	if len(names) == 0 {
		for _, t := range l.set.All() {
			if !f.heartbeats && t.Kind != "" && t.Name == topics.Heartbeats(t.Kind) {
				continue
			}
			names = append(names, t.Name)
		}
	}
	found, err := l.admin.Topics(ctx, names...)
	if err != nil {
		return nil, err
	}
	var partitions []record.TopicPartition
	for _, name := range names {
		t, ok := found[name]
		if !ok {
			return nil, fmt.Errorf("read topic %s: it does not exist (regent topics apply creates it; is this the right cluster?)", name)
		}
		declared, _ := l.set.Topic(name)
		if f.cluster != "" && declared.Kind != "" {
			partitions = append(partitions, record.TopicPartition{Topic: name, Partition: event.Partition(event.ClusterID(f.cluster), t.Partitions)})
			continue
		}
		for p := range t.Partitions {
			partitions = append(partitions, record.TopicPartition{Topic: name, Partition: p})
		}
	}
	return partitions, nil
}

// errEnough ends a tail.
var errEnough = errors.New("enough events")

func (a *app) tail(ctx context.Context, l *link, o *output, f *eventFilter) error {
	from, latest, err := f.origin(a.clock.Now())
	if err != nil {
		return err
	}
	partitions, err := f.sources(ctx, l)
	if err != nil {
		return err
	}
	shown := 0
	show := func(r record.Record) error {
		printed, err := f.show(l, o, &r)
		if printed {
			shown++
		}
		if err == nil && f.limit > 0 && shown >= f.limit {
			return errEnough
		}
		return err
	}
	if !f.follow {
		var first error
		if latest {
			return nil
		}
		err := l.scan(ctx, partitions, from, func(r record.Record) {
			if first == nil {
				first = show(r)
			}
		})
		if err == nil {
			err = first
		}
		return notEnough(err)
	}
	starts, err := f.starts(ctx, l, partitions, from, latest)
	if err != nil {
		return err
	}
	reader, err := kafka.NewReader(l.kafka, starts, kafka.ReaderConfig{Uncommitted: f.uncommitted})
	if err != nil {
		return err
	}
	defer reader.Close()
	for {
		records, err := reader.Poll(ctx)
		if err != nil {
			return err
		}
		for _, r := range records {
			if err := show(r); err != nil {
				return notEnough(err)
			}
		}
	}
}

// starts returns where a reader that goes on for ever begins.
func (f *eventFilter) starts(ctx context.Context, l *link, partitions []record.TopicPartition, from origin, latest bool) (map[record.TopicPartition]kafka.Start, error) {
	starts := map[record.TopicPartition]kafka.Start{}
	var names []string
	for _, tp := range partitions {
		starts[tp] = kafka.FromLatest()
		if !slices.Contains(names, tp.Topic) {
			names = append(names, tp.Topic)
		}
	}
	if latest {
		return starts, nil
	}
	begins, err := l.offsets(ctx, from, names)
	if err != nil {
		return nil, err
	}
	for tp := range starts {
		starts[tp] = kafka.FromOffset(begins[tp])
	}
	return starts, nil
}

func notEnough(err error) error {
	if errors.Is(err, errEnough) {
		return nil
	}
	return err
}

// shownEvent is an event with where it stands, for programs.
type shownEvent struct {
	Topic     string                  `json:"topic"`
	Partition int32                   `json:"partition"`
	Offset    int64                   `json:"offset"`
	Timestamp time.Time               `json:"timestamp"`
	Key       string                  `json:"key"`
	Header    *schemas.EnvelopeHeader `json:"header,omitempty"`
	Payload   any                     `json:"payload"`
	Error     string                  `json:"error,omitempty"`
}

// show prints one record if it passes the filter, and reports whether it did.
func (f *eventFilter) show(l *link, o *output, r *record.Record) (bool, error) {
	out := shownEvent{Topic: r.Topic, Partition: r.Partition, Offset: r.Offset, Timestamp: r.Timestamp, Key: string(r.Key)}
	kind, resource, line := "tombstone", string(r.Key), "deleted"
	if !r.Tombstone() {
		e, err := l.decode(r)
		var permanent *event.DecodeError
		switch {
		case err == nil:
			kind, resource = e.Type, e.Resource
			out.Header, out.Payload = &e.EnvelopeHeader, e.Payload
			line = summarize(o.style, e.Payload)
		case errors.As(err, &permanent):
			kind, out.Error = "undecodable", err.Error()
			line = out.Error
		default:
			return false, err
		}
	}
	if !f.passes(kind, resource, out.Key) {
		return false, nil
	}
	switch o.format {
	case formatJSON:
		return true, json.NewEncoder(o.out).Encode(out)
	case formatYAML:
		raw, err := toYAML(out)
		if err == nil {
			_, err = fmt.Fprintf(o.out, "---\n%s", raw)
		}
		return true, err
	}
	at := r.Timestamp.UTC().Format("15:04:05.000")
	if o.format == formatWide {
		at = r.Timestamp.UTC().Format("2006-01-02 15:04:05.000")
	}
	_, err := fmt.Fprintf(o.out, "%s  %s/%d@%d  %s  %s  %s\n", at, shortTopic(r.Topic), r.Partition, r.Offset, o.style.bold(kind), resource, line)
	if err == nil && o.format == formatWide && out.Header != nil {
		_, err = fmt.Fprintf(o.out, "    %s\n", o.style.faint(fmt.Sprintf("id %s, source %s, follows from %s, story %s", out.Header.ID, out.Header.Source, orDash(out.Header.CausationID), orDash(out.Header.CorrelationID))))
	}
	return true, err
}

func (f *eventFilter) passes(kind, resource, key string) bool {
	if len(f.types) > 0 && !slices.Contains(f.types, kind) {
		return false
	}
	if !f.heartbeats && (kind == "NodeHeartbeat" || kind == "StreamTicked") && len(f.types) == 0 && len(f.topics) == 0 {
		return false
	}
	if f.resource != "" && resource != f.resource && key != f.resource {
		return false
	}
	return f.cluster == "" || within(resource, f.cluster) || within(key, f.cluster)
}

// within reports whether id is the cluster or a part of it.
func within(id, cluster string) bool { return id == cluster || strings.HasPrefix(id, cluster+"/") }
