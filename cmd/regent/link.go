package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/regent-infra/regent/internal/avrocodec"
	"github.com/regent-infra/regent/internal/config"
	"github.com/regent-infra/regent/internal/event"
	"github.com/regent-infra/regent/internal/httpapi"
	"github.com/regent-infra/regent/internal/kafka"
	"github.com/regent-infra/regent/internal/record"
	"github.com/regent-infra/regent/internal/secret"
	"github.com/regent-infra/regent/internal/topics"
)

// link is a connection to brokers and registry, for the commands that speak with the log itself.
type link struct {
	kafka    kafka.Config
	set      *topics.Set
	admin    *kafka.Admin
	registry *avrocodec.Client
	codec    *avrocodec.Codec
}

// addLink adds the flags that say where brokers and registry are.
func addLink(cmd *cobra.Command) {
	addServer(cmd)
	config.BindFlag(cmd.Flags(), "brokers", "brokers")
	config.BindFlag(cmd.Flags(), "registry", "registry")
}

// addresses returns where brokers and registry are: as configured, else as the server says.
func addresses(ctx context.Context, c *config.Loaded) (brokers []string, registry string, err error) {
	brokers, registry = c.Brokers, c.Registry
	if len(brokers) > 0 && registry != "" {
		return brokers, registry, nil
	}
	var info httpapi.Info
	if err := newAPI(c).get(ctx, "/v1/info", nil, &info); err != nil {
		return nil, "", fmt.Errorf("find the brokers and the registry: neither --brokers and --registry nor the server tell: %w", err)
	}
	if len(brokers) == 0 {
		brokers = info.Brokers
	}
	if registry == "" {
		registry = info.Registry
	}
	return brokers, registry, nil
}

// kafkaConfig turns the configuration into that of the Kafka clients.
func kafkaConfig(c *config.Loaded, brokers []string) kafka.Config {
	t, s := c.Kafka.TLS, c.Kafka.SASL
	return kafka.Config{
		Brokers: brokers,
		TLS:     kafka.TLS{Enabled: t.Enabled, CAFile: t.CAFile, CertFile: t.CertFile, KeyFile: t.KeyFile, ServerName: t.ServerName},
		SASL:    kafka.SASL{Mechanism: s.Mechanism, User: s.User, PasswordFile: s.PasswordFile},
	}
}

// passwordFrom returns a password, or the first line of its file.
func passwordFrom(what string, value secret.Value, file string) (secret.Value, error) {
	if file == "" {
		return value, nil
	}
	raw, err := os.ReadFile(file)
	if err != nil {
		return secret.Value{}, usagef("read the password file of %s: %w", what, err)
	}
	line, _, _ := bytes.Cut(raw, []byte("\n"))
	line = bytes.TrimRight(line, "\r")
	if len(line) == 0 {
		return secret.Value{}, usagef("read the password file of %s: the first line of %s is empty, expected the password", what, file)
	}
	return secret.New(string(line)), nil
}

func registryClient(c *config.Loaded, url string) (*avrocodec.Client, error) {
	password, err := passwordFrom("the schema registry", c.RegistryAuth.Password, c.RegistryAuth.PasswordFile)
	if err != nil {
		return nil, err
	}
	return avrocodec.NewClient(avrocodec.ClientConfig{URLs: []string{url}, User: c.RegistryAuth.User, Password: password})
}

// topicSet returns the declaration of the topics that is in force.
func topicSet(c *config.Loaded) (*topics.Set, error) {
	set := topics.Default()
	if c.Topics.File != "" {
		raw, err := os.ReadFile(c.Topics.File)
		if err != nil {
			return nil, usagef("read the declaration of the topics: %w", err)
		}
		if set, err = topics.Parse(c.Topics.File, raw); err != nil {
			return nil, withCode(exitUsage, err)
		}
	}
	if n := c.Topics.ReplicationFactor; n > 0 {
		set = set.WithReplicationFactor(int16(n)) //nolint:gosec // at most 15, checked when it was read
	}
	if n := c.Topics.Partitions; n > 0 {
		set = set.WithPartitions(event.KindPostgres, int32(n)) //nolint:gosec // at most 10000, checked when it was read
	}
	return set, nil
}

// dial connects to brokers and registry and checks that both answer.
func (a *app) dial(ctx context.Context, c *config.Loaded) (*link, error) {
	brokers, url, err := addresses(ctx, c)
	if err != nil {
		return nil, err
	}
	l := &link{kafka: kafkaConfig(c, brokers)}
	if l.set, err = topicSet(c); err != nil {
		return nil, err
	}
	if l.admin, err = kafka.NewAdmin(l.kafka); err != nil {
		return nil, withCode(exitUsage, err)
	}
	if l.registry, err = registryClient(c, url); err != nil {
		l.close()
		return nil, withCode(exitUsage, err)
	}
	if l.codec, err = avrocodec.New(l.registry, l.set, avrocodec.Config{}); err != nil {
		l.close()
		return nil, err
	}
	if err := l.ping(ctx, url); err != nil {
		l.close()
		return nil, err
	}
	return l, nil
}

