package registry

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"slices"
)

// Types of records.
const (
	keySchema        = "SCHEMA"
	keyConfig        = "CONFIG"
	keyMode          = "MODE"
	keyDeleteSubject = "DELETE_SUBJECT"
	keyClearSubject  = "CLEAR_SUBJECT"
	keyNoop          = "NOOP"
)

// recordKey is the key of a record. The order of the fields is that of Confluent's registry, since compaction compares
// bytes.
type recordKey struct {
	Type    string  `json:"keytype"`
	Subject *string `json:"subject,omitempty"`
	Version *int    `json:"version,omitempty"`
	Magic   int     `json:"magic"`
}

// schemaValue is the value of a SCHEMA record.
type schemaValue struct {
	Subject    string      `json:"subject"`
	Version    int         `json:"version"`
	ID         int         `json:"id"`
	SchemaType string      `json:"schemaType,omitempty"`
	References []Reference `json:"references,omitempty"`
	Schema     string      `json:"schema"`
	Deleted    bool        `json:"deleted"`
}

type configValue struct {
	Level     Level `json:"compatibilityLevel,omitempty"`
	Normalize *bool `json:"normalize,omitempty"`
}

type modeValue struct {
	Mode Mode `json:"mode"`
}

// deleteValue deletes the versions of a subject up to Version, softly.
type deleteValue struct {
	Subject string `json:"subject"`
	Version int    `json:"version"`
}

// noopValue keeps, beside what Confluent's registry knows, the highest id and the highest version per subject that were
// ever given: when a schema is deleted for good, nothing else remembers them.
type noopValue struct {
	MaxID    int            `json:"regentMaxId"`
	Versions map[string]int `json:"regentMaxVersions,omitempty"`
}

// change is one record to append and to apply.
type change struct {
	key   recordKey
	value any // nil deletes
}

func schemaChange(v schemaValue) change {
	return change{recordKey{Type: keySchema, Subject: &v.Subject, Version: &v.Version, Magic: 1}, v}
}

func schemaRemoval(subject string, version int) change {
	return change{key: recordKey{Type: keySchema, Subject: &subject, Version: &version, Magic: 1}}
}

func subjectKey(keytype, subject string) recordKey {
	k := recordKey{Type: keytype}
	if subject != "" {
		k.Subject = &subject
	}
	return k
}

// commit appends changes in order and applies each. The caller holds r.write.
func (r *Registry) commit(ctx context.Context, changes ...change) error {
	for _, c := range changes {
		key, err := json.Marshal(c.key)
		if err != nil {
			return fmt.Errorf("encode key of a registry record: %w", err)
		}
		var value []byte
		if c.value != nil {
			if value, err = json.Marshal(c.value); err != nil {
				return fmt.Errorf("encode registry record: %w", err)
			}
		}
		if err := r.cfg.Log.Append(ctx, key, value); err != nil {
			r.mu.Lock()
			r.doubt = err
			r.mu.Unlock()
			return fmt.Errorf("store registry record: %w", err)
		}
		if err := r.Load(key, value); err != nil {
			return err
		}
	}
	return nil
}

// Load applies one record of the log. A nil value deletes what the key names. Records of an unknown type are an error:
// they were written by a registry that knows more.
func (r *Registry) Load(key, value []byte) error {
	var k recordKey
	if err := json.Unmarshal(key, &k); err != nil {
		return fmt.Errorf("read key of a registry record: %w", err)
	}
	name := ""
	if k.Subject != nil {
		name = *k.Subject
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	tombstone := len(bytes.TrimSpace(value)) == 0
	switch k.Type {
	case keySchema:
		if k.Version == nil {
			return fmt.Errorf("read registry record: SCHEMA key of subject %q without version", name)
		}
		if tombstone {
			r.removeVersion(name, *k.Version)
			return nil
		}
		return decodeInto(value, func(v schemaValue) error { return r.applySchema(v) })
	case keyConfig:
		delete(r.levels, name)
		delete(r.normal, name)
		if tombstone {
			return nil
		}
		return decodeInto(value, func(v configValue) error { r.applyConfig(name, v); return nil })
	case keyMode:
		if tombstone {
			delete(r.modes, name)
			return nil
		}
		return decodeInto(value, func(v modeValue) error { r.modes[name] = v.Mode; return nil })
	case keyDeleteSubject:
		if tombstone {
			return nil
		}
		return decodeInto(value, func(v deleteValue) error { r.deleteUpTo(v); return nil })
	case keyClearSubject:
		return nil
	case keyNoop:
		if tombstone {
			return nil
		}
		return decodeInto(value, func(v noopValue) error { r.applyNoop(v); return nil })
	default:
		return fmt.Errorf("read registry record: key type %q is unknown", k.Type)
	}
}

func decodeInto[T any](raw []byte, apply func(T) error) error {
	var v T
	if err := json.Unmarshal(raw, &v); err != nil {
		return fmt.Errorf("read registry record: %w", err)
	}
	return apply(v)
}

func (r *Registry) applySchema(v schemaValue) error {
	text, err := compact(v.Schema)
	if err != nil {
		return fmt.Errorf("read registry record of subject %q version %d: %w", v.Subject, v.Version, err)
	}
	if v.ID <= 0 || v.Version <= 0 {
		return fmt.Errorf("read registry record of subject %q: id %d and version %d must be positive", v.Subject, v.ID, v.Version)
	}
	key := identityOf(text, v.References)
	if r.byID[v.ID] == nil {
		r.byID[v.ID] = &definition{text: v.Schema, identity: key, references: v.References}
	}
	if _, known := r.byText[key]; !known {
		r.byText[key] = v.ID
	}
	r.maxID = max(r.maxID, v.ID)
	s := r.subjects[v.Subject]
	if s == nil {
		s = &subject{}
		r.subjects[v.Subject] = s
	}
	s.highest = max(s.highest, v.Version)
	if old := s.find(v.Version); old != nil {
		old.id, old.deleted = v.ID, v.Deleted
		return nil
	}
	s.versions = append(s.versions, version{number: v.Version, id: v.ID, deleted: v.Deleted})
	slices.SortFunc(s.versions, func(a, b version) int { return a.number - b.number })
	return nil
}

func (r *Registry) applyConfig(name string, v configValue) {
	if v.Level != "" {
		r.levels[name] = v.Level
	}
	if v.Normalize != nil {
		r.normal[name] = *v.Normalize
	}
}

// removeVersion forgets a version for good, but not what its id names (invariant 1).
func (r *Registry) removeVersion(name string, number int) {
	s := r.subjects[name]
	if s == nil {
		return
	}
	s.versions = slices.DeleteFunc(s.versions, func(v version) bool { return v.number == number })
}

func (r *Registry) deleteUpTo(v deleteValue) {
	s := r.subjects[v.Subject]
	if s == nil {
		return
	}
	for i := range s.versions {
		if s.versions[i].number <= v.Version {
			s.versions[i].deleted = true
		}
	}
}

func (r *Registry) applyNoop(v noopValue) {
	r.maxID = max(r.maxID, v.MaxID)
	for name, number := range v.Versions {
		s := r.subjects[name]
		if s == nil {
			s = &subject{}
			r.subjects[name] = s
		}
		s.highest = max(s.highest, number)
	}
}

// highWater returns the record that remembers the highest id and versions.
func (r *Registry) highWater() change {
	v := noopValue{MaxID: r.maxID, Versions: make(map[string]int)}
	for name, s := range r.subjects {
		if s.highest > 0 {
			v.Versions[name] = s.highest
		}
	}
	return change{recordKey{Type: keyNoop}, v}
}
