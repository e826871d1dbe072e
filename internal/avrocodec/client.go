package avrocodec

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/sr"

	"github.com/regent-infra/regent/internal/secret"
)

// Codes that a schema registry answers with.
const (
	codeSubjectNotFound = 40401
	codeVersionNotFound = 40402
	codeSchemaNotFound  = 40403
	codeNoSubjectMode   = 40408
)

// ClientConfig says how to reach a schema registry.
type ClientConfig struct {
	// URLs are the registry's addresses, such as http://127.0.0.1:8081; the next one is tried when one does not answer. At least one.
	URLs []string
	// User and Password are for HTTP basic authentication; none if User is empty.
	User     string
	Password secret.Value
	// TLS is for https addresses; nil means the system's certificate authorities.
	TLS *tls.Config
	// Timeout bounds one request. 0 means 5 s.
	Timeout time.Duration
}

// Client is a [Registry] over HTTP. It is safe for concurrent use.
type Client struct {
	registry *sr.Client
	http     *http.Client
	urls     string
}

var _ Registry = (*Client)(nil)

// NewClient returns a client. It does not connect yet. The error names every fault of the configuration.
func NewClient(config ClientConfig) (*Client, error) {
	var faults []error
	if len(config.URLs) == 0 {
		faults = append(faults, errors.New("there is no schema registry address, expected one such as http://127.0.0.1:8081"))
	}
	for _, text := range config.URLs {
		u, err := url.Parse(text)
		switch {
		case err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https"):
			// The text is not repeated whole: it may hold a password.
			faults = append(faults, errors.New("a schema registry address is not valid, expected http://host:port or https://host:port"))
		case u.User != nil:
			faults = append(faults, fmt.Errorf("the schema registry address of %s holds a user, expected it in the settings for user and password", u.Host))
		}
	}
	if err := errors.Join(faults...); err != nil {
		return nil, fmt.Errorf("configure the schema registry: %w", err)
	}
	if config.Timeout <= 0 {
		config.Timeout = defaultTimeout
	}
	httpClient := &http.Client{
		Timeout: config.Timeout,
		Transport: &http.Transport{
			Proxy:                 http.ProxyFromEnvironment,
			DialContext:           (&net.Dialer{Timeout: config.Timeout}).DialContext,
			TLSClientConfig:       config.TLS,
			TLSHandshakeTimeout:   config.Timeout,
			ResponseHeaderTimeout: config.Timeout,
			MaxIdleConnsPerHost:   4,
			IdleConnTimeout:       30 * time.Second,
		},
	}
	opts := []sr.ClientOpt{sr.URLs(config.URLs...), sr.HTTPClient(httpClient), sr.UserAgent("regent")}
	if config.User != "" {
		opts = append(opts, sr.BasicAuth(config.User, config.Password.Reveal()))
	}
	client, err := sr.NewClient(opts...)
	if err != nil {
		return nil, fmt.Errorf("configure the schema registry: %w", err)
	}
	return &Client{registry: client, http: httpClient, urls: strings.Join(config.URLs, ", ")}, nil
}

// Close drops idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// SchemaByID implements [Registry].
func (c *Client) SchemaByID(ctx context.Context, id int32) (string, error) {
	schema, err := c.registry.SchemaByID(ctx, int(id))
	switch {
	case hasCode(err, codeSchemaNotFound):
		return "", fmt.Errorf("%w: %d", ErrUnknownSchema, id)
	case err != nil:
		return "", c.explain("fetch a schema", err)
	case schema.Type != sr.TypeAvro:
		return "", fmt.Errorf("%w: %d is a %s schema", ErrUnknownSchema, id, schema.Type)
	case len(schema.References) > 0:
		return "", fmt.Errorf("%w: that of %d refers to other subjects", ErrUnknownSchema, id)
	}
	return schema.Schema, nil
}

// LookupID implements [Registry].
func (c *Client) LookupID(ctx context.Context, subject, schema string) (int32, error) {
	found, err := c.registry.LookupSchema(ctx, subject, sr.Schema{Schema: schema, Type: sr.TypeAvro})
	switch {
	case hasCode(err, codeSubjectNotFound), hasCode(err, codeSchemaNotFound), hasCode(err, codeVersionNotFound):
		return 0, fmt.Errorf("%w under subject %s", ErrNotRegistered, subject)
	case err != nil:
		return 0, c.explain("look up a schema", err)
	}
	return int32(found.ID), nil //nolint:gosec // the registry's ids are positive 32-bit numbers
}

