// Package registryserver serves Regent's schema registry (internal/embedded/registry) for a Kafka cluster: over HTTP, with its content in the
// topic _schemas of that cluster, in the format of Confluent's registry. It is for installations that have no registry of their own; one that
// exists is used as it is.
//
//	s, err := registryserver.Open(ctx, cfg)   // takes over, reads the topic to its end, listens
//	…
//	<-s.Failed()                              // s.Err() says why
//	s.Close(ctx)
//
// # One writer
//
// The ids of schemas come from one counter, so there is one registry per cluster. [Open] becomes the writer of the topic by a transactional id:
// from then on the brokers refuse whatever an instance that was there before may still write, and what it had written is in the topic before
// the new one reads it. An instance that finds itself replaced ends: when it is refused, and as soon as it sees a record that it has not
// written.
//
// # Invariants
//
//  1. Everything that was answered with success is in the topic, committed, before the answer leaves.
//  2. What the registry knows is what the topic says: after a write whose outcome is not known it ends, and knows when it is started again.
//  3. Where a user is configured, nothing is answered without that user's password, except that the process is alive (GET /).
package registryserver
