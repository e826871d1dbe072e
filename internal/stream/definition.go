package stream

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"github.com/regent-infra/regent/statestore"
)

// Validate reports every fault of the definition together.
func (d *Definition) Validate() error {
	var errs []error
	fault := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf("processor %q: "+format, append([]any{d.Name}, args...)...))
	}
	if d.Name == "" {
		fault("Name is empty")
	}
	if d.FoldVersion < 0 {
		fault("FoldVersion is %d: expected 0 or more", d.FoldVersion)
	}
	if len(d.Inputs) == 0 {
		fault("Inputs is empty: expected at least one topic")
	}
	if d.NewMachine == nil {
		fault("NewMachine is nil")
	}
	if d.DeadLetter == nil {
		fault("DeadLetter is nil: an input that cannot be processed would stop the partition for ever")
	}
	d.validateTopics(fault)
	d.validateTables(fault)
	if t := d.Tick; t != nil {
		if !slices.ContainsFunc(d.Inputs, func(in Input) bool { return in.Topic == t.Topic }) {
			fault("Tick.Topic is %q: expected one of the inputs, else nobody would see the tick", t.Topic)
		}
		if t.Every <= 0 {
			fault("Tick.Every is %s: expected more than 0", t.Every)
		}
		if t.Make == nil {
			fault("Tick.Make is nil")
		}
	}
	return errors.Join(errs...)
}

func (d *Definition) validateTopics(fault func(string, ...any)) {
	seen := map[string]bool{}
	for _, in := range d.Inputs {
		if in.Topic == "" {
			fault("an input has no topic")
		}
		if seen[in.Topic] {
			fault("input %q is named twice", in.Topic)
		}
		seen[in.Topic] = true
	}
	if d.Changelog != "" && seen[d.Changelog] {
		fault("Changelog %q is an input too: a processor cannot read its own redo log", d.Changelog)
	}
	outputs := map[string]bool{}
	for _, out := range d.Outputs {
		if out == "" || out == d.Changelog {
			fault("output %q: expected a topic other than the changelog, which is an output already", out)
		}
		if outputs[out] {
			fault("output %q is named twice", out)
		}
		outputs[out] = true
	}
}

func (d *Definition) validateTables(fault func(string, ...any)) {
	bySource := map[string]string{}
	names := map[string]bool{}
	for _, t := range d.Tables {
		if err := statestore.CheckName(storeName(d.Name, t.Name)); t.Name == "" || err != nil {
			fault("table %q: expected a name that is, with the processor's, 1 to 254 bytes long", t.Name)
		}
		if names[t.Name] {
			fault("table %q is named twice", t.Name)
		}
		names[t.Name] = true
		switch {
		case t.Source == "":
			fault("table %q has no redo source: expected the changelog, or a compacted input that names the table", t.Name)
		case t.Source == d.Changelog:
		case !slices.ContainsFunc(d.Inputs, func(in Input) bool { return in.Topic == t.Source && in.Table == t.Name }):
			fault("table %q: its redo source %q is neither the changelog nor an input that names this table", t.Name, t.Source)
		}
		if other, ok := bySource[t.Source]; ok && t.Source != "" {
			fault("tables %q and %q share the redo source %q: expected one table for each", other, t.Name, t.Source)
		}
		bySource[t.Source] = t.Name
	}
	for _, in := range d.Inputs {
		if in.Table != "" && !names[in.Table] {
			fault("input %q names the table %q, which is not declared", in.Topic, in.Table)
		}
		if in.Looks != "" && !names[in.Looks] {
			fault("input %q is looked up in the table %q, which is not declared", in.Topic, in.Looks)
		}
	}
}

// topics returns every topic that must exist, sorted.
func (d *Definition) topics() []string {
	var out []string
	for _, in := range d.Inputs {
		out = append(out, in.Topic)
	}
	out = append(out, d.Outputs...)
	if d.Changelog != "" {
		out = append(out, d.Changelog)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// inputTopics returns the topics of the inputs in their order.
func (d *Definition) inputTopics() []string {
	out := make([]string, 0, len(d.Inputs))
	for _, in := range d.Inputs {
		out = append(out, in.Topic)
	}
	return out
}

// StoreName is what a processor's table is called in the process's one store, for [statestore.PartitionPrefix] and its relatives.
func StoreName(processor, table string) string { return storeName(processor, table) }

// storeName is what a table is called in the process's one store.
func storeName(processor, table string) string { return processor + "/" + table }

// ValidateTopics checks the definition against the topics of the cluster and returns every fault: a topic that does not exist,
// inputs and changelog of unequal partition counts, a table whose source is not compacted.
func (d *Definition) ValidateTopics(topics map[string]TopicInfo) error {
	var errs []error
	fault := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf("processor %q: "+format, append([]any{d.Name}, args...)...))
	}
	for _, name := range d.topics() {
		if _, ok := topics[name]; !ok {
			fault("topic %q does not exist; apply topics.yaml first", name)
		}
	}
	for _, t := range d.Tables {
		if info, ok := topics[t.Source]; ok && !info.Compacted {
			fault("table %q: its redo source %q is not compacted, so its latest values would expire", t.Name, t.Source)
		}
	}
	if len(errs) > 0 {
		return errors.Join(errs...)
	}
	if d.SingleTask {
		if n := topics[d.Changelog].Partitions; d.Changelog != "" && n != 1 {
			fault("the changelog %q of a single task has %d partitions: expected 1", d.Changelog, n)
		}
		return errors.Join(errs...)
	}
	first := d.Inputs[0].Topic
	want := topics[first].Partitions
	for _, name := range d.inputTopics()[1:] {
		if n := topics[name].Partitions; n != want {
			fault("input %q has %d partitions and %q has %d: co-partitioned topics need the same number", name, n, first, want)
		}
	}
	if n := topics[d.Changelog].Partitions; d.Changelog != "" && n != want {
		fault("the changelog %q has %d partitions and input %q has %d: expected the same number", d.Changelog, n, first, want)
	}
	return errors.Join(errs...)
}

// partitionsOf returns the input partitions of one task.
func (d *Definition) partitionsOf(task int32, topics map[string]TopicInfo) []topicPartition {
	var out []topicPartition
	for _, in := range d.Inputs {
		if !d.SingleTask {
			out = append(out, topicPartition{Topic: in.Topic, Partition: task})
			continue
		}
		for p := range topics[in.Topic].Partitions {
			out = append(out, topicPartition{Topic: in.Topic, Partition: p})
		}
	}
	return out
}

// ChangelogTable returns the name of the table that is redone from the changelog; empty if there is none.
func (d *Definition) ChangelogTable() string { return d.changelogTable() }

// changelogTable returns the name of the table that is redone from the changelog; empty if there is none.
func (d *Definition) changelogTable() string {
	for _, t := range d.Tables {
		if t.Source == d.Changelog {
			return t.Name
		}
	}
	return ""
}

// tableOf returns the table that is kept of an input; empty if none.
func (d *Definition) tableOf(topic string) string {
	return d.input(topic).Table
}

// nearOf returns the table in which most keys of a topic are looked up, or "".
func (d *Definition) nearOf(topic string) string {
	in := d.input(topic)
	return cmp.Or(in.Looks, in.Table)
}

// input returns what is declared of an input; nothing of a topic that is none.
func (d *Definition) input(topic string) Input {
	if i := slices.IndexFunc(d.Inputs, func(in Input) bool { return in.Topic == topic }); i >= 0 {
		return d.Inputs[i]
	}
	return Input{}
}
