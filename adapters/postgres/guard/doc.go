// Package guard is the brain of the PostgreSQL agent: what an agent has promised, which orders it takes up, and in which
// sequence it writes down, acts and reports. It is a core: plain functions, no I/O, no clock.
//
// The shell owns one [State] and feeds it with facts:
//
//	state := guard.New(durable)
//	for fact := range facts {
//		next, actions := guard.Step(state, fact)
//		if the first action is a Persist and it fails: state, actions = guard.Step(state, guard.PersistFailed{...})
//		otherwise: state = next; carry out the rest in order
//	}
//
// A fact is an order that was read, a postmaster that ended, an operation that came to a door or to its end. An action is
// work owed: write the durable part down, begin or cancel an operation, let it through a door, publish.
//
// # Doors
//
// An operation runs outside, on its own goroutine, and may take minutes. Before it does what cannot be taken back it comes to a
// door ([DoorReached]) and waits for [Proceed] or [Deny]: before the data directory is made unusable ([DoorErase]), before a
// WAL receiver may attach ([DoorAttach]), before the server may become writable ([DoorOpen]). The guard looks at the promise
// again at each door, so an order that was overtaken by a higher term while it ran stops there, and it writes down what the step
// behind the door makes true before it opens.
//
// # Terms
//
// Every order carries a term. The promise is the highest term that this agent has durably bound itself to. Orders below it are
// refused. The table in table.go says, for each order, in which situation it is executed, already satisfied or refused, and why;
// the one in schedule.go says what happens to it while another operation runs.
//
// # Invariants
//
//  1. The promised term never falls; the term of the present role never exceeds it.
//  2. Nothing is executed below the promise: not an order, not a door.
//  3. A refused order changes nothing but the list of order results.
//  4. Whatever changes durably is persisted before any other action of the same step.
//  5. An order id is executed at most once, however often it is read; a promotion, which keeps its id, at most once with success.
//  6. No WAL receiver attaches below the promise: an upstream is remembered only with the promised term, and raising the promise
//     forgets it.
//     A fence for a planned hand-over lets the receiver that was attached before go on until its upstream ends; nothing attaches anew.
//  7. At boot nothing becomes writable: a former primary stays down, and has renounced its term before that is said.
//  8. A term has at most one primary here: who follows a primary of a term is not promoted in it, who was promoted in it is
//     neither promoted anew nor made to follow in it.
//  9. The end of valid WAL is reported only while nothing can write WAL: it is forgotten before a receiver may attach or the
//     server may open. So promised_term together with wal_end is a complete acknowledgement of a revocation.
package guard
