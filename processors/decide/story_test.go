package decide

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"

	"github.com/regent-infra/regent/schemas"
)

// TestStories runs the scenarios in testdata/story over the model world and prints all that is decided. `go test -rewrite` writes it into
// the files, to be read before it is committed. Every decision is made from bytes alone, twice, and must rest afterwards; so each
// of them is a crash and a resumption, too.
//
//	cluster nodes=N [quorum=K | async] [crash=RESTART] [failover=MANUAL] [cooldown=D] [priority=NODE:P]   an initialised cluster
//	nodes N                       agents that have nothing yet
//	command NAME [field=value...] [id=N] [dry] [expired] [by=""]
//	settle                        agents obey and publish, until nothing moves
//	deliver NODE...               the same for some nodes only
//	wait D                        time passes, with heartbeats
//	crash|kill|killagent|boot|freeze|thaw|cut|join NODE...    what befalls nodes (cut, join: from the broker)
//	unlink|link A B               the network between two nodes
//	write NODE N                  N commits on a primary; replicate NODE: a standby receives all there is
//	refuse NODE ORDER [times=N]   the node's next orders of that type fail
//	slow NODE TICKS               orders take so long
//	lose NODE                     the node's orders are lost; forget NODE: its last observation is lost
//	repeat NODE                   its last observation arrives again
//	agent NODE field=value        change what a node holds: priority, promised, data
//	record | explain              what is recorded; the histories of all workflows
func TestStories(t *testing.T) {
	t.Parallel()
	datadriven.Walk(t, "testdata/story", func(t *testing.T, path string) {
		s := &story{lines: map[string]int{}}
		datadriven.RunTest(t, path, s.run)
	})
}

type story struct {
	*world
	out    strings.Builder
	lines  map[string]int
	last   string
	policy schemas.ClusterPolicy
	n      int
}

func (s *story) run(t *testing.T, d *datadriven.TestData) string {
	t.Helper()
	s.out.Reset()
	if s.world != nil {
		s.t = t
	}
	args := make([]string, 0, len(d.CmdArgs))
	for _, a := range d.CmdArgs {
		if len(a.Vals) == 0 {
			args = append(args, a.Key)
		}
	}
	switch d.Cmd {
	case "cluster", "nodes":
		s.begin(t, d)
	case "command":
		s.send(d)
	case "record":
		r := s.rec()
		fmt.Fprintf(&s.out, "%s floor=%d/%s shut_down=%v restart_failed_term=%d\n", s.describe(r), r.FloorTimeline, LSN(r.FloorLsn), r.ShutDown, r.RestartFailedTerm)
		for _, b := range r.Backoffs {
			fmt.Fprintf(&s.out, "backoff %q failures=%d until=%s: %s\n", b.Node, b.Failures, b.Until.Sub(epoch), b.Reason)
		}
	case "explain":
		for _, id := range s.order {
			w := s.workflow(id)
			fmt.Fprintf(&s.out, "%s %s\n", w.Kind, w.Status)
			for _, h := range w.History {
				fmt.Fprintf(&s.out, "  %s %s: %s%s\n", h.At.Sub(epoch), h.Step, h.Message, refs(h.Evidence))
			}
		}
	case "settle":
		s.settle()
	case "deliver":
		for _, n := range args {
			for s.agents[n].work() || s.agents[n].deliver() {
			}
		}
	case "wait":
		s.wait(t, args[0])
	case "write":
		n, _ := strconv.Atoi(args[1])
		for range n {
			s.agents[args[0]].write()
		}
	case "unlink", "link":
		s.agents[args[0]].cutFrom[args[1]] = d.Cmd == "unlink"
	case "refuse", "slow", "agent":
		s.prepare(t, d, args)
	default:
		for _, n := range args {
			s.befall(t, d.Cmd, s.agents[n])
		}
	}
	if s.out.Len() == 0 {
		return "nothing\n"
	}
	return s.out.String()
}

