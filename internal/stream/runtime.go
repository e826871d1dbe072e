package stream

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/regent-infra/regent/statestore"
)

// Runtime runs one processor: it owns the tasks that the group assigns to this process.
type Runtime struct {
	def  Definition
	opts Options
	log  *slog.Logger

	// mu guards what readers see: the map of tasks and the status. The cycle's goroutine is the only one that writes; it reads
	// without the lock. The tables have the cache's lock, which is taken after this one.
	mu     sync.RWMutex
	tasks  map[int32]*task
	status statusBoard

	// The rest belongs to the cycle's goroutine.
	session     Session
	topics      map[string]TopicInfo
	cache       *cache
	generations map[int32]int64
	txn         *transaction
	ending      *ending // the transaction before, while it ends
	requests    chan request
	over        chan struct{} // closed when Run has returned
	aborts      int           // in a row
	fetched     time.Time     // when a poll last brought something while a task had not caught up, or a probe was made
	looked      time.Time     // when what does not move was last looked at
	rewound     bool          // in this step, partitions were set back to their committed positions
	recoveries  recoveries
	slots       chan struct{} // bounds the recoveries at work
	standbys    *standbys
	copying     chan struct{} // bounds the copies that are brought forward at the same time
	pace        pace
	flush       flusher
	counters    counters
}

// New checks definition and options, all faults at once, and returns a runtime that is ready to [Runtime.Run].
func New(def Definition, opts Options) (*Runtime, error) {
	if err := errors.Join(def.Validate(), opts.Validate()); err != nil {
		return nil, err
	}
	opts = opts.withDefaults(def.Name)
	r := &Runtime{
		def: def, opts: opts,
		log:         opts.Logger.With(slog.String("processor", def.Name)),
		tasks:       map[int32]*task{},
		cache:       newCache(opts.CacheBytes),
		generations: map[int32]int64{},
		txn:         &transaction{},
		slots:       make(chan struct{}, opts.Recoveries),
		copying:     make(chan struct{}, opts.Recoveries),
		requests:    make(chan request, 16),
		over:        make(chan struct{}),
	}
	r.standbys = newStandbys(r)
	r.counters = opts.Metrics.countersOf(def.Name)
	r.pace = pace{min: opts.CommitMinAge, max: opts.CommitMaxAge}
	r.status = newStatusBoard(def.Name, opts.Clock.Now())
	return r, nil
}

// Run runs the processor until ctx ends, and returns nil then: what is folded is committed, what is committed is flushed, the
// group is left. Soft failures (brokers that are gone, lost elections of the group) are retried for ever and show in
// [Runtime.Status]. It returns an error for what no retry heals: a [*Refusal], a [*FatalError], a failed store, an error of the
// machine. It may be called once.
func (r *Runtime) Run(ctx context.Context) error {
	defer close(r.over)
	pause := r.opts.RetryMin
	for {
		started := r.opts.Clock.Now()
		err := r.runSession(ctx)
		if err == nil || ctx.Err() != nil && !fatal(err) {
			r.setState(StateStopped, nil)
			return nil
		}
		if fatal(err) {
			r.setState(StateFailed, err)
			return fmt.Errorf("run processor %q: %w", r.def.Name, err)
		}
		if r.opts.Clock.Now().Sub(started) > 2*r.opts.RetryMax {
			pause = r.opts.RetryMin
		}
		r.opts.Metrics.retries.WithLabelValues(r.def.Name).Inc()
		r.log.Warn("session ended; it is started again", slog.Any("error", err), slog.Duration("pause", pause))
		r.setState(StateRetrying, err)
		if !r.rest(ctx, pause) {
			r.setState(StateStopped, nil)
			return nil
		}
		pause = min(2*pause, r.opts.RetryMax)
	}
}

// rest waits between two sessions and answers requests meanwhile; it returns false when ctx has ended.
func (r *Runtime) rest(ctx context.Context, pause time.Duration) bool {
	timer := r.opts.Clock.NewTimer(pause)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
			return true
		case req := <-r.requests:
			req.done <- nil // the end of the session has flushed
		case <-ctx.Done():
			return false
		}
	}
}

