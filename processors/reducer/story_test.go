package reducer

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"

	"github.com/regent-infra/regent/internal/event"
	"github.com/regent-infra/regent/internal/record"
	"github.com/regent-infra/regent/schemas"
)

// TestStories runs the scenarios in testdata/story. Time stands still but for what a story says; `go test -rewrite` writes what is
// emitted into the files, to be read before it is committed.
//
//	observe NODE [field=value ...]   the node's fields change, and its agent publishes an observation
//	replay NODE seq=N [field=value]  an observation with that sequence, as a stale or repeated one; the node's fields stay
//	beat for=D every=D nodes=(...)   heartbeats
//	tick for=D every=D               ticks of the runtime
//	gap D                            time passes, and nobody appends anything
//	forget NODE                      a tombstone
//	restart                          another machine takes over with the same tables
//	state                            everything in the table
func TestStories(t *testing.T) {
	t.Parallel()
	datadriven.Walk(t, "testdata/story", func(t *testing.T, path string) {
		s := newStory(t)
		datadriven.RunTest(t, path, s.run)
	})
}

type story struct {
	t      *testing.T
	task   *fakeTask
	now    time.Duration
	offset int64
	nodes  map[string]*teller
}

// teller is an agent in a story.
type teller struct {
	sequence int64
	boot     string
	observed schemas.PostgresNodeObserved
}

func newStory(t *testing.T) *story {
	return &story{t: t, task: newPostgresTask(t, testConfig()), nodes: map[string]*teller{}}
}

const storyCluster = event.ClusterID("postgres/orders")

func (s *story) run(t *testing.T, d *datadriven.TestData) string {
	s.t = t
	var out strings.Builder
	switch d.Cmd {
	case "observe", "replay":
		name, fields := d.CmdArgs[0].Key, d.CmdArgs[1:]
		out.WriteString(s.observe(name, fields, d.Cmd == "replay"))
	case "beat", "tick":
		s.pass(d, &out)
	case "gap":
		s.now += s.duration(d.CmdArgs[0].Key)
	case "forget":
		out.WriteString(s.process(tombstone(storyCluster.Node(d.CmdArgs[0].Key), s.at(), s.next())))
	case "restart":
		s.task.restart()
	case "state":
		for key, value := range s.task.Range(StateTable, nil) {
			out.WriteString(describe(s.t, key, value, true))
		}
	default:
		d.Fatalf(t, "unknown command")
	}
	if out.Len() == 0 {
		return "nothing\n"
	}
	return out.String()
}

func (s *story) at() time.Time { return epoch.Add(s.now) }

func (s *story) next() int64 { s.offset++; return s.offset }

func (s *story) duration(text string) time.Duration {
	d, err := time.ParseDuration(text)
	if err != nil {
		s.t.Fatal(err)
	}
	return d
}

func (s *story) pass(d *datadriven.TestData, out *strings.Builder) {
	var length, every string
	d.ScanArgs(s.t, "for", &length)
	d.ScanArgs(s.t, "every", &every)
	var nodes []string
	if d.HasArg("nodes") {
		nodes = argument(d, "nodes")
	}
	for end := s.now + s.duration(length); s.now+s.duration(every) <= end; {
		s.now += s.duration(every)
		if d.Cmd == "tick" {
			out.WriteString(s.process(ticked(s.t, s.at(), s.next())))
		}
		for _, n := range nodes {
			suspect := max(4*s.duration(every), time.Second)
			out.WriteString(s.process(heartbeat(s.t, storyCluster.Node(n), s.at(), s.next(), s.duration(every), suspect)))
		}
	}
}

func argument(d *datadriven.TestData, key string) []string {
	i := slices.IndexFunc(d.CmdArgs, func(a datadriven.CmdArg) bool { return a.Key == key })
	return d.CmdArgs[i].Vals
}

func (s *story) observe(name string, fields []datadriven.CmdArg, replay bool) string {
	n := s.nodes[name]
	if n == nil {
		n = &teller{boot: "boot-1", observed: schemas.PostgresNodeObserved{
			Node: name, Host: name + ".internal", Port: 5432, Postmaster: schemas.PostmasterStatusAbsent, Role: schemas.NodeRoleUnknown,
			Breaker: schemas.BreakerStatus{State: schemas.BreakerStateClosed, ChangedAt: epoch},
		}}
		s.nodes[name] = n
	}
	told := n.observed
	sequence := n.sequence + 1
	for _, f := range fields {
		if f.Key == "seq" {
			sequence = s.number(f.Vals[0])
			continue
		}
		s.set(&told, f)
	}
	if !replay {
		n.observed, n.sequence = told, sequence
	}
	return s.process(observation(s.t, storyCluster.Node(name), sequence, s.at(), s.next(), &told))
}

