package embedded

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

func refused(t *testing.T, cfg Config, sentinel error, parts ...string) {
	t.Helper()
	s, err := Open(t.Context(), cfg)
	if err == nil {
		closeStack(t, s)
		t.Fatalf("was opened, an error with %q was expected", parts)
	}
	if sentinel != nil && !errors.Is(err, sentinel) {
		t.Errorf("error is not %v: %v", sentinel, err)
	}
	for _, part := range parts {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("error %q does not say %q", err, part)
		}
	}
}

func TestRefusesASecondProcess(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	c := startChild(t, dir)
	holder := fmt.Sprintf("by process %d;", c.cmd.Process.Pid)
	refused(t, testConfig(dir), ErrInUse, "open data directory "+dir, "data directory is in use", holder, "stop that process, or choose another directory")
	c.kill()
	closeStack(t, open(t, testConfig(dir)))
}

func TestRefusesASecondStackInOneProcess(t *testing.T) {
	dir := t.TempDir()
	open(t, testConfig(dir))
	refused(t, testConfig(dir), ErrInUse, fmt.Sprintf("by process %d", os.Getpid()))
}

func TestRefusesAnotherVersion(t *testing.T) {
	dir := t.TempDir()
	closeStack(t, open(t, testConfig(dir)))
	rewrite(t, filepath.Join(dir, identityName), `"format":1`, `"format":7`)
	refused(t, testConfig(dir), ErrOtherVersion, "it has 7, this binary expects 1; use the binary that wrote it")
}

func TestRefusesAnotherVersionOfTheBrokersFiles(t *testing.T) {
	for _, name := range []string{"meta.json", "topics.json", "broker_configs.json"} {
		dir := t.TempDir()
		closeStack(t, open(t, testConfig(dir)))
		rewrite(t, filepath.Join(dir, brokerName, name), `"version":1`, `"version":2`)
		refused(t, testConfig(dir), nil, name+": unknown format: it has version 2, 1 expected; use the binary that wrote it")
	}
}

func rewrite(t *testing.T, path, from, to string) {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	changed := strings.Replace(string(raw), from, to, 1)
	if changed == string(raw) {
		t.Fatalf("%s does not contain %s: %s", path, from, raw)
	}
	if err := os.WriteFile(path, []byte(changed), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestRefusesAnotherCluster(t *testing.T) {
	dir := t.TempDir()
	cfg := testConfig(dir)
	cfg.ClusterID = "one"
	s := open(t, cfg)
	if s.ClusterID() != "one" {
		t.Errorf("cluster id is %q", s.ClusterID())
	}
	closeStack(t, s)
	cfg.ClusterID = "two"
	refused(t, cfg, ErrOtherCluster, `it has "one", the configuration demands "two"; correct the cluster id, or choose another directory`)
	cfg.ClusterID = ""
	if s := open(t, cfg); s.ClusterID() != "one" {
		t.Errorf("cluster id is %q, one expected", s.ClusterID())
	}
}

func TestRefusesADirectoryThatCannotBeWritten(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	refused(t, testConfig(filepath.Join(file, "data")), nil, "create data directory", "expected a directory that this user may write; choose another or change its owner")
	// A directory that nobody may write to, not even root.
	refused(t, testConfig("/proc/self"), nil, "lock data directory /proc/self", "expected a directory that this user may write; choose another or change its owner")
}

func TestRefusesAFullDisk(t *testing.T) {
	cfg := testConfig(t.TempDir())
	cfg.MinFreeBytes = 1 << 60
	refused(t, cfg, ErrDiskFull, "open data directory "+cfg.Dir, "disk is full", "MiB free, at least 1099511627776 MiB expected; free some space, or lower the limit")
}

func TestRefusesATakenPort(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ln.Close() }()
	cfg := testConfig(t.TempDir())
	cfg.BrokerListen = ln.Addr().String()
	refused(t, cfg, nil, "listen on "+cfg.BrokerListen+" for the broker: port taken", "stop the program that uses it, or choose another port (0: any)")
	cfg = testConfig(t.TempDir())
	cfg.RegistryListen = ln.Addr().String()
	refused(t, cfg, nil, "listen on "+cfg.RegistryListen+" for the schema registry: port taken")
	cfg.RegistryListen = ""
	closeStack(t, open(t, cfg)) // a refusal leaves the directory free
}

func TestConfigReportsAllFaultsAtOnce(t *testing.T) {
	err := Config{
		BrokerListen: "0.0.0.0:9092", RegistryListen: "nowhere", RetentionInterval: 1, TransactionMaxTimeout: time.Hour,
		MaxRequestBytes: 1, SegmentBytes: 1, MaxSchemaBytes: 1,
	}.Validate()
	if err == nil {
		t.Fatal("no fault found")
	}
	for _, part := range []string{
		"Dir is empty", "Compatible is nil", "set BrokerAdvertise", `RegistryListen "nowhere" is not host:port`, "RetentionInterval is 1ns",
		"TransactionMaxTimeout is 1h0m0s", "MaxRequestBytes is 1", "SegmentBytes is 1", "MaxSchemaBytes is 1",
	} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%q is missing in: %v", part, err)
		}
	}
	cfg := testConfig(t.TempDir())
	cfg.Compatible = func(writer, reader string) error { return compatible(reader, writer) }
	if err := cfg.Validate(); err == nil || !strings.Contains(err.Error(), "does it take the writer's schema first?") {
		t.Errorf("swapped arguments: %v", err)
	}
}

