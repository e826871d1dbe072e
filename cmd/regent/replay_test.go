package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/regent-infra/regent/internal/clock"
	"github.com/regent-infra/regent/internal/replay"
)

// decoded runs a command that must succeed and decodes what it prints.
func decoded[T any](t *testing.T, args ...string) T {
	t.Helper()
	r := regentNow(t, args...)
	if r.code != exitDone {
		t.Fatalf("regent %s: exit %d: %s", strings.Join(args, " "), r.code, r.stderr)
	}
	var out T
	if err := json.Unmarshal([]byte(r.stdout), &out); err != nil {
		t.Fatalf("%v in %s", err, r.stdout)
	}
	return out
}

// listing is what get prints, as far as it does not depend on when it is asked.
type listing struct {
	Resources []map[string]any `json:"resources"`
	Total     int              `json:"total"`
}

func (l *listing) without(fields ...string) *listing {
	for _, r := range l.Resources {
		for _, f := range fields {
			delete(r, f)
		}
	}
	return l
}

// servedAt is what a server served, and when.
type servedAt struct {
	at     string
	served *listing
}

// observed waits until what a server serves has come to rest, and notes it.
func observed(t *testing.T, server string) servedAt {
	t.Helper()
	ask := func() *listing {
		l := decoded[listing](t, "get", "-o", "json", "--server", server)
		return l.without("since")
	}
	for deadline := time.Now().Add(patience); ; {
		before, at := ask(), time.Now()
		_ = clock.Wait(t.Context(), clock.System{}, 20*time.Millisecond) // a commit that is under way shows by then
		if reflect.DeepEqual(before, ask()) {
			return servedAt{at.UTC().Format(time.RFC3339Nano), before}
		}
		if time.Now().After(deadline) {
			t.Fatal("what the server serves does not come to rest")
		}
	}
}

// expectServed compares the past with what was served.
func expectServed(t *testing.T, m servedAt, more ...string) {
	t.Helper()
	past := decoded[listing](t, append([]string{"get", "--at", m.at, "-o", "json"}, more...)...)
	if past.Total != m.served.Total || len(past.Resources) != len(m.served.Resources) {
		t.Errorf("get --at %s %v: %d resources, served were %d", m.at, more, past.Total, m.served.Total)
		return
	}
	for i, want := range m.served.Resources {
		got := past.Resources[i]
		if got["position"] == nil { // it comes from a checkpoint
			want = maps.Clone(want)
			want["position"] = nil
			delete(want, "updated_at")
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("get --at %s %v: %v\nserved was\n%v", m.at, more, got, want)
			return
		}
	}
}

// expectFailure runs a command that must fail with a code and say something.
func expectFailure(t *testing.T, code int, says string, args ...string) {
	t.Helper()
	if r := regentNow(t, args...); r.code != code || !strings.Contains(r.stderr, says) {
		t.Errorf("regent %s: exit %d: %s\nexpected %d and %q", strings.Join(args, " "), r.code, r.stderr, code, says)
	}
}

