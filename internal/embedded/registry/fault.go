package registry

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
)

// Error codes of Confluent's registry.
const (
	codeSubjectNotFound   = 40401
	codeVersionNotFound   = 40402
	codeSchemaNotFound    = 40403
	codeSubjectDeleted    = 40404
	codeSubjectNotDeleted = 40405
	codeVersionDeleted    = 40406
	codeVersionNotDeleted = 40407
	codeLevelNotFound     = 40408
	codeModeNotFound      = 40409
	codeIncompatible      = 409
	codeInvalidSchema     = 42201
	codeInvalidVersion    = 42202
	codeInvalidLevel      = 42203
	codeInvalidMode       = 42204
	codeNotPermitted      = 42205
	codeReferenced        = 42206
	codeInvalidSubject    = 42208
	codeStore             = 50001
)

// fault is an answer that refuses a request.
type fault struct {
	status  int
	code    int
	message string
}

func (f *fault) Error() string { return f.message }

func refuse(status, code int, format string, args ...any) error {
	return &fault{status, code, fmt.Sprintf(format, args...)}
}

func subjectNotFound(name string) error {
	return refuse(http.StatusNotFound, codeSubjectNotFound, "Subject '%s' not found.", name)
}

func versionNotFound(which any) error {
	return refuse(http.StatusNotFound, codeVersionNotFound, "Version %v not found.", which)
}

func referenced(name string, number int, ids []int) error {
	return refuse(http.StatusUnprocessableEntity, codeReferenced, "One or more references exist to the schema %s version %d: from schema ids %v", name, number, ids)
}

func join(lines []string) string { return strings.Join(lines, "; ") }

// asFault returns the answer for an error: what is not a refusal is a failure of the store.
func asFault(err error) *fault {
	var f *fault
	if errors.As(err, &f) {
		return f
	}
	return &fault{http.StatusInternalServerError, codeStore, "Error in the backend data store: " + err.Error()}
}
