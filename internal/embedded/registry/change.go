package registry

import (
	"context"
	"fmt"
	"net/http"
	"slices"
)

// schemaRequest is the body of requests that bring a schema.
type schemaRequest struct {
	Schema     string      `json:"schema"`
	SchemaType string      `json:"schemaType"`
	References []Reference `json:"references"`
	ID         int         `json:"id"`
	Version    int         `json:"version"`
	Metadata   any         `json:"metadata"`
	RuleSet    any         `json:"ruleSet"`
	Subject    string      `json:"subject"` // some clients repeat what the path says
	Tags       bool        `json:"propagateSchemaTags"`
}

// candidate is a schema that was asked about, checked as far as it can be by itself.
type candidate struct {
	text     string
	identity string
	refs     []Reference
	complete string
}

// prepare checks a schema by itself. The caller holds r.mu.
func (r *Registry) prepare(req schemaRequest, normalized bool) (candidate, error) {
	if req.SchemaType != "" && req.SchemaType != "AVRO" {
		return candidate{}, refuse(http.StatusUnprocessableEntity, codeInvalidSchema, "Invalid schema type %s: this registry keeps AVRO only", req.SchemaType)
	}
	if req.Metadata != nil || req.RuleSet != nil || req.Tags {
		return candidate{}, refuse(http.StatusUnprocessableEntity, codeInvalidSchema, "Invalid schema: metadata, ruleSet and propagateSchemaTags are not supported")
	}
	if req.Schema == "" {
		return candidate{}, refuse(http.StatusUnprocessableEntity, codeInvalidSchema, "Invalid schema: it is empty")
	}
	text, err := compact(req.Schema)
	if err == nil && normalized {
		text, err = canonicalSchema(text)
	}
	if err != nil {
		return candidate{}, refuse(http.StatusUnprocessableEntity, codeInvalidSchema, "Invalid schema: %v", err)
	}
	c := candidate{text: text, identity: identityOf(text, req.References), refs: req.References}
	if c.complete, err = r.resolve(text, req.References); err != nil {
		return candidate{}, refuse(http.StatusUnprocessableEntity, codeInvalidSchema, "Invalid schema: %v", err)
	}
	if err := r.cfg.Compatible(c.complete, c.complete); err != nil {
		return candidate{}, refuse(http.StatusUnprocessableEntity, codeInvalidSchema, "Invalid schema: %v", err)
	}
	return c, nil
}

// incompatibilities returns why a schema may not follow the versions of a subject at a level, or nothing. The caller
// holds r.mu.
func (r *Registry) incompatibilities(c candidate, versions []version, level Level) ([]string, error) {
	switch level {
	case None:
		return nil, nil
	case Backward, Forward, Full:
		versions = versions[max(0, len(versions)-1):]
	case BackwardTransitive, ForwardTransitive, FullTransitive:
	default:
		return nil, fmt.Errorf("compatibility level %q is unknown", level)
	}
	var out []string
	for _, v := range slices.Backward(versions) {
		def := r.byID[v.id]
		old, err := r.resolve(def.text, def.references)
		if err != nil {
			return nil, fmt.Errorf("resolve schema %d: %w", v.id, err)
		}
		if level != Forward && level != ForwardTransitive {
			if err := r.cfg.Compatible(old, c.complete); err != nil {
				out = append(out, fmt.Sprintf("the new schema cannot read data of version %d (%s): %v", v.number, level, err))
			}
		}
		if level != Backward && level != BackwardTransitive {
			if err := r.cfg.Compatible(c.complete, old); err != nil {
				out = append(out, fmt.Sprintf("version %d cannot read data of the new schema (%s): %v", v.number, level, err))
			}
		}
	}
	return out, nil
}

// writable refuses a change that the mode does not allow. The caller holds r.mu.
func (r *Registry) writable(name string) error {
	if r.doubt != nil {
		return refuse(http.StatusInternalServerError, codeStore, "Error in the backend data store: an earlier write is of unknown outcome (%v); restart the registry", r.doubt)
	}
	if m := r.mode(name); m == ReadOnly || m == ReadOnlyOverride {
		return refuse(http.StatusUnprocessableEntity, codeNotPermitted, "Subject %s is in read-only mode", name)
	}
	return nil
}

