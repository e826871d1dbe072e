package avrocodec

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/twmb/avro"

	"github.com/regent-infra/regent/internal/topics"
)

// The golden fixtures are events as they were once written. They are append-only: whatever is on a topic must stay readable, so a fixture is never
// changed, and `go test ./internal/avrocodec -run Golden -update` only adds: for each record that has no fixture under the current schema of its topic.
// A fixture that can no longer be read means that a schema changed in a way that breaks old records. Before the first release the remedy may also be to
// delete the directory's files and to write them anew.
var update = flag.Bool("update", false, "add golden fixtures for what has none yet")

const (
	goldenDir  = "../../schemas/testdata/golden"
	goldenSums = "SHA256SUMS"
)

// fixture is one event with everything that is needed to read it in years.
type fixture struct {
	Record string `json:"record"`
	Topic  string `json:"topic"`
	// Schema is the file with the envelope's schema that wrote it.
	Schema string `json:"schema"`
	// Body is the Avro binary, without the registry's framing.
	Body []byte `json:"body"`
	// Event is what it says.
	Event json.RawMessage `json:"event"`
}

func schemaFile(topic, text string) string {
	sum := sha256.Sum256([]byte(text))
	return topic + "." + hex.EncodeToString(sum[:6]) + ".avsc"
}

// oneSchema is a registry with a single schema, under id 1.
type oneSchema string

func (s oneSchema) SchemaByID(context.Context, int32) (string, error) { return string(s), nil }

func (s oneSchema) LookupID(_ context.Context, _, schema string) (int32, error) {
	if schema != string(s) {
		return 0, ErrNotRegistered
	}
	return 1, nil
}

func TestGoldenEveryRecordHasAFixture(t *testing.T) {
	if *update {
		addFixtures(t)
	}
	found := map[string]int{}
	for _, f := range loadFixtures(t) {
		found[f.Record]++
	}
	for record := range payloadRecords() {
		if found[record] == 0 {
			t.Errorf("%s has no fixture: run `go test ./internal/avrocodec -run Golden -update`", record)
		}
	}
}

func TestGoldenFixturesWereNotTouched(t *testing.T) {
	raw, err := os.ReadFile(filepath.Join(goldenDir, goldenSums))
	if err != nil {
		t.Fatal(err)
	}
	listed := map[string]bool{}
	for line := range strings.Lines(string(raw)) {
		sum, name, _ := strings.Cut(strings.TrimSpace(line), "  ")
		listed[name] = true
		content, err := os.ReadFile(filepath.Join(goldenDir, name))
		if err != nil {
			t.Errorf("a fixture is gone: %v", err)
			continue
		}
		if got := sha256.Sum256(content); hex.EncodeToString(got[:]) != sum {
			t.Errorf("%s was changed, but fixtures are append-only", name)
		}
	}
	for _, name := range goldenFiles(t) {
		if !listed[name] {
			t.Errorf("%s is not listed in %s: fixtures are added with -update", name, goldenSums)
		}
	}
}

func TestGoldenFixturesAreReadAndWrittenByteForByte(t *testing.T) {
	for name, f := range loadFixtures(t) {
		t.Run(name, func(t *testing.T) {
			text, err := os.ReadFile(filepath.Join(goldenDir, f.Schema))
			if err != nil {
				t.Fatal(err)
			}
			codec, err := New(oneSchema(text), topics.Default(), Config{})
			if err != nil {
				t.Fatal(err)
			}
			value := frame(1, f.Body...)
			e, err := codec.Decode(f.Topic, value)
			if err != nil {
				t.Fatalf("what was once written can no longer be read: %v", err)
			}
			says, err := json.Marshal(e)
			if err != nil {
				t.Fatal(err)
			}
			contains(t, f.Record, decodeJSON(t, says), decodeJSON(t, f.Event))
			if codec.Schema(f.Topic) == string(text) {
				again, err := codec.Encode(f.Topic, e)
				if err != nil || !bytes.Equal(again, value) {
					t.Errorf("written again it is other bytes, err %v", err)
				}
			}
			var generic any
			writer := avro.MustParse(string(text))
			if _, err := writer.Decode(f.Body, &generic, avro.TaggedUnions()); err != nil {
				t.Fatal(err)
			}
			if again, err := writer.Encode(generic); err != nil || !bytes.Equal(again, f.Body) {
				t.Errorf("written again under its own schema it is other bytes, err %v", err)
			}
		})
	}
}

