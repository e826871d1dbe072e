package rewind

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/regent-infra/regent/adapters/postgres/wal"
)

// manifestName is the file in an archive folder that describes it.
const manifestName = "manifest.json"

// ArchivedFile is one file of an archive.
type ArchivedFile struct {
	Name   string `json:"name"`
	Bytes  int64  `json:"bytes"`
	SHA256 string `json:"sha256"`
}

// Manifest describes an archive of divergent WAL. With it, pg_waldump or a recovery to a point can bring the lost writes back.
type Manifest struct {
	Divergence
	ArchivedAt time.Time      `json:"archived_at"`
	Files      []ArchivedFile `json:"files"`
	// Missing are segments of the range that are not on the node any more.
	Missing []string `json:"missing,omitempty"`
}

// archive copies the segments behind the fork, and the history, from pg_wal to a folder below dir. It returns the folder.
func archive(ctx context.Context, dir, pgwal string, d Divergence, now time.Time) (string, Manifest, error) {
	name := fmt.Sprintf("%d-%08X-%s-%s", d.SystemIdentifier, uint32(d.Mine.Timeline), dashed(d.Lost.From), dashed(d.Lost.To))
	target := filepath.Join(dir, name)
	if m, err := readManifest(target); err == nil {
		return target, m, nil // this very divergence was archived before
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", Manifest{}, fmt.Errorf("make the archive: %w", err)
	}
	work, err := os.MkdirTemp(dir, ".incoming-")
	if err != nil {
		return "", Manifest{}, fmt.Errorf("make a folder in the archive: %w", err)
	}
	m := Manifest{Divergence: d, ArchivedAt: now.UTC()}
	err = m.fill(ctx, pgwal, work)
	if err == nil {
		err = os.Rename(work, target)
	}
	if err == nil {
		err = syncFolder(dir)
	}
	if err != nil {
		return "", Manifest{}, errors.Join(fmt.Errorf("archive divergent WAL: %w", err), os.RemoveAll(work))
	}
	return target, m, nil
}

func dashed(l wal.LSN) string { return strings.ReplaceAll(l.String(), "/", "-") }

func (m *Manifest) fill(ctx context.Context, pgwal, work string) error {
	size := m.SegmentSize
	for n := size.SegmentOf(m.Lost.From); n <= size.SegmentOf(m.Lost.To-1); n++ {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		// The timeline of the segment's last byte that is ours, which is the file that recovery would read.
		last := min(size.Start(n+1), m.Lost.To) - 1
		name := size.Name(m.Mine.TimelineAt(last), n)
		if err := m.copy(filepath.Join(pgwal, name), work, name); err != nil {
			return err
		}
	}
	if m.Mine.Timeline > 1 {
		name := m.Mine.Timeline.HistoryName()
		if err := m.copy(filepath.Join(pgwal, name), work, name); err != nil {
			return err
		}
	}
	content, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return err
	}
	if err := writeSynced(filepath.Join(work, manifestName), strings.NewReader(string(content)+"\n"), nil); err != nil {
		return err
	}
	return syncFolder(work)
}

func (m *Manifest) copy(from, work, name string) (err error) {
	in, err := os.Open(from)
	if errors.Is(err, os.ErrNotExist) {
		m.Missing = append(m.Missing, name)
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { _ = in.Close() }() // opened for reading
	digest := sha256.New()
	if err := writeSynced(filepath.Join(work, name), in, digest); err != nil {
		return err
	}
	info, err := in.Stat()
	if err != nil {
		return err
	}
	m.Files = append(m.Files, ArchivedFile{Name: name, Bytes: info.Size(), SHA256: hex.EncodeToString(digest.Sum(nil))})
	return nil
}

// writeSynced writes a file durably; also, if not nil, sees the bytes too.
func writeSynced(path string, content io.Reader, also io.Writer) (err error) {
	out, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	var sink io.Writer = out
	if also != nil {
		sink = io.MultiWriter(out, also)
	}
	if _, err := io.Copy(sink, content); err != nil {
		return err
	}
	return out.Sync()
}

func readManifest(folder string) (Manifest, error) {
	var m Manifest
	content, err := os.ReadFile(filepath.Join(folder, manifestName))
	if err != nil {
		return m, err
	}
	return m, json.Unmarshal(content, &m)
}

func syncFolder(path string) (err error) {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	return f.Sync()
}
