package main

import (
	"bytes"
	"context"
	"flag"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/regent-infra/regent/internal/clock"
	"github.com/regent-infra/regent/internal/httpapi"
	"github.com/regent-infra/regent/internal/httpapi/httpapitest"
	"github.com/regent-infra/regent/internal/telemetry"
	"github.com/regent-infra/regent/internal/topics"
)

// childEnv makes the test binary be the regent command: tests of real processes start it so.
const childEnv = "REGENT_TEST_CHILD"

var update = flag.Bool("update", false, "write the golden files anew")

func TestMain(m *testing.M) {
	if os.Getenv(childEnv) != "" {
		if point := os.Getenv(killEnv); point != "" {
			killAt(point)
		}
		main()
	}
	flag.Parse()
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("github.com/twmb/franz-go/pkg/kgo.(*Client).reapConnectionsLoop"))
}

// fixedClock stands still.
type fixedClock struct{ clock.System }

func (fixedClock) Now() time.Time { return httpapitest.Now }

// result is what a run left.
type result struct {
	code           int
	stdout, stderr string
}

// regent runs a command line in this process.
func regent(t *testing.T, stdin string, args ...string) result {
	t.Helper()
	return regentEnv(t, nil, stdin, args...)
}

func regentEnv(t *testing.T, environ []string, stdin string, args ...string) result {
	t.Helper()
	var out, errs bytes.Buffer
	code := run(t.Context(), args, environment{
		Stdin: strings.NewReader(stdin), Stdout: &out, Stderr: &errs, Environ: environ, Clock: fixedClock{},
	})
	return result{code, out.String(), errs.String()}
}

// regentNow runs a command line in this process, by the machine's clock.
func regentNow(t *testing.T, args ...string) result {
	t.Helper()
	var out, errs bytes.Buffer
	code := run(t.Context(), args, environment{Stdin: strings.NewReader(""), Stdout: &out, Stderr: &errs})
	return result{code, out.String(), errs.String()}
}

// golden compares text with a file in testdata.
func golden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", name+".golden")
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs (go test ./cmd/regent -update writes it anew); got:\n%s\nwant:\n%s", file, got, want)
	}
}

// serveFleet serves the fleet of httpapitest and returns the address.
func serveFleet(t *testing.T, view httpapi.View) string {
	t.Helper()
	ln, err := httpapi.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := httpapi.New(ln, httpapi.Config{
		Info: httpapi.Info{Version: "v1"}, View: view, Processors: httpapitest.Running(), Set: topics.Default(),
		Metrics: telemetry.NewRegistry(telemetry.Build{}), Logger: slog.New(slog.DiscardHandler), Clock: clock.System{},
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx, func() {}) }()
	t.Cleanup(func() {
		http.DefaultTransport.(*http.Transport).CloseIdleConnections()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return s.URL()
}
