package observe

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/failsafe-go/failsafe-go/circuitbreaker"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/regent-infra/regent/internal/clock"
	"github.com/regent-infra/regent/schemas"
)

// ErrOpen says that the breaker let nothing through: the server failed a moment ago and is given a rest.
var ErrOpen = errors.New("the circuit breaker is open")

// Trips says whether an error counts against the server. Class 08 is the connection, 53 the resources (too many connections, disk full), 57
// an operator (shutting down, starting up, cancelled by time-out), 58 the operating system, XX corruption and bugs.
func Trips(err error) bool {
	if err == nil || errors.Is(err, context.Canceled) {
		return false
	}
	var answer *pgconn.PgError
	if errors.As(err, &answer) {
		if len(answer.Code) < 2 {
			return true
		}
		switch answer.Code[:2] {
		case "08", "53", "57", "58", "XX":
			return true
		default:
			return false
		}
	}
	var connect *pgconn.ConnectError
	var network net.Error
	return errors.As(err, &connect) || errors.As(err, &network) || errors.Is(err, context.DeadlineExceeded) ||
		pgconn.Timeout(err) || !errors.Is(err, pgx.ErrNoRows) && !isOurs(err)
}

// isOurs tells errors of our own making, such as a value that does not fit its Go type: the server answered.
func isOurs(err error) bool {
	var scan pgx.ScanArgError
	return errors.As(err, &scan)
}

// Describe names an error by kind and SQLSTATE, never by text that could quote a statement.
func Describe(err error) string {
	var answer *pgconn.PgError
	var connect *pgconn.ConnectError
	switch {
	case err == nil:
		return ""
	case errors.As(err, &answer):
		return "SQLSTATE " + answer.Code
	case errors.Is(err, context.DeadlineExceeded) || pgconn.Timeout(err):
		return "timeout"
	case errors.As(err, &connect) && strings.Contains(err.Error(), "connection refused"):
		return "connection refused"
	case errors.As(err, &connect) && strings.Contains(err.Error(), "no such file"):
		return "no socket"
	case errors.As(err, &connect):
		return "connection failed"
	default:
		return "connection lost"
	}
}

// Breaker settings.
const (
	breakerFailures = 3
	breakerDelay    = time.Second
)

// breaker counts what a circuit breaker does not tell.
type breaker struct {
	clock   clock.Clock
	circuit circuitbreaker.CircuitBreaker[any]

	mu     sync.Mutex
	status schemas.BreakerStatus
}

func newBreaker(c clock.Clock) *breaker {
	b := &breaker{clock: c, status: schemas.BreakerStatus{State: schemas.BreakerStateClosed, ChangedAt: c.Now().UTC()}}
	b.circuit = circuitbreaker.NewBuilder[any]().WithFailureThreshold(breakerFailures).WithDelay(breakerDelay).WithSuccessThreshold(1).
		OnStateChanged(func(e circuitbreaker.StateChangedEvent) {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.status.State, b.status.ChangedAt = stateOf(e.NewState), b.clock.Now().UTC()
		}).Build()
	return b
}

func stateOf(s circuitbreaker.State) schemas.BreakerState {
	switch s {
	case circuitbreaker.OpenState:
		return schemas.BreakerStateOpen
	case circuitbreaker.HalfOpenState:
		return schemas.BreakerStateHalfOpen
	default:
		return schemas.BreakerStateClosed
	}
}

// do runs f unless the breaker is open, and takes its error into account.
func (b *breaker) do(f func() error) error {
	if !b.circuit.TryAcquirePermit() {
		return ErrOpen
	}
	err := f()
	if !Trips(err) {
		b.note(0, "")
		b.circuit.RecordSuccess()
		return err
	}
	b.note(1, Describe(err))
	b.circuit.RecordFailure()
	return err
}

func (b *breaker) note(failures int32, what string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if failures == 0 {
		b.status.ConsecutiveFailures = 0
		return
	}
	b.status.ConsecutiveFailures += failures
	b.status.LastError = what
}

// reset shuts the breaker: the server is another one now.
func (b *breaker) reset() {
	b.circuit.Close()
	b.mu.Lock()
	defer b.mu.Unlock()
	b.status.ConsecutiveFailures, b.status.LastError = 0, ""
}

func (b *breaker) state() schemas.BreakerStatus {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.status
}
