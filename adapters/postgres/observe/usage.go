package observe

import (
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/regent-infra/regent/schemas"
)

// Usage is what changes steadily: slots, connections, settings that wait for a restart.
type Usage struct {
	Slots          []schemas.ReplicationSlot
	Connections    schemas.ConnectionUsage
	PendingRestart bool
}

// usageSQL counts client sessions other than the agent's own.
const usageSQL = `
SELECT
  (SELECT json_agg(s ORDER BY s.name)::text FROM (
     SELECT slot_name AS name, active, (restart_lsn - '0/0')::bigint AS restart_lsn,
       coalesce(greatest(0, CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END - restart_lsn), 0)::bigint AS retained_bytes,
       coalesce(wal_status, '') AS wal_status
     FROM pg_replication_slots) s),
  (SELECT json_build_object(
     'max', current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int
            - coalesce(nullif(current_setting('reserved_connections', true), ''), '0')::int,
     'total', count(*), 'active', count(*) FILTER (WHERE state = 'active'), 'idle', count(*) FILTER (WHERE state = 'idle'),
     'idle_in_transaction', count(*) FILTER (WHERE state LIKE 'idle in transaction%'),
     'waiting_on_sync', count(*) FILTER (WHERE wait_event = 'SyncRep'),
     'longest_transaction_ms', coalesce(max(greatest(0, extract(epoch FROM clock_timestamp() - xact_start) * 1000)), 0)::bigint)::text
   FROM pg_stat_activity WHERE backend_type = 'client backend' AND application_name <> 'regent-agent'),
  EXISTS (SELECT FROM pg_settings WHERE pending_restart)`

// Usage looks at slots, connections and pending restarts.
func (o *Observer) Usage(ctx context.Context) (Usage, error) {
	var u Usage
	var slots *string
	var connections string
	if err := o.look(ctx, "look at slots and connections", usageSQL, &slots, &connections, &u.PendingRestart); err != nil {
		return Usage{}, err
	}
	u.Slots = []schemas.ReplicationSlot{}
	if slots != nil {
		if err := json.Unmarshal([]byte(*slots), &u.Slots); err != nil {
			return Usage{}, fmt.Errorf("read pg_replication_slots: %w", err)
		}
	}
	if err := json.Unmarshal([]byte(connections), &u.Connections); err != nil {
		return Usage{}, fmt.Errorf("read pg_stat_activity: %w", err)
	}
	return u, nil
}

// Volume is what is costly to ask for and changes slowly: sizes and cumulative counters.
type Volume struct {
	DatabaseBytes int64
	WalBytes      int64
	Queries       schemas.QueryMetrics
}

// volumeSQL takes the bytes of WAL written since the counters began, which 13 cannot tell.
const volumeSQL = `
SELECT (SELECT coalesce(sum(pg_database_size(oid)), 0)::bigint FROM pg_database WHERE datallowconn),
  (SELECT coalesce(sum(size), 0)::bigint FROM pg_ls_waldir()),
  json_build_object('commits', sum(xact_commit), 'rollbacks', sum(xact_rollback), 'blocks_hit', sum(blks_hit), 'blocks_read', sum(blks_read),
    'rows_returned', sum(tup_returned), 'rows_inserted', sum(tup_inserted), 'rows_updated', sum(tup_updated), 'rows_deleted', sum(tup_deleted),
    'deadlocks', sum(deadlocks), 'temp_bytes', sum(temp_bytes), 'checksum_failures', coalesce(sum(checksum_failures), 0),
    'wal_bytes', %s)::text
FROM pg_stat_database`

const (
	walBytes   = "(SELECT wal_bytes::bigint FROM pg_stat_wal)"
	noWalBytes = "0"
	// statWalVersion is the first server_version_num with pg_stat_wal.
	statWalVersion = 140000
)

// Volume looks at sizes and counters. version is the server's server_version_num, as a pulse tells it.
func (o *Observer) Volume(ctx context.Context, version int32) (Volume, error) {
	bytes := walBytes
	if version < statWalVersion {
		bytes = noWalBytes
	}
	var v Volume
	var counters string
	if err := o.look(ctx, "look at sizes and counters", fmt.Sprintf(volumeSQL, bytes), &v.DatabaseBytes, &v.WalBytes, &counters); err != nil {
		return Volume{}, err
	}
	if err := json.Unmarshal([]byte(counters), &v.Queries); err != nil {
		return Volume{}, fmt.Errorf("read pg_stat_database: %w", err)
	}
	return v, nil
}

// Disk looks at the file systems of a data directory and of its pg_wal, and at what pg_wal holds. It asks no server, so it works when
// none runs; sizes of databases it does not know.
func Disk(dataDir string) (schemas.DiskUsage, error) {
	var d schemas.DiskUsage
	var err error
	if d.DataTotalBytes, d.DataFreeBytes, err = space(dataDir); err != nil {
		return d, err
	}
	walDir := filepath.Join(dataDir, "pg_wal")
	if d.WalTotalBytes, d.WalFreeBytes, err = space(walDir); err != nil {
		return d, err
	}
	entries, err := os.ReadDir(walDir)
	if err != nil {
		return d, fmt.Errorf("look at %s: %w", walDir, err)
	}
	for _, entry := range entries {
		info, err := entry.Info()
		if err == nil && info.Mode().IsRegular() {
			d.WalSizeBytes += info.Size()
		}
	}
	return d, nil
}

func space(path string) (total, free int64, err error) {
	var st syscall.Statfs_t
	if err := syscall.Statfs(path, &st); err != nil {
		return 0, 0, &fs.PathError{Op: "look at the file system of", Path: path, Err: err}
	}
	size := st.Bsize
	return int64(st.Blocks) * size, int64(st.Bavail) * size, nil //nolint:gosec // no file system has 2^63 bytes
}
