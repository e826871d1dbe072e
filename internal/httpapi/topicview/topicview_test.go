package topicview

import (
	"context"
	"errors"
	"log/slog"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/regent-infra/regent/internal/avrocodec"
	"github.com/regent-infra/regent/internal/clock"
	"github.com/regent-infra/regent/internal/event"
	"github.com/regent-infra/regent/internal/httpapi"
	"github.com/regent-infra/regent/internal/record"
	"github.com/regent-infra/regent/internal/topics"
	"github.com/regent-infra/regent/schemas"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var codec = avrocodec.Standalone(topics.Default())

// source hands out what a test pushes.
type source struct {
	records   chan []record.Record
	failures  chan error
	mu        sync.Mutex
	positions map[record.TopicPartition]int64
}

func newSource() *source {
	return &source{records: make(chan []record.Record), failures: make(chan error), positions: map[record.TopicPartition]int64{}}
}

func (s *source) Poll(ctx context.Context) ([]record.Record, error) {
	select {
	case records := <-s.records:
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, r := range records {
			s.positions[r.Position()] = r.Offset + 1
		}
		return records, nil
	case err := <-s.failures:
		return nil, err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

func (s *source) Positions() map[record.TopicPartition]int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	positions := map[record.TopicPartition]int64{}
	for tp, at := range s.positions {
		positions[tp] = at
	}
	return positions
}

func (s *source) Close() {}

var (
	stateTopic = topics.State(event.KindPostgres)
	begin      = time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC)
)

func state(t interface{ Fatal(...any) }, offset int64, key string, health schemas.Health) record.Record {
	value, err := codec.Encode(stateTopic, event.New(schemas.EnvelopeHeader{ID: event.NewID(), Cluster: key, Resource: key, OccurredAt: begin}, &schemas.PostgresClusterState{
		Health: health, Analysis: schemas.AnalysisCodeNoProblem,
	}))
	if err != nil {
		t.Fatal(err)
	}
	return record.Record{Topic: stateTopic, Offset: offset, Key: []byte(key), Value: value, Timestamp: begin.Add(time.Duration(offset) * time.Second)}
}

// started runs a view over a source whose end was due records away.
func started(t *testing.T, due int64) (*View, *source, <-chan struct{}) {
	t.Helper()
	s := newSource()
	v := New(Config{
		Topics: []string{stateTopic}, Codec: codec, Logger: slog.New(slog.DiscardHandler), Clock: clock.System{},
		Open: func(context.Context) (Source, map[record.TopicPartition]int64, error) {
			return s, map[record.TopicPartition]int64{{Topic: stateTopic}: due}, nil
		},
	})
	ready := make(chan struct{})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- v.Run(ctx, func() { close(ready) }) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return v, s, ready
}

func TestTheViewIsTheLatestValuePerKeyWithItsPosition(t *testing.T) {
	t.Parallel()
	v, s, ready := started(t, 4)
	if lag, err := v.Lag(); lag == 0 && err == nil {
		t.Error("a view that has read nothing says that it is current")
	}
	s.records <- []record.Record{state(t, 0, "postgres/a", schemas.HealthHealthy), state(t, 1, "postgres/b", schemas.HealthHealthy)}
	s.records <- []record.Record{state(t, 2, "postgres/a", schemas.HealthDown), state(t, 3, "postgres/a", schemas.HealthDown)}
	<-ready

	a, ok, err := v.Get(stateTopic, "postgres/a")
	if err != nil || !ok {
		t.Fatalf("%v, %v", ok, err)
	}
	if a.Offset != 3 || a.Event.Payload.(*schemas.PostgresClusterState).Health != schemas.HealthDown || !a.Timestamp.Equal(begin.Add(3*time.Second)) {
		t.Errorf("got %+v", a)
	}
	if !a.Since.Equal(begin.Add(2 * time.Second)) {
		t.Errorf("down since %s, want the record that began it, %s", a.Since, begin.Add(2*time.Second))
	}
	if lag, err := v.Lag(); lag != 0 || err != nil {
		t.Errorf("lag %d, %v", lag, err)
	}

	list, err := v.List(stateTopic, "postgres/")
	if err != nil || len(list) != 2 || list[0].Key != "postgres/a" || list[1].Key != "postgres/b" {
		t.Errorf("got %+v, %v", list, err)
	}
	if list, _ := v.List(stateTopic, "postgres/b"); len(list) != 1 {
		t.Errorf("got %+v", list)
	}
	if _, ok, _ := v.Get(stateTopic, "postgres/c"); ok {
		t.Error("a key that was never written is there")
	}
	if _, ok, _ := v.Get("other", "postgres/a"); ok {
		t.Error("a topic that is not followed has an entry")
	}
}

func TestTombstonesDeleteAndWhatCannotBeReadIsSkipped(t *testing.T) {
	t.Parallel()
	v, s, ready := started(t, 3)
	s.records <- []record.Record{
		state(t, 0, "postgres/a", schemas.HealthHealthy),
		{Topic: stateTopic, Offset: 1, Key: []byte("postgres/b"), Value: []byte("junk")},
		{Topic: stateTopic, Offset: 2, Key: []byte("postgres/a")},
	}
	<-ready
	if list, err := v.List(stateTopic, ""); err != nil || len(list) != 0 {
		t.Errorf("got %+v, %v", list, err)
	}
}

func TestWatchersSeeEveryChangeOnceAndInOrder(t *testing.T) {
	t.Parallel()
	v, s, ready := started(t, 0)
	<-ready
	seen := make(chan httpapi.Entry, 10)
	watching, stop := context.WithCancel(t.Context())
	defer stop()
	ended := make(chan error, 2)
	go func() {
		ended <- v.Watch(watching, []string{stateTopic}, func(e httpapi.Entry) error { seen <- e; return nil })
	}()
	go func() {
		ended <- v.Watch(watching, []string{stateTopic}, func(httpapi.Entry) error { return httpapi.ErrSlowWatcher })
	}()
	for v.watching() < 2 {
		runtime.Gosched()
	}
	s.records <- []record.Record{state(t, 0, "postgres/a", schemas.HealthHealthy), state(t, 1, "postgres/b", schemas.HealthHealthy)}
	s.records <- []record.Record{{Topic: stateTopic, Offset: 2, Key: []byte("postgres/a")}}
	for i := range int64(3) {
		if e := <-seen; e.Offset != i || (e.Event == nil) != (i == 2) {
			t.Errorf("change %d is %+v", i, e)
		}
	}
	if err := <-ended; !errors.Is(err, httpapi.ErrSlowWatcher) {
		t.Errorf("the slow watcher ended with %v", err)
	}
	stop()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("the other ended with %v", err)
	}
}

