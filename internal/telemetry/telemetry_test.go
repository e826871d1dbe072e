package telemetry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/regent-infra/regent/internal/secret"
)

const canary = "canary-7f3a9c"

type stringer struct{ s string }

func (s stringer) String() string { return s.s }

// Every way in which a secret could slip into a log line.
func TestNoSecretReachesALogLine(t *testing.T) {
	t.Parallel()
	value := secret.New(canary)
	known := []secret.Value{value}
	for _, format := range []string{FormatText, FormatJSON} {
		for name, c := range map[string]struct {
			known []secret.Value
			log   func(*slog.Logger)
		}{
			"the type":              {nil, func(l *slog.Logger) { l.Info("m", "value", value) }},
			"a struct with it":      {nil, func(l *slog.Logger) { l.Info("m", "config", struct{ P secret.Value }{value}) }},
			"a key that names it":   {nil, func(l *slog.Logger) { l.Info("m", "db_password", canary) }},
			"a group":               {nil, func(l *slog.Logger) { l.WithGroup("g").Info("m", slog.Group("h", "api_token", canary)) }},
			"with":                  {nil, func(l *slog.Logger) { l.With("Secret", canary).Info("m") }},
			"a URL":                 {nil, func(l *slog.Logger) { l.Info("m", "url", "postgres://u:"+canary+"@h/db") }},
			"a URL in an error":     {nil, func(l *slog.Logger) { l.Error("m", "error", fmt.Errorf("dial https://u:%s@h: refused", canary)) }},
			"a connection string":   {nil, func(l *slog.Logger) { l.Info("m", "dsn", "host=a password="+canary+" user=b") }},
			"a quoted one":          {nil, func(l *slog.Logger) { l.Info("m", "dsn", "password='"+canary+"'") }},
			"a message":             {known, func(l *slog.Logger) { l.Info("sent " + canary) }},
			"an attribute":          {known, func(l *slog.Logger) { l.Info("m", "line", "server said "+canary) }},
			"an error":              {known, func(l *slog.Logger) { l.Info("m", "error", errors.New(canary)) }},
			"a joined error":        {known, func(l *slog.Logger) { l.Info("m", "error", errors.Join(errors.New("a"), errors.New(canary))) }},
			"a stringer":            {known, func(l *slog.Logger) { l.Info("m", "s", stringer{canary}) }},
			"a slice":               {known, func(l *slog.Logger) { l.Info("m", "args", []string{"-p", canary}) }},
			"with, by its text":     {known, func(l *slog.Logger) { l.With("x", canary).Info("m") }},
			"a nested group's text": {known, func(l *slog.Logger) { l.Info("m", slog.Group("a", slog.Group("b", "c", canary))) }},
		} {
			t.Run(format+"/"+name, func(t *testing.T) {
				t.Parallel()
				var out bytes.Buffer
				l, closer, err := NewLogger(Options{Format: format, Output: &out, Secrets: c.known})
				if err != nil {
					t.Fatal(err)
				}
				defer func() { _ = closer.Close() }() // nothing is left to be lost
				c.log(l)
				if strings.Contains(out.String(), canary) {
					t.Errorf("the canary was logged: %s", out.String())
				}
				if !strings.Contains(out.String(), secret.Mask) {
					t.Errorf("nothing says that something was masked: %s", out.String())
				}
			})
		}
	}
}

func TestOrdinaryLinesAreLeftAlone(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	l, _, err := NewLogger(Options{Format: FormatText, Output: &out})
	if err != nil {
		t.Fatal(err)
	}
	l.Info("promoted", "node", "pg-2", "term", 5, "url", "http://127.0.0.1:7400/v1")
	if !strings.Contains(out.String(), "msg=promoted node=pg-2 term=5 url=http://127.0.0.1:7400/v1") {
		t.Errorf("got %s", out.String())
	}
}

func TestLevelFormatAndFile(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	file := filepath.Join(t.TempDir(), "regent.log")
	l, closer, err := NewLogger(Options{Level: "warn", Format: FormatText, File: file, Output: &out})
	if err != nil {
		t.Fatal(err)
	}
	l.Info("quiet")
	l.Warn("loud")
	if !l.Enabled(context.Background(), slog.LevelWarn) || l.Enabled(context.Background(), slog.LevelInfo) {
		t.Error("the level is not warn")
	}
	if err := closer.Close(); err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(out.String(), "quiet") || !strings.Contains(out.String(), "msg=loud") || !strings.Contains(string(raw), `"msg":"loud"`) {
		t.Errorf("output %q, file %q", out.String(), raw)
	}

	for _, bad := range []struct {
		o    Options
		want string
	}{
		{Options{Level: "loud"}, `level "loud", expected one of debug, info, warn, error`},
		{Options{Format: "xml", Output: &out}, `format "xml", expected one of auto, text, json`},
		{Options{File: filepath.Join(t.TempDir(), "no", "file")}, "open the log file"},
	} {
		if _, _, err := NewLogger(bad.o); err == nil || !strings.Contains(err.Error(), bad.want) {
			t.Errorf("%+v: got %v, want %s", bad.o, err, bad.want)
		}
	}
}

func TestBuildAndRegistry(t *testing.T) {
	t.Parallel()
	b := ReadBuild("v9.9.9")
	if b.Version != "v9.9.9" || b.Go == "" {
		t.Errorf("got %+v", b)
	}
	if ReadBuild("").Version == "" {
		t.Error("no version")
	}
	families, err := NewRegistry(b).Gather()
	if err != nil {
		t.Fatal(err)
	}
	found := false
	for _, f := range families {
		if f.GetName() == "regent_build_info" {
			for _, l := range f.GetMetric()[0].GetLabel() {
				found = found || l.GetName() == "version" && l.GetValue() == "v9.9.9"
			}
		}
	}
	if !found {
		t.Error("regent_build_info does not say the version")
	}
}
