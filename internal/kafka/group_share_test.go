package kafka

import (
	"bytes"
	"reflect"
	"slices"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"pgregory.net/rapid"

	"github.com/regent-infra/regent/internal/stream"
)

// holding makes a member that holds copies: task and position in turns.
func holding(id string, owns []int32, held ...int64) claimant {
	c := claimant{id: id, owns: map[int32]bool{}, about: aboutMember{foldVersion: 1, standbys: 1}}
	for _, t := range owns {
		c.owns[t] = true
	}
	for i := 0; i < len(held); i += 2 {
		c.about.held = append(c.about.held, stream.Held{Task: int32(held[i]), Position: held[i+1], FoldVersion: 1})
	}
	return c
}

func standby(task int32) stream.StandbyTask { return stream.StandbyTask{Task: task} }
func warmUp(task int32) stream.StandbyTask  { return stream.StandbyTask{Task: task, WarmUp: true} }

func TestShareFollowsWarmth(t *testing.T) {
	older := func(c claimant, fold int32) claimant {
		c.about.foldVersion = fold
		return c
	}
	folded := func(c claimant, fold int32) claimant {
		c.about.foldVersion = fold
		for i := range c.about.held {
			c.about.held[i].FoldVersion = fold
		}
		return c
	}
	for _, c := range []struct {
		name     string
		members  []claimant
		tasks    int32
		copies   int
		owner    []int
		standbys [][]stream.StandbyTask
	}{
		{
			"a cold newcomer warms up first",
			[]claimant{holding("a", []int32{0, 1}, 0, 1000, 1, 1000), holding("b", nil)},
			2, 0,
			[]int{0, 0},
			[][]stream.StandbyTask{nil, {warmUp(1)}},
		},
		{
			"with copies it keeps one of everything",
			[]claimant{holding("a", []int32{0, 1}, 0, 1000, 1, 1000), holding("b", nil)},
			2, 1,
			[]int{0, 0},
			[][]stream.StandbyTask{nil, {standby(0), warmUp(1)}},
		},
		{
			"a warm one gets what it is warm for",
			[]claimant{holding("a", []int32{0, 1}, 0, 1000, 1, 1000), holding("b", nil, 0, 950)},
			2, 1,
			[]int{1, 0},
			[][]stream.StandbyTask{{standby(0)}, {standby(0), standby(1)}},
		},
		{
			"little state is no reason to wait",
			[]claimant{holding("a", []int32{0, 1}, 0, 90, 1, 90), holding("b", nil)},
			2, 1,
			[]int{0, 1},
			[][]stream.StandbyTask{{standby(1)}, {standby(0), standby(1)}},
		},
		{"a dead owner's tasks go to whoever is warm", []claimant{
			holding("a", []int32{0, 1}, 0, 1000, 1, 1000, 4, 990, 5, 990), holding("b", []int32{2, 3}, 2, 1000, 3, 1000),
		}, 6, 0, []int{0, 0, 1, 1, 0, 0}, [][]stream.StandbyTask{nil, {warmUp(5)}}},
		{
			"without anybody warm they go where is room",
			[]claimant{holding("a", []int32{0}, 0, 1000), holding("b", nil)},
			2, 0,
			[]int{0, 1},
			[][]stream.StandbyTask{nil, nil},
		},
		{"copies stay where they are warm", []claimant{
			holding("a", []int32{0}, 0, 1000), holding("b", []int32{1}, 1, 1000), holding("c", []int32{2}, 2, 1000, 0, 1000, 1, 1000),
		}, 3, 1, []int{0, 1, 2}, [][]stream.StandbyTask{{standby(2)}, nil, {standby(0), standby(1)}}},
		{
			"two copies of each",
			[]claimant{holding("a", []int32{0}), holding("b", []int32{1}), holding("c", []int32{2})},
			3, 2,
			[]int{0, 1, 2},
			[][]stream.StandbyTask{{standby(1), standby(2)}, {standby(0), standby(2)}, {standby(0), standby(1)}},
		},
		{
			"more copies than members",
			[]claimant{holding("a", []int32{0}), holding("b", nil)},
			1, 5,
			[]int{0},
			[][]stream.StandbyTask{nil, {standby(0)}},
		},
		{"what a later version has folded does not go to an older one", []claimant{
			folded(holding("a", []int32{0, 1}, 0, 1000, 1, 1000), 2), older(holding("b", nil, 0, 1000, 1, 1000), 1),
		}, 2, 1, []int{0, 0}, [][]stream.StandbyTask{nil, {standby(0), standby(1)}}},
		{"but to a newer one", []claimant{
			holding("a", []int32{0, 1}, 0, 1000, 1, 1000), older(holding("b", nil, 0, 1000, 1, 1000), 2),
		}, 2, 1, []int{0, 1}, [][]stream.StandbyTask{{standby(1)}, {standby(0), standby(1)}}},
		{"nobody can have it, and the others work: it waits", []claimant{
			older(holding("a", []int32{1}, 1, 1000), 1), older(holding("b", []int32{2}, 2, 1000), 1), {
				id: "c", owns: map[int32]bool{3: true}, about: aboutMember{foldVersion: 1, held: []stream.Held{{Task: 0, Position: 5, FoldVersion: 2}}},
			},
		}, 4, 0, []int{-1, 0, 1, 2}, [][]stream.StandbyTask{nil, nil, nil}},
		{"nobody can have it: one that runs nothing is to say why", []claimant{
			{id: "a", owns: map[int32]bool{}, about: aboutMember{foldVersion: 1, held: []stream.Held{{Task: 0, Position: 5, FoldVersion: 2}}}},
		}, 1, 0, []int{0}, [][]stream.StandbyTask{nil}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := share(c.members, c.tasks, c.copies, 100)
			for i := range got.standbys {
				slices.SortFunc(got.standbys[i], func(a, b stream.StandbyTask) int { return int(a.Task - b.Task) })
			}
			if !slices.Equal(got.owner, c.owner) || !reflect.DeepEqual(got.standbys, c.standbys) {
				t.Errorf("owners %v, standbys %v; expected %v, %v", got.owner, got.standbys, c.owner, c.standbys)
			}
		})
	}
}

