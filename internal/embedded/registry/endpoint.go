package registry

import (
	"errors"
	"net/http"
	"strings"
	"unicode"
)

// maxSubjectBytes caps the name of a subject.
const maxSubjectBytes = 1024

// checkSubject refuses names that nothing can be kept under. With global, none means all subjects.
func checkSubject(name string, global bool) error {
	invalid := func(why string) error {
		return refuse(http.StatusUnprocessableEntity, codeInvalidSubject, "The specified subject '%s' is not a valid subject: %s", name, why)
	}
	switch {
	case name == "" && global:
		return nil
	case name == "":
		return invalid("it is empty")
	case len(name) > maxSubjectBytes:
		return refuse(http.StatusUnprocessableEntity, codeInvalidSubject, "Subject name has %d bytes: up to %d are accepted", len(name), maxSubjectBytes)
	case name == "__GLOBAL" || name == "__EMPTY":
		return invalid("the name is reserved")
	case strings.HasPrefix(name, ":."):
		return invalid("this registry has the default context only")
	case strings.ContainsFunc(name, unicode.IsControl):
		return invalid("it has control characters")
	default:
		return nil
	}
}

func (r *Registry) postVersion(q *request) (any, error) {
	var req schemaRequest
	if err := q.decode(&req); err != nil {
		return nil, err
	}
	if err := checkSubject(q.subject(), false); err != nil {
		return nil, err
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

// postCompatibility checks a schema against one version, or against those that the level asks for. Where there is nothing to be compatible with,
// a schema is compatible.
func (r *Registry) postCompatibility(q *request) (any, error) {
	var req schemaRequest
	if err := q.decode(&req); err != nil {
		return nil, err
	}
	r.mu.RLock()
	defer r.mu.RUnlock()
	name := q.subject()
	versions := r.subjects[name].live(false)
	if which := q.http.PathValue("version"); which != "" {
		number, err := parseVersion(which)
		if err != nil {
			return nil, err
		}
		switch v := r.subjects[name].find(number); {
		case number == latest:
			versions = versions[max(0, len(versions)-1):]
		case v == nil || v.deleted:
			return nil, versionNotFound(which)
		default:
			versions = []version{*v}
		}
	}
	c, err := r.prepare(req, q.flag("normalize") || r.normalizes(name))
	var why []string
	if f := (*fault)(nil); errors.As(err, &f) && q.flag("verbose") {
		why = []string{f.message} // who asks for reasons wants this one, too
	} else if err != nil {
		return nil, err
	} else if why, err = r.incompatibilities(c, versions, r.level(name)); err != nil {
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
	value, set := r.config(name)
	switch {
	case !set && name != "" && !q.flag("defaultToGlobal"):
		return nil, refuse(http.StatusNotFound, codeLevelNotFound, "Subject '%s' does not have subject-level compatibility configured", name)
	case value.Level == "" && (name == "" || q.flag("defaultToGlobal")):
		value.Level = r.level(name)
	}
	if _, global := r.normal[""]; value.Normalize == nil && global && q.flag("defaultToGlobal") {
		normalize := r.normalizes(name)
		value.Normalize = &normalize
	}
	return value, nil
}

// configBody is the body of a request that configures, and of its answer: the level has another name there.
type configBody struct {
	Level     Level `json:"compatibility,omitempty"`
	Alias     Level `json:"compatibilityLevel,omitempty"` // as GET calls it: a client may send back what it got
	Normalize *bool `json:"normalize,omitempty"`
}

func (r *Registry) putConfig(q *request) (any, error) {
	var body configBody
	if err := q.decode(&body); err != nil {
		return nil, err
	}
	if body.Level == "" {
		body.Level = body.Alias
	}
	body.Level = Level(strings.ToUpper(string(body.Level)))
	if !body.Level.valid() && (body.Level != "" || body.Normalize == nil) {
		return nil, refuse(http.StatusUnprocessableEntity, codeInvalidLevel,
			"Invalid compatibility level %q. Valid values are none, backward, forward, full, backward_transitive, forward_transitive, and full_transitive", body.Level)
	}
	if err := checkSubject(q.subject(), true); err != nil {
		return nil, err
	}
	value, err := r.setConfig(q.ctx, q.subject(), configValue{Level: body.Level, Normalize: body.Normalize})
	return configBody{Level: value.Level, Normalize: value.Normalize}, err
}

func (r *Registry) deleteConfig(q *request) (any, error) {
	value, set, err := r.resetConfig(q.ctx, q.subject())
	switch {
	case err != nil:
		return nil, err
	case !set && q.subject() != "":
		return nil, subjectNotFound(q.subject())
	case value.Level == "" && q.subject() == "":
		value.Level = Backward
	}
	return value, nil
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
	body.Mode = Mode(strings.ToUpper(string(body.Mode)))
	if !body.Mode.valid() {
		return nil, refuse(http.StatusUnprocessableEntity, codeInvalidMode, "Invalid mode %q. Valid values are READWRITE, READONLY, READONLY_OVERRIDE and IMPORT", body.Mode)
	}
	if err := checkSubject(q.subject(), true); err != nil {
		return nil, err
	}
	return body, r.setMode(q.ctx, q.subject(), body.Mode, q.flag("force"))
}

func (r *Registry) deleteMode(q *request) (any, error) {
	r.mu.RLock()
	mode, set := r.modes[q.subject()]
	r.mu.RUnlock()
	if !set {
		if q.subject() != "" {
			return nil, subjectNotFound(q.subject())
		}
		return modeValue{ReadWrite}, nil
	}
	return modeValue{mode}, r.setMode(q.ctx, q.subject(), "", false)
}
