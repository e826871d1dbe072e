package conformance

import (
	"context"
	"slices"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

var groups = []behaviour{
	{
		"a member joins in two steps, and leads when it is alone",
		"MEMBER_ID_REQUIRED; generation 1 leads true",
		func(p *probe) {
			g := p.group("g")
			resp := g.tryJoin(member{}, sessionTimeout, "range")
			p.say("%s", code(resp.ErrorCode))
			resp = g.tryJoin(member{id: resp.MemberID}, sessionTimeout, "range")
			p.say("generation %d leads %t", resp.Generation, resp.LeaderID == resp.MemberID)
		},
	},
	{
		"heartbeats tell a member what it is",
		"member NONE; past ILLEGAL_GENERATION; stranger UNKNOWN_MEMBER_ID",
		func(p *probe) {
			g := p.group("g")
			m := g.join("")
			p.say("member %s", g.heartbeat(m))
			past := m
			past.generation--
			p.say("past %s", g.heartbeat(past))
			p.say("stranger %s", g.heartbeat(member{id: "stranger", generation: m.generation}))
		},
	},
	{
		"a member is told of a rebalance, and those who do not come to it are left out",
		"told REBALANCE_IN_PROGRESS; generation 2; left out UNKNOWN_MEMBER_ID",
		func(p *probe) {
			g := p.group("g")
			first := g.join("")
			second := make(chan member, 1)
			go func() { second <- p.group("g").join("") }()
			told := ""
			p.until("the first is told", func() bool {
				told = g.heartbeat(first)
				return told != "NONE"
			})
			p.say("told %s", told)
			p.say("generation %d", (<-second).generation)
			p.say("left out %s", g.heartbeat(first))
		},
	},
	{
		"a member that is silent for its session time-out is taken out",
		"UNKNOWN_MEMBER_ID",
		func(p *probe) {
			g := p.group("g")
			m := g.join("")
			p.until("the member is gone", func() bool {
				d, err := p.adm.DescribeGroups(p.Context(), g.name)
				p.ok(err)
				return len(d[g.name].Members) == 0
			})
			p.say("%s", g.heartbeat(m))
		},
	},
	{
		"session time-outs out of bounds are refused",
		"0.1 s INVALID_SESSION_TIMEOUT; 1 h INVALID_SESSION_TIMEOUT",
		func(p *probe) {
			g := p.group("g")
			p.say("0.1 s %s", code(g.tryJoin(member{}, 100*time.Millisecond, "range").ErrorCode))
			p.say("1 h %s", code(g.tryJoin(member{}, time.Hour, "range").ErrorCode))
		},
	},
	{
		"a member with another protocol is refused",
		"INCONSISTENT_GROUP_PROTOCOL",
		func(p *probe) {
			g := p.group("g")
			g.join("")
			resp := p.group("g").tryJoin(member{}, sessionTimeout, "roundrobin")
			if code(resp.ErrorCode) == "MEMBER_ID_REQUIRED" {
				resp = g.tryJoin(member{id: resp.MemberID}, sessionTimeout, "roundrobin")
			}
			p.say("%s", code(resp.ErrorCode))
		},
	},
	{
		"anybody can take a member out of a group by its id",
		"NONE; then UNKNOWN_MEMBER_ID",
		func(p *probe) {
			g := p.group("g")
			m := g.join("")
			p.say("%s", g.leave(m))
			p.say("then %s", g.heartbeat(m))
		},
	},
	{
		"a static member comes back without a rebalance",
		"same generation true; other member id true",
		func(p *probe) {
			g := p.group("g")
			first := g.join("node")
			resp := g.tryJoin(member{instance: "node"}, sessionTimeout, "range")
			p.say("same generation %t; other member id %t", resp.Generation == first.generation, resp.MemberID != first.id)
		},
	},
	{
		"a described group shows its members with their client ids, and an unknown one is dead",
		"Stable 1 member client kgo; unknown GROUP_ID_NOT_FOUND",
		func(p *probe) {
			g := p.group("g")
			g.join("")
			d, err := p.adm.DescribeGroups(p.Context(), g.name, p.name("none"))
			p.ok(err)
			p.say("%s %d member client %s", d[g.name].State, len(d[g.name].Members), d[g.name].Members[0].ClientID)
			p.say("unknown %s", name(d[p.name("none")].Err))
		},
	},
	{
		"a group with members cannot be deleted, an empty one can, with its offsets",
		"NON_EMPTY_GROUP; NONE; none; unknown GROUP_ID_NOT_FOUND",
		func(p *probe) {
			in := p.topic("in", 1)
			g := p.group("g")
			m := g.join("")
			g.commit(m, in, 1, "")
			del := func() string {
				d, err := p.adm.DeleteGroups(p.Context(), g.name)
				p.ok(err)
				return name(d[g.name].Err)
			}
			p.say("%s", del())
			g.leave(m)
			p.say("%s", del())
			p.say("%s", p.fetched(g.name, in, 0, false))
			p.say("unknown %s", del())
		},
	},
	{
		"groups are listed",
		"listed true",
		func(p *probe) {
			g := p.group("g")
			g.join("")
			l, err := p.adm.ListGroups(p.Context())
			p.ok(err)
			p.say("listed %t", slices.Contains(l.Groups(), g.name))
		},
	},
	{
		"a partition without an offset is said to have none",
		"group unknown: none; partition unknown: none",
		func(p *probe) {
			in := p.topic("in", 2)
			g := p.group("g")
			p.say("group unknown: %s", p.fetched(g.name, in, 0, true))
			g.commit(g.join(""), in, 1, "")
			p.say("partition unknown: %s", p.fetched(g.name, in, 1, true))
		},
	},
	{
		"an administrator sets offsets of a group without members",
		`empty NONE 5 "by hand"; with members UNKNOWN_MEMBER_ID`,
		func(p *probe) {
			in := p.topic("in", 1)
			g := p.group("g")
			c := g.commit(nobody, in, 5, "by hand")
			p.say("empty %s %s", c, p.fetched(g.name, in, 0, true))
			g.join("")
			p.say("with members %s", g.commit(nobody, in, 6, ""))
		},
	},
	{
		"two cooperative members share partitions, and the one that stays keeps its own through a rebalance",
		"shared 2 2; kept; all 4 after the other left",
		func(p *probe) {
			in := p.topic("in", 4)
			var own [2]atomic.Int64
			var lost atomic.Int64
			start := func(i int) *kgo.Client {
				return p.client(
					kgo.ConsumerGroup(p.name("g")), kgo.ConsumeTopics(in), kgo.Balancers(kgo.CooperativeStickyBalancer()), kgo.DisableAutoCommit(),
					kgo.SessionTimeout(3*time.Second), kgo.HeartbeatInterval(100*time.Millisecond),
					kgo.OnPartitionsAssigned(func(_ context.Context, _ *kgo.Client, m map[string][]int32) { own[i].Add(int64(len(m[in]))) }),
					kgo.OnPartitionsRevoked(func(_ context.Context, _ *kgo.Client, m map[string][]int32) { own[i].Add(-int64(len(m[in]))) }),
					kgo.OnPartitionsLost(func(_ context.Context, _ *kgo.Client, m map[string][]int32) {
						own[i].Add(-int64(len(m[in])))
						lost.Add(int64(len(m[in])))
					}),
				)
			}
			start(0)
			p.until("the first has all", func() bool { return own[0].Load() == 4 })
			second := start(1)
			low := own[0].Load()
			p.until("they share", func() bool {
				low = min(low, own[0].Load())
				return own[0].Load() == 2 && own[1].Load() == 2
			})
			p.say("shared %d %d", own[0].Load(), own[1].Load())
			p.say("%s", map[bool]string{true: "kept", false: "all were revoked"}[low == 2 && lost.Load() == 0])
			second.CloseAllowingRebalance()
			p.until("the first has all again", func() bool { return own[0].Load() == 4 })
			p.say("all %d after the other left", own[0].Load())
		},
	},
	{
		"offsets of a topic that was deleted do not count for its successor",
		"none",
		func(p *probe) {
			in := p.topic("in", 1)
			p.produce(in, 0, "a")
			g := p.group("g")
			g.commit(nobody, in, 1, "")
			p.remove(in)
			p.topic("in", 1)
			p.until("the offset is settled", func() bool { return p.fetched(g.name, in, 0, true) == "none" })
			p.say("%s", p.fetched(g.name, in, 0, true))
		},
	},
	{
		"a coordinator is found for every group and transactional id",
		"group NONE; transaction NONE",
		func(p *probe) {
			for i, kind := range []string{"group", "transaction"} {
				r := &raw{p: p}
				p.say("%s %s", kind, r.patiently(func() int16 {
					req := kmsg.NewPtrFindCoordinatorRequest()
					req.CoordinatorType, req.CoordinatorKeys = int8(i), []string{p.name("key")}
					resp, err := req.RequestWith(p.Context(), p.cl)
					p.ok(err)
					return resp.Coordinators[0].ErrorCode
				}))
			}
		},
	},
}
