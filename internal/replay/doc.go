// Package replay makes the state of a processor as it was at a moment, from the topic that is event and redo log in one (S), or says from when on
// that can be had.
//
//	r, err := replay.New(log, replay.Options{})
//	part, err := r.At(ctx, tp, replay.Query{Moment: replay.Moment{Time: t}}, bases)
//	for key, entry := range part.Entries { … }
//
// # The state at a moment
//
// The state at T, of one partition of S, is what was committed at T: the latest value of each key in all transactions whose marker the broker had
// appended at or before T, by the broker's time. It follows from the log alone, and it is a prefix of it: take all batches that were appended at or before
// T; the cut X(T) is the first record among them of a transaction that was committed later (or may still be), or else their end; the state is
// what is committed below X. S has one writer at a time, which commits in order, so nothing above X could be read at T. A transaction is in the
// state as a whole, from the append time of its marker on, and not a moment earlier. A moment may also be given as an offset: then X is that offset.
//
// Each partition has its own cut. That is all that there is to keep together: a partition of S is one task, no transaction reads what another
// task of it writes, and no reader of the topics is promised more.
//
// # When the answer is exact
//
// S is compacted: a value that was replaced goes, sooner or later, and with it what the state was while it held. Nothing in the protocol tells up to
// where the cleaner has come. What can be proved is, for a cut X:
//
//  1. Complete. The offsets below X are all there: each batch follows the one before it without a gap and holds as many records as it spans offsets.
//     Brokers write logs so, and the cleaner alone leaves gaps. Then nothing is missing. With a checkpoint whose positions are at or below X,
//     the same holds from its position on, and the checkpoint stands for what was before.
//  2. Window. The batch at X is younger than min.compaction.lag.ms. What the cleaner has ever removed was replaced by a record that was
//     older than that when it came by, so by one below X. Behind X there is no marker of a transaction whose records are all gone: it would have
//     been open at T.
//  3. Newest. Nothing in the log is later than T, or committed above X: that is what compaction promises to keep.
//  4. Key. For one key alone: a value of it from below X is there. The cleaner goes through a partition from its start with a map of latest
//     offsets, so what is left of a key is always its last records without a gap; if one from below X is left, so is the last one below X. That
//     holds of the log at one moment, so the partition is read twice, and the second reading must find it unchanged.
//
// Everything else is refused ([Refusal]) with the earliest moment that can be had. Two things are taken on trust: that min.compaction.lag.ms was not
// shorter before (a gap inside of the window gives that away, and the window is not used), and, for the key alone, that no replica was copied
// anew while its leader cleaned.
//
// # Files
//
// port: the log. walk: batches to committed records, and the cut. replay: one partition at one moment. proof: what is exact, refusals. diff: two
// values, field by field.
package replay
