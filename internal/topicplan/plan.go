// Package topicplan makes a broker and a schema registry agree with the declaration of the topics, as a migration tool does with a database.
//
//	plan, err := topicplan.Make(ctx, admin, registry, topics.Default())
//	fmt.Fprint(out, plan)                                        // a person reads it before anything happens
//	err = topicplan.Apply(ctx, admin, registry, plan, allow, nil)
//
// Invariants: (1) a plan of what was just applied is empty; (2) nothing that loses or reorders records happens unless the topic was
// allowed by name, and a plan that holds such a step without that is refused whole; (3) schemas are registered only after they were found compatible under
// the declared mode, by the registry and by the caller's own check, because some registries say yes to everything; (4) topics and
// subjects that are not declared are never touched.
package topicplan

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/regent-infra/regent/internal/avrocodec"
	"github.com/regent-infra/regent/internal/clock"
	"github.com/regent-infra/regent/internal/envelope"
	"github.com/regent-infra/regent/internal/kafka"
	"github.com/regent-infra/regent/internal/topics"
)

// Kafka's names of the settings whose change may be dangerous.
const (
	cleanupPolicy = "cleanup.policy"
	timestampType = "message.timestamp.type"
)

// limits are settings that a lower value of makes records be deleted earlier; -1 means no limit.
var limits = []string{"retention.ms", "retention.bytes", "min.compaction.lag.ms", "delete.retention.ms"}

// Cluster is what a plan needs of the brokers. [*kafka.Admin] is one.
type Cluster interface {
	// Topics describes those of the named topics that exist.
	Topics(ctx context.Context, names ...string) (map[string]kafka.Topic, error)
	// Configs returns the settings in force of topics that exist.
	Configs(ctx context.Context, names ...string) (map[string]map[string]string, error)
	CreateTopic(ctx context.Context, spec kafka.TopicSpec) error
	AlterConfig(ctx context.Context, topic string, set map[string]string) error
	SetPartitions(ctx context.Context, topic string, count int32) error
	DeleteTopic(ctx context.Context, topic string) error
}

// SchemaRegistry is what a plan needs of a schema registry.
type SchemaRegistry interface {
	// LookupID returns the id of a schema under a subject. The error wraps [avrocodec.ErrNotRegistered] if it is not there.
	LookupID(ctx context.Context, subject, schema string) (int32, error)
	// Versions returns the schemas of a subject, oldest first; none if the subject does not exist.
	Versions(ctx context.Context, subject string) ([]string, error)
	// CheckCompatible returns an [*avrocodec.IncompatibleError] if the schema may not follow the versions of the subject under its mode.
	CheckCompatible(ctx context.Context, subject, schema string) error
	// Register registers a schema; one that is there already keeps its id.
	Register(ctx context.Context, subject, schema string) (int32, error)
	// Mode returns the subject's own compatibility mode, or "".
	Mode(ctx context.Context, subject string) (string, error)
	SetMode(ctx context.Context, subject, mode string) error
}

// Action is what a step does.
type Action string

// The actions, in the order in which a topic's steps are carried out.
const (
	// ActionRecreateTopic deletes a topic with its records and creates it anew: the only way to fewer partitions.
	ActionRecreateTopic Action = "recreate topic"
	// ActionCreateTopic creates a topic.
	ActionCreateTopic Action = "create topic"
	// ActionAddPartitions grows a topic: keys move to other partitions.
	ActionAddPartitions Action = "add partitions"
	// ActionAlterConfig changes settings of a topic.
	ActionAlterConfig Action = "alter config"
	// ActionSetMode sets the compatibility mode of a subject.
	ActionSetMode Action = "set compatibility"
	// ActionRegisterSchema registers a schema.
	ActionRegisterSchema Action = "register schema"
)

// Step is one change of a plan.
type Step struct {
	Topic  string
	Action Action
	// Detail says what changes, for people: "retention.ms 604800000 → 7776000000".
	Detail string
	// Danger says what may be lost, or be in another order, by this step; empty if nothing.
	Danger string

	create  kafka.TopicSpec
	config  map[string]string
	count   int32
	mode    string
	subject string
	schema  string
}

