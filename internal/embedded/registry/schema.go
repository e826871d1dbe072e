package registry

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
)

// compact removes insignificant white space.
func compact(text string) (string, error) {
	var b bytes.Buffer
	if err := json.Compact(&b, []byte(text)); err != nil {
		return "", fmt.Errorf("schema is not JSON: %w", err)
	}
	return b.String(), nil
}

func parseJSON(text string) (any, error) {
	dec := json.NewDecoder(strings.NewReader(text))
	dec.UseNumber()
	var node any
	if err := dec.Decode(&node); err != nil {
		return nil, fmt.Errorf("schema is not JSON: %w", err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("schema is not JSON: something follows its end")
	}
	return node, nil
}

func encodeJSON(node any) (string, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(node); err != nil {
		return "", fmt.Errorf("encode schema: %w", err)
	}
	return strings.TrimSuffix(b.String(), "\n"), nil
}

// maxDepth bounds how deeply a schema may nest, references included.
const maxDepth = 200

// resolve returns a complete schema: each reference is replaced, where it is used first, by the schema that it names.
// lookup finds a referenced schema. The caller holds r.mu.
func (r *Registry) resolve(text string, refs []Reference) (string, error) {
	if len(refs) == 0 {
		return text, nil
	}
	node, err := parseJSON(text)
	if err != nil {
		return "", err
	}
	x := &inliner{defined: make(map[string]bool), refs: make(map[string]*definition)}
	if err := r.collect(x, refs, 0); err != nil {
		return "", err
	}
	if name := x.redefined(node, "", 0); name != "" {
		return "", fmt.Errorf("it defines %s, which a reference brings already", name)
	}
	if node, err = x.walk(node, "", 0); err != nil {
		return "", err
	}
	return encodeJSON(node)
}

// collect finds the referenced schemas, and those that they refer to.
func (r *Registry) collect(x *inliner, refs []Reference, depth int) error {
	if depth > maxDepth {
		return fmt.Errorf("references nest more than %d deep", maxDepth)
	}
	for _, ref := range refs {
		v := r.subjects[ref.Subject].find(ref.Version)
		if v == nil {
			return fmt.Errorf("reference %q: subject %q has no version %d", ref.Name, ref.Subject, ref.Version)
		}
		def := r.byID[v.id]
		if _, known := x.refs[ref.Name]; known {
			continue
		}
		x.refs[ref.Name] = def
		if err := r.collect(x, def.references, depth+1); err != nil {
			return err
		}
	}
	return nil
}

// inliner puts referenced definitions into a schema.
type inliner struct {
	refs    map[string]*definition // by full name
	defined map[string]bool        // full names defined so far
}

// fullName returns a type's full name in a namespace.
func fullName(name, namespace string) string {
	if namespace == "" || strings.Contains(name, ".") {
		return name
	}
	return namespace + "." + name
}

func (x *inliner) walk(node any, namespace string, depth int) (any, error) {
	if depth > maxDepth {
		return nil, fmt.Errorf("schema nests more than %d deep", maxDepth)
	}
	switch n := node.(type) {
	case string:
		return x.name(n, namespace, depth)
	case []any:
		for i := range n {
			var err error
			if n[i], err = x.walk(n[i], namespace, depth+1); err != nil {
				return nil, err
			}
		}
		return n, nil
	case map[string]any:
		return x.object(n, namespace, depth)
	default:
		return nil, fmt.Errorf("schema has a %T where a type is expected", node)
	}
}

// name replaces the first use of a referenced name by its definition.
func (x *inliner) name(name, namespace string, depth int) (any, error) {
	full := fullName(name, namespace)
	def := x.refs[full]
	if def == nil {
		if def = x.refs[name]; def == nil {
			return name, nil
		}
		full = name
	}
	if x.defined[full] {
		return full, nil
	}
	node, err := parseJSON(def.text)
	if err != nil {
		return nil, err
	}
	if o, ok := node.(map[string]any); ok && isNamed(o) {
		// A definition without a namespace must not take over the one around it.
		if s, _ := o["name"].(string); o["namespace"] == nil && !strings.Contains(s, ".") {
			o["namespace"] = ""
		}
	}
	return x.walk(node, "", depth+1)
}

func isNamed(o map[string]any) bool {
	switch o["type"] {
	case "record", "error", "enum", "fixed":
		return true
	}
	return false
}

// redefined returns the first full name that a schema defines although a reference names it, or "".
func (x *inliner) redefined(node any, namespace string, depth int) string {
	if depth > maxDepth {
		return "" // the walk says so
	}
	var inside []any
	switch n := node.(type) {
	case []any:
		inside = n
	case map[string]any:
		inside = append(inside, n["type"], n["items"], n["values"])
		if name, _ := n["name"].(string); isNamed(n) {
			namespace = namespaceOf(n, name, namespace)
			if full := fullName(name, namespace); x.refs[full] != nil {
				return full
			}
		}
		fields, _ := n["fields"].([]any)
		for _, f := range fields {
			if field, ok := f.(map[string]any); ok {
				inside = append(inside, field["type"])
			}
		}
	}
	for _, part := range inside {
		if name := x.redefined(part, namespace, depth+1); name != "" {
			return name
		}
	}
	return ""
}

// namespaceOf returns the namespace that a named type is in, and what it holds.
func namespaceOf(o map[string]any, name, enclosing string) string {
	if i := strings.LastIndexByte(name, '.'); i >= 0 {
		return name[:i]
	}
	if given, ok := o["namespace"].(string); ok {
		return given
	}
	return enclosing
}

func (x *inliner) object(o map[string]any, namespace string, depth int) (any, error) {
	var err error
	switch o["type"] {
	case "array":
		o["items"], err = x.walk(o["items"], namespace, depth+1)
		return o, err
	case "map":
		o["values"], err = x.walk(o["values"], namespace, depth+1)
		return o, err
	}
	if !isNamed(o) {
		o["type"], err = x.walk(o["type"], namespace, depth+1)
		return o, err
	}
	name, _ := o["name"].(string)
	namespace = namespaceOf(o, name, namespace)
	full := fullName(name, namespace)
	if x.defined[full] {
		return full, nil // several references may bring the same definition
	}
	x.defined[full] = true
	fields, _ := o["fields"].([]any)
	for _, f := range fields {
		field, ok := f.(map[string]any)
		if !ok {
			return nil, fmt.Errorf("record %s has a field that is not an object", full)
		}
		if field["type"], err = x.walk(field["type"], namespace, depth+1); err != nil {
			return nil, err
		}
	}
	return o, nil
}