// The past of a regent up that runs, and of one that is stopped, is what it served; checkpoints carry it to another data directory.
func TestReplayOfUp(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "plane")
	p, server := up(t, dir)
	w := newWitness(t, server)
	w.populate()
	served(t, p, server, "postgres/c4/node/pg-2", 7)
	first := observed(t, server)
	w.observe("postgres/c4", "pg-2", 8)
	w.observe("postgres/new", "pg-1", 1)
	w.forget("postgres/c5", "pg-1")
	served(t, p, server, "postgres/c4/node/pg-2", 8)
	served(t, p, server, "postgres/new/node/pg-1", 1)
	second := observed(t, server)

	expectServed(t, first, "--server", server)
	expectServed(t, second, "--server", server)
	expectServed(t, second, "--server", server, "--from", fromStart, "--rate", "100000")
	where := []string{"--server", server}
	one := decoded[map[string]any](t, append([]string{"get", "postgres/c4/node/pg-2", "--at", first.at, "-o", "json"}, where...)...)
	i := slices.IndexFunc(first.served.Resources, func(r map[string]any) bool { return r["id"] == "postgres/c4/node/pg-2" })
	if !reflect.DeepEqual(one, first.served.Resources[i]) {
		t.Errorf("one resource: %v, served was %v", one, first.served.Resources[i])
	}
	for _, args := range [][]string{{"get", "postgres/new/node/pg-1", "--at", first.at}, {"get", "postgres/c4/node/pg-1", "--at", "2020-01-01T00:00:00Z"}} {
		expectFailure(t, exitFailed, "there was no such resource at", append(args, where...)...)
	}
	if r := regentNow(t, append([]string{"get", "fleet", "--at", first.at}, where...)...); r.code != exitDone || !strings.Contains(r.stdout, "FleetState  as of ") {
		t.Errorf("the fleet: exit %d: %s%s", r.code, r.stdout, r.stderr)
	}
	checkReplay(t, where, first, second)
	checkDiff(t, where, first, second)

	// Checkpoints: of the running server, and of the stopped one.
	if r := regentNow(t, "checkpoint", "create", "running", "--data-dir", dir); r.code != exitDone || !strings.HasPrefix(r.stdout, "running  ") {
		t.Fatalf("exit %d: %s%s", r.code, r.stdout, r.stderr)
	}
	expectFailure(t, exitFailed, "expected a name that is not taken", "checkpoint", "create", "running", "--data-dir", dir)
	third := observed(t, server)
	expectServed(t, third, "--server", server)
	if r := decoded[replayedState](t, append([]string{"replay", "--until", "now", "--of", "reducer", "-o", "json"}, where...)...); r.Partitions[0].Checkpoint != "running" {
		t.Errorf("the checkpoint was not used: %+v", r.Partitions)
	}
	expectFailure(t, exitRefused, "a stopped server", "get", "--at", first.at, "--data-dir", dir)
	if code := p.end(); code != exitDone {
		t.Fatalf("exit %d:\n%s", code, p.log.String())
	}
	for _, m := range []servedAt{first, second, third} {
		expectServed(t, m, "--data-dir", dir)
	}
	if r := regentNow(t, "checkpoint", "create", "--data-dir", dir); r.code != exitDone {
		t.Fatalf("exit %d: %s", r.code, r.stderr)
	}
	file := filepath.Join(t.TempDir(), "exported.tar.zst")
	if r := regentNow(t, "checkpoint", "export", "running", file, "--data-dir", dir); r.code != exitDone {
		t.Fatalf("exit %d: %s", r.code, r.stderr)
	}
	checkElsewhere(t, dir, file, second)
	p, server = up(t, dir)
	newWitness(t, server).observe("postgres/c4", "pg-2", 9)
	served(t, p, server, "postgres/c4/node/pg-2", 9)
	cli(t, server, exitDone, "rebuild", "--verify")
	expectServed(t, first, "--server", server)
	if code := p.end(); code != exitDone {
		t.Errorf("exit %d:\n%s", code, p.log.String())
	}
}

