package topics

import (
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/regent-infra/regent/internal/event"
	"github.com/regent-infra/regent/internal/strictyaml"
	"github.com/regent-infra/regent/schemas"
)

// formatVersion is the version of the layout of topics.yaml.
const formatVersion = 1

// Kafka's names of the settings that this package looks into.
const (
	minInSync     = "min.insync.replicas"
	cleanupPolicy = "cleanup.policy"
	retentionMS   = "retention.ms"
	timestampType = "message.timestamp.type"
)

const (
	maxPartitions        = 10_000
	maxReplicationFactor = 15
)

type fileForm struct {
	Version           int               `yaml:"version"`
	ReplicationFactor int16             `yaml:"replication_factor"`
	Config            map[string]string `yaml:"config"`
	Kinds             map[string]struct {
		Partitions int32 `yaml:"partitions"`
	} `yaml:"kinds"`
	Topics []topicForm `yaml:"topics"`
}

type topicForm struct {
	Name          string            `yaml:"name"`
	Kind          string            `yaml:"kind"`
	Description   string            `yaml:"description"`
	Owner         string            `yaml:"owner"`
	Key           string            `yaml:"key"`
	Payloads      []string          `yaml:"payloads"`
	Compatibility string            `yaml:"compatibility"`
	Partitions    int32             `yaml:"partitions"`
	Cleanup       string            `yaml:"cleanup"`
	Config        map[string]string `yaml:"config"`
}

var (
	owners     = []string{"agent", "operator", "orchestrator", "reducer", "everyone"}
	keys       = []string{"resource", "cluster", "workflow", "rollup", "origin"}
	cleanups   = []string{string(CleanupCompact), string(CleanupDelete)}
	modes      = []string{"NONE", "BACKWARD", "BACKWARD_TRANSITIVE", "FORWARD", "FORWARD_TRANSITIVE", "FULL", "FULL_TRANSITIVE"}
	topicNames = regexp.MustCompile(`^infra\.([a-z]+)(\.[a-z]+)?\.v[1-9][0-9]*$`)

	// numbers are the settings whose value is a whole number, with the least that makes sense.
	numbers = map[string]int64{
		"delete.retention.ms": 0, "flush.messages": 1, "flush.ms": 0, "max.compaction.lag.ms": 1, "max.message.bytes": 1,
		"min.compaction.lag.ms": 0, minInSync: 1, retentionMS: -1, "retention.bytes": -1, "segment.bytes": 1 << 20, "segment.ms": 1,
		"message.timestamp.after.max.ms": 0, "message.timestamp.before.max.ms": 0, "file.delete.delay.ms": 0,
		"local.retention.ms": -2, "local.retention.bytes": -2, "index.interval.bytes": 0, "segment.index.bytes": 4, "segment.jitter.ms": 0,
	}
	// words are the settings whose value is one of a few words; no words means any text.
	words = map[string][]string{
		"compression.type":               {"producer", "uncompressed", "zstd", "lz4", "snappy", "gzip"},
		timestampType:                    {"LogAppendTime", "CreateTime"},
		"unclean.leader.election.enable": {"true", "false"},
		"preallocate":                    {"true", "false"},
		"remote.storage.enable":          {"true", "false"},
		"min.cleanable.dirty.ratio":      nil,
	}
)

// Parse reads a declaration. The error names every fault with its line; file is the name used in it.
func Parse(file string, raw []byte) (*Set, error) {
	var form fileForm
	doc, faults := strictyaml.Decode(file, raw, &form)
	if len(faults.List) > 0 && len(form.Topics) == 0 {
		return nil, faults.Err()
	}
	p := parser{doc: doc, faults: faults, form: &form}
	set := p.set()
	if err := faults.Err(); err != nil {
		return nil, err
	}
	return set, nil
}

type parser struct {
	doc    *strictyaml.Document
	faults *strictyaml.Faults
	form   *fileForm
}

func (p *parser) fault(format string, args []any, path ...any) {
	p.faults.Add(p.doc.Line(path...), format, args...)
}

func (p *parser) set() *Set {
	f := p.form
	if f.Version != formatVersion {
		p.fault("version is %d, expected %d", []any{f.Version, formatVersion}, "version")
	}
	if f.ReplicationFactor < 1 || f.ReplicationFactor > maxReplicationFactor {
		p.fault("replication_factor is %d, expected 1 to %d", []any{f.ReplicationFactor, maxReplicationFactor}, "replication_factor")
	}
	p.config(f.Config, "config")

	set := &Set{byName: map[string]int{}, kinds: map[event.Kind]int32{}}
	for _, kind := range slices.Sorted(maps.Keys(f.Kinds)) {
		n := f.Kinds[kind].Partitions
		if n < 1 || n > maxPartitions {
			p.fault("kind %s has %d partitions, expected 1 to %d", []any{kind, n, maxPartitions}, "kinds", kind, "partitions")
		}
		set.kinds[event.Kind(kind)] = n
	}
	if len(f.Topics) == 0 {
		p.fault("there are no topics, expected at least one", nil, "topics")
	}
	for i := range f.Topics {
		t := p.topic(i, set)
		if first, twice := set.byName[t.Name]; twice {
			p.fault("topic %s is declared twice, first on line %d", []any{t.Name, p.doc.Line("topics", first)}, "topics", i, "name")
			continue
		}
		set.byName[t.Name] = len(set.topics)
		set.topics = append(set.topics, t)
	}
	return set
}

