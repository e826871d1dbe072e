// Package kafkaserver starts a real Apache Kafka for tests: version 4.3.0 in KRaft mode, from its published jars, on loopback.
//
//	server, err := kafkaserver.Start(ctx, dir)               // one broker
//	cluster, err := kafkaserver.StartCluster(ctx, dir, 3)    // three, each broker and controller at once
//	server.Kill(); err = server.Restart(ctx)                 // SIGKILL, and again on the same data and address
//	server.Pause(); server.Resume()                          // SIGSTOP, SIGCONT
//	err = cluster.Roll(ctx, settled)                         // one after the other, in order
//
// A test binary that needs a broker and nothing special about it asks for [Shared], which starts one for all, and runs its tests by
// [Sharing], which ends it.
//
// The jars (jars.sha256 pins each of them) are fetched once into the cache. Java 17 or newer must be installed; where it is
// missing, everything here says so and how to get it. A broker dies with the process that started it.
//
// The settings are those that docs and DESIGN ask of an installation (short transaction time-outs), with what one machine can bear:
// small heaps, few partitions of internal topics, and elections that begin after three seconds of silence.
package kafkaserver

import (
	"bufio"
	"bytes"
	"context"
	_ "embed"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/regent-infra/regent/internal/artifact"
)

//go:embed jars.sha256
var jarList string

// clusterID is any base64 id of 22 characters.
const clusterID = "MkU3OEVBNTcwNTJENDM2Qk"

// Options adjust a broker. The zero value is an open one.
type Options struct {
	// User and Password, where set, are what clients must bring by SASL with SCRAM-SHA-256. The password must not hold a comma, a bracket, or white
	// space.
	User, Password string
	// Advertise, where set, is what each broker (by its place) tells clients to connect to instead of its own address: a proxy, host:port.
	Advertise []string
	// Settings are further lines of server.properties, or others for lines that are there.
	Settings map[string]string
	// JVM are the flags of the broker's virtual machine. Default: a small heap and a compiler that starts quickly, for tests.
	JVM []string
}

// Start fetches what is missing, formats dir and starts a broker that keeps its data there. It returns when the broker accepts
// connections.
func Start(ctx context.Context, dir string) (*Server, error) {
	return StartWith(ctx, dir, Options{})
}

// StartWith is [Start] with options.
func StartWith(ctx context.Context, dir string, options Options) (*Server, error) {
	c, err := start(ctx, dir, 1, options)
	if err != nil {
		return nil, err
	}
	return c.nodes[0], nil
}

// start formats and starts n brokers.
func start(ctx context.Context, dir string, n int, options Options) (*Cluster, error) {
	java, err := Java(ctx)
	if err != nil {
		return nil, fmt.Errorf("start Apache Kafka: %w", err)
	}
	cache, err := artifact.CacheDir()
	if err != nil {
		return nil, fmt.Errorf("start Apache Kafka: %w", err)
	}
	jars := filepath.Join(cache, "kafka-4.3.0")
	if err := artifact.FetchAll(ctx, jars, jarFiles()); err != nil {
		return nil, fmt.Errorf("start Apache Kafka: %w", err)
	}
	c, err := plan(dir, n, options)
	if err != nil {
		return nil, fmt.Errorf("start Apache Kafka: %w", err)
	}
	for _, s := range c.nodes {
		s.java, s.classPath, s.flags = java, filepath.Join(jars, "*"), options.JVM
		if err := s.format(ctx, options); err != nil {
			return nil, err
		}
	}
	for _, s := range c.nodes { // a quorum needs more than one of them, so none is waited for yet
		if err := s.run(); err != nil {
			c.Kill()
			return nil, err
		}
	}
	for _, s := range c.nodes {
		if err := s.waitReady(ctx); err != nil {
			c.Kill()
			return nil, err
		}
	}
	return c, nil
}

// format writes the cluster's identity into the data directory.
func (s *Server) format(ctx context.Context, options Options) error {
	arguments := []string{
		"-Xmx128m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp", s.classPath,
		"kafka.tools.StorageTool", "format", "-t", clusterID, "-c", s.properties(), "--ignore-formatted",
	}
	if options.User != "" {
		arguments = append(arguments, "--add-scram", fmt.Sprintf("SCRAM-SHA-256=[name=%s,password=%s]", options.User, options.Password))
	}
	format := exec.CommandContext(ctx, s.java, arguments...)
	if out, err := format.CombinedOutput(); err != nil {
		return fmt.Errorf("format the data directory of Apache Kafka: %w: %s", err, bytes.TrimSpace(out))
	}
	return nil
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

// logTail is the end of what the broker has said.
func (s *Server) logTail() string {
	raw, err := os.ReadFile(s.logPath())
	if err != nil {
		return err.Error()
	}
	const tail = 2000
	return strings.TrimSpace(string(raw[max(0, len(raw)-tail):]))
}

func (s *Server) logPath() string { return filepath.Join(s.dir, "kafka.log") }
