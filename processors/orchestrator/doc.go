// Package orchestrator holds the machine that turns consolidated state and commands into orders. What is to be done is decided in
// processors/decide; this package reads, keeps, asks and emits. The runtime in internal/stream calls it with one record after the other.
//
//	record --which cluster--> view (tables) --decide.Decide--> decision --encode--> orders.K, workflows.K, outcomes.K
//
// The main loop of a task:
//
//   - A state record has been put into the table of states by the runtime; the cluster that it belongs to is decided about.
//   - A command is answered: with a rejection, or with an acceptance and what follows from it.
//   - A heartbeat or a tick only lets stream time pass, and is not even decoded: the clusters with a deadline that has come are decided about.
//     Without one that costs one look at the head of a queue.
//
// # Take-over
//
// The first record after every input has been read to the end that it had at assignment makes the task say OrchestratorStarted, read its
// table once (deadlines, workflows to forget, deferred commands), and decide about every cluster. Before that nothing is
// decided. A command that is read meanwhile is kept as a workflow with status PENDING that holds its bytes, because the commit
// that moves past it may come long before the decision.
//
// # Invariants
//
//  1. Decisions rest on the tables, the record and stream time. What a machine remembers (decoded values, deadlines) is soft: a decoded value is used
//     only while the table holds the bytes that it was made from, a deadline too early costs a look, and take-over makes them anew.
//  2. Identifiers derive from where the record stood, so a record that is processed again after an abort gives the same events.
//  3. A command is executed once. Its workflow carries its id; one that was rejected leaves a workflow, too. Both are kept for 90 days
//     after their end, as long as commands are.
//  4. Every command whose sender can be told is answered: what cannot be read goes to the dead-letter topic, and the cluster that its key
//     names gets a rejection. A command in the wrong partition is rejected into the right one, where its sender waits: deciding here would
//     make a second owner of the cluster.
//  5. Orders, workflows, record and answers of one decision are emitted together, so they are committed together or not at all.
//
// # Keys of the workflows topic
//
//	postgres/orders                  ClusterRecord
//	postgres/orders/workflow/<id>    Workflow
//	orchestrator/<partition>         OrchestratorStarted
package orchestrator
