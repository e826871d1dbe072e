package stream

import (
	"bytes"
	"fmt"
	"iter"
	"runtime/debug"
	"slices"
	"time"

	"github.com/regent-infra/regent/internal/record"
)

// task is one partition of the co-partitioned inputs, running: its machine, its tables and its positions.
type task struct {
	id         int32
	def        *Definition
	generation int64
	machine    Machine
	tables     map[string]*table
	inputs     map[topicPartition]*input
	changelog  [16]byte

	// out and streamTime are those of the last committed transaction; the fields below are the open one's.
	out        int64
	streamTime time.Time

	// folded is the stream time as of the last folded record.
	folded time.Time
	// touched says that a record was folded since the last transaction was sealed, wrote that something was written to a table or
	// produced; sealed, that the task has a part in the transaction that is ending.
	touched, wrote, sealed bool

	// lastTick is when the tick topic's partition was last seen to move, or a tick was sent.
	lastTick time.Time
	caughtUp bool

	// outs are the outputs that are not handed over yet.
	outs   []record.Record
	stamps stamps
	// the record under process
	rec   *record.Record
	undos []undo
	fault error
}

// input is one input partition of a task.
type input struct {
	topicPartition
	topicID [16]byte
	table   *table
	// near is where its keys are looked up, if that is known.
	near *table
	// committed is the next offset as of the last commit, next as of the last folded record.
	committed, next int64
	// high is the last known high watermark, target the one taken after the assignment.
	high, target int64
	// looked is next as of the last look at what does not move, see maybeProbe.
	looked int64
}

// misuse is what the runtime panics with inside of Process when the machine breaks the contract. It stops the task: it is a bug
// that every record would hit.
type misuse struct{ error }

func misuseOf(format string, args ...any) misuse { return misuse{fmt.Errorf(format, args...)} }

var _ Task = (*task)(nil)

// ID implements [Task].
func (t *task) ID() int32 { return t.id }

// Get implements [Task].
func (t *task) Get(name string, key []byte) ([]byte, error) {
	v, err := t.table(name).get(key)
	if err != nil {
		t.fail(err)
	}
	return v, err
}

// Range implements [Task].
func (t *task) Range(name string, prefix []byte) iter.Seq2[[]byte, []byte] {
	return t.table(name).each(prefix, t.fail)
}

// fail remembers an error of the store, so that the task stops even if the machine ignores it.
func (t *task) fail(err error) {
	if t.fault == nil {
		t.fault = err
	}
}

// Emit implements [Task].
func (t *task) Emit(out record.Record) {
	switch {
	case t.rec == nil:
		panic(misuseOf("emit to %q: no record is under process; a machine may emit inside of Process alone", out.Topic))
	case out.Topic == t.def.Changelog && out.Topic != "":
		if out.Partition != OwnPartition && out.Partition != t.id {
			panic(misuseOf("emit to partition %d of the changelog %q: expected the task's own, %d", out.Partition, out.Topic, t.id))
		}
		if len(out.Key) == 0 {
			panic(misuseOf("emit to the changelog %q: the record has no key", out.Topic))
		}
		if name := t.def.changelogTable(); name != "" {
			t.undos = append(t.undos, t.table(name).put(out.Key, out.Value))
		}
	case !slices.Contains(t.def.Outputs, out.Topic):
		panic(misuseOf("emit to %q: the definition declares neither a changelog nor an output of that name", out.Topic))
	}
	if out.Partition == OwnPartition {
		out.Partition = t.id
	}
	out.Headers = t.stamps.stamp(out.Headers, t.rec)
	t.outs = append(t.outs, out)
}

// StreamTime implements [Task].
func (t *task) StreamTime() time.Time { return t.folded }

// CaughtUp implements [Task].
func (t *task) CaughtUp() bool { return t.caughtUp }

// Generation implements [Task].
func (t *task) Generation() int64 { return t.generation }

func (t *task) table(name string) *table {
	tb, ok := t.tables[name]
	if !ok {
		panic(misuseOf("table %q: the definition does not declare it", name))
	}
	return tb
}

// verdict is what became of one record.
type verdict struct {
	// poison is set if the record was dropped; err if the task must stop.
	poison *Poison
	stack  []byte
	err    error
}

