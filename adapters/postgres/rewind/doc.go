// Package rewind brings a former primary back: it says what the node has that the cluster has not, keeps that, and makes the
// node a standby again, if pg_rewind can.
//
//	divergence, err := rewind.Inspect(ctx, instance, upstream.History) // reads files only
//	if divergence.None() { follow }                                   // nothing to undo
//	report, err := rewind.Return(ctx, rewind.Options{...})            // inspect, archive, checkpoint, pg_rewind
//	if errors.Is(err, rewind.ErrCopyAfresh) { take a base backup }
//
// Whether histories fit is judged by their contents, never by timeline ids, and by the end of WAL on disk: a node that was cut off before
// the fork follows as it is, one that wrote a single record behind it does not.
//
// Invariants:
//
//  1. Nothing is changed in the data directory before the divergent WAL, its history and the report of lost writes are archived durably.
//  2. An archive folder is complete: it appears by one rename, with a manifest that has the SHA-256 of each segment. The same divergence
//     archived twice is one folder.
//  3. The source has written a checkpoint since its promotion before pg_rewind looks at it: until then its control file names
//     the old timeline, and pg_rewind (up to 15) would find nothing to do.
//  4. A directory that a rewind has left half done is never started: see server.ErrCondemned. A fresh copy is the way out.
package rewind
