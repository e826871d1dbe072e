package brokerdisk

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Topic is an entry of topics.json.
type Topic struct {
	Name       string            `json:"name"`
	ID         string            `json:"id"`
	Partitions int               `json:"partitions"`
	Configs    map[string]string `json:"configs"`
}

// config returns a setting as a number, or def when it is not set.
func (t *Topic) config(name string, def int64) int64 {
	if n, err := strconv.ParseInt(t.Configs[name], 10, 64); err == nil {
		return n
	}
	return def
}

func (t *Topic) compacted() bool { return strings.Contains(t.Configs["cleanup.policy"], "compact") }

// partitionDir is kfake's directory of one partition.
func partitionDir(dir, topic string, number int32) string {
	return filepath.Join(dir, "partitions", url.PathEscape(topic)+"-"+strconv.Itoa(int(number)))
}

// CheckFormat refuses a directory that kfake did not write in the format that this package knows. A directory without
// kfake's meta.json is new.
func CheckFormat(dir string) error {
	for _, name := range []string{"meta.json", "topics.json", "broker_configs.json"} {
		path := filepath.Join(dir, name)
		raw, err := readOptional(path)
		if err != nil {
			return err
		}
		if raw == nil {
			continue
		}
		var head struct {
			Version *int `json:"version"`
		}
		if err := json.Unmarshal(raw, &head); err != nil {
			return fmt.Errorf("read %s: %w: %w; restore the data directory from a copy", path, ErrFormat, err)
		}
		if head.Version == nil || *head.Version != kfakeFormat {
			return fmt.Errorf("read %s: %w: it has version %s, %d expected; use the binary that wrote it, or start with an empty directory",
				path, ErrFormat, show(head.Version), kfakeFormat)
		}
	}
	return nil
}

func show(v *int) string {
	if v == nil {
		return "none"
	}
	return strconv.Itoa(*v)
}

// readTopics reads topics.json.
func readTopics(dir string) ([]Topic, error) {
	path := filepath.Join(dir, "topics.json")
	raw, err := readOptional(path)
	if err != nil {
		return nil, err
	}
	if raw == nil {
		if entries, _ := os.ReadDir(filepath.Join(dir, "partitions")); len(entries) > 0 {
			return nil, fmt.Errorf("read %s: %w: it is missing, but there are partitions; restore the data directory from a copy", path, ErrFormat)
		}
		return nil, nil
	}
	var content struct {
		Topics []Topic `json:"topics"`
	}
	if err := json.Unmarshal(raw, &content); err != nil {
		return nil, fmt.Errorf("read %s: %w: %w", path, ErrFormat, err)
	}
	for _, t := range content.Topics {
		if _, err := base64.StdEncoding.DecodeString(t.ID); err != nil {
			return nil, fmt.Errorf("read %s: %w: topic %s has the id %q", path, ErrFormat, t.Name, t.ID)
		}
	}
	return content.Topics, nil
}

// removeOrphans deletes partition directories that belong to no topic. They are left by a crash inside the deletion of a
// topic, and kfake would append to them when the name is used again.
func removeOrphans(dir string, topics []Topic) (int, error) {
	known := make(map[string]bool)
	for _, t := range topics {
		for n := range t.Partitions {
			known[filepath.Base(partitionDir(dir, t.Name, int32(n)))] = true
		}
	}
	root := filepath.Join(dir, "partitions")
	entries, err := os.ReadDir(root)
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("list partitions in %s: %w", root, err)
	}
	removed := 0
	for _, e := range entries {
		if known[e.Name()] {
			continue
		}
		if err := os.RemoveAll(filepath.Join(root, e.Name())); err != nil {
			return removed, fmt.Errorf("remove the files of a deleted topic: %w", err)
		}
		removed++
	}
	return removed, nil
}

// pidEntry is an entry of pids.log.
type pidEntry struct {
	Type    string `json:"type"` // init, endtx, timeout
	PID     int64  `json:"pid"`
	Epoch   int16  `json:"epoch"`
	TxID    string `json:"txid,omitempty"`
	Timeout int32  `json:"timeout,omitempty"`
	Commit  *bool  `json:"commit,omitempty"`
}

// producers are the producers that pids.log tells of, by producer id.
type producers map[int64]*pidEntry

