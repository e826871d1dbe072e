package report

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"strings"
	"testing"
	"time"
)

func example() *Report {
	r := &Report{
		Began: time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC), Took: 90 * time.Second, Command: "make bench", Commit: "abc",
		Machine: []Fact{{"processors", "2"}}, Failures: []string{"catchup of goka: lost"},
	}
	for round, v := range []float64{100_000, 120_000, 90_000} {
		s := Sample{Figure: "catchup", Keys: 100_000, Contender: "regent", Round: round + 1}
		r.Samples = append(r.Samples, s.With("throughput", v, "records/s"), s.With("client CPU", 9.5, "s"))
		s.Contender = "a<b"
		r.Samples = append(r.Samples, s.With("throughput", v/4, "records/s"))
	}
	r.Samples = append(r.Samples, Sample{Figure: "latency", Load: "1000/s", Keys: 5000, Contender: "regent", Round: 1}.With("p50", 0, "ms"))
	return r
}

func TestTextHasMediansWithTheirRange(t *testing.T) {
	var b bytes.Buffer
	if err := example().Text(&b); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"Benchmark of 2026-03-04 05:06 UTC, commit abc, took 1m30s", "Command: make bench", "processors  2", "catchup, 100,000 keys",
		"100,000 [90,000..120,000]", "25,000 [22,500..30,000]", "latency, 5,000 keys, 1000/s", "FAILED: catchup of goka: lost",
	} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("%q is missing in\n%s", want, b.String())
		}
	}
}

func TestJSONHasEverySample(t *testing.T) {
	var b bytes.Buffer
	if err := example().JSON(&b); err != nil {
		t.Fatal(err)
	}
	var back Report
	if err := json.Unmarshal(b.Bytes(), &back); err != nil || len(back.Samples) != 10 || back.Samples[0] != example().Samples[0] {
		t.Errorf("got %+v, %v", back, err)
	}
}

func TestChartsAreWellFormed(t *testing.T) {
	charts := example().Charts()
	if len(charts) != 3 || charts[0].Name != "catchup-100000-keys-throughput" || charts[2].Name != "latency-5000-keys-1000-s-p50" {
		t.Fatalf("got %v", charts)
	}
	for _, c := range charts {
		var b bytes.Buffer
		if err := c.SVG(&b); err != nil {
			t.Fatal(err)
		}
		for d := xml.NewDecoder(&b); ; {
			if _, err := d.Token(); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				t.Fatalf("%s: %v", c.Name, err)
			}
		}
	}
}

func TestTicksAreRoundAndFew(t *testing.T) {
	for _, top := range []float64{0, 0.03, 1, 3.3, 9.9, 47, 100, 123_456, 500_000} {
		step := tick(top)
		if n := top / step; top > 0 && (n < 1.5 || n > 7) {
			t.Errorf("tick(%g) is %g, %g of which fit", top, step, n)
		}
	}
}
