package avrocodec

import (
	"fmt"
	"strings"

	"github.com/twmb/avro"
)

// Compatible says whether data written with the writer schema can be read with the reader schema; the error names the first place
// where it cannot, or the schema that is not valid.
func Compatible(reader, writer string) error {
	r, err := avro.Parse(reader)
	if err != nil {
		return fmt.Errorf("parse the reader's schema: %w", err)
	}
	w, err := avro.Parse(writer)
	if err != nil {
		return fmt.Errorf("parse the writer's schema: %w", err)
	}
	return avro.CheckCompatibility(w, r)
}

// CheckMode says whether candidate may follow the versions of a subject, oldest first, under a compatibility mode of the schema registry:
// NONE, BACKWARD, FORWARD, FULL, each but NONE also with _TRANSITIVE. It also refuses a candidate that is no Avro schema at all.
func CheckMode(mode, candidate string, versions []string) error {
	if _, err := avro.Parse(candidate); err != nil {
		return fmt.Errorf("parse the schema: %w", err)
	}
	base, transitive := strings.CutSuffix(mode, "_TRANSITIVE")
	if !transitive && len(versions) > 1 {
		versions = versions[len(versions)-1:]
	}
	backward, forward := false, false
	switch base {
	case "NONE":
		return nil
	case "BACKWARD":
		backward = true
	case "FORWARD":
		forward = true
	case "FULL":
		backward, forward = true, true
	default:
		return fmt.Errorf("check compatibility: unknown mode %q", mode)
	}
	for _, version := range versions {
		if backward {
			if err := Compatible(candidate, version); err != nil {
				return fmt.Errorf("the new schema cannot read what an older one wrote (mode %s): %w", mode, err)
			}
		}
		if forward {
			if err := Compatible(version, candidate); err != nil {
				return fmt.Errorf("an older schema cannot read what the new one writes (mode %s): %w", mode, err)
			}
		}
	}
	return nil
}
