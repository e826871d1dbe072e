// Package processors is the pipeline between the adapters: what turns observations into one consolidated state, and the state
// into orders. It holds no code itself; this page is the map.
//
//	real systems --observe--> observations.K --+
//	                                           +--> reducer --> state.K --+--> orchestrator --> orders.K --> adapters --> real systems
//	agents ---------beat----> heartbeats.K ----+               |          |         |
//	                                                           |   commands.K       +--> workflows.K, outcomes.K
//	                                                           +--> fleet reducer --> infra.state.fleet.v1
//
// # Three rings
//
//   - fold and decide are cores: plain functions of facts. Time comes in with the facts, nothing else does.
//   - reducer and orchestrator hold the machines: one per task (one partition of a kind), single-threaded, called by the task
//     runtime in internal/stream with one record after the other. A machine decodes, asks its core, encodes, and emits.
//   - The runtime is the driver: it polls, commits exactly once, redoes after a crash, ticks where a partition is idle.
//
// # The reducer
//
// The state of a node follows from the last accepted observation of the nodes of its cluster (observations.K) and from whether it
// beats (heartbeats.K); the state of a cluster follows from its nodes'. Each part comes from one partition, so the order
// in which a task happens to read its inputs does not matter, a replay says the same as the first run, and a compacted log says
// the same as the whole one. A state is emitted when something in it has changed, and then at once.
//
// # The orchestrator
//
// It compares what is desired with the states as they are and issues orders until both agree. Adapters answer with the next
// observation of their resource, which carries the promised term, the orders taken and their results. So an acknowledgement passes
// through the same fold as every other fact, and a lost or repeated one does no harm.
//
// # What can be relied on
//
//  1. Stale, repeated and reordered facts change nothing: a sequence per resource guards, and its guard is durable, for it is the
//     state as last emitted.
//  2. Soft state (who beats) may be lost at any moment. That may delay what is said; it never changes it.
//  3. What cannot be read goes to infra.deadletter.v1 with its origin and bytes, and the partition moves on.
//  4. An output carries the id of the event that it follows from (causation_id) and the position that this event stood at.
package processors
