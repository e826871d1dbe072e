package stream_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/regent-infra/regent/internal/kafka"
	"github.com/regent-infra/regent/internal/stream"
	"github.com/regent-infra/regent/statestore"
	"github.com/regent-infra/regent/statestore/pebblestore"
)

// childVariable holds an order for a process that is this test binary run again: to be a real runtime that can really be killed.
const childVariable = "REGENT_STREAM_TEST_CHILD"

// order says what the child does.
type order struct {
	Brokers  []string
	Instance string
	Dir      string
	// Point, where set, is where the child sends Signal to itself when it has been there Count times.
	Point  stream.Point
	Count  int64
	Signal syscall.Signal
	// Sabotage takes a protection of the runtime out; Unfenced the fence of its commits.
	Sabotage stream.Sabotage
	Unfenced bool
	// Bug breaks the runtime in a way of its own.
	Bug bug
	// AbortEvery makes every so many commits an abort.
	AbortEvery int
	// ClockSteps makes the clock jump, an hour either way.
	ClockSteps bool
	// TransactionMillis is the transaction time-out; a second by default.
	TransactionMillis int
	// SpareDead leaves the open transactions of dead members to their time-out.
	SpareDead bool
	// Standbys is how many copies of each task are kept, FoldVersion the definition's; 1 by default.
	Standbys    int
	FoldVersion int32
	// Production takes the sessions' and the runtime's defaults instead of what makes crashes quick and frequent.
	Production bool
	// Broker, where set, makes the child a broker instead.
	Broker *brokerOrder
}

// child runs an order, if the environment holds one.
func child() bool {
	text := os.Getenv(childVariable)
	if text == "" {
		return false
	}
	var o order
	err := json.Unmarshal([]byte(text), &o)
	switch {
	case err != nil:
	case o.Broker != nil:
		err = o.Broker.run()
	default:
		err = o.run()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "child:", err)
		os.Exit(1)
	}
	return true
}

func (o order) run() error {
	store, err := pebblestore.Open(pebblestore.Options{Dir: o.Dir})
	if err != nil {
		return err
	}
	logger := slog.New(slog.NewTextHandler(os.Stderr, nil)).With("instance", o.Instance)
	timeout := time.Second
	if o.TransactionMillis > 0 {
		timeout = time.Duration(o.TransactionMillis) * time.Millisecond
	}
	sc := kafka.SessionConfig{
		InstanceID: o.Instance, SessionTimeout: time.Second, HeartbeatInterval: 50 * time.Millisecond,
		TransactionTimeout: timeout, Logger: logger, SpareDead: o.SpareDead,
	}
	if o.Production {
		sc = kafka.SessionConfig{InstanceID: o.Instance, Logger: logger}
	}
	klog, err := kafka.NewLog(kafka.Config{Brokers: o.Brokers}, sc)
	if err != nil {
		return err
	}
	opts := stream.Options{
		Log: klog, Store: store, Logger: logger,
		PositionInterval: 20 * time.Millisecond, FlushInterval: 25 * time.Millisecond, CommitRecords: 200, PollRecords: 150,
		EndTimeout: time.Second, Standbys: o.Standbys, StandbyInterval: 25 * time.Millisecond,
	}
	if o.Production {
		opts = stream.Options{Log: klog, Store: store, Logger: logger, Standbys: o.Standbys}
	}
	if o.Unfenced {
		opts.Log = unfencedLog{klog, o}
		opts.CommitRecords = 1 // what is read is committed before the next poll could tell that it is too late
	}
	if o.AbortEvery > 0 || o.Bug != "" {
		opts.Log = brokenLog{opts.Log, &o, store}
	}
	if o.ClockSteps {
		opts.Clock = newSteppingClock()
	}
	if o.Sabotage == stream.SabotageFlushAhead {
		opts.FlushInterval = time.Millisecond // so that no redo happens to heal what it has done
	}
	var reached atomic.Int64
	opts = stream.WithReached(stream.WithSabotage(opts, o.Sabotage), func(p stream.Point) {
		if p == o.Point && reached.Add(1) == o.Count {
			// The signal goes to the process, and this thread may run on for a while.
			woken := make(chan os.Signal, 1)
			signal.Notify(woken, syscall.SIGCONT)
			fmt.Println("reached", p)
			if err := syscall.Kill(os.Getpid(), o.Signal); err != nil {
				panic(err)
			}
			<-woken
		}
	})
	def := definition()
	def.FoldVersion = max(def.FoldVersion, o.FoldVersion)
	r, err := stream.New(def, opts)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	go func() { // the parent's end of the pipe closes when the parent is gone, however it went
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(3)
	}()
	go func() {
		look := time.NewTicker(time.Millisecond)
		defer look.Stop()
		said, stood := -1, -1
		for range look.C {
			n, w := len(r.Partitions()), warmCopies(r)
			if n != said {
				fmt.Println("runs", n, "tasks")
			}
			if n == crashPartitions && n != said {
				fmt.Println("runs all tasks")
			}
			if n != said || w != stood {
				fmt.Printf("runs %d and stands by for %d\n", n, w)
			}
			said, stood = n, w
		}
	}()
	if err := r.Run(ctx); err != nil {
		return err
	}
	return store.Close()
}