func refs(evidence []schemas.EvidenceRef) string {
	if len(evidence) == 0 {
		return ""
	}
	var parts []string
	for _, e := range evidence {
		topic := strings.TrimSuffix(strings.TrimPrefix(e.Topic, "infra."), ".postgres.v1")
		parts = append(parts, fmt.Sprintf("%s@%d %s", topic, e.Offset, e.Summary))
	}
	return " [" + strings.Join(parts, "; ") + "]"
}

func (s *story) begin(t *testing.T, d *datadriven.TestData) {
	n, policy := 3, quorumPolicy(1)
	priorities := map[string]int32{}
	for _, a := range d.CmdArgs {
		value := ""
		if len(a.Vals) > 0 {
			value = a.Vals[0]
		}
		switch a.Key {
		case "nodes":
			n, _ = strconv.Atoi(value)
		case "quorum":
			k, _ := strconv.Atoi(value)
			policy.SynchronousCount = int32(k)
		case "async":
			policy = asyncPolicy()
			if value != "" {
				lag, _ := strconv.Atoi(value)
				policy.MaxFailoverLagBytes = int64(lag)
			}
		case "crash":
			policy.CrashAction = schemas.CrashAction(value)
		case "failover":
			policy.FailoverMode = schemas.FailoverMode(value)
		case "cooldown":
			c, err := time.ParseDuration(value)
			if err != nil {
				t.Fatal(err)
			}
			policy.FailoverCooldownMs = c.Milliseconds()
		case "priority":
			node, p, _ := strings.Cut(value, ":")
			v, _ := strconv.Atoi(p)
			priorities[node] = int32(v)
		default:
			if d.Cmd == "nodes" {
				n, _ = strconv.Atoi(a.Key)
			}
		}
	}
	var names []string
	for i := range n {
		names = append(names, fmt.Sprintf("pg-%d", i+1))
	}
	s.world, s.lines, s.last, s.n, s.policy = newWorld(t, names...), map[string]int{}, "", 1, policy
	if d.Cmd == "nodes" {
		s.sink = s.print
		for _, name := range names {
			s.agents[name].boot()
		}
		return
	}
	s.lossy = policy.SynchronousMode == schemas.SynchronousModeAsync
	s.initialise(policy)
	r := s.rec()
	for i := range r.Members {
		if p, ok := priorities[r.Members[i].Node]; ok {
			r.Members[i].FailoverPriority = p
		}
	}
	s.record = encode(t, r)
	s.sink = s.print
	for _, id := range s.order {
		s.lines[id] = len(s.workflow(id).History)
	}
	s.last = s.describe(r)
	fmt.Fprintln(&s.out, s.last)
}

func (s *story) prepare(t *testing.T, d *datadriven.TestData, args []string) {
	a := s.agents[args[0]]
	switch d.Cmd {
	case "slow":
		a.slow, _ = strconv.Atoi(args[1])
	case "refuse":
		times := 1
		d.MaybeScanArgs(t, "times", &times)
		a.refusals = append(a.refusals, slices.Repeat([]string{args[1]}, times)...)
	case "agent":
		if d.HasArg("promised") {
			d.ScanArgs(t, "promised", &a.promised)
		}
		if d.HasArg("data") {
			d.ScanArgs(t, "data", &a.system)
			a.hasData = true
		}
		if d.HasArg("timeline") {
			d.ScanArgs(t, "timeline", &a.timeline)
			a.wal = append(a.wal, entry{a.timeline, a.term, 1 << 30})
		}
		if d.HasArg("setting") {
			a.ssn = "ANY 1 (\"somebody-t1\")"
		}
		if slices.Contains(args, "nodata") {
			a.hasData, a.running = false, false
		}
		if slices.Contains(args, "writable") {
			// Somebody promoted it by hand.
			a.asPrimary, a.running, a.streaming, a.upstream = true, true, false, ""
		}
		a.publish()
	}
}

