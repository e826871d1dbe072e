package kafka

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/regent-infra/regent/internal/record"
	"github.com/regent-infra/regent/internal/stream"
)

// findTransactionVersion asks which way transactions take here. From version 2 on (KIP-890) the broker adds the group to a transaction by
// itself, and raises the producer's epoch with each one.
func (s *session) findTransactionVersion(ctx context.Context) error {
	req := kmsg.NewPtrApiVersionsRequest()
	req.ClientSoftwareName, req.ClientSoftwareVersion = "regent", "1"
	resp, err := req.RequestWith(ctx, s.member)
	if err != nil {
		return err
	}
	if err := kerr.ErrorForCode(resp.ErrorCode); err != nil {
		return err
	}
	for _, f := range resp.FinalizedFeatures {
		if f.Name == "transaction.version" && f.MaxVersionLevel >= 2 {
			s.tv2 = true
		}
	}
	return nil
}

// Produce implements [stream.Session].
func (s *session) Produce(recs []record.Record, done func(topic string, offset int64, err error)) {
	if err := s.begin(); err != nil {
		for i := range recs {
			done(recs[i].Topic, 0, err)
		}
		return
	}
	promise := func(r *kgo.Record, err error) {
		if err != nil {
			err = classify(fmt.Errorf("write to %s/%d: %w", r.Topic, r.Partition, err))
		}
		done(r.Topic, r.Offset, err)
	}
	out := toClients(recs)
	for i := range out {
		s.writer().Produce(context.Background(), &out[i], promise)
	}
}

// begin begins a transaction, if none is open.
func (s *session) begin() error {
	if s.began.Load() {
		return nil
	}
	s.beginning.Lock()
	defer s.beginning.Unlock()
	if s.began.Load() {
		return nil
	}
	if err := s.writer().BeginTransaction(); err != nil {
		return fmt.Errorf("begin a transaction: %w", err)
	}
	s.began.Store(true)
	return nil
}

// Flush implements [stream.Session].
func (s *session) Flush(ctx context.Context) error {
	if !s.began.Load() {
		return nil
	}
	if err := s.writer().Flush(ctx); err != nil {
		return s.log.config.explain("write the outputs of a transaction", err)
	}
	return nil
}

// Commit implements [stream.Session].
func (s *session) Commit(ctx context.Context, tasks []int32, offsets []stream.OffsetCommit) (stream.Outcome, error) {
	if !s.began.Load() {
		return s.commitAlone(ctx, tasks, offsets)
	}
	if err := s.sendOffsets(ctx, tasks, offsets); err != nil {
		// Nothing has been decided: the end was not sent.
		if aborted := s.Abort(ctx); aborted != nil {
			return stream.TransactionUnknown, errors.Join(err, aborted)
		}
		return stream.TransactionAborted, err
	}
	err := s.writer().EndTransaction(ctx, kgo.TryCommit)
	if err == nil {
		s.over()
		return stream.TransactionCommitted, nil
	}
	err = s.log.config.explain("end a transaction", err)
	if errors.Is(err, kerr.TransactionAbortable) || errors.Is(err, kerr.OperationNotAttempted) {
		if aborted := s.Abort(ctx); aborted == nil {
			return stream.TransactionAborted, err
		}
	}
	return stream.TransactionUnknown, classify(err)
}

// Abort implements [stream.Session].
func (s *session) Abort(ctx context.Context) error {
	if !s.began.Load() {
		return nil
	}
	if err := s.writer().AbortBufferedRecords(ctx); err != nil {
		return s.log.config.explain("abort a transaction", err)
	}
	if err := s.writer().EndTransaction(ctx, kgo.TryAbort); err != nil {
		return classify(s.log.config.explain("abort a transaction", err))
	}
	s.over()
	return nil
}

// over notes that the transaction has ended: the next one is the other writer's.
func (s *session) over() {
	s.turn = 1 - s.turn
	s.began.Store(false)
}

// hold takes the lock under which no partition can be given away, after a check that the tasks are still ours. It returns who we are in the
// group.
func (s *session) hold(tasks []int32) (member string, generation int32, release func(), err error) {
	s.mu.Lock()
	for _, id := range tasks {
		// A task that is back after it was revoked is another one than the caller knows.
		if !s.tasks[id] || contains(s.revoked, id) || contains(s.assigned, id) {
			s.mu.Unlock()
			return "", 0, nil, fmt.Errorf("task %d: %w", id, stream.ErrRevoked)
		}
	}
	member, generation = s.member.GroupMetadata()
	if member == "" || generation < 0 {
		s.mu.Unlock()
		return "", 0, nil, fmt.Errorf("not a member of group %s at the moment: %w", s.spec.Group, stream.ErrRevoked)
	}
	return member, generation, s.mu.Unlock, nil
}

func contains(list []int32, id int32) bool {
	for _, x := range list {
		if x == id {
			return true
		}
	}
	return false
}

