package decide

import (
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/regent-infra/regent/schemas"
)

func TestAnEndOfWALBeforeTheForkBelongsToTheParent(t *testing.T) {
	t.Parallel()
	history := []schemas.TimelineSwitch{{Timeline: 1, SwitchLsn: 100}, {Timeline: 2, SwitchLsn: 200}}
	for _, c := range []struct {
		name string
		end  schemas.WalEnd
		want position
	}{
		{"nothing received since the standby attached to timeline 3", schemas.WalEnd{Timeline: 3, Lsn: 95}, position{1, 95}},
		{"exactly at the fork", schemas.WalEnd{Timeline: 3, Lsn: 100}, position{1, 100}},
		{"on the middle one", schemas.WalEnd{Timeline: 3, Lsn: 150}, position{2, 150}},
		{"beyond", schemas.WalEnd{Timeline: 3, Lsn: 201}, position{3, 201}},
		{"an entry of its own timeline does not count", schemas.WalEnd{Timeline: 2, Lsn: 150}, position{2, 150}},
	} {
		if got := effective(c.end, history); got != c.want {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}

// TestWhatIsAnAcknowledgement changes one thing at a time about one that counts.
func TestWhatIsAnAcknowledgement(t *testing.T) {
	t.Parallel()
	sound := func() *schemas.PostgresNodeState {
		return &schemas.PostgresNodeState{Node: "pg-2", Observed: schemas.PostgresNodeObserved{
			Postmaster: schemas.PostmasterStatusRunning, Role: schemas.NodeRoleStandby, PromisedTerm: 5, SystemIdentifier: "7",
			WalEnd: &schemas.WalEnd{Timeline: 2, Lsn: 100},
		}}
	}
	for name, spoil := range map[string]func(*schemas.PostgresNodeObserved){
		"":                                func(*schemas.PostgresNodeObserved) {},
		"a lower promise":                 func(o *schemas.PostgresNodeObserved) { o.PromisedTerm = 4 },
		"a higher promise":                func(o *schemas.PostgresNodeObserved) { o.PromisedTerm = 6 },
		"no end of WAL":                   func(o *schemas.PostgresNodeObserved) { o.WalEnd = nil },
		"a receiver":                      func(o *schemas.PostgresNodeObserved) { o.Receiver = &schemas.WalReceiver{} },
		"an upstream":                     func(o *schemas.PostgresNodeObserved) { o.Upstream = "pg-1" },
		"a running primary":               func(o *schemas.PostgresNodeObserved) { o.Role = schemas.NodeRolePrimary },
		"no timeline":                     func(o *schemas.PostgresNodeObserved) { o.WalEnd.Timeline = 0 },
		"a timeline that nobody assigned": func(o *schemas.PostgresNodeObserved) { o.WalEnd.Timeline = 3 },
		"another database system":         func(o *schemas.PostgresNodeObserved) { o.SystemIdentifier = "8" },
	} {
		n := sound()
		spoil(&n.Observed)
		r := newRun(&View{
			Now: epoch, Nodes: []*schemas.PostgresNodeState{n},
			Record: &schemas.ClusterRecord{Members: members("pg-1", "pg-2"), Primary: "pg-1", Timeline: 2, SystemIdentifier: "7"},
		})
		r.wf = &schemas.Workflow{Term: 5}
		if _, ok := r.acknowledgement("pg-2"); ok != (name == "") {
			t.Errorf("with %q it counts: %v", name, ok)
		}
	}
}

func TestWhoHasDiverged(t *testing.T) {
	t.Parallel()
	ack := func(node string, timeline, lsn int64) schemas.PromotionEvidence {
		return schemas.PromotionEvidence{Node: node, WalEnd: schemas.WalEnd{Timeline: timeline, Lsn: lsn}}
	}
	r := newRun(&View{
		Record: &schemas.ClusterRecord{},
		Nodes:  []*schemas.PostgresNodeState{{Node: "pg-2", Observed: schemas.PostgresNodeObserved{TimelineHistory: []schemas.TimelineSwitch{{Timeline: 2, SwitchLsn: 200}}}}},
	})
	candidate := ack("pg-2", 3, 300)
	for _, c := range []struct {
		name     string
		ack      schemas.PromotionEvidence
		diverged bool
	}{
		{"behind on the same timeline", ack("pg-3", 3, 250), false},
		{"ahead on the same timeline", ack("pg-3", 3, 301), true},
		{"an ancestor before the fork", ack("pg-3", 2, 200), false},
		{"an ancestor beyond the fork", ack("pg-3", 2, 201), true},
		{"no ancestor", ack("pg-3", 1, 10), true},
		{"a later timeline", ack("pg-3", 4, 10), true},
	} {
		if got := r.diverged(c.ack, candidate); got != c.diverged {
			t.Errorf("%s: diverged is %v", c.name, got)
		}
	}
}

// TestEveryFenceMeetsEveryQuorum is why f = n − k + 1: whichever nodes acknowledged a commit, one of them is in the fence.
func TestEveryFenceMeetsEveryQuorum(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(0, 6).Draw(t, "n")
		k := rapid.IntRange(0, n).Draw(t, "k")
		var set []string
		for i := range n {
			set = append(set, string(rune('a'+i)))
		}
		c := config{primary: "p", set: set, k: k}
		pick := func(what string) []string {
			var chosen []string
			for _, name := range set {
				if rapid.Bool().Draw(t, what) {
					chosen = append(chosen, name)
				}
			}
			return chosen
		}
		quorum, fence := pick("quorum"), pick("fence")
		if len(quorum) < k || !c.met(fence) {
			return
		}
		if k == 0 {
			t.Fatalf("of ANY 0 (%v) the fence %v is enough without the primary", set, fence)
		}
		for _, a := range quorum {
			for _, b := range fence {
				if a == b {
					return
				}
			}
		}
		t.Fatalf("ANY %d (%v): the quorum %v and the fence %v have nobody in common", k, set, quorum, fence)
	})
}

