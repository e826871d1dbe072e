package stream_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/regent-infra/regent/internal/kafka"
	"github.com/regent-infra/regent/internal/stream"
	"github.com/regent-infra/regent/statestore"
	"github.com/regent-infra/regent/statestore/memstore"
)

func (b *broker) failed(t *testing.T, store statestore.Store, options ...instanceOption) error {
	t.Helper()
	in := b.start(t, "a", store, options...)
	eventually(t, "the instance fails", func() bool { return in.Status().State == stream.StateFailed })
	return in.stop()
}

func TestRefusals(t *testing.T) {
	// A store and a group with some history.
	prepare := func(t *testing.T) (*broker, *memstore.Store) {
		b := startBroker(t, 1)
		store := memstore.New()
		in := b.start(t, "a", store)
		for i := range 20 {
			b.send(t, factRecord(0, fmt.Sprintf("k%d", i%5), uint64(i+1), "x"))
		}
		b.settled(t, 1, in)
		if err := in.stop(); err != nil {
			t.Fatal(err)
		}
		return b, store
	}
	t.Run("older binary", func(t *testing.T) {
		b, store := prepare(t)
		err := b.failed(t, store, func(_ *kafka.SessionConfig, _ *stream.Options, d *stream.Definition) { d.FoldVersion = 0 })
		if err == nil || !strings.Contains(err.Error(), "this program folds version 0") || !strings.Contains(err.Error(), "choices:") {
			t.Fatal(err)
		}
	})
	t.Run("changelog made anew", func(t *testing.T) {
		b, store := prepare(t)
		if _, err := b.adm.DeleteTopics(t.Context(), stateTopic); err != nil {
			t.Fatal(err)
		}
		b.topic(t, stateTopic, 1, true)
		if err := b.failed(t, store); err == nil || !strings.Contains(err.Error(), "belongs to a changelog") {
			t.Fatal(err)
		}
	})
	t.Run("store of another history", func(t *testing.T) {
		b, store := prepare(t)
		var batch statestore.Batch
		raw, _, err := store.Get(statestore.PositionKey("test.tally", 0))
		if err != nil {
			t.Fatal(err)
		}
		p, err := stream.DecodePosition(raw)
		if err != nil {
			t.Fatal(err)
		}
		p.Out++
		batch.Put(statestore.PositionKey("test.tally", 0), p.Encode())
		if err := store.Apply(&batch); err != nil {
			t.Fatal(err)
		}
		if err := b.failed(t, store); err == nil || !strings.Contains(err.Error(), "the store contains the changelog up to offset") {
			t.Fatal(err)
		}
	})
	t.Run("another cluster", func(t *testing.T) {
		_, store := prepare(t)
		other := startBroker(t, 1, kfake.ClusterID("other"))
		err := other.failed(t, store)
		if !errors.Is(err, statestore.ErrCluster) || !strings.Contains(err.Error(), `the brokers belong to cluster "other"`) {
			t.Fatal(err)
		}
	})
	t.Run("damaged position", func(t *testing.T) {
		b, store := prepare(t)
		var batch statestore.Batch
		batch.Put(statestore.PositionKey("test.tally", 0), []byte("gibberish"))
		if err := store.Apply(&batch); err != nil {
			t.Fatal(err)
		}
		if err := b.failed(t, store); err == nil || !strings.Contains(err.Error(), "decode a position record") {
			t.Fatal(err)
		}
	})
	t.Run("foreign metadata", func(t *testing.T) {
		b, store := prepare(t)
		b.setOffset(t, 3, "somebody else's")
		if err := b.failed(t, store); err == nil || !strings.Contains(err.Error(), "decode commit metadata") {
			t.Fatal(err)
		}
	})
}

func (b *broker) setOffset(t *testing.T, offset int64, metadata string) {
	t.Helper()
	req := kmsg.NewPtrOffsetCommitRequest()
	req.Group = "regent.test.tally"
	rt := kmsg.NewOffsetCommitRequestTopic()
	rt.Topic = factsTopic
	topics, err := b.adm.ListTopics(t.Context(), factsTopic)
	if err != nil {
		t.Fatal(err)
	}
	rt.TopicID = topics[factsTopic].ID
	rp := kmsg.NewOffsetCommitRequestTopicPartition()
	rp.Offset, rp.Metadata = offset, &metadata
	rt.Partitions = append(rt.Partitions, rp)
	req.Topics = append(req.Topics, rt)
	resp, err := req.RequestWith(t.Context(), b.cl)
	if err != nil || resp.Topics[0].Partitions[0].ErrorCode != 0 {
		t.Fatalf("set the group's offset: %v, %+v", err, resp)
	}
}

// TestLostGroupPosition lets the group's offsets expire: nothing starts afresh.

func TestLostGroupPosition(t *testing.T) {
	for name, keepStore := range map[string]bool{"store kept": true, "store lost": false} {
		t.Run(name, func(t *testing.T) {
			b := startBroker(t, 1)
			store := memstore.New()
			in := b.start(t, "a", store)
			for i := range 60 {
				b.send(t, factRecord(0, fmt.Sprintf("k%d", i%7), uint64(i+1), "x"))
			}
			b.settled(t, 1, in)
			if err := in.stop(); err != nil {
				t.Fatal(err)
			}
			if _, err := b.adm.DeleteGroups(t.Context(), "regent.test.tally"); err != nil {
				t.Fatal(err)
			}
			if !keepStore {
				store = memstore.New()
			}
			in = b.start(t, "a", store)
			for i := range 10 {
				b.send(t, factRecord(0, fmt.Sprintf("k%d", i%7), uint64(i+61), "y"))
			}
			b.settled(t, 1, in)
			if err := b.audit(t, running(t, in.Runtime)); err != nil {
				t.Fatal(err)
			}
		})
	}
}