func (s *story) befall(t *testing.T, what string, a *agent) {
	if a == nil {
		t.Fatalf("%s: there is no such node", what)
	}
	switch what {
	case "crash":
		a.crash()
	case "kill":
		a.kill(true)
	case "killagent":
		a.kill(false)
	case "boot":
		a.boot()
	case "freeze":
		a.frozen = true
	case "thaw":
		a.frozen = false
	case "cut":
		a.cutFromBroker = true
	case "join":
		a.cutFromBroker = false
	case "lose":
		a.inbox = nil
	case "forget":
		a.outbox = nil
	case "replicate":
		for a.replicate() {
		}
	case "repeat":
		n := *s.states[a.name]
		s.observe(published{n})
		n.ObservedSequence--
		n.Observed.PromisedTerm = 99
		s.observe(published{n})
	default:
		t.Fatalf("unknown command %s", what)
	}
}

// wait lets time pass as the simulation does, but in order: agents work and beat, the silent become suspect.
func (s *story) wait(t *testing.T, d string) {
	length, err := time.ParseDuration(d)
	if err != nil {
		t.Fatal(err)
	}
	sim := &simulation{world: s.world}
	for end := s.now.Add(length); s.now.Before(end); {
		s.pass(s.now.Add(tick))
		s.settle()
		sim.beat()
	}
	s.settle()
}

func (s *story) send(d *datadriven.TestData) {
	m := meta()
	id := ""
	arg := map[string]string{}
	for _, a := range d.CmdArgs[1:] {
		value := ""
		if len(a.Vals) > 0 {
			value = a.Vals[0]
		}
		arg[a.Key] = value
		switch a.Key {
		case "dry":
			m.DryRun = true
		case "expired":
			m.ExpiresAt = new(s.now)
		case "by":
			m.RequestedBy = value
		case "id":
			n, _ := strconv.Atoi(value)
			id = fmt.Sprintf("0198c000-0000-7000-8000-%012d", n)
		}
	}
	if id == "" {
		s.n++
		id = fmt.Sprintf("0198c000-0000-7000-8000-%012d", 100+s.n)
	}
	var candidate *string
	if c, ok := arg["candidate"]; ok {
		candidate = &c
	}
	mode := schemas.StopModeFast
	if v, ok := arg["mode"]; ok {
		mode = schemas.StopMode(v)
	}
	var payload any
	switch d.CmdArgs[0].Key {
	case "initialize":
		p := &schemas.InitializeCluster{Meta: m, Members: members(s.names...), Policy: s.policy}
		if arg["bad"] != "" {
			s.spoil(p, arg["bad"])
		}
		payload = p
	case "switchover":
		payload = &schemas.SwitchoverCluster{Meta: m, Candidate: candidate}
	case "failover":
		payload = &schemas.FailoverCluster{Meta: m, Candidate: candidate}
	case "restart":
		payload = &schemas.RestartNode{Meta: m, Node: arg["node"], Mode: mode}
	case "reinitialize":
		payload = &schemas.ReinitializeNode{Meta: m, Node: arg["node"]}
	case "shutdown":
		payload = &schemas.ShutdownCluster{Meta: m, Mode: mode}
	case "start":
		payload = &schemas.StartCluster{Meta: m}
	case "check":
		timeout := 2000
		if v, ok := arg["timeout"]; ok {
			timeout, _ = strconv.Atoi(v)
		}
		payload = &schemas.CheckHealth{Meta: m, TimeoutMs: int32(timeout)}
	case "other":
		payload = &schemas.NodeHeartbeat{}
	}
	s.command(id, payload)
}

func (s *story) spoil(p *schemas.InitializeCluster, how string) {
	switch how {
	case "members":
		p.Members = nil
	case "everything":
		p.Members[0].Node, p.Members[0].Host, p.Members[0].Port, p.Members[0].FailoverPriority = "PG_1", "", 70000, -1
		p.Members[2] = p.Members[1]
		p.Policy = schemas.ClusterPolicy{SynchronousMode: "MAYBE", FailoverMode: "X", CrashAction: "Y", FailoverCooldownMs: -1}
	case "count":
		p.Policy.SynchronousCount = 3
	case "lag":
		p.Policy.SynchronousMode, p.Policy.MaxFailoverLagBytes = schemas.SynchronousModeAsync, -1
	}
}

