// Package topics declares the topics of Regent: names, keys, payloads, compatibility, partitions and settings.
//
// topics.yaml at the root of the project is the source. [Default] is what was built into the binary; [Parse] reads another
// one strictly and reports all its faults together. Everything that names a topic uses the helpers here ([Observations], …), so
// that a name is written down in two places only: topics.yaml and this package, and a test compares them.
//
// Package topicplan makes a broker and a schema registry agree with a [Set].
//
// Invariants: (1) all topics of a kind have one partition count; (2) a set that [Parse] returns has no fault; (3) a set never changes.
package topics

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"sync"

	regent "github.com/regent-infra/regent"
	"github.com/regent-infra/regent/internal/event"
	"github.com/regent-infra/regent/internal/invariant"
)

// Topics that belong to no kind.
const (
	// FleetState holds the roll-up over each kind and over all.
	FleetState = "infra.state.fleet.v1"
	// DeadLetter holds records that could not be processed.
	DeadLetter = "infra.deadletter.v1"
)

// Observations returns the topic of full current values of a kind's resources.
func Observations(kind event.Kind) string { return name("observations", kind) }

// Heartbeats returns the topic on which a kind's agents show that they live.
func Heartbeats(kind event.Kind) string { return name("heartbeats", kind) }

// Commands returns the topic of what operators and other programs want of a kind.
func Commands(kind event.Kind) string { return name("commands", kind) }

// Orders returns the topic of a kind's authorised command events.
func Orders(kind event.Kind) string { return name("orders", kind) }

// State returns the topic of a kind's consolidated state.
func State(kind event.Kind) string { return name("state", kind) }

// Workflows returns the topic of a kind's decided state and workflows.
func Workflows(kind event.Kind) string { return name("workflows", kind) }

// Outcomes returns the topic that answers a kind's commands.
func Outcomes(kind event.Kind) string { return name("outcomes", kind) }

// Leases returns the topic of a kind's leases.
func Leases(kind event.Kind) string { return name("leases", kind) }

func name(role string, kind event.Kind) string { return "infra." + role + "." + string(kind) + ".v1" }

// Subject returns the schema-registry subject of a topic's values.
func Subject(topic string) string { return topic + "-value" }

// Cleanup is a topic's cleanup policy.
type Cleanup string

// Cleanup policies.
const (
	CleanupCompact Cleanup = "compact"
	CleanupDelete  Cleanup = "delete"
)

// Topic is the declaration of one topic.
type Topic struct {
	Name        string
	Description string
	// Kind is empty for topics of the whole fleet.
	Kind event.Kind
	// Owner names the role that writes to it.
	Owner string
	// Key says what the record key is: resource, cluster, workflow, rollup or origin.
	Key string
	// Payloads are the record names of the payload union, in the order of its branches.
	Payloads []string
	// Compatibility is the mode of the topic's subject in the schema registry, such as BACKWARD_TRANSITIVE.
	Compatibility string
	// Partitions is the number of partitions.
	Partitions int32
	// ReplicationFactor is the number of replicas of each partition.
	ReplicationFactor int16
	Cleanup           Cleanup
	// Config holds the topic's whole configuration, cleanup.policy included, under Kafka's names.
	Config map[string]string
}

// Set is a whole declaration. It is immutable.
type Set struct {
	topics []Topic
	byName map[string]int
	kinds  map[event.Kind]int32
}

// Default returns the declaration that was built into the binary.
func Default() *Set { return builtIn() }

var builtIn = sync.OnceValue(func() *Set {
	set, err := Parse("topics.yaml", regent.TopicsYAML)
	invariant.Assert(err == nil, "the topics.yaml in this binary is valid: %v", err)
	return set
})

// All returns the topics in the order of their declaration.
func (s *Set) All() []Topic { return slices.Clone(s.topics) }

// Names returns the topic names in the order of their declaration.
func (s *Set) Names() []string {
	names := make([]string, len(s.topics))
	for i, t := range s.topics {
		names[i] = t.Name
	}
	return names
}

// Topic returns the declaration of a topic.
func (s *Set) Topic(name string) (Topic, bool) {
	i, ok := s.byName[name]
	if !ok {
		return Topic{}, false
	}
	return s.topics[i], true
}

// Partitions returns the partition count that all topics of a kind share, or 0 for a kind that is not declared.
func (s *Set) Partitions(kind event.Kind) int32 { return s.kinds[kind] }

// Payloads returns the record names of the payload union of every topic: what a codec needs to know.
func (s *Set) Payloads() map[string][]string {
	payloads := make(map[string][]string, len(s.topics))
	for _, t := range s.topics {
		payloads[t.Name] = slices.Clone(t.Payloads)
	}
	return payloads
}

// WithReplicationFactor returns the same declaration for a cluster of fewer brokers: with replication factor n, and with
// min.insync.replicas lowered so that one replica may be missing, or none if n is 1.
func (s *Set) WithReplicationFactor(n int16) *Set {
	return s.changed(func(t *Topic) {
		t.ReplicationFactor = n
		lowered := max(int(n)-1, 1)
		if isr, err := strconv.Atoi(t.Config[minInSync]); err == nil && isr > lowered {
			t.Config[minInSync] = strconv.Itoa(lowered)
		}
	})
}

// WithPartitions returns the same declaration with another partition count for the topics of a kind. It is for new clusters: it
// cannot change while the topics hold data.
func (s *Set) WithPartitions(kind event.Kind, n int32) *Set {
	invariant.Assert(n > 0, "a kind has at least one partition, not %d", n)
	changed := s.changed(func(t *Topic) {
		if t.Kind == kind {
			t.Partitions = n
		}
	})
	changed.kinds = maps.Clone(s.kinds)
	changed.kinds[kind] = n
	return changed
}

func (s *Set) changed(change func(*Topic)) *Set {
	topics := slices.Clone(s.topics)
	for i := range topics {
		topics[i].Config = maps.Clone(topics[i].Config)
		change(&topics[i])
	}
	return &Set{topics: topics, byName: s.byName, kinds: s.kinds}
}

// String names the topic and its shape for people.
func (t Topic) String() string {
	return fmt.Sprintf("%s (%d partitions, %s)", t.Name, t.Partitions, t.Cleanup)
}
