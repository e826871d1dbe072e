// Package kafkaserver starts a real Apache Kafka for tests: version 4.3.0 in KRaft mode, from its published jars, on loopback.
//
// The jars (jars.sha256 pins each of them) are fetched once into the cache. Java 17 or newer must be installed; where it is
// missing, [Start] says so and how to get it. A broker dies with the process that started it.
package kafkaserver

import (
	"bufio"
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/regent-infra/regent/internal/artifact"
)

//go:embed jars.sha256
var jarList string

// clusterID is any base64 id of 22 characters.
const clusterID = "MkU3OEVBNTcwNTJENDM2Qk"

const (
	heap         = "-Xmx512m"
	startTimeout = 60 * time.Second
	pollInterval = 100 * time.Millisecond
)

// Options adjust a broker. The zero value is an open one.
type Options struct {
	// User and Password, where set, are what clients must bring by SASL with SCRAM-SHA-256. The password must not hold a comma, a bracket, or white
	// space.
	User, Password string
}

// Server is one running broker.
type Server struct {
	dir, address, classPath string

	options Options
	cmd     *exec.Cmd
	done    chan struct{}
}

// Start fetches what is missing, formats dir and starts a broker that keeps its data there. It returns when the broker accepts
// connections.
func Start(ctx context.Context, dir string) (*Server, error) {
	return StartWith(ctx, dir, Options{})
}

// StartWith is [Start] with options.
func StartWith(ctx context.Context, dir string, options Options) (*Server, error) {
	java, err := exec.LookPath("java")
	if err != nil {
		return nil, errors.New("start Apache Kafka: no java in PATH: these tests need Java 17 or newer, for example: apt-get install -y openjdk-17-jre-headless")
	}
	cache, err := artifact.CacheDir()
	if err != nil {
		return nil, fmt.Errorf("start Apache Kafka: %w", err)
	}
	jars := filepath.Join(cache, "kafka-4.3.0")
	if err := artifact.FetchAll(ctx, jars, jarFiles()); err != nil {
		return nil, fmt.Errorf("start Apache Kafka: %w", err)
	}
	s := &Server{dir: dir, options: options, classPath: filepath.Join(jars, "*")}
	if err := s.configure(); err != nil {
		return nil, fmt.Errorf("start Apache Kafka: %w", err)
	}
	arguments := []string{
		"-Xmx128m", "-XX:TieredStopAtLevel=1", "-cp", s.classPath, "kafka.tools.StorageTool", "format", "-t", clusterID, "-c", s.properties(), "--ignore-formatted",
	}
	if options.User != "" {
		arguments = append(arguments, "--add-scram", fmt.Sprintf("SCRAM-SHA-256=[name=%s,password=%s]", options.User, options.Password))
	}
	format := exec.CommandContext(ctx, java, arguments...)
	if out, err := format.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("format the data directory of Apache Kafka: %w: %s", err, bytes.TrimSpace(out))
	}
	if err := s.run(java); err != nil {
		return nil, err
	}
	if err := s.waitReady(ctx); err != nil {
		s.Kill()
		return nil, err
	}
	return s, nil
}

// Broker returns the address of the broker, host:port.
func (s *Server) Broker() string { return s.address }

// Kill ends the broker with SIGKILL and waits until it is gone.
func (s *Server) Kill() {
	_ = s.cmd.Process.Kill() // gone already is fine
	<-s.done
}

func jarFiles() []artifact.File {
	var files []artifact.File
	for scanner := bufio.NewScanner(strings.NewReader(jarList)); scanner.Scan(); {
		sum, path, _ := strings.Cut(scanner.Text(), "  ")
		files = append(files, artifact.File{Path: path, SHA256: sum})
	}
	return files
}

func (s *Server) properties() string { return filepath.Join(s.dir, "server.properties") }

// The ports are taken from below the range that the kernel gives to outgoing connections, and never twice in a process: a port that was
// found free stays free until the broker, seconds later, listens on it.
const (
	firstPort = 20000
	lastPort  = 31999
)

var claimed = struct {
	sync.Mutex
	ports map[int]bool
}{ports: map[int]bool{}}

// claimPorts returns n ports that nobody listens on.
func claimPorts(n int) ([]int, error) {
	claimed.Lock()
	defer claimed.Unlock()
	var ports []int
	for range 1000 {
		port := firstPort + rand.IntN(lastPort-firstPort+1)
		if claimed.ports[port] {
			continue
		}
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			continue // taken
		}
		if err := l.Close(); err != nil {
			return nil, fmt.Errorf("find a free port: %w", err)
		}
		claimed.ports[port] = true
		if ports = append(ports, port); len(ports) == n {
			return ports, nil
		}
	}
	return nil, fmt.Errorf("find %d free ports from %d to %d: all that were tried are taken", n, firstPort, lastPort)
}

func (s *Server) configure() error {
	ports, err := claimPorts(3)
	if err != nil {
		return err
	}
	s.address = fmt.Sprintf("127.0.0.1:%d", ports[0])
	protocol, sasl := "PLAINTEXT", ""
	if s.options.User != "" {
		protocol = "SASL_PLAINTEXT"
		sasl = "listener.name.client.sasl.enabled.mechanisms=SCRAM-SHA-256\n" +
			"listener.name.client.scram-sha-256.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;\n"
	}
	config := fmt.Sprintf(`process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:%[2]d
listeners=CLIENT://127.0.0.1:%[1]d,BROKER://127.0.0.1:%[4]d,CONTROLLER://127.0.0.1:%[2]d
advertised.listeners=CLIENT://127.0.0.1:%[1]d,BROKER://127.0.0.1:%[4]d
inter.broker.listener.name=BROKER
controller.listener.names=CONTROLLER
listener.security.protocol.map=CLIENT:%[5]s,BROKER:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs=%[3]s
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
transaction.max.timeout.ms=10000
transaction.abort.timed.out.transaction.cleanup.interval.ms=1000
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
auto.create.topics.enable=false
`, ports[0], ports[1], filepath.Join(s.dir, "data"), ports[2], protocol)
	return os.WriteFile(s.properties(), []byte(config+sasl), 0o600)
}

// run starts the broker from a locked thread that lives as long as the broker: the kernel sends the parent-death signal when the
// thread that forked ends (prctl(2)).
func (s *Server) run(java string) error {
	log, err := os.Create(filepath.Join(s.dir, "kafka.log"))
	if err != nil {
		return fmt.Errorf("start Apache Kafka: %w", err)
	}
	s.cmd = exec.Command(java, heap, "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp", s.classPath, "kafka.Kafka", s.properties())
	s.cmd.Stdout, s.cmd.Stderr = log, log
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	s.done = make(chan struct{})
	started := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer close(s.done)
		defer log.Close()
		err := s.cmd.Start()
		started <- err
		if err == nil {
			_ = s.cmd.Wait() // how it ended is in its log
		}
	}()
	if err := <-started; err != nil {
		return fmt.Errorf("start Apache Kafka: %w", err)
	}
	return nil
}

// waitReady polls until the broker has said in its log that it is started.
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
			return fmt.Errorf("start Apache Kafka: not ready within %s: %s", startTimeout, s.logTail())
		}
	}
}

func (s *Server) logTail() string {
	raw, err := os.ReadFile(filepath.Join(s.dir, "kafka.log"))
	if err != nil {
		return err.Error()
	}
	const tail = 2000
	return strings.TrimSpace(string(raw[max(0, len(raw)-tail):]))
}
