package server

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/regent-infra/regent/adapters/postgres/binary"
	"github.com/regent-infra/regent/internal/clock"
	"github.com/regent-infra/regent/internal/secret"
)

// Credential is a database role with its password. The caller resolves references (vault://…) into values; nothing here
// writes the password anywhere but into the server (as a SCRAM verifier) and into a passfile that only its user can read.
type Credential struct {
	User     string
	Password secret.Value
}

// Config says which server an [Instance] manages.
type Config struct {
	// Binaries is the installation to run. Its major version must be that of the data directory.
	Binaries binary.Set
	// DataDir is the data directory, absolute. It need not exist before Init or a base backup.
	DataDir string
	// RunDir holds the lock, the passfile and, if the path is short enough, the socket. Default: DataDir + ".run".
	RunDir string
	// User is the operating system's user that PostgreSQL runs as when this process is root. Default: "postgres". A process
	// that is not root runs PostgreSQL as itself, and User must then be empty or its own name.
	User string
	// ClusterName goes into process titles and logs (cluster_name). Letters, digits, "_", "-", ".", "/"; at most 63. Required.
	ClusterName string
	// ListenHosts are the addresses to listen on for TCP. Default: 127.0.0.1.
	ListenHosts []string
	// Port is the TCP port, and the number in the socket's name. Required.
	Port uint16
	// Superuser is the bootstrap role, by which the agent connects over its own socket. Default name: postgres.
	Superuser Credential
	// Replication is the role that standbys connect as. Default name: regent_replication.
	Replication Credential
	// Rewind is the role that pg_rewind connects as. Default name: regent_rewind.
	Rewind Credential
	// Settings are added to the recommended ones. Names that Regent owns are refused (see OwnedSettings).
	Settings map[string]string
	// ClientRules are lines for pg_hba.conf that admit clients. Default: scram-sha-256 for everyone over TCP.
	ClientRules []string
	// SystemIdentifier is that of the cluster; a data directory with another one is refused. 0: not checked.
	SystemIdentifier uint64
	// Logger gets what the instance does and, with component=postgres, what the server prints. Default: discarded.
	Logger *slog.Logger
	// Clock is for waiting. Default: the machine's.
	Clock clock.Clock
}

var (
	namePattern    = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_./-]{0,62}$`)
	rolePattern    = regexp.MustCompile(`^[a-z_][a-z0-9_]{0,62}$`)
	settingPattern = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_$]*)?$`)
)

// withDefaults fills what was left out.
func (c Config) withDefaults() Config {
	if c.RunDir == "" && c.DataDir != "" {
		c.RunDir = c.DataDir + ".run"
	}
	if len(c.ListenHosts) == 0 {
		c.ListenHosts = []string{"127.0.0.1"}
	}
	for _, d := range []struct {
		role *Credential
		name string
	}{{&c.Superuser, "postgres"}, {&c.Replication, "regent_replication"}, {&c.Rewind, "regent_rewind"}} {
		if d.role.User == "" {
			d.role.User = d.name
		}
	}
	if len(c.ClientRules) == 0 {
		c.ClientRules = []string{"host all all all scram-sha-256"}
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Clock == nil {
		c.Clock = clock.System{}
	}
	return c
}

// Validate reports every fault at once.
func (c Config) Validate() error {
	var faults []error
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	if !filepath.IsAbs(c.DataDir) || filepath.Clean(c.DataDir) == "/" {
		fault("DataDir: expected an absolute path, got %q", c.DataDir)
	}
	if !filepath.IsAbs(c.RunDir) {
		fault("RunDir: expected an absolute path, got %q", c.RunDir)
	} else if c.RunDir == c.DataDir || strings.HasPrefix(c.RunDir, c.DataDir+"/") {
		fault("RunDir: %q must not lie inside DataDir, because base backups copy that", c.RunDir)
	}
	if !namePattern.MatchString(c.ClusterName) {
		fault("ClusterName: expected 1 to 63 letters, digits or _./- and a letter, digit or _ first, got %q", c.ClusterName)
	}
	if c.Port == 0 {
		fault("Port: expected 1 to 65535, got 0")
	}
	for _, h := range c.ListenHosts {
		if h != "*" && h != "localhost" && net.ParseIP(h) == nil {
			fault("ListenHosts: expected IP addresses, localhost or *, got %q", h)
		}
	}
	seen := map[string]bool{}
	for _, role := range []Credential{c.Superuser, c.Replication, c.Rewind} {
		if !rolePattern.MatchString(role.User) {
			fault("role %q: expected lower-case letters, digits and underscores, at most 63", role.User)
		}
		if seen[role.User] {
			fault("role %q is given twice: superuser, replication and rewind must differ", role.User)
		}
		seen[role.User] = true
		if len(role.Password.Reveal()) > maxSecret {
			fault("password of role %q: expected at most %d bytes", role.User, maxSecret)
		}
		if !isPrintableASCII(role.Password.Reveal()) {
			fault("password of role %q: expected printable ASCII only, so that every client prepares it alike", role.User)
		}
	}
	for name, value := range c.Settings {
		if err := checkSetting(name, value); err != nil {
			faults = append(faults, err)
		}
	}
	for _, rule := range c.ClientRules {
		if strings.ContainsAny(rule, "\r\n\x00") || len(strings.Fields(rule)) < 4 {
			fault("ClientRules: expected a line of pg_hba.conf, got %q", rule)
		}
	}
	if err := c.Binaries.Version.Supported(); err != nil {
		faults = append(faults, fmt.Errorf("programs: %w", err))
	}
	if len(faults) > 0 {
		return fmt.Errorf("configuration of the PostgreSQL instance: %w", errors.Join(faults...))
	}
	return nil
}

// maxSocketPath is what the kernel allows for the path of a Unix socket: 108 bytes with the closing NUL.
const maxSocketPath = 107

// socketDir chooses where the Unix socket lies: RunDir, or a short folder in the system's temporary one.
func (c Config) socketDir() string {
	if len(filepath.Join(c.RunDir, ".s.PGSQL.65535")) <= maxSocketPath {
		return c.RunDir
	}
	return filepath.Join(os.TempDir(), "regent-"+shortHash(c.DataDir))
}

func isPrintableASCII(text string) bool {
	for _, c := range []byte(text) {
		if c < ' ' || c > '~' {
			return false
		}
	}
	return true
}
