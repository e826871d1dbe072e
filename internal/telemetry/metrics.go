package telemetry

import (
	"runtime/debug"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
)

// Build says which binary this is.
type Build struct {
	// Version as released, or as git describes it; "unknown" for a build outside git.
	Version string `json:"version" yaml:"version"`
	// Commit that it was built from; empty if unknown.
	Commit string `json:"commit,omitempty" yaml:"commit,omitempty"`
	// CommittedAt is the time of that commit, RFC 3339.
	CommittedAt string `json:"committed_at,omitempty" yaml:"committed_at,omitempty"`
	// Modified says whether the tree had changes.
	Modified bool `json:"modified" yaml:"modified"`
	// Go is the version of the toolchain.
	Go string `json:"go" yaml:"go"`
}

// ReadBuild returns what the toolchain wrote into the binary. version, where not empty, was set by the linker and wins.
func ReadBuild(version string) Build {
	b := Build{Version: version}
	info, ok := debug.ReadBuildInfo()
	if ok {
		b.Go = info.GoVersion
		for _, s := range info.Settings {
			switch s.Key {
			case "vcs.revision":
				b.Commit = s.Value
			case "vcs.time":
				b.CommittedAt = s.Value
			case "vcs.modified":
				b.Modified = s.Value == "true"
			}
		}
		if b.Version == "" && info.Main.Version != "(devel)" {
			b.Version = info.Main.Version
		}
	}
	if b.Version == "" {
		b.Version = "unknown"
	}
	return b
}

// NewRegistry returns the metrics registry of a process with what Go and the operating system say about it, and regent_build_info.
func NewRegistry(b Build) *prometheus.Registry {
	r := prometheus.NewRegistry()
	info := prometheus.NewGauge(prometheus.GaugeOpts{
		Name:        "regent_build_info",
		Help:        "Always 1; the labels say which build this is.",
		ConstLabels: prometheus.Labels{"version": b.Version, "commit": b.Commit, "go": b.Go},
	})
	info.Set(1)
	r.MustRegister(info, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return r
}