func (v *View) watching() int {
	v.mu.RLock()
	defer v.mu.RUnlock()
	return len(v.watchers)
}

func TestBrokersThatAreAwayAreWaitedFor(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newSource()
		attempts := 0
		v := New(Config{
			Topics: []string{stateTopic}, Codec: codec, Logger: slog.New(slog.DiscardHandler), Clock: clock.System{},
			Open: func(context.Context) (Source, map[record.TopicPartition]int64, error) {
				if attempts++; attempts < 3 {
					return nil, nil, errors.New("no broker answers")
				}
				return s, nil, nil
			},
		})
		ctx, cancel := context.WithCancel(t.Context())
		ready, done := make(chan struct{}), make(chan error, 1)
		go func() { done <- v.Run(ctx, func() { close(ready) }) }()
		synctest.Wait()
		if _, err := v.Lag(); err == nil || !strings.Contains(err.Error(), "no broker answers") {
			t.Errorf("got %v", err)
		}
		<-ready
		s.failures <- errors.New("the broker went away")
		synctest.Wait()
		if _, err := v.Lag(); err == nil {
			t.Error("a view whose broker went away says that it is current")
		}
		s.records <- []record.Record{state(t, 0, "postgres/a", schemas.HealthHealthy)}
		synctest.Wait()
		if _, err := v.Lag(); err != nil {
			t.Errorf("the broker is back, but %v", err)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// Whatever order keys are written and deleted in, List is the sorted latest values and Get agrees with it.
func TestListAndGetAgreeWithAModel(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		v := New(Config{Topics: []string{stateTopic}, Codec: codec, Logger: slog.New(slog.DiscardHandler), Clock: clock.System{}})
		model := map[string]int64{}
		n := rapid.IntRange(0, 40).Draw(rt, "n")
		for offset := range int64(n) {
			key := "postgres/" + rapid.StringMatching(`[a-c]{1,2}`).Draw(rt, "key")
			r := record.Record{Topic: stateTopic, Offset: offset, Key: []byte(key)}
			if rapid.Bool().Draw(rt, "delete") {
				delete(model, key)
			} else {
				r = state(rt, offset, key, schemas.HealthHealthy)
				model[key] = offset
			}
			v.advance([]record.Record{r}, nil, func() {})
		}
		list, err := v.List(stateTopic, "")
		if err != nil {
			rt.Fatal(err)
		}
		if len(list) != len(model) || !slices.IsSortedFunc(list, func(a, b httpapi.Entry) int { return strings.Compare(a.Key, b.Key) }) {
			rt.Fatalf("list %v, model %v", list, model)
		}
		for _, e := range list {
			got, ok, err := v.Get(stateTopic, e.Key)
			if err != nil || !ok || got.Offset != model[e.Key] || e.Offset != got.Offset {
				rt.Fatalf("%s: %+v, %v, %v; model %d", e.Key, got, ok, err, model[e.Key])
			}
		}
	})
}
