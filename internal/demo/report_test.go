package demo

import (
	"strings"
	"testing"
	"time"
)

func TestSummaryBreaksOnAMissedLimitAndOnALostRow(t *testing.T) {
	t.Parallel()
	round := func(took time.Duration, lost int) result {
		return result{Act: "postgres crash", Measure: "time to writable", Took: took, Limit: time.Second, Lost: lost}
	}
	for name, c := range map[string]struct {
		results []result
		kept    bool
	}{
		"median below the limit, one outlier": {[]result{round(700*time.Millisecond, 0), round(3*time.Second, 0), round(800*time.Millisecond, 0)}, true},
		"median above the limit":              {[]result{round(1100*time.Millisecond, 0), round(1200*time.Millisecond, 0)}, false},
		"a lost row":                          {[]result{round(700*time.Millisecond, 1)}, false},
	} {
		var out strings.Builder
		if kept := printSummary(&out, c.results); kept != c.kept {
			t.Errorf("%s: kept = %t\n%s", name, kept, out.String())
		}
	}
}

func TestMedianOfAnEvenNumberLiesBetween(t *testing.T) {
	t.Parallel()
	s := summarize([]result{{Act: "a", Took: 4}, {Act: "a", Took: 1}, {Act: "a", Took: 2}, {Act: "a", Took: 8}})
	if s[0].Median != 3 || s[0].Min != 1 || s[0].Max != 8 {
		t.Errorf("got %+v", s[0])
	}
}
