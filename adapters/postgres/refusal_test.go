package postgres

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/regent-infra/regent/adapters/postgres/binary"
	"github.com/regent-infra/regent/adapters/postgres/server"
	"github.com/regent-infra/regent/adapters/postgres/servertest"
	"github.com/regent-infra/regent/adapters/postgres/statefile"
)

// refuses expects that no agent can be made of the configuration, and returns why.
func refuses(t *testing.T, config Config) error {
	t.Helper()
	a, err := New(t.Context(), config, Dependencies{Stream: newLog(), Codec: testCodec()})
	if err == nil {
		if err := a.Close(); err != nil {
			t.Error(err)
		}
		t.Fatal("an agent was made")
	}
	return err
}

func says(t *testing.T, err error, words ...string) {
	t.Helper()
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("the error does not say %q: %v", w, err)
		}
	}
}

func TestConfigReportsAllFaultsTogether(t *testing.T) {
	t.Parallel()
	err := Config{
		Cluster: "kafka/orders", Node: "PG", Host: "a b", DataDir: "data", AgentDir: "data/agent", BinDir: "bin", Version: 12,
		Profile: Profile{Heartbeat: time.Second, SuspectAfter: time.Second}, PulseInterval: time.Millisecond, ObserveInterval: time.Hour,
		VolumeInterval: time.Millisecond, LookTimeout: time.Hour, StartTimeout: time.Millisecond, StopTimeout: time.Millisecond, FenceTimeout: 24 * time.Hour,
		FollowTimeout: time.Millisecond, MarkerTimeout: time.Millisecond, StopMode: server.ModeKill,
	}.Validate()
	if err == nil {
		t.Fatal("accepted")
	}
	says(t, err,
		`Cluster: expected one such as postgres/orders, got "kafka/orders"`, `Node: expected 1 to 48 of a-z, 0-9 and hyphen, got "PG"`,
		`Host: expected a host name or an address, got "a b"`, "Port: expected 1 to 65535, got 0", `DataDir: expected an absolute path, got "data"`,
		`AgentDir: "data/agent" must not lie inside DataDir`, `BinDir: expected an absolute path`, "Version: expected 13 to 18, got 12",
		"SuperuserPasswordFile: it is required", "ReplicationPasswordFile: it is required", "Profile.SuspectAfter: expected at least two heartbeats (2s), got 1s",
		"PulseInterval: expected 20ms to 10s, got 1ms", "ObserveInterval: expected 50ms to 1m0s, got 1h0m0s", "VolumeInterval:", "LookTimeout:", "StartTimeout:",
		"StopTimeout:", "FenceTimeout:", "FollowTimeout:", "MarkerTimeout:", "StopMode: expected fast or immediate, got kill",
	)
	if err := testConfig(t, "pg-1").Validate(); err != nil {
		t.Error(err)
	}
}

func TestPasswordFilesAreRequired(t *testing.T) {
	t.Parallel()
	config := testConfig(t, "pg-1")
	config.SuperuserPasswordFile += "-missing"
	if err := os.WriteFile(config.ReplicationPasswordFile, []byte("\nsecond line"), 0o600); err != nil {
		t.Fatal(err)
	}
	says(t, refuses(t, config), "start the agent of postgres/orders/node/pg-1: password of role postgres: there is no file "+config.SuperuserPasswordFile,
		"password of role regent_replication: the first line of "+config.ReplicationPasswordFile+" is empty: expected a password")
}

func TestMissingOrUnsupportedProgramsAreNamed(t *testing.T) {
	t.Parallel()
	config := testConfig(t, "pg-1")
	config.BinDir = servertest.Dir(t)
	err := refuses(t, config)
	if !errors.Is(err, binary.ErrNotFound) {
		t.Errorf("%v is not ErrNotFound", err)
	}
	says(t, err, "no PostgreSQL programs found", config.BinDir, "postgres")

	for _, program := range []string{"postgres", "initdb"} {
		script := "#!/bin/sh\necho 'postgres (PostgreSQL) 9.6.24'\n"
		if err := os.WriteFile(filepath.Join(config.BinDir, program), []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	err = refuses(t, config)
	if !errors.Is(err, binary.ErrUnsupported) {
		t.Errorf("%v is not ErrUnsupported", err)
	}
	says(t, err, "9.6", "13 to 18")
}

func TestPortInUseIsSaidAtBoot(t *testing.T) {
	t.Parallel()
	config := testConfig(t, "pg-1")
	l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(int(config.Port))))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	says(t, refuses(t, config), "port "+strconv.Itoa(int(config.Port))+" is taken by another process", "stop that one, or give this node another port")
}

