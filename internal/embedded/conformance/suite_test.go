package conformance

import (
	"context"
	"flag"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/regent-infra/regent/internal/avrocodec"
	"github.com/regent-infra/regent/internal/embedded"
	"github.com/regent-infra/regent/internal/kafkaserver"
)

var rewrite = flag.Bool("rewrite", false, "write docs/embedded-broker.md anew")

func TestMain(m *testing.M) {
	flag.Parse()
	// They wait for each other's time-outs much more than they work.
	if err := flag.Set("test.parallel", "12"); err != nil {
		panic(err)
	}
	goleak.VerifyTestMain(m)
}

// behaviour is one thing that Regent relies on.
type behaviour struct {
	// name is a sentence about Apache Kafka, and want what is seen there.
	name, want string
	look       func(p *probe)
}

// suite is all of them, by area.
var suite = []struct {
	area       string
	behaviours []behaviour
}{
	{"Transactions", transactions},
	{"Fencing", fencing},
	{"Idempotent producers", idempotence},
	{"Groups", groups},
	{"The log", logs},
	{"Compaction", compaction},
	{"Topics", topics},
}

// seen is what was seen on each broker, by the name of the behaviour.
var seen = struct {
	sync.Mutex
	by map[string]map[string]string
}{by: map[string]map[string]string{"embedded": {}, "ApacheKafka": {}}}

// server is a broker under test.
type server struct {
	name  string
	addrs []string
	// clean makes the broker compact what can be compacted; nil where it does so by itself.
	clean    func(t *testing.T) (addrs []string)
	cleaning sync.Mutex
}

func TestBehaviours(t *testing.T) {
	known := readDocument(t)
	t.Run("embedded", func(t *testing.T) {
		s := startEmbedded(t)
		observe(t, s, func(b behaviour) string {
			if d, ok := known.differences[b.name]; ok && !*rewrite {
				return d.embedded
			}
			return b.want
		})
	})
	t.Run("ApacheKafka", func(t *testing.T) {
		s := startKafka(t)
		observe(t, s, func(b behaviour) string { return b.want })
	})
	if t.Failed() && !*rewrite {
		return
	}
	known.check(t)
}

// observe looks at every behaviour on one broker.
func observe(t *testing.T, s *server, want func(behaviour) string) {
	t.Run("all", func(t *testing.T) { // ends when the parallel ones have
		for _, area := range suite {
			for _, b := range area.behaviours {
				t.Run(strings.ReplaceAll(area.area+"/"+b.name, " ", "_"), func(t *testing.T) {
					t.Parallel()
					p := newProbe(t, s)
					b.look(p)
					got := strings.Join(p.said, "; ")
					seen.Lock()
					seen.by[s.name][b.name] = got
					seen.Unlock()
					if w := want(b); got != w && (!*rewrite || s.name == "ApacheKafka") {
						t.Errorf("%s\n seen:     %s\n expected: %s", b.name, got, w)
					}
				})
			}
		}
	})
}

func TestNamesAreUnique(t *testing.T) {
	names := map[string]bool{}
	for _, area := range suite {
		for _, b := range area.behaviours {
			if names[b.name] {
				t.Errorf("two behaviours are called %q", b.name)
			}
			names[b.name] = true
			if strings.ContainsAny(b.name+b.want, "|\n") {
				t.Errorf("%q does not fit into a table", b.name)
			}
		}
	}
}

