package e2etest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/regent-infra/regent/internal/childprocess"
	"github.com/regent-infra/regent/internal/event"
	"github.com/regent-infra/regent/internal/foreign"
	"github.com/regent-infra/regent/internal/kafka"
	"github.com/regent-infra/regent/internal/kafkaserver"
	"github.com/regent-infra/regent/internal/topics"
	"github.com/regent-infra/regent/schemas"
)

// repository is its root.
const repository = "../../.."

// timedOut is the exit code of a command whose outcome did not come in time.
const timedOut = 4

// plane is a control plane with one node, as other programs see it.
type plane struct {
	bed *bed
	// reducer is the address of the server that holds the state.
	brokers, registry, reducer string
	processes                  []*childprocess.Process
	// closely says that what depends on the programs alone, and not on the broker, is looked at, too: once is enough.
	closely bool
	// checking lets one program after the other check the cluster: a second check meanwhile would be a conflict.
	checking sync.Mutex

	mu      sync.Mutex
	clients []*client
}

// The programs of docs/clients on the embedded broker and its registry.
func TestProgramsOfOthersOnTheEmbeddedBroker(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	up := b.launch("up", "up", "--data-dir", b.path("up"), "--broker-listen", "127.0.0.1:0", "--registry-listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0", "--log-format", "json")
	server := b.logged(up, "the HTTP API is up", "url")
	p := &plane{
		bed: b, brokers: b.logged(up, "embedded broker and registry are up", "brokers"), registry: b.logged(up, "embedded broker and registry are up", "registry"),
		reducer: server, processes: []*childprocess.Process{up},
	}
	b.ready(up, server)
	p.inhabit(server)
	p.serve()
	b.stop(p.processes...)
}