// readProducers replays pids.log.
func readProducers(dir string) (producers, error) {
	path := filepath.Join(dir, "pids.log")
	raw, err := readOptional(path)
	if err != nil {
		return nil, err
	}
	entries, _, err := readFrames(path, raw)
	if err != nil {
		return nil, err
	}
	ps := make(producers)
	byTxID := make(map[string]int64)
	for _, data := range entries {
		var e pidEntry
		if err := json.Unmarshal(data, &e); err != nil {
			return nil, fmt.Errorf("read %s: %w: %w", path, ErrFormat, err)
		}
		switch e.Type {
		case "init":
			if old, ok := byTxID[e.TxID]; ok && e.TxID != "" && old != e.PID {
				delete(ps, old) // its epochs were used up
			}
			if e.TxID != "" {
				byTxID[e.TxID] = e.PID
			}
			ps[e.PID] = &e
		case "endtx", "timeout":
			if p := ps[e.PID]; p != nil {
				p.Epoch = e.Epoch
			}
		default:
			return nil, fmt.Errorf("read %s: %w: entry of type %q", path, ErrFormat, e.Type)
		}
	}
	return ps, nil
}

// write replaces pids.log by one entry per producer.
func (ps producers) write(dir string) error {
	var b []byte
	for _, pid := range slices.Sorted(maps.Keys(ps)) {
		e := *ps[pid]
		e.Type = "init"
		data, err := json.Marshal(e)
		if err != nil {
			return fmt.Errorf("encode producer %d: %w", pid, err)
		}
		b = appendFrame(b, data)
	}
	return replaceFile(filepath.Join(dir, "pids.log"), b)
}

// commitEntry is a committed offset in groups.log.
type commitEntry struct {
	Type       string  `json:"type"`
	Group      string  `json:"g"`
	Topic      string  `json:"t,omitempty"`
	Part       int32   `json:"p,omitempty"`
	Offset     int64   `json:"o,omitempty"`
	Epoch      int32   `json:"e,omitempty"`
	Metadata   *string `json:"m,omitempty"`
	LastCommit *int64  `json:"lc,omitempty"`
}

// cutGroups cuts off a torn entry at the end of groups.log.
func cutGroups(dir string) (torn int, err error) {
	path := filepath.Join(dir, "groups.log")
	raw, err := readOptional(path)
	if err != nil || raw == nil {
		return 0, err
	}
	_, sound, err := readFrames(path, raw)
	if err != nil || sound == len(raw) {
		return 0, err
	}
	return len(raw) - sound, cutFile(path, int64(sound))
}

// commitOffsets appends offsets to groups.log.
func commitOffsets(dir string, offsets []GroupOffset, nowMillis int64) error {
	var b []byte
	for _, o := range offsets {
		data, err := json.Marshal(commitEntry{
			Type: "commit", Group: o.Group, Topic: o.Topic, Part: o.Partition,
			Offset: o.Offset, Epoch: o.LeaderEpoch, Metadata: o.Metadata, LastCommit: &nowMillis,
		})
		if err != nil {
			return fmt.Errorf("encode offset of group %s: %w", o.Group, err)
		}
		b = appendFrame(b, data)
	}
	if len(b) == 0 {
		return nil
	}
	return appendFile(filepath.Join(dir, "groups.log"), b)
}

// sequenceWindow is an entry of seq_windows.json.
type sequenceWindow struct {
	PID     int64          `json:"pid"`
	Topic   string         `json:"topic"`
	Part    int32          `json:"partition"`
	Entries [5]windowEntry `json:"entries"`
	Count   uint8          `json:"count"`
	At      uint8          `json:"at"`
	Epoch   int16          `json:"epoch"`
	Seen    bool           `json:"seen"`
	NextSeq int32          `json:"next_seq"`
}

// writeWindows replaces seq_windows.json by what the log says.
func writeWindows(dir string, partitions []*partition, known producers) error {
	content := struct {
		Version int              `json:"version"`
		Windows []sequenceWindow `json:"windows"`
	}{Version: kfakeFormat}
	for _, p := range partitions {
		for _, pid := range slices.Sorted(maps.Keys(p.windows)) {
			w := p.windows[pid]
			if known[pid] == nil || w.count == 0 {
				continue
			}
			content.Windows = append(content.Windows, sequenceWindow{
				PID: pid, Topic: p.topic, Part: p.number, Entries: w.entries,
				Count: w.count, At: w.at, Epoch: w.epoch, Seen: true, NextSeq: w.next,
			})
		}
	}
	data, err := json.Marshal(content)
	if err != nil {
		return fmt.Errorf("encode sequence windows: %w", err)
	}
	return replaceFile(filepath.Join(dir, "seq_windows.json"), data)
}
