package server

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strconv"
	"strings"
)

// settingsFile is Regent's file in the data directory, included at the end of postgresql.conf.
const settingsFile = "regent.conf"

// upstreamSettings are set by FollowUpstream, RevokeUpstream and Promote only.
var upstreamSettings = []string{"primary_conninfo", "primary_slot_name", "restore_command"}

// ownedSettings may not be given by the caller: Regent's promises hang on them.
var ownedSettings = map[string]string{
	"primary_conninfo": "FollowUpstream sets it", "primary_slot_name": "FollowUpstream sets it",
	"restore_command":           "FollowUpstream sets it",
	"synchronous_standby_names": "SetSynchronous and Promote set it",
	"data_directory":            "Config.DataDir", "hba_file": "Regent writes it", "ident_file": "Regent owns it",
	"config_file": "Regent owns it", "external_pid_file": "Regent owns it",
	"listen_addresses": "Config.ListenHosts", "port": "Config.Port", "unix_socket_directories": "Config.RunDir",
	"unix_socket_permissions": "Regent owns it", "cluster_name": "Config.ClusterName",
	"restart_after_crash":      "off, so that a dead backend cannot bring the server back behind the agent's back",
	"recovery_target_timeline": "latest", "logging_collector": "off: the agent captures the log",
	"log_destination": "stderr: the agent captures the log", "log_line_prefix": "Regent owns it",
	"update_process_title": "on: processes are told apart by it", "hot_standby": "on", "promote_trigger_file": "promotion is Regent's",
	"allow_alter_system": "off from 17 on: Regent's settings must not be overridden",
	"recovery_target":    "none", "recovery_target_lsn": "none", "recovery_target_name": "none", "recovery_target_time": "none",
	"recovery_target_xid": "none", "recovery_target_action": "none", "lc_messages": "C: messages are read by programs",
	"event_source": "not for this platform", "allow_in_place_tablespaces": "tests only",
}

// OwnedSettings lists the settings that callers may not give, with the reason or the way to set them.
func OwnedSettings() map[string]string { return maps.Clone(ownedSettings) }

func checkSetting(name, value string) error {
	if !settingPattern.MatchString(name) {
		return fmt.Errorf("setting %q: expected a name of letters, digits and underscores", name)
	}
	if why, owned := ownedSettings[strings.ToLower(name)]; owned {
		return fmt.Errorf("setting %s is owned by Regent (%s)", name, why)
	}
	if strings.EqualFold(name, "wal_level") && value != "replica" && value != "logical" {
		return fmt.Errorf("setting wal_level: expected replica or logical, got %q: standbys need them", value)
	}
	if strings.ContainsAny(value, "\r\n\x00") {
		return fmt.Errorf("setting %s: a line break or NUL cannot be written to a configuration file", name)
	}
	return nil
}

// recommended are the settings that replication, rewinding and quick failover need; the caller may override them.
func recommended(major int) map[string]string {
	s := map[string]string{
		"wal_level":                      "replica",
		"wal_log_hints":                  "on", // pg_rewind, also without data checksums
		"max_wal_senders":                "20",
		"max_replication_slots":          "20",
		"hot_standby_feedback":           "off",
		"wal_keep_size":                  "256MB",
		"wal_retrieve_retry_interval":    "100ms", // 5 s by default: a re-pointed standby would idle
		"wal_receiver_timeout":           "10s",
		"wal_sender_timeout":             "10s",
		"wal_receiver_status_interval":   "1s",
		"tcp_keepalives_idle":            "10",
		"tcp_keepalives_interval":        "5",
		"tcp_keepalives_count":           "3",
		"password_encryption":            "scram-sha-256",
		"max_connections":                "200",
		"superuser_reserved_connections": "5",
		"log_checkpoints":                "on",
		"shared_preload_libraries":       "",
	}
	if major >= 14 {
		s["client_connection_check_interval"] = "5s"
	}
	if major >= 15 {
		s["log_startup_progress_interval"] = "1s"
	}
	return s
}

// enforced are the owned settings that do not depend on the moment.
func (c Config) enforced() map[string]string {
	s := map[string]string{
		"listen_addresses":         strings.Join(c.ListenHosts, ","),
		"port":                     strconv.Itoa(int(c.Port)),
		"unix_socket_directories":  c.socketDir(),
		"unix_socket_permissions":  "0777", // the folder is private; see pg_hba.conf
		"cluster_name":             c.ClusterName,
		"restart_after_crash":      "off",
		"hot_standby":              "on",
		"recovery_target_timeline": "latest",
		"logging_collector":        "off",
		"log_destination":          "stderr",
		"log_line_prefix":          "%m [%p] %q%u@%d ",
		"update_process_title":     "on",
		"lc_messages":              "C",
		"hba_file":                 filepath.Join(c.DataDir, hbaFile),
		"ident_file":               filepath.Join(c.DataDir, "pg_ident.conf"),
		"data_directory":           c.DataDir,
	}
	if c.Binaries.Version.Major >= 17 {
		s["allow_alter_system"] = "off"
	}
	for _, target := range []string{"", "_lsn", "_name", "_time", "_xid"} {
		s["recovery_target"+target] = ""
	}
	return s
}

