package config

import (
	"errors"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"
	"pgregory.net/rapid"

	"github.com/regent-infra/regent/internal/artifact"
)

func write(t *testing.T, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "regent.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestEverySettingIsDocumentedAndItsDefaultIsValid(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for _, s := range Settings() {
		if s.Key == "" || s.Doc == "" || strings.HasSuffix(s.Key, ".") {
			t.Errorf("%+v: a key or a doc is missing", s)
		}
		if seen[s.Env] && s.Env != "" {
			t.Errorf("%s: two keys share %s", s.Key, s.Env)
		}
		seen[s.Env] = true
		if s.Key == contextsKey || s.kind == typeSecret {
			continue
		}
		value, err := s.decode(s.Default)
		if err == nil {
			err = s.check(value)
		}
		if err != nil {
			t.Errorf("%s: the default %q is not valid: %v", s.Key, s.Default, err)
		}
	}
}

func TestPrecedence(t *testing.T) {
	t.Parallel()
	file := write(t, `
context: lab
contexts:
  lab: {server: "http://lab:1", brokers: ["lab:9092"], registry: "http://lab:8081"}
  prod: {server: "https://prod:1"}
registry: http://file:8081
log: {level: warn, format: json}
data: {dir: /from/file}
listen: {http: "127.0.0.1:1"}
`)
	flags := pflag.NewFlagSet("t", pflag.ContinueOnError)
	BindFlag(flags, "data-dir", "data.dir")
	BindFlag(flags, "http-listen", "listen.http")
	BindFlag(flags, "sync", "embedded.sync")
	if err := flags.Parse([]string{"--data-dir", "/from/flag", "--sync"}); err != nil {
		t.Fatal(err)
	}
	l, err := Load(Options{
		File: file, Flags: flags,
		Environ: []string{"REGENT_LOG_LEVEL=debug", "REGENT_DATA_DIR=/from/env", "REGENT_TEST_X=1", "HOME=/x", "REGENT_REGISTRY_AUTH_PASSWORD=canary-1"},
	})
	if err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string][2]string{
		"lifecycle.drain_timeout": {"20s", "default"},
		"brokers":                 {"lab:9092", "context lab"},
		"server":                  {"http://lab:1", "context lab"},
		"registry":                {"http://file:8081", file + " line 6"},
		"log.format":              {"json", file + " line 7"},
		"log.level":               {"debug", "environment variable REGENT_LOG_LEVEL"},
		"data.dir":                {"/from/flag", "flag --data-dir"},
		"embedded.sync":           {"true", "flag --sync"},
		"listen.http":             {"127.0.0.1:1", file + " line 9"},
		"registry_auth.password":  {"[secret]", "environment variable REGENT_REGISTRY_AUTH_PASSWORD"},
	} {
		if l.Value(key) != want[0] || l.Source(key) != want[1] {
			t.Errorf("%s is %q from %q, want %q from %q", key, l.Value(key), l.Source(key), want[0], want[1])
		}
	}
	if l.Config.Data.Dir != "/from/flag" || !l.Config.Embedded.Sync || l.Config.Lifecycle.DrainTimeout != 20*time.Second ||
		!slices.Equal(l.Config.Brokers, []string{"lab:9092"}) || l.Config.RegistryAuth.Password.Reveal() != "canary-1" || l.Config.Embedded.MinFree != 64<<20 {
		t.Errorf("the struct differs from the values: %+v", l.Config)
	}
	if len(l.Config.Contexts) != 2 || l.File != file {
		t.Errorf("contexts %v, file %s", l.Config.Contexts, l.File)
	}
}

func TestAllFaultsAreReportedTogether(t *testing.T) {
	t.Parallel()
	file := write(t, `context: lap
contexts:
  lab: {server: "http://lab:1", broker: ["a:1"]}
  bad: 7
log:
  levil: debug
  format: xml
  level: [a]
listen: {http: nowhere}
embedded: {min_free: lots, sync: perhaps, retention_interval: 5}
data: 3
procces: {}
brokers: {a: b}
topics: {partitions: 1.5, replication_factor: 99}
`)
	flags := pflag.NewFlagSet("t", pflag.ContinueOnError)
	BindFlag(flags, "observe-interval", "agent.observe_interval")
	if err := flags.Parse([]string{"--observe-interval=3h"}); err != nil {
		t.Fatal(err)
	}
	_, err := Load(Options{File: file, Flags: flags, Environ: []string{"REGENT_LOG_LEVIL=x", "REGENT_POSTGRES_PORT=http", "REGENT_SERVER=http://u:canary-2@"}})
	var faults Faults
	if !errors.As(err, &faults) {
		t.Fatalf("got %v", err)
	}
	got := err.Error()
	for _, want := range []string{
		`read the configuration: 19 faults`,
		`line 6: unknown key log.levil; did you mean log.level?`,
		`line 7: log.format: "xml", expected one of auto, text, json`,
		`line 8: log.level: found a list, expected text`,
		`line 9: listen.http: "nowhere", expected host:port such as 127.0.0.1:9092`,
		`line 10: embedded.min_free: found text "lots", expected a size such as 1048576 or 64MiB`,
		`line 10: embedded.sync: found text "perhaps", expected true or false`,
		`line 10: embedded.retention_interval: found the number 5, expected a duration such as 500ms, 5s or 2m`,
		`line 11: data: found the number 3, expected a mapping`,
		`line 12: unknown key procces; did you mean process?`,
		`line 13: brokers: found a mapping, expected a list`,
		`line 14: topics.partitions: found the number 1.5, expected a whole number`,
		`line 14: topics.replication_factor: 99, expected 0 to 15`,
		`line 3: unknown key contexts.lab.broker; did you mean brokers?`,
		`line 4: contexts.bad: found the number 7, expected a mapping with server, brokers and registry`,
		`context: unknown context "lap", expected one of lab; did you mean lab?`,
		`environment: unknown variable REGENT_LOG_LEVIL; did you mean REGENT_LOG_LEVEL?`,
		`environment variable REGENT_POSTGRES_PORT: postgres.port: found text "http", expected a whole number`,
		`environment variable REGENT_SERVER: server: not a URL, expected http://host:port or https://host:port`,
		`flag --observe-interval: agent.observe_interval: 3h0m0s, expected 50ms to 1m`,
	} {
		if !strings.Contains(got, want) {
			t.Errorf("missing: %s", want)
		}
	}
	if strings.Contains(got, "canary-2") {
		t.Error("the message shows a password")
	}
	if t.Failed() {
		t.Log(got)
	}
}

