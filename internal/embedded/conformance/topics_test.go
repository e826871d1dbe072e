package conformance

import (
	"strings"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

var topics = []behaviour{
	{
		"a topic that is made again has another id, and begins at 0",
		"other id true; start 0 stable 0 end 0; fetch by the old id UNKNOWN_TOPIC_ID",
		func(p *probe) {
			t := p.topic("t", 1)
			p.produce(t, 0, "a")
			first := p.ids[t]
			p.remove(t)
			p.topic("t", 1)
			p.say("other id %t", p.ids[t] != first && p.ids[t] != [16]byte{})
			p.say("%s", p.ends(t, 0))
			p.ids[t] = first
			p.say("fetch by the old id %s", p.fetchAt(t, 0, 0))
		},
	},
	{
		"writing by the id of a topic that is gone is refused",
		"UNKNOWN_TOPIC_ID",
		func(p *probe) {
			t := p.topic("t", 1)
			r := p.raw("").started()
			p.remove(t)
			p.say("%s", r.toBroker(t, 0))
		},
	},
	{
		"topics are not made by use",
		"metadata UNKNOWN_TOPIC_OR_PARTITION; listed false",
		func(p *probe) {
			req := kmsg.NewPtrMetadataRequest()
			rt := kmsg.NewMetadataRequestTopic()
			rt.Topic = kmsg.StringPtr(p.name("t"))
			req.Topics = append(req.Topics, rt)
			req.AllowAutoTopicCreation = true
			resp, err := req.RequestWith(p.Context(), p.cl)
			p.ok(err)
			p.say("metadata %s", code(resp.Topics[0].ErrorCode))
			l, err := p.adm.ListTopics(p.Context())
			p.ok(err)
			p.say("listed %t", l.Has(p.name("t")))
		},
	},
	{
		"creating what cannot be is refused",
		"exists TOPIC_ALREADY_EXISTS; name INVALID_TOPIC_EXCEPTION; setting INVALID_CONFIG; value INVALID_CONFIG; no partitions INVALID_PARTITIONS; replicas INVALID_REPLICATION_FACTOR",
		func(p *probe) {
			t := p.topic("t", 1)
			try := func(topic string, partitions int32, replicas int16, settings ...string) string {
				m := map[string]*string{}
				for i := 0; i < len(settings); i += 2 {
					m[settings[i]] = &settings[i+1]
				}
				_, err := p.adm.CreateTopic(p.Context(), partitions, replicas, m, topic)
				return name(err)
			}
			p.say("exists %s", try(t, 1, 1))
			p.say("name %s", try("a/b", 1, 1))
			p.say("setting %s", try(p.name("u"), 1, 1, "no.such.setting", "1"))
			p.say("value %s", try(p.name("u"), 1, 1, "retention.ms", "soon"))
			p.say("no partitions %s", try(p.name("u"), 0, 1))
			p.say("replicas %s", try(p.name("u"), 1, 5))
		},
	},
	{
		"a creation can be tried without doing it",
		"NONE; exists false",
		func(p *probe) {
			r, err := p.adm.ValidateCreateTopics(p.Context(), 1, 1, nil, p.name("t"))
			p.ok(err)
			l, err := p.adm.ListTopics(p.Context())
			p.ok(err)
			p.say("%s; exists %t", name(r[p.name("t")].Err), l.Has(p.name("t")))
		},
	},
	{
		"deleting a topic that does not exist is said",
		"UNKNOWN_TOPIC_OR_PARTITION",
		func(p *probe) {
			r, err := p.adm.DeleteTopics(p.Context(), p.name("t"))
			p.ok(err)
			p.say("%s", name(r[p.name("t")].Err))
		},
	},
	{
		"settings are shown with where they come from",
		"retention.ms 1000 DYNAMIC_TOPIC_CONFIG; cleanup.policy delete DEFAULT_CONFIG",
		func(p *probe) {
			t := p.topic("t", 1, "retention.ms", "1000")
			p.say("%s; %s", p.setting(t, "retention.ms"), p.setting(t, "cleanup.policy"))
		},
	},
	{
		"the defaults of what Regent relies on are Kafka's",
		"delete.retention.ms 86400000; min.compaction.lag.ms 0; max.message.bytes 1048588; message.timestamp.type CreateTime; retention.ms 604800000",
		func(p *probe) {
			t := p.topic("t", 1)
			for _, s := range []string{"delete.retention.ms", "min.compaction.lag.ms", "max.message.bytes", "message.timestamp.type", "retention.ms"} {
				text, _, _ := strings.Cut(strings.TrimPrefix(p.setting(t, s), s+" "), " ")
				p.say("%s %s", s, text)
			}
		},
	},
	{
		"single settings are changed and taken back",
		"set NONE 5000; back NONE DEFAULT_CONFIG; unknown INVALID_CONFIG; topic UNKNOWN_TOPIC_OR_PARTITION",
		func(p *probe) {
			t := p.topic("t", 1)
			alter := func(topic string, op kadm.IncrementalOp, setting, value string) string {
				c := kadm.AlterConfig{Op: op, Name: setting}
				if op == kadm.SetConfig {
					c.Value = &value
				}
				r, err := p.adm.AlterTopicConfigs(p.Context(), []kadm.AlterConfig{c}, topic)
				p.ok(err)
				return name(r[0].Err)
			}
			c := alter(t, kadm.SetConfig, "retention.ms", "5000")
			p.until("the setting is there", func() bool { return strings.Contains(p.setting(t, "retention.ms"), "5000") })
			p.say("set %s 5000", c)
			c = alter(t, kadm.DeleteConfig, "retention.ms", "")
			p.until("the setting is gone", func() bool { return !strings.Contains(p.setting(t, "retention.ms"), "5000") })
			_, source, _ := strings.Cut(strings.TrimPrefix(p.setting(t, "retention.ms"), "retention.ms "), " ")
			p.say("back %s %s", c, source)
			p.say("unknown %s", alter(t, kadm.SetConfig, "no.such.setting", "1"))
			p.say("topic %s", alter(p.name("none"), kadm.SetConfig, "retention.ms", "1"))
		},
	},
	{
		"partitions are added, never taken away",
		"more NONE 3; fewer INVALID_PARTITIONS; as many INVALID_PARTITIONS; topic UNKNOWN_TOPIC_OR_PARTITION",
		func(p *probe) {
			t := p.topic("t", 1)
			set := func(topic string, n int) string {
				r, err := p.adm.UpdatePartitions(p.Context(), n, topic)
				p.ok(err)
				return name(r[topic].Err)
			}
			c := set(t, 3)
			n := 0
			p.until("the partitions are there", func() bool {
				l, err := p.adm.ListTopics(p.Context(), t)
				p.ok(err)
				n = len(l[t].Partitions)
				return n == 3
			})
			p.say("more %s %d", c, n)
			p.say("fewer %s", set(t, 2))
			p.say("as many %s", set(t, 3))
			p.say("topic %s", set(p.name("none"), 3))
		},
	},
	{
		"a new partition begins at 0, and the records of the others stay",
		"[0:a] start 0 stable 0 end 0; 0",
		func(p *probe) {
			t := p.topic("t", 1)
			p.produce(t, 0, "a")
			_, err := p.adm.UpdatePartitions(p.Context(), 2, t)
			p.ok(err)
			p.until("the partition has a leader", func() bool {
				l, err := p.adm.ListTopics(p.Context(), t)
				p.ok(err)
				return len(l[t].Partitions) == 2 && l[t].Partitions[1].Err == nil
			})
			p.settle(t)
			p.say("%s %s", p.committed(t, 0), p.ends(t, 1))
			cl := p.client()
			r := &kgo.Record{Topic: t, Partition: 1, Value: []byte("b")}
			p.ok(cl.ProduceSync(p.Context(), r).FirstErr())
			p.say("%d", r.Offset)
		},
	},
	{
		"the cluster has one id",
		"same true",
		func(p *probe) {
			a, err := p.adm.BrokerMetadata(p.Context())
			p.ok(err)
			b, err := kadm.NewClient(p.client()).BrokerMetadata(p.Context())
			p.ok(err)
			p.say("same %t", a.Cluster != "" && a.Cluster == b.Cluster)
		},
	},
	{
		"internal topics are told apart",
		"__consumer_offsets internal true",
		func(p *probe) {
			p.group("g").join("")
			l, err := p.adm.ListTopicsWithInternal(p.Context())
			p.ok(err)
			p.say("__consumer_offsets internal %t", l["__consumer_offsets"].IsInternal)
		},
	},
}

// remove deletes a topic and waits until it is gone.
func (p *probe) remove(topic string) {
	p.Helper()
	r, err := p.adm.DeleteTopics(p.Context(), topic)
	p.ok(err)
	p.ok(r.Error())
	p.until("the topic is gone", func() bool {
		l, err := p.adm.ListTopics(p.Context(), topic)
		p.ok(err)
		return l[topic].Err == kerr.UnknownTopicOrPartition //nolint:errorlint // the very value
	})
}

// setting describes one setting of a topic: name, value, source.
func (p *probe) setting(topic, setting string) string {
	p.Helper()
	cs, err := p.adm.DescribeTopicConfigs(p.Context(), topic)
	p.ok(err)
	for _, kv := range cs[0].Configs {
		if kv.Key == setting {
			v := "null"
			if kv.Value != nil {
				v = *kv.Value
			}
			return setting + " " + v + " " + kv.Source.String()
		}
	}
	return setting + " missing"
}
