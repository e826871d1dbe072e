package kafka

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/regent-infra/regent/internal/record"
	"github.com/regent-infra/regent/internal/stream"
)

// unstablePause is the pause between two questions to a coordinator that has something open.
const unstablePause = 10 * time.Millisecond

// defaultDeleteRetention is Kafka's default of delete.retention.ms.
const defaultDeleteRetention = 24 * time.Hour

// Topics implements [stream.Session].
func (s *session) Topics(ctx context.Context, names []string) (map[string]stream.TopicInfo, error) {
	ctx, cancel := context.WithTimeout(ctx, s.log.config.RequestTimeout)
	defer cancel()
	return describeTopics(ctx, s.log.config, s.admin, names)
}

func describeTopics(ctx context.Context, config Config, admin *kadm.Client, names []string) (map[string]stream.TopicInfo, error) {
	details, err := admin.ListTopics(ctx, names...)
	if err != nil {
		return nil, classify(config.explain("describe topics", err))
	}
	out := map[string]stream.TopicInfo{}
	var found []string
	for name, d := range details {
		if errors.Is(d.Err, kerr.UnknownTopicOrPartition) {
			continue
		}
		if d.Err != nil {
			return nil, classify(config.explain("describe topic "+name, d.Err))
		}
		out[name] = stream.TopicInfo{ID: d.ID, Partitions: int32(len(d.Partitions)), DeleteRetention: defaultDeleteRetention} //nolint:gosec // brokers allow far fewer
		found = append(found, name)
	}
	configs, err := admin.DescribeTopicConfigs(ctx, found...)
	if err != nil {
		return nil, classify(config.explain("read the settings of topics", err))
	}
	for _, c := range configs {
		if c.Err != nil {
			return nil, classify(config.explain("read the settings of topic "+c.Name, c.Err))
		}
		info := out[c.Name]
		for _, kv := range c.Configs {
			switch {
			case kv.Value == nil:
			case kv.Key == "cleanup.policy":
				info.Compacted = strings.Contains(*kv.Value, "compact")
			case kv.Key == "delete.retention.ms":
				if ms, err := strconv.ParseInt(*kv.Value, 10, 64); err == nil {
					info.DeleteRetention = time.Duration(ms) * time.Millisecond
				}
			}
		}
		out[c.Name] = info
	}
	return out, nil
}

// Committed implements [stream.Session].
func (s *session) Committed(ctx context.Context, partitions []record.TopicPartition) (map[record.TopicPartition]stream.Committed, error) {
	return committedOffsets(ctx, s.log.config, s.member, s.spec.Group, partitions, s.topicIDs)
}

// Settled implements [stream.Session].
func (s *session) Settled(ctx context.Context, partitions []record.TopicPartition) (map[record.TopicPartition]stream.Committed, error) {
	ctx, cancel := context.WithTimeout(ctx, s.log.config.RequestTimeout)
	defer cancel()
	req := offsetFetch(s.spec.Group, partitions, s.topicIDs, false)
	for {
		out, err := fetchOffsets(ctx, s.member, req, s.topicIDs)
		if !errors.Is(err, kerr.CoordinatorLoadInProgress) {
			return out, classify(s.log.config.explain("read the committed offsets of group "+s.spec.Group, err))
		}
		if err := pause(ctx, unstablePause); err != nil {
			return nil, s.log.config.explain("read the committed offsets of group "+s.spec.Group, err)
		}
	}
}

// offsetFetch asks for a group's offsets, in the old form and in the new one.
func offsetFetch(group string, partitions []record.TopicPartition, ids map[string][16]byte, stable bool) *kmsg.OffsetFetchRequest {
	req := kmsg.NewPtrOffsetFetchRequest()
	req.RequireStable = stable
	req.Group = group
	rg := kmsg.NewOffsetFetchRequestGroup()
	rg.Group = group
	for topic, list := range grouped(partitions) {
		rt := kmsg.NewOffsetFetchRequestTopic()
		rt.Topic, rt.Partitions = topic, list
		req.Topics = append(req.Topics, rt)
		gt := kmsg.NewOffsetFetchRequestGroupTopic()
		gt.Topic, gt.TopicID, gt.Partitions = topic, ids[topic], list
		rg.Topics = append(rg.Topics, gt)
	}
	req.Groups = append(req.Groups, rg)
	return req
}

func committedOffsets(
	ctx context.Context, config Config, client *kgo.Client, group string, partitions []record.TopicPartition, ids map[string][16]byte,
) (map[record.TopicPartition]stream.Committed, error) {
	req := offsetFetch(group, partitions, ids, true)
	for {
		out, err := fetchOffsets(ctx, client, req, ids)
		switch {
		case err == nil:
			return out, nil
		case !errors.Is(err, kerr.UnstableOffsetCommit) && !errors.Is(err, kerr.CoordinatorLoadInProgress):
			return nil, classify(config.explain("read the committed offsets of group "+group, err))
		}
		if err := pause(ctx, unstablePause); err != nil {
			return nil, config.explain("wait for the committed offsets of group "+group+" to be stable", err)
		}
	}
}

