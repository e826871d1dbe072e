package conformance

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

var transactions = []behaviour{
	{
		"a commit shows its records in all partitions, and its offsets",
		`[0:a] [0:b] 7 "seven"`,
		func(p *probe) {
			out, in := p.topic("out", 2), p.topic("in", 1)
			r := p.raw("tx").started()
			r.put(out, 0, "a")
			r.put(out, 1, "b")
			r.add(p.name("g"), nobody, in, 0, 7, "seven")
			r.done(true)
			p.stable(out, 0)
			p.stable(out, 1)
			p.say("%s %s %s", p.committed(out, 0), p.committed(out, 1), p.settledOffset(p.name("g"), in))
		},
	},
	{
		"an abort hides its records from read_committed in all partitions, and drops its offsets",
		`[] [] [0:a] 3 "three"`,
		func(p *probe) {
			out, in := p.topic("out", 2), p.topic("in", 1)
			r := p.raw("tx").started()
			r.add(p.name("g"), nobody, in, 0, 3, "three")
			r.done(true)
			p.settledOffset(p.name("g"), in)
			r.put(out, 0, "a")
			r.put(out, 1, "b")
			r.add(p.name("g"), nobody, in, 0, 7, "seven")
			r.done(false)
			p.stable(out, 0)
			p.stable(out, 1)
			p.say("%s %s %s %s", p.committed(out, 0), p.committed(out, 1), p.uncommitted(out, 0), p.settledOffset(p.name("g"), in))
		},
	},
	{
		"a marker takes an offset in each partition that was written to, and in no other",
		"start 0 stable 2 end 2; start 0 stable 0 end 0; then 2",
		func(p *probe) {
			out := p.topic("out", 2)
			r := p.raw("tx").started()
			r.put(out, 0, "a")
			r.done(true)
			p.stable(out, 0)
			p.say("%s", p.ends(out, 0))
			p.say("%s", p.ends(out, 1))
			p.say("then %s", r.send(out, 0, "b"))
			r.done(true)
		},
	},
	{
		"an open transaction holds back the last stable offset and whatever follows it",
		"start 0 stable 1 end 3; [0:before]; start 0 stable 4 end 4; [0:before 1:open 2:after]",
		func(p *probe) {
			out := p.topic("out", 1)
			p.produce(out, 0, "before")
			r := p.raw("tx").started()
			r.put(out, 0, "open")
			p.produce(out, 0, "after")
			p.say("%s", p.ends(out, 0))
			p.say("%s", p.committed(out, 0))
			r.done(true)
			p.stable(out, 0)
			p.say("%s", p.ends(out, 0))
			p.say("%s", p.committed(out, 0))
		},
	},
	{
		"transactions of two producers are told apart in one partition",
		"[0:kept 2:kept]",
		func(p *probe) {
			out := p.topic("out", 1)
			a, b := p.raw("a").started(), p.raw("b").started()
			a.put(out, 0, "kept")
			b.put(out, 0, "dropped")
			a.put(out, 0, "kept")
			b.put(out, 0, "dropped")
			b.done(false)
			a.done(true)
			p.stable(out, 0)
			p.say("%s", p.committed(out, 0))
		},
	},
	{
		"aborted records stay hidden however many there are",
		"50 committed, all of transactions that were",
		func(p *probe) {
			out := p.topic("out", 1)
			r := p.raw("tx").started()
			big := strings.Repeat("x", 40_000)
			for i := range 100 {
				r.put(out, 0, fmt.Sprintf("%t%s", i%2 == 0, big))
				r.done(i%2 == 0)
			}
			p.stable(out, 0)
			n, wrong := 0, 0
			for _, rec := range p.records(out, 0, kgo.ReadCommitted()) {
				n++
				if !strings.HasPrefix(string(rec.Value), "true") {
					wrong++
				}
			}
			p.say("%d committed, %s", n, map[bool]string{true: "all of transactions that were", false: "some of aborted ones"}[wrong == 0])
		},
	},
	{
		"a transaction that is older than its time-out is aborted, and its producer is fenced",
		"stable at 2; []; send INVALID_PRODUCER_EPOCH; end INVALID_TXN_STATE",
		func(p *probe) {
			out := p.topic("out", 1)
			r := p.raw("tx")
			r.init(time.Second)
			r.put(out, 0, "late")
			p.stable(out, 0)
			p.say("stable at 2")
			p.say("%s", p.committed(out, 0))
			p.say("send %s", r.send(out, 0, "again"))
			p.say("end %s", r.end(true))
		},
	},
	{
		"a time-out that is longer than transaction.max.timeout.ms is refused",
		"INVALID_TRANSACTION_TIMEOUT",
		func(p *probe) { p.say("%s", p.raw("tx").init(time.Hour)) },
	},
	{
		"RequireStable waits for what is open, a plain fetch of offsets does not",
		`open: stable UNSTABLE_OFFSET_COMMIT, plain 3 "three"; ended: 7 "seven"`,
		func(p *probe) {
			in := p.topic("in", 1)
			r := p.raw("tx").started()
			r.add(p.name("g"), nobody, in, 0, 3, "three")
			r.done(true)
			p.settledOffset(p.name("g"), in)
			r.add(p.name("g"), nobody, in, 0, 7, "seven")
			p.say("open: stable %s, plain %s", p.fetched(p.name("g"), in, 0, true), p.fetched(p.name("g"), in, 0, false))
			r.done(true)
			p.say("ended: %s", p.settledOffset(p.name("g"), in))
		},
	},
	{
		"RequireStable waits for the first offset of a group with a member, also if it will be aborted",
		`open: UNSTABLE_OFFSET_COMMIT; ended: none`,
		func(p *probe) {
			in := p.topic("in", 1)
			g := p.group("g")
			m := g.join("")
			r := p.raw("tx").started()
			r.add(g.name, m, in, 0, 7, "seven")
			p.say("open: %s", p.fetched(g.name, in, 0, true))
			r.done(false)
			p.say("ended: %s", p.settledOffset(g.name, in))
		},
	},
	{
		"RequireStable waits for the first offset of a group that nobody has joined",
		`open: UNSTABLE_OFFSET_COMMIT; ended: none`,
		func(p *probe) {
			in := p.topic("in", 1)
			r := p.raw("tx").started()
			r.add(p.name("g"), nobody, in, 0, 7, "seven")
			p.say("open: %s", p.fetched(p.name("g"), in, 0, true))
			r.done(false)
			p.say("ended: %s", p.settledOffset(p.name("g"), in))
		},
	},
	{
		"commit metadata comes back as it was, up to 4096 bytes",
		`regent/1 out=7 é✓ NONE; 4096 bytes NONE; 4097 bytes OFFSET_METADATA_TOO_LARGE`,
		func(p *probe) {
			in := p.topic("in", 1)
			r := p.raw("tx").started()
			g := p.name("g")
			text := "regent/1 out=7 é✓"
			c := r.offset(g, nobody, in, 0, 1, text)
			r.done(true)
			if got, want := p.settledOffset(g, in), fmt.Sprintf("1 %q", text); got != want {
				text = got
			}
			p.say("%s %s", text, c)
			long := strings.Repeat("m", 4096)
			c = r.offset(g, nobody, in, 0, 2, long)
			r.done(true)
			if got, want := p.settledOffset(g, in), fmt.Sprintf("2 %q", long); got != want {
				c = "lost"
			}
			p.say("4096 bytes %s", c)
			p.say("4097 bytes %s", r.offset(g, nobody, in, 0, 3, long+"m"))
			r.done(false)
		},
	},
	{
		"a transaction cannot be ended twice the other way",
		"commit NONE; abort INVALID_TXN_STATE",
		func(p *probe) {
			out := p.topic("out", 1)
			r := p.raw("tx").started()
			r.put(out, 0, "a")
			before := *r
			p.say("commit %s", r.end(true))
			p.stable(out, 0)
			p.say("abort %s", before.end(false))
		},
	},
	{
		"a commit whose answer was lost can be asked for again",
		"commit NONE; again NONE; [0:a]",
		func(p *probe) {
			out := p.topic("out", 1)
			r := p.raw("tx").started()
			r.put(out, 0, "a")
			before := *r
			p.say("commit %s", r.end(true))
			p.say("again %s", before.end(true))
			p.stable(out, 0)
			p.say("%s", p.committed(out, 0))
		},
	},
	{
		"the broker says that transactions are of version 2",
		"transaction.version 2",
		func(p *probe) {
			req := kmsg.NewPtrApiVersionsRequest()
			req.ClientSoftwareName, req.ClientSoftwareVersion = "regent", "1"
			resp, err := req.RequestWith(p.Context(), p.cl)
			p.ok(err)
			level := int16(-1)
			for _, f := range resp.FinalizedFeatures {
				if f.Name == "transaction.version" {
					level = f.MaxVersionLevel
				}
			}
			p.say("transaction.version %d", level)
		},
	},
	{
		"the client's transactions run from end to end, with time between",
		"20 of 20",
		func(p *probe) {
			out := p.topic("out", 2)
			cl := p.client(kgo.TransactionalID(p.name("tx")), kgo.TransactionTimeout(30*time.Second))
			for i := range 40 {
				p.ok(cl.BeginTransaction())
				for part := range int32(2) {
					cl.Produce(context.Background(), &kgo.Record{Topic: out, Partition: part, Value: fmt.Append(nil, i)}, nil)
				}
				p.ok(cl.Flush(p.Context()))
				p.ok(cl.EndTransaction(p.Context(), kgo.TransactionEndTry(i%2 == 0)))
			}
			p.stable(out, 0)
			p.stable(out, 1)
			good := 0
			b := p.records(out, 1, kgo.ReadCommitted())
			for i, r := range p.records(out, 0, kgo.ReadCommitted()) {
				if string(r.Value) == fmt.Sprint(2*i) && i < len(b) && string(b[i].Value) == string(r.Value) {
					good++
				}
			}
			p.say("%d of %d", good, len(b))
		},
	},
}

// settledOffset waits for the markers and returns the group's offset.
func (p *probe) settledOffset(group, topic string) string {
	p.Helper()
	var got string
	p.until("the offset is stable", func() bool {
		got = p.fetched(group, topic, 0, true)
		return got != "UNSTABLE_OFFSET_COMMIT"
	})
	return got
}
