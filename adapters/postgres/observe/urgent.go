package observe

import (
	"time"

	"github.com/regent-infra/regent/schemas"
)

// Urgent says whether the later of two full values differs from the earlier in what must be told at once. It names the first such
// difference; "" means that the next regular report will do. A nil earlier value is always urgent.
func Urgent(before, after *schemas.PostgresNodeObserved) string {
	switch {
	case before == nil:
		return "first"
	case before.Postmaster != after.Postmaster, !sameTime(before.PostmasterStartedAt, after.PostmasterStartedAt), !sameExit(before.LastExit, after.LastExit):
		return "postmaster"
	case before.Role != after.Role, before.Term != after.Term, before.Timeline != after.Timeline:
		return "role"
	case before.PromisedTerm != after.PromisedTerm, before.RenouncedTerm != after.RenouncedTerm:
		return "promise"
	case before.AcceptingConnections != after.AcceptingConnections:
		return "accepting"
	case !sameReceiver(before.Receiver, after.Receiver), before.Upstream != after.Upstream:
		return "receiver"
	case !sameEnd(before.WalEnd, after.WalEnd):
		return "wal_end"
	case !sameOrder(before.LastOrder, after.LastOrder):
		return "order"
	case before.SynchronousStandbyNames != after.SynchronousStandbyNames:
		return "synchronous"
	case !sameSenders(before.Senders, after.Senders):
		return "senders"
	case before.Breaker.State != after.Breaker.State:
		return "breaker"
	case before.ReplayPaused != after.ReplayPaused:
		return "replay"
	case (before.LostWrites == nil) != (after.LostWrites == nil):
		return "lost_writes"
	default:
		return ""
	}
}

func sameTime(a, b *time.Time) bool {
	return (a == nil) == (b == nil) && (a == nil || a.Equal(*b))
}

func sameExit(a, b *schemas.PostmasterExit) bool {
	return (a == nil) == (b == nil) && (a == nil || a.At.Equal(b.At) && a.Expected == b.Expected)
}

func sameEnd(a, b *schemas.WalEnd) bool {
	return (a == nil) == (b == nil) && (a == nil || *a == *b)
}

// sameReceiver compares who streams from whom, not how far.
func sameReceiver(a, b *schemas.WalReceiver) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a.Status == b.Status && a.SenderHost == b.SenderHost && a.SenderPort == b.SenderPort && a.Timeline == b.Timeline &&
		a.SlotName == b.SlotName && a.ApplicationName == b.ApplicationName
}

// sameOrder compares status, not progress.
func sameOrder(a, b *schemas.OrderResult) bool {
	return (a == nil) == (b == nil) && (a == nil || a.OrderID == b.OrderID && a.Status == b.Status)
}

// sameSenders compares who streams and in which state, not how far.
func sameSenders(a, b []schemas.WalSender) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i].ApplicationName != b[i].ApplicationName || a[i].State != b[i].State || a[i].SyncState != b[i].SyncState || a[i].ClientAddress != b[i].ClientAddress {
			return false
		}
	}
	return true
}
