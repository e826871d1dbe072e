package e2etest

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"

	"github.com/regent-infra/regent/internal/childprocess"
	"github.com/regent-infra/regent/internal/httpapi"
	"github.com/regent-infra/regent/schemas"
)

// clusterID is the cluster of every test.
const clusterID = "postgres/orders"

// binariesVariable names the folder of the PostgreSQL programs to test with, instead of the installed ones.
const binariesVariable = "REGENT_TEST_POSTGRES"

// nodes are agents as processes of their own, each with a real PostgreSQL.
type nodes struct {
	bed       *bed
	all       []*node
	superuser string
}

type node struct {
	name    string
	port    int
	dataDir string
	agent   *childprocess.Process
}

// launchNodes starts n agents, each with a configuration file that holds all of common. Every role has a password of its own, which is a canary.
func (b *bed) launchNodes(n int, common map[string]any) *nodes {
	b.t.Helper()
	ns := &nodes{bed: b}
	superuser, superuserFile := b.secret("superuser.password")
	_, replicationFile := b.secret("replication.password")
	_, rewindFile := b.secret("rewind.password")
	ns.superuser = superuser
	for i, port := range freePorts(b.t, n) {
		m := &node{name: fmt.Sprintf("pg-%d", i+1), port: port}
		if err := os.Mkdir(b.path(m.name), 0o755); err != nil { //nolint:gosec // an unprivileged PostgreSQL must pass
			b.t.Fatal(err)
		}
		m.dataDir = b.path(m.name, "data")
		config := map[string]any{
			"listen": map[string]any{"http": "127.0.0.1:0"},
			"agent":  map[string]any{"cluster": clusterID, "node": m.name, "profile": "fast"},
			"postgres": map[string]any{
				"data_dir": m.dataDir, "host": "127.0.0.1", "port": port, "bin_dir": os.Getenv(binariesVariable), "password_file": superuserFile,
				"replication_password_file": replicationFile, "rewind_password_file": rewindFile,
			},
		}
		for key, value := range common {
			config[key] = value
		}
		m.agent = b.launch(m.name, "agent", "--config", b.yaml(m.name+".yaml", config), "--log-format", "json", "--log-level", "debug")
		ns.all = append(ns.all, m)
	}
	return ns
}

// members are the arguments of regent init.
func (n *nodes) members() []string {
	var args []string
	for _, m := range n.all {
		args = append(args, "--member", fmt.Sprintf("%s=127.0.0.1:%d", m.name, m.port))
	}
	return args
}

func (n *nodes) agents() []*childprocess.Process {
	var all []*childprocess.Process
	for _, m := range n.all {
		all = append(all, m.agent)
	}
	return all
}

func (n *nodes) byName(name string) *node {
	for _, m := range n.all {
		if m.name == name {
			return m
		}
	}
	n.bed.t.Fatalf("there is no node %q", name)
	return nil
}

// whole waits until every node is healthy and in its place, nothing is under way, and the primary is another one than not. It returns the primary.
func (n *nodes) whole(server, not string) *node {
	n.bed.t.Helper()
	var c httpapi.Cluster
	n.bed.await("a whole cluster", func() error {
		c = httpapi.Cluster{}
		if _, _, err := n.bed.get(server, "/v1/clusters/"+clusterID, &c); err != nil {
			return err
		}
		if c.State == nil || c.Record == nil || c.Workflow != nil || c.State.Health != schemas.HealthHealthy || len(c.State.Members) != len(n.all) ||
			c.State.Primary != c.Record.Primary || c.State.Primary == not {
			return errors.New(describe(c))
		}
		return nil
	}, n.agents()...)
	return n.byName(c.State.Primary)
}

func describe(c httpapi.Cluster) string {
	if c.State == nil || c.Record == nil {
		return "the cluster is not known yet"
	}
	text := fmt.Sprintf("primary %s, decided %s, %s, %s %s", c.State.Primary, c.Record.Primary, c.State.Health, c.State.Analysis, c.State.AnalysisDetail)
	if c.Workflow != nil {
		text += fmt.Sprintf(", %s in step %s: %s", c.Workflow.Kind, c.Workflow.Step, c.Workflow.WaitingFor)
	}
	return text
}

// killPostgres sends SIGKILL to the postmaster.
func (n *nodes) killPostgres(m *node) {
	n.bed.t.Helper()
	line, _, _ := strings.Cut(read(n.bed.t, m.dataDir+"/postmaster.pid"), "\n")
	pid, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil || pid < 2 {
		n.bed.t.Fatalf("the postmaster of %s is %q", m.name, line)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		n.bed.t.Fatal(err)
	}
}
