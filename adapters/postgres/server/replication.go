package server

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/regent-infra/regent/adapters/postgres/wal"
)

// ConnectReplication opens a physical replication connection to another server. Nothing comes from the environment.
func ConnectReplication(ctx context.Context, to Address, as Credential, applicationName string) (*pgconn.PgConn, error) {
	if err := to.validate(); err != nil {
		return nil, err
	}
	config, err := pgconn.ParseConfig(conninfo(
		[2]string{"host", to.Host}, [2]string{"port", strconv.Itoa(int(to.Port))}, [2]string{"user", as.User},
		[2]string{"sslmode", "prefer"}, [2]string{"connect_timeout", "10"},
	))
	if err != nil {
		return nil, fmt.Errorf("configure a replication connection to %s: %w", to, err)
	}
	config.Database, config.Password = "", as.Password.Reveal()
	config.RuntimeParams = map[string]string{"replication": "true", "application_name": applicationName}
	conn, err := pgconn.ConnectConfig(ctx, config)
	if err != nil {
		return nil, fmt.Errorf("open a replication connection to %s: %w", to, err)
	}
	return conn, nil
}

// Upstream is what a server says about itself over the replication protocol.
type Upstream struct {
	SystemIdentifier uint64
	// Flushed is its end of WAL on its current timeline.
	Flushed wal.LSN
	History wal.History
}

const askTimeout = 15 * time.Second

// AskUpstream asks another server who it is and for its history; no SQL is needed, only the replication role.
func AskUpstream(ctx context.Context, to Address, as Credential) (Upstream, error) {
	ctx, cancel := bound(ctx, askTimeout)
	defer cancel()
	conn, err := ConnectReplication(ctx, to, as, "regent-history")
	if err != nil {
		return Upstream{}, err
	}
	defer func() {
		closeCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
		defer cancel()
		_ = conn.Close(closeCtx) // the answers are here
	}()
	up, err := identify(ctx, conn)
	if err != nil {
		return Upstream{}, fmt.Errorf("ask %s for its history: %w", to, err)
	}
	return up, nil
}

func identify(ctx context.Context, conn *pgconn.PgConn) (Upstream, error) {
	row, err := oneRow(ctx, conn, "IDENTIFY_SYSTEM", 3)
	if err != nil {
		return Upstream{}, err
	}
	var up Upstream
	if up.SystemIdentifier, err = strconv.ParseUint(row[0], 10, 64); err != nil {
		return Upstream{}, fmt.Errorf("read its system identifier: %w", err)
	}
	timeline, err := strconv.ParseUint(row[1], 10, 32)
	if err != nil {
		return Upstream{}, fmt.Errorf("read its timeline: %w", err)
	}
	if up.Flushed, err = wal.ParseLSN(row[2]); err != nil {
		return Upstream{}, err
	}
	up.History = wal.History{Timeline: wal.Timeline(timeline)}
	if timeline == 1 {
		return up, nil // the first one has no history
	}
	row, err = oneRow(ctx, conn, "TIMELINE_HISTORY "+strconv.FormatUint(timeline, 10), 2)
	if err != nil {
		return Upstream{}, err
	}
	up.History, err = wal.ParseHistory(up.History.Timeline, []byte(row[1]))
	return up, err
}

// oneRow runs a replication command that answers with one row of at least n values.
func oneRow(ctx context.Context, conn *pgconn.PgConn, command string, n int) ([]string, error) {
	results, err := conn.Exec(ctx, command).ReadAll()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", command, err)
	}
	if len(results) != 1 || len(results[0].Rows) != 1 || len(results[0].Rows[0]) < n {
		return nil, errors.New(command + ": expected one row")
	}
	var row []string
	for _, value := range results[0].Rows[0] {
		row = append(row, string(value))
	}
	return row, nil
}
