package stream_test

import (
	"fmt"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/regent-infra/regent/internal/kafka"
	"github.com/regent-infra/regent/internal/stream"
	"github.com/regent-infra/regent/statestore"
	"github.com/regent-infra/regent/statestore/memstore"
	"github.com/regent-infra/regent/statestore/pebblestore"
)

func TestCheckpointIsAStart(t *testing.T) {
	b := startBroker(t, 1)
	dir := t.TempDir()
	store, err := pebblestore.Open(pebblestore.Options{Dir: filepath.Join(dir, "a")})
	if err != nil {
		t.Fatal(err)
	}
	in := b.start(t, "a", store, func(_ *kafka.SessionConfig, o *stream.Options, _ *stream.Definition) { o.FlushInterval = time.Hour })
	for i := range 50 {
		b.send(t, factRecord(0, fmt.Sprintf("k%d", i%9), uint64(i+1), "x"))
	}
	b.settled(t, 1, in)
	if err := in.Checkpoint(t.Context(), filepath.Join(dir, "b")); err != nil {
		t.Fatal(err)
	}
	b.send(t, factRecord(0, "k1", 51, "after"))
	b.settled(t, 1, in)
	if err := in.stop(); err != nil {
		t.Fatal(err)
	}
	if err := in.Flush(t.Context()); err != nil {
		t.Fatalf("flush after the stop: %v", err)
	}
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
	copied, err := pebblestore.Open(pebblestore.Options{Dir: filepath.Join(dir, "b")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := copied.Close(); err != nil {
			t.Error(err)
		}
	})
	raw, ok, err := copied.Get(statestore.PositionKey("test.tally", 0))
	if err != nil || !ok {
		t.Fatalf("the checkpoint has no position: %v", err)
	}
	if p, err := stream.DecodePosition(raw); err != nil || p.Out == 0 {
		t.Fatalf("the checkpoint's position is %+v, %v", p, err)
	}
	in = b.start(t, "b", copied)
	b.send(t, factRecord(0, "k2", 52, "later"))
	b.settled(t, 1, in)
	if err := b.audit(t, running(t, in.Runtime)); err != nil {
		t.Fatal(err)
	}
	if err := in.stop(); err != nil {
		t.Fatal(err)
	}
}

// TestRebuildEqualsAll makes the state again in both ways and compares all three, then runs on what was rebuilt.

