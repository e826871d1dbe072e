// Package registry is a schema registry for Avro that speaks the HTTP interface of Confluent's registry, so that any
// client of that works against it: subjects, versions, lookup, references, soft and hard deletion, compatibility levels
// and modes, per subject and global.
//
// Its content is a log of small JSON records, in the format of Confluent's topic `_schemas`; the memory holds what the
// log says. A request that changes something is checked, appended, and takes effect when the append has succeeded. One
// request at a time does so: there is one registry per log.
//
// # Invariants
//
//  1. An id names one schema for ever, also after the subject that it was registered under was deleted for good: records
//     that carry the id may still exist.
//  2. The same schema with the same references has the same id in every subject, however it is written: the order of keys, white space, the
//     notation of namespaces and what Avro assumes anyway make no difference, since a Java program sends a schema as its parser prints it and a
//     Python program as the file has it. Documentation, defaults, aliases and properties do make one. The text that is given back is the one that
//     was registered first; with normalize=true, or that configured for the subject, it is the canonical one.
//  3. Versions of a subject rise by one and are not used twice.
//  4. A version that is incompatible with what the subject's level asks for is never registered. Levels mean: BACKWARD,
//     the new schema reads data of the latest version; FORWARD, the latest version reads data of the new schema; FULL,
//     both; with _TRANSITIVE the same against every version; NONE, no check.
//
// # What differs from Confluent's registry
//
// Schemas in other languages than Avro, contexts other than the default one, metadata, rules, tags, associations and GUIDs are refused: with an
// error, not ignored. A version number is not used again after the subject was deleted for good. Fields of a request that are not known are an error
// unless they are null.
//
// internal/apicurio holds this registry against another implementation of the same interface.
//
// The Avro library itself is handed in as [Config.Compatible].
package registry
