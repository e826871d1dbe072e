// Package brokerdisk knows the files of the embedded broker, franz-go's kfake, and makes what it leaves behind after a
// crash whole again, before it opens them.
//
// kfake keeps its log well, but it was written for tests. Read in its source, and the reason for each part of this
// package:
//
//   - A commit writes a marker into one partition after another, then the group offsets, then an entry in its log of
//     producers. A crash in between leaves half a commit. [IntentFile] holds the commit that is under way, and [Recover]
//     completes it.
//   - A transaction that is open at a crash is aborted without a marker. A reader that finds it and a later commit of
//     the same producer in one response then drops the commit too. [Recover] writes the marker.
//   - A batch is written before its index entry, and the index entry alone says whether the batch is part of a
//     transaction. A crash in between makes an uncommitted batch look committed. [Recover] derives the index from the
//     batches.
//   - A torn entry at the end of groups.log or pids.log is ignored but left in place, so whatever is written after it is
//     lost at the next start. [Recover] cuts it off.
//   - The result of a producer's last transaction is kept when the next one is lost in a crash, so that a client that
//     asks again is told that its lost transaction was committed. [Recover] forgets the result and fences the producer.
//   - Sequence numbers are saved at an orderly end only, and an old file is read after a later crash. [Recover] rebuilds
//     them from the log, so that a producer that repeats a batch after a crash does not write it twice.
//   - Files of a deleted topic that survive a crash are appended to when the name is used again. [Recover] deletes them.
//   - Its compaction ignores min.compaction.lag.ms, deletes the old segments before it writes the new ones, and may drop
//     a committed value while a transaction is open. [Compact] replaces it.
//   - Its retention deletes from compacted topics too, and the next offset of an emptied partition is 0 after a restart.
//     [RetentionPoint] replaces it.
//
// # Invariants
//
//  1. After [Recover] no transaction is open in any partition, and each one is committed in all its partitions together
//     with its offsets, or in none.
//  2. No record that was readable by a read_committed consumer changes its offset, its key, its value or its headers.
//  3. Recover may itself be killed at any point and run again.
//  4. A file in a format that is not the one described in docs/formats-embedded.md is refused, never guessed at.
//
// Nothing here may run while kfake has the directory open, except [RetentionPoint], which only reads.
package brokerdisk
