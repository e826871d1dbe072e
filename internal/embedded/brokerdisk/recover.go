package brokerdisk

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"
)

// Recovery says how to recover one directory.
type Recovery struct {
	// Dir is kfake's data directory.
	Dir string
	// Intent is the file with the commit that may be incomplete.
	Intent *IntentFile
	// NowMillis is the time of the markers, in milliseconds since 1970.
	NowMillis int64
	// Crash is called between the steps with their names; nil in production.
	Crash func(point string)
}

// Report says what [Recover] found and did.
type Report struct {
	Partitions int // scanned
	Batches    int // read
	TornBytes  int // cut off: the ends of interrupted writes
	Indexes    int // index files rebuilt
	Orphans    int // partition directories of deleted topics removed
	Completed  bool
	Aborted    int // transactions
	Fenced     int // producers
}

// Recover makes a directory whole after a crash, see the package comment. It may be interrupted and run again.
func Recover(r Recovery) (Report, error) {
	if r.Crash == nil {
		r.Crash = func(string) {}
	}
	var report Report
	if err := CheckFormat(r.Dir); err != nil {
		return report, err
	}
	if isNew, err := isNew(r.Dir); err != nil || isNew {
		return report, err
	}
	if err := removeLeftovers(r.Dir); err != nil {
		return report, err
	}
	topics, err := readTopics(r.Dir)
	if err != nil {
		return report, err
	}
	if report.Orphans, err = removeOrphans(r.Dir, topics); err != nil {
		return report, err
	}
	if report.TornBytes, err = cutGroups(r.Dir); err != nil {
		return report, err
	}
	known, err := readProducers(r.Dir)
	if err != nil {
		return report, err
	}
	partitions, err := scanAll(r.Dir, topics)
	if err != nil {
		return report, err
	}
	for _, p := range partitions {
		report.Partitions++
		report.Batches += p.batches
		report.TornBytes += p.tornBytes
		report.Indexes += p.indexes
	}
	r.Crash("recover-scanned")

	intent, err := r.Intent.Pending()
	if err != nil {
		return report, err
	}
	if intent != nil && intent.stillOwed(known) {
		if err := r.complete(intent, partitions); err != nil {
			return report, err
		}
		report.Completed = true
	} else {
		intent = nil
	}
	report.Fenced = known.fence(intent)
	if err := known.write(r.Dir); err != nil {
		return report, err
	}
	r.Crash("recover-fenced")
	if err := r.Intent.Done(); err != nil {
		return report, err
	}
	r.Crash("recover-intent-done")
	if report.Aborted, err = r.abort(partitions); err != nil {
		return report, err
	}
	return report, writeWindows(r.Dir, partitions, known)
}

// isNew reports whether kfake has never finished creating its files here. What it may have begun holds no data.
func isNew(dir string) (bool, error) {
	raw, err := readOptional(filepath.Join(dir, "meta.json"))
	return raw == nil, err
}

// removeLeftovers deletes what a crash leaves half done, and what kfake saved at an earlier orderly end.
func removeLeftovers(dir string) error {
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("look for leftovers in %s: %w", dir, err)
		}
		name := d.Name()
		if !d.IsDir() && (strings.HasSuffix(name, ".tmp") || name == "snapshot.json" || name == "session_state.json") {
			return removeFile(path)
		}
		return nil
	})
}

func scanAll(dir string, topics []Topic) ([]*partition, error) {
	var all []*partition
	for _, t := range topics {
		for n := range t.Partitions {
			all = append(all, &partition{topic: t.Name, number: int32(n), dir: partitionDir(dir, t.Name, int32(n))})
		}
	}
	var g errgroup.Group
	g.SetLimit(runtime.GOMAXPROCS(0))
	for _, p := range all {
		g.Go(p.scan)
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	return all, nil
}

// stillOwed reports whether kfake would have carried out the commit and has not finished: it raises the epoch as the
// last step (version 5 on), or when it refuses the producer because it has aborted the transaction.
func (in *Intent) stillOwed(known producers) bool {
	p := known[in.ProducerID]
	return p != nil && p.Epoch <= in.ProducerEpoch
}

// complete carries out a commit: each step may already have been done, and doing it again changes nothing. The offsets
// are the last that were committed, because the intent is marked as done before kfake sees another request.
func (r *Recovery) complete(in *Intent, partitions []*partition) error {
	for _, p := range partitions {
		if _, open := p.open[in.ProducerID]; !open {
			continue
		}
		if err := p.append(marker(in.ProducerID, in.ProducerEpoch, true, p.end, r.NowMillis)); err != nil {
			return fmt.Errorf("complete the commit of transaction %q: %w", in.TransactionalID, err)
		}
		r.Crash("recover-marker")
	}
	if err := commitOffsets(r.Dir, in.Offsets, r.NowMillis); err != nil {
		return fmt.Errorf("complete the commit of transaction %q: %w", in.TransactionalID, err)
	}
	r.Crash("recover-offsets")
	return nil
}

// fence raises the epoch of every transactional producer, because offsets that an open transaction had staged are lost
// and leave no trace: its producer must not go on as if they were there. The producer whose commit was completed learns
// its result when it asks again.
func (ps producers) fence(completed *Intent) int {
	yes, no := true, false
	fenced := 0
	for _, p := range ps {
		switch {
		case p.TxID == "":
		case completed != nil && p.PID == completed.ProducerID:
			p.Epoch, p.Commit = completed.ProducerEpoch, &yes
			if completed.RequestVersion >= 5 && p.Epoch < math.MaxInt16 {
				p.Epoch++
			}
		default:
			p.Commit = &no
			if p.Epoch < math.MaxInt16 {
				p.Epoch++
			}
			fenced++
		}
	}
	return fenced
}

// abort ends the transactions that are still open.
func (r *Recovery) abort(partitions []*partition) (int, error) {
	aborted := make(map[int64]bool)
	for _, p := range partitions {
		for _, pid := range slices.Sorted(maps.Keys(p.open)) {
			if err := p.append(marker(pid, p.open[pid].epoch, false, p.end, r.NowMillis)); err != nil {
				return len(aborted), fmt.Errorf("abort the open transaction of producer %d: %w", pid, err)
			}
			aborted[pid] = true
			r.Crash("recover-abort")
		}
	}
	return len(aborted), nil
}

// EndedInOrder reports, after kfake was closed, whether it left no transaction open.
func EndedInOrder(dir string) (bool, error) {
	raw, err := readOptional(filepath.Join(dir, "session_state.json"))
	if err != nil {
		return false, err
	}
	return !strings.Contains(string(raw), `"inProgressTxns"`), nil
}

// DropSession deletes what kfake saved about sessions, so that it starts without members in its groups: their processes
// are gone.
func DropSession(dir string) error { return removeFile(filepath.Join(dir, "session_state.json")) }
