// Package topicview keeps the latest committed value of every key of the state and workflow topics in memory: the [httpapi.View]
// of a process.
//
// It reads the topics as any other consumer does (read_committed, without a group) from their start, and follows them. So what the API says is
// what the log says, whatever processes the roles run in, each entry knows the position that it stands at, and a view is lost
// with its process and made again in seconds. It keeps encoded values and decodes on demand: a fleet of a million resources takes some
// hundred megabytes.
//
//	v, err := topicview.New(config)
//	go v.Run(ctx, ready) // ready when the view has caught up with the topics as they were at its start
//
// Since: the log also says how long a value has been as it is. When a value's health or status differs from the one before it under the
// same key, since is the broker's time of that record; it goes back as far as the topic's history does.
//
// Invariants: (1) a reader never sees a value without its position; (2) watchers see changes in log order per key, none twice;
// (3) what cannot be decoded is counted and skipped, for its processor sends it to the dead-letter topic.
package topicview

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sort"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/regent-infra/regent/internal/clock"
	"github.com/regent-infra/regent/internal/event"
	"github.com/regent-infra/regent/internal/httpapi"
	"github.com/regent-infra/regent/internal/record"
)

// retryPause is the time between two attempts while brokers are away.
const retryPause = 250 * time.Millisecond

// Source reads partitions. The reader of internal/kafka is one.
type Source interface {
	// Poll waits for records of any partition, in offset order within each. After an error it may be called again.
	Poll(ctx context.Context) ([]record.Record, error)
	// Positions returns the offset after the last record or marker per partition.
	Positions() map[record.TopicPartition]int64
	// Close ends it.
	Close()
}

// Config is what a view is made of.
type Config struct {
	// Topics are followed.
	Topics []string
	// Open starts to read all partitions of the topics from their start, and says what their ends are now.
	Open func(ctx context.Context) (Source, map[record.TopicPartition]int64, error)
	// Codec decodes values.
	Codec event.Codec
	// Logger takes what goes wrong.
	Logger *slog.Logger
	// Metrics counts; may be nil.
	Metrics prometheus.Registerer
	// Clock paces retries.
	Clock clock.Clock
}

// entry is one key's latest record.
type entry struct {
	partition int32
	offset    int64
	timestamp time.Time
	since     time.Time
	health    string
	value     []byte
}

// View implements [httpapi.View].
type View struct {
	config  Config
	skipped prometheus.Counter

	mu       sync.RWMutex
	tables   map[string]*table
	watchers map[*watcher]struct{}
	ends     map[record.TopicPartition]int64
	at       map[record.TopicPartition]int64
	trouble  error
	ready    bool
}

// table is one topic: entries by key, and the keys in order.
type table struct {
	entries map[string]entry
	keys    []string
}

type watcher struct {
	topics []string
	fn     func(httpapi.Entry) error
	failed chan error
}

var _ httpapi.View = (*View)(nil)

// New makes a view that is empty until [View.Run].
func New(config Config) *View {
	v := &View{
		config: config, tables: map[string]*table{}, watchers: map[*watcher]struct{}{},
		ends: map[record.TopicPartition]int64{}, at: map[record.TopicPartition]int64{},
		trouble: errors.New("it has not begun"),
	}
	for _, topic := range config.Topics {
		v.tables[topic] = &table{entries: map[string]entry{}}
	}
	v.skipped = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "regent_view_skipped_records_total", Help: "Records that the API's view could not decode.",
	})
	if config.Metrics != nil {
		config.Metrics.MustRegister(v.skipped, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "regent_view_entries", Help: "Keys in the API's view of the topics.",
		}, func() float64 { return float64(v.size()) }))
	}
	return v
}

func (v *View) size() int {
	v.mu.RLock()
	defer v.mu.RUnlock()
	n := 0
	for _, t := range v.tables {
		n += len(t.entries)
	}
	return n
}

// Run follows the topics until ctx ends. Brokers that are away are waited for; the view meanwhile answers with what it has.
func (v *View) Run(ctx context.Context, ready func()) error {
	source, err := v.open(ctx)
	if err != nil {
		return nil //nolint:nilerr // only the end of ctx ends the attempts
	}
	defer source.Close()
	v.advance(nil, source.Positions(), ready)
	for {
		records, err := source.Poll(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			v.setTrouble(err)
			if clock.Wait(ctx, v.config.Clock, retryPause) != nil {
				return nil
			}
			continue
		}
		v.advance(records, source.Positions(), ready)
	}
}