// quote writes a value for a configuration file (guc-file.l: ” doubles, a backslash escapes).
func quote(value string) string {
	return "'" + strings.NewReplacer(`\`, `\\`, `'`, `''`).Replace(value) + "'"
}

// unquote is the inverse of quote.
func unquote(text string) (string, bool) {
	if len(text) < 2 || text[0] != '\'' || text[len(text)-1] != '\'' {
		return "", false
	}
	return strings.NewReplacer(`\\`, `\`, `''`, `'`).Replace(text[1 : len(text)-1]), true
}

const settingsHeader = `# Written by Regent. Do not edit: it is replaced on every change.
# Give settings to Regent instead; ALTER SYSTEM cannot override what stands here while Regent runs the server.
`

// ownerLine says whose file it is: base backups and pg_rewind bring the source's along.
func (c Config) ownerLine() string { return "# Server: " + c.ClusterName + " in " + c.DataDir + "\n" }

// renderSettings writes name = 'value' lines, sorted.
func (c Config) renderSettings(settings map[string]string) []byte {
	var b strings.Builder
	b.WriteString(settingsHeader)
	b.WriteString(c.ownerLine())
	for _, name := range slices.Sorted(maps.Keys(settings)) {
		fmt.Fprintf(&b, "%s = %s\n", name, quote(settings[name]))
	}
	return []byte(b.String())
}

// parseSettings reads what renderSettings wrote; other lines are an error, because nobody else writes there.
func parseSettings(content []byte) (map[string]string, error) {
	settings := map[string]string{}
	for i, line := range strings.Split(string(content), "\n") {
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		name, quoted, ok := strings.Cut(line, " = ")
		value, okValue := unquote(quoted)
		if !ok || !okValue || !settingPattern.MatchString(name) {
			return nil, fmt.Errorf("read %s, line %d: expected name = 'value', got %q", settingsFile, i+1, line)
		}
		settings[name] = value
	}
	return settings, nil
}

// includeLine must be the last of postgresql.conf, so that nothing there overrides Regent's file.
const includeLine = "include '" + settingsFile + "'"

// ensureInclude makes includeLine the last one.
func ensureInclude(content string) string {
	var kept []string
	for _, line := range strings.Split(strings.TrimRight(content, "\n"), "\n") {
		if strings.TrimSpace(line) != includeLine {
			kept = append(kept, line)
		}
	}
	return strings.TrimLeft(strings.Join(kept, "\n")+"\n"+includeLine+"\n", "\n")
}

// stripAuto removes from postgresql.auto.conf (ALTER SYSTEM, pg_basebackup -R), which PostgreSQL reads last of all, the settings that
// Regent's file must decide. It returns the names that it took out.
func stripAuto(content string, managed map[string]string) (string, []string) {
	var kept, removed []string
	for _, line := range strings.Split(content, "\n") {
		name := strings.ToLower(strings.TrimSpace(line))
		if i := strings.IndexAny(name, " \t="); i >= 0 {
			name = name[:i]
		}
		_, isManaged := managed[name]
		_, isOwned := ownedSettings[name]
		if isManaged || isOwned {
			removed = append(removed, name)
			continue
		}
		kept = append(kept, line)
	}
	sort.Strings(removed)
	return strings.Join(kept, "\n"), removed
}

// writeConfiguration brings every configuration file of the data directory to what Regent wants.
func (i *Instance) writeConfiguration() error {
	settings := i.effective()
	if err := i.identity.ensureFile(filepath.Join(i.config.DataDir, settingsFile), i.config.renderSettings(settings), 0o600); err != nil {
		return err
	}
	if err := i.writeHBA(); err != nil {
		return err
	}
	main := filepath.Join(i.config.DataDir, "postgresql.conf")
	content, err := os.ReadFile(main)
	if err != nil && !os.IsNotExist(err) {
		return fmt.Errorf("read postgresql.conf: %w", err)
	}
	if want := ensureInclude(string(content)); want != string(content) {
		if err := i.identity.writeFile(main, []byte(want), 0o600); err != nil {
			return err
		}
	}
	return i.cleanAuto(settings)
}

// cleanAuto keeps ALTER SYSTEM from overriding Regent's settings.
func (i *Instance) cleanAuto(settings map[string]string) error {
	path := filepath.Join(i.config.DataDir, "postgresql.auto.conf")
	content, err := os.ReadFile(path)
	if os.IsNotExist(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read postgresql.auto.conf: %w", err)
	}
	clean, removed := stripAuto(string(content), settings)
	if len(removed) == 0 {
		return nil
	}
	i.config.Logger.Warn("settings of ALTER SYSTEM that Regent owns were removed", "settings", removed)
	return i.identity.writeFile(path, []byte(clean), 0o600)
}

// effective is recommended, then the caller's, then enforced, then what the moment demands (upstream, synchronous set).
func (i *Instance) effective() map[string]string {
	settings := recommended(i.config.Binaries.Version.Major)
	maps.Copy(settings, i.config.Settings)
	maps.Copy(settings, i.config.enforced())
	maps.Copy(settings, i.moment)
	return settings
}
