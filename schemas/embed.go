// Package schemas holds the events of Regent: one Avro schema per named type in its own .avsc file, and the Go types and the code that
// reads and writes them, which are generated from them.
//
// The .avsc files are the source: every field has a doc, with its unit. Change them, then run `make generate`. A change must
// stay compatible with what is on the topics (see topics.yaml for each subject's mode): add fields with defaults, never
// rename or retype. EnvelopeHeader is the part that all events share; internal/avrocodec composes the envelope of a topic
// from it and the union of that topic's payloads.
package schemas

import "embed"

//go:generate go run ./gen

// Files holds the .avsc files.
//
//go:embed *.avsc
var Files embed.FS

// Namespace is the Avro namespace of every schema here.
const Namespace = "io.regent.v1"
