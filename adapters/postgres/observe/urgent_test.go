package observe_test

import (
	"testing"
	"time"

	"github.com/regent-infra/regent/adapters/postgres/observe"
	"github.com/regent-infra/regent/schemas"
)

func value() *schemas.PostgresNodeObserved {
	at := time.Unix(1, 0).UTC()
	return &schemas.PostgresNodeObserved{
		Postmaster: schemas.PostmasterStatusRunning, PostmasterStartedAt: &at, Role: schemas.NodeRoleStandby, AcceptingConnections: true,
		Timeline: 1, Term: 2, PromisedTerm: 2, Upstream: "pg-1", SynchronousStandbyNames: "",
		Receiver:  &schemas.WalReceiver{Status: "streaming", ApplicationName: "pg-2-t2", LatestEndLsn: 5},
		Senders:   []schemas.WalSender{{ApplicationName: "pg-3-t2", State: "streaming", SentLsn: 5}},
		LastOrder: &schemas.OrderResult{OrderID: "x", Status: schemas.OrderStatusRunning, ProgressDone: 1},
		Breaker:   schemas.BreakerStatus{State: schemas.BreakerStateClosed},
	}
}

func TestUrgentNamesWhatMustBeToldAtOnce(t *testing.T) {
	t.Parallel()
	later := time.Unix(9, 0).UTC()
	for want, changes := range map[string][]func(*schemas.PostgresNodeObserved){
		"postmaster": {
			func(o *schemas.PostgresNodeObserved) { o.Postmaster = schemas.PostmasterStatusCrashed },
			func(o *schemas.PostgresNodeObserved) { o.PostmasterStartedAt = &later },
			func(o *schemas.PostgresNodeObserved) { o.LastExit = &schemas.PostmasterExit{At: later} },
		},
		"role": {
			func(o *schemas.PostgresNodeObserved) { o.Role = schemas.NodeRolePrimary },
			func(o *schemas.PostgresNodeObserved) { o.Term++ },
			func(o *schemas.PostgresNodeObserved) { o.Timeline++ },
		},
		"promise":   {func(o *schemas.PostgresNodeObserved) { o.PromisedTerm++ }, func(o *schemas.PostgresNodeObserved) { o.RenouncedTerm++ }},
		"accepting": {func(o *schemas.PostgresNodeObserved) { o.AcceptingConnections = false }},
		"receiver": {
			func(o *schemas.PostgresNodeObserved) { o.Receiver = nil },
			func(o *schemas.PostgresNodeObserved) {
				o.Receiver = &schemas.WalReceiver{Status: "waiting", ApplicationName: "pg-2-t2"}
			},
			func(o *schemas.PostgresNodeObserved) { o.Upstream = "" },
		},
		"wal_end": {func(o *schemas.PostgresNodeObserved) { o.WalEnd = &schemas.WalEnd{Lsn: 1} }},
		"order": {
			func(o *schemas.PostgresNodeObserved) { o.LastOrder = nil },
			func(o *schemas.PostgresNodeObserved) {
				o.LastOrder = &schemas.OrderResult{OrderID: "x", Status: schemas.OrderStatusDone}
			},
		},
		"synchronous": {func(o *schemas.PostgresNodeObserved) { o.SynchronousStandbyNames = "ANY 1 (x)" }},
		"senders": {
			func(o *schemas.PostgresNodeObserved) { o.Senders = nil },
			func(o *schemas.PostgresNodeObserved) {
				o.Senders = []schemas.WalSender{{ApplicationName: "pg-3-t2", State: "catchup"}}
			},
		},
		"breaker":     {func(o *schemas.PostgresNodeObserved) { o.Breaker.State = schemas.BreakerStateOpen }},
		"replay":      {func(o *schemas.PostgresNodeObserved) { o.ReplayPaused = true }},
		"lost_writes": {func(o *schemas.PostgresNodeObserved) { o.LostWrites = &schemas.LostWrites{} }},
		"": {
			func(*schemas.PostgresNodeObserved) {},
			func(o *schemas.PostgresNodeObserved) { o.ReplayedLsn += 99 },
			func(o *schemas.PostgresNodeObserved) {
				r := *o.Receiver
				r.LatestEndLsn += 99
				o.Receiver = &r
			},
			func(o *schemas.PostgresNodeObserved) {
				o.Senders = []schemas.WalSender{{ApplicationName: "pg-3-t2", State: "streaming", SentLsn: 99}}
			},
			func(o *schemas.PostgresNodeObserved) {
				l := *o.LastOrder
				l.ProgressDone = 99
				o.LastOrder = &l
			},
		},
	} {
		for i, change := range changes {
			after := value()
			change(after)
			if got := observe.Urgent(value(), after); got != want {
				t.Errorf("change %d of %q is told as %q", i, want, got)
			}
		}
	}
	if observe.Urgent(nil, value()) != "first" {
		t.Error("the first value is urgent")
	}
}
