package main

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/regent-infra/regent/internal/checkpoint"
	"github.com/regent-infra/regent/internal/config"
	"github.com/regent-infra/regent/internal/event"
	"github.com/regent-infra/regent/internal/httpapi"
	"github.com/regent-infra/regent/internal/kafka"
	"github.com/regent-infra/regent/internal/record"
	"github.com/regent-infra/regent/internal/replay"
	"github.com/regent-infra/regent/internal/telemetry"
	"github.com/regent-infra/regent/internal/topics"
)

// checkpointsDir holds the checkpoints of a data directory.
const checkpointsDir = "checkpoints"

// fromStart says that no checkpoint is to be used.
const fromStart = "start"

// past makes states of moments from the topics of a running server, a stopped one, or any Kafka.
type past struct {
	app     *app
	link    *link
	archive *kafka.Archive
	cluster string
	// owners says whose changelog a topic is.
	owners map[string]changelogOwner
	// checkpoints may stand for the beginning of a log.
	checkpoints []checkpoint.Named
	rate        float64
}

type changelogOwner struct{ role, processor, table string }

// pastFlags are what all commands that look into the past share.
type pastFlags struct {
	from string
	rate float64
}

func (f *pastFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.from, "from", "", "the checkpoint to begin with: a name, a directory or an exported file; start: none (default: whichever of the data directory serves)")
	cmd.Flags().Float64Var(&f.rate, "rate", 0, "read at most so many records per second; 0: no limit")
	config.BindFlag(cmd.Flags(), "data-dir", "data.dir")
	addLink(cmd)
}

// lookBack connects, does a job with the past, and ends everything again. With --data-dir it works on what a stopped server has left.
func (a *app) lookBack(ctx context.Context, cmd *cobra.Command, c *config.Loaded, f *pastFlags, job func(context.Context, *past) error) error {
	if f.rate < 0 {
		return usagef("--rate %g: expected 0 or more records per second", f.rate)
	}
	if !cmd.Flags().Changed("data-dir") {
		l, err := a.dial(ctx, c)
		if err != nil {
			return err
		}
		defer l.close()
		return a.withPast(ctx, l, f, a.serverDataDir(ctx, c), job)
	}
	p, err := a.offlinePlane(c)
	if err != nil {
		return err
	}
	return p.work(ctx, "look back", func(ctx context.Context) error {
		l := &link{kafka: p.kafka, set: p.set, admin: p.admin, registry: p.registry, codec: p.codec}
		return a.withPast(ctx, l, f, c.Data.Dir, job)
	})
}

// serverDataDir is the data directory of the server, where there is one and it is on this machine.
func (a *app) serverDataDir(ctx context.Context, c *config.Loaded) string {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	var info httpapi.Info
	if err := newAPI(c).get(ctx, "/v1/info", nil, &info); err != nil {
		return "" // brokers and registry were named: a server need not be there
	}
	return info.DataDir
}

func (a *app) withPast(ctx context.Context, l *link, f *pastFlags, dataDir string, job func(context.Context, *past) error) (err error) {
	p := &past{app: a, link: l, owners: map[string]changelogOwner{}, rate: f.rate}
	cluster, err := l.admin.Cluster(ctx)
	if err != nil {
		return err
	}
	p.cluster = cluster.ID
	plane := &plane{codec: l.codec, set: l.set, build: telemetry.ReadBuild(version)}
	for _, role := range []string{roleReducer, roleFleet, roleOrchestrator} {
		d, err := plane.definition(role, "replay")
		if err != nil {
			return fmt.Errorf("make the processor: %w", err)
		}
		p.owners[d.Changelog] = changelogOwner{role, d.Name, d.ChangelogTable()}
	}
	if p.archive, err = kafka.NewArchive(l.kafka); err != nil {
		return err
	}
	defer p.archive.Close()
	remove, err := p.findCheckpoints(ctx, f.from, dataDir)
	defer func() { err = errors.Join(err, remove()) }()
	if err != nil {
		return err
	}
	return job(ctx, p)
}

// findCheckpoints collects the checkpoints that may be used. remove takes away what was unpacked for it.
func (p *past) findCheckpoints(ctx context.Context, from, dataDir string) (remove func() error, err error) {
	remove = func() error { return nil }
	library := checkpoint.NewLibrary(filepath.Join(dataDir, checkpointsDir))
	if from == fromStart || from == "" && dataDir == "" {
		return remove, nil
	}
	if from == "" {
		all, err := library.List()
		for _, c := range all {
			if c.Err == nil && c.ClusterID == p.cluster {
				p.checkpoints = append(p.checkpoints, c)
			}
		}
		return remove, err
	}
	c, remove, err := openCheckpoint(ctx, library, from)
	if err != nil {
		return remove, err
	}
	if c.ClusterID != p.cluster {
		return remove, withCode(exitRefused, fmt.Errorf("begin with the checkpoint %s: it belongs to the Kafka cluster %s, the brokers are those of %s", from, c.ClusterID, p.cluster))
	}
	p.checkpoints = []checkpoint.Named{{Name: from, Checkpoint: c}}
	return remove, nil
}

