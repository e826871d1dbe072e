package registry

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
)

// Log keeps what the registry must remember.
type Log interface {
	// Append adds a record durably. When it returns an error, the record may or may not have been added. A nil value
	// deletes what the key names.
	Append(ctx context.Context, key, value []byte) error
}

// Config says what the registry works with.
type Config struct {
	// Log keeps the content. Required.
	Log Log
	// Compatible reports whether data written with schema writer can be read with schema reader; the writer comes first.
	// Both are complete Avro schemas: references are resolved. A schema that does not parse is incompatible with itself.
	// Required.
	Compatible func(writer, reader string) error
	// MaxBytes caps the body of a request. Default 1 MiB.
	MaxBytes int64
	// Logger receives structured logs. Default: discard.
	Logger *slog.Logger
}

// Registry is a schema registry. Its methods are safe for concurrent use.
type Registry struct {
	cfg Config

	write sync.Mutex   // held from the check of a change until it has taken effect
	mu    sync.RWMutex // guards what follows

	byID     map[int]*definition
	byText   map[string]int // identity → id
	maxID    int
	subjects map[string]*subject
	levels   map[string]Level // by subject; "" is the global one
	modes    map[string]Mode  // by subject; "" is the global one
	normal   map[string]bool  // whether schemas are normalised unasked, by subject; "" is the global one
	doubt    error            // an append of unknown outcome: the memory may be behind the log
}

// definition is what an id names.
type definition struct {
	text       string // as it was registered
	identity   string // see identityOf
	references []Reference
}

// Reference names a schema that another one refers to by the full name of its type.
type Reference struct {
	Name    string `json:"name"`
	Subject string `json:"subject"`
	Version int    `json:"version"`
}

// subject is a name with its versions in ascending order.
type subject struct {
	versions []version
	highest  int // version ever given, also when it was deleted for good
}

type version struct {
	number  int
	id      int
	deleted bool // softly: it is found by its id, and when asked for by name with deleted=true
}

// Level is a compatibility level.
type Level string

// Levels of compatibility, see the package comment.
const (
	None               Level = "NONE"
	Backward           Level = "BACKWARD"
	BackwardTransitive Level = "BACKWARD_TRANSITIVE"
	Forward            Level = "FORWARD"
	ForwardTransitive  Level = "FORWARD_TRANSITIVE"
	Full               Level = "FULL"
	FullTransitive     Level = "FULL_TRANSITIVE"
)

func (l Level) valid() bool {
	return slices.Contains([]Level{None, Backward, BackwardTransitive, Forward, ForwardTransitive, Full, FullTransitive}, l)
}

// Mode says what may be written.
type Mode string

// Modes.
const (
	ReadWrite Mode = "READWRITE"
	ReadOnly  Mode = "READONLY"
	Import    Mode = "IMPORT" // registrations bring their id and version, and are not checked for compatibility
	// ReadOnlyOverride, set globally, is ReadOnly for every subject, whatever its own mode is.
	ReadOnlyOverride Mode = "READONLY_OVERRIDE"
)

func (m Mode) valid() bool {
	return m == ReadWrite || m == ReadOnly || m == Import || m == ReadOnlyOverride
}

// New returns an empty registry; [Registry.Load] fills it from the log.
func New(cfg Config) (*Registry, error) {
	var errs []error
	if cfg.Log == nil {
		errs = append(errs, errors.New("open schema registry: Log is nil"))
	}
	if cfg.Compatible == nil {
		errs = append(errs, errors.New("open schema registry: Compatible is nil"))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	if cfg.MaxBytes == 0 {
		cfg.MaxBytes = 1 << 20
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return &Registry{
		cfg:      cfg,
		byID:     make(map[int]*definition),
		byText:   make(map[string]int),
		subjects: make(map[string]*subject),
		levels:   make(map[string]Level),
		modes:    make(map[string]Mode),
		normal:   make(map[string]bool),
	}, nil
}

// identityOf is the key under which equal schemas are found. text is compact.
func identityOf(text string, refs []Reference) string {
	var b strings.Builder
	canonical, err := canonicalSchema(text)
	if err != nil {
		canonical = text // it is no schema, and refused or never asked for
	}
	b.WriteString(canonical)
	for _, r := range refs {
		fmt.Fprintf(&b, "\x00%s\x00%s\x00%d", r.Name, r.Subject, r.Version)
	}
	return b.String()
}

func (s *subject) find(number int) *version {
	if s == nil {
		return nil
	}
	for i := range s.versions {
		if s.versions[i].number == number {
			return &s.versions[i]
		}
	}
	return nil
}

// latest returns the newest version, or nil.
func (s *subject) latest(withDeleted bool) *version {
	if s == nil {
		return nil
	}
	for i := len(s.versions) - 1; i >= 0; i-- {
		if withDeleted || !s.versions[i].deleted {
			return &s.versions[i]
		}
	}
	return nil
}

// live returns the versions that are shown.
func (s *subject) live(withDeleted bool) []version {
	if s == nil {
		return nil
	}
	var out []version
	for _, v := range s.versions {
		if withDeleted || !v.deleted {
			out = append(out, v)
		}
	}
	return out
}

// level returns the compatibility level that holds for a subject.
func (r *Registry) level(name string) Level {
	if l, ok := r.levels[name]; ok {
		return l
	}
	if l, ok := r.levels[""]; ok {
		return l
	}
	return Backward
}

// normalizes returns whether schemas of a subject are normalised unasked.
func (r *Registry) normalizes(name string) bool {
	if own, ok := r.normal[name]; ok {
		return own
	}
	return r.normal[""]
}

// mode returns the mode that holds for a subject.
func (r *Registry) mode(name string) Mode {
	if r.modes[""] == ReadOnlyOverride {
		return ReadOnlyOverride
	}
	if m, ok := r.modes[name]; ok {
		return m
	}
	if m, ok := r.modes[""]; ok {
		return m
	}
	return ReadWrite
}

// referrers returns the ids of schemas in use that refer to a version of a subject, in ascending order.
func (r *Registry) referrers(name string, number int, withDeleted bool) []int {
	used := make(map[int]bool)
	for _, s := range r.subjects {
		for _, v := range s.versions {
			if !v.deleted || withDeleted {
				used[v.id] = true
			}
		}
	}
	ids := []int{}
	for id := range used {
		for _, ref := range r.byID[id].references {
			if ref.Subject == name && ref.Version == number {
				ids = append(ids, id)
				break
			}
		}
	}
	slices.Sort(ids)
	return ids
}
