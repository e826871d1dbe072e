package killtest

import (
	"context"
	"errors"
	"fmt"
	"hash"
	"hash/fnv"
	"maps"
	"slices"
	"testing"

	"github.com/regent-infra/regent/internal/avrocodec"
	"github.com/regent-infra/regent/internal/event"
	"github.com/regent-infra/regent/internal/kafka"
	"github.com/regent-infra/regent/internal/record"
	"github.com/regent-infra/regent/internal/stream"
	"github.com/regent-infra/regent/internal/topics"
	"github.com/regent-infra/regent/processors/reducer"
	"github.com/regent-infra/regent/schemas"
)

// auditor reads all topics, committed records only, and holds the invariants against them. It may read on later.
type auditor struct {
	t          *testing.T
	admin      *kafka.Admin
	codec      *avrocodec.Codec
	ledger     *ledger
	partitions int32

	next    map[record.TopicPartition]int64
	sums    map[record.TopicPartition]hash.Hash64
	matched map[record.TopicPartition]int64 // acknowledged records that stand where they should
	records int64
	faults  []error

	folds []*reference // by partition
	fleet *reference
	// latest are the materialised output topics.
	latest map[record.TopicPartition]map[string][]byte
	// accepted are the observations that the fold has accepted and whose output was not read yet: position to key.
	accepted  map[position]string
	emitted   map[int32]int64 // the last observation of each partition whose output was read
	lineages  map[string]*lineage
	malformed map[position]bool
	letters   map[position][]string // readers that have complained
	commands  map[string]*story
	terms     map[string]*promotion // by cluster, the last one
	promoted  int
}

// position is where a record stands.
type position struct {
	record.TopicPartition
	offset int64
}

func positionOf(r *record.Record) position { return position{r.Position(), r.Offset} }

// outputs are the topics that processors write; readOrder has the inputs first, for outputs are held against them.
var (
	outputs   = []string{stateTopic, workflowsTopic, ordersTopic, outcomesTopic, topics.FleetState, topics.DeadLetter}
	readOrder = append([]string{observationsTopic, heartbeatsTopic, commandsTopic}, outputs...)
)

func newAuditor(t *testing.T, admin *kafka.Admin, codec *avrocodec.Codec, l *ledger, partitions int32) *auditor {
	t.Helper()
	a := &auditor{
		t: t, admin: admin, codec: codec, ledger: l, partitions: partitions,
		next: map[record.TopicPartition]int64{}, sums: map[record.TopicPartition]hash.Hash64{}, matched: map[record.TopicPartition]int64{},
		latest: map[record.TopicPartition]map[string][]byte{}, accepted: map[position]string{}, emitted: map[int32]int64{},
		lineages: map[string]*lineage{}, malformed: map[position]bool{}, letters: map[position][]string{},
		commands: map[string]*story{}, terms: map[string]*promotion{},
	}
	config := reducer.Config{Instance: "reference", Codec: codec, Partitions: partitions}
	def, err := reducer.Postgres(config)
	if err != nil {
		t.Fatal(err)
	}
	fleet, err := reducer.Fleet(config)
	if err != nil {
		t.Fatal(err)
	}
	for p := range partitions {
		a.folds = append(a.folds, newReference(def, p))
		a.emitted[p] = -1
	}
	a.fleet = newReference(fleet, 0)
	return a
}

func (a *auditor) fault(format string, args ...any) {
	a.faults = append(a.faults, fmt.Errorf(format, args...))
}

// report fails the test with what was found.
func (a *auditor) report() {
	a.t.Helper()
	if len(a.faults) > 0 {
		shown := a.faults[:min(len(a.faults), 20)]
		a.t.Fatalf("%d faults, the first are:\n%v", len(a.faults), errors.Join(shown...))
	}
}

// read reads on to the ends, or to the stable ends of all topics if there are none given.
func (a *auditor) read(ctx context.Context, ends map[record.TopicPartition]int64) {
	a.t.Helper()
	if ends == nil {
		var err error
		if ends, err = a.admin.StableOffsets(ctx, readOrder...); err != nil {
			a.t.Fatal(err)
		}
	}
	for _, topic := range readOrder {
		for p := range a.partitions {
			tp := record.TopicPartition{Topic: topic, Partition: p}
			end, exists := ends[tp]
			if !exists || a.next[tp] >= end {
				continue
			}
			err := a.admin.Scan(ctx, tp, a.next[tp], end, func(records []record.Record, _ int64) error {
				for i := range records {
					if records[i].Offset < end {
						a.take(&records[i])
					}
				}
				return nil
			})
			if err != nil {
				a.t.Fatal(err)
			}
			a.next[tp] = end
		}
	}
}

// take looks at one record.
func (a *auditor) take(r *record.Record) {
	a.records++
	sum := a.sums[r.Position()]
	if sum == nil {
		sum = fnv.New64a()
		a.sums[r.Position()] = sum
	}
	fmt.Fprintf(sum, "%d %d %d %t ", r.Offset, len(r.Key), len(r.Value), r.Value == nil)
	sum.Write(r.Key)
	sum.Write(r.Value)
	if want := a.ledger.at(r.Position(), r.Offset); want != 0 {
		a.matched[r.Position()]++
		if want != fingerprint(r) {
			a.fault("invariant 1: %v holds another record than was acknowledged there", positionOf(r))
		}
	}
	if r.Header(markMalformed) != nil {
		a.malformed[positionOf(r)] = true
	}
	switch r.Topic {
	case observationsTopic, heartbeatsTopic:
		a.fold(r)
	case commandsTopic:
		a.command(r)
	default:
		a.output(r)
	}
}

