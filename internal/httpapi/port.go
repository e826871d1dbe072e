package httpapi

import (
	"context"
	"time"

	"github.com/regent-infra/regent/internal/event"
	"github.com/regent-infra/regent/internal/stream"
)

// Entry is the latest value of one key of one topic, and where it stands.
type Entry struct {
	// Topic, Partition and Offset are the position of the record: what evidence refers to.
	Topic     string
	Partition int32
	Offset    int64
	// Timestamp is when the broker took it.
	Timestamp time.Time
	// Key is the record's key.
	Key string
	// Event is the decoded value; nil if the entry was deleted, which only watchers see.
	Event *event.Event
	// Since is when the value's health or status became what it is, as far as the topic's history reaches.
	Since time.Time
}

// View is the consolidated state and the decisions as committed in the topics. Implementations are safe for concurrent use.
type View interface {
	// Get returns the entry under key of topic, and whether there is one.
	Get(topic, key string) (Entry, bool, error)
	// List returns the entries of topic whose key begins with prefix, by key.
	List(topic, prefix string) ([]Entry, error)
	// Watch calls fn with every change of one of the topics from now on, in order, until ctx ends or fn returns an error, which Watch
	// returns. A watcher that does not keep up gets [ErrSlowWatcher].
	Watch(ctx context.Context, topics []string, fn func(Entry) error) error
	// Lag says how many records the view is behind the topics, and why it does not advance, if it does not. 0 and nil: it is current.
	Lag() (int64, error)
}

// Processor is what one processor of this process says of itself.
type Processor struct {
	stream.Status
	// Ready says whether it does its work on all of its tasks.
	Ready bool `json:"ready"`
}

// Digest is a fingerprint of one partition of a processor's table, as committed: equal digests mean equal state.
type Digest struct {
	// Processor, such as reducer.postgres.
	Processor string `json:"processor"`
	// Table of the processor.
	Table string `json:"table"`
	// Partition of the table.
	Partition int32 `json:"partition"`
	// Changelog is the topic that the table is the state of; empty for a table that is a view of an input.
	Changelog string `json:"changelog,omitempty"`
	// Keys is how many entries it covers.
	Keys int64 `json:"keys"`
	// Sum is the SHA-256 over all of them, hexadecimal.
	Sum string `json:"sum"`
}

// Processors is what runs in this process.
type Processors interface {
	// Status returns what each processor says of itself.
	Status() []Processor
	// Digests returns a digest per task that this process owns.
	Digests(ctx context.Context) ([]Digest, error)
}

// Info says what a client needs to know to speak with the other parts.
type Info struct {
	// Version of the binary.
	Version string `json:"version"`
	// ClusterID is Kafka's id of the cluster that holds the topics.
	ClusterID string `json:"cluster_id"`
	// Brokers are the addresses for Kafka clients.
	Brokers []string `json:"brokers"`
	// Registry is the URL of the schema registry.
	Registry string `json:"registry"`
	// Embedded says whether both are part of this process.
	Embedded bool `json:"embedded"`
	// Roles that run in this process.
	Roles []string `json:"roles"`
	// DataDir is the data directory, for people.
	DataDir string `json:"data_dir"`
	// StartedAt is when the process started.
	StartedAt time.Time `json:"started_at"`
	// Partitions is the partition count per kind.
	Partitions map[string]int32 `json:"partitions"`
	// PID is the process id.
	PID int `json:"pid"`
}
