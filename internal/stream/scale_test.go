package stream_test

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/regent-infra/regent/internal/kafka"
	"github.com/regent-infra/regent/internal/kafkaserver"
	"github.com/regent-infra/regent/internal/stream"
	"github.com/regent-infra/regent/statestore/pebblestore"
)

// scalePartitions is how many tasks the processes share in these tests.
const scalePartitions = 8

// startWide starts an Apache Kafka with the topics of the test processor.
func startWide(t testing.TB) *broker {
	t.Helper()
	srv, err := kafkaserver.Start(context.Background(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(srv.Kill)
	return openBroker(t, []string{srv.Broker()}, scalePartitions, 1)
}

// sizeOf is a size that an environment variable may set.
func sizeOf(t *testing.T, variable string, otherwise int) int {
	t.Helper()
	text := os.Getenv(variable)
	if text == "" {
		return otherwise
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("%s is %q, expected a number of 1 or more", variable, text)
	}
	return n
}

// arrivals notes when outputs of each partition arrive at a reader of committed records.
type arrivals struct {
	mu  sync.Mutex
	all [scalePartitions][]time.Time
}

func (b *broker) watchOutputs(t testing.TB) *arrivals {
	t.Helper()
	starts := map[int32]kgo.Offset{}
	for p := range b.partitions {
		starts[p] = kgo.NewOffset().AtEnd()
	}
	cl, err := kgo.NewClient(kgo.SeedBrokers(b.addrs...), kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.FetchMaxWait(100*time.Millisecond),
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{sideTopic: starts}))
	if err != nil {
		t.Fatal(err)
	}
	a := &arrivals{}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			fs := cl.PollFetches(ctx)
			if ctx.Err() != nil {
				return
			}
			now := time.Now()
			a.mu.Lock()
			fs.EachRecord(func(r *kgo.Record) { a.all[r.Partition] = append(a.all[r.Partition], now) })
			a.mu.Unlock()
		}
	}()
	t.Cleanup(func() {
		cancel()
		<-done
		cl.Close()
	})
	return a
}

// after returns when the first output of a partition arrived after a moment; zero if none has.
func (a *arrivals) after(p int32, moment time.Time) time.Time {
	a.mu.Lock()
	defer a.mu.Unlock()
	i, _ := slices.BinarySearchFunc(a.all[p], moment, func(x, m time.Time) int { return cmp.Compare(x.UnixNano(), m.UnixNano()+1) })
	if i == len(a.all[p]) {
		return time.Time{}
	}
	return a.all[p][i]
}

// longestGap returns the longest time between two outputs of one partition, from one moment to another, and when it ended.
func (a *arrivals) longestGap(from, to time.Time) (longest time.Duration, partition int32, ended time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for p, list := range a.all {
		last := from
		for _, at := range append(slices.Clone(list), to) {
			if at.Before(from) || at.After(to) {
				continue
			}
			if gap := at.Sub(last); gap > longest {
				longest, partition, ended = gap, int32(p), at
			}
			last = at
		}
	}
	return longest, partition, ended
}

// fill writes one fact for each of so many keys, which makes that much state.
func (b *broker) fill(t testing.TB, keys int) {
	t.Helper()
	failed := make(chan error, 1)
	for i := range keys {
		r := factRecord(int32(i)%b.partitions, fmt.Sprintf("key-%d", i), 1, scaleText)
		b.cl.Produce(t.Context(), r, func(_ *kgo.Record, err error) {
			if err != nil {
				select {
				case failed <- err:
				default:
				}
			}
		})
	}
	if err := b.cl.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-failed:
		t.Fatal(err)
	default:
	}
}

// scaleText makes a state of about 200 bytes.
const scaleText = "0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789" +
	"01234567890123456789012345678901234567890"

