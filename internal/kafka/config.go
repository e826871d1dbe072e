// Package kafka is the only package that speaks to brokers (besides internal/embedded, which is one).
//
// It turns franz-go into the few shapes that Regent needs: a [Producer] (idempotent, no lingering), a [Reader] (committed
// records of named partitions, without a group), an [Admin], and the session that the task runtime works with. Records go in and out as
// [record.Record]; no type of the library leaves this package.
//
// Invariants: (1) every operation ends within its context or the configured time-outs, and what it could not do names the brokers and a
// hint; an error that wraps [ErrUnreachable] means that nobody answered, so a retry can help; (2) everything that is written waits for all in-sync replicas
// and is idempotent; (3) readers see committed records only, unless they ask otherwise; (4) partitions are chosen by the caller, never by a key's hash;
// (5) secrets come from files, are read when they are needed, and are never part of an error.
package kafka

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl"
	"github.com/twmb/franz-go/pkg/sasl/plain"
	"github.com/twmb/franz-go/pkg/sasl/scram"
)

// Defaults of [Config].
const (
	DefaultDialTimeout    = 5 * time.Second
	DefaultRequestTimeout = 10 * time.Second
)

// SASL mechanisms.
const (
	SASLPlain       = "PLAIN"
	SASLScramSHA256 = "SCRAM-SHA-256"
	SASLScramSHA512 = "SCRAM-SHA-512"
)

// Config says how to reach a cluster. The zero value needs at least Brokers.
type Config struct {
	// Brokers are addresses of some brokers, host:port; the rest is learnt from them. At least one.
	Brokers []string
	// ClientID names this process in the brokers' logs and quotas. Default: regent.
	ClientID string
	// TLS, where enabled, encrypts all connections.
	TLS TLS
	// SASL, where a mechanism is set, authenticates all connections.
	SASL SASL
	// DialTimeout bounds one attempt to connect. Default: 5 s.
	DialTimeout time.Duration
	// RequestTimeout bounds one administrative operation, retries included. Default: 10 s.
	RequestTimeout time.Duration
}

// TLS is the encryption of connections.
type TLS struct {
	Enabled bool
	// CAFile holds the certificate authorities to trust, PEM. Empty means the system's.
	CAFile string
	// CertFile and KeyFile hold the client's certificate and key, PEM; both or none. They are read anew for every connection, so that they may
	// be replaced at any time.
	CertFile string
	KeyFile  string
	// ServerName is expected in the brokers' certificates instead of their host names.
	ServerName string
}

// SASL is the authentication of connections.
type SASL struct {
	// Mechanism is PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512; empty means none.
	Mechanism string
	User      string
	// PasswordFile holds the password; white space around it is cut. It is read anew for every connection.
	PasswordFile string
}

// Validate returns every fault of the configuration together, or nil.
func (c Config) Validate() error {
	var faults []error
	add := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	if len(c.Brokers) == 0 {
		add("there is no broker address, expected at least one host:port")
	}
	for _, broker := range c.Brokers {
		if err := validAddress(broker); err != nil {
			faults = append(faults, err)
		}
	}
	if c.DialTimeout < 0 {
		add("the dial timeout is %s, expected a positive duration", c.DialTimeout)
	}
	if c.RequestTimeout < 0 {
		add("the request timeout is %s, expected a positive duration", c.RequestTimeout)
	}
	faults = append(faults, c.TLS.faults()...)
	faults = append(faults, c.SASL.faults(c.TLS.Enabled)...)
	if err := errors.Join(faults...); err != nil {
		return fmt.Errorf("configure Kafka: %w", err)
	}
	return nil
}

func validAddress(broker string) error {
	host, port, err := net.SplitHostPort(broker)
	if n, parseErr := strconv.Atoi(port); err != nil || host == "" || parseErr != nil || n < 1 || n > 65535 {
		return fmt.Errorf("broker address %q is not host:port with a port of 1 to 65535", broker)
	}
	return nil
}

func (t TLS) faults() []error {
	var faults []error
	if !t.Enabled {
		if t.CAFile != "" || t.CertFile != "" || t.KeyFile != "" || t.ServerName != "" {
			faults = append(faults, errors.New("TLS has settings but is not enabled"))
		}
		return faults
	}
	if (t.CertFile == "") != (t.KeyFile == "") {
		faults = append(faults, errors.New("TLS has a certificate file or a key file alone, expected both or none"))
	}
	if _, err := t.config(); err != nil {
		faults = append(faults, err)
	}
	return faults
}