func (p *parser) topic(i int, set *Set) Topic {
	f := p.form.Topics[i]
	at := func(field string) []any { return []any{"topics", i, field} }
	t := Topic{
		Name: f.Name, Description: f.Description, Kind: event.Kind(f.Kind), Owner: f.Owner, Key: f.Key, Payloads: f.Payloads,
		Compatibility: f.Compatibility, Partitions: f.Partitions, ReplicationFactor: p.form.ReplicationFactor, Cleanup: Cleanup(f.Cleanup),
	}
	match := topicNames.FindStringSubmatch(f.Name)
	switch {
	case match == nil:
		p.fault("topic name %q is not infra.<role>.<kind>.v<n> or infra.<role>.v<n>", []any{f.Name}, at("name")...)
	case f.Kind != "" && match[2] != "."+f.Kind:
		p.fault("topic %s is of kind %s, expected .%s. in its name", []any{f.Name, f.Kind, f.Kind}, at("name")...)
	}
	if f.Description == "" {
		p.fault("topic %s has no description", []any{f.Name}, "topics", i)
	}
	p.oneOf(f.Name, "owner", f.Owner, owners, at("owner"))
	p.oneOf(f.Name, "key", f.Key, keys, at("key"))
	p.oneOf(f.Name, "compatibility", f.Compatibility, modes, at("compatibility"))
	p.oneOf(f.Name, "cleanup", f.Cleanup, cleanups, at("cleanup"))
	p.payloads(i)
	t.Partitions = p.partitions(i, set)

	p.config(f.Config, at("config")...)
	t.Config = maps.Clone(p.form.Config)
	if t.Config == nil {
		t.Config = map[string]string{}
	}
	maps.Copy(t.Config, f.Config)
	t.Config[cleanupPolicy] = f.Cleanup
	if isr, err := strconv.Atoi(t.Config[minInSync]); err == nil && isr > int(p.form.ReplicationFactor) {
		p.fault("topic %s: %s is %d, but there are only %d replicas", []any{f.Name, minInSync, isr, p.form.ReplicationFactor}, "topics", i)
	}
	if _, set := f.Config[retentionMS]; set && t.Cleanup == CleanupCompact {
		p.fault("topic %s is compacted, so %s does nothing", []any{f.Name, retentionMS}, append(at("config"), retentionMS)...)
	}
	return t
}

// partitions returns the count of the topic's kind, or its own.
func (p *parser) partitions(i int, set *Set) int32 {
	f := p.form.Topics[i]
	if f.Kind == "" {
		if f.Partitions < 1 || f.Partitions > maxPartitions {
			p.fault("topic %s has %d partitions, expected 1 to %d", []any{f.Name, f.Partitions, maxPartitions}, "topics", i, "partitions")
		}
		return f.Partitions
	}
	n, declared := set.kinds[event.Kind(f.Kind)]
	if !declared {
		p.fault("topic %s is of kind %q, which kinds does not declare", []any{f.Name, f.Kind}, "topics", i, "kind")
	}
	if f.Partitions != 0 {
		p.fault("topic %s takes its partitions from its kind, so it must not have its own", []any{f.Name}, "topics", i, "partitions")
	}
	return n
}

func (p *parser) payloads(i int) {
	f := p.form.Topics[i]
	if len(f.Payloads) == 0 {
		p.fault("topic %s has no payloads", []any{f.Name}, "topics", i)
	}
	for j, payload := range f.Payloads {
		if schemas.NewRecord(payload) == nil {
			p.fault("topic %s: payload %q is no record in schemas/", []any{f.Name, payload}, "topics", i, "payloads", j)
		}
		if slices.Contains(f.Payloads[:j], payload) {
			p.fault("topic %s: payload %s is listed twice", []any{f.Name, payload}, "topics", i, "payloads", j)
		}
	}
}

func (p *parser) oneOf(topic, field, value string, allowed []string, path []any) {
	if !slices.Contains(allowed, value) {
		p.fault("topic %s: %s is %q, expected one of %s", []any{topic, field, value, strings.Join(allowed, ", ")}, path...)
	}
}

// config checks settings by name and value, because a broker would refuse them only when a topic is created.
func (p *parser) config(config map[string]string, path ...any) {
	for _, key := range slices.Sorted(maps.Keys(config)) {
		value := config[key]
		at := append(slices.Clone(path), key)
		if key == cleanupPolicy {
			p.fault("%s is set by the field cleanup, not in config", []any{key}, at...)
			continue
		}
		if least, ok := numbers[key]; ok {
			if n, err := strconv.ParseInt(value, 10, 64); err != nil || n < least {
				p.fault("%s is %q, expected a whole number of at least %d", []any{key, value, least}, at...)
			}
			continue
		}
		allowed, ok := words[key]
		if !ok {
			p.fault("%s is no topic setting of Kafka that Regent knows", []any{key}, at...)
			continue
		}
		if allowed != nil && !slices.Contains(allowed, value) {
			p.fault("%s is %q, expected one of %s", []any{key, value, strings.Join(allowed, ", ")}, at...)
		}
	}
}
