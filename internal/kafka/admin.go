package kafka

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/regent-infra/regent/internal/record"
)

// Admin asks and changes what a cluster is. Every method ends within the configured request timeout; one that changes something returns when all
// brokers that answer know of it, and then within twice that time. It is safe for concurrent use.
type Admin struct {
	config Config
	client *kgo.Client
	admin  *kadm.Client
}

// Cluster describes a cluster.
type Cluster struct {
	// ID is the cluster's own.
	ID         string
	Controller int32
	// Brokers are sorted by id.
	Brokers []Broker
}

// Broker is one broker of a cluster.
type Broker struct {
	ID   int32
	Host string
	Port int32
	// Rack is empty if the broker has none.
	Rack string
}

// Topic describes a topic that exists.
type Topic struct {
	Name string
	// ID changes when a topic is deleted and made again.
	ID                [16]byte
	Partitions        int32
	ReplicationFactor int16
	Internal          bool
	// UnderReplicated counts partitions with fewer replicas in sync than they have; Leaderless those without a leader.
	UnderReplicated int
	Leaderless      int
}

// TopicSpec says how to create a topic.
type TopicSpec struct {
	Name              string
	Partitions        int32
	ReplicationFactor int16
	// Config holds Kafka's topic settings.
	Config map[string]string
}

// GroupOffset is what a group has committed for a partition.
type GroupOffset struct {
	Offset   int64
	Metadata string
}

// Group is one consumer group.
type Group struct {
	Name string
	// State is Kafka's word, such as Stable or Empty.
	State string
	// Coordinator is the id of the group's broker.
	Coordinator int32
}

// adminMetadataAge is for how long an answer may come from the library's cache.
const adminMetadataAge = 10 * time.Millisecond

// NewAdmin returns an admin. It does not connect yet.
func NewAdmin(config Config) (*Admin, error) {
	client, err := config.client(kgo.MetadataMinAge(adminMetadataAge))
	if err != nil {
		return nil, err
	}
	config = config.withDefaults()
	admin := kadm.NewClient(client)
	admin.SetTimeoutMillis(int32(min(config.RequestTimeout, time.Minute).Milliseconds())) //nolint:gosec // at most 60,000
	return &Admin{config: config, client: client, admin: admin}, nil
}

// Close drops all connections.
func (a *Admin) Close() { a.client.Close() }

// Ping checks that a broker answers.
func (a *Admin) Ping(ctx context.Context) error { return a.config.ping(ctx, a.client) }

// bounded runs one operation within the request timeout and explains its error.
func bounded[T any](ctx context.Context, a *Admin, operation string, run func(context.Context) (T, error)) (T, error) {
	ctx, cancel := context.WithTimeout(ctx, a.config.RequestTimeout)
	defer cancel()
	out, err := run(ctx)
	return out, a.config.explain(operation, err)
}

// Cluster describes the cluster.
func (a *Admin) Cluster(ctx context.Context) (Cluster, error) {
	return bounded(ctx, a, "describe the cluster", func(ctx context.Context) (Cluster, error) {
		meta, err := a.admin.BrokerMetadata(ctx)
		if err != nil {
			return Cluster{}, err
		}
		cluster := Cluster{ID: meta.Cluster, Controller: meta.Controller}
		for _, b := range meta.Brokers {
			broker := Broker{ID: b.NodeID, Host: b.Host, Port: b.Port}
			if b.Rack != nil {
				broker.Rack = *b.Rack
			}
			cluster.Brokers = append(cluster.Brokers, broker)
		}
		slices.SortFunc(cluster.Brokers, func(x, y Broker) int { return int(x.ID - y.ID) })
		return cluster, nil
	})
}

