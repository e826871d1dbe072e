package wal

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// EndConfig says where to look for the end of WAL.
type EndConfig struct {
	// Dir holds segments and histories: pg_wal.
	Dir         string
	SegmentSize SegmentSize
	// SystemIdentifier of the cluster. 0: not checked.
	SystemIdentifier uint64
	// Known is a record boundary on Timeline that is certain: the redo position of the control file.
	Known    LSN
	Timeline Timeline
	// Start is a later boundary to begin at, which saves reading: where replay is. 0, or at or below Known: begin at Known.
	Start LSN
	// MinRecovery and MinTimeline are the control file's minimum recovery point: what was on the way for certain. 0: none.
	MinRecovery LSN
	MinTimeline Timeline
}

// End is the end of valid WAL.
type End struct {
	// LSN is where the last record ends.
	LSN LSN
	// Timeline wrote it.
	Timeline Timeline
	// History is that timeline's.
	History History
	// Records were read to find it.
	Records int
}

// FindEnd finds the end of valid WAL in a directory and makes it durable (the last segment is fsynced, since a report of it is a
// promise). Of several histories on disk the one counts whose timeline has really written records: a history file alone
// is no WAL, and one that branched off before what is here is somebody else's.
func FindEnd(ctx context.Context, c EndConfig) (End, error) {
	histories, _, err := ReadHistories(c.Dir)
	if err != nil {
		return End{}, err
	}
	if _, ok := histories[c.Timeline]; !ok {
		// As PostgreSQL does: without a file a timeline has no ancestors.
		histories[c.Timeline] = History{Timeline: c.Timeline}
	}
	var best End
	for _, h := range histories {
		end, ok, err := c.along(ctx, h)
		if err != nil {
			return End{}, err
		}
		if !ok {
			continue
		}
		better := end.Timeline > best.Timeline || end.Timeline == best.Timeline && end.LSN > best.LSN ||
			end.Timeline == best.Timeline && end.LSN == best.LSN && h.Timeline < best.History.Timeline
		if best.LSN == 0 || better {
			best = end
		}
	}
	if best.LSN == 0 && c.Start > c.Known {
		// A boundary that nothing vouches for, such as the end of a segment that was left early: the rest of it is zeros. What is
		// certain is.
		c.Start = 0
		return FindEnd(ctx, c)
	}
	if best.LSN == 0 {
		return End{}, fmt.Errorf("find the end of WAL in %s: nothing valid at %s on timeline %d", c.Dir, c.Known, c.Timeline)
	}
	if best.History.Timeline != best.Timeline {
		best.History = best.History.Until(best.Timeline)
	}
	return best, c.sync(best)
}

// Until returns the history of an ancestor, as it is contained in h.
func (h History) Until(t Timeline) History {
	for n, a := range h.Ancestors {
		if a.Timeline == t {
			return History{Timeline: t, Ancestors: append([]Branch(nil), h.Ancestors[:n]...)}
		}
	}
	return h
}

// along finds the end on one history; ok is false if what is known does not lie on it.
func (c EndConfig) along(ctx context.Context, h History) (End, bool, error) {
	if h.TimelineAt(c.Known) != c.Timeline || c.MinTimeline != 0 && !h.Contains(c.MinTimeline, c.MinRecovery) {
		return End{}, false, nil
	}
	scan := ScanConfig{Dir: c.Dir, SegmentSize: c.SegmentSize, SystemIdentifier: c.SystemIdentifier, History: h, Start: c.Known}
	if c.Start > c.Known {
		scan.Start = c.Start
		ok, err := scan.holds(c.Start)
		if err != nil || !ok {
			return End{}, false, err
		}
	}
	records := 0
	var last Timeline
	end, err := Scan(ctx, scan, func(r Record) error {
		if records == 0 && scan.Start != c.Known {
			if linked, err := scan.linked(r); err != nil || !linked {
				return errors.Join(err, errStale)
			}
		}
		records++
		last = r.Timeline
		return nil
	})
	if err != nil && !errors.Is(err, errStale) {
		return End{}, false, err
	}
	if records == 0 {
		last = h.TimelineAt(scan.Start - 1)
		if scan.Start == c.Known {
			return End{}, false, nil // what is certain cannot be read on this history
		}
	}
	return End{LSN: end, Timeline: last, History: h, Records: records}, true, nil
}

// errStale ends a scan whose first record only looks valid.
var errStale = errors.New("a record of an earlier use of the segment")

// holds says whether the byte before l is really on this history's files.
func (c ScanConfig) holds(l LSN) (bool, error) {
	r := &reader{config: c}
	defer r.close()
	t := c.History.TimelineAt(l - 1)
	_, _, err := r.page((l-1)&^(BlockSize-1), t)
	if errors.Is(err, errInvalid) {
		return false, nil
	}
	return err == nil, err
}

// linked says whether the record before the first one of a scan ends where this one starts. Its CRC cannot tell: in a
// recycled segment a whole old record may stand exactly there.
func (c ScanConfig) linked(record Record) (bool, error) {
	if record.Previous == 0 || record.Previous >= record.Start || record.Previous%recordAlignment != 0 {
		return false, nil
	}
	r := &reader{config: c}
	defer r.close()
	before, err := r.next(record.Previous)
	if errors.Is(err, errInvalid) {
		return false, nil
	}
	return err == nil && skipHeader(before.End, c.SegmentSize) == record.Start, err
}

// sync makes the segment with the end durable; the ones before it were, when they were left.
func (c EndConfig) sync(end End) (err error) {
	r := reader{config: ScanConfig{Dir: c.Dir, SegmentSize: c.SegmentSize, History: end.History}}
	for _, t := range r.timelinesFor(end.LSN - 1) {
		f, err := os.Open(filepath.Join(c.Dir, c.SegmentSize.Name(t, c.SegmentSize.SegmentOf(end.LSN-1))))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("make the end of WAL durable: %w", err)
		}
		if err := errors.Join(f.Sync(), f.Close()); err != nil {
			return fmt.Errorf("make the end of WAL durable: %w", err)
		}
	}
	return nil
}
