// Package telemetry is what a process says about itself: structured logs, metrics and the build that it is.
//
// [NewLogger] makes the one logger of a process and [NewRegistry] its one metrics registry; both are handed down, nothing is global.
// Logs go to standard error, so that standard output stays free for results, and to a file besides if one is named.
//
// No secret reaches a log line. The handler masks three things: values of type secret.Value (they mask themselves), attributes whose
// key names a secret (password, token, …), and, inside any text (messages, values, errors), secrets that were registered with
// [Options].Secrets and the passwords of URLs and connection strings.
package telemetry

import (
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"strings"

	"golang.org/x/term"

	"github.com/regent-infra/regent/internal/secret"
)

// Formats of log lines.
const (
	// FormatAuto is text on a terminal and JSON elsewhere.
	FormatAuto = "auto"
	// FormatText is one key=value line for people.
	FormatText = "text"
	// FormatJSON is one JSON object a line for programs.
	FormatJSON = "json"
)

// Formats lists the formats that [Options] accepts.
var Formats = []string{FormatAuto, FormatText, FormatJSON}

// Levels lists the levels that [Options] accepts.
var Levels = []string{"debug", "info", "warn", "error"}

// Options says how to log.
type Options struct {
	// Level below which nothing is logged: debug, info, warn or error. Default info.
	Level string
	// Format of the lines on Output: auto, text or json. Default auto.
	Format string
	// File that gets every line as JSON besides; empty for none. It is appended to, so that it may be rotated by copy and truncate.
	File string
	// Output is where lines go; nil for nowhere.
	Output io.Writer
	// Secrets are looked for in every text and masked.
	Secrets []secret.Value
}

// NewLogger returns a logger and what closes its file.
func NewLogger(o Options) (*slog.Logger, io.Closer, error) {
	var level slog.Level
	if o.Level == "" {
		o.Level = "info"
	}
	if !slices.Contains(Levels, o.Level) {
		return nil, nil, fmt.Errorf("set up logging: level %q, expected one of %s", o.Level, strings.Join(Levels, ", "))
	}
	if err := level.UnmarshalText([]byte(o.Level)); err != nil {
		return nil, nil, fmt.Errorf("set up logging: level %q: %w", o.Level, err)
	}
	options := &slog.HandlerOptions{Level: level}

	var handlers []slog.Handler
	if o.Output != nil {
		h, err := outputHandler(o.Format, o.Output, options)
		if err != nil {
			return nil, nil, err
		}
		handlers = append(handlers, h)
	}
	var closer io.Closer = io.NopCloser(nil)
	if o.File != "" {
		f, err := os.OpenFile(o.File, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o640)
		if err != nil {
			return nil, nil, fmt.Errorf("set up logging: open the log file: %w; name a file in an existing directory that this user may write", err)
		}
		closer = f
		handlers = append(handlers, slog.NewJSONHandler(f, options))
	}
	handler := slog.DiscardHandler
	switch len(handlers) {
	case 0:
	case 1:
		handler = handlers[0]
	default:
		handler = slog.NewMultiHandler(handlers...)
	}
	return slog.New(newMasking(handler, secret.NewMasker(o.Secrets...))), closer, nil
}

func outputHandler(format string, out io.Writer, options *slog.HandlerOptions) (slog.Handler, error) {
	switch format {
	case FormatText:
		return slog.NewTextHandler(out, options), nil
	case FormatJSON:
		return slog.NewJSONHandler(out, options), nil
	case FormatAuto, "":
		if IsTerminal(out) {
			return slog.NewTextHandler(out, options), nil
		}
		return slog.NewJSONHandler(out, options), nil
	default:
		return nil, fmt.Errorf("set up logging: format %q, expected one of %s", format, strings.Join(Formats, ", "))
	}
}

// IsTerminal reports whether w is a terminal.
func IsTerminal(w any) bool {
	f, ok := w.(interface{ Fd() uintptr })
	return ok && term.IsTerminal(int(f.Fd())) //nolint:gosec // a file descriptor fits
}
