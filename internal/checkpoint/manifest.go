package checkpoint

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/regent-infra/regent/internal/stream"
	"github.com/regent-infra/regent/statestore"
)

// FormatVersion is the version of manifest and directory that this program writes. It reads no other.
const FormatVersion = 1

// Sentinel errors, to be tested with errors.Is.
var (
	// ErrDamaged says that a checkpoint is not what was once written.
	ErrDamaged = errors.New("checkpoint is damaged")
	// ErrVersion says that a checkpoint has a format that this program does not read.
	ErrVersion = errors.New("checkpoint has another format version")
	// ErrExists says that the name is taken.
	ErrExists = errors.New("checkpoint exists")
	// ErrNotFound says that there is no such checkpoint.
	ErrNotFound = errors.New("no such checkpoint")
)

// Manifest says what a checkpoint holds.
type Manifest struct {
	// Format is the [FormatVersion].
	Format int `json:"format"`
	// StoreFormat is the [statestore.FormatVersion] of the store.
	StoreFormat uint16 `json:"store_format"`
	// CreatedAt is when it was made, by the clock of the machine.
	CreatedAt time.Time `json:"created_at"`
	// Program is the version of the program that made it.
	Program string `json:"program"`
	// ClusterID is the Kafka cluster whose topics the state was made from.
	ClusterID string `json:"cluster_id"`
	// Tasks are the positions, ordered by processor and task.
	Tasks []Task `json:"tasks"`
	// Files are all files under store/, ordered by name.
	Files []File `json:"files"`
}

// Task is the position of one task: P, as the store holds it.
type Task struct {
	Processor   string `json:"processor"`
	Task        int32  `json:"task"`
	FoldVersion int32  `json:"fold_version"`
	// Out is the offset after the last record of the changelog that the state contains.
	Out int64 `json:"out"`
	// ChangelogID is the topic id of the changelog, in hexadecimal.
	ChangelogID string `json:"changelog_id"`
	// StreamTime is the highest append time that the task had read.
	StreamTime time.Time `json:"stream_time,omitzero"`
	// StampedAt is when the position was known to be up to date.
	StampedAt time.Time `json:"stamped_at"`
	// Tables are the tables that are kept.
	Tables []string `json:"tables"`
	// Inputs are the next offsets of the inputs.
	Inputs []Input `json:"inputs"`
}

// Input is how far one input partition is contained in the state.
type Input struct {
	Topic     string `json:"topic"`
	TopicID   string `json:"topic_id"`
	Partition int32  `json:"partition"`
	Next      int64  `json:"next"`
}

// File is one file of the store.
type File struct {
	// Name is its path under store/, with slashes.
	Name string `json:"name"`
	// Size is in bytes.
	Size int64 `json:"size"`
	// SHA256 is in hexadecimal.
	SHA256 string `json:"sha256"`
}

// Task returns the position of one task, and whether there is one.
func (m *Manifest) Task(processor string, task int32) (Task, bool) {
	i := slices.IndexFunc(m.Tasks, func(t Task) bool { return t.Processor == processor && t.Task == task })
	if i < 0 {
		return Task{}, false
	}
	return m.Tasks[i], true
}

// Bytes returns the summed size of the files.
func (m *Manifest) Bytes() int64 {
	var n int64
	for _, f := range m.Files {
		n += f.Size
	}
	return n
}

// encode returns the manifest as it is written.
func (m *Manifest) encode() ([]byte, error) {
	raw, err := json.MarshalIndent(m, "", "  ")
	return append(raw, '\n'), err
}

