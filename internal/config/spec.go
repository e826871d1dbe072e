package config

import (
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/regent-infra/regent/internal/invariant"
	"github.com/regent-infra/regent/internal/secret"
)

// Setting describes one key.
type Setting struct {
	// Key is the path, dots between its parts.
	Key string
	// Env is the environment variable that sets it; empty if none does.
	Env string
	// Type is the kind of value, for people: text, list, yes/no, number, size, duration, secret, contexts.
	Type string
	// Doc says what it is for.
	Doc string
	// Unit says what it counts; empty for most.
	Unit string
	// Check is the raw check tag.
	Check string
	// Default is its default, as it would be written.
	Default string

	kind reflect.Type
}

var (
	typeDuration = reflect.TypeFor[time.Duration]()
	typeSize     = reflect.TypeFor[Size]()
	typeSecret   = reflect.TypeFor[secret.Value]()
	typeList     = reflect.TypeFor[[]string]()
	typeContexts = reflect.TypeFor[map[string]Context]()
)

// contextsKey is the one key whose value is no leaf.
const contextsKey = "contexts"

// envPrefix begins every environment variable of Regent.
const envPrefix = "REGENT_"

var settings = collect(reflect.ValueOf(Default()), "")

// Settings returns every key, in the order of their declaration.
func Settings() []Setting { return slices.Clone(settings) }

func find(key string) (Setting, bool) {
	i := slices.IndexFunc(settings, func(s Setting) bool { return s.Key == key })
	if i < 0 {
		return Setting{}, false
	}
	return settings[i], true
}

func collect(v reflect.Value, prefix string) []Setting {
	var all []Setting
	for i := range v.NumField() {
		field := v.Type().Field(i)
		key := prefix + field.Tag.Get("koanf")
		if field.Type.Kind() == reflect.Struct && field.Type != typeSecret {
			all = append(all, collect(v.Field(i), key+".")...)
			continue
		}
		s := Setting{
			Key: key, Doc: field.Tag.Get("doc"), Unit: field.Tag.Get("unit"), Check: field.Tag.Get("check"),
			Type: typeName(field.Type), Default: Format(v.Field(i).Interface()), kind: field.Type,
		}
		if key != contextsKey {
			s.Env = envPrefix + strings.ToUpper(strings.ReplaceAll(key, ".", "_"))
		}
		all = append(all, s)
	}
	return all
}

func typeName(t reflect.Type) string {
	switch t {
	case typeDuration:
		return "duration"
	case typeSize:
		return "size"
	case typeSecret:
		return "secret"
	case typeList:
		return "list"
	case typeContexts:
		return "contexts"
	}
	switch t.Kind() {
	case reflect.String:
		return "text"
	case reflect.Bool:
		return "yes/no"
	case reflect.Int64:
		return "number"
	default:
		invariant.Assert(false, "a config field has one of the known types, found %s", t)
		return ""
	}
}

// Format writes a value of a setting as a person would; a secret is masked.
func Format(v any) string {
	switch v := v.(type) {
	case string:
		return v
	case []string:
		return strings.Join(v, ",")
	case time.Duration:
		return v.String()
	case Size:
		return v.String()
	case map[string]Context:
		names := make([]string, 0, len(v))
		for name := range v {
			names = append(names, name)
		}
		slices.Sort(names)
		return strings.Join(names, ",")
	default:
		return fmt.Sprint(v)
	}
}

// decode turns what a source gives (text, or what YAML makes of it) into a value of the setting's type.
func (s Setting) decode(raw any) (any, error) {
	text, isText := raw.(string)
	switch s.kind {
	case typeList:
		return decodeList(raw)
	case typeDuration:
		if d, err := time.ParseDuration(text); isText && err == nil {
			return d, nil
		}
		return nil, wrongType(raw, "a duration such as 500ms, 5s or 2m")
	case typeSize:
		if size, err := ParseSize(fmt.Sprint(raw)); err == nil {
			return size, nil
		}
		return nil, wrongType(raw, "a size such as 1048576 or 64MiB")
	case typeSecret:
		if isText {
			return secret.New(text), nil
		}
		return nil, fmt.Errorf("found %s, expected text in quotes", yamlKind(raw))
	}
	switch s.kind.Kind() {
	case reflect.Bool:
		if b, ok := raw.(bool); ok {
			return b, nil
		}
		if b, err := strconv.ParseBool(text); isText && err == nil {
			return b, nil
		}
		return nil, wrongType(raw, "true or false")
	case reflect.Int64:
		if n, err := strconv.ParseInt(fmt.Sprint(raw), 10, 64); err == nil {
			return n, nil
		}
		return nil, wrongType(raw, "a whole number")
	default:
		if isText {
			return text, nil
		}
		// A version such as 17 or a node named 1 is text, though YAML reads a number.
		if _, isInt := raw.(int); isInt {
			return fmt.Sprint(raw), nil
		}
		return nil, wrongType(raw, "text")
	}
}

func decodeList(raw any) (any, error) {
	switch raw := raw.(type) {
	case string:
		list := []string{}
		for part := range strings.SplitSeq(raw, ",") {
			if part = strings.TrimSpace(part); part != "" {
				list = append(list, part)
			}
		}
		return list, nil
	case []string:
		return raw, nil
	case []any:
		list := make([]string, 0, len(raw))
		for _, item := range raw {
			text, ok := item.(string)
			if !ok {
				return nil, wrongType(item, "a list of texts")
			}
			list = append(list, text)
		}
		return list, nil
	default:
		return nil, wrongType(raw, "a list")
	}
}

func wrongType(raw any, expected string) error {
	return fmt.Errorf("found %s, expected %s", yamlKind(raw), expected)
}

func yamlKind(raw any) string {
	switch raw := raw.(type) {
	case nil:
		return "nothing"
	case string:
		return fmt.Sprintf("text %q", raw)
	case bool:
		return fmt.Sprintf("the truth value %t", raw)
	case []any, []string:
		return "a list"
	case map[string]any:
		return "a mapping"
	default:
		return fmt.Sprintf("the number %v", raw)
	}
}

var sizeUnits = []struct {
	name  string
	bytes int64
}{{"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}, {"B", 1}, {"", 1}}

// ParseSize reads a size: a number of bytes, or a number with KiB, MiB or GiB.
func ParseSize(text string) (Size, error) {
	for _, unit := range sizeUnits {
		digits, ok := strings.CutSuffix(text, unit.name)
		if !ok {
			continue
		}
		n, err := strconv.ParseInt(strings.TrimSpace(digits), 10, 64)
		if err == nil && n >= 0 && n <= (1<<62)/unit.bytes {
			return Size(n * unit.bytes), nil
		}
		break
	}
	return 0, fmt.Errorf("parse size %q: expected a number of bytes, or one with KiB, MiB or GiB", text)
}

// String writes the size with the largest unit that divides it.
func (s Size) String() string {
	for _, unit := range sizeUnits[:3] {
		if s != 0 && int64(s)%unit.bytes == 0 {
			return fmt.Sprintf("%d%s", int64(s)/unit.bytes, unit.name)
		}
	}
	return strconv.FormatInt(int64(s), 10)
}
