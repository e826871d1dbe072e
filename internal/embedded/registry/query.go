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

// lookupVersion finds a version by number, "latest" or -1. The caller holds r.mu.
func (r *Registry) lookupVersion(name, which string, withDeleted bool) (*version, error) {
	s := r.subjects[name]
	if len(s.live(true)) == 0 {
		return nil, subjectNotFound(name)
	}
	if which == "latest" || which == "-1" {
		if v := s.latest(withDeleted && len(s.live(false)) == 0); v != nil {
			return v, nil
		}
		return nil, subjectNotFound(name)
	}
	number, err := strconv.ParseInt(which, 10, 32)
	if err != nil || number < 1 {
		return nil, refuse(http.StatusUnprocessableEntity, codeInvalidVersion,
			"The specified version '%s' is not a valid version id. Allowed values are between [1, 2^31-1] and the string \"latest\"", which)
	}
	v := s.find(int(number))
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
	answer := map[string]any{"schema": def.text}
	switch format := q.query.Get("format"); format {
	case "":
		if len(def.references) > 0 {
			answer["references"] = def.references
		}
	case "resolved":
		if answer["schema"], err = r.resolve(def.text, def.references); err != nil {
			return nil, err
		}
	default:
		return nil, refuse(http.StatusBadRequest, http.StatusBadRequest, "Parameter format is %q: resolved, or nothing, is expected", format)
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
	return raw(def.text), nil
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
	numbers := []int{}
	for _, v := range r.subjects[q.subject()].live(q.flag("deleted")) {
		numbers = append(numbers, v.number)
	}
	if len(numbers) == 0 {
		return nil, subjectNotFound(q.subject())
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
	return r.describe(q.subject(), *v), nil
}

func (r *Registry) getVersionText(q *request) (any, error) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	v, err := r.lookupVersion(q.subject(), q.http.PathValue("version"), q.flag("deleted"))
	if err != nil {
		return nil, err
	}
	return raw(r.byID[v.id].text), nil
}

func (r *Registry) getReferencedBy(q *request) (any, error) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	v, err := r.lookupVersion(q.subject(), q.http.PathValue("version"), q.flag("deleted"))
	if err != nil {
		return nil, err
	}
	return r.referrers(q.subject(), v.number), nil
}

// postLookup finds a schema in a subject.
func (r *Registry) postLookup(q *request) (any, error) {
	var req schemaRequest
	if err := q.decode(&req); err != nil {
		return nil, err
	}
	r.mu.RLock()
	defer r.mu.RUnlock()
	versions := r.subjects[q.subject()].live(q.flag("deleted"))
	if len(versions) == 0 {
		return nil, subjectNotFound(q.subject())
	}
	c, err := r.prepare(req, q.flag("normalize"))
	if err != nil {
		return nil, err
	}
	for _, v := range slices.Backward(versions) {
		if def := r.byID[v.id]; identityOf(def.canonical, def.references) == c.identity {
			return r.describe(q.subject(), v), nil
		}
	}
	return nil, refuse(http.StatusNotFound, codeSchemaNotFound, "Schema not found")
}
