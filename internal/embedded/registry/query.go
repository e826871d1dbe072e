package registry

import (
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
)

// subjectSchema describes one version of a subject.
type subjectSchema struct {
	Subject    string      `json:"subject"`
	Version    int         `json:"version"`
	ID         int         `json:"id"`
	References []Reference `json:"references,omitempty"`
	Schema     string      `json:"schema"`
}

func (r *Registry) describe(name string, v version) subjectSchema {
	def := r.byID[v.id]
	return subjectSchema{Subject: name, Version: v.number, ID: v.id, References: def.references, Schema: def.text}
}

// latest is the number under which the newest version is asked for.
const latest = -1

// parseVersion reads the number of a version, "latest" or -1.
func parseVersion(which string) (int, error) {
	if which == "latest" || which == "-1" {
		return latest, nil
	}
	number, err := strconv.ParseInt(which, 10, 32)
	if err != nil || number < 1 {
		return 0, refuse(http.StatusUnprocessableEntity, codeInvalidVersion,
			"The specified version '%s' is not a valid version id. Allowed values are between [1, 2^31-1] and the string \"latest\"", which)
	}
	return int(number), nil
}

// lookupVersion finds a version by number, "latest" or -1. The caller holds r.mu.
func (r *Registry) lookupVersion(name, which string, withDeleted bool) (*version, error) {
	number, err := parseVersion(which)
	if err != nil {
		return nil, err
	}
	s := r.subjects[name]
	if len(s.live(withDeleted)) == 0 {
		return nil, subjectNotFound(name)
	}
	if number == latest {
		return s.latest(withDeleted && len(s.live(false)) == 0), nil
	}
	v := s.find(number)
	if v == nil || v.deleted && !withDeleted {
		return nil, versionNotFound(which)
	}
	return v, nil
}

// definitionOf finds what the id in the path names. The caller holds r.mu.
func (r *Registry) definitionOf(q *request) (int, *definition, error) {
	id, err := strconv.Atoi(q.http.PathValue("id"))
	if err != nil {
		return 0, nil, refuse(http.StatusNotFound, http.StatusNotFound, "Schema id %q: a whole number is expected", q.http.PathValue("id"))
	}
	def := r.byID[id]
	if def == nil {
		return id, nil, refuse(http.StatusNotFound, codeSchemaNotFound, "Schema %d not found", id)
	}
	return id, def, nil
}

func (r *Registry) getByID(q *request) (any, error) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	_, def, err := r.definitionOf(q)
	if err != nil {
		return nil, err
	}
	answer := map[string]any{}
	if answer["schema"], err = r.formatted(q, def); err != nil {
		return nil, err
	}
	if len(def.references) > 0 {
		answer["references"] = def.references
	}
	if q.flag("fetchMaxId") {
		answer["maxId"] = r.maxID
	}
	return answer, nil
}

func (r *Registry) getTextByID(q *request) (any, error) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	_, def, err := r.definitionOf(q)
	if err != nil {
		return nil, err
	}
	text, err := r.formatted(q, def)
	return raw(text), err
}

// formatted returns the text of a schema in the format that was asked for: as it is, or with the references put into it. The caller holds r.mu.
func (r *Registry) formatted(q *request, def *definition) (string, error) {
	switch format := q.query.Get("format"); format {
	case "":
		return def.text, nil
	case "resolved":
		return r.resolve(def.text, def.references)
	default:
		return "", refuse(http.StatusBadRequest, http.StatusBadRequest, "Parameter format is %q: resolved, or nothing, is expected", format)
	}
}

// answerVersion describes a version in the format that was asked for. The caller holds r.mu.
func (r *Registry) answerVersion(q *request, v version) (answer subjectSchema, err error) {
	answer = r.describe(q.subject(), v)
	answer.Schema, err = r.formatted(q, r.byID[v.id])
	return answer, err
}

// users returns the versions that carry the id in the path, by subject and number.
func (r *Registry) users(q *request) ([]subjectSchema, error) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	id, _, err := r.definitionOf(q)
	if err != nil {
		return nil, err
	}
	users := []subjectSchema{}
	for _, name := range slices.Sorted(maps.Keys(r.subjects)) {
		for _, v := range r.subjects[name].live(q.flag("deleted")) {
			if v.id == id {
				users = append(users, subjectSchema{Subject: name, Version: v.number})
			}
		}
	}
	return users, nil
}

func (r *Registry) getSubjectsByID(q *request) (any, error) {
	users, err := r.users(q)
	names := []string{}
	for _, u := range users {
		names = append(names, u.Subject)
	}
	return slices.Compact(names), err
}

