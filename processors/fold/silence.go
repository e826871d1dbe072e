package fold

import (
	"time"

	"github.com/regent-infra/regent/schemas"
)

// What is assumed of a heartbeat that names no usable interval, or of a node that was never heard.
const (
	defaultInterval = time.Second
	maxInterval     = time.Hour
	// suspectIntervals is the default of suspect_after in intervals, and also bounds it: less than two heartbeats of silence
	// is no silence.
	suspectIntervals    = 3
	minSuspectIntervals = 2
	// gapIntervals: a record advances the silence of others by at most so many of their heartbeats. A longer gap was an outage
	// of the log, not of the nodes.
	gapIntervals = 2
	// clockStep: a broker clock that falls back by more is another clock (a new leader's); less is jitter.
	clockStep = 10 * time.Second
	// maxSilent bounds how many silent nodes are remembered. A forgotten one keeps what its state says.
	maxSilent = 1 << 16
)

// Pulse is what the heartbeats partition says of one node.
type Pulse struct {
	// Liveness is UNKNOWN until the first heartbeat.
	Liveness schemas.Liveness
	// IntervalMs and SuspectAfterMs are what the last heartbeat said, in milliseconds; 0 before the first.
	IntervalMs, SuspectAfterMs int32
}

// Silence judges which nodes have fallen silent, from the records of one heartbeats partition in their order. It is soft
// state: it starts from nothing, and losing it delays a suspicion, because what was not heard since counts from then on.
//
// The rules: a node's silence grows with the time between records of the partition, whoever wrote them. A gap longer than
// two of its heartbeats counts as none and restarts its grace: then the log was away, not the node. A node whose silence
// exceeds what its last heartbeat allowed is suspected until it is heard again.
//
// Nodes of equal timing form a class with one clock and a queue in the order of their last heartbeat, which is the order
// of their deadlines. So a record costs O(classes + newly suspected), whatever the number of nodes.
type Silence struct {
	now     time.Time
	classes []*silenceClass
	nodes   map[string]*silenceEntry
	// silent holds the suspected ones, the longest silent first.
	silent entryList
	count  int
}

// timing is what two nodes must share to be in one class.
type timing struct{ interval, suspectAfter time.Duration }

type silenceClass struct {
	timing timing
	// clock is the silence that a node would have that was last heard when the class began.
	clock time.Duration
	// restarted is the clock at the last restart of the grace: whoever was heard before counts from there.
	restarted time.Duration
	queue     entryList
}

type silenceEntry struct {
	node  string
	pulse Pulse
	// class is nil on a suspected node.
	class *silenceClass
	// heard is the class clock at the last heartbeat.
	heard      time.Duration
	suspect    bool
	prev, next *silenceEntry
}

// NewSilence returns a judge that has heard nobody.
func NewSilence() *Silence { return &Silence{nodes: map[string]*silenceEntry{}} }

// Expect says that the node was alive when the state was last emitted: its silence counts from now on. It is for whoever takes a
// partition over; a node that has been heard already stays as it is.
func (s *Silence) Expect(node string, pulse Pulse) {
	if _, known := s.nodes[node]; !known {
		s.hear(node, pulse)
	}
}

// Pass lets time pass to the append time of a record, and returns the nodes that are suspected from now on. Of nodes with equal timing the
// longest silent comes first.
func (s *Silence) Pass(at time.Time) []string { return s.advance(at, "") }

// Beat is [Silence.Pass] for a heartbeat: the node itself is alive from now on, with the timing that it announces.
func (s *Silence) Beat(at time.Time, node string, intervalMs, suspectAfterMs int32) []string {
	suspects := s.advance(at, node)
	s.hear(node, Pulse{Liveness: schemas.LivenessAlive, IntervalMs: intervalMs, SuspectAfterMs: suspectAfterMs})
	return suspects
}

// Pulse returns what is known of the node, and false if nothing is.
func (s *Silence) Pulse(node string) (Pulse, bool) {
	e, known := s.nodes[node]
	if !known {
		return Pulse{}, false
	}
	p := e.pulse
	if e.suspect {
		p.Liveness = schemas.LivenessSuspect
	}
	return p, true
}

