// Package asyncapi describes Regent's topics as an AsyncAPI 3 document, made from topics.yaml and schemas/ alone: for tools that draw pictures, make code, or
// look for a topic by its owner.
//
// The document is Regent's: it receives commands and sends everything else; a program that uses Regent does it the other way round. Each topic is a channel,
// each record of it a message. All messages of a channel have the schema of the topic as their payload, exactly as it is registered, because that is what
// is on the wire; the CloudEvents header ce_type tells them apart. docs/asyncapi.yaml is the document of the built-in declaration; a test holds it current.
package asyncapi

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/regent-infra/regent/internal/envelope"
	"github.com/regent-infra/regent/internal/topics"
	"github.com/regent-infra/regent/schemas"
)

const (
	// binding is the version of the Kafka bindings.
	binding = "0.5.0"
	// avroFormat says what a payload schema is written in.
	avroFormat = "application/vnd.apache.avro;version=1.9.0"
)

// object is a mapping that keeps its order.
type object []entry

type entry struct {
	name  string
	value any
}

// MarshalYAML implements [yaml.Marshaler].
func (o object) MarshalYAML() (any, error) {
	node := &yaml.Node{Kind: yaml.MappingNode}
	for _, e := range o {
		var name, value yaml.Node
		if err := name.Encode(e.name); err != nil {
			return nil, err
		}
		if err := value.Encode(e.value); err != nil {
			return nil, fmt.Errorf("%s: %w", e.name, err)
		}
		node.Content = append(node.Content, &name, &value)
	}
	return node, nil
}

func reference(path ...string) object { return object{{"$ref", "#/" + strings.Join(path, "/")}} }

// Document returns the document of a declaration, as YAML.
func Document(set *topics.Set) ([]byte, error) {
	channels, operations, payloads := object{}, object{}, object{}
	for _, t := range set.All() {
		c, err := channel(t)
		if err != nil {
			return nil, fmt.Errorf("describe the topic %s: %w", t.Name, err)
		}
		channels = append(channels, entry{t.Name, c})
		operations = append(operations, entry{verb(t) + "-" + t.Name, operation(set, t)})
		schema, err := payload(t)
		if err != nil {
			return nil, fmt.Errorf("describe the schema of %s: %w", t.Name, err)
		}
		payloads = append(payloads, entry{topics.Subject(t.Name), schema})
	}
	document := object{
		{"asyncapi", "3.0.0"},
		{"info", object{
			{"title", "Regent"},
			{"version", "v1"}, // as the topics' names and the namespace of the records
			{"description", "Regent's topics: what it observes, knows, decides and does, and how to have something done. It receives commands and sends everything else; " +
				"a program that uses it does it the other way round.\n\nThe payload of a message is the schema of its topic as it is registered: the envelope with the " +
				"union of all records that the topic carries. The message is the branch of that union. docs/formats-wire.md describes the records byte by byte, " +
				"docs/clients has programs to copy.\n\nMade from topics.yaml and schemas/ by `regent topics asyncapi`.\n"},
		}},
		{"defaultContentType", "application/avro"},
		{"servers", servers()},
		{"channels", channels},
		{"operations", operations},
		{"components", object{
			{"schemas", append(keys(), payloads...)},
			{"messageTraits", object{{"event", trait()}}},
			{"correlationIds", correlations()},
		}},
	}
	var out bytes.Buffer
	encoder := yaml.NewEncoder(&out)
	encoder.SetIndent(2)
	if err := encoder.Encode(document); err != nil {
		return nil, fmt.Errorf("write the AsyncAPI document: %w", err)
	}
	return out.Bytes(), encoder.Close()
}

func servers() object {
	registry := func(url string) object {
		return object{{"kafka", object{{"schemaRegistryUrl", url}, {"schemaRegistryVendor", "confluent"}, {"bindingVersion", binding}}}}
	}
	return object{
		{"up", object{
			{"host", "127.0.0.1:9092"},
			{"protocol", "kafka"},
			{"description", "The embedded broker of `regent up`, where nothing else is configured. Each topic has one replica there."},
			{"bindings", registry("http://127.0.0.1:8081")},
		}},
		{"installation", object{
			{"host", "{broker}"},
			{"protocol", "kafka-secure"},
			{"description", "An Apache Kafka with a schema registry that has Confluent's interface. `GET /v1/info` of any Regent server tells both addresses."},
			{"variables", object{{"broker", object{{"default", "kafka.example.com:9093"}, {"description", "any broker of the cluster, host:port"}}}}},
			{"bindings", registry("https://registry.example.com")},
		}},
	}
}

