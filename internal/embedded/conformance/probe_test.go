package conformance

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// patience bounds every wait.
const patience = 90 * time.Second

// probe looks at one behaviour of one broker. Its names are its own.
type probe struct {
	*testing.T
	server *server
	addrs  []string
	id     string
	cl     *kgo.Client
	adm    *kadm.Client
	ids    map[string][16]byte
	said   []string
}

var probes atomic.Int64

func newProbe(t *testing.T, s *server) *probe {
	t.Helper()
	p := &probe{T: t, server: s, addrs: s.addrs, id: fmt.Sprintf("p%d", probes.Add(1)), ids: map[string][16]byte{}}
	p.connect()
	return p
}

func (p *probe) connect() {
	p.cl = p.client()
	p.adm = kadm.NewClient(p.cl)
}

// say adds to what is seen.
func (p *probe) say(format string, args ...any) {
	p.said = append(p.said, fmt.Sprintf(format, args...))
}

func (p *probe) ok(err error) {
	p.Helper()
	if err != nil {
		p.Fatal(err)
	}
}

func (p *probe) client(opts ...kgo.Opt) *kgo.Client {
	p.Helper()
	cl, err := kgo.NewClient(append([]kgo.Opt{
		kgo.SeedBrokers(p.addrs...), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerLinger(0), kgo.MetadataMinAge(50 * time.Millisecond),
		kgo.FetchMaxWait(100 * time.Millisecond),
	}, opts...)...)
	p.ok(err)
	p.Cleanup(cl.CloseAllowingRebalance)
	return cl
}

// name makes a name of this probe's own.
func (p *probe) name(short string) string { return p.id + "." + short }

// topic creates a topic; settings are names and values in turn.
func (p *probe) topic(short string, partitions int32, settings ...string) string {
	p.Helper()
	m := map[string]*string{}
	for i := 0; i < len(settings); i += 2 {
		m[settings[i]] = &settings[i+1]
	}
	r, err := p.adm.CreateTopic(p.Context(), partitions, 1, m, p.name(short))
	p.ok(err)
	p.ids[p.name(short)] = r.ID
	p.settle(p.name(short))
	return p.name(short)
}

// settle waits until the topic's leaders are known.
func (p *probe) settle(topic string) {
	p.Helper()
	p.until("the topic has leaders", func() bool {
		list, err := p.adm.ListTopics(p.Context(), topic)
		if err != nil || list[topic].Err != nil {
			return false
		}
		for _, part := range list[topic].Partitions {
			if part.Err != nil || part.Leader < 0 {
				return false
			}
		}
		return true
	})
}

// until waits for a condition.
func (p *probe) until(what string, ok func() bool) {
	p.Helper()
	deadline := time.Now().Add(patience)
	look := time.NewTicker(20 * time.Millisecond)
	defer look.Stop()
	for !ok() {
		if time.Now().After(deadline) {
			p.Fatalf("gave up waiting until %s", what)
		}
		<-look.C
	}
}

// produce writes values, each a record of a batch of its own; "k=v" has a key, "k=" is a tombstone.
func (p *probe) produce(topic string, partition int32, values ...string) {
	p.Helper()
	for _, v := range values {
		p.ok(p.cl.ProduceSync(p.Context(), plain(topic, partition, v)).FirstErr())
	}
}

func plain(topic string, partition int32, v string) *kgo.Record {
	r := &kgo.Record{Topic: topic, Partition: partition, Value: []byte(v)}
	if k, rest, ok := strings.Cut(v, "="); ok {
		r.Key, r.Value = []byte(k), []byte(rest)
		if rest == "" {
			r.Value = nil
		}
	}
	return r
}

// code is the name of a protocol error.
func code(c int16) string {
	if c == 0 {
		return "NONE"
	}
	return name(kerr.ErrorForCode(c))
}

func name(err error) string {
	var e *kerr.Error
	switch {
	case err == nil:
		return "NONE"
	case errors.As(err, &e):
		return e.Message
	default:
		return err.Error()
	}
}