// Topics describes the named topics, or all if none is named. One that does not exist is absent.
func (a *Admin) Topics(ctx context.Context, names ...string) (map[string]Topic, error) {
	return bounded(ctx, a, "describe topics", func(ctx context.Context) (map[string]Topic, error) {
		// Asked directly: the library's own listing answers from its cache, which does not know what was created just now.
		request := kmsg.NewPtrMetadataRequest()
		request.AllowAutoTopicCreation = false
		for _, name := range names {
			topic := kmsg.NewMetadataRequestTopic()
			topic.Topic = kmsg.StringPtr(name)
			request.Topics = append(request.Topics, topic)
		}
		response, err := request.RequestWith(ctx, a.client)
		if err != nil {
			return nil, err
		}
		topics := make(map[string]Topic, len(response.Topics))
		for i := range response.Topics {
			topic := &response.Topics[i]
			err := kerr.ErrorForCode(topic.ErrorCode)
			if errors.Is(err, kerr.UnknownTopicOrPartition) || topic.Topic == nil {
				continue
			}
			if err != nil {
				return nil, fmt.Errorf("topic %s: %w", *topic.Topic, err)
			}
			topics[*topic.Topic] = describe(topic)
		}
		return topics, nil
	})
}

func describe(of *kmsg.MetadataResponseTopic) Topic {
	topic := Topic{
		Name: *of.Topic, ID: of.TopicID, Internal: of.IsInternal,
		Partitions: int32(len(of.Partitions)), //nolint:gosec // brokers allow far fewer
	}
	for _, p := range of.Partitions {
		topic.ReplicationFactor = max(topic.ReplicationFactor, int16(len(p.Replicas))) //nolint:gosec // as many as brokers
		if len(p.ISR) < len(p.Replicas) {
			topic.UnderReplicated++
		}
		if p.Leader < 0 {
			topic.Leaderless++
		}
	}
	return topic
}

// Configs returns the settings in force of the named topics, all of which must exist.
func (a *Admin) Configs(ctx context.Context, names ...string) (map[string]map[string]string, error) {
	return bounded(ctx, a, "read the settings of topics", func(ctx context.Context) (map[string]map[string]string, error) {
		described, err := a.admin.DescribeTopicConfigs(ctx, names...)
		if err != nil {
			return nil, err
		}
		return settings(described)
	})
}

// BrokerConfigs returns the settings in force of each broker, by id in decimal.
func (a *Admin) BrokerConfigs(ctx context.Context) (map[string]map[string]string, error) {
	return bounded(ctx, a, "read the settings of brokers", func(ctx context.Context) (map[string]map[string]string, error) {
		meta, err := a.admin.BrokerMetadata(ctx)
		if err != nil {
			return nil, err
		}
		described, err := a.admin.DescribeBrokerConfigs(ctx, meta.Brokers.NodeIDs()...)
		if err != nil {
			return nil, err
		}
		return settings(described)
	})
}

func settings(described kadm.ResourceConfigs) (map[string]map[string]string, error) {
	all := make(map[string]map[string]string, len(described))
	for _, resource := range described {
		if resource.Err != nil {
			return nil, fmt.Errorf("%s: %w", resource.Name, resource.Err)
		}
		config := make(map[string]string, len(resource.Configs))
		for _, c := range resource.Configs {
			if c.Value != nil && !c.Sensitive {
				config[c.Key] = *c.Value
			}
		}
		all[resource.Name] = config
	}
	return all, nil
}

// CreateTopic creates a topic. That it exists already is an error.
func (a *Admin) CreateTopic(ctx context.Context, spec TopicSpec) error {
	_, err := bounded(ctx, a, "create topic "+spec.Name, func(ctx context.Context) (kadm.CreateTopicResponse, error) {
		config := make(map[string]*string, len(spec.Config))
		for key, value := range spec.Config {
			config[key] = &value
		}
		response, err := a.admin.CreateTopic(ctx, spec.Partitions, spec.ReplicationFactor, config, spec.Name)
		return response, withMessage(err, response.ErrMessage)
	})
	if err != nil {
		return err
	}
	return a.settle(ctx, "create topic "+spec.Name, func(ctx context.Context, broker *kgo.Broker) (bool, error) {
		n, err := partitionsOn(ctx, broker, spec.Name)
		return n == spec.Partitions, err
	})
}

