package stream

import (
	"cmp"
	"slices"
	"sync"
	"time"
)

// State is what a runtime is doing.
type State string

// The states of a runtime.
const (
	StateNew        State = "new"        // Run was not called yet
	StateConnecting State = "connecting" // looking for the brokers, checking topics, joining the group
	StateRunning    State = "running"    // a member of the group; see the tasks
	StateRetrying   State = "retrying"   // a soft failure; it is tried again after a pause, for ever
	StateStopped    State = "stopped"    // Run has returned, everything is flushed
	StateFailed     State = "failed"     // Run has returned an error
)

// Status is a snapshot of a runtime, for people and health checks.
type Status struct {
	Processor string    `json:"processor"`
	State     State     `json:"state"`
	Since     time.Time `json:"since"`
	// Error is why the state is retrying or failed, or why the brokers cannot be reached although the session lives.
	Error string       `json:"error,omitempty"`
	Tasks []TaskStatus `json:"tasks"`
	// Standbys are the copies that this process keeps of tasks that others run.
	Standbys []StandbyStatus `json:"standbys,omitempty"`
}

// Ready reports whether the runtime is a member of the group, all of its tasks run, and have caught up.
func (s *Status) Ready() bool {
	return s.State == StateRunning && s.Error == "" &&
		!slices.ContainsFunc(s.Tasks, func(t TaskStatus) bool { return !t.Running || !t.CaughtUp })
}

// TaskStatus is a snapshot of one task of this process, as of its last commit.
type TaskStatus struct {
	Task int32 `json:"task"`
	// Running is false while the task recovers.
	Running    bool  `json:"running"`
	CaughtUp   bool  `json:"caught_up"`
	Generation int64 `json:"generation"`
	// Out is the offset after the task's last record in the changelog.
	Out        int64     `json:"out"`
	StreamTime time.Time `json:"stream_time,omitzero"`
	LastCommit time.Time `json:"last_commit,omitzero"`
	// Lag is the sum over the inputs of high watermark minus position.
	Lag    int64         `json:"lag"`
	Inputs []InputStatus `json:"inputs,omitempty"`
	// Redone and ToRedo are, while the task recovers, the offsets that are done, and all of them.
	Redone int64 `json:"redone,omitempty"`
	ToRedo int64 `json:"to_redo,omitempty"`
}

// InputStatus is one input partition of a task.
type InputStatus struct {
	Topic     string `json:"topic"`
	Partition int32  `json:"partition"`
	// Position is the next offset as of the last commit, High the high watermark as of the last poll.
	Position int64 `json:"position"`
	High     int64 `json:"high"`
}

// statusBoard is where the cycle writes what Status reads; the runtime's lock guards it.
type statusBoard struct {
	processor string
	state     State
	since     time.Time
	err       error
	trouble   func() error
	wake      func()
	tasks     map[int32]*TaskStatus
}

func newStatusBoard(processor string, now time.Time) statusBoard {
	return statusBoard{processor: processor, state: StateNew, since: now, tasks: map[int32]*TaskStatus{}}
}

func (r *Runtime) setState(s State, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	b := &r.status
	if b.state != s {
		b.state, b.since = s, r.opts.Clock.Now()
	}
	if s != StateConnecting { // the error of the attempt before stays visible while the next one is made
		b.err = err
	}
	if s != StateRunning {
		b.trouble, b.wake = nil, nil
	} else {
		b.trouble, b.wake = r.session.Trouble, r.session.Wake
	}
}

func (b *statusBoard) recovering(mu sync.Locker, id int32) {
	mu.Lock()
	defer mu.Unlock()
	b.tasks[id] = &TaskStatus{Task: id}
}

func (b *statusBoard) progress(id int32, done, total int64) {
	if t := b.tasks[id]; t != nil {
		t.Redone, t.ToRedo = done, max(done, total)
	}
}

func (b *statusBoard) drop(id int32) { delete(b.tasks, id) }

// running and committed take the task's positions over.
func (b *statusBoard) running(t *task) {
	b.tasks[t.id] = &TaskStatus{Task: t.id, Running: true, Generation: t.generation}
	b.committed(t, time.Time{})
}

func (b *statusBoard) committed(t *task, now time.Time) {
	s := b.tasks[t.id]
	if s == nil {
		return
	}
	s.CaughtUp, s.Out, s.StreamTime, s.LastCommit = t.caughtUp, t.out, t.streamTime, now
	s.Inputs, s.Lag = s.Inputs[:0], 0
	for tp, in := range t.inputs {
		s.Inputs = append(s.Inputs, InputStatus{Topic: tp.Topic, Partition: tp.Partition, Position: in.committed, High: in.high})
		s.Lag += max(in.high-in.committed, 0)
	}
	slices.SortFunc(s.Inputs, func(a, b InputStatus) int {
		return cmp.Or(cmp.Compare(a.Topic, b.Topic), cmp.Compare(a.Partition, b.Partition))
	})
}

// Status returns a snapshot. It is safe for concurrent use.
func (r *Runtime) Status() Status {
	r.mu.RLock()
	defer r.mu.RUnlock()
	b := &r.status
	out := Status{Processor: b.processor, State: b.state, Since: b.since}
	err := b.err
	if err == nil && b.trouble != nil {
		err = b.trouble()
	}
	if err != nil {
		out.Error = err.Error()
	}
	for _, t := range b.tasks {
		c := *t
		c.Inputs = slices.Clone(t.Inputs)
		out.Tasks = append(out.Tasks, c)
	}
	slices.SortFunc(out.Tasks, func(a, b TaskStatus) int { return cmp.Compare(a.Task, b.Task) })
	out.Standbys = r.standbys.snapshot()
	return out
}