// TestShareComesToRest lets a group follow what share says, step by step as Kafka's cooperative protocol does, from any state: nothing that
// runs is given to a cold member, and after some steps everything is fair, has its copies, and stays.
func TestShareComesToRest(t *testing.T) {
	const lag = 100
	rapid.Check(t, func(t *rapid.T) {
		tasks := rapid.Int32Range(1, 12).Draw(t, "tasks")
		copies := rapid.IntRange(0, 2).Draw(t, "copies")
		ends := make([]int64, tasks)
		for i := range ends {
			ends[i] = rapid.Int64Range(0, 1000).Draw(t, "end")
		}
		n := rapid.IntRange(1, 4).Draw(t, "members")
		members := make([]claimant, n)
		for i := range members {
			members[i] = holding(string(rune('a'+i)), nil)
			for task := range tasks {
				if at := rapid.Int64Range(-500, ends[task]).Draw(t, "position"); at > 0 {
					members[i].about.held = append(members[i].about.held, stream.Held{Task: task, Position: at, FoldVersion: 1})
				}
			}
		}
		for task := range tasks { // some run somewhere, as far as there is anything
			if i := rapid.IntRange(-1, n-1).Draw(t, "owner"); i >= 0 {
				members[i].owns[task] = true
				reach(&members[i], task, ends[task])
			}
		}
		var last assignment
		for step := range 20 {
			now := share(members, tasks, copies, lag)
			if step > 0 && reflect.DeepEqual(now, last) {
				atRest(t, now, n, tasks, copies)
				return
			}
			last = now
			follow(t, members, now, ends, lag)
		}
		t.Fatalf("it does not come to rest: %v", last)
	})
}

func reach(c *claimant, task int32, position int64) {
	i := slices.IndexFunc(c.about.held, func(h stream.Held) bool { return h.Task == task })
	if i < 0 {
		c.about.held = append(c.about.held, stream.Held{Task: task, Position: position, FoldVersion: 1})
		return
	}
	c.about.held[i].Position = max(c.about.held[i].Position, position)
}

// follow does what members do: they let go of what they lost, take what is free, and bring their copies forward.
func follow(t *rapid.T, members []claimant, now assignment, ends []int64, lag int64) {
	for task := range int32(len(ends)) {
		goal, runs := now.owner[task], -1
		for i := range members {
			if members[i].owns[task] {
				runs = i
			}
		}
		if runs >= 0 && goal != runs {
			if ends[task]-members[goal].position(task) > lag {
				t.Fatalf("task %d is to move from %d, where it runs, to %d, which holds %d of %d", task, runs, goal, members[goal].position(task), ends[task])
			}
			delete(members[runs].owns, task)
			continue // and the next step gives it away
		}
		members[goal].owns[task] = true
		reach(&members[goal], task, ends[task])
	}
	for i := range members {
		for _, st := range now.standbys[i] {
			reach(&members[i], st.Task, ends[st.Task])
		}
	}
}

func atRest(t *rapid.T, now assignment, members int, tasks int32, copies int) {
	count := make([]int, members)
	for task, i := range now.owner {
		if i < 0 {
			t.Fatalf("task %d runs nowhere", task)
		}
		count[i]++
	}
	if slices.Max(count)-slices.Min(count) > 1 {
		t.Fatalf("unfair at rest: %v", count)
	}
	for task := range tasks {
		has := 0
		for i, list := range now.standbys {
			for _, st := range list {
				if st.Task != task {
					continue
				}
				if has++; i == now.owner[task] || st.WarmUp {
					t.Fatalf("at rest, task %d has the copy %+v at member %d, and runs at %d", task, st, i, now.owner[task])
				}
			}
		}
		if want := min(copies, members-1); has != want {
			t.Fatalf("task %d has %d copies at rest, expected %d", task, has, want)
		}
	}
}

