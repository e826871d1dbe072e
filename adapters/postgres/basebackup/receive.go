package basebackup

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/regent-infra/regent/adapters/postgres/wal"
)

// maxManifest bounds the manifest, which takes some 150 bytes per file.
const maxManifest = 1 << 30

// stream reads the answer to BASE_BACKUP, a sequence of result sets and COPY data that pgconn has no reader for.
type stream struct {
	ctx     context.Context
	conn    *pgconn.PgConn
	options Options
	// copying says that data must keep coming; before and after, the source may be busy with a checkpoint or its archive.
	copying bool
}

// receive runs the command and fills the tree.
func receive(ctx context.Context, conn *pgconn.PgConn, o Options, t *tree, result *Result) error {
	o.OnProgress(Progress{Phase: "checkpoint"})
	conn.Frontend().SendQuery(&pgproto3.Query{String: o.command(result.Major)})
	if err := conn.Frontend().Flush(); err != nil {
		return fmt.Errorf("ask for the backup: %w", err)
	}
	// Messages are read below pgconn, which would watch the context anew for each of them.
	defer context.AfterFunc(ctx, func() { _ = conn.Conn().SetReadDeadline(time.Unix(1, 0)) })()
	s := &stream{ctx: ctx, conn: conn, options: o}
	start, err := s.rows()
	if err != nil {
		return fmt.Errorf("wait for the backup to start: %w", err)
	}
	if result.Start, result.Timeline, err = parseBound(start); err != nil {
		return err
	}
	spaces, err := s.rows()
	if err != nil {
		return fmt.Errorf("read the list of tablespaces: %w", err)
	}
	if t.total, err = parseSpaces(spaces); err != nil {
		return err
	}
	s.copying = true
	if result.Major >= 15 {
		err = s.archives(t)
	} else {
		err = s.plain(t)
	}
	s.copying = false
	if err != nil {
		return err
	}
	end, err := s.rows()
	if err != nil {
		return fmt.Errorf("wait for the backup to end: %w", err)
	}
	if result.End, _, err = parseBound(end); err != nil {
		return err
	}
	return s.finish()
}

// message returns the next message; errors of the server become errors, notices are passed over.
func (s *stream) message() (pgproto3.BackendMessage, error) {
	for {
		var deadline time.Time // none
		if s.copying {
			deadline = s.options.Clock.Now().Add(s.options.StallTimeout)
		}
		if err := s.conn.Conn().SetReadDeadline(deadline); err != nil {
			return nil, err
		}
		if s.ctx.Err() != nil {
			return nil, context.Cause(s.ctx) // asked after the deadline was set, so that neither overtakes the other
		}
		m, err := s.conn.Frontend().Receive()
		if err != nil {
			return nil, s.explain(err)
		}
		switch m := m.(type) {
		case *pgproto3.ErrorResponse:
			return nil, pgconn.ErrorResponseToPgError(m)
		case *pgproto3.NoticeResponse, *pgproto3.ParameterStatus:
		default:
			return m, nil
		}
	}
}

// explain says why reading failed.
func (s *stream) explain(err error) error {
	switch {
	case s.ctx.Err() != nil:
		return context.Cause(s.ctx)
	case errors.Is(err, os.ErrDeadlineExceeded):
		return fmt.Errorf("%w: nothing has come for %s", ErrStalled, s.options.StallTimeout)
	default:
		return err
	}
}

// rows reads one result set.
func (s *stream) rows() ([][]string, error) {
	var rows [][]string
	for {
		m, err := s.message()
		if err != nil {
			return nil, err
		}
		switch m := m.(type) {
		case *pgproto3.RowDescription:
		case *pgproto3.DataRow:
			row := make([]string, len(m.Values))
			for n, v := range m.Values {
				row[n] = string(v)
			}
			rows = append(rows, row)
		case *pgproto3.CommandComplete:
			return rows, nil
		default:
			return nil, fmt.Errorf("expected rows, got %T", m)
		}
	}
}

func parseBound(rows [][]string) (wal.LSN, wal.Timeline, error) {
	if len(rows) != 1 || len(rows[0]) < 2 {
		return 0, 0, errors.New("expected a position and a timeline from the source")
	}
	lsn, err := wal.ParseLSN(rows[0][0])
	if err != nil {
		return 0, 0, err
	}
	timeline, err := strconv.ParseUint(rows[0][1], 10, 32)
	if err != nil {
		return 0, 0, fmt.Errorf("read the source's timeline %q: %w", rows[0][1], err)
	}
	return lsn, wal.Timeline(timeline), nil
}

