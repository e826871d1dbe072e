package postgres

import (
	"fmt"
	"slices"
	"syscall"
	"testing"

	"github.com/regent-infra/regent/adapters/adaptertest"
	"github.com/regent-infra/regent/adapters/postgres/guard"
	"github.com/regent-infra/regent/internal/event"
	"github.com/regent-infra/regent/internal/topics"
	"github.com/regent-infra/regent/schemas"
)

func TestContractMatchesTheCode(t *testing.T) {
	t.Parallel()
	c, err := Contract(topics.Default())
	if err != nil {
		t.Fatal(err)
	}
	for _, command := range c.Commands {
		if _, ok := works[guard.Work(command.Record)]; !ok && command.Record != "CheckNode" {
			t.Errorf("nobody carries %s out", command.Record)
		}
	}
	for work := range works {
		if !slices.Contains(guard.Orders(), string(work)) {
			t.Errorf("%s is carried out but is no order", work)
		}
	}
}

func TestAdapter(t *testing.T) {
	t.Parallel()
	c, err := Contract(topics.Default())
	if err != nil {
		t.Fatal(err)
	}
	adaptertest.Run(t, adaptertest.Subject{
		Start: func(t testing.TB) adaptertest.Running {
			n := startNode(t, newLog(), "pg-1")
			n.bootstrap(1)
			return adaptertest.Running{
				Adapter: n.agent, Stop: n.stop,
				Harm: func() {
					if err := syscall.Kill(n.agent.instance.PID(), syscall.SIGKILL); err != nil {
						t.Fatal(err)
					}
				},
				Durable: func() string {
					d, err := n.agent.file.Read(testCluster, "pg-1")
					if err != nil {
						t.Fatal(err)
					}
					d.Orders, d.LastExit = nil, nil
					return fmt.Sprintf("%+v", d)
				},
			}
		},
		Codec: testCodec(), Observations: topics.Observations(event.KindPostgres), Contract: c, Node: "pg-1",
		Harmless:  func(meta schemas.OrderMeta) any { return &schemas.CheckNode{Meta: meta} },
		Binding:   func(meta schemas.OrderMeta) any { return &schemas.FencePostgres{Meta: meta, FormerPrimary: "pg-1"} },
		Malformed: func(meta schemas.OrderMeta) any { return &schemas.StopPostgres{Meta: meta, Mode: "SUDDENLY"} },
		Result: func(value any, id string) *adaptertest.Result {
			for _, r := range value.(*schemas.PostgresNodeObserved).RecentOrders {
				if r.OrderID == id {
					return &adaptertest.Result{Status: r.Status, Message: r.Message}
				}
			}
			return nil
		},
		Settled: func(value any) any {
			o := *value.(*schemas.PostgresNodeObserved)
			o.WrittenLsn, o.FlushedLsn, o.ReceivedLsn, o.Disk, o.Queries, o.Connections = 0, 0, 0, nil, nil, nil
			return o
		},
		Reachable: func(value any) bool { return value.(*schemas.PostgresNodeObserved).AcceptingConnections },
		Secrets:   []string{canarySuperuser, canaryReplicator},
	})
}