func (s *story) number(text string) int64 {
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		s.t.Fatal(err)
	}
	return n
}

// set changes one field of an observation. Lists are written as (a,b), parts of an element are separated by colons.
func (s *story) set(o *schemas.PostgresNodeObserved, f datadriven.CmdArg) {
	value := strings.Join(f.Vals, ",")
	switch f.Key {
	case "as":
		s.preset(o, value)
	case "postmaster":
		o.Postmaster = schemas.PostmasterStatus(value)
	case "role":
		o.Role = schemas.NodeRole(value)
	case "term":
		o.Term = s.number(value)
	case "promised":
		o.PromisedTerm = s.number(value)
	case "renounced":
		o.RenouncedTerm = s.number(value)
	case "upstream":
		o.Upstream = value
	case "sysid":
		o.SystemIdentifier = value
	case "accepting":
		o.AcceptingConnections = value == "yes"
	case "tl":
		o.Timeline = s.number(value)
	case "history":
		o.TimelineHistory = nil
		for _, v := range f.Vals {
			tl, lsn, _ := strings.Cut(v, ":")
			o.TimelineHistory = append(o.TimelineHistory, schemas.TimelineSwitch{Timeline: s.number(tl), SwitchLsn: s.number(lsn)})
		}
	case "lsn":
		s.setPosition(o, s.number(value))
	case "replayed":
		o.ReplayedLsn = s.number(value)
	case "lag":
		ms := s.number(value)
		o.ReplayLagMs = &ms
	case "ssn":
		o.SynchronousStandbyNames = strings.ReplaceAll(value, "_", " ")
	case "exit":
		expected := value == "expected"
		o.LastExit = &schemas.PostmasterExit{At: s.at(), Expected: expected}
		if !expected {
			o.LastExit.Signal = &value
		}
	default:
		s.setPart(o, f, value)
	}
}

func (s *story) setPosition(o *schemas.PostgresNodeObserved, lsn int64) {
	if o.Role == schemas.NodeRolePrimary {
		o.WrittenLsn, o.ReceivedLsn, o.FlushedLsn = lsn, lsn, lsn
	} else {
		o.ReceivedLsn, o.FlushedLsn, o.ReplayedLsn = lsn, lsn, lsn
	}
}

// setPart sets what has parts of its own.
func (s *story) setPart(o *schemas.PostgresNodeObserved, f datadriven.CmdArg, value string) {
	switch f.Key {
	case "receiver": // streaming, stale, none, or another status
		heard := s.at()
		switch value {
		case "none":
			o.Receiver = nil
			return
		case "stale":
			heard, value = heard.Add(-7*time.Second), "streaming"
		}
		o.Receiver = &schemas.WalReceiver{Status: value, Timeline: o.Timeline, LastMessageReceivedAt: &heard}
	case "walend": // term:timeline:lsn
		parts := strings.Split(value, ":")
		o.WalEnd = &schemas.WalEnd{Term: s.number(parts[0]), Timeline: s.number(parts[1]), Lsn: s.number(parts[2])}
	case "senders": // application:sync_state:replay_lsn
		o.Senders = nil
		for _, v := range f.Vals {
			parts := strings.Split(v, ":")
			o.Senders = append(o.Senders, schemas.WalSender{ApplicationName: parts[0], State: "streaming", SyncState: parts[1], ReplayLsn: s.number(parts[2])})
		}
	case "slots": // name:active:retained MiB:status
		o.Slots = nil
		for _, v := range f.Vals {
			parts := strings.Split(v, ":")
			o.Slots = append(o.Slots, schemas.ReplicationSlot{Name: parts[0], Active: parts[1] == "active", RetainedBytes: s.number(parts[2]) << 20, WalStatus: parts[3]})
		}
	case "free": // percent of both file systems
		o.Disk = &schemas.DiskUsage{DataTotalBytes: 100_000, DataFreeBytes: 1000 * s.number(value), WalTotalBytes: 100_000, WalFreeBytes: 1000 * s.number(value)}
	case "connections": // total of 100
		o.Connections = &schemas.ConnectionUsage{Max: 100, Total: int32(s.number(value))}
	case "breaker": // STATE or STATE:error
		state, text, _ := strings.Cut(value, ":")
		o.Breaker.State, o.Breaker.LastError = schemas.BreakerState(state), text
	default:
		s.t.Fatalf("unknown field %s", f.Key)
	}
}

