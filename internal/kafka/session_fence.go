package kafka

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// fenceDead ends, beside what else goes on, the transactions that dead members have left open. Whoever takes a dead member's task over has to
// wait until its transaction is decided, and the broker would wait for the transaction's time-out, seconds after the member's session has timed
// out. Becoming the writer of the dead one's transactional id for a moment aborts it at once.
//
// Nothing rests on it: a failure means to wait as long as without. A member that is thrown out of the group although it lives finds itself
// fenced, and begins a session anew.
func (s *session) fenceDead() {
	s.fences.Go(func() {
		ctx, cancel := context.WithTimeout(s.life, s.log.config.RequestTimeout)
		defer cancel()
		fenced, err := s.fenceOthers(ctx)
		if err != nil && s.life.Err() == nil {
			s.slog.Warn("transactions of dead members could not be ended; they time out", slog.Any("error", err))
		}
		if len(fenced) > 0 {
			s.slog.Info("transactions of dead members ended", slog.Any("transactional_ids", fenced))
		}
	})
}

func (s *session) fenceOthers(ctx context.Context) ([]string, error) {
	open, err := s.openTransactions(ctx)
	if err != nil || len(open) == 0 {
		return nil, err
	}
	living, err := s.living(ctx)
	if err != nil {
		return nil, err
	}
	var fenced []string
	for _, id := range open {
		if slices.ContainsFunc(living, func(client string) bool { return ownedBy(id, client) }) {
			continue
		}
		if err := s.fence(ctx, id); err != nil {
			return fenced, err
		}
		fenced = append(fenced, id)
	}
	return fenced, nil
}

// ownedBy reports whether a transactional id is of the instance with that client id: the same, or with more behind a slash.
func ownedBy(id, client string) bool {
	rest, ok := strings.CutPrefix(id, client)
	return ok && (rest == "" || rest[0] == '/')
}

// openTransactions returns the transactional ids of this group's members, past and present, with a transaction that is open.
func (s *session) openTransactions(ctx context.Context) ([]string, error) {
	req := kmsg.NewPtrListTransactionsRequest()
	req.StateFilters = []string{"Ongoing"}
	var ids []string
	for _, shard := range s.member.RequestSharded(ctx, req) {
		if shard.Err != nil {
			return nil, fmt.Errorf("list open transactions: %w", shard.Err)
		}
		resp, ok := shard.Resp.(*kmsg.ListTransactionsResponse)
		if !ok {
			continue
		}
		if err := kerr.ErrorForCode(resp.ErrorCode); err != nil {
			return nil, fmt.Errorf("list open transactions: %w", err)
		}
		for _, t := range resp.TransactionStates {
			if strings.HasPrefix(t.TransactionalID, s.spec.Group+"/") {
				ids = append(ids, t.TransactionalID)
			}
		}
	}
	slices.Sort(ids)
	return ids, nil
}

// living returns the client ids of the group's members.
func (s *session) living(ctx context.Context) ([]string, error) {
	var g kadm.DescribedGroup
	err := s.again(ctx, "describe the group", func() error {
		groups, err := s.admin.DescribeGroups(ctx, s.spec.Group)
		g = groups[s.spec.Group]
		return errors.Join(err, g.Err)
	})
	if err != nil {
		return nil, err
	}
	ids := []string{s.clientID()}
	for _, m := range g.Members {
		ids = append(ids, m.ClientID)
	}
	return ids, nil
}

// fence becomes the writer of a transactional id, which aborts what is open under it.
func (s *session) fence(ctx context.Context, id string) error {
	req := kmsg.NewPtrInitProducerIDRequest()
	req.TransactionalID = &id
	req.TransactionTimeoutMillis = int32(s.config.TransactionTimeout.Milliseconds()) //nolint:gosec // far below the limit
	req.ProducerID, req.ProducerEpoch = -1, -1
	return s.again(ctx, "end the transaction of "+id, func() error {
		resp, err := req.RequestWith(ctx, s.member)
		if err != nil {
			return err
		}
		return kerr.ErrorForCode(resp.ErrorCode)
	})
}
