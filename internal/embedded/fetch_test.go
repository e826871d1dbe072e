package embedded

import (
	"bytes"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"
)

// An answer that is cut off because it is full still names the transactions that were aborted: else their records pass for committed.
func TestFullFetchNamesAbortedTransactions(t *testing.T) {
	const limit, partitions, each = 64 << 10, 3, 40
	s := open(t, testConfig(t.TempDir()))
	createTopic(t, client(t, s), "outputs", partitions)
	writer := client(t, s, kgo.TransactionalID("writer"), kgo.DefaultProduceTopic("outputs"), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerLinger(0))
	for _, round := range []struct {
		text string
		end  kgo.TransactionEndTry
	}{{"committed", kgo.TryCommit}, {"aborted", kgo.TryAbort}, {"committed", kgo.TryCommit}} {
		if err := writer.BeginTransaction(); err != nil {
			t.Fatal(err)
		}
		for range each { // a batch for each partition
			for p := range int32(partitions) {
				produce(t, writer, &kgo.Record{Partition: p, Key: []byte(round.text), Value: bytes.Repeat([]byte("v"), 4<<10)})
			}
		}
		if err := writer.EndTransaction(t.Context(), round.end); err != nil {
			t.Fatal(err)
		}
	}
	reader := client(t, s, kgo.ConsumeTopics("outputs"), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.FetchMaxBytes(limit), kgo.FetchMaxPartitionBytes(limit))
	for n := 0; n < 2*each*partitions; {
		fetches := reader.PollFetches(t.Context())
		if err := fetches.Err(); err != nil {
			t.Fatalf("read: %v after %d records", err, n)
		}
		for _, r := range fetches.Records() {
			if n++; string(r.Key) != "committed" {
				t.Fatalf("record %d of partition %d was aborted, and is read as committed", r.Offset, r.Partition)
			}
		}
	}
}