func TestRebuildEqualsAll(t *testing.T) {
	const partitions = 3
	b := startBroker(t, partitions)
	dir := filepath.Join(t.TempDir(), "state")
	store, err := pebblestore.Open(pebblestore.Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	in := b.start(t, "a", store)
	var recs []*kgo.Record
	for i := range 3000 {
		text := fmt.Sprint("v", i)
		if i%41 == 0 {
			text = "gone"
		}
		if i%97 == 0 {
			text = "poison"
		}
		recs = append(recs, factRecord(int32(i%partitions), fmt.Sprintf("k%d", i%300), uint64(i+1), text))
	}
	b.send(t, recs...)
	b.settled(t, partitions, in)
	runningDigests, err := in.Digests()
	if err != nil {
		t.Fatal(err)
	}
	if err := in.stop(); err != nil {
		t.Fatal(err)
	}
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
	log := b.log(t)
	staged, err := pebblestore.Stage(pebblestore.Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	var calls int
	opts := stream.RebuildOptions{Log: log, Store: staged, ChunkBytes: 5000, Progress: func(p stream.RebuildProgress) {
		calls++
		if p.Done > p.Total || p.Rate() < 0 {
			t.Errorf("progress %+v", p)
		}
	}}
	rebuilt, err := stream.Rebuild(t.Context(), definition(), opts)
	if err != nil {
		t.Fatal(err)
	}
	if rebuilt.Done != rebuilt.Total || rebuilt.Records == 0 || calls == 0 {
		t.Fatalf("report %+v after %d calls", rebuilt.RebuildProgress, calls)
	}
	opts.Store, opts.Progress = memstore.New(), nil
	refolded, err := stream.Refold(t.Context(), definition(), opts)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(runningDigests, rebuilt.Digests()) || !slices.Equal(runningDigests, refolded.Digests()) {
		t.Fatalf("digests differ:\nrunning  %v\nrebuilt  %v\nrefolded %v", runningDigests, rebuilt.Digests(), refolded.Digests())
	}
	if runningDigests[0].Entries == 0 {
		t.Fatal("nothing was compared")
	}
	if n := int64(len(refolded.Inputs)); n != partitions || refolded.Inputs[1].Records != 1000 || refolded.Inputs[1].End != 1000 {
		t.Fatalf("folded again: %+v", refolded.Inputs)
	}
	compareRebuilt(t, opts, staged, rebuilt, true)
	folds, err := stream.CompareFolds(confluent(), staged, opts.Store, []int32{0, 1, 2})
	if err != nil || len(folds) != partitions || !folds[2].Same() || folds[2].Equal != runningDigests[2].Entries {
		t.Fatalf("folds compare as %+v, %v", folds, err)
	}
	if _, err := stream.CompareFolds(definition(), staged, opts.Store, []int32{0}); err == nil {
		t.Fatal("folds of a definition that depends on the order were compared")
	}
	if err := staged.Promote(); err != nil {
		t.Fatal(err)
	}
	if err := staged.Close(); err != nil {
		t.Fatal(err)
	}
	if store, err = pebblestore.Open(pebblestore.Options{Dir: dir}); err != nil {
		t.Fatal(err)
	}
	in = b.start(t, "a", store)
	b.send(t, factRecord(0, "k0", 5000, "after"))
	b.settled(t, partitions, in)
	if err := b.audit(t, running(t, in.Runtime)); err != nil {
		t.Fatal(err)
	}
	if err := in.stop(); err != nil {
		t.Fatal(err)
	}
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
}

// confluent is the test processor as one whose state does not depend on the order of the inputs; what says so is the whole value.
func confluent() stream.Definition {
	d := definition()
	d.Canonical = func(value []byte) ([]byte, error) { return value, nil }
	return d
}

// compareRebuilt compares a store with the topics.
func compareRebuilt(t *testing.T, opts stream.RebuildOptions, store statestore.Store, report *stream.RebuildReport, same bool) []stream.Comparison {
	t.Helper()
	opts.Store = store
	out, err := stream.CompareWithTopics(t.Context(), definition(), opts, report)
	if err != nil {
		t.Fatal(err)
	}
	for i := range out {
		if out[i].Same() != same {
			t.Fatalf("compared with the topics: %+v", out[i])
		}
	}
	return out
}

// A comparison sees what is different, what is missing and what is too much, in the topics and in a fold.
func TestComparisonsSeeWhatDiffers(t *testing.T) {
	b := startBroker(t, 1)
	store := memstore.New()
	in := b.start(t, "a", store)
	for i := range 40 {
		b.send(t, factRecord(0, fmt.Sprintf("k%02d", i), uint64(i+1), "x"))
	}
	b.settled(t, 1, in)
	if err := in.stop(); err != nil {
		t.Fatal(err)
	}
	opts := stream.RebuildOptions{Log: b.log(t), Store: memstore.New()}
	report, err := stream.Rebuild(t.Context(), definition(), opts)
	if err != nil {
		t.Fatal(err)
	}
	key := func(name string) []byte { return statestore.Key("test.tally/"+tallyTable, 0, []byte(name)) }
	var batch statestore.Batch
	batch.Delete(key("k05"))
	batch.Put(key("k07"), []byte("another"))
	batch.Put(key("stranger"), []byte("x"))
	if err := opts.Store.Apply(&batch); err != nil {
		t.Fatal(err)
	}
	want := stream.Comparison{Table: tallyTable, Equal: 38, Different: 1, Missing: 1, Surplus: 1, Examples: []string{"k05", "k07", "stranger"}}
	if got := compareRebuilt(t, opts, opts.Store, report, false); !reflect.DeepEqual(got, []stream.Comparison{want}) {
		t.Errorf("with the topics: %+v", got)
	}
	if got, err := stream.CompareFolds(confluent(), opts.Store, store, []int32{0}); err != nil || !reflect.DeepEqual(got, []stream.Comparison{want}) {
		t.Errorf("with a fold: %+v, %v", got, err)
	}
}

func (b *broker) log(t *testing.T) stream.Log {
	t.Helper()
	log, err := kafka.NewLog(kafka.Config{Brokers: b.addrs}, kafka.SessionConfig{InstanceID: "rebuild"})
	if err != nil {
		t.Fatal(err)
	}
	return log
}

// A rebuild beside an instance at work takes the state as of one commit, wherever the group stands by the time that it looks.
func TestRebuildBesideAnInstanceAtWork(t *testing.T) {
	b := startBroker(t, 2)
	in := b.start(t, "a", memstore.New())
	stop, done := make(chan struct{}), make(chan error, 1)
	go func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				done <- nil
				return
			default:
			}
			if err := b.cl.ProduceSync(t.Context(), factRecord(int32(i%2), fmt.Sprintf("k%d", i%50), uint64(i+1), "x")).FirstErr(); err != nil {
				done <- err
				return
			}
		}
	}()
	opts := stream.RebuildOptions{Log: b.log(t)}
	for range 20 {
		opts.Store = memstore.New()
		report, err := stream.Rebuild(t.Context(), definition(), opts)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range report.Parts {
			raw, ok, err := opts.Store.Get(statestore.PositionKey("test.tally", p.Partition))
			if err != nil {
				t.Fatal(err)
			}
			if !ok {
				continue // it had committed nothing yet
			}
			position, err := stream.DecodePosition(raw)
			if err != nil || position.Out != p.Sources[0].End {
				t.Fatalf("the position is %+v (%v), the state goes up to %d", position, err, p.Sources[0].End)
			}
		}
		compareRebuilt(t, opts, opts.Store, report, true)
	}
	close(stop)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if err := in.stop(); err != nil {
		t.Fatal(err)
	}
}

func TestRebuildRefusesBadOptions(t *testing.T) {
	_, err := stream.Rebuild(t.Context(), stream.Definition{}, stream.RebuildOptions{ChunkBytes: -1})
	for _, want := range []string{"Log is nil", "Store is nil", "ChunkBytes", "Name is empty"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v does not say %q", err, want)
		}
	}
	if _, err := stream.Refold(t.Context(), stream.Definition{}, stream.RebuildOptions{}); err == nil {
		t.Error("folded nothing at all")
	}
}
