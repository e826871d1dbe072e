// Package strictyaml reads the YAML files that Regent ships and takes from people, and reports every fault of a file
// together, each with its line.
//
// [Decode] refuses what a lenient reader lets pass: an unknown field, a value of the wrong type, a key given twice, a second
// document. What it cannot know (a name that must resolve, a number out of range) the caller adds to the same [Faults] with
// the line that [Document.Line] finds, so that a person mends a file in one go:
//
//	var f file
//	doc, faults := strictyaml.Decode("topics.yaml", raw, &f)
//	for i, t := range f.Topics {
//		if t.Partitions < 1 {
//			faults.Add(doc.Line("topics", i, "partitions"), "partitions is %d, expected at least 1", t.Partitions)
//		}
//	}
//	return faults.Err()
//
// Invariants: (1) input of any kind ends in faults, never in a panic; (2) the order of faults is that of their lines.
package strictyaml

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// MaxBytes is the largest file that is read at all.
const MaxBytes = 1 << 20

// Fault is one thing that is wrong with a file.
type Fault struct {
	// Line counts from 1; 0 where no line is to blame.
	Line int
	// Text says what is wrong and what was expected.
	Text string
}

// Faults is everything that is wrong with one file. It is an error; use [Faults.Err] to return it.
type Faults struct {
	// File names the file for people.
	File string
	// List is sorted by line.
	List []Fault
}

// Add notes a fault at a line.
func (f *Faults) Add(line int, format string, args ...any) {
	f.List = append(f.List, Fault{Line: line, Text: fmt.Sprintf(format, args...)})
	slices.SortStableFunc(f.List, func(a, b Fault) int { return a.Line - b.Line })
}

// Err returns f, or nil if there is no fault.
func (f *Faults) Err() error {
	if f == nil || len(f.List) == 0 {
		return nil
	}
	return f
}

// Error implements error: one line per fault.
func (f *Faults) Error() string {
	var b strings.Builder
	noun := "faults"
	if len(f.List) == 1 {
		noun = "fault"
	}
	fmt.Fprintf(&b, "read %s: %d %s:", f.File, len(f.List), noun)
	for _, fault := range f.List {
		if fault.Line > 0 {
			fmt.Fprintf(&b, "\n  line %d: %s", fault.Line, fault.Text)
			continue
		}
		fmt.Fprintf(&b, "\n  %s", fault.Text)
	}
	return b.String()
}

// Document finds the lines of a decoded file.
type Document struct{ root *yaml.Node }

// Line returns the line of the value at path, whose elements are mapping keys (string) and sequence indexes (int). If the path
// leads nowhere, it is the line of the last part that exists.
func (d *Document) Line(path ...any) int {
	if d == nil || d.root == nil {
		return 0
	}
	node, line := d.root, d.root.Line
	for _, step := range path {
		if node.Kind == yaml.AliasNode && node.Alias != nil {
			node = node.Alias
		}
		next := child(node, step)
		if next == nil {
			return line
		}
		node, line = next, next.Line
	}
	return line
}

func child(node *yaml.Node, step any) *yaml.Node {
	switch s := step.(type) {
	case int:
		if node.Kind == yaml.SequenceNode && s >= 0 && s < len(node.Content) {
			return node.Content[s]
		}
	case string:
		if node.Kind != yaml.MappingNode {
			return nil
		}
		for i := 0; i+1 < len(node.Content); i += 2 {
			if node.Content[i].Value == s {
				return node.Content[i+1]
			}
		}
	}
	return nil
}

// Decode reads raw into out, which must be a pointer to a struct with yaml tags. The faults are never nil, and may be empty. What could be
// decoded is in out even if there are faults.
func Decode(file string, raw []byte, out any) (doc *Document, faults *Faults) {
	faults = &Faults{File: file}
	doc = &Document{}
	if len(raw) > MaxBytes {
		faults.Add(0, "the file has %d bytes, expected at most %d", len(raw), MaxBytes)
		return doc, faults
	}
	defer func() {
		if r := recover(); r != nil {
			faults.Add(0, "the YAML parser gave up: %v", r)
		}
	}()

	var root yaml.Node
	if err := yaml.Unmarshal(raw, &root); err != nil {
		addParserErrors(faults, err)
		return doc, faults
	}
	if len(root.Content) == 0 {
		faults.Add(0, "the file is empty")
		return doc, faults
	}
	doc.root = root.Content[0]

	decoder := yaml.NewDecoder(bytes.NewReader(raw))
	decoder.KnownFields(true)
	if err := decoder.Decode(out); err != nil {
		addParserErrors(faults, err)
	}
	var more yaml.Node
	if err := decoder.Decode(&more); !errors.Is(err, io.EOF) && len(faults.List) == 0 {
		faults.Add(more.Line, "a second document follows, expected one")
	}
	return doc, faults
}

var (
	atLine       = regexp.MustCompile(`^(?:yaml: )?line (\d+): (.*)$`)
	unknownField = regexp.MustCompile(`^field (\S+) not found in type \S+$`)
	wrongType    = regexp.MustCompile("^cannot unmarshal !!(\\w+)(?: `(.*)`)? into (.+)$")
)

func addParserErrors(faults *Faults, err error) {
	texts := []string{err.Error()}
	var typed *yaml.TypeError
	if errors.As(err, &typed) {
		texts = typed.Errors
	}
	for _, text := range texts {
		line := 0
		if m := atLine.FindStringSubmatch(text); m != nil {
			line, _ = strconv.Atoi(m[1])
			text = m[2]
		}
		faults.Add(line, "%s", plain(strings.TrimPrefix(text, "yaml: ")))
	}
}

// plain turns the parser's words, which speak of Go, into words about the file.
func plain(text string) string {
	if m := unknownField.FindStringSubmatch(text); m != nil {
		return fmt.Sprintf("unknown field %q", m[1])
	}
	if m := wrongType.FindStringSubmatch(text); m != nil {
		found := yamlName(m[1])
		if m[2] != "" {
			found = fmt.Sprintf("%s %q", found, m[2])
		}
		return fmt.Sprintf("found %s, expected %s", found, goName(m[3]))
	}
	return text
}

func yamlName(tag string) string {
	switch tag {
	case "seq":
		return "a list"
	case "map":
		return "a mapping"
	case "str":
		return "text"
	case "int":
		return "the whole number"
	case "float":
		return "the number"
	case "bool":
		return "the truth value"
	case "null":
		return "nothing"
	default:
		return tag
	}
}

func goName(name string) string {
	switch {
	case strings.HasPrefix(name, "[]"):
		return "a list"
	case strings.HasPrefix(name, "map["):
		return "a mapping"
	case strings.HasPrefix(name, "int"), strings.HasPrefix(name, "uint"):
		return "a whole number (" + name + ")"
	case strings.HasPrefix(name, "float"):
		return "a number"
	case name == "bool":
		return "true or false"
	case name == "string":
		return "text"
	case name == "time.Duration":
		return "a duration such as 5s"
	default:
		return "a mapping"
	}
}
