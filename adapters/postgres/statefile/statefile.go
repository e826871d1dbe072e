// Package statefile keeps the agent's memory (guard.Durable) in a file that survives kill -9 and power loss at any moment.
//
// The file is text, so that a person can read it. Its first line is
//
//	regent-agent-state 1 LENGTH CRC\n
//
// with the format's version, the length of what follows in bytes (decimal) and its CRC-32C (eight lower-case hexadecimal digits);
// the rest is the memory as JSON, ended by a newline.
//
// A write goes to a temporary file beside it, which is synced, renamed over the old one, and the directory synced. So a reader finds
// the old or the new memory, whole.
//
// Invariants: (1) when [File.Write] has returned nil, no crash brings an earlier memory back; (2) what [Open] cannot read in full it
// refuses: a torn, corrupt, foreign or newer file is an error that says what to do, never an empty memory, because a promise that is
// forgotten could be broken; (3) a missing file is a memory only of a node that has no data directory either, which the caller knows.
package statefile

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/regent-infra/regent/adapters/postgres/guard"
	"github.com/regent-infra/regent/internal/event"
)

// Name is the file's name in the agent's directory.
const Name = "agent-state.json"

const (
	magic   = "regent-agent-state"
	version = 1
	// maxSize bounds what is read: a memory takes some ten kilobytes.
	maxSize = 4 << 20
)

// Errors that callers tell apart.
var (
	// ErrMissing: there is no file.
	ErrMissing = errors.New("there is no agent state")
	// ErrDamaged: the file is torn, corrupt or no agent state at all.
	ErrDamaged = errors.New("damaged agent state")
	// ErrForeign: it belongs to another node, another cluster or a newer agent.
	ErrForeign = errors.New("foreign agent state")
)

const hint = "the promised term would be lost: restore the file from a backup of this very node, or remove the node's data directory together with the agent's directory and clone it anew"

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// File is the place of one agent's memory. It is for one goroutine.
type File struct {
	path string
	// at is told each point of a write; tests crash there.
	at func(point string)
}

// New returns the file in the agent's directory, which must exist.
func New(dir string) *File {
	return &File{path: filepath.Join(dir, Name), at: func(string) {}}
}

// Path returns where the file is.
func (f *File) Path() string { return f.path }

// Read returns the memory of the agent of the given node.
func (f *File) Read(cluster event.ClusterID, node string) (guard.Durable, error) {
	info, err := os.Stat(f.path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return guard.Durable{}, fmt.Errorf("%w at %s", ErrMissing, f.path)
	case err != nil:
		return guard.Durable{}, fmt.Errorf("read the agent state: %w", err)
	case info.Size() > maxSize:
		return guard.Durable{}, fmt.Errorf("%w: %s has %d bytes, expected at most %d: %s", ErrDamaged, f.path, info.Size(), maxSize, hint)
	}
	content, err := os.ReadFile(f.path)
	if err != nil {
		return guard.Durable{}, fmt.Errorf("read the agent state: %w", err)
	}
	d, err := decode(content)
	switch {
	case errors.Is(err, ErrForeign):
		return d, fmt.Errorf("read %s: %w", f.path, err)
	case err != nil:
		return d, fmt.Errorf("read %s: %w: %s", f.path, err, hint)
	case d.Cluster != cluster || d.Node != node:
		return d, fmt.Errorf("%w: %s is that of node %s of %s, expected node %s of %s: give each node its own directory", ErrForeign, f.path, d.Node, d.Cluster, node, cluster)
	}
	return d, nil
}

// Write replaces the memory. When it returns nil, the new one is on disk; when it fails, the old or the new one is.
func (f *File) Write(d guard.Durable) error {
	content, err := encode(d)
	if err != nil {
		return fmt.Errorf("write the agent state: %w", err)
	}
	if err := f.replace(content); err != nil {
		return fmt.Errorf("write the agent state %s: %w", f.path, err)
	}
	return nil
}

func (f *File) replace(content []byte) (err error) {
	temporary := f.path + ".tmp"
	f.at("before")
	out, err := os.OpenFile(temporary, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	f.at("created")
	half := len(content) / 2
	_, err = out.Write(content[:half])
	f.at("half written")
	if err == nil {
		_, err = out.Write(content[half:])
	}
	f.at("written")
	if err == nil {
		err = out.Sync()
	}
	f.at("synced")
	if err = errors.Join(err, out.Close()); err != nil {
		return err
	}
	if err := os.Rename(temporary, f.path); err != nil {
		return err
	}
	f.at("renamed")
	dir, err := os.Open(filepath.Dir(f.path))
	if err != nil {
		return err
	}
	err = errors.Join(dir.Sync(), dir.Close())
	f.at("done")
	return err
}

func encode(d guard.Durable) ([]byte, error) {
	if err := d.Validate(); err != nil {
		return nil, fmt.Errorf("the memory makes no sense: %w", err)
	}
	body, err := json.MarshalIndent(d, "", " ")
	if err != nil {
		return nil, err
	}
	body = append(body, '\n')
	head := fmt.Sprintf("%s %d %d %08x\n", magic, version, len(body), crc32.Checksum(body, castagnoli))
	return append([]byte(head), body...), nil
}

func decode(content []byte) (guard.Durable, error) {
	var d guard.Durable
	head, body, found := bytes.Cut(content, []byte("\n"))
	var word string
	var v, length int
	var sum uint32
	if n, err := fmt.Sscanf(string(head), "%s %d %d %08x", &word, &v, &length, &sum); !found || err != nil || n != 4 || word != magic {
		return d, fmt.Errorf("%w: the first line is no header of an agent state", ErrDamaged)
	}
	if v > version {
		return d, fmt.Errorf("%w: it was written by a newer agent (format %d, this one knows %d): run that version", ErrForeign, v, version)
	}
	if v < 1 || len(body) != length {
		return d, fmt.Errorf("%w: expected %d bytes after the header, found %d", ErrDamaged, length, len(body))
	}
	if got := crc32.Checksum(body, castagnoli); got != sum {
		return d, fmt.Errorf("%w: the checksum is %08x, computed %08x", ErrDamaged, sum, got)
	}
	decoder := json.NewDecoder(bytes.NewReader(body))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&d); err != nil {
		return d, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	if err := d.Validate(); err != nil {
		return d, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return d, nil
}
