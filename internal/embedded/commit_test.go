package embedded

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/kversion"
)

// The load of the commit tests: transaction n writes the value n into every partition of loadTopic, and commits the offset
// n with the metadata n for every partition of inputTopic.
const (
	loadTopic      = "load"
	inputTopic     = "input"
	loadGroup      = "load-group"
	loadPartitions = 4
)

func createLoadTopics(t *testing.T, brokers []string) {
	t.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(brokers...))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	resp, err := kadm.NewClient(cl).CreateTopics(t.Context(), loadPartitions, 1, nil, loadTopic, inputTopic)
	if err != nil || resp.Error() != nil {
		t.Fatalf("create topics: %v %v", err, resp.Error())
	}
	for p := range int32(loadPartitions) {
		r := &kgo.Record{Topic: inputTopic, Partition: p, Value: []byte("input")}
		if err := cl.ProduceSync(t.Context(), r).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
}

// loader runs transactions.
type loader struct {
	cl      *kgo.Client
	inputID [16]byte
}

func newLoader(brokers []string, opts ...kgo.Opt) (*loader, error) {
	cl, err := kgo.NewClient(append([]kgo.Opt{
		kgo.SeedBrokers(brokers...),
		kgo.TransactionalID("loader"),
		kgo.DefaultProduceTopic(loadTopic),
		kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.ProducerLinger(0),
	}, opts...)...)
	if err != nil {
		return nil, err
	}
	return &loader{cl: cl}, nil
}

// stage begins transaction n and does everything but end it.
func (l *loader) stage(ctx context.Context, n int) error {
	if err := l.cl.BeginTransaction(); err != nil {
		return err
	}
	var recs []*kgo.Record
	for p := range int32(loadPartitions) {
		recs = append(recs, &kgo.Record{Partition: p, Key: []byte("k"), Value: []byte(strconv.Itoa(n))})
	}
	if err := l.cl.ProduceSync(ctx, recs...).FirstErr(); err != nil {
		return err
	}
	return l.stageOffsets(ctx, n)
}

func (l *loader) stageOffsets(ctx context.Context, n int) error {
	if l.inputID == [16]byte{} {
		topics, err := kadm.NewClient(l.cl).ListTopics(ctx, inputTopic)
		if err != nil {
			return err
		}
		l.inputID = topics[inputTopic].ID
	}
	pid, epoch, err := l.cl.ProducerID(ctx)
	if err != nil {
		return err
	}
	add := kmsg.NewPtrAddOffsetsToTxnRequest()
	add.TransactionalID, add.ProducerID, add.ProducerEpoch, add.Group = "loader", pid, epoch, loadGroup
	added, err := add.RequestWith(ctx, l.cl)
	if err == nil {
		err = kerr.ErrorForCode(added.ErrorCode)
	}
	if err != nil {
		return err
	}
	req := kmsg.NewPtrTxnOffsetCommitRequest()
	req.TransactionalID, req.ProducerID, req.ProducerEpoch, req.Group = "loader", pid, epoch, loadGroup
	req.Generation = -1
	rt := kmsg.NewTxnOffsetCommitRequestTopic()
	rt.Topic, rt.TopicID = inputTopic, l.inputID
	for p := range int32(loadPartitions) {
		rp := kmsg.NewTxnOffsetCommitRequestTopicPartition()
		rp.Partition, rp.Offset, rp.Metadata = p, int64(n), kmsg.StringPtr(strconv.Itoa(n))
		rt.Partitions = append(rt.Partitions, rp)
	}
	req.Topics = append(req.Topics, rt)
	resp, err := req.RequestWith(ctx, l.cl)
	if err != nil {
		return err
	}
	for _, rt := range resp.Topics {
		for _, rp := range rt.Partitions {
			if err := kerr.ErrorForCode(rp.ErrorCode); err != nil {
				return err
			}
		}
	}
	return nil
}

func (l *loader) run(ctx context.Context, n int, end kgo.TransactionEndTry) error {
	if err := l.stage(ctx, n); err != nil {
		return err
	}
	return l.cl.EndTransaction(ctx, end)
}

