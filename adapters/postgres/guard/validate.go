package guard

import (
	"errors"
	"fmt"
	"math"
	"regexp"
	"slices"
	"strings"

	"github.com/regent-infra/regent/internal/event"
	"github.com/regent-infra/regent/schemas"
)

var slotPattern = regexp.MustCompile(`^[a-z0-9_]{1,63}$`)

// Limits of what an order may carry.
const (
	maxSetting = 4096
	maxSlots   = 64
	maxMembers = 64
	// maxTimeline leaves room above for the ids that PostgreSQL takes by itself.
	maxTimeline = math.MaxUint32 / 2
)

// malformed says what in an order cannot be meant by any orchestrator; nil if nothing. The values end in files and in SQL, so
// this is a second line of defence behind the quoting there.
func malformed(o Order) error {
	var faults []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			faults = append(faults, fmt.Errorf(format, args...))
		}
	}
	check(event.ValidID(o.ID), "id %.80q is no UUID", o.ID)
	check(slices.Contains(Orders(), o.Type), "%.80q is no order for an agent", o.Type)
	check(o.Meta.Term >= 1, "term %d: terms start at 1", o.Meta.Term)
	upstream := func(u schemas.ClusterMember, slot string) {
		check(event.ValidName(u.Node), "upstream.node %.80q is no node name", u.Node)
		check(validHost(u.Host), "upstream.host %.80q is no host name or address", u.Host)
		check(u.Port >= 1 && u.Port <= math.MaxUint16, "upstream.port %d is outside 1..65535", u.Port)
		check(slot == "" || slotPattern.MatchString(slot), "slot %.80q: expected a-z, 0-9 and underscore, at most 63", slot)
	}
	synchronous := func(setting string, slots []schemas.SlotOwner) {
		check(len(setting) <= maxSetting && printable(setting), "synchronous_standby_names: expected printable text of at most %d bytes", maxSetting)
		check(len(slots) <= maxSlots, "%d slots: at most %d", len(slots), maxSlots)
		seen := map[string]bool{}
		for _, s := range slots {
			check(slotPattern.MatchString(s.Slot), "slot %.80q: expected a-z, 0-9 and underscore, at most 63", s.Slot)
			check(!seen[s.Slot], "slot %q is named twice", s.Slot)
			seen[s.Slot] = true
		}
	}
	members := func(list []schemas.ClusterMember) {
		check(len(list) <= maxMembers, "%d members: at most %d", len(list), maxMembers)
		for _, m := range list {
			check(event.ValidName(m.Node) && validHost(m.Host), "member %.80q at %.80q: no node name or no host", m.Node, m.Host)
		}
	}
	switch p := o.Payload.(type) {
	case *schemas.BootstrapPrimary:
		synchronous(p.SynchronousStandbyNames, p.Slots)
		members(p.Members)
	case *schemas.CloneStandby:
		upstream(p.Upstream, p.Slot)
		members(p.Members)
	case *schemas.FollowPrimary:
		upstream(p.Upstream, p.Slot)
		check(p.UpstreamTimeline >= 0 && p.UpstreamTimeline <= math.MaxUint32, "upstream_timeline %d is no timeline id", p.UpstreamTimeline)
	case *schemas.PromotePostgres:
		synchronous(p.SynchronousStandbyNames, p.Slots)
		check(p.MinLsn >= 0, "min_lsn %d is negative", p.MinLsn)
		check(p.Timeline >= 2 && p.Timeline <= maxTimeline, "timeline %d is outside 2..%d", p.Timeline, maxTimeline)
	case *schemas.ReinstatePrimary:
		synchronous(p.SynchronousStandbyNames, p.Slots)
	case *schemas.ConfigureSynchronous:
		synchronous(p.SynchronousStandbyNames, p.Slots)
	case *schemas.StopPostgres:
		check(validMode(p.Mode), "mode %.80q: expected SMART, FAST or IMMEDIATE", p.Mode)
		check(p.TimeoutMs >= 0, "timeout_ms %d is negative", p.TimeoutMs)
	case *schemas.RestartPostgres:
		check(validMode(p.Mode), "mode %.80q: expected SMART, FAST or IMMEDIATE", p.Mode)
		check(p.TimeoutMs >= 0, "timeout_ms %d is negative", p.TimeoutMs)
	}
	return errors.Join(faults...)
}

// weakEvidence says why the acknowledgements that a promotion cites cannot carry it; "" if they may. How many are needed only the
// orchestrator knows; that they are of this term, of distinct nodes and not ahead of min_lsn on this history anyone can see.
func weakEvidence(p *schemas.PromotePostgres) string {
	if len(p.Evidence) == 0 {
		return "it cites no acknowledgement of the revocation"
	}
	seen := map[string]bool{}
	for _, e := range p.Evidence {
		switch {
		case e.Term != p.Meta.Term:
			return fmt.Sprintf("the acknowledgement of %s is of term %d, not %d", e.Node, e.Term, p.Meta.Term)
		case seen[e.Node]:
			return fmt.Sprintf("it cites %s twice", e.Node)
		}
		seen[e.Node] = true
	}
	return ""
}

func validMode(m schemas.StopMode) bool {
	return slices.Contains([]schemas.StopMode{schemas.StopModeSmart, schemas.StopModeFast, schemas.StopModeImmediate}, m)
}

// validHost accepts names and addresses; what could end a quoted value or begin another option it does not.
func validHost(h string) bool {
	return h != "" && len(h) <= 255 && !strings.ContainsAny(h, " \t\r\n\x00'\"\\=,") && printable(h)
}

func printable(text string) bool {
	for _, r := range text {
		if r < ' ' || r == 0x7f || r == '\uFFFD' {
			return false
		}
	}
	return true
}
