package stream

import (
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// metadataPrefix begins the commit metadata and carries its version; docs/formats-store.md documents the rest.
const metadataPrefix = "regent/1"

// Metadata is what K carries beside each committed offset: the same for all partitions of a task in one commit.
type Metadata struct {
	// Out is the offset after the last record that the task has written to the changelog.
	Out int64
	// Changelog is the topic id of the changelog; zero if the processor has none.
	Changelog [16]byte
	// FoldVersion is the definition's.
	FoldVersion int32
	// StreamTime is the highest append time that the task has read; zero if none.
	StreamTime time.Time
}

// Encode returns the metadata as text, because Kafka stores it as such: "regent/1 out=7 topic=<32 hex> fold=1 time=<ms>".
func (m Metadata) Encode() string {
	var b strings.Builder
	b.Grow(96)
	b.WriteString(metadataPrefix)
	b.WriteString(" out=")
	b.WriteString(strconv.FormatInt(m.Out, 10))
	b.WriteString(" topic=")
	b.WriteString(hex.EncodeToString(m.Changelog[:]))
	b.WriteString(" fold=")
	b.WriteString(strconv.FormatInt(int64(m.FoldVersion), 10))
	b.WriteString(" time=")
	b.WriteString(strconv.FormatInt(toMillis(m.StreamTime), 10))
	return b.String()
}

var errMetadata = errors.New("decode commit metadata")

// DecodeMetadata reads what Encode wrote.
func DecodeMetadata(s string) (Metadata, error) {
	fields := strings.Split(s, " ")
	if len(fields) != 5 || fields[0] != metadataPrefix {
		return Metadata{}, fmt.Errorf("%w: expected %q and four fields, got %q", errMetadata, metadataPrefix, s)
	}
	var m Metadata
	var ms, fold int64
	err := errors.Join(
		decimal(fields[1], "out", 64, &m.Out),
		topicID(fields[2], &m.Changelog),
		decimal(fields[3], "fold", 32, &fold),
		decimal(fields[4], "time", 64, &ms),
	)
	if err != nil {
		return Metadata{}, fmt.Errorf("%w: %w", errMetadata, err)
	}
	m.FoldVersion, m.StreamTime = int32(fold), fromMillis(ms)
	return m, nil
}

func decimal(field, name string, bits int, dst *int64) error {
	text, ok := strings.CutPrefix(field, name+"=")
	n, err := strconv.ParseInt(text, 10, bits)
	if !ok || err != nil || n < 0 {
		return fmt.Errorf("expected %s=<number>, got %q", name, field)
	}
	*dst = n
	return nil
}

func topicID(field string, dst *[16]byte) error {
	text, ok := strings.CutPrefix(field, "topic=")
	b, err := hex.DecodeString(text)
	if !ok || err != nil || len(b) != len(dst) {
		return fmt.Errorf("expected topic=<32 hexadecimal digits>, got %q", field)
	}
	copy(dst[:], b)
	return nil
}

// KeepOut is K of one task: what the group's coordinator holds for all of its partitions together.
type commits struct {
	// offsets are the committed offsets, by partition; absent where there is none.
	offsets map[topicPartition]int64
	// meta is the one with the highest Out; nil if no partition has any.
	meta *Metadata
}

// readCommits makes K from what the coordinator holds. Offsets without metadata were set by an administrator's tool: they count
// as positions, and say nothing about the changelog.
func readCommits(committed map[topicPartition]Committed) (commits, error) {
	k := commits{offsets: map[topicPartition]int64{}}
	for tp, c := range committed {
		k.offsets[tp] = c.Offset
		if c.Metadata == "" {
			continue
		}
		m, err := DecodeMetadata(c.Metadata)
		if err != nil {
			return commits{}, fmt.Errorf("read the committed offset of %s/%d: %w", tp.Topic, tp.Partition, err)
		}
		if k.meta == nil || m.Out > k.meta.Out || (m.Out == k.meta.Out && m.StreamTime.After(k.meta.StreamTime)) {
			k.meta = &m
		}
	}
	return k, nil
}