// content is what an independent read_committed reader finds.
type content struct {
	values  map[int32][]int // by partition
	offsets map[int32]int64
	meta    map[int32]string
}

func readContent(t *testing.T, brokers []string) content {
	t.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(brokers...), kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.KeepControlRecords())
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	adm := kadm.NewClient(cl)
	high, err := adm.ListEndOffsets(t.Context(), loadTopic)
	if err != nil || high.Error() != nil {
		t.Fatal(err, high.Error())
	}
	stable, err := adm.ListCommittedOffsets(t.Context(), loadTopic)
	if err != nil || stable.Error() != nil {
		t.Fatal(err, stable.Error())
	}
	c := content{values: make(map[int32][]int), offsets: make(map[int32]int64), meta: make(map[int32]string)}
	left := make(map[int32]int64)
	starts := make(map[int32]kgo.Offset)
	high.Each(func(o kadm.ListedOffset) {
		if s, _ := stable.Lookup(loadTopic, o.Partition); s.Offset != o.Offset {
			t.Errorf("partition %d: last stable offset %d, high watermark %d: a transaction is open", o.Partition, s.Offset, o.Offset)
		}
		if o.Offset > 0 {
			left[o.Partition] = o.Offset
			starts[o.Partition] = kgo.NewOffset().AtStart()
		}
	})
	cl.AddConsumePartitions(map[string]map[int32]kgo.Offset{loadTopic: starts})
	for len(left) > 0 {
		fetches := cl.PollFetches(t.Context())
		if err := fetches.Err(); err != nil {
			t.Fatalf("read: %v, still to be read: %v", err, left)
		}
		fetches.EachRecord(func(r *kgo.Record) {
			if r.Offset+1 >= left[r.Partition] {
				delete(left, r.Partition)
			}
			if r.Attrs.IsControl() {
				return
			}
			n, err := strconv.Atoi(string(r.Value))
			if err != nil {
				t.Errorf("partition %d offset %d: value %q", r.Partition, r.Offset, r.Value)
			}
			c.values[r.Partition] = append(c.values[r.Partition], n)
		})
	}
	resp, err := adm.FetchOffsets(t.Context(), loadGroup)
	if errors.Is(err, kerr.GroupIDNotFound) {
		return c
	}
	if err != nil {
		t.Fatal(err)
	}
	resp.Each(func(o kadm.OffsetResponse) {
		c.offsets[o.Partition], c.meta[o.Partition] = o.At, o.Metadata
	})
	return c
}

// wholeness returns what contradicts all-or-nothing, or "". The committed transactions are those of which partition 0
// tells; from and to bound the last one.
func (c content) wholeness(from, to int) string {
	committed := c.values[0]
	last := 0
	if len(committed) > 0 {
		last = committed[len(committed)-1]
	}
	if last < from || last > to {
		return fmt.Sprintf("last committed transaction is %d, %d to %d expected", last, from, to)
	}
	for p := range int32(loadPartitions) {
		if !slices.Equal(c.values[p], committed) {
			return fmt.Sprintf("partition %d has %v, partition 0 has %v", p, tail(c.values[p]), tail(committed))
		}
		if want := int64(last); c.offsets[p] != want || last > 0 && c.meta[p] != strconv.Itoa(last) {
			return fmt.Sprintf("offset of partition %d is %d with metadata %q, %d expected", p, c.offsets[p], c.meta[p], last)
		}
	}
	if !slices.IsSorted(committed) || len(slices.Compact(slices.Clone(committed))) != len(committed) {
		return fmt.Sprintf("transactions are repeated or out of order: %v", committed)
	}
	return ""
}

func tail(s []int) []int { return s[max(0, len(s)-5):] }

// copyDir copies a data directory.
func copyDir(t *testing.T, from string) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "data")
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
	return to
}