// ends returns log start, last stable offset and high watermark.
func (p *probe) ends(topic string, partition int32) string {
	p.Helper()
	start, err := p.adm.ListStartOffsets(p.Context(), topic)
	p.ok(err)
	stable, err := p.adm.ListCommittedOffsets(p.Context(), topic)
	p.ok(err)
	high, err := p.adm.ListEndOffsets(p.Context(), topic)
	p.ok(err)
	return fmt.Sprintf("start %d stable %d end %d", start[topic][partition].Offset, stable[topic][partition].Offset, high[topic][partition].Offset)
}

// stable waits until nothing is open in the partition.
func (p *probe) stable(topic string, partition int32) {
	p.Helper()
	p.until("the partition is stable", func() bool {
		stable, err := p.adm.ListCommittedOffsets(p.Context(), topic)
		p.ok(err)
		high, err := p.adm.ListEndOffsets(p.Context(), topic)
		p.ok(err)
		return stable[topic][partition].Offset == high[topic][partition].Offset
	})
}

// records reads a partition from its start to its end as of now.
func (p *probe) records(topic string, partition int32, level kgo.IsolationLevel) []*kgo.Record {
	p.Helper()
	list := p.adm.ListEndOffsets
	if level == kgo.ReadCommitted() {
		list = p.adm.ListCommittedOffsets
	}
	ends, err := list(p.Context(), topic)
	p.ok(err)
	starts, err := p.adm.ListStartOffsets(p.Context(), topic)
	p.ok(err)
	end, from := ends[topic][partition].Offset, starts[topic][partition].Offset
	if from >= end {
		return nil
	}
	cl := p.client(kgo.FetchIsolationLevel(level), kgo.KeepControlRecords(), kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: {partition: kgo.NewOffset().At(from)}}))
	defer cl.Close()
	ctx, cancel := context.WithTimeout(p.Context(), patience)
	defer cancel()
	var out []*kgo.Record
	for {
		fetches := cl.PollFetches(ctx)
		p.ok(fetches.Err())
		for _, r := range fetches.Records() {
			if r.Offset < end && !r.Attrs.IsControl() {
				out = append(out, r)
			}
			if r.Offset >= end-1 {
				return out
			}
		}
	}
}

func (p *probe) committed(topic string, partition int32) string {
	p.Helper()
	return values(p.records(topic, partition, kgo.ReadCommitted()))
}

func (p *probe) uncommitted(topic string, partition int32) string {
	p.Helper()
	return values(p.records(topic, partition, kgo.ReadUncommitted()))
}

// values shows records as offset:value or offset:key=value.
func values(recs []*kgo.Record) string {
	out := []string{}
	for _, r := range recs {
		s := fmt.Sprintf("%d:", r.Offset)
		if r.Key != nil {
			s += string(r.Key) + "="
		}
		out = append(out, s+string(r.Value))
	}
	return "[" + strings.Join(out, " ") + "]"
}

// raw is a producer whose every request is made by hand.
type raw struct {
	p     *probe
	cl    *kgo.Client
	txid  string // empty: idempotent
	pid   int64
	epoch int16
	seq   map[string]int32
}

func (p *probe) raw(txid string) *raw {
	r := &raw{p: p, cl: p.client(), pid: -1, epoch: -1, seq: map[string]int32{}}
	if txid != "" {
		r.txid = p.name(txid)
	}
	return r
}

// patiently repeats a request while the broker is busy: with what went before, or with its start.
func (r *raw) patiently(do func() int16) string {
	for deadline := time.Now().Add(patience); ; {
		c := do()
		e := kerr.TypedErrorForCode(c)
		busy := e != nil && (e.Retriable || e == kerr.ConcurrentTransactions) && e != kerr.CorruptMessage && e != kerr.UnknownTopicID && e != kerr.UnknownTopicOrPartition
		if !busy || time.Now().After(deadline) {
			return code(c)
		}
	}
}

