package stream_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/regent-infra/regent/internal/record"
	"github.com/regent-infra/regent/internal/stream"
)

// cluster is a Kafka cluster in memory, as far as the runtime's port sees one: logs with transactions, markers and compaction, and a
// group whose generation fences. It is the deterministic double for the property tests.
type cluster struct {
	mu     sync.Mutex
	topics map[string]*memTopic
	now    time.Time

	generation int
	members    map[string]*memSession // by instance id
	owner      map[int32]string       // task → instance id
	offsets    map[record.TopicPartition]stream.Committed

	// ranges are the committed source ranges, one list per partition; the audit wants them contiguous.
	ranges map[record.TopicPartition][][2]int64
	// impatience counts how often somebody has asked for a log that an open transaction holds back: in the end it times out.
	impatience int
	// bare counts transactions with records of a task but without its offsets.
	bare int
}

type memTopic struct {
	info  stream.TopicInfo
	parts []*memPart
}

type memPart struct {
	start, next int64
	log         []memEntry
}

type memEntry struct {
	rec    record.Record
	txn    *memTxn // nil: plain
	marker bool
}

type memTxn struct{ state stream.Outcome } // 0 is open

var errLink = errors.New("the link is down")

func newCluster(partitions int32) *cluster {
	c := &cluster{
		topics: map[string]*memTopic{}, members: map[string]*memSession{}, owner: map[int32]string{},
		offsets: map[record.TopicPartition]stream.Committed{}, ranges: map[record.TopicPartition][][2]int64{},
		now: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC),
	}
	for i, name := range []string{factsTopic, stateTopic, sideTopic, deadTopic} {
		t := &memTopic{info: stream.TopicInfo{
			ID: [16]byte{byte(i + 1)}, Partitions: partitions, DeleteRetention: time.Hour, Compacted: name == stateTopic,
		}}
		for range partitions {
			t.parts = append(t.parts, &memPart{})
		}
		c.topics[name] = t
	}
	return c
}

func (c *cluster) part(tp record.TopicPartition) *memPart {
	return c.topics[tp.Topic].parts[tp.Partition]
}

// append adds a record; the caller holds the lock.
func (c *cluster) append(rec record.Record, txn *memTxn, marker bool) int64 {
	p := c.part(rec.Position())
	rec.Offset, rec.Timestamp = p.next, c.now
	c.now = c.now.Add(time.Millisecond)
	p.log = append(p.log, memEntry{rec: rec, txn: txn, marker: marker})
	p.next++
	return rec.Offset
}

func (p *memPart) stable() int64 {
	for _, e := range p.log {
		if e.txn != nil && e.txn.state == 0 {
			return e.rec.Offset
		}
	}
	return p.next
}

func (e memEntry) visible() bool {
	return !e.marker && (e.txn == nil || e.txn.state == stream.TransactionCommitted)
}

// committedRecords returns what a reader of committed records sees.
func (c *cluster) committedRecords(topic string) map[int32][]record.Record {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := map[int32][]record.Record{}
	for i, p := range c.topics[topic].parts {
		out[int32(i)] = nil
		for _, e := range p.log {
			if e.visible() && e.rec.Offset < p.stable() {
				out[int32(i)] = append(out[int32(i)], e.rec)
			}
		}
	}
	return out
}

// compact removes what a cleaner may remove below an offset: overwritten values, aborted records, markers, and, if they are old
// enough, tombstones.
func (c *cluster) compact(topic string, below int64, tombstones bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, p := range c.topics[topic].parts {
		limit := min(below, p.stable())
		last := map[string]int64{}
		for _, e := range p.log {
			if e.visible() && e.rec.Offset < limit {
				last[string(e.rec.Key)] = e.rec.Offset
			}
		}
		p.log = slices.DeleteFunc(p.log, func(e memEntry) bool {
			if e.rec.Offset >= limit {
				return false
			}
			if !e.visible() {
				return true
			}
			return last[string(e.rec.Key)] != e.rec.Offset || e.rec.Tombstone() && tombstones
		})
	}
}

// balance gives the tasks to the members, in the order that the caller wants.
func (c *cluster) balance(give func(task int32, members []string) string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.rebalance(give)
}

