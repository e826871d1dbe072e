package killtest

import (
	"fmt"
	"time"

	"github.com/regent-infra/regent/internal/avrocodec"
	"github.com/regent-infra/regent/internal/event"
	"github.com/regent-infra/regent/internal/record"
	"github.com/regent-infra/regent/schemas"
)

// sentCommand is a command that may be sent once more.
type sentCommand struct{ record record.Record }

// maxSent bounds how far back duplicates reach.
const maxSent = 200

func metaOf(reason string) schemas.CommandMeta {
	return schemas.CommandMeta{RequestedBy: "killtest", Reason: reason}
}

// commandRecord makes a command with a new id.
func (l *load) commandRecord(cluster event.ClusterID, payload any) record.Record {
	id := event.NewID()
	h := schemas.EnvelopeHeader{
		ID: id, Source: "cli/killtest", Cluster: string(cluster), Resource: string(cluster), CorrelationID: id,
		OccurredAt: time.Now().UTC().Truncate(time.Microsecond), Sequence: time.Now().UnixMicro(), BootID: id,
	}
	return l.encode(commandsTopic, string(cluster), h, payload)
}

// order sends a command and remembers it for duplicates.
func (l *load) order(cluster event.ClusterID, payload any) {
	r := l.commandRecord(cluster, payload)
	l.send(r)
	l.sent = append(l.sent, sentCommand{r})
	if len(l.sent) > maxSent {
		l.sent = l.sent[1:]
	}
}

// command sends one of all that operators may send, sensible or not.
func (l *load) command(now time.Time) {
	e := l.estates[l.rnd.IntN(len(l.estates))]
	name := fmt.Sprintf("pg-%d", 1+l.rnd.IntN(nodesPerCluster))
	switch l.rnd.IntN(20) {
	case 0, 1, 2:
		l.order(e.cluster, &schemas.SwitchoverCluster{Meta: metaOf("switch")})
	case 3:
		l.order(e.cluster, &schemas.SwitchoverCluster{Meta: metaOf("switch to one"), Candidate: &name})
	case 4:
		l.order(e.cluster, &schemas.FailoverCluster{Meta: metaOf("fail over")})
	case 5:
		l.order(e.cluster, &schemas.RestartNode{Meta: metaOf("restart"), Node: name, Mode: schemas.StopModeFast})
	case 6:
		l.order(e.cluster, &schemas.ReinitializeNode{Meta: metaOf("copy afresh"), Node: name})
	case 7, 8, 9:
		l.order(e.cluster, &schemas.CheckHealth{Meta: metaOf("look"), TimeoutMs: int32(200 + l.rnd.IntN(2_000))})
	case 10:
		l.order(e.cluster, &schemas.CheckHealth{Meta: metaOf("impossible"), TimeoutMs: -1})
	case 11:
		m := metaOf("too late")
		m.ExpiresAt = new(now.UTC().Truncate(time.Microsecond).Add(-time.Minute))
		l.order(e.cluster, &schemas.CheckHealth{Meta: m, TimeoutMs: 1_000})
	case 12:
		l.order(event.NewClusterID(event.KindPostgres, fmt.Sprintf("nobody-%d", l.rnd.IntN(50))), &schemas.SwitchoverCluster{Meta: metaOf("unknown")})
	case 13:
		l.order(e.cluster, &schemas.RestartNode{Meta: schemas.CommandMeta{}, Node: "pg-99", Mode: schemas.StopModeFast})
	case 14: // one that is only tried is not remembered, so it must not be sent twice
		m := metaOf("try")
		m.DryRun = true
		l.send(l.commandRecord(e.cluster, &schemas.SwitchoverCluster{Meta: m}))
	case 15: // in a partition that is another cluster's
		r := l.commandRecord(e.cluster, &schemas.CheckHealth{Meta: metaOf("stray"), TimeoutMs: 500})
		r.Partition = (r.Partition + 1) % l.partitions
		l.send(r)
	case 16:
		if l.chance(0.2) {
			l.order(e.cluster, &schemas.ShutdownCluster{Meta: metaOf("down"), Mode: schemas.StopModeFast})
			return
		}
		l.order(e.cluster, &schemas.StartCluster{Meta: metaOf("up")})
	default:
		if len(l.sent) > 0 {
			l.send(l.sent[l.rnd.IntN(len(l.sent))].record)
		}
	}
}

// malformedCommand makes a command that cannot be read. Its headers say whom to answer.
func (l *load) malformedCommand(cluster string) record.Record {
	r := l.commandRecord(event.ClusterID(cluster), &schemas.CheckHealth{Meta: metaOf("broken"), TimeoutMs: 1})
	switch l.rnd.IntN(4) {
	case 0:
		r.Value = r.Value[:len(r.Value)-3]
	case 1:
		r.Value = []byte("{}")
	case 2:
		r.Value = nil
	default:
		id := string(r.Header("ce_id"))
		h := schemas.EnvelopeHeader{ID: id, Source: "cli/killtest", Cluster: "not a cluster", Resource: "not a cluster", OccurredAt: time.Now().UTC()}
		e := event.New(h, &schemas.CheckHealth{Meta: metaOf("astray"), TimeoutMs: 1})
		value, err := l.codec.Encode(commandsTopic, e)
		if err != nil {
			l.t.Errorf("encode %s: %v", e.Type, err)
		}
		r.Value, r.Headers = value, avrocodec.Headers(e, "")
	}
	return r
}