func TestAboutMember(t *testing.T) {
	want := aboutMember{foldVersion: 7, standbys: 2, held: []stream.Held{{Task: 3, Position: 1 << 40, FoldVersion: 6}, {Task: 300, Position: 5, FoldVersion: 7}}}
	encoded := want.encode()
	golden := []byte{
		1, 0, 0, 0, 7, 2, 2,
		0, 0, 0, 3, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 6,
		0, 0, 1, 44, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 7,
	}
	if !bytes.Equal(encoded, golden) {
		t.Fatalf("encoded as %v, expected %v", encoded, golden)
	}
	got, err := decodeAboutMember(encoded)
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Fatalf("decoded as %+v, %v", got, err)
	}
	for cut := 1; cut < len(encoded); cut++ {
		if _, err := decodeAboutMember(encoded[:cut]); err == nil {
			t.Fatalf("cut off after %d bytes, it was read", cut)
		}
	}
	if _, err := decodeAboutMember(append(encoded, 0)); err == nil {
		t.Fatal("with a byte too many, it was read")
	}
	for _, foreign := range [][]byte{nil, {}, {2, 9, 9}} {
		if got, err := decodeAboutMember(foreign); err != nil || !reflect.DeepEqual(got, aboutMember{}) {
			t.Fatalf("%v was read as %+v, %v; expected that it says nothing", foreign, got, err)
		}
	}
}

func TestStandbysTravel(t *testing.T) {
	want := []stream.StandbyTask{standby(1), warmUp(258)}
	encoded := encodeStandbys(want)
	if golden := []byte{1, 2, 0, 0, 0, 1, 0, 0, 0, 1, 2, 1}; !bytes.Equal(encoded, golden) {
		t.Fatalf("encoded as %v, expected %v", encoded, golden)
	}
	got, err := decodeStandbys(encoded)
	if err != nil || !slices.Equal(got, want) {
		t.Fatalf("decoded as %v, %v", got, err)
	}
	for cut := 1; cut < len(encoded); cut++ {
		if _, err := decodeStandbys(encoded[:cut]); err == nil {
			t.Fatalf("cut off after %d bytes, it was read", cut)
		}
	}
	for _, foreign := range [][]byte{nil, {2, 9}} {
		if got, err := decodeStandbys(foreign); err != nil || got == nil || len(got) > 0 {
			t.Fatalf("%v was read as %v, %v; expected no standbys", foreign, got, err)
		}
	}
}

func FuzzAbout(f *testing.F) {
	f.Add(aboutMember{foldVersion: 1, standbys: 1, held: []stream.Held{{Task: 1, Position: 2, FoldVersion: 1}}}.encode())
	f.Add(encodeStandbys([]stream.StandbyTask{warmUp(3)}))
	f.Fuzz(func(t *testing.T, b []byte) {
		if a, err := decodeAboutMember(b); err == nil && len(b) > 0 && b[0] == aboutVersion {
			again, err := decodeAboutMember(a.encode())
			if err != nil || !reflect.DeepEqual(a, again) {
				t.Fatalf("%+v became %+v, %v", a, again, err)
			}
		}
		if _, err := decodeStandbys(b); err == nil && len(b) > 0 {
			_, _ = copartition{}.ParseSyncAssignment(b)
		}
	})
}

// TestOlderMembersAreNoTrouble lets a leader share out among a member that says nothing of itself, one whose words are torn, and one of today.
func TestOlderMembersAreNoTrouble(t *testing.T) {
	var heard []stream.StandbyTask
	today := copartition{
		about: func() aboutMember {
			return aboutMember{foldVersion: 1, standbys: 1, held: []stream.Held{{Task: 0, Position: 9, FoldVersion: 1}}}
		},
		told: func(list []stream.StandbyTask) { heard = list },
	}
	torn := member(t, copartition{}, "b", nil)
	var meta kmsg.ConsumerMemberMetadata
	if err := meta.ReadFrom(torn.ProtocolMetadata); err != nil {
		t.Fatal(err)
	}
	meta.UserData = []byte{aboutVersion, 1}
	torn.ProtocolMetadata = meta.AppendTo(nil)
	members := []kmsg.JoinGroupResponseMember{member(t, copartition{}, "a", nil), torn, member(t, today, "c", nil)}
	topics := map[string]int32{"x": 3, "y": 3}
	got := plan(t, copartition{}, members, topics)
	for id, parts := range got {
		if len(parts["x"]) != 1 || !slices.Equal(parts["x"], parts["y"]) {
			t.Errorf("member %s gets %v", id, parts)
		}
	}
	b, _, err := copartition{}.MemberBalancer(members)
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
	for _, a := range into.IntoSyncAssignment() {
		if _, err := today.ParseSyncAssignment(a.MemberAssignment); err != nil || len(heard) != 1 {
			t.Errorf("member %s hears %v, %v", a.MemberID, heard, err)
		}
	}
	if _, err := today.ParseSyncAssignment([]byte{0}); err == nil {
		t.Error("gibberish was read")
	}
}