// checkReplay looks at what replay prints.
func checkReplay(t *testing.T, where []string, first, second servedAt) {
	t.Helper()
	replayed := func(args ...string) replayedState {
		t.Helper()
		return decoded[replayedState](t, append(append([]string{"replay", "-o", "json"}, args...), where...)...)
	}
	all := replayed("--until", first.at)
	if len(all.Partitions) != 9 || all.Records == 0 || len(all.Resources) < first.served.Total {
		t.Errorf("replayed %d keys in %d partitions from %d records, served were %d", len(all.Resources), len(all.Partitions), all.Records, first.served.Total)
	}
	types := map[string]int{}
	var cuts []string
	for _, r := range all.Resources {
		types[r.Type]++
	}
	for _, part := range all.Partitions {
		if part.Exact != "complete" {
			t.Errorf("%+v", part)
		}
		if strings.HasPrefix(part.Topic, "infra.state.postgres") {
			cuts = append(cuts, fmt.Sprintf("state.postgres/%d@%d", part.Partition, part.Cut))
		}
	}
	if types["ResourceForgotten"] != 1 || types["FleetState"] == 0 || types["OrchestratorStarted"] == 0 {
		t.Errorf("replayed %v", types)
	}
	// The same moment by offsets.
	byTime := replayed(first.at, "--of", "reducer")
	byOffset := replayed("--until", strings.Join(cuts, ","), "--of", "reducer")
	if len(byTime.Resources) == 0 || !reflect.DeepEqual(byTime.Resources, byOffset.Resources) {
		t.Errorf("by time %d keys, by offset %d", len(byTime.Resources), len(byOffset.Resources))
	}
	for want, args := range map[string][]string{
		"postgres/c4 postgres/c4/node/pg-1 postgres/c4/node/pg-2": {"--cluster", "postgres/c4", "--of", "reducer"},
		"postgres/c4/node/pg-2":                                   {"--name", "pg-2"},
		"postgres/c7/node/pg-1":                                   {"--name", "postgres/c7/node/*", "--kind", "postgres"},
		"postgres/c8":                                             {"--type", "PostgresClusterState", "--name", "c8"},
	} {
		var got []string
		for _, r := range replayed(append(args, "--until", first.at)...).Resources {
			got = append(got, r.ID)
		}
		if strings.Join(got, " ") != want {
			t.Errorf("replay %v: %v, expected %s", args, got, want)
		}
	}
	if r := regentNow(t, append([]string{"replay", "--until", second.at, "-o", "wide"}, where...)...); r.code != exitDone ||
		!strings.Contains(r.stdout, "in 9 partitions as of ") || !strings.Contains(r.stdout, "infra.state.postgres.v1/") {
		t.Errorf("exit %d: %s%s", r.code, r.stdout, r.stderr)
	}
	plan := decoded[replayPlan](t, append([]string{"replay", "--until", first.at, "--dry-run", "--rate", "10", "-o", "json"}, where...)...)
	if len(plan.Moments) != 1 || len(plan.Moments[0].Partitions) != 9 || plan.Records < all.Records || plan.Seconds == 0 {
		t.Errorf("%+v", plan)
	}
	if r := regentNow(t, append([]string{"replay", "--until", first.at, "--dry-run"}, where...)...); r.code != exitDone || !strings.Contains(r.stdout, "records at most would be read") {
		t.Errorf("exit %d: %s%s", r.code, r.stdout, r.stderr)
	}
	for says, args := range map[string][]string{
		"which moment?":                      {},
		"expected one of them":               {"10m", "--until", "5m"},
		"expected RFC 3339":                  {"--until", "yesterday"},
		"there is no such topic":             {"--until", "nothing/0@1"},
		"both numbers 0 or more":             {"--until", "state.postgres/x@1"},
		"what is committed ends at offset":   {"--until", "99999999"},
		"that is in the future":              {"--until", "2999-01-01T00:00:00Z"},
		"the first is later than the second": {"--until", "10m", "--diff", "5m"},
		"there is no such kind":              {"--until", "1s", "--kind", "mysql"},
		"--of agent":                         {"--until", "1s", "--of", "agent"},
		"--cluster orders":                   {"--until", "1s", "--cluster", "orders"},
		"expected a pattern":                 {"--until", "1s", "--name", "[x"},
		"there is no such event":             {"--until", "1s", "--type", "Nothing"},
		"there is no such checkpoint in":     {"--until", "1s", "--from", "nothing"},
		"--rate -1":                          {"--until", "1s", "--rate", "-1"},
		"none of the partitions named":       {"--until", "state.postgres/77@1"},
	} {
		expectFailure(t, exitUsage, says, append(append([]string{"replay"}, args...), where...)...)
	}
	expectFailure(t, exitUsage, "expected --at with it", "get", "--from", "x")
	expectFailure(t, exitUsage, "the past does not change", "get", "--at", "1s", "--watch")
}

// checkDiff looks at what changed between two moments.
func checkDiff(t *testing.T, where []string, first, second servedAt) {
	t.Helper()
	args := append([]string{"replay", "--diff", first.at, second.at, "--of", "reducer"}, where...)
	got := decoded[struct {
		Changes []keyChange `json:"changes"`
	}](t, append(args, "-o", "json")...)
	kinds := map[string]string{}
	for _, c := range got.Changes {
		kinds[c.Key] = c.Change
		if c.Key == "postgres/c4/node/pg-2" {
			lsn := slices.IndexFunc(c.Fields, func(f replay.Change) bool { return f.Path == "observed.written_lsn" })
			if lsn < 0 || fmt.Sprint(c.Fields[lsn].Old, c.Fields[lsn].New) != "7 8" {
				t.Errorf("%+v", c.Fields)
			}
		}
	}
	for key, want := range map[string]string{
		"postgres/c4/node/pg-2": keyChanged, "postgres/new": keyAdded, "postgres/new/node/pg-1": keyAdded, "postgres/c5/node/pg-1": keyRemoved, "postgres/c0/node/pg-1": "",
	} {
		if kinds[key] != want {
			t.Errorf("%s: %q, expected %q, in %v", key, kinds[key], want, slices.Sorted(maps.Keys(kinds)))
		}
	}
	r := regentNow(t, args...)
	for _, want := range []string{"~ postgres/c4/node/pg-2  PostgresNodeState\n", "    observed.written_lsn: 7 → 8\n", "+ postgres/new  PostgresClusterState\n", "- postgres/c5/node/pg-1  PostgresNodeState\n"} {
		if !strings.Contains(r.stdout, want) {
			t.Errorf("%s\nexpected %q", r.stdout, want)
		}
	}
}

