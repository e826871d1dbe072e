package orchestrator

import (
	"container/heap"
	"time"

	"github.com/regent-infra/regent/internal/event"
	"github.com/regent-infra/regent/internal/stream"
	"github.com/regent-infra/regent/schemas"
)

// keepFinished is how long a finished workflow is kept: as long as the commands that may have asked for it.
const keepFinished = 90 * 24 * time.Hour

// schedule holds at most one moment per name, the earliest first. It is soft: lost, it is made anew from the tables.
type schedule struct {
	at    map[string]time.Time
	queue queue
}

type appointment struct {
	at   time.Time
	name string
}

type queue []appointment

// Len implements [heap.Interface].
func (q queue) Len() int { return len(q) }

// Less implements [heap.Interface].
func (q queue) Less(i, j int) bool { return q[i].at.Before(q[j].at) }

// Swap implements [heap.Interface].
func (q queue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }

// Push implements [heap.Interface].
func (q *queue) Push(x any) { *q = append(*q, x.(appointment)) }

// Pop implements [heap.Interface].
func (q *queue) Pop() any {
	old := *q
	last := old[len(old)-1]
	*q = old[:len(old)-1]
	return last
}

func newSchedule() *schedule { return &schedule{at: map[string]time.Time{}} }

// set replaces the moment of a name; a zero one takes it away.
func (s *schedule) set(name string, at time.Time) {
	if at.IsZero() {
		delete(s.at, name)
		return
	}
	if have, ok := s.at[name]; ok && have.Equal(at) {
		return
	}
	s.at[name] = at
	heap.Push(&s.queue, appointment{at, name})
	if len(s.queue) > 64 && len(s.queue) > 4*len(s.at) {
		// Moments that were replaced pile up until they come: drop them.
		s.queue = s.queue[:0]
		for name, at := range s.at {
			s.queue = append(s.queue, appointment{at, name})
		}
		heap.Init(&s.queue)
	}
}

// due takes out the earliest name whose moment has come. It costs one look when there is none.
func (s *schedule) due(now time.Time) (string, bool) {
	for len(s.queue) > 0 && !now.Before(s.queue[0].at) {
		a := heap.Pop(&s.queue).(appointment)
		if at, ok := s.at[a.name]; ok && at.Equal(a.at) {
			delete(s.at, a.name)
			return a.name, true
		}
	}
	return "", false
}

// sweep notes when a workflow that has ended may be forgotten.
func (m *machine) sweep(cluster event.ClusterID, w *schemas.Workflow) {
	if w.FinishedAt != nil {
		m.forgets.set(workflowKey(cluster, w.ID), w.FinishedAt.Add(keepFinished))
	}
}

// forget writes tombstones for workflows that ended long ago, a few at a time.
func (m *machine) forget(task stream.Task, out *output) error {
	for range 16 {
		key, ok := m.forgets.due(task.StreamTime())
		if !ok {
			return nil
		}
		w, err := get[schemas.Workflow](m, task, WorkflowsTable, key)
		if err != nil {
			return err
		}
		if w != nil && w.FinishedAt != nil && !task.StreamTime().Before(w.FinishedAt.Add(keepFinished)) {
			out.drop(m.workflows, key)
		}
	}
	return nil
}
