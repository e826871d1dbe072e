// Package config is how a person tells Regent what to do other than by commands.
//
// One [Config] serves every subcommand. Its values come, each layer over the one before it, from the defaults, the context that is
// in force, the file, the environment and the flags:
//
//	defaults < context < file < REGENT_… environment < flags
//
// A context is a named set of addresses (server, brokers, registry) in the file; `--context`, REGENT_CONTEXT or the file's own
// `context` selects it. It lies below the file, so that a file that sets an address by itself means it.
//
// [Load] is strict: unknown keys, values of the wrong type and values out of range are all reported together, each with where it
// comes from and, for a name that is nearly right, what was probably meant. Nothing starts on half a configuration.
//
// The tags of a field are its documentation: `doc` says what it is for, `unit` what it counts, `check` which values are accepted.
// `regent config show` and docs/configuration.md are made from them. Secrets are of type secret.Value and are never shown.
//
// Invariants: (1) every leaf field has a key, a doc and a default, held by a test; (2) the environment variable of a key is REGENT_ and
// the key in capitals with _ for each dot; (3) a configuration that Load accepts passes every check.
package config

import (
	"time"

	"github.com/regent-infra/regent/internal/secret"
)

// Size is a number of bytes. It is written as a number, or with a unit such as 64MiB.
type Size int64

// Config is everything that can be configured.
type Config struct {
	Context  string             `koanf:"context" doc:"name of the context in force; its addresses are used where nothing else sets them"`
	Contexts map[string]Context `koanf:"contexts" doc:"named sets of addresses; only in the file"`

	Server   string   `koanf:"server" doc:"URL of a Regent server, which status, get, watch and list ask" check:"url"`
	Brokers  []string `koanf:"brokers" doc:"Kafka brokers to connect to, host:port; where empty, clients ask the server for them" check:"hostports"`
	Registry string   `koanf:"registry" doc:"URL of the schema registry; where empty, clients ask the server for it" check:"url"`

	Kafka        Kafka        `koanf:"kafka"`
	RegistryAuth RegistryAuth `koanf:"registry_auth"`

	Log      Log      `koanf:"log"`
	Data     Data     `koanf:"data"`
	Listen   Listen   `koanf:"listen"`
	Topics   Topics   `koanf:"topics"`
	Embedded Embedded `koanf:"embedded"`
	Process  Process  `koanf:"process"`
	// Checkpoints are of the state of this process.
	Checkpoints Checkpoints `koanf:"checkpoints"`
	Agent       Agent       `koanf:"agent"`
	Postgres    Postgres    `koanf:"postgres"`
	Lifecycle   Lifecycle   `koanf:"lifecycle"`
}

// Context is a named set of addresses.
type Context struct {
	Server   string   `koanf:"server" doc:"URL of the Regent server" check:"url"`
	Brokers  []string `koanf:"brokers" doc:"Kafka brokers, host:port" check:"hostports"`
	Registry string   `koanf:"registry" doc:"URL of the schema registry" check:"url"`
}

// Kafka says how to speak to the brokers, besides where they are.
type Kafka struct {
	TLS  TLS  `koanf:"tls"`
	SASL SASL `koanf:"sasl"`
}

// TLS is the encryption of connections to brokers.
type TLS struct {
	Enabled    bool   `koanf:"enabled" doc:"encrypt connections to the brokers"`
	CAFile     string `koanf:"ca_file" doc:"certificate authorities to trust, PEM; empty: the system's"`
	CertFile   string `koanf:"cert_file" doc:"client certificate, PEM; read anew for every connection"`
	KeyFile    string `koanf:"key_file" doc:"key of the client certificate, PEM"`
	ServerName string `koanf:"server_name" doc:"name expected in the brokers' certificates instead of their host names"`
}

// SASL is the authentication of connections to brokers.
type SASL struct {
	Mechanism    string `koanf:"mechanism" doc:"PLAIN (with TLS only), SCRAM-SHA-256 or SCRAM-SHA-512; empty for none" check:"enum=|PLAIN|SCRAM-SHA-256|SCRAM-SHA-512"`
	User         string `koanf:"user" doc:"user towards the brokers"`
	PasswordFile string `koanf:"password_file" doc:"file with the user's password; read anew for every connection"`
}

// RegistryAuth is the authentication towards the schema registry.
type RegistryAuth struct {
	User         string       `koanf:"user" doc:"user towards the schema registry, which regent up and the role registry ask for; empty for none"`
	Password     secret.Value `koanf:"password" doc:"password of that user; prefer password_file"`
	PasswordFile string       `koanf:"password_file" doc:"file with that password"`
}

// Log says how to log.
type Log struct {
	Level  string `koanf:"level" doc:"least severe level that is logged" check:"enum=debug|info|warn|error"`
	Format string `koanf:"format" doc:"format of log lines on standard error; auto is text on a terminal and json elsewhere" check:"enum=auto|text|json"`
	File   string `koanf:"file" doc:"file that log lines are also appended to, as JSON; empty for none"`
}

