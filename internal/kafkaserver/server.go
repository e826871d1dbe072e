package kafkaserver

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"syscall"
	"time"
)

// testFlags are the flags of a broker that serves tests: small, and quick to start.
var testFlags = []string{"-Xmx320m", "-Xms64m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"}

const (
	startTimeout = 90 * time.Second
	stopTimeout  = 60 * time.Second
	pollInterval = 50 * time.Millisecond
)

// Server is one broker. Its methods are for one goroutine.
type Server struct {
	dir, address    string
	java, classPath string
	flags           []string // of the virtual machine; none means testFlags

	cmd  *exec.Cmd
	done chan struct{}
}

// Broker returns the address of the broker, host:port. It stays over restarts.
func (s *Server) Broker() string { return s.address }

// PID returns the id of the broker's process.
func (s *Server) PID() int { return s.cmd.Process.Pid }

// Kill ends the broker with SIGKILL and waits until it is gone.
func (s *Server) Kill() {
	if s.cmd == nil {
		return // never started
	}
	_ = s.cmd.Process.Kill() // gone already is fine
	<-s.done
}

// Stop ends the broker in order: in a cluster, it hands its leaderships over first.
func (s *Server) Stop(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, stopTimeout)
	defer cancel()
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stop the broker at %s: %w", s.address, err)
	}
	select {
	case <-s.done:
		return nil
	case <-ctx.Done():
		s.Kill()
		return fmt.Errorf("stop the broker at %s: it did not end within %s and was killed: %s", s.address, stopTimeout, s.logTail())
	}
}

// Restart starts a broker that was stopped or killed, on its data and at its address. It returns when the broker accepts connections.
func (s *Server) Restart(ctx context.Context) error {
	select {
	case <-s.done:
	default:
		return fmt.Errorf("restart the broker at %s: it is running", s.address)
	}
	if err := s.run(); err != nil {
		return err
	}
	return s.waitReady(ctx)
}

// Pause stops the broker's process where it stands (SIGSTOP), Resume lets it go on.
func (s *Server) Pause() error { return s.signal(syscall.SIGSTOP) }

// Resume lets a paused broker go on.
func (s *Server) Resume() error { return s.signal(syscall.SIGCONT) }

func (s *Server) signal(sig syscall.Signal) error {
	if err := s.cmd.Process.Signal(sig); err != nil {
		return fmt.Errorf("send %s to the broker at %s: %w", sig, s.address, err)
	}
	return nil
}

// run starts the broker from a locked thread that lives as long as the broker: the kernel sends the parent-death signal when the
// thread that forked ends (prctl(2)).
func (s *Server) run() error {
	log, err := os.OpenFile(s.logPath(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("start Apache Kafka: %w", err)
	}
	flags := s.flags
	if flags == nil {
		flags = testFlags
	}
	cmd := exec.Command(s.java, append(slices.Clone(flags), "-cp", s.classPath, "kafka.Kafka", s.properties())...)
	cmd.Stdout, cmd.Stderr = log, log
	// A group of its own: an interrupt of the terminal is for the tests, which then end their brokers.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	done, started := make(chan struct{}), make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer close(done)
		defer log.Close()
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait() // how it ended is in its log
		}
	}()
	if err := <-started; err != nil {
		return fmt.Errorf("start Apache Kafka: %w", err)
	}
	s.cmd, s.done = cmd, done
	return nil
}

// waitReady polls until the broker takes connections, which it does when it has registered and caught up with the controller.
func (s *Server) waitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	ticker := time.NewTicker(pollInterval) //nolint:forbidigo // a test server waits in real time
	defer ticker.Stop()
	var dialer net.Dialer
	for {
		if conn, err := dialer.DialContext(ctx, "tcp", s.address); err == nil {
			return conn.Close()
		}
		select {
		case <-ticker.C:
		case <-s.done:
			return fmt.Errorf("start Apache Kafka: it ended at once: %s", s.logTail())
		case <-ctx.Done():
			s.Kill()
			return fmt.Errorf("start Apache Kafka: not ready within %s: %s", startTimeout, s.logTail())
		}
	}
}
