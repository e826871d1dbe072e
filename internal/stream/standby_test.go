package stream_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/regent-infra/regent/internal/kafka"
	"github.com/regent-infra/regent/internal/stream"
	"github.com/regent-infra/regent/statestore"
	"github.com/regent-infra/regent/statestore/memstore"
)

func withStandbys(n int) instanceOption {
	return func(_ *kafka.SessionConfig, o *stream.Options, _ *stream.Definition) {
		o.Standbys, o.StandbyInterval = n, 5*time.Millisecond
	}
}

func foldVersion(n int32) instanceOption {
	return func(_ *kafka.SessionConfig, _ *stream.Options, d *stream.Definition) { d.FoldVersion = n }
}

// some writes facts to all partitions.
func (b *broker) some(t testing.TB, seq *uint64, n int) {
	t.Helper()
	var recs []*kgo.Record
	for range n {
		*seq++
		recs = append(recs, factRecord(int32(*seq%uint64(b.partitions)), fmt.Sprintf("k%d", *seq%40), *seq, "x"))
	}
	b.send(t, recs...)
}

// copies are the tasks of which an instance has warm copies that are as far as the group.
func copies(in *instance) []int32 {
	var out []int32
	status := in.Status()
	for _, st := range status.Standbys {
		if st.Warm && st.Error == "" {
			out = append(out, st.Task)
		}
	}
	return out
}

// copied waits until the copy of a task is what the group's position says.
func (b *broker) copied(t testing.TB, store statestore.Store, task int32) {
	t.Helper()
	eventually(t, fmt.Sprint("the copy of task ", task, " is up to date"), func() bool {
		raw, ok, err := store.Get(statestore.PositionKey("test.tally", task))
		if err != nil {
			t.Fatal(err)
		}
		if !ok {
			return false
		}
		p, err := stream.DecodePosition(raw)
		if err != nil {
			t.Fatal(err)
		}
		m, err := stream.DecodeMetadata(b.committed(t, task).Metadata)
		return err == nil && p.Out == m.Out
	})
	state, err := scanTable(store, task)
	if err != nil {
		t.Fatal(err)
	}
	if err := sameState(materialise(b.read(t, stateTopic)[task]), state); err != nil {
		t.Fatalf("the copy of task %d: %v", task, err)
	}
}

func TestStandbysFollowAndTakeOver(t *testing.T) {
	b := startBroker(t, 4)
	stores := map[string]*memstore.Store{"a": memstore.New(), "b": memstore.New()}
	seq := uint64(0)
	first := b.start(t, "a", stores["a"], withStandbys(1))
	b.some(t, &seq, 200)
	b.settled(t, 4, first)
	second := b.start(t, "b", stores["b"], withStandbys(1))
	eventually(t, "they share the tasks and stand by for each other", func() bool {
		return len(first.Partitions()) == 2 && slices.Equal(copies(first), second.Partitions()) && slices.Equal(copies(second), first.Partitions())
	})
	b.some(t, &seq, 200)
	b.settled(t, 4, first, second)
	for task := range int32(4) {
		who := "a"
		if slices.Contains(first.Partitions(), task) {
			who = "b"
		}
		b.copied(t, stores[who], task)
	}
	if err := first.stop(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the second has all tasks, and no copies", func() bool {
		return len(second.Partitions()) == 4 && len(second.Status().Standbys) == 0
	})
	b.some(t, &seq, 200)
	b.settled(t, 4, second)
	if err := b.audit(t, running(t, second.Runtime)); err != nil {
		t.Fatal(err)
	}
}