// fold gives one record to the machine. Whatever it emits is among the task's outputs and in the open layer, or in neither.
func (t *task) fold(in *input, rec *record.Record) verdict {
	in.next = rec.Offset + 1
	if rec.Timestamp.After(t.folded) {
		t.folded = rec.Timestamp
	}
	t.touched = true
	t.updateCaughtUp()
	if in.table != nil {
		in.table.put(rec.Key, bytes.Clone(rec.Value)) // else it would keep the whole fetch alive
		t.wrote = true
	}
	before := len(t.outs)
	t.rec, t.undos = rec, t.undos[:0]
	v := t.process(rec)
	t.rec = nil
	if v.err == nil && t.fault != nil {
		v.err = t.fault
	}
	if v.err != nil || v.poison != nil {
		for _, u := range slices.Backward(t.undos) {
			u.revert()
		}
		clear(t.outs[before:])
		t.outs = t.outs[:before]
		return v
	}
	if len(t.outs) > before {
		t.wrote = true
	}
	return v
}

// process calls the machine and turns what it returns, or panics with, into a verdict.
func (t *task) process(rec *record.Record) (v verdict) {
	defer func() {
		switch p := recover().(type) {
		case nil:
		case misuse:
			v = verdict{err: fmt.Errorf("processor %q, task %d, record %s/%d@%d: %w", t.def.Name, t.id, rec.Topic, rec.Partition, rec.Offset, p.error)}
		case error:
			v = verdict{poison: &Poison{Reason: ReasonPanic, Err: p}, stack: debug.Stack()}
		default:
			v = verdict{poison: &Poison{Reason: ReasonPanic, Err: fmt.Errorf("%v", p)}, stack: debug.Stack()} //nolint:err113 // the panic's value is all there is
		}
	}()
	err := t.machine.Process(t, rec)
	if err == nil {
		return verdict{}
	}
	if p, ok := asPoison(err); ok {
		return verdict{poison: p}
	}
	return verdict{err: fmt.Errorf("processor %q, task %d: process record %s/%d@%d: %w", t.def.Name, t.id, rec.Topic, rec.Partition, rec.Offset, err)}
}

func (t *task) updateCaughtUp() {
	if t.caughtUp {
		return
	}
	for _, in := range t.inputs {
		if in.next < in.target {
			return
		}
	}
	t.caughtUp = true
}

// extent is how far a task has come when a transaction is sealed: what its commit says.
type extent struct {
	task *task
	// out is the end of the task's writing in the changelog, with this transaction's.
	out    int64
	folded time.Time
	next   []progress
}

// progress is the next offset of an input.
type progress struct {
	in   *input
	next int64
}

// extent returns how far the task has come.
func (t *task) extent() extent {
	x := extent{task: t, out: t.out, folded: t.folded, next: make([]progress, 0, len(t.inputs))}
	for _, in := range t.inputs {
		x.next = append(x.next, progress{in, in.next})
	}
	return x
}

// seal closes the task's part in the open transaction.
func (t *task) seal() extent {
	t.touched, t.wrote, t.sealed = false, false, true
	return t.extent()
}

// offsets are the commits of all input partitions, progressed or not.
func (x *extent) offsets() []OffsetCommit {
	meta := Metadata{Out: x.out, Changelog: x.task.changelog, FoldVersion: x.task.def.FoldVersion, StreamTime: x.folded}.Encode()
	out := make([]OffsetCommit, 0, len(x.next))
	for _, p := range x.next {
		out = append(out, OffsetCommit{TopicPartition: p.in.topicPartition, Offset: p.next, Metadata: meta})
	}
	return out
}

// commit makes the positions the committed ones.
func (x *extent) commit() {
	t := x.task
	t.out, t.streamTime, t.sealed = x.out, x.folded, false
	for _, p := range x.next {
		p.in.committed = p.next
	}
}

// aborted takes the positions back to the committed ones. The machine has seen records that count as unseen now, and may have
// drawn conclusions from them, so it is replaced by a new one.
func (t *task) aborted() {
	if t.touched || t.sealed {
		t.machine = t.def.NewMachine(t.id)
	}
	clear(t.outs)
	t.outs = t.outs[:0]
	t.folded = t.streamTime
	for _, in := range t.inputs {
		in.next = in.committed
	}
	t.touched, t.wrote, t.sealed = false, false, false
}

// position is P as of the last commit.
func (t *task) position(now time.Time) Position {
	p := Position{
		FoldVersion: t.def.FoldVersion, Out: t.out, Changelog: t.changelog,
		StreamTime: t.streamTime, StampedAt: now, Tables: t.def.tableNames(),
	}
	for _, in := range t.inputs {
		p.Inputs = append(p.Inputs, InputPosition{TopicPartition: in.topicPartition, TopicID: in.topicID, Next: in.committed})
	}
	sortInputs(p.Inputs)
	return p
}
