package main

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/regent-infra/regent/internal/event"
	"github.com/regent-infra/regent/internal/httpapi"
	"github.com/regent-infra/regent/internal/replay"
	"github.com/regent-infra/regent/internal/topics"
)

// checkResource refuses what is no id of a resource.
func checkResource(id string) error {
	if _, err := event.ParseResourceID(id); err != nil && id != "fleet" {
		return withCode(exitUsage, err)
	}
	return nil
}

// narrow makes the filter look only where the resources of an id or a prefix are.
func (f *pastFilter) narrow(id string, one bool) {
	switch {
	case one && id == "fleet":
		f.roles, f.key = []string{roleFleet}, id
		return
	case one:
		f.roles, f.key = []string{roleReducer}, id
	default:
		f.prefix = id
	}
	if resource, err := event.ParseResourceID(strings.TrimSuffix(id, "/")); err == nil {
		f.cluster = string(resource.Cluster())
	}
}

// replayedPart says how a partition was replayed.
type replayedPart struct {
	Topic     string `json:"topic"`
	Partition int32  `json:"partition"`
	// Cut is the offset below which everything committed is in the state, From where reading began.
	Cut     int64 `json:"cut"`
	From    int64 `json:"from"`
	Records int64 `json:"records"`
	// Checkpoint stands for what is below From; empty if none was needed.
	Checkpoint string `json:"checkpoint,omitempty"`
	// Exact says why it is.
	Exact replay.Proof `json:"exact"`
}

// replayedState is what replay prints for programs.
type replayedState struct {
	At         string         `json:"at"`
	Records    int64          `json:"records"`
	Seconds    float64        `json:"seconds"`
	Partitions []replayedPart `json:"partitions"`
	Resources  []pastResource `json:"resources"`
}

func (s *pastState) report() replayedState {
	out := replayedState{At: s.moment.String(), Records: s.records, Seconds: s.took.Seconds(), Partitions: []replayedPart{}, Resources: []pastResource{}}
	for _, part := range s.parts {
		p := replayedPart{Topic: part.Topic, Partition: part.Partition, Cut: part.Cut, From: part.From, Records: part.Records, Exact: part.Proof}
		if part.Base != nil {
			p.Checkpoint = part.Base.Name
		}
		out.Partitions = append(out.Partitions, p)
	}
	return out
}

// summary is the last line for people.
func (s *pastState) summary(keys int) string {
	var names []string
	for _, part := range s.parts {
		if part.Base != nil && !slices.Contains(names, part.Base.Name) {
			names = append(names, part.Base.Name)
		}
	}
	from := ""
	if len(names) > 0 {
		from = ", from the checkpoint " + strings.Join(names, ", ")
	}
	return fmt.Sprintf("%d keys in %d partitions as of %s, exactly: %s%s", keys, len(s.parts), s.moment, rate(s.records, s.took), from)
}

func (p *past) showState(o *output, s *pastState, values []pastResource) error {
	out := s.report()
	out.Resources = values
	if done, err := o.structured(out); done {
		return err
	}
	p.table(o, s, values)
	fmt.Fprintln(o.out, s.summary(len(values)))
	return nil
}

func (p *past) table(o *output, s *pastState, values []pastResource) {
	now := p.app.clock.Now()
	t := &table{header: []string{"KEY", "TYPE", "HEALTH", "UPDATED"}}
	if o.format == formatWide {
		t.header = append(t.header, "POSITION", "DETAIL")
	}
	for _, v := range values {
		updated := s.since(v.UpdatedAt, now)
		if updated != "-" {
			updated += " before"
		}
		cells := []string{v.ID, v.Type, o.style.health(httpapi.HealthOf(v.Value)), updated}
		if o.format == formatWide {
			position := "checkpoint"
			if v.Position != nil {
				position = fmt.Sprintf("%s/%d@%d", v.Position.Topic, v.Position.Partition, v.Position.Offset)
			}
			cells = append(cells, position, detailOf(v.Value))
		}
		t.add(cells...)
	}
	t.print(o)
}

