package reducer

import (
	"fmt"
	"iter"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/regent-infra/regent/internal/event"
	"github.com/regent-infra/regent/internal/record"
	"github.com/regent-infra/regent/schemas"
)

// benchTask is a task without the costs of a fake: a map and its sorted keys.
type benchTask struct {
	table      map[string][]byte
	keys       []string
	streamTime time.Time
	emitted    int
	bytes      int
}

func (t *benchTask) ID() int32                                { return 0 }
func (t *benchTask) StreamTime() time.Time                    { return t.streamTime }
func (t *benchTask) CaughtUp() bool                           { return true }
func (t *benchTask) Generation() int64                        { return 1 }
func (t *benchTask) Get(_ string, key []byte) ([]byte, error) { return t.table[string(key)], nil }

func (t *benchTask) Range(_ string, prefix []byte) iter.Seq2[[]byte, []byte] {
	return func(yield func([]byte, []byte) bool) {
		i, _ := slices.BinarySearch(t.keys, string(prefix))
		for ; i < len(t.keys) && strings.HasPrefix(t.keys[i], string(prefix)); i++ {
			if !yield([]byte(t.keys[i]), t.table[t.keys[i]]) {
				return
			}
		}
	}
}

func (t *benchTask) Emit(out record.Record) {
	t.emitted++
	t.bytes += len(out.Value)
	key := string(out.Key)
	if _, known := t.table[key]; !known {
		i, _ := slices.BinarySearch(t.keys, key)
		t.keys = slices.Insert(t.keys, i, key)
	}
	t.table[key] = out.Value
}

