// Package observe asks a PostgreSQL server how it is: role, positions, receiver, senders, slots, connections, counters, disks.
//
//	observer, err := observe.New(observe.Config{Connect: instance.ConnConfig, ...})
//	pulse, err := observer.Pulse(ctx)      // one cheap query: role, positions, receiver, senders; ten times a second costs nothing
//	usage, err := observer.Usage(ctx)      // slots, connections, pending restart; about every second
//	volume, err := observer.Volume(ctx)    // sizes and counters; reads the sizes of all files, so every half minute
//	disk, err := observe.Disk(dataDir)     // file systems; asks no server
//
// Each fills its part of a PostgresNodeObserved. [Urgent] says whether two such values differ in what must be told at once, or
// only in what may wait for the next regular report.
//
// It connects over the server's private socket, at most [MaxConnections] at a time, with a statement time-out in the server and a
// deadline here, so a stalled disk or a lock never holds the caller. A circuit breaker stands before the server: it opens when the server
// fails, and stays shut for failures that are ours.
//
// Invariants: (1) no look takes longer than Config.Timeout; (2) SQLSTATE classes 08, 53, 57, 58 and XX, refused connections and
// time-outs count against the server; 22, 23, 28 and 42, and whatever else the server says in good health, do not; (3) no error and no
// value carries a statement, a parameter or a secret: errors are told by class and SQLSTATE; (4) the SQL works on 13 to 18 and as
// superuser of a standby in recovery.
package observe
