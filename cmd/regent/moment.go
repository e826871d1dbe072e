package main

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/regent-infra/regent/internal/record"
	"github.com/regent-infra/regent/internal/replay"
)

// momentHelp says how a moment is written.
const momentHelp = "RFC 3339 (2026-01-31T12:00:00Z), how long ago (10m), now, an OFFSET for every partition, or TOPIC/PARTITION@OFFSET, more of them with commas"

// pastMoment is a moment as a person gives it.
type pastMoment struct {
	text string
	at   time.Time
	// offset holds for every partition, if it is not negative; offsets for those that are named.
	offset  int64
	offsets map[record.TopicPartition]int64
}

// parseMoment reads a moment. resolve finds a topic by a part of its name.
func parseMoment(flag, text string, now time.Time, resolve func(string) (string, error)) (pastMoment, error) {
	m := pastMoment{text: text, offset: -1}
	if text == "now" {
		m.at = now
		return m, nil
	}
	if offset, err := strconv.ParseInt(text, 10, 64); err == nil && offset >= 0 {
		m.offset = offset
		return m, nil
	}
	if ago, err := time.ParseDuration(text); err == nil && ago >= 0 {
		m.at = now.Add(-ago)
		return m, nil
	}
	if at, err := time.Parse(time.RFC3339Nano, text); err == nil {
		m.at = at
		return m, nil
	}
	m.offsets = map[record.TopicPartition]int64{}
	for one := range strings.SplitSeq(text, ",") {
		place, offset, ok := strings.Cut(one, "@")
		slash := strings.LastIndexByte(place, '/')
		if !ok || slash < 0 {
			return m, usagef("%s %s: expected %s", flag, text, momentHelp)
		}
		partition, err1 := strconv.ParseInt(place[slash+1:], 10, 32)
		n, err2 := strconv.ParseInt(offset, 10, 64)
		if err1 != nil || err2 != nil || partition < 0 || n < 0 {
			return m, usagef("%s %s: %s: expected TOPIC/PARTITION@OFFSET, both numbers 0 or more", flag, text, one)
		}
		topic, err := resolve(place[:slash])
		if err != nil {
			return m, err
		}
		m.offsets[record.TopicPartition{Topic: topic, Partition: int32(partition)}] = n
	}
	return m, nil
}

// of returns the moment of a partition, and whether the partition is wanted.
func (m *pastMoment) of(tp record.TopicPartition) (replay.Moment, bool) {
	if m.offsets != nil {
		offset, ok := m.offsets[tp]
		return replay.Moment{Offset: offset}, ok
	}
	if m.offset >= 0 {
		return replay.Moment{Offset: m.offset}, true
	}
	return replay.Moment{Time: m.at}, true
}

// String says which moment it is.
func (m *pastMoment) String() string {
	switch {
	case m.offsets != nil:
		return m.text
	case m.offset >= 0:
		return fmt.Sprintf("offset %d", m.offset)
	default:
		return replay.Moment{Time: m.at}.String()
	}
}
