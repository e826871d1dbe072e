package stream_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/regent-infra/regent/internal/stream"
)

// The crash tests: a real process dies, by SIGKILL, at each arrow of the cycle, while input goes on arriving at a broker that
// survives in this process. The independent reader checks what is left, and again after the next incarnation.

const crashPartitions = 2

// feeder writes facts until it is stopped.
type feeder struct {
	sent [crashPartitions]atomic.Int64 // next offset by partition
	stop func()
}

// feed writes facts of 60 keys, some of which end and some of which are poison, in small bursts.
func (b *broker) feed(t testing.TB) *feeder {
	t.Helper()
	f := &feeder{}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Add(1)
	go func() {
		defer wg.Done()
		pace := time.NewTicker(2 * time.Millisecond) // about 3,500 a second
		defer pace.Stop()
		for seq := uint64(1); ctx.Err() == nil; seq++ {
			text := fmt.Sprint("text ", seq)
			switch {
			case seq%97 == 0:
				text = "poison"
			case seq%53 == 0:
				text = "gone"
			}
			r := factRecord(int32(seq%crashPartitions), fmt.Sprintf("key-%d", seq%60), seq, text)
			if seq%7 != 0 {
				b.cl.Produce(ctx, r, func(r *kgo.Record, err error) {
					if err == nil {
						f.sent[r.Partition].Store(r.Offset + 1)
					}
				})
				continue
			}
			if err := b.cl.ProduceSync(ctx, r).FirstErr(); err != nil {
				if !errors.Is(err, context.Canceled) {
					t.Errorf("feed: %v", err)
				}
				return
			}
			f.sent[r.Partition].Store(r.Offset + 1)
			<-pace.C
		}
	}()
	f.stop = func() {
		cancel()
		wg.Wait()
		if err := b.cl.Flush(context.Background()); err != nil {
			t.Errorf("feed: %v", err)
		}
	}
	t.Cleanup(f.stop)
	return f
}

// caughtUp waits until the group has committed everything that was fed.
func (b *broker) caughtUp(t testing.TB) {
	t.Helper()
	ends, err := b.adm.ListEndOffsets(t.Context(), factsTopic)
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the group has committed all input", func() bool {
		for p := range int32(crashPartitions) {
			end, _ := ends.Lookup(factsTopic, p)
			if b.committed(t, p).Offset < end.Offset {
				return false
			}
		}
		return true
	})
}

// committed returns K of one partition.
func (b *broker) committed(t testing.TB, p int32) stream.Committed {
	t.Helper()
	offsets, err := b.adm.FetchOffsets(t.Context(), "regent.test.tally")
	if err != nil && !errors.Is(err, kerr.GroupIDNotFound) {
		t.Fatal(err)
	}
	o, ok := offsets.Lookup(factsTopic, p)
	if !ok {
		return stream.Committed{}
	}
	return stream.Committed{Offset: o.At, Metadata: o.Metadata}
}

// behind checks invariant 2 over what a dead process has left: P.out <= K.out.
func (b *broker) behind(t testing.TB, dir string) error {
	t.Helper()
	_, positions := stored(t, dir, crashPartitions)
	for p, pos := range positions {
		k := b.committed(t, p)
		if k.Metadata == "" {
			if pos != nil && pos.Out > 0 {
				return fmt.Errorf("partition %d: P.out is %d and K is empty", p, pos.Out)
			}
			continue
		}
		m, err := stream.DecodeMetadata(k.Metadata)
		if err != nil {
			return err
		}
		if pos != nil && pos.Out > m.Out {
			return fmt.Errorf("partition %d: P.out %d is above K.out %d", p, pos.Out, m.Out)
		}
	}
	return nil
}

// conclude lets one more incarnation finish and checks all that can be checked.
func (b *broker) conclude(t testing.TB, o order, f *feeder) error {
	t.Helper()
	f.stop()
	o.Point = ""
	last := spawn(t, o)
	last.says("runs all tasks")
	b.caughtUp(t)
	last.signal(syscall.SIGTERM)
	if s := last.ended(); s != 0 {
		t.Fatalf("the last incarnation died of %s", s)
	}
	state, _ := stored(t, o.Dir, crashPartitions)
	return b.audit(t, func(p int32) map[string][]byte { return state[p] })
}