func (s SASL) faults(encrypted bool) []error {
	var faults []error
	switch s.Mechanism {
	case "":
		if s.User != "" || s.PasswordFile != "" {
			faults = append(faults, errors.New("SASL has a user or a password file but no mechanism"))
		}
		return faults
	case SASLPlain:
		if !encrypted {
			faults = append(faults, errors.New("SASL PLAIN would send the password in clear text, expected TLS with it or a SCRAM mechanism"))
		}
	case SASLScramSHA256, SASLScramSHA512:
	default:
		faults = append(faults, fmt.Errorf("SASL mechanism %q is unknown, expected %s, %s or %s", s.Mechanism, SASLPlain, SASLScramSHA256, SASLScramSHA512))
	}
	if s.User == "" {
		faults = append(faults, errors.New("SASL has no user"))
	}
	if s.PasswordFile == "" {
		return append(faults, errors.New("SASL has no password file"))
	}
	if _, err := s.password(); err != nil {
		faults = append(faults, err)
	}
	return faults
}

// config reads the certificate authorities and makes the client certificate be read per connection.
func (t TLS) config() (*tls.Config, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: t.ServerName}
	if t.CAFile != "" {
		pem, err := os.ReadFile(t.CAFile)
		if err != nil {
			return nil, fmt.Errorf("read the TLS certificate authorities: %w", err)
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("read the TLS certificate authorities: %s holds no certificate in PEM form", t.CAFile)
		}
	}
	if t.CertFile == "" || t.KeyFile == "" {
		return config, nil
	}
	load := func() (*tls.Certificate, error) {
		pair, err := tls.LoadX509KeyPair(t.CertFile, t.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("read the TLS client certificate %s and its key: %w", t.CertFile, err)
		}
		return &pair, nil
	}
	if _, err := load(); err != nil {
		return nil, err
	}
	config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return load() }
	return config, nil
}

func (s SASL) password() (string, error) {
	raw, err := os.ReadFile(s.PasswordFile)
	if err != nil {
		return "", fmt.Errorf("read the SASL password file: %w", err)
	}
	password := strings.TrimSpace(string(raw))
	if password == "" {
		return "", fmt.Errorf("read the SASL password file: %s is empty", s.PasswordFile)
	}
	return password, nil
}

func (s SASL) mechanism() sasl.Mechanism {
	scramAuth := func(context.Context) (scram.Auth, error) {
		password, err := s.password()
		return scram.Auth{User: s.User, Pass: password}, err
	}
	switch s.Mechanism {
	case SASLPlain:
		return plain.Plain(func(context.Context) (plain.Auth, error) {
			password, err := s.password()
			return plain.Auth{User: s.User, Pass: password}, err
		})
	case SASLScramSHA256:
		return scram.Sha256(scramAuth)
	case SASLScramSHA512:
		return scram.Sha512(scramAuth)
	default:
		return nil
	}
}

// withDefaults fills in what was left out.
func (c Config) withDefaults() Config {
	if c.ClientID == "" {
		c.ClientID = "regent"
	}
	if c.DialTimeout == 0 {
		c.DialTimeout = DefaultDialTimeout
	}
	if c.RequestTimeout == 0 {
		c.RequestTimeout = DefaultRequestTimeout
	}
	return c
}

// options validates the configuration and turns it into what all clients share, followed by more.
func (c Config) options(more ...kgo.Opt) ([]kgo.Opt, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	c = c.withDefaults()
	opts := []kgo.Opt{
		kgo.SeedBrokers(c.Brokers...),
		kgo.ClientID(c.ClientID),
		kgo.SoftwareNameAndVersion("regent", "1"),
		kgo.DialTimeout(c.DialTimeout),
		kgo.RetryTimeout(c.RequestTimeout),
		kgo.MetadataMinAge(100 * time.Millisecond), // so that a new leader is found at once, not after the library's 5 s
	}
	if c.TLS.Enabled {
		config, err := c.TLS.config()
		if err != nil {
			return nil, fmt.Errorf("configure Kafka: %w", err)
		}
		opts = append(opts, kgo.DialTLSConfig(config))
	}
	if m := c.SASL.mechanism(); m != nil {
		opts = append(opts, kgo.SASL(m))
	}
	return append(opts, more...), nil
}

// client makes a client. It does not connect yet.
func (c Config) client(more ...kgo.Opt) (*kgo.Client, error) {
	opts, err := c.options(more...)
	if err != nil {
		return nil, err
	}
	client, err := kgo.NewClient(opts...)
	if err != nil {
		return nil, fmt.Errorf("configure Kafka: %w", err)
	}
	return client, nil
}