// Data says where a control plane keeps its data.
type Data struct {
	Dir       string `koanf:"dir" doc:"data directory of the control plane; belongs to one process at a time"`
	ClusterID string `koanf:"cluster_id" doc:"Kafka cluster id that the data directory must belong to; empty accepts any"`
}

// Listen says where a control plane listens.
type Listen struct {
	HTTP            string `koanf:"http" doc:"address of the HTTP API; port 0 lets the system choose" check:"hostport"`
	Broker          string `koanf:"broker" doc:"address of the embedded broker (Kafka protocol); port 0 lets the system choose" check:"hostport"`
	BrokerAdvertise string `koanf:"broker_advertise" doc:"address that clients of the embedded broker are told; needed when it listens on a wildcard" check:"hostport"`
	Registry        string `koanf:"registry" doc:"address of the schema registry, embedded or of the role registry; port 0 lets the system choose" check:"hostport"`
}

// Topics says which topics there are.
type Topics struct {
	File              string `koanf:"file" doc:"declaration of the topics instead of the one in the binary"`
	ReplicationFactor int64  `koanf:"replication_factor" doc:"replicas of each partition; 0 takes what the declaration says" check:"range=0..15"`
	Partitions        int64  `koanf:"partitions" doc:"partitions of each kind's topics, for a new installation; 0 takes what the declaration says" check:"range=0..10000"`
}

// Embedded says how the embedded broker behaves.
type Embedded struct {
	Sync              bool          `koanf:"sync" doc:"fsync each write, so that a crash of the machine loses nothing either"`
	MinFree           Size          `koanf:"min_free" doc:"free disk space without which it does not start" unit:"bytes" check:"range=0..1099511627776"`
	RetentionInterval time.Duration `koanf:"retention_interval" doc:"time between two deletions of expired records" check:"range=1s..24h"`
}

// Process says how processors (reducer, orchestrator, fleet) run.
type Process struct {
	Roles         []string      `koanf:"roles" doc:"roles that regent server runs" check:"enums=reducer|orchestrator|fleet|api|registry"`
	Instance      string        `koanf:"instance" doc:"name of this instance, unique among its like; empty: made once and kept in the data directory"`
	FlushInterval time.Duration `koanf:"flush_interval" doc:"time between two write-backs of state to disk" check:"range=100ms..10m"`
	Standbys      int64         `koanf:"standbys" doc:"how many other processes keep a warm copy of each task, ready to take it over; 0 keeps none" check:"range=0..15"`
	CacheSize     Size          `koanf:"cache_size" doc:"memory for state that was read or written lately, of all roles together" unit:"bytes" check:"range=1048576..1099511627776"`
}

// Checkpoints says how often the processes that keep state copy it, for replay and get --at.
type Checkpoints struct {
	Interval time.Duration `koanf:"interval" doc:"time between two checkpoints that are made without being asked for; 0: none are" check:"range=0s..8760h"`
	Keep     int64         `koanf:"keep" doc:"how many of those are kept" check:"range=1..10000"`
}

// Agent says which node an agent looks after and how often it reports.
type Agent struct {
	Cluster         string        `koanf:"cluster" doc:"cluster that the node belongs to, such as postgres/orders"`
	Node            string        `koanf:"node" doc:"name of the node, unique in its cluster"`
	Profile         string        `koanf:"profile" doc:"how fast a loss is noticed: fast beats every 250ms and is suspected after 1s, default 1s and 3s" check:"enum=default|fast"`
	Heartbeat       time.Duration `koanf:"heartbeat" doc:"time between two heartbeats; 0 takes the profile's" check:"range=0s..1m"`
	SuspectAfter    time.Duration `koanf:"suspect_after" doc:"silence after which the node is suspected; 0 takes the profile's" check:"range=0s..10m"`
	PulseInterval   time.Duration `koanf:"pulse_interval" doc:"time between two cheap looks at role, positions and receiver; changes are told at once" check:"range=20ms..10s"`
	ObserveInterval time.Duration `koanf:"observe_interval" doc:"time between two full values while nothing of note changes" check:"range=50ms..1m"`
	VolumeInterval  time.Duration `koanf:"volume_interval" doc:"time between two looks at sizes and counters" check:"range=1s..1h"`
	LookTimeout     time.Duration `koanf:"look_timeout" doc:"time that one look may take, connecting included" check:"range=100ms..1m"`
}

