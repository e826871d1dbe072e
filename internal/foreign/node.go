package foreign

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

const nodeHint = "this needs Node.js 18 or newer with npm, for example: apt-get install -y nodejs npm"

// Node installs what a folder's package-lock.json asks for, and returns the programs that stand in that folder as modules (NAME.mjs). No script of a package
// is run.
func Node(ctx context.Context, dir string) (*Program, error) {
	for _, tool := range []string{"node", "npm"} {
		if _, err := exec.LookPath(tool); err != nil {
			return nil, errors.New("no " + tool + " in PATH: " + nodeHint)
		}
	}
	asked, err := contents(dir)
	if err != nil {
		return nil, err
	}
	home, err := cached(ctx, "node", asked, func(beside string) error {
		if err := os.CopyFS(beside, os.DirFS(dir)); err != nil {
			return err
		}
		install := exec.CommandContext(ctx, "npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error")
		install.Dir = beside
		if err := run(install); err != nil {
			return fmt.Errorf("%w: %s", err, nodeHint)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("install the packages of %s: %w", dir, err)
	}
	return &Program{command: func(name string) []string { return []string{"node", filepath.Join(home, name+".mjs")} }}, nil
}
