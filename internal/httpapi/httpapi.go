// Package httpapi serves what Regent knows over HTTP: the consolidated state, the decisions, and how the process itself does. It only
// reads; whoever wants something done writes a command to Kafka, where it is ordered, kept and answered.
//
//	GET /v1/info                    addresses, version, roles
//	GET /v1/status                  what is unhealthy, since when, why, what is being done, what needs a person
//	GET /v1/clusters[/{kind}/{name}] clusters with their state, decided state and nodes
//	GET /v1/resources[/{id...}]     consolidated state by resource id
//	GET /v1/workflows[/{id}]        runs of workflows, newest first
//	GET /v1/watch                   changes as server-sent events
//	GET /v1/digests                 a fingerprint of the state of each task
//	GET /metrics                    Prometheus
//	GET /health/live, /health/ready for supervisors and load balancers
//
// docs/http-api.md describes each with its fields and errors. The package declares the ports that it reads through ([View],
// [Processors]), so that it can be tested, and run, without a runtime.
//
// Invariants: (1) a request changes nothing; (2) every request ends within the configured time, except a watch, which ends when its client
// goes or cannot keep up; (3) an error is a JSON object that says what was expected; (4) no answer holds a secret, since no topic does.
package httpapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/regent-infra/regent/internal/clock"
	"github.com/regent-infra/regent/internal/stream"
	"github.com/regent-infra/regent/internal/topics"
)

// Limits of a request.
const (
	maxHeaderBytes = 32 << 10
	maxBodyBytes   = 1 << 10 // no request needs a body
	maxURLBytes    = 4 << 10
	headerTimeout  = 5 * time.Second
	requestTimeout = 15 * time.Second
	idleTimeout    = 2 * time.Minute
	maxList        = 10_000
	defaultList    = 1_000
)

// ErrSlowWatcher says that a watcher did not take changes as fast as they came.
var ErrSlowWatcher = errors.New("the watcher does not keep up")

// Config is what a server serves.
type Config struct {
	// Listen is the host:port; port 0 lets the system choose.
	Listen string
	// Info answers /v1/info.
	Info Info
	// View is what is read.
	View View
	// Processors run in this process.
	Processors Processors
	// Set is the declaration of the topics.
	Set *topics.Set
	// Metrics are served under /metrics.
	Metrics *prometheus.Registry
	// Logger takes the server's log.
	Logger *slog.Logger
	// Clock tells the time.
	Clock clock.Clock
}

// Server is the HTTP API of one process.
type Server struct {
	config   Config
	listener net.Listener
	http     *http.Server
	requests *prometheus.HistogramVec
	// closing ends watches, which Shutdown would wait for.
	closing context.Context //nolint:containedctx // it is a signal, not a request
	close   context.CancelFunc
}

// Listen opens the address, so that a port that is taken shows before anything else starts.
func Listen(address string) (net.Listener, error) {
	ln, err := net.Listen("tcp", address)
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, fmt.Errorf("listen on %s for the HTTP API: port taken: %w; stop the program that uses it, or choose another port (0: any)", address, err)
	}
	if err != nil {
		return nil, fmt.Errorf("listen on %s for the HTTP API: %w (expected an address of this machine)", address, err)
	}
	return ln, nil
}

// New makes a server on a listener of [Listen].
func New(listener net.Listener, config Config) *Server {
	s := &Server{config: config, listener: listener}
	s.requests = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "regent_http_request_seconds", Help: "Time to answer a request of the HTTP API, by route and status.",
		Buckets: []float64{.001, .005, .025, .1, .5, 2.5, 10},
	}, []string{"route", "status"})
	if config.Metrics != nil {
		config.Metrics.MustRegister(s.requests)
	}
	s.serve(s.Handler())
	return s
}

// NewProbe makes a server that answers only /v1/info, /metrics, /health/live and /health/ready, and /v1/digests where processors run: for a process
// that serves no state, such as an agent or a reducer.
func NewProbe(listener net.Listener, config Config) *Server {
	s := &Server{config: config, listener: listener}
	mux := http.NewServeMux()
	live := s.answer(func(*http.Request) (any, error) { return map[string]string{"status": "live"}, nil })
	ready := live
	if config.Processors != nil {
		ready = s.answer(s.ready)
		mux.Handle("GET /v1/digests", s.answer(s.digests))
	}
	mux.Handle("GET /health/live", live)
	mux.Handle("GET /health/ready", ready)
	mux.Handle("GET /v1/info", s.answer(func(*http.Request) (any, error) { return s.config.Info, nil }))
	mux.Handle("GET /metrics", promhttp.HandlerFor(config.Metrics, promhttp.HandlerOpts{Timeout: requestTimeout}))
	mux.Handle("GET /v1/", s.answer(s.elsewhere))
	mux.Handle("/", http.HandlerFunc(s.unknown))
	s.serve(mux)
	return s
}