// decodeManifest reads and checks a manifest.
func decodeManifest(raw []byte) (*Manifest, error) {
	var version struct {
		Format int `json:"format"`
	}
	if err := json.Unmarshal(raw, &version); err != nil {
		return nil, fmt.Errorf("%w: read %s: %w", ErrDamaged, manifestFile, err)
	}
	if version.Format != FormatVersion {
		return nil, fmt.Errorf("%w: it has version %d, this program reads version %d; use the program that made it", ErrVersion, version.Format, FormatVersion)
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	m := &Manifest{}
	if err := d.Decode(m); err != nil {
		return nil, fmt.Errorf("%w: read %s: %w", ErrDamaged, manifestFile, err)
	}
	if m.StoreFormat != statestore.FormatVersion {
		return nil, fmt.Errorf("%w: its state store has version %d, this program reads version %d; use the program that made it",
			ErrVersion, m.StoreFormat, statestore.FormatVersion)
	}
	if err := m.check(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return m, nil
}

var digest = regexp.MustCompile(`^[0-9a-f]{64}$`)

// check returns every fault together. A manifest may come from anywhere: no name leads out of the directory.
func (m *Manifest) check() error {
	var errs []error
	fault := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if m.ClusterID == "" {
		fault("%s names no cluster", manifestFile)
	}
	if m.CreatedAt.IsZero() {
		fault("%s does not say when it was made", manifestFile)
	}
	if len(m.Files) == 0 {
		fault("%s names no files", manifestFile)
	}
	for i, f := range m.Files {
		switch {
		case f.Name == "" || path.IsAbs(f.Name) || path.Clean(f.Name) != f.Name || f.Name == ".." || strings.HasPrefix(f.Name, "../") || strings.ContainsAny(f.Name, "\\\x00"):
			fault("file %q: expected a path inside of the store", f.Name)
		case i > 0 && m.Files[i-1].Name >= f.Name:
			fault("file %q does not follow %q: expected ascending names", f.Name, m.Files[i-1].Name)
		}
		if f.Size < 0 {
			fault("file %q has %d bytes", f.Name, f.Size)
		}
		if !digest.MatchString(f.SHA256) {
			fault("file %q has the digest %q: expected 64 hexadecimal digits", f.Name, f.SHA256)
		}
	}
	return errors.Join(errs...)
}

// positionsOf reads the positions in a store, and the cluster it belongs to.
func positionsOf(s statestore.Store) (tasks []Task, cluster string, err error) {
	meta, ok, err := statestore.ReadMeta(s)
	if err != nil {
		return nil, "", err
	}
	if !ok {
		return nil, "", errors.New("the state store is empty: no processor has run on it yet")
	}
	it, err := s.Scan(statestore.PositionsPrefix(), statestore.PrefixEnd(statestore.PositionsPrefix()))
	if err != nil {
		return nil, "", err
	}
	defer func() { err = errors.Join(err, it.Err(), it.Close()) }()
	for it.Next() {
		processor, id, err := statestore.ParsePositionKey(it.Key())
		if err != nil {
			return nil, "", err
		}
		p, err := stream.DecodePosition(it.Value())
		if err != nil {
			return nil, "", fmt.Errorf("processor %q, task %d: %w", processor, id, err)
		}
		tasks = append(tasks, taskOf(processor, id, p))
	}
	if len(tasks) == 0 {
		return nil, "", errors.New("the state store holds no positions: no processor has committed anything yet")
	}
	slices.SortFunc(tasks, func(a, b Task) int {
		if c := strings.Compare(a.Processor, b.Processor); c != 0 {
			return c
		}
		return int(a.Task) - int(b.Task)
	})
	return tasks, meta.ClusterID, nil
}

func taskOf(processor string, id int32, p *stream.Position) Task {
	t := Task{
		Processor: processor, Task: id, FoldVersion: p.FoldVersion, Out: p.Out, ChangelogID: hex.EncodeToString(p.Changelog[:]),
		StreamTime: p.StreamTime, StampedAt: p.StampedAt, Tables: slices.Clone(p.Tables), Inputs: []Input{},
	}
	for _, in := range p.Inputs {
		t.Inputs = append(t.Inputs, Input{Topic: in.Topic, TopicID: hex.EncodeToString(in.TopicID[:]), Partition: in.Partition, Next: in.Next})
	}
	return t
}
