package main

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/regent-infra/regent/internal/event"
	"github.com/regent-infra/regent/internal/invariant"
	"github.com/regent-infra/regent/internal/strictyaml"
	"github.com/regent-infra/regent/schemas"
)

// commandFile is a command as a person or a program writes it, in YAML or JSON.
type commandFile struct {
	// Type is the record name, such as SwitchoverCluster.
	Type string
	// Cluster is the cluster id.
	Cluster string
	// ID is the command's id, a UUID; empty: a new one. The same id again is the same command.
	ID string
	// Payload is a pointer to the record.
	Payload any
}

// commandTypes are the payloads of the commands topics.
func commandTypes() []string {
	var names []string
	for _, t := range builtInCommands() {
		names = append(names, t.Payloads...)
	}
	slices.Sort(names)
	return names
}

// parseCommand reads a command file. All faults are reported together, with their lines.
func parseCommand(name string, raw []byte) (commandFile, error) {
	var tree map[string]any
	doc, faults := strictyaml.Decode(name, raw, &tree)
	f := &filler{doc: doc, faults: faults}
	var c commandFile
	known := []string{"type", "cluster", "id", "payload"}
	for _, key := range slices.Sorted(maps.Keys(tree)) {
		if !slices.Contains(known, key) {
			f.fault([]any{key}, "unknown field %q, expected type, cluster, id and payload", key)
		}
	}
	text := func(key string, required bool) string {
		value, given := tree[key]
		s, ok := value.(string)
		switch {
		case given && !ok:
			f.fault([]any{key}, "%s: found %v, expected text", key, value)
		case required && s == "" && len(tree) > 0:
			f.fault([]any{key}, "%s is missing", key)
		}
		return s
	}
	c.Type, c.Cluster, c.ID = text("type", true), text("cluster", true), text("id", false)
	if c.Type != "" && !slices.Contains(commandTypes(), c.Type) {
		f.fault([]any{"type"}, "%q is no command, expected one of %s", c.Type, strings.Join(commandTypes(), ", "))
	}
	if _, err := event.ParseClusterID(c.Cluster); c.Cluster != "" && err != nil {
		f.fault([]any{"cluster"}, "%v", err)
	}
	if c.ID != "" && !event.ValidID(c.ID) {
		f.fault([]any{"id"}, "%q is no UUID in canonical form", c.ID)
	}
	if c.Payload = schemas.NewRecord(c.Type); c.Payload != nil {
		if payload, given := tree["payload"]; given && payload != nil {
			f.fill(reflect.ValueOf(c.Payload).Elem(), payload, []any{"payload"})
		}
	}
	if err := faults.Err(); err != nil {
		return c, withCode(exitUsage, err)
	}
	return c, nil
}

// filler writes what YAML makes of a document into a record, strictly.
type filler struct {
	doc    *strictyaml.Document
	faults *strictyaml.Faults
}

func (f *filler) fault(path []any, format string, args ...any) {
	f.faults.Add(f.doc.Line(path...), format, args...)
}

func (f *filler) wrong(path []any, found any, expected string) {
	kind := fmt.Sprintf("%v", found)
	switch found.(type) {
	case map[string]any:
		kind = "a mapping"
	case []any:
		kind = "a list"
	case string:
		kind = fmt.Sprintf("text %q", found)
	}
	f.fault(path, "%s: found %s, expected %s", dotted(path), kind, expected)
}

func dotted(path []any) string {
	var b strings.Builder
	for i, step := range path {
		switch s := step.(type) {
		case int:
			fmt.Fprintf(&b, "[%d]", s)
		case string:
			if i > 0 {
				b.WriteByte('.')
			}
			b.WriteString(s)
		}
	}
	return b.String()
}

func (f *filler) fill(v reflect.Value, tree any, path []any) {
	switch {
	case v.Type() == reflect.TypeFor[time.Time]():
		f.fillTime(v, tree, path)
		return
	case v.Kind() == reflect.Pointer:
		if tree == nil {
			return
		}
		v.Set(reflect.New(v.Type().Elem()))
		f.fill(v.Elem(), tree, path)
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		f.fillStruct(v, tree, path)
	case reflect.Slice:
		list, ok := tree.([]any)
		if !ok {
			f.wrong(path, tree, "a list")
			return
		}
		v.Set(reflect.MakeSlice(v.Type(), len(list), len(list)))
		for i, item := range list {
			f.fill(v.Index(i), item, append(slices.Clone(path), i))
		}
	case reflect.String:
		s, ok := tree.(string)
		if !ok {
			f.wrong(path, tree, "text")
			return
		}
		if symbols, enum := enums()[v.Type().String()]; enum && !slices.Contains(symbols, s) {
			f.fault(path, "%s: %q, expected one of %s", dotted(path), s, strings.Join(symbols, ", "))
		}
		v.SetString(s)
	case reflect.Bool:
		if b, ok := tree.(bool); ok {
			v.SetBool(b)
			return
		}
		f.wrong(path, tree, "true or false")
	case reflect.Int32, reflect.Int64:
		n, ok := tree.(int)
		if !ok || v.OverflowInt(int64(n)) {
			f.wrong(path, tree, "a whole number")
			return
		}
		v.SetInt(int64(n))
	default:
		f.wrong(path, tree, "nothing: this field cannot be set in a file")
	}
}

// enums are the symbols of every enumeration of the schemas, by the name of its Go type.
var enums = sync.OnceValue(func() map[string][]string {
	all := map[string][]string{}
	files, err := fs.Glob(schemas.Files, "*.avsc")
	invariant.Assert(err == nil, "the embedded schemas can be listed: %v", err)
	for _, file := range files {
		var schema struct {
			Type    string   `json:"type"`
			Name    string   `json:"name"`
			Symbols []string `json:"symbols"`
		}
		raw, err := schemas.Files.ReadFile(file)
		if err == nil {
			err = json.Unmarshal(raw, &schema)
		}
		invariant.Assert(err == nil, "the embedded schema %s can be read: %v", file, err)
		if schema.Type == "enum" {
			all["schemas."+schema.Name] = schema.Symbols
		}
	}
	return all
})

func (f *filler) fillTime(v reflect.Value, tree any, path []any) {
	if at, ok := tree.(time.Time); ok {
		v.Set(reflect.ValueOf(at.UTC()))
		return
	}
	text, _ := tree.(string)
	at, err := time.Parse(time.RFC3339, text)
	if err != nil {
		f.wrong(path, tree, "a moment such as 2026-01-31T12:00:00Z")
		return
	}
	v.Set(reflect.ValueOf(at.UTC()))
}

func (f *filler) fillStruct(v reflect.Value, tree any, path []any) {
	mapping, ok := tree.(map[string]any)
	if !ok {
		f.wrong(path, tree, "a mapping")
		return
	}
	fields := map[string]int{}
	names := []string{}
	for i := range v.NumField() {
		name := v.Type().Field(i).Tag.Get("json")
		fields[name] = i
		names = append(names, name)
	}
	for _, key := range slices.Sorted(maps.Keys(mapping)) {
		here := append(slices.Clone(path), key)
		i, known := fields[key]
		if !known {
			f.fault(here, "unknown field %s, expected one of %s", dotted(here), strings.Join(names, ", "))
			continue
		}
		f.fill(v.Field(i), mapping[key], here)
	}
}