// keyForms are what a record key can be, by the word that topics.yaml has for it.
var keyForms = map[string]object{
	"resource": {{"type", "string"}, {"description", "Resource id; the cluster id where a record is about the whole cluster."}, {"examples", []string{"postgres/orders/node/pg-1"}}},
	"cluster":  {{"type", "string"}, {"description", "Cluster id."}, {"examples", []string{"postgres/orders"}}},
	"workflow": {{"type", "string"}, {"description", "Cluster id, id of a workflow, or task of the orchestrator."}, {"examples", []string{"postgres/orders", "postgres/orders/workflow/0199f1a2-7c1e-7000-8000-3f2b1a0c9d8e", "orchestrator/0"}}},
	"rollup":   {{"type", "string"}, {"description", "Key of the roll-up."}},
	"origin":   {{"type", "string"}, {"description", "Topic, partition and offset of the origin."}, {"examples", []string{"infra.commands.postgres.v1/2/17"}}},
}

func keyName(key string) string { return "key-" + key }

func keys() object {
	var all object
	for _, key := range slices.Sorted(maps.Keys(keyForms)) {
		all = append(all, entry{keyName(key), keyForms[key]})
	}
	return all
}

func channel(t topics.Topic) (object, error) {
	if keyForms[t.Key] == nil {
		return nil, fmt.Errorf("its key is %q, expected one of %s", t.Key, strings.Join(slices.Sorted(maps.Keys(keyForms)), ", "))
	}
	configuration, err := configuration(t)
	if err != nil {
		return nil, err
	}
	messages := object{}
	for _, record := range t.Payloads {
		m, err := message(t, record)
		if err != nil {
			return nil, err
		}
		messages = append(messages, entry{record, m})
	}
	return object{
		{"address", t.Name},
		{"title", t.Name},
		{"description", t.Description + " " + partitioning(t)},
		{"messages", messages},
		{"tags", tags(t)},
		{"bindings", object{{"kafka", object{
			{"topic", t.Name}, {"partitions", t.Partitions}, {"replicas", t.ReplicationFactor}, {"topicConfiguration", configuration}, {"bindingVersion", binding},
		}}}},
		{"x-schema-subject", topics.Subject(t.Name)},
		{"x-schema-compatibility", t.Compatibility},
	}, nil
}

func partitioning(t topics.Topic) string {
	if t.Kind == "" {
		return "It is partitioned for itself, by key."
	}
	return fmt.Sprintf("The partition is murmur2 of the cluster id, whatever the key is: all topics of the kind %s are partitioned alike.", t.Kind)
}

func tags(t topics.Topic) []object {
	all := []object{{{"name", "owner:" + t.Owner}, {"description", "Who writes to it."}}}
	if t.Kind != "" {
		all = append(all, object{{"name", "kind:" + string(t.Kind)}, {"description", "What it is about."}})
	}
	return all
}

// configuration is that of the topic, in the types that the binding wants.
func configuration(t topics.Topic) (object, error) {
	all := object{{"cleanup.policy", []string{string(t.Cleanup)}}}
	for _, name := range slices.Sorted(maps.Keys(t.Config)) {
		value := t.Config[name]
		switch name {
		case "cleanup.policy":
		case "retention.ms", "retention.bytes", "delete.retention.ms", "max.message.bytes":
			n, err := strconv.ParseInt(value, 10, 64)
			if err != nil {
				return nil, fmt.Errorf("%s is %q, expected a whole number", name, value)
			}
			all = append(all, entry{name, n})
		default:
			all = append(all, entry{name, value})
		}
	}
	return all, nil
}

// answered and answering are the topics of commands and of their outcomes.
func answered(t topics.Topic) bool { return t.Kind != "" && t.Name == topics.Commands(t.Kind) }

