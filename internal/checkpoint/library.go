package checkpoint

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/regent-infra/regent/statestore"
)

// nameFormat is how a checkpoint is called that nobody gives a name: the moment, which sorts.
const nameFormat = "20060102T150405.000Z"

var validName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$`)

// CheckName returns an error unless a checkpoint can be called so.
func CheckName(name string) error {
	reserved := strings.HasSuffix(name, unfinished) || strings.HasSuffix(name, requested) || strings.HasSuffix(name, failed)
	if !validName.MatchString(name) || reserved {
		return fmt.Errorf("checkpoint name %q: expected 1 to 100 letters, digits, dots, dashes and underscores, the first a letter or digit, not ending in %s, %s or %s",
			name, unfinished, requested, failed)
	}
	return nil
}

// MomentName is the name of a checkpoint that is asked for at a moment without a name.
func MomentName(at time.Time) string { return at.UTC().Format(nameFormat) }

// Library is a directory of checkpoints, each under its name.
type Library struct{ dir string }

// NewLibrary returns the library in a directory, which need not exist.
func NewLibrary(dir string) Library { return Library{dir: dir} }

// Dir returns the directory.
func (l Library) Dir() string { return l.dir }

// Named is a checkpoint of a library.
type Named struct {
	// Name tells it apart.
	Name string
	*Checkpoint
	// Err is why it cannot be used; then there is no Checkpoint.
	Err error
}

// Create makes a checkpoint of a store. An empty name stands for the moment.
func (l Library) Create(ctx context.Context, store statestore.Store, name string, o Options) (Named, error) {
	if name == "" && o.Clock != nil {
		name = o.Clock.Now().UTC().Format(nameFormat)
	}
	if err := CheckName(name); err != nil {
		return Named{}, err
	}
	c, err := Create(ctx, store, filepath.Join(l.dir, name), o)
	return Named{Name: name, Checkpoint: c}, err
}

// Import reads an exported checkpoint. An empty name stands for the moment at which it was made.
func (l Library) Import(ctx context.Context, r io.Reader, name string) (Named, error) {
	if name != "" {
		if err := CheckName(name); err != nil {
			return Named{}, err
		}
		c, err := Import(ctx, r, filepath.Join(l.dir, name))
		return Named{Name: name, Checkpoint: c}, err
	}
	c, err := Import(ctx, r, filepath.Join(l.dir, "import"+unfinished))
	if err != nil {
		return Named{}, err
	}
	name = c.CreatedAt.UTC().Format(nameFormat)
	to := filepath.Join(l.dir, name)
	if _, err := os.Lstat(to); err == nil {
		return Named{}, errors.Join(fmt.Errorf("import a checkpoint into %s: %w: expected a name that is not taken", to, ErrExists), os.RemoveAll(c.dir))
	}
	if err := errors.Join(os.Rename(c.dir, to), syncDir(l.dir)); err != nil {
		return Named{}, errors.Join(fmt.Errorf("import a checkpoint into %s: %w", to, err), os.RemoveAll(c.dir))
	}
	c.dir = to
	return Named{Name: name, Checkpoint: c}, nil
}

// Open returns the checkpoint of a name.
func (l Library) Open(name string) (*Checkpoint, error) {
	if err := CheckName(name); err != nil {
		return nil, err
	}
	return Open(filepath.Join(l.dir, name))
}

// List returns all checkpoints, the oldest first; those that cannot be used come last, with the reason.
func (l Library) List() ([]Named, error) {
	entries, err := os.ReadDir(l.dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("list the checkpoints: %w", err)
	}
	var out []Named
	for _, e := range entries {
		if !e.IsDir() || CheckName(e.Name()) != nil {
			continue
		}
		n := Named{Name: e.Name()}
		n.Checkpoint, n.Err = Open(filepath.Join(l.dir, e.Name()))
		out = append(out, n)
	}
	slices.SortStableFunc(out, func(a, b Named) int {
		switch {
		case a.Err == nil && b.Err == nil:
			return a.CreatedAt.Compare(b.CreatedAt)
		case a.Err == nil:
			return -1
		case b.Err == nil:
			return 1
		default:
			return 0
		}
	})
	return out, nil
}

// Remove deletes a checkpoint, usable or not. It is gone at once under its name, whatever happens while its files go.
func (l Library) Remove(name string) error {
	if err := CheckName(name); err != nil {
		return err
	}
	dir := filepath.Join(l.dir, name)
	going := dir + unfinished
	err := os.RemoveAll(going)
	if err == nil {
		err = os.Rename(dir, going)
	}
	if errors.Is(err, fs.ErrNotExist) {
		err = ErrNotFound
	}
	if err == nil {
		err = errors.Join(syncDir(l.dir), os.RemoveAll(going))
	}
	if err != nil {
		return fmt.Errorf("delete the checkpoint %s: %w", dir, err)
	}
	return nil
}

// Sweep removes what was left unfinished by a process that died. Nobody may be making a checkpoint meanwhile.
func (l Library) Sweep() error {
	entries, err := os.ReadDir(l.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), unfinished) {
			err = errors.Join(err, os.RemoveAll(filepath.Join(l.dir, e.Name())))
		}
	}
	if err != nil {
		return fmt.Errorf("remove unfinished checkpoints: %w", err)
	}
	return nil
}