// elsewhere is a probe's answer to who takes it for the API.
func (s *Server) elsewhere(r *http.Request) (any, error) {
	return nil, notFound("%s: this process (%s) serves no state; ask one with the role api, any will do: each serves all of it", r.URL.Path,
		strings.Join(s.config.Info.Roles, ", "))
}

// serve prepares the server around a handler.
func (s *Server) serve(handler http.Handler) {
	s.closing, s.close = context.WithCancel(context.Background())
	s.http = &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: headerTimeout,
		ReadTimeout:       requestTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		ErrorLog:          slog.NewLogLogger(s.config.Logger.Handler(), slog.LevelDebug),
	}
}

// URL returns the address that clients connect to.
func (s *Server) URL() string { return "http://" + s.listener.Addr().String() }

// Run serves until ctx ends, then lets requests finish.
func (s *Server) Run(ctx context.Context, ready func()) error {
	served := make(chan error, 1)
	go func() { served <- s.http.Serve(s.listener) }()
	ready()
	select {
	case err := <-served:
		return fmt.Errorf("serve the HTTP API: %w", err)
	case <-ctx.Done():
	}
	s.close()
	ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), requestTimeout)
	defer cancel()
	err := s.http.Shutdown(ending)
	if served := <-served; !errors.Is(served, http.ErrServerClosed) {
		err = errors.Join(err, served)
	}
	if err != nil {
		return fmt.Errorf("stop the HTTP API: %w", err)
	}
	return nil
}

// Handler returns the routes.
func (s *Server) Handler() http.Handler {
	mux := http.NewServeMux()
	route := func(pattern string, h func(*http.Request) (any, error)) {
		mux.Handle("GET "+pattern, s.measured(pattern, s.answer(h)))
	}
	route("/{$}", s.index)
	route("/v1/info", func(*http.Request) (any, error) { return s.config.Info, nil })
	route("/v1/status", s.status)
	route("/v1/clusters", s.clusters)
	route("/v1/clusters/{kind}/{name}", s.cluster)
	route("/v1/resources", s.resources)
	route("/v1/resources/{id...}", s.resource)
	route("/v1/workflows", s.workflows)
	route("/v1/workflows/{id}", s.workflow)
	route("/v1/digests", s.digests)
	route("/health/live", func(*http.Request) (any, error) { return map[string]string{"status": "live"}, nil })
	route("/health/ready", s.ready)
	mux.Handle("GET /v1/watch", http.HandlerFunc(s.watch))
	if s.config.Metrics != nil {
		mux.Handle("GET /metrics", promhttp.HandlerFor(s.config.Metrics, promhttp.HandlerOpts{Timeout: requestTimeout}))
	}
	mux.Handle("/", s.measured("other", http.HandlerFunc(s.unknown)))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Content-Type-Options", "nosniff")
		if len(r.RequestURI) > maxURLBytes {
			writeError(w, &Error{Status: http.StatusRequestURITooLong, Code: "url_too_long", Message: fmt.Sprintf("the URL has %d bytes, expected at most %d", len(r.RequestURI), maxURLBytes)})
			return
		}
		r.Body = http.MaxBytesReader(w, r.Body, maxBodyBytes)
		mux.ServeHTTP(w, r)
	})
}

// Error is an answer that is no result.
type Error struct {
	// Status is the HTTP status.
	Status int `json:"-"`
	// Code is a short constant for programs.
	Code string `json:"code"`
	// Message says what was asked, what was expected, and a hint.
	Message string `json:"message"`
	// Detail is more, where there is more.
	Detail any `json:"detail,omitempty"`
}

// Error implements error.
func (e *Error) Error() string { return e.Message }

func notFound(format string, args ...any) *Error {
	return &Error{Status: http.StatusNotFound, Code: "not_found", Message: fmt.Sprintf(format, args...)}
}

func badRequest(format string, args ...any) *Error {
	return &Error{Status: http.StatusBadRequest, Code: "bad_request", Message: fmt.Sprintf(format, args...)}
}

// answer turns a function that returns a value or an error into a handler of JSON.
func (s *Server) answer(h func(*http.Request) (any, error)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), requestTimeout)
		defer cancel()
		result, err := h(r.WithContext(ctx))
		if err != nil {
			var known *Error
			if !errors.As(err, &known) {
				s.config.Logger.Error("a request failed", "path", r.URL.Path, "error", err)
				known = &Error{Status: http.StatusInternalServerError, Code: "internal", Message: fmt.Sprintf("answer %s: %v", r.URL.Path, err)}
			}
			writeError(w, known)
			return
		}
		writeJSON(w, http.StatusOK, result)
	})
}