// Register registers a schema under a subject and returns its id; one that is there already keeps its id.
func (c *Client) Register(ctx context.Context, subject, schema string) (int32, error) {
	created, err := c.registry.CreateSchema(ctx, subject, sr.Schema{Schema: schema, Type: sr.TypeAvro})
	if err != nil {
		return 0, c.explain("register a schema under subject "+subject, err)
	}
	return int32(created.ID), nil //nolint:gosec // the registry's ids are positive 32-bit numbers
}

// CheckCompatible asks the registry whether the schema may follow the versions of the subject under its mode. The error
// is an [*IncompatibleError] if not.
func (c *Client) CheckCompatible(ctx context.Context, subject, schema string) error {
	// The version -2 stands for as many versions as the subject's mode looks at; verbose makes the registry say why.
	result, err := c.registry.CheckCompatibility(sr.WithParams(ctx, sr.RawParams(url.Values{"verbose": {"true"}})), subject, -2,
		sr.Schema{Schema: schema, Type: sr.TypeAvro})
	switch {
	case hasCode(err, codeSubjectNotFound), hasCode(err, codeVersionNotFound):
		return nil
	case err != nil:
		return c.explain("check compatibility of subject "+subject, err)
	case !result.Is:
		return &IncompatibleError{Subject: subject, Reasons: result.Messages}
	}
	return nil
}

// IncompatibleError says that a registry refuses a schema under the subject's mode.
type IncompatibleError struct {
	Subject string
	// Reasons are the registry's; there may be none.
	Reasons []string
}

// Error implements error.
func (e *IncompatibleError) Error() string {
	text := "the schema is not compatible with what is registered under subject " + e.Subject
	if len(e.Reasons) > 0 {
		text += ": " + strings.Join(e.Reasons, "; ")
	}
	return text
}

// Versions returns the schemas of a subject, oldest first; none if the subject does not exist.
func (c *Client) Versions(ctx context.Context, subject string) ([]string, error) {
	numbers, err := c.registry.SubjectVersions(ctx, subject)
	if hasCode(err, codeSubjectNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, c.explain("list the versions of subject "+subject, err)
	}
	versions := make([]string, 0, len(numbers))
	for _, n := range numbers {
		version, err := c.registry.SchemaByVersion(ctx, subject, n)
		if err != nil {
			return nil, c.explain("read a version of subject "+subject, err)
		}
		versions = append(versions, version.Schema.Schema)
	}
	return versions, nil
}

// Mode returns the compatibility mode of a subject, or "" if it has none of its own.
func (c *Client) Mode(ctx context.Context, subject string) (string, error) {
	result := c.registry.Compatibility(ctx, subject)[0] // one subject, one result
	switch {
	case hasCode(result.Err, codeNoSubjectMode), hasCode(result.Err, codeSubjectNotFound):
		return "", nil
	case result.Err != nil:
		return "", c.explain("read the compatibility mode of subject "+subject, result.Err)
	}
	return result.Level.String(), nil
}

// SetMode sets the compatibility mode of a subject, such as BACKWARD_TRANSITIVE.
func (c *Client) SetMode(ctx context.Context, subject, mode string) error {
	var level sr.CompatibilityLevel
	if err := level.UnmarshalText([]byte(mode)); err != nil {
		return fmt.Errorf("set the compatibility mode of subject %s: %q is none: %w", subject, mode, err)
	}
	for _, result := range c.registry.SetCompatibility(ctx, sr.SetCompatibility{Level: level}, subject) {
		if result.Err != nil {
			return c.explain("set the compatibility mode of subject "+subject, result.Err)
		}
	}
	return nil
}

// Ping asks the registry anything, to see whether it answers.
func (c *Client) Ping(ctx context.Context) error {
	if _, err := c.registry.SupportedTypes(ctx); err != nil {
		return c.explain("reach it", err)
	}
	return nil
}

func hasCode(err error, code int) bool {
	var response *sr.ResponseError
	return errors.As(err, &response) && response.ErrorCode == code
}

// explain says which registry did what, and whether a retry can help.
func (c *Client) explain(operation string, err error) error {
	var response *sr.ResponseError
	if errors.As(err, &response) {
		hint := "it will not help to try again"
		if response.StatusCode >= http.StatusInternalServerError || response.StatusCode == http.StatusTooManyRequests {
			hint = "try again later"
		}
		if response.StatusCode == http.StatusUnauthorized || response.StatusCode == http.StatusForbidden {
			hint = "check the user and the password for the registry"
		}
		return fmt.Errorf("schema registry at %s: %s: it answered %d: %w (%s)", c.urls, operation, response.StatusCode, err, hint)
	}
	return fmt.Errorf("schema registry at %s: %s: %w (is it up, and is the address right?): %w", c.urls, operation, ErrUnreachable, err)
}
