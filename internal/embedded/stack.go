package embedded

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/regent-infra/regent/internal/embedded/registry"
)

// Stack is a running broker and registry. Its methods are safe for concurrent use.
type Stack struct {
	dir      *directory
	broker   *broker
	log      *schemaLog
	server   *http.Server
	registry net.Listener
	cancel   context.CancelFunc
	group    sync.WaitGroup

	closeOnce sync.Once
	closeErr  error
}

// Open starts the broker and the registry in the data directory, after making whole what a crash may have left there.
// ctx bounds the start, not the life of the stack. Errors name the directory or address, what was expected and what to
// do; see also [ErrInUse], [ErrOtherVersion], [ErrOtherCluster] and [ErrDiskFull].
func Open(ctx context.Context, cfg Config) (_ *Stack, err error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("open embedded broker: %w", err)
	}
	cfg = cfg.withDefaults()
	s := &Stack{cancel: func() {}}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.shutdown(context.WithoutCancel(ctx)))
		}
	}()
	if s.dir, err = openDirectory(cfg); err != nil {
		return nil, err
	}
	if s.registry, err = listenTCP("schema registry", cfg.RegistryListen); err != nil {
		return nil, err
	}
	if s.broker, err = startBroker(cfg, s.dir); err != nil {
		return nil, err
	}
	if s.log, err = openSchemaLog(ctx, cfg, s.broker.listener.Listener.Addr()); err != nil {
		return nil, err
	}
	reg, err := registry.New(registry.Config{Log: s.log, Compatible: cfg.Compatible, MaxBytes: cfg.MaxSchemaBytes, Logger: cfg.Logger})
	if err != nil {
		return nil, err
	}
	if err := s.log.replay(ctx, reg.Load); err != nil {
		return nil, err
	}
	s.serve(cfg, cfg.RegistryCredentials.Protect(reg.Handler()))
	return s, nil
}

func (s *Stack) serve(cfg Config, h http.Handler) {
	s.server = &http.Server{
		Handler:           h,
		ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout:       30 * time.Second,
		WriteTimeout:      30 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          slog.NewLogLogger(cfg.Logger.Handler(), slog.LevelDebug),
	}
	ctx, cancel := context.WithCancel(context.Background())
	s.cancel = cancel
	s.group.Go(func() {
		if err := s.server.Serve(s.registry); !errors.Is(err, http.ErrServerClosed) {
			s.broker.fail(fmt.Errorf("serve schema registry: %w", err))
		}
	})
	s.group.Go(func() { s.broker.retain(ctx) })
}

// Brokers returns the addresses that Kafka clients connect to.
func (s *Stack) Brokers() []string { return []string{s.broker.listener.Addr().String()} }

// RegistryURL returns the address of the schema registry.
func (s *Stack) RegistryURL() string { return "http://" + s.registry.Addr().String() }

// ClusterID returns the Kafka cluster id, which stays with the data directory.
func (s *Stack) ClusterID() string { return s.dir.id.ClusterID }

// Failed is closed when the stack has stopped working because it could not write to its disk; [Stack.Err] says why.
// Nothing that was acknowledged is lost: close the stack, mend the cause and open it again.
func (s *Stack) Failed() <-chan struct{} { return s.broker.failed }

// Err returns why [Stack.Failed] was closed, or nil.
func (s *Stack) Err() error {
	select {
	case <-s.broker.failed:
		return s.broker.failure
	default:
		return nil
	}
}

// Close ends the registry and the broker in order and releases the directory. Requests to the registry that are under
// way are finished until ctx ends; clients of the broker are cut off. Further calls return the same error.
func (s *Stack) Close(ctx context.Context) error {
	s.closeOnce.Do(func() { s.closeErr = s.shutdown(ctx) })
	return s.closeErr
}

// shutdown ends what was started, last first.
func (s *Stack) shutdown(ctx context.Context) error {
	var errs []error
	note := func(what string, err error) {
		if err != nil && !errors.Is(err, net.ErrClosed) {
			errs = append(errs, fmt.Errorf("close %s: %w", what, err))
		}
	}
	s.cancel()
	if s.server != nil {
		if err := s.server.Shutdown(ctx); err != nil {
			note("schema registry", s.server.Close())
		}
	}
	s.group.Wait()
	if s.log != nil {
		s.log.close()
	}
	if s.broker != nil {
		note("broker", s.broker.close())
	}
	if s.registry != nil {
		note("schema registry", s.registry.Close())
	}
	if s.dir != nil {
		note("data directory", s.dir.close())
	}
	return errors.Join(errs...)
}