// warmCopies counts the warm copies that a runtime keeps.
func warmCopies(r *stream.Runtime) int {
	n := 0
	for _, st := range r.Status().Standbys {
		if st.Warm && st.Error == "" {
			n++
		}
	}
	return n
}

// process is a running child.
type process struct {
	t    testing.TB
	cmd  *exec.Cmd
	said chan string // closed at its end
	done chan struct{}
	err  error
}

func spawn(t testing.TB, o order) *process {
	t.Helper()
	text, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childVariable+"="+string(text))
	cmd.Stderr = t.Output()
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatalf("start a child: %v", err)
	}
	p := &process{t: t, cmd: cmd, said: make(chan string, 100), done: make(chan struct{})}
	go func() {
		for lines := bufio.NewScanner(out); lines.Scan(); {
			select {
			case p.said <- lines.Text():
			default: // nobody listens
			}
		}
		close(p.said)
		p.err = cmd.Wait()
		close(p.done)
	}()
	t.Cleanup(func() {
		_ = in.Close()
		_ = cmd.Process.Kill()
		<-p.done
	})
	return p
}

func spawnBroker(t testing.TB, o brokerOrder) *process {
	t.Helper()
	return spawn(t, order{Broker: &o})
}

// kill ends the process with SIGKILL and waits for its end.
func (p *process) kill() {
	_ = p.cmd.Process.Kill() // gone already is fine
	<-p.done
}

// over waits until the process is gone by itself, for so long at most.
func (p *process) over(d time.Duration) bool {
	select {
	case <-p.done:
		return true
	case <-time.After(d):
		return false
	}
}

// signal sends a signal.
func (p *process) signal(s syscall.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		p.t.Fatalf("send %s to a child: %v", s, err)
	}
}

// ended waits for the end and returns the signal that it died of; 0 if it exited by itself without an error.
func (p *process) ended() syscall.Signal {
	p.t.Helper()
	select {
	case <-p.done:
	case <-time.After(patience):
		p.t.Fatal("a child does not end")
	}
	status, ok := p.cmd.ProcessState.Sys().(syscall.WaitStatus)
	if !ok {
		p.t.Fatal("no wait status")
	}
	if status.Signaled() {
		return status.Signal()
	}
	if p.err != nil {
		p.t.Fatalf("a child failed: %v", p.err)
	}
	return 0
}

// says waits for a line of output.
func (p *process) says(line string) {
	p.t.Helper()
	deadline := time.After(patience)
	for {
		select {
		case got, ok := <-p.said:
			if !ok {
				p.t.Fatalf("a child ended before it said %q", line)
			}
			if got == line {
				return
			}
		case <-deadline:
			p.t.Fatalf("a child does not say %q", line)
		}
	}
}

// stored reads the state of a process that is gone: its tables and its positions.
func stored(t testing.TB, dir string, partitions int32) (state map[int32]map[string][]byte, positions map[int32]*stream.Position) {
	t.Helper()
	s, err := pebblestore.Open(pebblestore.Options{Dir: dir})
	if err != nil {
		t.Fatalf("open the state that is left: %v", err)
	}
	defer func() {
		if err := s.Close(); err != nil {
			t.Errorf("close the state that is left: %v", err)
		}
	}()
	state, positions = map[int32]map[string][]byte{}, map[int32]*stream.Position{}
	for p := range partitions {
		state[p] = map[string][]byte{}
		prefix := statestore.PartitionPrefix("test.tally/"+tallyTable, p)
		it, err := s.Scan(prefix, statestore.PrefixEnd(prefix))
		if err != nil {
			t.Fatal(err)
		}
		for it.Next() {
			state[p][string(it.Key()[len(prefix):])] = append([]byte{}, it.Value()...)
		}
		if err := it.Close(); err != nil {
			t.Fatal(err)
		}
		b, ok, err := s.Get(statestore.PositionKey("test.tally", p))
		if err != nil {
			t.Fatal(err)
		}
		if ok {
			if positions[p], err = stream.DecodePosition(b); err != nil {
				t.Fatal(err)
			}
		}
	}
	return state, positions
}