// checkElsewhere carries an exported checkpoint into other data directories, and starts the old one from it.
func checkElsewhere(t *testing.T, dir, file string, second servedAt) {
	t.Helper()
	expectFailure(t, exitUsage, "exists, expected a new one", "checkpoint", "export", "running", file, "--data-dir", dir)
	other := filepath.Join(t.TempDir(), "other")
	if r := regentNow(t, "checkpoint", "import", file, "--data-dir", other, "--name", "seed"); r.code != exitDone || !strings.HasPrefix(r.stdout, "seed  made ") {
		t.Fatalf("exit %d: %s%s", r.code, r.stdout, r.stderr)
	}
	if r := regentNow(t, "checkpoint", "verify", "seed", "--data-dir", other); r.code != exitDone || !strings.Contains(r.stdout, "all as they were written") {
		t.Fatalf("exit %d: %s%s", r.code, r.stdout, r.stderr)
	}
	type list struct {
		Checkpoints []listedCheckpoint `json:"checkpoints"`
	}
	if l := decoded[list](t, "checkpoint", "list", "--data-dir", other, "-o", "json"); len(l.Checkpoints) != 1 || len(l.Checkpoints[0].Tasks) != 9 || l.Checkpoints[0].Name != "seed" {
		t.Errorf("%+v", l)
	}
	if r := regentNow(t, "checkpoint", "list", "--data-dir", dir, "-o", "wide"); r.code != exitDone || !strings.Contains(r.stdout, "running  ") || !strings.Contains(r.stdout, "reducer.postgres") {
		t.Errorf("exit %d: %s%s", r.code, r.stdout, r.stderr)
	}
	expectFailure(t, exitFailed, "no such checkpoint", "checkpoint", "delete", "nothing", "--data-dir", dir)
	expectFailure(t, exitFailed, "holds no state", "checkpoint", "create", "--data-dir", other)
	expectFailure(t, exitUsage, "no such file", "checkpoint", "import", file+".none", "--data-dir", other)
	expectFailure(t, exitFailed, "checkpoint is damaged", "checkpoint", "import", filepath.Join(dir, "instance"), "--data-dir", other)
	expectServed(t, second, "--data-dir", dir, "--from", file)

	// A server that has lost its store, or never had one, starts with the checkpoint; one of another cluster is refused.
	if err := os.RemoveAll(filepath.Join(dir, storeDir)); err != nil {
		t.Fatal(err)
	}
	result := rebuilt(t, "--data-dir", dir, "--from", file)
	if !result.Equal || result.Records > 1000 || !slices.ContainsFunc(result.Partitions, func(p rebuiltPartition) bool { return p.Sources[0].From > 0 }) {
		t.Errorf("%+v", result)
	}
	strange := filepath.Join(t.TempDir(), "stranger")
	stranger, _ := up(t, strange)
	if code := stranger.end(); code != exitDone {
		t.Fatalf("exit %d:\n%s", code, stranger.log.String())
	}
	expectFailure(t, exitRefused, "belongs to another cluster", "rebuild", "--data-dir", strange, "--from", file)
	expectFailure(t, exitRefused, "it belongs to the Kafka cluster", "get", "--at", "now", "--data-dir", strange, "--from", file)
}