// cpuTime is what this process has used, garbage collection included: on a busy machine it tells more than the clock.
func cpuTime(b *testing.B) time.Duration {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		b.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

// realistic is an observation as an agent of a busy node publishes it.
func realistic(id event.ResourceID, round int64, at time.Time) *schemas.PostgresNodeObserved {
	lsn := 1<<33 + round*20_000
	lag, signal := int64(3), "SIGKILL"
	o := &schemas.PostgresNodeObserved{
		Node: id.Node(), Host: id.Node() + ".db.internal", Port: 5432, AgentVersion: "1.0.0", ServerVersion: 150018, SystemIdentifier: "7412345678901234567",
		Postmaster: schemas.PostmasterStatusRunning, PostmasterStartedAt: &epoch, AcceptingConnections: true, Timeline: 5,
		LastExit:        &schemas.PostmasterExit{At: epoch, Signal: &signal},
		TimelineHistory: []schemas.TimelineSwitch{{Timeline: 1, SwitchLsn: 1 << 30, Reason: "no recovery target specified"}, {Timeline: 3, SwitchLsn: 1 << 31, Reason: "no recovery target specified"}},
		ReceivedLsn:     lsn, FlushedLsn: lsn, Connections: &schemas.ConnectionUsage{Max: 97, Total: 40, Active: 12, Idle: 28, LongestTransactionMs: 31},
		Disk:    &schemas.DiskUsage{DataTotalBytes: 1 << 40, DataFreeBytes: 1<<39 - round, WalTotalBytes: 1 << 38, WalFreeBytes: 1<<37 - round, WalSizeBytes: 1 << 30, DatabaseSizeBytes: 1 << 38},
		Queries: &schemas.QueryMetrics{Commits: round * 900, BlocksHit: round * 90_000, BlocksRead: round * 40, RowsReturned: round * 10_000, RowsInserted: round * 800, WalBytes: lsn},
		Breaker: schemas.BreakerStatus{State: schemas.BreakerStateClosed, ChangedAt: epoch}, PromisedTerm: 5, Term: 5,
	}
	if id.Node() == "pg-1" {
		o.Role, o.WrittenLsn, o.SynchronousStandbyNames = schemas.NodeRolePrimary, lsn, `ANY 1 ("pg-2-t5", "pg-3-t5")`
		for _, standby := range []string{"pg-2", "pg-3"} {
			o.Senders = append(o.Senders, schemas.WalSender{
				ApplicationName: standby + "-t5", ClientAddress: "10.0.0.7", State: "streaming", SyncState: "quorum",
				SentLsn: lsn, WriteLsn: lsn, FlushLsn: lsn, ReplayLsn: lsn - 300, ReplayLagMs: &lag,
			})
			o.Slots = append(o.Slots, schemas.ReplicationSlot{Name: "regent_" + standby, Active: true, RestartLsn: &lsn, WalStatus: "reserved"})
		}
		return o
	}
	o.Role, o.ReplayedLsn, o.ReplayLagMs, o.Upstream = schemas.NodeRoleStandby, lsn-300, &lag, "pg-1"
	o.Receiver = &schemas.WalReceiver{
		Status: "streaming", SenderHost: "pg-1.db.internal", SenderPort: 5432, Timeline: 5, SlotName: "regent_pg_2",
		ApplicationName: id.Node() + "-t5", LastMessageSentAt: &at, LastMessageReceivedAt: &at, LatestEndLsn: lsn,
	}
	return o
}

// BenchmarkMachine gives a machine the records of clusters of three nodes, encoded as on the topic: per second and node one observation and
// four heartbeats in "mixed", observations only in "observations", heartbeats only in "heartbeats". It reports records and outputs a second.
func BenchmarkMachine(b *testing.B) {
	for _, clusters := range []int{10, 1000} {
		rounds := max(11, 2000/clusters)
		observations, heartbeats := benchRecords(b, clusters, rounds)
		for name, records := range map[string][]*record.Record{
			"observations": observations, "heartbeats": heartbeats, "mixed": mixed(observations, heartbeats),
		} {
			b.Run(fmt.Sprintf("%s/clusters=%d", name, clusters), func(b *testing.B) {
				// The first second of everything is not measured: it makes the states.
				warm := func(rec *record.Record) bool { return rec.Timestamp.Before(epoch.Add(time.Second)) }
				first := slices.DeleteFunc(mixed(observations, heartbeats), func(rec *record.Record) bool { return !warm(rec) })
				benchMachine(b, first, slices.DeleteFunc(slices.Clone(records), warm))
			})
		}
	}
}

func benchRecords(b *testing.B, clusters, rounds int) (observations, heartbeats []*record.Record) {
	for round := range int64(rounds) {
		at := epoch.Add(time.Duration(round) * time.Second)
		for c := range clusters {
			for _, n := range []string{"pg-1", "pg-2", "pg-3"} {
				id := event.NewClusterID(event.KindPostgres, fmt.Sprint("cluster-", c)).Node(n)
				observations = append(observations, observation(b, id, round+1, at, int64(len(observations)), realistic(id, round, at)))
				for beat := range 4 {
					at := at.Add(time.Duration(beat) * 250 * time.Millisecond)
					heartbeats = append(heartbeats, heartbeat(b, id, at, int64(len(heartbeats)), 250*time.Millisecond, time.Second))
				}
			}
		}
	}
	byTime := func(x, y *record.Record) int { return x.Timestamp.Compare(y.Timestamp) }
	slices.SortStableFunc(heartbeats, byTime)
	return observations, heartbeats
}

func mixed(a, b []*record.Record) []*record.Record {
	all := append(slices.Clone(a), b...)
	slices.SortStableFunc(all, func(x, y *record.Record) int { return x.Timestamp.Compare(y.Timestamp) })
	return all
}

func benchMachine(b *testing.B, first, records []*record.Record) {
	def, err := Postgres(testConfig())
	if err != nil {
		b.Fatal(err)
	}
	var task *benchTask
	restart := func() func(*record.Record) {
		task = &benchTask{table: map[string][]byte{}}
		m := def.NewMachine(0)
		return func(rec *record.Record) {
			if rec.Timestamp.After(task.streamTime) {
				task.streamTime = rec.Timestamp
			}
			if err := m.Process(task, rec); err != nil {
				b.Fatal(err)
			}
		}
	}
	process := restart()
	warm := func() {
		for _, rec := range first {
			process(rec)
		}
		task.emitted, task.bytes = 0, 0
	}
	warm()
	emitted, bytes, n := 0, 0, 0
	b.ReportAllocs()
	began := cpuTime(b)
	for b.Loop() {
		if n == len(records) {
			b.StopTimer()
			emitted, bytes = emitted+task.emitted, bytes+task.bytes
			process = restart()
			warm()
			n = 0
			b.StartTimer()
		}
		process(records[n])
		n++
	}
	emitted, bytes = emitted+task.emitted, bytes+task.bytes
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "records/s")
	b.ReportMetric(float64((cpuTime(b)-began).Nanoseconds())/float64(b.N), "cpu-ns/op")
	b.ReportMetric(float64(emitted)/float64(b.N), "outputs/record")
	b.ReportMetric(float64(bytes)/float64(max(emitted, 1)), "bytes/output")
}
