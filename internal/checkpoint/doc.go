// Package checkpoint copies the state of a process, with the positions that it stands at: a start for another process, a backup, and a way to ask
// for moments that the topics cannot tell any more.
//
//	c, err := checkpoint.Create(ctx, store, dir, checkpoint.Options{Program: version})  // of a store that is open, running or not
//	err = c.Export(ctx, w)                                                             // one file
//	c, err = checkpoint.Import(ctx, r, dir)                                            // verified
//	store, err := c.Stage(pebblestore.Options{Dir: other})                             // the beginning of another store
//	store, err := c.OpenStore()                                                        // to read in it
//
// [Library] keeps the checkpoints of one data directory.
//
// # What is in it
//
// A directory: checkpoint.json, the [Manifest], and store/, what [statestore.Store.Checkpoint] has written. docs/formats-store.md describes both, and
// the file of an export. The store's tables are shared with the original by hard links, so a checkpoint costs space only for what has changed since.
//
// # Invariants
//
//  1. A directory under its own name is complete and durable: it is made under another name and renamed.
//  2. State and positions are of one moment: the manifest is read from the copy and not from the store, which goes on.
//  3. Nothing identifies the instance that made it, and no secret is in it: it holds what stands in topics, and positions. Two processes that
//     start from one checkpoint do not throw each other out.
//  4. What is imported is what was exported, byte for byte, or nothing is left of it.
//
// # What a start from it is worth
//
// The store holds P of each task, so a runtime that is started on it compares P with the group's position and redoes the rest from the changelog
// ([stream.Runtime]); a cluster or topic other than the noted one is refused there, and a checkpoint that is older than the topics keep tombstones is
// rebuilt. Flush the runtimes on the store before ([stream.Runtime.Flush]), or the copy is as of the last flush.
package checkpoint