// What compaction has taken away is refused, says what can be had instead, and is answered where a checkpoint reaches.
func TestWhatCompactionTookIsRefused(t *testing.T) {
	t.Parallel()
	raw, err := os.ReadFile("../../topics.yaml")
	if err != nil {
		t.Fatal(err)
	}
	declared := filepath.Join(t.TempDir(), "topics.yaml")
	text := strings.ReplaceAll(string(raw), `min.compaction.lag.ms: "86400000"`, `min.compaction.lag.ms: "0"`)
	if err := os.WriteFile(declared, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "plane")
	p, server := up(t, dir, "--topics-file", declared)
	w := newWitness(t, server)
	w.populate()
	served(t, p, server, "postgres/c4/node/pg-2", 7)
	first := observed(t, server)
	for i := range 20 {
		w.observe("postgres/c4", "pg-2", 8+int64(i))
	}
	served(t, p, server, "postgres/c4/node/pg-2", 27)
	second := observed(t, server)
	if r := regentNow(t, "checkpoint", "create", "kept", "--data-dir", dir); r.code != exitDone {
		t.Fatalf("exit %d: %s", r.code, r.stderr)
	}
	if code := p.end(); code != exitDone {
		t.Fatalf("exit %d:\n%s", code, p.log.String())
	}
	p, server = up(t, dir, "--topics-file", declared) // it compacts
	w = newWitness(t, server)
	w.observe("postgres/c4", "pg-2", 99)
	served(t, p, server, "postgres/c4/node/pg-2", 99)
	third := observed(t, server)
	refusal := "that state is not in the topic any more: compaction has removed records"
	expectFailure(t, exitRefused, refusal, "get", "--at", first.at, "--server", server)
	expectFailure(t, exitRefused, "Only the newest state can be had: the topic has no min.compaction.lag.ms", "replay", "--until", first.at, "--server", server)
	expectFailure(t, exitRefused, "a checkpoint from before the moment may reach further back", "replay", "--until", first.at, "--server", server, "--from", fromStart)
	expectFailure(t, exitRefused, refusal, "get", "postgres/c4/node/pg-2", "--at", first.at, "--server", server)
	expectServed(t, third, "--server", server)
	// What is in a checkpoint is there, however much was compacted.
	byCheckpoint := decoded[replayedState](t, "replay", "--from", "kept", "--of", "reducer,fleet", "-o", "json", "--server", server)
	for _, want := range second.served.Resources {
		if !slices.ContainsFunc(byCheckpoint.Resources, func(r pastResource) bool { return r.ID == want["id"] && r.EventID == want["event_id"] }) {
			t.Errorf("the checkpoint lacks %v", want)
		}
	}
	if r := regentNow(t, "replay", "--diff", "checkpoint", "--from", "kept", "--of", "reducer", "--server", server); r.code != exitDone || !strings.Contains(r.stdout, "observed.written_lsn: 27 → 99") {
		t.Errorf("exit %d: %s%s", r.code, r.stdout, r.stderr)
	}
	// A resource that has not changed since is known all the same.
	one := decoded[map[string]any](t, "get", "postgres/c7/node/pg-1", "--at", second.at, "-o", "json", "--server", server)
	i := slices.IndexFunc(second.served.Resources, func(r map[string]any) bool { return r["id"] == "postgres/c7/node/pg-1" })
	if !reflect.DeepEqual(one, second.served.Resources[i]) {
		t.Errorf("%v, served was %v", one, second.served.Resources[i])
	}
	if code := p.end(); code != exitDone {
		t.Errorf("exit %d:\n%s", code, p.log.String())
	}
}

// Checkpoints are made now and then, and the oldest of them go.
func TestCheckpointsAreMadeByThemselves(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "plane")
	p := launchWith(t, []string{"REGENT_CHECKPOINTS_INTERVAL=300ms", "REGENT_CHECKPOINTS_KEEP=2"},
		"up", "--data-dir", dir, "--http-listen", "127.0.0.1:0", "--broker-listen", "127.0.0.1:0", "--registry-listen", "127.0.0.1:0", "--log-format", "json")
	server := ready(t, p)
	newWitness(t, server).populate()
	served(t, p, server, "postgres/c4/node/pg-2", 7)
	type list struct {
		Checkpoints []listedCheckpoint `json:"checkpoints"`
	}
	names := func() string {
		var out []string
		for _, c := range decoded[list](t, "checkpoint", "list", "--data-dir", dir, "-o", "json").Checkpoints {
			out = append(out, c.Name)
		}
		return strings.Join(out, " ")
	}
	if r := regentNow(t, "checkpoint", "create", "mine", "--data-dir", dir); r.code != exitDone {
		t.Fatalf("exit %d: %s", r.code, r.stderr)
	}
	await(t, "two checkpoints", p, func() bool { return strings.Count(names(), "auto-") == 2 })
	await(t, "the removal of one", p, func() bool { return p.logged("checkpoint removed: there are enough younger ones", "name") != "" })
	if code := p.end(); code != exitDone {
		t.Fatalf("exit %d:\n%s", code, p.log.String())
	}
	if all := names(); strings.Count(all, "auto-") != 2 || !strings.Contains(all, "mine") {
		t.Errorf("there are %s", all)
	}
	for _, name := range strings.Fields(names()) {
		if r := regentNow(t, "checkpoint", "verify", name, "--data-dir", dir); r.code != exitDone {
			t.Errorf("exit %d: %s", r.code, r.stderr)
		}
	}
}
