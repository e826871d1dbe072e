package config

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/knadh/koanf/providers/confmap"
	"github.com/knadh/koanf/providers/env/v2"
	"github.com/knadh/koanf/v2"
	"github.com/spf13/pflag"

	"github.com/regent-infra/regent/internal/invariant"
	"github.com/regent-infra/regent/internal/secret"
	"github.com/regent-infra/regent/internal/strictyaml"
)

// FileEnv names the configuration file in the environment.
const FileEnv = envPrefix + "CONFIG"

// testPrefix begins variables that steer tests of the project; they configure nothing.
const testPrefix = envPrefix + "TEST_"

// CacheEnv and RepositoryEnv say where published programs are kept and fetched from. internal/artifact reads them: they are the machine's, and no setting.
const (
	CacheEnv      = envPrefix + "CACHE"
	RepositoryEnv = envPrefix + "MAVEN_URL"
)

// Fault is one thing that is wrong with the configuration.
type Fault struct {
	// Source says where it comes from: a file with its line, an environment variable, a flag.
	Source string
	// Text says what is wrong, what was expected, and a hint.
	Text string
}

// Faults is everything that is wrong with the configuration.
type Faults []Fault

// Error implements error: one line per fault.
func (f Faults) Error() string {
	var b strings.Builder
	noun := "faults"
	if len(f) == 1 {
		noun = "fault"
	}
	fmt.Fprintf(&b, "read the configuration: %d %s", len(f), noun)
	for _, fault := range f {
		fmt.Fprintf(&b, "\n  %s: %s", fault.Source, fault.Text)
	}
	return b.String()
}

// Options says where the configuration comes from.
type Options struct {
	// File to read; empty: REGENT_CONFIG, else [DefaultFile] if there is one.
	File string
	// Environ is the environment as os.Environ returns it.
	Environ []string
	// Flags holds flags that were added by [BindFlag]; may be nil.
	Flags *pflag.FlagSet
	// Home is the user's configuration directory, for [DefaultFile]; empty for none.
	Home string
}

// Loaded is a configuration with the origin of each value.
type Loaded struct {
	Config
	// File that was read; empty if none was.
	File string

	sources map[string]string
	values  *koanf.Koanf
	secrets map[string]secret.Value
}

// DefaultFile returns the file that is read when none is named.
func DefaultFile(home string) string { return filepath.Join(home, "regent", "config.yaml") }

// SourceDefault is the source of a value that nothing sets.
const SourceDefault = "default"

// Source says where the value of key comes from.
func (l *Loaded) Source(key string) string {
	if s, ok := l.sources[key]; ok {
		return s
	}
	return SourceDefault
}

// Value returns the value of key as text, secrets masked.
func (l *Loaded) Value(key string) string {
	if v, ok := l.secrets[key]; ok {
		return Format(v)
	}
	if key == contextsKey {
		return Format(l.Contexts)
	}
	return Format(l.values.Get(key))
}

// Set reports whether anything but the defaults sets key.
func (l *Loaded) Set(key string) bool { return l.Source(key) != SourceDefault }

// loader gathers layers. Each layer is decoded and checked key by key; koanf merges what is left. Secrets stay out of koanf, which copies
// and prints what it holds.
type loader struct {
	faults  Faults
	values  *koanf.Koanf
	secrets map[string]secret.Value
	sources map[string]string
}

// Load reads every layer. The error is a [Faults] with everything that is wrong, or says that the file cannot be read.
func Load(o Options) (*Loaded, error) {
	l := &loader{values: koanf.New("."), secrets: map[string]secret.Value{}, sources: map[string]string{}}
	l.defaults()
	environ, envSources := l.environment(o.Environ)
	flags, flagSources := l.flags(o.Flags)

	file, explicit := o.File, true
	if file == "" {
		file = lookup(o.Environ, FileEnv)
	}
	if file == "" && o.Home != "" {
		file, explicit = DefaultFile(o.Home), false
	}
	inFile, fileSources, contexts, read, err := l.file(file, explicit)
	if err != nil {
		return nil, err
	}
	l.context(contexts, file, inFile, environ, flags)
	l.merge(inFile, fileSources)
	l.merge(environ, envSources)
	l.merge(flags, flagSources)
	if len(l.faults) > 0 {
		return nil, l.faults
	}

	loaded := &Loaded{sources: l.sources, values: l.values, secrets: l.secrets}
	if read {
		loaded.File = file
	}
	if err := l.values.Unmarshal("", &loaded.Config); err != nil {
		invariant.Assert(false, "values that were decoded fit their fields: %v", err)
	}
	for key, value := range l.secrets {
		fieldOf(reflect.ValueOf(&loaded.Config).Elem(), strings.Split(key, ".")).Set(reflect.ValueOf(value))
	}
	loaded.Contexts = contexts
	return loaded, nil
}

