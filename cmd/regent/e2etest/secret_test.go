package e2etest

import (
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/regent-infra/regent/internal/canary"
	"github.com/regent-infra/regent/internal/kafka"
	"github.com/regent-infra/regent/statestore/pebblestore"
)

// secretFiles are the files that hold secrets because that is what they are for.
func (b *bed) secretFile(path string) bool {
	switch filepath.Base(path) {
	case "passfile", "superuser.password", "replication.password", "rewind.password", "registry.password", "sasl.password", "inline.yaml":
		return true
	}
	return false
}

// quiet fails the test for every canary that is found in what was printed, in logs and other files, in command lines, and behind HTTP. PostgreSQL's own data
// directories are left out: they hold verifiers.
func (b *bed) quiet(n *nodes, servers []string) {
	b.t.Helper()
	findings := b.cage.Scan("what commands have printed", b.said.Bytes())
	files := 0
	err := filepath.WalkDir(b.dir, func(path string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil && os.IsNotExist(err):
			return nil
		case err != nil:
			return err
		case entry.IsDir() && slices.ContainsFunc(n.all, func(m *node) bool { return m.dataDir == path }):
			return fs.SkipDir
		case !entry.Type().IsRegular() || b.secretFile(path):
			return nil
		}
		raw, err := os.ReadFile(path)
		if err != nil && !os.IsNotExist(err) {
			return err
		}
		files++
		findings = append(findings, b.cage.Scan(path, raw)...)
		return nil
	})
	if err != nil || files < len(b.processes) {
		b.t.Errorf("looked into %d files: %v", files, err)
	}
	for _, p := range b.processes {
		if !p.Running() {
			continue
		}
		for _, what := range []string{"cmdline", "environ"} {
			raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", p.PID(), what))
			if err != nil {
				b.t.Error(err)
			}
			findings = append(findings, b.cage.Scan(p.Name+"'s "+what, raw)...)
		}
	}
	for _, server := range servers {
		findings = append(findings, b.quietServer(server)...)
	}
	b.report(findings)
}

// quietServer asks for every path of a server.
func (b *bed) quietServer(server string) (findings []canary.Finding) {
	b.t.Helper()
	paths := []string{"/metrics", "/v1/info", "/health/ready", "/v1/digests", "/v1/no-such-path"}
	var index struct {
		Paths []string `json:"paths"`
	}
	if _, _, err := b.get(server, "/", &index); err != nil {
		b.t.Error(err)
	}
	for _, path := range append(paths, index.Paths...) {
		if strings.Contains(path, "watch") || strings.Contains(path, "{") {
			continue
		}
		status, body, err := b.get(server, path, nil)
		if err != nil || len(body) == 0 || status >= http.StatusInternalServerError {
			b.t.Errorf("%s%s: %d, %d bytes, %v", server, path, status, len(body), err)
		}
		findings = append(findings, b.cage.Scan(server+path, body)...)
	}
	return findings
}

// quietTopics fails the test for every canary in a topic, internal ones too.
func (b *bed) quietTopics(config kafka.Config) {
	b.t.Helper()
	admin, err := kafka.NewAdmin(config)
	if err != nil {
		b.t.Fatal(err)
	}
	defer admin.Close()
	findings, records, err := b.cage.ScanTopics(b.patient(), admin)
	if err != nil || records < 100 {
		b.t.Errorf("looked into %d records: %v", records, err)
	}
	b.t.Logf("looked into %d records", records)
	b.report(findings)
}

// quietStore fails the test for every canary in the state store of a process that has ended: its files are compressed, so it is read.
func (b *bed) quietStore(dir string) {
	b.t.Helper()
	store, err := pebblestore.Open(pebblestore.Options{Dir: filepath.Join(dir, "state"), CacheBytes: 1 << 20, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		b.t.Error(err)
		return
	}
	defer store.Close()
	it, err := store.Scan(nil, nil)
	if err != nil {
		b.t.Error(err)
		return
	}
	defer it.Close()
	entries := 0
	var findings []canary.Finding
	for it.Next() {
		entries++
		findings = append(findings, b.cage.Scan("the store in "+dir, slices.Concat(it.Key(), []byte{0}, it.Value()))...)
	}
	if err := it.Err(); err != nil || entries == 0 {
		b.t.Errorf("the store in %s has %d entries, %v", dir, entries, err)
	}
	b.report(findings)
}

func (b *bed) report(findings []canary.Finding) {
	b.t.Helper()
	for _, f := range findings {
		b.t.Error(f)
	}
}