func (r *Registry) getVersionsByID(q *request) (any, error) {
	users, err := r.users(q)
	type use struct {
		Subject string `json:"subject"`
		Version int    `json:"version"`
	}
	uses := []use{}
	for _, u := range users {
		uses = append(uses, use{u.Subject, u.Version})
	}
	return uses, err
}

// window cuts out the part of a list that offset and limit ask for.
func window[T any](q *request, all []T) ([]T, error) {
	offset, err := q.number("offset", 0)
	if err != nil {
		return nil, err
	}
	limit, err := q.number("limit", -1)
	if err != nil {
		return nil, err
	}
	all = all[min(max(offset, 0), len(all)):]
	if limit >= 0 {
		all = all[:min(limit, len(all))]
	}
	return all, nil
}

func (r *Registry) getSchemas(q *request) (any, error) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	all := []subjectSchema{}
	for _, name := range slices.Sorted(maps.Keys(r.subjects)) {
		if !strings.HasPrefix(name, q.query.Get("subjectPrefix")) {
			continue
		}
		versions := r.subjects[name].live(q.flag("deleted"))
		if q.flag("latestOnly") && len(versions) > 0 {
			versions = versions[len(versions)-1:]
		}
		for _, v := range versions {
			all = append(all, r.describe(name, v))
		}
	}
	return window(q, all)
}

func (r *Registry) getSubjects(q *request) (any, error) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	names := []string{}
	for _, name := range slices.Sorted(maps.Keys(r.subjects)) {
		s := r.subjects[name]
		live, all := len(s.live(false)) > 0, len(s.live(true)) > 0
		shown := live
		if q.flag("deletedOnly") {
			shown = all && !live
		} else if q.flag("deleted") {
			shown = all
		}
		if shown && strings.HasPrefix(name, q.query.Get("subjectPrefix")) {
			names = append(names, name)
		}
	}
	return window(q, names)
}

func (r *Registry) getVersions(q *request) (any, error) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	only := q.flag("deletedOnly")
	all := r.subjects[q.subject()].live(only || q.flag("deleted"))
	if len(all) == 0 {
		return nil, subjectNotFound(q.subject())
	}
	numbers := []int{}
	for _, v := range all {
		if v.deleted || !only {
			numbers = append(numbers, v.number)
		}
	}
	return window(q, numbers)
}

func (r *Registry) getVersion(q *request) (any, error) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	v, err := r.lookupVersion(q.subject(), q.http.PathValue("version"), q.flag("deleted"))
	if err != nil {
		return nil, err
	}
	return r.answerVersion(q, *v)
}

// getMetadata finds the latest version with some metadata: no schema here has any.
func (r *Registry) getMetadata(q *request) (any, error) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	v, err := r.lookupVersion(q.subject(), "latest", q.flag("deleted"))
	if err != nil {
		return nil, err
	}
	if len(q.query["key"]) > 0 {
		return nil, refuse(http.StatusNotFound, codeSchemaNotFound, "Schema not found")
	}
	return r.answerVersion(q, *v)
}

func (r *Registry) getVersionText(q *request) (any, error) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	v, err := r.lookupVersion(q.subject(), q.http.PathValue("version"), q.flag("deleted"))
	if err != nil {
		return nil, err
	}
	text, err := r.formatted(q, r.byID[v.id])
	return raw(text), err
}

func (r *Registry) getReferencedBy(q *request) (any, error) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	v, err := r.lookupVersion(q.subject(), q.http.PathValue("version"), true)
	if err != nil {
		return nil, err
	}
	return window(q, r.referrers(q.subject(), v.number, q.flag("deleted")))
}

// postLookup finds a schema in a subject.
func (r *Registry) postLookup(q *request) (any, error) {
	var req schemaRequest
	if err := q.decode(&req); err != nil {
		return nil, err
	}
	r.mu.RLock()
	defer r.mu.RUnlock()
	c, err := r.prepare(req, q.flag("normalize") || r.normalizes(q.subject()))
	if err != nil {
		return nil, err
	}
	versions := r.subjects[q.subject()].live(q.flag("deleted"))
	if len(versions) == 0 {
		return nil, subjectNotFound(q.subject())
	}
	for _, v := range slices.Backward(versions) {
		if r.byID[v.id].identity == c.identity {
			return r.answerVersion(q, v)
		}
	}
	return nil, refuse(http.StatusNotFound, codeSchemaNotFound, "Schema not found")
}
