package embedded

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/regent-infra/regent/internal/embedded/brokerdisk"
)

// errPoisoned closes the connections of a broker that could not write to its disk.
var errPoisoned = errors.New("broker has stopped after a failed write")

// broker is a running kfake with its guards.
type broker struct {
	cluster  *kfake.Cluster
	listener *guardedListener
	gate     *gate
	intents  *brokerdisk.IntentFile
	dir      *directory
	cfg      Config

	poisoned atomic.Bool
	failOnce sync.Once
	failed   chan struct{}
	failure  error // set before failed is closed
}

// neverMillis is further away than any process lives: a hundred years.
const neverMillis = 100 * 365 * 24 * 3600 * 1000

func startBroker(cfg Config, dir *directory) (_ *broker, err error) {
	b := &broker{dir: dir, cfg: cfg, failed: make(chan struct{})}
	ln, err := listenTCP("broker", cfg.BrokerListen)
	if err != nil {
		return nil, err
	}
	stage := newStage()
	b.listener = &guardedListener{
		Listener: ln, maxRequest: cfg.MaxRequestBytes, log: cfg.Logger, poisoned: &b.poisoned, stage: stage,
		conns: make(map[*guardedConn]struct{}), open: make(chan struct{}), closed: make(chan struct{}),
	}
	if cfg.BrokerAdvertise != "" {
		b.listener.advertised = advertisedAddr(cfg.BrokerAdvertise)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, b.listener.Close())
			if b.intents != nil {
				err = errors.Join(err, b.intents.Close())
			}
		}
	}()
	if b.intents, err = brokerdisk.OpenIntentFile(dir.file(intentName), cfg.Sync); err != nil {
		return nil, diskError(err)
	}
	if err := b.prepare(); err != nil {
		return nil, err
	}
	opts := []kfake.Opt{
		kfake.NumBrokers(1),
		kfake.DataDir(dir.file(brokerName)),
		kfake.ClusterID(dir.id.ClusterID),
		kfake.DefaultNumPartitions(1),
		kfake.WithLogger(&brokerLog{b}),
		kfake.ListenFn(b.listener.listenFn),
		kfake.BrokerConfigs(map[string]string{
			"log.cleaner.backoff.ms":       strconv.Itoa(neverMillis), // see brokerdisk: its cleaner loses data
			"offsets.retention.minutes":    strconv.Itoa(10 * 365 * 24 * 60),
			"transaction.max.timeout.ms":   strconv.FormatInt(cfg.TransactionMaxTimeout.Milliseconds(), 10),
			"log.segment.bytes":            strconv.FormatInt(cfg.SegmentBytes, 10),
			"group.min.session.timeout.ms": "1000",
		}),
	}
	if cfg.Sync {
		opts = append(opts, kfake.SyncWrites())
	}
	if b.cluster, err = kfake.NewCluster(opts...); err != nil {
		return nil, fmt.Errorf("start broker in %s: %w", dir.file(brokerName), diskError(err))
	}
	b.gate = &gate{
		cluster: b.cluster, stage: stage, intents: b.intents, clock: cfg.Clock, log: cfg.Logger, fail: b.failWrite, crash: cfg.crash,
		appendTime: make(map[string]bool), calls: make(map[kmsg.Key]int),
	}
	b.gate.install()
	close(b.listener.open)
	return b, nil
}

// prepare makes the broker's files whole and small before it opens them.
func (b *broker) prepare() error {
	path := b.dir.file(brokerName)
	if err := brokerdisk.CheckFormat(path); err != nil {
		return fmt.Errorf("open broker files: %w", err)
	}
	clean, err := b.dir.takeClean()
	if err != nil {
		return err
	}
	started := b.cfg.Clock.Now()
	if !clean {
		report, err := brokerdisk.Recover(brokerdisk.Recovery{Dir: path, Intent: b.intents, NowMillis: started.UnixMilli(), Crash: b.cfg.crash})
		if err != nil {
			return fmt.Errorf("recover broker files: %w", diskError(err))
		}
		b.cfg.crash("recovered")
		if report.Partitions > 0 {
			b.cfg.Logger.Info("broker files recovered after a crash",
				slog.Int("partitions", report.Partitions), slog.Int("batches", report.Batches), slog.Int("torn_bytes", report.TornBytes),
				slog.Int("indexes_rebuilt", report.Indexes), slog.Int("orphans_removed", report.Orphans), slog.Bool("commit_completed", report.Completed),
				slog.Int("transactions_aborted", report.Aborted), slog.Int("producers_fenced", report.Fenced),
				slog.Duration("took", b.cfg.Clock.Now().Sub(started)))
		}
	}
	if err := brokerdisk.DropSession(path); err != nil {
		return diskError(err)
	}
	return b.compact(path)
}

