package kafka

import (
	"slices"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"pgregory.net/rapid"
)

func owners(members []claimant, tasks int32) []int { return share(members, tasks, 1, 100).owner }

// TestShareIsFairStickyAndStable holds what share promises for any claims.
func TestShareIsFairStickyAndStable(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		tasks := rapid.Int32Range(0, 12).Draw(t, "tasks")
		var members []claimant
		for i := range rapid.IntRange(1, 5).Draw(t, "members") {
			m := claimant{id: string(rune('a' + i)), generation: rapid.Int32Range(0, 3).Draw(t, "generation"), owns: map[int32]bool{}}
			for _, p := range rapid.SliceOfN(rapid.Int32Range(0, 14), 0, 6).Draw(t, "owns") {
				m.owns[p] = true
			}
			members = append(members, m)
		}
		owner := owners(members, tasks)
		if len(owner) != int(tasks) {
			t.Fatalf("%d owners of %d tasks", len(owner), tasks)
		}
		count := make([]int, len(members))
		for _, i := range owner {
			count[i]++
		}
		if slices.Max(count)-slices.Min(count) > 1 {
			t.Fatalf("unfair: %v", count)
		}
		// Given out, it stays as it is; and in whatever order the members come.
		again := make([]claimant, len(members))
		for i, m := range members {
			again[len(members)-1-i] = claimant{id: m.id, generation: 4, owns: map[int32]bool{}}
		}
		for task, i := range owner {
			again[len(members)-1-i].owns[int32(task)] = true
		}
		for task, i := range owners(again, tasks) {
			if again[i].id != members[owner[task]].id {
				t.Fatalf("task %d moved from %s to %s although nothing has changed", task, members[owner[task]].id, again[i].id)
			}
		}
	})
}

func TestShareKeepsWhatItCan(t *testing.T) {
	a := claimant{id: "a", owns: map[int32]bool{0: true, 1: true, 2: true, 3: true}}
	b := claimant{id: "b", owns: map[int32]bool{}}
	if got := owners([]claimant{a, b}, 4); !slices.Equal(got, []int{0, 0, 1, 1}) {
		t.Fatalf("a newcomer gets %v, expected that two tasks move", got)
	}
	stale := claimant{id: "a", generation: 1, owns: map[int32]bool{0: true}}
	fresh := claimant{id: "b", generation: 2, owns: map[int32]bool{0: true}}
	if got := owners([]claimant{stale, fresh}, 2); got[0] != 1 {
		t.Fatalf("task 0 goes to %d, expected to the claim of the later generation", got[0])
	}
	if got := owners(nil, 3); got != nil {
		t.Fatalf("nobody gets %v", got)
	}
}

func member(t testing.TB, c copartition, id string, owns map[string][]int32) kmsg.JoinGroupResponseMember {
	t.Helper()
	m := kmsg.NewJoinGroupResponseMember()
	m.MemberID = id
	m.ProtocolMetadata = c.JoinGroupMetadata([]string{"x", "y"}, owns, 1)
	return m
}

// plan runs the balancer as the library does and returns what each member gets.
func plan(t testing.TB, c copartition, members []kmsg.JoinGroupResponseMember, topics map[string]int32) map[string]map[string][]int32 {
	t.Helper()
	b, _, err := c.MemberBalancer(members)
	if err != nil {
		t.Fatal(err)
	}
	orErr, ok := b.(kgo.GroupMemberBalancerOrError)
	if !ok {
		t.Fatal("the balancer cannot fail")
	}
	into, err := orErr.BalanceOrError(topics)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]map[string][]int32{}
	for _, a := range into.IntoSyncAssignment() {
		parsed, err := c.ParseSyncAssignment(a.MemberAssignment)
		if err != nil {
			t.Fatal(err)
		}
		for _, list := range parsed {
			slices.Sort(list)
		}
		out[a.MemberID] = parsed
	}
	return out
}

func TestPartitionsOfATaskStayTogether(t *testing.T) {
	c := copartition{}
	if !c.IsCooperative() || c.ProtocolName() == (copartition{single: true}).ProtocolName() {
		t.Fatal("the two modes must not mix in one group, and both move tasks in two steps")
	}
	topics := map[string]int32{"x": 5, "y": 5}
	got := plan(t, c, []kmsg.JoinGroupResponseMember{member(t, c, "a", nil), member(t, c, "b", nil)}, topics)
	for id, parts := range got {
		if !slices.Equal(parts["x"], parts["y"]) || len(parts["x"]) < 2 {
			t.Errorf("member %s gets %v", id, parts)
		}
	}
	// A newcomer gets nothing as long as the owner has not let go: that is the first of the two steps.
	all := []int32{0, 1, 2, 3, 4}
	got = plan(t, c, []kmsg.JoinGroupResponseMember{member(t, c, "a", map[string][]int32{"x": all, "y": all}), member(t, c, "b", nil)}, topics)
	if len(got["b"]["x"]) != 0 || len(got["a"]["x"]) != 3 || !slices.Equal(got["a"]["x"], got["a"]["y"]) {
		t.Errorf("first step: %v", got)
	}
	kept := map[string][]int32{"x": got["a"]["x"], "y": got["a"]["y"]}
	got = plan(t, c, []kmsg.JoinGroupResponseMember{member(t, c, "a", kept), member(t, c, "b", nil)}, topics)
	if len(got["b"]["x"]) != 2 || !slices.Equal(got["b"]["x"], got["b"]["y"]) || !slices.Equal(got["a"]["x"], kept["x"]) {
		t.Errorf("second step: %v", got)
	}
}

func TestSingleGivesAllToOne(t *testing.T) {
	c := copartition{single: true}
	owns := map[string][]int32{"x": {0, 1, 2}, "y": {0}}
	got := plan(t, c, []kmsg.JoinGroupResponseMember{member(t, c, "a", nil), member(t, c, "b", owns)}, map[string]int32{"x": 3, "y": 1})
	if len(got["a"]) != 0 || len(got["b"]["x"]) != 3 || len(got["b"]["y"]) != 1 {
		t.Fatalf("got %v", got)
	}
}

func TestBalancerRefusesGibberish(t *testing.T) {
	m := kmsg.NewJoinGroupResponseMember()
	m.MemberID, m.ProtocolMetadata = "a", []byte{0, 3, 1}
	if _, _, err := (copartition{}).MemberBalancer([]kmsg.JoinGroupResponseMember{m}); err == nil {
		t.Fatal("balanced on gibberish")
	}
}