func answering(t topics.Topic) bool { return t.Kind != "" && t.Name == topics.Outcomes(t.Kind) }

func message(t topics.Topic, record string) (object, error) {
	doc, err := documentation(record)
	if err != nil {
		return nil, err
	}
	m := object{
		{"name", schemas.Namespace + "." + record},
		{"title", record},
		{"summary", doc},
		{"contentType", "application/avro"},
		{"payload", reference("components", "schemas", topics.Subject(t.Name))},
		{"headers", object{
			{"type", "object"},
			{"properties", object{{"ce_type", object{{"type", "string"}, {"const", schemas.Namespace + "." + record}}}}},
		}},
	}
	switch {
	case answered(t):
		m = append(m, entry{"correlationId", reference("components", "correlationIds", "command")})
	case answering(t):
		m = append(m, entry{"correlationId", reference("components", "correlationIds", "outcome")})
	}
	return append(m,
		entry{"bindings", object{{"kafka", object{
			{"key", reference("components", "schemas", keyName(t.Key))},
			{"schemaIdLocation", "payload"},
			{"schemaIdPayloadEncoding", "confluent"},
			{"schemaLookupStrategy", "TopicNameStrategy"},
			{"bindingVersion", binding},
		}}}},
		entry{"traits", []object{reference("components", "messageTraits", "event")}},
	), nil
}

func correlations() object {
	return object{
		{"command", object{{"description", "The id of the command."}, {"location", "$message.payload#/id"}}},
		{"outcome", object{{"description", "The id of the command that it answers."}, {"location", "$message.payload#/payload/command_id"}}},
	}
}

// trait is what all events have in common: the headers of CloudEvents and of W3C's trace context, each of which may be missing.
func trait() object {
	text := func(description string) object { return object{{"type", "string"}, {"description", description}} }
	return object{
		{"headers", object{
			{"type", "object"},
			{"properties", object{
				{"ce_specversion", object{{"type", "string"}, {"const", "1.0"}}},
				{"ce_id", text("The event's id.")},
				{"ce_source", text("Who says it.")},
				{"ce_subject", text("The resource.")},
				{"ce_time", object{{"type", "string"}, {"format", "date-time"}, {"description", "When it happened."}}},
				{"content-type", object{{"type", "string"}, {"const", "application/avro"}}},
				{"traceparent", text("W3C trace context.")},
			}},
		}},
	}
}

func verb(t topics.Topic) string {
	if answered(t) {
		return "receive"
	}
	return "send"
}

func operation(set *topics.Set, t topics.Topic) object {
	o := object{
		{"action", verb(t)},
		{"channel", reference("channels", t.Name)},
		{"title", t.Name},
		{"summary", t.Description},
		{"messages", messages(t)},
	}
	if answered(t) {
		if outcomes, ok := set.Topic(topics.Outcomes(t.Kind)); ok {
			o = append(o, entry{"reply", object{{"channel", reference("channels", outcomes.Name)}, {"messages", messages(outcomes)}}})
		}
	}
	return o
}

func messages(t topics.Topic) []object {
	var all []object
	for _, record := range t.Payloads {
		all = append(all, reference("channels", t.Name, "messages", record))
	}
	return all
}

// payload is the schema of a topic as it is registered.
func payload(t topics.Topic) (object, error) {
	text, err := envelope.Schema(t.Payloads)
	if err != nil {
		return nil, err
	}
	var schema yaml.Node
	if err := yaml.Unmarshal([]byte(text), &schema); err != nil { // JSON is YAML, and keeps its order this way
		return nil, err
	}
	block(&schema)
	return object{{"schemaFormat", avroFormat}, {"schema", schema.Content[0]}}, nil
}

// block writes a tree over several lines, as people read it.
func block(n *yaml.Node) {
	n.Style = 0
	for _, child := range n.Content {
		block(child)
	}
}

// documentation is what a record says of itself.
func documentation(record string) (string, error) {
	text, err := envelope.Record(record)
	if err != nil {
		return "", err
	}
	var schema struct {
		Doc string `json:"doc"`
	}
	if err := json.Unmarshal([]byte(text), &schema); err != nil {
		return "", err
	}
	return schema.Doc, nil
}