// AlterConfig sets some settings of a topic and leaves the others.
func (a *Admin) AlterConfig(ctx context.Context, topic string, set map[string]string) error {
	_, err := bounded(ctx, a, "change the settings of topic "+topic, func(ctx context.Context) (kadm.AlterConfigsResponses, error) {
		changes := make([]kadm.AlterConfig, 0, len(set))
		for key, value := range set {
			changes = append(changes, kadm.AlterConfig{Op: kadm.SetConfig, Name: key, Value: &value})
		}
		responses, err := a.admin.AlterTopicConfigs(ctx, changes, topic)
		if err != nil {
			return nil, err
		}
		for _, response := range responses {
			if response.Err != nil {
				return nil, withMessage(response.Err, response.ErrMessage)
			}
		}
		return responses, nil
	})
	if err != nil {
		return err
	}
	return a.settle(ctx, "change the settings of topic "+topic, func(ctx context.Context, broker *kgo.Broker) (bool, error) {
		return settingsOn(ctx, broker, topic, set)
	})
}

// SetPartitions grows a topic to a number of partitions.
func (a *Admin) SetPartitions(ctx context.Context, topic string, count int32) error {
	_, err := bounded(ctx, a, "add partitions to topic "+topic, func(ctx context.Context) (kadm.CreatePartitionsResponses, error) {
		responses, err := a.admin.UpdatePartitions(ctx, int(count), topic)
		if err != nil {
			return nil, err
		}
		for _, response := range responses {
			if response.Err != nil {
				return nil, withMessage(response.Err, response.ErrMessage)
			}
		}
		return responses, nil
	})
	if err != nil {
		return err
	}
	return a.settle(ctx, "add partitions to topic "+topic, func(ctx context.Context, broker *kgo.Broker) (bool, error) {
		n, err := partitionsOn(ctx, broker, topic)
		return n == count, err
	})
}

// DeleteTopic deletes a topic with all its records.
func (a *Admin) DeleteTopic(ctx context.Context, topic string) error {
	_, err := bounded(ctx, a, "delete topic "+topic, func(ctx context.Context) (kadm.DeleteTopicResponse, error) {
		response, err := a.admin.DeleteTopic(ctx, topic)
		return response, withMessage(err, response.ErrMessage)
	})
	if err != nil {
		return err
	}
	return a.settle(ctx, "delete topic "+topic, func(ctx context.Context, broker *kgo.Broker) (bool, error) {
		n, err := partitionsOn(ctx, broker, topic)
		return n == 0, err
	})
}

// DeleteRecords deletes everything below an offset of each partition.
func (a *Admin) DeleteRecords(ctx context.Context, below map[record.TopicPartition]int64) error {
	_, err := bounded(ctx, a, "delete records", func(ctx context.Context) (kadm.DeleteRecordsResponses, error) {
		var offsets kadm.Offsets
		for tp, offset := range below {
			offsets.Add(kadm.Offset{Topic: tp.Topic, Partition: tp.Partition, At: offset, LeaderEpoch: -1})
		}
		responses, err := a.admin.DeleteRecords(ctx, offsets)
		if err != nil {
			return nil, err
		}
		return responses, responses.Error()
	})
	return err
}

// StartOffsets returns the oldest offset of every partition of the topics.
func (a *Admin) StartOffsets(ctx context.Context, topics ...string) (map[record.TopicPartition]int64, error) {
	return a.offsets(ctx, "list start offsets", a.admin.ListStartOffsets, topics)
}

// EndOffsets returns the high watermark of every partition of the topics: the offset of the next record.
func (a *Admin) EndOffsets(ctx context.Context, topics ...string) (map[record.TopicPartition]int64, error) {
	return a.offsets(ctx, "list end offsets", a.admin.ListEndOffsets, topics)
}

// StableOffsets returns the last stable offset of every partition of the topics: everything below is committed or aborted.
func (a *Admin) StableOffsets(ctx context.Context, topics ...string) (map[record.TopicPartition]int64, error) {
	return a.offsets(ctx, "list stable offsets", a.admin.ListCommittedOffsets, topics)
}

