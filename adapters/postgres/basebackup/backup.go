package basebackup

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/regent-infra/regent/adapters/postgres/server"
	"github.com/regent-infra/regent/adapters/postgres/wal"
	"github.com/regent-infra/regent/internal/clock"
)

// Errors that callers tell apart.
var (
	// ErrTablespaces: the source has tablespaces outside of its data directory.
	ErrTablespaces = errors.New("tablespaces cannot be copied")
	// ErrDamaged: what arrived is not what the source's manifest says. Another try may help.
	ErrDamaged = errors.New("the copy is damaged")
	// ErrStalled: the source has stopped sending. Another try may help.
	ErrStalled = errors.New("the source has stalled")
	// ErrForeign: the source belongs to another cluster or version.
	ErrForeign = errors.New("the source does not belong here")
)

// Limits of MAX_RATE in the protocol, in KiB per second.
const (
	minRate = 32
	maxRate = 1 << 20
)

// Progress is told while a copy runs.
type Progress struct {
	// Phase: "checkpoint" (the source prepares), "copy", "verify", "sync".
	Phase string
	// Done and Total are bytes of the archive. Total is the source's estimate and can be passed; 0 while unknown.
	Done  int64
	Total int64
}

// Options says what to copy and where to.
type Options struct {
	Source     server.Address
	Credential server.Credential
	// DataDir is where the copy appears. What is there is replaced at the end.
	DataDir string
	// Own gives a file to the server's user (server.Instance.Own). Nil: files stay this process's.
	Own func(path string) error
	// Major is the expected major version of the source. 0: any supported one.
	Major int
	// SystemIdentifier is the expected one. 0: any.
	SystemIdentifier uint64
	// Slot is a physical slot that is created, if missing, before the copy begins. Empty: none.
	Slot string
	// Label names the backup in the source's log and backup_label. Default: "regent".
	Label string
	// MaxRate limits the transfer, in KiB per second, 32 to 1048576. 0: no limit.
	MaxRate int
	// SpreadCheckpoint lets the source take its time for the checkpoint. Default: it writes it at once.
	SpreadCheckpoint bool
	// StallTimeout is how long the source may send nothing in the middle of the copy. Default: 60 s.
	StallTimeout time.Duration
	// NoSync leaves out fsync; for tests.
	NoSync bool
	// OnProgress is called from the copying goroutine, at most some times a second. Nil: not at all.
	OnProgress func(Progress)
	Logger     *slog.Logger
	Clock      clock.Clock
}

var (
	slotPattern  = regexp.MustCompile(`^[a-z0-9_]{1,63}$`)
	labelPattern = regexp.MustCompile(`^[A-Za-z0-9 _.:/-]{1,200}$`)
)