// compact shrinks compacted topics as far as the time for it goes.
func (b *broker) compact(path string) error {
	if b.cfg.CompactionBudget < 0 {
		return nil
	}
	started := b.cfg.Clock.Now()
	report, err := brokerdisk.Compact(brokerdisk.Compaction{
		Dir:          path,
		Checkpoint:   b.dir.file(cleanedName),
		NowMillis:    started.UnixMilli(),
		SegmentBytes: b.cfg.SegmentBytes,
		Continue:     func() bool { return b.cfg.Clock.Now().Sub(started) < b.cfg.CompactionBudget },
		Crash:        b.cfg.crash,
	})
	if err != nil {
		return fmt.Errorf("compact broker files: %w", diskError(err))
	}
	if report.Partitions > 0 || report.Left > 0 {
		b.cfg.Logger.Info("topics compacted", slog.Int("partitions", report.Partitions), slog.Int64("bytes_before", report.BytesBefore),
			slog.Int64("bytes_after", report.BytesAfter), slog.Int("records_removed", report.RecordsRemoved), slog.Int("left_for_next_start", report.Left),
			slog.Duration("took", b.cfg.Clock.Now().Sub(started)))
	}
	return nil
}

// failWrite stops the broker because it could not write.
func (b *broker) failWrite(err error) {
	b.fail(fmt.Errorf("write to data directory %s: %w; the broker has stopped, and recovers what it acknowledged when it is started again", b.dir.path, diskError(err)))
}

// fail stops the broker for good: what a client has not been told yet, it will not be told, because it may not be on
// disk. The next start recovers.
func (b *broker) fail(err error) {
	b.failOnce.Do(func() {
		b.poisoned.Store(true)
		b.failure = err
		close(b.failed)
		// Not in this goroutine: it may be the one that the connections wait for.
		go b.listener.closeConns()
	})
}

// close ends the broker in order. It must not be used by clients any more.
func (b *broker) close() error {
	var errs []error
	if !b.poisoned.Load() {
		errs = append(errs, b.gate.shut())
	}
	b.listener.closeConns()
	b.cluster.Close()
	errs = append(errs, b.intents.Close())
	if b.poisoned.Load() {
		return errors.Join(errs...)
	}
	clean, err := brokerdisk.EndedInOrder(b.dir.file(brokerName))
	if err == nil && clean && errors.Join(errs...) == nil {
		err = b.dir.writeAtomically(cleanName, nil)
	}
	return errors.Join(append(errs, err)...)
}

// brokerLog passes kfake's log on, and stops the broker when kfake says that it could not write: it goes on otherwise,
// and acknowledges what is not on disk.
type brokerLog struct{ b *broker }

// writeFailures are the beginnings of kfake's messages about writes that failed.
var writeFailures = []string{"persist ", "compact groups.log", "compact pids.log", "endTx: failed to persist", "save session state"}

// Logf implements kfake.Logger.
func (l *brokerLog) Logf(level kfake.LogLevel, format string, args ...any) {
	if level <= kfake.LogLevelWarn {
		for _, begin := range writeFailures {
			if strings.HasPrefix(format, begin) {
				l.b.failWrite(writeFailure(format, args))
				return
			}
		}
	}
	at := slog.LevelDebug
	if level == kfake.LogLevelError {
		at = slog.LevelError
	}
	if log := l.b.cfg.Logger; log.Enabled(context.Background(), at) {
		log.Log(context.Background(), at, "broker", slog.String("message", fmt.Sprintf(format, args...)))
	}
}

// writeFailure makes an error of a log message; the cause among its arguments stays recognisable.
func writeFailure(format string, args []any) error {
	for _, a := range args {
		if cause, ok := a.(error); ok {
			return fmt.Errorf("%s%w", strings.TrimSuffix(fmt.Sprintf(format, args...), cause.Error()), cause)
		}
	}
	return fmt.Errorf(format, args...)
}

// retain deletes expired records now and then until ctx ends.
func (b *broker) retain(ctx context.Context) {
	for {
		if err := b.expire(); err != nil {
			b.cfg.Logger.Error("expired records could not be deleted", slog.Any("error", err))
		}
		t := b.cfg.Clock.NewTimer(b.cfg.RetentionInterval)
		select {
		case <-ctx.Done():
			t.Stop()
			return
		case <-t.C:
		}
	}
}

// expire deletes the records that have expired now. Only topics whose cleanup.policy names delete have any.
func (b *broker) expire() error {
	dir := b.dir.file(brokerName)
	topics, err := brokerdisk.Expiries(dir)
	if err != nil {
		return err
	}
	now := b.cfg.Clock.Now().UnixMilli()
	var errs []error
	for _, t := range topics {
		for _, p := range b.cluster.PartitionInfos(t.Topic) {
			r := brokerdisk.Retention{
				Dir: dir, Topic: t.Topic, Partition: p.Partition,
				LogStart: p.LogStartOffset, Limit: min(p.LastStableOffset, p.HighWatermark-1),
			}
			if t.Millis >= 0 {
				r.Before = now - t.Millis
			}
			if t.Bytes >= 0 {
				r.ExcessBytes = max(p.NumBytes-t.Bytes, 0)
			}
			to, err := brokerdisk.RetentionPoint(r)
			if err == nil && to > p.LogStartOffset {
				err = b.cluster.DeleteRecords(t.Topic, p.Partition, to)
			}
			if err != nil && !errors.Is(err, kerr.UnknownTopicOrPartition) {
				errs = append(errs, fmt.Errorf("delete expired records of %s/%d: %w", t.Topic, p.Partition, err))
			}
		}
	}
	return errors.Join(errs...)
}