// stroll writes facts about random ones of so many keys, one at a time and spread over all partitions, until stop is called.
func (b *broker) stroll(t testing.TB, keys, perSecond int) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	var failed error
	go func() {
		defer close(done)
		rng := rand.New(rand.NewPCG(7, 7))
		pace := time.NewTicker(time.Second / time.Duration(perSecond))
		defer pace.Stop()
		var mu sync.Mutex
		for seq := uint64(2); ctx.Err() == nil; seq++ {
			// The partition goes round, so that each has an output all the time.
			key := rng.IntN(keys/int(b.partitions))*int(b.partitions) + int(seq%uint64(b.partitions))
			b.cl.Produce(context.Background(), factRecord(int32(key)%b.partitions, fmt.Sprintf("key-%d", key), seq, scaleText), func(_ *kgo.Record, err error) {
				mu.Lock()
				defer mu.Unlock()
				failed = cmp.Or(failed, err)
			})
			select {
			case <-pace.C:
			case <-ctx.Done():
			}
		}
		if err := b.cl.Flush(context.Background()); err != nil {
			failed = cmp.Or(failed, err)
		}
	}()
	return sync.OnceFunc(func() {
		cancel()
		<-done
		if failed != nil {
			t.Errorf("write facts: %v", failed)
		}
	})
}

// allCommitted waits until the group has committed everything that was written so far.
func (b *broker) allCommitted(t testing.TB, within time.Duration) {
	t.Helper()
	ends, err := b.adm.ListEndOffsets(t.Context(), factsTopic)
	if err != nil {
		t.Fatal(err)
	}
	look := time.NewTicker(20 * time.Millisecond)
	defer look.Stop()
	for deadline := time.Now().Add(within); ; <-look.C {
		left := int64(0)
		offsets, err := b.adm.FetchOffsets(t.Context(), "regent.test.tally")
		for p := range b.partitions {
			end, _ := ends.Lookup(factsTopic, p)
			at, _ := offsets.Lookup(factsTopic, p)
			left += max(end.Offset-at.At, 0)
		}
		if err == nil && left == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d facts are not committed after %s: %v", left, within, err)
		}
	}
}

// TestTakeOverOnApacheKafka kills a process that runs half of the tasks with SIGKILL, under load, while another keeps warm copies: from the
// moment at which the survivor is given the tasks until their first new outputs it must take less than a second.
// REGENT_TAKEOVER_KEYS is how much state there is: 1,000,000 for the figure (make bench-takeover).
func TestTakeOverOnApacheKafka(t *testing.T) {
	keys := sizeOf(t, "REGENT_TAKEOVER_KEYS", 20_000)
	full := keys >= 1_000_000
	limit, rate := 5*time.Second, 500 // on a machine that does other things too
	if full {
		limit, rate = time.Second, 1000
	}
	b := startWide(t)
	b.fill(t, keys)
	dir := t.TempDir()
	began := time.Now()
	o := order{Brokers: b.addrs, Instance: "owner", Dir: filepath.Join(dir, "owner"), Standbys: 1, Production: true}
	owner := spawn(t, o)
	b.allCommitted(t, 5*time.Minute)
	t.Logf("%d keys folded by one process in %s", keys, time.Since(began).Round(time.Millisecond))

	store, err := pebblestore.Open(pebblestore.Options{Dir: filepath.Join(dir, "heir")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
	began = time.Now()
	heir := b.start(t, "heir", store, func(sc *kafka.SessionConfig, o *stream.Options, _ *stream.Definition) {
		*sc = kafka.SessionConfig{InstanceID: "heir", Logger: sc.Logger}
		*o = stream.Options{Store: o.Store, Logger: o.Logger, Standbys: 1}
	})
	within(t, 3*time.Minute, "the heir has half of the tasks and warm copies of the others", func() bool {
		return len(heir.Partitions()) == scalePartitions/2 && warmCopies(heir.Runtime) == scalePartitions/2
	})
	t.Logf("a second process was warm after %s", time.Since(began).Round(time.Millisecond))

	stop := b.stroll(t, keys, rate)
	seen := b.watchOutputs(t)
	mine := heir.Partitions()
	eventually(t, "every task has outputs", func() bool {
		return !slices.ContainsFunc([]int32{0, 1, 2, 3, 4, 5, 6, 7}, func(p int32) bool { return seen.after(p, time.Time{}).IsZero() })
	})
	owner.kill()
	killed := time.Now()
	within(t, time.Minute, "the heir is given the other tasks", func() bool { return len(heir.Status().Tasks) == scalePartitions })
	known := time.Now()
	var worst time.Duration
	for p := range b.partitions {
		if slices.Contains(mine, p) {
			continue
		}
		within(t, time.Minute, fmt.Sprint("task ", p, " has an output again"), func() bool { return !seen.after(p, known).IsZero() })
		worst = max(worst, seen.after(p, known).Sub(known))
	}
	t.Logf("%d keys: the death was known after %s, the last of the tasks had its first new output %s later",
		keys, known.Sub(killed).Round(time.Millisecond), worst.Round(time.Millisecond))
	if worst > limit {
		t.Errorf("the take-over took %s, expected less than %s", worst, limit)
	}
	stop()
	b.allCommitted(t, time.Minute)
	if err := b.audit(t, running(t, heir.Runtime)); err != nil {
		t.Fatal(err)
	}
	if err := heir.stop(); err != nil {
		t.Fatal(err)
	}
}

// within waits until a condition holds.
func within(t testing.TB, d time.Duration, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(d)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("gave up waiting until %s", what)
		}
	}
}