// fieldOf follows the koanf tags of path.
func fieldOf(v reflect.Value, path []string) reflect.Value {
	for _, name := range path {
		for i := range v.NumField() {
			if v.Type().Field(i).Tag.Get("koanf") == name {
				v = v.Field(i)
				break
			}
		}
	}
	return v
}

func lookup(environ []string, name string) string {
	for _, pair := range environ {
		if value, ok := strings.CutPrefix(pair, name+"="); ok {
			return value
		}
	}
	return ""
}

func (l *loader) fault(source, format string, args ...any) {
	l.faults = append(l.faults, Fault{Source: source, Text: fmt.Sprintf(format, args...)})
}

func (l *loader) defaults() {
	values := map[string]any{}
	flatten(Default(), values)
	l.merge(values, nil)
}

func (l *loader) merge(values map[string]any, sources map[string]string) {
	for key, value := range values {
		if s, ok := value.(secret.Value); ok {
			l.secrets[key] = s
			delete(values, key)
		}
	}
	err := l.values.Load(confmap.Provider(values, "."), nil)
	invariant.Assert(err == nil, "a map in memory can be loaded: %v", err)
	maps.Copy(l.sources, sources)
}

// accept decodes and checks one value and notes faults.
func (l *loader) accept(values map[string]any, sources map[string]string, s Setting, raw any, source string) {
	value, err := s.decode(raw)
	if err == nil {
		err = s.check(value)
	}
	if err != nil {
		l.fault(source, "%s: %v", s.Key, err)
		return
	}
	values[s.Key], sources[s.Key] = value, source
}

func (l *loader) environment(environ []string) (values map[string]any, sources map[string]string) {
	values, sources = map[string]any{}, map[string]string{}
	byEnv := map[string]Setting{}
	names := []string{}
	for _, s := range settings {
		if s.Env != "" {
			byEnv[s.Env] = s
			names = append(names, s.Env)
		}
	}
	own := koanf.New("")
	provider := env.Provider("", env.Opt{Prefix: envPrefix, EnvironFunc: func() []string { return environ }})
	err := own.Load(provider, nil)
	invariant.Assert(err == nil, "the environment can be loaded: %v", err)
	for _, name := range slices.Sorted(maps.Keys(own.Raw())) {
		if name == FileEnv || name == CacheEnv || name == RepositoryEnv || strings.HasPrefix(name, testPrefix) {
			continue
		}
		s, known := byEnv[name]
		if !known {
			l.fault("environment", "unknown variable %s%s", name, didYouMean(name, names))
			continue
		}
		l.accept(values, sources, s, own.Raw()[name], "environment variable "+name)
	}
	return values, sources
}

func (l *loader) file(name string, explicit bool) (values map[string]any, sources map[string]string, contexts map[string]Context, read bool, err error) {
	values, sources, contexts = map[string]any{}, map[string]string{}, map[string]Context{}
	if name == "" {
		return values, sources, contexts, false, nil
	}
	raw, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) && !explicit {
		return values, sources, contexts, false, nil
	}
	if err != nil {
		return nil, nil, nil, false, fmt.Errorf("read the configuration: %w; name a YAML file that this user may read", err)
	}
	var tree map[string]any
	doc, faults := strictyaml.Decode(name, raw, &tree)
	for _, f := range faults.List {
		if len(raw) > 0 && !blank(raw) {
			l.fault(position(name, f.Line), "%s", f.Text)
		}
	}
	mine := &loader{}
	w := &walker{loader: mine, doc: doc, name: name, values: values, sources: sources, contexts: contexts}
	w.walk(tree, nil)
	slices.SortStableFunc(mine.faults, func(a, b Fault) int { return lineOf(a) - lineOf(b) })
	l.faults = append(l.faults, mine.faults...)
	return values, sources, contexts, true, nil
}

// blank reports whether a file has nothing but white space and comments, which is a configuration like any other.
func blank(raw []byte) bool {
	for line := range strings.Lines(string(raw)) {
		line = strings.TrimSpace(line)
		if line != "" && line != "---" && !strings.HasPrefix(line, "#") {
			return false
		}
	}
	return true
}

