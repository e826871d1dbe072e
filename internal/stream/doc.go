// Package stream runs processors: it is the exactly-once task runtime under the reducer, the orchestrator and every projector.
//
// # What it is for
//
// A processor reads co-partitioned topics, keeps state, and says something. A [Machine] holds its logic, without any I/O. The
// [Runtime] does the rest: it shares tasks out among instances, reads, gives each record to its task's machine, writes what the
// machine emits in transactions together with the positions of the input, keeps the tables that machines read, brings them up to
// date after a crash, and lets others look at what is committed.
//
//	runtime, err := stream.New(definition, stream.Options{Log: log, Store: store})  // all faults at once
//	err = runtime.Run(ctx)                                                          // until ctx ends
//	value, err := runtime.Get("nodes", partition, key)                              // meanwhile, from any goroutine
//
// One task is one partition number of all inputs. It writes to the same partition of the changelog S, which is event and redo log in
// one: the latest values in S are the state, byte for byte.
//
// # The cycle
//
//	poll ─ fold ─────────── produce ─ seal ─ flush ─ offsets with metadata ─ end of transaction ─┐
//	 ▲     open layer → ending layer → dirty → store                                             │
//	 └── committed: the layer joins the dirty set · aborted: both layers are dropped, and no more · unknown: all is dropped and redone ◄─┘
//
// One goroutine takes the steps ([Runtime.Run]). A transaction is sealed at once when no input is waiting, else after so many records or
// bytes, or at an age that follows what commits take (5 to 100 ms). Positions alone, where nothing was written, wait up to a
// second and need no transaction. Beside the cycle
//
//   - a sealed transaction ends, while the cycle folds the next one on top of it. The outputs of that are held back until the outcome is
//     known;
//   - a flush writes the dirty set to the store now and then, as one batch with its position;
//   - tasks that were assigned recover.
//
// # Two positions
//
// P stands in the store, in one batch with the state that it describes ([Position]). K stands in Kafka, as metadata of the
// committed offsets ([Metadata]): every transaction commits all input partitions of each task that has read something, progressed
// or not, with the same out. They are compared by out alone, the end of the task's writing in S; inputs go on where K says.
// docs/formats-store.md documents both byte by byte. What follows from the comparison is one plain function with a table in its
// comment: decide.
//
// # Invariants
//
//  1. Running state = fold(inputs) = materialise(S), at each commit.
//  2. P.out ≤ K.out, always: state reaches the store after its transaction, never before.
//  3. The ranges of input that transactions commit are contiguous and disjoint, for each partition.
//  4. Every transaction has offsets of each task that writes in it, and so carries the fence: the group's generation. Nothing is
//     written that does not follow from a record: time comes as ticks, which are records.
//  5. No crash deletes state. What is redone is S from P.out on, never the inputs, which are compacted.
//  6. No data without a position: a redo that is cut off is either vouched for by its P, or cleared.
//
// # Standbys
//
// Of tasks that other members of the group run, a process keeps copies in its store, as the group's assignment says: a recovery that goes on,
// with a position P like any other, and never beyond K. Tasks move to where a copy is warm. See [StandbyTask], docs/adr/0016.
//
// # What is not obvious
//
//   - An abort takes with it what was folded on top of it.
//   - After an abort, machines are made anew. They have seen records that count as unseen, and their soft state may know of it.
//   - A poll that brings a revocation may bring records too; if that rewinds the task, the whole poll is dropped and read again.
//   - A panic of the machine drops what the record had emitted, and sends the record to the dead letters. A machine that breaks the
//     contract (an output that is not declared) stops the processor instead: every record would hit it.
//   - The record of an input with a table is upserted even if the machine cannot process it, because a redo from that input would do
//     so as well.
//   - Tombstones expire: a position that is older than the changelog's delete.retention.ms cannot be redone from. The table is made
//     again under a shadow prefix and swapped in atomically. Idle tasks stamp their position anew for that reason.
//   - Readers never see an open transaction. They take dirty layers and a snapshot of the store in one moment, under a lock that the
//     cycle holds only to publish.
//   - Every output carries the header [HeaderOrigin]. Besides explanations it serves to find the inputs' positions again when the
//     group's offsets have expired.
//
// # Files
//
// port, definition, options: what is given. runtime, cycle, commit, task, table, cache: the cycle. recovery, evidence, decision, redo,
// refusal: assignment. standby, standby_follow: copies of others' tasks. flush, request: the store. view, status, digest, metrics: looking. rebuild, refold, compare: making state again. position,
// metadata, origin: formats. point, sabotage: for the tests.
package stream