// Postgres says what an agent's server is like.
type Postgres struct {
	DataDir     string   `koanf:"data_dir" doc:"data directory of the server; it need not exist"`
	AgentDir    string   `koanf:"agent_dir" doc:"directory of the agent's memory and of the archive of lost writes; must outlive the data directory; empty: data_dir and .agent"`
	RunDir      string   `koanf:"run_dir" doc:"directory of the server's socket, passfile and lock; empty: data_dir and .run"`
	Host        string   `koanf:"host" doc:"host name or address under which other nodes and clients reach the server"`
	Port        int64    `koanf:"port" doc:"port of the server" check:"range=1..65535"`
	ListenHosts []string `koanf:"listen_hosts" doc:"addresses that the server listens on; empty: host if that is an address, else all"`
	BinDir      string   `koanf:"bin_dir" doc:"directory of the PostgreSQL programs; empty: look for installed ones, else fetch published ones"`
	Version     int64    `koanf:"version" doc:"major version to use, 13 to 18; 0: that of the data directory, else the newest that is installed" check:"range=0..18"`
	NoFetch     bool     `koanf:"no_fetch" doc:"never fetch published PostgreSQL programs"`
	User        string   `koanf:"user" doc:"operating-system user that runs the server when the agent is started as root"`
	Settings    []string `koanf:"settings" doc:"PostgreSQL settings besides those that Regent owns, each name=value"`

	Superuser               string `koanf:"superuser" doc:"database role of the agent"`
	ReplicationUser         string `koanf:"replication_user" doc:"database role of standbys"`
	RewindUser              string `koanf:"rewind_user" doc:"database role of pg_rewind"`
	PasswordFile            string `koanf:"password_file" doc:"file whose first line is the superuser's password; the same on all nodes of a cluster"`
	ReplicationPasswordFile string `koanf:"replication_password_file" doc:"file with the replication role's password; empty: password_file"`
	RewindPasswordFile      string `koanf:"rewind_password_file" doc:"file with the rewind role's password; empty: that of the replication role"`

	StartTimeout  time.Duration `koanf:"start_timeout" doc:"time that a start may take until it is reported as failed; the server goes on recovering" check:"range=1s..24h"`
	StopMode      string        `koanf:"stop_mode" doc:"how the server is stopped when the agent is told to end" check:"enum=fast|immediate"`
	StopTimeout   time.Duration `koanf:"stop_timeout" doc:"time that a stop may take before the next harder mode" check:"range=100ms..1h"`
	FenceTimeout  time.Duration `koanf:"fence_timeout" doc:"time that a fenced primary may take to stop with fast before immediate" check:"range=100ms..1h"`
	FollowTimeout time.Duration `koanf:"follow_timeout" doc:"time that a standby may try to stream from a new upstream" check:"range=1s..24h"`
	MarkerTimeout time.Duration `koanf:"marker_timeout" doc:"time that a changed synchronous set may take to acknowledge a marker commit" check:"range=100ms..1h"`
}

// Lifecycle says how patient starts and stops are.
type Lifecycle struct {
	StartTimeout time.Duration `koanf:"start_timeout" doc:"time that each service has to get ready; recovery of much state takes long" check:"range=1s..24h"`
	DrainTimeout time.Duration `koanf:"drain_timeout" doc:"time that all services together have to stop" check:"range=1s..1h"`
}

// Default returns the configuration that holds where nothing is configured.
func Default() Config {
	return Config{
		Server:   "http://127.0.0.1:7400",
		Brokers:  []string{},
		Contexts: map[string]Context{},
		Log:      Log{Level: "info", Format: "auto"},
		Data:     Data{Dir: "regent-data"},
		Listen:   Listen{HTTP: "127.0.0.1:7400", Broker: "127.0.0.1:9092", Registry: "127.0.0.1:8081"},
		Embedded: Embedded{MinFree: 64 << 20, RetentionInterval: 5 * time.Minute},
		Process: Process{
			Roles: []string{"reducer", "orchestrator", "fleet", "api"}, FlushInterval: 3 * time.Second, Standbys: 1, CacheSize: 256 << 20,
		},
		Checkpoints: Checkpoints{Interval: 6 * time.Hour, Keep: 8},
		Agent: Agent{
			Profile: "default", PulseInterval: 100 * time.Millisecond, ObserveInterval: time.Second, VolumeInterval: 15 * time.Second, LookTimeout: 2 * time.Second,
		},
		Postgres: Postgres{
			DataDir: "regent-postgres/data", Host: "127.0.0.1", Port: 5432, ListenHosts: []string{}, User: "postgres", Settings: []string{},
			Superuser: "postgres", ReplicationUser: "regent_replication", RewindUser: "regent_rewind",
			StartTimeout: 10 * time.Minute, StopMode: "fast", StopTimeout: 10 * time.Second, FenceTimeout: 3 * time.Second, FollowTimeout: time.Minute,
			MarkerTimeout: 10 * time.Second,
		},
		Lifecycle: Lifecycle{StartTimeout: 10 * time.Minute, DrainTimeout: 20 * time.Second},
	}
}