// parseSpaces returns the estimated size in bytes; the row without an oid is the data directory itself.
func parseSpaces(rows [][]string) (int64, error) {
	var total int64
	var elsewhere []string
	for _, row := range rows {
		if len(row) < 3 {
			return 0, errors.New("expected oid, place and size of each tablespace")
		}
		if row[0] != "" {
			elsewhere = append(elsewhere, fmt.Sprintf("%s (oid %s)", row[1], row[0]))
		}
		if row[2] == "" {
			continue
		}
		kib, err := strconv.ParseInt(row[2], 10, 64)
		if err != nil {
			return 0, fmt.Errorf("read the size of a tablespace %q: %w", row[2], err)
		}
		total += kib * 1024
	}
	if len(elsewhere) > 0 {
		return 0, fmt.Errorf("%w: %s: move their tables into the default one, or copy the node by other means",
			ErrTablespaces, strings.Join(elsewhere, ", "))
	}
	return total, nil
}

// chunk returns the next COPY data, io.EOF at the end of the COPY.
func (s *stream) chunk() ([]byte, error) {
	m, err := s.message()
	if err != nil {
		return nil, err
	}
	switch m := m.(type) {
	case *pgproto3.CopyData:
		return m.Data, nil
	case *pgproto3.CopyDone:
		return nil, io.EOF
	default:
		return nil, fmt.Errorf("expected COPY data, got %T", m)
	}
}

func (s *stream) copyOut() error {
	m, err := s.message()
	if err != nil {
		return err
	}
	if _, ok := m.(*pgproto3.CopyOutResponse); !ok {
		return fmt.Errorf("expected the start of a COPY, got %T", m)
	}
	return nil
}

// chunkReader makes an io.Reader of chunks. next returns io.EOF at the end.
type chunkReader struct {
	next func() ([]byte, error)
	rest []byte
	err  error
}

func (r *chunkReader) Read(p []byte) (int, error) {
	for len(r.rest) == 0 {
		if r.err != nil {
			return 0, r.err
		}
		r.rest, r.err = r.next()
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

// plain reads the dialect before 15: a COPY with the tar, a COPY with the manifest.
func (s *stream) plain(t *tree) error {
	if err := s.copyOut(); err != nil {
		return fmt.Errorf("wait for the archive: %w", err)
	}
	if err := t.unpack(s.ctx, &chunkReader{next: s.chunk}); err != nil {
		return err
	}
	if err := s.copyOut(); err != nil {
		return fmt.Errorf("wait for the manifest: %w", err)
	}
	manifest, err := io.ReadAll(io.LimitReader(&chunkReader{next: s.chunk}, maxManifest))
	if err != nil {
		return fmt.Errorf("receive the manifest: %w", err)
	}
	t.manifest = manifest
	return nil
}

// archives reads the dialect since 15: one COPY in which each message says by its first byte what it is.
func (s *stream) archives(t *tree) error {
	if err := s.copyOut(); err != nil {
		return fmt.Errorf("wait for the archive: %w", err)
	}
	var manifest bytes.Buffer
	const (
		before = iota
		inArchive
		inManifest
	)
	state := before
	// next yields the archive's data; the manifest that follows it is collected on the way, and io.EOF ends both.
	next := func() ([]byte, error) {
		for {
			data, err := s.chunk()
			if err != nil {
				return nil, err
			}
			if len(data) == 0 {
				return nil, errors.New("expected a typed message, got an empty one")
			}
			switch kind, body := data[0], data[1:]; {
			case kind == 'n' && state == before:
				if name, _, _ := bytes.Cut(body, []byte{0}); string(name) != "base.tar" {
					return nil, fmt.Errorf("%w: unexpected archive %q", ErrTablespaces, name)
				}
				state = inArchive
			case kind == 'm' && state == inArchive:
				state = inManifest
			case kind == 'd' && state == inArchive:
				return body, nil
			case kind == 'd' && state == inManifest:
				if manifest.Len()+len(body) > maxManifest {
					return nil, fmt.Errorf("the manifest is larger than %d bytes", maxManifest)
				}
				manifest.Write(body)
			case kind == 'p' && len(body) == 8:
				t.report(int64(binary.BigEndian.Uint64(body))) //nolint:gosec // an int64 on the wire
			default:
				return nil, fmt.Errorf("unexpected message of kind %q", kind)
			}
		}
	}
	if err := t.unpack(s.ctx, &chunkReader{next: next}); err != nil {
		return err
	}
	t.manifest = manifest.Bytes()
	return nil
}

// finish reads to the end of the command, which says that the source is content too.
func (s *stream) finish() error {
	for {
		m, err := s.message()
		if err != nil {
			return fmt.Errorf("wait for the end of the command: %w", err)
		}
		if _, ok := m.(*pgproto3.ReadyForQuery); ok {
			return nil
		}
	}
}
