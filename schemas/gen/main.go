// Command gen turns the .avsc files of schemas/ into Go types and the code that reads and writes them, and lists the records, so that
// nothing of it is kept by hand. Run it through `make generate`; `gen -check` fails when the generated files are not current.
package main

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"go/ast"
	"go/format"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

func main() {
	dir := flag.String("dir", ".", "directory of the .avsc files")
	check := flag.Bool("check", false, "only compare with what is there")
	flag.Parse()
	if err := run(*dir, *check); err != nil {
		fmt.Fprintln(os.Stderr, "generate schemas:", err)
		os.Exit(1)
	}
}

// definition is one .avsc file: a named type and the names that it refers to.
type definition struct {
	file, name, kind string
	refs             []string
	symbols          []string
	fields           []field
}

type field struct {
	Name string          `json:"name"`
	Type json.RawMessage `json:"type"`
}

func run(dir string, check bool) error {
	files, err := generate(dir)
	if err != nil {
		return err
	}
	if check {
		return compare(dir, files)
	}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// generate returns the files that follow from the .avsc files of a directory.
func generate(dir string) (map[string][]byte, error) {
	defs, err := load(dir)
	if err != nil {
		return nil, err
	}
	ordered, err := sortByReference(defs)
	if err != nil {
		return nil, err
	}
	types, err := avrogen(dir, ordered)
	if err != nil {
		return nil, err
	}
	list, err := recordList(ordered)
	if err != nil {
		return nil, err
	}
	codec, err := avroCodec(ordered, types)
	if err != nil {
		return nil, err
	}
	return map[string][]byte{"types_gen.go": types, "records_gen.go": list, "avro_gen.go": codec}, nil
}

// compare says whether the files of a directory are the generated ones.
func compare(dir string, files map[string][]byte) error {
	for name, content := range files {
		have, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			return err
		}
		if !bytes.Equal(have, content) {
			return fmt.Errorf("%s is not current with the .avsc files: run `make generate`", name)
		}
	}
	return nil
}

func load(dir string) (map[string]definition, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*.avsc"))
	if err != nil {
		return nil, err
	}
	defs := make(map[string]definition, len(files))
	for _, file := range files {
		raw, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		var node map[string]any
		if err := json.Unmarshal(raw, &node); err != nil {
			return nil, fmt.Errorf("read %s: %w", file, err)
		}
		name, _ := node["name"].(string)
		kind, _ := node["type"].(string)
		d := definition{file: filepath.Base(file), name: name, kind: kind}
		collectRefs(node["fields"], &d.refs)
		var parts struct {
			Symbols []string `json:"symbols"`
			Fields  []field  `json:"fields"`
		}
		if err := json.Unmarshal(raw, &parts); err != nil {
			return nil, fmt.Errorf("read %s: %w", file, err)
		}
		d.symbols, d.fields = parts.Symbols, parts.Fields
		defs[name] = d
	}
	return defs, nil
}

// collectRefs finds every name that stands where a type stands.
func collectRefs(node any, refs *[]string) {
	switch n := node.(type) {
	case []any:
		for _, e := range n {
			if s, ok := e.(string); ok {
				*refs = append(*refs, s)
			}
			collectRefs(e, refs)
		}
	case map[string]any:
		for _, key := range []string{"type", "items", "values"} {
			if s, ok := n[key].(string); ok {
				*refs = append(*refs, s)
			}
			collectRefs(n[key], refs)
		}
	}
}

func sortByReference(defs map[string]definition) ([]definition, error) {
	names := make([]string, 0, len(defs))
	for name := range defs {
		names = append(names, name)
	}
	slices.Sort(names)
	var ordered []definition
	state := map[string]int{}
	var visit func(name string) error
	visit = func(name string) error {
		switch state[name] {
		case 1:
			return fmt.Errorf("%s refers to itself", name)
		case 2:
			return nil
		}
		state[name] = 1
		for _, ref := range defs[name].refs {
			if _, named := defs[ref]; named {
				if err := visit(ref); err != nil {
					return err
				}
			}
		}
		state[name] = 2
		ordered = append(ordered, defs[name])
		return nil
	}
	for _, name := range names {
		if err := visit(name); err != nil {
			return nil, err
		}
	}
	return ordered, nil
}

func avrogen(dir string, ordered []definition) ([]byte, error) {
	args := []string{
		"tool", "avrogen", "-pkg", "schemas", "-enums", "-strict-types", "-tags", "json:snake",
	}
	for _, d := range ordered {
		args = append(args, d.file)
	}
	cmd := exec.Command("go", args...)
	cmd.Dir = dir
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("run avrogen: %w: %s", err, strings.TrimSpace(stderr.String()))
	}
	return dropRepeated(out)
}

// dropRepeated keeps the first declaration of each name: avrogen declares an enum again wherever it is referred to.
func dropRepeated(source []byte) ([]byte, error) {
	fset := token.NewFileSet()
	file, err := parser.ParseFile(fset, "types_gen.go", source, parser.ParseComments)
	if err != nil {
		return nil, fmt.Errorf("read what avrogen wrote: %w", err)
	}
	seen := map[string]bool{}
	var b bytes.Buffer
	b.WriteString("// Code generated by schemas/gen from the .avsc files. DO NOT EDIT.\n\npackage schemas\n\n")
	for _, decl := range file.Decls {
		gen, ok := decl.(*ast.GenDecl)
		if !ok {
			continue
		}
		name := declaredName(gen)
		if seen[name] {
			continue
		}
		seen[name] = true
		start := gen.Pos()
		if gen.Doc != nil {
			start = gen.Doc.Pos()
		} else if gen.Tok == token.TYPE {
			fmt.Fprintf(&b, "// %s is described in its .avsc file.\n", name)
		}
		b.Write(source[fset.Position(start).Offset:fset.Position(gen.End()).Offset])
		b.WriteString("\n\n")
	}
	return format.Source(b.Bytes())
}

// declaredName returns the first name that a declaration introduces; imports share one.
func declaredName(gen *ast.GenDecl) string {
	switch spec := gen.Specs[0].(type) {
	case *ast.TypeSpec:
		return spec.Name.Name
	case *ast.ValueSpec:
		return spec.Names[0].Name
	default:
		return "import"
	}
}

func recordList(ordered []definition) ([]byte, error) {
	var b bytes.Buffer
	b.WriteString("// Code generated by schemas/gen. DO NOT EDIT.\n\npackage schemas\n\n")
	b.WriteString("// NewRecord returns a pointer to a zero value of the named record, or nil if there is none of that name.\n")
	b.WriteString("func NewRecord(name string) any {\n\tswitch name {\n")
	for _, d := range ordered {
		if d.kind == "record" {
			fmt.Fprintf(&b, "\tcase %q:\n\t\treturn new(%s)\n", d.name, d.name)
		}
	}
	b.WriteString("\t}\n\treturn nil\n}\n\n")
	b.WriteString("// RecordName returns the record name of a pointer to a generated type, or \"\" for anything else.\n")
	b.WriteString("func RecordName(v any) string {\n\tswitch v.(type) {\n")
	for _, d := range ordered {
		if d.kind == "record" {
			fmt.Fprintf(&b, "\tcase *%s:\n\t\treturn %q\n", d.name, d.name)
		}
	}
	b.WriteString("\t}\n\treturn \"\"\n}\n")
	return format.Source(b.Bytes())
}
