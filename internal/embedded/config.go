package embedded

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"time"

	"github.com/regent-infra/regent/internal/clock"
	"github.com/regent-infra/regent/internal/embedded/registry"
)

// Defaults of [Config].
const (
	DefaultRetentionInterval     = 5 * time.Minute
	DefaultTransactionMaxTimeout = time.Minute
	DefaultMinFreeBytes          = 64 << 20
	DefaultMaxRequestBytes       = 100 << 20
	DefaultSegmentBytes          = 16 << 20
	DefaultCompactionBudget      = 10 * time.Second
	DefaultMaxSchemaBytes        = 1 << 20
)

// Config says where the embedded broker and registry live and how they behave. The zero value of a field means its
// default, where one is named.
type Config struct {
	// Dir is the data directory. It is created when missing and belongs to one process at a time. Required.
	Dir string
	// BrokerListen is the host:port that the broker listens on; port 0 lets the system choose, see [Stack.Brokers].
	// Default 127.0.0.1:0.
	BrokerListen string
	// BrokerAdvertise is the host:port that clients are told to connect to. Default: the address that is listened on,
	// which is wrong when that is a wildcard such as 0.0.0.0; Validate then demands this field.
	BrokerAdvertise string
	// RegistryListen is the host:port of the schema registry; port 0 lets the system choose, see [Stack.RegistryURL].
	// Default 127.0.0.1:0.
	RegistryListen string
	// RegistryCredentials are what clients of the schema registry must bring. Default: nothing.
	RegistryCredentials registry.Credentials
	// ClusterID, when set, is the Kafka cluster id that the directory must have; a new directory is given it. Empty
	// accepts the directory's id, or draws one.
	ClusterID string
	// Sync makes every write durable against power loss by fsync. Without it a crash of the process loses nothing,
	// because the page cache outlives it, but a crash of the machine may lose the last seconds. Default false.
	Sync bool
	// Compatible reports whether data written with schema writer can be read with schema reader, both complete Avro
	// schemas as JSON text; the error says why not. The writer comes first, and Validate tries whether it does. A schema
	// that does not parse is incompatible with itself, which is how the registry tells a bad schema from an incompatible
	// one. Required.
	Compatible func(writer, reader string) error
	// Logger receives structured logs. Default: discard.
	Logger *slog.Logger
	// Clock is the broker's clock. Default [clock.System].
	Clock clock.Clock
	// RetentionInterval is the time between two passes that delete expired records. Default 5 min.
	RetentionInterval time.Duration
	// TransactionMaxTimeout is the longest transaction timeout that a producer may ask for; it bounds how long a dead
	// producer can hold back read_committed readers. Default 1 min, which is what the Java client and librdkafka ask for
	// by default.
	TransactionMaxTimeout time.Duration
	// MinFreeBytes is the free space without which Open refuses to start. Default 64 MiB; negative: no check.
	MinFreeBytes int64
	// MaxRequestBytes caps one Kafka request; a longer one closes its connection. Default 100 MiB
	// (socket.request.max.bytes).
	MaxRequestBytes int
	// SegmentBytes is the size at which a log segment is closed. Default 16 MiB.
	SegmentBytes int64
	// CompactionBudget bounds the time that compaction may take at boot; what is left waits for the next boot.
	// Default 10 s; negative: no compaction.
	CompactionBudget time.Duration
	// MaxSchemaBytes caps a request to the registry. Default 1 MiB.
	MaxSchemaBytes int64

	// crash names a point at which the process kills itself; only tests set it.
	crash func(point string)
}

// withDefaults returns c with its unset fields set.
func (c Config) withDefaults() Config {
	setDefault(&c.BrokerListen, "127.0.0.1:0")
	setDefault(&c.RegistryListen, "127.0.0.1:0")
	setDefault(&c.RetentionInterval, DefaultRetentionInterval)
	setDefault(&c.TransactionMaxTimeout, DefaultTransactionMaxTimeout)
	setDefault(&c.MinFreeBytes, DefaultMinFreeBytes)
	setDefault(&c.MaxRequestBytes, DefaultMaxRequestBytes)
	setDefault(&c.SegmentBytes, DefaultSegmentBytes)
	setDefault(&c.CompactionBudget, DefaultCompactionBudget)
	setDefault(&c.MaxSchemaBytes, DefaultMaxSchemaBytes)
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Clock == nil {
		c.Clock = clock.System{}
	}
	if c.crash == nil {
		c.crash = func(string) {}
	}
	return c
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// Validate reports everything that is wrong with c at once, or nil.
func (c Config) Validate() error {
	c = c.withDefaults()
	var errs []error
	fault := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if c.Dir == "" {
		fault("Dir is empty: name the data directory")
	}
	if c.Compatible == nil {
		fault("Compatible is nil: the registry needs a compatibility check, for instance one by avrocodec.Compatible")
	} else if c.Compatible(`"int"`, `"long"`) != nil || c.Compatible(`"long"`, `"int"`) == nil {
		fault("Compatible says that a long can be read as an int, or not the other way round: does it take the writer's schema first?")
	}
	listen := func(field, addr string) (host string) {
		host, port, err := net.SplitHostPort(addr)
		if err != nil {
			fault("%s %q is not host:port: %w", field, addr, err)
			return ""
		}
		if n, err := strconv.Atoi(port); err != nil || n < 0 || n > 65535 {
			fault("%s %q: port %q is not a number from 0 to 65535", field, addr, port)
		}
		return host
	}
	host := listen("BrokerListen", c.BrokerListen)
	listen("RegistryListen", c.RegistryListen)
	if c.BrokerAdvertise != "" {
		listen("BrokerAdvertise", c.BrokerAdvertise)
	} else if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() || host == "" {
		fault("BrokerListen %q listens on every address: set BrokerAdvertise to the host:port that clients can reach", c.BrokerListen)
	}
	if err := c.RegistryCredentials.Validate(); err != nil {
		fault("RegistryCredentials: %w", err)
	}
	if c.RetentionInterval < time.Second {
		fault("RetentionInterval is %v: at least 1s is expected", c.RetentionInterval)
	}
	if c.TransactionMaxTimeout < time.Second || c.TransactionMaxTimeout > 15*time.Minute {
		fault("TransactionMaxTimeout is %v: 1s to 15m are expected", c.TransactionMaxTimeout)
	}
	if c.MaxRequestBytes < 1<<20 || c.MaxRequestBytes > 1<<30 {
		fault("MaxRequestBytes is %d: 1 MiB to 1 GiB are expected", c.MaxRequestBytes)
	}
	if c.SegmentBytes < 1<<10 || c.SegmentBytes > 1<<30 {
		fault("SegmentBytes is %d: 1 KiB to 1 GiB are expected", c.SegmentBytes)
	}
	if c.MaxSchemaBytes < 1<<10 || c.MaxSchemaBytes > 16<<20 {
		fault("MaxSchemaBytes is %d: 1 KiB to 16 MiB are expected", c.MaxSchemaBytes)
	}
	return errors.Join(errs...)
}
