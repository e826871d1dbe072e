// Package decide is the orchestrator's core: what is to be done about a cluster, given what is desired and what is observed. It
// consists of plain functions without I/O, clocks, randomness, goroutines or dependence on map order.
//
//	d := decide.Decide(&decide.View{...}) // a view of one cluster as of now
//	for _, o := range d.Orders { emit(o) }
//	for _, w := range d.Workflows { emit(w) }
//	for _, o := range d.Outcomes { emit(o) }
//	if d.Record != nil { emit(d.Record) }
//	lookAgainAt(d.Due)
//
// # How it works
//
// Every workflow is a decision table (Table): steps, and rows that say which facts must hold in a step, what is done then, and
// where it goes on. In every situation exactly one row of the current step holds; a test goes through all combinations of
// facts. One more table, the watch, decides what a cluster needs that no workflow looks after. Render prints them.
//
// Decide lets the table of the workflow that owns the cluster, those of the health checks beside it, and the watch each pass
// one row, and again until nothing moves. So it acts in the very call in which the last missing fact arrives: the failover path
// is state change, Fence, acknowledgements, Promote and Follow, without a tick in between.
//
// It is level-triggered: each row compares what is desired with what is observed. An order is remembered with its identifier and
// issued again where it was missed; acknowledgements are read from the consolidated state of the node, where they are facts like all
// others. So lost, repeated and reordered records do no harm, and a crash in any step resumes from the record and the workflow.
//
// Files: watch.go and hold.go (what Regent does by itself, and what it does not do and why), failover.go, switchover.go,
// initialize.go, rejoin.go (REJOIN_NODE, REINITIALIZE_NODE), restart.go (RESTART_NODE, SHUTDOWN_CLUSTER, START_CLUSTER,
// CHECK_HEALTH); fence.go (acknowledgements and election), promote.go (terms and authorisation), quorum.go (synchronous sets);
// command.go and examine.go (commands); damage.go (records that contradict themselves); order.go, node.go, step.go, lifecycle.go (what the tables are made of); table.go, decide.go, run.go (the engine).
//
// # Invariants
//
//  1. Terms strictly rise, and a term has at most one promotion: one PromotePostgres, however often it is sent, or one
//     ReinstatePrimary. openTerm, authorise and reinstate assert it.
//  2. Every promotion cites f acknowledgements of its term by distinct nodes, for every synchronous set that may be in force; or that of
//     the node that was authorised last and never took office, which is enough alone: nothing was committed under its term.
//  3. The candidate is not behind any acknowledgement that is cited, nor below the floor: what the promotion before was based on.
//  4. The primary, its term, its timeline and its synchronous set are recorded in the transaction that carries the order, so before
//     anybody can act on it.
//  5. A timeline id is never assigned twice.
//  6. One workflow owns a cluster. A failover pre-empts those that are not Exclusive. REJOIN_NODE runs for one node after the other,
//     a writable one first: the cluster stays free for commands between them, and a history tells of one node. Health checks run beside.
//  7. Deciding again without a new fact or the passing of time does nothing.
//  8. A view of any content gives a decision or an assertion of 1 to 5; damaged workflows are ended.
//
// # The non-obvious
//
// How far WAL goes is compared by (timeline, LSN), not (term, LSN). Timeline ids are assigned one per promotion, so both order alike,
// but a standby that has attached to a new primary and received nothing is under the new term with WAL of the old one. An end of WAL that lies
// before the point at which its timeline began belongs to the parent.
//
// The incumbent's own acknowledgement does not count in an election: what it holds beyond the others was acknowledged to nobody. Its way
// back is to be reinstated, which needs no acknowledgements as long as nobody else was authorised since. An incumbent that was
// authorised and never took office is a standby like any other.
//
// When a promotion is authorised, the acknowledgements before it stop mattering: everything acknowledged under earlier terms is below
// the floor, and everything under the new one is on k of its own set. A later candidate needs f of the new set and the floor. That is why the
// set of a new term can be smaller than the one before without ever weakening it.
//
// While the synchronous set of a living primary changes, both sets count. The change is over when ConfigureSynchronous is done, which
// includes a marker commit under the new setting.
//
// An incumbent that went through a revocation which led to nothing cannot be started under its own term: standbys have promised more
// and would refuse it. It is reinstated under the next.
//
// The leases, self-fencing and holds of DESIGN P1, P2 and P7 are not here yet. Their place: a grant is an output of the watch for a
// serving incumbent; cleared() is where an asynchronous failover waits for a lease to expire; a hold is a refused Fence.
package decide