// TestForeignDirectoriesAreRefused uses one node with a life behind it.
func TestForeignDirectoriesAreRefused(t *testing.T) {
	t.Parallel()
	log := newLog()
	n := startNode(t, log, "pg-1")
	n.bootstrap(1)

	// While the agent runs, nobody else may.
	inUse := n.config
	inUse.Port = servertest.Port(t)
	err := refuses(t, inUse)
	if !errors.Is(err, server.ErrInUse) {
		t.Errorf("%v is not ErrInUse", err)
	}
	says(t, err, "data directory is in use", "another process holds")
	n.stop()

	agentDir := n.config.DataDir + ".agent"
	state := filepath.Join(agentDir, statefile.Name)
	content, err := os.ReadFile(state)
	if err != nil {
		t.Fatal(err)
	}
	put := func(text []byte) {
		t.Helper()
		if err := os.WriteFile(state, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Remove(state); err != nil {
		t.Fatal(err)
	}
	says(t, refuses(t, n.config), "there is no agent state", "is not empty: what this node has promised is not known. Restore the agent's directory")
	put(content[:len(content)-10])
	says(t, refuses(t, n.config), "damaged agent state", "the promised term would be lost: restore the file")
	put(content)

	other := n.config
	other.Node = "pg-9"
	says(t, refuses(t, other), "foreign agent state", "is that of node pg-1 of postgres/orders, expected node pg-9")

	// Another major version of the programs.
	fetched, err := binary.Locate(t.Context(), binary.FindOptions{Major: 16}, &binary.FetchOptions{Major: 16})
	if err != nil {
		t.Fatal(err)
	}
	version := n.config
	version.BinDir = fetched.Dir
	err = refuses(t, version)
	if !errors.Is(err, server.ErrForeign) {
		t.Errorf("%v is not ErrForeign", err)
	}
	says(t, err, "the programs in "+fetched.Dir+" are 16", "use those of version")

	// A data directory of a version that nobody supports, with the programs to be found by themselves.
	versionFile := filepath.Join(n.config.DataDir, "PG_VERSION")
	kept, err := os.ReadFile(versionFile)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(versionFile, []byte("12\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	ancient := n.config
	ancient.BinDir, ancient.Version = "", 0
	err = refuses(t, ancient)
	if !errors.Is(err, binary.ErrUnsupported) {
		t.Errorf("%v is not ErrUnsupported", err)
	}
	says(t, err, "the data directory "+n.config.DataDir+" is of PostgreSQL 12", "expected 13 to 18", "pg_upgrade")
	if err := os.WriteFile(versionFile, kept, 0o600); err != nil {
		t.Fatal(err)
	}

	// A data directory of another cluster in the place of ours.
	stranger := startNode(t, newLog(), "pg-2")
	stranger.bootstrap(1)
	stranger.stop()
	if err := os.Rename(n.config.DataDir, n.config.DataDir+".mine"); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(stranger.config.DataDir, n.config.DataDir); err != nil {
		t.Fatal(err)
	}
	err = refuses(t, n.config)
	if !errors.Is(err, server.ErrForeign) {
		t.Errorf("%v is not ErrForeign", err)
	}
	says(t, err, "is of the cluster with system identifier", "it was replaced behind the agent's back")

	// A memory that knows of no data beside a data directory.
	if err := os.RemoveAll(agentDir); err != nil {
		t.Fatal(err)
	}
	says(t, refuses(t, n.config), "what this node has promised is not known")
	if err := os.RemoveAll(n.config.DataDir); err != nil {
		t.Fatal(err)
	}
	n.start()
	n.stop()
	if err := os.Rename(n.config.DataDir+".mine", n.config.DataDir); err != nil {
		t.Fatal(err)
	}
	says(t, refuses(t, n.config), "holds a database that this agent does not know")
}
