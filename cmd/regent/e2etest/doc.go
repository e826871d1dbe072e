// Package e2etest tests Regent from outside: the regent program as real processes, as a user starts them, with real PostgreSQL servers and on a
// real Apache Kafka. It holds
//
//   - the whole path: topics, roles, agents, a cluster that fails over without losing a row, and processes that come back after SIGKILL;
//   - that no secret leaves the files that it was given in: topics, stores, logs, answers and command lines are searched for canaries;
//   - that the programs of docs/clients, in other languages, do what they say;
//   - that bad input and bad surroundings end in a message that says what was expected and what to do, see docs/bad-input.md.
//
// Whatever a test starts dies with it.
package e2etest
