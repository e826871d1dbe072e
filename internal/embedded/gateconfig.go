package embedded

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// maxPartitions caps the partitions of one topic: each costs two open files.
const maxPartitions = 1000

// topicName is what Kafka accepts as a topic's name, up to 249 characters.
var topicName = regexp.MustCompile(`^[a-zA-Z0-9._-]{1,249}$`)

// managedConfigs are the broker settings that the embedded broker depends on; clients may not change them.
var managedConfigs = map[string]bool{
	"log.cleaner.backoff.ms":              true,
	"offset.retention.ms":                 true,
	"offsets.retention.minutes":           true,
	"offsets.retention.check.interval.ms": true,
	"log.retention.bytes":                 true,
	"log.retention.ms":                    true,
	"log.segment.bytes":                   true,
	"log.message.timestamp.type":          true,
	"transaction.max.timeout.ms":          true,
	"transactional.id.expiration.ms":      true,
}

// topicConfigs are the topic settings of Apache Kafka 4.x and how their values are checked. Those marked inert are
// stored and shown, but have no effect on a single embedded broker.
var topicConfigs = map[string]func(string) error{
	"cleanup.policy":                          cleanupPolicy,
	"compression.gzip.level":                  integer,                                                            // inert
	"compression.lz4.level":                   integer,                                                            // inert
	"compression.type":                        anyOf("uncompressed", "zstd", "lz4", "snappy", "gzip", "producer"), // inert
	"compression.zstd.level":                  integer,                                                            // inert
	"delete.retention.ms":                     atLeast(0),
	"file.delete.delay.ms":                    atLeast(0), // inert
	"flush.messages":                          atLeast(1), // inert, see Config.Sync
	"flush.ms":                                atLeast(0), // inert, see Config.Sync
	"follower.replication.throttled.replicas": anything,   // inert
	"index.interval.bytes":                    atLeast(0), // inert
	"kfake.is_internal":                       anyOf("true", "false"),
	"leader.replication.throttled.replicas":   anything, // inert
	"max.compaction.lag.ms":                   atLeast(1),
	"max.message.bytes":                       atLeast(0),
	"message.timestamp.after.max.ms":          atLeast(0), // inert
	"message.timestamp.before.max.ms":         atLeast(0), // inert
	"message.timestamp.type":                  anyOf("CreateTime", "LogAppendTime"),
	"min.cleanable.dirty.ratio":               ratio,
	"min.compaction.lag.ms":                   atLeast(0),
	"min.insync.replicas":                     atLeast(1),             // inert
	"preallocate":                             anyOf("true", "false"), // inert
	"retention.bytes":                         atLeast(-1),
	"retention.ms":                            atLeast(-1),
	"segment.bytes":                           atLeast(1024),
	"segment.index.bytes":                     atLeast(4),             // inert
	"segment.jitter.ms":                       atLeast(0),             // inert
	"segment.ms":                              atLeast(1),             // inert: segments are closed by size
	"unclean.leader.election.enable":          anyOf("true", "false"), // inert
}

func anything(string) error { return nil }

func integer(v string) error {
	if _, err := strconv.ParseInt(v, 10, 64); err != nil {
		return fmt.Errorf("%q is not a whole number", v)
	}
	return nil
}

func atLeast(least int64) func(string) error {
	return func(v string) error {
		if n, err := strconv.ParseInt(v, 10, 64); err != nil || n < least {
			return fmt.Errorf("%q is not a whole number of at least %d", v, least)
		}
		return nil
	}
}

func ratio(v string) error {
	if f, err := strconv.ParseFloat(v, 64); err != nil || !(f >= 0 && f <= 1) {
		return fmt.Errorf("%q is not a number from 0 to 1", v)
	}
	return nil
}

func anyOf(values ...string) func(string) error {
	return func(v string) error {
		for _, known := range values {
			if v == known {
				return nil
			}
		}
		return fmt.Errorf("%q is none of %s", v, strings.Join(values, ", "))
	}
}

func cleanupPolicy(v string) error {
	for p := range strings.SplitSeq(v, ",") {
		if p = strings.TrimSpace(p); p != "compact" && p != "delete" {
			return fmt.Errorf("%q is none of compact, delete, or both", v)
		}
	}
	return nil
}

// checkTopicConfig returns what is wrong with one topic setting. A nil value resets it.
func checkTopicConfig(name string, value *string) error {
	check, known := topicConfigs[name]
	if !known {
		return fmt.Errorf("topic config %q is unknown", name)
	}
	if value == nil {
		return nil
	}
	if err := check(*value); err != nil {
		return fmt.Errorf("topic config %s: %w", name, err)
	}
	return nil
}

// onCreateTopics refuses a request with names, counts or settings that Kafka would refuse and kfake does not check.
func (g *gate) onCreateTopics(kreq kmsg.Request) kmsg.Response {
	req := kreq.(*kmsg.CreateTopicsRequest)
	clear(g.appendTime)
	resp := req.ResponseKind().(*kmsg.CreateTopicsResponse)
	bad := false
	for i := range req.Topics {
		st := kmsg.NewCreateTopicsResponseTopic()
		st.Topic = req.Topics[i].Topic
		st.ErrorCode = kerr.OperationNotAttempted.Code
		if e, err := checkNewTopic(&req.Topics[i]); err != nil {
			bad = true
			st.ErrorCode = e.Code
			st.ErrorMessage = kmsg.StringPtr(err.Error())
		}
		resp.Topics = append(resp.Topics, st)
	}
	if !bad {
		return nil
	}
	return resp
}

