package main

import (
	"context"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/regent-infra/regent/internal/record"
	"github.com/regent-infra/regent/internal/replay"
)

// replayFlags say what is replayed.
type replayFlags struct {
	pastFlags
	pastFilter
	until, diff string
	dryRun      bool
}

func (a *app) replayCommand() *cobra.Command {
	var format string
	var f replayFlags
	cmd := &cobra.Command{
		Use: "replay [MOMENT]", GroupID: groupExplain,
		Short: "Show the state as it was at a moment, or what changed between two",
		Long: `Make the state of reducer, fleet and orchestrator as it was at a moment, from their output topics, which are event and redo log in one, and
show it. It changes nothing, and needs no server: --brokers and --registry name where the topics are, unless a running server tells; --data-dir
names the data directory of a regent up that is stopped.

A moment is ` + momentHelp + `.
The state at a time is what was committed then, by the brokers' clock; that at an offset is what is committed below it.

The topics are compacted: what was replaced goes, after the time that topics.yaml keeps everything. A moment that cannot be had any more exactly is
refused with exit code 3, and the message says which is the earliest one. Checkpoints reach further back (regent checkpoint --help): those
in the data directory are used where they serve, --from names one. With --from, a moment may also be the word checkpoint, which is the default then: what
that checkpoint goes up to, which can always be had.`,
		Example: `  regent replay --until 10m                                     # everything, as it was ten minutes ago
  regent replay --until 2026-01-31T12:00:00Z --cluster postgres/orders -o yaml
  regent replay --diff 1h                                       # what changed within the last hour, field by field
  regent replay --diff 2026-01-31T11:00:00Z 2026-01-31T12:00:00Z --of orchestrator
  regent replay --until state.postgres/0@1200 --type PostgresClusterState
  regent replay --until 3h --from nightly.tar.zst --rate 50000
  regent replay --from auto-20260131T060000.000Z                # the state in a checkpoint
  regent replay --diff checkpoint --from nightly.tar.zst        # what changed since
  regent replay --until 10m --data-dir /var/lib/regent          # of a regent up that is stopped
  regent replay --until 10m --dry-run`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.load(cmd)
			if err != nil {
				return err
			}
			o, err := a.output(format)
			if err != nil {
				return err
			}
			if len(args) == 1 {
				if cmd.Flags().Changed("until") {
					return usagef("replay %s --until %s: expected one of them, they say the same", args[0], f.until)
				}
				f.until = args[0]
			}
			switch {
			case f.until != "":
			case f.diff != "":
				f.until = "now"
			case f.from != "" && f.from != fromStart:
				f.until = ofCheckpoint
			default:
				return usagef("replay: which moment? --until names it, or --diff two to compare; see: %s --help", cmd.CommandPath())
			}
			return a.lookBack(cmd.Context(), cmd, c, &f.pastFlags, func(ctx context.Context, p *past) error { return p.replay(ctx, o, &f) })
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&f.until, "until", "", "the moment: RFC 3339, how long ago, now, or offsets")
	flags.StringVar(&f.diff, "diff", "", "show what changed from this moment to --until (or the argument; default: now)")
	flags.StringSliceVar(&f.roles, "of", nil, "whose state: reducer, fleet, orchestrator (default: all)")
	flags.StringVar(&f.kind, "kind", "", "only of this kind, such as postgres")
	flags.StringVar(&f.cluster, "cluster", "", "only of this cluster, such as postgres/orders")
	flags.StringVar(&f.name, "name", "", "only keys that match this pattern, as a whole or by their last part: pg-*, postgres/*/node/pg-1")
	flags.StringArrayVar(&f.types, "type", nil, "only values of this record type, such as PostgresNodeState; may be repeated")
	flags.BoolVar(&f.dryRun, "dry-run", false, "say what would be read, and read nothing of it")
	f.add(cmd)
	a.addOutput(cmd, &format)
	_ = cmd.RegisterFlagCompletionFunc("cluster", a.completeClusters)                                                                                        // fails only for an unknown flag
	_ = cmd.RegisterFlagCompletionFunc("of", cobra.FixedCompletions([]string{roleReducer, roleFleet, roleOrchestrator}, cobra.ShellCompDirectiveNoFileComp)) // fails only for an unknown flag
	return cmd
}

