package server

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// AgentName is the application_name of the agent's own connections.
const AgentName = "regent-agent"

// closeTimeout bounds saying goodbye to a server that may be stuck.
const closeTimeout = time.Second

// ConnConfig returns how the agent connects: as superuser over the private socket, without a password. It uses none of the PG*
// environment variables. Set Database and more as you need.
func (i *Instance) ConnConfig() (*pgconn.Config, error) {
	config, err := pgconn.ParseConfig(conninfo(
		[2]string{"host", i.config.socketDir()}, [2]string{"port", fmt.Sprint(i.config.Port)},
		[2]string{"user", i.config.Superuser.User}, [2]string{"dbname", "postgres"},
		[2]string{"sslmode", "disable"}, [2]string{"connect_timeout", "5"}, [2]string{"application_name", AgentName},
	))
	if err != nil {
		return nil, fmt.Errorf("configure the agent's connection: %w", err)
	}
	// Nothing may come from the environment, and a statement of the agent must not wait for a standby that is not there.
	config.RuntimeParams = map[string]string{"application_name": AgentName, "synchronous_commit": "local", "client_encoding": "UTF8"}
	config.Fallbacks, config.Password = nil, ""
	return config, nil
}

// withConn runs f on a fresh connection of the agent.
func (i *Instance) withConn(ctx context.Context, f func(*pgconn.PgConn) error) (err error) {
	config, err := i.ConnConfig()
	if err != nil {
		return err
	}
	conn, err := pgconn.ConnectConfig(ctx, config)
	if err != nil {
		return fmt.Errorf("connect to %s: %w", i.config.DataDir, err)
	}
	defer func() {
		closeCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
		defer cancel()
		if closeErr := conn.Close(closeCtx); err == nil && closeErr != nil {
			i.config.Logger.Debug("the agent's connection did not close in order", "error", closeErr)
		}
	}()
	return f(conn)
}

// query runs one statement with text parameters and returns its rows; NULL is the empty string.
func query(ctx context.Context, conn *pgconn.PgConn, sql string, params ...string) ([][]string, error) {
	values := make([][]byte, len(params))
	for n, p := range params {
		values[n] = []byte(p)
	}
	result := conn.ExecParams(ctx, sql, values, nil, nil, nil).Read()
	if result.Err != nil {
		return nil, result.Err
	}
	rows := make([][]string, len(result.Rows))
	for r, row := range result.Rows {
		rows[r] = make([]string, len(row))
		for c, value := range row {
			rows[r][c] = string(value)
		}
	}
	return rows, nil
}

// queryValue returns the one value of a statement.
func queryValue(ctx context.Context, conn *pgconn.PgConn, sql string, params ...string) (string, error) {
	rows, err := query(ctx, conn, sql, params...)
	if err != nil {
		return "", err
	}
	if len(rows) != 1 || len(rows[0]) != 1 {
		return "", errors.New("expected one row with one value")
	}
	return rows[0][0], nil
}

// execute runs statements without parameters.
func execute(ctx context.Context, conn *pgconn.PgConn, sql string) error {
	return conn.Exec(ctx, sql).Close()
}
