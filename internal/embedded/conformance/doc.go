// Package conformance holds the embedded broker against a real Apache Kafka: every behaviour of a broker on which Regent relies is looked at
// on both.
//
// A behaviour is a name, what Apache Kafka does, and a function that looks. What is seen is a short text. On Apache Kafka it must be the one
// that the behaviour says; on the embedded broker the same, unless docs/embedded-broker.md lists the behaviour as a difference, and then the
// one that stands there. So a new difference fails, and a known one that has disappeared does too, until the document says so.
//
// The document is generated from the suite, but for the texts on what a difference means:
//
//	go test ./internal/embedded/conformance -rewrite
//
// There is nothing here but tests.
package conformance