// Plan is what would make the cluster and the registry agree with a declaration.
type Plan struct {
	Steps []Step
	// Notices are differences that no step removes, such as another replication factor.
	Notices []string
	// Topics is how many topics were compared.
	Topics int
}

// Empty reports whether nothing is to do.
func (p Plan) Empty() bool { return len(p.Steps) == 0 }

// Refused returns the steps that are dangerous and whose topic is not allowed by name.
func (p Plan) Refused(allow []string) []Step {
	var refused []Step
	for _, step := range p.Steps {
		if step.Danger != "" && !slices.Contains(allow, step.Topic) {
			refused = append(refused, step)
		}
	}
	return refused
}

// String renders the plan for people.
func (p Plan) String() string {
	var b strings.Builder
	topic := ""
	for _, step := range p.Steps {
		if step.Topic != topic {
			topic = step.Topic
			fmt.Fprintf(&b, "%s\n", topic)
		}
		sign := "~"
		switch {
		case step.Danger != "":
			sign = "!"
		case step.Action == ActionCreateTopic || step.Action == ActionRegisterSchema:
			sign = "+"
		}
		fmt.Fprintf(&b, "  %s %s: %s\n", sign, step.Action, step.Detail)
		if step.Danger != "" {
			fmt.Fprintf(&b, "      %s; needs --allow %s\n", step.Danger, step.Topic)
		}
	}
	for _, notice := range p.Notices {
		fmt.Fprintf(&b, "note: %s\n", notice)
	}
	if p.Empty() {
		fmt.Fprintf(&b, "%d topics and their schemas are as declared.\n", p.Topics)
		return b.String()
	}
	dangerous := len(p.Refused(nil))
	fmt.Fprintf(&b, "%d steps, %d of them dangerous.\n", len(p.Steps), dangerous)
	return b.String()
}

// Make compares the declaration with what is there. It changes nothing, except that a compatibility check asks the registry. An
// incompatible schema is an error that names all subjects with one.
func Make(ctx context.Context, cluster Cluster, registry SchemaRegistry, set *topics.Set) (Plan, error) {
	all := set.All()
	plan := Plan{Topics: len(all)}
	found, err := cluster.Topics(ctx, set.Names()...)
	if err != nil {
		return Plan{}, fmt.Errorf("plan topics: %w", err)
	}
	configs := map[string]map[string]string{}
	if len(found) > 0 {
		if configs, err = cluster.Configs(ctx, slices.Sorted(maps.Keys(found))...); err != nil {
			return Plan{}, fmt.Errorf("plan topics: %w", err)
		}
	}
	var incompatible []error
	for _, topic := range all {
		is, exists := found[topic.Name]
		if !exists {
			plan.Steps = append(plan.Steps, createStep(topic, ActionCreateTopic))
		} else {
			plan.compare(topic, is, configs[topic.Name])
		}
		steps, err := schemaSteps(ctx, registry, topic)
		var refused *refusedSchema
		switch {
		case errors.As(err, &refused):
			incompatible = append(incompatible, err)
		case err != nil:
			return Plan{}, fmt.Errorf("plan schemas: %w", err)
		}
		plan.Steps = append(plan.Steps, steps...)
	}
	if err := errors.Join(incompatible...); err != nil {
		return Plan{}, fmt.Errorf("plan schemas: %w", err)
	}
	return plan, nil
}

func createStep(topic topics.Topic, action Action) Step {
	settings := make([]string, 0, len(topic.Config))
	for _, key := range slices.Sorted(maps.Keys(topic.Config)) {
		settings = append(settings, key+"="+topic.Config[key])
	}
	return Step{
		Topic: topic.Name, Action: action,
		Detail: fmt.Sprintf("%d partitions, %d replicas, %s", topic.Partitions, topic.ReplicationFactor, strings.Join(settings, " ")),
		create: kafka.TopicSpec{
			Name: topic.Name, Partitions: topic.Partitions, ReplicationFactor: topic.ReplicationFactor, Config: maps.Clone(topic.Config),
		},
	}
}