func (o Options) resolve() (Options, error) {
	if o.Label == "" {
		o.Label = "regent"
	}
	if o.Own == nil {
		o.Own = func(string) error { return nil }
	}
	if o.OnProgress == nil {
		o.OnProgress = func(Progress) {}
	}
	if o.StallTimeout <= 0 {
		o.StallTimeout = time.Minute
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Clock == nil {
		o.Clock = clock.System{}
	}
	var faults []error
	if !filepath.IsAbs(o.DataDir) || filepath.Clean(o.DataDir) == "/" {
		faults = append(faults, fmt.Errorf("data directory: expected an absolute path, got %q", o.DataDir))
	}
	if o.Slot != "" && !slotPattern.MatchString(o.Slot) {
		faults = append(faults, fmt.Errorf("slot: expected 1 to 63 lower-case letters, digits and underscores, got %q", o.Slot))
	}
	if !labelPattern.MatchString(o.Label) {
		faults = append(faults, fmt.Errorf("label: expected letters, digits, spaces and _.:/-, at most 200, got %q", o.Label))
	}
	if o.MaxRate != 0 && (o.MaxRate < minRate || o.MaxRate > maxRate) {
		faults = append(faults, fmt.Errorf("rate limit: expected %d to %d KiB/s, got %d", minRate, maxRate, o.MaxRate))
	}
	return o, errors.Join(faults...)
}

// Result says what was copied.
type Result struct {
	SystemIdentifier uint64
	Major            int
	// Start and End are the backup's bounds: the copy is consistent once recovery has reached End.
	Start    wal.LSN
	End      wal.LSN
	Timeline wal.Timeline
	Bytes    int64
	Files    int
	Took     time.Duration
}

// Take copies the source into DataDir. It can be cancelled through ctx at any time; DataDir is then as it was.
func Take(ctx context.Context, o Options) (Result, error) {
	o, err := o.resolve()
	if err != nil {
		return Result{}, fmt.Errorf("base backup: %w", err)
	}
	began := o.Clock.Now()
	result, err := o.take(ctx)
	if err != nil {
		if ctx.Err() != nil {
			err = fmt.Errorf("%w (%w)", context.Cause(ctx), err)
		}
		return Result{}, fmt.Errorf("base backup of %s into %s: %w", o.Source, o.DataDir, err)
	}
	result.Took = o.Clock.Now().Sub(began)
	o.Logger.Info("base backup taken", "source", o.Source.String(), "bytes", result.Bytes, "files", result.Files,
		"start", result.Start.String(), "end", result.End.String(), "timeline", uint32(result.Timeline), "took", result.Took.String())
	return result, nil
}

func (o Options) take(ctx context.Context) (Result, error) {
	if err := o.removeRemains(); err != nil {
		return Result{}, err
	}
	conn, err := server.ConnectReplication(ctx, o.Source, o.Credential, "regent-basebackup")
	if err != nil {
		return Result{}, err
	}
	defer func() {
		closeCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = conn.Close(closeCtx) // everything that matters has been received
	}()
	result, err := o.identify(ctx, conn)
	if err != nil {
		return Result{}, err
	}
	if o.Slot != "" {
		if err := createSlot(ctx, conn, o.Slot); err != nil {
			return Result{}, err
		}
	}
	incoming, err := os.MkdirTemp(filepath.Dir(o.DataDir), o.remainsPrefix()+"*")
	if err != nil {
		return Result{}, fmt.Errorf("make a folder beside it: %w", err)
	}
	if err := o.copyInto(ctx, conn, incoming, &result); err != nil {
		return Result{}, errors.Join(err, os.RemoveAll(incoming))
	}
	if err := o.swap(incoming); err != nil {
		return Result{}, errors.Join(err, os.RemoveAll(incoming))
	}
	return result, nil
}

func (o Options) copyInto(ctx context.Context, conn *pgconn.PgConn, incoming string, result *Result) error {
	if err := o.Own(incoming); err != nil {
		return err
	}
	root, err := os.OpenRoot(incoming)
	if err != nil {
		return err
	}
	defer func() { _ = root.Close() }() // a handle on a folder
	tree := newTree(root, incoming, o)
	if err := receive(ctx, conn, o, tree, result); err != nil {
		return err
	}
	o.OnProgress(Progress{Phase: "verify", Done: tree.done, Total: tree.total})
	if err := tree.verify(); err != nil {
		return err
	}
	result.Bytes, result.Files = tree.done, len(tree.files)
	o.OnProgress(Progress{Phase: "sync", Done: tree.done, Total: tree.total})
	return tree.finish(ctx)
}

// identify asks who the source is, and refuses a stranger.
func (o Options) identify(ctx context.Context, conn *pgconn.PgConn) (Result, error) {
	var result Result
	version := conn.ParameterStatus("server_version")
	digits := strings.IndexFunc(version, func(c rune) bool { return c < '0' || c > '9' })
	if digits < 0 {
		digits = len(version)
	}
	major, err := strconv.Atoi(version[:digits])
	if err != nil {
		return result, fmt.Errorf("read the source's version %q: %w", version, err)
	}
	if o.Major != 0 && major != o.Major || major < 13 || major > 18 {
		want := "13 to 18"
		if o.Major != 0 {
			want = strconv.Itoa(o.Major)
		}
		return result, fmt.Errorf("%w: it is PostgreSQL %s, expected %s", ErrForeign, version, want)
	}
	rows, err := conn.Exec(ctx, "IDENTIFY_SYSTEM").ReadAll()
	if err != nil {
		return result, fmt.Errorf("identify the source: %w", err)
	}
	if len(rows) != 1 || len(rows[0].Rows) != 1 || len(rows[0].Rows[0]) < 3 {
		return result, errors.New("identify the source: expected one row with the system identifier")
	}
	result.Major = major
	if result.SystemIdentifier, err = strconv.ParseUint(string(rows[0].Rows[0][0]), 10, 64); err != nil {
		return result, fmt.Errorf("identify the source: %w", err)
	}
	if o.SystemIdentifier != 0 && result.SystemIdentifier != o.SystemIdentifier {
		return result, fmt.Errorf("%w: its system identifier is %d, expected %d", ErrForeign, result.SystemIdentifier, o.SystemIdentifier)
	}
	return result, nil
}

// duplicateObject is the SQLSTATE for a slot that exists.
const duplicateObject = "42710"

// createSlot reserves WAL from now on. An existing slot is taken as it is: it reserves at least as much if a standby has used it.
func createSlot(ctx context.Context, conn *pgconn.PgConn, name string) error {
	_, err := conn.Exec(ctx, "CREATE_REPLICATION_SLOT "+name+" PHYSICAL RESERVE_WAL").ReadAll()
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) && pgErr.Code == duplicateObject {
		return nil
	}
	if err != nil {
		return fmt.Errorf("create slot %s: %w", name, err)
	}
	return nil
}

