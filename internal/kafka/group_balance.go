package kafka

import (
	"cmp"
	"fmt"
	"log/slog"
	"slices"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/regent-infra/regent/internal/invariant"
	"github.com/regent-infra/regent/internal/stream"
)

// copartition shares out tasks, not partitions: partition p of all topics goes to one member, so that a task finds its inputs together. It moves
// as few tasks as it can, and moves them in two steps (cooperatively): whoever keeps a task goes on working. In single mode, all partitions go
// to one member and the others stand by.
//
// What has to move moves to where it is warm, and each task has standbys: see [share]. What members hold, and what they are to keep copies of,
// travels in the protocol's user data.
//
// The library's range balancer keeps partitions together as well, but stops everybody at each rebalance; its sticky ones tear them apart.
type copartition struct {
	single bool
	// about tells what this member says of itself; nil for nothing.
	about func() aboutMember
	// told hears which tasks this member is to keep copies of; it may be nil.
	told func([]stream.StandbyTask)
	log  *slog.Logger
}

var (
	_ kgo.GroupBalancer           = copartition{}
	_ kgo.ConsumerBalancerBalance = copartition{}
)

// ProtocolName implements [kgo.GroupBalancer].
func (c copartition) ProtocolName() string {
	if c.single {
		return "regent-single"
	}
	return "regent-copartition"
}

// IsCooperative implements [kgo.GroupBalancer].
func (copartition) IsCooperative() bool { return true }

// JoinGroupMetadata implements [kgo.GroupBalancer].
func (c copartition) JoinGroupMetadata(interests []string, current map[string][]int32, generation int32) []byte {
	meta := kmsg.NewConsumerMemberMetadata()
	meta.Version = 3
	meta.Topics = interests
	meta.Generation = generation
	if c.about != nil {
		meta.UserData = c.about().encode()
	}
	for topic, partitions := range current {
		owned := kmsg.NewConsumerMemberMetadataOwnedPartition()
		owned.Topic, owned.Partitions = topic, partitions
		meta.OwnedPartitions = append(meta.OwnedPartitions, owned)
	}
	slices.SortFunc(meta.OwnedPartitions, func(a, b kmsg.ConsumerMemberMetadataOwnedPartition) int {
		return cmp.Compare(a.Topic, b.Topic)
	})
	return meta.AppendTo(nil)
}

// ParseSyncAssignment implements [kgo.GroupBalancer].
func (c copartition) ParseSyncAssignment(assignment []byte) (map[string][]int32, error) {
	partitions, err := kgo.ParseConsumerSyncAssignment(assignment)
	if err != nil || c.told == nil {
		return partitions, err
	}
	var whole kmsg.ConsumerMemberAssignment
	if err := whole.ReadFrom(assignment); err != nil {
		return nil, fmt.Errorf("read the assignment: %w", err)
	}
	standbys, err := decodeStandbys(whole.UserData)
	if err != nil {
		return nil, err
	}
	c.told(standbys)
	return partitions, nil
}

// MemberBalancer implements [kgo.GroupBalancer].
func (c copartition) MemberBalancer(members []kmsg.JoinGroupResponseMember) (kgo.GroupMemberBalancer, map[string]struct{}, error) {
	b, err := kgo.NewConsumerBalancer(c, members)
	return b, b.MemberTopics(), err
}

// Balance implements [kgo.ConsumerBalancerBalance].
func (c copartition) Balance(b *kgo.ConsumerBalancer, topics map[string]int32) kgo.IntoSyncAssignment {
	var names []string
	tasks := int32(0)
	for name, n := range topics {
		names = append(names, name)
		tasks = max(tasks, n)
	}
	slices.Sort(names)
	if c.single {
		tasks = min(tasks, 1)
	}
	var members []claimant
	copies := 0
	b.EachMember(func(m *kmsg.JoinGroupResponseMember, meta *kmsg.ConsumerMemberMetadata) {
		cl := claimant{id: m.MemberID, generation: meta.Generation, owns: map[int32]bool{}}
		var err error
		if cl.about, err = decodeAboutMember(meta.UserData); err != nil && c.log != nil {
			c.log.Warn("a member's description of itself cannot be read; it counts as one without copies", slog.String("member", m.MemberID), slog.Any("error", err))
		}
		copies = max(copies, cl.about.standbys)
		for _, o := range meta.OwnedPartitions {
			for _, p := range o.Partitions {
				if c.single {
					p = 0
				}
				cl.owns[p] = true
			}
		}
		members = append(members, cl)
	})
	out := share(members, tasks, copies, stream.AcceptableLag)
	plan := b.NewPlan()
	var waiting []int
	for task, i := range out.owner {
		if i < 0 {
			waiting = append(waiting, task)
			continue
		}
		member, _ := b.MemberAt(i)
		for _, name := range names {
			for p := range topics[name] {
				if c.single || p == int32(task) { //nolint:gosec // the number of a partition
					plan.AddPartition(member, name, p)
				}
			}
		}
	}
	if len(waiting) > 0 && c.log != nil {
		c.log.Warn("the state of some tasks was folded by a later version of the program than any member that could take them has; they wait for one",
			slog.Any("tasks", waiting))
	}
	plan.AdjustCooperative(b)
	told := told{plan: plan, standbys: map[string][]stream.StandbyTask{}}
	for i := range members {
		told.standbys[members[i].id] = out.standbys[i]
	}
	return told
}

// told is a plan with what the members are told beside it.
type told struct {
	plan     *kgo.BalancePlan
	standbys map[string][]stream.StandbyTask
}

var _ kgo.IntoSyncAssignment = told{}

// IntoSyncAssignment implements [kgo.IntoSyncAssignment].
func (t told) IntoSyncAssignment() []kmsg.SyncGroupRequestGroupAssignment {
	all := t.plan.IntoSyncAssignment()
	for i := range all {
		var whole kmsg.ConsumerMemberAssignment
		invariant.Assert(whole.ReadFrom(all[i].MemberAssignment) == nil, "the library reads what it has written")
		whole.UserData = encodeStandbys(t.standbys[all[i].MemberID])
		all[i].MemberAssignment = whole.AppendTo(nil)
	}
	return all
}