// Clients are told the advertised address; the registry does not need it to be reachable.
func TestAdvertisesAnotherAddress(t *testing.T) {
	cfg := testConfig(t.TempDir())
	cfg.BrokerListen = freeAddress(t)
	cfg.BrokerAdvertise = "broker.invalid:9092"
	s := open(t, cfg)
	if got := s.Brokers(); len(got) != 1 || got[0] != cfg.BrokerAdvertise {
		t.Errorf("brokers are %v, %s expected", got, cfg.BrokerAdvertise)
	}
	cl, err := kgo.NewClient(kgo.SeedBrokers(cfg.BrokerListen))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	m, err := kadm.NewClient(cl).Metadata(t.Context())
	if err != nil || len(m.Brokers) != 1 || m.Brokers[0].Host != "broker.invalid" || m.Brokers[0].Port != 9092 || m.Cluster != s.ClusterID() {
		t.Errorf("metadata is %+v (%v)", m, err)
	}
}

// What cannot be written is not acknowledged: the broker stops, and what it had acknowledged is there when it is back.
func TestStopsWhenItCannotWrite(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	c := startChild(t, dir, childFileEnv+"=60000")
	if c.said.Failure != "" {
		t.Fatal(c.said.Failure)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	cl, err := kgo.NewClient(kgo.SeedBrokers(c.said.Brokers...), kgo.DefaultProduceTopic("full"), kgo.ProducerLinger(0), kgo.RecordRetries(0),
		kgo.RecordDeliveryTimeout(3*time.Second), kgo.DisableIdempotentWrite())
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	createTopic(t, cl, "full", 1)
	acknowledged := 0
	value := make([]byte, 1000)
	for {
		if err := cl.ProduceSync(ctx, &kgo.Record{Value: value}).FirstErr(); err != nil {
			break
		}
		acknowledged++
	}
	said := c.next()
	for _, part := range []string{"write to data directory " + dir, "file too large", "the broker has stopped, and recovers what it acknowledged when it is started again"} {
		if !strings.Contains(said.Failure, part) {
			t.Errorf("failure %q does not say %q", said.Failure, part)
		}
	}
	c.kill()
	s := open(t, testConfig(dir))
	got := len(readAll(t, s, "full", acknowledged))
	if got < acknowledged || got > acknowledged+1 {
		t.Errorf("%d records after the disk was full, %d were acknowledged", got, acknowledged)
	}
	if acknowledged < 10 {
		t.Errorf("only %d records were written before the limit", acknowledged)
	}
}
