// Package postgres is the PostgreSQL agent: the parent of one postmaster, its eyes towards the log, and the hand that carries orders out.
//
//	err := postgres.Run(ctx, postgres.Config{Cluster: "postgres/orders", Node: "pg-1", ...}, logger)
//
// Run ends when ctx does: the server is stopped first, a primary renounces its term, and both are reported.
//
// # How it works
//
// One goroutine owns the state (package guard) and takes one message after the other: an order that was read, a door that an operation
// has come to, an end, an exit, the passing of time. Each is one guard.Step; what that asks for is carried out in order: the memory is
// written (package statefile), an operation begun on a goroutine of its own, a value published.
//
//	orders topic ──reader──┐                         ┌── statefile (fsync)
//	postmaster ───watcher──┤                         ├── worker: clone, start, promote, follow, ... (packages server, basebackup, rewind)
//	server ───────looker───┼──> loop: guard.Step ────┤
//	clock ─────────────────┘                         └── publisher ──> observations and heartbeats topics
//
// Nothing else blocks the loop: looks, copies, brokers and registries have goroutines of their own. While the broker is away the
// server goes on serving; only the latest full value waits to be sent.
//
// # What it promises
//
// The invariants of package guard hold for every order. Besides:
//
//  1. A value is published at once when something of note changes (observe.Urgent), and every ObserveInterval otherwise.
//  2. An acknowledgement is one value that is true as a whole: looks that began before an operation ended are thrown away, so no receiver
//     of the past stands beside a new promise.
//  3. Sequences of envelopes rise over restarts: they start at the greater of the microseconds of the wall clock and the limit that the memory
//     holds, and never pass that limit before a higher one is on disk.
//  4. No order is missed after the first value of a run was published: the reader stands at the end of the orders topic before.
//  5. No password enters a value, a log line, an error or the memory.
//  6. The server never outlives the agent, not even its kill -9 (package server); what should be left all the same is ended at boot.
//
// # Boot
//
// The agent refuses to start, with an error that says what to do, when its memory is damaged, foreign, or missing beside a data directory;
// when the data directory is of another version or of another cluster; when PostgreSQL's programs are missing or unsupported; when
// the port or the directory is in use. A standby whose promise is the term that it follows then starts by itself, with the same upstream;
// one that was fenced starts without any. A former primary stays down, renounces its term and waits for orders.
//
// # Acknowledgements
//
// Fence: promised_term is the order's and wal_end is set. Promote, Reinstate: role PRIMARY under the term, accepting connections. Follow,
// Clone: the receiver streams. ConfigureSynchronous: a marker commit was acknowledged under the new set. All of them also show in last_order
// and recent_orders.
//
// # Not obvious
//
// A primary that is promoted writes a checkpoint in the background, because until then its control file names the old timeline and nobody
// can be rewound against it. A standby drops the replication slots that it had as a primary, which would otherwise keep its WAL for
// ever. A standby that is fenced for a planned hand-over drains: it has promised and sealed itself, so that nobody can attach, and lets the
// receiver that runs take the rest of the primary's WAL before it is cut off and acknowledges. The rewind role sees the source's control file through SQL and waits for that checkpoint.
package postgres
