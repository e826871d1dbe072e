package kafka_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/regent-infra/regent/internal/kafka"
	"github.com/regent-infra/regent/internal/record"
	"github.com/regent-infra/regent/internal/stream"
)

const (
	sessionTopic = "session.in"
	sessionGroup = "session.group"
)

// sessionBroker starts a broker with one topic of two partitions.
func sessionBroker(t *testing.T) (*kfake.Cluster, kafka.Config) {
	t.Helper()
	c, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(2, sessionTopic), kfake.GroupMinSessionTimeout(100*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c, kafka.Config{Brokers: c.ListenAddrs()}
}

func sessionLog(t *testing.T, config kafka.Config, instance string) *kafka.Log {
	t.Helper()
	l, err := kafka.NewLog(config, kafka.SessionConfig{InstanceID: instance, SessionTimeout: 2 * time.Second, TransactionTimeout: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func connect(t *testing.T, l *kafka.Log) stream.Session {
	t.Helper()
	s, err := l.Connect(t.Context(), stream.SessionSpec{Group: sessionGroup, Inputs: []string{sessionTopic}})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func join(t *testing.T, s stream.Session) {
	t.Helper()
	if err := s.Join(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func closeSession(t *testing.T, s stream.Session) {
	t.Helper()
	if err := s.Close(context.WithoutCancel(t.Context())); err != nil {
		t.Errorf("close: %v", err)
	}
}

// until polls until a batch is what is wanted.
func until(t *testing.T, s stream.Session, what string, ok func(b *stream.Batch) bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for ctx.Err() == nil {
		b, err := s.Poll(ctx, 100, time.Second)
		if err != nil {
			t.Fatalf("poll: %v", err)
		}
		if ok(b) {
			return
		}
	}
	t.Fatalf("gave up waiting for %s", what)
}

func TestSessionConfigReportsAllFaultsTogether(t *testing.T) {
	_, err := kafka.NewLog(kafka.Config{}, kafka.SessionConfig{
		SessionTimeout: time.Minute, HeartbeatInterval: time.Hour, TransactionTimeout: -1, FetchWait: -1, Compression: "rar",
	})
	for _, want := range []string{"broker address", "instance id", "session timeout is 1m0s", "heartbeat interval is 1h", "transaction timeout", "fetch wait", "rar"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v does not name %q", err, want)
		}
	}
}

func TestSessionReadsCommitsAndIsFenced(t *testing.T) {
	_, config := sessionBroker(t)
	s := connect(t, sessionLog(t, config, "a"))
	defer closeSession(t, s)
	if s.ClusterID() == "" {
		t.Fatal("the cluster has no id")
	}
	join(t, s)
	until(t, s, "both tasks", func(b *stream.Batch) bool { return len(b.Assigned) == 2 })
	sent := make(chan error, 1)
	s.Send(record.Record{Topic: sessionTopic, Partition: 1, Key: []byte("k"), Value: []byte("v"), Headers: []record.Header{{Key: "h", Value: []byte("x")}}},
		func(err error) { sent <- err })
	if err := <-sent; err != nil {
		t.Fatal(err)
	}
	tp := record.TopicPartition{Topic: sessionTopic, Partition: 1}
	s.Resume(map[record.TopicPartition]int64{tp: 0, {Topic: sessionTopic, Partition: 99}: 0})
	until(t, s, "the record", func(b *stream.Batch) bool {
		return len(b.Fetched) == 1 && len(b.Fetched[0].Records) == 1 && string(b.Fetched[0].Records[0].Header("h")) == "x" &&
			b.Fetched[0].Next == 1 && b.Fetched[0].High == 1
	})
	if outcome, err := s.Commit(t.Context(), []int32{0, 1}, []stream.OffsetCommit{{TopicPartition: tp, Offset: 1, Metadata: "m"}}); outcome != stream.TransactionCommitted {
		t.Fatalf("commit alone: %v, %v", outcome, err)
	}
	got, err := s.Committed(t.Context(), []record.TopicPartition{tp, {Topic: sessionTopic}})
	if err != nil || len(got) != 1 || got[tp] != (stream.Committed{Offset: 1, Metadata: "m"}) {
		t.Fatalf("committed: %+v, %v", got, err)
	}
	// Someone else's task: nothing goes through, with and without records.
	if outcome, err := s.Commit(t.Context(), []int32{7}, nil); outcome != stream.TransactionAborted || !errors.Is(err, stream.ErrRevoked) {
		t.Fatalf("commit of a foreign task: %v, %v", outcome, err)
	}
	produced := make(chan error, 1)
	s.Produce([]record.Record{{Topic: sessionTopic, Partition: 0, Value: []byte("never")}}, func(_ string, _ int64, err error) { produced <- err })
	if err := errors.Join(<-produced, s.Flush(t.Context())); err != nil {
		t.Fatal(err)
	}
	if outcome, err := s.Commit(t.Context(), []int32{7}, nil); outcome != stream.TransactionAborted || !errors.Is(err, stream.ErrRevoked) {
		t.Fatalf("commit of a foreign task: %v, %v", outcome, err)
	}
	// What was aborted is nowhere; Scan and Probe find the end behind it all the same.
	marks, err := s.Watermarks(t.Context(), []record.TopicPartition{{Topic: sessionTopic}})
	if err != nil {
		t.Fatal(err)
	}
	high := marks[record.TopicPartition{Topic: sessionTopic}].High
	reached := int64(0)
	err = s.Scan(t.Context(), record.TopicPartition{Topic: sessionTopic}, 0, high, func(recs []record.Record, next int64) error {
		if len(recs) != 0 {
			t.Errorf("read %+v", recs)
		}
		reached = next
		return nil
	})
	if err != nil || reached != high || high < 2 {
		t.Fatalf("scanned to %d of %d: %v", reached, high, err)
	}
	if end, err := s.Probe(t.Context(), record.TopicPartition{Topic: sessionTopic}, high); err != nil || end != high {
		t.Fatalf("probe: %d, %v", end, err)
	}
	for at := int64(0); at < high; {
		end, err := s.Probe(t.Context(), record.TopicPartition{Topic: sessionTopic}, at)
		if err != nil || end <= at || end > high {
			t.Fatalf("probe from %d, of what was aborted up to %d: %d, %v", at, high, end, err)
		}
		at = end
	}
	if end, err := s.Probe(t.Context(), tp, 0); err != nil || end != 0 {
		t.Fatalf("probe where a record is: %d, %v", end, err)
	}
	if _, err := s.Watermarks(t.Context(), []record.TopicPartition{{Topic: "nowhere"}}); err == nil {
		t.Fatal("a topic that is not there has watermarks")
	}
	broken := errors.New("broken")
	if err := s.Scan(t.Context(), tp, 0, 1, func([]record.Record, int64) error { return broken }); !errors.Is(err, broken) {
		t.Fatalf("scan: %v", err)
	}
}

// TestStaleGenerationIsRefused commits with a generation that the group has left behind: the broker's own fence.
func TestStaleGenerationIsRefused(t *testing.T) {
	c, config := sessionBroker(t)
	s := connect(t, sessionLog(t, config, "a"))
	defer closeSession(t, s)
	join(t, s)
	until(t, s, "both tasks", func(b *stream.Batch) bool { return len(b.Assigned) == 2 })
	for _, code := range []*kerr.Error{kerr.IllegalGeneration, kerr.UnknownMemberID, kerr.RebalanceInProgress} {
		for _, key := range []kmsg.Key{kmsg.TxnOffsetCommit, kmsg.OffsetCommit} {
			c.ControlKey(key.Int16(), func(req kmsg.Request) (kmsg.Response, error, bool) {
				switch req := req.(type) {
				case *kmsg.TxnOffsetCommitRequest:
					resp := req.ResponseKind().(*kmsg.TxnOffsetCommitResponse)
					resp.Topics = []kmsg.TxnOffsetCommitResponseTopic{{Topic: sessionTopic, Partitions: []kmsg.TxnOffsetCommitResponseTopicPartition{{ErrorCode: code.Code}}}}
					return resp, nil, true
				case *kmsg.OffsetCommitRequest:
					resp := req.ResponseKind().(*kmsg.OffsetCommitResponse)
					resp.Topics = []kmsg.OffsetCommitResponseTopic{{Topic: sessionTopic, Partitions: []kmsg.OffsetCommitResponseTopicPartition{{ErrorCode: code.Code}}}}
					return resp, nil, true
				default:
					return nil, nil, false
				}
			})
			if key == kmsg.TxnOffsetCommit {
				s.Produce([]record.Record{{Topic: sessionTopic, Value: []byte("never")}}, func(string, int64, error) {})
				if err := s.Flush(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			offsets := []stream.OffsetCommit{{TopicPartition: record.TopicPartition{Topic: sessionTopic}, Offset: 1}}
			if outcome, err := s.Commit(t.Context(), []int32{0}, offsets); outcome != stream.TransactionAborted || !errors.Is(err, stream.ErrRevoked) {
				t.Fatalf("%s answered with %s: %v, %v", key.Name(), code.Message, outcome, err)
			}
		}
	}
}

// TestDeadIncarnationIsTakenOut joins at once although an earlier incarnation is still a member and holds a transaction open.
func TestDeadIncarnationIsTakenOut(t *testing.T) {
	_, config := sessionBroker(t)
	dead := connect(t, sessionLog(t, config, "a"))
	join(t, dead)
	until(t, dead, "both tasks", func(b *stream.Batch) bool { return len(b.Assigned) == 2 })
	dead.Produce([]record.Record{{Topic: sessionTopic, Value: []byte("open")}}, func(string, int64, error) {})
	if err := dead.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	next := connect(t, sessionLog(t, config, "a")) // another process, for all that the brokers know
	defer closeSession(t, next)
	began := time.Now()
	join(t, next)
	until(t, next, "both tasks", func(b *stream.Batch) bool { return len(b.Assigned) == 2 })
	if took := time.Since(began); took > time.Second {
		t.Errorf("joining took %s, as long as the dead member's session", took)
	}
	tp := record.TopicPartition{Topic: sessionTopic}
	marks, err := next.Watermarks(t.Context(), []record.TopicPartition{tp})
	if err != nil || marks[tp].Stable != marks[tp].High {
		t.Fatalf("the dead one's transaction is open: %+v, %v", marks, err)
	}
	outcome, err := dead.Commit(t.Context(), []int32{0}, []stream.OffsetCommit{{TopicPartition: tp, Offset: 1}})
	if outcome == stream.TransactionCommitted {
		t.Fatalf("the dead one commits: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	if err := dead.Close(ctx); err != nil {
		t.Logf("close of the dead one: %v", err)
	}
}

// TestTwoProcessesWithOneInstanceID lets the first find out, when it comes back, that another one has its id.
func TestTwoProcessesWithOneInstanceID(t *testing.T) {
	_, config := sessionBroker(t)
	first := sessionLog(t, config, "a")
	s := connect(t, first)
	join(t, s)
	until(t, s, "both tasks", func(b *stream.Batch) bool { return len(b.Assigned) == 2 })
	other := connect(t, sessionLog(t, config, "a"))
	defer closeSession(t, other)
	join(t, other)
	until(t, other, "both tasks", func(b *stream.Batch) bool { return len(b.Assigned) == 2 })
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	if err := s.Close(ctx); err != nil {
		t.Logf("close of the first: %v", err)
	}
	again := connect(t, first)
	defer closeSession(t, again)
	err := again.Join(t.Context())
	var fatal *stream.FatalError
	if !errors.As(err, &fatal) || !strings.Contains(err.Error(), `another process has joined group session.group as instance "a"`) {
		t.Fatalf("join: %v", err)
	}
}

func TestConnectSaysWhy(t *testing.T) {
	config := kafka.Config{Brokers: []string{"127.0.0.1:1"}, RequestTimeout: 200 * time.Millisecond}
	l, err := kafka.NewLog(config, kafka.SessionConfig{InstanceID: "a"})
	if err != nil {
		t.Fatal(err)
	}
	_, err = l.Connect(t.Context(), stream.SessionSpec{Group: sessionGroup, Inputs: []string{sessionTopic}})
	if !errors.Is(err, kafka.ErrUnreachable) || !strings.Contains(err.Error(), "127.0.0.1:1") {
		t.Fatalf("connect: %v", err)
	}
	var fatal *stream.FatalError
	if errors.As(err, &fatal) {
		t.Fatal("a broker that is away would not be tried again")
	}
}

// TestUnauthorizedIsFatal asks a broker that says no.
func TestUnauthorizedIsFatal(t *testing.T) {
	c, config := sessionBroker(t)
	s := connect(t, sessionLog(t, config, "a"))
	defer closeSession(t, s)
	c.ControlKey(int16(kmsg.InitProducerID), func(req kmsg.Request) (kmsg.Response, error, bool) {
		resp := req.ResponseKind().(*kmsg.InitProducerIDResponse)
		resp.ErrorCode = kerr.TransactionalIDAuthorizationFailed.Code
		return resp, nil, true
	})
	err := s.Join(t.Context())
	var fatal *stream.FatalError
	if !errors.As(err, &fatal) || !errors.Is(err, kafka.ErrUnauthorized) {
		t.Fatalf("join: %v", err)
	}
}

// TestScanStartsAtTheLogsStart reads a log whose beginning is gone.
func TestScanStartsAtTheLogsStart(t *testing.T) {
	_, config := sessionBroker(t)
	s := connect(t, sessionLog(t, config, "a"))
	defer closeSession(t, s)
	cl, err := kgo.NewClient(kgo.SeedBrokers(config.Brokers...), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	for range 10 {
		if err := cl.ProduceSync(t.Context(), &kgo.Record{Topic: sessionTopic, Value: []byte("v")}).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	var below kadm.Offsets
	below.Add(kadm.Offset{Topic: sessionTopic, At: 6, LeaderEpoch: -1})
	if _, err := kadm.NewClient(cl).DeleteRecords(t.Context(), below); err != nil {
		t.Fatal(err)
	}
	var offsets []int64
	err = s.Scan(t.Context(), record.TopicPartition{Topic: sessionTopic}, 0, 9, func(recs []record.Record, _ int64) error {
		for _, r := range recs {
			offsets = append(offsets, r.Offset)
		}
		return nil
	})
	if err != nil || len(offsets) != 3 || offsets[0] != 6 || offsets[2] != 8 {
		t.Fatalf("read %v, %v", offsets, err)
	}
	if err := s.Scan(t.Context(), record.TopicPartition{Topic: sessionTopic}, 9, 9, nil); err != nil {
		t.Fatalf("scan nothing: %v", err)
	}
}

// Two transactional ids take turns, and the next incarnation ends what either has left open.
func TestSessionWritersTakeTurns(t *testing.T) {
	_, config := sessionBroker(t)
	tp := record.TopicPartition{Topic: sessionTopic}
	produce := func(s stream.Session) {
		t.Helper()
		done := make(chan error, 1)
		s.Produce([]record.Record{{Topic: sessionTopic, Value: []byte("v")}}, func(_ string, _ int64, err error) { done <- err })
		if err := errors.Join(s.Flush(t.Context()), <-done); err != nil {
			t.Fatal(err)
		}
	}
	for open := range 2 { // of either id
		s := connect(t, sessionLog(t, config, "a"))
		join(t, s)
		until(t, s, "both tasks", func(b *stream.Batch) bool { return len(b.Assigned) == 2 })
		for range 2 + open {
			produce(s)
			if outcome, err := s.Commit(t.Context(), []int32{0}, []stream.OffsetCommit{{TopicPartition: tp, Offset: 1}}); outcome != stream.TransactionCommitted {
				t.Fatalf("commit: %v, %v", outcome, err)
			}
		}
		produce(s)
		next := connect(t, sessionLog(t, config, "a"))
		join(t, next)
		marks, err := next.Watermarks(t.Context(), []record.TopicPartition{tp})
		if err != nil || marks[tp].Stable != marks[tp].High {
			t.Errorf("after the next incarnation has joined: %+v, %v; expected that nothing is open", marks[tp], err)
		}
		_ = s.Close(t.Context()) // it was fenced
		closeSession(t, next)
	}
	cl, err := kgo.NewClient(kgo.SeedBrokers(config.Brokers...), kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{sessionTopic: {0: kgo.NewOffset().AtStart()}}))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	var ids []int64
	for len(ids) < 5 && ctx.Err() == nil {
		cl.PollFetches(ctx).EachRecord(func(r *kgo.Record) { ids = append(ids, r.ProducerID) })
	}
	if len(ids) != 5 || ids[0] == ids[1] || ids[2] == ids[3] || ids[3] == ids[4] || ids[2] != ids[4] {
		t.Errorf("the producers of five transactions, the first two and the last three in one session each: %d; expected that they take turns", ids)
	}
}