// print shows a decision: orders, new lines of history, the record where it changed, answers.
func (s *story) print(d Decision) {
	for _, o := range d.Orders {
		fmt.Fprintf(&s.out, "  -> %s %s\n", o.Node, particulars(o.Payload))
	}
	for _, c := range d.Workflows {
		w := c.Workflow
		for _, h := range w.History[min(s.lines[w.ID], len(w.History)):] {
			fmt.Fprintf(&s.out, "  %s %s: %s\n", w.Kind, h.Step, h.Message)
		}
		s.lines[w.ID] = len(w.History)
	}
	if d.Record != nil {
		if now := s.describe(d.Record); now != s.last {
			s.last = now
			fmt.Fprintf(&s.out, "  %s\n", now)
		}
	}
	for _, o := range d.Outcomes {
		switch p := o.Payload.(type) {
		case *schemas.CommandAccepted:
			fmt.Fprintf(&s.out, "  => accepted: %s\n", p.Plan)
		case *schemas.CommandRejected:
			fmt.Fprintf(&s.out, "  => rejected %s: %s\n", p.Reason, p.Message)
		case *schemas.CommandCompleted:
			fmt.Fprintf(&s.out, "  => completed: %s\n", p.Summary)
		case *schemas.CommandFailed:
			fmt.Fprintf(&s.out, "  => failed: %s\n", p.Message)
		}
	}
}

func (s *story) describe(r *schemas.ClusterRecord) string {
	text := fmt.Sprintf("record: %s of term %d (term %d, timeline %d), ANY %d (%s)", r.Primary, r.PrimaryTerm, r.Term, r.Timeline, r.SynchronousCount, strings.Join(r.SynchronousStandbys, ", "))
	if p := r.PreviousSynchronous; p != nil {
		text += fmt.Sprintf(" after ANY %d (%s)", p.Count, strings.Join(p.Standbys, ", "))
	}
	if r.Held != nil {
		text += fmt.Sprintf("; held back %s, %s: %s", r.Held.Kind, r.Held.Code, r.Held.Message)
	}
	return text
}

func particulars(payload any) string {
	m := orderMeta(payload)
	text := fmt.Sprintf("%s term %d", schemas.RecordName(payload), m.Term)
	switch p := payload.(type) {
	case *schemas.FencePostgres:
		if p.Planned {
			text += ", planned"
		}
	case *schemas.PromotePostgres:
		var nodes []string
		for _, e := range p.Evidence {
			nodes = append(nodes, fmt.Sprintf("%s %d/%s", e.Node, e.WalEnd.Timeline, LSN(e.WalEnd.Lsn)))
		}
		text += fmt.Sprintf(", min_lsn %s, timeline %d, %q, evidence %s", LSN(p.MinLsn), p.Timeline, p.SynchronousStandbyNames, strings.Join(nodes, ", "))
	case *schemas.ReinstatePrimary:
		text += fmt.Sprintf(", %q", p.SynchronousStandbyNames)
	case *schemas.FollowPrimary:
		text += fmt.Sprintf(", upstream %s of term %d, timeline %d, slot %s", p.Upstream.Node, p.UpstreamTerm, p.UpstreamTimeline, p.Slot)
		if p.AllowRewind {
			text += ", may rewind"
		}
		if p.AllowCopy {
			text += ", may copy"
		}
	case *schemas.CloneStandby:
		text += fmt.Sprintf(", upstream %s of term %d, slot %s", p.Upstream.Node, p.UpstreamTerm, p.Slot)
	case *schemas.ConfigureSynchronous:
		text += fmt.Sprintf(", %q", p.SynchronousStandbyNames)
	case *schemas.StopPostgres:
		text += ", " + string(p.Mode)
	case *schemas.RestartPostgres:
		text += ", " + string(p.Mode)
	case *schemas.StartPostgres:
		text += fmt.Sprintf(", as_primary %v", p.AsPrimary)
	}
	return text
}