func writeError(w http.ResponseWriter, e *Error) {
	writeJSON(w, e.Status, map[string]*Error{"error": e})
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	raw, err := json.Marshal(v)
	if err != nil {
		status, raw = http.StatusInternalServerError, []byte(`{"error":{"code":"internal","message":"the answer cannot be written as JSON"}}`)
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = w.Write(append(raw, '\n')) // the client may be gone
}

// statusWriter remembers the status for the metrics.
type statusWriter struct {
	http.ResponseWriter
	status int
}

// WriteHeader implements http.ResponseWriter.
func (w *statusWriter) WriteHeader(status int) {
	w.status = status
	w.ResponseWriter.WriteHeader(status)
}

func (s *Server) measured(route string, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		begin := s.config.Clock.Now()
		sw := &statusWriter{ResponseWriter: w, status: http.StatusOK}
		next.ServeHTTP(sw, r)
		s.requests.WithLabelValues(route, fmt.Sprint(sw.status)).Observe(s.config.Clock.Now().Sub(begin).Seconds())
	})
}

func (s *Server) unknown(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		writeError(w, &Error{
			Status: http.StatusMethodNotAllowed, Code: "method_not_allowed",
			Message: fmt.Sprintf("%s %s: this API only reads; to have something done, write a command to Kafka or use the regent command", r.Method, r.URL.Path),
		})
		return
	}
	writeError(w, notFound("%s: there is no such path; GET / lists all", r.URL.Path))
}

func (s *Server) index(*http.Request) (any, error) {
	return map[string][]string{"paths": {
		"/v1/info", "/v1/status", "/v1/clusters", "/v1/clusters/{kind}/{name}", "/v1/resources", "/v1/resources/{id}", "/v1/workflows",
		"/v1/workflows/{id}", "/v1/watch", "/v1/digests", "/metrics", "/health/live", "/health/ready",
	}}, nil
}

func (s *Server) digests(r *http.Request) (any, error) {
	digests, err := s.config.Processors.Digests(r.Context())
	if err != nil {
		return nil, fmt.Errorf("compute the digests: %w", err)
	}
	if digests == nil {
		digests = []Digest{}
	}
	return map[string][]Digest{"digests": digests}, nil
}

// Readiness is the answer of /health/ready.
type Readiness struct {
	// Status is ready or not_ready.
	Status string `json:"status"`
	// Reasons say what is missing.
	Reasons []string `json:"reasons,omitempty"`
	// Processors are what runs here.
	Processors []Processor `json:"processors"`
	// ViewLag is how many records the view is behind.
	ViewLag int64 `json:"view_lag"`
}

func (s *Server) readiness() Readiness {
	r := Readiness{Status: "ready", Processors: s.config.Processors.Status()}
	if r.Processors == nil {
		r.Processors = []Processor{}
	}
	var lag int64
	var err error
	if s.config.View != nil { // a probe has none
		lag, err = s.config.View.Lag()
	}
	r.ViewLag = lag
	if err != nil {
		r.Reasons = append(r.Reasons, fmt.Sprintf("the view of the topics does not advance: %v", err))
	}
	if err == nil && lag > 0 {
		r.Reasons = append(r.Reasons, "the view of the topics is catching up with "+plural(int(lag), "record"))
	}
	for _, p := range r.Processors {
		if !p.Ready {
			reason := fmt.Sprintf("%s is %s", p.Processor, p.waits())
			if p.Error != "" {
				reason += ": " + p.Error
			}
			r.Reasons = append(r.Reasons, reason)
		}
	}
	if len(r.Reasons) > 0 {
		r.Status = "not_ready"
	}
	return r
}

// waits says what keeps a processor from being ready.
func (p *Processor) waits() string {
	recovering, behind := 0, int64(0)
	for _, t := range p.Tasks {
		if !t.Running {
			recovering++
		}
		behind += t.Lag
	}
	switch {
	case p.State != stream.StateRunning:
		return string(p.State)
	case len(p.Tasks) == 0:
		return "waiting for its tasks"
	case recovering > 0:
		return fmt.Sprintf("recovering %s", plural(recovering, "task"))
	default:
		return fmt.Sprintf("catching up with %s", plural(int(behind), "record"))
	}
}

func (s *Server) ready(*http.Request) (any, error) {
	r := s.readiness()
	if r.Status != "ready" {
		return nil, &Error{Status: http.StatusServiceUnavailable, Code: "not_ready", Message: "not ready: " + r.Reasons[0], Detail: r}
	}
	return r, nil
}
