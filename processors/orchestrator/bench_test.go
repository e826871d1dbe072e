package orchestrator

import (
	"testing"
	"time"

	"github.com/regent-infra/regent/internal/record"
	"github.com/regent-infra/regent/schemas"
)

// BenchmarkMachine gives a machine the records of a healthy cluster: heartbeats, which only let time pass, and states, about which
// nothing is decided but that nothing is to be done.
func BenchmarkMachine(b *testing.B) {
	prepare := func() *fakeTask {
		task := newTask(b, testConfig())
		for _, step := range history()[:5] {
			task.must(step(task))
		}
		task.must(task.beat(time.Second))
		return task
	}
	b.Run("heartbeat", func(b *testing.B) {
		task := prepare()
		rec := task.beat(0)
		for b.Loop() {
			if _, err := task.process(rec); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("state", func(b *testing.B) {
		task := prepare()
		var recs []*record.Record
		for i := range 2 {
			e, err := codec.Decode(stateTopic, task.tables[StateTable][string(cluster.Node("pg-2"))])
			if err != nil {
				b.Fatal(err)
			}
			o := e.Payload.(*schemas.PostgresNodeState).Observed
			o.FlushedLsn = int64(i)
			recs = append(recs, task.node(o, int64(10+i)))
		}
		b.ReportAllocs()
		n := 0
		for b.Loop() {
			n++
			outs, err := task.process(recs[n%2])
			if err != nil || len(outs) > 0 {
				b.Fatal(err, len(outs))
			}
		}
	})
}