func TestNames(t *testing.T) {
	t.Parallel()
	if got := SynchronousStandbyNames(1, []string{"pg-2", "pg-3"}, 5); got != `ANY 1 ("pg-2-t5", "pg-3-t5")` {
		t.Error(got)
	}
	if got := SynchronousStandbyNames(0, []string{"pg-2"}, 5) + SynchronousStandbyNames(1, nil, 5); got != "" {
		t.Error(got)
	}
	if SlotName("pg-2") != "regent_pg_2" || LSN(0x1_0000_00ff) != "1/FF" {
		t.Error(SlotName("pg-2"), LSN(0x1_0000_00ff))
	}
}

// TestCommitsWaitOnlyForWhoCanFollowAtOnce: one that has to be rewound, turned from a primary into a standby, or is silent, is told to follow
// where it can, but no commit waits for it.
func TestCommitsWaitOnlyForWhoCanFollowAtOnce(t *testing.T) {
	t.Parallel()
	node := func(name string, o schemas.PostgresNodeObserved, l schemas.Liveness) *schemas.PostgresNodeState {
		o.Postmaster = schemas.PostmasterStatusRunning
		return &schemas.PostgresNodeState{Node: name, Observed: o, Liveness: l}
	}
	standby := schemas.PostgresNodeObserved{Role: schemas.NodeRoleStandby}
	ancestry := standby
	ancestry.TimelineHistory = []schemas.TimelineSwitch{{Timeline: 1, SwitchLsn: 100}}
	r := newRun(&View{
		Record: &schemas.ClusterRecord{Members: members("pg-1", "pg-2", "pg-3", "pg-4", "pg-5", "pg-6"), Primary: "pg-1"},
		Nodes: []*schemas.PostgresNodeState{
			node("pg-1", schemas.PostgresNodeObserved{Role: schemas.NodeRoleUnknown, Term: 4, RenouncedTerm: 4}, schemas.LivenessAlive),
			node("pg-2", ancestry, schemas.LivenessAlive), node("pg-3", standby, schemas.LivenessAlive), node("pg-4", standby, schemas.LivenessAlive),
			node("pg-5", standby, schemas.LivenessSuspect),
			node("pg-6", schemas.PostgresNodeObserved{Role: schemas.NodeRoleUnknown, Term: 3, RenouncedTerm: 3}, schemas.LivenessAlive),
		},
	})
	ack := func(name string, timeline, lsn int64) schemas.PromotionEvidence {
		return schemas.PromotionEvidence{Node: name, WalEnd: schemas.WalEnd{Timeline: timeline, Lsn: lsn}}
	}
	r.wf = &schemas.Workflow{Kind: schemas.WorkflowKindFailover, Acknowledgements: []schemas.PromotionEvidence{
		ack("pg-1", 2, 150), ack("pg-2", 2, 150), ack("pg-3", 1, 105), ack("pg-4", 1, 100), ack("pg-5", 2, 150), ack("pg-6", 1, 90),
	}}
	followers, set := r.successors("pg-2", r.wf.Acknowledgements[1], "pg-1", 4)
	if got := strings.Join(followers, " "); got != "pg-3 pg-4 pg-5 pg-6" {
		t.Errorf("told to follow: %s", got)
	}
	if got := strings.Join(set, " "); got != "pg-4" {
		t.Errorf("commits wait for: %s", got)
	}
}
