package killtest

import (
	"bytes"
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/regent-infra/regent/internal/event"
	"github.com/regent-infra/regent/internal/httpapi"
	"github.com/regent-infra/regent/internal/record"
	"github.com/regent-infra/regent/internal/stream"
	"github.com/regent-infra/regent/internal/topics"
	"github.com/regent-infra/regent/processors/reducer"
	"github.com/regent-infra/regent/schemas"
)

// story is what became of one command id.
type story struct {
	sent, accepted, rejected, ended int
	// dry: it was only tried, so it does not end.
	dry bool
}

// promotion is the last one of a cluster.
type promotion struct {
	term    int64
	id      string
	content []byte
}

func (a *auditor) story(id string) *story {
	s := a.commands[id]
	if s == nil {
		s = &story{}
		a.commands[id] = s
	}
	return s
}

// command counts a command. One that cannot be read counts for the id in its headers, if its key says who waits for the answer.
func (a *auditor) command(r *record.Record) {
	e, err := a.codec.Decode(r.Topic, r.Value)
	malformed := r.Tombstone() || err != nil
	if err == nil && !malformed {
		_, bad := event.ParseClusterID(e.Cluster)
		malformed = bad != nil
	}
	if malformed != a.malformed[positionOf(r)] {
		a.fault("invariant 7: the command %v: malformed is %t, on purpose is %t", positionOf(r), malformed, !malformed)
	}
	id := string(r.Header("ce_id"))
	if !malformed {
		id = e.ID
	}
	s := a.story(id)
	s.sent++
	if err == nil {
		p, tried := e.Payload.(*schemas.SwitchoverCluster)
		s.dry = tried && p.Meta.DryRun
	}
}

func (a *auditor) outcome(r *record.Record) {
	switch p := a.decode(r.Topic, r.Value).Payload.(type) {
	case *schemas.CommandAccepted:
		a.story(p.CommandID).accepted++
	case *schemas.CommandRejected:
		a.story(p.CommandID).rejected++
	case *schemas.CommandCompleted:
		a.end(p.CommandID)
	case *schemas.CommandFailed:
		a.end(p.CommandID)
	}
}

func (a *auditor) end(id string) {
	s := a.story(id)
	s.ended++
	if s.accepted != 1 || s.ended != 1 {
		a.fault("invariant 5: command %s has ended %d times, after it was accepted %d times", id, s.ended, s.accepted)
	}
}

// order holds promotions against invariant 6. A bootstrap and a reinstatement give a term to somebody, too.
func (a *auditor) order(r *record.Record) {
	e := a.decode(r.Topic, r.Value)
	switch e.Payload.(type) {
	case *schemas.PromotePostgres, *schemas.ReinstatePrimary:
	default:
		return
	}
	m := orderMeta(e.Payload)
	now := &promotion{term: m.Term, id: e.ID, content: a.canonical(r.Topic, withoutExpiry(e.Payload))}
	last := a.terms[e.Cluster]
	switch {
	case last == nil || now.term > last.term:
		a.terms[e.Cluster] = now
		a.promoted++
	case now.term < last.term:
		a.fault("invariant 6: %v promotes %s of %s under term %d after one under term %d", positionOf(r), m.Node, e.Cluster, now.term, last.term)
	case now.id != last.id || !bytes.Equal(now.content, last.content):
		a.fault("invariant 6: %v is a second promotion in term %d of %s: %s, before %s", positionOf(r), now.term, e.Cluster, now.id, last.id)
	}
}

// withoutExpiry returns an order without its deadline, which moves along with the step when the order is sent again.
func withoutExpiry(payload any) any {
	switch p := payload.(type) {
	case *schemas.PromotePostgres:
		p.Meta.ExpiresAt, p.Meta.Step = time.Time{}, ""
	case *schemas.ReinstatePrimary:
		p.Meta.ExpiresAt, p.Meta.Step = time.Time{}, ""
	}
	return payload
}

// canonical returns the bytes of a payload under an empty header.
func (a *auditor) canonical(topic string, payload any) []byte {
	a.t.Helper()
	raw, err := a.codec.Encode(topic, event.New(schemas.EnvelopeHeader{}, payload))
	if err != nil {
		a.t.Fatal(err)
	}
	return raw
}

// unsuspected returns those of the nodes that are not suspected, as far as was read.
func (a *auditor) unsuspected(nodes []event.ResourceID) (trusted []event.ResourceID) {
	for _, id := range nodes {
		value := a.latest[record.TopicPartition{Topic: stateTopic, Partition: event.Partition(id.Cluster(), a.partitions)}][string(id)]
		if value == nil {
			trusted = append(trusted, id)
			continue
		}
		if s, ok := a.decode(stateTopic, value).Payload.(*schemas.PostgresNodeState); !ok || s.Liveness != schemas.LivenessSuspect {
			trusted = append(trusted, id)
		}
	}
	return trusted
}

