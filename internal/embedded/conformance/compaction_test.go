package conformance

import (
	"slices"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// quickly are the settings under which the cleaner takes what it may at once.
var quickly = []string{"cleanup.policy", "compact", "min.cleanable.dirty.ratio", "0.01", "segment.ms", "100"}

var compaction = []behaviour{
	{
		"compaction keeps the last value of each key at its offset",
		"[3:k=b 4:l=c 5:z=end]; start 0 stable 6 end 6",
		func(p *probe) {
			p.compacting()
			out := p.topic("out", 1, quickly...)
			p.produce(out, 0, "k=a", "l=a", "l=b", "k=b", "l=c")
			p.roll(out)
			p.cleaned(out, "0:", "1:", "2:")
			p.say("%s", p.committed(out, 0))
			p.say("%s", p.ends(out, 0))
		},
	},
	{
		"compaction keeps a tombstone for delete.retention.ms",
		"[1:k= 2:z=end]",
		func(p *probe) {
			p.compacting()
			out := p.topic("out", 1, append(quickly, "delete.retention.ms", "3600000")...)
			p.produce(out, 0, "k=a", "k=")
			p.roll(out)
			p.cleaned(out, "0:")
			p.say("%s", p.committed(out, 0))
		},
	},
	{
		"compaction removes a tombstone that is older than delete.retention.ms",
		"gone; kept l=a",
		func(p *probe) {
			p.compacting()
			out := p.topic("out", 1, append(quickly, "delete.retention.ms", "1")...)
			p.produce(out, 0, "k=a", "k=", "l=a")
			p.until("the tombstone is gone", func() bool {
				p.roll(out)
				p.clean()
				return !strings.Contains(p.committed(out, 0), "k=")
			})
			p.say("gone; kept %s", map[bool]string{true: "l=a"}[strings.Contains(p.committed(out, 0), "2:l=a")])
		},
	},
	{
		"compaction leaves alone what is younger than min.compaction.lag.ms",
		"[0:k=a 1:k=b 2:z=end]",
		func(p *probe) {
			p.compacting()
			out := p.topic("out", 1, append(quickly, "min.compaction.lag.ms", "3600000")...)
			control := p.topic("control", 1, quickly...)
			for _, t := range []string{out, control} {
				p.produce(t, 0, "k=a", "k=b")
				p.roll(t)
			}
			p.cleaned(control, "0:")
			p.say("%s", p.committed(out, 0))
		},
	},
	{
		"an aborted value replaces nothing, and a committed one is never lost",
		"committed k=2, after compaction k=2; 0 gone true",
		func(p *probe) {
			p.compacting()
			out := p.topic("out", 1, quickly...)
			r := p.raw("tx").started()
			for i, v := range []string{"k=1", "k=2", "k=3"} {
				r.put(out, 0, v)
				r.done(i < 2)
			}
			p.stable(out, 0)
			last := func() string {
				v := ""
				for _, rec := range p.records(out, 0, kgo.ReadCommitted()) {
					if string(rec.Key) == "k" {
						v = "k=" + string(rec.Value)
					}
				}
				return v
			}
			before := last()
			p.roll(out)
			p.cleaned(out, "0:")
			p.say("committed %s, after compaction %s", before, last())
			p.say("0 gone %t", !strings.Contains(p.uncommitted(out, 0), "0:"))
		},
	},
	{
		"a compacted topic takes no record without a key",
		"INVALID_RECORD",
		func(p *probe) {
			out := p.topic("out", 1, quickly...)
			p.say("%s", p.raw("").started().send(out, 0, "no key"))
		},
	},
	{
		"a topic of both policies is compacted and keeps its young records",
		"[1:k=b 2:z=end]",
		func(p *probe) {
			p.compacting()
			out := p.topic("out", 1, append(quickly, "cleanup.policy", "compact,delete", "retention.ms", "3600000")...)
			p.produce(out, 0, "k=a", "k=b")
			p.roll(out)
			p.cleaned(out, "0:")
			p.say("%s", p.committed(out, 0))
		},
	},
}

// compacting makes the probe look at the broker that compacts. Where that has to start again, one probe has it for itself.
func (p *probe) compacting() {
	if p.server.clean == nil {
		return
	}
	p.server.cleaning.Lock()
	p.Cleanup(p.server.cleaning.Unlock)
	p.addrs = p.server.clean(nil)
	p.connect()
}

// roll ends the segment in which the topic's records are, so that the cleaner looks at it.
func (p *probe) roll(topic string) {
	p.Helper()
	wait := time.NewTimer(300 * time.Millisecond) // more than segment.ms
	defer wait.Stop()
	<-wait.C
	p.produce(topic, 0, "z=end")
}

// clean makes the broker compact now, where it does not by itself.
func (p *probe) clean() {
	if p.server.clean != nil {
		p.server.clean(p.T)
	}
}

// cleaned waits until what is uncommitted shows the records no more. On a slow machine they may lie in several segments, which are cleaned
// one after the other.
func (p *probe) cleaned(topic string, gone ...string) {
	p.Helper()
	p.clean()
	p.until("the cleaner has run", func() bool {
		shown := p.uncommitted(topic, 0)
		return !slices.ContainsFunc(gone, func(g string) bool { return strings.Contains(shown, g) })
	})
}