// The programs of docs/clients on a real Kafka, with Regent's registry and roles as processes of their own.
func TestProgramsOfOthersOnApacheKafka(t *testing.T) {
	t.Parallel()
	b := newBed(t)
	broker, err := kafkaserver.Start(b.patient(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(broker.Kill)
	common := map[string]any{"brokers": []string{broker.Broker()}}
	registry := b.launch("registry", "server", "--config", b.yaml("early.yaml", common), "--roles", "registry", "--registry-listen", "127.0.0.1:0", "--log-format", "json")
	common["registry"] = b.logged(registry, "the schema registry is up", "registry")
	config := b.yaml("regent.yaml", common)
	b.run(done, "topics", "apply", "--config", config, "--replication-factor", "1")
	reducer, orchestrator, front := b.launchRole("reducer", config), b.launchRole("orchestrator", config), b.launchRole("fleet,api", config)
	p := &plane{
		bed: b, brokers: broker.Broker(), registry: fmt.Sprint(common["registry"]), reducer: reducer.url, closely: true,
		processes: []*childprocess.Process{registry, reducer.Process, orchestrator.Process, front.Process},
	}
	for _, r := range []*role{reducer, orchestrator, front} {
		b.ready(r.Process, r.url)
	}
	p.inhabit(front.url)
	p.serve()
	p.late(orchestrator.Process)
	b.stop(p.processes...)
}

// inhabit makes a cluster of one real node, and facts of others: a node that is there no more, a transaction that was aborted, and records that nobody can
// read.
func (p *plane) inhabit(server string) {
	b := p.bed
	b.t.Helper()
	n := b.launchNodes(1, map[string]any{"brokers": []string{p.brokers}, "registry": p.registry})
	p.processes = append(p.processes, n.agents()...)
	l := b.openLog(p.brokers, p.registry)
	observations, state := topics.Observations(event.KindPostgres), topics.State(event.KindPostgres)
	const elsewhere event.ClusterID = "postgres/elsewhere"
	partition := event.Partition(elsewhere, l.set.Partitions(event.KindPostgres))
	observe := func(name string) string {
		node := elsewhere.Node(name)
		l.send(observations, partition, string(node), l.encode(observations, header(elsewhere, string(node)), &schemas.PostgresNodeObserved{
			Node: name, Host: "127.0.0.1", Port: 5432, Postmaster: schemas.PostmasterStatusStopped, Role: schemas.NodeRoleUnknown,
			Senders: []schemas.WalSender{}, Slots: []schemas.ReplicationSlot{}, TimelineHistory: []schemas.TimelineSwitch{},
			RecentOrders: []schemas.OrderResult{}, Breaker: schemas.BreakerStatus{State: schemas.BreakerStateClosed},
		}))
		return string(node)
	}
	observe("stays")
	l.send(observations, partition, observe("gone"), nil)
	l.send(observations, partition, string(elsewhere.Node("garbage")), []byte("not Avro"))
	l.send(observations, partition, string(elsewhere.Node("cut")), []byte{0, 0, 0, 0, 1, 7})
	l.send(observations, partition, string(elsewhere.Node("unknown")), []byte{0, 0x7f, 0xff, 0xff, 0xff, 1})
	last := observe("last")
	aborted := elsewhere.Node("aborted")
	p.abort(&kgo.Record{Topic: state, Partition: partition, Key: []byte(aborted), Value: l.encode(state, header(elsewhere, string(aborted)), &schemas.ResourceForgotten{
		Resource: string(aborted), ForgottenAt: time.Now().UTC().Truncate(time.Microsecond),
	})})
	b.run(done, append([]string{"init", clusterID, "--server", server, "--synchronous-mode", "async"}, n.members()...)...)
	n.whole(server, "")
	b.await("the state of "+last, func() error {
		if status, body, err := b.get(server, "/v1/resources/"+last, nil); err != nil || status != http.StatusOK {
			return fmt.Errorf("%d %s: %w", status, body, err)
		}
		return nil
	})
}

// abort writes a record in a transaction that is aborted.
func (p *plane) abort(r *kgo.Record) {
	t := p.bed.t
	t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(p.brokers), kgo.TransactionalID("aborts"), kgo.TransactionTimeout(5*time.Second), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if err := client.BeginTransaction(); err != nil {
		t.Fatal(err)
	}
	if err := client.ProduceSync(p.bed.patient(), r).FirstErr(); err != nil {
		t.Fatal(err)
	}
	if err := client.EndTransaction(p.bed.patient(), kgo.TryAbort); err != nil {
		t.Fatal(err)
	}
}

// serve runs the programs of every language.
func (p *plane) serve() {
	t := p.bed.t
	t.Run("languages", func(t *testing.T) {
		p.language(t, "Go", func(ctx context.Context) (*foreign.Program, error) {
			return foreign.Go(ctx, repository, p.bed.path("go"))
		})
		// Its name says that it needs Java.
		p.language(t, "ApacheKafkaJava", func(ctx context.Context) (*foreign.Program, error) { return foreign.Java(ctx, repository) })
		p.language(t, "Shell", func(ctx context.Context) (*foreign.Program, error) { return foreign.Shell(ctx, repository) })
		p.language(t, "Python", func(ctx context.Context) (*foreign.Program, error) {
			return foreign.Python(ctx, repository)
		})
	})
}

// late runs the commands of every language while nobody answers them.
func (p *plane) late(orchestrator *childprocess.Process) {
	t := p.bed.t
	t.Helper()
	if err := orchestrator.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	t.Run("late", func(t *testing.T) {
		for _, c := range p.clients {
			t.Run(c.name, func(t *testing.T) {
				t.Parallel()
				c := &client{plane: p, t: t, name: c.name, program: c.program}
				_, complaints := c.run(timedOut, c.args("command", "--cluster", clusterID, "--type", "CheckHealth", "--payload", `{"timeout_ms": 2000}`, "--dry-run", "--timeout", "3"))
				if !strings.Contains(complaints, "it may still be carried out") {
					t.Errorf("it does not say what may still happen: %s", complaints)
				}
			})
		}
	})
	if err := orchestrator.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
}

// client is the programs of a language on a plane.
type client struct {
	*plane
	t       *testing.T
	name    string
	program *foreign.Program
}

func (p *plane) language(t *testing.T, name string, prepare func(context.Context) (*foreign.Program, error)) {
	t.Run(name, func(t *testing.T) {
		t.Parallel()
		program, err := prepare(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		c := &client{plane: p, t: t, name: name, program: program}
		p.mu.Lock()
		p.clients = append(p.clients, c)
		p.mu.Unlock()
		parts := map[string]func(*client){"state": (*client).state, "command": (*client).command, "rebuild": (*client).rebuild}
		if strings.Contains(name, "Java") {
			parts["table"] = (*client).table
		}
		for name, part := range parts {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				part(&client{plane: p, t: t, name: c.name, program: program})
			})
		}
	})
}

func (c *client) args(program string, more ...string) []string {
	return c.program.Command(program, append([]string{"--brokers", c.brokers, "--registry", c.registry}, more...)...)
}

// run runs a program to its end and returns the lines that it printed, and what it complained of.
func (c *client) run(code int, args []string) (lines []map[string]any, complaints string) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	var out, errs bytes.Buffer
	cmd.Env, cmd.Stdout, cmd.Stderr = append(environment(), c.program.Env...), &out, &errs
	err := cmd.Run()
	var ended *exec.ExitError
	if err != nil && !errors.As(err, &ended) {
		c.t.Fatal(err)
	}
	if got := cmd.ProcessState.ExitCode(); got != code {
		c.t.Fatalf("%s ended with %d, want %d:\n%s%s", strings.Join(args, " "), got, code, out.String(), errs.String())
	}
	return c.lines(out.String()), errs.String()
}

