package registry

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// appendTimeout bounds a write to the log. It does not end when the client goes away: an append of unknown outcome
// would stop the registry from writing.
const appendTimeout = 30 * time.Second

// contentType is the media type of every answer.
const contentType = "application/vnd.schemaregistry.v1+json"

// apiVersion is the version of Confluent's registry whose interface this is.
const apiVersion = "7.9.0"

// endpoint answers a request with a value to encode, or an error.
type endpoint func(*request) (any, error)

// request is what endpoints see.
type request struct {
	ctx   context.Context
	http  *http.Request
	query url.Values
	body  []byte
}

// subject is the subject in the path. There is one context, the default one, which may be named before it.
func (q *request) subject() string {
	return strings.TrimPrefix(q.http.PathValue("subject"), defaultContext)
}

const defaultContext = ":.:"

// flag reads a boolean parameter, which defaults to false. Some clients write True.
func (q *request) flag(name string) bool { return strings.EqualFold(q.query.Get(name), "true") }

// number reads a non-negative number, or def.
func (q *request) number(name string, def int) (int, error) {
	raw := q.query.Get(name)
	if raw == "" {
		return def, nil
	}
	n, err := strconv.Atoi(raw)
	if err != nil {
		return 0, refuse(http.StatusBadRequest, http.StatusBadRequest, "Parameter %s is %q: a whole number is expected", name, raw)
	}
	return n, nil
}

// decode reads the body, strictly: a field that is not known would not be honoured. One that is null asks for nothing.
func (q *request) decode(into any) error {
	dec := json.NewDecoder(bytes.NewReader(withoutNulls(q.body)))
	dec.DisallowUnknownFields()
	err := dec.Decode(into)
	if err == nil {
		if _, err = dec.Token(); errors.Is(err, io.EOF) {
			return nil
		}
		err = errors.New("something follows the JSON object")
	}
	return refuse(http.StatusUnprocessableEntity, http.StatusUnprocessableEntity, "Request body: %v", err)
}

// withoutNulls returns an object without its fields that are null, and anything else as it is.
func withoutNulls(body []byte) []byte {
	var fields map[string]json.RawMessage
	if !bytes.Contains(body, []byte("null")) || json.Unmarshal(body, &fields) != nil || fields == nil {
		return body
	}
	maps.DeleteFunc(fields, func(_ string, v json.RawMessage) bool { return string(v) == "null" })
	out, err := json.Marshal(fields)
	if err != nil {
		return body
	}
	return out
}

// Handler returns the registry's HTTP interface.
func (r *Registry) Handler() http.Handler {
	mux := http.NewServeMux()
	for pattern, e := range r.routes() {
		mux.Handle(pattern, r.serve(e))
	}
	mux.Handle("/", r.serve(func(q *request) (any, error) {
		return nil, refuse(http.StatusNotFound, http.StatusNotFound, "HTTP 404 Not Found: %s %s", q.http.Method, q.http.URL.Path)
	}))
	return mux
}