// contains fails unless got says everything that want says; fields may have been added since.
func contains(t *testing.T, path string, got, want any) {
	t.Helper()
	switch w := want.(type) {
	case map[string]any:
		g, ok := got.(map[string]any)
		if !ok {
			t.Errorf("%s is %v, want %v", path, got, want)
			return
		}
		for key, value := range w {
			contains(t, path+"."+key, g[key], value)
		}
	case []any:
		g, ok := got.([]any)
		if !ok || len(g) != len(w) {
			t.Errorf("%s is %v, want %v", path, got, want)
			return
		}
		for i := range w {
			contains(t, fmt.Sprintf("%s[%d]", path, i), g[i], w[i])
		}
	default:
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s is %v, want %v", path, got, want)
		}
	}
}

func decodeJSON(t *testing.T, raw []byte) any {
	t.Helper()
	var v any
	decoder := json.NewDecoder(bytes.NewReader(raw))
	decoder.UseNumber()
	if err := decoder.Decode(&v); err != nil {
		t.Fatal(err)
	}
	return v
}

func loadFixtures(t *testing.T) map[string]fixture {
	t.Helper()
	fixtures := map[string]fixture{}
	for _, name := range goldenFiles(t) {
		if !strings.HasSuffix(name, ".json") {
			continue
		}
		raw, err := os.ReadFile(filepath.Join(goldenDir, name))
		if err != nil {
			t.Fatal(err)
		}
		var f fixture
		if err := json.Unmarshal(raw, &f); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		fixtures[name] = f
	}
	return fixtures
}

func goldenFiles(t *testing.T) []string {
	t.Helper()
	entries, err := os.ReadDir(goldenDir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, entry := range entries {
		if entry.Name() != goldenSums {
			names = append(names, entry.Name())
		}
	}
	return names
}

// addFixtures writes an empty and a full event of every record under the current schemas, where there is none.
func addFixtures(t *testing.T) {
	t.Helper()
	if err := os.MkdirAll(goldenDir, 0o755); err != nil {
		t.Fatal(err)
	}
	codec := Standalone(topics.Default())
	records := payloadRecords()
	names := make([]string, 0, len(records))
	for record := range records {
		names = append(names, record)
	}
	slices.Sort(names)
	for _, record := range names {
		topic := records[record]
		schema := schemaFile(topic, codec.Schema(topic))
		addFile(t, schema, []byte(codec.Schema(topic)))
		version := strings.TrimSuffix(strings.TrimPrefix(schema, topic+"."), ".avsc")
		for variant, source := range map[string]*fixed{"empty": {}, "full": {full: true}} {
			e := newEvent(source, record)
			value, err := codec.Encode(topic, e)
			if err != nil {
				t.Fatal(err)
			}
			says, err := json.Marshal(e)
			if err != nil {
				t.Fatal(err)
			}
			content, err := json.MarshalIndent(fixture{Record: record, Topic: topic, Schema: schema, Body: value[prefixBytes:], Event: says}, "", "  ")
			if err != nil {
				t.Fatal(err)
			}
			addFile(t, fmt.Sprintf("%s.%s.%s.json", record, variant, version), append(content, '\n'))
		}
	}
}

// addFile adds a file and its checksum, and leaves one that is there.
func addFile(t *testing.T, name string, content []byte) {
	t.Helper()
	file, err := os.OpenFile(filepath.Join(goldenDir, name), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if os.IsExist(err) {
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := file.Write(content); err != nil {
		t.Fatal(err)
	}
	if err := file.Close(); err != nil {
		t.Fatal(err)
	}
	sums, err := os.OpenFile(filepath.Join(goldenDir, goldenSums), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(content)
	fmt.Fprintf(sums, "%s  %s\n", hex.EncodeToString(sum[:]), name)
	if err := sums.Close(); err != nil {
		t.Fatal(err)
	}
}
