package demo

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"time"
)

// result is one measured round of one act.
type result struct {
	// Act names what was done, such as "postgres crash".
	Act string `json:"act"`
	// Round counts from 1.
	Round int `json:"round"`
	// Measure says what Took is: "time to writable", or "gap".
	Measure string `json:"measure"`
	// Took is the measured time.
	Took time.Duration `json:"took_ns"`
	// Limit is what the median of all rounds must stay under; 0 means that the act is not timed.
	Limit time.Duration `json:"limit_ns"`
	// Lost counts acknowledged rows that the present primary does not have.
	Lost int `json:"lost"`
	// Detail is one line for people.
	Detail string `json:"detail"`
}

// String implements fmt.Stringer.
func (r result) String() string {
	s := fmt.Sprintf("%-22s round %-2d %s %s, acknowledged rows lost: %d", r.Act, r.Round, r.Measure, r.Took.Round(time.Millisecond), r.Lost)
	if r.Detail != "" {
		s += "; " + r.Detail
	}
	return s
}

func (r result) tinted() string {
	if r.Lost > 0 || r.Limit > 0 && r.Took > r.Limit {
		return bad.Render(r.String())
	}
	return good.Render(r.String())
}

// summary is what all rounds of one act say together.
type summary struct {
	Act     string        `json:"act"`
	Measure string        `json:"measure"`
	Rounds  int           `json:"rounds"`
	Min     time.Duration `json:"min_ns"`
	Median  time.Duration `json:"median_ns"`
	Max     time.Duration `json:"max_ns"`
	Limit   time.Duration `json:"limit_ns"`
	Lost    int           `json:"lost"`
}

// holds reports whether the act kept its promise.
func (s summary) holds() bool { return s.Lost == 0 && (s.Limit == 0 || s.Median < s.Limit) }

// summarize groups results by act, in the order in which the acts first occurred.
func summarize(results []result) []summary {
	var out []summary
	took := map[string][]time.Duration{}
	for _, r := range results {
		i := slices.IndexFunc(out, func(s summary) bool { return s.Act == r.Act })
		if i < 0 {
			out = append(out, summary{Act: r.Act, Measure: r.Measure, Limit: r.Limit})
			i = len(out) - 1
		}
		out[i].Rounds++
		out[i].Lost += r.Lost
		took[r.Act] = append(took[r.Act], r.Took)
	}
	for i := range out {
		t := slices.Sorted(slices.Values(took[out[i].Act]))
		out[i].Min, out[i].Max = t[0], t[len(t)-1]
		out[i].Median = t[len(t)/2]
		if len(t)%2 == 0 {
			out[i].Median = (t[len(t)/2-1] + t[len(t)/2]) / 2
		}
	}
	return out
}

// printSummary writes the table of all acts and reports whether every promise was kept.
func printSummary(w io.Writer, results []result) bool {
	kept := true
	fmt.Fprintf(w, "\n%-22s %6s  %-16s %9s %9s %9s %9s %6s\n", "ACT", "ROUNDS", "MEASURE", "MIN", "MEDIAN", "MAX", "LIMIT", "LOST")
	for _, s := range summarize(results) {
		limit := "-"
		if s.Limit > 0 {
			limit = ms(s.Limit)
		}
		verdict := ""
		if !s.holds() {
			verdict, kept = "  BROKEN", false
		}
		fmt.Fprintf(w, "%-22s %6d  %-16s %9s %9s %9s %9s %6d%s\n", s.Act, s.Rounds, s.Measure, ms(s.Min), ms(s.Median), ms(s.Max), limit, s.Lost, verdict)
	}
	return kept
}

func ms(d time.Duration) string { return fmt.Sprintf("%d ms", d.Milliseconds()) }

// writeReport writes results and summaries as JSON.
func writeReport(w io.Writer, results []result) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(struct {
		Summaries []summary `json:"summaries"`
		Results   []result  `json:"results"`
	}{summarize(results), results})
}