// TestRollingUpgradeOnApacheKafka restarts two processes one after the other, in order and under load, with a program of a later fold version.
// No task may stand still for more than a second. REGENT_ROLLING_KEYS is how much state there is (make bench-rolling).
func TestRollingUpgradeOnApacheKafka(t *testing.T) {
	keys := sizeOf(t, "REGENT_ROLLING_KEYS", 20_000)
	limit, rate := 5*time.Second, 500 // on a machine that does other things too
	if os.Getenv("REGENT_ROLLING_KEYS") != "" {
		limit, rate = time.Second, 1000
	}
	b := startWide(t)
	b.fill(t, keys)
	dir := t.TempDir()
	as := func(name string, fold int32) order {
		return order{Brokers: b.addrs, Instance: name, Dir: filepath.Join(dir, name), Standbys: 1, Production: true, FoldVersion: fold}
	}
	half := fmt.Sprint(scalePartitions / 2)
	procs := map[string]*process{"a": spawn(t, as("a", 1))}
	b.allCommitted(t, 5*time.Minute)
	procs["b"] = spawn(t, as("b", 1))
	procs["b"].says("runs " + half + " and stands by for " + half)
	stop := b.stroll(t, keys, rate)
	seen := b.watchOutputs(t)
	eventually(t, "every task has outputs", func() bool {
		return !slices.ContainsFunc([]int32{0, 1, 2, 3, 4, 5, 6, 7}, func(p int32) bool { return seen.after(p, time.Time{}).IsZero() })
	})
	from := time.Now()
	for _, name := range []string{"a", "b"} {
		began := time.Now()
		procs[name].signal(syscall.SIGTERM)
		if s := procs[name].ended(); s != 0 {
			t.Fatalf("process %s died of %s", name, s)
		}
		procs[name] = spawn(t, as(name, 2))
		procs[name].says("runs " + half + " and stands by for " + half)
		gap, p, ended := seen.longestGap(began, time.Now())
		t.Logf("process %s was stopped, and had its tasks again after %s; the longest pause so far is %s, of task %d, and ended %s after the stop",
			name, time.Since(began).Round(time.Millisecond), gap.Round(time.Millisecond), p, ended.Sub(began).Round(time.Millisecond))
	}
	gap, _, _ := seen.longestGap(from, time.Now())
	t.Logf("%d keys: the longest pause between two outputs of a task was %s", keys, gap.Round(time.Millisecond))
	if gap > limit {
		t.Errorf("a task stood still for %s, expected less than %s", gap, limit)
	}
	stop()
	b.allCommitted(t, time.Minute)
	for name, p := range procs {
		p.signal(syscall.SIGTERM)
		if s := p.ended(); s != 0 {
			t.Fatalf("process %s died of %s", name, s)
		}
	}
	if err := b.audit(t, nil); err != nil {
		t.Fatal(err)
	}
}