// snapshots runs two transactions, and a third one whose commit is photographed: before is the directory when the intent
// is written, after when kfake has done the rest.
func snapshots(t *testing.T, opts ...kgo.Opt) (before, after string) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "data")
	cfg := testConfig(dir)
	armed := make(chan struct{}, 1)
	cfg.crash = func(point string) {
		if point != "after-intent" {
			return
		}
		select {
		case <-armed:
			before = copyDir(t, dir)
		default:
		}
	}
	s := open(t, cfg)
	createLoadTopics(t, s.Brokers())
	l, err := newLoader(s.Brokers(), opts...)
	if err != nil {
		t.Fatal(err)
	}
	defer l.cl.Close()
	for n := 1; n <= 3; n++ {
		if n == 3 {
			armed <- struct{}{}
		}
		if err := l.run(t.Context(), n, kgo.TryCommit); err != nil {
			t.Fatalf("transaction %d: %v", n, err)
		}
	}
	after = copyDir(t, dir)
	if err := os.Remove(filepath.Join(after, cleanName)); err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return before, after
}

// write is one write that kfake does on a commit.
type write struct {
	file string
	data []byte
}

// writesBetween returns what was appended to which file, per partition, then per group, then per producer: the order in
// which kfake does it.
func writesBetween(t *testing.T, before, after string) []write {
	t.Helper()
	var partitions, logs []write
	err := filepath.WalkDir(after, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, _ := filepath.Rel(after, path)
		now, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		then, _ := os.ReadFile(filepath.Join(before, rel))
		if bytes.Equal(then, now) {
			return nil
		}
		if !bytes.HasPrefix(now, then) {
			t.Errorf("%s was changed, not appended to", rel)
			return nil
		}
		w := write{rel, now[len(then):]}
		switch {
		case strings.Contains(rel, "partitions"):
			partitions = append(partitions, w)
		case filepath.Base(rel) == "groups.log":
			logs = slices.Insert(logs, 0, w)
		default:
			logs = append(logs, w)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return append(partitions, logs...)
}

// torn applies the first n writes to a copy of the directory, and part of the next one.
func torn(t *testing.T, before string, writes []write, n int, part float64) string {
	t.Helper()
	dir := copyDir(t, before)
	for i, w := range writes {
		data := w.data
		if i == n {
			data = data[:int(part*float64(len(data)))]
		}
		if i > n {
			break
		}
		f, err := os.OpenFile(filepath.Join(dir, w.file), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Write(data); err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestCommitIsWholeWhereverItStops(t *testing.T) {
	for _, client := range []struct {
		name string
		opts []kgo.Opt
	}{
		{"epoch rises with each transaction", nil},
		{"epoch stays", []kgo.Opt{kgo.MaxVersions(kversion.V3_6_0())}},
	} {
		t.Run(client.name, func(t *testing.T) {
			before, after := snapshots(t, client.opts...)
			writes := writesBetween(t, before, after)
			if len(writes) < 2*loadPartitions+2 {
				t.Fatalf("a commit writes to %d files, at least %d expected", len(writes), 2*loadPartitions+2)
			}
			for n := range len(writes) {
				for _, part := range []float64{0, 0.4, 0.99} {
					dir := torn(t, before, writes, n, part)
					s := open(t, testConfig(dir))
					if fault := readContent(t, s.Brokers()).wholeness(3, 3); fault != "" {
						t.Errorf("stopped in write %d (%s) at %.2f: %s", n, writes[n].file, part, fault)
					}
					closeStack(t, s)
				}
			}
		})
	}
}

// The checks above find half commits: without the intent there are some.
func TestWithoutTheIntentHalfCommitsAreFound(t *testing.T) {
	before, after := snapshots(t)
	writes := writesBetween(t, before, after)
	found := 0
	for n := range len(writes) {
		dir := torn(t, before, writes, n, 0)
		if err := os.Remove(filepath.Join(dir, intentName)); err != nil {
			t.Fatal(err)
		}
		s := open(t, testConfig(dir))
		if fault := readContent(t, s.Brokers()).wholeness(2, 3); fault != "" {
			found++
		}
		closeStack(t, s)
	}
	if found == 0 {
		t.Error("no half commit was found: the check is blind")
	}
	t.Logf("%d of %d points leave half a commit when there is no intent", found, len(writes))
}