// init asks for a producer id.
func (r *raw) init(timeout time.Duration) string {
	r.p.Helper()
	return r.patiently(func() int16 {
		req := kmsg.NewPtrInitProducerIDRequest()
		if r.txid != "" {
			req.TransactionalID = &r.txid
		}
		req.TransactionTimeoutMillis = int32(timeout.Milliseconds())
		resp, err := req.RequestWith(r.p.Context(), r.cl)
		r.p.ok(err)
		if resp.ErrorCode == 0 {
			r.pid, r.epoch, r.seq = resp.ProducerID, resp.ProducerEpoch, map[string]int32{}
		}
		return resp.ErrorCode
	})
}

func (r *raw) started() *raw {
	r.p.Helper()
	if c := r.init(30 * time.Second); c != "NONE" {
		r.p.Fatalf("initialise a producer: %s", c)
	}
	return r
}

// batch builds a batch of one record.
func (r *raw) batch(topic string, partition, seq int32, value string) []byte {
	src := plain(topic, partition, value)
	rec := kmsg.Record{Key: src.Key, Value: src.Value}
	rec.Length = int32(len(rec.AppendTo(nil)) - 1)
	now := time.Now().UnixMilli()
	b := kmsg.RecordBatch{
		Magic: 2, FirstTimestamp: now, MaxTimestamp: now, ProducerID: r.pid, ProducerEpoch: r.epoch, FirstSequence: seq, NumRecords: 1,
		Records: rec.AppendTo(nil), PartitionLeaderEpoch: -1,
	}
	if r.txid != "" {
		b.Attributes |= 0x10
	}
	raw := b.AppendTo(nil)
	binary.BigEndian.PutUint32(raw[8:], uint32(len(raw)-12))
	binary.BigEndian.PutUint32(raw[17:], crc32.Checksum(raw[21:], crc32.MakeTable(crc32.Castagnoli)))
	return raw
}

// sendBatch produces bytes and says at which offset they stand, or why not.
func (r *raw) sendBatch(topic string, partition int32, batch []byte) string {
	r.p.Helper()
	var offset int64
	c := r.patiently(func() int16 {
		req := kmsg.NewPtrProduceRequest()
		req.Acks, req.TimeoutMillis = -1, 10_000
		if r.txid != "" {
			req.TransactionID = &r.txid
		}
		rp := kmsg.NewProduceRequestTopicPartition()
		rp.Partition, rp.Records = partition, batch
		rt := kmsg.NewProduceRequestTopic()
		rt.Topic, rt.TopicID = topic, r.p.ids[topic]
		rt.Partitions = append(rt.Partitions, rp)
		req.Topics = append(req.Topics, rt)
		resp, err := req.RequestWith(r.p.Context(), r.cl)
		r.p.ok(err)
		offset = resp.Topics[0].Partitions[0].BaseOffset
		return resp.Topics[0].Partitions[0].ErrorCode
	})
	if c == "NONE" {
		return fmt.Sprint(offset)
	}
	return c
}

// send produces one record with the next sequence number.
func (r *raw) send(topic string, partition int32, value string) string {
	r.p.Helper()
	tp := fmt.Sprint(topic, "/", partition)
	out := r.sendBatch(topic, partition, r.batch(topic, partition, r.seq[tp], value))
	if out[0] >= '0' && out[0] <= '9' {
		r.seq[tp]++
	}
	return out
}

// member is who commits offsets; the zero value is nobody in particular.
type member struct {
	id, instance string
	generation   int32
}

var nobody = member{generation: -1}