// fatal reports whether no retry can heal err.
func fatal(err error) bool {
	var (
		refusal *Refusal
		marked  *FatalError
		broken  *taskError
	)
	return errors.As(err, &refusal) || errors.As(err, &marked) || errors.As(err, &broken) ||
		errors.Is(err, statestore.ErrFailed) || errors.Is(err, statestore.ErrClosed) ||
		errors.Is(err, statestore.ErrCluster) || errors.Is(err, statestore.ErrVersion)
}

// taskError is an error that stops the processor: of the machine, of its table, of its store.
type taskError struct{ error }

func (e *taskError) Unwrap() error { return e.error }

// brokenPatience bounds the farewell of a session that has failed.
const brokenPatience = time.Second

// runSession lives through one session with the brokers: connect, check, join, cycle.
func (r *Runtime) runSession(ctx context.Context) (err error) {
	r.setState(StateConnecting, nil)
	ctx, stop := context.WithCancel(ctx)
	defer func() {
		stop()
		patience := r.opts.EndTimeout
		if err != nil { // what is open is aborted by the next session's first request, so there is little to wait for
			patience = min(patience, brokenPatience)
		}
		err = errors.Join(err, r.endSession(context.WithoutCancel(ctx), patience))
	}()
	if err := r.begin(ctx); err != nil {
		return err
	}
	r.setState(StateRunning, nil)
	r.standbys.run(ctx, r.session, r.topics)
	return r.cycle(ctx)
}

// begin connects, checks that topics and store fit the definition, and joins the group.
func (r *Runtime) begin(ctx context.Context) error {
	s, err := r.opts.Log.Connect(ctx, SessionSpec{
		Group: r.opts.Group, Inputs: r.def.inputTopics(), Single: r.def.SingleTask,
		FoldVersion: r.def.FoldVersion, Standbys: r.opts.Standbys, Held: r.held,
	})
	if err != nil {
		return err
	}
	r.session = s
	if r.topics, err = s.Topics(ctx, r.def.topics()); err != nil {
		return err
	}
	if err := r.def.ValidateTopics(r.topics); err != nil {
		return err // topics may be on their way: soft
	}
	if err := statestore.Bind(r.opts.Store, s.ClusterID()); err != nil {
		return &taskError{err}
	}
	if err := r.standbys.open(); err != nil {
		return err
	}
	return s.Join(ctx)
}

// endSession brings everything to rest: recoveries and copies end, the group is left, committed state is flushed, tasks and caches go. The
// group is left before the flush, because others take the tasks over meanwhile; what is flushed then is behind K, as ever.
func (r *Runtime) endSession(ctx context.Context, patience time.Duration) error {
	r.recoveries.stop()
	r.standbys.stop()
	r.giveUp(patience)
	if r.session != nil {
		ctx, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		if err := r.session.Close(ctx); err != nil {
			r.log.Warn("closing the session failed", slog.Any("error", err))
		}
	}
	flushed := errors.Join(r.flushAll(), r.serve())
	if r.session == nil {
		return flushed
	}
	var ids []int32
	for id := range r.tasks {
		ids = append(ids, id)
	}
	r.removeTasks(ids)
	r.resetTransaction()
	r.session = nil
	return flushed
}

// removeTasks takes tasks out of sight and purges their caches.
func (r *Runtime) removeTasks(ids []int32) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, id := range ids {
		t, ok := r.tasks[id]
		if !ok {
			continue
		}
		for _, tb := range t.tables {
			r.cache.purge(tb)
		}
		delete(r.tasks, id)
		if st := r.status.tasks[id]; st != nil {
			r.standbys.note(r.heldOf(st))
		}
		r.status.drop(id)
	}
}

// pace tells how old a transaction may get while more input is waiting.
type pace struct {
	min, max time.Duration
	commit   time.Duration // smoothed time that a commit takes
}

// observe takes one commit's duration into account.
func (p *pace) observe(d time.Duration) {
	if p.commit == 0 {
		p.commit = d
		return
	}
	p.commit += (d - p.commit) / 8
}

// age is four times what a commit takes, so that commits take a fifth of the time at most.
func (p *pace) age() time.Duration { return min(max(4*p.commit, p.min), p.max) }
