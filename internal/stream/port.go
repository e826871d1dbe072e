package stream

import (
	"context"
	"errors"
	"time"

	"github.com/regent-infra/regent/internal/record"
)

// Log is the port to the brokers: everything that the runtime asks of Kafka. internal/kafka implements it.
type Log interface {
	// Connect makes a session for one processor and checks that the cluster answers. It joins nothing yet.
	//
	// An error is soft (the runtime tries again, for ever) unless it is a [*FatalError].
	Connect(ctx context.Context, spec SessionSpec) (Session, error)
}

// SessionSpec says what a session is for.
type SessionSpec struct {
	// Group is the consumer group, from which the transactional id derives too.
	Group string
	// Inputs are the topics whose partitions the group shares out.
	Inputs []string
	// Single gives every partition of every input to one member, as task 0.
	Single bool
	// FoldVersion is the program's, see [Definition]. A task whose state a later version has folded is not given to this member as long
	// as another one can have it.
	FoldVersion int32
	// Standbys is how many other members keep a warm copy of each task; what counts is the most that any member asks for.
	Standbys int
	// Held, where set, tells what this process holds of which tasks. It is called at each join, on some goroutine.
	Held func() []Held
}

// Held is how far a process's own copy of a task reaches, running or not.
type Held struct {
	Task int32
	// Position is comparable between members: the end of what is applied of the changelog, and of the inputs that tables are kept of,
	// added up.
	Position int64
	// FoldVersion is that of the state: a program of a lower one cannot run the task.
	FoldVersion int32
}

// AcceptableLag is how far behind, in offsets, a copy may be to count as warm: a redo of so much takes a fraction of a second.
const AcceptableLag = 50_000

// StandbyTask is a task of which this member is to keep a warm copy, while another runs it.
type StandbyTask struct {
	Task int32
	// WarmUp says that the task moves here as soon as the copy is warm and the group is told, by [Session.Rejoin].
	WarmUp bool
}

// Session is one membership in the group, with its transactions. It is used by one goroutine, except where a method says
// otherwise: a transaction ends (Flush, then Commit or Abort) on another one, while the first goes on with Poll, Buffered and
// Resume; until it has ended, nothing is produced. After an error that is not said to be harmless, it can only be closed.
type Session interface {
	// ClusterID names the Kafka cluster. Safe for concurrent use.
	ClusterID() string
	// Topics describes the named topics; one that does not exist is absent. Safe for concurrent use.
	Topics(ctx context.Context, names []string) (map[string]TopicInfo, error)

	// Join fences earlier incarnations of this instance (it initialises the transactional id), takes dead members of this
	// instance out of the group, and joins. It does not wait for an assignment: that is reported by Poll.
	Join(ctx context.Context) error
	// Poll waits up to wait for records of the partitions that were resumed, or for a change of the assignment, and returns
	// early for [Session.Wake]. An empty batch is no error.
	Poll(ctx context.Context, maxRecords int, wait time.Duration) (*Batch, error)
	// Buffered returns how many records the next Poll could return without waiting.
	Buffered() int
	// Wake makes the running Poll, or else the next one, return at once. Safe for concurrent use.
	Wake()
	// Resume makes Poll return the records of the partitions from exactly these offsets on, whatever was buffered or being
	// read before. Partitions that are not assigned any more are ignored. A newly assigned partition is not read until then.
	Resume(positions map[record.TopicPartition]int64)

	// Produce adds records to the transaction, which begins with the first one. done is called for each of them, on some goroutine,
	// when the broker has taken it or never will; Flush waits for all of them. The slice, not the bytes, is the caller's again when
	// Produce returns. Safe for concurrent use; the order of records is kept for each partition that only one goroutine writes to.
	Produce(recs []record.Record, done func(topic string, offset int64, err error))
	// Flush waits until every produced record is acknowledged.
	Flush(ctx context.Context) error
	// Commit ends the transaction with the offsets in it, fenced by the group's generation: if one of the tasks is not this
	// member's any more, the outcome is TransactionAborted. Without a produced record no transaction is open, and the offsets are
	// committed alone, under the same fence. The error says why the outcome is not
	// TransactionCommitted.
	Commit(ctx context.Context, tasks []int32, offsets []OffsetCommit) (Outcome, error)
	// Abort ends the transaction without anything of it becoming visible. It does nothing if none is open.
	Abort(ctx context.Context) error

	// Send produces a record outside of transactions, without waiting.
	Send(rec record.Record, done func(err error))

	// Committed returns the group's committed offsets of the partitions, and waits as long as a transaction that would change
	// them is open (RequireStable). A partition without one is absent. Safe for concurrent use.
	Committed(ctx context.Context, partitions []record.TopicPartition) (map[record.TopicPartition]Committed, error)
	// Settled is Committed without the wait: what is committed for certain by now. What is being committed may show or not. Safe for
	// concurrent use.
	Settled(ctx context.Context, partitions []record.TopicPartition) (map[record.TopicPartition]Committed, error)
	// Watermarks returns the bounds of the partitions. Safe for concurrent use.
	Watermarks(ctx context.Context, partitions []record.TopicPartition) (map[record.TopicPartition]Watermarks, error)
	// Scan reads the committed records of one partition in [from, to), and calls fn with some of them at a time, in order;
	// next is the offset from which to go on. It returns when nothing below to is left to read, which is judged by positions
	// and not by records: aborted ones, markers and compacted ones never show. A from below the log's start counts as the
	// start. It waits while a transaction below to is open. Safe for concurrent use.
	Scan(ctx context.Context, tp record.TopicPartition, from, to int64, fn func(recs []record.Record, next int64) error) error

	// Probe looks at the partition from an offset on: where no committed record is left to read below the last stable offset,
	// and no transaction is open, it returns the high watermark; where what comes next holds no committed record, an offset behind that;
	// otherwise from itself. Safe for concurrent use.
	Probe(ctx context.Context, tp record.TopicPartition, from int64) (int64, error)

	// Rejoin tells the group anew what this member holds, so that tasks are shared out again. Safe for concurrent use.
	Rejoin()

	// Trouble returns why the brokers cannot be reached at the moment, or nil. Safe for concurrent use.
	Trouble() error
	// Close leaves the group and releases everything. What was not committed is aborted.
	Close(ctx context.Context) error
}

