package observe

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/regent-infra/regent/internal/clock"
	"github.com/regent-infra/regent/schemas"
)

// MaxConnections is how many connections an observer holds: one for the pulse, one for the slow looks.
const MaxConnections = 2

// Config says whom to ask, and how patiently.
type Config struct {
	// Connect returns how to connect: as superuser over the private socket.
	Connect func() (*pgconn.Config, error)
	// Timeout bounds one look, connecting included. Default: 2 s.
	Timeout time.Duration
	// Clock dates changes of the breaker. Default: the machine's.
	Clock clock.Clock
}

// DefaultTimeout bounds one look unless configured otherwise.
const DefaultTimeout = 2 * time.Second

// Observer asks one server. It is safe for concurrent use.
type Observer struct {
	config  Config
	pool    *pgxpool.Pool
	breaker *breaker
}

// New returns an observer. It does not connect yet.
func New(config Config) (*Observer, error) {
	if config.Timeout <= 0 {
		config.Timeout = DefaultTimeout
	}
	if config.Clock == nil {
		config.Clock = clock.System{}
	}
	server, err := config.Connect()
	if err != nil {
		return nil, fmt.Errorf("configure the observer: %w", err)
	}
	// Parsed from a complete text, because defaults come from the environment; then replaced as a whole.
	pool, err := pgxpool.ParseConfig("host=localhost port=1 user=regent dbname=postgres sslmode=disable")
	if err != nil {
		return nil, fmt.Errorf("configure the observer: %w", err)
	}
	pool.ConnConfig.Config = *server
	pool.ConnConfig.ConnectTimeout = config.Timeout
	params := make(map[string]string, len(server.RuntimeParams)+2)
	for name, value := range server.RuntimeParams {
		params[name] = value
	}
	params["statement_timeout"] = strconv.FormatInt(config.Timeout.Milliseconds(), 10)
	params["lock_timeout"] = params["statement_timeout"]
	pool.ConnConfig.RuntimeParams = params
	pool.MaxConns, pool.MinConns, pool.MaxConnIdleTime = MaxConnections, 0, time.Minute
	p, err := pgxpool.NewWithConfig(context.Background(), pool)
	if err != nil {
		return nil, fmt.Errorf("configure the observer: %w", err)
	}
	return &Observer{config: config, pool: p, breaker: newBreaker(config.Clock)}, nil
}

// Close ends all connections.
func (o *Observer) Close() { o.pool.Close() }

// Reset forgets connections and failures: the server has ended, or is another one now.
func (o *Observer) Reset() {
	o.pool.Reset()
	o.breaker.reset()
}

// Breaker returns the state of the circuit breaker.
func (o *Observer) Breaker() schemas.BreakerStatus { return o.breaker.state() }

// look runs one query that returns one row.
func (o *Observer) look(ctx context.Context, what, sql string, into ...any) error {
	err := o.breaker.do(func() error {
		ctx, cancel := context.WithTimeout(ctx, o.config.Timeout)
		defer cancel()
		return o.pool.QueryRow(ctx, sql).Scan(into...)
	})
	switch {
	case err == nil:
		return nil
	case errors.Is(err, ErrOpen), errors.Is(err, context.Canceled):
		return fmt.Errorf("%s: %w", what, err)
	default:
		// The cause may quote a statement: its class is enough.
		return fmt.Errorf("%s: %s: %w", what, Describe(err), errLook{cause: err})
	}
}

// errLook keeps the cause for errors.As without its text.
type errLook struct{ cause error }

// Error implements error.
func (errLook) Error() string { return "the server did not answer as expected" }

// Unwrap returns the cause.
func (e errLook) Unwrap() error { return e.cause }
