package foreign

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// shellTools are what the shell programs call besides the tools that every machine has.
var shellTools = []string{"kcat", "curl", "jq", "perl", "xxd"}

const shellHint = "the programs in docs/clients/shell need kcat, curl, jq, perl and xxd, for example: apt-get install -y kcat curl jq perl xxd"

// Shell finds the tools of the shell programs. What the machine does not have is fetched from its Debian repositories and unpacked in the cache, without being
// installed.
func Shell(ctx context.Context, root string) (*Program, error) {
	dir := filepath.Join(root, "docs", "clients", "shell")
	program := &Program{command: func(name string) []string { return []string{filepath.Join(dir, name+".sh")} }}
	missing := slices.DeleteFunc(slices.Clone(shellTools), func(tool string) bool {
		_, err := exec.LookPath(tool)
		return err == nil
	})
	if len(missing) == 0 {
		return program, nil
	}
	release, err := os.ReadFile("/etc/os-release")
	if err != nil {
		return nil, fmt.Errorf("find %s: %w: %s", strings.Join(missing, ", "), err, shellHint)
	}
	home, err := cached(ctx, "clients-shell", append(release, strings.Join(missing, " ")...), func(beside string) error { return unpack(ctx, beside, missing) })
	if err != nil {
		return nil, fmt.Errorf("find %s: %w: %s", strings.Join(missing, ", "), err, shellHint)
	}
	libraries, err := filepath.Glob(filepath.Join(home, "usr", "lib", "*-linux-gnu*"))
	if err != nil {
		return nil, err
	}
	program.Env = []string{
		"PATH=" + filepath.Join(home, "usr", "bin") + ":" + os.Getenv("PATH"),
		"LD_LIBRARY_PATH=" + strings.Join(append(libraries, os.Getenv("LD_LIBRARY_PATH")), ":"),
	}
	return program, nil
}

// unpack fetches packages, with what they need and the machine does not have, as any user may, and unpacks them into dir.
func unpack(ctx context.Context, dir string, packages []string) error {
	for _, tool := range []string{"apt-get", "dpkg-deb"} {
		if _, err := exec.LookPath(tool); err != nil {
			return errors.New("no " + tool + " in PATH")
		}
	}
	state := filepath.Join(dir, "apt")
	for _, part := range []string{"lists/partial", "archives/partial"} {
		if err := os.MkdirAll(filepath.Join(state, part), 0o755); err != nil {
			return err
		}
	}
	apt := func(args ...string) error {
		return run(exec.CommandContext(ctx, "apt-get", append([]string{
			"-q", "-y", "-o", "Dir::State=" + state, "-o", "Dir::State::status=/var/lib/dpkg/status", "-o", "Dir::Cache=" + state, "-o", "Debug::NoLocking=1",
			"-o", "APT::Sandbox::User=", "-o", "Acquire::Languages=none",
		}, args...)...))
	}
	if err := apt("update"); err != nil {
		return err
	}
	if err := apt(append([]string{"install", "--download-only", "--no-install-recommends"}, packages...)...); err != nil {
		return err
	}
	archives, err := filepath.Glob(filepath.Join(state, "archives", "*.deb"))
	if err != nil {
		return err
	}
	for _, archive := range archives {
		if err := run(exec.CommandContext(ctx, "dpkg-deb", "--extract", archive, dir)); err != nil {
			return err
		}
	}
	return os.RemoveAll(state)
}
