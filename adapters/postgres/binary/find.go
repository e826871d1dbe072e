package binary

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"time"
)

// ErrNotFound is wrapped when no PostgreSQL of the wanted version is installed.
var ErrNotFound = errors.New("no PostgreSQL programs found")

// ErrNoTool is wrapped by [Set.Path] when the set lacks a program.
var ErrNoTool = errors.New("PostgreSQL program is missing")

// Tool is the name of a PostgreSQL program.
type Tool string

// The programs that Regent uses or reports. Only ToolPostgres and ToolInitdb must exist.
const (
	ToolPostgres     Tool = "postgres"
	ToolInitdb       Tool = "initdb"
	ToolControl      Tool = "pg_ctl"
	ToolRewind       Tool = "pg_rewind"
	ToolControlData  Tool = "pg_controldata"
	ToolBaseBackup   Tool = "pg_basebackup"
	ToolWalDump      Tool = "pg_waldump"
	ToolChecksums    Tool = "pg_checksums"
	ToolVerifyBackup Tool = "pg_verifybackup"
	ToolConfig       Tool = "pg_config"
	ToolBench        Tool = "pgbench"
	ToolPSQL         Tool = "psql"
)

var tools = []Tool{
	ToolPostgres, ToolInitdb, ToolControl, ToolRewind, ToolControlData, ToolBaseBackup,
	ToolWalDump, ToolChecksums, ToolVerifyBackup, ToolConfig, ToolBench, ToolPSQL,
}

// Set is one installation of PostgreSQL.
type Set struct {
	// Dir is the absolute path of the folder with the programs.
	Dir     string
	Version Version
	// Source says where it was found: "given", "PATH", "pg_config", "distribution", "fetched".
	Source string
	// Tools lists the programs that exist.
	Tools []Tool
}

// Has says whether the set has a program.
func (s Set) Has(tool Tool) bool {
	for _, t := range s.Tools {
		if t == tool {
			return true
		}
	}
	return false
}

// Missing lists the known programs that the set lacks.
func (s Set) Missing() []Tool {
	var missing []Tool
	for _, t := range tools {
		if !s.Has(t) {
			missing = append(missing, t)
		}
	}
	return missing
}

// Path returns the path of a program, or an error that wraps [ErrNoTool].
func (s Set) Path(tool Tool) (string, error) {
	if !s.Has(tool) {
		return "", fmt.Errorf("%w: %s is not in %s (PostgreSQL %s, %s)", ErrNoTool, tool, s.Dir, s.Version, s.Source)
	}
	return filepath.Join(s.Dir, string(tool)), nil
}

// FindOptions says what to look for.
type FindOptions struct {
	// Dir is the only folder to look in. Empty: look everywhere.
	Dir string
	// Major is the wanted major version, that of an existing data directory say. 0: any supported one.
	Major int
	// SearchPath replaces the environment's PATH. Empty: the environment's.
	SearchPath string
	// Patterns replaces the folders of the distributions (glob patterns of folders with programs). Nil: [DistributionPatterns].
	Patterns []string
}

// DistributionPatterns are the folders where the distributions put PostgreSQL's programs.
func DistributionPatterns() []string {
	return []string{
		"/usr/lib/postgresql/*/bin",                                   // Debian, Ubuntu
		"/usr/pgsql-*/bin",                                            // PostgreSQL's RPMs
		"/usr/lib/postgresql*/bin",                                    // SUSE, Gentoo
		"/usr/libexec/postgresql*",                                    // Alpine
		"/opt/homebrew/opt/postgresql@*/bin",                          // Homebrew, Apple silicon
		"/usr/local/opt/postgresql@*/bin",                             // Homebrew, Intel
		"/home/linuxbrew/.linuxbrew/opt/postgresql@*/bin",             // Homebrew, Linux
		"/Applications/Postgres.app/Contents/Versions/*/bin",          // Postgres.app
		"/usr/local/pgsql/bin", "/usr/local/bin", "/opt/postgres/bin", // built from source
	}
}

// candidate is a folder that may hold PostgreSQL.
type candidate struct {
	dir    string
	source string
}

// versionTimeout bounds one `postgres --version`, which takes milliseconds; a hung network file system must not hang the search.
const versionTimeout = 10 * time.Second

// Find returns the first installation that fits. Its error wraps [ErrNotFound] or, when only other versions are there,
// [ErrUnsupported] too; it names every place that was looked at and why it was passed over.
func Find(ctx context.Context, o FindOptions) (Set, error) {
	if o.Major != 0 {
		if err := (Version{Major: o.Major, Minor: -1, Text: strconv.Itoa(o.Major)}).Supported(); err != nil {
			return Set{}, fmt.Errorf("find PostgreSQL programs: %w", err)
		}
	}
	var faults []error
	var sets []Set
	for _, c := range candidates(ctx, o) {
		set, err := Inspect(ctx, c.dir)
		set.Source = c.source
		switch {
		case errors.Is(err, os.ErrNotExist) && c.source != "given":
			continue
		case err != nil:
			faults = append(faults, err)
		case o.Major != 0 && set.Version.Major != o.Major:
			faults = append(faults, fmt.Errorf("%s is PostgreSQL %s, expected %d", set.Dir, set.Version, o.Major))
		default:
			sets = append(sets, set)
		}
	}
	if best, ok := choose(sets); ok {
		return best, nil
	}
	what := "13 to 18"
	if o.Major != 0 {
		what = strconv.Itoa(o.Major)
	}
	hint := "install the distribution's postgresql package, name the folder with the programs, or let them be fetched"
	if len(faults) == 0 {
		return Set{}, fmt.Errorf("%w for version %s in PATH, by pg_config or in the distribution's folders: %s", ErrNotFound, what, hint)
	}
	return Set{}, fmt.Errorf("%w for version %s: %w: %s", ErrNotFound, what, errors.Join(faults...), hint)
}

