package lifecycle

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

// Interrupted is the cause of a context that a signal ended.
type Interrupted struct {
	// Signal that came first.
	Signal os.Signal
}

// Error implements error.
func (i Interrupted) Error() string { return fmt.Sprintf("interrupted by %s", i.Signal) }

// Signals returns a context that ends, with an [Interrupted] as its cause, at the first SIGINT or SIGTERM. At the second one force is
// called, which is expected to end the process without waiting. stop returns the signals to their default.
func Signals(parent context.Context, force func(os.Signal)) (ctx context.Context, stop func()) {
	ctx, cancel := context.WithCancelCause(parent)
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	quit, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		select {
		case s := <-signals:
			cancel(Interrupted{Signal: s})
		case <-quit:
			return
		}
		select {
		case s := <-signals:
			force(s)
		case <-quit:
		}
	}()
	return ctx, func() {
		signal.Stop(signals)
		close(quit)
		<-done
		cancel(context.Canceled)
	}
}
