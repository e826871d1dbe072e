package foreign

import (
	"bufio"
	"bytes"
	"context"
	_ "embed"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/regent-infra/regent/internal/artifact"
	"github.com/regent-infra/regent/internal/kafkaserver"
)

// jars.sha256 pins what docs/clients/java/pom.xml asks for, in turn, and the compiler of Eclipse: it needs no more than the Java that the tests need anyway,
// where Maven would need a development kit.
//
//go:embed jars.sha256
var jarList string

const compiler = "ecj-3.40.0.jar"

// Java fetches the libraries of the Java programs and compiles the programs.
func Java(ctx context.Context, root string) (*Program, error) {
	java, err := kafkaserver.Java(ctx)
	if err != nil {
		return nil, err
	}
	cache, err := artifact.CacheDir()
	if err != nil {
		return nil, err
	}
	jars := filepath.Join(cache, "clients-java-jars-"+hash([]byte(jarList)))
	if err := artifact.FetchAll(ctx, jars, jarFiles()); err != nil {
		return nil, fmt.Errorf("prepare the Java programs: %w", err)
	}
	sources := filepath.Join(root, "docs", "clients", "java", "src", "main", "java")
	asked, err := contents(sources)
	if err != nil {
		return nil, err
	}
	libraries := filepath.Join(jars, "*")
	classes, err := cached(ctx, "clients-java", append(asked, jarList...), func(beside string) error {
		return run(exec.CommandContext(ctx, java, "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-jar", filepath.Join(jars, compiler),
			"-17", "-proc:none", "-encoding", "UTF-8", "-classpath", classPath(jars), "-d", beside, sources))
	})
	if err != nil {
		return nil, fmt.Errorf("compile the Java programs: %w", err)
	}
	return &Program{command: func(name string) []string {
		return []string{
			java, "-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
			"-cp", classes + ":" + libraries, "io.regent.clients." + strings.ToUpper(name[:1]) + name[1:],
		}
	}}, nil
}

func jarFiles() []artifact.File {
	var files []artifact.File
	for scanner := bufio.NewScanner(strings.NewReader(jarList)); scanner.Scan(); {
		sum, path, _ := strings.Cut(scanner.Text(), "  ")
		files = append(files, artifact.File{Path: path, SHA256: sum})
	}
	return files
}

// classPath names each library: the compiler knows no wildcard.
func classPath(dir string) string {
	var paths []string
	for _, f := range jarFiles() {
		if name := filepath.Base(f.Path); name != compiler {
			paths = append(paths, filepath.Join(dir, name))
		}
	}
	return strings.Join(paths, ":")
}

// contents returns the names and contents of all files below a folder.
func contents(dir string) ([]byte, error) {
	var all bytes.Buffer
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		content, err := os.ReadFile(path)
		fmt.Fprintf(&all, "%s %d\n%s", d.Name(), len(content), content)
		return err
	})
	return all.Bytes(), err
}
