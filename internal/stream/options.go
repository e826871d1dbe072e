package stream

import (
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"time"

	"github.com/regent-infra/regent/internal/clock"
	"github.com/regent-infra/regent/statestore"
)

// Defaults of [Options].
const (
	DefaultCommitRecords    = 20_000
	DefaultCommitBytes      = 16 << 20
	DefaultCommitMinAge     = 5 * time.Millisecond
	DefaultCommitMaxAge     = 100 * time.Millisecond
	DefaultPositionInterval = time.Second
	DefaultFlushInterval    = 3 * time.Second
	leastFlushBytes         = 4 << 20
	DefaultRestampInterval  = 10 * time.Minute
	DefaultCacheBytes       = 128 << 20
	DefaultPollRecords      = 20_000
	DefaultEndTimeout       = 15 * time.Second
	DefaultRetryMin         = 100 * time.Millisecond
	DefaultRetryMax         = 5 * time.Second
	DefaultRecoveries       = 2
	DefaultStandbyInterval  = 250 * time.Millisecond
)

// Options are what a [Runtime] is made with. The zero value of every field but the first two means its default.
type Options struct {
	// Log is the port to the brokers. Required.
	Log Log
	// Store keeps the state. Several runtimes of one process share one store. Required. The runtime does not close it.
	Store statestore.Store
	// Group is the consumer group. Default: "regent." and the definition's name.
	Group string
	// Clock tells the time for deadlines, ticks and stamps. Default: the machine's.
	Clock clock.Clock
	// Logger takes the runtime's log. Default: none.
	Logger *slog.Logger
	// Metrics counts what the runtime does. Default: metrics that nobody collects.
	Metrics *Metrics

	// CommitRecords is how many input records a transaction takes at most. Default 20,000; at least 1.
	CommitRecords int
	// CommitBytes is how many bytes of output a transaction takes at most. Default 16 MiB; at least 1.
	CommitBytes int
	// CommitMinAge and CommitMaxAge bound the age at which a transaction ends while more input is waiting; between them, it
	// is four times what commits have taken lately. Without waiting input a transaction ends as soon as the one before has ended.
	// Default 5 ms and 100 ms.
	CommitMinAge, CommitMaxAge time.Duration
	// PositionInterval is how long positions alone (input that changed nothing and said nothing) may stay uncommitted. A
	// crash folds that much again. Default 1 s.
	PositionInterval time.Duration

	// FlushInterval is how often committed state is written to the store. Default 3 s.
	FlushInterval time.Duration
	// FlushBytes is how much committed state may wait for the store; twice as much stops polling. Few large flushes leave the store less to merge
	// than many small ones. Default half of CacheBytes, but at least 4 MiB; at least 1.
	FlushBytes int
	// RestampInterval is how often the position of a task with nothing to write is stamped anew. It must be well below the
	// changelog's delete.retention.ms, else an idle task is rebuilt at its next start. Default 10 min.
	RestampInterval time.Duration
	// CacheBytes bounds the cache of encoded values, over all tasks. Default 128 MiB; at least 1.
	CacheBytes int

	// PollRecords is how many records one poll takes at most. Default 20,000; at least 1.
	PollRecords int
	// Workers is how many tasks are folded at the same time. Default: the number of processors; at least 1.
	Workers int
	// EndTimeout is how long the end of a transaction may take before its outcome counts as unknown. Default 15 s.
	EndTimeout time.Duration
	// RetryMin and RetryMax bound the pause after a soft failure, which doubles each time. Default 100 ms and 5 s.
	RetryMin, RetryMax time.Duration
	// Recoveries is how many tasks recover at the same time, and how many copies are brought forward. Default 2; at least 1.
	Recoveries int
	// Standbys is how many other processes keep a warm copy of each task. Default 0; members of one group should agree, and what counts is
	// the most that any of them asks for.
	Standbys int
	// StandbyInterval is how often the copies that this process keeps are brought forward, and so about how much has to be redone at a
	// take-over. Default 250 ms.
	StandbyInterval time.Duration

	// copyStep is how many offsets a copy is brought forward at a time. Default 200,000.
	copyStep int64
	// reached, where set, is called when the cycle has reached a named point: tests crash there.
	reached func(Point)
	// lateEnds lets transactions end only when something waits for them: tests decide what happens meanwhile.
	lateEnds bool
	// sabotage takes safety away; the tests prove with it that they would see the loss.
	sabotage sabotage
}

