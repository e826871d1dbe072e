package binary

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
)

// The major versions of PostgreSQL that Regent manages.
const (
	OldestMajor = 13
	NewestMajor = 18
)

// ErrUnsupported is wrapped when a PostgreSQL is there but its version is not one of 13 to 18.
var ErrUnsupported = errors.New("unsupported PostgreSQL version")

// Version is a PostgreSQL release, 15.4 for example. Minor is -1 for a development or beta version.
type Version struct {
	Major int
	Minor int
	// Text is the version as the program prints it, with the packager's suffix.
	Text string
}

// String prints major and minor.
func (v Version) String() string {
	if v.Minor < 0 {
		return v.Text
	}
	return fmt.Sprintf("%d.%d", v.Major, v.Minor)
}

// Supported returns nil or an error that wraps [ErrUnsupported] and says which versions are.
func (v Version) Supported() error {
	if v.Major < OldestMajor || v.Major > NewestMajor {
		return fmt.Errorf("%w %s: expected %d to %d", ErrUnsupported, v, OldestMajor, NewestMajor)
	}
	return nil
}

var versionPattern = regexp.MustCompile(`\(PostgreSQL\) (([0-9]+)(?:\.([0-9]+))?\S*)`)

// ParseVersion reads what `postgres --version` prints, for example "postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)".
func ParseVersion(output string) (Version, error) {
	m := versionPattern.FindStringSubmatch(output)
	if m == nil {
		return Version{}, fmt.Errorf("parse version of PostgreSQL: expected a line like %q, got %q", "postgres (PostgreSQL) 15.4", firstLine(output))
	}
	v := Version{Minor: -1, Text: m[1]}
	var err error
	if v.Major, err = strconv.Atoi(m[2]); err != nil {
		return Version{}, fmt.Errorf("parse version of PostgreSQL %q: %w", m[1], err)
	}
	if m[3] != "" {
		if v.Minor, err = strconv.Atoi(m[3]); err != nil {
			return Version{}, fmt.Errorf("parse version of PostgreSQL %q: %w", m[1], err)
		}
	}
	return v, nil
}

func firstLine(text string) string {
	const limit = 200
	for i, c := range text {
		if c == '\n' || i >= limit {
			return text[:i]
		}
	}
	return text
}
