package demo

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/regent-infra/regent/internal/clock"
)

const (
	// writePause is how long the writer rests between two commits.
	writePause = 2 * time.Millisecond
	// attemptTimeout bounds one attempt to connect or to commit. A commit that hangs on a fenced primary ends here. pgx gives the
	// connection up and sends a cancel request after it; that a cancelled wait for a synchronous standby reports success is heard by nobody
	// any more: the attempt has failed.
	attemptTimeout = 500 * time.Millisecond
	// retryPause is how long the writer rests after a failed attempt. An attempt authenticates at each server that answers, so without a
	// rest the writer alone would keep a core busy that the servers need to come back.
	retryPause = 10 * time.Millisecond
)

// writer commits one row after the other through a multi-host connection string and remembers exactly which commits the server
// acknowledged. It is the judge of the demo: time to writable and lost rows are what it saw.
type writer struct {
	dsn   string
	clock clock.Clock

	attempts atomic.Int64
	lastErr  atomic.Pointer[string]

	mu    sync.Mutex
	acks  []ack
	fresh chan struct{} // closed and replaced at each acknowledgement
}

// ack is one acknowledged commit.
type ack struct {
	id             int64
	began, arrived time.Time
	// server is the port of the server that acknowledged it.
	server int
}

func newWriter(dsn string, c clock.Clock) *writer {
	return &writer{dsn: dsn, clock: c, fresh: make(chan struct{})}
}

// prepare creates the table that the rows go to.
func (w *writer) prepare(ctx context.Context) error {
	conn, err := pgx.Connect(ctx, w.dsn)
	if err != nil {
		return fmt.Errorf("connect the writer: %w", err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	if _, err := conn.Exec(ctx, `CREATE TABLE IF NOT EXISTS ledger (id bigint PRIMARY KEY, written_at timestamptz NOT NULL DEFAULT clock_timestamp())`); err != nil {
		return fmt.Errorf("create the ledger: %w", err)
	}
	return nil
}

// run writes until ctx ends.
func (w *writer) run(ctx context.Context) {
	var conn *pgx.Conn
	defer func() {
		if conn != nil {
			_ = conn.Close(context.WithoutCancel(ctx)) // the demo is over
		}
	}()
	for id := int64(1); ctx.Err() == nil; id++ {
		pause := writePause
		began := w.clock.Now()
		var err error
		if conn, err = w.write(ctx, conn, id); err != nil {
			message := err.Error()
			w.lastErr.Store(&message)
			pause = retryPause
		} else {
			w.acknowledge(ack{id: id, began: began, arrived: w.clock.Now(), server: serverPort(conn)})
		}
		if clock.Wait(ctx, w.clock, pause) != nil {
			return
		}
	}
}

// write makes one attempt. It returns the connection to use next, nil after a failure: whether a failed commit took effect is
// unknown, so its id is never used again.
func (w *writer) write(ctx context.Context, conn *pgx.Conn, id int64) (*pgx.Conn, error) {
	w.attempts.Add(1)
	attempt, cancel := context.WithTimeout(ctx, attemptTimeout)
	defer cancel()
	if conn == nil {
		var err error
		if conn, err = pgx.Connect(attempt, w.dsn); err != nil {
			return nil, err
		}
	}
	if _, err := conn.Exec(attempt, `INSERT INTO ledger (id) VALUES ($1)`, id); err != nil {
		_ = conn.Close(attempt) // broken already
		return nil, err
	}
	return conn, nil
}

func (w *writer) acknowledge(a ack) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.acks = append(w.acks, a)
	close(w.fresh)
	w.fresh = make(chan struct{})
}

// count returns how many commits were acknowledged so far.
func (w *writer) count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.acks)
}

// serverPort is the TCP port of the server at the other end.
func serverPort(conn *pgx.Conn) int {
	if address, ok := conn.PgConn().Conn().RemoteAddr().(*net.TCPAddr); ok {
		return address.Port
	}
	return 0
}

// anyServer admits acknowledgements of every server.
const anyServer = 0

// waitWritable blocks until a commit that began after since is acknowledged by another server than broken, and returns the time
// from since to that acknowledgement: the time to writable. A backend outlives its killed postmaster for a moment, and may still
// commit; that does not count.
func (w *writer) waitWritable(ctx context.Context, since time.Time, broken int) (time.Duration, error) {
	for {
		w.mu.Lock()
		fresh := w.fresh
		i, _ := slices.BinarySearchFunc(w.acks, since, func(a ack, t time.Time) int { return a.began.Compare(t) })
		for ; i < len(w.acks); i++ {
			if broken == anyServer || w.acks[i].server != broken {
				d := w.acks[i].arrived.Sub(since)
				w.mu.Unlock()
				return d, nil
			}
		}
		w.mu.Unlock()
		select {
		case <-fresh:
		case <-ctx.Done():
			return 0, fmt.Errorf("wait for a commit: %w; the writer's last error: %s", context.Cause(ctx), w.lastError())
		}
	}
}

func (w *writer) lastError() string {
	if s := w.lastErr.Load(); s != nil {
		return *s
	}
	return "none"
}

// longestGap returns the longest time between two acknowledgements that follow each other, from since on.
func (w *writer) longestGap(since time.Time) time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	var longest time.Duration
	for i := 1; i < len(w.acks); i++ {
		if w.acks[i].arrived.After(since) {
			longest = max(longest, w.acks[i].arrived.Sub(w.acks[i-1].arrived))
		}
	}
	return longest
}

// lost returns the acknowledged rows that the present primary does not have.
func (w *writer) lost(ctx context.Context) ([]int64, error) {
	w.mu.Lock()
	acked := make([]int64, len(w.acks))
	for i, a := range w.acks {
		acked[i] = a.id
	}
	w.mu.Unlock()

	conn, err := pgx.Connect(ctx, w.dsn)
	if err != nil {
		return nil, fmt.Errorf("count lost rows: %w", err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	rows, err := conn.Query(ctx, `SELECT id FROM unnest($1::bigint[]) AS acked (id) WHERE NOT EXISTS (SELECT FROM ledger WHERE ledger.id = acked.id) ORDER BY id`, acked)
	if err != nil {
		return nil, fmt.Errorf("count lost rows: %w", err)
	}
	ids, err := pgx.CollectRows(rows, pgx.RowTo[int64])
	if err != nil {
		return nil, fmt.Errorf("count lost rows: %w", err)
	}
	return ids, nil
}

// multiHostDSN is a libpq connection string that finds the writable one of several servers.
func multiHostDSN(nodes []node, user, password, database string) string {
	hosts, ports := make([]string, len(nodes)), make([]string, len(nodes))
	for i, n := range nodes {
		hosts[i], ports[i] = "127.0.0.1", fmt.Sprint(n.port)
	}
	return fmt.Sprintf("host=%s port=%s user=%s password=%s dbname=%s target_session_attrs=read-write connect_timeout=1 sslmode=disable",
		strings.Join(hosts, ","), strings.Join(ports, ","), user, password, database)
}