func or[T comparable](v, otherwise T) T {
	var zero T
	if v == zero {
		return otherwise
	}
	return v
}

func (o Options) withDefaults(definition string) Options {
	o.Group = or(o.Group, "regent."+definition)
	if o.Clock == nil {
		o.Clock = clock.System{}
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Metrics == nil {
		o.Metrics = NewMetrics(nil)
	}
	o.CommitRecords = or(o.CommitRecords, DefaultCommitRecords)
	o.CommitBytes = or(o.CommitBytes, DefaultCommitBytes)
	o.CommitMinAge = or(o.CommitMinAge, DefaultCommitMinAge)
	o.CommitMaxAge = or(o.CommitMaxAge, DefaultCommitMaxAge)
	o.PositionInterval = or(o.PositionInterval, DefaultPositionInterval)
	o.FlushInterval = or(o.FlushInterval, DefaultFlushInterval)
	o.RestampInterval = or(o.RestampInterval, DefaultRestampInterval)
	o.CacheBytes = or(o.CacheBytes, DefaultCacheBytes)
	o.FlushBytes = or(o.FlushBytes, max(leastFlushBytes, o.CacheBytes/2)) // twice as much would be the whole cache
	o.PollRecords = or(o.PollRecords, DefaultPollRecords)
	o.Workers = or(o.Workers, runtime.GOMAXPROCS(0))
	o.EndTimeout = or(o.EndTimeout, DefaultEndTimeout)
	o.RetryMin = or(o.RetryMin, DefaultRetryMin)
	o.RetryMax = or(o.RetryMax, DefaultRetryMax)
	o.Recoveries = or(o.Recoveries, DefaultRecoveries)
	o.copyStep = or(o.copyStep, copyStep)
	o.StandbyInterval = or(o.StandbyInterval, DefaultStandbyInterval)
	return o
}

// Validate reports every fault of the options together.
func (o Options) Validate() error {
	var errs []error
	if o.Log == nil {
		errs = append(errs, errors.New("stream options: Log is nil"))
	}
	if o.Store == nil {
		errs = append(errs, errors.New("stream options: Store is nil"))
	}
	o = o.withDefaults("")
	for _, n := range []struct {
		name  string
		value int
	}{
		{"CommitRecords", o.CommitRecords},
		{"CommitBytes", o.CommitBytes},
		{"FlushBytes", o.FlushBytes},
		{"CacheBytes", o.CacheBytes},
		{"PollRecords", o.PollRecords},
		{"Recoveries", o.Recoveries},
		{"Workers", o.Workers},
	} {
		if n.value < 1 {
			errs = append(errs, fmt.Errorf("stream options: %s is %d: expected at least 1", n.name, n.value))
		}
	}
	for _, d := range []struct {
		name  string
		value time.Duration
	}{
		{"CommitMinAge", o.CommitMinAge},
		{"CommitMaxAge", o.CommitMaxAge},
		{"PositionInterval", o.PositionInterval},
		{"FlushInterval", o.FlushInterval},
		{"RestampInterval", o.RestampInterval},
		{"EndTimeout", o.EndTimeout},
		{"RetryMin", o.RetryMin},
		{"RetryMax", o.RetryMax},
		{"StandbyInterval", o.StandbyInterval},
	} {
		if d.value <= 0 {
			errs = append(errs, fmt.Errorf("stream options: %s is %s: expected more than 0", d.name, d.value))
		}
	}
	if o.Standbys < 0 {
		errs = append(errs, fmt.Errorf("stream options: Standbys is %d: expected 0 or more", o.Standbys))
	}
	if o.CommitMinAge > o.CommitMaxAge {
		errs = append(errs, fmt.Errorf("stream options: CommitMinAge %s is above CommitMaxAge %s", o.CommitMinAge, o.CommitMaxAge))
	}
	if o.RetryMin > o.RetryMax {
		errs = append(errs, fmt.Errorf("stream options: RetryMin %s is above RetryMax %s", o.RetryMin, o.RetryMax))
	}
	return errors.Join(errs...)
}
