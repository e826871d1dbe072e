package embedded

import (
	"log/slog"
	"sync"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/regent-infra/regent/internal/clock"
	"github.com/regent-infra/regent/internal/embedded/brokerdisk"
)

// gate looks at each request that changes something, and at fetches, before kfake handles it. kfake runs it in its one
// request loop: when it is called, every earlier request has been handled completely.
type gate struct {
	cluster *kfake.Cluster
	stage   *stage
	intents *brokerdisk.IntentFile
	clock   clock.Clock
	log     *slog.Logger
	fail    func(error)
	crash   func(point string)

	mu      sync.Mutex // held while a request is looked at
	closing bool
	// appendTime caches whether a topic's timestamps are the broker's, by name.
	appendTime map[string]bool
	calls      map[kmsg.Key]int
}

// handler looks at one request. A response that is not nil answers it; kfake then does not see it.
type handler func(kmsg.Request) kmsg.Response

// rotateAfter is the number of calls after which a handler is registered anew: kfake keeps the last request of every
// connection that ever called a control function, until the function is dropped.
const rotateAfter = 4096

func (g *gate) install() {
	for key, h := range map[kmsg.Key]handler{
		kmsg.Produce:                 g.onProduce,
		kmsg.Fetch:                   g.onFetch,
		kmsg.OffsetCommit:            g.onMutation,
		kmsg.CreateTopics:            g.onCreateTopics,
		kmsg.DeleteTopics:            g.onTopicChange,
		kmsg.DeleteRecords:           g.onDeleteRecords,
		kmsg.InitProducerID:          g.onInitProducerID,
		kmsg.AddPartitionsToTxn:      g.onMutation,
		kmsg.AddOffsetsToTxn:         g.onMutation,
		kmsg.EndTxn:                  g.onEndTxn,
		kmsg.WriteTxnMarkers:         g.onWriteTxnMarkers,
		kmsg.TxnOffsetCommit:         g.onMutation,
		kmsg.AlterConfigs:            g.onAlterConfigs,
		kmsg.CreatePartitions:        g.onCreatePartitions,
		kmsg.DeleteGroups:            g.onMutation,
		kmsg.IncrementalAlterConfigs: g.onIncrementalAlterConfigs,
		kmsg.OffsetDelete:            g.onMutation,
	} {
		g.register(key, h)
	}
}

func (g *gate) register(key kmsg.Key, h handler) {
	g.cluster.ControlKey(int16(key), func(req kmsg.Request) (kmsg.Response, error, bool) {
		g.mu.Lock()
		defer g.mu.Unlock()
		if g.calls[key]++; g.calls[key] >= rotateAfter {
			g.calls[key] = 0
			g.register(key, h)
			g.cluster.DropControl()
		}
		// kfake has finished whatever an earlier commit owed.
		if err := g.intents.Done(); err != nil {
			g.fail(err)
		}
		resp := h(req)
		if resp == nil {
			return nil, nil, false
		}
		g.cluster.KeepControl()
		return resp, nil, true
	})
}

// onMutation lets a request pass; what counts is that the intent before it has been marked as done.
func (g *gate) onMutation(kmsg.Request) kmsg.Response { return nil }

// onInitProducerID lets go of the offsets that the producer's last transaction staged: kfake aborts it.
func (g *gate) onInitProducerID(kreq kmsg.Request) kmsg.Response {
	req := kreq.(*kmsg.InitProducerIDRequest)
	if req.TransactionalID == nil {
		return nil
	}
	if _, how := g.stage.ended(*req.TransactionalID, -1, -1, false); how != known {
		resp := req.ResponseKind().(*kmsg.InitProducerIDResponse)
		resp.ErrorCode = kerr.ConcurrentTransactions.Code
		return resp
	}
	return nil
}

