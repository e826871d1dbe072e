package embedded

import (
	"sync"

	"github.com/twmb/franz-go/pkg/kbin"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// stagedKey names one offset inside a transaction. The topic is named by id where the client did so (TxnOffsetCommit
// version 6, KIP-1319).
type stagedKey struct {
	group     string
	topic     string
	topicID   [16]byte
	partition int32
}

// stagedOffset is an offset that a transaction will commit when it ends.
type stagedOffset struct {
	offset      int64
	leaderEpoch int32
	metadata    *string
}

// stagedTxn holds the offsets that one transaction has staged so far.
type stagedTxn struct {
	pid     int64
	epoch   int16
	offsets map[stagedKey]stagedOffset
}

// stage mirrors the offsets that kfake has staged per transaction, because it keeps them in memory only and offers no
// way to read them. What counts is what kfake accepted (a stale generation is refused: that is the fence against a
// zombie), so the requests are noted as they arrive and taken over when their responses pass by on the way out.
type stage struct {
	mu sync.Mutex
	// txns holds the open transactions with staged offsets by transactional id.
	txns map[string]*stagedTxn
	// unanswered counts, by transactional id, requests that kfake has not answered yet.
	unanswered map[string]int
	// doubtful holds the transactional ids that had a request whose connection ended before the answer.
	doubtful map[string]bool
}

func newStage() *stage {
	return &stage{txns: make(map[string]*stagedTxn), unanswered: make(map[string]int), doubtful: make(map[string]bool)}
}

// arrived notes a request whose response is still to come.
func (s *stage) arrived(req *kmsg.TxnOffsetCommitRequest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.unanswered[req.TransactionalID]++
}

// lost forgets a request that will not be answered because its connection has ended. Nobody knows whether kfake
// accepted it, until the client repeats it.
func (s *stage) lost(req *kmsg.TxnOffsetCommitRequest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.settle(req.TransactionalID)
	s.doubtful[req.TransactionalID] = true
}

func (s *stage) settle(txid string) {
	if s.unanswered[txid]--; s.unanswered[txid] <= 0 {
		delete(s.unanswered, txid)
	}
}

// answered takes over the partitions that were accepted.
func (s *stage) answered(req *kmsg.TxnOffsetCommitRequest, resp *kmsg.TxnOffsetCommitResponse) {
	type partition struct {
		topic string
		id    [16]byte
		p     int32
	}
	accepted := make(map[partition]bool)
	for _, rt := range resp.Topics {
		for _, rp := range rt.Partitions {
			accepted[partition{rt.Topic, rt.TopicID, rp.Partition}] = rp.ErrorCode == 0
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.settle(req.TransactionalID)
	delete(s.doubtful, req.TransactionalID)
	txn := s.txns[req.TransactionalID]
	if txn == nil || txn.pid != req.ProducerID || txn.epoch != req.ProducerEpoch {
		txn = &stagedTxn{pid: req.ProducerID, epoch: req.ProducerEpoch, offsets: make(map[stagedKey]stagedOffset)}
	}
	for _, rt := range req.Topics {
		for _, rp := range rt.Partitions {
			if accepted[partition{rt.Topic, rt.TopicID, rp.Partition}] {
				s.txns[req.TransactionalID] = txn
				txn.offsets[stagedKey{req.Group, rt.Topic, rt.TopicID, rp.Partition}] = stagedOffset{rp.Offset, rp.LeaderEpoch, rp.Metadata}
			}
		}
	}
}

// standing says whether it is known what a transaction has staged.
type standing int

const (
	known    standing = iota
	awaited           // a request is not answered yet
	doubtful          // a request was never answered
)

// ended returns the offsets staged by the transaction of (pid, epoch) and forgets the transactional id. Where it is not
// known what was staged, nothing is forgotten, unless the transaction is given up.
func (s *stage) ended(txid string, pid int64, epoch int16, commit bool) (map[stagedKey]stagedOffset, standing) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.unanswered[txid] > 0 {
		return nil, awaited
	}
	if commit && s.doubtful[txid] {
		return nil, doubtful
	}
	var offsets map[stagedKey]stagedOffset
	if txn := s.txns[txid]; txn != nil && txn.pid == pid && txn.epoch == epoch {
		offsets = txn.offsets
	}
	delete(s.txns, txid)
	delete(s.doubtful, txid)
	return offsets, known
}

// decodeTxnOffsetCommit reads the frame of a TxnOffsetCommit request, without its size. It returns nil when the frame
// does not parse; kfake then closes the connection.
func decodeTxnOffsetCommit(frame []byte) *kmsg.TxnOffsetCommitRequest {
	r := kbin.Reader{Src: frame}
	_ = r.Int16() // API key
	version := r.Int16()
	_ = r.Int32() // correlation id
	_ = r.NullableString()
	req := kmsg.NewPtrTxnOffsetCommitRequest()
	req.SetVersion(version)
	if req.IsFlexible() {
		kmsg.SkipTags(&r)
	}
	if !r.Ok() || req.ReadFrom(r.Src) != nil {
		return nil
	}
	return req
}

// decodeTxnOffsetCommitResponse reads the frame of the response to req, with its size, or returns nil.
func decodeTxnOffsetCommitResponse(req *kmsg.TxnOffsetCommitRequest, frame []byte) *kmsg.TxnOffsetCommitResponse {
	if len(frame) < 8 {
		return nil
	}
	r := kbin.Reader{Src: frame[8:]}
	resp := req.ResponseKind().(*kmsg.TxnOffsetCommitResponse)
	if resp.IsFlexible() {
		kmsg.SkipTags(&r)
	}
	if !r.Ok() || resp.ReadFrom(r.Src) != nil {
		return nil
	}
	return resp
}
