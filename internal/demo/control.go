package demo

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os/exec"
	"strings"
	"time"

	"github.com/regent-infra/regent/internal/clock"
	"github.com/regent-infra/regent/internal/httpapi"
	"github.com/regent-infra/regent/schemas"
)

// pollEvery is how often a condition is looked at.
const pollEvery = 25 * time.Millisecond

// requestTimeout bounds one request to the HTTP API.
const requestTimeout = 5 * time.Second

// commandTimeout is what a command is given until its workflow has ended.
const commandTimeout = 90 * time.Second

func (s *stack) clusterID() string { return "postgres/" + clusterName }

func (s *stack) url() string { return "http://" + s.api }

// regent runs the command line against this stack and returns what it printed.
func (s *stack) regent(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, s.executable, append(args, "--server", s.url())...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.String(), fmt.Errorf("regent %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(stderr.String()))
	}
	return stdout.String(), nil
}

// get reads one answer of the HTTP API.
func (s *stack) get(ctx context.Context, path string, into any) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url()+path, nil)
	if err != nil {
		return err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("get %s: %s", path, response.Status)
	}
	return json.NewDecoder(response.Body).Decode(into)
}

// poll looks at a condition until it holds or ctx ends; what says what was waited for.
func poll(ctx context.Context, c clock.Clock, what string, holds func() error) error {
	for {
		err := holds()
		if err == nil {
			return nil
		}
		if clock.Wait(ctx, c, pollEvery) != nil {
			return fmt.Errorf("wait for %s: %w: %w", what, context.Cause(ctx), err)
		}
	}
}

// waitControlPlane waits until the control plane says that it is ready.
func (s *stack) waitControlPlane(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, actTimeout)
	defer cancel()
	return poll(ctx, clock.System{}, "the control plane", func() error {
		if !s.control.Running() {
			return fmt.Errorf("it has ended; see %s", s.control.Log)
		}
		return s.get(ctx, "/health/ready", &struct{}{})
	})
}

// clusterView is the demo's cluster as the control plane sees it.
type clusterView struct {
	httpapi.Cluster
	// Primary is the node that is primary by decision and by observation; empty while they differ.
	Primary string
}

// cluster reads the present state.
func (s *stack) cluster(ctx context.Context) (clusterView, error) {
	var c clusterView
	if err := s.get(ctx, "/v1/clusters/"+s.clusterID(), &c.Cluster); err != nil {
		return c, fmt.Errorf("read the cluster: %w", err)
	}
	if c.State != nil && c.Record != nil && c.State.Primary == c.Record.Primary {
		c.Primary = c.State.Primary
	}
	return c, nil
}

// whole reports whether every node is healthy and the synchronous set complete, with nothing under way.
func (c clusterView) whole(nodes int) bool {
	if c.State == nil || c.Record == nil || c.Primary == "" || c.Workflow != nil || c.State.Health != schemas.HealthHealthy || len(c.State.Members) != nodes {
		return false
	}
	synchronous := 0
	for _, m := range c.State.Members {
		if m.Synchronous {
			synchronous++
		}
	}
	return synchronous == nodes-1
}

// String says what a person would want to know when waiting ends in vain.
func (c clusterView) String() string {
	if c.State == nil || c.Record == nil {
		return "the cluster is not known yet"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "primary %q (decided %q, term %d), %s, %s: %s", c.State.Primary, c.Record.Primary, c.Record.Term, c.State.Health, c.State.Analysis, c.State.AnalysisDetail)
	for _, m := range c.State.Members {
		fmt.Fprintf(&b, "; %s %s %s %s synchronous=%t", m.Node, m.Role, m.Health, m.Liveness, m.Synchronous)
	}
	if c.Workflow != nil {
		fmt.Fprintf(&b, "; under way: %s in step %s", c.Workflow.Kind, c.Workflow.Step)
	}
	return b.String()
}

// waitCluster waits until the cluster is as wanted.
func (s *stack) waitCluster(ctx context.Context, c clock.Clock, what string, wanted func(clusterView) bool) (clusterView, error) {
	var view clusterView
	err := poll(ctx, c, what, func() error {
		var err error
		if view, err = s.cluster(ctx); err != nil {
			return err
		}
		if !wanted(view) {
			return errors.New(view.String())
		}
		return nil
	})
	return view, err
}

// initialize creates the cluster and waits until it is done.
func (s *stack) initialize(ctx context.Context) error {
	args := []string{"init", s.clusterID(), "--synchronous-mode", "quorum", "--synchronous-count", "1", "--timeout", commandTimeout.String(), "--reason", "the demo begins"}
	for _, n := range s.nodes {
		args = append(args, "--member", fmt.Sprintf("%s=127.0.0.1:%d", n.name, n.port))
	}
	_, err := s.regent(ctx, args...)
	return err
}

// switchover hands the primary role over and waits until it is done.
func (s *stack) switchover(ctx context.Context) error {
	_, err := s.regent(ctx, "switchover", s.clusterID(), "--timeout", commandTimeout.String(), "--reason", "planned, by the demo")
	return err
}

// explain returns the explanation of the last workflow of a kind, line by line.
func (s *stack) explain(ctx context.Context, kind string) ([]string, error) {
	var answer struct {
		Workflows []struct {
			ID string `json:"id"`
		} `json:"workflows"`
	}
	if err := s.get(ctx, "/v1/workflows?limit=1&kind="+kind, &answer); err != nil {
		return nil, fmt.Errorf("explain: %w", err)
	}
	if len(answer.Workflows) == 0 {
		return nil, fmt.Errorf("explain: there is no workflow of kind %s", kind)
	}
	out, err := s.regent(ctx, "explain", answer.Workflows[0].ID)
	if err != nil {
		return nil, err
	}
	return strings.Split(strings.TrimRight(out, "\n"), "\n"), nil
}