// moments parses the moments of the flags, the earlier one first if there are two.
func (p *past) moments(f *replayFlags) ([]*pastMoment, error) {
	now := p.app.clock.Now()
	var out []*pastMoment
	for _, one := range []struct{ flag, text string }{{"--diff", f.diff}, {"--until", f.until}} {
		if one.text == "" {
			continue
		}
		parse := func() (pastMoment, error) { return parseMoment(one.flag, one.text, now, p.link.resolveTopic) }
		if one.text == ofCheckpoint {
			parse = func() (pastMoment, error) { return p.momentOfCheckpoint(one.flag, f.from) }
		}
		m, err := parse()
		if err != nil {
			return nil, err
		}
		out = append(out, &m)
	}
	if len(out) == 2 && !out[0].at.IsZero() && !out[1].at.IsZero() && out[0].at.After(out[1].at) {
		return nil, usagef("--diff %s --until %s: the first is later than the second, expected it the other way round", f.diff, f.until)
	}
	return out, nil
}

// ofCheckpoint is the moment of the checkpoint that --from names.
const ofCheckpoint = "checkpoint"

// momentOfCheckpoint is what a checkpoint goes up to.
func (p *past) momentOfCheckpoint(flag, from string) (pastMoment, error) {
	if from == "" || from == fromStart {
		return pastMoment{}, usagef("%s %s: expected --from with it, which names the checkpoint", flag, ofCheckpoint)
	}
	m := pastMoment{text: "the checkpoint " + from, offset: -1, offsets: map[record.TopicPartition]int64{}}
	for topic, owner := range p.owners {
		for _, task := range p.checkpoints[0].Tasks {
			if task.Processor == owner.processor {
				m.offsets[record.TopicPartition{Topic: topic, Partition: task.Task}] = task.Out
			}
		}
	}
	return m, nil
}

func (p *past) replay(ctx context.Context, o *output, f *replayFlags) error {
	if err := f.check(p.link); err != nil {
		return err
	}
	moments, err := p.moments(f)
	if err != nil {
		return err
	}
	if f.dryRun {
		return p.dryRun(ctx, o, f, moments)
	}
	states := make([]*pastState, len(moments))
	values := make([][]pastResource, len(moments))
	for i, m := range moments {
		if states[i], err = p.at(ctx, &f.pastFilter, m, p.app.env.Stderr); err != nil {
			return err
		}
		if values[i], err = p.resources(states[i], &f.pastFilter); err != nil {
			return err
		}
	}
	if len(moments) == 1 {
		return p.showState(o, states[0], values[0])
	}
	changes, err := compareStates(values[0], values[1])
	if err != nil {
		return err
	}
	return p.showChanges(o, states, changes)
}

// dryRun says what would be read.
func (p *past) dryRun(ctx context.Context, o *output, f *replayFlags, moments []*pastMoment) error {
	r, err := replay.New(p.archive, replay.Options{Clock: p.app.clock})
	if err != nil {
		return err
	}
	out := replayPlan{Moments: []plannedMoment{}}
	for _, m := range moments {
		targets, err := p.targets(ctx, r, &f.pastFilter, m)
		if err != nil {
			return err
		}
		stretches, err := p.plan(ctx, r, targets, m)
		if err != nil {
			return refused(err)
		}
		out.add(m, stretches)
	}
	if f.rate > 0 {
		out.Seconds = float64(out.Records) / f.rate
	}
	if done, err := o.structured(out); done {
		return err
	}
	out.print(o)
	return nil
}

// getPast shows resources as they were.
func (a *app) getPast(ctx context.Context, cmd *cobra.Command, o *output, f *pastFlags, at, id, recordType string) error {
	c, err := a.load(cmd)
	if err != nil {
		return err
	}
	one := id != "" && !strings.HasSuffix(id, "/")
	if one {
		if err := checkResource(id); err != nil {
			return err
		}
	}
	filter := pastFilter{roles: []string{roleReducer, roleFleet}, resources: true}
	filter.narrow(id, one)
	if recordType != "" {
		filter.types = []string{recordType}
	}
	return a.lookBack(ctx, cmd, c, f, func(ctx context.Context, p *past) error {
		if err := filter.check(p.link); err != nil {
			return err
		}
		m, err := parseMoment("--at", at, a.clock.Now(), p.link.resolveTopic)
		if err != nil {
			return err
		}
		state, err := p.at(ctx, &filter, &m, a.env.Stderr)
		if err != nil {
			return err
		}
		found, err := p.resources(state, &filter)
		if err != nil {
			return err
		}
		if one {
			return p.showOne(o, state, id, found)
		}
		return p.showMany(o, state, found)
	})
}

// since is how long before a moment something was, for people.
func (s *pastState) since(t time.Time, now time.Time) string {
	if t.IsZero() {
		return "-"
	}
	at := now
	if !s.moment.at.IsZero() {
		at = s.moment.at
	}
	return age(at, t)
}
