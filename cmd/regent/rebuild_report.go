package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/regent-infra/regent/internal/stream"
)

// rebuildResult is what a rebuild has made.
type rebuildResult struct {
	DataDir   string  `json:"data_dir"`
	ClusterID string  `json:"cluster_id"`
	Records   int64   `json:"records"`
	Keys      int64   `json:"keys"`
	Seconds   float64 `json:"seconds"`
	// Equal says that every entry is what the topics say.
	Equal      bool               `json:"equal"`
	Partitions []rebuiltPartition `json:"partitions"`
	// CrossCheck is null where it was not wanted.
	CrossCheck *crossCheck `json:"cross_check"`
}

type rebuiltPartition struct {
	Processor string          `json:"processor"`
	Table     string          `json:"table"`
	Partition int32           `json:"partition"`
	Sources   []rebuiltSource `json:"sources"`
	Keys      int64           `json:"keys"`
	Digest    string          `json:"digest"`
	Equal     bool            `json:"equal"`
	// Lost says that the consumer group has no position any more: the next start finds it.
	Lost     bool     `json:"lost,omitempty"`
	Examples []string `json:"examples,omitempty"`
}

type rebuiltSource struct {
	Topic     string `json:"topic"`
	Partition int32  `json:"partition"`
	From      int64  `json:"from"`
	End       int64  `json:"end"`
}

func (r *rebuildResult) add(processor string, part *stream.RebuiltPart) {
	p := rebuiltPartition{
		Processor: processor, Table: part.Table, Partition: part.Partition, Keys: part.Entries, Digest: part.Sum, Lost: part.Lost, Sources: []rebuiltSource{},
	}
	for _, s := range part.Sources {
		p.Sources = append(p.Sources, rebuiltSource{Topic: s.Topic, Partition: s.Partition, From: s.From, End: s.End})
	}
	r.Keys += part.Entries
	r.Partitions = append(r.Partitions, p)
}

// compared takes the result of a comparison with the topics in.
func (r *rebuildResult) compared(processor string, c *stream.Comparison) {
	for i := range r.Partitions {
		if p := &r.Partitions[i]; p.Processor == processor && p.Table == c.Table && p.Partition == c.Partition {
			p.Equal, p.Examples = c.Same(), c.Examples
		}
	}
	r.Equal = r.Equal && c.Same()
}

// differences names the partitions that differ from the topics.
func (r *rebuildResult) differences() string {
	var list []string
	for _, p := range r.Partitions {
		if !p.Equal {
			list = append(list, fmt.Sprintf("%s, table %s, partition %d: %s", p.Processor, p.Table, p.Partition, strings.Join(p.Examples, ", ")))
		}
	}
	return strings.Join(list, "; ")
}

func (r *rebuildResult) print(o *output) {
	t := &table{header: []string{"PROCESSOR", "TABLE", "PARTITION", "KEYS", "UP TO", "DIGEST", "AS THE TOPICS"}, right: []int{2, 3, 4}}
	for _, p := range r.Partitions {
		upTo := int64(0)
		for _, s := range p.Sources {
			upTo += s.End
		}
		t.add(p.Processor, p.Table, fmt.Sprint(p.Partition), fmt.Sprint(p.Keys), fmt.Sprint(upTo), p.Digest[:16], o.style.health("OK"))
	}
	t.print(o)
	fmt.Fprintf(o.out, "rebuilt %d keys in %d partitions from %s, and swapped in; every key is as the topics say\n",
		r.Keys, len(r.Partitions), rate(r.Records, time.Duration(r.Seconds*float64(time.Second))))
	for _, p := range r.Partitions {
		if p.Lost {
			fmt.Fprintf(o.out, "the consumer group has no position for partition %d of %s: the next start finds it from what stands in the topic\n", p.Partition, p.Processor)
		}
	}
	if r.CrossCheck != nil {
		r.CrossCheck.print(o)
	}
}

// crossCheck is what folding the inputs again gave.
type crossCheck struct {
	Processors []crossChecked `json:"processors"`
}

// crossChecked is the cross-check of one processor.
type crossChecked struct {
	Processor  string              `json:"processor"`
	Comparable bool                `json:"comparable"`
	Records    int64               `json:"records"`
	Seconds    float64             `json:"seconds"`
	Equal      int64               `json:"equal"`
	Differing  int64               `json:"differing"`
	Partitions []stream.Comparison `json:"partitions,omitempty"`
	// Notes say what cannot be compared, or is not expected to be equal, and why.
	Notes []string `json:"notes,omitempty"`
}

// add takes one processor in. What of the inputs is gone, and what follows for the comparison, goes into the notes.
func (c *crossCheck) add(processor string, again *stream.RebuildReport, compared []stream.Comparison, took time.Duration, lost bool) {
	p := crossChecked{Processor: processor, Comparable: !lost, Records: again.Records, Seconds: took.Seconds(), Partitions: compared}
	if lost {
		p.Notes = append(p.Notes, "not comparable: the consumer group has no position, so nothing says up to where the inputs belong to this state")
	}
	for i := range compared {
		p.Equal += compared[i].Equal
		p.Differing += compared[i].Different + compared[i].Missing + compared[i].Surplus
	}
	for _, in := range again.Inputs {
		name := fmt.Sprintf("%s/%d", shortTopic(in.Topic), in.Partition)
		switch gone := in.End - in.Start - in.Records; {
		case in.End == 0 || in.End <= in.Start && in.Start == 0:
		case !in.Compacted && in.Start > 0:
			p.Notes = append(p.Notes, fmt.Sprintf("%s begins at offset %d, what was before has expired: what follows from it alone (who was heard last, and so liveness and health) may differ", name, in.Start))
		case in.Compacted && in.Table == "" && gone > 0:
			p.Notes = append(p.Notes, fmt.Sprintf("%s holds %d of %d records any more, the others were replaced by later ones of their keys: the latest values are comparable, the guard of a resource whose deletion is gone too may differ", name, in.Records, in.End-in.Start))
		}
	}
	c.Processors = append(c.Processors, p)
}

func (c *crossCheck) print(o *output) {
	for _, p := range c.Processors {
		switch {
		case !p.Comparable:
		case p.Differing == 0:
			fmt.Fprintf(o.out, "cross-check: %s: folding the inputs again gives the same, %d keys from %s\n",
				p.Processor, p.Equal, rate(p.Records, time.Duration(p.Seconds*float64(time.Second))))
		default:
			fmt.Fprintf(o.out, "cross-check: %s: folding the inputs again gives %d keys that are equal and %d that differ\n", p.Processor, p.Equal, p.Differing)
			for _, d := range p.Partitions {
				if !d.Same() {
					fmt.Fprintf(o.out, "  partition %d: %d have another value, %d are in the fold alone, %d in the state alone: %s\n",
						d.Partition, d.Different, d.Missing, d.Surplus, strings.Join(d.Examples, ", "))
				}
			}
		}
		for _, n := range p.Notes {
			fmt.Fprintf(o.out, "cross-check: %s: %s\n", p.Processor, n)
		}
	}
}
