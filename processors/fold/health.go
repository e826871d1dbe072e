package fold

import (
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/regent-infra/regent/internal/event"
	"github.com/regent-infra/regent/schemas"
)

// Codes of health causes of nodes, as listed at HealthCause in schemas/.
const (
	causeSilent               = "silent"
	causeSilentButStreaming   = "silent_but_streaming"
	causeUnknownStatus        = "unknown_status"
	causeNoDataDirectory      = "no_data_directory"
	causePostmasterCrashed    = "postmaster_crashed"
	causePostmasterStopped    = "postmaster_stopped"
	causePostmasterStarting   = "postmaster_starting"
	causePostmasterStopping   = "postmaster_stopping"
	causeNotAccepting         = "not_accepting_connections"
	causeBreakerOpen          = "breaker_open"
	causeBreakerHalfOpen      = "breaker_half_open"
	causeDiskFull             = "disk_full"
	causeDiskLow              = "disk_low"
	causeConnectionsExhausted = "connections_exhausted"
	causeConnectionsSaturated = "connections_saturated"
	causeNotStreaming         = "not_streaming"
	causeDiverged             = "diverged"
	causeReplicationLag       = "replication_lag"
	causeReplayPaused         = "replay_paused"
	causeSlotLost             = "slot_lost"
	causeSlotUnreserved       = "slot_unreserved"
	causeSlotRetainsWal       = "slot_retains_wal"
	causeChecksumFailures     = "checksum_failures"
)

// severity says what a cause makes of its node.
func severity(code string) schemas.Health {
	switch code {
	case causeSilent, causeNoDataDirectory, causePostmasterCrashed, causePostmasterStopped, causeNotAccepting:
		return schemas.HealthDown
	case causeUnknownStatus:
		return schemas.HealthUnknown
	default:
		return schemas.HealthDegraded
	}
}

// healthOrder lists healths from best to worst: not knowing is worse than health, and better than known trouble.
var healthOrder = []schemas.Health{schemas.HealthHealthy, schemas.HealthUnknown, schemas.HealthDegraded, schemas.HealthDown}

// rank returns the place of a health in healthOrder; an unknown symbol counts as UNKNOWN.
func rank(h schemas.Health) int {
	if i := slices.Index(healthOrder, h); i >= 0 {
		return i
	}
	return rank(schemas.HealthUnknown)
}

func worse(a, b schemas.Health) schemas.Health {
	if rank(b) > rank(a) {
		return b
	}
	return a
}

// nodeHealth returns the health that follows from the causes, and sorts them worst first.
func nodeHealth(causes []schemas.HealthCause) schemas.Health {
	slices.SortStableFunc(causes, func(a, b schemas.HealthCause) int { return rank(severity(b.Code)) - rank(severity(a.Code)) })
	if len(causes) == 0 {
		return schemas.HealthHealthy
	}
	return severity(causes[0].Code)
}

// ownCauses returns what speaks against the node in its own observation.
func ownCauses(resource string, o *schemas.PostgresNodeObserved, f *facts) []schemas.HealthCause {
	var causes []schemas.HealthCause
	add := func(code, format string, args ...any) {
		causes = append(causes, schemas.HealthCause{Code: code, Message: fmt.Sprintf(format, args...), Resource: resource})
	}
	serverCauses(o, f, add)
	switch f.breaker {
	case schemas.BreakerStateOpen:
		add(causeBreakerOpen, "the agent has given up asking its server for now: %s", orElse(o.Breaker.LastError, "the cause is not known"))
	case schemas.BreakerStateHalfOpen:
		add(causeBreakerHalfOpen, "the agent tries its server again after failures: %s", orElse(o.Breaker.LastError, "the cause is not known"))
	case schemas.BreakerStateClosed:
	}
	resourceCauses(o, f, add)
	standbyCauses(o, f, add)
	for _, s := range o.Slots {
		switch {
		case s.WalStatus == "lost":
			add(causeSlotLost, "slot %s has lost WAL that its consumer needs: it has to be copied afresh", s.Name)
		case s.WalStatus == "unreserved":
			add(causeSlotUnreserved, "WAL that slot %s needs may go at the next checkpoint", s.Name)
		case !s.Active && s.RetainedBytes >= slotRetentionLimit:
			add(causeSlotRetainsWal, "slot %s is not in use and keeps back %s or more of WAL; limit %s", s.Name, atLeastBytes(s.RetainedBytes), atLeastBytes(slotRetentionLimit))
		}
	}
	if o.Queries != nil && o.Queries.ChecksumFailures > 0 {
		add(causeChecksumFailures, "data pages failed their checksum: see the server's log")
	}
	return causes
}