// command writes BASE_BACKUP in the source's dialect (15 changed the grammar).
func (o Options) command(major int) string {
	label := "LABEL '" + o.Label + "'"
	if major >= 15 {
		parts := []string{label, "PROGRESS", "WAL", "MANIFEST 'yes'", "MANIFEST_CHECKSUMS 'CRC32C'", "WAIT true"}
		if !o.SpreadCheckpoint {
			parts = append(parts, "CHECKPOINT 'fast'")
		}
		if o.MaxRate != 0 {
			parts = append(parts, "MAX_RATE "+strconv.Itoa(o.MaxRate))
		}
		return "BASE_BACKUP (" + strings.Join(parts, ", ") + ")"
	}
	parts := []string{label, "PROGRESS"}
	if !o.SpreadCheckpoint {
		parts = append(parts, "FAST")
	}
	parts = append(parts, "WAL")
	if o.MaxRate != 0 {
		parts = append(parts, "MAX_RATE "+strconv.Itoa(o.MaxRate))
	}
	return "BASE_BACKUP " + strings.Join(append(parts, "MANIFEST 'yes'", "MANIFEST_CHECKSUMS 'CRC32C'"), " ")
}

// Names beside the data directory: what arrives, and what is about to go.
func (o Options) remainsPrefix() string { return "." + filepath.Base(o.DataDir) + ".incoming-" }
func (o Options) outgoing() string      { return o.DataDir + ".outgoing" }

// removeRemains clears what an interrupted copy has left. A former data directory that was moved aside is put back if nothing took its place.
func (o Options) removeRemains() error {
	remains, err := filepath.Glob(filepath.Join(filepath.Dir(o.DataDir), o.remainsPrefix()+"*"))
	if err != nil {
		return fmt.Errorf("look for an interrupted copy: %w", err)
	}
	for _, path := range remains {
		if err := os.RemoveAll(path); err != nil {
			return fmt.Errorf("remove an interrupted copy: %w", err)
		}
	}
	if _, err := os.Lstat(o.outgoing()); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if _, err := os.Lstat(o.DataDir); errors.Is(err, os.ErrNotExist) {
		if err := os.Rename(o.outgoing(), o.DataDir); err != nil {
			return fmt.Errorf("put the former data directory back: %w", err)
		}
		return nil
	}
	if err := os.RemoveAll(o.outgoing()); err != nil {
		return fmt.Errorf("remove the former data directory: %w", err)
	}
	return nil
}

// swap puts the copy in its place.
func (o Options) swap(incoming string) error {
	parent := filepath.Dir(o.DataDir)
	err := os.Rename(o.DataDir, o.outgoing())
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("move the former data directory aside: %w: if it is a mount point, use a folder below it", err)
	}
	had := err == nil
	if err := os.Rename(incoming, o.DataDir); err != nil {
		err = fmt.Errorf("move the copy into place: %w", err)
		if had {
			err = errors.Join(err, os.Rename(o.outgoing(), o.DataDir))
		}
		return err
	}
	if err := syncPath(parent); err != nil {
		return err
	}
	if err := os.RemoveAll(o.outgoing()); err != nil {
		return fmt.Errorf("remove the former data directory: %w", err)
	}
	return nil
}

func syncPath(path string) (err error) {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("sync %s: %w", path, err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if err := f.Sync(); err != nil {
		return fmt.Errorf("sync %s: %w", path, err)
	}
	return nil
}