// showOne prints one resource as get does.
func (p *past) showOne(o *output, s *pastState, id string, found []pastResource) error {
	if len(found) == 0 {
		return fmt.Errorf("%s: there was no such resource at %s (the name may be wrong: regent get --at lists all)", id, s.moment)
	}
	r := found[0]
	if done, err := o.structured(r); done {
		return err
	}
	fmt.Fprintf(o.out, "%s  %s  as of %s\n", o.style.bold(r.ID), r.Type, s.moment)
	where := "from the checkpoint " + orDash(s.report().Partitions[0].Checkpoint)
	if r.Position != nil {
		where = fmt.Sprintf("%s/%d offset %d, %s before", r.Position.Topic, r.Position.Partition, r.Position.Offset, s.since(r.UpdatedAt, p.app.clock.Now()))
	}
	fmt.Fprintf(o.out, "%s\n\n", o.style.faint(where))
	raw, err := toYAML(r.Value)
	if err != nil {
		return fmt.Errorf("show %s: %w", id, err)
	}
	_, err = o.out.Write(raw)
	return err
}

// showMany prints resources as get does: by topic, so that the fleet comes last.
func (p *past) showMany(o *output, s *pastState, found []pastResource) error {
	slices.SortStableFunc(found, func(a, b pastResource) int {
		switch fleet := topics.FleetState; {
		case a.topic == fleet && b.topic != fleet:
			return 1
		case a.topic != fleet && b.topic == fleet:
			return -1
		default:
			return 0
		}
	})
	answer := struct {
		At        string         `json:"at"`
		Resources []pastResource `json:"resources"`
		Total     int            `json:"total"`
	}{s.moment.String(), found, len(found)}
	if done, err := o.structured(answer); done {
		return err
	}
	p.table(o, s, found)
	return nil
}

// Kinds of changes of a key.
const (
	keyAdded   = "added"
	keyChanged = "changed"
	keyRemoved = "removed"
)

// keyChange is what became of a key between two moments.
type keyChange struct {
	Topic  string          `json:"topic"`
	Key    string          `json:"key"`
	Type   string          `json:"type"`
	Change string          `json:"change"`
	Fields []replay.Change `json:"fields"`
}

// compareStates lists the keys that differ, with their fields. An envelope alone makes no difference: it tells when something was said, and why.
func compareStates(before, after []pastResource) ([]keyChange, error) {
	changes := []keyChange{}
	order := func(a, b *pastResource) int { return compareText(a.topic, b.topic, strings.Compare(a.ID, b.ID)) }
	for i, j := 0, 0; i < len(before) || j < len(after); {
		var c keyChange
		var a, b any
		switch {
		case j == len(after) || i < len(before) && order(&before[i], &after[j]) < 0:
			a, c = before[i].Value, keyChange{Topic: before[i].topic, Key: before[i].ID, Type: before[i].Type, Change: keyRemoved}
			i++
		case i == len(before) || order(&before[i], &after[j]) > 0:
			b, c = after[j].Value, keyChange{Topic: after[j].topic, Key: after[j].ID, Type: after[j].Type, Change: keyAdded}
			j++
		default:
			a, b = before[i].Value, after[j].Value
			c = keyChange{Topic: after[j].topic, Key: after[j].ID, Type: after[j].Type, Change: keyChanged}
			i, j = i+1, j+1
		}
		var err error
		if c.Fields, err = replay.Diff(a, b); err != nil {
			return nil, fmt.Errorf("compare %s: %w", c.Key, err)
		}
		if len(c.Fields) > 0 || c.Change != keyChanged {
			changes = append(changes, c)
		}
	}
	return changes, nil
}