func TestCrash(t *testing.T) {
	for _, point := range []stream.Point{
		stream.PointPolled, stream.PointFolding, stream.PointProduced, stream.PointCommitted,
		stream.PointFlushing, stream.PointFlushed, stream.PointRedo,
	} {
		t.Run(string(point), func(t *testing.T) {
			b := startBroker(t, crashPartitions)
			f := b.feed(t)
			o := order{Brokers: b.addrs, Instance: "a", Dir: filepath.Join(t.TempDir(), "state"), Signal: syscall.SIGKILL}
			for round := range int64(4) {
				o.Point, o.Count = point, 1+round*3
				if point == stream.PointRedo {
					o.Count = 1
					if round == 0 { // nothing is to be redone yet
						o.Point, o.Count = stream.PointCommitted, 20
					}
				}
				p := spawn(t, o)
				if s := p.ended(); s != syscall.SIGKILL {
					t.Fatalf("the process ended by %s, expected SIGKILL", s)
				}
				if err := b.behind(t, o.Dir); err != nil {
					t.Fatal(err)
				}
			}
			if err := b.conclude(t, o, f); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// TestCrashReplyLost kills the process when the broker has the end of a transaction in its hands: it commits, and nobody is there
// to hear it.
func TestCrashReplyLost(t *testing.T) {
	b := startBroker(t, crashPartitions)
	f := b.feed(t)
	o := order{Brokers: b.addrs, Instance: "a", Dir: filepath.Join(t.TempDir(), "state")}
	for round := range 4 {
		p := spawn(t, o)
		var ends atomic.Int64
		b.ControlKey(int16(kmsg.EndTxn), func(req kmsg.Request) (kmsg.Response, error, bool) {
			if ends.Add(1) <= int64(5+round) {
				b.KeepControl()
				return nil, nil, false
			}
			_ = p.cmd.Process.Kill() // it is dead either way, and ended looks
			return nil, nil, false   // and the broker goes on
		})
		if s := p.ended(); s != syscall.SIGKILL {
			t.Fatalf("the process ended by %s, expected SIGKILL", s)
		}
		if err := b.behind(t, o.Dir); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.conclude(t, o, f); err != nil {
		t.Fatal(err)
	}
}

// zombie lets one process sleep over its session while another takes its tasks, then wakes it.
func zombie(t *testing.T, o order) error {
	b := startBroker(t, crashPartitions)
	f := b.feed(t)
	dir := t.TempDir()
	o.Brokers, o.Instance, o.Dir, o.Count, o.Signal = b.addrs, "sleeper", filepath.Join(dir, "sleeper"), 8, syscall.SIGSTOP
	sleeper := spawn(t, o)
	sleeper.says("reached " + string(o.Point))
	heir := spawn(t, order{Brokers: b.addrs, Instance: "heir", Dir: filepath.Join(dir, "heir")})
	var before [crashPartitions]int64
	for p := range before {
		before[p] = b.committed(t, int32(p)).Offset
	}
	eventually(t, "the heir has taken over", func() bool {
		for p := range before {
			if b.committed(t, int32(p)).Offset <= before[p] {
				return false
			}
		}
		return true
	})
	sleeper.signal(syscall.SIGCONT)
	f.stop()
	b.caughtUp(t)
	// The sleeper has found out, and works again: both stop in order, so all is committed.
	for _, p := range []*process{sleeper, heir} {
		p.signal(syscall.SIGTERM)
		if s := p.ended(); s != 0 {
			t.Fatalf("a process died of %s", s)
		}
	}
	return b.audit(t, nil)
}

func TestZombie(t *testing.T) {
	for _, point := range []stream.Point{stream.PointPolled, stream.PointFolding, stream.PointProduced, stream.PointCommitted} {
		t.Run(string(point), func(t *testing.T) {
			if err := zombie(t, order{Point: point}); err != nil {
				t.Fatal(err)
			}
		})
	}
}
