package rewind

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/regent-infra/regent/adapters/postgres/control"
	"github.com/regent-infra/regent/adapters/postgres/server"
	"github.com/regent-infra/regent/adapters/postgres/wal"
)

// ErrUnrelated is wrapped when the two histories have nothing in common.
var ErrUnrelated = errors.New("the histories are unrelated")

// maxTransactions is how many lost transactions are listed; all are counted.
const maxTransactions = 1000

// Transaction is a commit that the cluster does not have.
type Transaction struct {
	XID uint32    `json:"xid"`
	LSN wal.LSN   `json:"lsn"`
	At  time.Time `json:"committed_at"`
}

// LostWrites says what is behind the fork.
type LostWrites struct {
	// From is the fork, To the end of WAL on this node.
	From    wal.LSN `json:"from"`
	To      wal.LSN `json:"to"`
	Bytes   uint64  `json:"bytes"`
	Records int     `json:"records"`
	// Commits is the number of transactions committed behind the fork. In a synchronous cluster none of them was
	// acknowledged as replicated; in an asynchronous one clients were told that they are done.
	Commits int `json:"commits"`
	// First and Last are the server's wall clock at the first and last of them.
	First time.Time `json:"first_commit_at,omitzero"`
	Last  time.Time `json:"last_commit_at,omitzero"`
	// Transactions lists the first 1000.
	Transactions []Transaction `json:"transactions,omitempty"`
}

// Divergence is how a node stands to the history that the cluster follows.
type Divergence struct {
	SystemIdentifier uint64          `json:"system_identifier"`
	SegmentSize      wal.SegmentSize `json:"segment_size"`
	// Mine is the history of the node's last WAL, Theirs the cluster's.
	Mine   wal.History `json:"mine"`
	Theirs wal.History `json:"theirs"`
	Fork   wal.Fork    `json:"fork"`
	// End of WAL on the node.
	End  wal.LSN    `json:"end"`
	Lost LostWrites `json:"lost"`
	// diverged says that the end lies behind the fork.
	diverged bool
}

// None says that the node can follow as it is.
func (d Divergence) None() bool { return !d.diverged }

// Inspect reads a stopped node's log, compares its history with the cluster's, and counts what lies behind the fork.
func Inspect(ctx context.Context, instance *server.Instance, theirs wal.History) (Divergence, error) {
	if instance.Running() {
		return Divergence{}, fmt.Errorf("inspect the divergence of %s: %w", instance.DataDir(), server.ErrRunning)
	}
	d, err := inspect(ctx, instance, theirs)
	if err != nil {
		return Divergence{}, fmt.Errorf("inspect the divergence of %s: %w", instance.DataDir(), err)
	}
	return d, nil
}

func inspect(ctx context.Context, instance *server.Instance, theirs wal.History) (Divergence, error) {
	data, err := control.Read(instance.DataDir())
	if err != nil {
		return Divergence{}, err
	}
	position, err := instance.Position(ctx)
	if err != nil {
		return Divergence{}, err
	}
	d := Divergence{
		SystemIdentifier: data.SystemIdentifier, SegmentSize: data.SegmentSize, Mine: position.History, Theirs: theirs,
		End: position.End, Fork: wal.Compare(position.History, theirs),
	}
	if d.Fork.Relation == wal.RelationUnrelated {
		return d, fmt.Errorf("%w: this node is on %+v, the cluster on %+v", ErrUnrelated, d.Mine, theirs)
	}
	d.diverged = !theirs.Contains(d.Mine.Timeline, d.End)
	if !d.diverged {
		return d, nil
	}
	d.Lost, err = countLost(ctx, instance.WALDir(), d)
	return d, err
}

// countLost scans from the fork, which is a record boundary: the new timeline was begun where its primary's last record ended.
func countLost(ctx context.Context, dir string, d Divergence) (LostWrites, error) {
	lost := LostWrites{From: d.Fork.LSN, To: d.End, Bytes: uint64(d.End - d.Fork.LSN)}
	config := wal.ScanConfig{
		Dir: dir, SegmentSize: d.SegmentSize, SystemIdentifier: d.SystemIdentifier, History: d.Mine, Start: d.Fork.LSN,
	}
	_, err := wal.Scan(ctx, config, func(r wal.Record) error {
		lost.Records++
		if !r.IsCommit() {
			return nil
		}
		commit, err := r.Commit()
		if err != nil {
			return err
		}
		lost.Commits++
		if lost.First.IsZero() {
			lost.First = commit.At
		}
		lost.Last = commit.At
		if len(lost.Transactions) < maxTransactions {
			lost.Transactions = append(lost.Transactions, Transaction{XID: commit.XID, LSN: r.Start, At: commit.At})
		}
		return nil
	})
	if err != nil {
		return lost, fmt.Errorf("count the lost writes: %w", err)
	}
	return lost, nil
}