// compare adds the steps that a topic needs which exists.
func (p *Plan) compare(want topics.Topic, is kafka.Topic, config map[string]string) {
	if is.Partitions > want.Partitions {
		step := createStep(want, ActionRecreateTopic)
		step.Detail = fmt.Sprintf("partitions %d → %d; %s", is.Partitions, want.Partitions, step.Detail)
		step.Danger = "every record of the topic is deleted"
		p.Steps = append(p.Steps, step)
		return
	}
	if is.Partitions < want.Partitions {
		p.Steps = append(p.Steps, Step{
			Topic: want.Name, Action: ActionAddPartitions, count: want.Partitions,
			Detail: fmt.Sprintf("partitions %d → %d", is.Partitions, want.Partitions),
			Danger: "clusters move to other partitions, away from their history and their state",
		})
	}
	if is.ReplicationFactor != want.ReplicationFactor {
		p.Notices = append(p.Notices, fmt.Sprintf("%s has %d replicas, declared are %d: reassign its partitions with Kafka's tools, or use --replication-factor",
			want.Name, is.ReplicationFactor, want.ReplicationFactor))
	}
	for _, key := range slices.Sorted(maps.Keys(want.Config)) {
		before, known := config[key]
		after := want.Config[key]
		if before == after || (key == cleanupPolicy && before == "" && after == string(topics.CleanupDelete)) {
			continue
		}
		shown := before
		if !known || before == "" {
			shown = "(unset)"
		}
		p.Steps = append(p.Steps, Step{
			Topic: want.Name, Action: ActionAlterConfig, config: map[string]string{key: after},
			Detail: fmt.Sprintf("%s %s → %s", key, shown, after), Danger: danger(key, before, after),
		})
	}
}

// danger says what a changed setting may destroy.
func danger(key, before, after string) string {
	switch {
	case key == cleanupPolicy && after == string(topics.CleanupDelete) && strings.Contains(before, string(topics.CleanupCompact)):
		return "the latest value of a key is deleted once it is old enough"
	case key == cleanupPolicy && after == string(topics.CleanupCompact):
		return "all but the latest value of each key is deleted"
	case slices.Contains(limits, key) && lower(before, after):
		return "records are deleted earlier than before"
	case key == timestampType && before != "":
		return "stream time changes its clock"
	}
	return ""
}

// lower compares limits, where -1 means none.
func lower(before, after string) bool {
	b, errBefore := strconv.ParseInt(before, 10, 64)
	a, errAfter := strconv.ParseInt(after, 10, 64)
	if errBefore != nil || errAfter != nil || a == b {
		return false
	}
	if a < 0 {
		return false
	}
	return b < 0 || a < b
}

// refusedSchema says that a registry finds a schema incompatible.
type refusedSchema struct {
	subject, mode string
	err           error
}

func (r *refusedSchema) Error() string {
	return fmt.Sprintf("the schema of subject %s is not compatible with what is registered under mode %s: add fields with defaults, never rename, retype or remove; or "+
		"declare a new version of the topic: %v", r.subject, r.mode, r.err)
}

func (r *refusedSchema) Unwrap() error { return r.err }

// compatible asks our own check under the declared mode, then the registry under the mode that it has.
func compatible(ctx context.Context, registry SchemaRegistry, topic topics.Topic, schema string, versions []string) error {
	if len(versions) == 0 {
		return nil
	}
	subject := topics.Subject(topic.Name)
	if err := avrocodec.CheckMode(topic.Compatibility, schema, versions); err != nil {
		return &refusedSchema{subject: subject, mode: topic.Compatibility, err: err}
	}
	err := registry.CheckCompatible(ctx, subject, schema)
	var incompatible *avrocodec.IncompatibleError
	if errors.As(err, &incompatible) {
		return &refusedSchema{subject: subject, mode: topic.Compatibility, err: err}
	}
	return err
}

