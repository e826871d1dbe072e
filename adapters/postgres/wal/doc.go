// Package wal reads PostgreSQL's write-ahead log from its files: positions, segment names, timeline histories, pages, records.
//
// It is for whoever must know what a data directory's log really holds while no server can be asked: where the last whole
// record ends (after a restart the received LSN of a standby is NULL), which timeline wrote it, whether another server's history
// contains it, and what would be lost if it were erased.
//
//	history, err := wal.ReadHistory(pgwal, timeline)         // 1 has none: the empty history
//	end, err := wal.FindEnd(ctx, wal.ScanConfig{...})       // the end of valid WAL from a known record boundary
//	err = wal.Scan(ctx, config, func(r wal.Record) error)   // every record on the way
//	relation := wal.Compare(mine, theirs)                   // ancestor, descendant, same or diverged, and the fork point
//
// Everything is pure Go and reads PostgreSQL 13 to 18 on little-endian machines; the page magic tells the version.
//
// Invariants:
//
//  1. A record is reported only if its length, its back link to the record before it, its page headers and its CRC-32C all
//     hold. A recycled segment keeps old bytes that are valid records of another place: the page address and the back link
//     expose them, the CRC alone does not.
//  2. The reported end is the end of the last such record, aligned to 8 bytes: the place where recovery would stop.
//  3. A scan may start only at a record boundary that is already known to be valid: a checkpoint's redo, or a replay LSN.
//     Of the latter the record before is checked to end there, because everything behind a wrong start looks torn.
//  4. Timeline ids are compared by nothing but the content of their histories: ids alone say nothing about ancestry.
//  5. No input makes the parsers panic or allocate without bound: records are capped at [MaxRecordSize].
package wal
