package conformance

import (
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

var fencing = []behaviour{
	{
		"a new incarnation aborts what the old one has left open, and fences it",
		"new NONE; old sends INVALID_PRODUCER_EPOCH; old ends PRODUCER_FENCED; []",
		func(p *probe) {
			out := p.topic("out", 1)
			old := p.raw("tx").started()
			old.put(out, 0, "open")
			next := p.raw("tx")
			p.say("new %s", next.init(30*time.Second))
			p.stable(out, 0)
			p.say("old sends %s", old.send(out, 0, "again"))
			p.say("old ends %s", old.end(true))
			p.say("%s", p.committed(out, 0))
		},
	},
	{
		"a new incarnation fences an old one that had nothing open",
		"old offsets PRODUCER_FENCED; new sends 0",
		func(p *probe) {
			out, in := p.topic("out", 1), p.topic("in", 1)
			old := p.raw("tx").started()
			next := p.raw("tx").started()
			p.say("old offsets %s", old.offset(p.name("g"), nobody, in, 0, 1, ""))
			p.say("new sends %s", next.send(out, 0, "a"))
			next.end(true)
		},
	},
	{
		"offsets of a generation that has passed are refused",
		"now NONE; past ILLEGAL_GENERATION; stranger UNKNOWN_MEMBER_ID",
		func(p *probe) {
			in := p.topic("in", 1)
			g := p.group("g")
			m := g.join("")
			r := p.raw("tx").started()
			p.say("now %s", r.offset(g.name, m, in, 0, 1, ""))
			past := m
			past.generation--
			p.say("past %s", r.offset(g.name, past, in, 0, 2, ""))
			p.say("stranger %s", r.offset(g.name, member{id: "stranger", generation: m.generation}, in, 0, 2, ""))
			r.done(false)
		},
	},
	{
		"a zombie whose group has moved on cannot put offsets into its transaction",
		"before NONE; after the rebalance UNKNOWN_MEMBER_ID",
		func(p *probe) {
			in := p.topic("in", 1)
			g := p.group("g")
			zombie := g.join("")
			r := p.raw("tx").started()
			p.say("before %s", r.offset(g.name, zombie, in, 0, 1, ""))
			r.done(true)
			g.join("") // waits until the zombie's session has timed out
			p.say("after the rebalance %s", r.offset(g.name, zombie, in, 0, 2, ""))
			r.done(false)
		},
	},
	{
		"offsets without a member pass whatever the generation, so every transaction must name one",
		"NONE",
		func(p *probe) {
			in := p.topic("in", 1)
			g := p.group("g")
			g.join("")
			r := p.raw("tx").started()
			p.say("%s", r.offset(g.name, nobody, in, 0, 1, ""))
			r.done(false)
		},
	},
	{
		"offsets outside of transactions are fenced in the same way",
		"now NONE; past ILLEGAL_GENERATION; stranger UNKNOWN_MEMBER_ID; nobody UNKNOWN_MEMBER_ID",
		func(p *probe) {
			in := p.topic("in", 1)
			g := p.group("g")
			m := g.join("")
			past := m
			past.generation--
			p.say("now %s", g.commit(m, in, 1, ""))
			p.say("past %s", g.commit(past, in, 2, ""))
			p.say("stranger %s", g.commit(member{id: "stranger", generation: m.generation}, in, 2, ""))
			p.say("nobody %s", g.commit(nobody, in, 2, ""))
		},
	},
	{
		"a static member that comes back fences the one before",
		"offsets FENCED_INSTANCE_ID; heartbeat FENCED_INSTANCE_ID",
		func(p *probe) {
			in := p.topic("in", 1)
			g := p.group("g")
			old := g.join("node")
			g.join("node")
			p.say("offsets %s", g.commit(old, in, 1, ""))
			p.say("heartbeat %s", g.heartbeat(old))
		},
	},
	{
		"a transaction cannot be written to under another producer's id",
		"INVALID_PRODUCER_ID_MAPPING",
		func(p *probe) {
			in := p.topic("in", 1)
			r := p.raw("tx").started()
			other := p.raw("other").started()
			r.pid = other.pid
			p.say("%s", r.offset(p.name("g"), nobody, in, 0, 1, ""))
		},
	},
}

// group speaks the group protocol by hand.
type group struct {
	p    *probe
	cl   *kgo.Client
	name string
}

func (p *probe) group(short string) *group {
	return &group{p: p, cl: p.client(), name: p.name(short)}
}

// sessionTimeout is that of members made by hand, which send no heartbeat.
const sessionTimeout = 1500 * time.Millisecond

// tryJoin sends one request to join.
func (g *group) tryJoin(m member, session time.Duration, protocol string) *kmsg.JoinGroupResponse {
	g.p.Helper()
	req := kmsg.NewPtrJoinGroupRequest()
	req.Group, req.MemberID, req.ProtocolType = g.name, m.id, "consumer"
	req.SessionTimeoutMillis, req.RebalanceTimeoutMillis = int32(session.Milliseconds()), int32(sessionTimeout.Milliseconds())
	if m.instance != "" {
		req.InstanceID = &m.instance
	}
	jp := kmsg.NewJoinGroupRequestProtocol()
	jp.Name = protocol
	req.Protocols = append(req.Protocols, jp)
	var resp *kmsg.JoinGroupResponse
	r := &raw{p: g.p}
	r.patiently(func() int16 {
		var err error
		resp, err = req.RequestWith(g.p.Context(), g.cl)
		g.p.ok(err)
		return resp.ErrorCode
	})
	return resp
}

// join makes a member of the group, with an assignment.
func (g *group) join(instance string) member {
	g.p.Helper()
	m := member{instance: instance}
	resp := g.tryJoin(m, sessionTimeout, "range")
	if code(resp.ErrorCode) == "MEMBER_ID_REQUIRED" {
		m.id = resp.MemberID
		resp = g.tryJoin(m, sessionTimeout, "range")
	}
	if resp.ErrorCode != 0 {
		g.p.Fatalf("join: %s", code(resp.ErrorCode))
	}
	m.id, m.generation = resp.MemberID, resp.Generation
	if c := g.sync(m, resp.LeaderID == m.id); c != "NONE" {
		g.p.Fatalf("sync: %s", c)
	}
	return m
}

func (g *group) sync(m member, leads bool) string {
	g.p.Helper()
	req := kmsg.NewPtrSyncGroupRequest()
	req.Group, req.MemberID, req.Generation = g.name, m.id, m.generation
	if m.instance != "" {
		req.InstanceID = &m.instance
	}
	consumer, protocol := "consumer", "range"
	req.ProtocolType, req.Protocol = &consumer, &protocol
	if leads {
		a := kmsg.NewSyncGroupRequestGroupAssignment()
		a.MemberID, a.MemberAssignment = m.id, []byte("all")
		req.GroupAssignment = append(req.GroupAssignment, a)
	}
	resp, err := req.RequestWith(g.p.Context(), g.cl)
	g.p.ok(err)
	return code(resp.ErrorCode)
}

func (g *group) heartbeat(m member) string {
	g.p.Helper()
	req := kmsg.NewPtrHeartbeatRequest()
	req.Group, req.MemberID, req.Generation = g.name, m.id, m.generation
	if m.instance != "" {
		req.InstanceID = &m.instance
	}
	resp, err := req.RequestWith(g.p.Context(), g.cl)
	g.p.ok(err)
	return code(resp.ErrorCode)
}

// leave takes a member out of the group, on whoever's behalf.
func (g *group) leave(m member) string {
	g.p.Helper()
	req := kmsg.NewPtrLeaveGroupRequest()
	req.Group = g.name
	lm := kmsg.NewLeaveGroupRequestMember()
	lm.MemberID = m.id
	req.Members = append(req.Members, lm)
	resp, err := req.RequestWith(g.p.Context(), g.p.cl)
	g.p.ok(err)
	if resp.ErrorCode != 0 {
		return code(resp.ErrorCode)
	}
	return code(resp.Members[0].ErrorCode)
}

// commit commits an offset outside of transactions.
func (g *group) commit(m member, topic string, offset int64, metadata string) string {
	g.p.Helper()
	req := kmsg.NewPtrOffsetCommitRequest()
	req.Group, req.MemberID, req.Generation = g.name, m.id, m.generation
	if m.instance != "" {
		req.InstanceID = &m.instance
	}
	rp := kmsg.NewOffsetCommitRequestTopicPartition()
	rp.Offset, rp.Metadata = offset, &metadata
	rt := kmsg.NewOffsetCommitRequestTopic()
	rt.Topic, rt.TopicID = topic, g.p.ids[topic]
	rt.Partitions = append(rt.Partitions, rp)
	req.Topics = append(req.Topics, rt)
	r := &raw{p: g.p}
	return r.patiently(func() int16 {
		resp, err := req.RequestWith(g.p.Context(), g.cl)
		g.p.ok(err)
		return resp.Topics[0].Partitions[0].ErrorCode
	})
}
