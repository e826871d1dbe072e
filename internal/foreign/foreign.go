// Package foreign makes the programs under docs/clients ready to run, so that tests run them as they stand there: it fetches what each language
// asks for by its ordinary package client, once, into the cache.
//
//	program, err := foreign.Python(ctx, root)          // root: of the repository
//	cmd := program.Command("state", "--group", "g")    // docs/clients/python/state.py
//
// What is fetched is kept under the hash of what was asked for, and made beside its final place, so that a second run needs no network and a
// killed one leaves nothing that looks complete. A language that the machine does not have is an error that says what to install.
package foreign

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/gofrs/flock"

	"github.com/regent-infra/regent/internal/artifact"
)

// Program is the set of programs of one language.
type Program struct {
	// Env is what its processes need in their environment, besides that of this one.
	Env     []string
	command func(name string) []string
}

// Command returns the command line of one of the programs with arguments.
func (p *Program) Command(name string, args ...string) []string {
	return append(p.command(name), args...)
}

// Go builds the Go programs into dir.
func Go(ctx context.Context, root, dir string) (*Program, error) {
	build := exec.CommandContext(ctx, "go", "build", "-o", dir+string(filepath.Separator), "./...")
	build.Dir = filepath.Join(root, "docs", "clients", "go")
	if err := run(build); err != nil {
		return nil, fmt.Errorf("build the Go programs: %w", err)
	}
	return &Program{command: func(name string) []string { return []string{filepath.Join(dir, name)} }}, nil
}

// pythonHint is what to do about a machine without Python.
const pythonHint = "the programs in docs/clients/python need Python 3.10 or newer with pip and venv, for example: apt-get install -y python3-venv"

// Python installs what the Python programs ask for in a virtual environment.
func Python(ctx context.Context, root string) (*Program, error) {
	dir := filepath.Join(root, "docs", "clients", "python")
	python, err := exec.LookPath("python3")
	if err != nil {
		return nil, errors.New("no python3 in PATH: " + pythonHint)
	}
	requirements := filepath.Join(dir, "requirements.txt")
	asked, err := os.ReadFile(requirements)
	if err != nil {
		return nil, err
	}
	// A virtual environment stands on the Python that made it.
	base, err := exec.CommandContext(ctx, python, "-c", "import sys; print(sys.version, sys.base_prefix)").Output()
	if err != nil {
		return nil, fmt.Errorf("ask %s for its version: %w", python, err)
	}
	home, err := cached(ctx, "clients-python", append(asked, base...), func(beside string) error {
		if err := run(exec.CommandContext(ctx, python, "-m", "venv", beside)); err != nil {
			return fmt.Errorf("make a virtual environment: %w: %s", err, pythonHint)
		}
		install := exec.CommandContext(ctx, filepath.Join(beside, "bin", "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check",
			"--only-binary", ":all:", "--requirement", requirements)
		if err := run(install); err != nil {
			return fmt.Errorf("install %s: %w: %s", requirements, err, pythonHint)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("prepare the Python programs: %w", err)
	}
	return &Program{
		Env: []string{"PYTHONDONTWRITEBYTECODE=1"},
		command: func(name string) []string {
			return []string{filepath.Join(home, "bin", "python"), filepath.Join(dir, name+".py")}
		},
	}, nil
}

// lockInterval is how often a lock is tried.
const lockInterval = 50 * time.Millisecond

// cached returns the folder in the cache that is made from what was asked for. Where it is missing, it is made beside its place and moved there.
func cached(ctx context.Context, name string, asked []byte, make func(beside string) error) (string, error) {
	cache, err := artifact.CacheDir()
	if err != nil {
		return "", err
	}
	home := filepath.Join(cache, name+"-"+hash(asked))
	if _, err := os.Stat(home); err == nil {
		return home, nil
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return "", fmt.Errorf("make the cache: %w", err)
	}
	// One at a time, of all processes: who comes second finds what the first has made.
	lock := flock.New(home + ".lock")
	if _, err := lock.TryLockContext(ctx, lockInterval); err != nil {
		return "", fmt.Errorf("lock %s: %w", home, err)
	}
	defer func() { _ = lock.Unlock() }() // it ends with the process at the latest
	if _, err := os.Stat(home); err == nil {
		return home, nil
	}
	beside, err := os.MkdirTemp(cache, "."+name+"-")
	if err != nil {
		return "", fmt.Errorf("make a folder in the cache: %w", err)
	}
	defer func() { _ = os.RemoveAll(beside) }() // gone already when the rename succeeded
	if err := make(beside); err != nil {
		return "", errors.Join(err, ctx.Err())
	}
	if err := os.Chmod(beside, 0o755); err != nil {
		return "", err
	}
	return home, os.Rename(beside, home)
}

func hash(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:8])
}

// run runs a command, whose output becomes part of the error.
func run(cmd *exec.Cmd) error {
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args, " "), err, bytes.TrimSpace(said.Bytes()))
	}
	return nil
}