func startEmbedded(t *testing.T) *server {
	t.Helper()
	cfg := embedded.Config{
		Dir: t.TempDir(), Compatible: func(writer, reader string) error { return avrocodec.Compatible(reader, writer) }, SegmentBytes: 4 << 10,
		RetentionInterval: time.Second,
	}
	open := func(cfg embedded.Config) (*embedded.Stack, func()) {
		stack, err := embedded.Open(context.Background(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		return stack, sync.OnceFunc(func() {
			if err := stack.Close(context.Background()); err != nil {
				t.Error(err)
			}
		})
	}
	main := cfg
	main.SegmentBytes = 0
	stack, closed := open(main)
	t.Cleanup(closed)
	s := &server{name: "embedded", addrs: stack.Brokers()}
	// What is compacted lives in a broker of its own, because it shrinks at its start only.
	cfg.Dir = t.TempDir()
	cleaned, ended := open(cfg)
	t.Cleanup(func() { ended() })
	cfg.BrokerListen = cleaned.Brokers()[0]
	s.clean = func(t *testing.T) []string {
		if t != nil {
			ended()
			cleaned, ended = open(cfg)
		}
		return cleaned.Brokers()
	}
	return s
}

func startKafka(t *testing.T) *server {
	t.Helper()
	k, err := kafkaserver.StartWith(t.Context(), t.TempDir(), kafkaserver.Options{Settings: map[string]string{
		"log.cleaner.backoff.ms": "100", "transaction.max.timeout.ms": "60000", "log.retention.check.interval.ms": "500", "file.delete.delay.ms": "1000",
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(k.Kill)
	return &server{name: "ApacheKafka", addrs: []string{k.Broker()}}
}

// difference is a row of the document.
type difference struct{ kafka, embedded, means string }

// document is docs/embedded-broker.md.
type document struct {
	text        string
	differences map[string]difference
}

const (
	documentPath = "../../../docs/embedded-broker.md"
	beginSame    = "<!-- the same: generated -->\n"
	endSame      = "<!-- end of the same -->\n"
	beginOther   = "<!-- differences: generated, but for the last column -->\n"
	endOther     = "<!-- end of the differences -->\n"
)

func readDocument(t *testing.T) document {
	t.Helper()
	raw, err := os.ReadFile(documentPath)
	if err != nil {
		t.Fatal(err)
	}
	d := document{text: string(raw), differences: map[string]difference{}}
	for line := range strings.SplitSeq(between(t, d.text, beginOther, endOther), "\n") {
		cells := strings.Split(strings.Trim(line, "| "), " | ")
		if len(cells) == 4 && cells[0] != "behaviour" {
			d.differences[cells[0]] = difference{unquote(cells[1]), unquote(cells[2]), cells[3]}
		}
	}
	return d
}

func between(t *testing.T, text, begin, end string) string {
	t.Helper()
	_, after, ok := strings.Cut(text, begin)
	inside, _, ok2 := strings.Cut(after, end)
	if !ok || !ok2 {
		t.Fatalf("%s has no part between %q and %q", documentPath, begin, end)
	}
	return inside
}

// splice puts text between two marks.
func splice(whole, begin, end, text string) string {
	before, rest, _ := strings.Cut(whole, begin)
	_, after, _ := strings.Cut(rest, end)
	return before + begin + text + end + after
}

func quote(s string) string   { return "`" + s + "`" }
func unquote(s string) string { return strings.Trim(s, "`") }

// check compares the document with what was seen.
func (d document) check(t *testing.T) {
	var same, other strings.Builder
	other.WriteString("| behaviour | Apache Kafka | embedded broker | what it means for Regent |\n|---|---|---|---|\n")
	gone := maps.Clone(d.differences)
	for _, area := range suite {
		same.WriteString("\n### " + area.area + "\n\n| behaviour | seen on both |\n|---|---|\n")
		for _, b := range area.behaviours {
			k, e := seen.by["ApacheKafka"][b.name], seen.by["embedded"][b.name]
			if k == "" || e == "" {
				return // not all were run
			}
			if k == e {
				same.WriteString("| " + b.name + " | " + quote(k) + " |\n")
				continue
			}
			means := d.differences[b.name].means
			delete(gone, b.name)
			if means == "" {
				t.Errorf("the difference %q has nothing in the last column: what does it mean for Regent?", b.name)
			}
			other.WriteString("| " + b.name + " | " + quote(k) + " | " + quote(e) + " | " + means + " |\n")
		}
	}
	for _, name := range slices.Sorted(maps.Keys(gone)) {
		t.Errorf("the difference %q is listed, and not there any more", name)
	}
	same.WriteString("\n")
	text := splice(splice(d.text, beginSame, endSame, same.String()), beginOther, endOther, other.String())
	if *rewrite {
		if err := os.WriteFile(documentPath, []byte(text), 0o644); err != nil { //nolint:gosec // a document
			t.Fatal(err)
		}
	} else if text != d.text {
		t.Errorf("%s is not what was seen: run go test ./internal/embedded/conformance -rewrite and look at the difference", documentPath)
	}
}
