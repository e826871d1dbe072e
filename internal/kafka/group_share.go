package kafka

import (
	"cmp"
	"slices"

	"github.com/regent-infra/regent/internal/stream"
)

// claimant is a member with what it says of itself.
type claimant struct {
	id         string
	generation int32
	owns       map[int32]bool
	about      aboutMember
}

// position is how far the member's copy of a task reaches; 0 for none.
func (c *claimant) position(task int32) int64 {
	for _, h := range c.about.held {
		if h.Task == task {
			return h.Position
		}
	}
	return 0
}

// assignment is what the members get.
type assignment struct {
	// owner is, by task, the index of the member that is to run it; -1 if nobody can.
	owner []int
	// standbys are, by member, the tasks that it is to keep copies of, ordered.
	standbys [][]stream.StandbyTask
}

// sharing is the work of share. Tasks are int32 as partitions are, members are indices.
type sharing struct {
	members []claimant
	tasks   int32
	lag     int64
	order   []int // of the members, by id
	claims  []int // by task: who runs it now, or -1
	best    []int64
	need    []int32
	count   []int // of tasks, by member
	floor   int
	more    int // members that may still have floor + 1
}

// share decides who runs which task, and who keeps a copy. Equal input gives equal output.
//
//   - A task stays where it runs, unless that is unfair: no member is to have two more than another.
//   - What has to move goes to members that are warm, which is to say whose copy is no more than lag behind the best one.
//   - A task that runs is not taken away before the member that is to have it is warm; until then, that one warms up.
//   - A task that nobody runs goes to a warm member at once, fair or not: an owner has died. Fairness comes later, in the same way.
//   - A member whose program is older than the fold version of a task's state does not get the task. If nobody else can have it, it goes to one
//     that runs nothing (which refuses, and says why) and else it waits: the older members go on with what they can run.
//   - Each task has copies at `copies` other members, if there are so many: rather where one is warm, then where there are few.
//
// A claim to run a task counts only if no member of a later generation claims the same.
func share(members []claimant, tasks int32, copies int, lag int64) assignment {
	if len(members) == 0 {
		return assignment{}
	}
	s := newSharing(members, tasks, lag)
	target := s.targets()
	out := assignment{owner: make([]int, tasks), standbys: make([][]stream.StandbyTask, len(members))}
	warming := make([]int, tasks)
	load := make([]int, len(members))
	for t, goal := range target {
		out.owner[t], warming[t] = s.now(int32(t), goal, load) //nolint:gosec // the number of a partition
		if i := out.owner[t]; i >= 0 {
			load[i]++
		}
	}
	for t := range target {
		s.keepCopies(&out, int32(t), warming[t], copies, load) //nolint:gosec // the number of a partition
	}
	return out
}

func newSharing(members []claimant, tasks int32, lag int64) *sharing {
	s := &sharing{
		members: members, tasks: tasks, lag: lag,
		claims: make([]int, tasks), best: make([]int64, tasks), need: make([]int32, tasks), count: make([]int, len(members)),
		floor: int(tasks) / len(members), more: int(tasks) % len(members),
	}
	for i := range members {
		s.order = append(s.order, i)
		for _, h := range members[i].about.held {
			if h.Task >= 0 && h.Task < tasks {
				s.best[h.Task] = max(s.best[h.Task], h.Position)
				s.need[h.Task] = max(s.need[h.Task], h.FoldVersion)
			}
		}
	}
	slices.SortFunc(s.order, func(a, b int) int { return cmp.Compare(members[a].id, members[b].id) })
	for t := range s.claims {
		s.claims[t] = -1
		task := int32(t) //nolint:gosec // the number of a partition
		for _, i := range s.order {
			if members[i].owns[task] && s.able(i, task) && (s.claims[t] < 0 || members[i].generation > members[s.claims[t]].generation) {
				s.claims[t] = i
			}
		}
	}
	return s
}

// able reports whether the member's program can read the task's state.
func (s *sharing) able(member int, task int32) bool {
	return s.members[member].about.foldVersion >= s.need[task]
}

