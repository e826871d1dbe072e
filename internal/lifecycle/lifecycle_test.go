package lifecycle

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"reflect"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/regent-infra/regent/internal/clock"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// journal records what services did, in order.
type journal struct {
	mu    sync.Mutex
	lines []string
}

func (j *journal) add(s string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.lines = append(j.lines, s)
}

func (j *journal) service(name string) Service {
	return Service{Name: name, Run: func(ctx context.Context, ready func()) error {
		j.add("start " + name)
		ready()
		<-ctx.Done()
		j.add("stop " + name)
		return nil
	}}
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

func TestServicesStartInOrderAndStopInReverse(t *testing.T) {
	t.Parallel()
	var j journal
	ctx, cancel := context.WithCancel(t.Context())
	last := j.service("c")
	run := last.Run
	last.Run = func(ctx context.Context, ready func()) error {
		return run(ctx, func() { ready(); cancel() })
	}
	if err := New(Config{}, quiet(), clock.System{}, j.service("a"), j.service("b"), last).Run(ctx); err != nil {
		t.Fatal(err)
	}
	want := []string{"start a", "start b", "start c", "stop c", "stop b", "stop a"}
	if !reflect.DeepEqual(j.lines, want) {
		t.Errorf("got %q, want %q", j.lines, want)
	}
}

func TestTheFirstFailureStopsEverything(t *testing.T) {
	t.Parallel()
	broken := errors.New("disk full")
	var j journal
	trigger := make(chan struct{})
	failing := Service{Name: "store", Run: func(_ context.Context, ready func()) error {
		ready()
		<-trigger
		return broken
	}}
	front := j.service("front")
	run := front.Run
	front.Run = func(ctx context.Context, ready func()) error {
		return run(ctx, func() { ready(); close(trigger) })
	}
	err := New(Config{}, quiet(), clock.System{}, j.service("base"), failing, front).Run(t.Context())
	if !errors.Is(err, broken) || err.Error() != "store: disk full" {
		t.Errorf("got %v", err)
	}
	want := []string{"start base", "start front", "stop front", "stop base"}
	if !reflect.DeepEqual(j.lines, want) {
		t.Errorf("got %q, want %q", j.lines, want)
	}
}

func TestAServiceThatCannotStartKeepsLaterOnesFromStarting(t *testing.T) {
	t.Parallel()
	var j journal
	bad := Service{Name: "bad", Run: func(context.Context, func()) error { return errors.New("port taken") }}
	err := New(Config{}, quiet(), clock.System{}, j.service("a"), bad, j.service("c")).Run(t.Context())
	if err == nil || err.Error() != "bad: port taken" {
		t.Errorf("got %v", err)
	}
	if want := []string{"start a", "stop a"}; !reflect.DeepEqual(j.lines, want) {
		t.Errorf("got %q, want %q", j.lines, want)
	}
}

func TestEndingUnaskedIsAFailure(t *testing.T) {
	t.Parallel()
	s := Service{Name: "worker", Run: func(_ context.Context, ready func()) error { ready(); return nil }}
	err := New(Config{}, quiet(), clock.System{}, s).Run(t.Context())
	if err == nil || !strings.Contains(err.Error(), "worker ended although nobody asked it to") {
		t.Errorf("got %v", err)
	}
}

func TestDeadlines(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		defer close(release)
		stuck := Service{Name: "stuck", Run: func(_ context.Context, ready func()) error { ready(); <-release; return nil }}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		begin := time.Now()
		err := New(Config{Drain: 5 * time.Second}, quiet(), clock.System{}, stuck).Run(ctx)
		if err == nil || !strings.Contains(err.Error(), "stuck did not end within 5s") {
			t.Errorf("got %v", err)
		}
		if took := time.Since(begin); took != 6*time.Second {
			t.Errorf("took %s, want 6s", took)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		slow := Service{Name: "slow", Run: func(ctx context.Context, _ func()) error { <-ctx.Done(); return nil }}
		err := New(Config{Start: 3 * time.Second}, quiet(), clock.System{}, slow).Run(t.Context())
		if err == nil || !strings.Contains(err.Error(), "start slow: not ready within 3s") {
			t.Errorf("got %v", err)
		}
	})
}

func TestAStopWhileStartingIsNoFailure(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	s := Service{Name: "slow", Run: func(ctx context.Context, _ func()) error { cancel(); <-ctx.Done(); return nil }}
	if err := New(Config{}, quiet(), clock.System{}, s).Run(ctx); err != nil {
		t.Errorf("got %v", err)
	}
}

// Not parallel: it sends signals to the test process.
func TestSignals(t *testing.T) {
	forced := make(chan os.Signal, 1)
	ctx, stop := Signals(t.Context(), func(s os.Signal) { forced <- s })
	defer stop()
	if err := syscall.Kill(os.Getpid(), syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	<-ctx.Done()
	var by Interrupted
	if !errors.As(context.Cause(ctx), &by) || by.Signal != syscall.SIGTERM {
		t.Errorf("cause is %v", context.Cause(ctx))
	}
	if err := syscall.Kill(os.Getpid(), syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if s := <-forced; s != syscall.SIGINT {
		t.Errorf("forced by %v", s)
	}
}