func TestFiles(t *testing.T) {
	t.Parallel()
	if _, err := Load(Options{File: filepath.Join(t.TempDir(), "none.yaml")}); err == nil || !strings.Contains(err.Error(), "name a YAML file that this user may read") {
		t.Errorf("a named file that is missing: %v", err)
	}
	if _, err := Load(Options{Home: t.TempDir()}); err != nil {
		t.Errorf("no default file: %v", err)
	}
	if _, err := Load(Options{File: write(t, "# nothing yet\n")}); err != nil {
		t.Errorf("a file of comments: %v", err)
	}
	if _, err := Load(Options{File: write(t, "log: {level: [}\n")}); err == nil || !strings.Contains(err.Error(), "did not find expected node content") {
		t.Errorf("broken YAML: %v", err)
	}
	if _, err := Load(Options{File: write(t, "log: {level: info}\nlog: {level: warn}\n")}); err == nil || !strings.Contains(err.Error(), "log") {
		t.Errorf("a key twice: %v", err)
	}
	home := t.TempDir()
	if err := os.MkdirAll(filepath.Join(home, "regent"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(DefaultFile(home), []byte("server: http://home:1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if l, err := Load(Options{Home: home}); err != nil || l.Config.Server != "http://home:1" || l.File != DefaultFile(home) {
		t.Errorf("the default file: %+v, %v", l, err)
	}
	other := write(t, "server: http://other:1\n")
	if l, err := Load(Options{Home: home, Environ: []string{FileEnv + "=" + other}}); err != nil || l.Config.Server != "http://other:1" {
		t.Errorf("the file of the environment: %+v, %v", l, err)
	}
	if _, err := Load(Options{Home: home, Environ: []string{"REGENT_CONTEXT=x"}}); err == nil || !strings.Contains(err.Error(), "there are none in "+DefaultFile(home)) {
		t.Errorf("a context where there are none: %v", err)
	}
}

func TestSizesSurviveWritingAndReading(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		want := Size(rapid.Int64Range(0, 1<<45).Draw(t, "size"))
		got, err := ParseSize(want.String())
		if err != nil || got != want {
			t.Fatalf("%s: got %d, %v; want %d", want, got, err, want)
		}
	})
	for _, bad := range []string{"", "x", "-1", "1TiB", "1.5MiB", "99999999999GiB"} {
		if _, err := ParseSize(bad); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
}

// Whatever stands in a file, loading it ends in a configuration or in faults.
func FuzzLoad(f *testing.F) {
	f.Add("log: {level: info}\n")
	f.Add("contexts: {a: {brokers: [1, x]}}\ncontext: a\n")
	f.Add("a: &a [*a]\n")
	f.Fuzz(func(t *testing.T, text string) {
		file := filepath.Join(t.TempDir(), "f.yaml")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		l, err := Load(Options{File: file})
		if (l == nil) == (err == nil) {
			t.Errorf("got %v and %v", l, err)
		}
	})
}

// Variables that other parts of the program read are no faults.
func TestVariablesOfOtherPartsAreLeftAlone(t *testing.T) {
	t.Parallel()
	for _, name := range []string{artifact.CacheVariable, artifact.RepositoryVariable} {
		if _, err := Load(Options{Home: t.TempDir(), Environ: []string{name + "=elsewhere"}}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

var update = flag.Bool("update", false, "write docs/configuration.md anew")

func TestTheReferenceIsCurrent(t *testing.T) {
	t.Parallel()
	const file = "../../docs/configuration.md"
	if *update {
		if err := os.WriteFile(file, []byte(Document()), 0o644); err != nil { //nolint:gosec // a page for everybody
			t.Fatal(err)
		}
	}
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if string(raw) != Document() {
		t.Errorf("%s is not what the settings say; write it anew with: go test ./internal/config -update", file)
	}
}