// sendOffsets puts the offsets into the transaction. The generation in it is the fence: the broker refuses it when the group has moved on.
func (s *session) sendOffsets(ctx context.Context, tasks []int32, offsets []stream.OffsetCommit) error {
	member, generation, release, err := s.hold(tasks)
	if err != nil {
		return err
	}
	defer release()
	w := s.writer()
	id, epoch, err := w.ProducerID(ctx)
	if err != nil {
		return fmt.Errorf("put offsets into a transaction: %w", err)
	}
	if !s.tv2 {
		if err := s.addGroup(ctx, w, id, epoch); err != nil {
			return err
		}
	}
	req := kmsg.NewPtrTxnOffsetCommitRequest()
	req.TransactionalID = w.id
	req.Group = s.spec.Group
	req.ProducerID, req.ProducerEpoch = id, epoch
	req.MemberID, req.Generation = member, generation
	for topic, list := range byTopic(offsets) {
		rt := kmsg.NewTxnOffsetCommitRequestTopic()
		rt.Topic, rt.TopicID = topic, s.topicIDs[topic]
		for _, o := range list {
			rp := kmsg.NewTxnOffsetCommitRequestTopicPartition()
			rp.Partition, rp.Offset, rp.Metadata = o.Partition, o.Offset, kmsg.StringPtr(o.Metadata)
			rt.Partitions = append(rt.Partitions, rp)
		}
		req.Topics = append(req.Topics, rt)
	}
	return s.again(ctx, "put offsets into a transaction", func() error {
		resp, err := req.RequestWith(ctx, w.Client)
		if err != nil {
			return err
		}
		for _, t := range resp.Topics {
			for _, p := range t.Partitions {
				if err := kerr.ErrorForCode(p.ErrorCode); err != nil {
					return fmt.Errorf("%s/%d: %w", t.Topic, p.Partition, err)
				}
			}
		}
		return nil
	})
}

// addGroup announces that offsets of the group will be part of the transaction.
func (s *session) addGroup(ctx context.Context, w writer, id int64, epoch int16) error {
	req := kmsg.NewPtrAddOffsetsToTxnRequest()
	req.TransactionalID, req.Group = w.id, s.spec.Group
	req.ProducerID, req.ProducerEpoch = id, epoch
	return s.again(ctx, "add the group to a transaction", func() error {
		resp, err := req.RequestWith(ctx, w.Client)
		if err != nil {
			return err
		}
		return kerr.ErrorForCode(resp.ErrorCode)
	})
}

// again repeats a request as long as the coordinator is busy with what went before, or on its way.
func (s *session) again(ctx context.Context, operation string, do func() error) error {
	for {
		err := do()
		if !slices.ContainsFunc(busy, func(sign error) bool { return errors.Is(err, sign) }) {
			return fenced(s.log.config.explain(operation, err))
		}
		if err := pause(ctx, 2*time.Millisecond); err != nil {
			return s.log.config.explain(operation, err)
		}
	}
}

// busy are the answers of a coordinator that will be ready soon.
var busy = []error{kerr.ConcurrentTransactions, kerr.CoordinatorLoadInProgress, kerr.CoordinatorNotAvailable}

func pause(ctx context.Context, d time.Duration) error {
	ctx2, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	<-ctx2.Done()
	return ctx.Err()
}

// fenced marks the broker's ways of saying that the group has moved on.
func fenced(err error) error {
	for _, sign := range []error{kerr.IllegalGeneration, kerr.UnknownMemberID, kerr.RebalanceInProgress, kerr.GroupIDNotFound, kerr.StaleMemberEpoch} {
		if errors.Is(err, sign) {
			return fmt.Errorf("%w: %w", stream.ErrRevoked, err)
		}
	}
	return err
}

// commitAlone commits offsets without a transaction. It is atomic, and under the same fence.
func (s *session) commitAlone(ctx context.Context, tasks []int32, offsets []stream.OffsetCommit) (stream.Outcome, error) {
	member, generation, release, err := s.hold(tasks)
	if err != nil {
		return stream.TransactionAborted, err
	}
	defer release()
	req := kmsg.NewPtrOffsetCommitRequest()
	req.Group, req.MemberID, req.Generation = s.spec.Group, member, generation
	for topic, list := range byTopic(offsets) {
		rt := kmsg.NewOffsetCommitRequestTopic()
		rt.Topic, rt.TopicID = topic, s.topicIDs[topic]
		for _, o := range list {
			rp := kmsg.NewOffsetCommitRequestTopicPartition()
			rp.Partition, rp.Offset, rp.Metadata = o.Partition, o.Offset, kmsg.StringPtr(o.Metadata)
			rt.Partitions = append(rt.Partitions, rp)
		}
		req.Topics = append(req.Topics, rt)
	}
	resp, err := req.RequestWith(ctx, s.member)
	if err != nil {
		return stream.TransactionUnknown, s.log.config.explain("commit offsets", err)
	}
	for _, t := range resp.Topics {
		for _, p := range t.Partitions {
			if err := kerr.ErrorForCode(p.ErrorCode); err != nil {
				err = fenced(s.log.config.explain("commit offsets", fmt.Errorf("partition %d: %w", p.Partition, err)))
				if errors.Is(err, stream.ErrRevoked) {
					return stream.TransactionAborted, err
				}
				return stream.TransactionUnknown, classify(err)
			}
		}
	}
	return stream.TransactionCommitted, nil
}

func byTopic(offsets []stream.OffsetCommit) map[string][]stream.OffsetCommit {
	out := map[string][]stream.OffsetCommit{}
	for _, o := range offsets {
		out[o.Topic] = append(out[o.Topic], o)
	}
	return out
}

// Send implements [stream.Session].
func (s *session) Send(rec record.Record, done func(err error)) {
	s.member.TryProduce(context.Background(), toClient(&rec), func(_ *kgo.Record, err error) { done(err) })
}

// classify marks what trying again does not heal.
func classify(err error) error {
	for _, sign := range []error{
		kerr.TopicAuthorizationFailed, kerr.GroupAuthorizationFailed, kerr.ClusterAuthorizationFailed, kerr.TransactionalIDAuthorizationFailed,
		kerr.SaslAuthenticationFailed, kerr.UnsupportedSaslMechanism, kerr.InvalidTransactionTimeout, kerr.InvalidSessionTimeout,
		kerr.InconsistentGroupProtocol, kerr.UnsupportedVersion, kerr.MessageTooLarge, kerr.RecordListTooLarge, kerr.InvalidRecord,
	} {
		if errors.Is(err, sign) {
			return &stream.FatalError{Err: err}
		}
	}
	return err
}