// offset puts an offset into the transaction.
func (r *raw) offset(group string, m member, topic string, partition int32, offset int64, metadata string) string {
	r.p.Helper()
	c := r.patiently(func() int16 {
		add := kmsg.NewPtrAddOffsetsToTxnRequest()
		add.TransactionalID, add.Group, add.ProducerID, add.ProducerEpoch = r.txid, group, r.pid, r.epoch
		resp, err := add.RequestWith(r.p.Context(), r.cl)
		r.p.ok(err)
		return resp.ErrorCode
	})
	if c != "NONE" {
		return c
	}
	return r.patiently(func() int16 {
		req := kmsg.NewPtrTxnOffsetCommitRequest()
		req.TransactionalID, req.Group, req.ProducerID, req.ProducerEpoch = r.txid, group, r.pid, r.epoch
		req.MemberID, req.Generation = m.id, m.generation
		if m.instance != "" {
			req.InstanceID = &m.instance
		}
		rp := kmsg.NewTxnOffsetCommitRequestTopicPartition()
		rp.Partition, rp.Offset, rp.Metadata = partition, offset, &metadata
		rt := kmsg.NewTxnOffsetCommitRequestTopic()
		rt.Topic, rt.TopicID = topic, r.p.ids[topic]
		rt.Partitions = append(rt.Partitions, rp)
		req.Topics = append(req.Topics, rt)
		resp, err := req.RequestWith(r.p.Context(), r.cl)
		r.p.ok(err)
		return resp.Topics[0].Partitions[0].ErrorCode
	})
}

// end ends the transaction.
func (r *raw) end(commit bool) string {
	r.p.Helper()
	return r.patiently(func() int16 {
		req := kmsg.NewPtrEndTxnRequest()
		req.TransactionalID, req.ProducerID, req.ProducerEpoch, req.Commit = r.txid, r.pid, r.epoch, commit
		resp, err := req.RequestWith(r.p.Context(), r.cl)
		r.p.ok(err)
		if resp.ErrorCode == 0 && resp.ProducerID >= 0 && resp.Version >= 5 {
			r.pid, r.epoch, r.seq = resp.ProducerID, resp.ProducerEpoch, map[string]int32{}
		}
		return resp.ErrorCode
	})
}

// put, add and done are send, offset and end that must succeed.
func (r *raw) put(topic string, partition int32, value string) {
	r.p.Helper()
	if c := r.send(topic, partition, value); c[0] < '0' || c[0] > '9' {
		r.p.Fatalf("produce to %s/%d: %s", topic, partition, c)
	}
}

func (r *raw) add(group string, m member, topic string, partition int32, offset int64, metadata string) {
	r.p.Helper()
	if c := r.offset(group, m, topic, partition, offset, metadata); c != "NONE" {
		r.p.Fatalf("add an offset to a transaction: %s", c)
	}
}

func (r *raw) done(commit bool) {
	r.p.Helper()
	if c := r.end(commit); c != "NONE" {
		r.p.Fatalf("end a transaction (commit %t): %s", commit, c)
	}
}

// fetched returns the group's offset of one partition.
func (p *probe) fetched(group, topic string, partition int32, stable bool) string {
	p.Helper()
	req := kmsg.NewPtrOffsetFetchRequest()
	req.RequireStable, req.Group = stable, group
	rg := kmsg.NewOffsetFetchRequestGroup()
	rg.Group = group
	gt := kmsg.NewOffsetFetchRequestGroupTopic()
	gt.Topic, gt.TopicID, gt.Partitions = topic, p.ids[topic], []int32{partition}
	rg.Topics = append(rg.Topics, gt)
	req.Groups = append(req.Groups, rg)
	for deadline := time.Now().Add(patience); ; {
		resp, err := req.RequestWith(p.Context(), p.cl)
		p.ok(err)
		if len(resp.Groups) != 1 {
			p.Fatalf("%d groups in an answer", len(resp.Groups))
		}
		g := resp.Groups[0]
		if g.ErrorCode == kerr.CoordinatorLoadInProgress.Code || g.ErrorCode == kerr.NotCoordinator.Code || g.ErrorCode == kerr.CoordinatorNotAvailable.Code {
			if time.Now().Before(deadline) {
				continue
			}
		}
		if g.ErrorCode != 0 {
			return code(g.ErrorCode)
		}
		if len(g.Topics) == 0 {
			return "nothing"
		}
		at := g.Topics[0].Partitions[0]
		if at.ErrorCode != 0 {
			return code(at.ErrorCode)
		}
		if at.Offset < 0 {
			return "none"
		}
		meta := ""
		if at.Metadata != nil {
			meta = *at.Metadata
		}
		return fmt.Sprintf("%d %q", at.Offset, meta)
	}
}
