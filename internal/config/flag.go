package config

import (
	"reflect"

	"github.com/spf13/pflag"

	"github.com/regent-infra/regent/internal/invariant"
)

// keyAnnotation ties a flag to the key that it sets.
const keyAnnotation = "regent_config_key"

// flagValue keeps what was typed; [Load] decodes it with the rest, so that all faults are reported together.
type flagValue struct {
	text string
	set  bool
	kind string
}

var _ pflag.Value = (*flagValue)(nil)

// String implements pflag.Value.
func (v *flagValue) String() string { return v.text }

// Set implements pflag.Value.
func (v *flagValue) Set(text string) error {
	if v.set && v.kind == "list" {
		v.text += "," + text
		return nil
	}
	v.text, v.set = text, true
	return nil
}

// Type implements pflag.Value.
func (v *flagValue) Type() string {
	switch v.kind {
	case "yes/no":
		return "bool"
	case "text", "secret":
		return "string"
	default:
		return v.kind
	}
}

// BindFlag adds the flag --name to flags, which sets key. Its usage and default are those of the setting. A secret has no flag: the
// process list would show it.
func BindFlag(flags *pflag.FlagSet, name, key string) {
	s, ok := find(key)
	invariant.Assert(ok && s.kind != typeSecret && key != contextsKey, "flag --%s sets a key that may have a flag, got %s", name, key)
	flags.Var(&flagValue{text: s.Default, kind: s.Type}, name, s.Doc)
	f := flags.Lookup(name)
	f.Annotations = map[string][]string{keyAnnotation: {key}}
	if s.kind.Kind() == reflect.Bool {
		f.NoOptDefVal = "true"
	}
}

func (l *loader) flags(flags *pflag.FlagSet) (values map[string]any, sources map[string]string) {
	values, sources = map[string]any{}, map[string]string{}
	if flags == nil {
		return values, sources
	}
	flags.VisitAll(func(f *pflag.Flag) {
		key := f.Annotations[keyAnnotation]
		if len(key) == 0 || !f.Changed {
			return
		}
		s, ok := find(key[0])
		invariant.Assert(ok, "a bound flag has a setting, got %s", key[0])
		l.accept(values, sources, s, f.Value.String(), "flag --"+f.Name)
	})
	return values, sources
}

// flatten writes every leaf of a Config under its key.
func flatten(c Config, values map[string]any) {
	var walk func(v reflect.Value, prefix string)
	walk = func(v reflect.Value, prefix string) {
		for i := range v.NumField() {
			field := v.Type().Field(i)
			key := prefix + field.Tag.Get("koanf")
			switch {
			case key == contextsKey:
			case field.Type.Kind() == reflect.Struct && field.Type != typeSecret:
				walk(v.Field(i), key+".")
			default:
				values[key] = v.Field(i).Interface()
			}
		}
	}
	walk(reflect.ValueOf(c), "")
}
