package registry

import "maps"

// canonicalSchema returns the text under which equal schemas are equal, however they were written: the keys of objects are sorted, names are full
// names, a type in an object of its own is that type, and what Avro assumes anyway (ascending order, no aliases) is left out. Documentation, defaults
// and properties stay: a schema that differs in these is another one, as it is for Confluent's registry.
//
// The text is JSON of a schema that means the same. What it does not know it leaves as it is.
func canonicalSchema(text string) (string, error) {
	node, err := parseJSON(text)
	if err != nil {
		return "", err
	}
	return encodeJSON(canonicalType(node, "", 0))
}

var primitives = map[string]bool{
	"null": true, "boolean": true, "int": true, "long": true, "float": true, "double": true, "bytes": true, "string": true,
}

// canonicalType returns a type as it is written canonically inside a namespace.
func canonicalType(node any, namespace string, depth int) any {
	if depth > maxDepth {
		return node // the check of the schema refuses it
	}
	switch n := node.(type) {
	case string:
		if primitives[n] {
			return n
		}
		return fullName(n, namespace)
	case []any:
		out := make([]any, len(n))
		for i, branch := range n {
			out[i] = canonicalType(branch, namespace, depth+1)
		}
		return out
	case map[string]any:
		return canonicalObject(n, namespace, depth)
	default:
		return node
	}
}

func canonicalObject(o map[string]any, namespace string, depth int) any {
	if len(o) == 1 && o["type"] != nil {
		return canonicalType(o["type"], namespace, depth+1)
	}
	out := maps.Clone(o)
	switch o["type"] {
	case "array":
		out["items"] = canonicalType(o["items"], namespace, depth+1)
		return out
	case "map":
		out["values"] = canonicalType(o["values"], namespace, depth+1)
		return out
	}
	name, _ := o["name"].(string)
	if !isNamed(o) || name == "" {
		return out
	}
	enclosing := namespace
	delete(out, "namespace")
	namespace = namespaceOf(o, name, namespace)
	out["name"] = fullName(name, namespace)
	if namespace == "" && enclosing != "" {
		out["namespace"] = "" // or the one around it would be taken
	}
	canonicalAliases(out, namespace)
	if fields, ok := o["fields"].([]any); ok {
		canonical := make([]any, len(fields))
		for i, f := range fields {
			canonical[i] = canonicalField(f, namespace, depth+1)
		}
		out["fields"] = canonical
	}
	return out
}

func canonicalField(node any, namespace string, depth int) any {
	field, ok := node.(map[string]any)
	if !ok {
		return node
	}
	out := maps.Clone(field)
	out["type"] = canonicalType(field["type"], namespace, depth+1)
	if out["order"] == "ascending" {
		delete(out, "order")
	}
	if aliases, ok := out["aliases"].([]any); ok && len(aliases) == 0 {
		delete(out, "aliases")
	}
	return out
}

// canonicalAliases makes the aliases of a named type full names.
func canonicalAliases(out map[string]any, namespace string) {
	aliases, ok := out["aliases"].([]any)
	if !ok {
		return
	}
	if len(aliases) == 0 {
		delete(out, "aliases")
		return
	}
	full := make([]any, len(aliases))
	for i, a := range aliases {
		full[i] = a
		if name, ok := a.(string); ok {
			full[i] = fullName(name, namespace)
		}
	}
	out["aliases"] = full
}
