// Package apicurio starts a real schema registry of other makers for tests: Apicurio Registry 2.6.13, from its published archive, on loopback and
// in memory. Under [Registry.URL] it speaks the interface of Confluent's registry, so that Regent's own can be held against it.
//
// The archive is fetched once into the cache. Java 17 or newer must be installed; where it is missing, [Start] says so and how to get it. The
// registry dies with the process that started it.
package apicurio

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/regent-infra/regent/internal/artifact"
	"github.com/regent-infra/regent/internal/childprocess"
)

const (
	release = "2.6.13.Final"
	// maxFile bounds one file of the archive, bytes.
	maxFile      = 256 << 20
	startTimeout = 2 * time.Minute
	pollInterval = 100 * time.Millisecond
)

var archive = artifact.File{
	Path:   "io/apicurio/apicurio-registry-app/" + release + "/apicurio-registry-app-" + release + "-all.tar.gz",
	SHA256: "3cda1b34aa020fb4ac4dd6a66018d757e81e437f97e20a1f92d366b70091c6ba",
}

// Registry is one that runs.
type Registry struct {
	url     string
	spawner *childprocess.Spawner
	process *childprocess.Process
}

// Start fetches what is missing and starts a registry, whose log is kept in dir. It returns when the registry answers.
func Start(ctx context.Context, dir string) (*Registry, error) {
	java, err := exec.LookPath("java")
	if err != nil {
		return nil, errors.New("start Apicurio Registry: no java in PATH: these tests need Java 17 or newer, for example: apt-get install -y openjdk-17-jdk-headless")
	}
	home, err := install(ctx)
	if err != nil {
		return nil, fmt.Errorf("start Apicurio Registry: %w", err)
	}
	r := &Registry{spawner: childprocess.NewSpawner()}
	r.process = &childprocess.Process{
		Name: "Apicurio Registry", Executable: java, Log: filepath.Join(dir, "apicurio.log"),
		Args: []string{
			"-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Dquarkus.http.host=127.0.0.1", "-Dquarkus.http.port=0",
			"-jar", filepath.Join(home, "apicurio-registry-app-"+release+"-runner.jar"),
		},
	}
	if err := r.process.Start(r.spawner); err != nil {
		r.Close()
		return nil, err
	}
	if err := r.waitReady(ctx); err != nil {
		r.Close()
		return nil, err
	}
	return r, nil
}

// URL returns the address of the interface that Confluent's clients speak.
func (r *Registry) URL() string { return r.url }

// Close kills the registry.
func (r *Registry) Close() {
	r.spawner.Close()
	if done := r.process.Done(); done != nil {
		<-done
	}
}

var listening = regexp.MustCompile(`Listening on: (http://\S+)`)

// waitReady polls until the registry has said where it listens.
func (r *Registry) waitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	ticker := time.NewTicker(pollInterval) //nolint:forbidigo // a test server waits in real time
	defer ticker.Stop()
	for {
		log, err := os.ReadFile(r.process.Log)
		if err != nil {
			return fmt.Errorf("start Apicurio Registry: %w", err)
		}
		if m := listening.FindSubmatch(log); m != nil {
			r.url = string(m[1]) + "/apis/ccompat/v7"
			return nil
		}
		select {
		case <-ticker.C:
		case <-r.process.Done():
			return fmt.Errorf("start Apicurio Registry: it ended at once: %s", log)
		case <-ctx.Done():
			return fmt.Errorf("start Apicurio Registry: not ready within %s: %s", startTimeout, log)
		}
	}
}

// install unpacks the archive beside its final place and moves it there with one rename.
func install(ctx context.Context) (string, error) {
	cache, err := artifact.CacheDir()
	if err != nil {
		return "", err
	}
	home := filepath.Join(cache, "apicurio-registry-"+archive.SHA256[:12])
	if _, err := os.Stat(home); err == nil {
		return home, nil
	}
	if err := artifact.FetchAll(ctx, cache, []artifact.File{archive}); err != nil {
		return "", err
	}
	packed := filepath.Join(cache, filepath.Base(archive.Path))
	temporary, err := os.MkdirTemp(cache, ".apicurio-*")
	if err != nil {
		return "", fmt.Errorf("unpack %s: %w", packed, err)
	}
	defer func() { _ = os.RemoveAll(temporary) }() // gone already when the rename succeeded
	if err := unpack(ctx, packed, temporary); err != nil {
		return "", fmt.Errorf("unpack %s: %w", packed, err)
	}
	if err := os.Rename(temporary, home); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", fmt.Errorf("unpack %s: %w", packed, err)
	}
	_ = os.Remove(packed) // another process may have been faster
	return home, nil
}

// unpack writes the files of a compressed tar below dir. os.Root keeps every name inside.
func unpack(ctx context.Context, packed, dir string) error {
	file, err := os.Open(packed)
	if err != nil {
		return err
	}
	defer file.Close()
	plain, err := gzip.NewReader(file)
	if err != nil {
		return err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	for entries := tar.NewReader(plain); ; {
		header, err := entries.Next()
		if errors.Is(err, io.EOF) {
			return ctx.Err()
		}
		if err != nil {
			return err
		}
		name := filepath.Clean(header.Name)
		switch header.Typeflag {
		case tar.TypeDir:
			err = root.MkdirAll(name, 0o755)
		case tar.TypeReg:
			err = write(root, name, entries)
		default:
			err = fmt.Errorf("%s is neither file nor folder", strings.ToValidUTF8(header.Name, "?"))
		}
		if err != nil {
			return errors.Join(err, ctx.Err())
		}
	}
}

func write(root *os.Root, name string, from io.Reader) error {
	if err := root.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	file, err := root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_, err = io.Copy(file, io.LimitReader(from, maxFile))
	return errors.Join(err, file.Close())
}