func schemaSteps(ctx context.Context, registry SchemaRegistry, topic topics.Topic) ([]Step, error) {
	subject := topics.Subject(topic.Name)
	schema, err := envelope.Schema(topic.Payloads)
	if err != nil {
		return nil, err
	}
	mode, err := registry.Mode(ctx, subject)
	if err != nil {
		return nil, err
	}
	var steps []Step
	if mode != topic.Compatibility {
		step := Step{
			Topic: topic.Name, Action: ActionSetMode, mode: topic.Compatibility, subject: subject,
			Detail: fmt.Sprintf("subject %s %s → %s", subject, orUnset(mode), topic.Compatibility),
		}
		if mode != "" && weaker(topic.Compatibility, mode) {
			step.Danger = "readers may meet records that they cannot read"
		}
		steps = append(steps, step)
	}
	// Registries write schemas in their own way, so they are asked, and texts are not compared.
	if _, err := registry.LookupID(ctx, subject, schema); !errors.Is(err, avrocodec.ErrNotRegistered) {
		return steps, err
	}
	versions, err := registry.Versions(ctx, subject)
	if err != nil {
		return nil, err
	}
	if err := compatible(ctx, registry, topic, schema, versions); err != nil {
		return nil, err
	}
	return append(steps, Step{
		Topic: topic.Name, Action: ActionRegisterSchema, subject: subject, schema: schema,
		Detail: fmt.Sprintf("subject %s, version %d, payloads %s", subject, len(versions)+1, strings.Join(topic.Payloads, ", ")),
	}), nil
}

func orUnset(mode string) string {
	if mode == "" {
		return "(the registry's default)"
	}
	return mode
}

// weaker reports whether mode a demands less than mode b.
func weaker(a, b string) bool {
	return !covers(a, b)
}

func covers(a, b string) bool {
	baseA, transitiveA := strings.CutSuffix(a, "_TRANSITIVE")
	baseB, transitiveB := strings.CutSuffix(b, "_TRANSITIVE")
	return (baseA == baseB || baseA == "FULL" || baseB == "NONE") && (transitiveA || !transitiveB)
}

// RefusedError says that a plan holds dangerous steps that were not allowed. Nothing was changed.
type RefusedError struct{ Steps []Step }

// Error implements error.
func (e *RefusedError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "apply topics: %d dangerous steps were not allowed by name, so nothing was changed:", len(e.Steps))
	for _, step := range e.Steps {
		fmt.Fprintf(&b, "\n  %s: %s: %s: %s (to do it, use --allow %s)", step.Topic, step.Action, step.Detail, step.Danger, step.Topic)
	}
	return b.String()
}

// Apply carries a plan out. It refuses as a whole, with a [*RefusedError], if it holds a dangerous step whose topic is not in allow. done,
// if not nil, is told of each step that succeeded. After an error the steps that were told of are done, and a new plan holds the rest.
func Apply(ctx context.Context, cluster Cluster, registry SchemaRegistry, plan Plan, allow []string, done func(Step)) error {
	if refused := plan.Refused(allow); len(refused) > 0 {
		return &RefusedError{Steps: refused}
	}
	for _, step := range plan.Steps {
		if err := step.apply(ctx, cluster, registry); err != nil {
			return fmt.Errorf("apply topics: %s: %s: %w", step.Topic, step.Action, err)
		}
		if done != nil {
			done(step)
		}
	}
	return nil
}

func (s Step) apply(ctx context.Context, cluster Cluster, registry SchemaRegistry) error {
	switch s.Action {
	case ActionRecreateTopic:
		return s.recreate(ctx, cluster)
	case ActionCreateTopic:
		return cluster.CreateTopic(ctx, s.create)
	case ActionAddPartitions:
		return cluster.SetPartitions(ctx, s.Topic, s.count)
	case ActionAlterConfig:
		return cluster.AlterConfig(ctx, s.Topic, s.config)
	case ActionSetMode:
		return registry.SetMode(ctx, s.subject, s.mode)
	case ActionRegisterSchema:
		_, err := registry.Register(ctx, s.subject, s.schema)
		return err
	default:
		return fmt.Errorf("action %q is none of a plan", s.Action)
	}
}

const (
	recreateTries = 100
	recreatePause = 100 * time.Millisecond
)

// recreate deletes a topic and creates it when the brokers have forgotten the old one, which they do in the background.
func (s Step) recreate(ctx context.Context, cluster Cluster) error {
	if err := cluster.DeleteTopic(ctx, s.Topic); err != nil {
		return err
	}
	var err error
	for range recreateTries {
		if err = cluster.CreateTopic(ctx, s.create); !errors.Is(err, kafka.ErrTopicExists) {
			return err
		}
		if err := clock.Wait(ctx, clock.System{}, recreatePause); err != nil {
			return err
		}
	}
	return err
}
