package avrocodec

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/regent-infra/regent/internal/envelope"
	"github.com/regent-infra/regent/internal/invariant"
	"github.com/regent-infra/regent/internal/topics"
)

// MemoryRegistry is a schema registry in memory, for tests, the simulator and whoever reads files instead of a cluster. It checks
// compatibility as a real one does. It is safe for concurrent use.
type MemoryRegistry struct {
	mu       sync.Mutex
	schemas  []string // id - 1 → text
	subjects map[string][]int32
	modes    map[string]string
}

var _ Registry = (*MemoryRegistry)(nil)

// NewMemoryRegistry returns an empty registry.
func NewMemoryRegistry() *MemoryRegistry {
	return &MemoryRegistry{subjects: map[string][]int32{}, modes: map[string]string{}}
}

// Standalone returns a codec over a memory registry in which the schemas of all topics of the set are registered, in the set's order, so
// that the ids are the same in every run. It panics on a set whose payloads do not exist, which [topics.Parse] refuses.
func Standalone(set *topics.Set) *Codec {
	registry := NewMemoryRegistry()
	for _, topic := range set.All() {
		text, err := envelope.Schema(topic.Payloads)
		invariant.Assert(err == nil, "topic %s has a schema: %v", topic.Name, err)
		_, err = registry.Register(context.Background(), topics.Subject(topic.Name), text)
		invariant.Assert(err == nil, "the schema of topic %s can be registered: %v", topic.Name, err)
	}
	codec, err := New(registry, set, Config{})
	invariant.Assert(err == nil, "a parsed set has a codec: %v", err)
	return codec
}

// SchemaByID implements [Registry].
func (r *MemoryRegistry) SchemaByID(_ context.Context, id int32) (string, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if id < 1 || int(id) > len(r.schemas) {
		return "", fmt.Errorf("%w: %d", ErrUnknownSchema, id)
	}
	return r.schemas[id-1], nil
}

// LookupID implements [Registry].
func (r *MemoryRegistry) LookupID(_ context.Context, subject, schema string) (int32, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, id := range r.subjects[subject] {
		if r.schemas[id-1] == schema {
			return id, nil
		}
	}
	return 0, fmt.Errorf("%w under subject %s", ErrNotRegistered, subject)
}

// Register registers a schema under a subject and returns its id; the same schema has one id under all subjects.
func (r *MemoryRegistry) Register(ctx context.Context, subject, schema string) (int32, error) {
	if id, err := r.LookupID(ctx, subject, schema); err == nil {
		return id, nil
	}
	if err := r.CheckCompatible(ctx, subject, schema); err != nil {
		return 0, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	at := slices.Index(r.schemas, schema)
	if at < 0 {
		at = len(r.schemas)
		r.schemas = append(r.schemas, schema)
	}
	id := int32(at + 1) //nolint:gosec // as many schemas as a test registers
	r.subjects[subject] = append(r.subjects[subject], id)
	return id, nil
}

// CheckCompatible says whether the schema may follow the versions of the subject under the subject's mode.
func (r *MemoryRegistry) CheckCompatible(_ context.Context, subject, schema string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	mode := r.modes[subject]
	if mode == "" {
		mode = "BACKWARD"
	}
	versions := make([]string, 0, len(r.subjects[subject]))
	for _, id := range r.subjects[subject] {
		versions = append(versions, r.schemas[id-1])
	}
	if err := CheckMode(mode, schema, versions); err != nil {
		return &IncompatibleError{Subject: subject, Reasons: []string{err.Error()}}
	}
	return nil
}

// Versions returns the schemas of a subject, oldest first; none if the subject does not exist.
func (r *MemoryRegistry) Versions(_ context.Context, subject string) ([]string, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var versions []string
	for _, id := range r.subjects[subject] {
		versions = append(versions, r.schemas[id-1])
	}
	return versions, nil
}

// Mode returns the compatibility mode of a subject, or "" if it has none of its own.
func (r *MemoryRegistry) Mode(_ context.Context, subject string) (string, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.modes[subject], nil
}

// SetMode sets the compatibility mode of a subject.
func (r *MemoryRegistry) SetMode(_ context.Context, subject, mode string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.modes[subject] = mode
	return nil
}
