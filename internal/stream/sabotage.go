package stream

import (
	"errors"

	"github.com/regent-infra/regent/statestore"
)

// sabotage names the protections that tests can switch off to see a test go red.
type sabotage struct {
	// ignorePosition believes the store: it runs from P without comparing it with K.
	ignorePosition bool
	// skipRedo jumps from P to K without reading the changelog between them.
	skipRedo bool
	// keepAborted lets the state of an aborted transaction stay.
	keepAborted bool
	// boast lets the position of a copy move without what it describes.
	boast bool
	// flushAhead writes state to the store before its transaction is committed.
	flushAhead bool
}

// flushAhead writes what is not committed to the store, where a test has asked for that.
func (r *Runtime) flushAhead() error {
	if !r.opts.sabotage.flushAhead {
		return nil
	}
	var b statestore.Batch
	for _, t := range r.sortedTasks() {
		for _, name := range r.def.tableNames() {
			tb := t.tables[name]
			appendWrites(&b, tb.layers[tb.current])
		}
	}
	return errors.Join(r.opts.Store.Apply(&b), r.opts.Store.Flush())
}
