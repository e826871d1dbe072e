package stream

import (
	"iter"
	"time"

	"github.com/regent-infra/regent/internal/record"
)

// OwnPartition as an output's partition means the partition whose number is the task's own.
const OwnPartition int32 = -1

// Definition describes one processor: what it reads, where its redo log is, and how a machine for one task is made.
type Definition struct {
	// Name identifies the processor, for example "reducer.postgres". The consumer group and the transactional ids derive from it.
	Name string
	// FoldVersion rises whenever the same inputs would give another state. A binary refuses state of a higher version.
	FoldVersion int32
	// Inputs are the co-partitioned topics that a task reads.
	Inputs []Input
	// Changelog is the output topic S: event and redo log in one. What a machine emits to it is its state.
	Changelog string
	// Outputs are the other topics that a machine may emit to. An output to an undeclared topic is a bug.
	Outputs []string
	// Tables are what a machine can read with Get and Range. Each names its redo source.
	Tables []Table
	// SingleTask assigns every partition of every input to one task, number 0: for roll-ups into one partition.
	SingleTask bool
	// Tick, where set, makes an idle task receive the passing of time as a record.
	Tick *Tick
	// DeadLetter builds the record that tells of an input that cannot be processed.
	DeadLetter func(rec *record.Record, reason string, cause error) (record.Record, error)
	// Canonical, where set, says that the state does not depend on how the inputs interleaved, and returns the part of a changelog's value
	// that follows from them: whoever folds the inputs again gets the same. Nil: the state depends on the order in which things came.
	Canonical func(value []byte) ([]byte, error)
	// NewMachine makes the machine of one task. It is called once per assignment, after recovery.
	NewMachine func(task int32) Machine
}

// Input is one topic that a processor reads.
type Input struct {
	Topic string
	// Table, where set, names the table that keeps the latest value per key of this compacted full-value topic. The runtime
	// upserts the record (or deletes on a tombstone) before the machine sees it.
	Table string
	// Looks, where set, names the table in which the machine looks up the record's key, for most records at least: the runtime brings its
	// entries near beforehand. It is a hint, and changes no result.
	Looks string
}

// Table is a key-value view of one redo source: the latest value per record key of the changelog or of one input.
type Table struct {
	Name string
	// Source is the topic that the table is redone from: the changelog, or an input that names this table.
	Source string
}

// Tick makes time pass on idle partitions: when nothing was appended to the topic's partition of an owned task for Every, the
// runtime produces Make's record to it, outside transactions.
type Tick struct {
	Topic string
	Every time.Duration
	Make  func(task int32) (record.Record, error)
}

// Machine folds the records of one task, one after the other, on one goroutine. It must be deterministic: its outputs follow from
// the records that it has seen, the tables, and soft state whose loss may delay an output but never change it.
//
// An error that is a [*Poison] sends the record to the dead-letter topic, drops what the record had emitted, and the task
// moves on. A panic does the same with reason "panic". Any other error stops the task without committing.
type Machine interface {
	Process(task Task, rec *record.Record) error
}

// Task is what a machine sees of the runtime while it processes one record.
type Task interface {
	// ID returns the task's number, which is its partition's.
	ID() int32
	// Get returns the value under key as of now, this record's own outputs included; nil if there is none. Do not modify it.
	Get(table string, key []byte) ([]byte, error)
	// Range yields all entries whose key starts with prefix, in key order, as of the call. Do not modify what it yields.
	Range(table string, prefix []byte) iter.Seq2[[]byte, []byte]
	// Emit adds an output. One to the changelog also upserts the changelog's table under the record's key (a nil value deletes).
	// The record's Topic, Key, Value and Headers are used, and its Partition ([OwnPartition], or a number). Its bytes are the
	// runtime's from then on. A value should not be a slice of the input's: it would keep alive what was fetched together with it.
	Emit(out record.Record)
	// StreamTime is the highest broker append time that the task has read, this record included.
	StreamTime() time.Time
	// CaughtUp reports whether every input has been read to the high watermark that was taken after the task's assignment.
	CaughtUp() bool
	// Generation counts this process's assignments of the task, so that a machine can tell a fresh start.
	Generation() int64
}

// Poison says that a record can never be processed. It goes to the dead-letter topic.
type Poison struct {
	// Reason is a short constant such as "undecodable" or "foreign-schema".
	Reason string
	// Err says what is wrong with the record.
	Err error
}

// Error implements error.
func (p *Poison) Error() string { return p.Reason + ": " + p.Err.Error() }

// Unwrap returns the cause.
func (p *Poison) Unwrap() error { return p.Err }
