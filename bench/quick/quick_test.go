//go:build !race

package quick

import (
	"context"
	_ "embed"
	"encoding/json"
	"runtime"
	"testing"
	"time"

	"github.com/regent-infra/regent/bench/totals"
	"github.com/regent-infra/regent/bench/workload"
	"github.com/regent-infra/regent/internal/stream"
	"github.com/regent-infra/regent/statestore/pebblestore"
)

// The counts of one record. Instructions are 0 where the kernel does not count them for a process.
type cost struct {
	Allocations  float64 `json:"allocations"`
	Bytes        float64 `json:"bytes"`
	Instructions float64 `json:"instructions,omitempty"`
}

//go:embed budget.json
var budgetFile []byte

// margin is by how much a count may be above its budget: batches, and what runs beside the path, do not come out to the byte.
const margin = 1.05

// check holds a path's cost against its budget.
func check(t *testing.T, path string, got cost) {
	t.Helper()
	budgets := map[string]cost{}
	if err := json.Unmarshal(budgetFile, &budgets); err != nil {
		t.Fatalf("read budget.json: %v", err)
	}
	want, ok := budgets[path]
	if !ok {
		t.Fatalf("budget.json has no budget for %q", path)
	}
	t.Logf("%s: %.2f allocations and %.0f bytes for each record (budget %.2f and %.0f)", path, got.Allocations, got.Bytes, want.Allocations, want.Bytes)
	if got.Allocations > want.Allocations*margin {
		t.Errorf("%s: a record costs %.2f allocations, expected %.2f at most", path, got.Allocations, want.Allocations)
	}
	if got.Bytes > want.Bytes*margin {
		t.Errorf("%s: a record costs %.0f bytes of allocation, expected %.0f at most", path, got.Bytes, want.Bytes)
	}
	switch {
	case got.Instructions == 0:
		t.Logf("%s: instructions are not counted: %v", path, errInstructions)
	case want.Instructions > 0 && got.Instructions > want.Instructions*margin:
		t.Errorf("%s: a record costs %.0f instructions, expected %.0f at most", path, got.Instructions, want.Instructions)
	default:
		t.Logf("%s: %.0f instructions for each record (budget %.0f)", path, got.Instructions, want.Instructions)
	}
}

// count runs fn and returns what each of n records has cost.
func count(n int, fn func()) cost {
	var before, after runtime.MemStats
	instructions := countInstructions()
	runtime.ReadMemStats(&before)
	fn()
	runtime.ReadMemStats(&after)
	per := 1 / float64(n)
	return cost{
		Allocations: float64(after.Mallocs-before.Mallocs) * per, Bytes: float64(after.TotalAlloc-before.TotalAlloc) * per,
		Instructions: float64(instructions()) * per,
	}
}

// TestFold counts decoding an input, decoding the state before, and encoding the state.
func TestFold(t *testing.T) {
	const n = 20_000
	s, err := workload.NewStream(workload.Spec{Seed: 1, Records: n, Keys: 1000, Partitions: partitions})
	if err != nil {
		t.Fatal(err)
	}
	codec, err := workload.Codec()
	if err != nil {
		t.Fatal(err)
	}
	inputs, keys := make([][]byte, n), make([]int, n)
	for i := range inputs {
		o, value, err := s.Next(nil, time.UnixMicro(1))
		if err != nil {
			t.Fatal(err)
		}
		inputs[i], keys[i] = value, o.Number
	}
	states, folder := make([][]byte, 1000), workload.NewFolder(codec)
	pass := func() {
		for i, value := range inputs {
			if states[keys[i]], err = folder.Fold(states[keys[i]], value); err != nil {
				t.Fatal(err)
			}
		}
	}
	pass() // the codec's plans, and a state of each key
	check(t, "fold", count(n, pass))
}

// TestRuntime counts the way of a record through the runtime, from Poll to the commit, with the fold in it. The state is in memory: writing it to
// the store depends on the clock.
func TestRuntime(t *testing.T) {
	const (
		batch = 2000
		warm  = 20 // batches
		n     = 40 * batch
	)
	began, ended := make(chan struct{}), make(chan struct{})
	log, err := newMemoryLog(workload.Spec{Seed: 1, Records: warm*batch + n, Keys: 10_000, Partitions: partitions}, batch, func(i int) {
		switch i {
		case warm:
			close(began)
			<-ended // until the counters are read
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	all := log.done
	definition, err := totals.Definition(input, output)
	if err != nil {
		t.Fatal(err)
	}
	store, err := pebblestore.Open(pebblestore.Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	r, err := stream.New(definition, stream.Options{Log: log, Store: store, FlushInterval: time.Hour, PollRecords: batch})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	stopped := make(chan error, 1)
	go func() { stopped <- r.Run(ctx) }()
	<-began
	got := count(n, func() {
		close(ended)
		<-all
	})
	cancel()
	if err := <-stopped; err != nil {
		t.Fatal(err)
	}
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
	if log.produced != warm*batch+n {
		t.Fatalf("%d outputs, expected %d", log.produced, warm*batch+n)
	}
	check(t, "runtime", got)
}
