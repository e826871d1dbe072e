// Package contract reads the contract.yaml that every processor and adapter carries, and holds the code to it.
//
// A contract says what a part of Regent consumes and produces, which commands it accepts, and how it behaves when things go wrong. It is
// embedded beside the code, and checked at boot and in a test:
//
//	//go:embed contract.yaml
//	var contractYAML []byte
//
//	c, err := contract.Parse("processors/orchestrator/contract.yaml", contractYAML)
//	err = contract.Check(c, topics.Default(), handlers)   // handlers: the record names that the code has a handler for
//
// # The file
//
//	name: orchestrator.postgres            # role.kind; also the name of the consumer group
//	type: ORCHESTRATOR                     # EFFECT (an adapter), REDUCER, ORCHESTRATOR, PROJECTOR
//	version: 1.0.0                         # of the behaviour, semantic versioning
//	description: Drives failover and the lifecycle of PostgreSQL clusters.
//	capabilities: [failover, switchover]   # words of a-z, 0-9 and hyphen
//	consumes:
//	  - topic: infra.commands.postgres.v1
//	    records: [SwitchoverCluster, FailoverCluster]
//	    ignores: [CheckHealth]             # records and ignores together are all payloads of the topic
//	produces:
//	  - topic: infra.outcomes.postgres.v1
//	    records: [CommandAccepted, CommandRejected]
//	commands:                              # only EFFECT and ORCHESTRATOR; every record consumed from a topic of commands or orders
//	  - record: SwitchoverCluster
//	    idempotency: BY_EVENT_ID           # a repeated id does nothing; BY_TERM: an older term does nothing; NATURAL: doing it again changes nothing
//	    timeout: 5m                        # after which it has failed
//	    description: Hands the primary role over in an orderly way.
//	errors:
//	  retry: {attempts: 3, initial_delay: 100ms, max_delay: 5s}   # attempts: 0 means for ever
//	  circuit_breaker: {failures: 5, open_for: 10s}               # optional
//	  timeouts: {step: 30s, commit: 10s}                          # named by what they bound
//	  poison: DEAD_LETTER                  # what becomes of a record that cannot be processed: DEAD_LETTER or STOP
//	dependencies:
//	  - name: kafka
//	    required: true                     # false: works on without, degraded
//	    description: The log that everything is read from and written to.
//	health:
//	  - name: lag
//	    failing: DEGRADED                  # or DOWN
//	    description: Newest input is read within five seconds.
//
// Invariants: (1) a [Contract] that [Parse] returns is complete and has no unknown field; (2) one that [Check] passes names only topics and
// records that exist, and its commands are exactly the handlers; (3) both report all faults together, with their lines.
package contract

import (
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/regent-infra/regent/internal/strictyaml"
	"github.com/regent-infra/regent/internal/topics"
	"github.com/regent-infra/regent/schemas"
)

// Type is the role of a part.
type Type string

// The types.
const (
	TypeEffect       Type = "EFFECT"
	TypeReducer      Type = "REDUCER"
	TypeOrchestrator Type = "ORCHESTRATOR"
	TypeProjector    Type = "PROJECTOR"
)

// Idempotency says why a command that arrives twice does no harm.
type Idempotency string

// The kinds of idempotency.
const (
	ByEventID Idempotency = "BY_EVENT_ID"
	ByTerm    Idempotency = "BY_TERM"
	Natural   Idempotency = "NATURAL"
)

// Poison says what becomes of a record that cannot be processed.
type Poison string

// What becomes of poison.
const (
	PoisonDeadLetter Poison = "DEAD_LETTER"
	PoisonStop       Poison = "STOP"
)

// Contract is one contract.yaml.
type Contract struct {
	Name         string       `yaml:"name"`
	Type         Type         `yaml:"type"`
	Version      string       `yaml:"version"`
	Description  string       `yaml:"description"`
	Capabilities []string     `yaml:"capabilities"`
	Consumes     []Consumed   `yaml:"consumes"`
	Produces     []Produced   `yaml:"produces"`
	Commands     []Command    `yaml:"commands"`
	Errors       Errors       `yaml:"errors"`
	Dependencies []Dependency `yaml:"dependencies"`
	Health       []Probe      `yaml:"health"`

	file string
	doc  *strictyaml.Document
}

