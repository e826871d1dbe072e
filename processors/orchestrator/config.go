package orchestrator

import (
	"errors"
	"fmt"
	"time"

	"github.com/regent-infra/regent/internal/event"
	"github.com/regent-infra/regent/internal/record"
)

// DefaultTickEvery bounds how late a deadline is noticed where no agent beats. Where a reducer runs, its ticks come more often.
const DefaultTickEvery = time.Second

// Config is what an orchestrator needs besides its inputs.
type Config struct {
	// Instance identifies this run of the process; it becomes the boot_id of what is emitted. Required.
	Instance string
	// Version of the binary, for OrchestratorStarted.
	Version string
	// Codec reads and writes events. Required.
	Codec event.Codec
	// Partitions is the partition count of the kind's topics: a command in a partition that is not its cluster's is rejected. 0: not
	// checked.
	Partitions int32
	// TickEvery is after how long without a heartbeat a task gets a tick. 0: [DefaultTickEvery].
	TickEvery time.Duration
	// Headers returns the record headers of an event that follows from the given record. Nil: the W3C trace context of the record is
	// passed on.
	Headers func(e *event.Event, cause *record.Record) []record.Header
}

// withDefaults checks the configuration and fills in defaults. All faults are reported together.
func (c Config) withDefaults() (Config, error) {
	var errs []error
	fault := func(format string, args ...any) { errs = append(errs, fmt.Errorf("orchestrator: "+format, args...)) }
	if c.Instance == "" {
		fault("Instance is empty: expected an identifier of this run")
	}
	if c.Codec == nil {
		fault("Codec is nil: expected what reads and writes events")
	}
	if c.Partitions < 0 {
		fault("Partitions is %d: expected 0 or more", c.Partitions)
	}
	if c.TickEvery < 0 {
		fault("TickEvery is %s: expected more than 0", c.TickEvery)
	}
	if len(errs) > 0 {
		return c, errors.Join(errs...)
	}
	if c.TickEvery == 0 {
		c.TickEvery = DefaultTickEvery
	}
	if c.Headers == nil {
		c.Headers = passTraceOn
	}
	return c, nil
}

// passTraceOn copies the W3C trace context (traceparent, tracestate).
func passTraceOn(_ *event.Event, cause *record.Record) []record.Header {
	var headers []record.Header
	for _, name := range []string{"traceparent", "tracestate"} {
		if v := cause.Header(name); v != nil {
			headers = append(headers, record.Header{Key: name, Value: v})
		}
	}
	return headers
}