// openCheckpoint opens one by its name in the library, its directory, or its exported file, which is unpacked and verified.
func openCheckpoint(ctx context.Context, library checkpoint.Library, from string) (c *checkpoint.Checkpoint, remove func() error, err error) {
	remove = func() error { return nil }
	info, failed := os.Stat(from)
	switch {
	case failed == nil && info.IsDir():
		c, err = checkpoint.Open(from)
	case failed == nil:
		file, err := os.Open(from)
		if err != nil {
			return nil, remove, err
		}
		defer func() { _ = file.Close() }() // it was read
		dir, err := os.MkdirTemp("", "regent-checkpoint-")
		if err != nil {
			return nil, remove, fmt.Errorf("unpack the checkpoint %s: %w", from, err)
		}
		remove = func() error { return os.RemoveAll(dir) }
		c, err = checkpoint.Import(ctx, file, filepath.Join(dir, "checkpoint"))
		return c, remove, err
	default:
		c, err = library.Open(from)
		if errors.Is(err, checkpoint.ErrNotFound) {
			err = usagef("--from %s: there is no such checkpoint in %s, no such directory and no such file (regent checkpoint list)", from, library.Dir())
		}
	}
	return c, remove, err
}

// bases are the checkpoints of a partition.
func (p *past) bases(t replay.Target) []replay.Base {
	owner, ok := p.owners[t.TopicPartition.Topic]
	if !ok {
		return nil
	}
	var out []replay.Base
	for _, c := range p.checkpoints {
		if task, ok := c.Task(owner.processor, t.Partition); !ok || task.ChangelogID != hex.EncodeToString(t.Topic.ID[:]) {
			continue
		}
		if b, ok := c.Base(c.Name, owner.processor, owner.table, t.Partition); ok {
			out = append(out, b)
		}
	}
	return out
}

// pastFilter says which part of the past is wanted.
type pastFilter struct {
	roles   []string
	kind    string
	cluster string
	name    string
	types   []string
	// key is the one key that is wanted, prefix what all begin with.
	key, prefix string
	// resources leaves out what the API does not show, and gives all the rest its position if it can.
	resources bool
}

func (f *pastFilter) check(l *link) error {
	for _, r := range f.roles {
		if !slices.Contains([]string{roleReducer, roleFleet, roleOrchestrator}, r) {
			return usagef("--of %s: expected some of %s, %s, %s", r, roleReducer, roleFleet, roleOrchestrator)
		}
	}
	if f.kind != "" && l.set.Partitions(event.Kind(f.kind)) == 0 {
		return usagef("--kind %s: there is no such kind, expected one of %v", f.kind, kindsOf(l.set))
	}
	if f.cluster != "" {
		if _, err := event.ParseClusterID(f.cluster); err != nil {
			return usagef("--cluster %s: %w", f.cluster, err)
		}
	}
	if _, err := path.Match(f.name, ""); err != nil {
		return usagef("--name %s: expected a pattern such as pg-* or postgres/*/node/pg-1: %w", f.name, err)
	}
	return checkTypes(f.types)
}

func kindsOf(set *topics.Set) []event.Kind {
	var kinds []event.Kind
	for _, t := range set.All() {
		if t.Kind != "" && !slices.Contains(kinds, t.Kind) {
			kinds = append(kinds, t.Kind)
		}
	}
	return kinds
}

// topics are the changelogs that the filter wants, in order.
func (p *past) topics(f *pastFilter) []string {
	var names []string
	for _, t := range p.link.set.All() {
		owner, ok := p.owners[t.Name]
		switch {
		case !ok, len(f.roles) > 0 && !slices.Contains(f.roles, owner.role):
		case f.kind != "" && t.Kind != event.Kind(f.kind):
		case f.cluster != "" && t.Kind != event.ClusterID(f.cluster).Kind():
		default:
			names = append(names, t.Name)
		}
	}
	return names
}

// keeps says whether a key is wanted.
func (f *pastFilter) keeps(key []byte) bool {
	k := string(key)
	if f.prefix != "" && !strings.HasPrefix(k, f.prefix) || f.cluster != "" && !within(k, f.cluster) {
		return false
	}
	if f.name == "" {
		return true
	}
	whole, _ := path.Match(f.name, k) // the pattern was checked
	last, _ := path.Match(f.name, path.Base(k))
	return whole || last
}

