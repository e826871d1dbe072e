// Package basebackup copies a running PostgreSQL server through the replication protocol; it needs neither pg_basebackup nor tar.
//
//	result, err := basebackup.Take(ctx, basebackup.Options{
//		Source: server.Address{Host: "10.0.0.1", Port: 5432}, Credential: replication, DataDir: dir, ...
//	})
//
// Take opens one replication connection and asks for BASE_BACKUP with the WAL included (manual, "Streaming Replication
// Protocol"): the server appends the segments from the backup's start to its end, so the copy is complete in itself. Through a
// slot that reserves WAL, which the caller lets it create, those segments cannot be recycled while the copy runs, nor the
// later ones until the standby streams; without one a busy server may fail the backup, and says so.
//
// The copy is made beside the data directory and appears in its place by renames; a former data directory is kept until then, and
// removed afterwards, or put back if the last rename fails. A copy that was interrupted leaves a folder named .incoming-* that
// the next one removes. There is no resuming: files change behind a copy.
//
// Both dialects are spoken: before 15 one COPY per tablespace and a further one for the manifest, since 15 a single COPY with typed
// messages ('n' archive, 'd' data, 'm' manifest, 'p' progress).
//
// Invariants:
//
//  1. DataDir holds the former directory, or nothing, or the whole verified new one; never a part.
//  2. Every file is the size and has the CRC-32C that the manifest says, no file of the manifest is missing, and the manifest has the
//     SHA-256 that it ends with. (WAL files are not in it; they carry CRCs of their own.)
//  3. No entry is written outside of the copy, whatever its name; links and devices are refused. Tablespaces outside the data directory
//     are refused before any data flows, with their names: their paths would collide on a machine with two nodes.
//  4. Everything is on disk (fsync) before it appears.
package basebackup
