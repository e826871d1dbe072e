package archtest

import (
	"bufio"
	"go/ast"
	"go/token"
	"go/types"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/tools/go/packages"
)

const (
	module       = "github.com/regent-infra/regent"
	maxFileLines = 600
)

// cores are the packages that must be plain functions.
var cores = []string{"processors/fold", "processors/decide", "adapters/postgres/guard"}

// coreMayImport lists what a core may reach inside the module, transitively.
var coreMayImport = []string{"schemas", "internal/event", "internal/invariant", "adapters/postgres/wal"}

var load = sync.OnceValues(func() ([]*packages.Package, error) {
	return packages.Load(&packages.Config{
		Mode: packages.NeedName | packages.NeedFiles | packages.NeedImports | packages.NeedDeps | packages.NeedSyntax | packages.NeedTypes | packages.NeedTypesInfo,
		Dir:  "../..",
	}, "./...")
})

func loaded(t *testing.T) []*packages.Package {
	t.Helper()
	all, err := load()
	if err != nil {
		t.Fatalf("load the module's packages: %v", err)
	}
	for _, p := range all {
		for _, e := range p.Errors {
			t.Errorf("%s: %v", p.PkgPath, e)
		}
	}
	return all
}

func inside(p string) (string, bool) { return strings.CutPrefix(p, module+"/") }

// ring returns how far out a package lies; imports may only go inwards.
func ring(rel string) int {
	switch strings.Split(rel, "/")[0] {
	case "cmd", "bench":
		return 3
	case "adapters", "processors":
		return 2
	case "internal", "statestore":
		return 1
	default:
		return 0
	}
}

// allowedSideways are the edges inside the ring of adapters and processors that may exist: a shell and its own core.
func allowedSideways(from, to string) bool {
	if strings.HasPrefix(from, to+"/") || strings.HasPrefix(to, from+"/") {
		return true
	}
	fromDir, toDir := strings.Split(from, "/"), strings.Split(to, "/")
	if fromDir[0] == "adapters" {
		// Inside one adapter packages may build on each other; all of them on the ports in adapters itself.
		return len(toDir) == 1 && toDir[0] == "adapters" || len(fromDir) > 1 && len(toDir) > 1 && fromDir[0] == toDir[0] && fromDir[1] == toDir[1]
	}
	return slices.Contains([]string{"processors/reducer > processors/fold", "processors/orchestrator > processors/decide"}, from+" > "+to)
}

func TestImportsGoOneWay(t *testing.T) {
	t.Parallel()
	for _, p := range loaded(t) {
		from, ok := inside(p.PkgPath)
		if !ok {
			continue
		}
		for path := range p.Imports {
			to, ok := inside(path)
			if !ok {
				continue
			}
			switch {
			case ring(to) > ring(from):
				t.Errorf("%s imports %s: imports go cmd > adapters, processors > internal, statestore > schemas", from, to)
			case ring(from) == 2 && ring(to) == 2 && !allowedSideways(from, to):
				t.Errorf("%s imports its sibling %s: let them meet in cmd or in a port", from, to)
			}
		}
	}
}

func TestCoresReachNothingButLeaves(t *testing.T) {
	t.Parallel()
	for _, p := range loaded(t) {
		rel, _ := inside(p.PkgPath)
		if !slices.Contains(cores, rel) {
			continue
		}
		seen := map[string]bool{}
		var visit func(*packages.Package)
		visit = func(q *packages.Package) {
			for path, dep := range q.Imports {
				to, own := inside(path)
				if !own || seen[to] {
					continue
				}
				seen[to] = true
				if !slices.Contains(coreMayImport, to) {
					t.Errorf("core %s reaches %s: cores import only %s", rel, to, strings.Join(coreMayImport, ", "))
				}
				visit(dep)
			}
		}
		visit(p)
	}
}

// TestCoresArePlainFunctions finds goroutines, channels, selects, clocks, randomness and iteration over maps in cores. Where the
// order of a map cannot matter, collect the keys and sort them (slices.Sorted(maps.Keys(m))).
func TestCoresArePlainFunctions(t *testing.T) {
	t.Parallel()
	found := 0
	for _, p := range loaded(t) {
		rel, _ := inside(p.PkgPath)
		if !slices.Contains(cores, rel) {
			continue
		}
		found++
		for _, file := range p.Syntax {
			ast.Inspect(file, func(n ast.Node) bool {
				if what := impurity(p.TypesInfo, n); what != "" {
					t.Errorf("%s: %s in a core", position(p.Fset, n), what)
				}
				return true
			})
		}
	}
	if found != len(cores) {
		t.Errorf("found %d of the cores %v: a core was moved without telling this test", found, cores)
	}
}

func impurity(info *types.Info, n ast.Node) string {
	switch n := n.(type) {
	case *ast.GoStmt:
		return "a goroutine"
	case *ast.SelectStmt:
		return "a select"
	case *ast.ChanType:
		return "a channel"
	case *ast.RangeStmt:
		if tv, ok := info.Types[n.X]; ok {
			if _, isMap := tv.Type.Underlying().(*types.Map); isMap {
				return "iteration over a map"
			}
		}
	case *ast.SelectorExpr:
		obj := info.Uses[n.Sel]
		if obj == nil || obj.Pkg() == nil {
			return ""
		}
		f, isFunc := obj.(*types.Func)
		if !isFunc || f.Signature().Recv() != nil {
			return "" // a method, such as Time.After, reads no clock
		}
		name := obj.Pkg().Path() + "." + obj.Name()
		if slices.Contains([]string{
			"time.Now", "time.Since", "time.Until", "time.Sleep", "time.After", "time.NewTimer", "time.NewTicker",
			module + "/internal/event.NewID",
		}, name) {
			return name
		}
	}
	return ""
}

func position(fset *token.FileSet, n ast.Node) string {
	p := fset.Position(n.Pos())
	root, err := filepath.Abs("../..")
	if err != nil {
		return p.String()
	}
	if rel, err := filepath.Rel(root, p.Filename); err == nil {
		p.Filename = rel
	}
	return p.String()
}

func TestPackageNamesSayWhatTheyAre(t *testing.T) {
	t.Parallel()
	for _, p := range loaded(t) {
		if slices.Contains([]string{"util", "utils", "common", "helper", "helpers", "misc", "models", "types", "shared", "base"}, p.Name) {
			t.Errorf("package %s: name it for what it is", p.PkgPath)
		}
	}
}

func TestFilesStayReadable(t *testing.T) {
	t.Parallel()
	for _, p := range loaded(t) {
		for _, file := range p.GoFiles {
			if strings.HasSuffix(file, "_gen.go") {
				continue
			}
			if n := countLines(t, file); n > maxFileLines {
				t.Errorf("%s has %d lines, more than %d: which concept hides in it?", filepath.Base(file), n, maxFileLines)
			}
		}
	}
}

func countLines(t *testing.T, path string) int {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	n := 0
	for s := bufio.NewScanner(f); s.Scan(); {
		n++
	}
	return n
}

func TestEveryPartCarriesItsContract(t *testing.T) {
	t.Parallel()
	for _, dir := range []string{"processors/reducer", "processors/orchestrator", "adapters/postgres"} {
		matches, err := filepath.Glob(filepath.Join("../..", dir, "contract*.yaml"))
		if err != nil || len(matches) == 0 {
			t.Errorf("%s has no contract.yaml (%v)", dir, err)
		}
	}
}
