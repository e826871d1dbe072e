package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"github.com/regent-infra/regent/internal/config"
	"github.com/regent-infra/regent/internal/httpapi"
	"github.com/regent-infra/regent/internal/record"
	"github.com/regent-infra/regent/internal/stream"
)

// verifyAttempts is how often a partition that changed too fast to be compared is looked at again.
const verifyAttempts = 20

// maxBetween bounds how many records may have been committed while the server computed a digest: the state after each is tried.
const maxBetween = 2_000

// verification is the result of a comparison.
type verification struct {
	Equal      bool                `json:"equal"`
	Records    int64               `json:"records"`
	Keys       int64               `json:"keys"`
	Seconds    float64             `json:"seconds"`
	Partitions []verifiedPartition `json:"partitions"`
}

type verifiedPartition struct {
	Processor string `json:"processor"`
	Topic     string `json:"topic"`
	Partition int32  `json:"partition"`
	Keys      int64  `json:"keys"`
	// Position is the offset up to which the topic gave the same state.
	Position int64  `json:"position"`
	Running  string `json:"running"`
	Rebuilt  string `json:"rebuilt"`
	Equal    bool   `json:"equal"`
}

// verifyState compares the state of a running server with the topics.
func (a *app) verifyState(ctx context.Context, c *config.Loaded, o *output) error {
	l, err := a.dial(ctx, c)
	if err != nil {
		return err
	}
	defer l.close()
	v := &verifier{link: l, api: newAPI(c), bar: a.env.Stderr, now: a.clock.Now}
	result, err := v.run(ctx)
	if err != nil {
		return err
	}
	if done, err := o.structured(result); done {
		if err == nil && !result.Equal {
			err = withCode(exitFailed, errSilent)
		}
		return err
	}
	return result.print(o)
}

func (v *verification) print(o *output) error {
	t := &table{header: []string{"PROCESSOR", "TOPIC", "PARTITION", "KEYS", "UP TO", "DIGEST", "EQUAL"}, right: []int{2, 3, 4}}
	for _, p := range v.Partitions {
		equal := o.style.health("OK")
		if !p.Equal {
			equal = o.style.health("FAULT")
		}
		t.add(p.Processor, p.Topic, fmt.Sprint(p.Partition), fmt.Sprint(p.Keys), fmt.Sprint(p.Position), p.Rebuilt[:16], equal)
	}
	t.print(o)
	rate := float64(v.Records) / max(v.Seconds, 0.001)
	if !v.Equal {
		return fmt.Errorf("verify the state: the running state and the topics differ; keep both and see the partitions above")
	}
	fmt.Fprintf(o.out, "%d keys in %d partitions rebuilt from %d records in %.2fs (%.0f records/s); every digest equals that of the running state\n",
		v.Keys, len(v.Partitions), v.Records, v.Seconds, rate)
	return nil
}

// verifier compares running state with topics.
type verifier struct {
	link *link
	api  *api
	bar  io.Writer
	now  func() time.Time

	records int64
}

func (v *verifier) run(ctx context.Context) (*verification, error) {
	begin := v.now()
	result := &verification{Equal: true, Partitions: []verifiedPartition{}}
	var wanted map[record.TopicPartition]httpapi.Digest
	states := map[record.TopicPartition]*materialised{}
	open := []record.TopicPartition{}
	for attempt := 0; attempt < verifyAttempts && (attempt == 0 || len(open) > 0); attempt++ {
		before, err := v.digests(ctx, &wanted)
		if err != nil {
			return nil, err
		}
		if attempt == 0 {
			open = slices.Collect(maps.Keys(wanted))
		}
		if err := v.read(ctx, open, states, before); err != nil {
			return nil, err
		}
		open = slices.DeleteFunc(open, func(tp record.TopicPartition) bool {
			p, equal := states[tp].compare(wanted[tp], before[tp])
			if equal || attempt == verifyAttempts-1 {
				result.Partitions = append(result.Partitions, p)
				result.Keys += p.Keys
				result.Equal = result.Equal && equal
			}
			return equal
		})
	}
	slices.SortFunc(result.Partitions, func(a, b verifiedPartition) int {
		return compareText(a.Processor, b.Processor, int(a.Partition-b.Partition))
	})
	result.Records, result.Seconds = v.records, v.now().Sub(begin).Seconds()
	return result, nil
}

func compareText(a, b string, otherwise int) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	default:
		return otherwise
	}
}