func (s *sharing) warm(member int, task int32) bool {
	return s.best[task]-s.members[member].position(task) <= s.lag
}

// roomy reports whether the member may get one more, if it is to be fair: floor each, and floor + 1 for as many as there is a remainder.
func (s *sharing) roomy(member int) bool {
	return s.count[member] < s.floor || s.count[member] == s.floor && s.more > 0
}

func (s *sharing) take(member int) {
	if s.count[member] == s.floor {
		s.more--
	}
	s.count[member]++
}

// targets is the fair distribution that is aimed at.
func (s *sharing) targets() []int {
	target := make([]int, s.tasks)
	for t := range target {
		target[t] = -1
	}
	// Whoever runs a task keeps it; of too many, those go that somebody else is warm for.
	for _, wanted := range []bool{false, true} {
		for t, i := range s.claims {
			if i >= 0 && s.wanted(int32(t), i) == wanted && s.roomy(i) { //nolint:gosec // the number of a partition
				target[t] = i
				s.take(i)
			}
		}
	}
	for _, fits := range []func(member int, task int32) bool{
		func(i int, t int32) bool { return s.able(i, t) && s.roomy(i) && s.warm(i, t) },
		func(i int, t int32) bool { return s.able(i, t) && s.roomy(i) },
		s.able, // the rest of the fair places is at members that cannot have it
		func(i int, _ int32) bool { return len(s.members[i].owns) == 0 },
	} {
		for t := range target {
			if target[t] >= 0 {
				continue
			}
			task := int32(t) //nolint:gosec // the number of a partition
			if i := s.claims[t]; i >= 0 && fits(i, task) {
				target[t] = i
			} else {
				target[t] = s.least(s.count, func(i int) bool { return fits(i, task) })
			}
			if target[t] >= 0 {
				s.take(target[t])
			}
		}
	}
	return target
}

// wanted reports whether a member other than its owner is warm for the task.
func (s *sharing) wanted(task int32, owner int) bool {
	return slices.ContainsFunc(s.order, func(i int) bool {
		return i != owner && s.able(i, task) && s.members[i].position(task) > 0 && s.warm(i, task)
	})
}

// least returns the fitting member with the least load; -1 if none fits.
func (s *sharing) least(load []int, fits func(member int) bool) int {
	best := -1
	for _, i := range s.order {
		if fits(i) && (best < 0 || load[i] < load[best]) {
			best = i
		}
	}
	return best
}

// now says who is to run a task from now on, and who has to warm up for it (-1 for nobody).
func (s *sharing) now(task int32, goal int, load []int) (owner, warming int) {
	claim := s.claims[task]
	switch {
	case goal < 0 || goal == claim || s.warm(goal, task):
		return goal, -1
	case claim >= 0:
		return claim, goal
	}
	heir := s.least(load, func(i int) bool { return s.able(i, task) && s.warm(i, task) })
	if heir < 0 {
		return goal, -1
	}
	return heir, goal
}

// keepCopies gives a task's copies to members.
func (s *sharing) keepCopies(out *assignment, task int32, warming, copies int, load []int) {
	owner := out.owner[task]
	taken := func(i int) bool {
		return slices.ContainsFunc(out.standbys[i], func(st stream.StandbyTask) bool { return st.Task == task })
	}
	give := func(i int, warmUp bool) {
		out.standbys[i] = append(out.standbys[i], stream.StandbyTask{Task: task, WarmUp: warmUp})
	}
	if warming >= 0 {
		give(warming, true)
		load[warming]++
	}
	// Between the two steps of a move, the task's next owner goes on following.
	if claim := s.claims[task]; claim >= 0 && owner >= 0 && claim != owner {
		give(owner, false)
	}
	for range copies {
		i := s.least(load, func(i int) bool { return i != owner && !taken(i) && s.members[i].position(task) > 0 && s.warm(i, task) })
		if i < 0 {
			i = s.least(load, func(i int) bool { return i != owner && !taken(i) })
		}
		if i < 0 {
			return
		}
		give(i, false)
		load[i]++
	}
}