// Consumed is a topic that is read.
type Consumed struct {
	Topic string `yaml:"topic"`
	// Records are those of the topic's payloads that are acted upon, Ignores all others.
	Records []string `yaml:"records"`
	Ignores []string `yaml:"ignores"`
}

// Produced is a topic that is written.
type Produced struct {
	Topic   string   `yaml:"topic"`
	Records []string `yaml:"records"`
}

// Command is a command or order that is accepted.
type Command struct {
	Record      string        `yaml:"record"`
	Idempotency Idempotency   `yaml:"idempotency"`
	Timeout     time.Duration `yaml:"timeout"`
	Description string        `yaml:"description"`
}

// Errors says how the part behaves when things go wrong.
type Errors struct {
	Retry          Retry                    `yaml:"retry"`
	CircuitBreaker *CircuitBreaker          `yaml:"circuit_breaker"`
	Timeouts       map[string]time.Duration `yaml:"timeouts"`
	Poison         Poison                   `yaml:"poison"`
}

// Retry is how often and how fast something is tried again.
type Retry struct {
	// Attempts counts the first one, too; 0 means for ever.
	Attempts     int           `yaml:"attempts"`
	InitialDelay time.Duration `yaml:"initial_delay"`
	MaxDelay     time.Duration `yaml:"max_delay"`
}

// CircuitBreaker is when a dependency is left alone for a while.
type CircuitBreaker struct {
	// Failures in a row open it.
	Failures int           `yaml:"failures"`
	OpenFor  time.Duration `yaml:"open_for"`
}

// Dependency is something else that has to be there.
type Dependency struct {
	Name        string `yaml:"name"`
	Required    bool   `yaml:"required"`
	Description string `yaml:"description"`
}

// Probe is one condition of health.
type Probe struct {
	Name string `yaml:"name"`
	// Failing is the health while the condition does not hold: DEGRADED or DOWN.
	Failing     schemas.Health `yaml:"failing"`
	Description string         `yaml:"description"`
}

var (
	namePattern    = regexp.MustCompile(`^[a-z]+(\.[a-z]+)?$`)
	wordPattern    = regexp.MustCompile(`^[a-z0-9]+(-[a-z0-9]+)*$`)
	timeoutPattern = regexp.MustCompile(`^[a-z]+(_[a-z]+)*$`)
	versionPattern = regexp.MustCompile(`^(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)$`)
)

// Parse reads a contract. The error names every fault with its line; file is the name used in it.
func Parse(file string, raw []byte) (*Contract, error) {
	c := &Contract{file: file}
	doc, faults := strictyaml.Decode(file, raw, c)
	c.doc = doc
	if doc.Line() > 0 {
		v := validator{c: c, faults: faults}
		v.head()
		v.topics()
		v.commands()
		v.errors()
		v.surroundings()
	}
	if err := faults.Err(); err != nil {
		return nil, err
	}
	return c, nil
}

// validator checks what can be told from the file alone.
type validator struct {
	c      *Contract
	faults *strictyaml.Faults
}

func (v *validator) fault(path []any, format string, args ...any) {
	v.faults.Add(v.c.doc.Line(path...), format, args...)
}

func at(path ...any) []any { return path }

func oneOf[T ~string](v *validator, path []any, what string, value T, allowed ...T) {
	if slices.Contains(allowed, value) {
		return
	}
	words := make([]string, len(allowed))
	for i, a := range allowed {
		words[i] = string(a)
	}
	v.fault(path, "%s is %q, expected one of %s", what, value, strings.Join(words, ", "))
}