// register adds a schema to a subject and returns its id.
func (r *Registry) register(ctx context.Context, name string, req schemaRequest, normalized bool) (int, error) {
	r.write.Lock()
	defer r.write.Unlock()
	v, known, err := r.plan(name, req, normalized)
	if err != nil || known {
		return v.ID, err
	}
	return v.ID, r.commit(ctx, schemaChange(v))
}

// plan decides what registering a schema means. known is true when the subject has it already.
func (r *Registry) plan(name string, req schemaRequest, normalized bool) (v schemaValue, known bool, err error) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	c, err := r.prepare(req, normalized || r.normalizes(name))
	if err != nil {
		return v, false, err
	}
	s := r.subjects[name]
	live := s.live(false)
	for _, old := range live {
		if r.byID[old.id].identity == c.identity && (req.ID <= 0 || req.ID == old.id) {
			return schemaValue{ID: old.id}, true, nil
		}
	}
	if err := r.writable(name); err != nil {
		return v, false, err
	}
	v = schemaValue{Subject: name, Version: 1, ID: r.maxID + 1, References: c.refs, Schema: c.text}
	if s != nil {
		v.Version = s.highest + 1
	}
	if id, used := r.byText[c.identity]; used {
		v.ID = id
	}
	if r.mode(name) == Import {
		return v, false, r.planImport(&v, s, req, c)
	}
	if req.ID > 0 && req.ID != v.ID {
		return v, false, refuse(http.StatusUnprocessableEntity, codeNotPermitted, "Subject %s is not in import mode: an id cannot be given", name)
	}
	if req.Version > 0 && req.Version != v.Version {
		return v, false, refuse(http.StatusUnprocessableEntity, codeInvalidSchema, "Version %d is not the next one: %d is expected", req.Version, v.Version)
	}
	why, err := r.incompatibilities(c, live, r.level(name))
	if err != nil {
		return v, false, err
	}
	if len(why) > 0 {
		return v, false, refuse(http.StatusConflict, codeIncompatible, "Schema being registered is incompatible with an earlier schema for subject %q: %s", name, join(why))
	}
	return v, false, nil
}

// planImport takes id and version from the request.
func (r *Registry) planImport(v *schemaValue, s *subject, req schemaRequest, c candidate) error {
	if req.ID <= 0 {
		return refuse(http.StatusUnprocessableEntity, codeNotPermitted, "Subject %s is in import mode: an id must be given", v.Subject)
	}
	if def := r.byID[req.ID]; def != nil && def.identity != c.identity {
		return refuse(http.StatusUnprocessableEntity, codeNotPermitted, "Overwrite new schema with id %d is not permitted", req.ID)
	}
	v.ID = req.ID
	if req.Version > 0 {
		v.Version = req.Version
	}
	if old := s.find(v.Version); old != nil {
		return refuse(http.StatusUnprocessableEntity, codeNotPermitted, "Subject %s has a version %d already", v.Subject, v.Version)
	}
	return nil
}

// deleteSubject deletes all versions of a subject and returns their numbers.
func (r *Registry) deleteSubject(ctx context.Context, name string, permanent bool) ([]int, error) {
	r.write.Lock()
	defer r.write.Unlock()
	numbers, changes, err := r.planDeletion(name, permanent)
	if err != nil {
		return nil, err
	}
	return numbers, r.commit(ctx, changes...)
}

func (r *Registry) planDeletion(name string, permanent bool) (numbers []int, changes []change, err error) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	s := r.subjects[name]
	if err := r.writable(name); err != nil {
		return nil, nil, err
	}
	all, live := s.live(true), s.live(false)
	switch {
	case len(all) == 0:
		return nil, nil, subjectNotFound(name)
	case permanent && len(live) > 0:
		return nil, nil, refuse(http.StatusNotFound, codeSubjectNotDeleted, "Subject '%s' was not deleted first before being permanently deleted", name)
	case !permanent && len(live) == 0:
		return nil, nil, refuse(http.StatusNotFound, codeSubjectDeleted, "Subject '%s' was soft deleted. Set permanent=true to delete permanently", name)
	}
	if permanent {
		changes = append(changes, r.highWater())
		for _, v := range all {
			numbers = append(numbers, v.number)
			changes = append(changes, schemaRemoval(name, v.number))
		}
		return numbers, changes, nil
	}
	for _, v := range live {
		if ids := r.referrers(name, v.number, false); len(ids) > 0 {
			return nil, nil, referenced(name, v.number, ids)
		}
		numbers = append(numbers, v.number)
	}
	changes = append(changes, change{subjectKey(keyDeleteSubject, name), deleteValue{name, live[len(live)-1].number}})
	_, level := r.levels[name]
	if _, set := r.normal[name]; set || level {
		changes = append(changes, change{key: subjectKey(keyConfig, name)})
	}
	if _, set := r.modes[name]; set {
		changes = append(changes, change{key: subjectKey(keyMode, name)})
	}
	return numbers, changes, nil
}

