// Package regent carries the files at the root of the project that belong into the binary.
package regent

import _ "embed"

// TopicsYAML is topics.yaml, the declaration of every topic. Package topics reads it.
//
//go:embed topics.yaml
var TopicsYAML []byte