func (v *validator) head() {
	c := v.c
	if !namePattern.MatchString(c.Name) {
		v.fault(at("name"), "name is %q, expected role or role.kind, such as reducer.postgres", c.Name)
	}
	oneOf(v, at("type"), "type", c.Type, TypeEffect, TypeReducer, TypeOrchestrator, TypeProjector)
	if !versionPattern.MatchString(c.Version) {
		v.fault(at("version"), "version is %q, expected one such as 1.0.0", c.Version)
	}
	if c.Description == "" {
		v.fault(nil, "description is missing")
	}
	if len(c.Capabilities) == 0 {
		v.fault(at("capabilities"), "capabilities are missing, expected at least one")
	}
	for i, word := range c.Capabilities {
		if !wordPattern.MatchString(word) {
			v.fault(at("capabilities", i), "capability %q is not made of a-z, 0-9 and hyphen", word)
		}
		if slices.Contains(c.Capabilities[:i], word) {
			v.fault(at("capabilities", i), "capability %s is listed twice", word)
		}
	}
}

func (v *validator) topics() {
	c := v.c
	if len(c.Consumes) == 0 {
		v.fault(at("consumes"), "consumes is missing, expected at least one topic")
	}
	if len(c.Produces) == 0 && c.Type != TypeProjector {
		v.fault(at("produces"), "produces is missing, expected at least one topic of a part of type %s", c.Type)
	}
	for i, in := range c.Consumes {
		v.topic(at("consumes", i), in.Topic, slices.Concat(in.Records, in.Ignores))
		if slices.ContainsFunc(c.Consumes[:i], func(other Consumed) bool { return other.Topic == in.Topic }) {
			v.fault(at("consumes", i), "topic %s is consumed twice", in.Topic)
		}
	}
	for i, out := range c.Produces {
		v.topic(at("produces", i), out.Topic, out.Records)
		if slices.ContainsFunc(c.Produces[:i], func(other Produced) bool { return other.Topic == out.Topic }) {
			v.fault(at("produces", i), "topic %s is produced twice", out.Topic)
		}
	}
}

func (v *validator) topic(path []any, topic string, records []string) {
	if topic == "" {
		v.fault(path, "topic is missing")
	}
	if len(records) == 0 {
		v.fault(path, "topic %s has no records, expected at least one", topic)
	}
	for i, record := range records {
		if slices.Contains(records[:i], record) {
			v.fault(path, "topic %s lists record %s twice", topic, record)
		}
	}
}

func (v *validator) commands() {
	c := v.c
	if len(c.Commands) > 0 && (c.Type == TypeReducer || c.Type == TypeProjector) {
		v.fault(at("commands"), "a part of type %s accepts no commands, it only follows facts", c.Type)
	}
	for i, command := range c.Commands {
		if command.Record == "" {
			v.fault(at("commands", i), "record is missing")
		}
		oneOf(v, at("commands", i), "idempotency of "+command.Record, command.Idempotency, ByEventID, ByTerm, Natural)
		if command.Timeout <= 0 {
			v.fault(at("commands", i, "timeout"), "timeout of %s is %s, expected a positive duration", command.Record, command.Timeout)
		}
		if command.Description == "" {
			v.fault(at("commands", i), "description of %s is missing", command.Record)
		}
		if slices.ContainsFunc(c.Commands[:i], func(other Command) bool { return other.Record == command.Record }) {
			v.fault(at("commands", i), "command %s is listed twice", command.Record)
		}
		if !slices.ContainsFunc(c.Consumes, func(in Consumed) bool { return slices.Contains(in.Records, command.Record) }) {
			v.fault(at("commands", i), "command %s is in the records of no consumed topic", command.Record)
		}
	}
}

func (v *validator) errors() {
	e := v.c.Errors
	if e.Retry.Attempts < 0 {
		v.fault(at("errors", "retry", "attempts"), "retry attempts are %d, expected 0 (for ever) or more", e.Retry.Attempts)
	}
	if e.Retry.InitialDelay <= 0 || e.Retry.MaxDelay < e.Retry.InitialDelay {
		v.fault(at("errors", "retry"), "retry delays are %s to %s, expected positive ones that do not fall", e.Retry.InitialDelay, e.Retry.MaxDelay)
	}
	if b := e.CircuitBreaker; b != nil && (b.Failures < 1 || b.OpenFor <= 0) {
		v.fault(at("errors", "circuit_breaker"), "the circuit breaker opens after %d failures for %s, expected at least 1 and a positive duration", b.Failures, b.OpenFor)
	}
	if len(e.Timeouts) == 0 {
		v.fault(at("errors", "timeouts"), "timeouts are missing, expected at least one")
	}
	for _, name := range slices.Sorted(maps.Keys(e.Timeouts)) {
		if !timeoutPattern.MatchString(name) || e.Timeouts[name] <= 0 {
			v.fault(at("errors", "timeouts", name), "timeout %q is %s, expected a name of a-z and _, and a positive duration", name, e.Timeouts[name])
		}
	}
	oneOf(v, at("errors", "poison"), "poison", e.Poison, PoisonDeadLetter, PoisonStop)
}

