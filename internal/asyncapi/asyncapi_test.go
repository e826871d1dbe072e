package asyncapi

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/regent-infra/regent/internal/envelope"
	"github.com/regent-infra/regent/internal/foreign"
	"github.com/regent-infra/regent/internal/topics"
)

// found is what the parser says of a document, see testdata/parser/check.mjs.
type found struct {
	Diagnostics []struct {
		Severity            int
		Code, Message, Path string
	}
	Channels   []string
	Operations []struct{ ID, Action, Reply string }
	Messages   int
	Keys       []string
}

// faults are its errors and warnings.
func (f found) faults() []string {
	var all []string
	for _, d := range f.Diagnostics {
		if d.Severity <= 1 {
			all = append(all, d.Path+": "+d.Message)
		}
	}
	return all
}

// parse reads a document with the parser of AsyncAPI's makers.
func parse(t *testing.T, document []byte) found {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	program, err := foreign.Node(ctx, "testdata/parser")
	if err != nil {
		t.Fatal(err)
	}
	args := program.Command("check")
	check := exec.CommandContext(ctx, args[0], args[1:]...)
	var errs bytes.Buffer
	check.Stdin, check.Stderr = bytes.NewReader(document), &errs
	out, err := check.Output()
	if err != nil {
		t.Fatalf("%v: %s", err, errs.String())
	}
	var f found
	if err := json.Unmarshal(out, &f); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return f
}

func document(t *testing.T) []byte {
	t.Helper()
	d, err := Document(topics.Default())
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestTheDocumentIsValidAndWhole(t *testing.T) {
	t.Parallel()
	f := parse(t, document(t))
	if faults := f.faults(); len(faults) > 0 {
		t.Fatalf("the parser finds:\n%s", strings.Join(faults, "\n"))
	}
	set := topics.Default()
	if !slices.Equal(f.Channels, set.Names()) {
		t.Errorf("the channels are %v, want %v", f.Channels, set.Names())
	}
	messages := 0
	for i, topic := range set.All() {
		messages += len(topic.Payloads)
		o := f.Operations[i]
		action, reply := "send", ""
		if topic.Name == "infra.commands.postgres.v1" {
			action, reply = "receive", "infra.outcomes.postgres.v1"
		}
		if o.ID != action+"-"+topic.Name || o.Action != action || o.Reply != reply {
			t.Errorf("the operation of %s is %+v", topic.Name, o)
		}
		if f.Keys[i] != "string" {
			t.Errorf("the key of %s is a %q", topic.Name, f.Keys[i])
		}
	}
	if f.Messages != messages {
		t.Errorf("%d messages, want %d", f.Messages, messages)
	}
}

// The parser would tell: a document without one of its parts, or with a schema that is no Avro, is refused.
func TestTheParserTellsFaults(t *testing.T) {
	t.Parallel()
	whole := document(t)
	for name, change := range map[string][2]string{
		"a channel that is not there": {"$ref: '#/channels/infra.leases.postgres.v1'", "$ref: '#/channels/elsewhere'"},
		"a schema that is no Avro":    {"name: lag_bytes\n", "name: 7 bytes\n"},
		"a binding of a wrong type":   {"cleanup.policy:\n            - compact", "cleanup.policy: compact"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			broken := bytes.Replace(whole, []byte(change[0]), []byte(change[1]), 1)
			if bytes.Equal(broken, whole) {
				t.Fatalf("there is no %q to change", change[0])
			}
			if faults := parse(t, broken).faults(); len(faults) == 0 {
				t.Error("the parser finds nothing")
			}
		})
	}
}

// What stands in the document is what is registered, field by field and in its order: Avro's meaning depends on it.
func TestSchemasAreThoseOfTheRegistry(t *testing.T) {
	t.Parallel()
	var d struct {
		Components struct {
			Schemas map[string]struct {
				Schema yaml.Node `yaml:"schema"`
			} `yaml:"schemas"`
		} `yaml:"components"`
	}
	if err := yaml.Unmarshal(document(t), &d); err != nil {
		t.Fatal(err)
	}
	for _, topic := range topics.Default().All() {
		text, err := envelope.Schema(topic.Payloads)
		if err != nil {
			t.Fatal(err)
		}
		var want yaml.Node
		if err := yaml.Unmarshal([]byte(text), &want); err != nil {
			t.Fatal(err)
		}
		got := d.Components.Schemas[topics.Subject(topic.Name)].Schema
		if a, b := flat(&got), flat(want.Content[0]); a != b {
			t.Errorf("the schema of %s differs:\n%s\n%s", topic.Name, a, b)
		}
	}
}

// flat writes a tree with the types of its leaves.
func flat(n *yaml.Node) string {
	if n.Kind == yaml.ScalarNode {
		return n.ShortTag() + n.Value
	}
	var parts []string
	for _, child := range n.Content {
		parts = append(parts, flat(child))
	}
	return "(" + strings.Join(parts, " ") + ")"
}

func TestDocsAreCurrent(t *testing.T) {
	t.Parallel()
	written, err := os.ReadFile("../../docs/asyncapi.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(written, document(t)) {
		t.Error("docs/asyncapi.yaml is not what topics.yaml and schemas/ say: make generate")
	}
}

func TestADeclarationThatCannotBeDescribed(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		topic topics.Topic
		want  string
	}{
		"an unknown key":    {topics.Topic{Name: "a", Key: "colour"}, `its key is "colour", expected one of cluster, origin`},
		"an unknown record": {topics.Topic{Name: "a", Key: "cluster", Payloads: []string{"Weather"}}, "Weather"},
		"a bad number":      {topics.Topic{Name: "a", Key: "cluster", Config: map[string]string{"retention.ms": "long"}}, `retention.ms is "long", expected a whole number`},
	} {
		if _, err := channel(c.topic); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", name, err, c.want)
		}
	}
}