func position(name string, line int) string {
	if line > 0 {
		return fmt.Sprintf("%s line %d", name, line)
	}
	return name
}

// lineOf returns the line at the end of a fault's source, or 0.
func lineOf(f Fault) int {
	line, _ := strconv.Atoi(f.Source[strings.LastIndex(f.Source, " ")+1:])
	return line
}

// walker goes through the tree of a file.
type walker struct {
	*loader
	doc      *strictyaml.Document
	name     string
	values   map[string]any
	sources  map[string]string
	contexts map[string]Context
}

func (w *walker) at(path []string) string {
	steps := make([]any, len(path))
	for i, p := range path {
		steps[i] = p
	}
	return position(w.name, w.doc.Line(steps...))
}

func (w *walker) walk(tree map[string]any, path []string) {
	for _, name := range slices.Sorted(maps.Keys(tree)) {
		here := append(slices.Clone(path), name)
		key := strings.Join(here, ".")
		s, leaf := find(key)
		switch {
		case key == contextsKey:
			w.walkContexts(tree[name])
		case leaf:
			w.accept(w.values, w.sources, s, tree[name], w.at(here))
		case isSection(key):
			section, ok := tree[name].(map[string]any)
			if tree[name] != nil && !ok {
				w.fault(w.at(here), "%s: found %s, expected a mapping", key, yamlKind(tree[name]))
			}
			w.walk(section, here)
		default:
			w.fault(w.at(here), "unknown key %s%s", key, didYouMean(key, knownKeys()))
		}
	}
}

func (w *walker) walkContexts(raw any) {
	tree, ok := raw.(map[string]any)
	if raw != nil && !ok {
		w.fault(w.at([]string{contextsKey}), "contexts: found %s, expected a mapping of names to addresses", yamlKind(raw))
	}
	fields := []string{"server", "brokers", "registry"}
	for _, name := range slices.Sorted(maps.Keys(tree)) {
		here := []string{contextsKey, name}
		section, ok := tree[name].(map[string]any)
		if !ok {
			w.fault(w.at(here), "contexts.%s: found %s, expected a mapping with server, brokers and registry", name, yamlKind(tree[name]))
			continue
		}
		values, sources := map[string]any{}, map[string]string{}
		for _, field := range slices.Sorted(maps.Keys(section)) {
			at := w.at(append(slices.Clone(here), field))
			if !slices.Contains(fields, field) {
				w.fault(at, "unknown key contexts.%s.%s%s", name, field, didYouMean(field, fields))
				continue
			}
			s, _ := find(field)
			s.Key = "contexts." + name + "." + field
			w.accept(values, sources, s, section[field], at)
			values[field] = values[s.Key]
		}
		server, _ := values["server"].(string)
		brokers, _ := values["brokers"].([]string)
		registry, _ := values["registry"].(string)
		w.contexts[name] = Context{Server: server, Brokers: brokers, Registry: registry}
	}
	w.sources[contextsKey] = w.at([]string{contextsKey})
}

// context puts the addresses of the context in force between the defaults and the file.
func (l *loader) context(contexts map[string]Context, file string, layers ...map[string]any) {
	name := ""
	for _, layer := range layers {
		if selected, ok := layer["context"].(string); ok {
			name = selected
		}
	}
	if name == "" {
		return
	}
	c, ok := contexts[name]
	if !ok {
		names := slices.Sorted(maps.Keys(contexts))
		known := "there are none in " + orNone(file)
		if len(names) > 0 {
			known = "expected one of " + strings.Join(names, ", ") + didYouMean(name, names)
		}
		l.fault("context", "unknown context %q, %s", name, known)
		return
	}
	values, sources := map[string]any{}, map[string]string{}
	set := func(key string, value any, isSet bool) {
		if isSet {
			values[key], sources[key] = value, "context "+name
		}
	}
	set("server", c.Server, c.Server != "")
	set("brokers", c.Brokers, len(c.Brokers) > 0)
	set("registry", c.Registry, c.Registry != "")
	l.merge(values, sources)
}

func orNone(file string) string {
	if file == "" {
		return "any file: name one with --config"
	}
	return file
}

func isSection(key string) bool {
	return slices.ContainsFunc(settings, func(s Setting) bool { return strings.HasPrefix(s.Key, key+".") })
}

func knownKeys() []string {
	keys := []string{}
	for _, s := range settings {
		if section, _, ok := strings.Cut(s.Key, "."); ok && !slices.Contains(keys, section) {
			keys = append(keys, section)
		}
		keys = append(keys, s.Key)
	}
	return keys
}
