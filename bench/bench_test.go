package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/regent-infra/regent/bench/report"
)

func TestEveryBadFlagIsNamed(t *testing.T) {
	_, err := parse([]string{"-rounds", "0", "-keys", "10,x", "-only", "catchup,lunch", "-contenders", "regent,nobody", "-latency-rates", "0", "stray"})
	if err == nil {
		t.Fatal("bad flags were taken")
	}
	for _, want := range []string{"-rounds is 0", `-keys has "x"`, `"lunch"`, `"nobody"`, `-latency-rates has "0"`, `"stray"`} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%s is missing in: %v", want, err)
		}
	}
}

// TestOnApacheKafka runs every figure of Regent and the bare limit once, on few records, each with its check: so the benchmark itself does not rot.
func TestOnApacheKafka(t *testing.T) {
	out := t.TempDir()
	o, err := parse([]string{
		"-rounds", "1", "-records", "80000", "-keys", "2000", "-contenders", "regent,copy", "-latency-rates", "500", "-latency-time", "1s",
		"-latency-warmup", "500ms", "-restart-steady", "500ms", "-dir", t.TempDir(), "-out", out,
	})
	if err != nil {
		t.Fatal(err)
	}
	var said bytes.Buffer
	if err := run(t.Context(), o, &said); err != nil {
		t.Fatalf("%v\n%s", err, said.String())
	}
	raw, err := os.ReadFile(filepath.Join(out, "report.json"))
	if err != nil {
		t.Fatal(err)
	}
	var r report.Report
	if err := json.Unmarshal(raw, &r); err != nil {
		t.Fatal(err)
	}
	got := map[string]bool{}
	for _, s := range r.Samples {
		if s.Value < 0 {
			t.Errorf("%+v is below 0", s)
		}
		got[s.Figure+" "+s.Contender+" "+s.Name] = true
	}
	for _, want := range []string{
		"catchup regent throughput", "catchup copy throughput", "rebuild regent rate", "restart regent first new output",
		"latency regent p99", "latency copy p50",
	} {
		if !got[want] {
			t.Errorf("there is no figure for %q: %v", want, got)
		}
	}
	for _, file := range []string{"report.txt", "charts/catchup-2000-keys-throughput.svg", "profiles-2000-keys/cpu.pprof"} {
		if info, err := os.Stat(filepath.Join(out, file)); err != nil || info.Size() == 0 {
			t.Errorf("%s: %v", file, err)
		}
	}
}