// preset sets the fields of a node that runs in a role.
func (s *story) preset(o *schemas.PostgresNodeObserved, role string) {
	o.Postmaster, o.AcceptingConnections, o.SystemIdentifier = schemas.PostmasterStatusRunning, true, "7001"
	o.Timeline, o.WalEnd, o.LastExit = max(o.Timeline, 1), nil, nil
	switch role {
	case "primary":
		o.Role, o.Upstream, o.Receiver, o.ReplayedLsn = schemas.NodeRolePrimary, "", nil, 0
	case "standby":
		heard := s.at()
		o.Role, o.Receiver, o.WrittenLsn = schemas.NodeRoleStandby, &schemas.WalReceiver{Status: "streaming", Timeline: o.Timeline, LastMessageReceivedAt: &heard}, 0
		o.Senders, o.SynchronousStandbyNames = nil, ""
	case "crashed":
		o.Postmaster, o.Role, o.AcceptingConnections, o.Senders = schemas.PostmasterStatusCrashed, schemas.NodeRoleUnknown, false, nil
	case "stopped":
		o.Postmaster, o.Role, o.AcceptingConnections, o.Senders, o.Receiver = schemas.PostmasterStatusStopped, schemas.NodeRoleUnknown, false, nil, nil
	default:
		s.t.Fatalf("unknown preset %s", role)
	}
}

func (s *story) process(rec *record.Record) string {
	outs, err := s.task.process(rec)
	if err != nil {
		return fmt.Sprintf("%s error: %v\n", s.now, err)
	}
	var text strings.Builder
	for _, out := range outs {
		fmt.Fprintf(&text, "%s %s", s.now, describe(s.t, out.Key, out.Value, false))
	}
	return text.String()
}

// describe tells a record of the state topic for a reader of a story.
func describe(t *testing.T, key, value []byte, whole bool) string {
	if value == nil {
		return fmt.Sprintf("%s deleted\n", key)
	}
	e, err := codec.Decode(stateTopic, value)
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s ", key)
	switch p := e.Payload.(type) {
	case *schemas.PostgresNodeState:
		fmt.Fprintf(&b, "%s %s seq=%d %s %s", p.Liveness, p.Health, p.ObservedSequence, p.Observed.Postmaster, p.Observed.Role)
		if p.LagBytes != nil {
			fmt.Fprintf(&b, " lag=%d", *p.LagBytes)
		}
		if p.LagMs != nil {
			fmt.Fprintf(&b, "/%dms", *p.LagMs)
		}
		b.WriteByte('\n')
		for _, c := range p.Causes {
			fmt.Fprintf(&b, "    %s: %s\n", c.Code, c.Message)
		}
	case *schemas.PostgresClusterState:
		describeCluster(&b, p, whole)
	case *schemas.ResourceForgotten:
		fmt.Fprintf(&b, "guards %s up to seq=%d\n", p.Resource, p.Sequence)
	}
	return b.String()
}

func describeCluster(b *strings.Builder, p *schemas.PostgresClusterState, whole bool) {
	writable := "not writable"
	if p.Writable {
		writable = "writable"
	}
	fmt.Fprintf(b, "%s %s, %s: %s\n", p.Health, writable, p.Analysis, p.AnalysisDetail)
	if whole {
		fmt.Fprintf(b, "    primary=%s term=%d timeline=%d system=%s\n", p.Primary, p.Term, p.Timeline, p.SystemIdentifier)
	}
	for _, m := range p.Members {
		fmt.Fprintf(b, "    %s %s %s %s term=%d/%d", m.Node, m.Role, m.Liveness, m.Health, m.Term, m.PromisedTerm)
		if m.Synchronous {
			b.WriteString(" sync")
		}
		if m.Streaming {
			b.WriteString(" streaming")
		}
		if m.Diverged {
			b.WriteString(" diverged")
		}
		b.WriteByte('\n')
	}
	if whole {
		for _, c := range p.Causes {
			fmt.Fprintf(b, "    cause %s of %s\n", c.Code, c.Resource)
		}
	}
}