func (c *cluster) rebalance(give func(task int32, members []string) string) {
	var ids []string
	for id := range c.members {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	c.generation++
	for task := range c.topics[factsTopic].info.Partitions {
		before := c.owner[task]
		if len(ids) == 0 {
			delete(c.owner, task)
			continue
		}
		now := before
		if give != nil {
			now = give(task, ids)
		} else if !slices.Contains(ids, before) {
			now = ids[int(task)%len(ids)]
		}
		if now == before {
			continue
		}
		if m := c.members[before]; m != nil {
			m.revoke(task)
		}
		c.owner[task] = now
		m := c.members[now]
		m.assigned = append(m.assigned, task)
	}
	for _, m := range c.members {
		m.generation = c.generation
	}
}

// memLog is an instance's way to the cluster.
type memLog struct {
	*cluster
	instance string
	// fault, where set, is asked before each operation, and may make it fail; after it is asked again when the operation is done.
	fault func(op string, done bool) error
}

func (l *memLog) Connect(context.Context, stream.SessionSpec) (stream.Session, error) {
	if err := l.fault("connect", false); err != nil {
		return nil, err
	}
	return &memSession{memLog: l, reading: map[record.TopicPartition]int64{}}, nil
}

type memSession struct {
	*memLog
	generation int
	assigned   []int32
	revoked    []int32
	reading    map[record.TopicPartition]int64
	txn        *memTxn
	touched    []record.TopicPartition
	tasks      map[int32]bool // written in the transaction
	closed     bool
}

func (s *memSession) revoke(task int32) {
	if i := slices.Index(s.assigned, task); i >= 0 {
		s.assigned = slices.Delete(s.assigned, i, i+1)
		return
	}
	s.revoked = append(s.revoked, task)
	delete(s.reading, record.TopicPartition{Topic: factsTopic, Partition: task})
}

func (s *memSession) ClusterID() string { return "memory" }
func (s *memSession) Trouble() error    { return nil }
func (s *memSession) Wake()             {}

func (s *memSession) Topics(_ context.Context, names []string) (map[string]stream.TopicInfo, error) {
	out := map[string]stream.TopicInfo{}
	for _, n := range names {
		if t := s.topics[n]; t != nil {
			out[n] = t.info
		}
	}
	return out, nil
}

func (s *memSession) Join(context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if old := s.members[s.instance]; old != nil {
		old.lose()
	}
	s.members[s.instance] = s
	s.rebalance(nil)
	return nil
}

// lose is what happens to a session whose process is gone, or that another incarnation has fenced; the caller holds the lock.
func (s *memSession) lose() {
	s.closed = true
	s.end(stream.TransactionAborted)
	if s.members[s.instance] == s {
		delete(s.members, s.instance)
		for task, owner := range s.owner {
			if owner == s.instance {
				delete(s.owner, task)
			}
		}
		s.rebalance(nil)
	}
}

func (s *memSession) Poll(_ context.Context, maxRecords int, _ time.Duration) (*stream.Batch, error) {
	if err := s.fault("poll", false); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	b := &stream.Batch{Revoked: s.revoked, Assigned: s.assigned, Standbys: []stream.StandbyTask{}}
	for task := range s.topics[factsTopic].info.Partitions { // everybody stands by for everything
		if s.owner[task] != s.instance {
			b.Standbys = append(b.Standbys, stream.StandbyTask{Task: task})
		}
	}
	s.revoked, s.assigned = nil, nil
	room := maxRecords
	for p := range s.topics[factsTopic].info.Partitions {
		tp := record.TopicPartition{Topic: factsTopic, Partition: p}
		from, ok := s.reading[tp]
		if !ok {
			continue
		}
		part := s.part(tp)
		f := stream.Fetched{TopicPartition: tp, Next: from, High: part.next}
		for _, e := range part.log {
			if e.rec.Offset < from || e.rec.Offset >= part.stable() || room == 0 {
				continue
			}
			f.Next = e.rec.Offset + 1
			if e.visible() {
				f.Records = append(f.Records, e.rec)
				room--
			}
		}
		if f.Next > from {
			s.reading[tp] = f.Next
			b.Fetched = append(b.Fetched, f)
		}
	}
	return b, nil
}

func (s *memSession) Buffered() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for tp, from := range s.reading {
		for _, e := range s.part(tp).log {
			if e.rec.Offset >= from {
				n++
			}
		}
	}
	return n
}

func (s *memSession) Resume(positions map[record.TopicPartition]int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for tp, o := range positions {
		if s.owner[tp.Partition] == s.instance && !slices.Contains(s.revoked, tp.Partition) {
			s.reading[tp] = o
		}
	}
}

func (s *memSession) Produce(recs []record.Record, done func(string, int64, error)) {
	for _, rec := range recs {
		offset, err := s.produce(rec)
		done(rec.Topic, offset, err)
	}
}

func (s *memSession) produce(rec record.Record) (int64, error) {
	if err := s.fault("produce", false); err != nil {
		return 0, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return 0, errLink
	}
	if s.txn == nil {
		s.txn, s.tasks = &memTxn{}, map[int32]bool{}
	}
	s.touched = append(s.touched, rec.Position())
	s.tasks[rec.Partition] = true
	return s.append(rec, s.txn, false), nil
}

func (s *memSession) Flush(context.Context) error { return s.fault("flush", false) }

