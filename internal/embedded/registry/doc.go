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
//  2. The same schema text with the same references has the same id in every subject. Texts are compared after
//     insignificant white space is removed.
//  3. Versions of a subject rise by one and are not used twice.
//  4. A version that is incompatible with what the subject's level asks for is never registered. Levels mean: BACKWARD,
//     the new schema reads data of the latest version; FORWARD, the latest version reads data of the new schema; FULL,
//     both; with _TRANSITIVE the same against every version; NONE, no check.
//
// Schemas in other languages than Avro are refused. The Avro library itself is handed in as [Config.Compatible].
package registry
