package embedded

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"
)

// The sequence numbers that recovery derives from the log are those that the broker saves at an orderly end.
func TestRecoveredSequencesAreThoseThatTheBrokerHad(t *testing.T) {
	dir := t.TempDir()
	s := open(t, testConfig(dir))
	createLoadTopics(t, s.Brokers())
	cl := client(t, s, kgo.DefaultProduceTopic(inputTopic))
	for i := range 50 {
		produce(t, cl, &kgo.Record{Key: fmt.Appendf(nil, "%d", i), Value: []byte("v")}, &kgo.Record{Key: fmt.Appendf(nil, "%d", i), Value: []byte("w")})
	}
	l, err := newLoader(s.Brokers())
	if err != nil {
		t.Fatal(err)
	}
	for n := 1; n <= 7; n++ {
		if err := l.run(t.Context(), n, kgo.TransactionEndTry(n%3 != 0)); err != nil {
			t.Fatal(err)
		}
	}
	l.cl.Close()
	cl.Close()
	closeStack(t, s)
	want := readSequences(t, dir)
	if len(want) < 8 {
		t.Fatalf("the broker saved %d windows", len(want))
	}
	if err := os.Remove(filepath.Join(dir, cleanName)); err != nil {
		t.Fatal(err)
	}
	cfg := testConfig(dir)
	cfg.crash = func(point string) {
		if point == "recovered" {
			if got := readSequences(t, dir); !slices.Equal(got, want) {
				t.Errorf("recovered: %v\nwant: %v", got, want)
			}
		}
	}
	if err := os.Remove(filepath.Join(dir, brokerName, "seq_windows.json")); err != nil {
		t.Fatal(err)
	}
	open(t, cfg)
}

func readSequences(t *testing.T, dir string) []string {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(dir, brokerName, "seq_windows.json"))
	if err != nil {
		t.Error(err)
		return nil
	}
	var content struct{ Windows []map[string]any }
	if err := json.Unmarshal(raw, &content); err != nil {
		t.Error(err)
	}
	var lines []string
	for _, w := range content.Windows {
		delete(w, "seq") // fields of an older format, always empty
		delete(w, "offsets")
		lines = append(lines, fmt.Sprint(w)) // maps are printed in order
	}
	slices.Sort(lines)
	return lines
}
