package e2etest

import (
	"context"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
)

// writer commits one row after the other, to whichever server can be written to, and remembers what was acknowledged.
type writer struct {
	dsn  string
	stop context.CancelFunc
	done chan struct{}

	mu   sync.Mutex
	acks []ack
	last error
}

// ack is one acknowledged commit: when it began, when it was acknowledged, and by which server.
type ack struct {
	id             int64
	began, arrived time.Time
	port           int
}

// attemptTimeout bounds one attempt: a commit that hangs on a fenced primary ends here.
const attemptTimeout = 500 * time.Millisecond

// startWriter creates the table and begins.
func (b *bed) startWriter(n *nodes) *writer {
	b.t.Helper()
	hosts, ports := []string{}, []string{}
	for _, m := range n.all {
		hosts, ports = append(hosts, "127.0.0.1"), append(ports, fmt.Sprint(m.port))
	}
	w := &writer{done: make(chan struct{}), dsn: fmt.Sprintf(
		"host=%s port=%s user=postgres password='%s' dbname=postgres target_session_attrs=read-write connect_timeout=1 sslmode=disable",
		strings.Join(hosts, ","), strings.Join(ports, ","), n.superuser)}
	b.await("a table to write to", func() error {
		conn, err := pgx.Connect(b.t.Context(), w.dsn)
		if err != nil {
			return err
		}
		defer conn.Close(b.t.Context())
		_, err = conn.Exec(b.t.Context(), `CREATE TABLE IF NOT EXISTS ledger (id bigint PRIMARY KEY)`)
		return err
	})
	ctx, cancel := context.WithCancel(b.t.Context())
	w.stop = cancel
	go w.run(ctx)
	b.t.Cleanup(w.end)
	return w
}

func (w *writer) end() {
	w.stop()
	<-w.done
}

func (w *writer) run(ctx context.Context) {
	defer close(w.done)
	var conn *pgx.Conn
	for id := int64(1); ctx.Err() == nil; id++ {
		began := time.Now()
		conn = w.write(ctx, conn, id, began)
		pause := time.NewTimer(3 * time.Millisecond)
		select {
		case <-pause.C:
		case <-ctx.Done():
		}
		pause.Stop()
	}
	if conn != nil {
		_ = conn.Close(context.WithoutCancel(ctx)) // the test is over
	}
}

// write makes one attempt and returns the connection for the next. Whether a failed commit took effect is not known: its id is not used again.
func (w *writer) write(ctx context.Context, conn *pgx.Conn, id int64, began time.Time) *pgx.Conn {
	ctx, cancel := context.WithTimeout(ctx, attemptTimeout)
	defer cancel()
	var err error
	if conn == nil {
		if conn, err = pgx.Connect(ctx, w.dsn); err != nil {
			w.note(err, ack{})
			return nil
		}
	}
	if _, err = conn.Exec(ctx, `INSERT INTO ledger VALUES ($1)`, id); err != nil {
		_ = conn.Close(ctx) // broken already
		w.note(err, ack{})
		return nil
	}
	w.note(nil, ack{id: id, began: began, arrived: time.Now(), port: conn.PgConn().Conn().RemoteAddr().(*net.TCPAddr).Port})
	return conn
}

func (w *writer) note(err error, a ack) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.last = err; err == nil {
		w.acks = append(w.acks, a)
	}
}

// writable returns how long after since a commit that began after it was acknowledged, by another server than broken.
func (w *writer) writable(since time.Time, broken int) (time.Duration, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, a := range w.acks {
		if a.began.After(since) && a.port != broken {
			return a.arrived.Sub(since), nil
		}
	}
	return 0, fmt.Errorf("no commit elsewhere; the last error was %v", w.last) //nolint:errorlint // it is text here: there may be none
}

// lost returns the acknowledged rows that the servers do not have, and how many were acknowledged. It ends the writer.
func (b *bed) lost(w *writer) (missing []int64, acknowledged int) {
	b.t.Helper()
	w.end()
	ids := make([]int64, len(w.acks))
	for i, a := range w.acks {
		ids[i] = a.id
	}
	b.await("the rows to be counted", func() error {
		conn, err := pgx.Connect(b.t.Context(), w.dsn)
		if err != nil {
			return err
		}
		defer conn.Close(b.t.Context())
		rows, err := conn.Query(b.t.Context(), `SELECT id FROM unnest($1::bigint[]) AS acked (id) WHERE NOT EXISTS (SELECT FROM ledger WHERE ledger.id = acked.id)`, ids)
		if err != nil {
			return err
		}
		missing, err = pgx.CollectRows(rows, pgx.RowTo[int64])
		return err
	})
	return missing, len(ids)
}
