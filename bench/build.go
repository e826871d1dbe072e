package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/regent-infra/regent/internal/artifact"
	"github.com/regent-infra/regent/schemas"
)

// program is an executable of some contenders.
type program string

const (
	programRegent  program = "regent"
	programCopy    program = "copy"
	programGoka    program = "goka"
	programStreams program = "kafkastreams"
)

// builder builds programs, each once.
type builder struct {
	root  string // of the repository
	out   string // for Go programs
	built map[program][]string
}

// command returns the command that starts a program, without arguments, and builds the program before if need be.
func (b *builder) command(ctx context.Context, p program) ([]string, error) {
	if command, ok := b.built[p]; ok {
		return command, nil
	}
	var command []string
	var err error
	if p == programStreams {
		command, err = b.java(ctx)
	} else {
		command, err = b.golang(ctx, p)
	}
	if err != nil {
		return nil, fmt.Errorf("build the contender %s: %w", p, err)
	}
	b.built[p] = command
	return command, nil
}

// golang builds bench/NAME, in its own module where it has one.
func (b *builder) golang(ctx context.Context, p program) ([]string, error) {
	binary := filepath.Join(b.out, string(p))
	build := exec.CommandContext(ctx, "go", "build", "-o", binary, ".")
	build.Dir = filepath.Join(b.root, "bench", string(p))
	if out, err := build.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("%w: %s", err, strings.TrimSpace(string(out)))
	}
	return []string{binary}, nil
}

// javaSchemas are what the Java contender generates classes from.
var javaSchemas = []string{"envelope_header.avsc", "query_metrics.avsc"}

// java builds the Kafka Streams contender with Maven in the cache, under the hash of its sources.
func (b *builder) java(ctx context.Context) ([]string, error) {
	files, err := b.javaFiles()
	if err != nil {
		return nil, err
	}
	cache, err := artifact.CacheDir()
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(cache, "bench-kafkastreams-"+hashOf(files))
	jar := filepath.Join(dir, "target", "bench-kafkastreams-1.jar")
	if _, err := os.Stat(jar); errors.Is(err, fs.ErrNotExist) {
		if err := mavenPackage(ctx, dir, files); err != nil {
			return nil, err
		}
	} else if err != nil {
		return nil, err
	}
	return []string{
		"java", "-XX:+UseG1GC", "-Dorg.apache.avro.specific.use_custom_coders=true", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
		"-cp", jar + ":" + filepath.Join(dir, "target", "lib", "*"), "io.regent.bench.Main",
	}, nil
}

// source is one file to build from, its path relative to the folder of the build.
type source struct {
	path string
	data []byte
}

func (b *builder) javaFiles() ([]source, error) {
	var files []source
	top := filepath.Join(b.root, "bench", string(programStreams))
	for _, part := range []string{"pom.xml", "src"} {
		err := filepath.WalkDir(filepath.Join(top, part), func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			rel, err := filepath.Rel(top, path)
			files = append(files, source{rel, data})
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	for _, name := range javaSchemas {
		data, err := plainSchema(name)
		if err != nil {
			return nil, err
		}
		files = append(files, source{filepath.Join("src", "main", "avro", name), data})
	}
	return files, nil
}

// plainSchema returns a schema without logical types: turning a number into an object of Java's calendar and back would only cost it
// time.
func plainSchema(name string) ([]byte, error) {
	raw, err := schemas.Files.ReadFile(name)
	if err != nil {
		return nil, err
	}
	var schema map[string]any
	if err := json.Unmarshal(raw, &schema); err != nil {
		return nil, fmt.Errorf("read the schema %s: %w", name, err)
	}
	fields, _ := schema["fields"].([]any)
	for _, f := range fields {
		field, _ := f.(map[string]any)
		if typ, ok := field["type"].(map[string]any); ok {
			delete(typ, "logicalType")
		}
	}
	return json.Marshal(schema)
}

func hashOf(files []source) string {
	h := sha256.New()
	for _, f := range files {
		fmt.Fprintf(h, "%s %d\n", f.path, len(f.data))
		h.Write(f.data)
	}
	return hex.EncodeToString(h.Sum(nil))[:16]
}

// mavenPackage builds beside the final place and moves it there, so that a build that is killed leaves nothing that looks complete.
func mavenPackage(ctx context.Context, dir string, files []source) error {
	if _, err := exec.LookPath("mvn"); err != nil {
		return errors.New("no mvn in PATH: the Kafka Streams contender needs Maven and a JDK of version 17 or newer, for example: " +
			"apt-get install -y maven openjdk-17-jdk-headless; or leave it out with -contenders regent,copy")
	}
	beside, err := os.MkdirTemp(filepath.Dir(dir), "bench-build-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(beside)
	for _, f := range files {
		path := filepath.Join(beside, f.path)
		if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
			return err
		}
		if err := os.WriteFile(path, f.data, 0o600); err != nil {
			return err
		}
	}
	build := exec.CommandContext(ctx, "mvn", "-q", "-B", "package")
	build.Dir = beside
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("mvn package: %w: %s", err, strings.TrimSpace(string(out)))
	}
	return os.Rename(beside, dir)
}
