package embedded

import (
	"path/filepath"
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/regent-infra/regent/internal/embedded/brokerdisk"
)

func txnOffsetCommit(txid string, pid int64, epoch int16, offset int64) *kmsg.TxnOffsetCommitRequest {
	req := kmsg.NewPtrTxnOffsetCommitRequest()
	req.Version = 5
	req.TransactionalID, req.ProducerID, req.ProducerEpoch, req.Group = txid, pid, epoch, "g"
	rp := kmsg.NewTxnOffsetCommitRequestTopicPartition()
	rp.Offset = offset
	req.Topics = []kmsg.TxnOffsetCommitRequestTopic{{Topic: "t", Partitions: []kmsg.TxnOffsetCommitRequestTopicPartition{rp}}}
	return req
}

func answerTo(req *kmsg.TxnOffsetCommitRequest, code int16) *kmsg.TxnOffsetCommitResponse {
	resp := kmsg.NewPtrTxnOffsetCommitResponse()
	resp.Topics = []kmsg.TxnOffsetCommitResponseTopic{{Topic: req.Topics[0].Topic, Partitions: []kmsg.TxnOffsetCommitResponseTopicPartition{{ErrorCode: code}}}}
	return resp
}

func TestStageHoldsWhatWasAccepted(t *testing.T) {
	key := stagedKey{group: "g", topic: "t"}
	s := newStage()
	one := txnOffsetCommit("x", 1, 0, 10)
	s.arrived(one)
	if _, how := s.ended("x", 1, 0, true); how != awaited {
		t.Errorf("standing is %v while a request is unanswered", how)
	}
	s.answered(one, answerTo(one, 0))
	refused := txnOffsetCommit("x", 1, 0, 11)
	s.arrived(refused)
	s.answered(refused, answerTo(refused, kerr.IllegalGeneration.Code))
	got, how := s.ended("x", 1, 0, true)
	if how != known || got[key].offset != 10 {
		t.Errorf("staged are %v (%v), offset 10 expected", got, how)
	}
	if got, _ := s.ended("x", 1, 0, true); len(got) != 0 {
		t.Errorf("staged are %v after the end", got)
	}

	s.arrived(one)
	s.answered(one, answerTo(one, 0))
	if got, _ := s.ended("x", 1, 1, true); len(got) != 0 {
		t.Errorf("another epoch has %v", got)
	}

	s.arrived(one)
	s.lost(one)
	if _, how := s.ended("x", 1, 0, true); how != doubtful {
		t.Errorf("standing is %v after a lost answer", how)
	}
	s.arrived(one)
	s.answered(one, answerTo(one, 0))
	if got, how := s.ended("x", 1, 0, true); how != known || len(got) != 1 {
		t.Errorf("staged are %v (%v) after a repetition", got, how)
	}
	s.arrived(one)
	s.lost(one)
	if _, how := s.ended("x", 1, 0, false); how != known {
		t.Errorf("standing is %v on an abort", how)
	}
	if len(s.txns)+len(s.unanswered)+len(s.doubtful) != 0 {
		t.Errorf("something is left: %+v", s)
	}
}

// Offsets that kfake refuses, those of a zombie for instance, are not in the intent.
func TestIntentHoldsNoRefusedOffsets(t *testing.T) {
	dir := t.TempDir()
	cfg := testConfig(dir)
	var intents []*brokerdisk.Intent
	cfg.crash = func(point string) {
		if point != "after-intent" {
			return
		}
		f, err := brokerdisk.OpenIntentFile(filepath.Join(dir, intentName), false)
		if err != nil {
			t.Error(err)
			return
		}
		intent, err := f.Pending()
		if err != nil || intent == nil {
			t.Errorf("intent is %v (%v)", intent, err)
		}
		intents = append(intents, intent)
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	}
	s := open(t, cfg)
	createLoadTopics(t, s.Brokers())
	l, err := newLoader(s.Brokers())
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
	pid, epoch, err := l.cl.ProducerID(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	stale := txnOffsetCommit("loader", pid, epoch, 99)
	stale.Group, stale.Generation, stale.MemberID = loadGroup, 7, "zombie"
	stale.Topics[0].Topic, stale.Topics[0].TopicID = inputTopic, l.inputID
	resp, err := stale.RequestWith(t.Context(), l.cl)
	if err != nil || resp.Topics[0].Partitions[0].ErrorCode == 0 {
		t.Fatalf("a zombie's offsets were accepted: %+v (%v)", resp, err)
	}
	if err := l.cl.EndTransaction(t.Context(), kgo.TryCommit); err != nil {
		t.Fatal(err)
	}
	if len(intents) != 2 {
		t.Fatalf("%d intents", len(intents))
	}
	for _, o := range intents[1].Offsets {
		if o.Offset != 2 || o.Group != loadGroup || o.Topic != inputTopic || o.Metadata == nil || *o.Metadata != "2" {
			t.Errorf("intent has %+v", o)
		}
	}
	if len(intents[1].Offsets) != loadPartitions {
		t.Errorf("intent has %d offsets, %d expected", len(intents[1].Offsets), loadPartitions)
	}
}
