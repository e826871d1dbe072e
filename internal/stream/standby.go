package stream

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"slices"
	"strconv"
	"sync"
	"time"
)

// standbys keeps warm copies of tasks that other members run, in this process's store, so that a take-over has little to redo.
//
// A copy is made the way a recovery makes state: by upserts of what the redo sources hold, up to K, with a position P in every batch. So it
// never holds more than what is committed (P ≤ K), a copy that is cut off goes on where it was, and becoming active is what it always is:
// decide compares P and K, and the rest is redone. Nothing trusts a copy because it is one.
//
// The group says of which tasks copies are to be kept here. The loop brings all of them forward at each interval: it asks once where the
// group stands, and reads what is below. What it does not do is wait: K as it is known for certain bounds what is read, so everything that is
// read is decided.
type standbys struct {
	r *Runtime

	mu       sync.Mutex
	assigned []StandbyTask
	copies   map[int32]*replica
	stored   map[int32]Held // of tasks that do not run here
	locks    map[int32]*sync.Mutex
	rejoined time.Time
	fault    error // ends the session

	kick chan struct{}
	work sync.WaitGroup
	loop sync.WaitGroup
}

// rejoinInterval is the least time between two times that the group is told of copies that have become warm, and partWarmInterval how long
// those that are warm wait for the others.
const (
	rejoinInterval   = 2 * time.Second
	partWarmInterval = 10 * time.Second
)

func newStandbys(r *Runtime) *standbys {
	return &standbys{r: r, copies: map[int32]*replica{}, stored: map[int32]Held{}, locks: map[int32]*sync.Mutex{}, kick: make(chan struct{}, 1)}
}

// open reads how far the tasks in the store reach, for the first join.
func (s *standbys) open() error {
	r := s.r
	tasks := int32(1)
	if !r.def.SingleTask {
		tasks = r.topics[r.def.Inputs[0].Topic].Partitions
	}
	stored := map[int32]Held{}
	for id := range tasks {
		p, err := readPosition(r.opts.Store, r.def.Name, id)
		if err != nil {
			return &taskError{err}
		}
		if p != nil && p.Changelog == r.topics[r.def.Changelog].ID {
			stored[id] = Held{Task: id, Position: r.def.reach(p), FoldVersion: p.FoldVersion}
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stored, s.assigned, s.rejoined, s.fault = stored, nil, s.r.opts.Clock.Now(), nil
	return nil
}

// reach is what [Held] calls a position.
func (d *Definition) reach(p *Position) int64 {
	sum := p.Out
	for _, in := range p.Inputs {
		if d.tableOf(in.Topic) != "" {
			sum += in.Next
		}
	}
	return sum
}

// run brings the copies forward until ctx ends.
func (s *standbys) run(ctx context.Context, session Session, topics map[string]TopicInfo) {
	s.loop.Go(func() {
		for {
			timer := s.r.opts.Clock.NewTimer(s.r.opts.StandbyInterval)
			select {
			case <-ctx.Done():
				timer.Stop()
				return
			case <-s.kick:
			case <-timer.C:
			}
			timer.Stop()
			s.round(ctx, session, topics)
			s.tellWarm(session)
		}
	})
}

// stop ends everything; the context of run has ended.
func (s *standbys) stop() {
	s.mu.Lock()
	for id, c := range s.copies {
		c.cancel()
		delete(s.copies, id)
	}
	s.assigned = nil
	s.mu.Unlock()
	s.loop.Wait()
	s.work.Wait()
}

// follow takes over which copies are to be kept: those that the group wants here (nil: as before), but for tasks that run here or are about to.
func (s *standbys) follow(ctx context.Context, assigned []StandbyTask, active func(task int32) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if assigned != nil {
		s.assigned = assigned
	}
	want := map[int32]StandbyTask{}
	for _, st := range s.assigned {
		if !active(st.Task) {
			want[st.Task] = st
		}
	}
	for id, c := range s.copies {
		if _, ok := want[id]; !ok {
			c.cancel()
			delete(s.copies, id)
			s.r.opts.Metrics.forgetStandby(s.r.def.Name, id)
		}
	}
	for id, st := range want {
		c := s.copies[id]
		if c == nil {
			c = &replica{id: id}
			c.ctx, c.cancel = context.WithCancel(ctx)
			s.copies[id] = c
		}
		c.warmUp = st.WarmUp
	}
	s.hurry()
}

// hurry makes the next round come at once.
func (s *standbys) hurry() {
	select {
	case s.kick <- struct{}{}:
	default:
	}
}

// lock keeps the copy and the recovery of a task from working at the same time.
func (s *standbys) lock(task int32) *sync.Mutex {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.locks[task] == nil {
		s.locks[task] = &sync.Mutex{}
	}
	return s.locks[task]
}

// note says how far the store holds a task that does not run here.
func (s *standbys) note(h Held) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stored[h.Task] = h
}

// round starts to bring every copy forward that is not being so already.
func (s *standbys) round(ctx context.Context, session Session, topics map[string]TopicInfo) {
	r := s.r
	due := s.idle()
	if len(due) == 0 {
		return
	}
	now := r.opts.Clock.Now()
	var parts []topicPartition
	for _, c := range due {
		parts = append(parts, r.def.partitionsOf(c.id, topics)...)
	}
	committed, err := session.Settled(ctx, parts)
	if err != nil {
		for _, c := range due {
			s.settle(c, err)
		}
		return
	}
	for _, c := range due {
		w := &follower{r: r, session: session, topics: topics, c: c, now: now}
		k := map[topicPartition]Committed{}
		for _, tp := range r.def.partitionsOf(c.id, topics) {
			if at, ok := committed[tp]; ok {
				k[tp] = at
			}
		}
		s.work.Go(func() {
			if s.settle(c, s.exclusively(c, func() error { return w.advance(c.ctx, k) })) {
				session.Wake()
			}
		})
	}
}

// exclusively does something with a copy, when it is its turn and nobody else's, unless it is not wanted any more.
func (s *standbys) exclusively(c *replica, do func() error) error {
	select {
	case s.r.copying <- struct{}{}:
		defer func() { <-s.r.copying }()
	case <-c.ctx.Done():
		return context.Cause(c.ctx)
	}
	mine := s.lock(c.id)
	mine.Lock()
	defer mine.Unlock()
	if c.ctx.Err() != nil {
		return context.Cause(c.ctx)
	}
	return do()
}

// idle returns the copies that nobody works at, and marks them as being worked at.
func (s *standbys) idle() []*replica {
	s.mu.Lock()
	defer s.mu.Unlock()
	var due []*replica
	now := s.r.opts.Clock.Now()
	for _, c := range s.copies {
		if !c.busy && !now.Before(c.rests) {
			c.busy = true
			due = append(due, c)
		}
	}
	slices.SortFunc(due, func(a, b *replica) int { return cmp.Compare(a.id, b.id) })
	return due
}

// settle takes the outcome of one step, and reports whether it ends the session.
func (s *standbys) settle(c *replica, err error) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	c.busy = false
	if c.ctx.Err() != nil {
		return false
	}
	var broken *taskError
	var refusal *Refusal
	pause := s.r.opts.RetryMin
	switch {
	case err == nil:
		pause = 0
	case errors.As(err, &broken):
		s.fault = err
	case errors.As(err, &refusal):
		pause = s.r.opts.RetryMax // the process goes on: it is the task's owner that has to be told
	}
	if err != nil && (c.err == nil || c.err.Error() != err.Error()) {
		s.r.log.Warn("the copy of a task is not brought forward; it is tried again", slog.Int("task", int(c.id)), slog.Any("error", err))
	}
	c.err, c.rests = err, s.r.opts.Clock.Now().Add(pause)
	return s.fault != nil
}