func (p *past) showChanges(o *output, states []*pastState, changes []keyChange) error {
	result := struct {
		From    string      `json:"from"`
		To      string      `json:"to"`
		Records int64       `json:"records"`
		Seconds float64     `json:"seconds"`
		Changes []keyChange `json:"changes"`
	}{states[0].moment.String(), states[1].moment.String(), states[0].records + states[1].records, (states[0].took + states[1].took).Seconds(), changes}
	if done, err := o.structured(result); done {
		return err
	}
	count := map[string]int{}
	sign := map[string]string{keyAdded: "+", keyRemoved: "-", keyChanged: "~"}
	for _, c := range changes {
		count[c.Change]++
		fmt.Fprintf(o.out, "%s %s  %s\n", sign[c.Change], o.style.bold(c.Key), c.Type)
		if c.Change == keyRemoved && o.format != formatWide {
			continue
		}
		for _, f := range c.Fields {
			fmt.Fprintf(o.out, "    %s: %s\n", f.Path, changeText(c.Change, f))
		}
	}
	fmt.Fprintf(o.out, "from %s to %s: %d added, %d changed, %d removed\n", result.From, result.To, count[keyAdded], count[keyChanged], count[keyRemoved])
	return nil
}

func changeText(kind string, f replay.Change) string {
	short := func(v any) string {
		raw, err := json.Marshal(v)
		if err != nil {
			return fmt.Sprint(v)
		}
		if text := []rune(string(raw)); len(text) > 120 {
			return string(text[:117]) + "..."
		}
		return string(raw)
	}
	switch kind {
	case keyAdded:
		return short(f.New)
	case keyRemoved:
		return short(f.Old)
	default:
		return short(f.Old) + " → " + short(f.New)
	}
}

// replayPlan is what a dry run says.
type replayPlan struct {
	Moments []plannedMoment `json:"moments"`
	// Records is how many there are at most: each offset is one record, a marker, or nothing any more.
	Records int64 `json:"records_at_most"`
	// Seconds is how long it takes at the given rate; 0 without one.
	Seconds float64 `json:"seconds_at_most,omitempty"`
}

type plannedMoment struct {
	At         string        `json:"at"`
	Partitions []plannedPart `json:"partitions"`
}

type plannedPart struct {
	Topic      string `json:"topic"`
	Partition  int32  `json:"partition"`
	From       int64  `json:"from"`
	To         int64  `json:"to"`
	Start      int64  `json:"log_start"`
	Checkpoint string `json:"checkpoint,omitempty"`
}

func (r *replayPlan) add(m *pastMoment, stretches []replay.Stretch) {
	planned := plannedMoment{At: m.String(), Partitions: []plannedPart{}}
	for _, s := range stretches {
		part := plannedPart{Topic: s.TopicPartition.Topic, Partition: s.Partition, From: s.From, To: s.To, Start: s.Bounds.Start}
		if s.Base != nil {
			part.Checkpoint = s.Base.Name
		}
		planned.Partitions = append(planned.Partitions, part)
		r.Records += max(s.To-s.From, 0)
	}
	r.Moments = append(r.Moments, planned)
}

func (r *replayPlan) print(o *output) {
	t := &table{header: []string{"AT", "TOPIC", "PARTITION", "FROM", "TO", "RECORDS AT MOST", "CHECKPOINT"}, right: []int{2, 3, 4, 5}}
	for _, m := range r.Moments {
		for _, p := range m.Partitions {
			t.add(m.At, shortTopic(p.Topic), fmt.Sprint(p.Partition), fmt.Sprint(p.From), fmt.Sprint(p.To), fmt.Sprint(p.To-p.From), orDash(p.Checkpoint))
		}
	}
	t.print(o)
	fmt.Fprintf(o.out, "%d records at most would be read", r.Records)
	if r.Seconds > 0 {
		fmt.Fprintf(o.out, ", in %s at that rate", short(time.Duration(r.Seconds*float64(time.Second))))
	}
	fmt.Fprintln(o.out, "; whether the moment can be had exactly shows in reading")
}
