package embedded

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// roundsEnv asks for more rounds than a normal run has.
const roundsEnv = "REGENT_EMBEDDED_ROUNDS"

func rounds(t *testing.T, normal int) int {
	t.Helper()
	if n, err := strconv.Atoi(os.Getenv(roundsEnv)); err == nil {
		return n
	}
	return normal
}

// progress is how far the load has come.
type progress struct{ tried, acknowledged int }

// load runs transactions until the broker is gone. Each third one is aborted: its number is given to the next.
func (p *progress) load(ctx context.Context, brokers []string) error {
	l, err := newLoader(brokers, kgo.RecordRetries(0), kgo.RetryTimeout(time.Second))
	if err != nil {
		return err
	}
	defer l.cl.Close()
	// Records that may have reached the broker are not given up by the client before it is closed.
	defer context.AfterFunc(ctx, l.cl.Close)()
	for i := 0; ; i++ {
		if i%3 == 2 {
			if err := l.run(ctx, -1, kgo.TryAbort); err != nil {
				return err
			}
		}
		n := p.acknowledged + 1
		p.tried = n
		if err := l.run(ctx, n, kgo.TryCommit); err != nil {
			return err
		}
		p.acknowledged = n
	}
}

// reconcile checks what is found after a crash and takes over the transaction whose end is not known.
func (p *progress) reconcile(t *testing.T, c content) {
	t.Helper()
	if fault := c.wholeness(p.acknowledged, p.tried); fault != "" {
		t.Fatalf("acknowledged %d, tried %d: %s", p.acknowledged, p.tried, fault)
	}
	if n := len(c.values[0]); n > 0 {
		p.acknowledged = c.values[0][n-1]
	}
	p.tried = p.acknowledged
}

func TestSurvivesSIGKILLAtRandomMoments(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	var p progress
	for round := range rounds(t, 20) {
		c := startChild(t, dir, childSegment+"=20000")
		if c.said.Failure != "" || len(c.said.Brokers) == 0 {
			t.Fatalf("round %d: %+v", round, c.said)
		}
		if round == 0 {
			createLoadTopics(t, c.said.Brokers)
		}
		p.reconcile(t, readContent(t, c.said.Brokers))
		ctx, cancel := context.WithCancel(t.Context())
		stopped := make(chan error, 1)
		go func() { stopped <- p.load(ctx, c.said.Brokers) }()
		timer := time.NewTimer(time.Duration(20+rnd.IntN(150)) * time.Millisecond)
		select {
		case <-timer.C:
		case err := <-stopped:
			t.Fatalf("round %d: load ended before the kill: %v", round, err)
		}
		c.kill()
		cancel()
		if err := <-stopped; err == nil {
			t.Error("the load ended without an error")
		}
	}
	s := open(t, testConfig(dir))
	p.reconcile(t, readContent(t, s.Brokers()))
	t.Logf("%d transactions", p.acknowledged)
	if p.acknowledged == 0 {
		t.Error("nothing was committed: the test tests nothing")
	}
}

// Each point is passed in a real process that kills itself there; then recovery itself is killed at each of its steps.
func TestSurvivesSIGKILLAtEveryPoint(t *testing.T) {
	recovery := []string{
		"recover-scanned:1", "recover-marker:1", "recover-marker:3", "recover-offsets:1", "recover-fenced:1", "recover-intent-done:1",
		"recover-abort:1", "recover-abort:2",
	}
	for _, point := range []string{"before-intent:1", "before-intent:3", "after-intent:1", "after-intent:3"} {
		t.Run(point, func(t *testing.T) {
			master := filepath.Join(t.TempDir(), "data")
			var p progress
			c := startChild(t, master, childCrashEnv+"="+point)
			createLoadTopics(t, c.said.Brokers)
			ctx, cancel := context.WithCancel(t.Context())
			stopped := make(chan error, 1)
			go func() { stopped <- p.load(ctx, c.said.Brokers) }()
			if !c.await() {
				t.Fatal("the child did not reach the crash point")
			}
			cancel()
			if err := <-stopped; err == nil {
				t.Error("the load ended without an error")
			}
			committed := p.acknowledged
			if point[:5] == "after" {
				committed = p.tried // the intent is the decision
			}
			for _, again := range append(recovery, "") {
				t.Run(fmt.Sprintf("recovery killed at %q", again), func(t *testing.T) {
					dir := copyDir(t, master)
					if again != "" {
						startChild(t, dir, childCrashEnv+"="+again).kill() // may not reach the point
					}
					s := open(t, testConfig(dir))
					if fault := readContent(t, s.Brokers()).wholeness(committed, committed); fault != "" {
						t.Error(fault)
					}
				})
			}
		})
	}
}

// A producer that lives through a crash of the broker learns the truth about its commit, and is fenced when what it had
// staged is lost.
func TestProducerLearnsTheOutcomeAfterACrash(t *testing.T) {
	t.Run("committed", func(t *testing.T) {
		c, outcome := endAcrossCrash(t, "after-intent:1")
		if outcome != nil {
			t.Errorf("the commit was carried out, but its producer was told %v", outcome)
		}
		if fault := c.wholeness(1, 1); fault != "" {
			t.Error(fault)
		}
	})
	t.Run("aborted", func(t *testing.T) {
		c, outcome := endAcrossCrash(t, "before-intent:1")
		if outcome == nil {
			t.Error("the transaction was aborted, but its producer was told that it was committed")
		}
		if fault := c.wholeness(0, 0); fault != "" {
			t.Error(fault)
		}
	})
}

func endAcrossCrash(t *testing.T, point string) (found content, outcome error) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "data")
	address := freeAddress(t)
	c := startChild(t, dir, childListen+"="+address, childCrashEnv+"="+point)
	createLoadTopics(t, c.said.Brokers)
	l, err := newLoader(c.said.Brokers)
	if err != nil {
		t.Fatal(err)
	}
	defer l.cl.Close()
	if err := l.stage(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- l.cl.EndTransaction(t.Context(), kgo.TryCommit) }()
	if !c.await() {
		t.Fatal("the child did not reach the crash point")
	}
	c = startChild(t, dir, childListen+"="+address)
	outcome = <-ended
	return readContent(t, c.said.Brokers), outcome
}

// A transaction that only staged offsets leaves no trace in the log. Its producer must not be told that it was committed.
func TestOffsetsStagedBeforeACrashAreNotConfirmed(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	address := freeAddress(t)
	c := startChild(t, dir, childListen+"="+address)
	createLoadTopics(t, c.said.Brokers)
	l, err := newLoader(c.said.Brokers)
	if err != nil {
		t.Fatal(err)
	}
	defer l.cl.Close()
	if err := l.run(t.Context(), 1, kgo.TryCommit); err != nil {
		t.Fatal(err)
	}
	if err := l.stage(t.Context(), 2); err != nil {
		t.Fatal(err)
	}
	c.kill()
	c = startChild(t, dir, childListen+"="+address)
	if err := l.cl.EndTransaction(t.Context(), kgo.TryCommit); err == nil {
		t.Error("the end of a lost transaction was confirmed")
	}
	if fault := readContent(t, c.said.Brokers).wholeness(1, 1); fault != "" {
		t.Error(fault)
	}
}
