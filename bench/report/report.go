// Package report keeps what a benchmark has measured, and shows it as text, as JSON and as charts.
package report

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/regent-infra/regent/bench/measure"
)

// Sample is one measured number.
type Sample struct {
	// Figure is what was done: catchup, latency, restart, rebuild.
	Figure string `json:"figure"`
	// Load tells apart what a figure is measured under, such as 1000/s; empty where there is nothing to tell apart.
	Load string `json:"load,omitempty"`
	// Keys is the number of resources.
	Keys      int    `json:"keys"`
	Contender string `json:"contender"`
	Round     int    `json:"round"`
	// Name, Value and Unit are the number.
	Name  string  `json:"name"`
	Value float64 `json:"value"`
	Unit  string  `json:"unit"`
}

// With returns the sample with a number.
func (s Sample) With(name string, value float64, unit string) Sample {
	s.Name, s.Value, s.Unit = name, value, unit
	return s
}

// Report is one run of the benchmark.
type Report struct {
	Began    time.Time     `json:"began"`
	Took     time.Duration `json:"took"`
	Command  string        `json:"command"`
	Commit   string        `json:"commit"`
	Machine  []Fact        `json:"machine"`
	Versions []Fact        `json:"versions"`
	Settings []Fact        `json:"settings"`
	Samples  []Sample      `json:"samples"`
	// Failures are runs that gave no figure, with the reason.
	Failures []string `json:"failures,omitempty"`
}

// Fact is something to know about a run.
type Fact struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// JSON writes the report with all of its samples.
func (r *Report) JSON(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(r)
}

// group is what belongs into one table: contenders side by side.
type group struct {
	Figure, Load string
	Keys         int
}

// Summary is the median of some rounds.
type Summary struct {
	Median, Min, Max float64
	Rounds           int
}

// cell names one number of a table.
type cell struct{ contender, name, unit string }

// table is one group in the order of its first samples.
type table struct {
	group      group
	contenders []string
	names      []cell // without contender
	values     map[cell][]float64
}

// tables sorts the samples into tables.
func (r *Report) tables() []*table {
	var out []*table
	for _, s := range r.Samples {
		g := group{s.Figure, s.Load, s.Keys}
		i := slices.IndexFunc(out, func(t *table) bool { return t.group == g })
		if i < 0 {
			i = len(out)
			out = append(out, &table{group: g, values: map[cell][]float64{}})
		}
		t := out[i]
		if !slices.Contains(t.contenders, s.Contender) {
			t.contenders = append(t.contenders, s.Contender)
		}
		if name := (cell{"", s.Name, s.Unit}); !slices.Contains(t.names, name) {
			t.names = append(t.names, name)
		}
		c := cell{s.Contender, s.Name, s.Unit}
		t.values[c] = append(t.values[c], s.Value)
	}
	slices.SortStableFunc(out, func(a, b *table) int { return cmp.Compare(a.group.Figure, b.group.Figure) })
	return out
}

func (t *table) summary(contender string, name cell) (Summary, bool) {
	values := t.values[cell{contender, name.name, name.unit}]
	if len(values) == 0 {
		return Summary{}, false
	}
	return Summary{Median: measure.Median(values), Min: slices.Min(values), Max: slices.Max(values), Rounds: len(values)}, true
}

func (g group) title() string {
	s := fmt.Sprintf("%s, %s keys", g.Figure, thousands(float64(g.Keys)))
	if g.Load != "" {
		s += ", " + g.Load
	}
	return s
}

// Text writes the report for a reader: what it ran on, then a table for each figure with the median of the rounds and, in brackets,
// the lowest and the highest.
func (r *Report) Text(w io.Writer) error {
	fmt.Fprintf(w, "Benchmark of %s, commit %s, took %s\n", r.Began.UTC().Format("2006-01-02 15:04 MST"), r.Commit, r.Took.Round(time.Second))
	fmt.Fprintf(w, "Command: %s\n", r.Command)
	for _, part := range []struct {
		title string
		facts []Fact
	}{{"Machine", r.Machine}, {"Versions", r.Versions}, {"Settings", r.Settings}} {
		fmt.Fprintf(w, "\n%s\n", part.title)
		tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
		for _, f := range part.facts {
			fmt.Fprintf(tw, "  %s\t%s\n", f.Name, f.Value)
		}
		if err := tw.Flush(); err != nil {
			return err
		}
	}
	for _, t := range r.tables() {
		if err := t.text(w); err != nil {
			return err
		}
	}
	for _, f := range r.Failures {
		fmt.Fprintf(w, "\nFAILED: %s\n", f)
	}
	return nil
}

func (t *table) text(w io.Writer) error {
	fmt.Fprintf(w, "\n%s\n", t.group.title())
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(tw, "  \t%s\t\n", strings.Join(t.contenders, "\t"))
	for _, name := range t.names {
		fmt.Fprintf(tw, "  %s", name.name)
		for _, c := range t.contenders {
			s, ok := t.summary(c, name)
			switch {
			case !ok:
				fmt.Fprint(tw, "\t-")
			case s.Rounds == 1:
				fmt.Fprintf(tw, "\t%s", number(s.Median))
			default:
				fmt.Fprintf(tw, "\t%s [%s..%s]", number(s.Median), number(s.Min), number(s.Max))
			}
		}
		fmt.Fprintf(tw, "\t%s\n", name.unit)
	}
	return tw.Flush()
}

// number shows three digits at least.
func number(v float64) string {
	switch {
	case v >= 1000:
		return thousands(v)
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	default:
		return fmt.Sprintf("%.2f", v)
	}
}

func thousands(v float64) string {
	digits := fmt.Sprintf("%.0f", v)
	for i := len(digits) - 3; i > 0; i -= 3 {
		digits = digits[:i] + "," + digits[i:]
	}
	return digits
}