// digestSum is what the running state amounts to.
type digestSum struct {
	Keys int64
}

// digests adds up what every processor holds.
func (s *stack) digests(ctx context.Context) (digestSum, error) {
	var answer struct {
		Digests []httpapi.Digest `json:"digests"`
	}
	if err := s.get(ctx, "/v1/digests", &answer); err != nil {
		return digestSum{}, fmt.Errorf("read digests: %w", err)
	}
	var sum digestSum
	for _, d := range answer.Digests {
		sum.Keys += d.Keys
	}
	return sum, nil
}

// rebuild makes the state of the stopped control plane anew from the topics and swaps it in; it returns what that says, line by line.
func (s *stack) rebuild(ctx context.Context) ([]string, error) {
	out, err := s.regent(ctx, "rebuild", "--data-dir", s.controlDir())
	if err != nil {
		return nil, err
	}
	_, told, _ := strings.Cut(out, "rebuilt ") // the table is for those who look themselves
	return strings.Split(strings.TrimSpace("rebuilt "+told), "\n"), nil
}

// verify has the running state compared with the topics.
func (s *stack) verify(ctx context.Context) (string, error) {
	out, err := s.regent(ctx, "rebuild", "--verify")
	if err != nil {
		return "", err
	}
	lines := strings.Split(strings.TrimSpace(out), "\n")
	return lines[len(lines)-1], nil
}

// metricTargets are the processes whose memory and goroutines a soak watches.
func (s *stack) metricTargets() []metricTarget {
	targets := []metricTarget{{name: "control plane", url: s.url() + "/metrics", pid: s.control.PID()}}
	for i, n := range s.nodes {
		targets = append(targets, metricTarget{name: n.agent.Name, url: "http://" + s.agentAPI[i] + "/metrics", pid: n.agent.PID()})
	}
	return targets
}

// agentConfig is the configuration file of one agent.
func (s *stack) agentConfig(n node, api string) map[string]any {
	return map[string]any{
		"brokers":  []string{s.broker},
		"registry": "http://" + s.registry,
		"listen":   map[string]any{"http": api},
		"agent":    map[string]any{"cluster": s.clusterID(), "node": n.name, "profile": "fast"},
		"postgres": map[string]any{
			"data_dir": n.dataDir, "host": "127.0.0.1", "port": n.port, "password_file": s.secretPath(),
		},
	}
}

// invitation says what to try while everything is up.
func (s *stack) invitation() []string {
	return []string{
		fmt.Sprintf("export REGENT_SERVER=%s", s.url()),
		fmt.Sprintf("%s status", s.executable),
		fmt.Sprintf("%s events", s.executable),
		fmt.Sprintf("%s switchover %s", s.executable, s.clusterID()),
		fmt.Sprintf("%s explain %s", s.executable, s.clusterID()),
		"or kill -9 any process of " + s.dir + " and watch",
	}
}

// watchTopology shows the cluster, several times a second.
func (p *play) watchTopology(ctx context.Context) {
	const every = 250 * time.Millisecond
	before, at := p.writer.count(), p.clock.Now()
	rate := 0.0
	for clock.Wait(ctx, p.clock, every) == nil {
		c, err := p.stack.cluster(ctx)
		control := "running"
		if err != nil {
			control = "killed"
			if p.stack.control.Running() {
				control = "recovering"
			}
		}
		now, count := p.clock.Now(), p.writer.count()
		rate = 0.7*rate + 0.3*float64(count-before)/now.Sub(at).Seconds()
		before, at = count, now
		p.audience.topology(control, clusterHealth(c), p.members(c), count, rate)
	}
}

func clusterHealth(c clusterView) string {
	if c.State == nil {
		return "UNKNOWN"
	}
	return string(c.State.Health)
}

func (p *play) members(c clusterView) []member {
	list := make([]member, 0, len(p.stack.nodes))
	for _, n := range p.stack.nodes {
		m := member{name: n.name, role: "?", health: "UNKNOWN", liveness: "UNKNOWN", agent: "killed"}
		if n.agent.Running() {
			m.agent = "running"
		}
		if c.State != nil {
			for _, s := range c.State.Members {
				if s.Node == n.name {
					m.role, m.health, m.liveness = string(s.Role), string(s.Health), string(s.Liveness)
					m.timeline, m.term, m.synchronous = s.Timeline, s.Term, s.Synchronous
				}
			}
		}
		list = append(list, m)
	}
	return list
}

// watchEvents shows the flow of events through the control plane.
func (p *play) watchEvents(ctx context.Context) {
	for ctx.Err() == nil {
		if err := p.stack.follow(ctx, p.audience.event); err != nil && clock.Wait(ctx, p.clock, time.Second/4) != nil {
			return
		}
	}
}

// follow reads the stream of changes until it breaks.
func (s *stack) follow(ctx context.Context, tell func(string)) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url()+"/v1/watch", nil)
	if err != nil {
		return err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	scanner := bufio.NewScanner(response.Body)
	scanner.Buffer(nil, 1<<20)
	for scanner.Scan() {
		data, ok := strings.CutPrefix(scanner.Text(), "data: ")
		if !ok {
			continue
		}
		var r httpapi.Resource
		if json.Unmarshal([]byte(data), &r) == nil && r.ID != "" {
			tell(fmt.Sprintf("%s@%d %s %s", shortTopic(r.Position.Topic), r.Position.Offset, r.Type, r.ID))
		}
	}
	return scanner.Err()
}

// shortTopic drops what all topic names share.
func shortTopic(topic string) string {
	return strings.TrimSuffix(strings.TrimPrefix(topic, "infra."), ".v1")
}
