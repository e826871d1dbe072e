// Package killtest kills a whole control plane and looks whether it tells the truth afterwards.
//
// A real `regent up` runs as a process of its own, on one data directory and fixed addresses. A client beside it, which knows nothing of
// the kills, writes observations, heartbeats and commands, and plays the agents of some clusters: it obeys orders, so that there are
// failovers and switchovers to be torn. The process gets SIGKILL at random moments, also while it recovers and while it boots for
// the first time:
//
//	start ──▶ ready ──▶ load … SIGKILL ──▶ start ──▶ … ──▶ quiet ──▶ audit
//	   └──▶ SIGKILL before it is ready
//
// Now and then the client falls quiet, the processors catch up, and an auditor checks what is there. It reads committed records with a
// reader of its own and shares no code with the runtime that it judges: of the product it uses the codec, the machine of the reducer
// on tables in memory, and the digest's definition.
//
// # What must hold
//
//  1. Whatever was acknowledged to the client stands where it was acknowledged, byte for byte.
//  2. The output topics, materialised (last value per key, a tombstone deletes), equal the running state byte for byte; so do the views
//     that processors keep of their inputs. They are compared by the digest over every key and value that the API serves.
//  3. A fold of the inputs from their beginning, by a machine that was never interrupted, equals the materialised state: the same keys, and
//     the same payload bytes under each. Envelopes differ by design (docs/adr/0005): when and from which record a state was last
//     emitted depends on how the partitions interleaved, the state itself does not.
//  4. Each committed input record was processed exactly once: what follows from one record stands together, origins rise per input
//     partition (so the committed ranges are disjoint), and every observation that the fold accepts, every command, and every
//     record that cannot be read has left its output (so they are contiguous).
//  5. Each command is answered as often as it was sent: accepted at most once, else rejected; and ends at most once, after it was accepted.
//  6. Terms of promotions rise per cluster, and a term has one promotion; one that is sent again keeps its id and its content.
//  7. What is in the dead-letter topic was malformed on purpose, and stands there exactly once.
//  8. Nothing that was read once reads otherwise later: the last audit starts from the beginning again.
//
// # The non-obvious
//
// Liveness is the one part of the state that depends on when records are read. So the client makes it decided before an audit: it lets
// every node beat a last time with a long promise, but for some that fall silent for good, and waits until those are suspected. A node
// that the running machine suspects is suspected by an uninterrupted one, too, for that one has heard of it no later.
//
// REGENT_KILL_ROUNDS asks for more rounds than the 12 of a normal run, REGENT_KILL_SEED for a seed that was seen to fail. A seed fixes
// what is sent and how long each process lives, but not where in the program a kill hits: repeat it. REGENT_KILL_DIR names a directory
// to be made for the data directory and the log, which stays.
package killtest