func checkNewTopic(rt *kmsg.CreateTopicsRequestTopic) (*kerr.Error, error) {
	if !topicName.MatchString(rt.Topic) || rt.Topic == "." || rt.Topic == ".." {
		return kerr.InvalidTopicException, fmt.Errorf("topic name %q: 1 to 249 letters, digits, '.', '_' and '-' are expected", rt.Topic)
	}
	if n := max(int(rt.NumPartitions), len(rt.ReplicaAssignment)); n > maxPartitions {
		return kerr.InvalidPartitions, fmt.Errorf("topic %s asks for %d partitions: the embedded broker allows up to %d", rt.Topic, n, maxPartitions)
	}
	for _, c := range rt.Configs {
		if err := checkTopicConfig(c.Name, c.Value); err != nil {
			return kerr.InvalidConfig, err
		}
	}
	return nil, nil
}

// onCreatePartitions caps the number of partitions.
func (g *gate) onCreatePartitions(kreq kmsg.Request) kmsg.Response {
	req := kreq.(*kmsg.CreatePartitionsRequest)
	resp := req.ResponseKind().(*kmsg.CreatePartitionsResponse)
	bad := false
	for _, rt := range req.Topics {
		st := kmsg.NewCreatePartitionsResponseTopic()
		st.Topic = rt.Topic
		st.ErrorCode = kerr.OperationNotAttempted.Code
		if rt.Count > maxPartitions {
			bad = true
			st.ErrorCode = kerr.InvalidPartitions.Code
			st.ErrorMessage = kmsg.StringPtr(fmt.Sprintf("topic %s asks for %d partitions: the embedded broker allows up to %d", rt.Topic, rt.Count, maxPartitions))
		}
		resp.Topics = append(resp.Topics, st)
	}
	if !bad {
		return nil
	}
	return resp
}

// onAlterConfigs refuses to replace the broker's settings as a whole, and topic settings that Kafka would refuse.
func (g *gate) onAlterConfigs(kreq kmsg.Request) kmsg.Response {
	req := kreq.(*kmsg.AlterConfigsRequest)
	clear(g.appendTime)
	resp := req.ResponseKind().(*kmsg.AlterConfigsResponse)
	bad := false
	for _, rr := range req.Resources {
		sr := kmsg.NewAlterConfigsResponseResource()
		sr.ResourceType, sr.ResourceName = rr.ResourceType, rr.ResourceName
		sr.ErrorCode = kerr.OperationNotAttempted.Code
		e, err := (*kerr.Error)(nil), error(nil)
		switch rr.ResourceType {
		case kmsg.ConfigResourceTypeBroker:
			e, err = kerr.PolicyViolation, fmt.Errorf("the embedded broker's settings are not replaced as a whole: alter single ones (IncrementalAlterConfigs)")
		case kmsg.ConfigResourceTypeTopic:
			for _, c := range rr.Configs {
				if err = checkTopicConfig(c.Name, c.Value); err != nil {
					e = kerr.InvalidConfig
					break
				}
			}
		default:
		}
		if err != nil {
			bad = true
			sr.ErrorCode, sr.ErrorMessage = e.Code, kmsg.StringPtr(err.Error())
		}
		resp.Resources = append(resp.Resources, sr)
	}
	if !bad {
		return nil
	}
	return resp
}

// onIncrementalAlterConfigs refuses settings that the embedded broker depends on, and those that Kafka would refuse.
func (g *gate) onIncrementalAlterConfigs(kreq kmsg.Request) kmsg.Response {
	req := kreq.(*kmsg.IncrementalAlterConfigsRequest)
	clear(g.appendTime)
	resp := req.ResponseKind().(*kmsg.IncrementalAlterConfigsResponse)
	bad := false
	for _, rr := range req.Resources {
		sr := kmsg.NewIncrementalAlterConfigsResponseResource()
		sr.ResourceType, sr.ResourceName = rr.ResourceType, rr.ResourceName
		sr.ErrorCode = kerr.OperationNotAttempted.Code
		if e, err := checkAlteration(rr); err != nil {
			bad = true
			sr.ErrorCode, sr.ErrorMessage = e.Code, kmsg.StringPtr(err.Error())
		}
		resp.Resources = append(resp.Resources, sr)
	}
	if !bad {
		return nil
	}
	return resp
}

func checkAlteration(rr kmsg.IncrementalAlterConfigsRequestResource) (*kerr.Error, error) {
	for _, c := range rr.Configs {
		switch rr.ResourceType {
		case kmsg.ConfigResourceTypeBroker:
			if managedConfigs[c.Name] {
				return kerr.PolicyViolation, fmt.Errorf("broker config %s is managed by the embedded broker and cannot be altered", c.Name)
			}
		case kmsg.ConfigResourceTypeTopic:
			value := c.Value
			if c.Op != kmsg.IncrementalAlterConfigOpSet {
				value = nil
			}
			if err := checkTopicConfig(c.Name, value); err != nil {
				return kerr.InvalidConfig, err
			}
		default:
		}
	}
	return nil, nil
}
