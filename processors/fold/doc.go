// Package fold is the reducer's core: what is known of infrastructure, given the facts. Plain functions without I/O, clocks,
// randomness, goroutines or dependence on map order.
//
//	cluster := fold.LoadPostgres(id, nodeStates, clusterState) // as last emitted
//	cluster, changes := fold.ApplyPostgres(cluster, fold.NodeObserved{...})
//	for _, c := range changes.Nodes { emit(c.State(stored)) }
//	if changes.Cluster != nil { emit(changes.Cluster) }
//
// One file per concern of a kind: postgres.go (parts and Apply), facts.go (what the rest of a cluster depends on in one
// observation), health.go (causes), lag.go, timeline.go, synchronous.go, situation.go (one look at a whole cluster: who is primary,
// who vouches for it), analysis.go (the decision table of diagnoses); silence.go says who is suspected, for all kinds; fleet.go rolls clusters up.
//
// # Invariants
//
//  1. Confluence. A node's state is a function of the last accepted observations of its cluster's nodes and of its own liveness,
//     and nothing else; a cluster's state is a function of its nodes' states. How the partitions interleave leaves no trace.
//  2. An observation is accepted only if its sequence is greater than that of the last accepted one. That guard is read from the
//     state as last emitted, so every accepted observation is emitted.
//  3. fold(compact(L)) == fold(L) for every compaction of a log whose sequences rise: nothing is remembered but the last
//     accepted observation per node.
//  4. A change is reported exactly when a field that a consumer can see differs from what was last emitted.
//  5. Arbitrary observations (negative numbers, unknown symbols, absent parts) give a state, never a panic.
//
// # The non-obvious
//
// Lag compares two observations of different moments: what the primary had written at its last one with what the standby had
// replayed at its own, or with what the primary's walsender knew, whichever is further. So a primary's observation can change the
// state of its standbys, and is the only thing that ties node states to each other besides vouching (a silent primary from which
// a standby still streams) and ancestry.
//
// Thresholds have no hysteresis: memory of which side of a limit we came from would break invariants 1 and 3. Messages
// therefore name limits and coarse steps instead of measurements, and no diagnosis that leads to action depends on a measured
// quantity, but for the disk of the primary and exhausted connections.
//
// A primary that is down says nothing of its role. It is recognised by its renounced term, or by a term without an upstream and the
// standbys that were told to follow it. Nothing is remembered from the time when it could speak: a compacted log must say the same.
//
// What a heartbeat says before the first observation of its node is lost with the task's soft state; the next one says it again.
//
// "Since when" is no part of a state either: its moment would depend on soft state that a restart loses. The envelope's occurred_at and
// the log itself tell.
package fold