// TopicInfo describes a topic.
type TopicInfo struct {
	// ID changes when the topic is deleted and made again.
	ID [16]byte
	// Partitions is the number of partitions.
	Partitions int32
	// DeleteRetention is the topic's delete.retention.ms: how long a tombstone is kept for readers at least.
	DeleteRetention time.Duration
	// Compacted says that the topic's cleanup policy is compact (alone or with delete).
	Compacted bool
}

// Batch is what one Poll returned.
type Batch struct {
	// Fetched is one entry for each partition that was read, also where only markers were.
	Fetched []Fetched
	// Revoked are tasks that are not this member's any more. They come before Assigned: a task in both was lost and came back.
	Revoked []int32
	// Assigned are tasks that are newly this member's. Their partitions are not read before [Session.Resume].
	Assigned []int32
	// Standbys, unless nil, are all tasks of which this member is to keep a warm copy from now on. A task that runs or recovers here may be
	// among them: it is about to leave.
	Standbys []StandbyTask
}

// Fetched is what was read of one partition.
type Fetched struct {
	record.TopicPartition
	// Records are in offset order. There may be none: markers count as read, too.
	Records []record.Record
	// Next is the offset after the last one that was read.
	Next int64
	// High is the high watermark.
	High int64
}

// OffsetCommit is one partition's offset with its metadata.
type OffsetCommit struct {
	record.TopicPartition
	Offset   int64
	Metadata string
}

// Committed is what the group's coordinator holds for one partition.
type Committed struct {
	Offset   int64
	Metadata string
}

// Watermarks are the bounds of a partition.
type Watermarks struct {
	// Start is the lowest offset that is still there.
	Start int64
	// Stable is the last stable offset: everything below is decided.
	Stable int64
	// High is the offset that the next record will get.
	High int64
}

// Outcome is what became of a transaction.
type Outcome int

// The outcomes.
const (
	// TransactionCommitted: all of it is visible.
	TransactionCommitted Outcome = iota + 1
	// TransactionAborted: nothing of it is, nor ever will be.
	TransactionAborted
	// TransactionUnknown: it may be either. Only the coordinator's stable offsets can tell, so the session must be closed.
	TransactionUnknown
)

// String implements fmt.Stringer.
func (o Outcome) String() string {
	switch o {
	case TransactionCommitted:
		return "committed"
	case TransactionAborted:
		return "aborted"
	case TransactionUnknown:
		return "unknown"
	default:
		return "invalid"
	}
}

// FatalError marks an error that trying again does not heal: a lacking authorisation, another process with the same instance
// id.
type FatalError struct{ Err error }

// Error implements error.
func (e *FatalError) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *FatalError) Unwrap() error { return e.Err }

// ErrRevoked is the reason of an abort: a task of the transaction is not this member's any more.
var ErrRevoked = errors.New("a task of the transaction was revoked")
