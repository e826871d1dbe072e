package checkpoint

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/regent-infra/regent/internal/clock"
)

// What the names of files end in through which a process that has the store open is asked for a checkpoint.
const (
	requested = ".request"
	failed    = ".failed"
)

// requestPause is the pause between two looks at a request.
const requestPause = 50 * time.Millisecond

// Request asks the process that has the store open for a checkpoint, by a file in the library's directory, and waits until it is there or ctx ends;
// then the request is taken back. Whoever may write in the data directory may ask.
func (l Library) Request(ctx context.Context, name string, c clock.Clock) (Named, error) {
	n, err := l.request(ctx, name, c)
	if err != nil {
		return Named{}, fmt.Errorf("ask the running server for the checkpoint %s: %w", name, err)
	}
	return n, nil
}

func (l Library) request(ctx context.Context, name string, c clock.Clock) (_ Named, err error) {
	if err := CheckName(name); err != nil {
		return Named{}, err
	}
	path := filepath.Join(l.dir, name)
	if _, err := os.Lstat(path); err == nil {
		return Named{}, fmt.Errorf("%w: expected a name that is not taken", ErrExists)
	}
	if err := os.MkdirAll(l.dir, 0o750); err != nil {
		return Named{}, err
	}
	if err := os.Remove(path + failed); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return Named{}, err
	}
	if err := writeFile(path+requested, nil); err != nil {
		return Named{}, err
	}
	defer func() {
		if gone := os.Remove(path + requested); gone != nil && !errors.Is(gone, fs.ErrNotExist) {
			err = errors.Join(err, gone)
		}
	}()
	for {
		if made, err := Open(path); err == nil {
			return Named{Name: name, Checkpoint: made}, nil
		}
		if why, err := os.ReadFile(path + failed); err == nil {
			return Named{}, errors.Join(errors.New(strings.TrimSpace(string(why))), os.Remove(path+failed))
		}
		if err := clock.Wait(ctx, c, requestPause); err != nil {
			return Named{}, fmt.Errorf("it has not answered (does a process that keeps state run on this data directory?): %w", err)
		}
	}
}

// Requests returns the names of the checkpoints that are asked for.
func (l Library) Requests() ([]string, error) {
	entries, err := os.ReadDir(l.dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("look for requests of checkpoints: %w", err)
	}
	var out []string
	for _, e := range entries {
		if name, ok := strings.CutSuffix(e.Name(), requested); ok && !e.IsDir() && CheckName(name) == nil {
			out = append(out, name)
		}
	}
	return slices.Sorted(slices.Values(out)), nil
}

// Answer ends a request: with the checkpoint that is there by now, or with the reason why it is not.
func (l Library) Answer(name string, why error) error {
	path := filepath.Join(l.dir, name)
	var err error
	if why != nil {
		if err = os.WriteFile(path+failed+unfinished, []byte(why.Error()+"\n"), 0o640); err == nil { //nolint:gosec // readable by the group, like the rest
			err = os.Rename(path+failed+unfinished, path+failed)
		}
	}
	if gone := os.Remove(path + requested); gone != nil && !errors.Is(gone, fs.ErrNotExist) {
		err = errors.Join(err, gone)
	}
	if err != nil {
		return fmt.Errorf("answer the request of the checkpoint %s: %w", name, err)
	}
	return nil
}

// automatic is what the names of checkpoints begin with that nobody asked for.
const automatic = "auto-"

// AutomaticName is the name of a checkpoint that is made at a moment without being asked for.
func AutomaticName(at time.Time) string { return automatic + at.UTC().Format(nameFormat) }

// LastAutomatic returns when the last checkpoint was made that nobody asked for; zero if there is none.
func (l Library) LastAutomatic() (time.Time, error) {
	all, err := l.List()
	var last time.Time
	for _, c := range all {
		if c.Err == nil && strings.HasPrefix(c.Name, automatic) && c.CreatedAt.After(last) {
			last = c.CreatedAt
		}
	}
	return last, err
}

// Keep removes the oldest checkpoints that nobody asked for, but for so many, and returns their names.
func (l Library) Keep(n int) ([]string, error) {
	all, err := l.List()
	if err != nil {
		return nil, err
	}
	all = slices.DeleteFunc(all, func(c Named) bool { return c.Err != nil || !strings.HasPrefix(c.Name, automatic) })
	var removed []string
	for i := 0; i < len(all)-n; i++ {
		if err := l.Remove(all[i].Name); err != nil {
			return removed, err
		}
		removed = append(removed, all[i].Name)
	}
	return removed, nil
}
