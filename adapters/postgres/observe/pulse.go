package observe

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/regent-infra/regent/schemas"
)

// Pulse is what may change at any moment and matters at once.
type Pulse struct {
	ServerVersion       int32
	StartedAt           time.Time
	Role                schemas.NodeRole
	Timeline            int64
	WrittenLsn          int64
	ReceivedLsn         int64
	FlushedLsn          int64
	ReplayedLsn         int64
	ReplayPaused        bool
	ReplayLagMs         *int64
	Synchronous         string
	Receiver            *schemas.WalReceiver
	Senders             []schemas.WalSender
	SystemIdentifier    string
	CheckpointTimeline  int64
	ReceivedTimeline    int64
	MinRecoveryTimeline int64
}

// pulseSQL returns one row in any state of recovery. Positions are bytes. The name of the current segment tells a primary's timeline at once
// after a promotion, when the control file still names the old one. A receiver shows its connection string as libpq prints it or, after it
// has followed to a new timeline, as it is written in the settings, with quotes.
const pulseSQL = `
WITH r AS MATERIALIZED (SELECT pg_is_in_recovery() AS recovering)
SELECT current_setting('server_version_num')::int, pg_postmaster_start_time(), r.recovering,
  CASE WHEN r.recovering THEN 0 ELSE ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::bigint END,
  CASE WHEN r.recovering THEN 0 ELSE (pg_current_wal_lsn() - '0/0')::bigint END,
  CASE WHEN r.recovering THEN coalesce(pg_last_wal_receive_lsn() - '0/0', 0)::bigint ELSE (pg_current_wal_flush_lsn() - '0/0')::bigint END,
  CASE WHEN r.recovering THEN coalesce(pg_last_wal_replay_lsn() - '0/0', 0)::bigint ELSE 0 END,
  CASE WHEN r.recovering THEN pg_is_wal_replay_paused() ELSE false END,
  CASE WHEN NOT r.recovering THEN NULL
       WHEN coalesce(pg_last_wal_receive_lsn(), '0/0') <= coalesce(pg_last_wal_replay_lsn(), '0/0') THEN 0
       ELSE greatest(0, extract(epoch FROM clock_timestamp() - pg_last_xact_replay_timestamp()) * 1000)::bigint END,
  current_setting('synchronous_standby_names'),
  (SELECT system_identifier::text FROM pg_control_system()),
  (SELECT timeline_id::bigint FROM pg_control_checkpoint()),
  (SELECT min_recovery_end_timeline::bigint FROM pg_control_recovery()),
  (SELECT json_build_object('status', status, 'sender_host', coalesce(sender_host, ''), 'sender_port', coalesce(sender_port, 0),
      'timeline', coalesce(received_tli, 0), 'slot_name', coalesce(slot_name, ''),
      'application_name', coalesce(substring(conninfo FROM 'application_name=''?([^'' ]+)'), ''),
      'sent', (extract(epoch FROM last_msg_send_time) * 1000000)::bigint, 'received', (extract(epoch FROM last_msg_receipt_time) * 1000000)::bigint,
      'latest_end_lsn', coalesce(latest_end_lsn - '0/0', 0)::bigint)::text
   FROM pg_stat_wal_receiver WHERE pid IS NOT NULL LIMIT 1),
  (SELECT json_agg(s ORDER BY s.application_name, s.client_address, s.pid)::text FROM (
     SELECT pid, application_name, coalesce(host(client_addr), '') AS client_address, coalesce(state, '') AS state, coalesce(sync_state, '') AS sync_state,
       coalesce(sent_lsn - '0/0', 0)::bigint AS sent_lsn, coalesce(write_lsn - '0/0', 0)::bigint AS write_lsn,
       coalesce(flush_lsn - '0/0', 0)::bigint AS flush_lsn, coalesce(replay_lsn - '0/0', 0)::bigint AS replay_lsn,
       (extract(epoch FROM replay_lag) * 1000)::bigint AS replay_lag_ms
     FROM pg_stat_replication) s)
FROM r`

