package conformance

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

var logs = []behaviour{
	{
		"records come back as they were sent: key, value, headers, absent and empty apart",
		`key nil true value nil false empty true; headers h=v h= ; key nil false`,
		func(p *probe) {
			out := p.topic("out", 1)
			p.ok(p.cl.ProduceSync(p.Context(),
				&kgo.Record{Topic: out, Value: []byte{}},
				&kgo.Record{Topic: out, Key: []byte{}, Value: nil, Headers: []kgo.RecordHeader{{Key: "h", Value: []byte("v")}, {Key: "h"}}},
			).FirstErr())
			rs := p.records(out, 0, kgo.ReadCommitted())
			p.say("key nil %t value nil %t empty %t", rs[0].Key == nil, rs[0].Value == nil, len(rs[0].Value) == 0)
			h := ""
			for _, x := range rs[1].Headers {
				h += fmt.Sprintf("%s=%s ", x.Key, x.Value)
			}
			p.say("headers %s", h)
			p.say("key nil %t", rs[1].Key == nil)
		},
	},
	{
		"every codec comes back",
		"gzip snappy lz4 zstd",
		func(p *probe) {
			out := p.topic("out", 1)
			var got []string
			text := strings.Repeat("compress me ", 100)
			for i, c := range []kgo.CompressionCodec{kgo.GzipCompression(), kgo.SnappyCompression(), kgo.Lz4Compression(), kgo.ZstdCompression()} {
				cl := p.client(kgo.ProducerBatchCompression(c))
				p.ok(cl.ProduceSync(p.Context(), &kgo.Record{Topic: out, Value: []byte(text)}).FirstErr())
				if rs := p.records(out, 0, kgo.ReadCommitted()); string(rs[len(rs)-1].Value) == text {
					got = append(got, []string{"gzip", "snappy", "lz4", "zstd"}[i])
				}
			}
			p.say("%s", strings.Join(got, " "))
		},
	},
	{
		"with CreateTime a record keeps the producer's time",
		"kept true type CreateTime",
		func(p *probe) {
			out := p.topic("out", 1)
			at := time.Now().Add(-time.Hour).Truncate(time.Millisecond)
			p.ok(p.cl.ProduceSync(p.Context(), &kgo.Record{Topic: out, Value: []byte("a"), Timestamp: at}).FirstErr())
			r := p.records(out, 0, kgo.ReadCommitted())[0]
			p.say("kept %t type %s", r.Timestamp.Equal(at), timeType(r))
		},
	},
	{
		"with LogAppendTime a record gets the broker's time",
		"the broker's true",
		func(p *probe) {
			out := p.topic("out", 1, "message.timestamp.type", "LogAppendTime")
			before := time.Now().Truncate(time.Millisecond)
			p.ok(p.cl.ProduceSync(p.Context(), &kgo.Record{Topic: out, Value: []byte("a"), Timestamp: before.Add(-time.Hour)}).FirstErr())
			r := p.records(out, 0, kgo.ReadCommitted())[0]
			p.say("the broker's %t", !r.Timestamp.Before(before) && !r.Timestamp.After(time.Now()))
		},
	},
	{
		"with LogAppendTime a batch is marked as such",
		"LogAppendTime",
		func(p *probe) {
			out := p.topic("out", 1, "message.timestamp.type", "LogAppendTime")
			p.produce(out, 0, "a")
			p.say("%s", timeType(p.records(out, 0, kgo.ReadCommitted())[0]))
		},
	},
	{
		"with LogAppendTime all records of a batch have one time",
		"distance 0s",
		func(p *probe) {
			out := p.topic("out", 1, "message.timestamp.type", "LogAppendTime")
			cl := p.client(kgo.ProducerLinger(50 * time.Millisecond))
			at := time.Now().Add(-time.Hour)
			p.ok(cl.ProduceSync(p.Context(), &kgo.Record{Topic: out, Timestamp: at}, &kgo.Record{Topic: out, Timestamp: at.Add(time.Second)}).FirstErr())
			rs := p.records(out, 0, kgo.ReadCommitted())
			p.say("distance %s", rs[1].Timestamp.Sub(rs[0].Timestamp))
		},
	},
	{
		"offsets are found by time",
		"earliest 0; between 1; after the last -1; latest 3",
		func(p *probe) {
			out := p.topic("out", 1)
			at := time.Now().Add(-time.Hour).Truncate(time.Second)
			for i := range 3 {
				p.ok(p.cl.ProduceSync(p.Context(), &kgo.Record{Topic: out, Timestamp: at.Add(time.Duration(i) * time.Minute)}).FirstErr())
			}
			find := func(millis int64) int64 {
				req := kmsg.NewPtrListOffsetsRequest()
				rt := kmsg.NewListOffsetsRequestTopic()
				rt.Topic = out
				rp := kmsg.NewListOffsetsRequestTopicPartition()
				rp.Timestamp = millis
				rt.Partitions = append(rt.Partitions, rp)
				req.Topics = append(req.Topics, rt)
				resp, err := req.RequestWith(p.Context(), p.cl)
				p.ok(err)
				return resp.Topics[0].Partitions[0].Offset
			}
			p.say("earliest %d; between %d; after the last %d; latest %d", find(-2), find(at.Add(time.Second).UnixMilli()), find(time.Now().UnixMilli()), find(-1))
		},
	},
	{
		"records below an offset can be deleted: the log starts there",
		"start 2 stable 4 end 4; [2:c 3:d]; above the end OFFSET_OUT_OF_RANGE",
		func(p *probe) {
			out := p.topic("out", 1)
			p.produce(out, 0, "a", "b", "c", "d")
			p.deleteRecords(out, 2)
			p.say("%s", p.ends(out, 0))
			p.say("%s", p.committed(out, 0))
			p.say("above the end %s", p.deleteRecords(out, 9))
		},
	},
	{
		"all records can be deleted: offsets go on",
		"start 2 stable 2 end 2; next 2",
		func(p *probe) {
			out := p.topic("out", 1)
			p.produce(out, 0, "a", "b")
			p.deleteRecords(out, -1)
			p.say("%s", p.ends(out, 0))
			r := p.raw("").started()
			p.say("next %s", r.send(out, 0, "c"))
		},
	},
	{
		"a fetch outside of the log is refused",
		"below OFFSET_OUT_OF_RANGE; above OFFSET_OUT_OF_RANGE; at the end NONE",
		func(p *probe) {
			out := p.topic("out", 1)
			p.produce(out, 0, "a", "b", "c")
			p.deleteRecords(out, 2)
			p.say("below %s; above %s; at the end %s", p.fetchAt(out, 0, 1), p.fetchAt(out, 0, 4), p.fetchAt(out, 0, 3))
		},
	},
	{
		"a partition that does not exist is said to be unknown",
		"fetch UNKNOWN_TOPIC_OR_PARTITION; offsets UNKNOWN_TOPIC_OR_PARTITION; produce UNKNOWN_TOPIC_OR_PARTITION",
		func(p *probe) {
			out := p.topic("out", 1)
			r := p.raw("").started()
			req := kmsg.NewPtrListOffsetsRequest()
			rt := kmsg.NewListOffsetsRequestTopic()
			rt.Topic = out
			rp := kmsg.NewListOffsetsRequestTopicPartition()
			rp.Partition, rp.Timestamp = 7, -1
			rt.Partitions = append(rt.Partitions, rp)
			req.Topics = append(req.Topics, rt)
			resp, err := p.cl.Broker(int(p.brokerID())).Request(p.Context(), req)
			p.ok(err)
			listed := resp.(*kmsg.ListOffsetsResponse).Topics[0].Partitions[0].ErrorCode
			p.say("fetch %s; offsets %s; produce %s", p.fetchAt(out, 7, 0), code(listed), r.toBroker(out, 7))
		},
	},
	{
		"a record that is too large is refused, and the next one is taken",
		"MESSAGE_TOO_LARGE; 0",
		func(p *probe) {
			out := p.topic("out", 1, "max.message.bytes", "1000")
			r := p.raw("").started()
			big := r.sendBatch(out, 0, r.batch(out, 0, 0, strings.Repeat("x", 1000)))
			p.say("%s; %s", big, r.send(out, 0, "small"))
		},
	},
	{
		"a record of one megabyte comes back, below the default limit",
		"1048000 bytes",
		func(p *probe) {
			out := p.topic("out", 1)
			r := p.raw("").started()
			r.put(out, 0, strings.Repeat("x", 1048000))
			p.say("%d bytes", len(p.records(out, 0, kgo.ReadCommitted())[0].Value))
		},
	},
	{
		"the default limit of a record is one megabyte and a little",
		"1048588 bytes MESSAGE_TOO_LARGE",
		func(p *probe) {
			out := p.topic("out", 1)
			r := p.raw("").started()
			p.say("1048588 bytes %s", r.send(out, 0, strings.Repeat("x", 1048588)))
		},
	},
	{
		"a record that is larger than a fetch may be is returned alone all the same",
		"500000 bytes",
		func(p *probe) {
			out := p.topic("out", 1)
			p.produce(out, 0, strings.Repeat("x", 500_000), "next")
			cl := p.client(kgo.FetchMaxBytes(1000), kgo.FetchMaxPartitionBytes(1000), kgo.BrokerMaxReadBytes(2<<20), kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{out: {0: kgo.NewOffset().AtStart()}}))
			p.say("%d bytes", len(cl.PollFetches(p.Context()).Records()[0].Value))
		},
	},
	{
		"a fetch that finds nothing is held, and answered as soon as something comes",
		"held true; answered at once true",
		func(p *probe) {
			out := p.topic("out", 1)
			cl := p.client(kgo.FetchMaxWait(5*time.Second), kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{out: {0: kgo.NewOffset().AtStart()}}))
			ctx, cancel := context.WithTimeout(p.Context(), 500*time.Millisecond)
			held := cl.PollFetches(ctx).NumRecords() == 0 && ctx.Err() != nil
			cancel()
			p.produce(out, 0, "a")
			sent := time.Now()
			ctx, cancel = context.WithTimeout(p.Context(), patience)
			defer cancel()
			for cl.PollFetches(ctx).NumRecords() == 0 && ctx.Err() == nil {
				continue
			}
			p.say("held %t; answered at once %t", held, time.Since(sent) < 3*time.Second)
		},
	},
	{
		"records that are older than retention.ms disappear, and offsets go on",
		"start 1 stable 2 end 2",
		func(p *probe) {
			out := p.topic("out", 1, "retention.ms", "600000", "segment.ms", "100")
			p.ok(p.cl.ProduceSync(p.Context(), &kgo.Record{Topic: out, Value: []byte("a"), Timestamp: time.Now().Add(-time.Hour)}).FirstErr())
			p.produce(out, 0, "b")
			p.until("the first is gone", func() bool { return !strings.HasPrefix(p.ends(out, 0), "start 0") })
			p.say("%s", p.ends(out, 0))
		},
	},
}

