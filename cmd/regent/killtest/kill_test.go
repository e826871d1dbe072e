package killtest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/regent-infra/regent/internal/avrocodec"
	"github.com/regent-infra/regent/internal/event"
	"github.com/regent-infra/regent/internal/httpapi"
	"github.com/regent-infra/regent/internal/kafka"
	"github.com/regent-infra/regent/internal/record"
	"github.com/regent-infra/regent/internal/topics"
)

const (
	roundsEnv   = "REGENT_KILL_ROUNDS"
	seedEnv     = "REGENT_KILL_SEED"
	roundsInCI  = 12
	longestLife = 2_500 * time.Millisecond // after it was ready
	longestBoot = 500 * time.Millisecond   // of a process that is killed before it is ready
	settleTime  = 60 * time.Second
	readTime    = 5 * time.Minute // for all that was written since the audit before
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func number(t *testing.T, name string, otherwise uint64) uint64 {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		t.Fatalf("read %s: %v; expected a whole number", name, err)
	}
	return n
}

func TestSurvivesSIGKILLUnderLoad(t *testing.T) {
	rounds, seed := int(number(t, roundsEnv, roundsInCI)), number(t, seedEnv, rand.Uint64())
	t.Logf("%s=%d %s=%d", seedEnv, seed, roundsEnv, rounds)
	c := newCampaign(t, seed)
	c.run(rounds)
}

// campaign is one run of the test.
type campaign struct {
	t      *testing.T
	seed   uint64
	rnd    *rand.Rand
	server *server
	began  time.Time

	// client is nil before the first process was ready.
	load    *load
	admin   *kafka.Admin
	auditor *auditor

	rounds     int
	inBoot     int
	recoveries []recovery
	resident   int64
	highest    int64
}

func newCampaign(t *testing.T, seed uint64) *campaign {
	t.Helper()
	rnd := rand.New(rand.NewPCG(seed, 0))
	return &campaign{t: t, seed: seed, rnd: rnd, server: newServer(t), began: time.Now()}
}

func (c *campaign) within(d time.Duration) time.Duration {
	return time.Duration(c.rnd.Int64N(int64(d)))
}

// run kills as many times as there are rounds.
func (c *campaign) run(rounds int) {
	c.t.Helper()
	c.rounds = rounds
	every := min(max(rounds/8, 4), 25)
	due := every
	c.server.start()
	for round := 1; round <= rounds; round++ {
		// The very first boot is always torn: topics and schemas are being made.
		if round == 1 || c.rnd.IntN(4) == 0 {
			c.server.stay(c.within(longestBoot))
			c.inBoot++
		} else {
			c.await()
			if round >= due {
				due = round + every
				c.audit(round, false)
			}
			c.server.stay(c.within(longestLife))
			c.measure()
		}
		c.server.alive()
		c.server.kill()
		if c.load != nil {
			c.load.quota.Store(c.share(whileComing))
		}
		c.server.start()
	}
	c.await()
	c.audit(rounds, true)
	c.conclude(rounds)
}

// await waits until the process is ready; the first time, the client begins its work.
func (c *campaign) await() {
	c.t.Helper()
	c.recoveries = append(c.recoveries, c.server.ready())
	if c.load == nil {
		c.connect()
	}
	c.load.quota.Store(c.share(whileReady))
}

// share is how much of a quota of records the length of the campaign leaves.
func (c *campaign) share(quota int64) int64 {
	return min(quota, quota*wholeCampaign/(whileComing+whileReady)/int64(c.rounds))
}