// Pulse looks at role, positions, receiver and senders.
func (o *Observer) Pulse(ctx context.Context) (Pulse, error) {
	var p Pulse
	var recovering bool
	var receiver, senders *string
	var timeline int64
	err := o.look(ctx, "look at role and positions", pulseSQL,
		&p.ServerVersion, &p.StartedAt, &recovering, &timeline, &p.WrittenLsn, &p.ReceivedLsn, &p.ReplayedLsn, &p.ReplayPaused,
		&p.ReplayLagMs, &p.Synchronous, &p.SystemIdentifier, &p.CheckpointTimeline, &p.MinRecoveryTimeline, &receiver, &senders)
	if err != nil {
		return Pulse{}, err
	}
	p.StartedAt = p.StartedAt.UTC()
	if p.Receiver, err = readReceiver(receiver); err != nil {
		return Pulse{}, err
	}
	if p.Senders, err = readSenders(senders); err != nil {
		return Pulse{}, err
	}
	if recovering {
		p.Role = schemas.NodeRoleStandby
		// A restarted standby has received nothing yet, but what it has replayed is on its disk.
		p.FlushedLsn = max(p.ReceivedLsn, p.ReplayedLsn)
		p.Timeline = max(p.CheckpointTimeline, p.MinRecoveryTimeline)
		if p.Receiver != nil {
			p.ReceivedTimeline = p.Receiver.Timeline
			p.Timeline = max(p.Timeline, p.ReceivedTimeline)
		}
	} else {
		p.Role, p.Timeline, p.FlushedLsn = schemas.NodeRolePrimary, timeline, p.ReceivedLsn
	}
	return p, nil
}

func readReceiver(text *string) (*schemas.WalReceiver, error) {
	if text == nil {
		return nil, nil //nolint:nilnil // no receiver is a value, not a failure
	}
	var r struct {
		Status          string `json:"status"`
		SenderHost      string `json:"sender_host"`
		SenderPort      int32  `json:"sender_port"`
		Timeline        int64  `json:"timeline"`
		SlotName        string `json:"slot_name"`
		ApplicationName string `json:"application_name"`
		Sent            *int64 `json:"sent"`
		Received        *int64 `json:"received"`
		LatestEndLsn    int64  `json:"latest_end_lsn"`
	}
	if err := json.Unmarshal([]byte(*text), &r); err != nil {
		return nil, fmt.Errorf("read pg_stat_wal_receiver: %w", err)
	}
	return &schemas.WalReceiver{
		Status: r.Status, SenderHost: r.SenderHost, SenderPort: r.SenderPort, Timeline: r.Timeline, SlotName: r.SlotName,
		ApplicationName: r.ApplicationName, LastMessageSentAt: micros(r.Sent), LastMessageReceivedAt: micros(r.Received), LatestEndLsn: r.LatestEndLsn,
	}, nil
}

func micros(at *int64) *time.Time {
	if at == nil {
		return nil
	}
	t := time.UnixMicro(*at).UTC()
	return &t
}

func readSenders(text *string) ([]schemas.WalSender, error) {
	senders := []schemas.WalSender{}
	if text == nil {
		return senders, nil
	}
	if err := json.Unmarshal([]byte(*text), &senders); err != nil {
		return nil, fmt.Errorf("read pg_stat_replication: %w", err)
	}
	return senders, nil
}

// Fill writes the pulse into a full value.
func (p *Pulse) Fill(o *schemas.PostgresNodeObserved) {
	started := p.StartedAt
	o.ServerVersion, o.PostmasterStartedAt, o.Role, o.AcceptingConnections = p.ServerVersion, &started, p.Role, true
	o.Timeline, o.WrittenLsn, o.ReceivedLsn, o.FlushedLsn, o.ReplayedLsn = p.Timeline, p.WrittenLsn, p.ReceivedLsn, p.FlushedLsn, p.ReplayedLsn
	o.ReplayPaused, o.ReplayLagMs, o.SynchronousStandbyNames = p.ReplayPaused, p.ReplayLagMs, p.Synchronous
	o.Receiver, o.Senders, o.SystemIdentifier = p.Receiver, p.Senders, p.SystemIdentifier
}
