package postgres

import (
	"strings"

	"github.com/regent-infra/regent/adapters/postgres/server"
	"github.com/regent-infra/regent/schemas"
)

// maxRecentOrders is how many order results a value carries.
const maxRecentOrders = 8

// compose makes the full current value out of the state and of what was seen last.
func (a *Agent) compose() *schemas.PostgresNodeObserved {
	s, seen := &a.state, a.looks.current()
	o := &schemas.PostgresNodeObserved{
		Node: a.config.Node, Host: a.config.Host, Port: int32(a.config.Port), AgentVersion: a.config.AgentVersion,
		SystemIdentifier: s.SystemIdentifier, Postmaster: s.Postmaster, LastExit: s.LastExit, Role: schemas.NodeRoleUnknown,
		Senders: []schemas.WalSender{}, Slots: []schemas.ReplicationSlot{}, TimelineHistory: []schemas.TimelineSwitch{},
		Upstream: s.Upstream.Node, Breaker: a.observer.Breaker(), Disk: a.disk(seen),
		PromisedTerm: s.PromisedTerm, Term: s.Term, RenouncedTerm: s.RenouncedTerm,
		LastOrder: s.LastOrder(), RecentOrders: s.RecentOrders(maxRecentOrders), LostWrites: s.LostWrites, WalEnd: s.WalEnd,
	}
	if s.Postmaster == schemas.PostmasterStatusRunning && seen.pulse != nil {
		seen.pulse.Fill(o)
		o.AcceptingConnections = !seen.failed
		if seen.usage != nil {
			o.Slots, o.PendingRestart = seen.usage.Slots, seen.usage.PendingRestart
			connections := seen.usage.Connections
			o.Connections = &connections
		}
		if seen.volume != nil {
			queries := seen.volume.Queries
			o.Queries = &queries
		}
	}
	if end := s.WalEnd; end != nil {
		// The log on disk is the truth: its timeline, and the history of that.
		o.Timeline, o.ReceivedLsn = end.Timeline, max(o.ReceivedLsn, end.Lsn)
		o.FlushedLsn = max(o.FlushedLsn, end.Lsn)
	}
	o.TimelineHistory = a.looks.history(o.Timeline)
	return o
}

// disk completes the file systems' figures with what only the server knows.
func (a *Agent) disk(seen view) *schemas.DiskUsage {
	if seen.disk == nil {
		return nil
	}
	d := *seen.disk
	if seen.volume != nil {
		d.DatabaseSizeBytes = seen.volume.DatabaseBytes
	}
	return &d
}

// exitOf turns the end of a postmaster into a fact.
func exitOf(e server.Exit, expected bool) schemas.PostmasterExit {
	exit := schemas.PostmasterExit{At: e.At.UTC(), Expected: expected}
	if e.Signal != 0 {
		name := signalName(e)
		exit.Signal = &name
		return exit
	}
	code := int32(e.Code) //nolint:gosec // an exit status has eight bits
	exit.ExitCode = &code
	return exit
}

// oneLine makes an error's text fit for a value: joined errors are separated by line breaks, and no secret may be in it.
func (a *Agent) oneLine(err error) string {
	return strings.ReplaceAll(a.masker.Clean(err.Error()), "\n", "; ")
}