// end ends the open transaction with markers; the caller holds the lock.
func (s *memSession) end(o stream.Outcome) {
	if s.txn == nil {
		return
	}
	s.txn.state = o
	slices.SortFunc(s.touched, func(a, b record.TopicPartition) int {
		return slices.Compare([]byte(fmt.Sprint(a)), []byte(fmt.Sprint(b)))
	})
	for _, tp := range slices.Compact(s.touched) {
		s.append(record.Record{Topic: tp.Topic, Partition: tp.Partition}, nil, true)
	}
	s.txn, s.touched = nil, nil
}

func (s *memSession) Commit(_ context.Context, tasks []int32, offsets []stream.OffsetCommit) (stream.Outcome, error) {
	if err := s.fault("commit", false); err != nil {
		return stream.TransactionUnknown, err
	}
	if err := s.fault("refuse", false); err != nil { // the group has moved on, although nobody has told us yet
		s.mu.Lock()
		defer s.mu.Unlock()
		s.end(stream.TransactionAborted)
		return stream.TransactionAborted, fmt.Errorf("%w: %w", stream.ErrRevoked, err)
	}
	if outcome, err := s.commit(tasks, offsets); err != nil {
		return outcome, err
	}
	if err := s.fault("commit", true); err != nil {
		return stream.TransactionUnknown, err
	}
	return stream.TransactionCommitted, nil
}

func (s *memSession) commit(tasks []int32, offsets []stream.OffsetCommit) (stream.Outcome, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return stream.TransactionUnknown, errLink
	}
	for _, id := range tasks {
		if s.owner[id] != s.instance || slices.Contains(s.revoked, id) {
			s.end(stream.TransactionAborted)
			return stream.TransactionAborted, stream.ErrRevoked
		}
	}
	for id := range s.tasks {
		if s.txn != nil && !slices.Contains(tasks, id) {
			s.bare++
		}
	}
	for _, o := range offsets {
		from := s.offsets[o.TopicPartition].Offset
		s.ranges[o.TopicPartition] = append(s.ranges[o.TopicPartition], [2]int64{from, o.Offset})
		s.offsets[o.TopicPartition] = stream.Committed{Offset: o.Offset, Metadata: o.Metadata}
	}
	s.end(stream.TransactionCommitted)
	return stream.TransactionCommitted, nil
}

func (s *memSession) Abort(context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return errLink
	}
	s.end(stream.TransactionAborted)
	return nil
}

func (s *memSession) Send(rec record.Record, done func(error)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.append(rec, nil, false)
	done(nil)
}

func (s *memSession) Committed(_ context.Context, tps []record.TopicPartition) (map[record.TopicPartition]stream.Committed, error) {
	if err := s.fault("committed", false); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	out := map[record.TopicPartition]stream.Committed{}
	for _, tp := range tps {
		if c, ok := s.offsets[tp]; ok {
			out[tp] = c
		}
	}
	return out, nil
}

func (s *memSession) Settled(ctx context.Context, tps []record.TopicPartition) (map[record.TopicPartition]stream.Committed, error) {
	return s.Committed(ctx, tps)
}

func (s *memSession) Rejoin() {}

func (s *memSession) Watermarks(_ context.Context, tps []record.TopicPartition) (map[record.TopicPartition]stream.Watermarks, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := map[record.TopicPartition]stream.Watermarks{}
	for _, tp := range tps {
		p := s.part(tp)
		if p.stable() < p.next {
			s.timeOut()
		}
		out[tp] = stream.Watermarks{Start: p.start, Stable: p.stable(), High: p.next}
	}
	return out, nil
}

// timeOut aborts, after a while, what others have open; the caller holds the lock.
func (s *memSession) timeOut() {
	if s.impatience++; s.impatience < 4 {
		return
	}
	s.impatience = 0
	for _, m := range s.members {
		if m != s && m.txn != nil {
			m.lose()
		}
	}
}

func (s *memSession) Scan(_ context.Context, tp record.TopicPartition, from, to int64, fn func([]record.Record, int64) error) error {
	for from < to {
		if err := s.fault("scan", false); err != nil {
			return err
		}
		s.mu.Lock()
		next := min(from+5, to) // small chunks, so that a crash finds many places
		var recs []record.Record
		for _, e := range s.part(tp).log {
			if e.rec.Offset >= from && e.rec.Offset < next && e.visible() {
				recs = append(recs, e.rec)
			}
		}
		s.mu.Unlock()
		if err := fn(recs, next); err != nil {
			return err
		}
		from = next
	}
	return nil
}

func (s *memSession) Probe(_ context.Context, tp record.TopicPartition, from int64) (int64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.part(tp)
	for _, e := range p.log {
		if e.rec.Offset >= from {
			return from, nil
		}
	}
	return p.next, nil
}

func (s *memSession) Close(context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lose()
	return nil
}
