// Package reducer holds the machines that turn facts into consolidated state: one per partition of a kind ([Postgres]), and one
// for the roll-up of the whole fleet ([Fleet]). What is known of the world, given the facts, is decided in processors/fold;
// this package reads, keeps, asks and emits. The runtime in internal/stream calls a machine with one record after the other.
//
//	record --decode--> event --fold.ApplyPostgres(view, event)--> changes --encode--> state.K
//
// The main loop of a task of kind postgres:
//
//   - An observation is folded into the view of its cluster. The view holds, decoded and small, what the diagnosis needs of each
//     node; it is loaded from the changelog table when first needed.
//   - A heartbeat or a tick lets time pass: nodes that have become suspect, or alive, are folded into their clusters. A heartbeat
//     of a node whose state says the same already costs one look at the table.
//   - A tombstone deletes the node's state and leaves a guard.
//
// # Invariants
//
//  1. What is accepted is decided by the table alone, that is by what was last emitted. A view is used only while the bytes that it
//     was made from are those in the table; so an aborted transaction or a dropped record cannot leave a wrong one behind.
//  2. Who beats (fold.Silence) is soft: it starts from nothing with each machine, takes every node as heard just now whose state says
//     ALIVE, and is compared with the table again and again, not only at the moment of a change. Losing it delays an emission.
//  3. The outputs of a record follow from that record, the table and the soft state, in a fixed order: nodes by name, cluster, guard. Their
//     ids are derived from where the record stood, so a record that is folded again gives the same ids.
//  4. Nothing that comes from a topic stops a task: what cannot be read, is addressed to the wrong place, or gives a state
//     that cannot be written, is poison. Only what was written by the reducer itself and cannot be read stops it, because
//     going on would forget.
//
// # Guards
//
// When a node is forgotten its sequence stays behind as ResourceForgotten under <cluster>/forgotten/<node>, in the same topic, because what
// decides whether an input is accepted has to be in the redo log. It holds for the history window after the tombstone, by the
// broker's append times; then a heartbeat or tick clears it away. An observation with a greater sequence brings the node back.
//
// # Keys of the state topic
//
//	postgres/orders/node/pg-1       PostgresNodeState
//	postgres/orders                 PostgresClusterState
//	postgres/orders/forgotten/pg-1  ResourceForgotten
package reducer
