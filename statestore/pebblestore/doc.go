// Package pebblestore keeps a process's state in one Pebble database.
//
// # Layout of a store's directory
//
//	LOCK              held while the store is open: a second opener is refused with [statestore.ErrInUse]
//	ACTIVE            one line: "regent-store <format version> <generation>"
//	gen-000001/       the Pebble database of the active generation
//	tmp/              tables being built; emptied at each open
//
// A rebuild writes the next generation beside the active one and then swaps ACTIVE, which is one atomic rename: see [Stage].
//
// # What a crash leaves
//
// Small batches are written without a sync, to memtable and log. Large ones (see [Options]) become sorted tables of their own, which
// are added as files: the log is synced before, so that what survives stays a prefix. The death of the process loses nothing that Pebble handed to
// the kernel, the death of the machine loses a suffix of the batches. Either way a prefix is left, which is all that the
// contract of [statestore.Store] asks for.
//
// # Failure
//
// A full or broken disk makes Pebble retry for ever, or end the process from wherever it meets the error. Neither helps anybody,
// so the store remembers the first such error, lets it be returned by everything that writes (wrapping
// [statestore.ErrFailed]), and writes no more. What had been applied is intact, and can be read.
package pebblestore
