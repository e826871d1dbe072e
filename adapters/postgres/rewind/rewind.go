package rewind

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/regent-infra/regent/adapters/postgres/binary"
	"github.com/regent-infra/regent/adapters/postgres/server"
	"github.com/regent-infra/regent/internal/clock"
)

// ErrCopyAfresh is wrapped when the node cannot be rewound, or a rewind has failed: take a base backup. The divergent WAL is
// archived, if there was any to be read.
var ErrCopyAfresh = errors.New("the node must be copied afresh")

// Options says how to bring a node back.
type Options struct {
	// Instance is the stopped node.
	Instance *server.Instance
	// Binaries are its programs; pg_rewind may be missing.
	Binaries binary.Set
	// Source is the new primary.
	Source server.Address
	// Replication is the role by which the source is asked for its history.
	Replication server.Credential
	// Checkpoint makes the source write one. Required: see the package's invariant 3.
	Checkpoint func(ctx context.Context) error
	// ArchiveDir receives the divergent WAL.
	ArchiveDir string
	// OnPhase is told what is being done: "inspect", "archive", "checkpoint", "rewind". Nil: not at all.
	OnPhase func(phase string)
	Logger  *slog.Logger
	Clock   clock.Clock
}

// Report says what was found and done.
type Report struct {
	Divergence Divergence
	// Archive is the folder with the divergent WAL, empty if there was none.
	Archive string
	// Rewound says that pg_rewind has run; else the node can follow as it is.
	Rewound bool
	Took    time.Duration
}

// Return makes a stopped node fit to follow the source. On an error that wraps [ErrCopyAfresh] the report still says what was lost and
// where it is archived.
func Return(ctx context.Context, o Options) (Report, error) {
	if o.Checkpoint == nil || o.Instance == nil || o.ArchiveDir == "" {
		return Report{}, errors.New("bring a node back: expected an instance, a way to checkpoint the source, and an archive")
	}
	if o.OnPhase == nil {
		o.OnPhase = func(string) {}
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Clock == nil {
		o.Clock = clock.System{}
	}
	began := o.Clock.Now()
	report, err := o.run(ctx)
	report.Took = o.Clock.Now().Sub(began)
	if err != nil {
		return report, fmt.Errorf("bring %s back behind %s: %w", o.Instance.DataDir(), o.Source, err)
	}
	return report, nil
}

func (o Options) run(ctx context.Context) (Report, error) {
	var report Report
	o.OnPhase("inspect")
	if err := o.Instance.Check(); err != nil {
		if errors.Is(err, server.ErrCondemned) || errors.Is(err, server.ErrEmpty) {
			return report, errors.Join(ErrCopyAfresh, err)
		}
		return report, err
	}
	upstream, err := server.AskUpstream(ctx, o.Source, o.Replication)
	if err != nil {
		return report, err
	}
	if _, err := o.Instance.ClearLeftovers(ctx); err != nil {
		return report, err
	}
	data, err := o.Instance.Control()
	if err != nil {
		return report, errors.Join(ErrCopyAfresh, err)
	}
	if data.SystemIdentifier != upstream.SystemIdentifier {
		return report, fmt.Errorf("%w: its system identifier is %d, the source's is %d", server.ErrForeign, data.SystemIdentifier, upstream.SystemIdentifier)
	}
	report.Divergence, err = Inspect(ctx, o.Instance, upstream.History)
	if err != nil {
		if ctx.Err() != nil {
			return report, err
		}
		return report, errors.Join(ErrCopyAfresh, err) // what cannot be read cannot be rewound
	}
	if report.Divergence.None() {
		return report, nil
	}
	o.OnPhase("archive")
	folder, _, err := archive(ctx, o.ArchiveDir, o.Instance.WALDir(), report.Divergence, o.Clock.Now())
	if err != nil {
		return report, err
	}
	report.Archive = folder
	lost := report.Divergence.Lost
	o.Logger.Warn("divergent WAL archived", "from", lost.From.String(), "to", lost.To.String(), "bytes", lost.Bytes,
		"commits", lost.Commits, "archive", folder)
	if !o.Binaries.Has(binary.ToolRewind) {
		return report, fmt.Errorf("%w: pg_rewind is not among the programs in %s", ErrCopyAfresh, o.Binaries.Dir)
	}
	if !data.CanRewind() {
		return report, fmt.Errorf("%w: the node has neither data checksums nor wal_log_hints", ErrCopyAfresh)
	}
	o.OnPhase("checkpoint")
	if err := o.Checkpoint(ctx); err != nil {
		return report, fmt.Errorf("checkpoint the source: %w", err)
	}
	o.OnPhase("rewind")
	output, err := o.Instance.RunRewind(ctx, o.Source)
	if err != nil {
		return report, errors.Join(ErrCopyAfresh, err)
	}
	o.Logger.Info("node rewound", "output", output)
	report.Rewound = true
	return report, nil
}