func (v *validator) surroundings() {
	c := v.c
	for i, d := range c.Dependencies {
		if !wordPattern.MatchString(d.Name) || d.Description == "" {
			v.fault(at("dependencies", i), "dependency %q lacks a name of a-z, 0-9 and hyphen, or a description", d.Name)
		}
	}
	if len(c.Health) == 0 {
		v.fault(at("health"), "health is missing, expected at least one condition")
	}
	for i, p := range c.Health {
		if !wordPattern.MatchString(p.Name) || p.Description == "" {
			v.fault(at("health", i), "condition %q lacks a name of a-z, 0-9 and hyphen, or a description", p.Name)
		}
		oneOf(v, at("health", i), "failing of "+p.Name, p.Failing, schemas.HealthDegraded, schemas.HealthDown)
	}
}

// Check holds a contract against the topics that are declared and the handlers that the code has, by record name. The error names every
// fault: a topic or record that does not resolve, a payload that is neither consumed nor ignored, a command without a
// handler, a handler without a command.
func Check(c *Contract, set *topics.Set, handlers []string) error {
	faults := &strictyaml.Faults{File: c.file}
	v := validator{c: c, faults: faults}
	for i, in := range c.Consumes {
		topic, ok := v.resolve(set, at("consumes", i), in.Topic, slices.Concat(in.Records, in.Ignores))
		if !ok {
			continue
		}
		for _, payload := range topic.Payloads {
			if !slices.Contains(in.Records, payload) && !slices.Contains(in.Ignores, payload) {
				v.fault(at("consumes", i), "topic %s also carries %s, which is neither in records nor in ignores", in.Topic, payload)
			}
		}
		if commanding(in.Topic) {
			v.allAccepted(i)
		}
	}
	for i, out := range c.Produces {
		v.resolve(set, at("produces", i), out.Topic, out.Records)
	}
	for i, command := range c.Commands {
		if !slices.Contains(handlers, command.Record) {
			v.fault(at("commands", i), "command %s has no handler in code", command.Record)
		}
	}
	for _, handler := range slices.Sorted(slices.Values(handlers)) {
		if !slices.ContainsFunc(c.Commands, func(command Command) bool { return command.Record == handler }) {
			v.fault(at("commands"), "the code has a handler for %s, which is no command of the contract", handler)
		}
	}
	return faults.Err()
}

// resolve looks up a topic and its records.
func (v *validator) resolve(set *topics.Set, path []any, name string, records []string) (topics.Topic, bool) {
	topic, ok := set.Topic(name)
	if !ok {
		v.fault(path, "topic %s is not declared in topics.yaml", name)
		return topic, false
	}
	for _, record := range records {
		switch {
		case schemas.NewRecord(record) == nil:
			v.fault(path, "record %s does not exist in schemas/", record)
		case !slices.Contains(topic.Payloads, record):
			v.fault(path, "topic %s does not carry record %s", name, record)
		}
	}
	return topic, true
}

// commanding says whether the records of a topic are commands or orders.
func commanding(topic string) bool {
	return strings.HasPrefix(topic, "infra.commands.") || strings.HasPrefix(topic, "infra.orders.")
}

func (v *validator) allAccepted(i int) {
	for _, record := range v.c.Consumes[i].Records {
		if !slices.ContainsFunc(v.c.Commands, func(command Command) bool { return command.Record == record }) {
			v.fault(at("consumes", i), "record %s of %s is consumed but is not in commands", record, v.c.Consumes[i].Topic)
		}
	}
}
