package avrocodec

import (
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/regent-infra/regent/internal/event"
	"github.com/regent-infra/regent/internal/record"
	"github.com/regent-infra/regent/internal/topics"
	"github.com/regent-infra/regent/schemas"
)

// Caps of what a dead letter repeats of its origin, so that it always fits into a record itself.
const (
	deadLetterValueBytes = 256 << 10
	deadLetterKeyBytes   = 16 << 10
	deadLetterErrorBytes = 2 << 10
)

// DeadLetters returns the function that tells of records which reader cannot process. What it returns follows from its arguments alone, so that a record
// that is read again yields the same dead letter, under the same id and the key topic/partition/offset.
//
// The result is for [topics.DeadLetter], partition 0.
func DeadLetters(codec event.Codec, reader string) func(rec *record.Record, reason string, cause error) (record.Record, error) {
	return func(rec *record.Record, reason string, cause error) (record.Record, error) {
		origin := fmt.Sprintf("%s/%d/%d", rec.Topic, rec.Partition, rec.Offset)
		letter := &schemas.DeadLetter{
			Topic: rec.Topic, Partition: rec.Partition, Offset: rec.Offset, Timestamp: rec.Timestamp.UTC(), Reader: reader, Reason: reason,
			Error: shorten(fmt.Sprint(cause)), ValueSize: int64(len(rec.Value)), Truncated: len(rec.Value) > deadLetterValueBytes,
		}
		if rec.Key != nil {
			key := rec.Key[:min(len(rec.Key), deadLetterKeyBytes)]
			letter.Key = &key
		}
		if rec.Value != nil {
			value := rec.Value[:min(len(rec.Value), deadLetterValueBytes)]
			letter.Value = &value
		}
		id := event.DeriveID(rec.Timestamp, "deadletter", reader, rec.Topic, rec.Partition, rec.Offset)
		e := event.New(schemas.EnvelopeHeader{
			ID: id, Source: reader, Resource: origin, OccurredAt: rec.Timestamp.UTC(), CorrelationID: id, Sequence: rec.Offset,
		}, letter)
		value, err := codec.Encode(topics.DeadLetter, e)
		if err != nil {
			return record.Record{}, fmt.Errorf("build the dead letter of %s: %w", origin, err)
		}
		return record.Record{
			Topic: topics.DeadLetter, Partition: 0, Key: []byte(origin), Value: value, Headers: Headers(e, TraceOf(rec)),
		}, nil
	}
}

// shorten cuts a text to what a dead letter carries, and makes it valid UTF-8.
func shorten(text string) string {
	if len(text) > deadLetterErrorBytes {
		text = text[:deadLetterErrorBytes] + "…"
	}
	if !utf8.ValidString(text) {
		text = strings.ToValidUTF8(text, "\uFFFD")
	}
	return text
}