func (c *campaign) connect() {
	c.t.Helper()
	config := kafka.Config{Brokers: []string{c.server.broker}, ClientID: "killtest"}
	registry, err := avrocodec.NewClient(avrocodec.ClientConfig{URLs: []string{"http://" + c.server.registry}})
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(registry.Close)
	set := topics.Default()
	codec, err := avrocodec.New(registry, set, avrocodec.Config{})
	if err != nil {
		c.t.Fatal(err)
	}
	if err := codec.Prepare(c.t.Context(), set.Names()...); err != nil {
		c.t.Fatal(err)
	}
	if c.admin, err = kafka.NewAdmin(config); err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(c.admin.Close)
	producer, err := kafka.NewProducer(config, kafka.ProducerConfig{DeliveryTimeout: 2 * readyWithin})
	if err != nil {
		c.t.Fatal(err)
	}
	partitions := set.Partitions(event.KindPostgres)
	c.load = newLoad(c.t, rand.New(rand.NewPCG(c.seed, 1)), codec, producer, partitions)
	c.auditor = newAuditor(c.t, c.admin, codec, c.load.ledger, partitions)
	starts := map[record.TopicPartition]kafka.Start{}
	for p := range partitions {
		starts[record.TopicPartition{Topic: ordersTopic, Partition: p}] = kafka.FromEarliest()
	}
	reader, err := kafka.NewReader(config, starts, kafka.ReaderConfig{})
	if err != nil {
		c.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var working sync.WaitGroup
	working.Go(func() { c.load.run(ctx) })
	working.Go(func() { c.listen(ctx, reader, codec) })
	c.t.Cleanup(func() {
		cancel()
		working.Wait()
		reader.Close()
		producer.Close()
	})
}

// listen hands orders to the agents.
func (c *campaign) listen(ctx context.Context, reader *kafka.Reader, codec *avrocodec.Codec) {
	for ctx.Err() == nil {
		records, err := reader.Poll(ctx)
		if err != nil {
			select {
			case <-ctx.Done():
			case <-time.After(10 * time.Millisecond): // the broker is down
			}
			continue
		}
		for i := range records {
			e, err := codec.Decode(records[i].Topic, records[i].Value)
			if err != nil {
				c.t.Errorf("read an order: %v", err)
				return
			}
			select {
			case c.load.incoming <- e:
			case <-ctx.Done():
			}
		}
	}
}

// audit makes the load hold still, and checks everything; the last time, twice.
func (c *campaign) audit(round int, last bool) {
	c.t.Helper()
	began := time.Now()
	resume := c.load.hold()
	defer resume()
	// Reading and folding it all again takes as long as it takes. What is waited for below is the process alone.
	reading, cancel := context.WithTimeout(c.t.Context(), readTime)
	defer cancel()
	c.auditor.read(reading, nil)
	ctx, cancel := context.WithTimeout(c.t.Context(), 3*settleTime)
	defer cancel()
	silent, err := c.load.quiesce(ctx)
	if err != nil {
		c.t.Fatalf("bring the load to rest: %v\n%s", err, c.server.tail())
	}
	c.caughtUp(ctx, observationsTopic, heartbeatsTopic, commandsTopic)
	c.caughtUp(ctx, stateTopic)
	var trusted []event.ResourceID
	c.server.await(settleTime, func() bool {
		c.auditor.read(ctx, nil)
		trusted = c.auditor.unsuspected(silent)
		return len(trusted) == 0
	}, func() string { return fmt.Sprintf("that the silent nodes %v are suspected", trusted) })
	// Time goes on passing, and with it decisions are made: the topics are read until they meet the tables.
	var differ []string
	c.server.await(settleTime, func() bool {
		served := c.server.digests()
		c.auditor.read(ctx, nil)
		differ = c.auditor.fingerprints(served)
		return len(differ) == 0
	}, func() string {
		for _, line := range differ {
			c.auditor.fault("invariant 2: the running state differs: %s", line)
		}
		c.auditor.report()
		return "the digests"
	})
	c.auditor.judge()
	c.t.Logf("round %d, life %d: %d records audited in %s: %d states, %d workflows and records, %d commands, %d promotions, %d dead letters; all agree",
		round, c.server.lives, c.auditor.records, time.Since(began).Round(time.Millisecond), len(c.auditor.table(stateTopic, c.auditor.all()...)),
		len(c.auditor.table(workflowsTopic, c.auditor.all()...)), len(c.auditor.commands), c.auditor.promoted, len(c.auditor.letters))
	if last {
		c.again()
	}
}

func join(lines []string) string {
	text := ""
	for _, line := range lines {
		text += "\n" + line
	}
	return text
}

// caughtUp waits until every processor has committed what stands in the topics now.
func (c *campaign) caughtUp(ctx context.Context, names ...string) {
	c.t.Helper()
	ends, err := c.admin.EndOffsets(ctx, names...)
	if err != nil {
		c.t.Fatal(err)
	}
	var behind []string
	c.server.await(settleTime, func() bool {
		r, err := c.server.readiness()
		if err != nil {
			return false
		}
		behind = lagging(r, ends)
		return len(behind) == 0 && len(r.Processors) == processors
	}, func() string { return "that the processors catch up:" + join(behind) })
}

func lagging(r httpapi.Readiness, ends map[record.TopicPartition]int64) (behind []string) {
	for _, p := range r.Processors {
		for _, task := range p.Tasks {
			for _, in := range task.Inputs {
				tp := record.TopicPartition{Topic: in.Topic, Partition: in.Partition}
				if in.Position < ends[tp] {
					behind = append(behind, p.Processor+" "+in.Topic+"/"+strconv.Itoa(int(in.Partition))+" at "+strconv.FormatInt(in.Position, 10)+
						" of "+strconv.FormatInt(ends[tp], 10))
				}
			}
		}
	}
	return behind
}

// again audits everything from the beginning, and compares it with what was read piece by piece.
func (c *campaign) again() {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), 5*time.Minute)
	defer cancel()
	before := c.auditor
	c.auditor = newAuditor(c.t, c.admin, before.codec, before.ledger, before.partitions)
	c.auditor.read(ctx, before.next)
	for tp, sum := range before.sums {
		if now := c.auditor.sums[tp]; now == nil || now.Sum64() != sum.Sum64() {
			c.auditor.fault("invariant 8: %v reads otherwise than before", tp)
		}
	}
	if c.auditor.records != before.records {
		c.auditor.fault("invariant 8: %d records are read, before it were %d", c.auditor.records, before.records)
	}
	c.auditor.judge()
}