// deleteVersion deletes one version and returns its number.
func (r *Registry) deleteVersion(ctx context.Context, name, which string, permanent bool) (int, error) {
	r.write.Lock()
	defer r.write.Unlock()
	number, changes, err := r.planVersionDeletion(name, which, permanent)
	if err != nil {
		return 0, err
	}
	return number, r.commit(ctx, changes...)
}

func (r *Registry) planVersionDeletion(name, which string, permanent bool) (int, []change, error) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	v, err := r.lookupVersion(name, which, true)
	if err != nil {
		return 0, nil, err
	}
	if err := r.writable(name); err != nil {
		return 0, nil, err
	}
	if ids := r.referrers(name, v.number, false); len(ids) > 0 {
		return 0, nil, referenced(name, v.number, ids)
	}
	if permanent {
		if !v.deleted {
			return 0, nil, refuse(http.StatusNotFound, codeVersionNotDeleted, "Subject '%s' Version %d was not deleted first before being permanently deleted", name, v.number)
		}
		return v.number, []change{r.highWater(), schemaRemoval(name, v.number)}, nil
	}
	if v.deleted {
		return 0, nil, refuse(http.StatusNotFound, codeVersionDeleted, "Subject '%s' Version %d was soft deleted. Set permanent=true to delete permanently", name, v.number)
	}
	def := r.byID[v.id]
	return v.number, []change{schemaChange(schemaValue{
		Subject: name, Version: v.number, ID: v.id, References: def.references, Schema: def.text, Deleted: true,
	})}, nil
}

// setConfig sets what is given of a subject's configuration ("": of the global one); the rest stays. It returns what holds then.
func (r *Registry) setConfig(ctx context.Context, name string, given configValue) (configValue, error) {
	r.write.Lock()
	defer r.write.Unlock()
	r.mu.RLock()
	err := r.writable(name)
	value, _ := r.config(name)
	r.mu.RUnlock()
	if err != nil {
		return value, err
	}
	if given.Level != "" {
		value.Level = given.Level
	}
	if given.Normalize != nil {
		value.Normalize = given.Normalize
	}
	return value, r.commit(ctx, change{subjectKey(keyConfig, name), value})
}

// resetConfig removes the configuration of a subject ("": the global one), and returns what it was; set is false where there was none.
func (r *Registry) resetConfig(ctx context.Context, name string) (value configValue, set bool, err error) {
	r.write.Lock()
	defer r.write.Unlock()
	r.mu.RLock()
	value, set = r.config(name)
	err = r.writable(name)
	r.mu.RUnlock()
	if err != nil || !set {
		return value, set, err
	}
	return value, true, r.commit(ctx, change{key: subjectKey(keyConfig, name)})
}

// config returns what was set for a subject itself ("": globally). The caller holds r.mu.
func (r *Registry) config(name string) (value configValue, set bool) {
	level, leveled := r.levels[name]
	value.Level = level
	normalize, normalized := r.normal[name]
	if normalized {
		value.Normalize = &normalize
	}
	return value, leveled || normalized
}

// setMode sets or, with "", resets the mode of a subject ("": the global one).
func (r *Registry) setMode(ctx context.Context, name string, mode Mode, force bool) error {
	r.write.Lock()
	defer r.write.Unlock()
	r.mu.RLock()
	doubt, occupied := r.doubt, false
	for n, s := range r.subjects {
		occupied = occupied || (name == "" || n == name) && len(s.live(false)) > 0
	}
	r.mu.RUnlock()
	if doubt != nil {
		return r.writable(name)
	}
	if mode == Import && occupied && !force {
		return refuse(http.StatusUnprocessableEntity, codeNotPermitted, "Cannot import since found existing subjects; force=true overrides this")
	}
	c := change{key: subjectKey(keyMode, name)}
	if mode != "" {
		c.value = modeValue{mode}
	}
	return r.commit(ctx, c)
}
