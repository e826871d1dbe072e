package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/regent-infra/regent/internal/config"
	"github.com/regent-infra/regent/internal/kafka"
	"github.com/regent-infra/regent/internal/lifecycle"
	"github.com/regent-infra/regent/internal/telemetry"
)

// Exit codes.
const (
	exitDone        = 0
	exitFailed      = 1
	exitUsage       = 2
	exitRefused     = 3
	exitTimedOut    = 4
	exitUnreachable = 5
)

// exitCodesHelp is `regent help exit-codes`.
const exitCodesHelp = `Exit codes of every regent command:

  0  done        what was asked for has happened
  1  failed      it was tried and did not succeed; the message says why
  2  usage       unknown command or flag, malformed argument, faulty configuration or command file
  3  refused     Regent will not do it: rejected by policy or because it would be unsafe
  4  timed out   the time to wait is over; the work may still finish (regent explain ID tells)
  5  unreachable no server, broker or registry answers; trying again can help`

// coded is an error with its exit code.
type coded struct {
	code int
	err  error
}

// Error implements error.
func (c *coded) Error() string { return c.err.Error() }

// Unwrap returns the error.
func (c *coded) Unwrap() error { return c.err }

// silent ends the program with a code without a message of its own: everything has been said.
var errSilent = errors.New("")

func withCode(code int, err error) error {
	if err == nil {
		return nil
	}
	return &coded{code: code, err: err}
}

// usagef returns an error about the command line or a file that a person wrote.
func usagef(format string, args ...any) error {
	return withCode(exitUsage, fmt.Errorf(format, args...))
}

// exitCode classifies an error.
func exitCode(err error) int {
	var c *coded
	var faults config.Faults
	var interrupted lifecycle.Interrupted
	switch {
	case errors.As(err, &c):
		return c.code
	case errors.As(err, &faults):
		return exitUsage
	case errors.Is(err, kafka.ErrUnreachable):
		return exitUnreachable
	case errors.As(err, &interrupted):
		return exitFailed
	case errors.Is(err, context.DeadlineExceeded):
		return exitTimedOut
	case strings.HasPrefix(err.Error(), "unknown command"):
		return exitUsage
	default:
		return exitFailed
	}
}

// errorMessage returns what a person is told. No secret survives in it.
func errorMessage(err error) string {
	if errors.Is(err, errSilent) {
		return ""
	}
	return telemetry.CleanText(strings.TrimSpace(err.Error()))
}