// digests asks the server, and returns the ends of the changelogs as they were before it was asked.
func (v *verifier) digests(ctx context.Context, wanted *map[record.TopicPartition]httpapi.Digest) (map[record.TopicPartition]int64, error) {
	ask := func() (map[record.TopicPartition]httpapi.Digest, []string, error) {
		var answer struct {
			Digests []httpapi.Digest `json:"digests"`
		}
		if err := v.api.get(ctx, "/v1/digests", nil, &answer); err != nil {
			return nil, nil, err
		}
		found, names := map[record.TopicPartition]httpapi.Digest{}, []string{}
		for _, d := range answer.Digests {
			if d.Changelog == "" {
				continue
			}
			found[record.TopicPartition{Topic: d.Changelog, Partition: d.Partition}] = d
			if !slices.Contains(names, d.Changelog) {
				names = append(names, d.Changelog)
			}
		}
		return found, names, nil
	}
	if *wanted == nil {
		first, names, err := ask()
		if err != nil {
			return nil, err
		}
		if len(names) == 0 {
			return nil, fmt.Errorf("verify the state: the server at %s runs no processor (which process has the roles reducer and orchestrator?)", v.api.base)
		}
		*wanted = first
	}
	names := []string{}
	for tp := range *wanted {
		if !slices.Contains(names, tp.Topic) {
			names = append(names, tp.Topic)
		}
	}
	before, err := v.link.admin.StableOffsets(ctx, names...)
	if err != nil {
		return nil, err
	}
	*wanted, _, err = ask()
	return before, err
}

// read brings the states up to the ends of their partitions, with a bar that shows rate and time left.
func (v *verifier) read(ctx context.Context, partitions []record.TopicPartition, states map[record.TopicPartition]*materialised, before map[record.TopicPartition]int64) error {
	var total int64
	for _, tp := range partitions {
		if states[tp] == nil {
			states[tp] = &materialised{tp: tp, entries: map[string][]byte{}}
		}
		states[tp].journal = nil
		total += max(before[tp]-states[tp].next, 0)
	}
	progress := newMeter(v.bar, "materialise")
	done := int64(0)
	defer progress.end()
	from := fromEarliest
	if len(partitions) > 0 && states[partitions[0]].next > 0 {
		// Later rounds read on; one offset for all would not do, so what was read already is passed over.
		from = origin{offset: slices.Min(nexts(partitions, states))}
	}
	return v.link.scan(ctx, partitions, from, func(r record.Record) {
		if states[r.Position()].apply(r, before[r.Position()]) {
			v.records++
			done++
			progress.set(done, total)
		}
	})
}

func nexts(partitions []record.TopicPartition, states map[record.TopicPartition]*materialised) []int64 {
	list := make([]int64, len(partitions))
	for i, tp := range partitions {
		list[i] = states[tp].next
	}
	return list
}

// materialised is one partition of a changelog as a table.
type materialised struct {
	tp      record.TopicPartition
	entries map[string][]byte
	next    int64
	// journal are the records after the position that a digest was asked at: the running state may contain any number of them.
	journal []record.Record
}

// apply takes a record in if it is new, and reports whether it was. One at or after end is kept for [materialised.compare].
func (m *materialised) apply(r record.Record, end int64) bool {
	if r.Offset < m.next {
		return false
	}
	m.next = r.Offset + 1
	if r.Offset >= end {
		m.journal = append(m.journal, r)
		return true
	}
	m.put(&r)
	return true
}

func (m *materialised) put(r *record.Record) {
	if r.Tombstone() {
		delete(m.entries, string(r.Key))
		return
	}
	m.entries[string(r.Key)] = r.Value
}

func (m *materialised) digest() stream.Digest {
	d := stream.NewDigester()
	for _, key := range slices.Sorted(maps.Keys(m.entries)) {
		d.Add([]byte(key), m.entries[key])
	}
	return d.Sum()
}

// compare looks for the running digest among the states from before it was asked for to the end that was read.
func (m *materialised) compare(running httpapi.Digest, before int64) (verifiedPartition, bool) {
	out := verifiedPartition{Processor: running.Processor, Topic: m.tp.Topic, Partition: m.tp.Partition, Running: running.Sum, Position: before}
	journal := m.journal
	m.journal = nil
	for i := 0; ; i++ {
		if i <= maxBetween {
			d := m.digest()
			out.Keys, out.Rebuilt, out.Equal = d.Entries, d.Sum, d.Sum == running.Sum
		}
		if i == len(journal) {
			return out, out.Equal
		}
		if out.Equal {
			for j := i; j < len(journal); j++ {
				m.put(&journal[j])
			}
			return out, true
		}
		m.put(&journal[i])
		out.Position = journal[i].Offset + 1
	}
}
