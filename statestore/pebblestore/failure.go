package pebblestore

import (
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"sync"

	"github.com/cockroachdb/pebble/v2"

	"github.com/regent-infra/regent/statestore"
)

// failure remembers the first error after which the store must not go on.
type failure struct {
	once sync.Once
	done chan struct{}
	err  error
}

func newFailure() *failure { return &failure{done: make(chan struct{})} }

// set records the first failure. Pebble reports cancelled compactions here too, which are none.
func (f *failure) set(err error) {
	if errors.Is(err, pebble.ErrCancelledCompaction) {
		return
	}
	f.once.Do(func() {
		f.err = fmt.Errorf("%w: %w", statestore.ErrFailed, err)
		close(f.done)
	})
}

// get returns the failure, or nil.
func (f *failure) get() error {
	select {
	case <-f.done:
		return f.err
	default:
		return nil
	}
}

// guard runs a write on a goroutine of its own and returns when it is done or the store has failed, whichever is first: there is no
// return from a write that meets a full disk ([stopFS]) or stalls behind one, nor from the logger's Fatalf. The database may hold
// locks for ever then, so nothing more is asked of it but reads.
func (f *failure) guard(op string, write func() error) error {
	if err := f.get(); err != nil {
		return fmt.Errorf("%s: %w", op, err)
	}
	result := make(chan error, 1)
	go func() { result <- write() }()
	select {
	case err := <-result:
		if err != nil {
			return fmt.Errorf("%s: %w", op, err)
		}
		return nil
	case <-f.done:
		return fmt.Errorf("%s: %w", op, f.err)
	}
}

// logger hands Pebble's messages on, and turns its way of ending the process into a failure of the store.
type logger struct {
	log     *slog.Logger
	failure *failure
}

var _ pebble.Logger = logger{}

func (l logger) Infof(format string, args ...any) {
	l.log.Debug("pebble", slog.String("message", fmt.Sprintf(format, args...)))
}

func (l logger) Errorf(format string, args ...any) {
	l.log.Warn("pebble", slog.String("message", fmt.Sprintf(format, args...)))
}

// Fatalf must not return. It ends the goroutine, which is either one of guard's or one of Pebble's own.
func (l logger) Fatalf(format string, args ...any) {
	l.failure.set(fmt.Errorf(format, args...)) //nolint:err113 // Pebble's own text is the error
	runtime.Goexit()
}
