package postgres

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/regent-infra/regent/adapters/postgres/server"
	"github.com/regent-infra/regent/internal/avrocodec"
	"github.com/regent-infra/regent/internal/event"
	"github.com/regent-infra/regent/internal/kafka"
	"github.com/regent-infra/regent/internal/secret"
)

// Profile is how fast a loss is noticed.
type Profile struct {
	// Heartbeat is the time between two heartbeats. 10 ms to 1 min.
	Heartbeat time.Duration
	// SuspectAfter is the silence after which the node is to be suspected. At least two heartbeats.
	SuspectAfter time.Duration
}

// The profiles. DefaultProfile suits networks that hiccup; FastProfile suits one rack or one machine.
var (
	DefaultProfile = Profile{Heartbeat: time.Second, SuspectAfter: 3 * time.Second}
	FastProfile    = Profile{Heartbeat: 250 * time.Millisecond, SuspectAfter: time.Second}
)

// Config says which node an agent looks after, and how.
type Config struct {
	// Cluster is the cluster's id, such as postgres/orders; Node the node's name in it, 1 to 48 of a-z, 0-9 and hyphen. Required.
	Cluster event.ClusterID
	Node    string

	// Host is where other nodes and clients reach the server: a name or an address. Required.
	Host string
	// Port is its TCP port, 1 to 65535. Required.
	Port uint16
	// ListenHosts are the addresses that the server listens on. Default: Host if that is an address or localhost, else all.
	ListenHosts []string

	// DataDir is the server's data directory, absolute. It need not exist. Required.
	DataDir string
	// AgentDir holds the agent's memory and the archive of lost writes. It must outlive the data directory. Default: DataDir + ".agent".
	AgentDir string
	// RunDir holds the server's socket, its passfile and the lock. Default: DataDir + ".run".
	RunDir string
	// BinDir is the folder with PostgreSQL's programs. Default: the installed ones are looked for, else published ones are fetched.
	BinDir string
	// Version is the major version to use, 13 to 18. Default: that of the data directory, else the newest that is installed.
	Version int
	// NoFetch forbids fetching published programs.
	NoFetch bool
	// User is the operating system's user that runs the server when the agent is started as root. Default: postgres.
	User string
	// Settings are PostgreSQL settings beside those that Regent owns.
	Settings map[string]string

	// SuperuserRole, ReplicationRole and RewindRole are the database roles. Defaults: postgres, regent_replication, regent_rewind.
	SuperuserRole, ReplicationRole, RewindRole string
	// SuperuserPasswordFile and ReplicationPasswordFile hold the passwords of those roles in their first line; they are the same on all
	// nodes of a cluster. Required.
	SuperuserPasswordFile, ReplicationPasswordFile string
	// RewindPasswordFile holds that of the rewind role. Default: ReplicationPasswordFile.
	RewindPasswordFile string

	// Kafka says how to reach the brokers, Registry how to reach the schema registry. Required by Run.
	Kafka    kafka.Config
	Registry avrocodec.ClientConfig

	// Profile is how fast a loss is noticed. Default: DefaultProfile.
	Profile Profile
	// PulseInterval is the time between two cheap looks at role, positions and receiver; changes are told at once. 20 ms to 10 s. Default: 100 ms.
	PulseInterval time.Duration
	// ObserveInterval is the time between two full values while nothing of note changes, and between two looks at slots and
	// connections. 50 ms to 1 min. Default: 1 s.
	ObserveInterval time.Duration
	// VolumeInterval is the time between two looks at sizes and counters, which read the size of every file. 1 s to 1 h. Default: 15 s.
	VolumeInterval time.Duration
	// LookTimeout bounds one look, connecting included. 100 ms to 1 min. Default: 2 s.
	LookTimeout time.Duration

	// StartTimeout is how long a start may take until it is reported as failed (the server goes on recovering). Default: 10 min.
	StartTimeout time.Duration
	// StopMode is how the server is stopped when the agent is told to end: fast or immediate. Default: fast.
	StopMode server.Mode
	// StopTimeout is how long that, a fence and a stop without a time of its own may take before the next harder mode. Default: 10 s.
	StopTimeout time.Duration
	// FenceTimeout is how long a fenced primary may take to stop with fast before it is stopped with immediate. Default: 3 s.
	FenceTimeout time.Duration
	// FollowTimeout is how long a standby may try to stream from a new upstream before that is reported as failed (or the data is copied
	// afresh where that is allowed). Default: 60 s.
	FollowTimeout time.Duration
	// MarkerTimeout is how long a changed synchronous set may take to acknowledge a marker commit. Default: 10 s.
	MarkerTimeout time.Duration

	// AgentVersion is reported with every observation. Default: dev.
	AgentVersion string
}

func (c Config) withDefaults() Config {
	text := func(value *string, standard string) {
		if *value == "" {
			*value = standard
		}
	}
	span := func(value *time.Duration, standard time.Duration) {
		if *value == 0 {
			*value = standard
		}
	}
	if c.DataDir != "" {
		text(&c.AgentDir, c.DataDir+".agent")
		text(&c.RunDir, c.DataDir+".run")
	}
	if len(c.ListenHosts) == 0 {
		c.ListenHosts = []string{"*"}
		if c.Host == "localhost" || net.ParseIP(c.Host) != nil {
			c.ListenHosts = []string{c.Host}
		}
	}
	text(&c.SuperuserRole, "postgres")
	text(&c.ReplicationRole, "regent_replication")
	text(&c.RewindRole, "regent_rewind")
	text(&c.RewindPasswordFile, c.ReplicationPasswordFile)
	text(&c.AgentVersion, "dev")
	if c.Profile == (Profile{}) {
		c.Profile = DefaultProfile
	}
	span(&c.PulseInterval, 100*time.Millisecond)
	span(&c.ObserveInterval, time.Second)
	span(&c.VolumeInterval, 15*time.Second)
	span(&c.LookTimeout, 2*time.Second)
	span(&c.StartTimeout, 10*time.Minute)
	span(&c.StopTimeout, 10*time.Second)
	span(&c.FenceTimeout, 3*time.Second)
	span(&c.FollowTimeout, time.Minute)
	span(&c.MarkerTimeout, 10*time.Second)
	if c.StopMode == 0 {
		c.StopMode = server.ModeFast
	}
	return c
}

