package registryserver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"syscall"
	"time"

	"github.com/regent-infra/regent/internal/clock"
	"github.com/regent-infra/regent/internal/embedded/registry"
	"github.com/regent-infra/regent/internal/kafka"
)

// DefaultMaxSchemaBytes caps a request unless told otherwise.
const DefaultMaxSchemaBytes = 1 << 20

// Config says where a registry listens and where it keeps its content.
type Config struct {
	// Kafka is the cluster that keeps the topic. Required.
	Kafka kafka.Config
	// Listen is the host:port; port 0 lets the system choose, see [Server.URL]. Required.
	Listen string
	// ReplicationFactor of the topic, where it has to be made; 0: three, or as many as there are brokers.
	ReplicationFactor int16
	// Credentials are what clients must bring.
	Credentials registry.Credentials
	// Compatible reports whether data written with schema writer can be read with schema reader. Required.
	Compatible func(writer, reader string) error
	// MaxSchemaBytes caps a request. Default 1 MiB.
	MaxSchemaBytes int64
	// Logger receives structured logs. Default: discard.
	Logger *slog.Logger
	// Clock is for pauses. Default [clock.System].
	Clock clock.Clock
}

// Server is a running registry. Its methods are safe for concurrent use.
type Server struct {
	log      *topicLog
	http     *http.Server
	listener net.Listener
	cancel   context.CancelFunc
	group    sync.WaitGroup

	failOnce sync.Once
	failed   chan struct{}
	failure  error
}

// Open takes over the topic, reads it to its end and serves. ctx bounds the start.
func Open(ctx context.Context, cfg Config) (_ *Server, err error) {
	if cfg.MaxSchemaBytes == 0 {
		cfg.MaxSchemaBytes = DefaultMaxSchemaBytes
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Clock == nil {
		cfg.Clock = clock.System{}
	}
	if err := cfg.Credentials.Validate(); err != nil {
		return nil, fmt.Errorf("open schema registry: %w", err)
	}
	s := &Server{cancel: func() {}, failed: make(chan struct{})}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close(context.WithoutCancel(ctx)))
		}
	}()
	if s.listener, err = listen(cfg.Listen); err != nil {
		return nil, err
	}
	if s.log, err = openLog(ctx, cfg, s.fail); err != nil {
		return nil, err
	}
	reg, err := registry.New(registry.Config{Log: s.log, Compatible: cfg.Compatible, MaxBytes: cfg.MaxSchemaBytes, Logger: cfg.Logger})
	if err != nil {
		return nil, err
	}
	end, err := s.log.replay(ctx, reg.Load)
	if err != nil {
		return nil, err
	}
	s.serve(cfg, reg.Handler(), end)
	return s, nil
}

func listen(address string) (net.Listener, error) {
	ln, err := net.Listen("tcp", address)
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, fmt.Errorf("listen on %s for the schema registry: port taken: %w; stop the program that uses it, or choose another port (0: any)", address, err)
	}
	if err != nil {
		return nil, fmt.Errorf("listen on %s for the schema registry: %w (expected an address of this machine)", address, err)
	}
	return ln, nil
}

func (s *Server) serve(cfg Config, h http.Handler, end int64) {
	s.http = &http.Server{
		Handler:           cfg.Credentials.Protect(h),
		ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout:       30 * time.Second,
		WriteTimeout:      time.Minute,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          slog.NewLogLogger(cfg.Logger.Handler(), slog.LevelDebug),
	}
	ctx, cancel := context.WithCancel(context.Background())
	s.cancel = cancel
	s.group.Go(func() {
		if err := s.http.Serve(s.listener); !errors.Is(err, http.ErrServerClosed) {
			s.fail(fmt.Errorf("serve schema registry: %w", err))
		}
	})
	s.group.Go(func() { s.log.watch(ctx, end) })
}

// URL returns the address that clients connect to.
func (s *Server) URL() string { return "http://" + s.listener.Addr().String() }

// Failed is closed when the registry can no longer do its work; [Server.Err] says why.
func (s *Server) Failed() <-chan struct{} { return s.failed }

// Err returns why [Server.Failed] was closed, or nil.
func (s *Server) Err() error {
	select {
	case <-s.failed:
		return s.failure
	default:
		return nil
	}
}

func (s *Server) fail(err error) {
	s.failOnce.Do(func() {
		switch {
		case errors.Is(err, kafka.ErrTakenOver):
			err = fmt.Errorf("the schema registry ends: %w; one registry may run per Kafka cluster: stop one of them", err)
		default:
			err = fmt.Errorf("the schema registry ends: %w; start it again when the cause is mended: it reads the topic to know what holds", err)
		}
		s.failure = err
		close(s.failed)
	})
}

// Close lets requests finish until ctx ends and stops the registry.
func (s *Server) Close(ctx context.Context) error {
	s.cancel()
	var err error
	if s.http != nil {
		if err = s.http.Shutdown(ctx); err != nil {
			err = fmt.Errorf("close schema registry: %w", errors.Join(err, s.http.Close()))
		}
	} else if s.listener != nil {
		err = s.listener.Close()
	}
	s.group.Wait()
	if s.log != nil {
		s.log.close()
	}
	return err
}