// Suspects returns up to limit suspected nodes, and moves them behind the others, so that repeated calls get around.
func (s *Silence) Suspects(limit int) []string {
	var nodes []string
	for e := s.silent.head; e != nil && len(nodes) < min(limit, s.count); e = s.silent.head {
		s.silent.remove(e)
		s.silent.push(e)
		nodes = append(nodes, e.node)
	}
	return nodes
}

// advance moves all clocks; the heartbeat's own node is not judged, for it is alive.
func (s *Silence) advance(at time.Time, beaten string) []string {
	if s.now.IsZero() || at.Before(s.now.Add(-clockStep)) {
		for _, c := range s.classes {
			c.restarted = c.clock
		}
		s.now = at
		return nil
	}
	delta := at.Sub(s.now)
	if delta <= 0 {
		return nil
	}
	s.now = at
	var suspects []string
	for _, c := range s.classes {
		c.clock += delta
		if delta > gapIntervals*c.timing.interval {
			c.restarted = c.clock
			continue
		}
		suspects = s.expire(c, beaten, suspects)
	}
	return suspects
}

// expire moves those whose time is up from the class's queue to the silent ones.
func (s *Silence) expire(c *silenceClass, beaten string, suspects []string) []string {
	for e := c.queue.head; e != nil; {
		if c.clock-max(e.heard, c.restarted) <= c.timing.suspectAfter {
			break
		}
		next := e.next
		if e.node != beaten {
			c.queue.remove(e)
			e.suspect, e.class = true, nil
			s.silent.push(e)
			s.count++
			suspects = append(suspects, e.node)
		}
		e = next
	}
	for s.count > maxSilent {
		s.forget(s.silent.head)
	}
	return suspects
}

func (s *Silence) forget(e *silenceEntry) {
	s.silent.remove(e)
	s.count--
	delete(s.nodes, e.node)
}

// hear notes a sign of life.
func (s *Silence) hear(node string, pulse Pulse) {
	e, known := s.nodes[node]
	switch {
	case !known:
		e = &silenceEntry{node: node}
		s.nodes[node] = e
	case e.suspect:
		s.silent.remove(e)
		s.count--
		e.suspect = false
	default:
		e.class.queue.remove(e)
	}
	e.pulse = pulse
	if t := timingOf(pulse); e.class == nil || e.class.timing != t {
		e.class = s.classOf(t)
	}
	e.heard = e.class.clock
	e.class.queue.push(e)
	s.dropEmptyClasses()
}

// classOf returns the class of a timing; nodes rarely have more than two or three.
func (s *Silence) classOf(t timing) *silenceClass {
	for _, c := range s.classes {
		if c.timing == t {
			return c
		}
	}
	c := &silenceClass{timing: t}
	s.classes = append(s.classes, c)
	return c
}

// dropEmptyClasses keeps the number of classes bounded by that of nodes, without work while there are few.
func (s *Silence) dropEmptyClasses() {
	if len(s.classes) <= 8 {
		return
	}
	kept := s.classes[:0]
	for _, c := range s.classes {
		if c.queue.head != nil {
			kept = append(kept, c)
		}
	}
	clear(s.classes[len(kept):])
	s.classes = kept
}

func timingOf(p Pulse) timing {
	interval := time.Duration(p.IntervalMs) * time.Millisecond
	if interval <= 0 {
		interval = defaultInterval
	}
	interval = min(interval, maxInterval)
	suspectAfter := time.Duration(p.SuspectAfterMs) * time.Millisecond
	if suspectAfter <= 0 {
		suspectAfter = suspectIntervals * interval
	}
	return timing{interval: interval, suspectAfter: max(suspectAfter, minSuspectIntervals*interval)}
}

// entryList is a queue of entries from which any can be taken.
type entryList struct{ head, tail *silenceEntry }

func (l *entryList) push(e *silenceEntry) {
	e.prev, e.next = l.tail, nil
	if l.tail == nil {
		l.head = e
	} else {
		l.tail.next = e
	}
	l.tail = e
}

func (l *entryList) remove(e *silenceEntry) {
	if e.prev == nil {
		l.head = e.next
	} else {
		e.prev.next = e.next
	}
	if e.next == nil {
		l.tail = e.prev
	} else {
		e.next.prev = e.prev
	}
	e.prev, e.next = nil, nil
}
