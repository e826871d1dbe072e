package killtest

import (
	"errors"
	"iter"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/regent-infra/regent/internal/record"
	"github.com/regent-infra/regent/internal/stream"
)

// reference runs the machine of a processor over records, one after the other, on tables in memory: no transactions, no store, no
// crash. It is what the runtime is judged by.
type reference struct {
	def     stream.Definition
	task    int32
	machine stream.Machine
	tables  map[string]map[string][]byte
	time    time.Time
	undo    []func()
	outs    []record.Record
}

var _ stream.Task = (*reference)(nil)

func newReference(def stream.Definition, task int32) *reference {
	r := &reference{def: def, task: task, machine: def.NewMachine(task), tables: map[string]map[string][]byte{}}
	for _, t := range def.Tables {
		r.tables[t.Name] = map[string][]byte{}
	}
	return r
}

// ID implements [stream.Task].
func (r *reference) ID() int32 { return r.task }

// StreamTime implements [stream.Task].
func (r *reference) StreamTime() time.Time { return r.time }

// CaughtUp implements [stream.Task].
func (r *reference) CaughtUp() bool { return true }

// Generation implements [stream.Task].
func (r *reference) Generation() int64 { return 1 }

// Get implements [stream.Task].
func (r *reference) Get(table string, key []byte) ([]byte, error) {
	return r.tables[table][string(key)], nil
}

// Range implements [stream.Task].
func (r *reference) Range(table string, prefix []byte) iter.Seq2[[]byte, []byte] {
	entries := maps.Clone(r.tables[table])
	return func(yield func([]byte, []byte) bool) {
		for _, key := range slices.Sorted(maps.Keys(entries)) {
			if strings.HasPrefix(key, string(prefix)) && !yield([]byte(key), entries[key]) {
				return
			}
		}
	}
}

// Emit implements [stream.Task].
func (r *reference) Emit(out record.Record) {
	r.outs = append(r.outs, out)
	for _, t := range r.def.Tables {
		if t.Source == out.Topic && out.Topic == r.def.Changelog {
			r.put(t.Name, out.Key, out.Value)
		}
	}
}

func (r *reference) put(table string, key, value []byte) {
	entries, name := r.tables[table], string(key)
	if before, had := entries[name]; had {
		r.undo = append(r.undo, func() { entries[name] = before })
	} else {
		r.undo = append(r.undo, func() { delete(entries, name) })
	}
	if value == nil {
		delete(entries, name)
		return
	}
	entries[name] = value
}

// process folds a record and returns what it emits. One that cannot be processed leaves nothing behind but a true.
func (r *reference) process(rec *record.Record) (outs []record.Record, poison bool, err error) {
	if rec.Timestamp.After(r.time) {
		r.time = rec.Timestamp
	}
	for _, in := range r.def.Inputs {
		if in.Topic == rec.Topic && in.Table != "" {
			r.put(in.Table, rec.Key, rec.Value)
		}
	}
	r.undo, r.outs = r.undo[:0], r.outs[:0]
	err = r.machine.Process(r, rec)
	if err == nil {
		return r.outs, false, nil
	}
	var p *stream.Poison
	if !errors.As(err, &p) {
		return nil, false, err
	}
	for _, revert := range slices.Backward(r.undo) {
		revert()
	}
	return nil, true, nil
}