// Validate reports every fault together. It looks at values only, at no file.
func (c Config) Validate() error {
	c = c.withDefaults()
	var faults []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			faults = append(faults, fmt.Errorf(format, args...))
		}
	}
	_, err := event.ParseClusterID(string(c.Cluster))
	check(err == nil && c.Cluster.Kind() == event.KindPostgres, "Cluster: expected one such as postgres/orders, got %q", c.Cluster)
	check(event.ValidName(c.Node), "Node: expected 1 to 48 of a-z, 0-9 and hyphen, got %q", c.Node)
	check(c.Host != "" && !strings.ContainsAny(c.Host, " '\\,\r\n\x00"), "Host: expected a host name or an address, got %q", c.Host)
	check(c.Port > 0, "Port: expected 1 to 65535, got 0")
	for _, dir := range []struct{ name, path string }{{"DataDir", c.DataDir}, {"AgentDir", c.AgentDir}, {"RunDir", c.RunDir}} {
		check(filepath.IsAbs(dir.path) && filepath.Clean(dir.path) != "/", "%s: expected an absolute path, got %q", dir.name, dir.path)
	}
	check(c.AgentDir != c.DataDir && !strings.HasPrefix(c.AgentDir, c.DataDir+"/"), "AgentDir: %q must not lie inside DataDir, which a copy replaces", c.AgentDir)
	check(c.BinDir == "" || filepath.IsAbs(c.BinDir), "BinDir: expected an absolute path, got %q", c.BinDir)
	check(c.Version == 0 || c.Version >= 13 && c.Version <= 18, "Version: expected 13 to 18, got %d", c.Version)
	check(c.SuperuserPasswordFile != "", "SuperuserPasswordFile: it is required, because all nodes of a cluster share it")
	check(c.ReplicationPasswordFile != "", "ReplicationPasswordFile: it is required, because all nodes of a cluster share it")
	between := func(name string, value, low, high time.Duration) {
		check(value >= low && value <= high, "%s: expected %s to %s, got %s", name, low, high, value)
	}
	between("Profile.Heartbeat", c.Profile.Heartbeat, 10*time.Millisecond, time.Minute)
	check(c.Profile.SuspectAfter >= 2*c.Profile.Heartbeat, "Profile.SuspectAfter: expected at least two heartbeats (%s), got %s", 2*c.Profile.Heartbeat, c.Profile.SuspectAfter)
	between("PulseInterval", c.PulseInterval, 20*time.Millisecond, 10*time.Second)
	between("ObserveInterval", c.ObserveInterval, 50*time.Millisecond, time.Minute)
	between("VolumeInterval", c.VolumeInterval, time.Second, time.Hour)
	between("LookTimeout", c.LookTimeout, 100*time.Millisecond, time.Minute)
	between("StartTimeout", c.StartTimeout, time.Second, 24*time.Hour)
	between("StopTimeout", c.StopTimeout, 100*time.Millisecond, time.Hour)
	between("FenceTimeout", c.FenceTimeout, 100*time.Millisecond, time.Hour)
	between("FollowTimeout", c.FollowTimeout, time.Second, 24*time.Hour)
	between("MarkerTimeout", c.MarkerTimeout, 100*time.Millisecond, time.Hour)
	check(c.StopMode == server.ModeFast || c.StopMode == server.ModeImmediate, "StopMode: expected fast or immediate, got %s", c.StopMode)
	if err := errors.Join(faults...); err != nil {
		return fmt.Errorf("configure the agent: %w", err)
	}
	return nil
}

// credentials reads the password files.
type credentials struct{ superuser, replication, rewind server.Credential }

func (c Config) credentials() (credentials, error) {
	var out credentials
	var faults []error
	for _, f := range []struct {
		into       *server.Credential
		role, path string
	}{
		{&out.superuser, c.SuperuserRole, c.SuperuserPasswordFile},
		{&out.replication, c.ReplicationRole, c.ReplicationPasswordFile},
		{&out.rewind, c.RewindRole, c.RewindPasswordFile},
	} {
		password, err := readPassword(f.path)
		if err != nil {
			faults = append(faults, fmt.Errorf("password of role %s: %w", f.role, err))
		}
		*f.into = server.Credential{User: f.role, Password: password}
	}
	return out, errors.Join(faults...)
}

// readPassword takes the first line; what else is in the file is nobody's password.
func readPassword(path string) (secret.Value, error) {
	content, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return secret.Value{}, fmt.Errorf("there is no file %s: write the password to it, on all nodes the same", path)
	}
	if err != nil {
		return secret.Value{}, err
	}
	line, _, _ := strings.Cut(string(content), "\n")
	line = strings.TrimRight(line, "\r")
	if line == "" {
		return secret.Value{}, fmt.Errorf("the first line of %s is empty: expected a password", path)
	}
	return secret.New(line), nil
}
