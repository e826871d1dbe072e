package replay

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
)

// Change is one field of a value that differs between two moments.
type Change struct {
	// Path leads to the field: names with dots between, elements of lists in brackets, by their node or name where they have one.
	Path string `json:"path"`
	// Old and New are the values, as JSON has them; nil where the field was not there.
	Old any `json:"old"`
	New any `json:"new"`
}

// Diff compares two values field by field, as JSON has them, in the order of the paths. Nil stands for a value that is not there.
func Diff(before, after any) ([]Change, error) {
	a, err := plain(before)
	if err != nil {
		return nil, err
	}
	b, err := plain(after)
	if err != nil {
		return nil, err
	}
	var out []Change
	diff("", a, b, &out)
	return out, nil
}

// plain turns a value into maps, lists and scalars.
func plain(v any) (any, error) {
	raw, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("compare %T: %w", v, err)
	}
	var out any
	if err := json.Unmarshal(raw, &out); err != nil {
		return nil, fmt.Errorf("compare %T: %w", v, err)
	}
	return out, nil
}

func diff(path string, a, b any, out *[]Change) {
	fieldsA, okA := fields(path, a)
	fieldsB, okB := fields(path, b)
	if !okA && !okB || okA != okB && a != nil && b != nil {
		if x, y := text(a), text(b); x != y {
			*out = append(*out, Change{Path: path, Old: a, New: b})
		}
		return
	}
	if len(fieldsA) == 0 && len(fieldsB) == 0 && text(a) != text(b) {
		*out = append(*out, Change{Path: path, Old: a, New: b}) // an empty list or object against none
		return
	}
	keys := slices.Collect(maps.Keys(fieldsA))
	for k := range fieldsB {
		if _, ok := fieldsA[k]; !ok {
			keys = append(keys, k)
		}
	}
	slices.Sort(keys)
	for _, k := range keys {
		diff(k, fieldsA[k], fieldsB[k], out)
	}
}

func text(v any) string {
	raw, err := json.Marshal(v)
	if err != nil {
		return fmt.Sprint(v)
	}
	return string(raw)
}

// fields are the parts of an object or a list by their paths; ok is false for what has none.
func fields(path string, v any) (map[string]any, bool) {
	out := map[string]any{}
	switch v := v.(type) {
	case map[string]any:
		for name, field := range v {
			if path != "" {
				name = path + "." + name
			}
			out[name] = field
		}
	case []any:
		for i, element := range v {
			name := identity(element)
			at := fmt.Sprintf("%s[%s]", path, name)
			if _, taken := out[at]; taken || name == "" {
				at = fmt.Sprintf("%s[%d]", path, i)
			}
			out[at] = element
		}
	default:
		return nil, false
	}
	return out, true
}

// identity is what tells an element of a list apart, however the list is ordered; empty if nothing does.
func identity(v any) string {
	object, ok := v.(map[string]any)
	if !ok {
		return ""
	}
	for _, name := range []string{"node", "name", "resource", "id"} {
		if s, ok := object[name].(string); ok && s != "" {
			return s
		}
	}
	return ""
}
