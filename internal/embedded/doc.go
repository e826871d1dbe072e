// Package embedded is the default broker and schema registry: one process, one data directory, nothing to install.
//
// The broker is kfake, franz-go's fake cluster, as one persistent node; the registry speaks the interface of Confluent's
// and keeps its content in the compacted topic `_schemas` of that broker. Both are reached as any other broker and
// registry are, over the network:
//
//	stack, err := embedded.Open(ctx, embedded.Config{Dir: dir, Compatible: compatible})
//	defer stack.Close(ctx)
//	use(stack.Brokers(), stack.RegistryURL())
//	select {
//	case <-stack.Failed(): // the disk failed: stop, see stack.Err
//	case <-ctx.Done():
//	}
//
// kfake was written for tests. What stands between it and real use:
//
//   - Before it opens its files, package brokerdisk makes them whole after a crash, and compacts them.
//   - A gate looks at each request that changes something. It writes the commit intent before a transaction ends, puts
//     the broker's time into topics with message.timestamp.type=LogAppendTime, and refuses what kfake accepts although
//     Kafka would not (names, settings, counts). It also rewrites the limits of fetches: kfake forgets to name the aborted
//     transactions in an answer that is full.
//   - A guard on each connection checks request frames, which kfake trusts.
//   - kfake reports failed writes in its log only and goes on. Here the broker then stops: no answer leaves any more, so
//     nothing is acknowledged that is not on disk.
//   - Retention runs here, because kfake's own applies to compacted topics too, and with its cleaner, which loses data.
//
// # Invariants
//
//  1. One process per data directory (a file lock; the file names the process).
//  2. A transaction is committed in all its partitions with all its offsets, or in none, whenever the process is killed.
//     Between an acknowledged commit and its readers there is nothing that a crash can take back.
//  3. Offsets never change and are never given twice, the topic ids, the cluster id and the schema ids neither.
//  4. Every transactional producer that is alive during a crash is fenced, except the one whose commit was completed.
//  5. A record in a compacted topic that is younger than min.compaction.lag.ms is not removed, nor is what a reader at
//     that age would need to know the value of each key at its beginning.
//
// # Limits
//
// All requests are handled by one goroutine; there is no replication, no quota, no log segment closed by time. Without
// [Config.Sync] a crash of the machine (not of the process) may lose the last seconds. Compacted topics shrink at start
// only. The time of a record is the broker's in topics with LogAppendTime, but the flag that says so is not set, and
// records of one batch keep the distances that their producer gave them, up to the newest, which is the broker's time.
// DeleteRecords leaves the last record of a partition, and what it deleted may come back after a crash.
package embedded
