package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"

	"github.com/regent-infra/regent/bench/report"
)

// machineFacts says what the benchmark runs on.
func machineFacts() []report.Fact {
	facts := []report.Fact{{Name: "processors", Value: fmt.Sprint(runtime.NumCPU())}}
	for _, f := range []struct{ name, file, line string }{
		{"processor", "/proc/cpuinfo", "model name"},
		{"memory", "/proc/meminfo", "MemTotal"},
	} {
		raw, err := os.ReadFile(f.file)
		if err != nil {
			continue // not everywhere
		}
		for line := range strings.Lines(string(raw)) {
			if name, value, _ := strings.Cut(line, ":"); strings.TrimSpace(name) == f.line {
				facts = append(facts, report.Fact{Name: f.name, Value: strings.TrimSpace(value)})
				break
			}
		}
	}
	if raw, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		facts = append(facts, report.Fact{Name: "kernel", Value: strings.TrimSpace(string(raw))})
	}
	return facts
}

// versionFacts says which versions took part.
func versionFacts(ctx context.Context, root string) []report.Fact {
	facts := []report.Fact{
		{Name: "Go", Value: runtime.Version()},
		{Name: "Apache Kafka (broker)", Value: "4.3.0"},
		{Name: "Kafka Streams", Value: "4.3.0"},
	}
	if out, err := exec.CommandContext(ctx, "java", "-version").CombinedOutput(); err == nil {
		first, _, _ := bytes.Cut(out, []byte("\n"))
		facts = append(facts, report.Fact{Name: "Java", Value: string(first)})
	}
	if raw, err := os.ReadFile(filepath.Join(root, "bench", string(programGoka), "go.mod")); err == nil {
		for line := range strings.Lines(string(raw)) {
			if f := strings.Fields(line); len(f) == 2 && f[0] == "github.com/lovoo/goka" {
				facts = append(facts, report.Fact{Name: "Goka", Value: f[1]})
			}
		}
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return facts
	}
	for _, dep := range info.Deps {
		switch dep.Path {
		case "github.com/twmb/franz-go", "github.com/cockroachdb/pebble/v2", "github.com/twmb/avro":
			facts = append(facts, report.Fact{Name: dep.Path, Value: dep.Version})
		}
	}
	return facts
}

// commit names the source that is measured.
func commit(ctx context.Context, root string) string {
	describe := exec.CommandContext(ctx, "git", "describe", "--tags", "--always", "--dirty")
	describe.Dir = root
	out, err := describe.Output()
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(out))
}
