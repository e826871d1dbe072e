package kafka

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/regent-infra/regent/internal/stream"
)

// onAssigned takes partitions over. It is called in each rebalance, also when nothing is new.
func (s *session) onAssigned(_ context.Context, client *kgo.Client, partitions map[string][]int32) {
	id, _ := client.GroupMetadata()
	s.log.mu.Lock()
	s.log.members[s.spec.Group] = id
	s.log.mu.Unlock()
	if len(partitions) > 0 && !s.config.SpareDead {
		s.fenceDead()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for topic, list := range partitions {
		if s.owned[topic] == nil {
			s.owned[topic] = map[int32]bool{}
		}
		for _, p := range list {
			s.owned[topic][p] = true
		}
	}
	s.settle()
}

// onRevoked gives partitions up; they may be lost already. It waits for a commit that is under way, see [session.mu].
func (s *session) onRevoked(_ context.Context, _ *kgo.Client, partitions map[string][]int32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for topic, list := range partitions {
		for _, p := range list {
			delete(s.owned[topic], p)
		}
	}
	s.settle()
}

// settle turns partitions into tasks: a task is ours when all of its partitions are. The caller holds the lock.
func (s *session) settle() {
	now := map[int32]bool{}
	for id := range s.taskIDs() {
		if s.complete(id) {
			now[id] = true
		}
	}
	for id := range s.tasks {
		if !now[id] {
			// An assignment that nobody has seen yet is taken back without a trace.
			if i := slices.Index(s.assigned, id); i >= 0 {
				s.assigned = slices.Delete(s.assigned, i, i+1)
			} else {
				s.revoked = append(s.revoked, id)
			}
		}
	}
	for id := range now {
		if !s.tasks[id] {
			s.assigned = append(s.assigned, id)
		}
	}
	slices.Sort(s.assigned)
	slices.Sort(s.revoked)
	s.tasks = now
	s.wakeLocked()
}

func (s *session) taskIDs() map[int32]bool {
	ids := map[int32]bool{}
	for _, list := range s.owned {
		for p := range list {
			if s.spec.Single {
				p = 0
			}
			ids[p] = true
		}
	}
	return ids
}

func (s *session) complete(id int32) bool {
	for _, topic := range s.spec.Inputs {
		if !s.spec.Single {
			if !s.owned[topic][id] {
				return false
			}
			continue
		}
		for p := range s.partitions[topic] {
			if !s.owned[topic][p] {
				return false
			}
		}
	}
	return true
}

// fail ends the session: the next Poll returns the error.
func (s *session) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failed == nil {
		s.failed = err
	}
	s.wakeLocked()
}

// Wake implements [stream.Session].
func (s *session) Wake() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.wakeLocked()
}

func (s *session) wakeLocked() {
	s.woken = true
	if s.cancel != nil {
		s.cancel()
	}
}

// groupHook hears of errors of the library's loop that manages the membership; it tries again by itself, but only after a pause that grows.
type groupHook struct{ s *session }

var _ kgo.HookGroupManageError = (*groupHook)(nil)

// OnGroupManageError implements [kgo.HookGroupManageError].
func (h *groupHook) OnGroupManageError(err error) {
	h.s.slog.Warn("managing the membership failed", slog.Any("error", err))
	h.s.fail(fmt.Errorf("stay in group %s: %w", h.s.spec.Group, err))
}

// connectHook notes whether brokers can be reached.
type connectHook struct{ s *session }

var _ kgo.HookBrokerConnect = (*connectHook)(nil)

// OnBrokerConnect implements [kgo.HookBrokerConnect].
func (h *connectHook) OnBrokerConnect(_ kgo.BrokerMetadata, _ time.Duration, _ net.Conn, err error) {
	if err == nil {
		h.s.troubled.Store(nil)
		return
	}
	h.s.troubled.Store(&trouble{h.s.log.config.explain("connect", err)})
}

// about is what this member says of itself at each join.
func (s *session) about() aboutMember {
	a := aboutMember{foldVersion: s.spec.FoldVersion, standbys: s.spec.Standbys}
	if s.spec.Held != nil {
		a.held = s.spec.Held()
	}
	return a
}

// onStandbys hears which tasks this member is to keep copies of. It is called after each rebalance, before [session.onAssigned].
func (s *session) onStandbys(list []stream.StandbyTask) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.standbys = list
	s.wakeLocked()
}

// Rejoin implements [stream.Session].
func (s *session) Rejoin() { s.member.ForceRebalance() }

// takeChanges returns what has changed since the last call, and marks that a poll is running, which cancel ends. ok is false if the
// poll should not wait at all.
func (s *session) takeChanges(cancel context.CancelFunc) (b *stream.Batch, ok bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b = &stream.Batch{Revoked: s.revoked, Assigned: s.assigned, Standbys: s.standbys}
	s.revoked, s.assigned, s.standbys = nil, nil, nil
	ok = !s.woken && len(b.Revoked)+len(b.Assigned) == 0 && b.Standbys == nil
	s.woken, s.cancel = false, cancel
	return b, ok, classify(s.failed)
}

var _ stream.Session = (*session)(nil)
