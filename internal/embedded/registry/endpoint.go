package registry

import (
	"net/http"
	"strings"
)

// maxSubjectBytes caps the name of a subject.
const maxSubjectBytes = 1024

func (r *Registry) postVersion(q *request) (any, error) {
	var req schemaRequest
	if err := q.decode(&req); err != nil {
		return nil, err
	}
	if n := len(q.subject()); n > maxSubjectBytes {
		return nil, refuse(http.StatusUnprocessableEntity, http.StatusUnprocessableEntity, "Subject name has %d bytes: up to %d are accepted", n, maxSubjectBytes)
	}
	id, err := r.register(q.ctx, q.subject(), req, q.flag("normalize"))
	if err != nil {
		return nil, err
	}
	return map[string]int{"id": id}, nil
}

func (r *Registry) deleteSubjectEndpoint(q *request) (any, error) {
	return r.deleteSubject(q.ctx, q.subject(), q.flag("permanent"))
}

func (r *Registry) deleteVersionEndpoint(q *request) (any, error) {
	return r.deleteVersion(q.ctx, q.subject(), q.http.PathValue("version"), q.flag("permanent"))
}

// postCompatibility checks a schema against one version, or against those that the level asks for.
func (r *Registry) postCompatibility(q *request) (any, error) {
	var req schemaRequest
	if err := q.decode(&req); err != nil {
		return nil, err
	}
	r.mu.RLock()
	defer r.mu.RUnlock()
	c, err := r.prepare(req, q.flag("normalize"))
	if err != nil {
		return nil, err
	}
	versions := r.subjects[q.subject()].live(false)
	if which := q.http.PathValue("version"); which != "" {
		v, err := r.lookupVersion(q.subject(), which, false)
		if err != nil {
			return nil, err
		}
		versions = []version{*v}
	}
	why, err := r.incompatibilities(c, versions, r.level(q.subject()))
	if err != nil {
		return nil, err
	}
	answer := map[string]any{"is_compatible": len(why) == 0}
	if q.flag("verbose") {
		answer["messages"] = append([]string{}, why...)
	}
	return answer, nil
}

func (r *Registry) getConfig(q *request) (any, error) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	name := q.subject()
	if _, set := r.levels[name]; !set && name != "" && !q.flag("defaultToGlobal") {
		return nil, refuse(http.StatusNotFound, codeLevelNotFound, "Subject '%s' does not have subject-level compatibility configured", name)
	}
	return configValue{r.level(name)}, nil
}

func (r *Registry) putConfig(q *request) (any, error) {
	var body struct {
		Level Level `json:"compatibility"`
	}
	if err := q.decode(&body); err != nil {
		return nil, err
	}
	body.Level = Level(strings.ToUpper(string(body.Level)))
	if !body.Level.valid() {
		return nil, refuse(http.StatusUnprocessableEntity, codeInvalidLevel,
			"Invalid compatibility level %q. Valid values are none, backward, forward, full, backward_transitive, forward_transitive, and full_transitive", body.Level)
	}
	return body, r.setLevel(q.ctx, q.subject(), body.Level)
}

func (r *Registry) deleteConfig(q *request) (any, error) {
	r.mu.RLock()
	level, set := r.levels[q.subject()]
	r.mu.RUnlock()
	if !set {
		if q.subject() != "" {
			return nil, refuse(http.StatusNotFound, codeLevelNotFound, "Subject '%s' does not have subject-level compatibility configured", q.subject())
		}
		return configValue{Backward}, nil
	}
	return configValue{level}, r.setLevel(q.ctx, q.subject(), "")
}

func (r *Registry) getMode(q *request) (any, error) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	name := q.subject()
	if _, set := r.modes[name]; !set && name != "" && !q.flag("defaultToGlobal") {
		return nil, refuse(http.StatusNotFound, codeModeNotFound, "Subject '%s' does not have subject-level mode configured", name)
	}
	return modeValue{r.mode(name)}, nil
}

func (r *Registry) putMode(q *request) (any, error) {
	var body modeValue
	if err := q.decode(&body); err != nil {
		return nil, err
	}
	if !body.Mode.valid() {
		return nil, refuse(http.StatusUnprocessableEntity, codeInvalidMode, "Invalid mode %q. Valid values are READWRITE, READONLY and IMPORT", body.Mode)
	}
	return body, r.setMode(q.ctx, q.subject(), body.Mode, q.flag("force"))
}

func (r *Registry) deleteMode(q *request) (any, error) {
	r.mu.RLock()
	mode, set := r.modes[q.subject()]
	r.mu.RUnlock()
	if !set {
		if q.subject() != "" {
			return nil, refuse(http.StatusNotFound, codeModeNotFound, "Subject '%s' does not have subject-level mode configured", q.subject())
		}
		return modeValue{ReadWrite}, nil
	}
	return modeValue{mode}, r.setMode(q.ctx, q.subject(), "", false)
}