// measure notes how much memory the process has.
func (c *campaign) measure() {
	now, highest := c.server.resident()
	c.resident, c.highest = max(c.resident, now), max(c.highest, highest)
}

// conclude says what was seen, and that it was enough to mean something.
func (c *campaign) conclude(rounds int) {
	c.t.Helper()
	l := c.load.ledger
	l.mu.Lock()
	defer l.mu.Unlock()
	n := len(c.recoveries)
	if n == 0 || l.acked == 0 || c.auditor.promoted == 0 {
		c.t.Fatalf("%d recoveries, %d records, %d promotions: the test tested nothing", n, l.acked, c.auditor.promoted)
	}
	median, longest := spread(c.recoveries, func(r recovery) time.Duration { return r.working })
	c.t.Logf("killed %d times, %d of them before it was ready; after that all processors worked again within %s (median), %s (longest)",
		rounds, c.inBoot, median, longest)
	median, longest = spread(c.recoveries, func(r recovery) time.Duration { return r.ready })
	c.t.Logf("and it was ready within %s (median), %s (longest)", median, longest)
	c.t.Logf("%d records acknowledged, %d refused (%v); %d promotions; resident memory under load at most %d MiB (peak %d MiB); took %s",
		l.acked, l.refused, l.lastFail, c.auditor.promoted, c.resident>>20, c.highest>>20, time.Since(c.began).Round(time.Second))
}

func spread(list []recovery, of func(recovery) time.Duration) (median, longest time.Duration) {
	all := make([]time.Duration, 0, len(list))
	for _, r := range list {
		all = append(all, of(r).Round(time.Millisecond))
	}
	slices.Sort(all)
	return all[len(all)/2], all[len(all)-1]
}