// OffsetsAt returns, for every partition of the topics, the offset of the first record that the broker took at or after a moment, or
// the end if there is none.
func (a *Admin) OffsetsAt(ctx context.Context, at time.Time, topics ...string) (map[record.TopicPartition]int64, error) {
	return a.offsets(ctx, "list offsets by time", func(ctx context.Context, topics ...string) (kadm.ListedOffsets, error) {
		return a.admin.ListOffsetsAfterMilli(ctx, at.UnixMilli(), topics...)
	}, topics)
}

func (a *Admin) offsets(
	ctx context.Context, operation string, list func(context.Context, ...string) (kadm.ListedOffsets, error), topics []string,
) (map[record.TopicPartition]int64, error) {
	if len(topics) == 0 {
		return map[record.TopicPartition]int64{}, nil
	}
	return bounded(ctx, a, operation, func(ctx context.Context) (map[record.TopicPartition]int64, error) {
		listed, err := list(ctx, topics...)
		if err != nil {
			return nil, err
		}
		offsets := map[record.TopicPartition]int64{}
		for topic, partitions := range listed {
			for partition, offset := range partitions {
				if offset.Err != nil {
					return nil, fmt.Errorf("%s/%d: %w", topic, partition, offset.Err)
				}
				offsets[record.TopicPartition{Topic: topic, Partition: partition}] = offset.Offset
			}
		}
		return offsets, nil
	})
}

// Scan reads the committed records of one partition in [from, to), and calls fn with some of them at a time, in order; next is the offset
// from which to go on. It returns when nothing below to is left to read, which is judged by positions and not by records: markers, aborted
// records and what compaction took away never show. So this is how to read a partition to its end: take to from [Admin.EndOffsets]. A from below the
// partition's start counts as the start. It waits while a transaction below to is open, and is bounded by ctx alone.
func (a *Admin) Scan(ctx context.Context, tp record.TopicPartition, from, to int64, fn func(records []record.Record, next int64) error) error {
	sc := scanner{config: a.config, client: a.client, admin: a.admin, tp: tp, leader: -1}
	return sc.scan(ctx, from, to, fn)
}

// GroupOffsets returns what a group has committed; nothing for a group that does not exist.
func (a *Admin) GroupOffsets(ctx context.Context, group string) (map[record.TopicPartition]GroupOffset, error) {
	return bounded(ctx, a, "read the offsets of group "+group, func(ctx context.Context) (map[record.TopicPartition]GroupOffset, error) {
		fetched, err := a.admin.FetchOffsets(ctx, group)
		if errors.Is(err, kerr.GroupIDNotFound) {
			return map[record.TopicPartition]GroupOffset{}, nil
		}
		if err != nil {
			return nil, err
		}
		offsets := map[record.TopicPartition]GroupOffset{}
		for topic, partitions := range fetched {
			for partition, response := range partitions {
				if response.Err != nil {
					return nil, fmt.Errorf("%s/%d: %w", topic, partition, response.Err)
				}
				offsets[record.TopicPartition{Topic: topic, Partition: partition}] = GroupOffset{Offset: response.At, Metadata: response.Metadata}
			}
		}
		return offsets, nil
	})
}

// Groups lists the cluster's consumer groups by name.
func (a *Admin) Groups(ctx context.Context) ([]Group, error) {
	return bounded(ctx, a, "list groups", func(ctx context.Context) ([]Group, error) {
		listed, err := a.admin.ListGroups(ctx)
		if err != nil {
			return nil, err
		}
		groups := make([]Group, 0, len(listed))
		for _, g := range listed.Sorted() {
			groups = append(groups, Group{Name: g.Group, State: g.State, Coordinator: g.Coordinator})
		}
		return groups, nil
	})
}

// DeleteGroup deletes a group that has no members, with its committed offsets.
func (a *Admin) DeleteGroup(ctx context.Context, group string) error {
	_, err := bounded(ctx, a, "delete group "+group, func(ctx context.Context) (kadm.DeleteGroupResponse, error) {
		return a.admin.DeleteGroup(ctx, group)
	})
	return err
}

// withMessage adds what the broker says beyond its error code.
func withMessage(err error, message string) error {
	if err == nil || message == "" || strings.Contains(err.Error(), message) {
		return err
	}
	return fmt.Errorf("%w: %s", err, message)
}
