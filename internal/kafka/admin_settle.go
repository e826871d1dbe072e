package kafka

import (
	"context"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/regent-infra/regent/internal/clock"
)

// settlePause is how long an admin waits before it asks brokers again whether they have heard of a change.
const settlePause = 20 * time.Millisecond

// settle waits until every broker that answers knows of a change. The controller confirms a change before the others have heard of it, so
// whoever asks next would be told of the past: a topic that was created does not exist, one that was deleted does.
func (a *Admin) settle(ctx context.Context, operation string, known func(context.Context, *kgo.Broker) (bool, error)) error {
	_, err := bounded(ctx, a, operation+": wait until all brokers know", func(ctx context.Context) (struct{}, error) {
		for _, broker := range a.client.DiscoveredBrokers() {
			for {
				yes, err := known(ctx, broker)
				if ctx.Err() != nil {
					return struct{}{}, ctx.Err()
				}
				if yes || err != nil { // a broker that does not answer will hear of it before it answers again
					break
				}
				if err := clock.Wait(ctx, clock.System{}, settlePause); err != nil {
					return struct{}{}, err
				}
			}
		}
		return struct{}{}, nil
	})
	return err
}

// partitionsOn returns how many partitions with a leader a broker knows of a topic, 0 if it does not know the topic.
func partitionsOn(ctx context.Context, broker *kgo.Broker, topic string) (int32, error) {
	request := kmsg.NewPtrMetadataRequest()
	request.AllowAutoTopicCreation = false
	wanted := kmsg.NewMetadataRequestTopic()
	wanted.Topic = kmsg.StringPtr(topic)
	request.Topics = append(request.Topics, wanted)
	response, err := broker.Request(ctx, request)
	if err != nil {
		return 0, err
	}
	meta, ok := response.(*kmsg.MetadataResponse)
	if !ok || len(meta.Topics) != 1 {
		return 0, fmt.Errorf("broker answers %T, expected the metadata of one topic", response)
	}
	if err := kerr.ErrorForCode(meta.Topics[0].ErrorCode); err != nil {
		if kerr.IsRetriable(err) { // not known yet, or not any more, or without leaders still
			return 0, nil
		}
		return 0, err
	}
	var n int32
	for _, p := range meta.Topics[0].Partitions {
		if p.ErrorCode == 0 && p.Leader >= 0 {
			n++
		}
	}
	return n, nil
}

// settingsOn reports whether a broker knows these settings of a topic.
func settingsOn(ctx context.Context, broker *kgo.Broker, topic string, set map[string]string) (bool, error) {
	request := kmsg.NewPtrDescribeConfigsRequest()
	resource := kmsg.NewDescribeConfigsRequestResource()
	resource.ResourceType, resource.ResourceName = kmsg.ConfigResourceTypeTopic, topic
	for key := range set {
		resource.ConfigNames = append(resource.ConfigNames, key)
	}
	request.Resources = append(request.Resources, resource)
	response, err := broker.Request(ctx, request)
	if err != nil {
		return false, err
	}
	described, ok := response.(*kmsg.DescribeConfigsResponse)
	if !ok || len(described.Resources) != 1 {
		return false, fmt.Errorf("broker answers %T, expected the settings of one topic", response)
	}
	if err := kerr.ErrorForCode(described.Resources[0].ErrorCode); err != nil {
		return false, err
	}
	matching := 0
	for _, c := range described.Resources[0].Configs {
		if want, asked := set[c.Name]; asked && c.Value != nil && *c.Value == want {
			matching++
		}
	}
	return matching == len(set), nil
}