func fetchOffsets(
	ctx context.Context, client *kgo.Client, req *kmsg.OffsetFetchRequest, ids map[string][16]byte,
) (map[record.TopicPartition]stream.Committed, error) {
	names := map[[16]byte]string{} // from version 10 on, topics are named by their ids alone
	for name, id := range ids {
		names[id] = name
	}
	out := map[record.TopicPartition]stream.Committed{}
	resp, err := req.RequestWith(ctx, client)
	if errors.Is(err, kerr.GroupIDNotFound) {
		return out, nil // it has never existed, or has expired
	}
	if err != nil {
		return nil, err
	}
	var failed error
	add := func(topic string, partition int32, offset int64, metadata *string, code int16) {
		if err := kerr.ErrorForCode(code); err != nil {
			failed = err
			return
		}
		if offset < 0 {
			return
		}
		c := stream.Committed{Offset: offset}
		if metadata != nil {
			c.Metadata = *metadata
		}
		out[record.TopicPartition{Topic: topic, Partition: partition}] = c
	}
	if err := kerr.ErrorForCode(resp.ErrorCode); err != nil {
		if errors.Is(err, kerr.GroupIDNotFound) {
			return out, nil
		}
		return nil, err
	}
	for _, t := range resp.Topics { // up to version 7
		for _, p := range t.Partitions {
			add(t.Topic, p.Partition, p.Offset, p.Metadata, p.ErrorCode)
		}
	}
	for _, g := range resp.Groups { // from version 8 on
		if err := kerr.ErrorForCode(g.ErrorCode); err != nil {
			if errors.Is(err, kerr.GroupIDNotFound) {
				continue
			}
			return nil, err
		}
		for _, t := range g.Topics {
			if t.Topic == "" {
				t.Topic = names[t.TopicID]
			}
			for _, p := range t.Partitions {
				add(t.Topic, p.Partition, p.Offset, p.Metadata, p.ErrorCode)
			}
		}
	}
	return out, failed
}

func grouped(partitions []record.TopicPartition) map[string][]int32 {
	out := map[string][]int32{}
	for _, tp := range partitions {
		out[tp.Topic] = append(out[tp.Topic], tp.Partition)
	}
	return out
}

// Watermarks implements [stream.Session].
func (s *session) Watermarks(ctx context.Context, partitions []record.TopicPartition) (map[record.TopicPartition]stream.Watermarks, error) {
	ctx, cancel := context.WithTimeout(ctx, s.log.config.RequestTimeout)
	defer cancel()
	return watermarks(ctx, s.log.config, s.member, partitions)
}

// The questions that a ListOffsets request asks by time stamp.
const (
	askEarliest = -2
	askLatest   = -1
)

func watermarks(
	ctx context.Context, config Config, client *kgo.Client, partitions []record.TopicPartition,
) (map[record.TopicPartition]stream.Watermarks, error) {
	out := map[record.TopicPartition]stream.Watermarks{}
	for _, ask := range []struct {
		timestamp int64
		isolation int8
		set       func(w *stream.Watermarks, offset int64)
	}{
		// Stable before high: asked the other way round, it could seem to have reached it although something is open.
		{askEarliest, 0, func(w *stream.Watermarks, o int64) { w.Start = o }},
		{askLatest, 1, func(w *stream.Watermarks, o int64) { w.Stable = o }},
		{askLatest, 0, func(w *stream.Watermarks, o int64) { w.High = o }},
	} {
		offsets, err := listOffsets(ctx, client, partitions, ask.timestamp, ask.isolation)
		if err != nil {
			return nil, classify(config.explain("list offsets", err))
		}
		for tp, o := range offsets {
			w := out[tp]
			ask.set(&w, o)
			out[tp] = w
		}
	}
	return out, nil
}

func listOffsets(
	ctx context.Context, client *kgo.Client, partitions []record.TopicPartition, timestamp int64, isolation int8,
) (map[record.TopicPartition]int64, error) {
	req := kmsg.NewPtrListOffsetsRequest()
	req.ReplicaID, req.IsolationLevel = -1, isolation
	for topic, list := range grouped(partitions) {
		rt := kmsg.NewListOffsetsRequestTopic()
		rt.Topic = topic
		for _, p := range list {
			rp := kmsg.NewListOffsetsRequestTopicPartition()
			rp.Partition, rp.Timestamp, rp.CurrentLeaderEpoch = p, timestamp, -1
			rt.Partitions = append(rt.Partitions, rp)
		}
		req.Topics = append(req.Topics, rt)
	}
	out := map[record.TopicPartition]int64{}
	for _, shard := range client.RequestSharded(ctx, req) {
		if shard.Err != nil {
			return nil, shard.Err
		}
		resp, ok := shard.Resp.(*kmsg.ListOffsetsResponse)
		if !ok {
			continue
		}
		for _, t := range resp.Topics {
			for _, p := range t.Partitions {
				if err := kerr.ErrorForCode(p.ErrorCode); err != nil {
					return nil, fmt.Errorf("%s/%d: %w", t.Topic, p.Partition, err)
				}
				out[record.TopicPartition{Topic: t.Topic, Partition: p.Partition}] = p.Offset
			}
		}
	}
	if len(out) != len(partitions) {
		return nil, fmt.Errorf("%w: asked for %d partitions, %d were answered", ErrUnknownTopic, len(partitions), len(out))
	}
	return out, nil
}