func timeType(r *kgo.Record) string {
	return map[int8]string{0: "CreateTime", 1: "LogAppendTime", -1: "none"}[r.Attrs.TimestampType()]
}

func (p *probe) deleteRecords(topic string, below int64) string {
	p.Helper()
	var os kadm.Offsets
	os.Add(kadm.Offset{Topic: topic, Partition: 0, At: below})
	r, err := p.adm.DeleteRecords(p.Context(), os)
	p.ok(err)
	return name(r[topic][0].Err)
}

func (p *probe) brokerID() int32 {
	p.Helper()
	m, err := p.adm.BrokerMetadata(p.Context())
	p.ok(err)
	return m.Brokers[0].NodeID
}

// fetchAt sends one fetch to the broker and returns its error.
func (p *probe) fetchAt(topic string, partition int32, offset int64) string {
	p.Helper()
	req := kmsg.NewPtrFetchRequest()
	req.MaxWaitMillis, req.MinBytes, req.MaxBytes = 100, 0, 1<<20
	req.SessionEpoch = -1
	rt := kmsg.NewFetchRequestTopic()
	rt.Topic, rt.TopicID = topic, p.ids[topic]
	rp := kmsg.NewFetchRequestTopicPartition()
	rp.Partition, rp.FetchOffset, rp.PartitionMaxBytes = partition, offset, 1<<20
	rt.Partitions = append(rt.Partitions, rp)
	req.Topics = append(req.Topics, rt)
	resp, err := p.cl.Broker(int(p.brokerID())).Request(p.Context(), req)
	p.ok(err)
	f := resp.(*kmsg.FetchResponse)
	if f.ErrorCode != 0 {
		return code(f.ErrorCode)
	}
	return code(f.Topics[0].Partitions[0].ErrorCode)
}

// toBroker produces one record, past the client's knowledge of partitions.
func (r *raw) toBroker(topic string, partition int32) string {
	r.p.Helper()
	req := kmsg.NewPtrProduceRequest()
	req.Acks, req.TimeoutMillis = -1, 10_000
	rp := kmsg.NewProduceRequestTopicPartition()
	rp.Partition, rp.Records = partition, r.batch(topic, partition, 0, "a")
	rt := kmsg.NewProduceRequestTopic()
	rt.Topic, rt.TopicID = topic, r.p.ids[topic]
	rt.Partitions = append(rt.Partitions, rp)
	req.Topics = append(req.Topics, rt)
	resp, err := r.cl.Broker(int(r.p.brokerID())).Request(r.p.Context(), req)
	r.p.ok(err)
	return code(resp.(*kmsg.ProduceResponse).Topics[0].Partitions[0].ErrorCode)
}