// serverCauses judges whether the server runs and answers.
func serverCauses(o *schemas.PostgresNodeObserved, f *facts, add func(code, format string, args ...any)) {
	switch o.Postmaster {
	case schemas.PostmasterStatusRunning:
		if !f.accepting {
			add(causeNotAccepting, "postgres runs but accepts no connection")
		}
	case schemas.PostmasterStatusAbsent:
		add(causeNoDataDirectory, "there is no data directory")
	case schemas.PostmasterStatusCrashed:
		add(causePostmasterCrashed, "postgres has crashed: %s", orElse(f.exit, "how is not known"))
	case schemas.PostmasterStatusStopped:
		switch {
		case f.stoppedAsAsked:
			add(causePostmasterStopped, "postgres was stopped as asked")
		case f.hasRenounced():
			add(causePostmasterStopped, "postgres is stopped, and has renounced the primary role of term %d", f.renounced)
		default:
			add(causePostmasterStopped, "postgres is stopped, and nobody asked for it")
		}
	case schemas.PostmasterStatusStarting:
		add(causePostmasterStarting, "postgres is starting")
	case schemas.PostmasterStatusStopping:
		add(causePostmasterStopping, "postgres is stopping")
	default:
		add(causeUnknownStatus, "the agent reports a postmaster status that this version does not know: %q", clip(string(o.Postmaster)))
	}
}

// resourceCauses judges disk and connections.
func resourceCauses(o *schemas.PostgresNodeObserved, f *facts, add func(code, format string, args ...any)) {
	for _, v := range fileSystems(o.Disk) {
		percent := int(v.freeFraction * 100)
		switch {
		case v.freeFraction < diskFullFraction:
			add(causeDiskFull, "%d %% of the %s file system is free; limit %.0f %%", percent, v.name, diskFullFraction*100)
		case v.freeFraction < diskLowFraction:
			add(causeDiskLow, "%d %% of the %s file system is free; limit %.0f %%", percent, v.name, diskLowFraction*100)
		}
	}
	switch {
	case f.exhausted:
		add(causeConnectionsExhausted, "no connection is left for clients")
	case f.saturation >= saturationLimit:
		add(causeConnectionsSaturated, "at least %.0f %% of the connections are in use", saturationLimit*100)
	}
}

// standbyCauses judges replication as the standby itself sees it.
func standbyCauses(o *schemas.PostgresNodeObserved, f *facts, add func(code, format string, args ...any)) {
	if f.role != schemas.NodeRoleStandby || o.Postmaster != schemas.PostmasterStatusRunning {
		return
	}
	switch {
	case f.upstream == "":
		add(causeNotStreaming, "it follows nobody: its upstream was revoked")
	case !f.streaming:
		add(causeNotStreaming, "its WAL receiver does not stream from %s, or has heard nothing for %d s", f.upstream, receiverFreshness/time.Second)
	}
	if o.ReplayPaused {
		add(causeReplayPaused, "replay is paused")
	}
}

// derivedCauses adds to a node's own causes those that need the rest of the cluster.
func derivedCauses(id event.ClusterID, n *PostgresNode, vouchedBy string, isDiverged bool, lagBytes, lagMs *int64) []schemas.HealthCause {
	causes := append([]schemas.HealthCause{}, n.facts.causes...)
	add := func(code, format string, args ...any) {
		causes = append(causes, schemas.HealthCause{Code: code, Message: fmt.Sprintf(format, args...), Resource: string(id.Node(n.Name))})
	}
	if n.Pulse.Liveness == schemas.LivenessSuspect {
		limit := timingOf(n.Pulse).suspectAfter / time.Millisecond
		if vouchedBy != "" {
			add(causeSilentButStreaming, "no heartbeat for more than %d ms, but %s still streams from it", limit, vouchedBy)
		} else {
			add(causeSilent, "no heartbeat for more than %d ms", limit)
		}
	}
	if isDiverged {
		add(causeDiverged, "it holds WAL that the primary's history does not contain: it has to be rewound or copied afresh")
	}
	switch {
	case lagMs != nil && *lagMs >= lagMsLimit:
		add(causeReplicationLag, "replay is %s or more behind; limit %s", atLeastMs(*lagMs), atLeastMs(lagMsLimit))
	case lagBytes != nil && *lagBytes >= lagBytesLimit:
		add(causeReplicationLag, "replay is %s or more behind; limit %s", atLeastBytes(*lagBytes), atLeastBytes(lagBytesLimit))
	}
	return causes
}

// atLeastBytes tells the power of two that a size has reached, so that the text changes rarely.
func atLeastBytes(n int64) string {
	units := []string{"B", "KiB", "MiB", "GiB", "TiB", "PiB"}
	exponent := int(math.Log2(float64(max(n, 1))))
	unit := min(exponent/10, len(units)-1)
	return fmt.Sprintf("%d %s", int64(1)<<(exponent-10*unit), units[unit])
}

// atLeastMs tells the coarse step that a duration has reached, so that the text changes rarely.
func atLeastMs(ms int64) string {
	steps := []struct {
		ms   int64
		text string
	}{{86_400_000, "a day"}, {21_600_000, "6 h"}, {3_600_000, "1 h"}, {600_000, "10 min"}, {60_000, "1 min"}, {10_000, "10 s"}}
	for _, s := range steps {
		if ms >= s.ms {
			return s.text
		}
	}
	return "0 s"
}

func orElse(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

// clip bounds text that comes from outside.
func clip(s string) string {
	if len(s) > 64 {
		return s[:64]
	}
	return s
}