func (r *Registry) routes() map[string]endpoint {
	return map[string]endpoint{
		"GET /{$}":           func(*request) (any, error) { return struct{}{}, nil },
		"POST /{$}":          func(*request) (any, error) { return struct{}{}, nil },
		"GET /contexts":      func(*request) (any, error) { return []string{"."}, nil },
		"GET /schemas/types": func(*request) (any, error) { return []string{"AVRO"}, nil },
		"GET /v1/metadata/id": func(*request) (any, error) {
			return map[string]any{"id": "", "scope": map[string]any{"path": []string{}}}, nil
		},
		"GET /v1/metadata/version": func(*request) (any, error) {
			return map[string]string{"version": apiVersion, "commitId": ""}, nil
		},
		"GET /schemas":                   r.getSchemas,
		"GET /schemas/ids/{id}":          r.getByID,
		"GET /schemas/ids/{id}/schema":   r.getTextByID,
		"GET /schemas/ids/{id}/subjects": r.getSubjectsByID,
		"GET /schemas/ids/{id}/versions": r.getVersionsByID,

		"GET /subjects":                                             r.getSubjects,
		"POST /subjects/{subject}":                                  r.postLookup,
		"DELETE /subjects/{subject}":                                r.deleteSubjectEndpoint,
		"GET /subjects/{subject}/metadata":                          r.getMetadata,
		"GET /subjects/{subject}/versions":                          r.getVersions,
		"POST /subjects/{subject}/versions":                         r.postVersion,
		"GET /subjects/{subject}/versions/{version}":                r.getVersion,
		"GET /subjects/{subject}/versions/{version}/schema":         r.getVersionText,
		"GET /subjects/{subject}/versions/{version}/referencedby":   r.getReferencedBy,
		"DELETE /subjects/{subject}/versions/{version}":             r.deleteVersionEndpoint,
		"POST /compatibility/subjects/{subject}/versions":           r.postCompatibility,
		"POST /compatibility/subjects/{subject}/versions/{version}": r.postCompatibility,

		"GET /config":              r.getConfig,
		"PUT /config":              r.putConfig,
		"DELETE /config":           r.deleteConfig,
		"GET /config/{subject}":    r.getConfig,
		"PUT /config/{subject}":    r.putConfig,
		"DELETE /config/{subject}": r.deleteConfig,
		"GET /mode":                r.getMode,
		"PUT /mode":                r.putMode,
		"DELETE /mode":             r.deleteMode,
		"GET /mode/{subject}":      r.getMode,
		"PUT /mode/{subject}":      r.putMode,
		"DELETE /mode/{subject}":   r.deleteMode,
	}
}

// serve reads the request and writes the answer.
func (r *Registry) serve(e endpoint) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, hr *http.Request) {
		media, err := negotiate(hr)
		w.Header().Set("Content-Type", media)
		var answer any
		if err == nil {
			answer, err = r.handle(e, hr, w)
		}
		if err != nil {
			f := asFault(err)
			if f.status >= http.StatusInternalServerError {
				r.cfg.Logger.Error("schema registry request failed", slog.String("method", hr.Method), slog.String("path", hr.URL.Path), slog.Any("error", err))
			}
			r.respond(w, f.status, map[string]any{"error_code": f.code, "message": f.message})
			return
		}
		r.respond(w, http.StatusOK, answer)
	})
}

func (r *Registry) handle(e endpoint, hr *http.Request, w http.ResponseWriter) (any, error) {
	body, err := io.ReadAll(http.MaxBytesReader(w, hr.Body, r.cfg.MaxBytes))
	if err != nil {
		if tooLong := (*http.MaxBytesError)(nil); errors.As(err, &tooLong) {
			return nil, refuse(http.StatusRequestEntityTooLarge, http.StatusRequestEntityTooLarge, "Request body is too large: up to %d bytes are accepted", tooLong.Limit)
		}
		return nil, refuse(http.StatusBadRequest, http.StatusBadRequest, "Request body cannot be read: %v", err)
	}
	query, err := url.ParseQuery(hr.URL.RawQuery)
	if err != nil {
		return nil, refuse(http.StatusBadRequest, http.StatusBadRequest, "Query cannot be read: %v", err)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(hr.Context()), appendTimeout)
	defer cancel()
	return e(&request{ctx: ctx, http: hr, query: query, body: body})
}

// raw is an answer that is written as it is.
type raw string

func (r *Registry) respond(w http.ResponseWriter, status int, answer any) {
	var body []byte
	if text, ok := answer.(raw); ok {
		body = []byte(text)
	} else {
		var b bytes.Buffer
		enc := json.NewEncoder(&b)
		enc.SetEscapeHTML(false)
		if err := enc.Encode(answer); err != nil {
			r.cfg.Logger.Error("schema registry answer cannot be encoded", slog.Any("error", err))
			status = http.StatusInternalServerError
		}
		body = b.Bytes()
	}
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	if _, err := w.Write(body); err != nil {
		r.cfg.Logger.Debug("schema registry client went away", slog.Any("error", err))
	}
}
