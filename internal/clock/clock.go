// Package clock is the only door to the machine's clocks.
//
// Cores never see a clock: time reaches them inside events. Drivers take a [Clock], so that tests and the simulator can
// supply their own. Deadlines and ages inside one process use the monotonic reading that time.Time carries; nothing in
// Regent compares wall clocks of two hosts.
package clock

import (
	"context"
	"time"
)

// Clock tells the time and waits. Implementations are safe for concurrent use.
type Clock interface {
	// Now returns the current time, with a monotonic reading where the platform has one.
	Now() time.Time
	// NewTimer returns a timer that fires once after d.
	NewTimer(d time.Duration) *time.Timer
	// NewTicker returns a ticker with period d, which must be positive.
	NewTicker(d time.Duration) *time.Ticker
}

// System is the machine's own clock.
type System struct{}

var _ Clock = System{}

// Now implements [Clock].
func (System) Now() time.Time { return time.Now() }

// NewTimer implements [Clock].
func (System) NewTimer(d time.Duration) *time.Timer { return time.NewTimer(d) }

// NewTicker implements [Clock].
func (System) NewTicker(d time.Duration) *time.Ticker { return time.NewTicker(d) }

// Wait blocks for d or until ctx ends, whichever is first, and returns ctx's error in the second case.
func Wait(ctx context.Context, c Clock, d time.Duration) error {
	t := c.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