// failure returns what ends the session, if anything.
func (s *standbys) failure() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.fault
}

// tellWarm tells the group of copies that have warmed up, so that their tasks move here.
func (s *standbys) tellWarm(session Session) {
	s.mu.Lock()
	warm, cold := 0, 0
	for _, c := range s.copies {
		switch {
		case !c.warmUp:
		case c.warm:
			warm++
		default:
			cold++
		}
	}
	now := s.r.opts.Clock.Now()
	since := now.Sub(s.rejoined)
	due := warm > 0 && since >= rejoinInterval && (cold == 0 || since >= partWarmInterval)
	if due {
		s.rejoined = now
	}
	s.mu.Unlock()
	if due {
		s.r.log.Info("copies have warmed up; the group is asked to move their tasks here", slog.Int("warm", warm), slog.Int("cold", cold))
		session.Rejoin()
	}
}

// held is what this process holds of every task; see [SessionSpec].
func (r *Runtime) held() []Held {
	s := r.standbys
	all := map[int32]Held{}
	s.mu.Lock()
	for id, h := range s.stored {
		all[id] = h
	}
	s.mu.Unlock()
	r.mu.RLock()
	for id, t := range r.status.tasks {
		if t.Running {
			all[id] = r.heldOf(t)
		}
	}
	r.mu.RUnlock()
	out := make([]Held, 0, len(all))
	for _, h := range all {
		out = append(out, h)
	}
	slices.SortFunc(out, func(a, b Held) int { return cmp.Compare(a.Task, b.Task) })
	return out
}

// heldOf is how far a task reaches that runs here; the caller holds the lock.
func (r *Runtime) heldOf(t *TaskStatus) Held {
	h := Held{Task: t.Task, Position: t.Out, FoldVersion: r.def.FoldVersion}
	for _, in := range t.Inputs {
		if r.def.tableOf(in.Topic) != "" {
			h.Position += in.Position
		}
	}
	return h
}

// StandbyStatus is a snapshot of one copy that this process keeps of a task that another runs.
type StandbyStatus struct {
	Task int32 `json:"task"`
	// Out is the offset after the last record of the changelog that the copy holds.
	Out int64 `json:"out"`
	// Lag is how many offsets it was behind when it was last looked at.
	Lag int64 `json:"lag"`
	// Warm says that a take-over would have little to redo.
	Warm bool `json:"warm"`
	// WarmUp says that the task is to move here when the copy is warm.
	WarmUp bool `json:"warm_up,omitempty"`
	// Error is why it is not brought forward.
	Error string `json:"error,omitempty"`
}

// snapshot returns the status of all copies.
func (s *standbys) snapshot() []StandbyStatus {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []StandbyStatus
	for _, c := range s.copies {
		st := StandbyStatus{Task: c.id, Out: c.out, Lag: c.lag, Warm: c.warm, WarmUp: c.warmUp}
		if c.err != nil {
			st.Error = c.err.Error()
		}
		out = append(out, st)
	}
	slices.SortFunc(out, func(a, b StandbyStatus) int { return cmp.Compare(a.Task, b.Task) })
	return out
}

// step is what the cycle does about copies in each of its steps.
func (s *standbys) step(ctx context.Context, b *Batch) error {
	if b.Standbys != nil || len(b.Assigned)+len(b.Revoked) > 0 {
		s.follow(ctx, b.Standbys, func(task int32) bool { return s.r.tasks[task] != nil || s.r.recoveries.has(task) })
	}
	return s.failure()
}

func taskLabel(task int32) string { return strconv.Itoa(int(task)) }