// choose takes the first set that was not found in a distribution's folder, else the newest of those.
func choose(sets []Set) (Set, bool) {
	if len(sets) == 0 {
		return Set{}, false
	}
	if sets[0].Source != "distribution" {
		return sets[0], true
	}
	sort.SliceStable(sets, func(i, j int) bool { return sets[i].Version.Major > sets[j].Version.Major })
	return sets[0], true
}

func candidates(ctx context.Context, o FindOptions) []candidate {
	if o.Dir != "" {
		return []candidate{{o.Dir, "given"}}
	}
	var found []candidate
	seen := map[string]bool{}
	add := func(dir, source string) {
		resolved, err := filepath.EvalSymlinks(dir)
		if err != nil || seen[resolved] {
			return
		}
		seen[resolved] = true
		found = append(found, candidate{dir, source})
	}
	path := o.SearchPath
	if path == "" {
		path = os.Getenv("PATH")
	}
	for _, dir := range filepath.SplitList(path) {
		if filepath.IsAbs(dir) && isExecutable(filepath.Join(dir, string(ToolPostgres))) {
			add(dir, "PATH")
		}
	}
	for _, dir := range filepath.SplitList(path) {
		if config := filepath.Join(dir, string(ToolConfig)); filepath.IsAbs(dir) && isExecutable(config) {
			if bin, err := run(ctx, config, "--bindir"); err == nil {
				add(strings.TrimSpace(bin), "pg_config")
			}
			break
		}
	}
	patterns := o.Patterns
	if patterns == nil {
		patterns = DistributionPatterns()
	}
	for _, pattern := range patterns {
		dirs, err := filepath.Glob(pattern)
		if err != nil {
			continue // a malformed pattern matches nothing
		}
		for _, dir := range dirs {
			if isExecutable(filepath.Join(dir, string(ToolPostgres))) {
				add(dir, "distribution")
			}
		}
	}
	return found
}

// Inspect looks at one folder: which programs it has, and which version they are. It fails when postgres or initdb is missing, does
// not run, or is of an unsupported version.
func Inspect(ctx context.Context, dir string) (Set, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return Set{}, fmt.Errorf("inspect PostgreSQL programs in %s: %w", dir, err)
	}
	// A folder of links (alternatives, a hand-made /usr/local/bin) shows but some of the programs: look where they really are.
	if program, err := filepath.EvalSymlinks(filepath.Join(abs, string(ToolPostgres))); err == nil {
		if home := filepath.Dir(program); isExecutable(filepath.Join(home, string(ToolInitdb))) && filepath.Base(program) == string(ToolPostgres) {
			abs = home
		}
	}
	set := Set{Dir: abs, Source: "given"}
	for _, tool := range tools {
		if isExecutable(filepath.Join(abs, string(tool))) {
			set.Tools = append(set.Tools, tool)
		}
	}
	for _, must := range []Tool{ToolPostgres, ToolInitdb} {
		if !set.Has(must) {
			return set, fmt.Errorf("inspect PostgreSQL programs in %s: %w: %s: %w", abs, ErrNoTool, must, os.ErrNotExist)
		}
	}
	out, err := run(ctx, filepath.Join(abs, string(ToolPostgres)), "--version")
	if err != nil {
		return set, fmt.Errorf("inspect PostgreSQL programs in %s: %w", abs, err)
	}
	if set.Version, err = ParseVersion(out); err != nil {
		return set, fmt.Errorf("inspect PostgreSQL programs in %s: %w", abs, err)
	}
	if err := set.Version.Supported(); err != nil {
		return set, fmt.Errorf("inspect PostgreSQL programs in %s: %w", abs, err)
	}
	return set, nil
}

func isExecutable(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular() && info.Mode().Perm()&0o111 != 0
}

func run(ctx context.Context, program string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, versionTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	out, err := cmd.Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) && len(exit.Stderr) > 0 {
			return "", fmt.Errorf("run %s %s: %w: %s", program, strings.Join(args, " "), err, firstLine(string(exit.Stderr)))
		}
		return "", fmt.Errorf("run %s %s: %w", program, strings.Join(args, " "), err)
	}
	return string(out), nil
}

// Locate finds installed programs and, if there are none of the wanted version and fetch allows it, fetches published ones.
func Locate(ctx context.Context, find FindOptions, fetch *FetchOptions) (Set, error) {
	set, err := Find(ctx, find)
	if err == nil || !errors.Is(err, ErrNotFound) || find.Dir != "" || fetch == nil {
		return set, err
	}
	o := *fetch
	if o.Version == "" && o.Major == 0 {
		o.Major = find.Major
	}
	set, fetchErr := Fetch(ctx, o)
	if fetchErr != nil {
		return Set{}, errors.Join(err, fetchErr)
	}
	return set, nil
}