// onEndTxn writes the commit intent: from here on the transaction is committed, whatever happens to this process.
func (g *gate) onEndTxn(kreq kmsg.Request) kmsg.Response {
	req := kreq.(*kmsg.EndTxnRequest)
	refuse := func(e *kerr.Error) kmsg.Response {
		resp := req.ResponseKind().(*kmsg.EndTxnResponse)
		resp.ErrorCode = e.Code
		return resp
	}
	if g.closing {
		return refuse(kerr.CoordinatorNotAvailable)
	}
	staged, how := g.stage.ended(req.TransactionalID, req.ProducerID, req.ProducerEpoch, req.Commit)
	switch how {
	case known:
	case awaited:
		return refuse(kerr.ConcurrentTransactions) // retriable
	case doubtful:
		return refuse(kerr.InvalidTxnState) // to be aborted
	}
	if !req.Commit {
		return nil
	}
	intent := brokerdisk.Intent{
		ProducerID:      req.ProducerID,
		ProducerEpoch:   req.ProducerEpoch,
		RequestVersion:  req.Version,
		TransactionalID: req.TransactionalID,
		Offsets:         make([]brokerdisk.GroupOffset, 0, len(staged)),
	}
	for k, o := range staged {
		if k.topic == "" {
			info := g.cluster.TopicIDInfo(k.topicID)
			if info == nil {
				continue // the topic is gone, and its offsets with it
			}
			k.topic = info.Topic
		}
		intent.Offsets = append(intent.Offsets, brokerdisk.GroupOffset{
			Group: k.group, Topic: k.topic, Partition: k.partition,
			Offset: o.offset, LeaderEpoch: o.leaderEpoch, Metadata: o.metadata,
		})
	}
	g.crash("before-intent")
	if err := g.intents.Write(intent); err != nil {
		g.fail(err)
		return refuse(kerr.KafkaStorageError)
	}
	g.crash("after-intent")
	return nil
}

// onWriteTxnMarkers refuses what only brokers send to each other: it would end half a transaction.
func (g *gate) onWriteTxnMarkers(kreq kmsg.Request) kmsg.Response {
	req := kreq.(*kmsg.WriteTxnMarkersRequest)
	resp := req.ResponseKind().(*kmsg.WriteTxnMarkersResponse)
	for _, m := range req.Markers {
		rm := kmsg.NewWriteTxnMarkersResponseMarker()
		rm.ProducerID = m.ProducerID
		for _, t := range m.Topics {
			rt := kmsg.NewWriteTxnMarkersResponseMarkerTopic()
			rt.Topic = t.Topic
			for _, p := range t.Partitions {
				rp := kmsg.NewWriteTxnMarkersResponseMarkerTopicPartition()
				rp.Partition = p
				rp.ErrorCode = kerr.ClusterAuthorizationFailed.Code
				rt.Partitions = append(rt.Partitions, rp)
			}
			rm.Topics = append(rm.Topics, rt)
		}
		resp.Markers = append(resp.Markers, rm)
	}
	return resp
}

// onProduce replaces the producers' time by the broker's where the topic says so.
func (g *gate) onProduce(kreq kmsg.Request) kmsg.Response {
	req := kreq.(*kmsg.ProduceRequest)
	for i := range req.Topics {
		rt := &req.Topics[i]
		topic := rt.Topic
		if req.Version >= 13 {
			info := g.cluster.TopicIDInfo(rt.TopicID)
			if info == nil {
				continue // kfake refuses it
			}
			topic = info.Topic
		}
		stamp := g.isAppendTime(topic)
		for j := range rt.Partitions {
			brokerdisk.StampBatch(rt.Partitions[j].Records, stamp, g.clock.Now().UnixMilli())
		}
	}
	return nil
}

func (g *gate) isAppendTime(topic string) bool {
	is, known := g.appendTime[topic]
	if known {
		return is
	}
	info := g.cluster.TopicInfo(topic)
	if info == nil {
		return false
	}
	v := info.Configs["message.timestamp.type"]
	is = v != nil && *v == "LogAppendTime"
	g.appendTime[topic] = is
	return is
}

// onTopicChange forgets what is cached about topics.
func (g *gate) onTopicChange(kmsg.Request) kmsg.Response {
	clear(g.appendTime)
	return nil
}

// onDeleteRecords leaves the last record in place: kfake finds the next offset of a partition from its last batch when
// it starts again, so an empty partition would begin anew at 0, below offsets that groups have committed.
func (g *gate) onDeleteRecords(kreq kmsg.Request) kmsg.Response {
	req := kreq.(*kmsg.DeleteRecordsRequest)
	for i := range req.Topics {
		rt := &req.Topics[i]
		for j := range rt.Partitions {
			rp := &rt.Partitions[j]
			if info := g.cluster.PartitionInfo(rt.Topic, rp.Partition); info != nil && (rp.Offset == -1 || rp.Offset == info.HighWatermark) {
				rp.Offset = max(info.LogStartOffset, info.HighWatermark-1)
			}
		}
	}
	return nil
}

// shut refuses further commits and returns when kfake has handled every request that was let through before.
func (g *gate) shut() error {
	g.mu.Lock()
	g.closing = true
	g.mu.Unlock()
	_ = g.cluster.ListenAddrs() // a round trip through the request loop
	return g.intents.Done()
}
