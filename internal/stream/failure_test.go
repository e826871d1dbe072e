package stream_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/regent-infra/regent/internal/kafka"
	"github.com/regent-infra/regent/internal/record"
	"github.com/regent-infra/regent/internal/stream"
	"github.com/regent-infra/regent/statestore"
	"github.com/regent-infra/regent/statestore/memstore"
)

func TestErrorsThatEndIt(t *testing.T) {
	broken := errors.New("broken")
	t.Run("machine", func(t *testing.T) {
		b := startBroker(t, 1)
		b.send(t, factRecord(0, "k", 1, "x"))
		err := b.failed(t, memstore.New(), func(_ *kafka.SessionConfig, _ *stream.Options, d *stream.Definition) {
			d.NewMachine = func(int32) stream.Machine { return machine(func(stream.Task, *record.Record) error { return broken }) }
		})
		if !errors.Is(err, broken) || !strings.Contains(err.Error(), "process record test.facts/0@0") {
			t.Fatal(err)
		}
		if n := len(b.read(t, sideTopic)[0]); n != 0 || b.committed(t, 0).Offset != 0 {
			t.Fatalf("%d records and offset %d were committed", n, b.committed(t, 0).Offset)
		}
	})
	for name, c := range map[string]struct {
		do   func(task stream.Task, rec *record.Record)
		want string
	}{
		"undeclared output":   {func(task stream.Task, _ *record.Record) { task.Emit(record.Record{Topic: "nowhere"}) }, `emit to "nowhere"`},
		"another's changelog": {func(task stream.Task, _ *record.Record) { task.Emit(record.Record{Topic: stateTopic, Partition: 7}) }, "expected the task's own, 0"},
		"changelog, no key": {func(task stream.Task, _ *record.Record) {
			task.Emit(record.Record{Topic: stateTopic, Partition: stream.OwnPartition})
		}, "has no key"},
		"undeclared table": {func(task stream.Task, _ *record.Record) { _, _ = task.Get("nothing", nil) }, `table "nothing"`},
		"undeclared range": {func(task stream.Task, _ *record.Record) { task.Range("nothing", nil) }, `table "nothing"`},
	} {
		t.Run(name, func(t *testing.T) {
			b := startBroker(t, 1)
			b.send(t, factRecord(0, "k", 1, "x"))
			err := b.failed(t, memstore.New(), func(_ *kafka.SessionConfig, _ *stream.Options, d *stream.Definition) {
				d.NewMachine = func(int32) stream.Machine {
					return machine(func(task stream.Task, rec *record.Record) error { c.do(task, rec); return nil })
				}
			})
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("got %v, expected %q", err, c.want)
			}
		})
	}
	t.Run("store", func(t *testing.T) {
		b := startBroker(t, 1)
		store := memstore.New()
		in := b.start(t, "a", store, func(_ *kafka.SessionConfig, o *stream.Options, _ *stream.Definition) {
			o.FlushInterval = time.Millisecond
		})
		b.send(t, factRecord(0, "k", 1, "x"))
		b.settled(t, 1, in)
		store.Fail(broken)
		for i := range 100 {
			b.send(t, factRecord(0, "k", uint64(i+2), "x"))
			if in.Status().State == stream.StateFailed {
				break
			}
		}
		eventually(t, "the runtime fails", func() bool { return in.Status().State == stream.StateFailed })
		if err := in.stop(); !errors.Is(err, statestore.ErrFailed) || !errors.Is(err, broken) {
			t.Fatal(err)
		}
		// Nothing is lost: with a healthy store it goes on.
		store.Fail(nil)
		in = b.start(t, "a", store)
		b.settled(t, 1, in)
		if err := b.audit(t, running(t, in.Runtime)); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("dead letter cannot be built", func(t *testing.T) {
		b := startBroker(t, 1)
		b.send(t, factRecord(0, "k", 1, "poison"))
		for name, dead := range map[string]func(*record.Record, string, error) (record.Record, error){
			broken.Error(): func(*record.Record, string, error) (record.Record, error) { return record.Record{}, broken },
			"is the changelog": func(*record.Record, string, error) (record.Record, error) {
				return record.Record{Topic: stateTopic}, nil
			},
		} {
			err := b.failed(t, memstore.New(), func(_ *kafka.SessionConfig, _ *stream.Options, d *stream.Definition) { d.DeadLetter = dead })
			if err == nil || !strings.Contains(err.Error(), name) {
				t.Fatalf("got %v, expected %q", err, name)
			}
		}
	})
}

type machine func(task stream.Task, rec *record.Record) error

func (m machine) Process(task stream.Task, rec *record.Record) error { return m(task, rec) }
