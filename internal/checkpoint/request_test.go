package checkpoint_test

import (
	"context"
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/regent-infra/regent/internal/checkpoint"
	"github.com/regent-infra/regent/internal/clock"
)

// answering is a process that has the store open and looks for requests.
func answering(t *testing.T, l checkpoint.Library, answer func(name string) error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	t.Cleanup(func() { cancel(); <-done })
	go func() {
		defer close(done)
		for clock.Wait(ctx, clock.System{}, time.Millisecond) == nil {
			names, err := l.Requests()
			if err != nil {
				t.Error(err)
			}
			for _, name := range names {
				if err := l.Answer(name, answer(name)); err != nil {
					t.Error(err)
				}
			}
		}
	}()
}

func TestARequestIsAnswered(t *testing.T) {
	t.Parallel()
	s := openStore(t, filepath.Join(t.TempDir(), "state"))
	fill(t, s, 100)
	l := library(t)
	answering(t, l, func(name string) error {
		if name == "refused" {
			return errors.New("the disk is full\nof secrets")
		}
		_, err := l.Create(t.Context(), s, name, checkpoint.Options{})
		return err
	})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	c, err := l.Request(ctx, "wanted", clock.System{})
	if err != nil || c.Name != "wanted" || c.Verify(ctx) != nil {
		t.Fatalf("%+v, %v", c, err)
	}
	if _, err := l.Request(ctx, "refused", clock.System{}); err == nil || !strings.Contains(err.Error(), "the disk is full") {
		t.Fatal(err)
	}
	if _, err := l.Request(ctx, "wanted", clock.System{}); !errors.Is(err, checkpoint.ErrExists) {
		t.Fatal(err)
	}
	expectNames(t, l, "wanted")
}

func TestARequestThatNobodyAnswersIsTakenBack(t *testing.T) {
	t.Parallel()
	l := library(t)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := l.Request(ctx, "x", clock.System{}); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "does a process that keeps state run") {
		t.Fatal(err)
	}
	for _, name := range []string{"../x", "x.request", "x.failed"} {
		if _, err := l.Request(ctx, name, clock.System{}); err == nil || !strings.Contains(err.Error(), "expected 1 to 100 letters") {
			t.Errorf("%s: %v", name, err)
		}
	}
	expectNames(t, l)
}

func TestTheOldestAutomaticOnesGo(t *testing.T) {
	t.Parallel()
	s := openStore(t, filepath.Join(t.TempDir(), "state"))
	fill(t, s, 10)
	l := library(t)
	if last, err := l.LastAutomatic(); err != nil || !last.IsZero() {
		t.Fatalf("%s, %v", last, err)
	}
	create(t, l, s, "mine", stamped.Add(-time.Hour))
	for i := range 4 {
		at := stamped.Add(time.Duration(i) * time.Hour)
		create(t, l, s, checkpoint.AutomaticName(at), at)
	}
	if last, err := l.LastAutomatic(); err != nil || !last.Equal(stamped.Add(3*time.Hour)) {
		t.Fatalf("%s, %v", last, err)
	}
	removed, err := l.Keep(3)
	if err != nil || !slices.Equal(removed, []string{"auto-20260131T120000.000Z"}) {
		t.Fatalf("%v, %v", removed, err)
	}
	expectNames(t, l, "auto-20260131T130000.000Z", "auto-20260131T140000.000Z", "auto-20260131T150000.000Z", "mine")
}