// TestOlderProgramsKeepCopiesOnly lets a program work beside one of a later fold version: the later one's tasks do not come back to it, even
// when nobody else is there, and its own go on. Copies it keeps.
func TestOlderProgramsKeepCopiesOnly(t *testing.T) {
	b := startBroker(t, 4)
	seq := uint64(0)
	old := b.start(t, "old", memstore.New(), withStandbys(1))
	b.some(t, &seq, 100)
	b.settled(t, 4, old)
	later := b.start(t, "later", memstore.New(), withStandbys(1), foldVersion(2))
	eventually(t, "they share the tasks", func() bool { return len(old.Partitions()) == 2 && len(later.Partitions()) == 2 })
	moved := later.Partitions()
	b.some(t, &seq, 100)
	b.settled(t, 4, old, later)
	eventually(t, "the old one has copies of what the later one has folded", func() bool { return slices.Equal(copies(old), moved) })
	if err := later.stop(); err != nil {
		t.Fatal(err)
	}
	kept := old.Partitions()
	b.some(t, &seq, 100)
	eventually(t, "the old one's own tasks go on", func() bool {
		for _, p := range kept {
			if end, _ := b.stableEnds(t, factsTopic).Lookup(factsTopic, p); end.Offset > old.position(factsTopic, p) {
				return false
			}
		}
		return true
	})
	if got := old.Partitions(); !slices.Equal(got, kept) {
		t.Fatalf("the old program runs %v, expected %v", got, kept)
	}
	later = b.start(t, "later", memstore.New(), withStandbys(1), foldVersion(2))
	eventually(t, "the later one has its tasks again", func() bool { return slices.Equal(later.Partitions(), moved) })
	b.settled(t, 4, old, later)
	if err := b.audit(t, nil); err != nil {
		t.Fatal(err)
	}
}

// TestCopiesOfAChangelogThatWasMadeAgain refuses to go on with a copy that belongs to another topic, says so, and leaves the process alone.
func TestACopyIsRefusedWhereItsTopicIsAnother(t *testing.T) {
	b := startBroker(t, 2)
	seq := uint64(0)
	strange := memstore.New()
	var batch statestore.Batch
	batch.Put(statestore.PositionKey("test.tally", 0), (&stream.Position{FoldVersion: 1, Out: 5, Changelog: [16]byte{9}, StampedAt: time.Now(), Tables: []string{tallyTable}}).Encode())
	if err := strange.Apply(&batch); err != nil {
		t.Fatal(err)
	}
	owner := b.start(t, "a", memstore.New(), withStandbys(1))
	b.some(t, &seq, 50)
	b.settled(t, 2, owner)
	// The other one gets task 1; of task 0 it is to keep a copy.
	other := b.start(t, "b", strange, withStandbys(1))
	eventually(t, "the copy is refused", func() bool {
		status := other.Status()
		return slices.ContainsFunc(status.Standbys, func(st stream.StandbyStatus) bool {
			return st.Task == 0 && !st.Warm && strings.Contains(st.Error, "belongs to a changelog")
		})
	})
	b.some(t, &seq, 50)
	b.settled(t, 2, owner, other)
	if got := other.Partitions(); !slices.Equal(got, []int32{1}) {
		t.Fatalf("the process runs %v beside the copy that it refuses", got)
	}
}

// TestAStoreThatFailsUnderACopyEndsTheProcess: whoever cannot write copies cannot write state either.
func TestAStoreThatFailsUnderACopyEndsTheProcess(t *testing.T) {
	b := startBroker(t, 2)
	seq := uint64(0)
	owner := b.start(t, "a", memstore.New(), withStandbys(1))
	b.some(t, &seq, 50)
	b.settled(t, 2, owner)
	store := memstore.New()
	other := b.start(t, "b", store, withStandbys(1), func(_ *kafka.SessionConfig, o *stream.Options, _ *stream.Definition) {
		o.FlushInterval = time.Hour // the copy is all that is written
	})
	eventually(t, "a copy is kept", func() bool { return slices.Equal(copies(other), []int32{0}) })
	broken := errors.New("broken")
	store.Fail(broken)
	b.send(t, factRecord(0, "k", 1000, "x"))
	eventually(t, "the process fails", func() bool { return other.Status().State == stream.StateFailed })
	if err := other.stop(); !errors.Is(err, statestore.ErrFailed) || !errors.Is(err, broken) {
		t.Fatal(err)
	}
}
