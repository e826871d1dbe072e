package kafka

import (
	"cmp"
	"slices"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// copartition shares out tasks, not partitions: partition p of all topics goes to one member, so that a task finds its inputs together. It moves
// as few tasks as it can, and moves them in two steps (cooperatively): whoever keeps a task goes on working. In single mode, all partitions go
// to one member and the others stand by.
//
// The library's range balancer keeps partitions together as well, but stops everybody at each rebalance; its sticky ones tear them apart.
type copartition struct{ single bool }

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
func (copartition) JoinGroupMetadata(interests []string, current map[string][]int32, generation int32) []byte {
	meta := kmsg.NewConsumerMemberMetadata()
	meta.Version = 3
	meta.Topics = interests
	meta.Generation = generation
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
func (copartition) ParseSyncAssignment(assignment []byte) (map[string][]int32, error) {
	return kgo.ParseConsumerSyncAssignment(assignment)
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
	b.EachMember(func(m *kmsg.JoinGroupResponseMember, meta *kmsg.ConsumerMemberMetadata) {
		cl := claimant{id: m.MemberID, generation: meta.Generation, owns: map[int32]bool{}}
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
	plan := b.NewPlan()
	for task, i := range share(members, tasks) {
		member, _ := b.MemberAt(slices.IndexFunc(b.Members(), func(m kmsg.JoinGroupResponseMember) bool { return m.MemberID == members[i].id }))
		for _, name := range names {
			for p := range topics[name] {
				if c.single || p == int32(task) { //nolint:gosec // the number of a partition
					plan.AddPartition(member, name, p)
				}
			}
		}
	}
	plan.AdjustCooperative(b)
	return plan
}

// claimant is a member with what it says to own.
type claimant struct {
	id         string
	generation int32
	owns       map[int32]bool
}

// share gives each task to the index of one member: no member has two more than another, whoever has a task keeps it if that allows, and
// equal input gives equal output. A claim counts only if no member of a later generation claims the same.
func share(members []claimant, tasks int32) []int {
	owner := make([]int, tasks)
	count := make([]int, len(members))
	if len(members) == 0 {
		return nil
	}
	order := make([]int, len(members))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int { return cmp.Compare(members[a].id, members[b].id) })
	for t := range owner {
		owner[t] = -1
		for _, i := range order {
			if members[i].owns[int32(t)] && (owner[t] < 0 || members[i].generation > members[owner[t]].generation) { //nolint:gosec // the number of a partition
				owner[t] = i
			}
		}
	}
	// At most ceil(tasks/members) each, and only as many members with that many as there is a remainder.
	floor, more := int(tasks)/len(members), int(tasks)%len(members)
	for t, i := range owner {
		switch {
		case i < 0:
		case count[i] < floor:
			count[i]++
		case count[i] == floor && more > 0:
			count[i]++
			more--
		default:
			owner[t] = -1
		}
	}
	for t, i := range owner {
		if i >= 0 {
			continue
		}
		least := order[0]
		for _, j := range order {
			if count[j] < count[least] {
				least = j
			}
		}
		owner[t] = least
		count[least]++
	}
	return owner
}
