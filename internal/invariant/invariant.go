// Package invariant states what must hold whatever the world does.
//
// A violated invariant is a bug in Regent, never bad input: it panics with what was expected, so that the process stops
// before it acts on a state that nobody reasoned about. Errors are for the world; this is for us.
package invariant

import "fmt"

// Violation is the value that [Assert] panics with.
type Violation struct {
	// Message says what had to hold and what was found.
	Message string
}

// Error makes a recovered violation printable as an error.
func (v Violation) Error() string { return "invariant violated: " + v.Message }

// Assert panics with a [Violation] unless ok holds. The message says what must hold and names the values.
func Assert(ok bool, format string, args ...any) {
	if !ok {
		panic(Violation{Message: fmt.Sprintf(format, args...)})
	}
}
