package stream

import (
	"context"
	"fmt"
)

// request asks the cycle for a flush.
type request struct{ done chan error }

// Flush brings everything that was committed before the call into the store, where [statestore.Store.Checkpoint] finds it. It is
// safe for concurrent use. Without a session it has nothing to do: what was committed is flushed when a session ends.
func (r *Runtime) Flush(ctx context.Context) error {
	req := request{done: make(chan error, 1)}
	r.mu.RLock()
	state, wake := r.status.state, r.status.wake
	r.mu.RUnlock()
	if state != StateRunning {
		return nil
	}
	select {
	case r.requests <- req:
	case <-r.over:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("flush processor %q: %w", r.def.Name, context.Cause(ctx))
	}
	wake()
	select {
	case err := <-req.done:
		return err
	case <-r.over:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("flush processor %q: %w", r.def.Name, context.Cause(ctx))
	}
}

// Checkpoint flushes, and writes a copy of the store into dir, which must not exist: a start for a standby, or a backup. With
// several runtimes on one store, flush the others before. It is safe for concurrent use.
func (r *Runtime) Checkpoint(ctx context.Context, dir string) error {
	if err := r.Flush(ctx); err != nil {
		return err
	}
	return r.opts.Store.Checkpoint(dir)
}

// serve answers the requests that wait.
func (r *Runtime) serve() error {
	for {
		select {
		case req := <-r.requests:
			err := r.flushAll()
			req.done <- err
			if err != nil {
				return err
			}
		default:
			return nil
		}
	}
}
