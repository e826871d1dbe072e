package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/regent-infra/regent/internal/asyncapi"
	"github.com/regent-infra/regent/internal/avrocodec"
	"github.com/regent-infra/regent/internal/config"
	"github.com/regent-infra/regent/internal/topicplan"
)

func (a *app) topicsCommand() *cobra.Command {
	return parent(&cobra.Command{
		Use: "topics", GroupID: groupTools,
		Short: "Make broker and registry agree with topics.yaml",
		Example: `  regent topics plan
  regent topics apply --replication-factor 1
  regent topics diff && echo "nothing has drifted"`,
	}, a.topicsPlanCommand(), a.topicsApplyCommand(), a.topicsDiffCommand(), a.topicsAsyncAPICommand())
}

func (a *app) addTopicsFlags(cmd *cobra.Command) {
	addDeclaration(cmd)
	addLink(cmd)
}

// addDeclaration adds what says which topics are meant.
func addDeclaration(cmd *cobra.Command) {
	f := cmd.Flags()
	config.BindFlag(f, "topics-file", "topics.file")
	config.BindFlag(f, "replication-factor", "topics.replication_factor")
	config.BindFlag(f, "partitions", "topics.partitions")
}

func (a *app) topicsAsyncAPICommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "asyncapi", Short: "Print the topics as an AsyncAPI 3 document, for tools",
		Long: `Print the declared topics, with keys, partitions, configuration and Avro schemas, as an AsyncAPI 3 document in YAML. It is made from the declaration and the
schemas in the binary: neither broker nor registry is asked.`,
		Example: `  regent topics asyncapi > asyncapi.yaml
  regent topics asyncapi --topics-file topics.yaml --replication-factor 1`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.load(cmd)
			if err != nil {
				return err
			}
			set, err := topicSet(c)
			if err != nil {
				return err
			}
			document, err := asyncapi.Document(set)
			if err != nil {
				return err
			}
			a.printf("%s", document)
			return nil
		},
	}
	addDeclaration(cmd)
	return cmd
}

// shownPlan is a plan for programs.
type shownPlan struct {
	Topics  int         `json:"topics"`
	Steps   []shownStep `json:"steps"`
	Notices []string    `json:"notices"`
}

type shownStep struct {
	Topic  string `json:"topic"`
	Action string `json:"action"`
	Detail string `json:"detail"`
	Danger string `json:"danger,omitempty"`
}

func showPlan(p topicplan.Plan) shownPlan {
	s := shownPlan{Topics: p.Topics, Steps: []shownStep{}, Notices: append([]string{}, p.Notices...)}
	for _, step := range p.Steps {
		s.Steps = append(s.Steps, shownStep{step.Topic, string(step.Action), step.Detail, step.Danger})
	}
	return s
}

// planTopics compares and hands the plan on. An embedded broker has one node, so its topics have one replica.
func (a *app) planTopics(cmd *cobra.Command, use func(ctx context.Context, l *link, p topicplan.Plan) error) error {
	c, err := a.load(cmd)
	if err != nil {
		return err
	}
	l, err := a.dial(cmd.Context(), c)
	if err != nil {
		return err
	}
	defer l.close()
	ctx := cmd.Context()
	if c.Topics.ReplicationFactor == 0 {
		cluster, err := l.admin.Cluster(ctx)
		if err != nil {
			return err
		}
		if len(cluster.Brokers) == 1 {
			l.set = l.set.WithReplicationFactor(1)
		}
	}
	p, err := topicplan.Make(ctx, l.admin, l.registry, l.set)
	if err != nil {
		return err
	}
	return use(ctx, l, p)
}

func (a *app) topicsPlanCommand() *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use: "plan", Short: "Show what apply would do",
		Example: `  regent topics plan
  regent topics plan -o json | jq '.steps[] | select(.danger)'`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o, err := a.output(format)
			if err != nil {
				return err
			}
			return a.planTopics(cmd, func(_ context.Context, _ *link, p topicplan.Plan) error {
				if done, err := o.structured(showPlan(p)); done {
					return err
				}
				a.printf("%s", p)
				return nil
			})
		},
	}
	a.addTopicsFlags(cmd)
	a.addOutput(cmd, &format)
	return cmd
}

func (a *app) topicsDiffCommand() *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use: "diff", Short: "Show the plan, and exit with 1 if anything differs",
		Example: "  regent topics diff || echo \"the topics have drifted\"",
		RunE: func(cmd *cobra.Command, _ []string) error {
			o, err := a.output(format)
			if err != nil {
				return err
			}
			return a.planTopics(cmd, func(_ context.Context, _ *link, p topicplan.Plan) error {
				if done, err := o.structured(showPlan(p)); done {
					if err != nil {
						return err
					}
				} else {
					a.printf("%s", p)
				}
				if !p.Empty() {
					return withCode(exitFailed, errSilent)
				}
				return nil
			})
		},
	}
	a.addTopicsFlags(cmd)
	a.addOutput(cmd, &format)
	return cmd
}

func (a *app) topicsApplyCommand() *cobra.Command {
	var allow []string
	var dryRun bool
	cmd := &cobra.Command{
		Use: "apply", Short: "Create and change topics and schemas so that they agree with topics.yaml",
		Long: `Create and change topics and schemas so that they agree with the declaration. It prints the plan first. Steps that can lose or reorder records
are refused as a whole unless their topic is allowed by name.`,
		Example: `  regent topics apply --brokers kafka-1:9092 --registry http://registry:8081
  regent topics apply --allow infra.heartbeats.postgres.v1`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.planTopics(cmd, func(ctx context.Context, l *link, p topicplan.Plan) error {
				a.printf("%s", p)
				if dryRun || p.Empty() {
					return nil
				}
				err := topicplan.Apply(ctx, l.admin, l.registry, p, allow, func(s topicplan.Step) {
					a.printf("done: %s %s\n", s.Action, s.Topic)
				})
				var refused *topicplan.RefusedError
				if errors.As(err, &refused) {
					return withCode(exitRefused, err)
				}
				if err != nil {
					return fmt.Errorf("apply the plan: %w; what was told as done is done, a new plan holds the rest", err)
				}
				return nil
			})
		},
	}
	cmd.Flags().StringArrayVar(&allow, "allow", nil, "allow dangerous steps on this topic; may be repeated")
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "only show the plan")
	a.addTopicsFlags(cmd)
	return cmd
}

var _ topicplan.SchemaRegistry = (*avrocodec.Client)(nil)
