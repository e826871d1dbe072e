// Package archtest holds, as tests, what the layout promises and linters cannot see: which ring may import which, that the
// cores are plain functions, that files stay readable, and that every processor and adapter carries its contract.
//
// The rings, from the outside in: cmd and bench, then adapters and processors, then internal and statestore, then schemas. Siblings under
// adapters/ and processors/ do not import each other, but a shell imports its own core: reducer imports fold, orchestrator
// imports decide.
package archtest