// targets are the partitions that hold what is wanted at a moment.
func (p *past) targets(ctx context.Context, r *replay.Replayer, f *pastFilter, m *pastMoment) ([]replay.Target, error) {
	names := p.topics(f)
	if len(names) == 0 {
		return nil, usagef("replay: no topic holds what is asked for (see --of, --kind and --cluster)")
	}
	found, err := p.archive.Topics(ctx, names...)
	if err != nil {
		return nil, err
	}
	targets, err := r.Targets(ctx, names, func(tp record.TopicPartition) bool {
		_, wanted := m.of(tp)
		if f.cluster != "" && found[tp.Topic].Partitions > 1 {
			wanted = wanted && event.Partition(event.ClusterID(f.cluster), found[tp.Topic].Partitions) == tp.Partition
		}
		return wanted
	})
	if err == nil && len(targets) == 0 {
		err = usagef("replay up to %s: none of the partitions named is among those of %s", m, strings.Join(names, ", "))
	}
	return targets, err
}

// pastState is what there was at a moment.
type pastState struct {
	moment  *pastMoment
	parts   []*replay.Part
	records int64
	took    time.Duration
}

// at makes the state of a moment.
func (p *past) at(ctx context.Context, f *pastFilter, m *pastMoment, bar io.Writer) (*pastState, error) {
	began := p.app.clock.Now()
	meter := newMeter(bar, "replay "+m.String())
	defer meter.end()
	var mu sync.Mutex
	var done, total int64
	r, err := replay.New(p.archive, replay.Options{Rate: p.rate, Clock: p.app.clock, Progress: func(offsets, _ int64) {
		mu.Lock()
		defer mu.Unlock()
		done += offsets
		meter.set(done, max(total, done))
	}})
	if err != nil {
		return nil, err
	}
	targets, err := p.targets(ctx, r, f, m)
	if err != nil {
		return nil, err
	}
	stretches, err := p.plan(ctx, r, targets, m)
	if err != nil {
		return nil, refused(err)
	}
	for _, s := range stretches {
		total += s.To - s.From
	}
	state := &pastState{moment: m, parts: make([]*replay.Part, len(targets))}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(2)
	for i, t := range targets {
		g.Go(func() error {
			moment, _ := m.of(t.TopicPartition)
			part, err := r.At(ctx, t, replay.Query{Moment: moment, Keep: f.keeps, Key: f.key, LogFirst: f.resources}, p.bases(t))
			state.parts[i] = part
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, refused(err)
	}
	for _, part := range state.parts {
		state.records += part.Records
	}
	state.took = p.app.clock.Now().Sub(began)
	return state, nil
}

func (p *past) plan(ctx context.Context, r *replay.Replayer, targets []replay.Target, m *pastMoment) ([]replay.Stretch, error) {
	return r.Plan(ctx, targets, func(t replay.Target) replay.Moment {
		moment, _ := m.of(t.TopicPartition)
		return moment
	}, p.bases)
}

// refused gives what cannot be had, or not yet, its exit code.
func refused(err error) error {
	var refusal *replay.Refusal
	var outside *replay.RangeError
	switch {
	case errors.As(err, &refusal):
		return withCode(exitRefused, err)
	case errors.As(err, &outside):
		return withCode(exitUsage, err)
	default:
		return err
	}
}

// pastResource is one value of the past, for programs. What comes from a checkpoint has no position: it stands before what was read.
type pastResource struct {
	ID          string            `json:"id"`
	Type        string            `json:"type"`
	UpdatedAt   time.Time         `json:"updated_at,omitzero"`
	Position    *httpapi.Position `json:"position"`
	EventID     string            `json:"event_id"`
	CausationID string            `json:"causation_id"`
	Value       any               `json:"value"`

	// topic is where it stands.
	topic string
}

// resources decodes what is in a state, ordered by topic and key.
func (p *past) resources(s *pastState, f *pastFilter) ([]pastResource, error) {
	out := []pastResource{}
	for _, part := range s.parts {
		for key, e := range part.Entries {
			decoded, err := p.link.codec.Decode(part.Topic, e.Value)
			if err != nil {
				return nil, fmt.Errorf("decode %s of %s/%d: %w", key, part.Topic, part.Partition, err)
			}
			if len(f.types) > 0 && !slices.Contains(f.types, decoded.Type) || f.resources && len(f.types) == 0 && decoded.Type == "ResourceForgotten" {
				continue
			}
			r := pastResource{
				ID: key, Type: decoded.Type, EventID: decoded.ID, CausationID: decoded.CausationID, Value: decoded.Payload, topic: part.Topic,
			}
			if e.Offset >= 0 {
				r.UpdatedAt, r.Position = e.Time, &httpapi.Position{Topic: part.Topic, Partition: part.Partition, Offset: e.Offset}
			}
			out = append(out, r)
		}
	}
	slices.SortFunc(out, func(a, b pastResource) int {
		return compareText(a.topic, b.topic, strings.Compare(a.ID, b.ID))
	})
	return out, nil
}