// open tries until the topics can be read, or ctx ends.
func (v *View) open(ctx context.Context) (Source, error) {
	for {
		source, ends, err := v.config.Open(ctx)
		if err == nil {
			v.mu.Lock()
			v.ends = ends
			v.mu.Unlock()
			return source, nil
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		v.setTrouble(err)
		v.config.Logger.Warn("the topics cannot be read yet; the view tries again", "error", err)
		if err := clock.Wait(ctx, v.config.Clock, retryPause); err != nil {
			return nil, err
		}
	}
}

func (v *View) setTrouble(err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.trouble = err
}

// advance applies records and tells watchers.
func (v *View) advance(records []record.Record, positions map[record.TopicPartition]int64, ready func()) {
	changes := make([]change, 0, len(records))
	for i := range records {
		if c, ok := v.decode(&records[i]); ok {
			changes = append(changes, c)
		}
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.trouble, v.at = nil, positions
	for i := range changes {
		if v.apply(&changes[i]) {
			v.tell(changes[i].Entry)
		}
	}
	if !v.ready && v.behind() == 0 {
		v.ready = true
		ready()
	}
}

// change is a record as an entry, with its bytes.
type change struct {
	httpapi.Entry
	value []byte
}

func (v *View) decode(r *record.Record) (change, bool) {
	c := change{value: r.Value, Entry: httpapi.Entry{
		Topic: r.Topic, Partition: r.Partition, Offset: r.Offset, Timestamp: r.Timestamp, Key: string(r.Key), Since: r.Timestamp,
	}}
	if r.Tombstone() {
		return c, true
	}
	e, err := v.config.Codec.Decode(r.Topic, r.Value)
	if err != nil {
		v.skipped.Inc()
		v.config.Logger.Warn("the view skips a record that it cannot decode", "topic", r.Topic, "partition", r.Partition, "offset", r.Offset, "error", err)
		return c, false
	}
	c.Event = e
	return c, true
}

// apply puts a change into its table and reports whether it is newer than what was there.
func (v *View) apply(c *change) bool {
	t := v.tables[c.Topic]
	if t == nil {
		return false
	}
	old, exists := t.entries[c.Key]
	if exists && old.partition == c.Partition && old.offset >= c.Offset {
		return false
	}
	if c.Event == nil {
		if exists {
			delete(t.entries, c.Key)
			i, _ := slices.BinarySearch(t.keys, c.Key)
			t.keys = slices.Delete(t.keys, i, i+1)
		}
		return exists
	}
	health := httpapi.HealthOf(c.Event.Payload)
	if exists && old.health == health {
		c.Since = old.since
	}
	t.entries[c.Key] = entry{
		partition: c.Partition, offset: c.Offset, timestamp: c.Timestamp, since: c.Since, health: health, value: c.value,
	}
	if !exists {
		at, _ := slices.BinarySearch(t.keys, c.Key)
		t.keys = slices.Insert(t.keys, at, c.Key)
	}
	return true
}

func (v *View) tell(change httpapi.Entry) {
	for w := range v.watchers {
		if !slices.Contains(w.topics, change.Topic) {
			continue
		}
		if err := w.fn(change); err != nil {
			delete(v.watchers, w)
			w.failed <- err
		}
	}
}

// behind counts records up to the ends as they were when the topics were opened.
func (v *View) behind() int64 {
	var n int64
	for tp, end := range v.ends {
		n += max(end-v.at[tp], 0)
	}
	return n
}

// Get implements [httpapi.View].
func (v *View) Get(topic, key string) (httpapi.Entry, bool, error) {
	v.mu.RLock()
	t := v.tables[topic]
	if t == nil {
		v.mu.RUnlock()
		return httpapi.Entry{}, false, nil
	}
	e, ok := t.entries[key]
	v.mu.RUnlock()
	if !ok {
		return httpapi.Entry{}, false, nil
	}
	found, err := v.export(topic, key, e)
	return found, err == nil, err
}

// List implements [httpapi.View].
func (v *View) List(topic, prefix string) ([]httpapi.Entry, error) {
	v.mu.RLock()
	t := v.tables[topic]
	if t == nil {
		v.mu.RUnlock()
		return nil, nil
	}
	first := sort.SearchStrings(t.keys, prefix)
	var keys []string
	var entries []entry
	for _, key := range t.keys[first:] {
		if !strings.HasPrefix(key, prefix) {
			break
		}
		keys, entries = append(keys, key), append(entries, t.entries[key])
	}
	v.mu.RUnlock()
	found := make([]httpapi.Entry, 0, len(keys))
	for i, key := range keys {
		e, err := v.export(topic, key, entries[i])
		if err != nil {
			return nil, err
		}
		found = append(found, e)
	}
	return found, nil
}

func (v *View) export(topic, key string, e entry) (httpapi.Entry, error) {
	decoded, err := v.config.Codec.Decode(topic, e.value)
	if err != nil {
		return httpapi.Entry{}, fmt.Errorf("decode %s at %s/%d offset %d: %w", key, topic, e.partition, e.offset, err)
	}
	return httpapi.Entry{
		Topic: topic, Partition: e.partition, Offset: e.offset, Timestamp: e.timestamp, Key: key, Event: decoded, Since: e.since,
	}, nil
}

// Watch implements [httpapi.View]. fn is called while the view advances, so it must not wait.
func (v *View) Watch(ctx context.Context, topics []string, fn func(httpapi.Entry) error) error {
	w := &watcher{topics: topics, fn: fn, failed: make(chan error, 1)}
	v.mu.Lock()
	v.watchers[w] = struct{}{}
	v.mu.Unlock()
	defer func() {
		v.mu.Lock()
		delete(v.watchers, w)
		v.mu.Unlock()
	}()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case err := <-w.failed:
		return err
	}
}

// Lag implements [httpapi.View].
func (v *View) Lag() (int64, error) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	return v.behind(), v.trouble
}