// judge holds everything that was read against the invariants. The load holds still, and the processors have caught up.
func (a *auditor) judge() {
	a.t.Helper()
	a.judgeLedger()
	for p := range a.partitions {
		name := fmt.Sprintf("partition %d of the state", p)
		a.same("invariant 3", name, stateTopic, a.folds[p].tables[reducer.StateTable], a.table(stateTopic, p))
	}
	a.same("invariant 3", "the roll-up", topics.FleetState, a.fleet.tables[reducer.FleetTable], a.table(topics.FleetState, 0))
	for at, key := range a.accepted {
		a.fault("invariant 4: the observation %v of %s was passed over", at, key)
	}
	for at := range a.malformed {
		if readers := a.letters[at]; len(readers) != 1 {
			a.fault("invariant 7: %v was malformed on purpose and has %d dead letters %v", at, len(readers), readers)
		}
	}
	for at, readers := range a.letters {
		if !a.malformed[at] {
			a.fault("invariant 7: %v was well formed and has dead letters of %v", at, readers)
		}
	}
	a.judgeCommands()
	slices.SortFunc(a.faults, func(x, y error) int { return cmp.Compare(x.Error(), y.Error()) })
	a.report()
}

func (a *auditor) judgeLedger() {
	for _, topic := range []string{observationsTopic, heartbeatsTopic, commandsTopic} {
		for p := range a.partitions {
			tp := record.TopicPartition{Topic: topic, Partition: p}
			below, above := a.ledger.count(tp, a.next[tp])
			if below != a.matched[tp] || above != 0 {
				a.fault("invariant 1: %v: %d records were acknowledged below its end at %d and %d are there; %d were acknowledged above", tp, below, a.next[tp], a.matched[tp], above)
			}
		}
	}
}

// same compares two tables by the bytes of their payloads.
func (a *auditor) same(invariant, what, topic string, want, have map[string][]byte) {
	a.t.Helper()
	for _, key := range slices.Sorted(maps.Keys(want)) {
		if have[key] == nil {
			a.fault("%s: %s: %s is missing", invariant, what, key)
			continue
		}
		x, y := a.decode(topic, want[key]), a.decode(topic, have[key])
		if !bytes.Equal(a.canonical(topic, x.Payload), a.canonical(topic, y.Payload)) {
			a.fault("%s: %s: %s is\n%+v\nexpected\n%+v", invariant, what, key, y.Payload, x.Payload)
		}
	}
	for _, key := range slices.Sorted(maps.Keys(have)) {
		if want[key] == nil {
			a.fault("%s: %s: %s is there, and should not", invariant, what, key)
		}
	}
}

// judgeCommands checks that each command was answered as often as it was sent, and that its workflow says the same.
func (a *auditor) judgeCommands() {
	a.t.Helper()
	for key, value := range a.table(workflowsTopic, a.all()...) {
		if !strings.Contains(key, "/workflow/") {
			continue
		}
		w, ok := a.decode(workflowsTopic, value).Payload.(*schemas.Workflow)
		if !ok || w.CommandID == "" {
			continue
		}
		s := a.story(w.CommandID)
		switch w.Status {
		case schemas.WorkflowStatusPending:
			a.fault("invariant 5: command %s is still waiting for its answer", w.CommandID)
		case schemas.WorkflowStatusRejected:
			if s.accepted != 0 {
				a.fault("invariant 5: command %s was accepted, and its workflow was rejected", w.CommandID)
			}
		case schemas.WorkflowStatusRunning:
			if s.accepted != 1 || s.ended != 0 {
				a.fault("invariant 5: command %s runs; it was accepted %d times and has ended %d times", w.CommandID, s.accepted, s.ended)
			}
		default:
			if !s.dry && (s.accepted != 1 || s.ended != 1) {
				a.fault("invariant 5: command %s is %s; it was accepted %d times and has ended %d times", w.CommandID, w.Status, s.accepted, s.ended)
			}
		}
	}
	for id, s := range a.commands {
		if s.accepted > 1 || s.accepted+s.rejected != s.sent {
			a.fault("invariant 5: command %q was sent %d times, accepted %d times, rejected %d times", id, s.sent, s.accepted, s.rejected)
		}
	}
}

// fingerprints compares what the server says of its tables with what the topics give, table by table, and returns those that differ.
func (a *auditor) fingerprints(served []httpapi.Digest) (differ []string) {
	a.t.Helper()
	want := map[string]stream.Digest{}
	for p := range a.partitions {
		want[fmt.Sprintf("reducer.postgres/state/%d", p)] = digest(a.table(stateTopic, p))
		want[fmt.Sprintf("orchestrator.postgres/state/%d", p)] = digest(a.table(stateTopic, p))
		want[fmt.Sprintf("orchestrator.postgres/workflows/%d", p)] = digest(a.table(workflowsTopic, p))
	}
	want["reducer.fleet/fleet/0"] = digest(a.table(topics.FleetState, 0))
	want["reducer.fleet/postgres/0"] = digest(a.table(stateTopic, a.all()...))
	have := map[string]stream.Digest{}
	for _, d := range served {
		have[fmt.Sprintf("%s/%s/%d", d.Processor, d.Table, d.Partition)] = stream.Digest{Entries: d.Keys, Sum: d.Sum}
	}
	for name, w := range want {
		if h := have[name]; h != w {
			differ = append(differ, fmt.Sprintf("%s: the topic gives %d entries, %s; the server has %d, %s", name, w.Entries, w.Sum, h.Entries, h.Sum))
		}
	}
	for name := range have {
		if _, known := want[name]; !known {
			differ = append(differ, name+" is a table that nobody knows")
		}
	}
	slices.Sort(differ)
	return differ
}

func digest(entries map[string][]byte) stream.Digest {
	d := stream.NewDigester()
	for _, key := range slices.Sorted(maps.Keys(entries)) {
		d.Add([]byte(key), entries[key])
	}
	return d.Sum()
}