// fold gives an input to the reference.
func (a *auditor) fold(r *record.Record) {
	outs, poison, err := a.folds[r.Partition].process(r)
	if err != nil {
		a.t.Fatalf("fold %v: %v", positionOf(r), err)
	}
	if poison != a.malformed[positionOf(r)] {
		a.fault("invariant 7: %v: that it cannot be processed is %t, that it was malformed on purpose is %t", positionOf(r), poison, !poison)
	}
	own := func(out record.Record) bool { return string(out.Key) == string(r.Key) }
	if r.Topic == observationsTopic && slices.ContainsFunc(outs, own) {
		a.accepted[positionOf(r)] = string(r.Key)
	}
}

// output holds a record of a processor against what it follows from.
func (a *auditor) output(r *record.Record) {
	from, offset, ok := stream.ParseOrigin(r.Header(stream.HeaderOrigin))
	if !ok {
		a.fault("invariant 4: %v has no origin", positionOf(r))
		return
	}
	origin := position{from, offset}
	a.lineage(r, origin)
	entries := a.latest[r.Position()]
	if entries == nil {
		entries = map[string][]byte{}
		a.latest[r.Position()] = entries
	}
	if entries[string(r.Key)] = r.Value; r.Value == nil {
		delete(entries, string(r.Key))
	}
	switch r.Topic {
	case stateTopic:
		a.follows(r, origin)
		if _, _, err := a.fleet.process(r); err != nil {
			a.t.Fatalf("roll %v up: %v", positionOf(r), err)
		}
	case outcomesTopic:
		a.outcome(r)
	case ordersTopic:
		a.order(r)
	case topics.DeadLetter:
		letter := payload[schemas.DeadLetter](a, r)
		at := position{record.TopicPartition{Topic: letter.Topic, Partition: letter.Partition}, letter.Offset}
		if at != origin {
			a.fault("invariant 7: the dead letter %v is about %v and follows from %v", positionOf(r), at, origin)
		}
		a.letters[at] = append(a.letters[at], letter.Reader)
	}
}

// follows holds an emitted state against the observation that it follows from: that one was accepted, and its own state is emitted once.
func (a *auditor) follows(r *record.Record, origin position) {
	if origin.Topic != observationsTopic {
		return
	}
	key, accepted := a.accepted[origin]
	switch {
	case !accepted && a.emitted[r.Partition] != origin.offset:
		a.fault("invariant 4: %v (%s) follows from %v, which the fold does not accept", positionOf(r), r.Key, origin)
	case accepted && key == string(r.Key):
		delete(a.accepted, origin)
		a.emitted[r.Partition] = origin.offset
	}
}

// lineage is the order in which the outputs of one task stand in a partition.
type lineage struct {
	current position
	last    map[record.TopicPartition]int64
}

// lineage checks that what follows from one record stands together, and that origins rise. Where several tasks or processors write to one
// partition, it does so for each.
func (a *auditor) lineage(r *record.Record, origin position) {
	name := fmt.Sprint(r.Position())
	switch r.Topic {
	case outcomesTopic:
		name = fmt.Sprintf("%s of task %d", name, origin.Partition)
	case topics.DeadLetter:
		name = fmt.Sprintf("%s of %s, task %d", name, payload[schemas.DeadLetter](a, r).Reader, origin.Partition)
	}
	l := a.lineages[name]
	if l == nil {
		l = &lineage{last: map[record.TopicPartition]int64{}}
		a.lineages[name] = l
	}
	if l.current == origin {
		return
	}
	if last, known := l.last[origin.TopicPartition]; known && last >= origin.offset {
		a.fault("invariant 4: %v follows from %v, after what follows from offset %d: a range was processed twice", positionOf(r), origin, last)
	}
	l.current, l.last[origin.TopicPartition] = origin, origin.offset
}

// payload decodes a record that a processor has written.
func payload[T any](a *auditor, r *record.Record) *T {
	a.t.Helper()
	e := a.decode(r.Topic, r.Value)
	p, ok := e.Payload.(*T)
	if !ok {
		a.t.Fatalf("%v holds a %s, expected a %T", positionOf(r), e.Type, p)
	}
	return p
}

func (a *auditor) decode(topic string, value []byte) *event.Event {
	a.t.Helper()
	e, err := a.codec.Decode(topic, value)
	if err != nil {
		a.t.Fatalf("decode a record of %s: %v", topic, err)
	}
	return e
}

// table returns the materialised partition of a topic, or all of them together.
func (a *auditor) table(topic string, partitions ...int32) map[string][]byte {
	all := map[string][]byte{}
	for _, p := range partitions {
		maps.Copy(all, a.latest[record.TopicPartition{Topic: topic, Partition: p}])
	}
	return all
}

func (a *auditor) all() []int32 {
	var list []int32
	for p := range a.partitions {
		list = append(list, p)
	}
	return list
}