func (l *link) ping(ctx context.Context, url string) error {
	if err := l.admin.Ping(ctx); err != nil {
		return err
	}
	if err := l.registry.Ping(ctx); err != nil {
		return withCode(exitUnreachable, fmt.Errorf("reach the schema registry at %s: no answer: %w (is it up, and is the address right?)", url, err))
	}
	return nil
}

func (l *link) close() {
	if l.admin != nil {
		l.admin.Close()
	}
	if l.registry != nil {
		l.registry.Close()
	}
}

// partitions returns how many partitions a topic has on the brokers.
func (l *link) partitions(ctx context.Context, topic string) (int32, error) {
	found, err := l.admin.Topics(ctx, topic)
	if err != nil {
		return 0, err
	}
	t, ok := found[topic]
	if !ok {
		return 0, fmt.Errorf("use topic %s: it does not exist (regent topics apply creates it; is this the right cluster?)", topic)
	}
	return t.Partitions, nil
}

// origin says from where partitions are read.
type origin struct {
	// earliest is the start of the log; else at, where not zero, is a moment; else offset.
	earliest bool
	at       time.Time
	offset   int64
}

var fromEarliest = origin{earliest: true}

// offsets resolves an origin to an offset per partition of the topics.
func (l *link) offsets(ctx context.Context, from origin, names []string) (map[record.TopicPartition]int64, error) {
	if !from.earliest && !from.at.IsZero() {
		return l.admin.OffsetsAt(ctx, from.at, names...)
	}
	starts, err := l.admin.StartOffsets(ctx, names...)
	if err != nil || from.earliest {
		return starts, err
	}
	for tp := range starts {
		starts[tp] = max(starts[tp], from.offset)
	}
	return starts, nil
}

// scan reads the committed records of partitions from an origin to their ends as of now.
func (l *link) scan(ctx context.Context, partitions []record.TopicPartition, from origin, fn func(record.Record)) error {
	var names []string
	for _, tp := range partitions {
		if !slices.Contains(names, tp.Topic) {
			names = append(names, tp.Topic)
		}
	}
	begins, err := l.offsets(ctx, from, names)
	if err != nil {
		return err
	}
	ends, err := l.admin.StableOffsets(ctx, names...)
	if err != nil {
		return err
	}
	starts := map[record.TopicPartition]kafka.Start{}
	left := map[record.TopicPartition]int64{}
	for _, tp := range partitions {
		if begins[tp] < ends[tp] {
			starts[tp], left[tp] = kafka.FromOffset(begins[tp]), ends[tp]
		}
	}
	if len(left) == 0 {
		return nil
	}
	return l.read(ctx, starts, left, fn)
}

// scanQuiet is how long a scan waits where nothing comes any more: the last records below an end may have been compacted away.
const scanQuiet = 2 * time.Second

func (l *link) read(ctx context.Context, starts map[record.TopicPartition]kafka.Start, left map[record.TopicPartition]int64, fn func(record.Record)) error {
	reader, err := kafka.NewReader(l.kafka, starts, kafka.ReaderConfig{MaxWait: 50 * time.Millisecond})
	if err != nil {
		return err
	}
	defer reader.Close()
	for len(left) > 0 {
		waiting, cancel := context.WithTimeout(ctx, scanQuiet)
		records, err := reader.Poll(waiting)
		cancel()
		if err != nil {
			if ctx.Err() == nil && errors.Is(err, context.DeadlineExceeded) {
				return nil
			}
			return err
		}
		for _, r := range records {
			if r.Offset < left[r.Position()] {
				fn(r)
			}
		}
		for tp, position := range reader.Positions() {
			if end, ok := left[tp]; ok && position >= end {
				left[tp] = -1 // read to its end: what comes later is not wanted
			}
		}
		if !slices.ContainsFunc(slices.Collect(maps.Values(left)), func(end int64) bool { return end >= 0 }) {
			return nil
		}
	}
	return nil
}

// decode reads an event, or says why it cannot be read.
func (l *link) decode(r *record.Record) (*event.Event, error) {
	e, err := l.codec.Decode(r.Topic, r.Value)
	if err != nil {
		return nil, fmt.Errorf("decode %s/%d offset %d: %w", r.Topic, r.Partition, r.Offset, err)
	}
	return e, nil
}

// resolveTopic finds a topic by its name or by the part of it that tells it apart, such as commands.
func (l *link) resolveTopic(name string) (string, error) {
	if _, ok := l.set.Topic(name); ok {
		return name, nil
	}
	var found, short []string
	for _, topic := range l.set.Names() {
		s := shortTopic(topic)
		short = append(short, s)
		if s == name || strings.HasPrefix(s, name+".") {
			found = append(found, topic)
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return "", usagef("--topic %s: there is no such topic, expected one of %s", name, strings.Join(short, ", "))
	default:
		return "", usagef("--topic %s: more than one topic is called so: %s", name, strings.Join(found, ", "))
	}
}
