package demo

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"go.yaml.in/yaml/v3"

	"github.com/regent-infra/regent/internal/childprocess"
	"github.com/regent-infra/regent/internal/freeport"
)

// clusterName is the cluster of the demo: postgres/demo.
const clusterName = "demo"

// node is one PostgreSQL node with its agent.
type node struct {
	name    string
	port    int
	dataDir string
	agent   *childprocess.Process
}

// stack is everything that the demo starts: the control plane, the agents, the secrets.
type stack struct {
	dir        string
	executable string
	spawner    *childprocess.Spawner
	control    *childprocess.Process
	nodes      []node
	password   string
	// addresses of the control plane
	broker, registry, api string
	// agentAPI are the addresses of the agents' own HTTP endpoints, in the order of the nodes.
	agentAPI []string
}

// newStack lays out a directory with secrets and configuration; nothing runs yet.
func newStack(dir, executable string, nodes int, logLevel string) (*stack, error) {
	ports, err := freeport.Find(3 + 2*nodes)
	if err != nil {
		return nil, err
	}
	address := func(i int) string { return fmt.Sprintf("127.0.0.1:%d", ports[i]) }
	s := &stack{
		dir: dir, executable: executable, spawner: childprocess.NewSpawner(),
		broker: address(0), registry: address(1), api: address(2),
	}
	if s.password, err = s.makeSecret(); err != nil {
		return nil, err
	}
	s.control = &childprocess.Process{
		Name: "regent up", Executable: executable, Log: filepath.Join(dir, "control-plane.log"),
		Args: []string{
			"up", "--data-dir", s.controlDir(), "--broker-listen", s.broker, "--registry-listen", s.registry,
			"--http-listen", s.api, "--log-level", logLevel,
		},
	}
	for i := range nodes {
		api := address(3 + nodes + i)
		n, err := s.layoutNode(fmt.Sprintf("pg-%d", i+1), ports[3+i], api, logLevel)
		if err != nil {
			return nil, err
		}
		s.nodes, s.agentAPI = append(s.nodes, n), append(s.agentAPI, api)
	}
	return s, nil
}

// makeSecret writes a password file that only its owner can read, and returns the password.
func (s *stack) makeSecret() (string, error) {
	raw := make([]byte, 16)
	if _, err := rand.Read(raw); err != nil {
		return "", fmt.Errorf("make the password: %w", err)
	}
	password := hex.EncodeToString(raw)
	if err := os.WriteFile(s.secretPath(), []byte(password+"\n"), 0o600); err != nil {
		return "", fmt.Errorf("write the password: %w", err)
	}
	return password, nil
}

func (s *stack) secretPath() string { return filepath.Join(s.dir, "password") }

// layoutNode writes the configuration of one agent.
func (s *stack) layoutNode(name string, port int, api, logLevel string) (node, error) {
	n := node{name: name, port: port, dataDir: filepath.Join(s.dir, name, "data")}
	config := filepath.Join(s.dir, name+".yaml")
	raw, err := yaml.Marshal(s.agentConfig(n, api))
	if err != nil {
		return node{}, fmt.Errorf("write the configuration of %s: %w", name, err)
	}
	if err := os.WriteFile(config, raw, 0o600); err != nil {
		return node{}, fmt.Errorf("write the configuration of %s: %w", name, err)
	}
	n.agent = &childprocess.Process{
		Name: "agent " + name, Executable: s.executable, Log: filepath.Join(s.dir, name+".log"),
		Args: []string{"agent", "--config", config, "--log-level", logLevel},
	}
	return n, nil
}

// controlDir is the data directory of the control plane.
func (s *stack) controlDir() string { return filepath.Join(s.dir, "control-plane") }

// startAll starts the control plane and every agent.
func (s *stack) startAll(ctx context.Context) error {
	if err := s.control.Start(s.spawner); err != nil {
		return err
	}
	if err := s.waitControlPlane(ctx); err != nil {
		return err
	}
	for _, n := range s.nodes {
		if err := n.agent.Start(s.spawner); err != nil {
			return err
		}
	}
	return nil
}

// stopAll ends everything, agents first so that they stop their servers.
func (s *stack) stopAll(ctx context.Context) error {
	var errs []error
	for _, n := range s.nodes {
		errs = append(errs, n.agent.Signal(syscall.SIGTERM))
	}
	for _, n := range s.nodes {
		errs = append(errs, n.agent.Wait(ctx))
	}
	errs = append(errs, s.control.Signal(syscall.SIGTERM), s.control.Wait(ctx))
	s.spawner.Close()
	return errors.Join(errs...)
}

// byName returns the node of that name.
func (s *stack) byName(name string) (node, error) {
	for _, n := range s.nodes {
		if n.name == name {
			return n, nil
		}
	}
	return node{}, fmt.Errorf("no node is called %q", name)
}

// killPostgres sends SIGKILL to the postmaster of a node.
func (n node) killPostgres() error {
	pid, err := postmasterPID(n.dataDir)
	if err != nil {
		return err
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		return fmt.Errorf("kill the postmaster of %s: %w", n.name, err)
	}
	return nil
}

// killNode kills agent and postmaster of a node together, as the loss of its host would.
func (n node) killNode() error {
	pid, err := postmasterPID(n.dataDir)
	if err != nil {
		return err
	}
	return errors.Join(n.agent.Signal(syscall.SIGKILL), syscall.Kill(pid, syscall.SIGKILL))
}