// lines are the JSON objects in an output.
func (c *client) lines(output string) (lines []map[string]any) {
	c.t.Helper()
	for text := range strings.Lines(output) {
		if !strings.HasPrefix(text, "{") || !strings.HasSuffix(text, "}\n") {
			continue
		}
		var line map[string]any
		if err := json.Unmarshal([]byte(text), &line); err != nil {
			c.t.Fatalf("%v: %s", err, text)
		}
		lines = append(lines, line)
	}
	return lines
}

// at returns what stands in an object under a path.
func at(line any, path ...string) any {
	for _, name := range path {
		object, _ := line.(map[string]any)
		line = object[name]
	}
	return line
}

// changes are the lines of state, by key, and the highest offset of each partition.
func (c *client) changes(log string) (latest map[string]map[string]any, next map[string]float64) {
	latest, next = map[string]map[string]any{}, map[string]float64{}
	for _, line := range c.lines(read(c.t, log)) {
		latest[fmt.Sprint(line["key"])] = line
		next[fmt.Sprint(line["partition"])] = line["offset"].(float64) + 1
	}
	return latest, next
}

// follow starts the program that follows a topic, waits until its latest changes are as wanted, and ends it.
func (c *client) follow(topic string, wanted func(latest map[string]map[string]any) error) string {
	c.t.Helper()
	args := c.args("state", "--topic", topic, "--group", "follower-"+c.name)
	p := &childprocess.Process{Name: c.name + " state", Executable: args[0], Args: args[1:], Log: c.t.TempDir() + "/log", Env: append(environment(), c.program.Env...)}
	if err := p.Start(c.bed.spawner); err != nil {
		c.t.Fatal(err)
	}
	err := eventually(func() error {
		latest, _ := c.changes(p.Log)
		err := wanted(latest)
		if err != nil && !p.Running() {
			c.t.Fatalf("%s ended while waiting for the state (%v):\n%s", p.Name, err, tail(read(c.t, p.Log)))
		}
		return err
	})
	if err != nil {
		c.t.Fatalf("%s: %v:\n%s", p.Name, err, tail(read(c.t, p.Log)))
	}
	if err := p.Signal(syscall.SIGTERM); err != nil {
		c.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(c.t.Context(), patience)
	defer cancel()
	if err := p.Wait(ctx); err != nil || p.ExitCode() != done {
		c.t.Fatalf("%s ended with %d (%v):\n%s", p.Name, p.ExitCode(), err, tail(read(c.t, p.Log)))
	}
	return p.Log
}

// state: the program sees what was committed and nothing else, the deletion included; started again, it goes on where it was.
func (c *client) state() {
	state, observations := topics.State(event.KindPostgres), topics.Observations(event.KindPostgres)
	first := c.follow(state, func(latest map[string]map[string]any) error {
		for key, want := range map[string]string{
			clusterID: "PostgresClusterState", clusterID + "/node/pg-1": "PostgresNodeState", "postgres/elsewhere/node/stays": "PostgresNodeState",
			"postgres/elsewhere/forgotten/gone": "ResourceForgotten",
		} {
			if got := at(latest[key], "event", "type"); got != want {
				return fmt.Errorf("%s is a %v, want a %s", key, got, want)
			}
		}
		if latest["postgres/elsewhere/node/gone"]["deleted"] != true {
			return errors.New("the deletion was not seen")
		}
		return nil
	})
	latest, next := c.changes(first)
	if name := at(latest[clusterID+"/node/pg-1"], "event", "payload", "node"); name != "pg-1" {
		c.t.Errorf("the node is called %v", name)
	}
	if log := read(c.t, first); strings.Contains(log, "aborted") {
		c.t.Errorf("what was never committed was seen:\n%s", tail(log))
	}
	again := c.follow(state, func(latest map[string]map[string]any) error {
		if latest[clusterID+"/node/pg-1"] == nil {
			return errors.New("nothing new of pg-1")
		}
		return nil
	})
	for _, line := range c.lines(read(c.t, again)) {
		if line["offset"].(float64) < next[fmt.Sprint(line["partition"])] {
			c.t.Fatalf("started again, it began with %v although it had seen all below %v", line, next)
		}
	}
	if !c.closely {
		return
	}
	unreadable := c.follow(observations, func(latest map[string]map[string]any) error {
		if at(latest["postgres/elsewhere/node/last"], "event", "type") != "PostgresNodeObserved" {
			return errors.New("what stands behind the unreadable records was not seen")
		}
		return nil
	})
	if n := strings.Count(read(c.t, unreadable), "skip "+observations); n != 3 {
		c.t.Errorf("%d records were called unreadable, want 3:\n%s", n, tail(read(c.t, unreadable)))
	}
}

// command: each end that a command can have.
func (c *client) command() {
	check := []string{"--payload", `{"timeout_ms": 2000}`}
	parts := map[string]func(*client){
		"expired": func(c *client) { c.rejected("EXPIRED", clusterID, append(check, "--expires-in", "-3600")...) },
		"dry run": func(c *client) {
			last := c.ends(done, []string{"CommandAccepted"}, clusterID, append(check, "--dry-run")...)
			if last["workflow_id"] != "" || last["plan"] == "" {
				c.t.Errorf("a dry run was accepted as %v", last)
			}
		},
		"done": func(c *client) {
			id := event.NewID()
			c.checking.Lock()
			defer c.checking.Unlock()
			last := c.ends(done, []string{"CommandAccepted", "CommandCompleted"}, clusterID, append(check, "--id", id)...)
			if last["command_id"] != id || last["summary"] == "" {
				c.t.Errorf("the command %s ended as %v", id, last)
			}
			c.rejected("DUPLICATE", clusterID, append(check, "--id", id)...)
		},
	}
	if c.closely {
		parts["misspelled"] = (*client).misspelled
	}
	for name, part := range parts {
		c.t.Run(name, func(t *testing.T) {
			t.Parallel()
			part(&client{plane: c.plane, t: t, name: c.name, program: c.program})
		})
	}
}

// misspelled: a field that the schema does not have is told, not left out.
func (c *client) misspelled() {
	_, complaints := c.run(failed, c.args("command", "--cluster", clusterID, "--type", "SwitchoverCluster", "--payload", `{"candidat": "pg-1"}`))
	if !strings.Contains(complaints, "candidat") {
		c.t.Errorf("got %s", complaints)
	}
}

// ends sends a check and expects outcomes. It returns the payload of the last one.
func (c *client) ends(code int, want []string, cluster string, more ...string) (last map[string]any) {
	c.t.Helper()
	lines, complaints := c.run(code, c.args("command", append([]string{"--cluster", cluster, "--type", "CheckHealth", "--reason", "test"}, more...)...))
	if len(lines) == 0 || lines[0]["sent"] == nil {
		c.t.Fatalf("the first line does not say what was sent: %v", lines)
	}
	var types []string
	for _, line := range lines[1:] {
		types = append(types, fmt.Sprint(line["outcome"]))
		last, _ = line["payload"].(map[string]any)
	}
	if !slices.Equal(types, want) {
		c.t.Fatalf("the outcomes are %v, want %v", types, want)
	}
	if reason, ok := last["reason"]; ok && !strings.Contains(complaints, fmt.Sprint(reason)) {
		c.t.Errorf("the reason %v is not said: %s", reason, complaints)
	}
	return last
}

func (c *client) rejected(reason, cluster string, more ...string) {
	c.t.Helper()
	if last := c.ends(refused, []string{"CommandRejected"}, cluster, more...); last["reason"] != reason || last["message"] == "" {
		c.t.Errorf("rejected because of %v, want %s", last, reason)
	}
}

// rebuild: the state that the program makes from the topic is the one that is served; one that is not is told.
func (c *client) rebuild() {
	c.whole(c.run(done, c.args("rebuild", "--server", c.reducer)))
	if !c.closely {
		return
	}

	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, body, err := c.bed.get(c.reducer, r.URL.Path, nil)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		var answer map[string][]map[string]any
		if err := json.Unmarshal(body, &answer); err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		for _, d := range answer["digests"] {
			if d["partition"] == 3.0 {
				d["sum"] = strings.Repeat("0", 64)
			}
		}
		_ = json.NewEncoder(w).Encode(answer) // the program says what it misses
	}))
	defer other.Close()
	lines, complaints := c.run(failed, c.args("rebuild", "--server", other.URL, "--timeout", "3"))
	if !strings.Contains(complaints, "not the one that is served") || len(lines) != 4 || lines[3]["equal"] != false {
		c.t.Errorf("a server with another state: %v %s", lines, complaints)
	}
	elsewhere := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"digests": []}`) }))
	defer elsewhere.Close()
	if _, complaints = c.run(failed, c.args("rebuild", "--server", elsewhere.URL)); !strings.Contains(complaints, "holds no table of") {
		c.t.Errorf("a server without the state: %s", complaints)
	}
}

// whole checks what a program says of a state that it has made: everything that is served, and equal.
func (c *client) whole(lines []map[string]any, complaints string) {
	c.t.Helper()
	types := map[string]float64{}
	for _, line := range lines {
		if line["equal"] != true || line["sum"] != line["served"] {
			c.t.Errorf("a partition differs: %v", line)
		}
		for name, n := range line["types"].(map[string]any) {
			types[name] += n.(float64)
		}
	}
	if len(lines) != 4 || types["PostgresNodeState"] != 3 || types["PostgresClusterState"] != 2 || types["ResourceForgotten"] != 1 {
		c.t.Errorf("rebuilt were %v of %d partitions: %s", types, len(lines), complaints)
	}
}

// table: Kafka Streams holds the same state, in a table of either kind, and makes no topic of its own.
func (c *client) table() {
	for _, kind := range []string{"global", "partitioned"} {
		c.t.Run(kind, func(t *testing.T) {
			t.Parallel()
			c := &client{plane: c.plane, t: t, name: c.name, program: c.program}
			application := "table-" + kind
			c.whole(c.run(done, c.args("table", "--server", c.reducer, "--kind", kind, "--application", application, "--state-dir", t.TempDir())))
			for _, name := range c.topics() {
				if strings.Contains(name, application) {
					t.Errorf("it has made the topic %s", name)
				}
			}
		})
	}
}

// topics lists the topics of the broker.
func (c *client) topics() []string {
	c.t.Helper()
	admin, err := kafka.NewAdmin(kafka.Config{Brokers: []string{c.brokers}})
	if err != nil {
		c.t.Fatal(err)
	}
	defer admin.Close()
	topics, err := admin.Topics(c.t.Context())
	if err != nil {
		c.t.Fatal(err)
	}
	return slices.Collect(maps.Keys(topics))
}
